"""Checkpoints in every published layout give the model they were made from, or an error that says what is wrong."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints_made_here import clip_of, openai_layout, register
from safetensors.torch import save_file
from tiny import noise, same_weights, weights
from torch.nn import functional as F

from ravl_core.checkpoints import hub, load_vlm, open_clip, save_vlm


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory):
    paths, known = open_clip.factory._MODEL_CONFIG_PATHS[:], open_clip.factory._MODEL_CONFIGS
    register(tmp_path_factory.mktemp("architectures"))
    yield
    open_clip.factory._MODEL_CONFIG_PATHS[:], open_clip.factory._MODEL_CONFIGS = paths, known


@pytest.fixture(scope="module")
def clip():
    return clip_of("tiny-rn")


def state_of(clip):
    return {key: value.contiguous() for key, value in clip.state_dict().items()}


def same_model(vlm, clip, atol=0.0):
    """Whether all weights are there, in full precision."""
    found = vlm.clip.state_dict()
    for key, value in clip.state_dict().items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value, atol=atol, rtol=atol)
    return not vlm.training


# ---- layouts ----

LAYOUTS = {
    "a plain state dict": state_of,
    "under state_dict": lambda clip: {"epoch": 3, "state_dict": state_of(clip)},
    "of parallel training": lambda clip: {
        "state_dict": {f"module.{key}": value for key, value in state_of(clip).items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "a scale of one entry": lambda clip: {**state_of(clip), "logit_scale": clip.logit_scale.detach().reshape(1)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["tiny-rn", "tiny-vit"])
def test_torch_files_of_every_layout_are_read(tmp_path, layout, name):
    made = clip_of(name, seed=1)
    torch.save(LAYOUTS[layout](made), tmp_path / "weights.pt")
    vlm = load_vlm(name, pretrained=str(tmp_path / "weights.pt"))
    assert same_model(vlm, made)
    assert (vlm.name, vlm.configuration["pretrained"]) == (name, "weights.pt")


def test_safetensors_are_read(tmp_path):
    made = clip_of("tiny-vit", seed=1)
    save_file(state_of(made), tmp_path / "weights.safetensors")
    vlm = load_vlm("tiny-vit", pretrained=str(tmp_path / "weights.safetensors"), pooling="crop")
    assert same_model(vlm, made) and vlm.pooling == "crop"


def test_a_text_tower_under_a_name_of_its_own_takes_weights_without_it(tmp_path):
    made = clip_of("tiny-vit", seed=1)
    torch.save(state_of(made), tmp_path / "weights.pt")
    named, plain = (load_vlm(name, pretrained=str(tmp_path / "weights.pt")) for name in ("tiny-parts", "tiny-vit"))
    assert named.clip.text.token_embedding.weight.equal(made.token_embedding.weight)
    np.testing.assert_allclose(named.encode_texts(["nine"]), plain.encode_texts(["nine"]), atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state}])
def test_openais_layout_is_read_in_full_precision(tmp_path, wrap):
    made = clip_of("tiny-rn-quickgelu", seed=1)
    torch.save(wrap(openai_layout(made)), tmp_path / "weights.pth")
    vlm = load_vlm("tiny-rn-quickgelu", pretrained=str(tmp_path / "weights.pth"))
    assert same_model(vlm, made, atol=1e-3)


def test_openais_layout_is_refused_where_the_activation_is_another(tmp_path, clip):
    file = tmp_path / "weights.pth"
    torch.save(openai_layout(clip), file)
    with pytest.raises(ValueError, match=r"weights.pth: OpenAI's own layout.*than tiny-rn: use 'tiny-rn-quickgelu'"):
        load_vlm("tiny-rn", pretrained=str(file))


def test_an_rn50_as_pubmedclip_publishes_it(tmp_path):
    made = clip_of("RN50-quickgelu")
    torch.save({"state_dict": openai_layout(made)}, tmp_path / "PubMedCLIP_RN50.pth")
    vlm = load_vlm("RN50-quickgelu", pretrained=str(tmp_path / "PubMedCLIP_RN50.pth"))
    assert vlm.pooling == "early" and vlm.image_size == 224 and vlm.embedding_size == 1024
    prepared = vlm.prepare(torch.from_numpy(noise(1)).permute(0, 3, 1, 2))
    with torch.no_grad():
        expected = F.normalize(made.encode_image(prepared), dim=-1).numpy()
    np.testing.assert_allclose(vlm.encode_images(noise(1)), expected, atol=5e-3)


@pytest.mark.parametrize("suffix, write", [("safetensors", save_file), ("pt", torch.save)])
def test_a_vit_b_16_as_open_clip_publishes_it(tmp_path, vit_b_16, suffix, write):
    """In half precision, which writes half as much."""
    state, images, expected = vit_b_16
    write(state, tmp_path / f"weights.{suffix}")
    vlm = load_vlm("ViT-B-16", pretrained=str(tmp_path / f"weights.{suffix}"))
    whole, parts = vlm.encode(images, np.float32([[0, 0, 32, 64]]), np.array([0]))
    np.testing.assert_allclose(whole, expected, atol=5e-3)
    assert vlm.pooling == "patches" and parts.shape == (1, 512)


@pytest.fixture(scope="module")
def vit_b_16():
    """Its weights, an image and that image's embedding."""
    clip, images = clip_of("ViT-B-16"), noise(1, 224, 224)
    prepared = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(clip.visual.preprocess_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = clip.encode_image((prepared - mean) / std, normalize=True).numpy()
    return {key: value.half().contiguous() for key, value in clip.state_dict().items()}, images, expected


# ---- what is refused ----


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_script(file, clip):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))


