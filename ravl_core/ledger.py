"""The ledger: every claim of the sources, and what the committed reference run says of it.

A claim rests on *parts*: rows of the tables of claims that notebooks 02, 03, 04 and 06 write, and a few shares of the
same kind. They are computed from the reference run's csv files by the functions that those notebooks use; only the
sources' own words and figures are written by hand (`ravl_core.stated_claims`). Parts have the verdicts of
`ravl_core.claims`. A claim holds if all of its parts do and partly if some do; if none does, it does not hold where one
fails and is open otherwise.

"Not testable here" is what needs what the project does not ship: weights of CLIP or PubMedCLIP, whole COCO scenes,
Places, Waterbirds, audio and video, Stable Diffusion's text encoder. "No claim" is what a source only asks.
"""

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from ravl_core import discovery_summaries as discovered
from ravl_core import discovery_tables
from ravl_core import mitigation_summaries as mitigated
from ravl_core import sensitivity_tables as sensitive
from ravl_core.audits.rates import trial_rates
from ravl_core.checks import choice
from ravl_core.claims import table_1_claims, table_2_claims, verdict
from ravl_core.language import summaries as told
from ravl_core.metrics import wilson_interval
from ravl_core.mitigation_claims import table_3_claims
from ravl_core.stated_claims import NO_CLAIM, NOT_TESTABLE, Claim
from ravl_core.summaries import evaluated, reference_table

VERDICTS = ("holds", "holds partly", "open", "does not hold", NOT_TESTABLE, NO_CLAIM)
MOST = 0.5  # "in most models": the share that an interval has to lie above
NINE = 9  # the class of the authors' demo
NUMBERS = re.compile(r"([+-][\d.]+)%? \[([+-][\d.]+)%?, ([+-][\d.]+)%?\]")
AS_SHARES = ("02", "03")  # notebooks whose differences are of Precision@10, -1 … 1


# ---- what the reference run says ----


def reference_parts() -> pd.DataFrame:
    """All rows that claims can rest on: ours (text), n, of (what n counts), verdict, table; named "04: …".

    The number is that of the notebook that shows them, `table` the file below `results/full` they are computed from.
    Raises FileNotFoundError where one of these is missing.
    """
    found = discovery_tables.reference_tables()
    judged, language = discovered.judged(found), reference_table("language")
    repaired = mitigated.of_table_3(reference_table("repairs"))
    tables = (
        ("01", "settings", "settings.csv", _settings(judged, found.settings)),
        ("02", "settings", "discovery_methods.csv", table_1_claims(judged)),
        ("02", "settings", "discovery_methods.csv", _initial_models(judged)),
        ("03", "settings", "discovery_methods.csv", table_2_claims(judged)),
        ("03", "settings", "discovery_stability.csv", _variations()),
        ("04", "settings", "repairs.csv", pd.concat([table_3_claims(repaired), _swaps(repaired)])),
        ("05", "models", "audits.csv", _audits()),
        ("05", "fits", "05_real.csv", _real_images()),
        ("06", "seeds", "language.csv", told.verdicts(language).rename(columns={"seeds": "n"})),
        ("06", "seeds", "language.csv", _rivals(language)),
        ("07", "models", "sensitivity.csv", _sensitivity()),
        ("07", "models", "07_documents.csv", _documents()),
    )
    named = [
        rows[["ours", "n", "verdict"]].rename(index=f"{notebook}: {{}}".format).assign(of=of, table=table)
        for notebook, of, table, rows in tables
    ]
    return pd.concat(named).rename_axis("part")


def _rows(rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["claim", "ours", "n", "verdict"]).set_index("claim")


def _share(claim: str, hits: pd.Series, claimed: float = MOST) -> tuple:
    """A row on how often something is true, with Wilson's interval, held against a share."""
    n, count = len(hits), int(hits.sum())
    low, high = map(float, wilson_interval(count / n, n))
    return claim, f"{count} of {n}, {count / n:.0%} [{low:.0%}, {high:.0%}]", n, verdict([(low, high)], claimed)


