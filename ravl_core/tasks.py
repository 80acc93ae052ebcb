"""One pass over a setting: plant, fine-tune, evaluate, discover by every method, repair, measure."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ravl_core.checks import choice
from ravl_core.comparison import by_size, compare, inference
from ravl_core.discovery import Discovery, assign_regions, discover
from ravl_core.fine_tuned import FineTuned, fine_tuned_model, measure, setting_data
from ravl_core.mitigation import mitigate
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.pretraining import initial_vlm
from ravl_core.settings import Setting
from ravl_core.stability import stability


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
    """A setting, how its model is fine-tuned, and what is done with it."""

    setting: Setting
    budget: Budget = DEFAULT_BUDGET
    repairs: tuple[Repair, ...] = ()  # recipes by which it is repaired afterwards
    stability: bool = False  # whether discovery is tried with other seeds, clusters and regions

    @property
    def arguments(self) -> dict:
        """The task as plain values; their hash names its record."""
        return asdict(self)


def run_task(task: Task, keep: Path | None = None, device: str = "cpu") -> dict:
    """One pass over a setting; returns its metrics.

    Validity and discovery use the val set, accuracies the test set. Models run on `device`. With a folder to `keep`
    things in, the fine-tuned model and what stage 1 sees of it are kept there, and not made again; see
    `ravl_core.kept`.
    """
    seed = task.setting.seed
    made = fine_tuned_model(task.setting, task.budget, keep, device)
    found = discover(made.val, seed=seed)
    looked = made.val, made.truths, found, seed
    return made.measured | {
        "discovery": {
            "n_findings": len(found.findings),
            "n_clusters": found.clustering.n_clusters,
            **_first_finding(found),
            "methods": compare(*looked),
            "inference": inference(*looked),
            "by_size": by_size(*looked),
        },
        "stability": _stability(task.setting, made, found) if task.stability else [],
        "repairs": _repairs(task, made, found, device) if task.repairs else [],
    }


def _first_finding(found: Discovery) -> dict:
    first = found.findings[0] if found.findings else None
    return {
        "attribute": first.attribute if first else None,
        "gap": first.gap if first else None,
        "influence": first.influence if first else None,
        "influence_images": first.influence_images if first else 0,
    }


def _stability(setting: Setting, made: FineTuned, found: Discovery) -> list[dict]:
    val = setting_data(setting).val
    return stability(made.vlm, val, made.val, made.truths, found.clustering, setting.seed)


def _repairs(task: Task, made: FineTuned, found: Discovery, device: str) -> list[dict]:
    setting = task.setting
    initial = initial_vlm(setting.initial, setting.domain, setting.pretrained).to(device)
    return [_repair(task, repair, initial, made.vlm, found) for repair in task.repairs]


def _repair(task: Task, repair: Repair, initial, fine_tuned, found: Discovery) -> dict:
    data = setting_data(task.setting)
    truth = data.finetuning.shows_feature
    assignment = _assignment(repair, fine_tuned, found, data.finetuning)
    repaired, history = mitigate(
        initial, data.finetuning, assignment, repair.recipe, task.budget, task.setting.seed, **repair.options
    )
    return (
        asdict(repair)
        | measure(repaired, data.test)
        | {
            "assignment_recall": float(assignment[truth].mean()) if truth.any() else None,
            "assignment_precision": float(truth[assignment].mean()) if assignment.any() else None,
            "final_loss": float(history.losses[-20:].mean()),
        }
    )


def _assignment(repair: Repair, fine_tuned, found: Discovery, finetuning) -> np.ndarray:
    """Which regions of the fine-tuning set are called spurious, (M,) bool."""
    source = choice("assignment", repair.assignment, ("discovered", "true", "none"))
    if source == "true":
        return finetuning.shows_feature
    if source == "none" or not found.findings:
        return np.zeros(len(finetuning.boxes), dtype=bool)
    return assign_regions(found, fine_tuned.encode(finetuning.images, finetuning.boxes, finetuning.image_index)[1])
