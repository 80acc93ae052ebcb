"""The COCO objects domain, on a folder drawn on the spot and, where there is one, on COCO itself."""

import colorsys
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ravl_core.domains import load_domain
from ravl_core.domains.coco_folder import FOLDERS, read_coco_folder
from ravl_core.domains.coco_objects import (
    CLASS_NAMES,
    DISTRACTORS,
    OBJECT_FEATURES,
    OPEN_LICENCES,
    SHARES,
    CocoObjects,
    split_of_images,
    usable_objects,
)

NAMES = (*CLASS_NAMES, *OBJECT_FEATURES, DISTRACTORS[0])
HUES = {name: colorsys.hsv_to_rgb(i / len(NAMES), 0.95, 0.8) for i, name in enumerate(NAMES)}
IMAGES_A_CATEGORY = 22  # with three objects each


def draw(folder, n_images=IMAGES_A_CATEGORY, names=NAMES, licences=(1, 4, 5, 7, 2)):
    """A COCO folder: grey images 200×120 with three coloured objects of one category on the left."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, name in enumerate(name for name in names for _ in range(n_images)):
        picture = np.full((120, 200, 3), 60 + number % 120, dtype=np.uint8)
        for x, y in ((4, 4), (50, 8), (10, 60)):
            picture[y : y + 36, x : x + 40] = np.rint(255 * np.array(HUES[name]))
            annotations.append({"image_id": number, "category_id": NAMES.index(name) + 1, "bbox": [x, y, 40, 36]})
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        about = {"license": licences[number % len(licences)], "flickr_url": f"https://flickr.example/{number}"}
        images.append({"id": number, "file_name": f"{number}.png", "width": 200, "height": 120} | about)
    write(folder, images, [a | {"id": i, "iscrowd": 0} for i, a in enumerate(annotations)])
    return folder


def write(folder, images, annotations):
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def domain(folder):
    return CocoObjects(folder=folder)


def request(split="finetuning", n_images=160, seed=0, feature="banana"):
    return split, np.arange(n_images) % 5, np.arange(n_images) % 3 == 0, seed, feature


def test_found_in_the_folder_that_the_environment_names(folder, monkeypatch):
    monkeypatch.setenv("RAVL_DATA", str(folder.parent))
    found = load_domain("coco_objects")
    assert (found.name, found.class_names) == ("coco_objects", CLASS_NAMES)
    assert found.features == ("red rectangle", *OBJECT_FEATURES)
    assert len(found.compose(*request())) == 160


def test_without_a_folder_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("RAVL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="RAVL_DATA is not set"):
        load_domain("coco_objects").compose(*request())


@pytest.mark.parametrize("split", SHARES)
def test_images_show_objects_of_their_class_and_features_where_asked(domain, split):
    data = domain.compose(*request(split))
    boxes, named, held = data.boxes.astype(int).tolist(), set(), set()  # a patch of background may show an edge only
    for name, (x1, y1, x2, y2), image in zip(data.box_names, boxes, data.image_index.tolist(), strict=True):
        median = np.median(data.images[image, y1:y2, x1:x2].reshape(-1, 3).astype(int), axis=0)
        if name:
            named.add((name, image))
            held.add((max(HUES, key=lambda other: median @ HUES[other] / np.linalg.norm(HUES[other])), image))
    assert named <= held
    held &= named
    assert {image for name, image in held if name == "banana"} == set(np.flatnonzero(data.feature_present).tolist())
    assert {(CLASS_NAMES[label], image) for image, label in enumerate(data.labels)} <= held
    assert {name for name, _ in held} == {*CLASS_NAMES, "banana", DISTRACTORS[0]}


@pytest.mark.parametrize("feature", ["red rectangle", *OBJECT_FEATURES])
def test_every_feature_can_be_planted(domain, feature):
    data = domain.compose(*request(feature=feature))
    assert set(data.image_index[data.shows_feature].tolist()) == set(np.flatnonzero(data.feature_present).tolist())
    assert {name for name, shown in zip(data.box_names, data.shows_feature, strict=True) if shown} == {feature}


def test_backgrounds_hold_no_object(domain):
    data = domain.compose(*request(n_images=400))
    colourful = []
    for name, (x1, y1, x2, y2), image in zip(data.box_names, data.boxes.astype(int), data.image_index, strict=True):
        if name == "":
            colourful.append(np.ptp(np.median(data.images[image, y1:y2, x1:x2].reshape(-1, 3), axis=0)) > 40)
    assert np.mean(colourful) < 0.02  # a box between several objects


def test_the_splits_share_no_photograph(domain):
    used = [set(domain.credits(*request(split, 800))) for split in SHARES]
    assert all(used) and sum(map(len, used)) == len(set.union(*used))


def test_sources_are_boxes_of_the_labels_category(domain, folder):
    data, coco = domain.compose(*request()), read_coco_folder(folder)
    assert [coco.categories[c] for c in coco.box_category[data.sources]] == [
        CLASS_NAMES[label] for label in data.labels
    ]


def test_every_split_gets_its_share_of_every_category(folder):
    coco = read_coco_folder(folder)
    usable = usable_objects(coco)
    split = split_of_images(coco, usable)
    assert usable.all() and split.shape == (len(coco.image_ids),)
    for category in range(len(CLASS_NAMES) + len(OBJECT_FEATURES)):
        own = split[coco.box_image[coco.box_category == category]]
        np.testing.assert_allclose(np.bincount(own) / len(own), list(SHARES.values()), atol=3 / len(own))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(domain):
    one, same, other = (domain.compose(*request(seed=seed)) for seed in (0, 0, 1))
    assert one.images.tobytes() == same.images.tobytes() != other.images.tobytes()
    assert (one.captions, one.box_names) == (same.captions, same.box_names)


# ---- which objects are usable ----


def with_boxes(folder, boxes, categories, crowd):
    coco = read_coco_folder(folder)
    boxes = np.array(boxes, dtype=float)
    image = np.zeros(len(boxes), dtype=int)
    return replace(coco, boxes=boxes, box_image=image, box_category=np.array(categories), is_crowd=np.array(crowd))


@pytest.mark.parametrize(
    ("box", "category", "crowd", "usable"),
    [
        ((0, 0, 24, 24), 0, False, True),
        ((0, 0, 23, 40), 0, False, False),  # small
        ((0, 0, 24, 61), 0, False, False),  # narrow
        ((0, 0, 61, 24), 0, False, False),  # wide
        ((0, 0, 60, 24), 0, False, True),
        ((0, 0, 30, 30), 0, True, False),  # a crowd
        ((100, 0, 140, 40), 0, False, True),  # half of it covered by another category
        ((100, 0, 138, 40), 0, False, False),  # more than half
        ((100, 0, 138, 40), 1, False, True),  # covered by its own category
    ],
)
def test_usable_objects_are_large_compact_single_and_in_the_front(folder, box, category, crowd, usable):
    coco = with_boxes(folder, [box, (100, 0, 120, 40)], [category, 1], [crowd, False])
    assert usable_objects(coco)[0] == usable


def test_a_category_with_too_few_objects_is_named_with_split_and_count(tmp_path):
    folder = draw(tmp_path / "coco", n_images=4)
    with pytest.raises(ValueError, match="expected 8 or more usable pictures of 'car' for pretraining, got 3"):
        CocoObjects(folder=folder).compose(*request())


def test_a_category_that_is_not_there_is_named(tmp_path):
    folder = draw(tmp_path / "coco", names=tuple(name for name in NAMES if name != "horse"))
    with pytest.raises(ValueError, match="usable pictures of 'horse' for pretraining, got 0"):
        CocoObjects(folder=folder).compose(*request())


# ---- licences and credits ----


def test_images_for_the_public_are_made_of_open_photographs_alone(folder):
    coco = read_coco_folder(folder)
    is_open = dict(zip(coco.credits, np.isin(coco.licenses, OPEN_LICENCES).tolist(), strict=True))
    shown, internal = (CocoObjects(folder=folder, open_licences_only=only) for only in (True, False))
    credits = shown.credits(*request())
    assert credits and all(is_open[credit] for credit in credits) and credits == tuple(sorted(set(credits)))
    assert not all(is_open[credit] for credit in internal.credits(*request()))
    data = shown.compose(*request())
    assert np.isin(coco.licenses[coco.box_image[data.sources]], OPEN_LICENCES).all()
    assert {coco.credits[i] for i in coco.box_image[data.sources]} <= {*credits}


def test_open_photographs_stay_in_their_split(folder):
    shown = CocoObjects(folder=folder, open_licences_only=True)
    internal = CocoObjects(folder=folder)
    assert not {*shown.credits(*request("val", 800))} & {*internal.credits(*request("test", 800))}


def test_without_open_photographs_it_says_so(tmp_path):
    folder = draw(tmp_path / "coco", licences=(1, 2))
    with pytest.raises(ValueError, match="expected 1 or more usable pictures of 'car' for finetuning, got 0"):
        CocoObjects(folder=folder, open_licences_only=True).compose(*request())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: "tests"}, "split: expected one of .*, got 'tests'; did you mean 'test'"),
        ({4: "banan"}, "feature: expected one of .*, got 'banan'; did you mean 'banana'"),
        ({1: np.full(160, 5)}, "labels: expected integers from 0 to 4"),
        ({2: np.array([True])}, "feature_present: expected length 160, as labels"),
    ],
)
def test_what_does_not_fit_is_named(domain, change, message):
    arguments = [change.get(i, argument) for i, argument in enumerate(request())]
    with pytest.raises(ValueError, match=message):
        domain.compose(*arguments)


# ---- COCO itself ----


@pytest.mark.skipif(
    not any((Path(os.environ.get("RAVL_DATA", "no-data")) / name).is_dir() for name in FOLDERS),
    reason="RAVL_DATA holds no COCO folder",
)
def test_on_coco_itself():
    domain = load_domain("coco_objects")
    coco = read_coco_folder()
    images = {}
    for split in SHARES:
        data = domain.compose(*request(split, 400))
        assert (np.bincount(data.image_index) >= 3).all() and data.images.std() > 30
        n_sources = Counter(label for label, _ in {*zip(data.labels.tolist(), data.sources.tolist(), strict=True)})
        assert min(n_sources.values()) >= 8
        assert {coco.categories[coco.box_category[i]] for i in data.sources} == {*CLASS_NAMES}
        images[split] = set(coco.box_image[data.sources].tolist())
    assert sum(map(len, images.values())) == len(set.union(*images.values()))
