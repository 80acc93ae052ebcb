"""The one type in which every domain hands over its data, and what a domain has to offer."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Images with labels, captions and boxes; N images, M boxes of all images, C classes.

    What a user's own data cannot tell (what a box shows, whether a planted feature is present) is None there.
    """

    images: np.ndarray  # (N, H, W, 3) uint8
    labels: np.ndarray  # (N,) class indices
    captions: tuple[str, ...]  # (N,) the text that each image is paired with in fine-tuning
    class_names: tuple[str, ...]  # (C,)
    templates: tuple[str, ...]  # zero-shot prompts with one {} for the class name
    boxes: np.ndarray  # (M, 4) x1, y1, x2, y2 in pixels, stored image by image
    image_index: np.ndarray  # (M,) the image of each box, non-decreasing
    shows_core: np.ndarray | None = None  # (M,) bool, the box shows what the label names
    shows_feature: np.ndarray | None = None  # (M,) bool, the box shows the planted feature
    feature_present: np.ndarray | None = None  # (N,) bool, the image holds the planted feature
    box_names: tuple[str, ...] | None = None  # (M,) what each box shows, "" for nothing in particular
    sources: np.ndarray | None = None  # (N,) which real photograph or scan the object comes from

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)


class Domain(Protocol):
    """What the evaluation settings need of a domain."""

    name: str
    class_names: tuple[str, ...]
    features: tuple[str, ...]  # names of the features that can be planted

    def compose(self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str) -> Dataset:
        """One image for each label, with the named feature where asked; the splits share no source."""
        ...
