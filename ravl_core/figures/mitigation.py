"""What repairs bring: against standard fine-tuning, against what they cost, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ravl_core.checks import choice
from ravl_core.figures.discovery import NOTE, name_rows, row_dot, row_panels, size_range
from ravl_core.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    MUTED,
    NORMAL,
    SMALL,
    TEXT,
    VERMILLION,
    require_columns,
    spread,
    styled,
)

if TYPE_CHECKING:
    import pandas

DIFFERENCE = ["difference", "difference_low", "difference_high"]
METRICS = MappingProxyType(
    {
        "image_overall": "images\noverall",
        "image_worst_group": "images\nworst group",
        "region_overall": "core regions\noverall",
        "region_worst_group": "core regions\nworst group",
    }
)
SECTIONS = ("the paper's methods", "ours and variants", "with the true regions")
LOOKS = {  # told apart by marker and filling, too
    SECTIONS[0]: dict(color=BLUE, marker="o", filled=True),
    SECTIONS[1]: dict(color=VERMILLION, marker="s", filled=True),
    SECTIONS[2]: dict(color=GREEN, marker="D", filled=False),
}
SHADE = "#F1F1EF"  # behind the last section
CHANGE = "change in points, method − standard fine-tuning"
LINE, LETTER = 0.145, 0.054  # inches from one label to the next, and from one letter of it to the next


@styled
def forest(table: pandas.DataFrame, metrics: Mapping[str, str] = METRICS, x_label: str = CHANGE) -> Figure:
    """Mean paired difference of each method with its interval: a panel a figure of table 3, a row a method.

    Panels have scales of their own, and a line at zero. Sections are set apart by their headings; that with
    the true regions, which a user does not have, is shaded. RaVL's own row has a bold name.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method and metric, see `ravl_core.mitigation_summaries.changes_of_methods`: method, section, metric,
        n, difference, difference_low, difference_high (points; NaN: no settings).
    metrics : mapping of str to str
        Which metrics, and what they are called.
    x_label : str
        What the difference is.

    Raises
    ------
    ValueError
        The table lacks a column or has no row, or has another section than `SECTIONS`.
    """
    looks = _looks(table)
    figure, panels = row_panels(len(metrics), table.method.nunique() + len(looks), margin=0.95)
    names = {}  # row -> name
    for name in looks:
        names |= dict(enumerate([name, *table[table.section == name].method.unique()], len(names)))
    for axes, (metric, label) in zip(panels, metrics.items(), strict=True):
        rows = table[table.metric == metric].set_index("method")
        axes.set_title(f"{label}\nn = {size_range(rows.n.tolist())}", fontsize=NORMAL)
        _draw_rows(axes, rows, names, looks)
    name_rows(panels[0], list(names.values()), [name in looks or name == "RaVL" for name in names.values()])
    figure.supxlabel(x_label, fontsize=NORMAL)
    return figure


def _looks(table: pandas.DataFrame) -> dict[str, dict]:
    """Marker and colour of each section that the table has, in the order of `SECTIONS`."""
    require_columns(table, ["method", "section", "metric", "n", *DIFFERENCE])
    present = {choice("section", name, SECTIONS) for name in table.section}
    return {name: look for name, look in LOOKS.items() if name in present}


def _draw_rows(axes: Axes, rows: pandas.DataFrame, names: Mapping[int, str], looks: Mapping[str, dict]) -> None:
    axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)
    for at, name in names.items():
        if name in looks:
            if at:
                axes.axhline(at - 0.5, color=MUTED, linewidth=0.6, zorder=1)
            if name == SECTIONS[-1]:
                axes.axhspan(at - 0.5, len(names) - 0.4, color=SHADE, linewidth=0, zorder=0)
        elif name not in rows.index or np.isnan(rows.difference[name]):
            axes.text(0.5, at, "no settings", transform=axes.get_yaxis_transform(), **NOTE)
        else:
            axes.axhline(at, color=FAINT, linewidth=0.4, zorder=0.5)
            row_dot(axes, at, rows.loc[name, DIFFERENCE].tolist(), **looks[rows.section[name]])
    axes.locator_params(axis="x", nbins=4)


@styled
def gain_against_cost(
    table: pandas.DataFrame,
    gain: str = "image_worst_group",
    cost: str = "aligned_accuracy",
    labels: tuple[str, str] = ("accuracy where the correlation holds", "worst group of images"),
) -> Figure:
    """What each method gains in the worst group, over what it changes where the correlation holds: a cross a method.

    The arms are the intervals of the two paired differences. Up is better; left of zero is what the gain costs. Names
    stand on the right in the order of height, each with a line to its cross.

    Parameters
    ----------
    table : pandas.DataFrame
        As `forest` takes it, with both metrics. Methods that lack one of them are left out.
    gain, cost : str
        The metrics on the vertical and on the horizontal axis.
    labels : pair of str
        What the metrics on the horizontal and on the vertical axis are called.
    """
    looks = _looks(table)
    x, y = (table[table.metric == name].set_index("method").dropna(subset=DIFFERENCE) for name in (cost, gain))
    y = y[y.index.isin(x.index)]
    require_columns(y, ())  # without a method there is nothing to draw
    height, names_width = max(3.0, 0.8 + LINE * len(y)), 0.3 + LETTER * max(len(name) for name in y.index)
    figure, axes = plt.subplots(figsize=(TEXT, height), layout="none")
    figure.subplots_adjust(left=0.08, right=1 - names_width / TEXT, bottom=0.45 / height, top=1 - 0.3 / height)
    for line in (axes.axhline, axes.axvline):
        line(0, color=MUTED, linewidth=0.7, zorder=0)
    for name, row in y.iterrows():
        _draw_cross(axes, x.loc[name, DIFFERENCE].tolist(), row[DIFFERENCE].tolist(), **looks[row.section])
    count = size_range([*x.n[y.index], *y.n])
    axes.set(xlabel=f"{labels[0]}, change in points; n = {count}", ylabel=f"{labels[1]}, change in points")
    places = {name: (x.difference[name], y.difference[name]) for name in y.index}
    _name_crosses(axes, places, [looks[name]["color"] for name in y.section])
    handles = [
        Line2D([], [], linestyle="", color=look["color"], marker=look["marker"],
               markerfacecolor=look["color"] if look["filled"] else "white", label=name)
        for name, look in looks.items()
    ]  # fmt: skip
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.07, 1), ncols=3, frameon=False, fontsize=SMALL)
    return figure


def _draw_cross(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, marker: str, filled: bool) -> None:
    """Two values, each with the ends of its interval."""
    errors = [[[max(value - low, 0)], [max(high - value, 0)]] for value, low, high in (x, y)]
    axes.errorbar(
        x[0], y[0], xerr=errors[0], yerr=errors[1], fmt=marker, color=color, markersize=4.5,
        markerfacecolor=color if filled else "white", elinewidth=0.8, zorder=3,
    )  # fmt: skip


def _name_crosses(axes: Axes, places: Mapping[str, tuple[float, float]], colors: Sequence[str]) -> None:
    """Names right of the axes, apart from each other, with lines to their places."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    gap = LINE * (high - low) / (axes.get_position().height * axes.figure.get_figheight())
    heights = spread([y for _, y in places.values()], gap)
    below = heights.argsort().argsort()  # how many names stand below each, for which there has to be room
    heights = heights.clip(low + gap * (below + 0.5), high - gap * (len(places) - below - 0.5))
    side = right + 0.02 * (right - left)
    for (name, (x, y)), at, color in zip(places.items(), heights, colors, strict=True):
        axes.plot([x, side], [y, at], color=FAINT, linewidth=0.6, clip_on=False, zorder=1)
        axes.annotate(name, (side, at), (2, 0), textcoords="offset points", va="center", fontsize=SMALL, color=color,
                      annotation_clip=False)  # fmt: skip
    axes.set(xlim=(left, right), ylim=(low, high))


