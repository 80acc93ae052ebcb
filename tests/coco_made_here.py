"""Folders in COCO's format, drawn in a moment."""

import json

import numpy as np
from PIL import Image

CATEGORIES = (
    *("person", "backpack", "umbrella", "handbag", "tie", "suitcase", "chair", "dining table"),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone"),
)
IDS = {name: 10 * (place + 1) for place, name in enumerate(CATEGORIES)}  # with gaps, as COCO's
LAYOUTS = {  # instances, captions, images
    "subset": ("annotations.json", "captions.json", "images"),
    "val2017": ("annotations/instances_val2017.json", "annotations/captions_val2017.json", "val2017"),
    "train2017": ("annotations/instances_train2017.json", "annotations/captions_train2017.json", "train2017"),
}


def write_coco_folder(folder, photographs, layout="subset", categories=CATEGORIES):
    """Write photographs, {id: (objects, captions)} with objects (category, x, y, width, height), and return the folder.

    Each is 120×80 pixels, of a grey that its id gives; `captions` may be None for a folder without the file.
    """
    instances, captions, images = (folder / name for name in LAYOUTS[layout])
    for place in (images, instances.parent):
        place.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": id, "file_name": f"{id}.png", "width": 120, "height": 80, "license": 4, "flickr_url": f"flickr/{id}"}
            for id in photographs
        ],
        "annotations": [
            {"image_id": id, "category_id": IDS[name], "bbox": box, "iscrowd": 0}
            for id, (objects, _) in photographs.items()
            for name, *box in objects
        ],
        "categories": [{"id": IDS[name], "name": name} for name in categories],
    }
    instances.write_text(json.dumps(content))
    texts = [{"image_id": id, "caption": text} for id, (_, own) in photographs.items() for text in own or ()]
    if all(own is not None for _, own in photographs.values()):
        captions.write_text(json.dumps({"annotations": texts}))
    for id in photographs:
        Image.fromarray(np.full((80, 120, 3), id % 256, dtype=np.uint8)).save(images / f"{id}.png")
    return folder


def photographs_of_all_kinds(n_each):
    """`n_each` photographs of every class of the coco domain, with and without a chair; ids from 0 on."""
    objects = {"dining table": (0, 36, 90, 44), "umbrella": (10, 10, 30, 30), "laptop": (20, 30, 40, 20)}
    kinds = [(name, chair) for name in objects for chair in (False, True)]
    photographs = {}
    for id in range(n_each * len(kinds)):
        name, chair = kinds[id % len(kinds)]
        held = [(name, *objects[name]), ("person", 100, 10, 15, 50)]
        photographs[id] = (held + [("chair", 70, 20, 40, 60)] * chair, (f"one person and one {name}.", "somebody."))
    return photographs