def _settings(judged: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """How many settings there are of each kind, and the authors' demo: scans of MNIST, the rectangle with nine."""
    counts = judged.groupby(["initial", "kind"]).position.nunique()
    of_kinds = ", ".join(f"{initial} {kind} {n}" for (initial, kind), n in counts.items())
    valid = evaluated(settings)
    nine = valid[(valid.domain == "mnist") & (valid.attribute == NINE)]
    image, region = nine.image_overall.mean(), nine.region_overall.mean()
    low, middle, high = nine.n_clusters.quantile([0, 0.5, 1])
    return _rows(
        [
            ("settings by initial model", of_kinds, judged.position.nunique(), NOT_TESTABLE),
            ("demo, accuracies", f"image {image:.3f}, core region {region:.3f}", len(nine), NOT_TESTABLE),
            ("demo, clusters", f"{low:.0f} to {high:.0f} clusters, median {middle:.0f}", len(nine), NOT_TESTABLE),
            _share("demo, attribute", nine.found_attribute == NINE),
        ]
    )


def _initial_models(judged: pd.DataFrame) -> pd.DataFrame:
    found = discovered.precision_by(judged, ["initial"], [discovered.PAPERS]).droplevel("method")
    precision = "Precision@10 " + ", ".join(f"{name} {mean:.2f}" for name, mean in found["mean"].items())
    return _rows([("initial models", precision, judged.position.nunique(), NO_CLAIM)])


def _variations() -> pd.DataFrame:
    """Precision@10 of the paper's recipe with other regions, and how often other clusters name the same class."""
    found, agreed = (
        table[table.recipe == "paper"].set_index("variation")
        for table in (reference_table("03_variations"), reference_table("03_agreement"))
    )
    regions = found[found.kind == "proposals"]["mean"]
    same = agreed[agreed.kind != "proposals"].share
    precision = "Precision@10 " + ", ".join(f"{name} {mean:.2f}" for name, mean in regions.items())
    shares = f"the first finding names the same class in {same.min():.0%} to {same.max():.0%}"
    n = int(found.n.iloc[0])
    return _rows([("other regions", precision, n, NO_CLAIM), ("other clusters", shares, n, NO_CLAIM)])


def _swaps(repaired: pd.DataFrame) -> pd.DataFrame:
    """Our recipe against RaVL's, in the worst group of images, and how large the comparison of recipes is."""
    there = mitigated.with_precision_above(repaired, mitigated.FOUND)
    less = mitigated.paired(there, discovered.PAPERS)
    row = mitigated.difference_summary(less[less.method == "swaps + RaVL"], "image_worst_group")
    mean, low, high = (row[name] for name in mitigated.DIFFERENCE)
    ahead = f"image worst group {mean:+.1f} [{low:+.1f}, {high:+.1f}] to {discovered.PAPERS}"
    n, methods = repaired.seed.nunique(), repaired.method.nunique()
    return _rows(
        [
            ("swaps + RaVL above RaVL", ahead, row["n"], verdict([(low, high)])),
            ("recipes compared", f"{methods} recipes and variants, on up to {n} settings", n, NO_CLAIM),
        ]
    )


def _audits() -> pd.DataFrame:
    rates = trial_rates(reference_table("audits"))
    learned = rates[rates.among == "learned"].set_index("what")
    rows = []
    for what in ("the first finding is the planted feature", "… and hiding it counts (surroundings)"):
        row = learned.loc[what]
        ours = f"{row['count']} of {row.n}, {row.share:.0%} [{row.low:.0%}, {row.high:.0%}]"
        rows.append((what, ours, row.n, verdict([(row.low, row.high)], MOST)))
    return _rows(rows)


def _real_images() -> pd.DataFrame:
    real = reference_table("05_real")
    marker = real[real.case == "chest X-rays, marker"]
    found = (marker.n_findings > 0) & marker.confirmed.astype(bool)  # empty where there is no finding
    return _rows(
        [
            _share("X-rays, marker found and confirmed", found),
            _share("X-rays, marker repaired", marker.worst_low > 0),
        ]
    )


def _rivals(language: pd.DataFrame) -> pd.DataFrame:
    """What other sources' recipes bring on the stand-in for Waterbirds, against plain fine-tuning."""
    changes = told.changes(language)
    rows = []
    changes = changes[changes.method.isin(["Spurious-Aware", "GALS"]) & (changes.figure != told.OTHER_TASK)]
    for row in changes.itertuples():
        ours = f"{row.difference:+.1f} [{row.low:+.1f}, {row.high:+.1f}]"
        rows.append((f"{row.method}, {row.figure}", ours, row.seeds, verdict([(row.low, row.high)])))
    return _rows(rows)


def _sensitivity() -> pd.DataFrame:
    """Precision@10 of the paper's recipe in other mixtures of the val set, and in other architectures."""
    rows = sensitive.learned(reference_table("sensitivity"))
    rows = rows[rows.recipe == "paper"]
    mixed = sensitive.precision_by_variation(rows[rows.kind == "mixture"]).set_index("variation")["mean"]
    models = sensitive.precision_by_model(rows).set_index("model")["mean"]
    n = rows.position.nunique()
    said = [
        (claim, "Precision@10 " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items()), n, NO_CLAIM)
        for claim, means in (("mixtures", mixed), ("architectures", models))
    ]
    return _rows(said)


