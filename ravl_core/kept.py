"""A fine-tuned model and all that stage 1 sees of it, kept on request, outside git.

A folder for each setting and budget, named by their hash:

    image_tower.safetensors   weights of the standard fine-tuned model's image tower
    val.npz                   the val `Evaluation`, and what each of its regions and images shows
    measured.json             what was measured of the model, and the version of the code that made it

Discovery methods read it, so that one more method costs seconds and no fine-tuning.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from ravl_core.atomic import folder_at_once
from ravl_core.domains.dataset import Dataset
from ravl_core.mitigation.budget import Budget
from ravl_core.records import record_path
from ravl_core.settings import Setting
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation

TRUTHS = ("shows_core", "shows_feature", "feature_present", "sources", "box_names")  # of a Dataset


def folder_of(keep: Path, setting: Setting, budget: Budget) -> Path:
    """Where the model that was fine-tuned on this setting with this budget is kept, below the folder `keep`."""
    return keep / record_path("", {"setting": asdict(setting), "budget": asdict(budget)}).stem


def save_kept(
    folder: Path, fine_tuned: VLM, val: Evaluation, truths: Mapping[str, np.ndarray], measured: dict, version: str
) -> Path:
    """Write a folder, whole or not at all; one that is there already is replaced.

    `truths` says what is where (see `truths_of`), `measured` is what JSON can hold, `version` that of the code. Raises
    OSError, which names the folder, where it cannot be written.
    """
    from ravl_core.checkpoints import save_weights

    arrays = {field.name: np.asarray(getattr(val, field.name)) for field in fields(val)}
    with suppress(FileExistsError):  # made by another process meanwhile, with the same content
        with folder_at_once(folder, replace=folder.exists()) as unfinished:
            save_weights(fine_tuned.clip.visual.state_dict(), unfinished / "image_tower.safetensors")
            np.savez(unfinished / "val.npz", **arrays, **truths)
            (unfinished / "measured.json").write_text(json.dumps({"version": version, "measured": measured}))
    return folder


def truths_of(dataset: Dataset) -> dict[str, np.ndarray]:
    """The arrays of a set that say what is where (see `TRUTHS`), those that it has."""
    known = {name: getattr(dataset, name) for name in TRUTHS}
    return {name: np.asarray(value) for name, value in known.items() if value is not None}


def is_current(folder: Path, version: str) -> bool:
    """Whether something is kept there that code of this version made."""
    try:
        return json.loads((folder / "measured.json").read_text())["version"] == version
    except (OSError, ValueError, KeyError, TypeError):
        return False


def load_measured(folder: Path) -> dict:
    """What was measured of the kept model. Raises FileNotFoundError where nothing was kept."""
    return json.loads((folder / "measured.json").read_text())["measured"]


def load_evaluation(folder: Path) -> tuple[Evaluation, dict[str, np.ndarray]]:
    """The kept `Evaluation`, and the arrays of its `Dataset` that say what is where (see `TRUTHS`).

    Raises
    ------
    FileNotFoundError
        Nothing was kept there.
    """
    with np.load(folder / "val.npz") as arrays:
        evaluation = {field.name: arrays[field.name] for field in fields(Evaluation)}
        truths = {name: arrays[name] for name in TRUTHS if name in arrays}
    return Evaluation(**evaluation | {"class_names": tuple(evaluation["class_names"].tolist())}), truths


def load_fine_tuned(folder: Path, initial: VLM) -> VLM:
    """The kept model: the image tower that was kept, the rest from the initial model, which stays as it is.

    Raises
    ------
    FileNotFoundError
        Nothing was kept there.
    RuntimeError
        The weights are those of another architecture.
    """
    from safetensors.torch import load_file

    from ravl_core.mitigation.training import copy_of

    weights = load_file(folder / "image_tower.safetensors")
    vlm = copy_of(initial)
    vlm.clip.visual.load_state_dict(weights)
    return vlm.eval()
