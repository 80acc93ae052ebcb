"""Real handwritten digits in the layout of RaVL's MNIST settings, with nothing to download.

scikit-learn ships 1,797 scans of 8×8 pixels. Each image is a 56×56 canvas of four quadrants: one holds a digit,
another, where asked, a full red rectangle, the rest are black. The digits of different splits are disjoint.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ravl_core.checks import choice, class_indices, same_length, truths
from ravl_core.domains.dataset import Dataset
from ravl_core.randomness import stream
from ravl_core.regions import quadrants

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the number {}", "the digit {}", "an image of a {}", "{}")  # zero-shot, authors' demo
CAPTIONS = (
    "the image shows a {}",
    "the digit appears to be {}",
    "there is an image showing a {}",
    "the number is a {}",
)
SHARES = {"pretraining": 0.25, "finetuning": 0.35, "val": 0.2, "test": 0.2}  # of each class's scans
QUADRANT = 28  # pixels
RED = (255, 0, 0)


@dataclass(frozen=True)
class Digits:
    """The domain; see the module's text."""

    name: str = "digits"
    class_names: tuple[str, ...] = CLASS_NAMES
    features: tuple[str, ...] = ("red rectangle",)

    def compose(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = "red rectangle"
    ) -> Dataset:
        """One image for each label (N,), with a red rectangle where `feature_present` (N,) says so.

        Raises
        ------
        ValueError
            An unknown split, a label that is no digit, or sides of different lengths.
        """
        labels = class_indices("labels", labels, len(CLASS_NAMES))
        feature_present = truths("feature_present", feature_present)
        same_length(labels=labels, feature_present=feature_present)
        scans = _scans_by_class(choice("split", split, tuple(SHARES)))
        random = stream(seed, "digits", split)
        sources = _draw_sources(scans, labels, random)
        places = random.random((len(labels), 4)).argsort(axis=1)[:, :2]  # (N, 2) quadrants of digit and rectangle
        phrases = random.integers(0, len(CAPTIONS), len(labels))
        boxes, image_index = quadrants(len(labels), 2 * QUADRANT, 2 * QUADRANT)
        is_place = np.arange(4) == places[:, :, None]  # (N, 2, 4)
        return Dataset(
            images=_draw(sources, places, feature_present),
            labels=np.asarray(labels, dtype=np.int64),
            captions=tuple(CAPTIONS[p].format(CLASS_NAMES[c]) for p, c in zip(phrases, labels, strict=True)),
            class_names=CLASS_NAMES,
            templates=TEMPLATES,
            boxes=boxes,
            image_index=image_index,
            shows_core=is_place[:, 0].ravel(),
            shows_feature=(is_place[:, 1] & np.asarray(feature_present)[:, None]).ravel(),
            feature_present=np.asarray(feature_present, dtype=bool),
            sources=sources,
        )


def domain() -> Digits:
    """The digits domain."""
    return Digits()


@cache
def _scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans at a quadrant's size, (1797, 28, 28) uint8, and their labels."""
    from skimage.transform import resize
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = resize(digits.images / 16, (len(digits.images), QUADRANT, QUADRANT), order=1)
    return (scans * 255).round().astype(np.uint8), digits.target


@cache
def _scans_by_class(split: str) -> tuple[np.ndarray, ...]:
    """Indices of the scans that belong to the split, one array a class."""
    labels = _scans()[1]
    edges = np.cumsum([0, *SHARES.values()])
    part = list(SHARES).index(split)
    parts = []
    for label in range(len(CLASS_NAMES)):
        scans = stream(0, "digits", "splits", label).permutation(np.flatnonzero(labels == label))
        first, last = np.round(edges[part : part + 2] * len(scans)).astype(int)
        parts.append(np.sort(scans[first:last]))
    return tuple(parts)


def _draw_sources(scans: tuple[np.ndarray, ...], labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A scan for each label; every scan of a class is used before one is used again. (N,)"""
    sources = np.empty(len(labels), dtype=np.int64)
    for label, own in enumerate(scans):
        images = np.flatnonzero(np.asarray(labels) == label)
        rounds = -(-len(images) // len(own))
        sources[images] = np.concatenate([random.permutation(own) for _ in range(rounds)] or [own[:0]])[: len(images)]
    return sources


def _draw(sources: np.ndarray, places: np.ndarray, feature_present: np.ndarray) -> np.ndarray:
    """Canvases (N, 56, 56, 3) with a scan and, where asked, a rectangle in their quadrants."""
    canvas = np.zeros((len(sources), 2, 2, QUADRANT, QUADRANT, 3), dtype=np.uint8)  # (N, row, column, y, x, colour)
    images, (digit, rectangle) = np.arange(len(sources)), places.T
    canvas[images, digit // 2, digit % 2] = _scans()[0][sources][..., None]
    marked = np.flatnonzero(feature_present)
    canvas[marked, rectangle[marked] // 2, rectangle[marked] % 2] = RED
    return canvas.transpose(0, 1, 3, 2, 4, 5).reshape(len(sources), 2 * QUADRANT, 2 * QUADRANT, 3)
