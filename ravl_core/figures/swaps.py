"""What counterfactual region swaps make of a few images."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ravl_core.checks import same_length
from ravl_core.figures.style import NORMAL, SMALL, TEXT, bare, styled


@styled
def swapped_pairs(before: np.ndarray, after: np.ndarray, labels: Sequence[str], titles: Sequence[str]) -> Figure:
    """Images above, what the model sees instead of them below.

    Parameters
    ----------
    before, after : uint8 arrays (n, H, W, 3)
        One to eight.
    labels : sequence of str
        What each image is, before and after.
    titles : sequence of str
        What was done to each.

    Raises
    ------
    ValueError
        There is no image, or lengths disagree.
    """
    if not len(before):
        raise ValueError("before: expected at least one image, got none")
    same_length(before=before, after=after, labels=labels, titles=titles)
    height, width = before.shape[1:3]
    side = TEXT / len(before)
    figure, grid = plt.subplots(2, len(before), figsize=(TEXT, 2 * side * height / width + 0.5), squeeze=False)
    for column, panels in enumerate(grid.T):
        for axes, images in zip(panels, (before, after), strict=True):
            bare(axes).imshow(images[column])
        panels[0].set_title(titles[column], fontsize=SMALL)
        panels[1].set_xlabel(labels[column], fontsize=SMALL)
    for axes, name in zip(grid[:, 0], ("before", "after"), strict=True):
        axes.set_ylabel(name, fontsize=NORMAL)
    return figure
