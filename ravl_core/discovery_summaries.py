"""The paper's tables 1 and 2 and figure 2, and what goes beyond them, from the tidy tables of a study.

Intervals are 95 % percentile bootstrap intervals over settings, and settings that share a domain and an attribute are
drawn together; those of plain shares are Wilson's. A difference is paired: between two methods on the same settings.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ravl_core.discovery_tables import DiscoveryTables
from ravl_core.metrics import Interval, wilson_interval
from ravl_core.settings import THRESHOLDS
from ravl_core.slicing import CHANCE, PAPER
from ravl_core.summaries import PAPERS_SETTINGS, evaluated

BASELINES = (
    "Distilling Failures",
    "George",
    "George, slices",
    "Domino",
    "Domino, k-means starts",
    "Spurious-Aware Detection",
)
PAPERS = PAPER
TABLE_1 = (PAPERS, CHANCE, *BASELINES)
# Ours, chosen on one half of the settings
VARIANTS = ("RaVL, ranked by pull", "RaVL, ranked by pull, fine clusters", "RaVL, controlled")
ABLATIONS = (PAPERS, "RaVL without gap", "RaVL without influence", "RaVL, unweighted gap")  # table 2
OTHER_LIMITS = ("RaVL, influence ≥ 0.10", "RaVL, influence ≥ 0.50", "RaVL, influence ≥ 0.75")  # the paper's is 0.25
SYNTHETIC = ("mnist", "fashion_mnist", "digits")
LEVEL = 0.05
HALF_RIGHT = 0.5  # a finding is right if so large a share of its first ten regions shows the planted feature
N_RESAMPLES = 2000
VARIATION = ["kind", "variation", "recipe"]  # what a row of the tables of stability stands for


def judged(tables: DiscoveryTables, most: int = PAPERS_SETTINGS) -> pd.DataFrame:
    """The methods' rows on the settings that they are judged on, with what was planted and learned in each.

    Those are the planted settings valid at T = 10, at most `most` of them, the first in the grid's order. `kind` is
    "synthetic" (scans) or "real-world" (photographs), `cluster` what the bootstrap draws together.
    """
    settings = evaluated(tables.settings, most)
    columns = ["position", "domain", "initial", "feature", "attribute", "strength", "margin", "half"]
    settings = settings[columns].rename(columns={"attribute": "planted_attribute"})
    rows = settings.merge(tables.methods, on="position", validate="one_to_many")
    kind = np.where(rows.domain.isin(SYNTHETIC), "synthetic", "real-world")
    return rows.assign(kind=kind, cluster=rows.domain + " " + rows.planted_attribute.astype(str))


def clustered_interval(values: np.ndarray, clusters: np.ndarray, seed: int = 0) -> Interval:
    """Mean of the values (R,) and its interval; whole clusters (R,) are drawn. NaN, if there is no value.

    The same draws as `ravl_core.metrics.bootstrap_interval`, as sums over clusters.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    sums, counts, drawn = _drawn_clusters(clusters, values[:, None], seed)
    means = sums[drawn].sum(axis=1)[:, 0] / counts[drawn].sum(axis=1)
    return Interval(float(values.mean()), *map(float, np.quantile(means, [0.025, 0.975])))


