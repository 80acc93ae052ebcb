"""Gradient maps, held to finite differences in double precision; shares of maps, held to counts of pixels."""

import copy

import numpy as np
import pytest
import torch
from tiny import VIT, noise, same_weights, tiny_vlm, weights
from torch.nn import functional as F

from ravl_core.regions import grid_boxes
from ravl_core.saliency import LAYERS, gradient_map, share_inside

pytestmark = pytest.mark.filterwarnings("error")

CLASSES = np.array([2, 0, 1])


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm()


def directions(n_classes=3, size=16, seed=0):
    rows = np.random.default_rng(seed).normal(size=(n_classes, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def scores(visual, layer, activations, asked):
    """Cosines (N,) from a layer's activations on, by open_clip's own layers."""
    for name in LAYERS[LAYERS.index(layer) + 1 :]:
        activations = getattr(visual, name)(activations)
    return (F.normalize(visual.attnpool(activations), dim=-1) * asked).sum(dim=1)


@torch.no_grad()
def evidence_by_differences(vlm, images, asked, layer, step=1e-6):
    """How fast the cosine changes as one cell's activations are scaled, (N, h, w), cell by cell."""
    visual = copy.deepcopy(vlm.clip.visual).double().eval()
    mean, std = (torch.tensor(vlm.configuration["preprocess_cfg"][name]) for name in ("mean", "std"))
    prepared = (torch.from_numpy(images).double() / 255 - mean) / std
    activations = visual.stem(prepared.permute(0, 3, 1, 2))
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        activations = getattr(visual, name)(activations)
    found = torch.zeros(len(images), *activations.shape[2:], dtype=torch.float64)
    for y in range(activations.shape[2]):
        for x in range(activations.shape[3]):
            sides = []
            for factor in (1 + step, 1 - step):
                scaled = activations.clone()
                scaled[:, :, y, x] *= factor
                sides.append(scores(visual, layer, scaled, torch.from_numpy(asked)))
            found[:, y, x] = (sides[0] - sides[1]) / (2 * step)
    return found.numpy()


# ---- maps ----


@pytest.mark.parametrize("layer, side", [("layer2", 8), ("layer3", 4), ("layer4", 2)])
def test_maps_are_the_positive_part_of_finite_differences(vlm, layer, side):
    images, embeddings = noise(3), directions()
    expected = evidence_by_differences(vlm, images, embeddings[CLASSES], layer)
    assert expected.min() < 0 < expected.max(axis=(1, 2)).min()
    positive = expected.clip(min=0)
    positive /= positive.sum(axis=(1, 2), keepdims=True)
    got = gradient_map(vlm, images, CLASSES, embeddings, layer)
    assert got.shape == (3, side, side) and got.dtype == np.float32
    np.testing.assert_allclose(got, positive, rtol=0, atol=1e-3 * positive.max())


def test_maps_are_shares(vlm):
    for layer in LAYERS:
        got = gradient_map(vlm, noise(5), np.arange(5) % 3, directions(), layer)
        assert (got >= 0).all()
        np.testing.assert_allclose(got.sum(axis=(1, 2)), 1, atol=1e-5)


def test_where_nothing_speaks_for_the_class_all_cells_are_equal(vlm):
    embeddings = directions()
    embeddings[1] = 0
    got = gradient_map(vlm, noise(3), CLASSES, embeddings, "layer3")
    np.testing.assert_array_equal(got[2], np.full((4, 4), 1 / 16))
    assert np.ptp(got[0]) > 0.01


def test_each_image_is_asked_about_its_own_class(vlm):
    images, embeddings = noise(1).repeat(3, axis=0), directions()
    got = gradient_map(vlm, images, CLASSES, embeddings)
    for image, label in enumerate(CLASSES):
        alone = gradient_map(vlm, images[:1], np.array([0]), embeddings[[label]])
        np.testing.assert_allclose(got[image], alone[0], atol=1e-6)
    assert np.abs(got[0] - got[1]).max() > 0.01


def test_the_length_of_a_direction_does_not_matter(vlm):
    got = [gradient_map(vlm, noise(3), CLASSES, factor * directions()) for factor in (1, 0.25)]
    np.testing.assert_allclose(*got, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_nothing(vlm, batch_size):
    expected = gradient_map(vlm, noise(5), np.arange(5) % 3, directions())
    got = gradient_map(vlm, noise(5), np.arange(5) % 3, directions(), batch_size=batch_size)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_images_of_another_size_have_maps_of_the_same_size(vlm):
    assert gradient_map(vlm, noise(2, 50, 90), CLASSES[:2], directions()).shape == (2, 8, 8)


@pytest.mark.parametrize("layer, side", [("layer1", 16), ("layer2", 8), ("layer3", 4), ("layer4", 2)])
def test_no_image_has_no_map(vlm, layer, side):
    assert gradient_map(vlm, noise(0), np.empty(0, int), directions(), layer).shape == (0, side, side)


def test_a_model_in_training_mode_is_asked_in_evaluation_mode_and_left_as_it_was(vlm):
    expected = gradient_map(vlm, noise(3), CLASSES, directions())
    other = tiny_vlm().train()
    visual = other.clip.visual
    visual.layer2.eval()
    for parameter in (visual.conv1.weight, visual.layer3[0].conv1.weight):
        parameter.requires_grad_(False)
    modes = [part.training for part in other.modules()]
    trained, kept = [p.requires_grad for p in other.parameters()], weights(other)
    with torch.no_grad():
        got = gradient_map(other, noise(3), CLASSES, directions())
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert [part.training for part in other.modules()] == modes and len(set(modes)) == 2
    assert [p.requires_grad for p in other.parameters()] == trained and len(set(trained)) == 2
    assert same_weights(weights(other), kept)
    assert all(p.grad is None for p in other.parameters())


def test_modes_come_back_after_an_error(vlm, monkeypatch):
    other = tiny_vlm().train()
    monkeypatch.setattr(other.clip.visual.layer4, "forward", lambda features: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradient_map(other, noise(1), CLASSES[:1], directions())
    assert all(part.training for part in other.modules())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layer": "layer5"}, "layer: expected one of .*; did you mean 'layer"),
        ({"classes": np.array([0, 1, 3])}, "classes: expected integers from 0 to 2"),
        ({"classes": np.array([0, 1])}, "classes: expected length 3, as images"),
        ({"class_embeddings": np.ones((3, 15))}, "class_embeddings: expected 16 columns, got 15"),
        ({"images": noise(3).astype(float)}, "images: expected uint8"),
    ],
)
def test_what_does_not_fit_is_named(vlm, change, message):
    arguments = {"images": noise(3), "classes": CLASSES, "class_embeddings": directions()} | change
    with pytest.raises(ValueError, match=message):
        gradient_map(vlm, **arguments)


def test_a_tower_without_maps_is_refused():
    with pytest.raises(ValueError, match="vlm: expected an image tower that is one of CLIP's ResNets, got tiny"):
        gradient_map(tiny_vlm(tower=VIT), noise(1), np.array([0]), directions())


# ---- shares ----


def random_maps(seed=0, n=4, height=5, width=8):
    random = np.random.default_rng(seed)
    return random.random((n, height, width)) * (random.random((n, height, width)) < 0.7) + 1e-3


def test_shares_are_those_of_counted_pixels():
    maps, random = random_maps(), np.random.default_rng(1)
    height, width = 30, 24  # a cell is 6 pixels high and 3 wide
    corner = np.stack([random.integers(0, 20, 50), random.integers(0, 25, 50)], axis=1)
    boxes = np.concatenate([corner, corner + random.integers(1, 5, (50, 2))], axis=1)
    image_index = random.integers(0, 4, 50)
    pixels = np.kron(maps, np.ones((6, 3)))
    expected = []
    for (x1, y1, x2, y2), image in zip(boxes, image_index, strict=True):
        expected.append(pixels[image, y1:y2, x1:x2].sum() / pixels[image].sum())
    np.testing.assert_allclose(share_inside(maps, boxes, image_index, height, width), expected, atol=1e-12)


def test_a_part_of_a_cell_counts_by_its_area():
    maps = np.array([[[0.5, 0.3], [0.2, 0.0]]])
    boxes = np.array([[0, 0, 10, 5], [5, 2.5, 15, 5], [10, 5, 20, 10], [0, 0, 20, 10], [2.5, 0, 5, 10]])
    expected = [0.5, 0.5 * 0.25 + 0.3 * 0.25, 0, 1, 0.25 * 0.7]
    np.testing.assert_allclose(share_inside(maps, boxes, np.zeros(5, int), height=10, width=20), expected)


def test_shares_of_boxes_that_tile_the_image_sum_to_one():
    maps = random_maps()
    boxes, image_index = grid_boxes(4, 56, 56, 3, 5)
    got = share_inside(maps, boxes, image_index, 56, 56)
    np.testing.assert_allclose(np.bincount(image_index, got), 1)


def test_the_scale_of_a_map_does_not_matter():
    maps, boxes = random_maps(), np.tile([3, 4, 20, 9], (4, 1))
    expected = share_inside(maps, boxes, np.arange(4), 30, 24)
    np.testing.assert_allclose(share_inside(7 * maps, boxes, np.arange(4), 30, 24), expected)


def test_no_box_has_no_share():
    assert share_inside(random_maps(), np.empty((0, 4)), np.empty(0, int), 30, 24).shape == (0,)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"maps": -random_maps()}, "maps: expected cells of 0 or more and a positive sum"),
        ({"maps": 0 * random_maps()}, "maps: expected cells of 0 or more and a positive sum"),
        ({"maps": random_maps()[0]}, "maps: expected 3 dimension"),
        ({"boxes": np.array([[0, 0, 25, 30]])}, "boxes: expected boxes within"),
        ({"image_index": [4]}, "image_index: expected integers from 0 to 3"),
        ({"image_index": [0, 1]}, "image_index: expected length 1, as boxes"),
    ],
)
def test_a_share_of_nothing_there_is_named(change, message):
    arguments = {"maps": random_maps(), "boxes": np.array([[0, 0, 24, 30]]), "image_index": [0]} | change
    with pytest.raises(ValueError, match=message):
        share_inside(**arguments, height=30, width=24)
