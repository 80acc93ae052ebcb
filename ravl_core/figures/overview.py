"""The two stages of RaVL in one drawing. A sketch: its dots and bars show no measured values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from ravl_core.figures.style import CORE, FAINT, INK, LARGE, MUTED, NORMAL, SMALL, SPURIOUS, TEXT, bare, styled

HEIGHT = 2.72  # inches; the drawing's unit is the inch
STAGE_1, STAGE_2 = (0.04, 4.94), (5.06, 6.86)  # left and right sides
STAGE_2_MIDDLE = sum(STAGE_2) / 2
HEADING, MIDDLE = 1.96, 1.06
CENTRES = ((2.21, 1.44), (2.75, 1.46), (2.19, 0.68), (2.74, 0.76))  # of the clusters, the spurious one last
PANEL = "#F4F4F2"
GLYPH_NAMES = ("circle", "cross", "triangle", "square")


class Example(NamedTuple):
    """An image in quadrants, the one with its object (core) and the one with the other feature (spurious)."""

    image: np.ndarray  # (H, W, 3)
    name: str
    core: int  # 0 … 3, row by row
    spurious: int

    def quadrant(self, which: int) -> np.ndarray:
        """Its pixels, (H/2, W/2, 3)."""
        height, width = (size // 2 for size in self.image.shape[:2])
        row, column = divmod(which, 2)
        return self.image[row * height : (row + 1) * height, column * width : (column + 1) * width]


@styled
def overview(examples: np.ndarray | None = None, names: Sequence[str] | None = None, attribute: str = "") -> Figure:
    """The two stages of RaVL: discover a spurious feature, then fine-tune again without leaning on it.

    Parameters
    ----------
    examples : uint8 array (n, H, W, 3), optional
        Images of quadrants that hold the feature, n ≥ 1. The most colourful quadrant is drawn as the spurious
        feature, of the others the one with most contrast as the object. Without examples, glyphs are drawn.
    names : sequence of str, optional
        Class of each example; up to eight letters find room.
    attribute : str, optional
        The class that the feature is tied to; the name of the last example if not given.
    """
    shown = _glyphs() if examples is None else _read(examples, names)
    attribute = attribute or shown[-1].name
    figure, axes = plt.subplots(figsize=(TEXT, HEIGHT), layout="none")
    axes.set_position((0, 0, 1, 1))
    bare(axes).set(xlim=(0, TEXT), ylim=(0, HEIGHT), aspect="equal")
    _panel(axes, STAGE_1, "Stage 1: discover", "which feature do the zero-shot predictions lean on?")
    _panel(axes, STAGE_2, "Stage 2: mitigate", "a loss on regions and class texts")
    _draw_regions(axes, shown)
    _draw_clusters(axes, shown)
    _draw_scores(axes, shown, attribute)
    _draw_ranking(axes, shown)
    _arrow(axes, (STAGE_1[1] - 0.05, MIDDLE), (STAGE_2[0] + 0.05, MIDDLE), INK, width=1.8)
    _draw_pull_and_push(axes, shown, attribute)
    return figure


def _panel(axes: Axes, sides: tuple[float, float], title: str, question: str) -> None:
    left, right = sides
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.06, 0.10), right - left - 0.12, HEIGHT - 0.20, boxstyle="round,pad=0.06",
            facecolor=PANEL, edgecolor="none",
        )
    )  # fmt: skip
    axes.text(left + 0.14, HEIGHT - 0.23, title, fontsize=LARGE, fontweight="bold", va="center")
    axes.text(left + 0.14, HEIGHT - 0.43, question, fontsize=SMALL, color=MUTED, va="center")


def _step(axes: Axes, x: float, number: int, text: str) -> None:
    """A numbered heading of two lines."""
    axes.add_patch(Circle((x + 0.07, HEADING), 0.07, color=INK, linewidth=0))
    number_style = dict(fontsize=SMALL, color="white", fontweight="bold", ha="center", va="center_baseline")
    axes.text(x + 0.07, HEADING, str(number), **number_style)
    axes.text(x + 0.20, HEADING - 0.095, text, fontsize=SMALL, va="baseline", linespacing=1.25)


def _draw_regions(axes: Axes, shown: Sequence[Example]) -> None:
    """Labelled images, split into regions, on their way into the model."""
    _step(axes, 0.18, 1, "labelled images,\nin regions")
    side = 0.46
    for at, example in enumerate(shown[:4]):
        row, column = divmod(at, 2)
        x, y = 0.20 + column * (side + 0.10), 1.21 - row * (side + 0.24)
        _picture(axes, example.image, x, y, side)
        axes.plot([x + side / 2] * 2, [y, y + side], color="white", linewidth=0.8)
        axes.plot([x, x + side], [y + side / 2] * 2, color="white", linewidth=0.8)
        axes.text(x + side / 2, y - 0.085, example.name, fontsize=SMALL, ha="center", va="center", color=MUTED)
    _arrow(axes, (1.30, MIDDLE), (1.42, MIDDLE))
    model = [(1.44, MIDDLE + 0.30), (1.78, MIDDLE + 0.17), (1.78, MIDDLE - 0.17), (1.44, MIDDLE - 0.30)]
    axes.add_patch(Polygon(model, facecolor="white", edgecolor=INK, linewidth=0.8))
    axes.text(1.61, MIDDLE, "VLM", fontsize=SMALL, ha="center", va="center")
    axes.text(1.61, MIDDLE - 0.40, "fine-tuned", fontsize=SMALL, ha="center", va="center", color=MUTED)
    _arrow(axes, (1.80, MIDDLE), (1.92, MIDDLE))


def _draw_clusters(axes: Axes, shown: Sequence[Example]) -> None:
    """Region embeddings as dots in groups; a region stands for each, the spurious one is ringed."""
    _step(axes, 1.86, 2, "embeddings of\nregions, clustered")
    objects = islice(cycle(example.quadrant(example.core) for example in shown), 3)
    crops = [*objects, shown[0].quadrant(shown[0].spurious)]
    random = np.random.default_rng(5)
    for (x, y), crop, spurious in zip(CENTRES, crops, (False, False, False, True), strict=True):
        turns = (np.arange(14) + random.uniform(-0.45, 0.45, 14)) / 14
        radius = random.uniform(0.13, 0.23, 14)
        color, marker = (SPURIOUS, "^") if spurious else ("#8C8C8C", "o")
        dots = x + radius * np.cos(2 * np.pi * turns), y + radius * np.sin(2 * np.pi * turns)
        axes.scatter(*dots, s=5, color=color, marker=marker, linewidth=0)
        _picture(axes, crop, x - 0.09, y - 0.09, 0.18)
    axes.add_patch(Circle(CENTRES[-1], 0.28, fill=False, edgecolor=SPURIOUS, linewidth=1, linestyle="--"))
    _arrow(axes, (3.06, MIDDLE), (3.18, MIDDLE))


def _draw_scores(axes: Axes, shown: Sequence[Example], attribute: str) -> None:
    """For one cluster: accuracy of each class on images without it (open dot) and with it (arrowhead)."""
    _step(axes, 3.04, 3, "accuracy without\nand with a cluster")
    names = _distinct([attribute, *(example.name for example in shown)])[:4]
    left, right = 3.66, 4.18
    changes = ((0.2, 0.98), (0.85, 0.25), (0.95, 0.5), (0.78, 0.36))
    for row, (name, (without, with_cluster)) in enumerate(zip(names, changes, strict=False)):
        y = 1.44 - 0.23 * row
        start, end = (left + share * (right - left) for share in (without, with_cluster))
        color, weight = (SPURIOUS, "bold") if with_cluster > without else (INK, "normal")
        axes.plot([left, right], [y, y], color=FAINT, linewidth=0.6)
        _arrow(axes, (start, y), (end, y), color, width=1.2, shrink=1.5)
        axes.plot(start, y, "o", markersize=3.6, color=color, markerfacecolor="white", markeredgewidth=0.9, zorder=4)
        axes.text(left - 0.05, y, name, fontsize=SMALL, ha="right", va="center", fontweight=weight)
    verdict = "helps one class, hurts\nothers: spurious"
    axes.text(3.70, 0.36, verdict, fontsize=SMALL, color=MUTED, ha="center", va="center", linespacing=1.25)


def _draw_ranking(axes: Axes, shown: Sequence[Example]) -> None:
    """Images whose region is in the found cluster, with that region outlined."""
    _arrow(axes, (4.22, MIDDLE), (4.34, MIDDLE))
    _step(axes, 4.24, 4, "ranked\nregions")
    for rank, example in enumerate(islice(cycle(shown), 3)):
        y = 1.25 - 0.48 * rank
        _picture(axes, example.image, 4.40, y, 0.40)
        _outline(axes, 4.40, y, 0.40, example.spurious, SPURIOUS)


def _draw_pull_and_push(axes: Axes, shown: Sequence[Example], attribute: str) -> None:
    """The object's region is pulled to its class text; the spurious region is pushed away from every class text."""
    example = shown[0]
    names = _distinct([example.name, attribute, *(other.name for other in shown)])[:3]
    texts = STAGE_2_MIDDLE + 0.57 * (np.arange(len(names)) - (len(names) - 1) / 2)
    frame = dict(boxstyle="round,pad=0.3", facecolor="white", edgecolor=MUTED, linewidth=0.7)
    for x, name in zip(texts, names, strict=True):
        axes.text(x, HEADING, name, fontsize=SMALL, ha="center", va="center", bbox=frame)
    relevant, spurious = texts[0], STAGE_2_MIDDLE + 0.5
    _arrow(axes, (relevant, 1.35), (relevant, HEADING - 0.13), CORE, width=2)
    for x in texts:
        end = spurious + 0.12 * (x - STAGE_2_MIDDLE), 1.35
        _arrow(axes, (x + 0.06, HEADING - 0.13), end, SPURIOUS, width=1, line="--")
    axes.text(relevant - 0.07, 1.55, "pull", fontsize=SMALL, color=CORE, ha="right", va="center")
    axes.text(STAGE_2_MIDDLE - 0.02, 1.37, "push", fontsize=SMALL, color=SPURIOUS, ha="center", va="center")
    _draw_parts(axes, example, relevant, spurious)
    loss = r"$L = \lambda\,L_{CL} + (1-\lambda)\,(L_R + L_A)$"
    axes.text(STAGE_2_MIDDLE, 0.26, loss, fontsize=NORMAL, ha="center", va="center")


