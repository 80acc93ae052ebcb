"""Without a network: what is in the cache is loaded, and what is not is refused at once."""

import json
import socket
import threading
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from checkpoints_made_here import ARCHITECTURES
from safetensors.torch import save_file
from tiny import same_weights, weights

from ravl_core import hub
from ravl_core.checkpoints import load_vlm, open_clip, save_vlm

ERRORS = huggingface_hub.errors


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a network that must not be asked."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "why_unreachable", lambda url: pytest.fail(f"asked {url}"))
    return tmp_path / "hub"


def put(cache, repository, **contents):
    """Lay files into the cache as the hub's client does; `contents` are by stem, their writers get the path."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True, exist_ok=True)
    for write in contents.values():
        write(snapshot)
    return snapshot


def tiny_clip():
    torch.manual_seed(3)
    return open_clip.CLIP(**ARCHITECTURES["tiny-rn"])


def configuration(folder, **text):
    architecture = ARCHITECTURES["tiny-rn"]
    model = {**architecture, "text_cfg": {**architecture["text_cfg"], **text}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))


def weights_of(clip, name="open_clip_model.safetensors"):
    def write(folder):
        if name.endswith("safetensors"):
            return save_file(clip.state_dict(), folder / name)
        return torch.save(clip.state_dict(), folder / name)

    return write


# ---- what is in the cache ----


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_cached_hub_model_loads_without_a_network(cache, name):
    put(cache, "some/model", configuration=configuration, weights=weights_of(tiny_clip(), name))
    vlm = load_vlm("hf-hub:some/model")
    assert vlm.name == "hf-hub:some/model" and vlm.embedding_size == 16
    assert same_weights(weights(vlm), dict(tiny_clip().state_dict()))


def test_a_cached_tag_is_found_without_a_network(cache):
    snapshot = put(cache, "timm/resnet50_clip.openai", weights=weights_of(tiny_clip()))
    tag = open_clip.get_pretrained_cfg("RN50-quickgelu", "openai")
    assert hub.tag_file(tag, "RN50") == snapshot / "open_clip_model.safetensors"


def test_a_tag_may_name_its_file_and_safetensors_are_preferred(cache):
    snapshot = put(cache, "some/place", weights=lambda folder: (folder / "model.bin").touch())
    assert hub.tag_file({"hf_hub": "some/place/model.bin"}, "it") == snapshot / "model.bin"
    (snapshot / "model.safetensors").touch()
    assert hub.tag_file({"hf_hub": "some/place/model.bin"}, "it") == snapshot / "model.safetensors"


def test_a_tag_with_an_address_has_a_cache_too(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(hub, "why_unreachable", lambda url: asked.append(url) or "no route")
    tag = {"url": "https://example.org/there/RN50.pt"}
    with pytest.raises(ConnectionError, match=r"it: not in the cache .*clip, .* from example.org: no route"):
        hub.tag_file(tag, "it")
    (tmp_path / ".cache" / "clip").mkdir(parents=True)
    (tmp_path / ".cache" / "clip" / "RN50.pt").touch()
    assert hub.tag_file(tag, "it") == tmp_path / ".cache" / "clip" / "RN50.pt"
    assert asked == ["https://example.org/there/RN50.pt"]


def test_a_tokenizer_is_loaded_from_its_folder_in_the_cache(cache, monkeypatch):
    put(cache, "some/model", configuration=lambda folder: configuration(folder, hf_tokenizer_name="some/words"),
        weights=weights_of(tiny_clip()))  # fmt: skip
    made = []
    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", lambda source, **options: made.append((source, options)))
    monkeypatch.setattr(hub, "why_unreachable", lambda url: "no route")
    with pytest.raises(ConnectionError, match="the tokenizer of hf-hub:some/model: not in the cache"):
        load_vlm("hf-hub:some/model")
    folder = put(cache, "some/words", words=lambda folder: (folder / "tokenizer_config.json").touch())
    load_vlm("hf-hub:some/model")
    assert made == [(str(folder), {"context_length": 77, "tokenizer_mode": None})]
    saved = save_vlm(load_vlm("hf-hub:some/model"), cache.with_name("saved"))
    monkeypatch.setattr(open_clip.factory, "HFTokenizer", lambda source, **options: made.append(source))
    assert load_vlm(f"local-dir:{saved}").name == "hf-hub:some/model" and made[-1] == saved
    monkeypatch.setattr(hub, "why_unreachable", lambda url: None)
    assert hub.tokenizer_source("other/words", "it") == "other/words"


# ---- what is not ----


@pytest.mark.parametrize("name, pretrained", [("hf-hub:some/model", None), ("RN50-quickgelu", "openai")])
def test_offline_nothing_is_asked(cache, monkeypatch, name, pretrained):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match=f"{name}.*not in the cache .*hub, .*127.0.0.1:9: HF_HUB_OFFLINE forbids"):
        load_vlm(name, pretrained)


@pytest.mark.parametrize("name, pretrained", [("hf-hub:some/model", None), ("RN50-quickgelu", "openai")])
def test_a_host_that_cannot_be_reached_is_named_with_what_helps(cache, monkeypatch, name, pretrained):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub, "why_unreachable", FAILURE)
    with pytest.raises(
        ConnectionError, match=f"{name}.*to be had from 127.0.0.1:9: .*HF_HOME.*local-dir:path.*pretrained=path"
    ):
        load_vlm(name, pretrained)


FAILURE = hub.why_unreachable


def test_a_host_that_takes_the_call_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert FAILURE(f"http://127.0.0.1:{server.getsockname()[1]}")


def test_a_call_without_end_is_given_up(monkeypatch):
    """Looking a name up may take longer than any timeout that one can ask for."""
    ended = threading.Event()
    session = SimpleNamespace(head=lambda url, timeout: ended.wait(60))
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: session)
    monkeypatch.setattr(hub, "PATIENCE", 0.05)
    assert FAILURE("https://example.org") == "no answer in 0.05 s"
    ended.set()


@pytest.mark.parametrize("status", [200, 404, 500])
def test_whatever_a_host_says_it_can_be_reached(monkeypatch, status):
    asked = []
    session = SimpleNamespace(
        head=lambda url, timeout: asked.append((url, timeout)) or SimpleNamespace(status_code=status)
    )
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: session)
    assert FAILURE("https://example.org") is None and asked == [("https://example.org", 5.0)]


# ---- what is fetched ----


def fetching(monkeypatch, tmp_path, there, error=ERRORS.EntryNotFoundError):
    """A hub that can be reached and holds these files."""
    asked = []

    def fetch(repository, name):
        asked.append(name)
        if name not in there:
            raise error(name)
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "why_unreachable", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return asked


def test_the_first_of_the_files_that_is_there_is_fetched(cache, tmp_path, monkeypatch):
    asked = fetching(monkeypatch, tmp_path, ("b", "c"))
    assert hub.hub_file("some/model", ("a", "b", "c"), "it") == tmp_path / "b" and asked == ["a", "b"]


def test_a_repository_without_any_of_them_is_named(cache, tmp_path, monkeypatch):
    fetching(monkeypatch, tmp_path, ())
    with pytest.raises(FileNotFoundError, match="it: some/model on the hub holds none of a, b"):
        hub.hub_file("some/model", ("a", "b"), "it")


def test_a_network_that_goes_away_is_a_connection_error(cache, tmp_path, monkeypatch):
    asked = fetching(monkeypatch, tmp_path, (), ERRORS.LocalEntryNotFoundError)
    with pytest.raises(ConnectionError, match="it: some/model/a could not be fetched"):
        hub.hub_file("some/model", ("a", "b"), "it")
    assert asked == ["a"]