def _drawn_clusters(clusters: np.ndarray, values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of the values (R, V) and counts by cluster, and which clusters each resample draws, (2000, G)."""
    which = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1]
    counts = np.bincount(which)
    sums = np.stack([np.bincount(which, column) for column in values.T], axis=1)  # (G, V)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(N_RESAMPLES, len(counts)))
    return sums, counts, drawn


def wide(rows: pd.DataFrame, methods: Sequence[str], column: str = "precision_at_10") -> pd.DataFrame:
    """One row a setting, one column a method; settings on which one of the methods has no value are left out."""
    keys = ["position", "domain", "kind", "initial", "feature", "strength", "margin", "half", "cluster"]
    by_method = rows.pivot(index=keys, columns="method", values=column)
    return by_method.reindex(columns=list(methods)).dropna().reset_index(keys)


def precision_table(
    rows: pd.DataFrame, methods: Sequence[str] = TABLE_1, thresholds: Sequence[int] = THRESHOLDS
) -> pd.DataFrame:
    """Mean Precision@10 of each method over the settings valid at each T_eval, the form of the paper's tables 1 and 2.

    Returns
    -------
    pandas.DataFrame
        Rows T_eval × method; n, mean with its interval, the first method's mean less this one's with its interval,
        and the means of the lenient count and of average precision. All are shares, 0 … 1.
    """
    measures = {name: wide(rows, methods, name) for name in MEASURES}
    table = {}
    for threshold in thresholds:
        valid = {name: measure[measure.margin >= threshold] for name, measure in measures.items()}
        for method in methods:
            table[threshold, method] = _precision_row(valid, method, methods[0])
    index = ["T_eval", "method"]
    return pd.DataFrame(table).T.rename_axis(index).astype({"n": int})


MEASURES = ("precision_at_10", "image_precision_at_10", "average_precision")


def _precision_row(valid: dict[str, pd.DataFrame], method: str, reference: str) -> dict:
    precision = valid["precision_at_10"]
    own = clustered_interval(precision[method], precision.cluster)
    ahead = clustered_interval(precision[reference] - precision[method], precision.cluster)
    return (
        {"n": len(precision), "mean": own.estimate, "low": own.low, "high": own.high}
        | {"behind": ahead.estimate, "behind_low": ahead.low, "behind_high": ahead.high}
        | {name: valid[name][method].mean() for name in MEASURES[1:]}
    )


def precision_by(rows: pd.DataFrame, by: Sequence[str], methods: Sequence[str] = TABLE_1) -> pd.DataFrame:
    """Mean Precision@10 with its interval for each combination of `by` and each method, and the lead of the first."""
    measure, table = wide(rows, methods), {}
    for key, part in measure.groupby(list(by), observed=True):
        for method in methods:
            own = clustered_interval(part[method], part.cluster)
            ahead = clustered_interval(part[methods[0]] - part[method], part.cluster)
            table[*key, method] = {"n": len(part), **_ends("", own), **_ends("behind", ahead)}
    return pd.DataFrame(table).T.rename_axis([*by, "method"]).astype({"n": int})


def _ends(name: str, interval: Interval) -> dict[str, float]:
    names = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return dict(zip(names, interval, strict=True))


def lead_over(rows: pd.DataFrame, method: str, other: str, seed: int = 0) -> Interval:
    """How much higher the mean Precision@10 of a method is than that of another, as a share of the other's: 1 = twice.

    The paper's headline is 1.91 for RaVL over its closest baseline. Infinite where the other never finds anything.
    """
    measure = wide(rows, (method, other))
    sums, _, drawn = _drawn_clusters(measure.cluster, measure[[method, other]].to_numpy(), seed)
    ours, theirs = sums[drawn].sum(axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        leads, lead = ours / theirs - 1, sums.sum(axis=0)[0] / sums.sum(axis=0)[1] - 1
    leads = leads[~np.isnan(leads)]
    # No mean of two neighbours, of which one may be infinite
    ends = np.quantile(leads, [0.025, 0.975], method="closest_observation") if len(leads) else (np.nan, np.nan)
    return Interval(float(lead), *map(float, ends))


def closest_baseline(rows: pd.DataFrame, baselines: Sequence[str] = BASELINES) -> str:
    """The baseline with the highest mean Precision@10, the first on ties or where there is no setting."""
    means = wide(rows, baselines)[list(baselines)].mean().fillna(0.0)
    return str(means.idxmax())


def false_discoveries(tables: DiscoveryTables) -> pd.DataFrame:
    """How often something is found where nothing was planted (V = 0), for four rules, with Wilson's 95 % intervals.

    Rules: the paper's recipe; its first finding, if the gap is significant; any cluster with a significant gap; the
    controlled recipe, significant in gap and pull.
    """
    controls = tables.settings[(tables.settings.strength == 0) & (tables.settings.recipe == "standard")]
    controls = controls.merge(tables.inference.drop(columns=["gap", "influence", "influence_images"]), on="position")
    claims = {
        "paper's recipe": controls.n_findings > 0,
        "first finding, gap p ≤ 0.05": controls.gap_p.fillna(1) <= LEVEL,
        "any cluster, gap p ≤ 0.05": controls.smallest_gap_p <= LEVEL,
        "controlled": controls.n_significant > 0,
    }
    rows = {rule: _share(claimed) for rule, claimed in claims.items()}
    return pd.DataFrame(rows).T.rename_axis("rule").astype({"n": int, "claims": int})


def _share(truths: pd.Series) -> dict:
    count, n = int(truths.sum()), len(truths)
    low, high = wilson_interval(count / n, n) if n else (np.nan, np.nan)
    return {"claims": count, "n": n, "share": count / n if n else np.nan, "low": float(low), "high": float(high)}


def power_rows(tables: DiscoveryTables) -> pd.DataFrame:
    """One row a judged setting, number of val images and recipe: whether its first finding is right.

    Right is a finding whose first ten regions show the planted feature in five cases or more; `named` says whether the
    class is right, too.
    """
    settings = evaluated(tables.settings)[["position", "domain", "feature", "attribute", "strength", "margin", "half"]]
    rows = settings.rename(columns={"attribute": "planted_attribute"}).merge(tables.sizes, on="position")
    right = rows.precision_at_10 >= HALF_RIGHT
    return rows.assign(found=right, named=right & (rows.attribute == rows.planted_attribute))


def power_table(rows: pd.DataFrame, by: Sequence[str] = ("recipe", "n_images")) -> pd.DataFrame:
    """Share of settings in which the first finding is right, with Wilson's interval, for each combination of `by`."""
    groups = rows.groupby(list(by), observed=True).found
    shares = {key if len(by) > 1 else key[0]: _share(found) for key, found in groups}
    return pd.DataFrame(shares).T.rename_axis(list(by)).drop(columns="claims").astype({"n": int})


def of_judged(stability: pd.DataFrame, tables: DiscoveryTables) -> pd.DataFrame:
    """The rows of `ravl_core.discovery_tables.stability_table` whose settings methods are judged on."""
    settings = evaluated(tables.settings)[["domain", "seed"]]
    return stability.merge(settings, on=["domain", "seed"])


def agreement_table(stability: pd.DataFrame) -> pd.DataFrame:
    """For each variation and recipe: how often the first finding names the same class, and how far the images agree.

    `share` has Wilson's interval; `overlap` is the mean Jaccard index of the images that hold the first finding, 1: the
    same images.
    """
    rows = {
        key: _share(part.agrees.astype(bool)) | {"overlap": part.overlap.mean()}
        for key, part in stability.groupby(VARIATION, sort=False)
    }
    return pd.DataFrame(rows).T.rename_axis(VARIATION).drop(columns="claims").astype({"n": int})


def variation_table(stability: pd.DataFrame) -> pd.DataFrame:
    """Mean Precision@10 of each variation and recipe, with its interval over settings."""
    clusters = stability.domain + " " + stability.planted_attribute.astype(str)
    rows = {}
    for key, part in stability.assign(cluster=clusters).groupby(VARIATION, sort=False):
        rows[key] = {"n": len(part), **_ends("", clustered_interval(part.precision_at_10, part.cluster))}
    return pd.DataFrame(rows).T.rename_axis(VARIATION).astype({"n": int})
