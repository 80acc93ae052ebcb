"""The one type in which every domain hands over its data, and what a domain has to offer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ravl_core import checks


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


def check_labels(dataset: Dataset) -> None:
    """Raises ValueError where labels, class names or prompts are not what a model can be asked with."""
    checks.made("dataset", dataset, "a Dataset", "class_names")
    check_prompts(dataset.class_names, dataset.templates)
    checks.class_indices("labels", dataset.labels, len(dataset.class_names))
    checks.same_length(images=dataset.images, labels=dataset.labels)


def check_dataset(dataset: Dataset) -> None:
    """Raises ValueError where a part of a set is not of its kind, or two do not belong together."""
    check_labels(dataset)
    for name in ("images", "labels", "boxes", "image_index"):
        if not isinstance(value := getattr(dataset, name), np.ndarray):
            raise ValueError(f"{name}: expected a NumPy array, got {type(value).__name__}")
    images = checks.images("images", dataset.images)
    if not isinstance(dataset.captions, list | tuple) or len(dataset.captions) != len(images):
        came = f"{len(dataset.captions)}" if isinstance(dataset.captions, list | tuple) else repr(dataset.captions)
        raise ValueError(f"captions: expected one text an image, {len(images)}, got {came}")
    checks.boxes("boxes", dataset.boxes, width=images.shape[2], height=images.shape[1])
    checks.sorted_image_index("image_index", dataset.image_index, len(images))
    checks.same_length(boxes=dataset.boxes, image_index=dataset.image_index)


def check_prompts(class_names: Sequence[str], templates: Sequence[str]) -> None:
    """Raises ValueError for class names that are empty or repeat, and prompts without one place for a name."""
    prompts, names = (() if isinstance(texts, str) else tuple(texts) for texts in (templates, class_names))
    wrong = [prompt for prompt in prompts if not _takes_a_name(prompt)]
    if wrong or not prompts:
        came = wrong or repr(templates)
        raise ValueError(f"templates: each needs a {{}} for the class name, and nothing else to fill in, got {came}")
    good = {name for name in names if isinstance(name, str) and name.strip()}
    if not names or len(good) < len(names):
        raise ValueError(f"class_names: expected names that are not empty and do not repeat, got {class_names!r}")


def _takes_a_name(template: str) -> bool:
    try:
        return "{}" in template and isinstance(template.format("name"), str)
    except (LookupError, ValueError, AttributeError, TypeError):  # other places to fill in, or a brace alone
        return False


class Domain(Protocol):
    """What the evaluation settings need of a domain."""

    name: str
    class_names: tuple[str, ...]
    features: tuple[str, ...]  # names of the features that can be planted

    def compose(self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str) -> Dataset:
        """One image for each label, with the named feature where asked; the splits share no source."""
        ...