def _documents() -> pd.DataFrame:
    trials = reference_table("07_documents").query("strength > 0")
    found = trials.paper >= discovered.HALF_RIGHT
    said = f"in documents, a planted phrase is found in {found.sum()} of {len(found)} models"
    return _rows([("documents", said, len(found), NO_CLAIM)])


# ---- from parts to claims ----


def ledger(claims: Iterable[Claim], parts: pd.DataFrame) -> pd.DataFrame:
    """One row a claim: source, claim, paper, ours, n, of, verdict, beside, why, table, notebook.

    Parameters
    ----------
    claims : `CLAIMS`, for instance.
    parts : the rows of `reference_parts`.

    Raises
    ------
    ValueError
        A claim names a part that there is not, or has no verdict.
    """
    return pd.DataFrame([_claim_row(claim, parts) for claim in claims])


def _claim_row(claim: Claim, parts: pd.DataFrame) -> dict:
    missing = [name for name in (*claim.parts.values(), *claim.beside.values()) if name not in parts.index]
    if missing:
        raise ValueError(f"parts: {claim.claim!r} expects rows {missing}, which there are not")
    rows = parts.loc[list(claim.parts.values())]
    beside = [f"{label}: {parts.ours[name]}, {parts.verdict[name]}" for label, name in claim.beside.items()]
    return {
        "source": claim.source,
        "claim": claim.claim,
        "paper": claim.paper,
        "ours": _together_said(dict(zip(claim.parts, rows.ours, strict=True))),
        "n": _range(rows.n),
        "of": ", ".join(rows.of.unique()),
        "verdict": choice("settled", claim.settled, VERDICTS) if claim.settled else together(rows.verdict),
        "beside": "; ".join(beside),
        "why": claim.why,
        "table": ", ".join(f"results/full/{name}" for name in rows.table.unique()),
        "notebook": ", ".join(sorted({name[:2] for name in rows.index})),
    }


def together(verdicts: Iterable[str]) -> str:
    """The verdict on a claim whose parts have these: by the rule that `ravl_core.claims.verdict` has for intervals.

    Raises ValueError for none, or for a word that is no verdict on a part.
    """
    given = {choice("verdicts", one, VERDICTS[:4]) for one in verdicts}
    if not given:
        raise ValueError("verdicts: expected those of one part or more, got none")
    if given == {"holds"}:
        return "holds"
    if given & {"holds", "holds partly"}:
        return "holds partly"
    return "does not hold" if "does not hold" in given else "open"


def _together_said(texts: Mapping[str, str]) -> str:
    """Parts' texts, each with its label; once and without one where all say the same."""
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "")
    return "; ".join(f"{label}: {text}" for label, text in texts.items())


def _range(numbers: pd.Series) -> str:
    low, high = (0, 0) if numbers.empty else (int(numbers.min()), int(numbers.max()))
    return "" if not high else f"{low}" if low == high else f"{low}–{high}"


def differences(claims: Iterable[Claim], parts: pd.DataFrame) -> pd.DataFrame:
    """The parts that are differences: source, claim, label, n, difference, low, high, claimed, verdict.

    All in points, also of Precision@10; a lead in per cent stays so. Parts that say the same are one row, without a
    label.
    """
    rows = []
    for claim in claims:
        own = parts.loc[list(claim.parts.values())].assign(label=list(claim.parts))
        if own.ours.nunique() == 1:
            own = own.head(1).assign(label="", verdict=together(own.verdict) if not claim.settled else claim.settled)
        what = {"source": claim.source, "claim": claim.claim, "claimed": claim.claimed}
        rows += [what | numbers for name, row in own.iterrows() if (numbers := _in_points(name, row))]
    return pd.DataFrame(rows)


def _in_points(name: str, row: pd.Series) -> dict:
    """A part's difference as numbers; empty where its text is none."""
    numbers = NUMBERS.match(row.ours)
    if numbers is None:
        return {}
    scale = 100 if name[:2] in AS_SHARES and "%" not in numbers[0] else 1
    ends = (scale * float(text) for text in numbers.groups())
    measured = dict(zip(("difference", "low", "high"), ends, strict=True))
    return {"label": row.label, "n": int(row.n), "verdict": row.verdict} | measured
