"""Loading and saving CLIP models, in open_clip's own formats."""

import difflib
import json
import os
import shutil
from pathlib import Path

import torch

from ravl_core import _torchvision
from ravl_core.paths import MINIATURES
from ravl_core.vlm import VLM

_torchvision.ensure_importable()
import open_clip  # noqa: E402  (torchvision has to be importable first)


def load_vlm(name: str, pretrained: str | None = None, device: str = "cpu", pooling: str | None = None) -> VLM:
    """Load a CLIP model, ready to use: in evaluation mode, with its tokenizer.

    Parameters
    ----------
    name : a miniature that ships with the project ("rn-mini"), any open_clip name ("RN50-quickgelu"),
        "hf-hub:org/name" or "local-dir:path".
    pretrained : open_clip's tag or a checkpoint file; for open_clip names only. None = random weights.
    device : "cpu" or "cuda".
    pooling : see `VLM`.

    Raises
    ------
    ValueError
        An unknown name (with the nearest match), or weights trained with another activation than the model's.
    RuntimeError
        A folder, a hub model or a miniature whose weights are not there.
    """
    if name in miniature_names():
        folder, name_for_tables = f"local-dir:{MINIATURES / name}", name
    else:
        _check_name(name, pretrained)
        folder, name_for_tables = name, name
    clip = open_clip.create_model(folder, pretrained=pretrained, device=device, require_pretrained=":" in folder)
    configuration = {
        "model_cfg": open_clip.get_model_config(folder),
        "preprocess_cfg": open_clip.get_model_preprocess_cfg(clip),
    }
    vlm = VLM(clip, open_clip.get_tokenizer(folder), name_for_tables, configuration, pooling).to(device)
    return vlm.to(memory_format=torch.channels_last).eval()


def save_vlm(vlm: VLM, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model as open_clip loads it (`local-dir:folder`): its configuration and its weights as safetensors.

    The folder is written under a temporary name and renamed, so that it is whole or absent.

    Raises
    ------
    FileExistsError
        The folder is there already.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"folder: {folder} exists already; nothing was written")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True)
    weights = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in vlm.clip.state_dict().items()
    }
    try:
        save_file(weights, unfinished / "open_clip_model.safetensors")
        (unfinished / "open_clip_config.json").write_text(json.dumps(vlm.configuration, indent=1) + "\n")
        return unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_name(name: str, pretrained: str | None) -> None:
    if ":" in name:
        return
    known = [*miniature_names(), *open_clip.list_models()]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name: no model is called {name!r}{hint}")
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else None
    wanted = open_clip.get_model_config(name).get("quick_gelu", False)
    if tag and tag.get("quick_gelu", False) != wanted:
        other = name.removesuffix("-quickgelu") if wanted else f"{name}-quickgelu"
        raise ValueError(f"pretrained={pretrained!r} was trained with the other activation than {name}: use {other!r}")


def miniature_names() -> list[str]:
    """Names of the miniature models that ship with weights."""
    return sorted(path.parent.name for path in MINIATURES.glob("*/open_clip_model.safetensors"))
