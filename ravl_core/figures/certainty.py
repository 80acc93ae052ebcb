"""How sure findings are: against chance, under variations of the procedure, and where nothing was planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ravl_core.figures.discovery import NOTE, WHITE, name_rows, row_dot, row_panels, share_with_interval, size_range
from ravl_core.figures.style import BLUE, COLUMN, FAINT, INK, NORMAL, SMALL, SPURIOUS, TEXT, require_columns, styled

if TYPE_CHECKING:
    import pandas

OFFSET = 0.17  # of the two dots of a row from its middle
OVERLAP = dict(color=INK, marker="D", markersize=3.5, markerfacecolor="white", linestyle="")
BINS, BIN_NAMES = (0, 1, 2, 3, 6, 11, 21), ("0", "1", "2", "3–5", "6–10", "11–20", "over 20")  # numbers of findings
UNIT = dict(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))  # of an axis of shares


@styled
def null_histogram(
    null: np.ndarray,
    observed: np.ndarray,
    labels: Sequence[str] = (),
    x_label: str = "largest gap of any cluster",
    level: float = 0.95,
) -> Figure:
    """What chance gives as the largest statistic over all clusters, and where the clusters found stand.

    Parameters
    ----------
    null : float array (P,)
        The largest statistic in each permutation, for instance ``LargestStatistics.null_gap``.
    observed : float array (K,)
        The statistic of each cluster; NaN are left out.
    labels : sequence of str
        Names of the first of the observed clusters, at most K.
    x_label : str
        What the statistic is.
    level : float
        A line marks the value that so large a share of the permutations does not exceed, 0 … 1.

    Raises
    ------
    ValueError
        There is no permutation, or there are more labels than clusters.
    """
    null, observed = np.asarray(null, dtype=float), np.asarray(observed, dtype=float)
    if null.ndim != 1 or not len(null):
        raise ValueError(f"null: expected an array (P,), P ≥ 1, got shape {null.shape}")
    if len(labels) > len(observed):
        raise ValueError(f"labels: expected at most {len(observed)}, one a cluster, got {len(labels)}")
    labels = [name for name, value in zip(labels, observed, strict=False) if np.isfinite(value)]
    observed = observed[np.isfinite(observed)]
    figure, axes = plt.subplots(figsize=(COLUMN, 2.1 + 0.13 * len(labels)))
    highest = axes.hist(null, bins=30, color=FAINT)[0].max()
    limit = float(np.quantile(null, level, method="higher"))  # a value above it has p ≤ 1 - level
    axes.vlines(limit, 0, highest, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    axes.annotate(
        f"{level:.0%} line, {limit:.2g}", (limit, highest), (3, 0), textcoords="offset points",
        fontsize=SMALL, va="top",
    )  # fmt: skip
    _mark_clusters(axes, observed, labels, limit, highest)
    axes.set_xlabel(x_label)
    axes.set_ylabel(f"of {len(null):,} permutations", loc="bottom")
    return figure


def _mark_clusters(axes: Axes, observed: np.ndarray, labels: Sequence[str], limit: float, highest: float) -> None:
    """A row of marks above the histogram, filled beyond the limit, and the names of the first above it."""
    beyond = observed > limit
    base, step = 1.18 * highest, 0.15 * highest
    marks = dict(marker="v", s=18, linewidth=0.8, edgecolor=SPURIOUS, zorder=3)
    axes.scatter(observed[beyond], np.full(beyond.sum(), base), color=SPURIOUS, **marks)
    axes.scatter(observed[~beyond], np.full((~beyond).sum(), base), facecolor="white", **marks)
    axes.annotate(
        "clusters", (0, base), (-4, 0), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        fontsize=SMALL, color=SPURIOUS, ha="right", va="center",
    )  # fmt: skip
    middle = np.mean(axes.get_xlim())
    named = observed[: len(labels)]
    order = np.lexsort((np.abs(named - middle), named <= middle))  # names run inwards: those inside go below
    for level, at in enumerate(order, start=1):
        x, y, right = named[at], base + step * (level + 0.3), named[at] > middle
        axes.vlines(x, base, y, color=SPURIOUS, linewidth=0.6)
        axes.annotate(
            labels[at], (x, y), (-2 if right else 2, 0), textcoords="offset points", ha="right" if right else "left",
            va="center", fontsize=SMALL, bbox=WHITE,
        )  # fmt: skip
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= highest])
    axes.set_ylim(0, base + step * (len(labels) + 1))
    axes.spines["left"].set_bounds(0, highest)


@styled
def agreement(table: pandas.DataFrame, names: Mapping[str, str] | None = None) -> Figure:
    """Share of settings in which the first finding stays the same under each variation, and how far it does.

    A filled dot with its 95 % Wilson interval is the share of settings that agree with the base run, an open one the
    mean overlap of the images found. One panel a recipe; rows are grouped by the kind of variation.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting, variation and recipe: kind, variation and recipe (text, shown in the table's order), agrees
        (bool), overlap (0: no image in common, 1: all; NaN: not known).
    names : mapping of str to str, optional
        What recipes, kinds and variations are called, where it is not as in the table.
    """
    require_columns(table, ["kind", "variation", "recipe", "agrees", "overlap"])
    names = names or {}
    kinds = {kind: list(part["variation"].unique()) for kind, part in table.groupby("kind", sort=False)}
    rows = [(kind, variation) for kind, variations in kinds.items() for variation in (None, *variations)]
    recipes = list(table["recipe"].unique())
    figure, panels = row_panels(len(recipes), len(rows), margin=0.95)
    for axes, recipe in zip(panels, recipes, strict=True):
        own = table[table["recipe"] == recipe]
        parts = [own[(own["kind"] == kind) & (own["variation"] == variation)] for kind, variation in rows]
        _draw_agreements(axes, parts, [variation is not None for _, variation in rows])
        sizes = size_range([len(part) for part in parts if len(part)])
        axes.set_title(f"{names.get(recipe, recipe)}, n = {sizes}", fontsize=NORMAL)
    shown = [str(names.get(name, name)) for name in (what or kind for kind, what in rows)]
    name_rows(panels[0], shown, [what is None for _, what in rows])
    figure.supxlabel("share of settings, or of images", fontsize=NORMAL)
    _explain_dots(figure)
    return figure


def _draw_agreements(axes: Axes, parts: Sequence[pandas.DataFrame], asked: Sequence[bool]) -> None:
    """Two dots in every row but the headings."""
    for row, (part, real) in enumerate(zip(parts, asked, strict=True)):
        if not real:
            continue
        axes.hlines(row, 0, 1, color=FAINT, linewidth=0.4)
        if part.empty:
            axes.text(0.5, row, "no settings", **NOTE)
            continue
        row_dot(axes, row - OFFSET, share_with_interval(part["agrees"]), color=BLUE)
        axes.plot(part["overlap"].mean(), row + OFFSET, **OVERLAP)
    axes.set(**UNIT)


def _explain_dots(figure: Figure) -> None:
    agree = Line2D([], [], color=BLUE, marker="o", markersize=4, linewidth=1.6)
    overlap = Line2D([], [], **OVERLAP)
    words = "settings that agree, with 95 % interval", "mean overlap of the images"
    figure.legend([agree, overlap], words, loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)


@styled
def claims_per_model(table: pandas.DataFrame, names: Mapping[str, str] | None = None) -> Figure:
    """How many findings each recipe has in settings where nothing was planted, so that every one is false.

    On the left the share of settings with each number of findings, none in grey; on the right the share with at least
    one, with its 95 % Wilson interval.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting and recipe: recipe (in the table's order), n_findings (0, 1, …).
    names : mapping of str to str, optional
        What recipes are called, where it is not as in the table.
    """
    require_columns(table, ["recipe", "n_findings"])
    counts = {name: part["n_findings"].to_numpy(int) for name, part in table.groupby("recipe", sort=False)}
    size = TEXT, 0.75 + 0.55 * len(counts)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(2, 1))
    for row, findings in enumerate(counts.values()):
        _draw_counts(left, row, findings)
        row_dot(right, row, share_with_interval(findings > 0), color=SPURIOUS)
        text = f"{(findings > 0).sum()} of {len(findings)}"
        right.annotate(text, (1, row), (8, 0), textcoords="offset points", fontsize=SMALL, va="center")
    name_rows(left, [(names or {}).get(name, name) for name in counts])
    n_bins = max(4, *(np.searchsorted(BINS, findings.max(), side="right") for findings in counts.values()))
    left.set_xticks(range(n_bins), BIN_NAMES[:n_bins])
    left.set(xlabel="findings in a setting", xlim=(-0.6, n_bins - 0.4))
    right.set(xlabel="share of settings with a finding", **UNIT)
    return figure


def _draw_counts(axes: Axes, row: int, findings: np.ndarray) -> None:
    """Bars that stand on the row's line, as high as their share of the settings, and how many these are."""
    counts = np.bincount(np.searchsorted(BINS, findings, side="right") - 1)
    bottom, heights = row + 0.35, 0.62 * counts / len(findings)
    axes.axhline(bottom, color=FAINT, linewidth=0.6, zorder=0)
    axes.bar(range(len(counts)), -heights, 0.8, bottom=bottom, color=[FAINT, *[SPURIOUS] * (len(counts) - 1)])
    for at in np.flatnonzero(counts):
        axes.text(at, bottom - heights[at] - 0.03, str(counts[at]), fontsize=SMALL, ha="center", va="bottom")
