"""Whole photographs of COCO, for real CLIP models; a correlation is planted by which photographs are drawn.

A photograph has a class if it holds a category of that class and none of another. It shows the feature if it holds the
feature's category. Holding means a box of at least `SMALLEST`; a photograph whose only boxes of the feature are smaller
is neither with nor without it and is left out.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ravl_core.checks import choice, class_indices, same_length, truths
from ravl_core.domains.coco_folder import CocoFolder, read_coco_folder
from ravl_core.domains.coverage import ranges, shows
from ravl_core.domains.dataset import Dataset
from ravl_core.progress import track
from ravl_core.randomness import stream
from ravl_core.regions import grid_boxes, quadrants

CLASSES = {  # COCO's supercategories but for the first, which many photographs show with and without a chair
    "dining table": ("dining table",),
    "accessory": ("backpack", "umbrella", "handbag", "tie", "suitcase"),
    "electronic device": ("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
}
TEMPLATES = ("a photo of the {}", "a photo with the {}", "{}")
CAPTION = "a photo with the {}"
SMALLEST = 1 / 14**2  # of the photograph: one cell of the map that a ResNet's regions are cut from, at 224 px
# None for pretraining: models of photographs come pretrained. Val and test get as much as fine-tuning together, as
# they need the rare side of each class as often as the common one.
SHARES = {"pretraining": 0.0, "finetuning": 0.5, "val": 0.25, "test": 0.25}  # of each class with and without features


@dataclass(frozen=True)
class Coco:
    """The domain; see the module's text.

    Photographs are squeezed to a square (open_clip's resize mode "squash"), so that no box is cropped.
    """

    name: str = "coco"
    classes: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(CLASSES))  # names and their categories
    features: tuple[str, ...] = ("chair",)  # categories that belong to no class
    image_size: int = 224  # pixels
    regions: str = "objects"  # COCO's boxes of all categories, quadrants too where there are fewer than 2; or "grid"
    folder: Path | None = None  # see `read_coco_folder`

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, (C,)."""
        return tuple(self.classes)

    def compose(self, split: str, labels: np.ndarray, feature_present: np.ndarray, seed: int, feature: str) -> Dataset:
        """A photograph for each label (N,), with the feature where `feature_present` (N,) says so; none twice.

        It is paired with one of its own captions. Where none of these names the class, a phrase that does is added.

        Raises
        ------
        ValueError
            The split has too few photographs of some class with or without the feature; the message lists them. Or an
            unknown split, feature, category or kind of regions, a label that is no class, sides of different lengths.
        FileNotFoundError
            There is no COCO folder.
        """
        labels = class_indices("labels", labels, len(self.classes))
        feature_present = truths("feature_present", feature_present)
        same_length(labels=labels, feature_present=feature_present)
        coco, random = read_coco_folder(self.folder), stream(seed, "coco", split)
        images = self._draw(self._pools(coco, split, feature), labels, feature_present, random, (split, feature))
        captions = tuple(self._caption(coco, *pair, random) for pair in zip(images, labels, strict=True))
        return Dataset(
            images=_read_images([coco.image_paths[image] for image in images], self.image_size),
            labels=labels,
            captions=captions,
            class_names=self.class_names,
            templates=TEMPLATES,
            feature_present=feature_present,
            sources=coco.image_ids[images],
            **self._boxes(coco, images, labels, feature),
        )

    def available(self, split: str, feature: str) -> np.ndarray:
        """How many photographs of each class a split holds without and with the feature, (C, 2)."""
        pools = self._pools(read_coco_folder(self.folder), split, feature)
        return np.array([[len(pool) for pool in sides] for sides in pools])

    def _pools(self, coco: CocoFolder, split: str, feature: str) -> list[list[np.ndarray]]:
        """Photographs of the split: for each class, those without and those with the feature."""
        choice("feature", feature, self.features)
        part = list(SHARES).index(choice("split", split, SHARES))
        labels, present = self._labels(coco), _presence(coco, feature)
        own = self._splits(coco) == part
        sides = [own & (present == side) for side in (0, 1)]
        return [[np.flatnonzero(side & (labels == label)) for side in sides] for label in range(len(self.classes))]

    def _labels(self, coco: CocoFolder) -> np.ndarray:
        """The class of each photograph (I,); -1 where it has none or several."""
        held = np.stack([_largest_share(coco, members) >= SMALLEST for members in self.classes.values()])
        return np.where(held.sum(axis=0) == 1, held.argmax(axis=0), -1)

    def _splits(self, coco: CocoFolder) -> np.ndarray:
        """The split of each photograph (I,), in the order of SHARES, the same for every seed.

        Each group of photographs with the same class and features is divided by the shares.
        """
        kinds = np.stack([self._labels(coco), *(_presence(coco, name) for name in self.features)], axis=1)
        _, group, size = np.unique(kinds, axis=0, return_inverse=True, return_counts=True)
        group = group.reshape(-1)
        order = np.lexsort((stream(0, "coco", "splits").random(len(group)), group))
        place = np.empty(len(group), dtype=np.int64)  # within the group
        place[order] = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
        return np.searchsorted(np.cumsum(list(SHARES.values())), (place + 0.5) / size[group], side="right")

    def _draw(self, pools, labels, feature_present, random, where: tuple[str, str]) -> np.ndarray:
        """Photographs (N,) out of the pools of their class and side."""
        images, lacking = np.empty(len(labels), dtype=np.int64), []
        for label, sides in enumerate(pools):
            for side, pool in enumerate(sides):
                cell = (labels == label) & (feature_present == bool(side))
                if cell.sum() > len(pool):
                    which = f"{self.class_names[label]} {'with' if side else 'without'} {where[1]}"
                    lacking.append(f"{which}: {cell.sum()} wanted, {len(pool)} there")
                else:
                    images[cell] = random.permutation(pool)[: cell.sum()]
        if lacking:
            raise ValueError(f"the COCO folder has too few photographs for the {where[0]} split ({'; '.join(lacking)})")
        return images

    def _caption(self, coco: CocoFolder, image: int, label: int, random: np.random.Generator) -> str:
        own, name = coco.captions[image], self.class_names[label]
        named = [caption for caption in own if name in caption.lower()]
        phrase = CAPTION.format(name)
        texts = named or [f"{caption.rstrip(' .')}, {phrase}" for caption in own] or [phrase]
        return texts[random.integers(len(texts))]

    def _boxes(self, coco: CocoFolder, images: np.ndarray, labels: np.ndarray, feature: str) -> dict:
        """The boxes of the Dataset and what they show: an object's own box its category, a cell what lies in it."""
        first, last = (np.searchsorted(coco.box_image, images, side) for side in ("left", "right"))
        rows, owner = ranges(first, last - first), np.repeat(np.arange(len(images)), last - first)
        sizes = np.tile(coco.image_sizes[coco.box_image[rows]], 2)
        objects = (coco.boxes[rows] / sizes * self.image_size).astype(np.float32)
        names = np.array(coco.categories, dtype=object)[coco.box_category[rows]]
        boxes, image_index, box_names = self._regions(objects, owner, names, len(images))
        shown = {}
        for what, own, of_boxes in (
            ("shows_core", self._of_class(names, labels[owner]), self._of_class(box_names, labels[image_index])),
            ("shows_feature", names == feature, box_names == feature),
        ):
            in_cells = (box_names == "") & shows(boxes, image_index, objects[own], owner[own])
            shown[what] = of_boxes | in_cells
        return {"boxes": boxes, "image_index": image_index, "box_names": tuple(box_names)} | shown

    def _of_class(self, categories: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each category (A,) is one of the class beside it (A,)."""
        members = [np.isin(categories, list(names)) for names in self.classes.values()]
        return np.stack(members)[labels, np.arange(len(labels))]

    def _regions(self, objects, owner, names, n_images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes, the image of each, and their names: "" for cells of a grid."""
        if choice("regions", self.regions, ("objects", "grid")) == "grid":
            boxes, image_index = grid_boxes(n_images, self.image_size, self.image_size, 3, 3)
            return boxes, image_index, np.full(len(boxes), "", dtype=object)
        few = np.flatnonzero(np.bincount(owner, minlength=n_images) < 2)
        cells, cell_image = quadrants(len(few), self.image_size, self.image_size)
        image_index = np.concatenate([owner, few[cell_image]])
        order = np.argsort(image_index, kind="stable")
        names = np.concatenate([names, np.full(len(cells), "", dtype=object)])
        return np.concatenate([objects, cells])[order], image_index[order], names[order]


def domain() -> Coco:
    """The domain with its default classes and feature."""
    return Coco()


def _largest_share(coco: CocoFolder, categories: tuple[str, ...]) -> np.ndarray:
    """How much of each photograph the largest box of these categories covers, (I,); 0 where there is none."""
    wanted = [coco.categories.index(choice("category", name, coco.categories)) for name in categories]
    area = (coco.boxes[:, 2:] - coco.boxes[:, :2]).prod(axis=1)
    share = np.where(np.isin(coco.box_category, wanted), area, 0) / coco.image_sizes[coco.box_image].prod(axis=1)
    largest = np.zeros(len(coco.image_ids))
    np.maximum.at(largest, coco.box_image, share)
    return largest


def _presence(coco: CocoFolder, feature: str) -> np.ndarray:
    """Whether each photograph holds the feature, (I,): 1 yes, 0 no, -1 too small to say."""
    share = _largest_share(coco, (feature,))
    return np.select([share >= SMALLEST, share == 0], [1, 0], -1)


def _read_images(paths: list[Path], size: int) -> np.ndarray:
    from PIL import Image

    images = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    for row, path in enumerate(track(paths, "reading photographs")):
        try:
            with Image.open(path) as image:
                images[row] = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path}: expected a photograph that can be read, {error}") from error
    return images
