"""How well methods find what was planted: at each strength, over all settings, and from few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ravl_core.figures import style
from ravl_core.figures.accuracy import ROW
from ravl_core.figures.style import BLUE, COLUMN, FAINT, INK, MUTED, NORMAL, SMALL, TEXT, require_columns, styled
from ravl_core.metrics import Interval, bootstrap_interval, wilson_interval

if TYPE_CHECKING:
    import pandas

DODGE, SPREAD = 0.1, 0.6  # between two lines, and most of all lines, at one place, where places are 1 apart
AHEAD = style.SERIES[:3]  # how methods look that stand out
TINTS = ("#3E7A68", "#8E6A86", "#8C7434", "#4A4A4A", "#5F86A3", "#969696")  # greyish, of the others
MARKERS = "vDx<+*"
WHITE = dict(facecolor="white", edgecolor="none", pad=1)  # under text that stands on lines
NOTE = dict(fontsize=SMALL, color=MUTED, ha="center", va="center", bbox=WHITE)
DASHES = ((0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1.5)), (0, (4, 1, 1, 1, 1, 1)), (0, (9, 2)))


@dataclass(frozen=True)
class _Lines:
    """What every panel draws: one line a name, and at each place the interval of the rows that have it."""

    x: str  # column of the places
    symbol: str  # of what it holds
    hue: str  # column of the names
    looks: Mapping[Any, dict]  # of each name, in the words of `Axes.errorbar`
    interval: Callable[[pandas.DataFrame], Interval]


@styled
def precision_panels(
    table: pandas.DataFrame,
    methods: Sequence[str],
    columns: str = "domain",
    rows: str | None = "initial",
    y: str = "precision_at_10",
    y_label: str = "Precision@10",
    groups: str | None = "cluster",
    highlight: Sequence[str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Mean Precision@10 of each method at each strength, with 95 % bootstrap intervals: the paper's figure 2.

    The strengths stand at equal distances, over the number of settings at each. Lines break where there is none.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting and method: strength (0: independent, 1: one determines the other), method, and the columns
        named here. Rows whose `y` is NaN are left out.
    methods : sequence of str
        Which to draw, in this order.
    columns, rows : str
        Columns of the table that panels differ in, in the table's order. One row of panels without `rows`.
    y, y_label : str
        Column of what is averaged, 0 … 1, and its name.
    groups : str, optional
        Column of what settings have in common; the bootstrap draws whole groups.
    highlight : sequence of str, optional
        Methods that stand out; those whose names begin with RaVL, if not given.
    names : mapping of str to str, optional
        What panels and methods are called, where it is not as in the table.

    Raises
    ------
    ValueError
        The table lacks a column or a method, or has no row; more than 3 methods stand out, or there are more than 6
        others.
    """
    require_columns(table, ["strength", "method", y, columns, *(column for column in (rows, groups) if column)])
    missing = sorted(set(methods) - set(table["method"]))
    if missing:
        raise ValueError(f"methods: expected some of {sorted(table['method'].unique())}, got {missing}")

    def mean(settings: pandas.DataFrame) -> Interval:
        together = settings[groups].to_numpy(str) if groups else None
        return bootstrap_interval(settings[y].to_numpy(float), groups=together)

    lines = _Lines("strength", "V", "method", method_looks(methods, highlight), mean)
    table = table[table["method"].isin(methods)]
    figure = _draw_grid(table, table[y].notna(), (columns, rows), lines, names or {}, y_label)
    figure.supxlabel("strength V of the planted correlation; n settings", fontsize=NORMAL)
    return figure


def method_looks(methods: Sequence[str], highlight: Sequence[str] | None = None) -> dict[str, dict]:
    """How each method is drawn: wide and in colour what stands out; thin, open and grey the others.

    Raises ValueError where more than 3 methods stand out, or there are more than 6 others.
    """
    ahead = standing_out(methods, highlight)
    behind = [name for name in methods if name not in ahead]
    if len(ahead) > len(AHEAD) or len(behind) > len(MARKERS):
        most = f"at most {len(AHEAD)} that stand out and {len(MARKERS)} others"
        raise ValueError(f"methods: {most} can be told apart, got {len(ahead)} and {len(behind)}")
    looks = {name: _words(look, 1.8) for name, look in zip(ahead, AHEAD, strict=False)}
    for at, name in enumerate(behind):
        look = _words(style.Series(TINTS[at], MARKERS[at], DASHES[at], ""), 0.9)
        looks[name] = look | {"markerfacecolor": "white", "markersize": 3.5, "zorder": 2}
    return {name: looks[name] for name in methods}


def standing_out(methods: Sequence[str], highlight: Sequence[str] | None = None) -> list[str]:
    """The methods to highlight, in order: those named, or without names those that begin with RaVL."""
    return [name for name in methods if (name.startswith("RaVL") if highlight is None else name in highlight)]


def _words(look: style.Series, width: float) -> dict:
    line = dict(color=look.color, marker=look.marker, linestyle=look.line, linewidth=width)
    return line | dict(markersize=4, elinewidth=0.7 * width, zorder=3)


