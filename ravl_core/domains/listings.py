"""Which labelled images a source names, before any is opened: folders, tables, COCO's json. Only ever reads."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.checks import nearest, words
from ravl_core.domains.image_files import ENDINGS

if TYPE_CHECKING:
    import pandas

COLUMNS = {  # what a table may hold, and the names that its column is looked for under
    "path": ("path", "img_filename", "filename", "file_name"),
    "label": ("label", "y"),
    "caption": ("caption",),
    "group": ("group",),
    "boxes": ("boxes",),
    "split": ("split",),
}
SPLITS = ("train", "val", "test")  # WILDS numbers them so
METADATA = "metadata.csv"  # WILDS's table, in the folder of the images


@dataclass(frozen=True)
class Note:
    """What was done with a file that was not simply read, or with several for one reason."""

    name: str  # of the file, as in the source
    kind: str  # "unreadable", "truncated", "16-bit", "CMYK", "palette", "one pixel", "huge", …
    detail: str  # one line
    kept: bool  # converted (True) or skipped (False)
    n_files: int = 1


@dataclass(frozen=True, eq=False)
class Listing:
    """The files of a source with a class each; no path is there twice."""

    class_names: tuple[str, ...]  # (C,)
    # a row a file: name, path, label (class index), and where the source has them caption, group,
    # boxes ((B, 4) in pixels of the file) and box_names ((B,) str)
    files: pandas.DataFrame
    metadata: pandas.DataFrame | None = None  # the other columns, in the same rows
    notes: tuple[Note, ...] = ()  # of what was left out


def list_source(
    source: Path | str,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | int | None = None,
) -> Listing:
    """List a folder of classes, a folder with WILDS's metadata.csv, a csv or COCO's json; see `read_images`.

    A table or json may name files anywhere, by absolute paths or "..": it is the user's own list. They are only ever
    opened as images.
    """
    path, names = Path(source).expanduser(), None if classes is None else checked_classes(classes)
    if not path.exists():
        raise FileNotFoundError(f"source: there is no {path}")
    table = path / METADATA if (path / METADATA).is_file() else path
    if table.suffix.lower() == ".csv" and table.is_file():
        return _list_table(table, names, columns or {}, split)
    if columns or split is not None:
        raise ValueError(f"columns, split: expected a table to take them from, got {path.name}")
    if path.is_dir():
        return _list_folder(path, names)
    if path.suffix.lower() != ".json":
        raise ValueError(f"source: expected a folder, a .csv or a .json, got {path.name}")
    return _list_coco(path, names)


def checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Two or more class names that differ; raises ValueError where they are not that."""
    names = words("classes", [classes] if isinstance(classes, str) else classes)
    if len(names) < 2:
        raise ValueError(f"classes: expected at least two names, got {list(names)}")
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        raise ValueError(f"classes: expected names that differ, got {', '.join(map(repr, repeated))} more than once")
    return names


def _finish(class_names, rows: list[dict], notes: list[Note], metadata: pandas.DataFrame | None = None) -> Listing:
    """Of several rows with the same path the first is kept."""
    import pandas

    kept, first = [], {}
    for at, row in enumerate(rows):
        before = first.setdefault(os.path.normpath(row["path"]), row)
        if before is row:
            kept.append(at)
        else:
            labels = [class_names[one["label"]] for one in (before, row)]
            notes.append(Note(row["name"], "duplicate", "listed as {!r}, and once more as {!r}".format(*labels), False))
    files = pandas.DataFrame([rows[at] for at in kept], columns=list(rows[0] if rows else _file("", Path(), 0)))
    metadata = None if metadata is None else metadata.iloc[kept].reset_index(drop=True)
    return Listing(tuple(class_names), files, metadata, tuple(notes))


def _file(name: str, path: Path, label: int, **more) -> dict:
    """A row; in its name whatever is no text, as names in old folders may be, is written as text."""
    return {"name": name.encode("utf-8", "backslashreplace").decode(), "path": path, "label": label, **more}


# ---- a folder for each class ----


