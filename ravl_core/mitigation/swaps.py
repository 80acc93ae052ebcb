"""Counterfactual region swaps: what was found spurious is taken from images that hold it and pasted into others."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from ravl_core.checks import number
from ravl_core.mitigation.batch import Shown
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.recipe import Run
from ravl_core.mitigation.region_swaps import swap_regions
from ravl_core.randomness import stream
from ravl_core.zero_shot import evaluate


@dataclass(frozen=True)
class Swaps(RegionAware):
    """RaVL's objective on images of which a share is changed before each step; with `clip_weight` 1, CLIP's loss alone.

    An image that holds a spurious region loses it, another one gets a spurious region of some image of the batch,
    over a region that is not its likely core. So the correlation between the found feature and the class falls, and
    no label of the feature is needed but stage 1's.

    Parameters
    ----------
    swapped : the share of each batch's images that is changed, 0 … 1.
    feather : how soft the edges are, as a share of the region's side.

    Source: ours.
    """

    swapped: float = 0.5
    feather: float = 0.1
    changes_images: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        number("swapped", self.swapped, 0, 1)

    def begin(self, run: Run) -> RegionAware:
        """The recipe with a guess at each region's claim to be the core of its image, and draws of its own."""
        return _Begun(**vars(self) | {"core_belief": core_belief(run), "random": stream(run.seed, "swaps")})


@dataclass(frozen=True)
class _Begun(Swaps):
    core_belief: np.ndarray = field(kw_only=True, repr=False)  # (M,)
    random: np.random.Generator = field(kw_only=True, repr=False)

    def change(self, shown: Shown) -> Shown:
        belief = torch.from_numpy(self.core_belief[shown.regions]).to(shown.images.device)
        where = shown.boxes, shown.image_index, shown.spurious, belief
        images, spurious = swap_regions(shown.images, *where, self.swapped, self.random, self.feather)
        return replace(shown, images=images, spurious=spurious)


def core_belief(run: Run) -> np.ndarray:
    """How likely each region shows what its image's label names, by the initial model, (M,) 0 … 1.

    It is the probability of the image's own label, given the region alone.
    """
    seen = evaluate(run.vlm, run.dataset)
    return seen.region_probs[np.arange(len(seen.region_probs)), run.dataset.labels[run.dataset.image_index]]
