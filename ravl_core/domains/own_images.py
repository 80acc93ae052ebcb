"""A user's own labelled images: a folder per class, a csv, COCO json or WILDS metadata; nothing skipped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core import checks
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.image_files import read_images_of
from ravl_core.domains.listings import Listing, Note, checked_classes, list_source
from ravl_core.progress import track
from ravl_core.randomness import stream

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Labelled images at the model's resolution, and where each came from; N images, M boxes, C classes."""

    images: np.ndarray = field(repr=False)  # (N, S, S, 3) uint8
    labels: np.ndarray = field(repr=False)  # (N,) class indices
    class_names: tuple[str, ...]  # (C,)
    names: tuple[str, ...] = field(repr=False)  # (N,) each file as the source names it; unique
    sizes: np.ndarray = field(repr=False)  # (N, 2) width and height of each file's image, in pixels
    windows: np.ndarray = field(repr=False)  # (N, 4) the part of it that is shown: x1, y1, x2, y2 in its pixels
    boxes: np.ndarray | None = field(default=None, repr=False)  # (M, 4) the data's own, in pixels of `images`
    image_index: np.ndarray | None = field(default=None, repr=False)  # (M,) non-decreasing
    box_names: tuple[str, ...] | None = field(default=None, repr=False)  # (M,) what each box shows, where known
    captions: tuple[str, ...] | None = field(default=None, repr=False)  # (N,) where the source has some
    groups: np.ndarray | None = field(default=None, repr=False)  # (N,) str: what belongs together (a patient)
    metadata: pandas.DataFrame | None = field(default=None, repr=False)  # (N rows) the source's other columns
    notes: tuple[Note, ...] = field(default=(), repr=False)  # of files converted or skipped, in the source's order

    def __len__(self) -> int:
        return len(self.labels)

    def dataset(self, boxes: np.ndarray, image_index: np.ndarray, templates: tuple[str, ...]) -> Dataset:
        """These images with some regions, as stage 1 takes them; the captions are the source's or the first prompt."""
        own = self.captions or [""] * len(self)
        prompts = [templates[0].format(self.class_names[label]) for label in self.labels]
        captions = tuple(text or prompt for text, prompt in zip(own, prompts, strict=True))
        data = self.images, self.labels, captions, self.class_names, tuple(templates), boxes, image_index
        return Dataset(*data, sources=self.groups)

    def in_files(self, boxes: np.ndarray, image_index: np.ndarray) -> np.ndarray:
        """Boxes (M, 4) in pixels of `images` → boxes in pixels of the files they are of."""
        height, width = self.images.shape[1:3]
        windows = self.windows[image_index]  # (M, 4)
        corner, size = windows[:, :2], windows[:, 2:] - windows[:, :2]
        shares = np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2) / [width, height]  # (M, corners, xy)
        return (corner[:, None] + shares * size[:, None]).reshape(-1, 4)


def read_images(
    source: Path | str,
    classes: Sequence[str] | None = None,
    size: int = 224,
    fit: str = "squash",
    columns: Mapping[str, str] | None = None,
    split: str | int | None = None,
    most: int | None = None,
    seed: int = 0,
) -> OwnImages:
    """Read labelled images; what is converted, skipped or left out is in the notes (see `count_notes`).

    Parameters
    ----------
    source : one of

        - a folder that holds a folder of images for each class, at any depth below it;
        - a .csv (UTF-8) with columns path (from the csv's folder or its images/), label (a name, or an index into
          `classes`), and perhaps caption, group, boxes (JSON, [[x1, y1, x2, y2], …] in pixels of the file), split;
          the others are metadata;
        - a folder with such a table called metadata.csv, as WILDS has (img_filename, y, split);
        - a .json in COCO's instances format, its images in images/ beside it, beside it, or as COCO is published. An
          image's class is the one of `classes` that it holds; all its boxes are read, crowds aside.
    classes : (C,) names; by default all folders, labels or categories, sorted (categories as they come).
    size : S, the side of the images in pixels.
    fit : "squash" or "centre", see `read_image`.
    columns : other names of a table's columns, such as {"path": "file_name", "group": "patient"}.
    split : rows of a table whose split is this one only; WILDS's 0, 1, 2 are "train", "val", "test".
    most : at most so many images, drawn before any is read, as evenly over the classes as they allow.
    seed : what the draw depends on.

    Boxes are clipped to what is shown. One that has no area in its file is a "bad box", one of which less than a pixel
    is shown a "box not shown"; both are left out. An image without a group is a group of its own.

    Raises
    ------
    FileNotFoundError
        No such source, or no folder of a class.
    ValueError
        Fewer than two classes or one twice, a class without a readable image, a column or category that is not there,
        a table or json that cannot be read.
    """
    checks.whole_number("size", size, 1)
    seed = checks.whole_number("seed", seed, 0)
    listing = list_source(source, classes, columns, split)
    if most is not None:
        checks.whole_number("most", most, len(listing.class_names))
        chosen = _even_draw(listing, most, seed)
        metadata = None if listing.metadata is None else listing.metadata.iloc[chosen]
        listing = Listing(listing.class_names, listing.files.iloc[chosen], metadata, listing.notes)
    return _read_listing(listing, size, fit)


