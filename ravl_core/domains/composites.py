"""Composites: cut-outs of real objects, and where asked a feature, on crops of real backgrounds, 64×64 pixels.

Each image has a core object, which its label names; a feature, where asked; with probability 1/2 a distractor, which
says nothing about the label; and boxes of all of them and of two patches of background, in random order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravl_core.checks import class_indices, same_length, truths
from ravl_core.domains.coverage import shows
from ravl_core.domains.dataset import Dataset

SIDE = 64  # pixels of an image
MASTER = 64  # pixels of the longest side of a cut-out before it is scaled
LONGEST = ((30, 44), (24, 32), (14, 22))  # pixels of the longest side of core, feature and distractor; any two fit
BACKGROUND = (48, 192)  # pixels of the square that an image's background is scaled from
MOST_COVERED = 0.2  # of a box by another one of its image
TURN = 8  # degrees at most, either way
TRIES = 48  # random layouts of an image, of which the first good one is taken
RED = (255, 0, 0)
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}", "{}")  # zero-shot
CAPTIONS = (
    "a photo with a {}",
    "there is a {} in the picture",
    "the picture shows a {}",
    "one can see a {} here",
)


@dataclass(frozen=True)
class CutOut:
    """One object without its surroundings, or a piece of background."""

    name: str  # "" for a background
    pixels: np.ndarray  # (h, w, 4) uint8: red, green, blue, opacity; (h, w, 3) for a background
    source: int = -1  # which real object it is
    credit: str = ""  # address of the photograph, where it has to be named
    rigid: bool = False  # drawn as it is: neither turned nor recoloured


@dataclass(frozen=True)
class Material:
    """What the images of one split are made of."""

    cores: tuple[tuple[CutOut, ...], ...]  # of each class, named as the class
    feature: tuple[CutOut, ...]
    distractors: tuple[CutOut, ...]
    backgrounds: tuple[CutOut, ...]


def red_rectangles() -> tuple[CutOut, ...]:
    """Flat red rectangles, from upright to lying."""
    sides = [(MASTER, MASTER), (MASTER, 44), (44, MASTER), (MASTER, 32), (32, MASTER)]
    pictures = [np.full((height, width, 4), (*RED, 255), dtype=np.uint8) for height, width in sides]
    return tuple(CutOut("red rectangle", picture, rigid=True) for picture in pictures)


def cut_out(name: str, picture: np.ndarray, opacity: np.ndarray, source: int = -1, credit: str = "") -> CutOut:
    """The opaque part of a picture (h, w, 3) uint8 with opacity (h, w) in 0…1, scaled to `MASTER` pixels."""
    from PIL import Image

    rows, columns = (np.flatnonzero((opacity > 0.5).any(axis=axis)) for axis in (1, 0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels = np.dstack([picture[part], (255 * opacity[part]).round().astype(np.uint8)])
    scale = MASTER / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return CutOut(name, scaled, source, credit)


def compose(
    material: Material, labels: np.ndarray, feature_present: np.ndarray, random: np.random.Generator
) -> Dataset:
    """One image for each label (N,), with the feature where `feature_present` (N,) says so.

    Everything is drawn for every image, whether it holds the feature or not: with generators of the same state, the
    images with and without the feature differ in its pixels alone.

    Raises ValueError for a label that is no class, or sides of different lengths.
    """
    class_names = tuple(cores[0].name for cores in material.cores)
    chosen, is_drawn = _choose(material, labels, feature_present, random)
    patches, sizes = _render_objects(chosen[:, :3], random)
    places = _lay_out(sizes, random)
    object_boxes = np.concatenate([places, places + sizes], axis=2)  # (N, 3, 4)
    boxes, image_index, kinds = _boxes(object_boxes, is_drawn, random)
    shown = [_shown(boxes, image_index, object_boxes[:, kind], is_drawn[:, kind]) for kind in range(3)]
    kinds = np.select(shown, [0, 1, 2], kinds)  # where there was no room, a background box may show an object
    names = np.array([[one.name for one in row] for row in chosen], dtype=object).reshape(chosen.shape)
    phrases = random.integers(0, len(CAPTIONS), len(labels))
    return Dataset(
        images=_paint(chosen[:, 3], patches, places, is_drawn, random),
        labels=np.asarray(labels, dtype=np.int64),
        captions=tuple(CAPTIONS[p].format(class_names[c]) for p, c in zip(phrases, labels, strict=True)),
        class_names=class_names,
        templates=TEMPLATES,
        boxes=boxes.astype(np.float32),
        image_index=image_index,
        shows_core=shown[0],
        shows_feature=shown[1],
        feature_present=is_drawn[:, 1],
        box_names=tuple(names[image_index, kinds.clip(max=3)]),
        sources=np.array([core.source for core in chosen[:, 0]], dtype=np.int64),
    )


def credits(
    material: Material, labels: np.ndarray, feature_present: np.ndarray, random: np.random.Generator
) -> tuple[str, ...]:
    """Addresses of the photographs that `compose` takes parts of, given a generator of the same state."""
    chosen, is_drawn = _choose(material, labels, feature_present, random)
    return tuple(sorted({one.credit for one in chosen[is_drawn]} - {""}))


def _choose(
    material: Material, labels: np.ndarray, feature_present: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Core, feature, distractor and background of every image, (N, 4), and which of them are drawn, (N, 4) bool."""
    labels = class_indices("labels", labels, len(material.cores))
    feature_present = truths("feature_present", feature_present)
    same_length(labels=labels, feature_present=feature_present)
    chosen = np.empty((len(labels), 4), dtype=object)
    for label, cores in enumerate(material.cores):
        own = np.flatnonzero(labels == label)
        chosen[own, 0] = _in_turn(cores, len(own), random)
    for kind, parts in enumerate((material.feature, material.distractors, material.backgrounds), 1):
        chosen[:, kind] = _in_turn(parts, len(labels), random)
    always = np.ones(len(labels), dtype=bool)
    return chosen, np.stack([always, feature_present, random.random(len(labels)) < 0.5, always], axis=1)


