"""Objects of COCO's photographs (Lin et al. 2014), cropped and put together anew; read from a folder of the user's.

Every split has its own photographs: objects, features, distractors and backgrounds of different splits are disjoint.
Crops are rectangles with rounded, soft edges, so that some of an object's surroundings come along.

Photographs on COCO have licences of their own. `CocoObjects(open_licences_only=True)` composes from those alone that
may be shown in public, and `credits` names them.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ravl_core.checks import choice
from ravl_core.domains import composites
from ravl_core.domains.coco_folder import CocoFolder, find_coco_folder, read_coco_folder
from ravl_core.domains.composites import CutOut, Material, cut_out, red_rectangles
from ravl_core.domains.dataset import Dataset
from ravl_core.progress import track
from ravl_core.randomness import stream

SHARES = {"pretraining": 0.3, "finetuning": 0.4, "val": 0.15, "test": 0.15}  # of the objects of each category
CLASS_NAMES = ("car", "bus", "horse", "motorcycle", "tv")
OBJECT_FEATURES = ("person", "banana")  # COCO's categories, as are the classes
DISTRACTORS = ("elephant", "bird", "boat", "pizza", "cup", "bowl", "cake", "toilet", "teddy bear")
SHORTEST_SIDE = 24  # pixels of a usable object's box
NARROWEST, WIDEST = 0.4, 2.5  # its width over its height
MOST_COVERED = 0.5  # of it by one box of another category, which then is what one sees
LEAST_OBJECTS, MOST_OBJECTS = 8, 150  # of a category in a split: fewer are an error, more are left out
MOST_BACKGROUNDS = 150  # of a split
MOST_BOX_IN_BACKGROUND = 0.15  # of it, that the box of a category without a part here may cover
OPEN_LICENCES = (4, 5, 7)  # CC BY, CC BY-SA, no known copyright restrictions


@dataclass(frozen=True)
class CocoObjects:
    """The domain; see the module's text."""

    name: str = "coco_objects"
    class_names: tuple[str, ...] = CLASS_NAMES
    features: tuple[str, ...] = ("red rectangle", *OBJECT_FEATURES)
    open_licences_only: bool = False  # what can be shown in public; then one object of a category is enough
    folder: Path | None = None  # in COCO's format; None: found in RAVL_DATA

    def compose(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = "red rectangle"
    ) -> Dataset:
        """One image for each label (N,), with the feature where `feature_present` (N,) says so.

        Raises
        ------
        ValueError
            An unknown split or feature, a label that is no class, sides of different lengths, or a folder with too
            few objects of a category.
        FileNotFoundError
            There is no COCO folder.
        """
        material, random = self._material(split, feature), stream(seed, self.name, split)
        return composites.compose(material, labels, feature_present, random)

    def credits(
        self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str = "red rectangle"
    ) -> tuple[str, ...]:
        """Addresses on Flickr of all photographs that went into what `compose` makes of the same arguments."""
        material, random = self._material(split, feature), stream(seed, self.name, split)
        return composites.credits(material, labels, feature_present, random)

    def _material(self, split: str, feature: str) -> Material:
        split, feature = choice("split", split, tuple(SHARES)), choice("feature", feature, self.features)
        folder = find_coco_folder() if self.folder is None else Path(self.folder)
        return _material_of(folder.resolve(), split, feature, self.open_licences_only)


def domain() -> CocoObjects:
    """The COCO objects domain, on the folder that RAVL_DATA holds."""
    return CocoObjects()


def usable_objects(coco: CocoFolder) -> np.ndarray:
    """Which boxes show one object well enough to be cropped, (A,) bool: large, not too long, and in the front."""
    sides = coco.boxes[:, 2:] - coco.boxes[:, :2]
    ratio = sides[:, 0] / sides[:, 1]
    good = (sides.min(axis=1) >= SHORTEST_SIDE) & (ratio >= NARROWEST) & (ratio <= WIDEST)
    return good & ~coco.is_crowd & (_covered(coco) <= MOST_COVERED)