def write_trap(file, clip):
    file.write_bytes(pickle.dumps(Trap(file.with_name("sprung")), protocol=2))


def write_zipped_trap(file, clip):
    torch.save({"state_dict": {**state_of(clip), "extra": Trap(file.with_name("sprung"))}}, file)


def write_half(file, clip):
    torch.save(state_of(clip), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def write_half_safetensors(file, clip):
    save_file(state_of(clip), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGED = {
    "script.pt": (write_script, "it is a TorchScript archive, which holds code; save its weights alone"),
    "trap.pt": (write_trap, "Weights only load failed"),
    "zipped.pt": (write_zipped_trap, "Weights only load failed"),
    "half.pt": (write_half, ""),
    "half.safetensors": (write_half_safetensors, ""),
    "empty.pt": (lambda file, clip: file.write_bytes(b""), ""),
    "empty.safetensors": (lambda file, clip: file.write_bytes(b""), ""),
    "text.pth": (lambda file, clip: file.write_text("<html>404</html>"), ""),
    "tensor.pt": (lambda file, clip: torch.save(torch.zeros(3), file), ""),
    "nothing.pt": (lambda file, clip: torch.save({}, file), "it is empty"),
    "nested.pt": (lambda file, clip: torch.save({"model": state_of(clip)}, file), "'model' is no tensor"),
    "numbers.pt": (lambda file, clip: torch.save({3: torch.zeros(3)}, file), "3 is no tensor"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_damaged_or_holds_more_than_weights_is_named_and_nothing_is_run(tmp_path, clip, name):
    write, reason = DAMAGED[name]
    write(tmp_path / name, clip)
    with pytest.raises(ValueError, match=f"{name}: expected a file of weights alone.*: .*{reason}"):
        load_vlm("tiny-rn", pretrained=str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_the_trap_works(tmp_path):
    write_trap(tmp_path / "trap.pt", None)
    pickle.loads((tmp_path / "trap.pt").read_bytes())
    assert (tmp_path / "sprung").exists()


def test_weights_of_another_model_are_answered_with_what_does_not_fit(tmp_path, clip):
    state = state_of(clip)
    state["visual.attnpool.positional_embedding"] = torch.zeros(10, 256)
    state["unheard.of"] = torch.zeros(1)
    for key in ("ln_final.weight", "ln_final.bias"):
        del state[key]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError) as caught:
        load_vlm("tiny-rn", pretrained=str(tmp_path / "other.pt"))
    assert str(caught.value).endswith(
        "other.pt: the weights do not fit tiny-rn: 2 missing (ln_final.weight, ln_final.bias); 1 unknown (unheard.of); "
        "1 of another shape (visual.attnpool.positional_embedding has shape (10, 256) and not (5, 256))"
    )


def test_of_many_that_do_not_fit_three_are_named(tmp_path):
    torch.save(state_of(clip_of("tiny-vit")), tmp_path / "vit.pt")
    with pytest.raises(ValueError, match=r"vit.pt: .* tiny-rn: \d+ missing \([\w.]+, [\w.]+, [\w.]+, …\); "):
        load_vlm("tiny-rn", pretrained=str(tmp_path / "vit.pt"))


@pytest.mark.parametrize("made", [True, False])
def test_a_file_alone_is_no_name(tmp_path, made):
    file = tmp_path / "PubMedCLIP_RN50.pth"
    if made:
        file.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"is a file of weights, .*load_vlm\('RN50-quickgelu', pretrained='.*RN50.pth'"
    ):
        load_vlm(str(file))


def test_a_folder_alone_is_no_name(tmp_path):
    with pytest.raises(ValueError, match="is a folder; to load the model in it, say 'local-dir:"):
        load_vlm(str(tmp_path))


def test_what_is_neither_a_tag_nor_a_file_is_answered_with_the_tags():
    with pytest.raises(ValueError, match="'opneai' is neither a file nor a tag of RN50-quickgelu .its tags: openai, "):
        load_vlm("RN50-quickgelu", pretrained="opneai")
    with pytest.raises(ValueError, match="'there.pt' is neither a file nor a tag of tiny-rn .its tags: none"):
        load_vlm("tiny-rn", pretrained="there.pt")


@pytest.mark.parametrize("name", ["rn-mini", "local-dir:somewhere", "hf-hub:some/model"])
def test_a_model_with_weights_takes_no_others(name):
    with pytest.raises(ValueError, match=f"pretrained: {name} comes with its own weights, got 'openai'"):
        load_vlm(name, pretrained="openai")


# ---- tags ----


def test_a_tag_brings_its_weights_and_how_images_are_prepared(tmp_path, monkeypatch, clip):
    save_file(state_of(clip), tmp_path / "weights.safetensors")
    tag = {"hf_hub": "some/place/", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "interpolation": "bilinear"}
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, pretrained: tag)
    monkeypatch.setattr(
        hub, "tag_file", lambda given, model: {"some/place/": tmp_path / "weights.safetensors"}[given["hf_hub"]]
    )
    vlm = load_vlm("tiny-rn", pretrained="there")
    assert same_model(vlm, clip) and vlm.configuration["pretrained"] == "there"
    assert vlm.mean.flatten().tolist() == pytest.approx(tag["mean"]) and vlm.std[2].item() == pytest.approx(0.1)


def test_a_model_that_exists_in_one_activation_only_is_not_sent_to_the_other(monkeypatch):
    """roberta-ViT-B-32 has QuickGELU and no such suffix."""
    asked = []
    monkeypatch.setattr(hub, "tag_file", lambda tag, model: asked.append(model) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_vlm("roberta-ViT-B-32", pretrained="laion2b_s12b_b32k")
    assert asked == ["roberta-ViT-B-32 with pretrained='laion2b_s12b_b32k'"]


# ---- folders ----


def test_a_saved_model_keeps_its_name_and_its_activation_and_open_clip_loads_it(tmp_path):
    torch.save(openai_layout(clip_of("tiny-rn-quickgelu")), tmp_path / "weights.pt")
    vlm = load_vlm("tiny-rn-quickgelu", pretrained=str(tmp_path / "weights.pt"))
    folder, texts = save_vlm(vlm, tmp_path / "saved"), ["a zero", "nine"]
    again = load_vlm(f"local-dir:{folder}")
    assert again.name == "tiny-rn-quickgelu" and again.configuration == json.loads(json.dumps(vlm.configuration))
    clip, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert isinstance(clip.transformer.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU)
    with torch.no_grad():
        theirs = clip.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(texts), normalize=True)
        images = clip.encode_image(vlm.prepare(torch.from_numpy(noise(2)).permute(0, 3, 1, 2)), normalize=True)
    for embeddings in (again.encode_texts(texts), theirs):
        np.testing.assert_allclose(vlm.encode_texts(texts), embeddings, atol=1e-6)
    for embeddings in (again.encode_images(noise(2)), images):
        np.testing.assert_allclose(vlm.encode_images(noise(2)), embeddings, atol=1e-5)
    written = json.loads((folder / "open_clip_config.json").read_text())
    assert (written["name"], written["pretrained"]) == ("tiny-rn-quickgelu", "weights.pt")
    assert str(tmp_path) not in json.dumps(written)


def test_a_saved_vision_transformer_comes_back(tmp_path):
    vlm = load_vlm("tiny-vit")
    again = load_vlm(f"local-dir:{save_vlm(vlm, tmp_path / 'saved')}")
    assert same_weights(weights(vlm), weights(again)) and again.pooling == "patches"


def test_a_folder_that_names_no_model_gives_its_own_name_and_any_weights_in_it(tmp_path, clip):
    configuration = {"model_cfg": open_clip.get_model_config("tiny-rn"), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "open_clip_config.json").write_text(json.dumps(configuration))
    torch.save(state_of(clip), tmp_path / "mine" / "best.pth")
    torch.save(state_of(clip_of("tiny-rn", seed=5)), tmp_path / "mine" / "last.pth")
    vlm = load_vlm(f"local-dir:{tmp_path / 'mine'}")
    assert vlm.name == "mine" and same_model(vlm, clip) and vlm.mean[0].item() == 0.5
    torch.save(state_of(clip_of("tiny-rn", seed=6)), tmp_path / "mine" / "open_clip_pytorch_model.bin")
    assert same_model(load_vlm(f"local-dir:{tmp_path / 'mine'}"), clip_of("tiny-rn", seed=6))


def test_a_folder_that_is_none_or_holds_no_model_is_named(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{folder} is no folder with a model: there is no .*config.json"):
            load_vlm(f"local-dir:{folder}")
    for text in ("{", "[]", "{}", '{"model_cfg": {"vision_cfg": {}}}'):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(ValueError, match="open_clip_config.json: expected open_clip's configuration of a model"):
            load_vlm(f"local-dir:{tmp_path}")


def test_a_tokenizer_with_files_is_saved_along(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.json").write_text("{}")

    vlm = load_vlm("tiny-rn")
    vlm.tokenizer = Tokenizer()
    assert (save_vlm(vlm, tmp_path / "saved") / "tokenizer.json").read_text() == "{}"


def test_only_random_weights_are_warned_of(tmp_path, caplog, clip):
    torch.save(state_of(clip), tmp_path / "weights.pt")
    load_vlm("tiny-rn", pretrained=str(tmp_path / "weights.pt"))
    assert caplog.text == ""
    load_vlm("tiny-rn")
    assert "initialized randomly" in caplog.text
    assert logging.root.manager.disable == logging.NOTSET
