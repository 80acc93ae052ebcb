"""The model: the same embeddings however they are asked for, and folders that open_clip reads."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import RESNET, VIT, digits, noise, ragged_boxes, same_weights, tiny_vlm, weights

from ravl_core.checkpoints import MINIATURES, load_vlm, miniature_names, open_clip, save_vlm
from ravl_core.vlm import POOLINGS, attention_pool, boxes_in_image_units, crop_regions
from ravl_core.zero_shot import evaluate

COUNTS = [2, 0, 3, 1, 0, 5, 1]  # regions of each image
RESNET_POOLINGS = ("early", "late", "crop")


@pytest.fixture(scope="module", params=POOLINGS)
def vlm(request):
    return tiny_vlm(request.param, tower=VIT if request.param == "patches" else RESNET)


@pytest.fixture(scope="module")
def early():
    return tiny_vlm("early")


def prepare(vlm, images):
    """`vlm.prepare` for images (N, H, W, 3)."""
    return vlm.prepare(torch.from_numpy(images).permute(0, 3, 1, 2))


def encode_one_by_one(vlm, images, boxes, image_index):
    """Every image alone, with its own regions."""
    whole, parts = [], []
    for image in range(len(images)):
        own = boxes[image_index == image]
        here = vlm.encode(images[image : image + 1], own, np.zeros(len(own), dtype=np.int64))
        whole.append(here[0]), parts.append(here[1])
    return np.concatenate(whole), np.concatenate(parts)


# ---- embeddings ----


def test_embeddings_have_length_one_and_differ(vlm):
    whole, parts = vlm.encode(noise(7), *ragged_boxes(COUNTS))
    assert whole.shape == (7, 16) and parts.shape == (sum(COUNTS), 16)
    assert whole.dtype == parts.dtype == np.float32
    for embeddings in (whole, parts, vlm.encode_texts(["a zero", "nine"])):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
        assert (embeddings @ embeddings.T - np.eye(len(embeddings))).max() < 0.999


def test_images_are_the_same_with_and_without_their_regions(vlm):
    images = noise(7)
    np.testing.assert_allclose(vlm.encode(images, *ragged_boxes(COUNTS))[0], vlm.encode_images(images), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_the_batch_size_changes_nothing(vlm, batch_size):
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    expected = encode_one_by_one(vlm, images, boxes, index)
    for got, wanted in zip(vlm.encode(images, boxes, index, batch_size), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_allclose(vlm.encode_images(images, batch_size), expected[0], atol=1e-5)


def test_bfloat16_gives_unit_embeddings_near_those_of_float32(vlm):
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    expected = vlm.encode(images, boxes, index)
    found = vlm.encode(images, boxes, index, precision="bfloat16")
    for one, other in zip((*expected, expected[0]), (*found, vlm.encode_images(images, 3, "bfloat16")), strict=True):
        assert other.dtype == np.float32 and 1e-4 < np.abs(one - other).max()
        np.testing.assert_allclose(np.linalg.norm(other, axis=1), 1, atol=1e-5)
        assert (one * other).sum(axis=1).min() > 0.99
    assert np.array_equal(vlm.encode(images, boxes, index)[1], expected[1])  # it is over with the call


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": "float16"}, "precision: expected one of 'float32', 'bfloat16', got 'float16'; did you mean"),
        ({"batch_size": 0}, "batch_size: expected an integer of 1 or more, got 0"),
    ],
)
def test_an_unknown_precision_and_no_batch_are_refused(vlm, options, message):
    for call in (lambda: vlm.encode_images(noise(2), **options), lambda: vlm.encode(*no_regions(2), **options)):
        with pytest.raises(ValueError, match=message):
            call()


def no_regions(n_images):
    return noise(n_images), np.empty((0, 4)), np.empty(0, dtype=np.int64)


def test_the_order_of_images_changes_nothing(vlm):
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    whole, parts = vlm.encode(images, boxes, index)
    order = np.random.default_rng(1).permutation(7)
    regions = np.concatenate([np.flatnonzero(index == image) for image in order])
    moved = vlm.encode(images[order], boxes[regions], np.repeat(np.arange(7), np.array(COUNTS)[order]), batch_size=3)
    np.testing.assert_allclose(moved[0], whole[order], atol=1e-5)
    np.testing.assert_allclose(moved[1], parts[regions], atol=1e-5)


def test_no_region_and_no_image_give_empty_embeddings(vlm):
    no_boxes, no_index = np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int64)
    images = noise(3)
    whole, parts = vlm.encode(images, no_boxes, no_index)
    np.testing.assert_allclose(whole, vlm.encode_images(images), atol=1e-5)
    assert parts.shape == (0, 16)
    whole, parts = vlm.encode(images[:0], no_boxes, no_index)
    assert whole.shape == parts.shape == (0, 16)


def test_evaluation_of_a_model_in_training_mode_is_the_same_and_leaves_its_statistics(vlm):
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    expected, before = vlm.encode(images, boxes, index), weights(vlm)
    for call in (lambda: vlm.encode(images, boxes, index), lambda: (vlm.encode_images(images),)):
        vlm.train()
        for got, wanted in zip(call(), expected, strict=False):
            np.testing.assert_allclose(got, wanted, atol=1e-5)
    vlm.train().encode_texts(["a zero"])
    assert same_weights(weights(vlm.eval()), before)


def test_embedding_twice_gives_the_same_bytes(vlm):
    images, (boxes, index) = noise(3), ragged_boxes(COUNTS[:3])
    once, twice = vlm.encode(images, boxes, index), vlm.encode(images.copy(), boxes.copy(), index.copy())
    assert all(np.array_equal(a, b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("height, width", [(56, 56), (128, 128), (50, 90)])
def test_images_are_resized_as_pil_does_it_and_boxes_go_along(vlm, height, width):
    images, (boxes, index) = noise(7, height, width), ragged_boxes(COUNTS, height, width)
    small = np.stack([Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR) for image in images])
    scaled = boxes * np.float32([64 / width, 64 / height] * 2)
    one_level = 1 / 255 / 0.26
    np.testing.assert_allclose(prepare(vlm, images), prepare(vlm, small), atol=1.01 * one_level)
    whole, parts = vlm.encode(images, boxes, index)
    expected = vlm.encode(small, scaled, index)
    np.testing.assert_array_less(0.999, (whole * expected[0]).sum(axis=1))
    if vlm.pooling != "crop":  # crops come from the original pixels
        np.testing.assert_array_less(0.999, (parts * expected[1]).sum(axis=1))


def test_boxes_are_measured_by_the_side_they_run_along():
    assert boxes_in_image_units([[20, 14, 40, 56]], height=56, width=40).tolist() == [[0.5, 0.25, 1, 1]]


def test_preparing_normalises_with_the_mean_and_deviation_of_the_model(early):
    images = noise(2)
    expected = (images / 255 - [0.48, 0.46, 0.41]) / [0.27, 0.26, 0.28]
    np.testing.assert_allclose(prepare(early, images).permute(0, 2, 3, 1), expected, atol=1e-5)


# ---- regions ----


@pytest.mark.parametrize("pooling", RESNET_POOLINGS)
def test_the_region_of_the_whole_image_is_the_image(pooling):
    vlm, images = tiny_vlm(pooling), noise(3)
    boxes, index = np.tile(np.float32([0, 0, 64, 64]), (3, 1)), np.arange(3)
    whole, parts = vlm.encode(images, boxes, index)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("pooling", ["early", "late"])
def test_one_trunk_pass_serves_an_image_and_all_its_regions(pooling):
    vlm, seen = tiny_vlm(pooling), []
    handle = vlm.clip.visual.layer1.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    vlm.encode(noise(7), *ragged_boxes(COUNTS), batch_size=3)
    handle.remove()
    assert seen == [3, 3, 1]


def test_pooling_both_equals_pooling_each():
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    for pooling in ("early", "late"):
        vlm = tiny_vlm(pooling)
        units, owners = torch.from_numpy(boxes_in_image_units(boxes, 64, 64)), torch.from_numpy(index)
        with torch.no_grad():
            maps = vlm.trunk(prepare(vlm, images))
            whole, parts = vlm.pool_both(maps, units, owners)
            np.testing.assert_allclose(whole, vlm.pool(maps), atol=1e-5)
            np.testing.assert_allclose(parts, vlm.pool_regions(maps, units, owners), atol=1e-5)


def test_early_late_and_crop_are_three_different_answers():
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    answers = [tiny_vlm(pooling).encode(images, boxes, index)[1] for pooling in RESNET_POOLINGS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(answers[one] - answers[other]).max() > 0.01


def test_crop_is_the_encoding_of_the_pixels_in_the_box():
    vlm, images = tiny_vlm("crop"), noise(2)
    boxes, index = np.float32([[0, 0, 32, 32], [16, 0, 48, 64], [32, 32, 64, 64]]), np.array([0, 1, 1])
    crops = [images[image, y1:y2, x1:x2] for (x1, y1, x2, y2), image in zip(boxes.astype(int), index, strict=True)]
    alone = np.concatenate([vlm.encode_images(crop[None]) for crop in crops])
    parts = vlm.encode(images, boxes, index)[1]
    np.testing.assert_array_less(0.98, (alone * parts).sum(axis=1))  # two ways to resize
    assert crop_regions(images, boxes, index, 32)[0].tolist() == images[0, :32, :32].tolist()


@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (3, 5), (7, 7)])
def test_attention_pool_equals_open_clips_layer(height, width):
    torch.manual_seed(height)
    pool = open_clip.modified_resnet.AttentionPool2d(height, embed_dim=24, num_heads=3, output_dim=5)
    pool.positional_embedding = torch.nn.Parameter(torch.randn(height * width + 1, 24))
    for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        torch.nn.init.normal_(projection.bias)
    maps = torch.randn(4, 24, height, width)
    torch.testing.assert_close(attention_pool(pool, maps), pool(maps), atol=1e-5, rtol=1e-4)


# ---- towers that are no ResNet ----


def test_a_vision_transformer_may_embed_crops():
    vlm = tiny_vlm("crop", tower=VIT)
    images, (boxes, index) = noise(7), ragged_boxes(COUNTS)
    whole, parts = vlm.encode(images, boxes, index, batch_size=3)
    assert whole.shape == (7, 16) and parts.shape == (sum(COUNTS), 16)
    np.testing.assert_allclose(parts, vlm.encode_images(crop_regions(images, boxes, index, 64)), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "pooling, tower, offered",
    [
        ("early", VIT, "patches and crop"),
        ("late", VIT, "patches and crop"),
        ("patches", RESNET, "early and late and crop"),
        ("patches", {**VIT, "attentional_pool": True}, "crop"),
    ],
)
def test_a_pooling_that_the_tower_does_not_offer_is_refused(pooling, tower, offered):
    with pytest.raises(ValueError, match=f"pooling: the image tower of tiny offers {offered}, got '{pooling}'"):
        tiny_vlm(pooling, tower=tower)


def test_a_timm_tower_embeds_crops():
    tower = {"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    vlm = tiny_vlm(tower=tower)
    whole, parts = vlm.encode(noise(2), *ragged_boxes([1, 2]))
    assert vlm.pooling == "crop" and whole.shape == (2, 16) and parts.shape == (3, 16)
    assert vlm.encode_images(noise(0)).shape == (0, 16)


def test_an_unknown_pooling_is_named():
    with pytest.raises(ValueError, match="pooling: expected one of early, late, patches, crop, got 'erly'"):
        tiny_vlm("erly")


# ---- folders ----


def test_a_saved_model_comes_back_and_open_clip_reads_it(tmp_path):
    vlm, images = tiny_vlm(), noise(7)
    folder = save_vlm(vlm, tmp_path / "made" / "here")
    again = load_vlm(f"local-dir:{folder}")
    assert sorted(path.name for path in folder.iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert list(folder.parent.iterdir()) == [folder]
    assert again.name == vlm.name == "tiny"
    np.testing.assert_allclose(
        np.concatenate(vlm.encode(images, *ragged_boxes(COUNTS))),
        np.concatenate(again.encode(images, *ragged_boxes(COUNTS))),
        atol=1e-6,
    )
    np.testing.assert_allclose(vlm.encode_texts(["a zero"]), again.encode_texts(["a zero"]), atol=1e-6)
    clip = open_clip.create_model(f"local-dir:{folder}")
    assert same_weights(dict(clip.state_dict()), weights(vlm))
    assert json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]["mean"] == [0.48, 0.46, 0.41]


def test_a_loaded_model_is_in_evaluation_mode(tmp_path):
    folder = save_vlm(tiny_vlm().train(), tmp_path / "tiny")
    assert not any(module.training for module in load_vlm(f"local-dir:{folder}").modules())


def test_what_was_loaded_can_be_saved_again(tmp_path):
    first = save_vlm(tiny_vlm(), tmp_path / "first")
    second = save_vlm(load_vlm(f"local-dir:{first}"), tmp_path / "second")
    name = "open_clip_model.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    assert load_vlm(f"local-dir:{second}").prepare(torch.zeros(1, 3, 64, 64)).unique().numel() == 3


def test_half_precision_halves_the_file_and_hardly_moves_embeddings(tmp_path):
    vlm, images = tiny_vlm(), noise(7)
    full, half = save_vlm(vlm, tmp_path / "full"), save_vlm(vlm, tmp_path / "half", dtype=torch.float16)
    sizes = [(folder / "open_clip_model.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = load_vlm(f"local-dir:{half}")
    assert all(value.dtype != torch.float16 for value in loaded.state_dict().values())
    np.testing.assert_allclose(loaded.encode_images(images), vlm.encode_images(images), atol=0.01)


def test_a_folder_that_exists_is_refused_and_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="mine exists already; nothing was written"):
        save_vlm(tiny_vlm(), tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_a_failed_save_leaves_nothing_under_the_name_and_can_be_repeated(tmp_path, monkeypatch):
    def disk_full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    vlm = tiny_vlm()
    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", disk_full)
        with pytest.raises(OSError, match="No space left"):
            save_vlm(vlm, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    folder = save_vlm(vlm, tmp_path / "model")
    assert same_weights(weights(load_vlm(f"local-dir:{folder}")), weights(vlm))


def test_a_folder_without_weights_is_no_model(tmp_path):
    """open_clip would make one of random weights, and say so in a log only."""
    folder = save_vlm(tiny_vlm(), tmp_path / "tiny")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="name: .*tiny holds no weights"):
        load_vlm(f"local-dir:{folder}")


# ---- names ----


@pytest.mark.parametrize(
    "name, nearest",
    [("rn-mni", "rn-mini"), ("RN50-quikgelu", "RN50-quickgelu"), ("ViT-B32", "ViT-B-32")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"no model is called '{name}'; did you mean '{nearest}'"):
        load_vlm(name)


@pytest.mark.parametrize(
    "name, tag, other",
    [
        ("RN50", "openai", "RN50-quickgelu"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
    ],
)
def test_weights_of_the_other_activation_are_refused_before_anything_is_fetched(name, tag, other):
    with pytest.raises(ValueError, match=f"'{tag}' was trained with the other activation than {name}: use '{other}'"):
        load_vlm(name, pretrained=tag)


def test_the_shipped_miniature_is_of_middling_competence():
    """Better than chance by far, or it would learn only the shortcut; not perfect, or it would not learn it."""
    vlm = load_vlm("rn-mini")
    assert (vlm.name, vlm.pooling, vlm.image_size, vlm.training) == ("rn-mini", "early", 64, False)
    evaluated = evaluate(vlm, digits(200, "val"))
    assert evaluated.image_embeddings.shape == (200, 128) and evaluated.region_embeddings.shape == (800, 128)
    assert 0.3 < evaluated.accuracy < 0.97


def test_the_shipped_miniatures_carry_their_configuration():
    assert "rn-mini" in miniature_names()
    for name in miniature_names():
        configuration = json.loads((MINIATURES / name / "open_clip_config.json").read_text())
        assert open_clip.CLIP(**configuration["model_cfg"]).visual.image_size == 64