def _covered(coco: CocoFolder) -> np.ndarray:
    """The part of each box that the one box of another category which covers most of it covers, (A,)."""
    covered = np.zeros(len(coco.boxes))
    for own in _boxes_by_image(coco):
        shared = _shared(coco.boxes[own], coco.boxes[own])
        shared[coco.box_category[own][:, None] == coco.box_category[own]] = 0
        covered[own] = (shared / _areas(coco.boxes[own])[:, None]).max(axis=1, initial=0)
    return covered


def _boxes_by_image(coco: CocoFolder) -> list[slice]:
    edges = np.searchsorted(coco.box_image, np.arange(len(coco.image_ids) + 1))
    return [slice(*pair) for pair in zip(edges[:-1], edges[1:], strict=True)]


def _shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pixels that boxes (A, 4) and others (B, 4) share: (A, B)."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    return sides.clip(min=0).prod(axis=2)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def split_of_images(coco: CocoFolder, usable: np.ndarray) -> np.ndarray:
    """The split of each image, (I,) index into `SHARES`; the same for every seed.

    Images are dealt out category by category, the rarest first, each to the split that lacks most of its share.
    """
    shares = np.array(list(SHARES.values()))
    split = np.full(len(coco.image_ids), -1)
    names = np.array(coco.categories)[coco.box_category]  # (A,)
    wanted = [*((name,) for name in (*CLASS_NAMES, *OBJECT_FEATURES)), DISTRACTORS]  # all distractors as one category
    counts = [np.bincount(coco.box_image[usable & np.isin(names, group)], minlength=len(split)) for group in wanted]
    for count in sorted(counts, key=np.sum):  # (I,) objects of a category in each image
        lacking = [share * count.sum() - count[split == s].sum() for s, share in enumerate(shares)]
        images = stream(0, "coco_objects", "splits").permutation(np.flatnonzero((count > 0) & (split < 0)))
        for image in images[np.argsort(-count[images], kind="stable")]:
            split[image] = np.argmax(lacking)
            lacking[split[image]] -= count[image]
    rest = np.flatnonzero(split < 0)
    split[rest] = stream(0, "coco_objects", "splits").choice(len(shares), len(rest), p=shares)
    return split


