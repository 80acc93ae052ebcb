"""Photographs with boxes and captions from a folder in COCO's format (Lin et al. 2014). Nothing is downloaded."""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

FOLDERS = ("coco", "coco_subset")  # in RAVL_DATA; the first one that exists
PARTS = (  # instances, captions, images; the parts whose instances and images are there are joined
    ("annotations.json", "captions.json", "images"),
    ("annotations/instances_val2017.json", "annotations/captions_val2017.json", "val2017"),
    ("annotations/instances_train2017.json", "annotations/captions_train2017.json", "train2017"),
)
GET_COCO = (
    "download val2017.zip and annotations_trainval2017.zip from images.cocodataset.org, unpack both into a folder "
    "called 'coco', and set RAVL_DATA to the folder that holds it"
)


@dataclass(frozen=True)
class CocoFolder:
    """I images, sorted by id, and the A boxes of all images, sorted by image."""

    image_ids: np.ndarray  # (I,) COCO's own
    image_paths: tuple[Path, ...]  # (I,)
    image_sizes: np.ndarray  # (I, 2) width and height in pixels
    licenses: np.ndarray  # (I,) COCO's licence ids, 0 where none is given
    credits: tuple[str, ...]  # (I,) the photograph's address on Flickr, "" where none is given
    captions: tuple[tuple[str, ...], ...]  # (I,) what people wrote about the image
    boxes: np.ndarray  # (A, 4) x1, y1, x2, y2 in pixels, within the image
    box_image: np.ndarray  # (A,) index of the image
    box_category: np.ndarray  # (A,) index into the categories
    is_crowd: np.ndarray  # (A,) bool, the box holds a group
    categories: tuple[str, ...]  # in the order of COCO's ids
    n_dropped_boxes: int = 0  # boxes without area inside their image


def read_coco_folder(path: Path | str | None = None) -> CocoFolder:
    """What a COCO folder holds; read once per folder.

    Parameters
    ----------
    path : a folder with `annotations.json`, `captions.json` and `images/`, or laid out as COCO 2017 is published:
        `annotations/` beside `val2017/`, `train2017/` or both. None: `coco` or `coco_subset` in the folder that
        the environment variable RAVL_DATA names.

    Boxes are clipped to their image; those of which nothing is left are dropped and counted. Captions may be missing.

    Raises
    ------
    FileNotFoundError
        No such folder, or an image that the annotations name is not in it.
    ValueError
        A file that is no JSON or not in COCO's format.
    """
    return _read((find_coco_folder() if path is None else Path(path)).resolve())


def find_coco_folder() -> Path:
    """The COCO folder in RAVL_DATA. Raises FileNotFoundError, which says how to get one."""
    chosen = os.environ.get("RAVL_DATA")
    folders = [Path(chosen).expanduser() / name for name in FOLDERS] if chosen else []
    for folder in folders:
        if folder.is_dir():
            return folder
    looked = f"none of {', '.join(map(str, folders))} is there" if chosen else "RAVL_DATA is not set"
    raise FileNotFoundError(f"no COCO folder: {looked}; {GET_COCO}")


@cache
def _read(folder: Path) -> CocoFolder:
    parts = [part for part in PARTS if (folder / part[0]).is_file() and (folder / part[2]).is_dir()]
    if not parts:
        expected = "annotations.json and images/, or annotations/instances_val2017.json and val2017/"
        raise FileNotFoundError(f"{folder} is no COCO folder: expected {expected}; {GET_COCO}")
    images, boxes, names, captions = {}, [], {}, defaultdict(list)
    for instances, texts, image_folder in parts:
        boxes.append(_read_instances(folder / instances, folder / image_folder, images, names))
        if (folder / texts).is_file():
            _read_captions(folder / texts, captions)
    return _assemble(images, np.concatenate(boxes), names, captions)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, {error}") from error


def _read_instances(path: Path, folder: Path, images: dict, names: dict) -> np.ndarray:
    """Add the file's images and category names to what is known by id; return its boxes.

    (A, 7): ids of image and category, x, y, width, height, whether a crowd.
    """
    content, there = _read_json(path), set(os.listdir(folder))
    try:
        names |= {category["id"]: category["name"] for category in content["categories"]}
        for image in content["images"]:
            if image["file_name"] not in there:
                raise FileNotFoundError(f"{path} names an image that is not there: {folder / image['file_name']}")
            size, about = (image["width"], image["height"]), (image.get("license") or 0, image.get("flickr_url") or "")
            images[image["id"]] = (folder / image["file_name"], size, *about)
        boxes = [(b["image_id"], b["category_id"], *b["bbox"], b.get("iscrowd", 0)) for b in content["annotations"]]
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 7)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected COCO's instances format, {error!r}") from error
    for what, column, known in (("images", 0, images), ("categories", 1, names)):
        if unknown := set(boxes[:, column].tolist()) - known.keys():
            raise ValueError(f"{path}: boxes of {what} that it does not list, ids {sorted(unknown)[:5]}")
    return boxes


def _read_captions(path: Path, captions: dict[int, list[str]]) -> None:
    try:
        for entry in _read_json(path)["annotations"]:
            captions[entry["image_id"]].append(entry["caption"].strip())
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected COCO's captions format, {error!r}") from error


def _assemble(images: dict[int, tuple], boxes: np.ndarray, names: dict[int, str], captions: dict) -> CocoFolder:
    ids, category_ids = np.array(sorted(images), dtype=np.int64), np.array(sorted(names), dtype=np.int64)
    paths, sizes, licenses, credits = zip(*(images[i] for i in ids.tolist()), strict=True) if images else ((),) * 4
    sizes = np.array(sizes, dtype=np.int64).reshape(-1, 2)
    boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
    image = np.searchsorted(ids, boxes[:, 0])
    corners = np.concatenate([boxes[:, 2:4], boxes[:, 2:4] + boxes[:, 4:6]], axis=1)
    corners = corners.clip(0, np.tile(sizes, 2)[image])
    kept = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    return CocoFolder(
        image_ids=ids,
        image_paths=paths,
        image_sizes=sizes,
        licenses=np.array(licenses, dtype=np.int64),
        credits=credits,
        captions=tuple(tuple(captions[i]) for i in ids.tolist()),
        boxes=corners[kept],
        box_image=image[kept],
        box_category=np.searchsorted(category_ids, boxes[kept, 1]),
        is_crowd=boxes[kept, 6].astype(bool),
        categories=tuple(names[i] for i in category_ids.tolist()),
        n_dropped_boxes=int((~kept).sum()),
    )
