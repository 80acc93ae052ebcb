"""Visual prompts: what is drawn is where it was asked for, in the colour it should have, and nothing else changes."""

import numpy as np
import pytest

from ravl_core.visual_prompts import RED, dot_grid, red_circle

GREY = np.full((3, 60, 80, 3), 90, dtype=np.uint8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 200, (*shape, 3), dtype=np.uint8)  # nowhere red


def changed(before, after):
    return (before != after).any(axis=-1)  # (N, H, W)


# ---- red circle ----


@pytest.mark.parametrize("box", [(10, 5, 50, 45), (10, 5, 71, 20), (0, 0, 80, 60), (30, 7, 33, 55), (8, 8, 9, 9)])
def test_the_ellipse_is_red_touches_all_sides_of_its_box_and_stays_inside(box):
    images = noise(1, 60, 80)
    drawn = red_circle(images, np.array([box]), np.array([0]), width=2)
    y, x = np.nonzero(changed(images, drawn)[0])
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == box
    assert (drawn[0, y, x] == RED).all()


def test_the_line_is_an_ellipse_of_the_width_asked_for():
    x1, y1, x2, y2 = box = 10, 5, 70, 45
    red = changed(GREY[:1], red_circle(GREY[:1], np.array([box]), np.array([0]), width=4))[0]
    for y in range(60):
        for x in range(80):
            across, down = (x + 0.5 - (x1 + x2) / 2), (y + 0.5 - (y1 + y2) / 2)
            outer, inner = ((across / (30 - w)) ** 2 + (down / (20 - w)) ** 2 for w in (0, 4))
            if outer < 0.9 and inner > 1.1:
                assert red[y, x]
            if outer > 1.1 or inner < 0.9:
                assert not red[y, x]
    assert red[25].nonzero()[0].tolist() == [*range(10, 14), *range(66, 70)]
    assert red[:, 40].nonzero()[0].tolist() == [*range(5, 9), *range(41, 45)]


def test_the_width_follows_from_the_shorter_side():
    for side, width in ((20, 1), (64, 1), (100, 2), (224, 4)):
        images = np.zeros((1, side, 2 * side, 3), dtype=np.uint8)
        red = changed(images, red_circle(images, np.array([[0, 0, side, side]]), np.array([0])))[0]
        assert red[side // 2, : side // 2].sum() == width


def test_every_image_gets_its_own_ellipses_and_the_input_stays_as_it_is():
    images = noise(3, 60, 80)
    kept, boxes = images.copy(), np.array([[40.5, 30, 79.2, 59.9], [2, 2, 20, 20], [1, 30, 20, 50]])
    drawn = red_circle(images, boxes, np.array([2, 0, 2]))
    where = changed(images, drawn)
    assert (images == kept).all() and not np.shares_memory(images, drawn) and drawn.dtype == np.uint8
    assert where[0, 2:20, 2:20].sum() == where[0].sum() > 0 and not where[1].any()
    assert where[2, :, 40:].any() and where[2, :, :20].any()
    y, x = np.nonzero(where[2, :, 30:])
    assert (x.min() + 30, y.min(), x.max() + 31, y.max() + 1) == (40, 30, 80, 60)  # every pixel the box touches
    assert (red_circle(images, np.empty((0, 4)), np.empty(0, dtype=int)) == images).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": GREY / 255}, "images: expected uint8"),
        ({"boxes": np.array([[5, 5, 5, 9]])}, "boxes: expected x1 < x2"),
        ({"boxes": np.array([[5, 5, 81, 9]])}, "boxes: expected boxes within"),
        ({"image_index": np.array([3])}, "image_index: expected integers from 0 to 2"),
        ({"image_index": np.array([1, 2])}, "image_index: expected length 1, as boxes"),
        ({"width": 0}, "width: expected an integer of 1 or more"),
    ],
)
def test_an_ellipse_that_cannot_be_drawn_is_named(change, message):
    fitting = {"images": GREY, "boxes": np.array([[1, 1, 9, 9]]), "image_index": np.array([0])}
    with pytest.raises(ValueError, match=message):
        red_circle(**(fitting | change))


# ---- dots ----


def test_unlabelled_dots_stand_in_the_middles_of_equal_cells_and_nothing_else_changes():
    images = np.zeros((2, 60, 90, 3), dtype=np.uint8)
    where = changed(images, dot_grid(images, rows=2, columns=3, labels=False))
    expected = [[y, x] for y in (15, 45) for x in (15, 45, 75)]
    assert all(np.argwhere(of_image).tolist() == expected for of_image in where)


def test_dots_are_squares_of_a_fiftieth_of_the_shorter_side():
    images = np.zeros((1, 200, 300, 3), dtype=np.uint8)
    y, x = np.nonzero(changed(images, dot_grid(images, rows=1, columns=1, labels=False))[0])
    assert (x.min(), x.max(), y.min(), y.max(), len(x)) == (148, 151, 98, 101, 16)


@pytest.mark.parametrize("labels", [False, True])
def test_dots_and_labels_are_black_on_bright_pixels_and_white_on_dark_ones(labels):
    images = np.zeros((1, 100, 200, 3), dtype=np.uint8)
    images[:, :, 100:] = (250, 100, 34)  # 128 on average
    images[:, :, :100] = (0, 255, 126)  # 127
    drawn = dot_grid(images, rows=1, columns=2, labels=labels)
    for half, colour in ((np.s_[0, :, :100], 255), (np.s_[0, :, 100:], 0)):
        marks = drawn[half][changed(images, drawn)[half]]
        assert (marks == colour).all() and (len(marks) > 4) == labels


def test_each_label_is_below_its_dot_and_differs_from_the_others():
    images = np.zeros((1, 224, 224, 3), dtype=np.uint8)
    labelled, bare = (dot_grid(images, labels=labels) for labels in (True, False))
    assert (labelled[changed(images, bare)] == 255).all()  # the dots remain
    cells = set()
    for row in range(6):
        for column in range(6):
            x, y = (2 * column + 1) * 224 // 12, (2 * row + 1) * 224 // 12
            cell = changed(bare, labelled)[0, y - 18 : y + 18, x - 18 : x + 18]
            assert cell[20:].any() and not cell[:20].any()
            cells.add(cell.tobytes())
    assert len(cells) == 36


def test_labels_are_left_out_where_the_cells_have_no_room():
    for side, labelled in ((64, False), (143, False), (144, True), (224, True)):
        images = np.zeros((1, side, side, 3), dtype=np.uint8)
        assert (dot_grid(images) == dot_grid(images, labels=labelled)).all()
        assert (dot_grid(images, labels=True) != dot_grid(images, labels=False)).any()


def test_dots_leave_the_input_as_it_is():
    images = noise(2, 64, 64)
    kept = images.copy()
    drawn = dot_grid(images)
    assert (images == kept).all() and drawn.dtype == np.uint8 and changed(images, drawn).sum() == 2 * 36


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "rows: expected an integer of 1 or more"),
        ({"columns": 2.0}, "columns: expected an integer of 1 or more"),
        ({"columns": 81}, "columns: expected at most 80, one for each pixel, got 81"),
        ({"images": GREY[0]}, r"images: expected uint8 of shape \(N, H, W, 3\)"),
    ],
)
def test_dots_that_cannot_be_drawn_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        dot_grid(**({"images": GREY} | change))
