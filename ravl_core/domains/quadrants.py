"""RaVL's MNIST layout: a 56×56 canvas of four quadrants, one with a scan, another, where asked, a full red rectangle.

The rest is black. A domain in this layout differs from the next in its scans and its words only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ravl_core.checks import choice, class_indices, same_length, truths
from ravl_core.domains.dataset import Dataset
from ravl_core.randomness import stream
from ravl_core.regions import quadrants

QUADRANT = 28  # pixels
RED_RECTANGLE = "red rectangle"
RED = (255, 0, 0)


@dataclass(frozen=True)
class Scans:
    """S small grey images, and which of them each split draws from."""

    pixels: np.ndarray  # (S, 28, 28) uint8
    by_split: dict[str, tuple[np.ndarray, ...]]  # indices into the scans, one array a class


@dataclass(frozen=True)
class QuadrantDomain:
    """A domain in the layout of the module's text."""

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]  # zero-shot
    caption_templates: tuple[str, ...]  # fine-tuning
    scans: Callable[[], Scans]  # called when the first image is composed, and expected to remember its answer
    features: tuple[str, ...] = (RED_RECTANGLE,)

    def compose(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = RED_RECTANGLE
    ) -> Dataset:
        """One image for each label (N,), with a red rectangle where `feature_present` (N,) says so.

        Raises
        ------
        ValueError
            An unknown split or feature, a label that is no class, or sides of different lengths.
        """
        choice("feature", feature, self.features)
        labels = class_indices("labels", labels, len(self.class_names))
        feature_present = truths("feature_present", feature_present)
        same_length(labels=labels, feature_present=feature_present)
        scans = self.scans()
        random = stream(seed, self.name, split)
        sources = _draw_sources(scans.by_split[choice("split", split, scans.by_split)], labels, random)
        places = random.random((len(labels), 4)).argsort(axis=1)[:, :2]  # (N, 2) quadrants of scan and rectangle
        phrases = random.integers(0, len(self.caption_templates), len(labels))
        names = np.array(self.class_names)[labels]  # (N,)
        is_place = np.arange(4) == places[:, :, None]  # (N, 2, 4)
        shows_core, shows_feature = is_place[:, 0], is_place[:, 1] & feature_present[:, None]  # (N, 4)
        boxes, image_index = quadrants(len(labels), 2 * QUADRANT, 2 * QUADRANT)
        return Dataset(
            images=_draw(scans.pixels[sources], places, feature_present),
            labels=labels,
            captions=tuple(self.caption_templates[p].format(name) for p, name in zip(phrases, names, strict=True)),
            class_names=self.class_names,
            templates=self.templates,
            boxes=boxes,
            image_index=image_index,
            shows_core=shows_core.ravel(),
            shows_feature=shows_feature.ravel(),
            feature_present=feature_present,
            box_names=tuple(_box_names(shows_core, shows_feature, names, feature).ravel().tolist()),
            sources=sources,
        )


def split_by_class(name: str, labels: np.ndarray, shares: dict[str, float]) -> dict[str, tuple[np.ndarray, ...]]:
    """Deal the scans of each class out to the splits: for each split, indices into `labels` (S,), one array a class.

    The same for every seed: scans of different splits never meet. `shares` add up to 1.
    """
    edges = np.cumsum(list(shares.values()))[:-1]
    parts = []
    for label in range(labels.max() + 1):
        scans = stream(0, name, "splits", label).permutation(np.flatnonzero(labels == label))
        parts.append([np.sort(part) for part in np.split(scans, np.round(edges * len(scans)).astype(int))])
    return dict(zip(shares, zip(*parts, strict=True), strict=True))


def _draw_sources(scans: tuple[np.ndarray, ...], labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A scan for each label; every scan of a class is used before one is used again. (N,)"""
    sources = np.empty(len(labels), dtype=np.int64)
    for label, own in enumerate(scans):
        images = np.flatnonzero(labels == label)
        rounds = -(-len(images) // len(own))
        sources[images] = np.concatenate([random.permutation(own) for _ in range(rounds)] or [own[:0]])[: len(images)]
    return sources


def _box_names(shows_core: np.ndarray, shows_feature: np.ndarray, names: np.ndarray, feature: str) -> np.ndarray:
    """What each quadrant shows, (N, 4): the class's name, the feature's, or nothing."""
    return np.where(shows_core, names[:, None], np.where(shows_feature, feature, ""))


def _draw(pixels: np.ndarray, places: np.ndarray, feature_present: np.ndarray) -> np.ndarray:
    """Canvases (N, 56, 56, 3) with a scan (N, 28, 28) and, where asked, a rectangle in their quadrants (N, 2)."""
    canvas = np.zeros((len(pixels), 2, 2, QUADRANT, QUADRANT, 3), dtype=np.uint8)  # (N, row, column, y, x, colour)
    images, (scan, rectangle) = np.arange(len(pixels)), places.T
    canvas[images, scan // 2, scan % 2] = pixels[..., None]
    marked = np.flatnonzero(feature_present)
    canvas[marked, rectangle[marked] // 2, rectangle[marked] % 2] = RED
    return canvas.transpose(0, 1, 3, 2, 4, 5).reshape(len(pixels), 2 * QUADRANT, 2 * QUADRANT, 3)
