"""The paper's table 3 and what goes beyond it, from the tidy table of the repairs: one row a setting and method.

A difference is paired: between two methods on the same settings, in points. Intervals are 95 % percentile bootstrap
intervals over settings, and settings that share a domain and an attribute are drawn together, with their differences
whole. Those of plain shares are Wilson's. What is missing (NaN) is left out, and the number of settings says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ravl_core.discovery_summaries import PAPERS, clustered_interval
from ravl_core.figures.mitigation import SECTIONS
from ravl_core.metrics import Interval, bootstrap_interval, wilson_interval
from ravl_core.repair_rows import FOUND
from ravl_core.repair_tables import DIAGNOSED
from ravl_core.study import FIGURES_OF_TABLE_3

STANDARD = "standard"
RIVALS = (STANDARD, "upsampled", "VL-ERM", "VL-GDRO", "Spurious-Aware")  # of the paper's table 3
HEADLINE = (*RIVALS, "Spurious-Aware, as released", PAPERS)
TRUE_REGIONS = ", true regions"  # ends the name of a method's oracle twin
FIGURES = (*FIGURES_OF_TABLE_3, "aligned_accuracy")
SETTING = ["domain", "initial", "feature", "attribute", "strength", "trained", "seed"]  # tells settings apart
CUTS = (None, FOUND, 0.8)  # None: all settings
ALL = "all settings"
THIRDS = ("lower third", "middle third", "upper third")
DIFFERENCE = ("difference", "difference_low", "difference_high")
COMPETENT_DOMAIN = "digits"
CHOOSE, REPORT = "choose", "report"  # the halves of the settings


def of_table_3(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the reference run that table 3 is made of.

    Its budget trains the head. Left out are the diagnosed models, and digits, whose initial model is far more competent
    than the others': they are compared with them, not averaged with them.
    """
    return table[(table.trained == "head") & (table.method != DIAGNOSED) & (table.domain != COMPETENT_DOMAIN)]


