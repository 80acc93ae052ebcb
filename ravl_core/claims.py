"""The paper's claims on discovery, each with our value, its interval and a verdict that follows from it.

A claim has one or more parts, each a difference or a lead with an interval. A part holds if its interval lies above
what is claimed, fails if it lies below, and is open otherwise. A claim holds if all its parts do, and partly if some
do; if none does, it does not hold where one fails, and is open where none does.
"""

from collections.abc import Sequence

import pandas as pd

from ravl_core.discovery_summaries import (
    ABLATIONS,
    BASELINES,
    PAPERS,
    closest_baseline,
    lead_over,
    precision_by,
    precision_table,
)
from ravl_core.settings import THRESHOLDS
from ravl_core.slicing import CHANCE
from ravl_core.summaries import PAPERS_SETTINGS

RIVALS = (CHANCE, *BASELINES)
PAPERS_LEAD = 1.91  # of RaVL's mean Precision@10 over the closest baseline's


def verdict(parts: Sequence[tuple[float, float]], claimed: float = 0.0) -> str:
    """From the intervals (low, high) of a claim's parts; without any part it is "not testable here"."""
    if not parts:
        return "not testable here"
    above, below = [low > claimed for low, _ in parts], [high < claimed for _, high in parts]
    if all(above):
        return "holds"
    if any(above):
        return "holds partly"
    return "does not hold" if any(below) else "open"


def table_1_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """The claims of the abstract, table 1 and figure 2, from the rows of `ravl_core.discovery_summaries.judged`."""
    n = rows.position.nunique()
    closest = closest_baseline(rows)
    lead = lead_over(rows, PAPERS, closest)
    found = [
        _row("settings evaluated", str(PAPERS_SETTINGS), f"{n}", n, "holds" if n == PAPERS_SETTINGS else "smaller run"),
        _row(
            "mean Precision@10 above the closest baseline",
            f"+{PAPERS_LEAD:.0%}",
            f"{lead.estimate:+.0%} [{lead.low:+.0%}, {lead.high:+.0%}] over {closest}",
            n,
            verdict([(lead.low, lead.high)], PAPERS_LEAD),
        ),
    ]
    at_thresholds = precision_table(rows, (PAPERS, *RIVALS))
    for threshold in THRESHOLDS:
        found.append(_ahead(f"ahead of every method at T = {threshold}", at_thresholds.loc[threshold]))
    for kind, part in precision_by(rows, ["kind"], (PAPERS, *RIVALS)).groupby(level="kind", sort=False):
        found.append(_ahead(f"ahead of every method on {kind} data", part.droplevel("kind")))
    for strength, part in precision_by(rows, ["strength"], (PAPERS, *RIVALS)).groupby(level="strength"):
        found.append(_ahead(f"ahead of every method at V = {strength:g}", part.droplevel("strength")))
    return pd.DataFrame(found).set_index("claim")


def table_2_claims(rows: pd.DataFrame) -> pd.DataFrame:
    """Gap and influence together beat either alone and the unweighted gap; the paper: on real-world data, RN50."""
    parts = {
        "real-world, rn-mini (the paper's cell)": (rows.kind == "real-world") & (rows.initial == "rn-mini"),
        "real-world": rows.kind == "real-world",
        "synthetic": rows.kind == "synthetic",
        "all settings": rows.kind.notna(),
    }
    found = []
    for name, chosen in parts.items():
        if not chosen.any():
            continue
        table = precision_table(rows[chosen], ABLATIONS, THRESHOLDS[:1]).loc[THRESHOLDS[0]]
        found += [_ahead(f"ahead of {method.removeprefix(PAPERS).lstrip(' ,')}: {name}", table.loc[[PAPERS, method]])
                  for method in ABLATIONS[1:]]  # fmt: skip
    return pd.DataFrame(found).set_index("claim")


def _ahead(claim: str, table: pd.DataFrame) -> dict:
    """RaVL minus each other method of a table, which is a row of the claims."""
    if table.n.iloc[0] == 0:
        return _row(claim, "ahead", "no setting", 0, verdict([]))
    others = table.drop(index=PAPERS)
    smallest = others.behind.idxmin()
    row = others.loc[smallest]
    ours = f"{row.behind:+.2f} [{row.behind_low:+.2f}, {row.behind_high:+.2f}] to {smallest}"
    intervals = list(others[["behind_low", "behind_high"]].itertuples(index=False, name=None))
    behind = [name for name, (_, high) in zip(others.index, intervals, strict=True) if high < 0]
    note = f"; behind {', '.join(behind)}" if behind else ""
    return _row(claim, "ahead", ours + note, int(table.n.iloc[0]), verdict(intervals))


def _row(claim: str, papers: str, ours: str, n: int, verdict: str) -> dict:
    return {"claim": claim, "paper": papers, "ours": ours, "n": n, "verdict": verdict}