@styled
def power_curves(
    table: pandas.DataFrame, panels: str | None = "domain", hue: str = "series", names: Mapping[str, str] | None = None
) -> Figure:
    """Share of settings in which the feature is found from so many val images, with 95 % Wilson intervals.

    The numbers of images stand at equal distances, over the number of settings at each.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting, number of images and line: n_images, found (0 or 1), and the columns named here.
    panels : str, optional
        Column that panels differ in, in the table's order; one panel without it.
    hue : str
        Column of what lines differ in, at most 6 values, for instance the strength or the recipe.
    names : mapping of str to str, optional
        What panels and lines are called, where it is not as in the table.
    """
    require_columns(table, ["n_images", "found", hue, *([panels] if panels else [])])
    looks = {name: _words(look, 1.4) for name, look in style.series_of(list(table[hue].unique())).items()}
    lines = _Lines("n_images", "N", hue, looks, lambda settings: share_with_interval(settings["found"]))
    figure = _draw_grid(table, table["found"].notna(), (panels, None), lines, names or {}, "share found")
    figure.supxlabel("N val images; n settings", fontsize=NORMAL)
    return figure


def share_with_interval(truths: Sequence[bool]) -> Interval:
    """Share of what is true, 0 … 1, with its 95 % Wilson interval; NaN of nothing."""
    truths = np.asarray(truths, dtype=float)
    share = truths.mean() if len(truths) else np.nan
    return Interval(float(share), *map(float, wilson_interval(share, len(truths))))


def _draw_grid(
    table: pandas.DataFrame, known: pandas.Series, by: tuple, lines: _Lines, names: Mapping, y_label: str
) -> Figure:
    """A panel for each value of the two columns `by`, with the rows that are known; names of the lines on top."""
    across, down = ([None] if column is None else list(table[column].unique()) for column in by)
    size = COLUMN if len(across) == 1 else TEXT, 0.95 + 1.7 * len(down)
    figure, grid = plt.subplots(len(down), len(across), figsize=size, sharey=True, squeeze=False)
    places = np.sort(table[lines.x].unique())
    for axes, (row, column) in zip(grid.flat, ((row, column) for row in down for column in across), strict=True):
        here = known
        for name, value in zip(by, (column, row), strict=True):
            here = here & (table[name] == value) if name else here
        _draw_panel(axes, table[here], places, lines)
        if axes in grid[0] and column is not None:
            axes.set_title(names.get(column, column))
        if axes in grid[:, 0]:
            axes.set_ylabel(y_label if row is None else f"{names.get(row, row)}\n{y_label}")
            _head_ticks(axes, lines.symbol)
    grid[0, 0].set(ylim=(-0.03, 1.03), yticks=(0, 0.5, 1))
    _add_key(figure, {names.get(name, name): look for name, look in lines.looks.items()})
    return figure


def _draw_panel(axes: Axes, table: pandas.DataFrame, places: np.ndarray, lines: _Lines) -> None:
    rows = {key: part for key, part in table.groupby([lines.hue, lines.x], observed=True)}
    n_lines = len(lines.looks)
    shifts = min(DODGE, SPREAD / n_lines) * (np.arange(n_lines) - (n_lines - 1) / 2)
    nothing = Interval(np.nan, np.nan, np.nan)
    for shift, (name, look) in zip(shifts, lines.looks.items(), strict=True):
        found = [lines.interval(rows[name, place]) if (name, place) in rows else nothing for place in places]
        mean, low, high = np.array(found).T
        error = np.stack([mean - low, high - mean]).clip(min=0)
        axes.errorbar(np.arange(len(places)) + shift, mean, yerr=error, **look)
    sizes = [[len(part) for (_, at), part in rows.items() if at == place] for place in places]
    labels = [f"{place:g}\n{size_range(size)}" for place, size in zip(places, sizes, strict=True)]
    axes.set_xticks(range(len(places)), labels)
    axes.set_xlim(-0.5, len(places) - 0.5)
    if table.empty:
        axes.text(0.5, 0.5, "no settings", transform=axes.transAxes, **NOTE)


def size_range(sizes: Sequence[int]) -> str:
    """The number of settings, or the smallest and the largest number of them; 0 of nothing."""
    low, high = min(sizes, default=0), max(sizes, default=0)
    return f"{low}" if low == high else f"{low}–{high}"


def _head_ticks(axes: Axes, symbol: str) -> None:
    """What the two lines under the axis hold, to the left of them."""
    axes.annotate(
        f"{symbol}\nn", (0, 0), (-5, -6), xycoords="axes fraction", textcoords="offset points",
        ha="right", va="top", fontsize=SMALL, color=MUTED, style="italic",
    )  # fmt: skip