def _list_folder(folder: Path, classes: tuple[str, ...] | None) -> Listing:
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for name in classes or ():
        if name in (".", "..") or not (folder / name).is_dir():
            expected = "source: expected a folder of images for each class, and there is no"
            raise FileNotFoundError(f"{expected} {name!r}{_nearest(name, there)}")
    rows, others = [], []
    names = classes or checked_classes(there)
    for label, name in enumerate(names):
        for path in sorted(_walk(folder / name)):
            if path.suffix.lower() in ENDINGS:
                rows.append(_file(path.relative_to(folder).as_posix(), path, label))
            else:
                others.append(path.suffix.lower() or "no ending")
    return _finish(names, rows, _counted(folder, "other files", others))


def _walk(folder: Path) -> Iterator[Path]:
    """All that lies below a folder and is not hidden; links are followed, though no folder is entered twice."""
    entered = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_stop):
        real = os.path.realpath(place)
        new, _ = real not in entered, entered.add(real)
        folders[:] = sorted(name for name in folders if new and not name.startswith("."))
        named_as_images = [name for name in folders if name.lower().endswith(ENDINGS)]  # they will be found unreadable
        yield from (Path(place, name) for name in [*files, *named_as_images] if new and not name.startswith("."))


def _stop(error: OSError) -> None:
    raise error  # os.walk would leave the folder out in silence


def _counted(source: Path, kind: str, what: Sequence[str]) -> list[Note]:
    """One note for all that is left out for one reason, with how many of what; none if nothing is."""
    counts = ", ".join(f"{name}: {n}" for name, n in sorted(Counter(what).items()))
    return [Note(source.name or str(source), kind, counts, False, len(what))] if what else []


# ---- a table ----


def _list_table(path: Path, classes: tuple[str, ...] | None, columns: Mapping[str, str], split) -> Listing:
    header, cells = _read_table(path)
    at = _places(path, header, columns)
    if split is not None:
        wanted = _same_split(split)
        here = _needed(path, header, at, "split")
        cells = [row for row in cells if row[here] in wanted]
        if not cells:
            raise ValueError(f"split: no row of {path.name} is in {split!r}")
    names, labels = _labels([row[_needed(path, header, at, "label")] for row in cells], classes)
    place, rows, kept, others = _needed(path, header, at, "path"), [], [], []
    for number, (row, label) in enumerate(zip(cells, labels, strict=True)):
        if isinstance(label, str):
            others.append(label or "(empty)")
            continue
        more = {role: row[at[role]] for role in ("caption", "group") if role in at}
        if "boxes" in at:
            more["boxes"] = _boxes_of_cell(path, row[place], row[at["boxes"]])
        rows.append(_file(row[place], _locate(path.parent, row[place]), label, **more))
        kept.append(number)
    left = [column for column in range(len(header)) if column not in at.values()]
    metadata = _metadata([header[column] for column in left], [[cells[n][column] for column in left] for n in kept])
    return _finish(names, rows, _counted(path, "other label", others), metadata)


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows; each row has a cell for each column."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = [row for row in csv.reader(file, strict=True) if row]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table of comma-separated values in UTF-8, {error}") from error
    if len(table) < 2:
        raise ValueError(f"{path}: expected a header and rows, got {len(table)} lines")
    header, *rows = table
    if repeated := [name for name, n in Counter(header).items() if n > 1]:
        raise ValueError(f"{path}: expected columns that differ, got {', '.join(map(repr, repeated))} more than once")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ValueError(f"{path}: expected {len(header)} cells, as in the header, got {len(row)} in row {number}")
    return header, rows