def _draw_parts(axes: Axes, example: Example, relevant: float, spurious: float) -> None:
    """An image, and its two regions taken out of it to the left and to the right."""
    side, corner = 0.46, (STAGE_2_MIDDLE - 0.23, 0.52)
    _picture(axes, example.image, *corner, side)
    parts = (
        (relevant, example.core, CORE, "relevant\nregion"),
        (spurious, example.spurious, SPURIOUS, "spurious\nregion"),
    )
    for x, quadrant, color, name in parts:
        _outline(axes, *corner, side, quadrant, color)
        _picture(axes, example.quadrant(quadrant), x - 0.15, 1.02, 0.30)
        axes.text(x, 0.86, name, fontsize=SMALL, color=color, ha="center", va="center", linespacing=1.15)


def _distinct(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _picture(axes: Axes, image: np.ndarray, x: float, y: float, side: float) -> None:
    axes.imshow(image, extent=(x, x + side, y, y + side), interpolation="nearest", zorder=2, aspect="equal")
    axes.set(xlim=(0, TEXT), ylim=(0, HEIGHT))  # imshow moves them


def _outline(axes: Axes, x: float, y: float, side: float, quadrant: int, color: str) -> None:
    row, column = divmod(quadrant, 2)
    corner = x + column * side / 2, y + (1 - row) * side / 2
    for edge, width in (("white", 2.6), (color, 1.3)):
        axes.add_patch(Rectangle(corner, side / 2, side / 2, fill=False, edgecolor=edge, linewidth=width, zorder=4))


def _arrow(
    axes: Axes, start: tuple, end: tuple, color: str = MUTED, width: float = 1.0, line: str = "-", shrink: float = 0
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>,head_length=3,head_width=1.6",
            color=color,
            linewidth=width,
            linestyle=line,
            shrinkA=shrink,
            shrinkB=0,
            mutation_scale=1,
            zorder=3,
        )  # fmt: skip
    )


