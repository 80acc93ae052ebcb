"""The model that stage 1 looks at: a setting planted, the initial model fine-tuned on it, measured, and kept if asked.

It is the expensive part of a setting, and depends on nothing that looks at the model afterwards. So it has a version
of its own, and what is kept stays good when a discovery method is added or changed.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ravl_core import kept
from ravl_core.domains.dataset import Dataset
from ravl_core.groups import core_regions_only, group_table, performance
from ravl_core.mitigation import mitigate
from ravl_core.mitigation.budget import Budget
from ravl_core.pretraining import initial_vlm
from ravl_core.settings import Setting, build_setting, learned_margin
from ravl_core.versions import fine_tuning_version
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation, evaluate

setting_data = lru_cache(maxsize=1)(build_setting)  # the parts of a task ask for the same sets one after the other


@dataclass(frozen=True)
class FineTuned:
    """The standard fine-tuned model of a setting and what is known about it.

    Attributes
    ----------
    vlm : VLM
        The model.
    val : Evaluation
        What discovery methods may look at.
    truths : dict of arrays
        What each region and image of the val set shows; methods are judged by it and never see it.
    measured : dict
        `reached_strength`, the learned `margin` in points (on val), and the test figures of the `initial` and of the
        `standard` fine-tuned model, each with its groups.
    """

    vlm: VLM
    val: Evaluation
    truths: dict[str, np.ndarray]
    measured: dict


def fine_tuned_model(setting: Setting, budget: Budget, keep: Path | None = None, device: str = "cpu") -> FineTuned:
    """Fine-tune the initial model on a setting by the standard recipe; with `keep`, load it where it is kept already.

    Validity uses the val set, accuracies the test set. What older code has kept is made again.
    """
    version = fine_tuning_version(setting.domain)
    folder = None if keep is None else kept.folder_of(keep, setting, budget)
    if folder is not None and kept.is_current(folder, version):
        return _load(folder, _initial(setting, device))
    made = _make(setting, budget, device)
    if folder is not None:
        kept.save_kept(folder, made.vlm, made.val, made.truths, made.measured, version)
    return made


def _load(folder: Path, initial: VLM) -> FineTuned:
    val, truths = kept.load_evaluation(folder)
    return FineTuned(kept.load_fine_tuned(folder, initial), val, truths, kept.load_measured(folder))


def _initial(setting: Setting, device: str) -> VLM:
    return initial_vlm(setting.initial, setting.domain, setting.pretrained).to(device)


def _make(setting: Setting, budget: Budget, device: str) -> FineTuned:
    data, initial = setting_data(setting), _initial(setting, device)
    vlm, history = mitigate(initial, data.finetuning, None, "standard", budget, setting.seed)
    val = evaluate(vlm, data.val)
    measured = {
        "reached_strength": data.reached_strength,
        "margin": learned_margin(performance(val, data.val).images, setting.attribute),
        "initial": measure(initial, data.test),
        "standard": measure(vlm, data.test) | {"final_loss": float(history.losses[-20:].mean())},
    }
    return FineTuned(vlm, val, kept.truths_of(data.val), measured)


def measure(vlm: VLM, dataset: Dataset) -> dict:
    """The four figures of table 3 on a set, 0 … 1, and the groups behind them."""
    dataset = core_regions_only(dataset)  # the others enter no figure
    measured = performance(evaluate(vlm, dataset), dataset)
    return measured.summary | {"groups": group_table(measured)}
