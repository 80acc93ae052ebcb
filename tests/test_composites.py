"""Composites: what the labels, boxes and names say is what was pasted, and nothing else tells them apart."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from ravl_core.domains import composites
from ravl_core.domains.composites import CutOut, Material, compose, credits, cut_out, red_rectangles

CLASS_NAMES = ("green", "blue", "yellow")
COLOURS = {"green": (20, 200, 20), "blue": (30, 30, 220), "yellow": (220, 210, 30), "pink": (230, 110, 230)}
LABELS = np.arange(600) % 3
PRESENT = np.random.default_rng(5).random(600) < 0.5


def block(name, source=-1, height=40, width=64):
    return CutOut(name, np.full((height, width, 4), (*COLOURS[name], 255), np.uint8), source, credit=f"{name}{source}")


def backgrounds():
    random = np.random.default_rng(0)
    grey = random.integers(90, 110, (4, 100, 140, 1), dtype=np.uint8).repeat(3, axis=3)
    return tuple(CutOut("", picture, credit=f"background{i}") for i, picture in enumerate(grey))


MATERIAL = Material(
    cores=tuple(tuple(block(name, 10 * c + i) for i in range(5)) for c, name in enumerate(CLASS_NAMES)),
    feature=red_rectangles(),
    distractors=(block("pink", 100, 64, 32), block("pink", 101)),
    backgrounds=backgrounds(),
)


def composed(labels=LABELS, present=PRESENT, seed=0, material=MATERIAL):
    return compose(material, labels, present, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def data():
    return composed()


def by_image(data):
    """Of each image: (name, box) of every region."""
    regions = [[] for _ in range(len(data))]
    for name, box, image in zip(data.box_names, data.boxes.astype(int).tolist(), data.image_index, strict=True):
        regions[image].append((name, box))
    return regions


def shared(one, other):
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(width, 0) * max(height, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


# ---- what is in an image ----


def test_one_image_for_each_label(data):
    assert data.images.shape == (600, 64, 64, 3) and data.images.dtype == np.uint8
    assert (data.labels == LABELS).all() and (data.feature_present == PRESENT).all()
    assert data.class_names == CLASS_NAMES
    allowed = [{caption.format(CLASS_NAMES[label]) for caption in composites.CAPTIONS} for label in LABELS]
    assert all(caption in captions for caption, captions in zip(data.captions, allowed, strict=True))
    assert len(set(data.captions)) == 3 * len(composites.CAPTIONS)


def test_boxes_of_the_core_of_the_feature_if_asked_of_half_a_distractor_and_of_two_backgrounds(data):
    with_distractor = n_clean = 0
    for regions, label, present in zip(by_image(data), LABELS, PRESENT, strict=True):
        names = Counter(name for name, _ in regions)
        assert names[CLASS_NAMES[label]] >= 1 and bool(names["red rectangle"]) == present
        assert len(regions) in (3 + present, 4 + present)
        n_clean += names == +Counter(
            {CLASS_NAMES[label]: 1, "red rectangle": int(present), "": 2, "pink": names["pink"]}
        )
        with_distractor += len(regions) == 4 + present
    assert 0.42 < with_distractor / 600 < 0.58
    assert n_clean / 600 > 0.98  # in the others a box that was to be background shows an object


def test_boxes_lie_in_their_image_and_stand_image_by_image(data):
    assert (data.boxes[:, 2:] > data.boxes[:, :2]).all() and data.boxes.min() >= 0 and data.boxes.max() <= 64
    assert (np.diff(data.image_index) >= 0).all() and set(data.image_index.tolist()) == set(range(600))


def test_boxes_have_the_sizes_of_what_they_are(data):
    sides = data.boxes[:, 2:] - data.boxes[:, :2]
    twice = Counter(zip(data.image_index.tolist(), data.box_names, strict=True))  # a patch that shows an object, too
    once = [not name or twice[image, name] == 1 for image, name in zip(data.image_index, data.box_names, strict=True)]
    assert np.mean(once) > 0.99
    sides, names = sides[once], np.array(data.box_names)[once]
    limits = {"": (16, 32), "red rectangle": (24, 32), "pink": (14, 22)} | dict.fromkeys(CLASS_NAMES, (30, 44))
    for name, (low, high) in limits.items():
        longest = sides[names == name].max(axis=1)
        assert longest.min() >= low and longest.max() <= high and longest.max() - longest.min() >= (high - low) - 2
    assert sides[names == ""].min() >= 16


def test_the_pixels_of_a_box_are_those_of_its_object(data):
    grey = []
    for regions, image in zip(by_image(data), data.images.astype(int), strict=True):
        for name, (x1, y1, x2, y2) in regions:
            median = np.median(image[y1:y2, x1:x2].reshape(-1, 3), axis=0)
            if name == "red rectangle":
                assert median.tolist() == [255, 0, 0]
            elif name == "":
                grey.append(np.ptp(median) < 40)  # under coloured light
            else:
                colours = {other: np.abs(median - colour).sum() for other, colour in COLOURS.items()}
                assert min(colours, key=colours.get) == name
    assert np.mean(grey) > 0.98  # the others had no room but between several objects


def test_no_object_covers_much_of_another(data):
    for regions in by_image(data):
        objects = {name: box for name, box in sorted(regions, key=lambda region: area(region[1])) if name}.values()
        for one, other in combinations(objects, 2):
            assert shared(one, other) <= 0.2 * min(area(one), area(other))


def test_what_a_box_shows_follows_from_the_boxes_of_the_objects(data):
    shows = iter(zip(data.shows_core, data.shows_feature, strict=True))
    for regions, label in zip(by_image(data), LABELS, strict=True):
        for _, box in regions:
            for name, found in zip((CLASS_NAMES[label], "red rectangle"), next(shows), strict=True):
                expected = False
                for target in (target for other, target in regions if other == name):
                    common = shared(box, target)
                    expected |= common >= area(box) / 2
                    expected |= common >= area(target) / 2 and common >= area(box) / 10
                assert found == expected


# ---- what gives nothing away ----


def test_the_order_of_the_boxes_says_nothing(data):
    order = np.concatenate([np.arange(n) / (n - 1) for n in np.bincount(data.image_index)])
    for what in (data.shows_core, data.shows_feature, np.array(data.box_names) == ""):
        assert abs(order[what].mean() - 0.5) < 0.08


def test_objects_stand_anywhere(data):
    for what in (data.shows_core, data.shows_feature):
        centres = (data.boxes[what, :2] + data.boxes[what, 2:]) / 2
        assert (np.abs(centres.mean(axis=0) - 32) < 2.5).all() and (centres.std(axis=0) > 8).all()


def test_with_and_without_the_feature_the_same_images_differ_in_its_pixels_alone():
    labels, nowhere = LABELS[:60], np.zeros(60, dtype=bool)
    with_feature, without = composed(labels, ~nowhere), composed(labels, nowhere)
    differ = (with_feature.images != without.images).any(axis=3)  # (N, y, x)
    red = {image: box for name, box, image in zip(*regions_of(with_feature), strict=True) if name == "red rectangle"}
    for image, (x1, y1, x2, y2) in red.items():
        inside = differ[image, y1:y2, x1:x2].sum()
        assert inside == differ[image].sum() and inside > 0.7 * area((x1, y1, x2, y2))
    assert len(red) == 60 and with_feature.captions == without.captions
    assert (with_feature.sources == without.sources).all()
    others = [[region for region in regions if region[0] != "red rectangle"] for regions in by_image(with_feature)]
    assert list(map(sorted, others)) == list(map(sorted, by_image(without)))


def regions_of(data):
    return data.box_names, data.boxes.astype(int).tolist(), data.image_index.tolist()


def test_every_object_is_used_before_one_is_used_again():
    for n_images in (6, 30, 45):
        sources = Counter(composed(np.arange(n_images) % 3, np.zeros(n_images, dtype=bool)).sources.tolist())
        assert len(sources) == min(15, n_images) and max(sources.values()) == -(-n_images // 15)


def test_sources_are_objects_of_the_labels_class(data):
    assert (data.sources // 10 == data.labels).all()


def test_the_same_generator_gives_the_same_bytes_and_another_one_others():
    one, same, other = composed(seed=1), composed(seed=1), composed(seed=2)
    assert one.images.tobytes() == same.images.tobytes() and one.boxes.tobytes() == same.boxes.tobytes()
    assert (one.captions, one.box_names) == (same.captions, same.box_names)
    assert (one.images != other.images).mean() > 0.5


def test_objects_vary_in_light_and_turn():
    data = composed(np.zeros(200, dtype=int), np.zeros(200, dtype=bool))
    green = np.array(data.box_names) == "green"
    core, images = data.boxes[green].astype(int), data.image_index[green]
    x, y = (core[:, :2] + core[:, 2:]).T // 2
    light = data.images[images, y, x, 1]
    ratios = (core[:, 2] - core[:, 0]) / (core[:, 3] - core[:, 1])
    assert np.std(light) > 10 and np.std(ratios) > 0.05


# ---- the worst case, edges and bad input ----


def test_the_largest_objects_find_room(monkeypatch):
    monkeypatch.setattr(composites, "TRIES", 1)
    sizes = np.tile([[longest, longest] for _, longest in composites.LONGEST], (300, 1, 1))
    places = composites._lay_out(sizes, np.random.default_rng(0))
    assert places.min() >= 0 and (places + sizes).max() <= 64
    for boxes in np.concatenate([places, places + sizes], axis=2).tolist():
        for one, other in combinations(boxes, 2):
            assert shared(one, other) <= 0.2 * min(area(one), area(other))


def test_no_image_is_a_dataset_too():
    data = composed(LABELS[:0], PRESENT[:0])
    assert len(data) == 0 and data.images.shape == (0, 64, 64, 3) and data.boxes.shape == (0, 4)
    assert data.box_names == () and data.shows_core.dtype == bool


@pytest.mark.parametrize(
    ("labels", "present", "message"),
    [
        ([0, 3], [True, True], "labels: expected integers from 0 to 2"),
        ([0, 1], [True], "feature_present: expected length 2, as labels"),
        ([0, 1], [1, 0], "feature_present: expected a vector of booleans"),
    ],
)
def test_what_does_not_fit_is_named(labels, present, message):
    for function, random in product((compose, credits), [np.random.default_rng(0)]):
        with pytest.raises(ValueError, match=message):
            function(MATERIAL, np.array(labels), np.array(present), random)


def test_plain_lists_are_welcome():
    assert composed([0, 1, 2], [True, False, True]).labels.tolist() == [0, 1, 2]


# ---- cut-outs and credits ----


def test_a_cut_out_is_cropped_to_what_is_opaque():
    picture = np.zeros((50, 90, 3), dtype=np.uint8)
    picture[10:20, 30:70] = (9, 99, 199)
    opacity = np.zeros((50, 90))
    opacity[10:20, 30:70] = 1
    one = cut_out("bar", picture, opacity, 7, "somewhere")
    assert one.pixels.shape == (16, 64, 4) and (one.pixels == (9, 99, 199, 255)).all()
    assert (one.name, one.source, one.credit, one.rigid) == ("bar", 7, "somewhere", False)


def test_what_is_transparent_is_not_pasted():
    ring = np.zeros((64, 64, 4), dtype=np.uint8)
    ring[..., :3] = 255
    ring[:8, :, 3] = ring[-8:, :, 3] = ring[:, :8, 3] = ring[:, -8:, 3] = 255
    material = Material(((CutOut("ring", ring),),), red_rectangles(), (block("blue", height=20),), backgrounds())
    data = composed(LABELS * 0, PRESENT & False, material=material)
    contrast = []
    for name, (x1, y1, x2, y2), image in zip(*regions_of(data), strict=True):
        if name == "ring":
            row = data.images[image, (y1 + y2) // 2, x1:x2].astype(int).mean(axis=1)
            contrast.append(row[2] - row[len(row) // 2])
    assert len(contrast) >= 600 and np.mean(np.array(contrast) > 50) > 0.8  # not all: a distractor may lie on it


def test_credits_name_what_is_drawn_and_nothing_else():
    material = Material(MATERIAL.cores, (block("pink", 7),), MATERIAL.distractors, MATERIAL.backgrounds)
    data = composed(LABELS[:3], PRESENT[:3] | True, material=material)
    named = credits(material, LABELS[:3], PRESENT[:3] | True, np.random.default_rng(0))
    assert {f"{CLASS_NAMES[label]}{source}" for label, source in zip(data.labels, data.sources, strict=True)} <= {
        *named
    }
    assert "pink7" in named and sum("background" in name for name in named) == 3
    n_distractors = data.box_names.count("pink") - 3
    assert len([name for name in named if name in ("pink100", "pink101")]) == min(n_distractors, 2)
    assert "pink7" not in credits(material, LABELS[:3], PRESENT[:3] & False, np.random.default_rng(0))
