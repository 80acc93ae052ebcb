"""One pass over a setting: plant, fine-tune, evaluate, discover, repair, measure."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ravl_core.checks import choice
from ravl_core.discovery import assign_regions, discover
from ravl_core.groups import core_regions_only, group_table, performance
from ravl_core.kept import save_kept
from ravl_core.metrics import precision_at_k
from ravl_core.mitigation import mitigate
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.pretraining import initial_vlm
from ravl_core.records import record_path
from ravl_core.settings import Setting, build_setting, learned_margin
from ravl_core.slicing.random_regions import random_precision_at_k
from ravl_core.zero_shot import evaluate


@dataclass(frozen=True)
class Repair:
    """One row of the repair table."""

    recipe: str = "ravl"
    options: dict = field(default_factory=dict)
    # "discovered": by stage 1. "true": the planted regions, which a user does not have; it shows what stage 1 costs.
    # "none": no region is spurious; it shows what the loss does without stage 1.
    assignment: str = "discovered"


@dataclass(frozen=True)
class Task:
    """A setting, how its model is fine-tuned, and by which recipes it is repaired afterwards."""

    setting: Setting
    budget: Budget = DEFAULT_BUDGET
    repairs: tuple[Repair, ...] = ()

    @property
    def arguments(self) -> dict:
        """The task as plain values; their hash names its record."""
        return asdict(self)


def run_task(task: Task, keep: Path | None = None, device: str = "cpu") -> dict:
    """One pass over a setting; returns its metrics.

    Validity and discovery use the val set, accuracies the test set. Models run on `device`. With a folder to `keep`
    things in, the fine-tuned model and what stage 1 saw stay there; see `ravl_core.kept`.
    """
    setting = task.setting
    data = build_setting(setting)
    initial = initial_vlm(setting.initial, setting.domain, setting.pretrained).to(device)
    fine_tuned, history = mitigate(initial, data.finetuning, None, "standard", task.budget, setting.seed)
    val = evaluate(fine_tuned, data.val)
    if keep is not None:
        save_kept(keep / record_path("", task.arguments).stem, fine_tuned, val, data.val)
    found = discover(val, seed=setting.seed)
    return {
        "reached_strength": data.reached_strength,
        "margin": learned_margin(performance(val, data.val).images, setting.attribute),
        "initial": _measure(initial, data.test),
        "standard": _measure(fine_tuned, data.test) | {"final_loss": float(history.losses[-20:].mean())},
        "discovery": _discovery_metrics(found, data.val, setting),
        "repairs": [_repair(task, repair, initial, fine_tuned, found, data) for repair in task.repairs],
    }


def _assignment(repair: Repair, fine_tuned, found, finetuning) -> np.ndarray:
    """Which regions of the fine-tuning set are called spurious, (M,) bool."""
    source = choice("assignment", repair.assignment, ("discovered", "true", "none"))
    if source == "true":
        return finetuning.shows_feature
    if source == "none" or not found.findings:
        return np.zeros(len(finetuning.boxes), dtype=bool)
    return assign_regions(found, fine_tuned.encode(finetuning.images, finetuning.boxes, finetuning.image_index)[1])


def _measure(vlm, dataset) -> dict:
    dataset = core_regions_only(dataset)  # the others enter no figure
    measured = performance(evaluate(vlm, dataset), dataset)
    return measured.summary | {"groups": group_table(measured)}


def _discovery_metrics(found, val, setting: Setting) -> dict:
    first = found.findings[0] if found.findings else None
    return {
        "n_findings": len(found.findings),
        "n_clusters": found.clustering.n_clusters,
        "precision_at_10": precision_at_k(first.regions if first else [], val.shows_feature),
        "random_precision_at_10": random_precision_at_k(val.shows_feature, seed=setting.seed),
        "attribute": first.attribute if first else None,
        "gap": first.gap if first else None,
        "influence": first.influence if first else None,
        "influence_images": first.influence_images if first else 0,
    }


def _repair(task: Task, repair: Repair, initial, fine_tuned, found, data) -> dict:
    truth = data.finetuning.shows_feature
    assignment = _assignment(repair, fine_tuned, found, data.finetuning)
    repaired, history = mitigate(
        initial, data.finetuning, assignment, repair.recipe, task.budget, task.setting.seed, **repair.options
    )
    return (
        asdict(repair)
        | _measure(repaired, data.test)
        | {
            "assignment_recall": float(assignment[truth].mean()) if truth.any() else None,
            "assignment_precision": float(truth[assignment].mean()) if assignment.any() else None,
            "final_loss": float(history.losses[-20:].mean()),
        }
    )
