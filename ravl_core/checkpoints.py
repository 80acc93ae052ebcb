"""Loading and saving CLIP models, in open_clip's own formats and in those of published checkpoints."""

import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ravl_core import _torchvision, hub
from ravl_core.atomic import folder_at_once
from ravl_core.checks import made, nearest
from ravl_core.paths import MINIATURES
from ravl_core.vlm import VLM

_torchvision.ensure_importable()
import open_clip  # noqa: E402  (torchvision has to be importable first)

OPENAI_ENTRIES = ("input_resolution", "context_length", "vocab_size")  # beside the weights, in OpenAI's own files
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


@dataclass(frozen=True)
class _Source:
    """Where a model comes from."""

    name: str  # in tables and messages
    model: str  # as open_clip builds it
    weights: Path | None = None  # None: random ones
    pretrained: str | None = None  # what the weights are called
    preprocessing: dict = field(default_factory=dict)  # that a tag prescribes
    has_tokenizer: bool = False  # its folder holds the tokenizer, too, where that is no file of open_clip's


def load_vlm(name: str, pretrained: str | None = None, device: str = "cpu", pooling: str | None = None) -> VLM:
    """Load a CLIP model, ready to use: in evaluation mode, with its tokenizer. Nothing in a file is executed.

    Parameters
    ----------
    name : a miniature that ships with the project ("rn-mini"), any open_clip name ("RN50-quickgelu"),
        "hf-hub:org/name", or "local-dir:path", a folder that `save_vlm` or open_clip wrote.
    pretrained : for open_clip names only: open_clip's tag, or a checkpoint file (safetensors or torch; a state dict
        alone or under "state_dict", in open_clip's layout or OpenAI's). None = random weights. A file does not say
        which activation it was trained with: weights that descend from OpenAI's need a name in "-quickgelu".
    device : "cpu" or "cuda".
    pooling : see `VLM`.

    Raises
    ------
    ValueError
        An unknown name (with the nearest match), tag or device; a file that is damaged, holds more than finite numbers,
        or does not fit the model; weights trained with another activation than the model's.
    FileNotFoundError
        A folder or a repository that is not there or lacks the configuration or the weights.
    ConnectionError
        Weights that are not in the local cache and cannot be fetched; at once, not after a minute.
    """
    _check_device(device)
    source = _source(str(name), pretrained)
    model_cfg = open_clip.get_model_config(source.model)
    tokenizer = _tokenizer(source, model_cfg["text_cfg"])  # before the work, because it may be out of reach
    clip = _build(source)
    if source.weights:
        _load_weights(clip, source)
    configuration = {
        "name": source.name,
        "pretrained": source.pretrained,
        "model_cfg": model_cfg,
        "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip),
    }
    vlm = VLM(clip, tokenizer, source.name, configuration, pooling).to(device)
    return vlm.to(memory_format=torch.channels_last).eval()


