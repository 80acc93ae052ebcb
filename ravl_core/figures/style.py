"""One style for all figures: sizes, colours that the colour-blind and a grey printer tell apart, and how to save."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ravl_core.atomic import write_atomically

if TYPE_CHECKING:
    import pandas

COLUMN, TEXT = 3.3, 6.9  # widths in inches: one column, the whole page
DPI = 200

# Okabe and Ito's palette. Blue stands for what a label names, vermillion for what a model leans on instead.
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#000000"
CORE, SPURIOUS = BLUE, VERMILLION
INK, MUTED, FAINT = "#222222", "#6A6A6A", "#C9C9C9"

SMALL, NORMAL, LARGE = 7, 8, 9  # type sizes in points

STYLE = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 144,  # of the pictures inside notebooks
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes everywhere
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlesize": NORMAL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,  # text stays text
}


class Series(NamedTuple):
    """How one series looks: told apart by colour, by marker and by line."""

    color: str
    marker: str
    line: str | tuple
    hatch: str


SERIES = (
    Series(BLUE, "o", "-", ""),
    Series(VERMILLION, "s", "--", "////"),
    Series(GREEN, "^", "-.", "...."),
    Series(PURPLE, "D", ":", "\\\\\\\\"),
    Series(ORANGE, "v", (0, (5, 1, 1, 1, 1, 1)), "xxxx"),
    Series(BLACK, "P", (0, (1, 1)), "----"),
)

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Draw in the style, and take the figure from pyplot's list, so that a notebook shows it once, as a value."""

    @wraps(draw)
    def draw_styled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        plt.close(figure)
        return figure

    return draw_styled


def save(figure: Figure, folder: Path | str, name: str) -> tuple[Path, Path]:
    """Write `folder/name.png` (200 dpi) and `folder/name.pdf`, each whole or not at all; returns the two paths.

    The files hold no dates and no versions: the same figure gives the same bytes. Raises ValueError for a name that
    would lead to another folder, OSError where a file cannot be written.
    """
    if name != Path(name).name or not name.strip(".") or set(name) & set("\\\0"):
        raise ValueError(f"name: expected that of a file in {folder}, got {name!r}")
    metadata = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
    paths = []
    for kind, entries in metadata.items():
        content = io.BytesIO()
        with plt.rc_context(STYLE):
            figure.savefig(content, format=kind, dpi=DPI, metadata=entries)
        paths.append(write_atomically(Path(folder) / f"{name}.{kind}", content.getvalue()))
    return paths[0], paths[1]


def series_of(names: Sequence) -> dict:
    """A look for each name, in their order; raises ValueError where there are more names than looks."""
    if len(names) > len(SERIES):
        raise ValueError(f"hue: at most {len(SERIES)} series can be told apart, got {len(names)}: {list(names)}")
    return dict(zip(names, SERIES, strict=False))


def require_columns(table: pandas.DataFrame, columns: Iterable[str]) -> None:
    """Raises ValueError if the table lacks one of the columns, or has no row."""
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"table: expected columns {missing}, got {list(table.columns)}")
    if len(table) == 0:
        raise ValueError("table: expected at least one row, got none")


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """The positions, moved apart as little as is needed for neighbours to be `gap` apart, in the same order."""
    order = np.argsort(positions, kind="stable")
    placed = np.asarray(positions, dtype=float)[order]
    for _ in range(100 * len(placed)):
        overlap = gap - np.diff(placed)
        if (overlap <= 1e-9).all():
            break
        at = int(overlap.argmax())
        placed[at], placed[at + 1] = placed[at] - overlap[at] / 2, placed[at + 1] + overlap[at] / 2
    apart = np.empty_like(placed)
    apart[order] = placed
    return apart


def label_line_ends(axes: Axes, x: float, ends: dict[str, float], looks: dict[str, Series]) -> None:
    """Name each line at its right end, moved apart where lines end close to one another."""
    low, high = axes.get_ylim()
    line_height = 1.25 * SMALL / 72 / (axes.figure.get_figheight() * 0.75) * (high - low)
    heights = spread(list(ends.values()), line_height)
    for name, y in zip(ends, heights, strict=True):
        axes.annotate(
            str(name), (x, y), (7, 0), textcoords="offset points", va="center",
            fontsize=SMALL, color=looks[name].color, annotation_clip=False,
        )  # fmt: skip


def bare(axes: Axes) -> Axes:
    """An axes without ticks and frame, for pictures."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes
