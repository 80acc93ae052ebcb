"""What language guidance brings: worst groups by method and by the number of images, and the groups behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ravl_core.figures.discovery import name_rows, row_dot, row_panels, size_range
from ravl_core.figures.style import BLUE, FAINT, MUTED, NORMAL, label_line_ends, require_columns, series_of, styled

if TYPE_CHECKING:
    import pandas

ENDS = ["mean", "low", "high"]


@styled
def accuracy_by_method(
    table: pandas.DataFrame,
    figures: Sequence[str] = ("worst group", "overall"),
    highlight: str = "language-guided",
    reference: str = "binary",
) -> Figure:
    """Mean accuracy of each method with its interval: a panel a figure, a row a method in the table's order.

    Methods whose names begin with the highlighted one are blue, and its own dot is filled; a line marks the reference.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method and figure, see `ravl_core.language.summaries.means`: method, figure, mean, low, high (per
        cent), seeds.
    figures : sequence of str
        Which, from left to right. The four groups make a wide figure.
    highlight, reference : str
        Methods; neither has to be there.

    Raises
    ------
    ValueError
        The table lacks a column, or has no row of one of the figures.
    """
    require_columns(table, ["method", "figure", *ENDS, "seeds"])
    methods = list(table.method.unique())
    figure, panels = row_panels(len(figures), len(methods))
    for axes, name in zip(panels, figures, strict=True):
        rows = table[table.figure == name].set_index("method")
        require_columns(rows, ())
        if reference in rows.index:
            axes.axvline(rows["mean"][reference], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        for at, method in enumerate(methods):
            axes.axhline(at, color=FAINT, linewidth=0.4, zorder=0)
            color = BLUE if method.startswith(highlight) else MUTED
            row_dot(axes, at, rows.loc[method, ENDS].tolist(), color=color, filled=method == highlight)
        axes.set_title(f"{name}\nn = {size_range(rows.seeds.tolist())} seeds", fontsize=NORMAL)
        axes.set(xlim=(-2, 102), xticks=(0, 50, 100))
    name_rows(panels[0], methods, [method == highlight for method in methods])
    figure.supxlabel("accuracy in per cent", fontsize=NORMAL)
    return figure


@styled
def accuracy_by_size(table: pandas.DataFrame, y_label: str = "worst group, accuracy in per cent") -> Figure:
    """Mean accuracy of each method with its interval over the number of fine-tuning images, a line a method.

    Sizes stand at equal distances, over the number of seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method and size, see `ravl_core.language.summaries.sweep_table`: method, n, mean, low, high (per
        cent), seeds. At most six methods.

    Raises
    ------
    ValueError
        The table lacks a column or has no row, or there are too many methods to tell apart.
    """
    require_columns(table, ["method", "n", *ENDS, "seeds"])
    looks = series_of(list(table.method.unique()))
    sizes = sorted(table.n.unique())
    figure, axes = plt.subplots(figsize=(4.6, 2.5))
    ends = _draw_lines(axes, table, sizes, looks)
    seeds = table.groupby("n").seeds.agg(lambda counts: size_range(counts.tolist()))
    axes.set_xticks(range(len(sizes)), [f"{n:,}\n{seeds[n]}" for n in sizes])
    axes.set(xlabel="fine-tuning images; seeds", ylabel=y_label, xlim=(-0.3, len(sizes) - 0.7), ylim=(0, 100))
    label_line_ends(axes, len(sizes) - 0.8, ends, looks)
    return figure


def _draw_lines(axes: plt.Axes, table: pandas.DataFrame, sizes: Sequence[int], looks: Mapping) -> dict[str, float]:
    """A line with intervals for each method, a little apart; returns the height at which each ends."""
    ends = {}
    for shift, (method, look) in zip(np.linspace(-0.12, 0.12, len(looks)), looks.items(), strict=True):
        rows = table[table.method == method].sort_values("n")
        value, low, high = rows[ENDS].to_numpy(float).T
        axes.errorbar(
            [sizes.index(n) + shift for n in rows.n], value, yerr=np.stack([value - low, high - value]).clip(min=0),
            color=look.color, marker=look.marker, linestyle=look.line, elinewidth=0.9,
        )  # fmt: skip
        ends[method] = value[-1]
    return ends