def from_arrays(
    images: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    boxes: np.ndarray | None = None,
    image_index: np.ndarray | None = None,
    groups: Sequence | None = None,
) -> OwnImages:
    """Images (N, H, W, 3) uint8 that are in memory, with labels (N,); the other arguments as in `OwnImages`.

    Raises
    ------
    ValueError
        An array that is not of that kind, or sides that do not fit together.
    """
    images = checks.numbers("images", images, 4, "u")
    if images.dtype != np.uint8 or images.shape[3] != 3 or 0 in images.shape:
        raise ValueError(f"images: expected (N, H, W, 3) uint8, one image at least, got {images.shape} {images.dtype}")
    names, (n_images, height, width) = checked_classes(classes), images.shape[:3]
    labels = checks.class_indices("labels", labels, len(names))
    groups = None if groups is None else np.array([str(group) for group in groups])
    checks.same_length(images=images, labels=labels, **({} if groups is None else {"groups": groups}))
    if boxes is not None:
        boxes = checks.boxes("boxes", boxes, width, height)
        image_index = checks.sorted_image_index("image_index", image_index, n_images)
        checks.same_length(boxes=boxes, image_index=image_index)
    return OwnImages(
        images=images,
        labels=labels,
        class_names=names,
        names=tuple(f"image {row}" for row in range(n_images)),
        sizes=np.tile([width, height], (n_images, 1)),
        windows=np.tile([0.0, 0.0, width, height], (n_images, 1)),
        boxes=boxes,
        image_index=image_index,
        groups=groups,
    )


def count_notes(notes: Sequence[Note]) -> pandas.DataFrame:
    """How many files each kind of note is of, the most first: kind, kept, files, example."""
    import pandas

    counts, examples = Counter(), {}
    for note in notes:
        counts[note.kind, note.kept] += note.n_files
        examples.setdefault((note.kind, note.kept), f"{note.name}: {note.detail}")
    rows = [(*key, files, examples[key]) for key, files in counts.most_common()]
    return pandas.DataFrame(rows, columns=["kind", "kept", "files", "example"])


def _even_draw(listing: Listing, most: int, seed: int) -> np.ndarray:
    """Rows of the listing, ascending: each class gives one in turn, by chance, until there are `most`."""
    labels = listing.files.label.to_numpy()
    turn = np.empty(len(labels), dtype=np.int64)
    for label, name in enumerate(listing.class_names):
        own = np.flatnonzero(labels == label)
        turn[own] = stream(seed, "own images", name).permutation(len(own))
    return np.sort(np.lexsort((labels, turn))[:most])


def _read_listing(listing: Listing, size: int, fit: str) -> OwnImages:
    """Each image is in memory once, as there may be many: those that can be read fill the array from the front."""
    kept, read, notes = [], [], list(listing.notes)
    images = np.empty((len(listing.files), size, size, 3), dtype=np.uint8)
    results = track(read_images_of(list(listing.files.path), size, fit), "reading images", total=len(images))
    for row, (name, file) in enumerate(zip(listing.files.name, results, strict=True)):
        readable = file.pixels is not None
        notes += [Note(name, kind, detail, readable) for kind, detail in file.notes]
        if readable:
            images[len(kept)] = file.pixels
            kept.append(row)
            read.append((*file.size, *file.window))
    files, geometry = listing.files.iloc[kept], np.array(read).reshape(-1, 6)
    labels = files.label.to_numpy(dtype=np.int64)
    _check_each_class_is_there(listing.class_names, labels, notes)
    return OwnImages(
        images=images[: len(kept)],
        labels=labels,
        class_names=listing.class_names,
        names=tuple(files.name),
        sizes=geometry[:, :2].astype(np.int64),
        windows=geometry[:, 2:],
        **_boxes_shown(files, geometry, size, notes),
        captions=tuple(files.caption) if "caption" in files else None,
        groups=np.where(files.group == "", files.name, files.group).astype(str) if "group" in files else None,
        metadata=None if listing.metadata is None else listing.metadata.iloc[kept].reset_index(drop=True),
        notes=tuple(notes),
    )


def _check_each_class_is_there(class_names: Sequence[str], labels: np.ndarray, notes: Sequence[Note]) -> None:
    if lacking := [name for label, name in enumerate(class_names) if label not in labels]:
        counts = count_notes([note for note in notes if not note.kept])
        skipped = "; ".join(f"{row.files} {row.kind} ({row.example})" for row in counts.itertuples())
        raise ValueError(f"source: no readable image of {', '.join(lacking)}; skipped: {skipped or 'none'}")


def _boxes_shown(files: pandas.DataFrame, geometry: np.ndarray, size: int, notes: list[Note]) -> dict:
    """The source's boxes in pixels of the images, float32; adds to the notes how many are left out and why."""
    if "boxes" not in files:
        return {}
    found, names = [np.empty((0, 4))], []
    for file, (width, height, *window) in zip(files.itertuples(), geometry, strict=True):
        whole = np.clip(file.boxes, 0, [width, height] * 2)  # NaN stays NaN
        corner, extent = np.tile(window[:2], 2), np.tile(np.subtract(window[2:], window[:2]), 2)
        shown = np.clip((whole - corner) / extent * size, 0, size)
        good, large = _least_side(whole) > 0, _least_side(shown) >= 1
        for kind, out in (("bad box", ~good), ("box not shown", good & ~large)):
            if out.any():
                notes.append(Note(file.name, kind, f"{out.sum()} of {len(out)} boxes", True))
        found.append(shown[large])
        names += [name for name, kept in zip(getattr(file, "box_names", ()), large, strict=False) if kept]
    return {
        "boxes": np.concatenate(found).astype(np.float32),
        "image_index": np.repeat(np.arange(len(files)), [len(boxes) for boxes in found[1:]]),
        "box_names": tuple(names) if "box_names" in files else None,
    }


def _least_side(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
