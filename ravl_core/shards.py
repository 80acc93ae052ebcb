"""Embeddings of more images than memory holds: encoded a part at a time, on disk, and read as memory-mapped arrays.

A folder holds

    shards/<16 hex digits>.npz   what came of one part, named by the hash of the tower and of the part
    arrays/<name>.npy            each array of all parts, one after the other: what is read
    arrays/index.json            what they were made of, and their checksums

A run that was interrupted goes on with the first part that has no whole shard; where images or the model have changed,
the names have, too. `arrays` is written from the shards, as a whole or not at all, and takes as much room again.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core import atomic, checks
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.image_files import ImageFile, read_images_of
from ravl_core.domains.listings import Listing, Note, list_source
from ravl_core.domains.own_images import _boxes_shown
from ravl_core.progress import track
from ravl_core.proposals import Boxes, propose
from ravl_core.records import code_version
from ravl_core.zero_shot import TEMPERATURE, Evaluation, class_embeddings, class_probabilities

if TYPE_CHECKING:
    from ravl_core.vlm import VLM

ARRAYS, INDEX = "arrays", "index.json"
DTYPES = ("float16", "float32")
TEMPLATES = ("a photo of a {}",)
DECISIVE = ("ravl_core.vlm", "ravl_core.towers", "ravl_core.regions")  # code that decides an embedding
PROBABILITIES = {"image_probs": "image_embeddings", "region_probs": "region_embeddings"}


Kind = tuple[tuple[int, ...], str]  # shape and type of an array


@dataclass(frozen=True)
class Shard:
    """The file of one part, and shape and type of each array in it."""

    path: Path
    kinds: dict[str, Kind]


@dataclass(frozen=True, eq=False)
class Shards(Evaluation):
    """An `Evaluation` whose arrays are memory-mapped, so that no more of them is in memory than is looked at.

    The embeddings are float16 or float32. Where the parts had no labels `labels` is None.
    """

    sources: np.ndarray | None = None  # (N,) str, where the parts had some; of files their names
    notes: tuple[Note, ...] = field(default=(), repr=False)  # of files that were converted or skipped
    model: str = ""  # its name


@dataclass(eq=False)
class FileParts:
    """The labelled images of a source, so many files at a time; each part is a `Dataset`. See `image_parts`."""

    listing: Listing
    size: int
    fit: str
    regions: str
    templates: tuple[str, ...]
    files_at_a_time: int
    notes: list[Note] = field(default_factory=list)  # of the listing, and of the files that were read so far

    @property
    def class_names(self) -> tuple[str, ...]:
        """(C,)."""
        return self.listing.class_names

    def __len__(self) -> int:
        return -(-len(self.listing.files) // self.files_at_a_time)

    def __iter__(self) -> Iterator[Dataset]:
        self.notes[:] = self.listing.notes
        files = self.listing.files
        read = read_images_of(list(files.path), self.size, self.fit)
        for first in range(0, len(files), self.files_at_a_time):
            rows = files.iloc[first : first + self.files_at_a_time]
            yield self._part(rows, list(islice(read, len(rows))))

    def _part(self, rows, read: list[ImageFile]) -> Dataset:
        """The part that those files make: the ones that can be read."""
        kept = [file for file in read if file.pixels is not None]
        for name, file in zip(rows.name, read, strict=True):
            self.notes += [Note(name, kind, detail, file.pixels is not None) for kind, detail in file.notes]
        images = np.array([file.pixels for file in kept], dtype=np.uint8).reshape(-1, self.size, self.size, 3)
        rows = rows[[file.pixels is not None for file in read]]
        labels = rows.label.to_numpy(dtype=np.int64)
        captions = tuple(self.templates[0].format(self.class_names[label]) for label in labels)
        described = images, labels, captions, self.class_names, self.templates
        return Dataset(*described, *self._boxes(rows, kept, images), sources=rows.name.to_numpy(dtype=str))

    def _boxes(self, rows, kept: list[ImageFile], images: np.ndarray) -> Boxes:
        """The regions of those images; of a part without any, or without a box of its own, there are none."""
        if not kept:
            return np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int64)
        if self.regions != "boxes" or "boxes" not in rows:
            return propose(self.regions, images)
        geometry = np.array([(*file.size, *file.window) for file in kept])
        shown = _boxes_shown(rows, geometry, self.size, self.notes)
        return shown["boxes"], shown["image_index"]


def image_parts(
    source: Path | str,
    size: int,
    classes: Sequence[str] | None = None,
    regions: str | None = None,
    templates: Sequence[str] = TEMPLATES,
    fit: str = "squash",
    columns: Mapping[str, str] | None = None,
    split: str | int | None = None,
    files_at_a_time: int = 1000,
) -> FileParts:
    """Labelled images of any number, for `encode_to_disk`: files are read when their part's turn comes.

    Parameters
    ----------
    source, classes, size, fit, columns, split : as for `read_images`; size is the model's `image_size`.
    regions : see `propose`; the data's own "boxes" where it has some, else "quadrants".
    templates : prompts with one {} for the class name.
    files_at_a_time : of a part; what is in memory at once.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_images`. A class without a readable image is none of them: it may come with a later part.
    """
    checks.whole_number("size", size, 1)
    checks.whole_number("files_at_a_time", files_at_a_time, 1)
    listing = list_source(source, classes, columns, split)
    regions = regions or ("boxes" if "boxes" in listing.files else "quadrants")
    return FileParts(listing, size, fit, regions, tuple(templates), files_at_a_time)


def encode_to_disk(
    vlm: VLM,
    parts: Iterable[Dataset] | Path | str,
    folder: Path | str,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    temperature: float = TEMPERATURE,
    batch_size: int = 128,
    precision: str = "float32",
    dtype: str = "float16",
    **reading,
) -> Shards:
    """Embed and classify the images of a set and all their regions, with no more than one part of it in memory.

    Parameters
    ----------
    vlm : the model.
    parts : the set a part at a time, best a generator's: each a `Dataset` or another object with images
        (n, H, W, 3) uint8, boxes (m, 4), image_index (m,) into the part, and perhaps labels and sources (n,). Or a
        source of files, as `image_parts` reads it.
    folder : where the embeddings go, see `ravl_core.shards`. Another set or model needs another folder: what the
        folder holds beyond the set is removed.
    class_names, templates : what the model is asked; by default those of the first part.
    temperature : of the probabilities.
    batch_size, precision : see `VLM.encode`.
    dtype : of the embeddings on disk, "float16" or "float32".
    reading : for a source of files, how it is read: `classes`, `regions`, `files_at_a_time`, …

    Returns
    -------
    Shards
        All parts, one after the other. The same parts and model give them again without encoding, and after an
        interruption what is left is encoded.

    Raises
    ------
    ValueError
        No part, parts of which only some have labels or sources, or an argument that is not of its kind.
    """
    folder = Path(folder)
    checks.choice("dtype", dtype, DTYPES)
    temperature = checks.above_zero("temperature", temperature)
    if isinstance(parts, Path | str):
        parts = image_parts(parts, vlm.image_size, **reading)
    elif reading:
        raise ValueError(f"reading: expected a source of files where it is said how to read, got {', '.join(reading)}")
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with atomic.alone(folder / ".lock", f"folder: another process is encoding into {folder}"):
        atomic.remove_leftovers(folder), atomic.remove_leftovers(folder / "shards")
        encoder = _Encoder(vlm, folder / "shards", batch_size, precision, dtype, class_names, templates)
        total = len(parts) if hasattr(parts, "__len__") else None
        # map holds on to no part while the next one is made, as a loop's variable would
        shards = list(track(map(encoder, parts), "encoding", total))
        if not shards:
            raise ValueError("parts: expected one at least, got none")
        _finish(folder, shards, encoder, temperature, getattr(parts, "notes", ()))
    return read_shards(folder)


def read_shards(folder: Path | str) -> Shards:
    """What `encode_to_disk` has finished, as memory-mapped arrays.

    Raises
    ------
    FileNotFoundError
        Nothing is finished there.
    ValueError
        A file that is damaged: not of the size or type that it was written with.
    """
    arrays = Path(folder) / ARRAYS
    index = _read_index(arrays)
    if index is None:
        raise FileNotFoundError(f"folder: expected what encode_to_disk has finished, and {folder} holds nothing whole")
    mapped = {name: _mapped(arrays / f"{name}.npy", kind) for name, kind in index["arrays"].items()}
    fields = {"labels": None, "class_names": tuple(index["made_of"]["class_names"]), "model": index["model"]} | mapped
    return Shards(**fields, notes=tuple(Note(**note) for note in index["notes"]))


# ---- one part ----


@dataclass
class _Encoder:
    """Makes shards of parts. What the model is asked, where it is not given, the first part says."""

    vlm: VLM
    folder: Path
    batch_size: int
    precision: str
    dtype: str
    class_names: Sequence[str] | None
    templates: Sequence[str] | None
    classes: np.ndarray | None = None  # (C, D) unit, once there was a part

    def __post_init__(self):
        self.tower = _tower_hash(self.vlm, self.precision, self.dtype)

    def __call__(self, part: Dataset) -> Shard:
        """The file of a part, and what is in it; it is made where there is no whole one."""
        if self.classes is None:
            self._ask(part)
        given = _given(part, len(self.classes))
        path = self.folder / f"{_hash_of(self.tower, given)}.npz"
        kinds = _kinds(path) if path.exists() else None
        return Shard(path, kinds or self._write(path, given))

    def _ask(self, part: Dataset) -> None:
        for name in ("class_names", "templates"):
            if getattr(self, name) is None:
                if getattr(part, name, None) is None:
                    raise ValueError(f"{name}: expected some, given or in the first part, got none")
                setattr(self, name, getattr(part, name))
        self.classes = class_embeddings(self.vlm, self.class_names, self.templates)

    def _write(self, path: Path, given: dict[str, np.ndarray]) -> dict[str, Kind]:
        images, boxes, index = (given.pop(name) for name in ("images", "boxes", "image_index"))
        whole, regions = self.vlm.encode(images, boxes, index, self.batch_size, self.precision)
        embeddings = {"image_embeddings": whole.astype(self.dtype), "region_embeddings": regions.astype(self.dtype)}
        arrays = {**embeddings, "image_index": index, "boxes": boxes, **given}
        content = io.BytesIO()
        np.savez(content, **arrays)
        atomic.write_atomically(path, content.getvalue())
        return {name: (array.shape, array.dtype.str) for name, array in arrays.items()}


def _given(part: Dataset, n_classes: int) -> dict[str, np.ndarray]:
    """The arrays of a part; labels and sources where it has some."""
    images = checks.images("images", part.images)
    index = checks.sorted_image_index("image_index", part.image_index, len(images))
    given = {"images": images, "boxes": np.asarray(part.boxes, dtype=np.float32), "image_index": index}
    if getattr(part, "labels", None) is not None:
        given["labels"] = checks.class_indices("labels", part.labels, n_classes)
    if getattr(part, "sources", None) is not None:
        given["sources"] = np.asarray(part.sources).astype(str)
    checks.same_length(images=images, **{name: given[name] for name in ("labels", "sources") if name in given})
    return given


def _kinds(path: Path) -> dict[str, Kind] | None:
    """Shape and type of each array of a shard; None, and a warning, where it is damaged: every byte is checked."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: ((array := arrays[name]).shape, array.dtype.str) for name in arrays}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged and will be made again: {error}", stacklevel=2)
        return None


def _tower_hash(vlm: VLM, precision: str, dtype: str) -> str:
    """Of all that decides an embedding beside the images."""
    how = [code_version(*DECISIVE), vlm.pooling, vlm.image_size, precision, dtype, vlm.mean.tolist(), vlm.std.tolist()]
    weights = {name: value.detach().cpu() for name, value in vlm.clip.visual.state_dict().items()}
    # as bytes, because NumPy does not know all of torch's types
    arrays = {f"{name} {value.dtype} {tuple(value.shape)}": _bytes_of(value) for name, value in weights.items()}
    return _hash_of(json.dumps(how), arrays)


def _bytes_of(tensor) -> np.ndarray:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _hash_of(what: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(what.encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8) if array.size else b"")
    return digest.hexdigest()[:16]


# ---- all parts ----


def _finish(folder: Path, shards: list[Shard], encoder: _Encoder, temperature: float, notes: Sequence[Note]) -> None:
    """Join the shards, unless that is done already, and remove those of other images or models."""
    made_of = {
        "shards": [shard.path.name for shard in shards],
        "class_names": list(encoder.class_names),
        "classes": _hash_of("", {"classes": encoder.classes}),
        "temperature": temperature,
    }
    index = _read_index(folder / ARRAYS)
    if index is None or index["made_of"] != made_of or not _is_whole(folder / ARRAYS, index["arrays"]):
        with atomic.folder_at_once(folder / ARRAYS, replace=True) as arrays:
            kinds = _join(arrays, shards, encoder.classes, temperature)
            index = {"made_of": made_of, "model": encoder.vlm.name, "arrays": kinds, "notes": [*map(asdict, notes)]}
            (arrays / INDEX).write_text(json.dumps(index, indent=1))
    for path in (folder / "shards").glob("*.npz"):
        if path.name not in made_of["shards"]:
            path.unlink()


def _join(folder: Path, shards: list[Shard], classes: np.ndarray, temperature: float) -> dict[str, dict]:
    """Write each array of all shards, and the probabilities; what is known of each file."""
    names = shards[0].kinds.keys()
    for shard in shards:
        if some := shard.kinds.keys() ^ names:
            raise ValueError(f"parts: expected all to hold the same, got some without {', '.join(sorted(some))}")
    files = {}
    for name in [*names, *PROBABILITIES]:
        of = [shard.kinds[PROBABILITIES.get(name, name)] for shard in shards]
        shape, dtype = (sum(shape[0] for shape, _ in of), *of[0][0][1:]), np.result_type(*(dtype for _, dtype in of))
        if name in PROBABILITIES:
            shape, dtype = (shape[0], len(classes)), np.dtype(np.float32)
        path = folder / f"{name}.npy"
        with open(path, "xb") as file:  # written, not mapped: pages that are mapped count as this process's memory
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for rows in _rows(shards, name, classes, temperature):
                file.write(np.ascontiguousarray(rows, dtype=dtype).tobytes())
        files[name] = {"shape": shape, "dtype": dtype.str, "crc": _crc(path)}
    return files


def _rows(shards: list[Shard], name: str, classes: np.ndarray, temperature: float) -> Iterator[np.ndarray]:
    """An array of all parts, a part at a time."""
    first = 0
    for shard in shards:
        with np.load(shard.path, allow_pickle=False) as arrays:
            rows = arrays[PROBABILITIES.get(name, name)]
        if name in PROBABILITIES:
            rows = class_probabilities(rows.astype(np.float32), classes, temperature)
        if name == "image_index":
            rows = rows + first
            first += shard.kinds["image_embeddings"][0][0]
        yield rows


def _read_index(folder: Path) -> dict | None:
    """What is known of the arrays; None where there are none, or others than this code's."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return index if index["made_of"]["shards"] and {"arrays", "model", "notes"} <= index.keys() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(folder: Path, files: Mapping[str, Mapping]) -> bool:
    paths = {folder / f"{name}.npy": kind["crc"] for name, kind in files.items()}
    return all(path.is_file() and _crc(path) == crc for path, crc in paths.items())


def _crc(path: Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
    return crc


def _mapped(path: Path, kind: Mapping) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected an array that encode_to_disk wrote, {error}") from error
    if [*array.shape] != kind["shape"] or array.dtype.str != kind["dtype"]:
        came = f"{array.dtype.str} of shape {array.shape}"
        raise ValueError(f"{path}: expected {kind['dtype']} of shape {tuple(kind['shape'])}, got {came}")
    return array
