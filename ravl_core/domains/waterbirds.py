"""Waterbirds (Sagawa et al. 2020) as WILDS publishes it: birds of CUB on backgrounds of Places. Nothing is downloaded.

The label is the bird, the feature is the background: water.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.checks import choice, whole_number
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.image_files import read_images_of
from ravl_core.domains.listings import METADATA, SPLITS, Listing, list_source
from ravl_core.domains.proportions import proportional_counts
from ravl_core.progress import track
from ravl_core.randomness import stream

if TYPE_CHECKING:
    import pandas

CLASS_NAMES = ("landbird", "waterbird")
TEMPLATES = ("a photo of a {}.",)  # zero-shot and in fine-tuning
GRID = 3  # rows and columns of regions: the data set has no boxes
GET_WATERBIRDS = (
    "get the data set 'waterbirds' v1.0 of the WILDS benchmark (waterbird_complete95_forest2water2 of the authors of "
    "group DRO has the same layout), unpack it, and name the folder that holds metadata.csv (columns img_filename, y, "
    "split, place) and the folders of images"
)


def waterbirds(folder: Path | str, split: str, size: int = 224, n: int | None = None, seed: int = 0) -> Dataset:
    """Images of a split with nine regions each; where n is given so many of them, every group in its proportion.

    A group is a kind of bird on a kind of background; none is left without an image. Which boxes show the bird, and
    which photographs are the same bird, is unknown.

    Parameters
    ----------
    folder : with WILDS's metadata.csv and the images where it says.
    split : "train", "val" or "test": 4,795, 1,199 and 5,794 images.
    size : side of the images in pixels; it is the central square that is shown, as CLIP's preprocessing does.
    seed : what the choice of the n images depends on.

    Raises
    ------
    FileNotFoundError
        No such folder, or no metadata.csv in it; the message says how to get one.
    ValueError
        An unknown split, a table without WILDS's columns, an image that cannot be read, or n is above the images that
        there are or below the number of groups.
    """
    from ravl_core.regions import grid_boxes  # imports torch

    choice("split", split, SPLITS)
    whole_number("size", size, 1)
    listing = _list(Path(folder).expanduser(), split)
    labels, place = listing.files.label.to_numpy(np.int64), _places(listing)
    rows = np.arange(len(labels)) if n is None else _draw(labels, place, n, stream(seed, "waterbirds", split))
    boxes, image_index = grid_boxes(len(rows), size, size, GRID, GRID)
    return Dataset(
        images=_read(listing, rows, size),
        labels=labels[rows],
        captions=tuple(TEMPLATES[0].format(CLASS_NAMES[label]) for label in labels[rows]),
        class_names=CLASS_NAMES,
        templates=TEMPLATES,
        boxes=boxes,
        image_index=image_index,
        feature_present=place[rows],
    )


def group_counts(dataset: Dataset) -> pandas.DataFrame:
    """How many images each group has: a row for each class, columns land and water."""
    import pandas

    counts = np.zeros((dataset.n_classes, 2), dtype=np.int64)
    np.add.at(counts, (dataset.labels, dataset.feature_present.astype(int)), 1)
    return pandas.DataFrame(counts, index=pandas.Index(dataset.class_names, name="class"), columns=["land", "water"])


def _list(folder: Path, split: str) -> Listing:
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"folder: there is no {folder / METADATA}; {GET_WATERBIRDS}")
    listing = list_source(folder, CLASS_NAMES, split=split)
    for note in listing.notes:  # on rows left out
        raise ValueError(f"folder: {METADATA} is not as WILDS has it: {note.kind}, {note.detail}")
    return listing


def _places(listing: Listing) -> np.ndarray:
    """Whether the background is water, (N,) bool."""
    if listing.metadata is None or "place" not in listing.metadata:
        raise ValueError(f"folder: {METADATA} has no column 'place', which is 0 for land and 1 for water")
    place = listing.metadata["place"].to_numpy()
    if not np.isin(place, (0, 1)).all():
        raise ValueError(f"folder: expected 0 or 1 as place in {METADATA}, got {sorted(set(place.tolist()) - {0, 1})}")
    return place == 1


def _draw(labels: np.ndarray, place: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """n rows, ascending, in which each group has its proportion."""
    if whole_number("n", n, 1) > len(labels):
        raise ValueError(f"n: expected at most the {len(labels)} images that there are, got {n}")
    group = 2 * labels + place
    counts = proportional_counts(np.bincount(group, minlength=4), n)
    drawn = [random.permutation(np.flatnonzero(group == g))[:count] for g, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def _read(listing: Listing, rows: np.ndarray, size: int) -> np.ndarray:
    """The images of some rows, (n, S, S, 3) uint8."""
    files = listing.files.iloc[rows]
    images = np.empty((len(rows), size, size, 3), dtype=np.uint8)
    results = track(read_images_of(list(files.path), size, "centre"), "reading images", total=len(rows))
    for row, (name, file) in enumerate(zip(files.name, results, strict=True)):
        if file.pixels is None:
            raise ValueError(f"folder: {name} cannot be read: {': '.join(file.notes[0])}")
        images[row] = file.pixels
    return images