def save_vlm(vlm: VLM, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model as open_clip loads it (`local-dir:folder`): its configuration and its weights as safetensors.

    The configuration also keeps the model's name and what its first weights were called, which open_clip passes over.
    The folder is written under a temporary name and renamed, so that it is whole or absent.

    Raises
    ------
    ValueError
        No model, or a type that holds no fractions.
    FileExistsError
        The folder is there already.
    OSError
        It cannot be written; the message names it.
    """
    made("vlm", vlm, "a model, see load_vlm", "clip")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected one of torch's floating-point types, got {dtype!r}")
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder: {folder} exists already; nothing was written")
    weights = {
        key: value.to(dtype) if value.is_floating_point() else value for key, value in vlm.clip.state_dict().items()
    }
    with folder_at_once(folder) as unfinished:
        save_weights(weights, unfinished / hub.WEIGHTS[0])
        configuration = json.dumps({**vlm.configuration, "name": vlm.name}, indent=1)
        (unfinished / hub.CONFIGURATION).write_text(configuration + "\n")
        if hasattr(vlm.tokenizer, "save_pretrained"):
            vlm.tokenizer.save_pretrained(unfinished)
    return folder


def save_weights(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors by their names as safetensors; raises OSError, as for any other file, where that fails."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path.parent}: the weights could not be written: {error}") from error


def miniature_names() -> list[str]:
    """Names of the miniature models that ship with weights."""
    return sorted(path.parent.name for path in MINIATURES.glob("*/open_clip_model.safetensors"))


# ---- what a name means ----


def _source(name: str, pretrained: str | None) -> _Source:
    prefix, _, rest = name.partition(":")
    own = name in miniature_names() or prefix in ("local-dir", "hf-hub")
    if own and pretrained is not None:
        raise ValueError(f"pretrained: {name} comes with its own weights, got {pretrained!r}")
    if name in miniature_names():
        return _folder_source(MINIATURES / name)
    if prefix == "local-dir":
        return _folder_source(Path(rest))
    if prefix == "hf-hub":
        configuration = hub.hub_file(rest, [hub.CONFIGURATION], name)
        return _Source(name, f"local-dir:{configuration.parent}", hub.hub_file(rest, hub.WEIGHTS, name))
    _check_name(name)
    return _named_source(name, pretrained)


def _folder_source(folder: Path) -> _Source:
    """A folder as open_clip writes it; where it names no model, it gives its own name."""
    path = folder / hub.CONFIGURATION
    if not path.is_file():
        raise FileNotFoundError(f"name: {folder} is no folder with a model: there is no {path}")
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        written["model_cfg"]["text_cfg"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: expected open_clip's configuration of a model: {error!r}") from error
    found = [folder / name for name in hub.WEIGHTS if (folder / name).is_file()]
    found += sorted(path for suffix in SUFFIXES[:3] for path in folder.glob(f"*{suffix}"))
    if not found:
        raise FileNotFoundError(f"name: {folder} holds no weights ({hub.WEIGHTS[0]} or the like)")
    name = written.get("name") or folder.resolve().name
    return _Source(name, f"local-dir:{folder}", found[0], written.get("pretrained"), has_tokenizer=True)


def _named_source(name: str, pretrained: str | None) -> _Source:
    """One of open_clip's names, with random weights, those of a tag or those in a file."""
    if pretrained is None:
        return _Source(name, name)
    if tag := open_clip.get_pretrained_cfg(name, pretrained):
        _check_activation(name, tag.get("quick_gelu", False), f"pretrained={pretrained!r}")
        return _Source(name, name, hub.tag_file(tag, f"{name} with pretrained={pretrained!r}"), pretrained, tag)
    if os.path.isfile(pretrained):
        return _Source(name, name, Path(pretrained), Path(pretrained).name)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    raise ValueError(f"pretrained: {pretrained!r} is neither a file nor a tag of {name} (its tags: {tags})")


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch has one each for unknown, absent and no word
        reason = str(error).splitlines()[0]
        raise ValueError(f"device: expected one that torch can use here, got {device!r}: {reason}") from error


def _check_name(name: str) -> None:
    known = [*miniature_names(), *open_clip.list_models()]
    if name in known:
        return
    if os.path.isdir(name):
        raise ValueError(f"name: {name!r} is a folder; to load the model in it, say 'local-dir:{name}'")
    if os.path.isfile(name) or Path(name).suffix in SUFFIXES:
        how = f"name the model, too: load_vlm('RN50-quickgelu', pretrained={name!r})"
        raise ValueError(f"name: {name!r} is a file of weights, which does not say of what model; {how}")
    raise ValueError(f"name: no model is called {name!r}{nearest(name, known)}")


def _check_activation(name: str, quick: bool, weights: str) -> None:
    """Weights that were trained with QuickGELU work badly with GELU and the other way round, and silently."""
    wanted = open_clip.get_model_config(name).get("quick_gelu", False)
    other = name.removesuffix("-quickgelu") if wanted else f"{name}-quickgelu"
    if quick != wanted and other != name and other in open_clip.list_models():
        raise ValueError(f"{weights} was trained with the other activation than {name}: use {other!r}")


# ---- building and filling it ----


def _build(source: _Source) -> torch.nn.Module:
    """The model with random weights; open_clip's warning about them is kept for those who get no others."""
    before = logging.root.manager.disable
    if source.weights:
        logging.disable(logging.WARNING)
    try:
        return open_clip.create_model(
            source.model, load_weights=False, pretrained_text=False, force_preprocess_cfg=source.preprocessing
        )
    finally:
        logging.disable(before)


def _tokenizer(source: _Source, text_cfg: dict):
    """open_clip's tokenizer; one that comes from the hub is taken from the cache, if it is there."""
    repository = text_cfg.get("hf_tokenizer_name")
    if source.has_tokenizer or not repository:
        return open_clip.get_tokenizer(source.model)
    return open_clip.tokenizer.HFTokenizer(
        hub.tokenizer_source(repository, f"the tokenizer of {source.name}"),
        context_length=text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text_cfg.get("tokenizer_mode"),
        **text_cfg.get("tokenizer_kwargs", {}),
    )


def _load_weights(clip: torch.nn.Module, source: _Source) -> None:
    state = _read_state_dict(source.weights)
    if source.model in open_clip.list_models() and set(OPENAI_ENTRIES) <= state.keys():
        _check_activation(source.model, True, f"pretrained={source.weights}: OpenAI's own layout, which")
    state = {key: value for key, value in state.items() if key not in OPENAI_ENTRIES}
    state = open_clip.convert.convert_state_dict(clip, state)
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = open_clip.model.convert_to_custom_text_state_dict(state)
    if broken := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"{source.weights}: expected finite weights, got others in {', '.join(broken[:3])}")
    expected = clip.state_dict()
    for key in {"logit_scale", "logit_bias"} & state.keys() & expected.keys():
        state[key] = state[key].reshape(expected[key].shape)  # a number, or an array of one
    if problems := _misfits(state, expected):
        raise ValueError(f"{source.weights}: the weights do not fit {source.name}: {'; '.join(problems)}")
    clip.load_state_dict(state)