def _in_turn(items: Sequence, count: int, random: np.random.Generator) -> list:
    """So many of the items, in random order; every one is used before one is used again."""
    rounds = -(-count // len(items))
    return [items[i] for _ in range(rounds) for i in random.permutation(len(items))][:count]


def _render_objects(chosen: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Each of (N, 3) objects as it will be pasted, (N, 3) of (h, w, 4), and its width and height, (N, 3, 2)."""
    draws = random.random((*chosen.shape, 7))
    patches = np.empty(chosen.shape, dtype=object)
    sizes = np.empty((*chosen.shape, 2), dtype=np.int64)
    for place in np.ndindex(chosen.shape):
        patches[place] = _render(chosen[place], LONGEST[place[1]], draws[place])
        sizes[place] = patches[place].shape[1::-1]
    return patches, sizes


def _render(one: CutOut, longest: tuple[int, int], draw: np.ndarray) -> np.ndarray:
    """The object turned, flipped, scaled and recoloured as `draw` (7,) in 0…1 says, cropped to itself: (h, w, 4)."""
    from PIL import Image

    picture = Image.fromarray(one.pixels)
    if not one.rigid:
        if draw[0] < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = picture.rotate(TURN * (2 * draw[1] - 1), Image.Resampling.BILINEAR, expand=True)
    box = picture.getbbox()
    width, height = box[2] - box[0], box[3] - box[1]
    scale = round(longest[0] + draw[2] * (longest[1] - longest[0])) / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = np.array(picture.resize(size, Image.Resampling.HAMMING, box=box), dtype=np.float32)
    if not one.rigid:
        pixels[..., :3] *= (0.8 + 0.4 * draw[3]) * (0.92 + 0.16 * draw[4:])  # light, and its colour
    return pixels.clip(0, 255).astype(np.uint8)


def _lay_out(sizes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Left and top (N, 3, 2) of objects of these sizes, so that none covers much of another.

    The last layout tried has each object in a corner of its own, core and feature in opposite ones: that is good.
    """
    n_images = len(sizes)
    core, beside = random.integers(0, 4, n_images), random.integers(1, 3, n_images)
    corners = np.stack([core, 3 - core, core ^ beside], axis=1)  # (N, 3) of core, feature, distractor
    corners = np.stack([corners % 2, corners // 2], axis=2)[:, None]  # (N, 1, 3, 2)
    tried = np.concatenate([random.random((n_images, TRIES, 3, 2)), corners], axis=1)
    places = np.rint(tried * (SIDE - sizes)[:, None]).astype(np.int64)  # (N, T, 3, 2)
    boxes = np.concatenate([places, places + sizes[:, None]], axis=3)
    worst = np.max([_overlap(boxes[:, :, a], boxes[:, :, b]) for a, b in ((0, 1), (0, 2), (1, 2))], axis=0)
    return places[np.arange(n_images), _first_good(worst)]


def _overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """What two boxes (..., 4) share, as a part of the smaller one."""
    shared = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    areas = [(side[..., 2:] - side[..., :2]).prod(axis=-1) for side in (boxes, others)]
    return shared.clip(min=0).prod(axis=-1) / np.minimum(*areas)


def _first_good(overlap: np.ndarray) -> np.ndarray:
    """The first try (N,) of tries (N, T) with little overlap, or the one with least."""
    good = overlap <= MOST_COVERED
    return np.where(good.any(axis=1), good.argmax(axis=1), overlap.argmin(axis=1))


def _boxes(
    object_boxes: np.ndarray, is_drawn: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4) of what is drawn and of two patches of background, their images, and what each is.

    0 is a core, 1 a feature, 2 a distractor, 3 and 4 are background.
    """
    n_images = len(object_boxes)
    boxes = object_boxes
    for _ in range(2):
        boxes = np.concatenate([boxes, _box_beside(boxes, random)[:, None]], axis=1)  # in the end (N, 5, 4)
    kinds = random.random((n_images, 5)).argsort(axis=1)
    kept = np.take_along_axis(is_drawn, kinds.clip(max=3), axis=1)  # (N, 5)
    image_index = np.repeat(np.arange(n_images), kept.sum(axis=1))
    return boxes[image_index, kinds[kept]], image_index, kinds[kept]


def _box_beside(boxes: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A box (N, 4) in each image with sides of 16…32 pixels that shares little with those there are (N, B, 4)."""
    sizes = random.integers(SIDE // 4, SIDE // 2 + 1, (len(boxes), TRIES, 2))
    corners = np.rint(random.random(sizes.shape) * (SIDE - sizes)).astype(np.int64)
    tried = np.concatenate([corners, corners + sizes], axis=2)  # (N, T, 4)
    worst = _overlap(tried[:, :, None], boxes[:, None]).max(axis=2)
    return tried[np.arange(len(tried)), _first_good(worst)]


def _shown(boxes: np.ndarray, image_index: np.ndarray, object_boxes: np.ndarray, is_drawn: np.ndarray) -> np.ndarray:
    """Whether each box shows the object (N, 4) of its image, if that is drawn."""
    images = np.flatnonzero(is_drawn)
    return shows(boxes, image_index, object_boxes[images], images)


def _paint(
    backgrounds: np.ndarray, patches: np.ndarray, places: np.ndarray, is_drawn: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Images (N, 64, 64, 3) uint8: a background each, and on it the patches (N, 3) that are drawn."""
    images = np.empty((len(backgrounds), SIDE, SIDE, 3), dtype=np.uint8)
    for image, background, draw in zip(images, backgrounds, random.random((len(images), 8)), strict=True):
        image[:] = _crop(background.pixels, draw)
    for image, kind in np.argwhere(is_drawn[:, :3]):
        _paste(images[image], patches[image, kind], *places[image, kind])
    return images


def _crop(picture: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """A square of a picture, flipped and recoloured as `draw` (8,) in 0…1 says: (64, 64, 3)."""
    from PIL import Image

    height, width = picture.shape[:2]
    smallest, largest = (min(height, width, side) for side in BACKGROUND)
    side = smallest + draw[0] * (largest - smallest)
    left, top = draw[1] * (width - side), draw[2] * (height - side)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
    light = (0.8 + 0.4 * draw[4]) * (0.92 + 0.16 * draw[5:])  # and its colour
    return (pixels[:, :: 1 if draw[3] < 0.5 else -1] * light).clip(0, 255)


def _paste(image: np.ndarray, patch: np.ndarray, left: int, top: int) -> None:
    """Blend a patch (h, w, 4) into an image (64, 64, 3), in place."""
    height, width = patch.shape[:2]
    under = image[top : top + height, left : left + width]
    opacity = patch[..., 3:] / np.float32(255)
    under[:] = np.rint(under * (1 - opacity) + patch[..., :3] * opacity)
