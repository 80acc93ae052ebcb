"""Pages of images: what a set looks like, and the regions that a method ranks first."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ravl_core.domains.dataset import Dataset
from ravl_core.figures.style import LARGE, MUTED, SMALL, SPURIOUS, TEXT, bare, styled

COLUMNS = 5
GAP = 0.06  # between the images of a page, as a share of an image
WIDEST_IMAGE = 1.4  # inches, where there are few classes


@styled
def top_regions(
    dataset: Dataset,
    regions: Sequence[int],
    n: int = 10,
    title: str | None = None,
    predictions: np.ndarray | None = None,
) -> Figure:
    """The first n ranked regions, each outlined in its image, in reading order.

    Parameters
    ----------
    dataset : Dataset
        N images with M boxes.
    regions : sequence of int
        Boxes, 0 … M-1, best first; fewer than n, or none, are shown as they are.
    n : int
        How many to show at most.
    title : str, optional
        One line above.
    predictions : int array (N,), optional
        Predicted class of each image; the captions then say where the model is wrong.
    """
    shown = [int(region) for region in regions[:n]]
    n_rows = max(1, -(-len(shown) // COLUMNS))
    height, width = dataset.images.shape[1:3]
    row_height = TEXT / COLUMNS * 0.88 * height / width + (0.34 if predictions is None else 0.46)
    figure, grid = plt.subplots(
        n_rows, COLUMNS, figsize=(TEXT, n_rows * row_height + (0.25 if title else 0)), squeeze=False
    )
    for axes in grid.flat:
        bare(axes).set_visible(False)
    for rank, (axes, region) in enumerate(zip(grid.flat, shown, strict=False), start=1):
        axes.set_visible(True)
        _show_region(axes, dataset, region)
        _caption(axes, rank, dataset, int(dataset.image_index[region]), predictions)
    if not shown:
        figure.text(0.5, 0.5, "no region was ranked", ha="center", va="center", color=MUTED)
    if title:
        figure.suptitle(title, fontsize=LARGE, x=0.01, ha="left")
    return figure


def _show_region(axes: Axes, dataset: Dataset, region: int) -> None:
    axes.imshow(dataset.images[dataset.image_index[region]])
    outline(axes, dataset.boxes[region] - 0.5)  # imshow puts the middle of the first pixel at 0


def outline(axes: Axes, box: Sequence[float]) -> None:
    """A box (x1, y1, x2, y2) drawn black under white, so that it shows on dark and on light images."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    for color, width in (("black", 3.6), ("white", 1.6)):
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, clip_on=False)
        )


def _caption(axes: Axes, rank: int, dataset: Dataset, image: int, predictions: np.ndarray | None) -> None:
    label = int(dataset.labels[image])
    axes.set_title(f"{rank}. {dataset.class_names[label]}", fontsize=SMALL, loc="left", pad=4)
    if predictions is None:
        return
    predicted = int(predictions[image])
    wrong = predicted != label
    axes.set_xlabel(
        f"taken for {dataset.class_names[predicted]}" if wrong else "right",
        fontsize=SMALL, color=SPURIOUS if wrong else MUTED, loc="left", labelpad=4,
    )  # fmt: skip


@styled
def composites(dataset: Dataset, n: int = 2, seed: int = 0, feature: str = "the feature") -> Figure:
    """Images drawn at random from each class, n without the planted feature and n with it.

    Parameters
    ----------
    dataset : Dataset
        N images whose ``feature_present`` is known.
    n : int
        Images of each class and side; a group that has fewer leaves places empty.
    seed : int
        The same seed shows the same images.
    feature : str
        Name of the planted feature.
    """
    if dataset.feature_present is None:
        raise ValueError("dataset: expected to know in which images the feature is, got feature_present None")
    random = np.random.default_rng(seed)
    pages = [_page(dataset, dataset.feature_present == present, n, random) for present in (False, True)]
    width = min(TEXT, WIDEST_IMAGE * dataset.n_classes)
    height = width * 0.93 * pages[0].shape[0] / pages[0].shape[1]
    figure, panels = plt.subplots(2, 1, figsize=(width, 2 * height + 0.36), sharex=True)
    for axes, page, side in zip(panels, pages, ("without", "with"), strict=True):
        bare(axes).imshow(page, interpolation="nearest")
        axes.set_ylabel(f"{side}\n{feature}")
    cell = pages[0].shape[1] / dataset.n_classes
    panels[0].set_xticks((np.arange(dataset.n_classes) + 0.5) * cell - 0.5, dataset.class_names)
    panels[0].tick_params(axis="x", length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    panels[1].tick_params(axis="x", length=0, labelbottom=False)
    return figure


def _page(dataset: Dataset, chosen: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """One image of n rows (of a class's images) and C columns (the classes), with white between."""
    height, width = dataset.images.shape[1:3]
    gap = max(2, round(GAP * width))
    page = np.full((n, height + gap, dataset.n_classes, width + gap, 3), 255, dtype=np.uint8)
    for label in range(dataset.n_classes):
        members = random.permutation(np.flatnonzero(chosen & (dataset.labels == label)))[:n]
        page[: len(members), gap // 2 : gap // 2 + height, label, gap // 2 : gap // 2 + width] = dataset.images[members]
    return page.reshape(n * (height + gap), dataset.n_classes * (width + gap), 3)
