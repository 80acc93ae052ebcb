"""MNIST in RaVL's layout, from the four original idx files.

The 60,000 training images are dealt out to pre-training, fine-tuning and validation; test composites hold test images,
as the authors' evaluation images do.
"""

import gzip
import math
import zlib
from functools import cache, partial
from pathlib import Path

import numpy as np

from ravl_core.domains.digits import CAPTIONS, CLASS_NAMES, TEMPLATES
from ravl_core.domains.files import data_file
from ravl_core.domains.quadrants import QuadrantDomain, Scans, split_by_class

SHARES = {"pretraining": 0.25, "finetuning": 0.55, "val": 0.2}  # of each class's training images
DIMENSIONS = {2049: 1, 2051: 3}  # magic number -> axes: labels (N,), images (N, H, W)


def domain() -> QuadrantDomain:
    """The MNIST domain."""
    return QuadrantDomain("mnist", CLASS_NAMES, TEMPLATES, CAPTIONS, partial(idx_scans, "mnist"))


@cache
def idx_scans(dataset: str) -> Scans:
    """The training images of a data set in MNIST's format, then its test images; fetched where they are absent.

    Raises FileNotFoundError where they cannot be had, ValueError for other bytes; see `files.data_file`.
    """
    train, test = (_labelled_images(dataset, part) for part in ("train", "t10k"))
    by_split = split_by_class(dataset, train[1], SHARES)
    by_split |= {"test": tuple(len(train[1]) + np.flatnonzero(test[1] == label) for label in range(10))}
    return Scans(np.concatenate([train[0], test[0]]), by_split)


def _labelled_images(dataset: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,) of "train" or "t10k"."""
    kinds = ("images-idx3", "labels-idx1")
    images, labels = (read_idx(data_file(dataset, f"{part}-{kind}-ubyte.gz")) for kind in kinds)
    return images, labels


def read_idx(path: Path | str) -> np.ndarray:
    """The array in a gzipped idx file of bytes: labels (N,) or images (N, H, W), uint8 and read-only.

    Raises
    ------
    ValueError
        The file is no whole gzip file, has another magic number, or is longer or shorter than it says.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole gzip file, got {error}") from error
    magic = int.from_bytes(content[:4], "big")
    if magic not in DIMENSIONS:
        raise ValueError(f"{path}: expected magic number 2049 (labels) or 2051 (images), got {magic}")
    start = 4 + 4 * DIMENSIONS[magic]  # bytes before the first entry
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if len(content) != start + math.prod(shape):
        raise ValueError(f"{path}: expected {start + math.prod(shape)} bytes for shape {shape}, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
