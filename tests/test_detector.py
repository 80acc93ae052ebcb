"""A detector's proposals: known boxes are thinned, ordered and clipped; a real network runs without compiled parts."""

import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ravl_core import _torchvision, checks
from ravl_core.detector import detector_boxes, without_duplicates

_torchvision.ensure_importable()
from torchvision.models import detection  # noqa: E402  (torchvision has to be importable first)


class Stub(torch.nn.Module):
    """A detector that enlarges images three times across and twice down, and proposes the same boxes in all of them."""

    def __init__(self, *proposed):
        super().__init__()
        self.proposed, self.seen = proposed, []

    def transform(self, images):
        assert not self.training and all(image.dtype == torch.float32 for image in images)
        self.seen += [image.numpy() for image in images]
        height, width = images[0].shape[-2:]
        tensors = torch.stack(images)
        return SimpleNamespace(tensors=tensors, image_sizes=[(2 * height, 3 * width)] * len(images)), None

    def backbone(self, tensors):
        return tensors.mean(dim=1, keepdim=True)

    def rpn(self, images, features):
        assert list(features) == ["0"]
        boxes = torch.tensor(self.proposed, dtype=torch.float32).reshape(-1, 4) * torch.tensor([3, 2, 3, 2])
        return [boxes] * len(images.tensors), {}


def blank(n_images=1, height=40, width=60):
    return np.zeros((n_images, height, width, 3), dtype=np.uint8)


def found(*proposed, images=None, **options):
    boxes, image_index = detector_boxes(blank() if images is None else images, Stub(*proposed), **options)
    assert boxes.dtype == np.float32 and image_index.dtype == np.int64 and len(boxes) == len(image_index)
    return boxes.tolist()


def plain_suppression(boxes, threshold):
    kept = []
    for at, box in enumerate(boxes):
        for before in kept:
            width = min(box[2], boxes[before][2]) - max(box[0], boxes[before][0])
            height = min(box[3], boxes[before][3]) - max(box[1], boxes[before][1])
            shared = max(width, 0) * max(height, 0)
            areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (box, boxes[before])]
            if shared / (sum(areas) - shared) > threshold:
                break
        else:
            kept.append(at)
    return kept


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_boxes_come_in_the_detectors_order_in_pixels_of_the_image():
    boxes = [[30, 10, 50, 30], [0, 0, 20, 20], [10, 5, 40, 39]]
    assert found(*boxes) == boxes
    assert found(*boxes, most=2) == boxes[:2]


def test_boxes_are_clipped_and_what_is_left_of_them_counts():
    assert found([-10, -5, 20, 30], [40, 20, 90, 70]) == [[0, 0, 20, 30], [40, 20, 60, 40]]
    assert found([-30, 0, 1, 20], [70, 10, 90, 30], [5, 5, 30, 30]) == [[5, 5, 30, 30]]


def test_tiny_boxes_are_dropped_before_they_are_counted():
    small, large = [0, 0, 5, 4], [20, 10, 40, 30]  # 20 and 400 of 2,400 pixels
    assert found(small, large, most=1) == [large]
    assert found(small, large, smallest=20 / 2400) == [small, large]
    assert found(small, large, [50, 30, 50, 40], smallest=0) == [small, large]


def test_of_near_duplicates_the_first_is_kept_and_they_do_not_use_up_the_number():
    first, like_it, other = [10, 10, 30, 30], [10, 10, 31, 30], [10, 10, 40, 30]
    assert found(first, like_it, other, most=2) == [first, other]
    assert found(like_it, first) == [like_it]


def test_an_image_without_any_gets_the_whole_image():
    images = blank(3)
    boxes, image_index = detector_boxes(images, Stub([0, 0, 1, 1]))
    assert boxes.tolist() == [[0, 0, 60, 40]] * 3 and image_index.tolist() == [0, 1, 2]
    assert found(images=blank(1)) == [[0, 0, 60, 40]]


