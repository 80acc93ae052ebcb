"""Masks, held to plain loops over pixels; and what they say of models that do, or do not, lean on what is hidden."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ravl_core.domains.dataset import Dataset
from ravl_core.masking import BLUR, FILLS, RING, control_regions, mask_effect, mask_regions
from ravl_core.metrics import bootstrap_interval
from ravl_core.regions import quadrants

pytestmark = pytest.mark.filterwarnings("error")
by_hypothesis = settings(max_examples=40, derandomize=True)

RED, GREY, BLACK = (255, 0, 0), (90, 90, 90), (0, 0, 0)


def pixels_under(box, height, width):
    """Every pixel that a box touches."""
    x1, y1, x2, y2 = (float(edge) for edge in box)
    rows = [y for y in range(height) if y + 1 > y1 and y < y2]
    columns = [x for x in range(width) if x + 1 > x1 and x < x2]
    return [(y, x) for y in rows for x in columns]


def colour_around(image, box, hidden):
    """Mean of the pixels that are at most RING away from the box, in the image, and not hidden; else of the image."""
    height, width = image.shape[:2]
    inside = pixels_under(box, height, width)
    (top, left), (bottom, right) = inside[0], inside[-1]
    around = [
        image[y, x].astype(float)
        for y in range(height)
        for x in range(width)
        if top - RING <= y <= bottom + RING and left - RING <= x <= right + RING and (y, x) not in hidden
    ]
    every = [image[y, x].astype(float) for y in range(height) for x in range(width)]
    return np.rint(np.mean(around or every, axis=0))


def masked_by_loops(images, boxes, image_index, fill):
    masked, (_, height, width, _) = images.copy(), images.shape
    mean = np.rint(np.mean([pixel for image in images for pixel in image.reshape(-1, 3)], axis=0))
    for i, image in enumerate(images):
        own = [box for box, owner in zip(boxes, image_index, strict=True) if owner == i]
        hidden = {pixel for box in own for pixel in pixels_under(box, height, width)}
        blurred = gaussian_filter(image.astype(float), (BLUR * height, BLUR * width, 0), mode="nearest")
        for box in sorted(own, key=lambda box: len(pixels_under(box, height, width))):
            for y, x in pixels_under(box, height, width):
                if fill == "surroundings":
                    masked[i, y, x] = colour_around(image, box, hidden)
                elif fill == "blur":
                    masked[i, y, x] = np.rint(blurred[y, x])
                else:
                    masked[i, y, x] = mean
    return masked


def random_problem(seed, n_images=3, height=9, width=13):
    """Boxes of no to four an image, of any size and in any order; half of their sides lie between pixels."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n_images, height, width, 3)).astype(np.uint8)
    image_index = random.permutation(np.repeat(np.arange(n_images), random.integers(0, 5, n_images)))
    corners = random.uniform(0, 1, (len(image_index), 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.01], axis=1)
    even = random.random(len(boxes)) < 0.5
    boxes[even] = np.concatenate([np.floor(boxes[even, :2]), np.ceil(boxes[even, 2:])], axis=1)
    return images, boxes.clip(0, [width, height] * 2), image_index


def image_of(colour, height=10, width=12):
    return np.full((1, height, width, 3), colour, dtype=np.uint8)


def box_at(*edges):
    return np.array([edges], dtype=float), np.zeros(1, dtype=int)


# --- masks -----------------------------------------------------------------------------------------------------------


@by_hypothesis
@given(st.integers(0, 2**32 - 1), st.sampled_from(["surroundings", "mean"]))
def test_masks_are_those_of_the_plain_loops(seed, fill):
    problem = random_problem(seed)
    np.testing.assert_array_equal(mask_regions(*problem, fill), masked_by_loops(*problem, fill))


@by_hypothesis
@given(st.integers(0, 2**32 - 1))
def test_a_blur_is_scipys_to_the_last_level(seed):
    images, boxes, image_index = random_problem(seed)
    got = mask_regions(images, boxes, image_index, "blur")
    expected = masked_by_loops(images, boxes, image_index, "blur")
    assert np.abs(got.astype(int) - expected).max() <= 1  # float32 may round the other way
    np.testing.assert_array_equal(got[expected == images], images[expected == images])