@styled
def gain_by_condition(
    table: pandas.DataFrame, metric: str = "image_worst_group", x_label: str = "strength V of the planted correlation"
) -> Figure:
    """Mean paired difference under each condition with its interval: a panel a method, on one scale.

    Conditions stand at equal distances, over the number of settings of each.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method, condition and metric, see `ravl_core.mitigation_summaries.by_condition`: method, condition,
        metric, n, difference, difference_low, difference_high (points). The order of panels and of conditions is the
        table's; a condition that a method lacks has no place in its panel.
    metric : str
        Which metric.
    x_label : str
        What the conditions are.

    Raises
    ------
    ValueError
        The table lacks a column, or has no row of the metric.
    """
    require_columns(table, ["method", "condition", "metric", "n", *DIFFERENCE])
    table = table[table.metric == metric]
    require_columns(table, ())
    methods = list(table.method.unique())
    rows = -(-len(methods) // 3)
    columns = -(-len(methods) // rows)
    figure, panels = plt.subplots(rows, columns, figsize=(TEXT, 0.6 + 1.6 * rows), sharey=True, squeeze=False)
    for axes, method in zip(panels.flat, methods, strict=False):
        _draw_conditions(axes, table[table.method == method])
        axes.set_title(method, fontsize=NORMAL)
    for axes in panels.flat[len(methods) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{x_label}; n settings", fontsize=NORMAL)
    figure.supylabel("change in points", fontsize=NORMAL)
    return figure


def _draw_conditions(axes: Axes, rows: pandas.DataFrame) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8, zorder=0)
    value, low, high = rows[DIFFERENCE].to_numpy(float).T
    error = np.stack([value - low, high - value]).clip(min=0)
    axes.errorbar(np.arange(len(rows)), value, yerr=error, fmt="o-", color=BLUE, elinewidth=1.2)
    names = [name.replace(", ", "\n") if isinstance(name, str) else f"{name:g}" for name in rows.condition]
    labels = [f"{name}\n{count}" for name, count in zip(names, rows.n, strict=True)]
    labels[0] = "\nn = ".join(labels[0].rsplit("\n", 1))
    axes.set_xticks(range(len(rows)), labels)
    axes.set_xlim(-0.5, len(rows) - 0.5)
