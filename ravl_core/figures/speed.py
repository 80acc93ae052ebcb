"""What things cost: time or memory over size on logarithmic axes, and rates side by side, each with its floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from ravl_core.figures.discovery import name_rows, row_panels
from ravl_core.figures.style import (
    BLUE,
    FAINT,
    MUTED,
    NORMAL,
    SMALL,
    TEXT,
    Series,
    require_columns,
    series_of,
    spread,
    styled,
)  # fmt: skip

if TYPE_CHECKING:
    import pandas

PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # behind words that lines may cross
FLOOR = Series(MUTED, "", (0, (1, 2)), "")  # nothing stands on a floor: no markers


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent of the growth of costs, by least squares on logarithms: 1 linear, 2 quadratic; NaN for one size."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


@styled
def cost_by_size(
    table: pandas.DataFrame,
    costs: dict[str, str],
    size: str = "regions",
    floors: Sequence[str] = (),
    limits: dict[str, float] | None = None,
) -> Figure:
    """Costs over size on logarithmic axes: a panel a cost, a line a method, its slope (see `slope`) beside its name.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method and size: method, the size, and the costs, all above 0; NaN where a cost was not measured.
    costs : dict of str
        Columns that are drawn, and what their axes are called.
    size : str
        Column of the size, which names the axis, too.
    floors : sequence of str
        Methods that nothing can be cheaper than: dotted and grey.
    limits : dict of float, optional
        For some of the costs what they may be at most: a thin line.

    Raises
    ------
    ValueError
        The table lacks a column or has no row, or there are too many methods to tell apart.
    """
    require_columns(table, ["method", size, *costs])
    methods = [name for name in table.method.unique() if name not in floors]
    looks = series_of(methods) | dict.fromkeys(floors, FLOOR)
    width = TEXT if len(costs) > 1 else TEXT
    figure, panels = plt.subplots(1, len(costs), figsize=(width, 2.5), squeeze=False)
    for axes, (cost, label) in zip(panels[0], costs.items(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel=size, ylabel=label)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        if limits and cost in limits:
            _draw_aim(axes, limits[cost])
        _draw_costs(axes, table.dropna(subset=[cost]), size, cost, looks)
    return figure


def _draw_aim(axes: Axes, limit: float) -> None:
    axes.axhline(limit, color=FAINT, linewidth=0.8, zorder=0)
    place = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate("aim", (0.01, limit), (0, -2), va="top", fontsize=SMALL, color=MUTED, **place)


def _draw_costs(axes: Axes, table: pandas.DataFrame, size: str, cost: str, looks: dict[str, Series]) -> None:
    ends = {}
    for method, look in looks.items():
        rows = table[table.method == method].sort_values(size)
        if rows.empty:
            continue
        axes.plot(rows[size], rows[cost], color=look.color, marker=look.marker, linestyle=look.line)
        growth = slope(rows[size].tolist(), rows[cost].tolist())
        name = method if np.isnan(growth) else f"{method}, slope {growth:.1f}"
        ends[name] = (rows[size].iloc[-1], rows[cost].iloc[-1], look.color)
    _label_ends(axes, ends)


def _label_ends(axes: Axes, ends: dict[str, tuple[float, float, str]]) -> None:
    """Names right of where the longest line ends, moved apart where they would touch; thin lines lead to them."""
    low, high = np.log10(axes.get_ylim())
    axes.set_ylim(10**low, 10**high)  # labels move nothing
    line_height = 1.3 * SMALL / 72 / (axes.figure.get_figheight() * 0.75) * (high - low)
    heights = spread([np.log10(y) for _, y, _ in ends.values()], line_height)
    last = max(x for x, _, _ in ends.values())
    for (name, (x, y, color)), height in zip(ends.items(), heights, strict=True):
        axes.plot([x, last], [y, 10**height], color=FAINT, linewidth=0.6, zorder=0, clip_on=False)
        axes.annotate(
            name, (last, 10**height), (7, 0), textcoords="offset points", va="center", fontsize=SMALL, color=color,
            annotation_clip=False,
        )  # fmt: skip


@styled
def rates(table: pandas.DataFrame, rate: str, floor: str | None = None, label: str | None = None) -> Figure:
    """Rates on a logarithmic axis, a row each in the table's order, with its value and, of the floor's rate, its share.

    Parameters
    ----------
    table : pandas.DataFrame
        Index: what was measured, each once. The rate's column: units of work a second, above 0.
    rate : str
        The column.
    floor : str, optional
        Name of the row whose rate bounds the others; a dotted line marks it.
    label : str, optional
        Name of the axis; the column's if not given.

    Raises
    ------
    ValueError
        The table lacks the column or the floor, or has no row.
    """
    require_columns(table, [rate])
    if floor is not None and floor not in table.index:
        raise ValueError(f"floor: expected one of {list(table.index)}, got {floor!r}")
    figure, (axes,) = row_panels(1, len(table))
    figure.set_figwidth(TEXT)
    axes.set(xscale="log", xlabel=label or rate)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # a decade alone may hold no tick
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")
    bound = None if floor is None else float(table[rate][floor])
    if bound is not None:
        axes.axvline(bound, color=MUTED, linewidth=0.9, linestyle=":", zorder=0)
    for at, (name, value) in enumerate(table[rate].items()):
        axes.axhline(at, color=FAINT, linewidth=0.4, zorder=0)
        is_floor = name == floor
        axes.plot(value, at, "o", color=MUTED if is_floor else BLUE, markerfacecolor="white" if is_floor else BLUE)
        share = "" if bound is None or is_floor else f" ({value / bound:.0%})"
        axes.annotate(
            f"{value:,.0f}{share}" if value >= 100 else f"{value:.3g}{share}", (value, at), (0, 4),
            textcoords="offset points", ha="center", fontsize=SMALL, color=MUTED, bbox=PAPER, zorder=1,
        )  # fmt: skip
    axes.margins(x=0.2)
    name_rows(axes, list(table.index))
    axes.xaxis.label.set_fontsize(NORMAL)
    return figure