def test_a_patch_takes_the_colour_around_it():
    images = image_of(GREY)
    images[0, 3:6, 4:8] = RED
    np.testing.assert_array_equal(mask_regions(images, *box_at(4, 3, 8, 6)), image_of(GREY))
    np.testing.assert_array_equal(mask_regions(images, *box_at(4.7, 3.2, 7.3, 5.9)), image_of(GREY))  # outwards


def test_the_ring_ends_two_pixels_away_and_at_the_edge_of_the_image():
    images = image_of(BLACK)
    images[0, :, 6] = 60  # the second column to the right of the box
    images[0, :, 7] = 255  # the third one does not count
    got = mask_regions(images, *box_at(0, 4, 5, 10))
    n_around = 2 * 7 + 6 * 2  # two rows above, with the corner, and six rows of two columns
    assert got[0, 9, 0].tolist() == [round(60 * 8 / n_around)] * 3


def test_what_is_hidden_itself_lends_no_colour():
    images = image_of(GREY)
    images[0, 2:6, 2:9] = RED  # two boxes side by side
    boxes = np.array([[2, 2, 5, 6], [5, 2, 9, 6]], dtype=float)
    np.testing.assert_array_equal(mask_regions(images, boxes, np.zeros(2, int)), image_of(GREY))


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_box_within_a_box_leaves_no_trace(order):
    images = image_of(GREY)
    images[0, 2:9, 2:9] = RED
    boxes = np.array([[2, 2, 9, 9], [4, 4, 5, 5]], dtype=float)[order]
    np.testing.assert_array_equal(mask_regions(images, boxes, np.zeros(2, int)), image_of(GREY))


def test_the_whole_image_takes_its_own_mean():
    images = np.concatenate([image_of(GREY), image_of(BLACK)])
    images[0, :5] = RED
    got = mask_regions(images, *box_at(0, 0, 12, 10))
    assert np.unique(got[0].reshape(-1, 3), axis=0).tolist() == [[172, 45, 45]]  # of 172.5 and 45, to even


def test_the_mean_is_that_of_all_images():
    images = np.concatenate([image_of(GREY), image_of(BLACK), image_of(BLACK)])
    got = mask_regions(images, *box_at(0, 0, 1, 1), "mean")
    assert got[0, 0, 0].tolist() == [30] * 3
    np.testing.assert_array_equal(got[0, 1:], images[0, 1:])


def test_a_blur_keeps_colours_and_loses_shapes():
    images = image_of(RED, 32, 32)
    np.testing.assert_array_equal(mask_regions(images, *box_at(4, 4, 20, 20), "blur"), images)
    images[0, ::4] = images[0, 1::4] = 0  # stripes two pixels wide
    blurred = mask_regions(images, *box_at(8, 8, 24, 24), "blur")[0, 8:24, 8:24, 0]
    assert np.ptp(images[0, 8:24, 8:24, 0]) == 255 and np.ptp(blurred) < 16


@pytest.mark.parametrize("fill", FILLS)
def test_what_is_passed_in_stays_as_it_is_and_so_do_images_without_a_box(fill):
    images, boxes, image_index = random_problem(4)
    kept, image_index = images.copy(), np.where(image_index == 1, 2, image_index)
    got = mask_regions(images, boxes, image_index, fill)
    np.testing.assert_array_equal(images, kept)
    np.testing.assert_array_equal(got[1], images[1])
    assert got.dtype == np.uint8 and (got[0] != images[0]).any()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("n_images", [0, 2])
