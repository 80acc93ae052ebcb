"""Where a model looks, before and after a repair: maps over images, and how much of them lies on the shortcut."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from skimage.color import lab2rgb

from ravl_core import checks
from ravl_core.figures.images import outline
from ravl_core.figures.style import COLUMN, INK, NORMAL, SMALL, bare, styled

MOST_ROWS = 6
FADED = 0.2  # of an image's contrast, kept under a map


def _one_hue() -> ListedColormap:
    """From a clear pale grey to a dark vermillion, in equal steps of lightness, so that it reads the same in grey."""
    share = np.linspace(0, 1, 256)
    lightness, chroma, hue = 82 - 52 * share, 75 * np.sin(0.8 * np.pi * share), np.deg2rad(50)  # of CIELAB
    colors = lab2rgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))
    return ListedColormap(np.column_stack([colors, 0.9 * np.minimum(5 * share, 1)]))


EVIDENCE = _one_hue()


@styled
def before_after_maps(
    images: np.ndarray,
    maps_before: np.ndarray,
    maps_after: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    answers_before: Sequence[str],
    answers_after: Sequence[str],
    evidence_for: str = "the answer",
    feature: str = "the box",
    names: tuple[str, str] = ("before", "after"),
) -> Figure:
    """What speaks for a class in some images, before and after a repair: one row an image, the shortcut outlined.

    Parameters
    ----------
    images : uint8 array (n, H, W, 3)
        One to six.
    maps_before, maps_after : float arrays (n, h, w)
        Shares of the evidence, from `ravl_core.saliency.gradient_map`. Both columns have one scale.
    boxes : array (n, 4)
        The region of the shortcut in each image, in pixels.
    labels : sequence of str
        What each image is.
    answers_before, answers_after : sequences of str
        What each model takes it for.
    evidence_for : str
        What the maps speak for.
    feature : str
        What is in the boxes.
    names : pair of str
        What the two models are called.

    Raises
    ------
    ValueError
        If there is no image, or more than six, lengths or shapes disagree, or a box reaches outside its image.
    """
    from ravl_core.saliency import share_inside  # torch is not needed to draw other figures

    if not 1 <= len(images) <= MOST_ROWS:
        raise ValueError(f"images: expected 1 to {MOST_ROWS}, got {len(images)}")
    lists = dict(labels=labels, answers_before=answers_before, answers_after=answers_after)
    checks.same_length(images=images, maps_before=maps_before, maps_after=maps_after, boxes=boxes, **lists)
    n, height, width = images.shape[:3]
    sides = [(maps, share_inside(maps, boxes, np.arange(n), height, width)) for maps in (maps_before, maps_after)]
    cells = 100 * np.stack([maps_before, maps_after])
    most = np.quantile(cells[cells > 0], 0.95)  # the few darkest cells would make all others pale
    panel_height = COLUMN / 3 * 0.94 * height / width + 0.43
    figure, grid = plt.subplots(n, 3, figsize=(COLUMN, 0.72 + n * panel_height), squeeze=False)
    for row, panels in enumerate(grid):
        bare(panels[0]).imshow(images[row])
        outline(panels[0], boxes[row] - 0.5)  # imshow puts the middle of the first pixel at 0
        _caption(panels[0], labels[row])
        for axes, (maps, share), answers in zip(panels[1:], sides, (answers_before, answers_after), strict=True):
            drawn = _draw_map(axes, images[row], 100 * maps[row], most, boxes[row] - 0.5)
            _caption(axes, f"says {answers[row]}", f"{share[row]:.0%} on {feature}")
    for axes, name in zip(grid[0], ("image", *names), strict=True):
        axes.set_title(name, fontsize=NORMAL)
    _scale(figure, drawn, grid, f"evidence for {evidence_for} in a cell, %")
    return figure


def _draw_map(axes: Axes, image: np.ndarray, cells: np.ndarray, most: float, box: np.ndarray) -> AxesImage:
    """Cells (h, w) and a thin box over a pale grey copy of the image (H, W, 3)."""
    height, width = image.shape[:2]
    bare(axes).imshow(255 - FADED * (255 - image.mean(axis=-1)), cmap="gray", vmin=0, vmax=255)
    axes.autoscale(False)
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=0.9, clip_on=False))
    edges = (-0.5, width - 0.5, height - 0.5, -0.5)
    return axes.imshow(cells, cmap=EVIDENCE, vmin=0, vmax=most, extent=edges, interpolation="nearest")


def _caption(axes: Axes, *lines: str) -> None:
    axes.set_xlabel("\n".join(lines), fontsize=SMALL, loc="left", labelpad=3)


def _scale(figure: Figure, drawn: AxesImage, grid: np.ndarray, label: str) -> None:
    bar = figure.colorbar(drawn, ax=grid, location="bottom", extend="max", fraction=0.05, pad=0.02, aspect=40)
    bar.set_label(label, fontsize=SMALL)
    bar.outline.set_visible(False)
    bar.ax.set_facecolor(str(1 - FADED))  # what is seen through clear colours
    bar.locator = MaxNLocator(4, integer=True)
