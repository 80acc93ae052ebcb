"""What a record leaves out: the fine-tuned image tower and all that stage 1 saw. Kept on request, outside git.

A folder for each task, named like its record:

    image_tower.safetensors   weights of the standard fine-tuned model's image tower
    val.npz                   the val `Evaluation`, and what each of its regions and images shows
"""

import os
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np

from ravl_core.domains.dataset import Dataset
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation

TRUTHS = ("shows_core", "shows_feature", "feature_present", "sources", "box_names")  # of a Dataset


def save_kept(folder: Path, fine_tuned: VLM, val: Evaluation, dataset: Dataset) -> Path:
    """Write a task's folder under a temporary name and rename it; one that is there already is replaced."""
    from safetensors.torch import save_file

    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    unfinished.mkdir(parents=True, exist_ok=True)
    try:
        tower = {name: value.contiguous() for name, value in fine_tuned.clip.visual.state_dict().items()}
        save_file(tower, unfinished / "image_tower.safetensors")
        arrays = {field.name: np.asarray(getattr(val, field.name)) for field in fields(val)}
        known = {name: getattr(dataset, name) for name in TRUTHS if getattr(dataset, name) is not None}
        np.savez(unfinished / "val.npz", **arrays, **{name: np.asarray(value) for name, value in known.items()})
        shutil.rmtree(folder, ignore_errors=True)
        return unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
