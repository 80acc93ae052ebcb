"""What depends on the strength of a planted correlation: how well it is learned, and how well it is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ravl_core.figures.style import COLUMN, MUTED, SMALL, Series, label_line_ends, require_columns, series_of, styled
from ravl_core.metrics import bootstrap_interval
from ravl_core.settings import THRESHOLDS

if TYPE_CHECKING:
    import pandas

DODGE = 0.07  # between the series at one strength, where strengths are 1 apart


@styled
def strength_curve(
    table: pandas.DataFrame,
    x: str = "strength",
    y: str = "precision_at_10",
    hue: str | None = None,
    groups: str | None = None,
    x_label: str = "strength of the planted correlation, Cramér's V",
    y_label: str | None = None,
    levels: Mapping[str, float] | None = None,
    y_limits: tuple[float, float] | None = None,
) -> Figure:
    """Mean over settings, with 95 % bootstrap intervals, at each strength; one line a series.

    The strengths that were tried stand at equal distances, so that 0.95 and 0.99 can be told apart.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting (and series). NaN are left out.
    x, y, hue : str
        Columns of the strength (0: independent, 1: one determines the other), of the value and of the series' name;
        without hue there is one line.
    groups : str, optional
        Column of what rows have in common (a seed, an initial model); the bootstrap draws whole groups.
    x_label, y_label : str
        Names of the axes; `y_label` is the column's name if not given.
    levels : mapping of str to float, optional
        Named horizontal lines for comparison.
    y_limits : pair of float, optional
        Ends of the vertical axis.
    """
    require_columns(table, [column for column in (x, y, hue, groups) if column])
    table = table.dropna(subset=[y])
    require_columns(table, ())  # of NaN alone there is nothing to draw
    strengths = np.sort(table[x].unique())
    names = [y] if hue is None else list(table[hue].unique())
    looks = series_of(names)
    figure, axes = plt.subplots(figsize=(COLUMN, 2.4))
    ends = {}
    for at, name in enumerate(names):
        rows = table if hue is None else table[table[hue] == name]
        shift = DODGE * (at - (len(names) - 1) / 2)
        ends[name] = _draw_means(axes, rows, (x, y, groups), strengths, looks[name], shift)
    for name, level in (levels or {}).items():
        _draw_level(axes, name, level)
    _finish(axes, table, x, hue, strengths)
    axes.set(xlabel=x_label, ylabel=y_label or y, ylim=y_limits)
    if hue is not None:
        label_line_ends(axes, len(strengths) - 1 + DODGE * len(names) / 2, ends, looks)
    return figure


def _draw_means(
    axes: Axes, rows: pandas.DataFrame, columns: tuple, strengths: np.ndarray, look: Series, shift: float
) -> float:
    """Draws one series and returns its height at the right end."""
    x, y, groups = columns
    places, intervals = [], []
    for place, strength in enumerate(strengths):
        here = rows[rows[x] == strength]
        if len(here):
            together = here[groups].to_numpy() if groups else None
            places.append(place + shift)
            intervals.append(bootstrap_interval(here[y].to_numpy(dtype=float), groups=together))
    mean, low, high = np.array(intervals).T
    axes.errorbar(
        places, mean, yerr=np.stack([mean - low, high - mean]).clip(min=0),
        color=look.color, marker=look.marker, linestyle=look.line, elinewidth=1, capsize=0,
    )  # fmt: skip
    return float(mean[-1])


def _draw_level(axes: Axes, name: str, level: float) -> None:
    axes.axhline(level, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
    axes.annotate(  # on the left: what is measured rises to the right
        name, (0, level), (2, 2), ha="left", xycoords=axes.get_yaxis_transform(), textcoords="offset points",
        fontsize=SMALL, color=MUTED,
    )  # fmt: skip


def _finish(axes: Axes, table: pandas.DataFrame, x: str, hue: str | None, strengths: np.ndarray) -> None:
    """Ticks that name each strength and how many settings of each series are behind it."""
    counts = table.groupby([x] if hue is None else [x, hue], observed=True).size().groupby(level=0).agg(["min", "max"])
    sizes = [f"{low}" if low == high else f"{low}–{high}" for low, high in counts.to_numpy()]
    labels = [f"{strength:g}\n{size}" for strength, size in zip(strengths, sizes, strict=True)]
    labels[0] = labels[0].replace("\n", "\nn = ", 1)
    axes.set_xticks(range(len(strengths)), labels)
    axes.set_xlim(-0.4, len(strengths) - 0.6)


@styled
def validity_counts(
    table: pandas.DataFrame, margin: str = "margin", hue: str | None = None, thresholds: Sequence[int] = THRESHOLDS
) -> Figure:
    """How many settings are valid at each T: the model learned the planted correlation by at least T points.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting.
    margin : str
        Column of the learned margin in points (NaN: never valid).
    hue : str, optional
        Column of what to count apart, for instance the domain.
    thresholds : sequence of int
        T_eval, in points.
    """
    require_columns(table, [column for column in (margin, hue) if column])
    parts = {"": table} if hue is None else {name: table[table[hue] == name] for name in table[hue].unique()}
    looks = series_of(list(parts))
    figure, axes = plt.subplots(figsize=(COLUMN, 0.6 + len(thresholds) * (0.12 + 0.2 * len(parts))))
    thickness = 0.8 / len(parts)
    for at, (name, part) in enumerate(parts.items()):
        valid = np.array([(part[margin] >= threshold).sum() for threshold in thresholds])
        rows = np.arange(len(thresholds)) + thickness * (at - (len(parts) - 1) / 2)
        look = looks[name]
        axes.barh(rows, valid, 0.9 * thickness, color=look.color, hatch=look.hatch, edgecolor="white", linewidth=0)
        for row, n_valid in zip(rows, valid, strict=True):
            _label_bar(axes, row, n_valid, len(part), name)
    axes.set(yticks=range(len(thresholds)), yticklabels=[f"T = {threshold}" for threshold in thresholds])
    axes.set(xlabel="valid settings", xlim=(0, None))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    return figure


def _label_bar(axes: Axes, row: float, n_valid: int, n_settings: int, name: str) -> None:
    share = f"{n_valid} of {n_settings} ({n_valid / n_settings:.0%})" if n_settings else "0 of 0"
    axes.annotate(
        f"{name}: {share}" if name else share, (n_valid, row), (3, 0), textcoords="offset points",
        va="center", fontsize=SMALL, annotation_clip=False,
    )  # fmt: skip
