"""Region proposals: a grid is a grid, and superpixels' boxes are those of segments, whatever the image."""

import numpy as np
import pytest
import tiny
from skimage.segmentation import felzenszwalb

from ravl_core import checks
from ravl_core.proposals import PROPOSALS, grid, propose, superpixels
from ravl_core.regions import grid_boxes, quadrants

WHOLE = [0, 0, 64, 64]


def blank(n_images=1, height=64, width=64, colour=(0, 0, 0)):
    return np.tile(np.array(colour, dtype=np.uint8), (n_images, height, width, 1))


def square(left, top, right, bottom):
    image = blank()
    image[0, top:bottom, left:right] = (255, 0, 0)
    return image


def speckled(n_images):
    """Blurred noise, each block of a hundred pixels another colour, with grain on it."""
    grain = np.random.default_rng(7).integers(0, 40, (n_images, 64, 48, 3), dtype=np.uint8)
    return tiny.noise(n_images, 64, 48, seed=3) // 2 + grain


@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 2), (3, 4)])
def test_a_grid_is_that_of_regions(rows, columns):
    boxes, image_index = grid(blank(3, 40, 60), rows, columns)
    expected_boxes, expected_index = grid_boxes(3, 40, 60, rows, columns)
    np.testing.assert_array_equal(boxes, expected_boxes)
    np.testing.assert_array_equal(image_index, expected_index)
    np.testing.assert_allclose(boxes[0], [0, 0, 60 / columns, 40 / rows], rtol=1e-6)


def test_superpixels_are_the_boxes_of_the_segments():
    images = speckled(4)
    boxes, image_index = superpixels(images)
    n_boxes = np.bincount(image_index)
    assert len(set(n_boxes)) > 1 and n_boxes.min() > 1, "too plain a case"
    for image, pixels in enumerate(images):
        segments = felzenszwalb(pixels, scale=200, sigma=0, min_size=round(0.02 * 64 * 48), channel_axis=-1)
        expected = set()
        for segment in np.unique(segments):
            y, x = np.nonzero(segments == segment)
            expected.add((x.min(), y.min(), x.max() + 1, y.max() + 1))
        own = [tuple(box) for box in boxes[image_index == image].tolist()]
        assert len(own) == len(set(own)) and set(own) == expected


def test_superpixels_cover_every_pixel_lie_in_the_image_and_are_not_tiny():
    images = speckled(3)
    boxes, image_index = superpixels(images, min_size=0.05)
    checks.boxes("boxes", boxes, width=48, height=64)
    covered = np.zeros((3, 64, 48), dtype=bool)
    for (x1, y1, x2, y2), image in zip(boxes.astype(int), image_index, strict=True):
        covered[image, y1:y2, x1:x2] = True
        assert (x2 - x1) * (y2 - y1) >= 0.05 * 64 * 48
    assert covered.all()


def test_a_larger_smallest_size_or_scale_gives_fewer_boxes():
    images = speckled(3)
    n_boxes = [len(superpixels(images, min_size=share)[0]) for share in (0.002, 0.02, 0.1)]
    assert sorted(n_boxes, reverse=True) == n_boxes and len(set(n_boxes)) == 3
    assert len(superpixels(images, 10_000, 0.002)[0]) < len(superpixels(images, 200, 0.002)[0])
    boxes, image_index = superpixels(images, min_size=1)
    assert boxes.tolist() == [[0, 0, 48, 64]] * 3 and image_index.tolist() == [0, 1, 2]


def test_the_smallest_size_does_not_depend_on_the_number_of_images():
    images = speckled(3)
    boxes, image_index = superpixels(images)
    for image in range(3):
        np.testing.assert_array_equal(superpixels(images[image : image + 1])[0], boxes[image_index == image])


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (10, 200, 30)])
def test_a_uniform_image_is_one_region(colour):
    boxes, image_index = superpixels(blank(2, colour=colour))
    assert boxes.tolist() == [WHOLE, WHOLE] and image_index.tolist() == [0, 1]


@pytest.mark.parametrize("place", [(20, 10, 45, 30), (0, 0, 28, 28), (30, 40, 64, 64)])
def test_a_red_square_on_black_is_a_region_and_nothing_else_is(place):
    boxes, _ = superpixels(square(*place))
    assert sorted(boxes.tolist()) == sorted([WHOLE, [*place]])