def test_no_box_changes_nothing(fill, n_images):
    images = random_problem(0, n_images=2)[0][:n_images]
    got = mask_regions(images, np.empty((0, 4)), np.empty(0, int), fill)
    np.testing.assert_array_equal(got, images)
    assert got is not images


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fill": "black"}, "fill: expected one of 'surroundings', 'blur', 'mean', got 'black'"),
        ({"images": np.zeros((1, 8, 8, 3))}, "images: expected uint8"),
        ({"boxes": np.array([[0, 0, 9, 8]])}, "boxes: expected boxes within"),
        ({"boxes": np.array([[2, 0, 2, 8]])}, "boxes: expected x1 < x2"),
        ({"image_index": np.array([1])}, "image_index: expected integers from 0 to 0"),
        ({"image_index": np.array([0, 0])}, "image_index: expected length 1, as boxes"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {"images": np.zeros((1, 8, 8, 3), np.uint8), "boxes": np.array([[0, 0, 4, 4]]), "image_index": [0]}
    with pytest.raises(ValueError, match=message):
        mask_regions(**arguments | change)


# --- what to compare with --------------------------------------------------------------------------------------------


def shared(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def controls_by_loops(boxes, image_index, regions):
    """One after the other takes the nearest in area that is left; for boxes whose areas differ by pixels."""
    taken, controls = set(regions), []
    for r in range(len(boxes)):
        for g in regions:
            same_image = image_index[g] == image_index[r]
            if same_image and shared(boxes[g], boxes[r]) >= 0.5 * min(area(boxes[g]), area(boxes[r])):
                taken.add(r)
    for g in regions:
        left = [r for r in range(len(boxes)) if image_index[r] == image_index[g] and r not in taken]
        chosen = min(left, key=lambda r: abs(area(boxes[r]) - area(boxes[g])), default=-1)
        controls.append(chosen)
        taken.add(chosen)
    return controls


@by_hypothesis
@given(st.integers(0, 2**32 - 1))
def test_controls_are_those_of_the_plain_loops(seed):
    random = np.random.default_rng(seed)
    image_index = np.repeat(np.arange(6), random.integers(0, 7, 6))
    corner = random.uniform(0, 150, (len(image_index), 2))
    boxes = np.concatenate([corner, corner + random.uniform(20, 100, (len(image_index), 2))], axis=1)
    regions = np.flatnonzero(random.random(len(boxes)) < 0.4)
    assert control_regions(boxes, image_index, regions, seed).tolist() == controls_by_loops(boxes, image_index, regions)


def test_of_equal_regions_each_is_chosen_as_often():
    boxes, image_index = quadrants(3000, 57, 57)  # 28.5 pixels a side
    regions = np.arange(0, 12000, 4) + np.arange(3000) % 4
    controls = control_regions(boxes, image_index, regions, seed=1)
    np.testing.assert_array_equal(image_index[controls], image_index[regions])
    steps = np.bincount((controls - regions) % 4, minlength=4)
    assert steps[0] == 0 and (np.abs(steps[1:] - 1000) < 120).all()
    assert (controls != control_regions(boxes, image_index, regions, seed=2)).any()


def test_each_serves_once_while_there_are_any():
    boxes, image_index = quadrants(4, 56, 56)
    regions = np.array([0, 4, 6, 9, 10, 11, 12, 13, 14, 15])  # 1, 2, 3 and 4 of four
    controls = control_regions(boxes, image_index, regions)
    assert controls[0] in (1, 2, 3) and set(controls[1:3]) == {5, 7}
    assert controls[3:].tolist() == [8, -1, -1, -1, -1, -1, -1]


def test_what_lies_where_a_given_region_does_serves_none():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 40, 40], [0, 4.9, 10, 14.9], [0, 5.1, 10, 15.1]])
    assert control_regions(boxes, np.zeros(4, int), np.array([0])).tolist() == [3]  # the others share half or hold it
    assert control_regions(boxes[:3], np.zeros(3, int), np.array([0])).tolist() == [-1]


def test_no_region_needs_no_control():
    assert control_regions(*quadrants(2, 8, 8), np.empty(0, dtype=int)).shape == (0,)
    assert control_regions(np.empty((0, 4)), np.empty(0, int), np.empty(0, dtype=int)).shape == (0,)


# --- effects ---------------------------------------------------------------------------------------------------------

SIDE = 16


class Reader:
    """Two classes are told apart by green pixels, and as much as it leans on red by red ones, which mean class 1."""

    def __init__(self, leaning):
        self.leaning = leaning

    def encode_images(self, images):
        red, green = ((images[..., channel] > 128).mean(axis=(1, 2)) for channel in (0, 1))  # a quadrant: 1/4
        towards = np.pi / 4 + 2 * (self.leaning * red - green) + 0.25
        return np.stack([np.cos(towards), np.sin(towards)], axis=1)

    def encode_texts(self, texts):
        return np.eye(2)[[int(text) for text in texts]]


