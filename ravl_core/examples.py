"""A few images to look at: what region swaps make of them, and where models look in them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from ravl_core.domains.dataset import Dataset
from ravl_core.mitigation.batch import Shown
from ravl_core.mitigation.recipe import Run, groups_of
from ravl_core.mitigation.swaps import Swaps
from ravl_core.mitigation.training import regions_of
from ravl_core.saliency import gradient_map, share_inside
from ravl_core.vlm import VLM, boxes_in_image_units


def swapped_images(
    initial_vlm: VLM, dataset: Dataset, assignment: np.ndarray, images: np.ndarray, seed: int = 0
) -> np.ndarray:
    """What the model sees instead of these images, were they one batch of the recipe "swaps": (B, H, W, 3) uint8.

    Parameters
    ----------
    assignment : (M,) bool, which regions of the set are spurious.
    images : (B,) indices of images; all of them are changed where that is possible.
    """
    recipe = Swaps(clip_weight=1.0, swapped=1.0)
    running = recipe.begin(Run(initial_vlm, dataset, assignment, groups_of(dataset, assignment), seed))
    first_region = np.searchsorted(dataset.image_index, np.arange(len(dataset) + 1))
    regions, image_index = regions_of(np.asarray(images), first_region)
    boxes = boxes_in_image_units(dataset.boxes, *dataset.images.shape[1:3])[regions]
    pixels = torch.from_numpy(dataset.images[images]).permute(0, 3, 1, 2)
    known = torch.from_numpy(boxes), torch.from_numpy(image_index), torch.from_numpy(assignment[regions])
    return running.change(Shown(pixels, *known, regions)).images.permute(0, 2, 3, 1).numpy()


def boxes_of_feature(dataset: Dataset, images: np.ndarray) -> np.ndarray:
    """The first box of each image (B,) that shows the planted feature, (B, 4).

    Raises
    ------
    ValueError
        One of the images has no such box.
    """
    shows = np.flatnonzero(dataset.shows_feature)
    owners, first = np.unique(dataset.image_index[shows], return_index=True)
    without = np.setdiff1d(images, owners)
    if len(without):
        raise ValueError(f"images: expected images that show the planted feature, got {without.tolist()}")
    return dataset.boxes[shows[first[np.searchsorted(owners, images)]]]


def shares_on_feature(
    models: Mapping[str, VLM], dataset: Dataset, images: np.ndarray, direction: np.ndarray, layer: str = "layer3"
) -> pd.DataFrame:
    """How much of the evidence for a direction lies on the planted feature, 0 … 1: a row an image, a column a model.

    Evidence is that of `gradient_map`; `direction` (D,) is for instance a class embedding less the mean of all.
    """
    boxes, place = boxes_of_feature(dataset, images), np.arange(len(images))
    pixels, classes = dataset.images[images], np.zeros(len(images), dtype=np.int64)
    shares = {
        name: share_inside(gradient_map(vlm, pixels, classes, direction[None], layer), boxes, place, *pixels.shape[1:3])
        for name, vlm in models.items()
    }
    return pd.DataFrame(shares, index=pd.Index(images, name="image"))
