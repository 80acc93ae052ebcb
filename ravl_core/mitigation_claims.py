"""The paper's claims on mitigation, each with our value, its interval and a verdict that follows from it.

Verdicts are those of `ravl_core.claims`. A part whose settings share fewer than five domains and attributes is open
whatever its interval: even four differences of one sign come about by chance once in sixteen times. Where a rival has
no row, its part is not testable here, and a claim on all rivals holds partly at best.

The abstract's "up to 8.2 %" of worst-group image accuracy is the largest of a table's cells, and it does not say
whether these are points or per cent of the rival's accuracy; we give both. Our cells are initial model × Precision@10,
in each of which RaVL is compared with the rival that comes closest. As the largest of k cells, in points, is picked
for its size, its interval has level 1 − 0.05/k (Bonferroni). It is held against 0 and, in both readings, against 8.2.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from ravl_core.claims import verdict
from ravl_core.discovery_summaries import LEVEL, PAPERS, SYNTHETIC
from ravl_core.metrics import Interval, bootstrap_interval
from ravl_core.mitigation_summaries import (
    CUTS,
    DIFFERENCE,
    RIVALS,
    clusters,
    difference_summary,
    name_of_cut,
    paired,
    with_precision_above,
)
from ravl_core.study import FIGURES_OF_TABLE_3

FEWEST_CLUSTERS = 5  # 2^-5 < 0.05 < 2^-4
PAPERS_GAIN = 8.2  # "up to"; points or per cent
WORST = "image_worst_group"
NOT_TESTABLE, TOO_FEW = verdict([]), "; too few domains and attributes"
KINDS = ("real-world", "synthetic", "all data")  # the paper's table 3 is on real-world data


def of_kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows on photographs ("real-world"), on scans ("synthetic"), or all."""
    synthetic = table.domain.isin(SYNTHETIC)
    return table[{"real-world": ~synthetic, "synthetic": synthetic}.get(kind, synthetic.notna())]


def leads_over_rivals(table: pd.DataFrame) -> pd.DataFrame:
    """RaVL's rows of `paired` with each rival that the table has, one below the other; `rival` names it."""
    present = [rival for rival in RIVALS if (table.method == rival).any()]
    leads = [paired(table[table.method.isin([PAPERS, rival])], rival).assign(rival=rival) for rival in present]
    return pd.concat(leads, ignore_index=True) if leads else table[:0].assign(rival="")


def ahead_of_each_rival(table: pd.DataFrame) -> pd.DataFrame:
    """RaVL less each rival in each figure of table 3, in points, on each kind of data and above each Precision@10.

    One row each: kind, settings, metric, rival, n, clusters, the difference and its ends, and a verdict.
    """
    leads, rows = leads_over_rivals(table), []
    for kind, cut in product(KINDS, CUTS[1:]):
        cell = with_precision_above(of_kind(leads, kind), cut)
        for metric, rival in product(FIGURES_OF_TABLE_3, RIVALS):
            summary = difference_summary(cell[cell.rival == rival], metric)
            what = {"kind": kind, "settings": name_of_cut(cut), "metric": metric, "rival": rival}
            rows.append(what | summary | {"verdict": verdict(_parts([summary]))})
    return pd.DataFrame(rows)


def table_3_claims(table: pd.DataFrame) -> pd.DataFrame:
    """The claims of table 3 and of the abstract, from the tidy table of the repairs; see the module's text."""
    leads, found = leads_over_rivals(table), []
    cells = ahead_of_each_rival(table).groupby(["kind", "settings", "metric"], sort=False)
    for (kind, settings, metric), part in cells:
        found.append(_ahead(f"{_words(metric)} ahead of every rival: {kind}, {settings}", part))
    for kind, cut in product(KINDS, CUTS[1:]):
        claim = f"{_words(WORST)} above the closest rival: {kind}, {name_of_cut(cut)}"
        found.append(_row(claim, "ahead", lead_over_closest(with_precision_above(of_kind(leads, kind), cut))))
    for kind in KINDS:
        found += _largest_rows(of_kind(leads, kind), f"{_words(WORST)} above the closest rival, largest cell: {kind}")
    return pd.DataFrame(found).set_index("claim")


@dataclass(frozen=True)
class Lead:
    """How far RaVL is ahead of the rival that comes closest, in one cell of the table.

    Attributes
    ----------
    rival : the one with the smallest mean paired difference; picked from the same settings, so a lead is rather small.
    n, clusters : settings that both have, and how many domains and attributes they share.
    points : mean difference of the worst-group image accuracy, with its interval.
    percent : RaVL's mean as a share of the rival's, less 100; NaN where the rival is at 0.
    """

    rival: str
    n: int
    clusters: int
    points: Interval
    percent: Interval


