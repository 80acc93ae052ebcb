"""Region embeddings, held to published outputs and to slow, obvious versions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_core.checkpoints import open_clip
from ravl_core.regions import grid_boxes, quadrants, roi_align
from ravl_core.vlm import VLM, attention_pool

GOLDEN = Path(__file__).parent / "golden" / "villa"


def loop_roi_align(features, box, size):
    """One box (in cells), by the definition: the mean of bilinear samples in each bin."""
    n_channels, height, width = features.shape
    x1, y1, x2, y2 = box
    n_x, n_y = max(int(np.ceil((x2 - x1) / size)), 1), max(int(np.ceil((y2 - y1) / size)), 1)
    result = np.zeros((n_channels, size, size))
    for row in range(size):
        for column in range(size):
            for j in range(n_y):
                for i in range(n_x):
                    y = y1 - 0.5 + (row + (j + 0.5) / n_y) * (y2 - y1) / size
                    x = x1 - 0.5 + (column + (i + 0.5) / n_x) * (x2 - x1) / size
                    result[:, row, column] += bilinear(features, y, x) / (n_x * n_y)
    return result


def bilinear(features, y, x):
    _, height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(features))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = features[:, top, left] * (1 - dx) + features[:, top, right] * dx
    lower = features[:, bottom, left] * (1 - dx) + features[:, bottom, right] * dx
    return upper * (1 - dy) + lower * dy


@pytest.fixture(scope="module")
def published():
    """ViLLA's arrays and the tiny random ResNet that made them."""
    arrays = np.load(GOLDEN / "roi_tiny_clip_rn.npz", allow_pickle=False)
    weights = {k[2:].replace("__", "."): torch.from_numpy(arrays[k]).float() for k in arrays if k.startswith("w_")}
    tower = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 224, "patch_size": None, "head_width": 64}
    text = {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 1, "layers": 1}
    clip = open_clip.CLIP(embed_dim=16, vision_cfg=tower, text_cfg=text)
    clip.visual.load_state_dict(weights)
    clip.visual.attnpool.num_heads = 4
    preprocessing = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    return arrays, VLM(clip.eval(), None, "tiny", {"preprocess_cfg": preprocessing}, "early")


def test_trunk_and_regions_equal_villa(published):
    arrays, vlm = published
    boxes = torch.from_numpy(arrays["in_rois"][:, 1:] / 128)
    index = torch.from_numpy(arrays["in_rois"][:, 0]).long()
    with torch.no_grad():
        features = vlm.trunk(torch.from_numpy(arrays["in_images"]).float())
        pooled = roi_align(features, boxes, index, 14)
        embeddings = vlm.pool_regions(features, boxes, index)
    np.testing.assert_allclose(features, arrays["out_features"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(pooled[2], arrays["out_roi_first"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(pooled.mean((2, 3)), arrays["out_roi_mean_over_space"], atol=1e-6)
    np.testing.assert_allclose(embeddings, arrays["out_region_emb"], atol=1e-6)


def test_whole_image_equals_the_published_attention_pool(published):
    arrays, vlm = published
    images = torch.from_numpy(arrays["in_image224"]).float()
    with torch.no_grad():
        unnormalised = attention_pool(vlm.clip.visual.attnpool, vlm.clip.visual.layer4(vlm.trunk(images)))
        np.testing.assert_allclose(unnormalised, vlm.clip.visual(images), atol=1e-6)
    np.testing.assert_allclose(unnormalised, arrays["out_full_image_224"], atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_roi_align_equals_its_definition(size):
    """Boxes inside, across the border, wholly outside, of no area, and larger than the bins (several samples a bin)."""
    rng = np.random.default_rng(size)
    features = rng.normal(size=(2, 3, 6, 9))
    special = [[0.2, 0.2, 0.2, 0.2], [1.5, 1.5, 2, 2], [0, 0, 1, 1]]
    boxes = np.concatenate([rng.uniform(-0.3, 1.3, size=(20, 4)), special])
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    index = np.sort(rng.integers(0, 2, len(boxes)))
    ours = roi_align(torch.from_numpy(features), torch.from_numpy(boxes), torch.from_numpy(index), size)
    for region, box in enumerate(boxes):
        expected = loop_roi_align(features[index[region]], box * [9, 6, 9, 6], size)
        np.testing.assert_allclose(ours[region], expected, atol=1e-10)


def test_roi_align_without_boxes_is_empty():
    pooled = roi_align(torch.zeros(2, 3, 4, 4), torch.empty(0, 4), torch.empty(0, dtype=torch.long), 2)
    assert pooled.shape == (0, 3, 2, 2)


def test_quadrants_tile_the_image():
    boxes, index = quadrants(2, 56, 40)
    assert index.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert boxes[:4].tolist() == [[0, 0, 20, 28], [20, 0, 40, 28], [0, 28, 20, 56], [20, 28, 40, 56]]
    assert grid_boxes(1, 30, 60, 3, 2)[0].shape == (6, 4)


def test_late_pooling_of_the_whole_image_is_the_image(published):
    """RoIAlign of the whole of layer4's map, at its own size, changes nothing."""
    arrays, vlm = published
    late = VLM(vlm.clip, None, "tiny", vlm.configuration, "late")
    features = late.trunk(torch.from_numpy(arrays["in_image224"]).float())
    whole = late.pool_regions(features, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]))
    np.testing.assert_allclose(whole.detach(), late.pool(features).detach(), atol=1e-5)