def marked(n_images=24, seed=0, sources=True):
    """A green quadrant is class 0; half of each class have a red quadrant as well. The others are dark noise."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 40, (n_images, SIDE, SIDE, 3)).astype(np.uint8)
    boxes, image_index = quadrants(n_images, SIDE, SIDE)
    labels, red = np.arange(n_images) % 2, np.arange(n_images) // 2 % 2 == 1
    places = np.stack([random.permutation(4) for _ in range(n_images)])
    shows_red = np.zeros(len(boxes), dtype=bool)
    for i in range(n_images):
        for region, colour, there in ((places[i, 0], (0, 255, 0), labels[i] == 0), (places[i, 1], RED, red[i])):
            x1, y1, x2, y2 = boxes[4 * i + region].astype(int)
            images[i, y1:y2, x1:x2] = colour if there else images[i, y1:y2, x1:x2]
        shows_red[4 * i + places[i, 1]] = red[i]
    dataset = Dataset(
        images, labels, ("",) * n_images, ("0", "1"), ("{}",), boxes, image_index,
        sources=np.arange(n_images) // 5 if sources else None,
    )  # fmt: skip
    return dataset, np.flatnonzero(shows_red)


def probs_of(vlm, image):
    scores = np.exp(vlm.encode_images(image[None])[0] / 0.07)
    return scores / scores.sum()


def changes_by_loops(vlm, dataset, regions, attribute, fill):
    """Image → its three changes when these regions are hidden."""
    masked = mask_regions(dataset.images, dataset.boxes[regions], dataset.image_index[regions], fill)
    found = {}
    for i in sorted({int(dataset.image_index[r]) for r in regions}):
        before, after, label = probs_of(vlm, dataset.images[i]), probs_of(vlm, masked[i]), dataset.labels[i]
        gained = int(after.argmax() == label) - int(before.argmax() == label)
        found[i] = [after[attribute] - before[attribute], gained, float(after.argmax() != before.argmax())]
    return found


def check_group(got, effect, control, sources, seed):
    compared = [i for i in effect if i in control]
    assert (got.n, got.n_compared) == (len(effect), len(compared))
    sides = (got.effect, effect), (got.beyond_control, {i: np.subtract(effect[i], control[i]) for i in compared})
    for changes, expected in sides:
        for at, interval in enumerate((changes.probability, changes.accuracy, changes.predictions)):
            values = np.array([expected[i][at] for i in expected])
            wanted = bootstrap_interval(values, groups=[sources[i] for i in expected], seed=seed)
            np.testing.assert_allclose(interval, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("attribute", [0, 1])
@pytest.mark.parametrize("sources", [True, False])
def test_effects_are_those_of_the_plain_loops(fill, attribute, sources):
    dataset, regions = marked(sources=sources)
    regions = np.sort(np.concatenate([regions, [0, 1, 2, 3, 5]]))  # image 0 has no other region
    vlm, seed = Reader(leaning=1.0), 3
    got = mask_effect(vlm, dataset, regions, attribute, seed, fill)
    controls = control_regions(dataset.boxes, dataset.image_index, regions, seed)
    effect = changes_by_loops(vlm, dataset, regions, attribute, fill)
    control = changes_by_loops(vlm, dataset, controls[controls >= 0], attribute, fill)
    assert 0 in effect and 0 not in control
    units = np.arange(24) if dataset.sources is None else dataset.sources
    for group, own in ((got.own, True), (got.others, False)):
        chosen = {i for i in effect if (dataset.labels[i] == attribute) == own}
        sides = ({i: part[i] for i in part if i in chosen} for part in (effect, control))
        check_group(group, *sides, units, seed)
    assert (got.attribute, got.fill) == (attribute, fill)


def test_hiding_a_shortcut_helps_other_classes_and_hurts_its_own():
    dataset, regions = marked(n_images=80)
    got = mask_effect(Reader(leaning=2.0), dataset, regions, attribute=1)
    assert got.others.n == got.own.n == got.others.n_compared == 20
    for part in (got.others.effect, got.others.beyond_control):
        assert part.probability.high < -0.3 and part.accuracy.low > 0.3
    assert got.others.effect.predictions.low > 0.3 and got.own.effect.probability.high < 0


def test_hiding_what_a_model_does_not_look_at_changes_little():
    dataset, regions = marked(n_images=80)
    got = mask_effect(Reader(leaning=0.0), dataset, regions, attribute=1)
    for group in (got.others, got.own):
        assert abs(group.effect.probability.estimate) < 0.02
        assert group.effect.predictions == group.effect.accuracy == (0, 0, 0)
    # One of three controls hides the green quadrant, which the answer does go by.
    assert got.others.beyond_control.probability.estimate < -0.2


def test_order_and_repetition_of_the_regions_do_not_matter():
    dataset, regions = marked()
    expected = mask_effect(Reader(1.0), dataset, regions, 1)
    assert mask_effect(Reader(1.0), dataset, [*regions[::-1].tolist(), int(regions[0])], 1) == expected


def test_regions_of_an_image_are_hidden_together():
    dataset, regions = marked()
    both = [int(regions[0]), 4 * int(dataset.image_index[regions[0]]) + (int(regions[0]) + 1) % 4]
    got = mask_effect(Reader(1.0), dataset, both, 1)
    assert got.others.n + got.own.n == 1


@pytest.mark.parametrize("regions", [[0, 1, 2, 3], []])
def test_images_without_another_region_leave_the_comparison_only(regions):
    dataset, _ = marked()
    got = mask_effect(Reader(1.0), dataset, regions, attribute=1)  # image 0 is of class 0
    n = len(regions) // 4
    assert (got.others.n, got.others.n_compared, got.own.n, got.own.n_compared) == (n, 0, 0, 0)
    assert np.isnan([*got.others.beyond_control.probability, *got.own.effect.accuracy, got.own.control_area]).all()
    assert np.isnan(got.others.effect.probability.estimate) == (n == 0)
    plain = json.loads(json.dumps(got.plain(), allow_nan=False))
    assert plain["own"]["effect"]["accuracy"] == [None, None, None] and plain["own"]["control_area"] is None


def test_controls_are_told_by_their_area():
    dataset, _ = marked()
    got = mask_effect(Reader(1.0), dataset, [0, 1, 2, 4, 5, 6, 9, 16, 17, 18, 19], attribute=1)
    # Of class 0, image 0 hides three and one other, image 2 one and one, image 4 has no other. Image 1 is as image 0.
    assert got.others.control_area == pytest.approx(2 / 4) and got.own.control_area == pytest.approx(1 / 3)


def test_a_dataset_without_images_says_nothing():
    dataset, _ = marked()
    names = ("images", "labels", "captions", "boxes", "image_index", "sources")
    empty = replace(dataset, **{name: getattr(dataset, name)[:0] for name in names})
    got = mask_effect(Reader(1.0), empty, [], 1)
    assert (got.others.n, got.own.n) == (0, 0)


@pytest.mark.parametrize("fill", FILLS)
def test_plain_numbers_are_those_of_the_effect(fill):
    dataset, regions = marked()
    got = mask_effect(Reader(1.0), dataset, regions, 1, fill=fill)
    plain = json.loads(json.dumps(got.plain(), allow_nan=False))
    assert (plain["fill"], plain["attribute"], plain["own"]["n"]) == (fill, 1, got.own.n)
    assert plain["others"]["beyond_control"]["predictions"] == list(got.others.beyond_control.predictions)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"regions": [96]}, "regions: expected integers from 0 to 95"),
        ({"regions": [-1]}, "regions: expected integers from 0 to 95"),
        ({"attribute": 2}, "attribute: expected integers from 0 to 1"),
        ({"fill": "gray"}, "fill: expected one of"),
    ],
)
def test_an_effect_of_nothing_there_is_named(change, message):
    arguments = {"regions": [0], "attribute": 1, "fill": "mean"} | change
    with pytest.raises(ValueError, match=message):
        mask_effect(Reader(1.0), marked()[0], **arguments)


def test_the_model_sees_the_images_that_hold_the_regions_and_no_others():
    dataset, regions = marked()
    seen, reader = [], Reader(1.0)
    spy = SimpleNamespace(
        encode_images=lambda images: (seen.append(len(images)), reader.encode_images(images))[1],
        encode_texts=reader.encode_texts,
    )
    mask_effect(spy, dataset, regions[:3], 1)
    assert seen == [3, 3, 3]