def lead_over_closest(leads: pd.DataFrame, level: float = 1 - LEVEL) -> Lead | None:
    """RaVL's lead in worst-group image accuracy, from rows of `leads_over_rivals`; None without any."""
    rows = _of_closest(leads)
    if rows.empty:
        return None
    groups = clusters(rows).to_numpy(str)
    pairs = rows[[WORST, f"reference_{WORST}"]].to_numpy(float)  # (n, 2): in points, and the rival's 0 … 1
    points = bootstrap_interval(pairs[:, 0], level=level, groups=groups)
    percent = Interval(np.nan, np.nan, np.nan)
    if pairs[:, 1].any():
        percent = bootstrap_interval(pairs, _percent, level, groups=groups)
    return Lead(rows.rival.iloc[0], len(pairs), len(np.unique(groups)), points, percent)


def _of_closest(leads: pd.DataFrame) -> pd.DataFrame:
    """The rows of the rival with the smallest mean difference, the first on ties."""
    known = leads.dropna(subset=[WORST])
    return known if known.empty else known[known.rival == known.groupby("rival", sort=False)[WORST].mean().idxmin()]


def _percent(pairs: np.ndarray) -> float:
    lead, rivals = pairs.mean(axis=0)
    return lead / rivals if rivals > 0 else np.nan


def _parts(summaries: Iterable[dict]) -> list[tuple[float, float]]:
    """The ends of those that can be tested; without bounds, so open, where there are too few clusters."""
    tested = [one for one in summaries if one["n"]]
    return [
        (one[DIFFERENCE[1]], one[DIFFERENCE[2]]) if one["clusters"] >= FEWEST_CLUSTERS else (-np.inf, np.inf)
        for one in tested
    ]


def _ahead(claim: str, part: pd.DataFrame) -> dict:
    """A claim on all rivals, from a row for each."""
    tested = part[part.n > 0].set_index("rival")
    if tested.empty:
        return _claim(claim, "ahead", "no setting", 0, NOT_TESTABLE)
    closest = tested.difference.idxmin()
    ends = tested.loc[closest, list(DIFFERENCE)]
    behind = [name for name, row in tested.iterrows() if row.verdict == "does not hold"]
    absent = [name for name in part.rival if name not in tested.index]
    notes = [f"; {word} {', '.join(names)}" for word, names in (("behind", behind), ("without", absent)) if names]
    notes += [TOO_FEW] * bool((tested.clusters < FEWEST_CLUSTERS).any())
    judged = verdict(_parts(tested.to_dict("records")))
    judged = "holds partly" if judged == "holds" and absent else judged
    return _claim(claim, "ahead", f"{_ends(ends)} to {closest}{''.join(notes)}", int(tested.n.min()), judged)


def _largest_rows(leads: pd.DataFrame, claim: str) -> Iterator[dict]:
    """The largest of the cells, held against 0 and against the paper's figure in both readings."""
    cells = {
        f"{initial}, {name_of_cut(cut)}": _of_closest(with_precision_above(rows, cut))
        for (initial, rows), cut in product(leads.groupby("initial", sort=False), CUTS[1:])
    }
    cells = {name: rows for name, rows in cells.items() if len(rows)}
    # A cell that cannot be judged is only looked at where no other is left
    cells = {name: rows for name, rows in cells.items() if clusters(rows).nunique() >= FEWEST_CLUSTERS} or cells
    largest = max(cells, key=lambda name: cells[name][WORST].mean(), default="")
    lead = lead_over_closest(cells[largest], 1 - LEVEL / len(cells)) if cells else None
    papers, where = f"up to +{PAPERS_GAIN} %", f", {largest}"
    yield _row(claim, papers, lead, where=where)
    yield _row(f"{claim}, {PAPERS_GAIN} as points", papers, lead, PAPERS_GAIN, where=where)
    yield _row(f"{claim}, {PAPERS_GAIN} as per cent", papers, lead, PAPERS_GAIN, "percent", where)


def _row(
    claim: str, papers: str, lead: Lead | None, claimed: float = 0.0, unit: str = "points", where: str = ""
) -> dict:
    """A claim on one lead; `unit` is what the verdict looks at."""
    if lead is None:
        return _claim(claim, papers, "no setting", 0, NOT_TESTABLE)
    enough = lead.clusters >= FEWEST_CLUSTERS
    percent = "" if np.isnan(lead.percent.estimate) else f", {_ends(lead.percent)} %"
    ours = f"{_ends(lead.points)} points{percent} over {lead.rival}{where}{'' if enough else TOO_FEW}"
    low, high = getattr(lead, unit)[1:] if enough else (-np.inf, np.inf)
    return _claim(claim, papers, ours, lead.n, verdict([(low, high)], claimed))


def _claim(claim: str, papers: str, ours: str, n: int, judged: str) -> dict:
    return {"claim": claim, "paper": papers, "ours": ours, "n": n, "verdict": judged}


def _ends(interval: Interval) -> str:
    mean, low, high = interval
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def _words(metric: str) -> str:
    return metric.replace("_", " ")