@cache
def _usable_by_split(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Usable boxes, and the split of each image; enough of every category is in every split."""
    coco = read_coco_folder(folder)
    usable = usable_objects(coco)
    part = split_of_images(coco, usable)
    for name in (*CLASS_NAMES, *OBJECT_FEATURES):
        for index, split in enumerate(SHARES):
            n = len(_objects_of(coco, usable & (part == index)[coco.box_image], name))
            _enough(folder, name, split, n, LEAST_OBJECTS)
    return usable, part


def _enough(folder: Path, name: str, split: str, n: int, least: int) -> None:
    if n < least:
        raise ValueError(f"{folder}: expected {least} or more usable pictures of {name!r} for {split}, got {n}")


def _objects_of(coco: CocoFolder, allowed: np.ndarray, name: str) -> np.ndarray:
    """Boxes of a category among those allowed (A,), `MOST_OBJECTS` at most: indices."""
    category = coco.categories.index(name) if name in coco.categories else -1
    own = np.flatnonzero(allowed & (coco.box_category == category))
    return stream(0, "coco_objects", "objects", name).permutation(own)[:MOST_OBJECTS]


@cache
def _material_of(folder: Path, split: str, feature: str, open_only: bool) -> Material:
    objects, backgrounds = _parts(folder, split, open_only)
    distractors = tuple(one for name in DISTRACTORS for one in objects[name])
    features = red_rectangles() if feature == "red rectangle" else objects[feature]
    cores = {name: objects[name] for name in CLASS_NAMES}
    for name, parts in (cores | {feature: features, "distractor": distractors, "background": backgrounds}).items():
        _enough(folder, name, split, len(parts), 1)
    return Material(tuple(cores.values()), features, distractors, backgrounds)


@cache
def _parts(folder: Path, split: str, open_only: bool) -> tuple[dict[str, tuple[CutOut, ...]], tuple[CutOut, ...]]:
    """Cut-outs by category, and pieces of background, from the photographs of the split."""
    coco = read_coco_folder(folder)
    usable, part = _usable_by_split(folder)
    images = part == list(SHARES).index(split)
    if open_only:
        images &= np.isin(coco.licenses, OPEN_LICENCES)
    names = (*CLASS_NAMES, *OBJECT_FEATURES, *DISTRACTORS)
    chosen = [_objects_of(coco, usable & images[coco.box_image], name) for name in names]
    boxes = np.concatenate(chosen)
    places, squares = _background_squares(coco, np.flatnonzero(images))
    crops = _read_crops(coco, np.append(coco.box_image[boxes], places), np.concatenate([coco.boxes[boxes], squares]))
    objects = iter([_soft(coco, *one) for one in zip(boxes, crops, strict=False)])
    cut_outs = {name: tuple(next(objects) for _ in own) for name, own in zip(names, chosen, strict=True)}
    pieces = zip(places, crops[len(boxes) :], strict=True)
    return cut_outs, tuple(CutOut("", crop, credit=coco.credits[image]) for image, crop in pieces)


def _background_squares(coco: CocoFolder, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squares (B, 4) that hold no class and no feature, and little of other boxes; the image of each."""
    random = stream(0, "coco_objects", "backgrounds")
    kept = np.isin(coco.categories, (*CLASS_NAMES, *OBJECT_FEATURES))
    own, places, squares = _boxes_by_image(coco), [], []
    for image in random.permutation(images):
        tried = _random_squares(coco.image_sizes[image], random)
        covered = _shared(tried, coco.boxes[own[image]]) / _areas(tried)[:, None]  # (T, boxes)
        limit = np.where(kept[coco.box_category[own[image]]], 0, MOST_BOX_IN_BACKGROUND)
        good = np.flatnonzero((covered <= limit).all(axis=1))
        if len(good) and len(places) < MOST_BACKGROUNDS:
            places.append(image)
            squares.append(tried[good[0]])
    return np.array(places, dtype=np.int64), np.array(squares).reshape(-1, 4)


def _random_squares(size: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Some squares (T, 4) in an image of that width and height, from its shorter side down to a quarter of it."""
    sides = np.rint(size.min() * random.uniform(0.25, 1, (24, 1)))
    corners = np.floor(random.random((24, 2)) * (size - sides))
    return np.concatenate([corners, corners + sides], axis=1)


def _read_crops(coco: CocoFolder, images: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """What each box (K, 4) of its image (K,) shows, (h, w, 3) uint8; every photograph is read once."""
    from PIL import Image

    crops = [None] * len(boxes)
    for image in track(np.unique(images), "reading photographs"):
        with Image.open(coco.image_paths[image]) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for k in np.flatnonzero(images == image):
            left, top, right, bottom = np.rint(boxes[k]).astype(int)
            crops[k] = pixels[top:bottom, left:right].copy()
    return crops


def _soft(coco: CocoFolder, box: int, crop: np.ndarray) -> CutOut:
    """The crop with rounded corners and edges that fade out."""
    height, width = crop.shape[:2]
    radius, fade = 0.3 * min(height, width), 0.12 * min(height, width)
    y, x = (np.abs(np.arange(side) + 0.5 - side / 2) - side / 2 + radius for side in (height, width))
    opacity = (radius - np.hypot(y.clip(min=0)[:, None], x.clip(min=0))) / fade
    name, credit = coco.categories[coco.box_category[box]], coco.credits[coco.box_image[box]]
    return cut_out(name, crop, opacity.clip(0, 1), int(box), credit)