def _places(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Where in the header each role is: as `columns` says, else under one of its usual names."""
    if unknown := set(columns) - set(COLUMNS):
        raise ValueError(f"columns: expected {', '.join(COLUMNS)} as keys, got {', '.join(map(repr, sorted(unknown)))}")
    for name in columns.values():
        if name not in header:
            raise ValueError(f"columns: {path} has no column {name!r}{_nearest(name, header)}")
    found = {role: [columns[role]] if role in columns else usual for role, usual in COLUMNS.items()}
    taken = {role: [name for name in names if name in header] for role, names in found.items()}
    return {role: header.index(names[0]) for role, names in taken.items() if names}


def _needed(path: Path, header: list[str], at: Mapping[str, int], role: str) -> int:
    if role not in at:
        hint = _nearest(role, header)
        raise ValueError(f"columns: {path} has no column {role!r}{hint}; say which it is by columns={{{role!r}: …}}")
    return at[role]


def _nearest(name: str, names: Sequence[str]) -> str:
    return nearest(name, names) or f"; there are {', '.join(map(repr, names))}"


def _same_split(split: str | int) -> set[str]:
    """A split as a table may write it: its name or WILDS's number."""
    numbered = {str(number): name for number, name in enumerate(SPLITS)}
    split = numbered.get(str(split), str(split))
    return {split, *(number for number, name in numbered.items() if name == split)}


def _labels(cells: list[str], classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int | str]]:
    """Class names, and for each cell its class index; or what it says, where that is none of the classes."""
    numbers = all(re.fullmatch(r"-?\d+(\.0*)?", cell) for cell in cells if cell) and not set(cells) & set(classes or ())
    if numbers and classes is None:
        raise ValueError("classes: expected the names that the numbers in the table's labels stand for, got none")
    names = classes or checked_classes(sorted({cell for cell in cells if cell}))
    index = {str(label) if numbers else name: label for label, name in enumerate(names)}
    return names, [index.get(cell.split(".")[0] if numbers else cell, cell) for cell in cells]


def _boxes_of_cell(path: Path, name: str, cell: str) -> np.ndarray:
    try:
        return np.array(json.loads(cell or "[]"), dtype=np.float64).reshape(-1, 4)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: expected boxes [[x1, y1, x2, y2], …], got {cell!r} for {name}") from error


def _locate(folder: Path, name: str) -> Path:
    """A file beside the table, or in its folder images/."""
    path = folder / name
    return folder / "images" / name if not os.path.lexists(path) and (folder / "images").is_dir() else path


def _metadata(columns: list[str], cells: list[list[str]]) -> pandas.DataFrame | None:
    """As a table; a column in which every cell that is not empty is a number holds numbers."""
    import pandas

    table = pandas.DataFrame(cells, columns=columns, dtype=object)
    for column in columns:
        try:
            table[column] = pandas.to_numeric(table[column])
        except (ValueError, TypeError):
            continue
    return table if columns else None


# ---- COCO ----


def _list_coco(path: Path, classes: tuple[str, ...] | None) -> Listing:
    names, images, boxes = _read_coco(path)
    unlisted = ["its boxes"] * len(boxes.keys() - {image for image, _ in images})
    classes = classes or checked_classes(list(dict.fromkeys(names)))
    for name in classes:
        if name not in names:
            raise ValueError(f"classes: {path} has no category {name!r}{_nearest(name, names)}")
    index, rows, without, several = {name: label for label, name in enumerate(classes)}, [], [], []
    for image, name in images:
        shown = tuple(category for category, _ in boxes[image])
        held = sorted({index[category] for category in shown if category in index})
        if len(held) == 1:
            corners = np.array([box for _, box in boxes[image]], dtype=np.float64).reshape(-1, 4)
            rows.append(_file(name, _locate_coco(path, name), held[0], boxes=corners, box_names=shown))
        elif held:
            several.append(" and ".join(classes[label] for label in held))
        else:
            without.append("none of them")
    left_out = {"no class": without, "several classes": several, "unlisted image": unlisted}
    return _finish(classes, rows, [note for kind, what in left_out.items() for note in _counted(path, kind, what)])


def _read_coco(path: Path) -> tuple[list[str], list[tuple[int, str]], dict[int, list[tuple]]]:
    """Names of the categories; id and file name of each image; by image, category and x1, y1, x2, y2 of its boxes."""
    boxes = defaultdict(list)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        for one in content["annotations"]:
            if not one.get("iscrowd"):
                x, y, width, height = map(float, one["bbox"])
                boxes[one["image_id"]].append((names[one["category_id"]], (x, y, x + width, y + height)))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: expected COCO's instances format, {error!r}") from error
    return list(names.values()), list(images.items()), boxes


def _locate_coco(path: Path, name: str) -> Path:
    """In images/ beside the json, or beside it; or as COCO is published, val2017/ for annotations/…_val2017.json."""
    published = path.parent.parent / path.stem.split("_")[-1]
    places = [folder / name for folder in (path.parent / "images", path.parent, published)]
    return next((place for place in places if os.path.lexists(place)), places[0])
