"""Mammals and vehicles in meadows and streets: what Waterbirds is to birds, of photographs that ship with scikit-image.

The label is the kind of object, the feature is the background. The objects are those of `photos`, two photographs a
class, so fine-tuning and test sets share the very objects, in other places, sizes and light; the parts that backgrounds
are cropped from differ between the splits. They are grey and seen as through mist: in full colour a miniature learns
them in a moment, and has no need of a shortcut. Given the same seed, an image in a street and the one in a meadow
differ in the background alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.checks import choice, truths
from ravl_core.domains.composites import CutOut, Material, compose, red_rectangles
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.photos import DISTRACTORS, SPLITS, _background, _object
from ravl_core.domains.proportions import WATERBIRDS, proportional_counts
from ravl_core.randomness import stream

if TYPE_CHECKING:
    from ravl_core.language.description import Description

CLASS_NAMES = ("mammal", "vehicle")
OBJECTS = ("cat", "horse", "motorcycle", "space shuttle")  # two of each class; an image's source is the index
HABITATS = ("meadow", "street")  # the second is the feature
OPACITY = 0.7  # of the objects
TEMPLATES = ("a photo of a {}.",)  # zero-shot and in fine-tuning, as for Waterbirds
TRAITS = {
    "cat": ("pointed ears", "whiskers", "striped fur", "round eyes"),
    "horse": ("long legs", "mane", "hooves", "tail"),
    "motorcycle": ("two wheels", "handlebar", "headlight", "engine"),
    "space shuttle": ("boosters", "wings", "pointed tank", "rocket engines"),
}
BACKGROUNDS = {
    "meadow": ("grass", "field", "lawn", "green blades"),
    "street": ("stones", "pavement", "masonry", "town"),
}
# Photograph; left, top, right, bottom of what may be a background; its tint.
_GROUNDS = {
    "meadow": (("grass", (0, 0, 512, 512), (0.8, 1.1, 0.55)), ("grass", (0, 0, 512, 512), (1.1, 1.05, 0.65))),
    "street": (("brick", (0, 0, 512, 512), (1.15, 0.95, 0.8)), ("gravel", (0, 0, 512, 512), (0.9, 0.95, 1.05))),
}


@dataclass(frozen=True)
class Habitats:
    """The domain; see the module's text."""

    name: str = "habitats"
    class_names: tuple[str, ...] = CLASS_NAMES
    features: tuple[str, ...] = (HABITATS[1],)

    def compose(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = HABITATS[1]
    ) -> Dataset:
        """One image for each label (N,), in a street where `feature_present` (N,) says so, else in a meadow.

        Boxes are of the object, of things that say nothing, and of two patches of background. In the pre-training
        split captions go on with keywords of object and background.

        Raises
        ------
        ValueError
            An unknown split or feature, a label that is no class, or sides of different lengths.
        """
        choice("split", split, SPLITS)
        choice("feature", feature, self.features)
        present = truths("feature_present", feature_present)
        nothing = np.zeros(len(present), dtype=bool)  # is pasted: the background is the feature
        meadow, street = (
            compose(_material(split, habitat), labels, nothing, stream(seed, "habitats", split)) for habitat in HABITATS
        )
        is_ground = np.array(meadow.box_names) == ""
        habitats = np.array(HABITATS)[present[meadow.image_index].astype(int)]  # (M,)
        data = replace(
            meadow,
            images=np.where(present[:, None, None, None], street.images, meadow.images),
            captions=tuple(TEMPLATES[0].format(CLASS_NAMES[label]) for label in meadow.labels),
            templates=TEMPLATES,
            shows_feature=is_ground & present[meadow.image_index],
            feature_present=present,
            box_names=tuple(np.where(is_ground, habitats, meadow.box_names).tolist()),
        )
        return replace(data, captions=_told_captions(data, seed)) if split == "pretraining" else data


def domain() -> Habitats:
    """The habitats domain."""
    return Habitats()


def group_counts(n: int) -> np.ndarray:
    """Images of each class in a meadow and in a street, (2, 2), that add up to n in Waterbirds' proportions."""
    return proportional_counts(np.array(WATERBIRDS), n)


def descriptions(data: Dataset, seed: int = 0) -> tuple[Description, ...]:
    """What a teacher would say of each image of this domain, (N,): keywords of the object and of the background.

    For the object its class, its name and two or three of its traits, for the background two or three words. Which of
    them depends on the seed and on the image's place in the set.
    """
    from ravl_core.language.description import Description

    return tuple(Description(*words) for words in _keywords(data, seed))


def _keywords(data: Dataset, seed: int) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    random = stream(seed, "habitats", "descriptions")
    for label, source, in_street in zip(data.labels, data.sources, data.feature_present, strict=True):
        name, habitat = OBJECTS[source], HABITATS[int(in_street)]
        yield (CLASS_NAMES[label], name, *_some(TRAITS[name], random)), _some(BACKGROUNDS[habitat], random)


def _some(words: tuple[str, ...], random: np.random.Generator) -> tuple[str, ...]:
    """Two or three of the words, in random order."""
    return tuple(words[i] for i in random.permutation(len(words))[: random.integers(2, 4)])


def _told_captions(data: Dataset, seed: int) -> tuple[str, ...]:
    """Captions that say what a teacher would say, so that a text tower learns its words."""
    return tuple(TEMPLATES[0].format(", ".join(objects + ground)) for objects, ground in _keywords(data, seed))


@cache
def _material(split: str, habitat: str) -> Material:
    return Material(
        cores=tuple(tuple(_core(label, name) for name in OBJECTS[2 * label : 2 * label + 2]) for label in (0, 1)),
        feature=red_rectangles(),  # never drawn
        distractors=tuple(map(_object, DISTRACTORS)),
        backgrounds=tuple(_background(SPLITS.index(split), *ground) for ground in _GROUNDS[habitat]),
    )


def _core(label: int, name: str) -> CutOut:
    """The object in grey and mist, called by its class."""
    colours, opacity = np.split(_object(name).pixels.astype(np.float64), [3], axis=2)
    grey = colours.mean(axis=2, keepdims=True).repeat(3, axis=2)
    pixels = np.concatenate([grey, OPACITY * opacity], axis=2).round().astype(np.uint8)
    return CutOut(CLASS_NAMES[label], pixels, source=OBJECTS.index(name))
