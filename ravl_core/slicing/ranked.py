"""What every discovery method returns, and how one that ranks images contributes regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ravl_core.discovery import best_regions
from ravl_core.zero_shot import Evaluation


@dataclass(frozen=True, eq=False)
class RankedRegions:
    """Regions in the order in which a method would show them to a user; an array of their indices where one is asked.

    Attributes
    ----------
    regions : int array (R,)
        Region indices of the evaluation, best first; empty where the method found nothing.
    attribute : int or None
        The class that the feature is tied to, where the method names one.
    reason : str
        Why there is no region, or what the method had to leave out (a class without errors, say); "" otherwise.
    """

    regions: np.ndarray
    attribute: int | None = None
    reason: str = ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.regions, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.regions)


def nothing(reason: str) -> RankedRegions:
    """The result of a method that cannot say anything, and why."""
    return RankedRegions(np.empty(0, dtype=np.int64), reason=reason)


def regions_of_images(evaluation: Evaluation, images: np.ndarray) -> np.ndarray:
    """For each ranked image its region with the highest score for the class that the image was taken for.

    The paper does not say how methods that rank images are judged on regions; this is our reading. Images without
    regions are left out.
    """
    best = best_regions(evaluation.image_index, evaluation.region_probs, evaluation.predictions)  # (N,)
    chosen = best[np.asarray(images, dtype=np.int64)]
    return chosen[chosen >= 0]