def _misfits(state: dict, expected: dict) -> list[str]:
    """What is missing, unknown or of another shape, the first few of each."""
    shared = [key for key in expected if key in state]
    wrong = [
        f"{key} has shape {tuple(state[key].shape)} and not {tuple(expected[key].shape)}"
        for key in shared
        if state[key].shape != expected[key].shape
    ]
    lists = {
        "missing": [key for key in expected if key not in state],
        "unknown": [key for key in state if key not in expected],
        "of another shape": wrong,
    }
    return [
        f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' * (len(keys) > 3)})" for what, keys in lists.items() if keys
    ]


def _read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a file by their names, without what parallel training puts before those."""
    try:
        state = _read(file)
        named = {key: value for key, value in state.items() if key not in OPENAI_ENTRIES}
        loose = [key for key, value in named.items() if not (isinstance(key, str) and torch.is_tensor(value))]
        if loose or not state:
            raise ValueError(f"{loose[0]!r} is no tensor" if loose else "it is empty")
    except Exception as error:  # torch has a dozen for files that are damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file}: expected a file of weights alone, as safetensors or torch write it: {reason}"
        ) from error
    parallel = all(key.startswith("module.") for key in state)
    return {key.removeprefix("module."): value for key, value in state.items()} if parallel else state


def _read(file: Path) -> dict:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if zipfile.is_zipfile(file) and any(
        Path(name).name == "constants.pkl" for name in zipfile.ZipFile(file).namelist()
    ):
        raise ValueError(
            "it is a TorchScript archive, which holds code; save its weights alone, where you trust it: "
            "torch.save(torch.jit.load(file).state_dict(), 'weights.pt')"
        )
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    return checkpoint.get("state_dict", checkpoint)