def test_segments_that_share_a_box_give_it_once():
    image = blank()
    row, column = np.indices((64, 64)) // 8
    image[0, (row + column) % 2 == 1] = 255  # a checkerboard hangs together by its corners: two segments
    boxes, image_index = superpixels(image)
    assert boxes.tolist() == [WHOLE] and image_index.tolist() == [0]


@pytest.mark.parametrize("name", PROPOSALS)
def test_every_proposal_is_of_the_same_form(name):
    images = np.concatenate([square(20, 10, 45, 30), blank(), square(0, 0, 20, 64)])
    before = images.copy()
    images.setflags(write=False)
    boxes, image_index = PROPOSALS[name](images)
    assert boxes.dtype == np.float32 and image_index.dtype == np.int64
    checks.boxes("boxes", boxes, width=64, height=64)
    checks.sorted_image_index("image_index", image_index, 3)
    checks.same_length(boxes=boxes, image_index=image_index)
    assert set(image_index) == {0, 1, 2}
    again = PROPOSALS[name](images)
    np.testing.assert_array_equal(boxes, again[0])
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", PROPOSALS)
def test_no_image_has_no_region(name):
    boxes, image_index = PROPOSALS[name](blank(0))
    assert boxes.shape == (0, 4) and boxes.dtype == np.float32
    assert image_index.shape == (0,) and image_index.dtype == np.int64


def test_the_names_say_what_they_are():
    images = blank(2)
    np.testing.assert_array_equal(PROPOSALS["quadrants"](images)[0], quadrants(2, 64, 64)[0])
    sizes = {name: len(propose(images)[0]) // 2 for name, propose in PROPOSALS.items()}
    assert sizes == {"quadrants": 4, "3 × 3 grid": 9, "4 × 4 grid": 16, "superpixels": 1}


def same(got, expected):
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_registered_name_gives_what_is_registered(name):
    images = speckled(2)
    same(propose(name, images), PROPOSALS[name](images))


@pytest.mark.parametrize("name", ["grid 2x5", "grid 2 x 5", "grid 2×5", "2 × 5 grid", "2x5 grid", "2x5"])
def test_any_grid_has_a_name(name):
    images = blank(2, 40, 60)
    same(propose(name, images), grid(images, 2, 5))


def test_the_datas_own_boxes_are_handed_through_and_other_names_do_not_look_at_them():
    images, own = blank(2), (np.array([[1.0, 2, 30, 40]]), np.array([1]))
    same(propose("boxes", images, own), own)
    same(propose("quadrants", images, own), grid(images, 2, 2))


def test_the_detector_is_asked_by_its_name(monkeypatch):
    monkeypatch.setattr("ravl_core.detector.detector_boxes", lambda images: ("boxes of", len(images)))
    assert propose("detector", blank(3)) == ("boxes of", 3)


def test_a_long_loop_shows_how_far_it_is(monkeypatch):
    shown = []
    monkeypatch.setattr("ravl_core.proposals.track", lambda images, what: shown.append((len(images), what)) or images)
    superpixels(blank(5))
    assert shown == [(5, "superpixels")]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: superpixels(blank() / 255), "images: expected uint8 of shape .* got float64"),
        (lambda: superpixels(blank()[0]), "images: expected uint8 of shape"),
        (lambda: grid(blank()[..., :1], 2, 2), "images: expected uint8 of shape"),
        (lambda: superpixels(blank(), scale=0), "scale: expected a number above 0, got 0"),
        (lambda: superpixels(blank(), scale=-1), "scale: expected a number from 0"),
        (lambda: propose("boxes", blank()), "regions: expected data with boxes of its own for 'boxes'"),
        (lambda: propose("boxes", blank(), (np.empty((0, 4)), np.empty(0, int))), "regions: expected data with boxes"),
        (lambda: propose("quadrant", blank()), "regions: expected one of .* did you mean 'quadrants'"),
        (lambda: propose("grid 3", blank()), "regions: expected one of .* did you mean 'grid 3x4'"),
        (lambda: propose((3, 4), blank()), "regions: expected one of"),
        (lambda: propose("grid 0x3", blank()), "regions: expected an integer of 1 or more, got 0"),
        (lambda: propose("grid 2x2", blank() / 255), "images: expected uint8"),
        (lambda: superpixels(blank(), min_size=50), "min_size: expected a number from 0 to 1, got 50"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
