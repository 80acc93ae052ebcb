"""All claims that are differences in one picture: what was measured, beside what is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ravl_core.checks import choice
from ravl_core.figures.discovery import row_dot
from ravl_core.figures.style import BLUE, FAINT, INK, MUTED, NORMAL, SMALL, TEXT, VERMILLION, require_columns, styled

if TYPE_CHECKING:
    import pandas

ENDS = ["difference", "low", "high"]
LOOKS = MappingProxyType(
    {  # told apart by marker and filling, too
        "holds": dict(color=BLUE, marker="o", filled=True),
        "holds partly": dict(color=BLUE, marker="D", filled=False),
        "open": dict(color=MUTED, marker="^", filled=False),
        "does not hold": dict(color=VERMILLION, marker="s", filled=True),
    }
)
LINE, APART, BEFORE = 0.18, 0.7, 0.35  # inches of a row; rows between a claim's parts, and before a heading
MARGIN = 0.8  # inches above and below


@styled
def claims_forest(table: pandas.DataFrame, sources: Mapping[str, str]) -> Figure:
    """Each claim's differences with their intervals, a row a claim, under the headings of their sources.

    Right of zero is what is claimed; where more is claimed than being ahead, a tick or an arrow says how much. A
    claim's parts stand below each other; on the right is what was measured.

    Parameters
    ----------
    table : pandas.DataFrame
        See `ravl_core.ledger.differences`: source, claim, label, difference, low, high (points), claimed, verdict.
    sources : mapping of str to str
        Each source in words.

    Raises
    ------
    ValueError
        The table lacks a column, or has no row or another verdict.
    """
    require_columns(table, ["source", "claim", "label", *ENDS, "claimed", "verdict"])
    for verdict in table.verdict:
        choice("verdict", verdict, LOOKS)
    headings, places = _places(table)
    height = max(max(headings.values()), max(at[-1] for at in places.values())) + 1
    figure, axes = plt.subplots(figsize=(TEXT, MARGIN + LINE * height))
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    reach = 1.05 * np.abs(table[ENDS]).max(axis=None)
    axes.set_xlim(-reach, reach)
    for (source, claim), at in places.items():
        _draw_claim(axes, table[(table.source == source) & (table.claim == claim)], at)
    _name(axes, headings, places, sources, height)
    axes.set_xlabel("ahead by so many points of Precision@10 or accuracy (first row: per cent)", fontsize=NORMAL)
    _add_key(figure)
    return figure


def _places(table: pandas.DataFrame) -> tuple[dict, dict]:
    """Height of each source's heading, and of each claim's parts, in rows from the top."""
    headings, places, at = {}, {}, 0.0
    for (source, claim), part in table.groupby(["source", "claim"], sort=False):
        if source not in headings:
            headings[source] = at + BEFORE * bool(at)
            at = headings[source] + 1
        places[source, claim] = at + APART * np.arange(len(part))
        at += 1 + APART * (len(part) - 1)
    return headings, places


def _draw_claim(axes: Axes, rows: pandas.DataFrame, at: np.ndarray) -> None:
    for height, (verdict, interval) in zip(at, zip(rows.verdict, rows[ENDS].to_numpy(float), strict=True), strict=True):
        axes.axhline(height, color=FAINT, linewidth=0.4, zorder=0)
        row_dot(axes, height, interval, **LOOKS[verdict])
    for height, row in zip(at, rows.itertuples(), strict=True):
        value, low, high = (f"{end + 0.0:+.3g}" for end in (row.difference, row.low, row.high))  # no -0
        said = f"{row.label}  {value} [{low}, {high}]".lstrip()
        axes.annotate(said, (1, height), (4, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                      va="center", fontsize=SMALL, color=MUTED)  # fmt: skip
    claimed, right = rows.claimed.iloc[0], axes.get_xlim()[1]
    if claimed > right:
        axes.annotate(f"claimed {claimed:+.3g}", (right, at[0]), (0.85 * right, at[0]), va="center", ha="right",
                      fontsize=SMALL, arrowprops=dict(arrowstyle="->", color=INK, linewidth=0.8))  # fmt: skip
    elif claimed:
        axes.plot([claimed] * 2, [at[0] - 0.35, at[-1] + 0.35], color=INK, linewidth=1.2)
        axes.annotate(f"claimed {claimed:+.3g}", (claimed, at[0]), (3, 0), textcoords="offset points", va="center",
                      fontsize=SMALL)  # fmt: skip


def _name(axes: Axes, headings: dict, places: dict, sources: Mapping[str, str], height: float) -> None:
    """Sources in bold, and claims in the middle of their parts."""
    names = {at: f"{source}: {sources[source]}" for source, at in headings.items()}
    names |= {float(at.mean()): claim for (_, claim), at in places.items()}
    axes.set_yticks(list(names), names.values())
    for at, tick in zip(names, axes.get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if at in headings.values() else "normal")
    axes.set_ylim(height - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _add_key(figure: Figure) -> None:
    handles = [
        Line2D([], [], linestyle="", color=look["color"], marker=look["marker"], markersize=4,
               markerfacecolor=look["color"] if look["filled"] else "white", label=verdict)
        for verdict, look in LOOKS.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=len(LOOKS), frameon=False, fontsize=SMALL)
