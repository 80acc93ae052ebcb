"""One pass for an image and its regions: a vision transformer's patches, and which tower offers what."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_runs import SHORT, few_classes
from tiny import RESNET, VIT, noise, ragged_boxes, same_weights, tiny_vlm, weights
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ravl_core import towers
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.training import finetune
from ravl_core.towers import PatchTower, ResNetTower, patch_shares, tower_of
from ravl_core.vlm import boxes_in_image_units

SMALL = {**VIT, "image_size": 32, "patch_size": 8}  # 4 x 4 patches
VARIANTS = {
    "class token": {},
    "one block": {"layers": 1},
    "mean of patches": {"pool_type": "avg"},
    "norm after the mean": {"pool_type": "avg", "final_ln_after_pool": True},
    "scaled layers": {"ls_init_value": 0.5},
    "no first norm": {"no_ln_pre": True},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
}
COUNTS = [2, 0, 3, 1]


def transformer(variant="class token", **changes):
    return tiny_vlm(tower={**SMALL, **VARIANTS[variant], **changes})


def features_of(vlm, n_images=4, seed=0):
    with torch.no_grad():
        return vlm.trunk(vlm.prepare(torch.from_numpy(noise(n_images, 32, 32, seed)).permute(0, 3, 1, 2)))


def regions_of(vlm, features, boxes, image_index):
    with torch.no_grad():
        return vlm.pool_regions(features, torch.as_tensor(boxes), torch.as_tensor(image_index)).numpy()


def value_path(block, token):
    """What a block makes of a token that attends to itself alone, by the formula of the block: (W,) → (W,)."""
    attention, width = block.attn, len(token)
    value = block.attn.in_proj_weight[2 * width :] @ block.ln_1(token) + attention.in_proj_bias[2 * width :]
    token = token + block.ls_1(attention.out_proj(value))
    return token + block.ls_2(block.mlp(block.ln_2(token)))


def area_shared(box, row, column, side):
    x1, y1, x2, y2 = box
    wide = min(x2, (column + 1) / side) - max(x1, column / side)
    high = min(y2, (row + 1) / side) - max(y1, row / side)
    return max(wide, 0) * max(high, 0)


@torch.no_grad()
def region_by_loops(vlm, tokens, box, side=4):
    """The embedding of one region of one image, patch by patch."""
    visual, total, area = vlm.clip.visual, 0, 0
    for patch in range(side * side):
        shared = area_shared(box, patch // side, patch % side, side)
        token = value_path(visual.transformer.resblocks[-1], tokens[1 + patch])
        total = total + shared * (token if visual.final_ln_after_pool else visual.ln_post(token))
        area += shared
    pooled = visual.ln_post(total / area) if visual.final_ln_after_pool else total / area
    return F.normalize(visual.proj.T @ pooled, dim=0).numpy()


# ---- embeddings ----


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_is_embedded_as_open_clip_does_it(variant):
    vlm = transformer(variant)
    prepared = vlm.prepare(torch.from_numpy(noise(4, 32, 32)).permute(0, 3, 1, 2))
    with torch.no_grad():
        expected = vlm.clip.encode_image(prepared, normalize=True)
        np.testing.assert_allclose(vlm.pool(vlm.trunk(prepared)), expected, atol=2e-6)
    assert vlm.pooling == "patches" and (expected @ expected.T - torch.eye(4)).max() < 0.99


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_region_equals_a_loop_over_its_patches(variant):
    vlm = transformer(variant)
    features, (boxes, index) = features_of(vlm), ragged_boxes(COUNTS, 1, 1)
    found = regions_of(vlm, features, boxes, index)
    for region, (box, image) in enumerate(zip(boxes, index, strict=True)):
        np.testing.assert_allclose(found[region], region_by_loops(vlm, features[image], box), atol=1e-5)
    assert (found @ found.T - np.eye(len(found))).max() < 0.999


def test_patches_do_not_reach_a_region_that_they_lie_outside_of():
    """What the whole image's token carries does, up to the last block; that block mixes nothing."""
    vlm = transformer("one block")
    images, boxes = noise(2, 32, 32), np.float32([[0.25, 0.25, 0.75, 1]] * 2)
    other = 255 - images
    other[:, 8:32, 8:24] = images[:, 8:32, 8:24]
    pixels = boxes * 32
    whole, parts = vlm.encode(images, pixels, np.arange(2))
    others, same = vlm.encode(other, pixels, np.arange(2))
    np.testing.assert_allclose(parts, same, atol=1e-6)
    assert np.abs(whole - others).max() > 0.05


def test_the_order_of_regions_is_theirs():
    vlm = transformer()
    features, (boxes, index) = features_of(vlm), ragged_boxes(COUNTS, 1, 1)
    order = np.random.default_rng(0).permutation(len(boxes))
    in_order = regions_of(vlm, features, boxes, index)
    np.testing.assert_allclose(regions_of(vlm, features, boxes[order], index[order]), in_order[order], atol=1e-6)
    assert regions_of(vlm, features, boxes[:0], index[:0]).shape == (0, 16)