def _read(examples: np.ndarray, names: Sequence[str] | None) -> list[Example]:
    images = np.asarray(examples)
    if images.ndim != 4 or images.shape[-1] != 3 or len(images) == 0:
        raise ValueError(f"examples: expected images (n, H, W, 3), n ≥ 1, got shape {images.shape}")
    if names is None:
        names = [f"class {at}" for at in range(1, len(images) + 1)]
    if len(names) != len(images):
        raise ValueError(f"names: expected one for each of {len(images)} examples, got {len(names)}")
    return [_example(image, str(name)) for image, name in zip(images, names, strict=True)]


def _example(image: np.ndarray, name: str) -> Example:
    blank = Example(image, name, 0, 0)
    quadrants = [blank.quadrant(which).astype(float) for which in range(4)]
    spurious = int(np.argmax([np.ptp(pixels, axis=-1).mean() for pixels in quadrants]))
    contrast = [-1 if which == spurious else pixels.std() for which, pixels in enumerate(quadrants)]
    return Example(image, name, int(np.argmax(contrast)), spurious)


def _glyphs() -> list[Example]:
    """Drawn composites: a white shape in one quadrant, a coloured square in another."""
    size = 28
    y, x = np.indices((size, size)) - (size - 1) / 2
    shapes = (
        np.abs(np.hypot(x, y) - 8) < 2,
        (np.abs(x - y) < 2.8) | (np.abs(x + y) < 2.8),
        (y < 8) & (y > 2 * np.abs(x) - 9),
        (np.maximum(np.abs(x), np.abs(y)) < 9.5) & (np.maximum(np.abs(x), np.abs(y)) > 6),
    )
    shapes[1][np.maximum(np.abs(x), np.abs(y)) > 9] = False
    places = ((0, 3), (1, 2), (2, 1), (3, 0))
    shown = []
    for name, shape, (core, spurious) in zip(GLYPH_NAMES, shapes, places, strict=True):
        canvas = np.zeros((2, size, 2, size, 3), dtype=np.uint8)
        canvas[core // 2, :, core % 2] = np.where(shape[..., None], 255, 0)
        canvas[spurious // 2, :, spurious % 2] = (213, 94, 0)
        shown.append(Example(canvas.reshape(2 * size, 2 * size, 3), name, core, spurious))
    return shown