def paired(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """For each setting and other method, its figures minus those of the reference on the same setting, in points.

    Parameters
    ----------
    table : one row a setting and method: the columns of the setting, `method`, and the five figures (0 … 1 or NaN).
    reference : a method.

    Returns
    -------
    pandas.DataFrame
        The other methods' rows in their order, with the five figures as differences (above 0: better than the
        reference), and the reference's own figures, 0 … 1, in columns named `reference_…`. Settings that one of the
        two methods lacks have no row.

    Raises
    ------
    ValueError
        No row is the reference's, or a setting has a method twice.
    """
    known = list(table.method.unique())
    if reference not in known:
        raise ValueError(f"reference: expected one of {known}, got {reference!r}")
    twice = table.duplicated([*SETTING, "method"])
    if twice.any():
        raise ValueError(f"table: expected one row a setting and method, got {table[twice].method.iloc[0]!r} twice")
    theirs = table.loc[table.method == reference, [*SETTING, *FIGURES]]
    theirs = theirs.rename(columns={metric: f"reference_{metric}" for metric in FIGURES})
    rows = table[table.method != reference].merge(theirs, on=SETTING, validate="many_to_one")
    return rows.assign(**{metric: 100 * (rows[metric] - rows[f"reference_{metric}"]) for metric in FIGURES})


def clusters(rows: pd.DataFrame) -> pd.Series:
    """What the bootstrap draws together: the settings of one domain and attribute."""
    return rows.domain + " " + rows.attribute.astype(str)


def difference_summary(rows: pd.DataFrame, metric: str) -> dict:
    """Mean of a column of paired differences with its interval, over n settings in so many clusters."""
    values = rows.dropna(subset=[metric])
    groups = clusters(values)
    counts = {"n": len(values), "clusters": groups.nunique()}
    return counts | dict(zip(DIFFERENCE, clustered_interval(values[metric], groups), strict=True))


def _summaries(rows: pd.DataFrame, **what) -> list[dict]:
    return [what | {"metric": metric} | difference_summary(rows, metric) for metric in FIGURES]


def with_precision_above(table: pd.DataFrame, cut: float | None) -> pd.DataFrame:
    """The settings whose Precision@10 of stage 1 is above the cut; None: all, also those without a Precision@10."""
    return table if cut is None else table[table.precision_at_10 > cut]


def name_of_cut(cut: float | None) -> str:
    """What the settings above a cut are called."""
    return ALL if cut is None else f"Precision@10 > {cut:g}"


def table_3(
    table: pd.DataFrame, methods: Sequence[str] | None = None, above: Sequence[float | None] = CUTS
) -> pd.DataFrame:
    """Each method's figures, and how far they are from RaVL's on the same settings: the paper's table 3 in numbers.

    Parameters
    ----------
    methods : which, and in this order; all if not given. One without a setting has rows of NaN.
    above : Precision@10 of stage 1 that settings have to exceed.

    Returns
    -------
    pandas.DataFrame
        One row a cut, method and metric. `mean` and its ends in per cent, over `n` settings; `difference` and its ends
        in points, method − RaVL, over the `n_paired` settings that have both. Means of methods that differ in n are
        of different settings: what compares methods is the difference.
    """
    methods = list(table.method.unique()) if methods is None else list(methods)
    own = table.assign(**{metric: 100 * table[metric] for metric in FIGURES})
    rows = []
    for cut in above:
        parts = with_precision_above(own, cut), with_precision_above(paired(table, PAPERS), cut)
        for method in methods:
            of_method = [part[part.method == method] for part in parts]
            rows += [_table_3_row(*of_method, metric, settings=name_of_cut(cut), method=method) for metric in FIGURES]
    return pd.DataFrame(rows)


def _table_3_row(own: pd.DataFrame, less: pd.DataFrame, metric: str, **what: str) -> dict:
    of_own, of_less = difference_summary(own, metric), difference_summary(less, metric)
    means = {name: of_own[end] for name, end in zip(("mean", "low", "high"), DIFFERENCE, strict=True)}
    differences = {"n_paired": of_less["n"]} | {name: of_less[name] for name in DIFFERENCE}
    return what | {"metric": metric, "n": of_own["n"], "clusters": of_own["clusters"]} | means | differences


def table_3_text(numbers: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table_3` for display: a row a cut and method, "72.1 [68.0, 76.2]" and "+3.1 [+0.4, +5.9]".

    `n` is the number of settings; a cell that rests on fewer of them says on how many.
    """
    rows = {}
    for key, part in numbers.groupby(["settings", "method"], sort=False):
        n = int(part.n.max())
        rows[key] = {"n": n}
        for row in part.itertuples():
            rows[key][row.metric] = _cell((row.mean, row.low, row.high), "", row.n, n)
            ends = (row.difference, row.difference_low, row.difference_high)
            rows[key][f"{row.metric} − {PAPERS}"] = _cell(ends, "+", row.n_paired, n)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["settings", "method"])


def _cell(ends: tuple[float, float, float], sign: str, n: int, n_of_row: int) -> str:
    if np.isnan(ends[0]):
        return ""
    mean, low, high = (f"{end:{sign}.1f}" for end in ends)
    return f"{mean} [{low}, {high}]" + (f" (n = {n})" if n != n_of_row else "")


def changes_of_methods(
    table: pd.DataFrame, reference: str = STANDARD, methods: Sequence[str] | None = None
) -> pd.DataFrame:
    """Mean paired difference of each method to the reference, one row a method and metric, with its interval.

    `section` says whether a method is the paper's, ours or a variant, or one that is given the true regions; sections
    come in this order, and within one methods as they are given.
    """
    differences = paired(table, reference)
    known = list(differences.method.unique()) if methods is None else [m for m in methods if m != reference]
    rows = []
    for method in sorted(known, key=lambda name: SECTIONS.index(section(name))):  # stable
        rows += _summaries(differences[differences.method == method], method=method, section=section(method))
    return pd.DataFrame(rows)


def section(method: str) -> str:
    """Which part of a figure a method stands in."""
    if method.endswith(TRUE_REGIONS):
        return SECTIONS[2]
    return SECTIONS[0] if method in (DIAGNOSED, *HEADLINE) else SECTIONS[1]


def stage_1_costs(table: pd.DataFrame) -> pd.DataFrame:
    """What a method loses because stage 1 names its regions: its twin with the true regions less itself, in points.

    One row a metric and method that has a twin ("RaVL" and "RaVL, true regions").
    """
    known, rows = list(table.method.unique()), []
    for method in known:
        if f"{method}{TRUE_REGIONS}" in known:
            differences = paired(table, method)
            rows += _summaries(differences[differences.method == f"{method}{TRUE_REGIONS}"], method=method)
    return pd.DataFrame(rows, columns=["method", "metric", "n", "clusters", *DIFFERENCE])


@dataclass(frozen=True, eq=False)
class ChosenVariant:
    """A variant that was chosen on one half of the settings, and what it brings on the other.

    Attributes
    ----------
    method : the variant that was chosen.
    candidates : one row a candidate, the best first: its mean difference to standard fine-tuning on the half where it
        was chosen. That of the best is too good, as it was picked for it.
    reported : rows RaVL and standard: the chosen variant's difference to these on the other half, with its interval.
    """

    method: str
    candidates: pd.DataFrame
    reported: pd.DataFrame


def chosen_variant(table: pd.DataFrame, metric: str, candidates: Sequence[str]) -> ChosenVariant:
    """Choose the variant with the best mean change of a metric on one half, and report it on the other.

    Candidates are compared on the settings of the half that all of them have a value on; the first wins on ties.

    Raises
    ------
    ValueError
        A candidate is no method of the table, or there is no setting that all candidates have.
    """
    known = [name for name in table.method.unique() if name != STANDARD]
    unknown = [name for name in candidates if name not in known]
    if unknown or not candidates:
        raise ValueError(f"candidates: expected some of {known}, got {unknown}")
    changed = paired(table[table.half == CHOOSE], STANDARD).dropna(subset=[metric])
    changed = changed[changed.method.isin(candidates)]
    common = changed[changed.groupby(SETTING).method.transform("nunique") == len(set(candidates))]
    if common.empty:
        raise ValueError(f"table: expected settings of the half {CHOOSE!r} that all candidates have, got none")
    rows = {name: difference_summary(common[common.method == name], metric) for name in candidates}
    compared = pd.DataFrame(rows).T.rename_axis("method").astype({"n": int, "clusters": int})
    compared = compared.sort_values("difference", ascending=False, kind="stable")
    method = str(compared.index[0])
    return ChosenVariant(method, compared, _reported(table[table.half == REPORT], method, metric))


def _reported(table: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    rows = {}
    for reference in (PAPERS, STANDARD):
        there = paired(table, reference) if (table.method == reference).any() else table.iloc[:0]
        rows[reference] = difference_summary(there[there.method == method], metric)
    return pd.DataFrame(rows).T.rename_axis("reference").astype({"n": int, "clusters": int})


def by_condition(table: pd.DataFrame, method: str, reference: str, by: str) -> pd.DataFrame:
    """Mean paired difference of a method to a reference under each condition: when does it help, and when not?

    Parameters
    ----------
    by : "found": whether stage 1 found what was planted (Precision@10 > 0.6). "margin", "assignment_recall" and
        "assignment_precision": by thirds of the settings, where equal values stay together, so that a third may be
        empty. Any other column, such as "domain", "strength" or "initial": by its values.

    Returns
    -------
    pandas.DataFrame
        One row a condition and metric. Settings whose `by` is missing are in none.
    """
    differences = paired(table, reference)
    differences = differences[differences.method == method]
    rows = []
    for condition, part in differences.groupby(_conditions(differences, by), observed=True):
        rows += _summaries(part, method=method, by=by, condition=condition)
    return pd.DataFrame(rows, columns=["method", "by", "condition", "metric", "n", "clusters", *DIFFERENCE])


def _conditions(rows: pd.DataFrame, by: str) -> pd.Categorical:
    """Which condition each row is under, in the order in which they are shown."""
    if by == "found":
        words = rows.precision_at_10.gt(FOUND).map({True: "found", False: "not found"})
        return pd.Categorical(words.where(rows.precision_at_10.notna()), ["found", "not found"])
    if by in ("margin", "assignment_recall", "assignment_precision"):
        return _thirds(rows[by])
    values = rows[by].dropna().unique()
    return pd.Categorical(rows[by], sorted(values) if rows[by].dtype.kind in "iuf" else values)


def _thirds(values: pd.Series) -> pd.Categorical:
    """Thirds of the values by their mean ranks, each named with its smallest and largest value."""
    third = np.floor(3 * (values.rank() - 0.5) / values.count())  # 0, 1 or 2; NaN where there is no value
    ends = values.groupby(third).agg(["min", "max"])
    decimals = 2 if values.max() <= 1 else 0
    names = {at: f"{THIRDS[int(at)]}, {low:.{decimals}f}–{high:.{decimals}f}" for at, (low, high) in ends.iterrows()}
    return pd.Categorical(third.map(names), list(names.values()))


def what_goes_with_gain(
    table: pd.DataFrame, method: str, reference: str = STANDARD, metric: str = "image_worst_group"
) -> pd.DataFrame:
    """Rank correlation of a method's gain over a reference with what may explain it, with its bootstrap interval.

    Returns
    -------
    pandas.DataFrame
        Rows `strength`, `assignment_recall`, `initial` (the initial model's own figure), `reference` (that of the
        reference) and `mean` (of reference and method); n and Spearman's correlation, -1 … 1, NaN where one of the two
        does not vary. A gain holds the reference's luck with the opposite sign, so its correlation with the reference
        is below 0 even where nothing goes with it; that with the mean of both is free of this if both vary alike.

    References
    ----------
    P. D. Oldham, A note on the analysis of repeated measurements of the same subjects, J. Chronic Dis. 15, 1962.
    """
    rows = paired(table, reference)
    rows = rows[rows.method == method].dropna(subset=[metric])
    before = rows[f"reference_{metric}"]
    explanations = {
        "strength": rows.strength,
        "assignment_recall": rows.assignment_recall,
        "initial": rows.get(f"initial_{metric}", before * np.nan),
        "reference": before,
        "mean": before + rows[metric] / 200,
    }
    found = {name: _rank_correlation(rows, values, metric) for name, values in explanations.items()}
    return pd.DataFrame(found).T.rename_axis("explanation").astype({"n": int})


def _rank_correlation(rows: pd.DataFrame, values: pd.Series, metric: str) -> dict:
    known = values.notna()
    pairs = np.stack([values[known], rows[metric][known]], axis=1)  # (n, 2)
    found = Interval(np.nan, np.nan, np.nan)
    if not np.isnan(_spearman(pairs)):
        found = bootstrap_interval(pairs, _spearman, groups=clusters(rows[known]).to_numpy(str))
    return {"n": len(pairs), "correlation": found.estimate, "low": found.low, "high": found.high}


def _spearman(pairs: np.ndarray) -> float:
    """Of pairs (n, 2); NaN where one of the two does not vary."""
    if len(pairs) < 2:
        return np.nan
    x, y = (rankdata(pairs, axis=0) - (len(pairs) + 1) / 2).T
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else np.nan


def repairs_that_hurt(
    table: pd.DataFrame, metric: str = "image_worst_group", reference: str = STANDARD
) -> pd.DataFrame:
    """In how many settings each method's figure is below the reference's, as a share with Wilson's interval.

    The interval takes settings as independent, so it is narrow where settings resemble each other.
    """
    rows = {}
    for method, part in paired(table, reference).dropna(subset=[metric]).groupby("method", sort=False):
        worse, n = int((part[metric] < 0).sum()), len(part)
        low, high = wilson_interval(worse / n, n)
        rows[method] = {"worse": worse, "n": n, "share": worse / n, "low": float(low), "high": float(high)}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=["worse", "n", "share", "low", "high"])
    return found.rename_axis("method")