def test_pooling_both_is_pooling_each_and_takes_one_pass():
    vlm, passes = transformer(), []
    vlm.clip.visual.conv1.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    features, (boxes, index) = features_of(vlm), ragged_boxes(COUNTS, 1, 1)
    with torch.no_grad():
        whole, parts = vlm.pool_both(features, torch.from_numpy(boxes), torch.from_numpy(index))
        assert torch.equal(whole, vlm.pool(features))
    assert np.array_equal(parts, regions_of(vlm, features, boxes, index))
    vlm.encode(noise(4), boxes * 64, index, batch_size=3)
    assert passes == [4, 3, 1]


def test_no_patch_is_dropped_in_training():
    vlm, plain = (transformer(patch_dropout=share) for share in (0.5, 0.0))
    assert features_of(vlm.train()).shape == (4, 17, 32)
    torch.testing.assert_close(features_of(vlm), features_of(plain), atol=1e-5, rtol=1e-4)


def test_blocks_of_another_make_pass_alone_too():
    """Blocks with norms of their own in the attention: a region of one patch is that patch's token, sent alone."""
    vlm = transformer(qk_norm=True, scale_attn=True, scale_heads=True, scale_attn_inner=True)
    features, visual = features_of(vlm), vlm.clip.visual
    with torch.no_grad():
        alone = visual.transformer.resblocks[-1](features[:1, 1 + 6 : 2 + 6])
        expected = F.normalize(visual.ln_post(alone[0, 0]) @ visual.proj, dim=0)
        np.testing.assert_allclose(vlm.pool(features), visual(prepared_noise(vlm)) / norm_of(vlm), atol=2e-6)
    np.testing.assert_allclose(
        regions_of(vlm, features, np.float32([[0.5, 0.25, 0.75, 0.5]]), [0])[0], expected, atol=1e-5
    )


def prepared_noise(vlm):
    return vlm.prepare(torch.from_numpy(noise(4, 32, 32)).permute(0, 3, 1, 2))


def norm_of(vlm):
    return vlm.clip.visual(prepared_noise(vlm)).norm(dim=1, keepdim=True)


# ---- in parts ----


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor that is made has."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.most = max([self.most, *(one.numel() for one in tree_leaves(made) if torch.is_tensor(one))])
        return made


@pytest.mark.parametrize("tower, pooling", [(RESNET, "early"), (RESNET, "late"), (SMALL, "patches")])
@pytest.mark.parametrize("call", ["pool_regions", "pool_both"])
def test_many_regions_are_pooled_in_parts_to_the_same_end(monkeypatch, tower, pooling, call):
    vlm = tiny_vlm(pooling, tower=tower)
    boxes, index = map(torch.from_numpy, ragged_boxes([9, 0, 3, 8], 1, 1))
    with torch.no_grad():
        features = vlm.trunk(vlm.prepare(torch.from_numpy(noise(4)).permute(0, 3, 1, 2)))
        expected = getattr(vlm, call)(features, boxes, index)
        monkeypatch.setattr(towers, "FLOATS_AT_A_TIME", 3 * features[0].numel())
        monkeypatch.setattr(towers, "TOKENS_AT_A_TIME", 5)
        torch.testing.assert_close(getattr(vlm, call)(features, boxes, index), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["early", "late"])
def test_no_tensor_grows_with_the_regions_times_the_map(monkeypatch, pooling):
    vlm, (boxes, index) = tiny_vlm(pooling), ragged_boxes([50] * 4)
    whole, parts = Largest(), Largest()
    with whole:
        vlm.encode(noise(4), boxes, index)
    monkeypatch.setattr(towers, "FLOATS_AT_A_TIME", 2**10)
    with parts:
        vlm.encode(noise(4), boxes, index)
    assert parts.most < whole.most / 2


def test_no_tensor_grows_with_the_regions_times_all_images():
    vlm, (boxes, index) = tiny_vlm(tower={**SMALL, "width": 16}), ragged_boxes([4] * 64, 32, 32)
    with Largest() as largest:
        vlm.encode(noise(64, 32, 32), boxes, index)
    assert largest.most < len(boxes) * 64 * 16


def test_training_pools_all_regions_in_one_go(monkeypatch):
    """BatchNorm has one set of statistics for all of them."""
    vlm, sizes = tiny_vlm("early").train(), []
    monkeypatch.setattr(towers, "FLOATS_AT_A_TIME", 1)
    vlm.clip.visual.layer4.register_forward_hook(lambda *call: sizes.append(len(call[1][0])))
    boxes, index = map(torch.from_numpy, ragged_boxes(COUNTS, 1, 1))
    for train, learn in ((True, False), (False, True), (True, True)):
        vlm.train(train)
        with torch.set_grad_enabled(learn):
            vlm.pool_both(vlm.trunk(vlm.prepare(torch.from_numpy(noise(4)).permute(0, 3, 1, 2))), boxes, index)
    assert sizes == [4 + 6] * 3