def test_images_are_shown_once_each_in_order_as_shares_of_full_light():
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 6, 3), dtype=np.uint8)
    images.setflags(write=False)
    stub = Stub([0, 0, 3, 3], [2, 2, 6, 8])
    boxes, image_index = detector_boxes(images, stub)
    assert image_index.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    np.testing.assert_allclose(np.array(stub.seen).transpose(0, 2, 3, 1), images / 255, atol=1e-7)


def test_no_image_has_no_region():
    boxes, image_index = detector_boxes(blank(0), Stub([0, 0, 10, 10]))
    assert boxes.shape == (0, 4) and boxes.dtype == np.float32 and image_index.shape == (0,)


@pytest.mark.parametrize("threshold", [0, 0.3, 0.7, 1])
def test_suppression_is_that_of_a_plain_loop(threshold):
    for seed in range(5):
        corners = np.random.default_rng(seed).integers(0, 20, (40, 2, 2))
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1)
        assert without_duplicates(boxes, threshold).tolist() == plain_suppression(boxes.tolist(), threshold)


def test_suppression_keeps_a_box_that_shares_just_as_much_as_the_threshold():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]])
    assert without_duplicates(boxes, 0.5).tolist() == [0, 1] and without_duplicates(boxes, 0.49).tolist() == [0]
    assert without_duplicates(np.empty((0, 4)), 0.5).tolist() == []


# ---- a real network --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)


def test_a_real_detector_proposes_boxes_within_the_limits_and_the_same_ones_again(network):
    images = np.random.default_rng(1).integers(0, 256, (5, 64, 48, 3), dtype=np.uint8)
    boxes, image_index = detector_boxes(images, network, most=8, smallest=0.05)
    checks.boxes("boxes", boxes, width=48, height=64)
    checks.sorted_image_index("image_index", image_index, 5)
    assert set(np.bincount(image_index, minlength=5)) <= set(range(1, 9)) and len(boxes) > 5
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides.prod(axis=1) >= 0.05 * 48 * 64).all()
    for image in range(5):
        own = boxes[image_index == image].tolist()
        assert plain_suppression(own, 0.7) == list(range(len(own)))
    again = detector_boxes(images, network.train(), most=8, smallest=0.05)
    np.testing.assert_array_equal(boxes, again[0])
    np.testing.assert_array_equal(image_index, again[1])


def test_torchvisions_nms_is_there():
    from torchvision.ops import batched_nms, nms

    random = np.random.default_rng(2)
    corners = random.integers(0, 20, (60, 2, 2))
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).astype(np.float32)
    scores = random.permutation(60).astype(np.float32)
    order = np.argsort(-scores)
    expected = order[plain_suppression(boxes[order].tolist(), 0.4)].tolist()
    assert nms(torch.tensor(boxes), torch.tensor(scores), 0.4).tolist() == expected
    levels = torch.arange(60) % 2
    of_level = [[at for at in order if at % 2 == level] for level in (0, 1)]
    kept = [own[at] for own in of_level for at in plain_suppression(boxes[own].tolist(), 0.4)]
    assert sorted(batched_nms(torch.tensor(boxes), torch.tensor(scores), levels, 0.4).tolist()) == sorted(kept)


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_without_network_the_error_names_the_file_and_the_way_round(monkeypatch, tmp_path):
    def refused(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda *a, **k: None)  # drawn in vain: it costs most
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(OSError, match=r"Put fasterrcnn_resnet50_fpn_v2_coco-\w+\.pth into .*load_state_dict") as error:
        detector_boxes(blank())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: detector_boxes(blank() / 255, Stub()), "images: expected uint8"),
        (lambda: detector_boxes(blank(), Stub(), most=0), "most: expected an integer of 1 or more, got 0"),
        (lambda: detector_boxes(blank(), Stub(), smallest=2), "smallest: expected a number from 0 to 1, got 2"),
        (lambda: detector_boxes(blank(), torch.nn.ReLU()), "detector: expected .* got a ReLU without transform, back"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
