"""Examples to look at come from the recipe and the maps themselves."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import digits, tiny_vlm

from ravl_core import examples
from ravl_core.saliency import gradient_map, share_inside
from ravl_core.zero_shot import class_embeddings


@pytest.fixture(scope="module")
def data():
    return digits(20)


def test_swapped_images_lose_or_gain_the_feature(data):
    images = np.arange(20)
    made = examples.swapped_images(tiny_vlm(), data, data.shows_feature, images, seed=1)
    assert made.shape == data.images.shape and made.dtype == np.uint8

    def red(pixels):  # share of each image that is of the rectangle's colour
        return ((pixels[..., 0] > 150) & (pixels[..., 1] < 80)).mean(axis=(1, 2))

    had, has = red(data.images), red(made)
    assert (has[data.feature_present] < 0.02).all() and (had[data.feature_present] > 0.2).all()
    assert (has[~data.feature_present] > 0.1).all() and (had[~data.feature_present] == 0).all()


def test_swaps_are_drawn_by_the_seed_and_leave_the_set_as_it_is(data):
    before, some = data.images.copy(), np.array([3, 4, 8, 11])
    one, same, other = (
        examples.swapped_images(tiny_vlm(), data, data.shows_feature, some, seed=seed) for seed in (0, 0, 5)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_array_equal(data.images, before)


def test_the_box_of_the_feature_is_the_images_own(data):
    images = np.flatnonzero(data.feature_present)[[4, 0, 2]]
    expected = [data.boxes[(data.image_index == image) & data.shows_feature][0] for image in images]
    np.testing.assert_array_equal(examples.boxes_of_feature(data, images), expected)
    with pytest.raises(ValueError, match=r"images: .*got \[0, 2\]"):
        examples.boxes_of_feature(data, np.array([0, 1, 2]))


def test_shares_are_those_of_each_models_own_maps(data):
    models, images = {"one": tiny_vlm(), "other": tiny_vlm(seed=1)}, np.array([1, 5, 9])
    direction = class_embeddings(models["one"], data.class_names, data.templates)[9]
    table = examples.shares_on_feature(models, data, images, direction)
    assert list(table.columns) == ["one", "other"] and list(table.index) == [1, 5, 9]
    for name, vlm in models.items():
        for image in images:
            cells = gradient_map(vlm, data.images[[image]], np.array([0]), direction[None], "layer3")
            box = data.boxes[(data.image_index == image) & data.shows_feature]
            assert table.loc[image, name] == pytest.approx(share_inside(cells, box, np.array([0]), 56, 56)[0], abs=1e-5)


def test_a_region_that_is_called_spurious_by_mistake_is_swapped_all_the_same(data):
    """The recipe knows nothing of what is planted."""
    wrong = replace(data, shows_feature=None)
    assignment = np.zeros(len(data.boxes), dtype=bool)
    assignment[np.flatnonzero(data.shows_core)[0]] = True  # the digit of the first image
    made = examples.swapped_images(tiny_vlm(), wrong, assignment, np.arange(20), seed=0)
    assert (made[0] != data.images[0]).any()