# ---- shares of patches ----


def test_shares_of_patches_equal_a_loop():
    boxes, _ = ragged_boxes([30], 1, 1)
    found = patch_shares(torch.from_numpy(boxes), 3, 5).numpy()
    for box, shares in zip(boxes.astype(float), found, strict=True):
        x1, y1, x2, y2 = box
        expected = [
            max(min(x2, (column + 1) / 5) - max(x1, column / 5), 0) * max(min(y2, (row + 1) / 3) - max(y1, row / 3), 0)
            for row in range(3)
            for column in range(5)
        ]
        np.testing.assert_allclose(shares, np.array(expected) / ((x2 - x1) * (y2 - y1)), atol=1e-5)


def test_a_box_in_one_patch_has_that_patch_alone_and_the_whole_image_all_alike():
    boxes = torch.tensor([[0.5, 0.0, 0.75, 0.5], [0.51, 0.1, 0.52, 0.2], [0.0, 0.0, 1.0, 1.0]])
    expected = torch.zeros(3, 2, 4)
    expected[:2, 0, 2], expected[2] = 1, 1 / 8
    torch.testing.assert_close(patch_shares(boxes, 2, 4), expected.flatten(1))


# ---- which tower offers what ----


@pytest.mark.parametrize(
    "tower, offered",
    [
        (RESNET, ResNetTower),
        (SMALL, PatchTower),
        ({**SMALL, "attentional_pool": True}, type(None)),
        ({**SMALL, "attentional_pool": "parallel"}, type(None)),
        ({**SMALL, "pool_type": "none"}, type(None)),
    ],
)
def test_towers_offer_what_they_can(tower, offered):
    vlm = tiny_vlm("crop", tower=tower)
    assert type(tower_of(vlm.clip.visual)) is offered


# ---- training ----


@pytest.fixture(scope="module")
def digits_and_model():
    return few_classes(40), tiny_vlm(tower=VIT)


PARTS = {
    "tower": ("visual.",),
    "head": ("visual.transformer.resblocks.1.", "visual.ln_post", "visual.proj"),
    "pool": ("visual.ln_post", "visual.proj"),
}


@pytest.mark.parametrize("recipe", [Standard(), RegionAware()], ids=["standard", "ravl"])
@pytest.mark.parametrize("trained", PARTS)
def test_a_vision_transformer_learns_in_the_part_that_is_trained(digits_and_model, recipe, trained):
    data, initial = digits_and_model
    before = weights(initial)
    budget = replace(SHORT, trained=trained, epochs=6, learning_rate=3e-3)
    tuned, history = finetune(initial, data, recipe, data.shows_feature, budget)
    assert history.losses[-3:].mean() < history.losses[:3].mean() - 0.1
    assert same_weights(weights(initial), before)
    after = weights(tuned)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {key for key in before if key.startswith(PARTS[trained])}
    assert tuned.pooling == "patches" and not any(module.training for module in tuned.modules())


def test_the_first_loss_is_that_of_the_models_own_embeddings(digits_and_model):
    """Locked features are computed once; the embeddings that the loop makes of them are those of `encode`."""
    data, initial = digits_and_model
    seen = []

    class Noting(Standard):
        encodes_regions = True

        def objective(self, batch):
            if not seen:
                seen.append((batch.image_embeddings.detach(), batch.region_embeddings.detach(), batch.boxes))
            return super().objective(batch)

    finetune(initial, data, Noting(), None, replace(SHORT, batch_size=40, epochs=1))
    whole, parts = initial.encode(data.images, data.boxes, data.image_index)
    ((images, regions, boxes),) = seen
    order = [int(np.abs(whole - row.numpy()).sum(axis=1).argmin()) for row in images]
    np.testing.assert_allclose(images, whole[order], atol=1e-5)
    expected = np.concatenate([parts[data.image_index == image] for image in order])
    np.testing.assert_allclose(regions, expected, atol=1e-5)
    units = boxes_in_image_units(data.boxes, 56, 56)
    assert np.array_equal(boxes, np.concatenate([units[data.image_index == image] for image in order]))


@pytest.mark.parametrize("regions", ["early", "late", "crop"])
def test_a_vision_transformer_pools_patches_in_training_too(digits_and_model, regions):
    data, initial = digits_and_model
    with pytest.raises(ValueError, match=f"regions: expected one of 'patches', got '{regions}'"):
        finetune(initial, data, RegionAware(regions=regions), data.shows_feature, SHORT)


def test_a_model_that_cuts_regions_out_is_not_trained(digits_and_model):
    data, _ = digits_and_model
    with pytest.raises(ValueError, match="initial_vlm: training needs .* got tiny with pooling='crop'"):
        finetune(tiny_vlm("crop", tower=VIT), data, Standard(), None, SHORT)