def _add_key(figure: Figure, looks: Mapping[Any, dict]) -> None:
    """The names of the lines above all panels, in as many columns as find place."""
    handles = []
    for look in looks.values():
        shown = {word: value for word, value in look.items() if word != "elinewidth"}
        handles.append(Line2D([], [], **shown))
    names = [str(name) for name in looks]
    figure.legend(
        handles, names, loc="outside upper center", ncols=_columns_that_fit(names, figure.get_figwidth()),
        frameon=False, fontsize=SMALL, handlelength=3, columnspacing=1.2,
    )  # fmt: skip


def _columns_that_fit(names: Sequence[str], width: float) -> int:
    """The most columns of a key that find place in so many inches; a key is filled column by column."""
    widths = [0.5 + 0.052 * len(name) for name in names]  # a sample of the line, and letters of 7 points
    fits = [n for n in range(1, len(names) + 1) if sum(part.max() for part in np.array_split(widths, n)) < width]
    return max(fits, default=1)


@styled
def method_bars(
    table: pandas.DataFrame,
    group: str | None = None,
    highlight: Sequence[str] | None = None,
    difference: str | None = None,
    x_label: str = "Precision@10",
    difference_label: str | None = None,
) -> Figure:
    """Mean of each method with its interval, a row a method in the table's order: the paper's table 1 as a picture.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a method (and group): method, mean, low, high (0 … 1; NaN: no settings) and n, the settings behind it.
    group : str, optional
        Column that panels differ in, for instance the kind of domain.
    highlight : sequence of str, optional
        Methods that stand out; those whose names begin with RaVL, if not given.
    difference : str, optional
        Column of the paired difference, -1 … 1, whose ends are in the columns named `<difference>_low` and `_high`; a
        second panel shows it. A method without a difference from itself (0, from 0 to 0) is left out there.
    x_label, difference_label : str, optional
        Names of the axes; without the second, the first method less the row's.
    """
    ends = tuple(f"{difference}{end}" for end in ("", "_low", "_high")) if difference else ()
    require_columns(table, ["method", "mean", "low", "high", "n", *([group] if group else []), *ends])
    if table.duplicated(["method", *([group] if group else [])]).any():
        raise ValueError("table: expected one row a method and group, got several")
    methods, values = list(table["method"].unique()), [None] if group is None else list(table[group].unique())
    kinds = {x_label: ("mean", "low", "high")}
    if difference:
        kinds[difference_label or f"{methods[0]} − method"] = ends
    figure, panels = row_panels(len(values) * len(kinds), len(methods))
    ahead = standing_out(methods, highlight)
    for axes, (value, (label, columns)) in zip(panels, product(values, kinds.items()), strict=True):
        rows = table if value is None else table[table[group] == value]
        _draw_methods(axes, rows.set_index("method").reindex(methods), list(columns), ahead)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=4)
        if columns != ends:
            axes.set(xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
            count = f"n = {size_range(rows['n'].dropna().astype(int).tolist())}"
            axes.set_title(count if value is None else f"{value}, {count}", fontsize=NORMAL, loc="left")
    name_rows(panels[0], methods, [name in ahead for name in methods])
    return figure


def _draw_methods(axes: Axes, rows: pandas.DataFrame, columns: list[str], ahead: Sequence[str]) -> None:
    """Dots of the three columns: mean or difference, and the ends of its interval."""
    axes.axvline(0, color=MUTED, linewidth=0.7, zorder=0)
    for row, (name, interval) in enumerate(zip(rows.index, rows[columns].to_numpy(float), strict=True)):
        axes.axhline(row, color=FAINT, linewidth=0.4, zorder=0)
        if np.isnan(interval[0]):
            axes.text(0.5, row, "no settings", transform=axes.get_yaxis_transform(), **NOTE)
        elif interval.any() or columns[0] == "mean":  # a method does not differ from itself
            row_dot(axes, row, interval, color=BLUE if name in ahead else MUTED, filled=name in ahead)


def row_panels(n_panels: int, n_rows: float, margin: float = 0.75) -> tuple[Figure, np.ndarray]:
    """Panels side by side that share their rows, a column wide where there is but one; `margin` in inches."""
    size = COLUMN if n_panels == 1 else TEXT, margin + ROW * n_rows
    figure, panels = plt.subplots(1, n_panels, figsize=size, sharey=True, squeeze=False)
    return figure, panels[0]


def row_dot(
    axes: Axes, row: float, interval: Sequence[float], color: str = INK, filled: bool = True, marker: str = "o"
) -> None:
    """A dot at the first of the three values, and a line from the second to the third."""
    value, low, high = interval
    axes.errorbar(
        value, row, xerr=[[max(value - low, 0)], [max(high - value, 0)]], fmt=marker, color=color, markersize=4,
        markerfacecolor=color if filled else "white", markeredgewidth=1, elinewidth=1.6 if filled else 0.9, zorder=3,
    )  # fmt: skip


def name_rows(axes: Axes, names: Sequence[str], bold: Sequence[bool] = ()) -> None:
    """Names on the left of rows that go down, some of them in bold."""
    axes.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)), yticklabels=names)
    for tick, heavy in zip(axes.get_yticklabels(), bold, strict=False):
        tick.set_fontweight("bold" if heavy else "normal")
    for panel in axes.figure.axes:
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
