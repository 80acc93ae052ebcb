"""One pass over a setting: plant, fine-tune, evaluate, discover by every method, repair, measure."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ravl_core.audits.trial import audit_trial
from ravl_core.comparison import by_size, compare, inference, paper_and_chance
from ravl_core.discovery import Discovery, discover
from ravl_core.fine_tuned import FineTuned, fine_tuned_model, setting_data
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.repairs import Repair, run_repairs
from ravl_core.sensitivity import sensitivity
from ravl_core.settings import Setting
from ravl_core.stability import stability


@dataclass(frozen=True)
class Task:
    """A setting, how its model is fine-tuned, and what is done with it."""

    setting: Setting
    budget: Budget = DEFAULT_BUDGET
    repairs: tuple[Repair, ...] = ()  # recipes by which it is repaired afterwards
    stability: bool = False  # whether discovery is tried with other seeds, clusters and regions
    audit: bool = False  # whether the model is audited as a user would
    sensitivity: bool = False  # whether discovery is tried with other embeddings, temperatures and mixtures of images

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
    made = fine_tuned_model(task.setting, task.budget, keep, device)
    found = discover(made.val, seed=task.setting.seed)
    return made.measured | {
        "discovery": {
            "n_findings": len(found.findings),
            "n_clusters": found.clustering.n_clusters,
            **_first_finding(found),
            **_judged(task, made, found),
        },
        "stability": _stability(task.setting, made, found) if task.stability else [],
        "sensitivity": _sensitivity(task.setting, made, found) if task.sensitivity else [],
        "audit": _audited(task.setting, made, found) if task.audit else [],
        **(_repaired(task, made, found, device) if task.repairs else {"repairs": []}),
    }


def _judged(task: Task, made: FineTuned, found: Discovery) -> dict:
    """Every method and how sure it is; where something else is what is asked, the paper's method alone."""
    looked = made.val, made.truths, found, task.setting.seed
    if task.repairs or task.audit or task.sensitivity:
        return {"methods": paper_and_chance(*looked), "inference": None, "by_size": []}
    return {"methods": compare(*looked), "inference": inference(*looked), "by_size": by_size(*looked)}


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


def _sensitivity(setting: Setting, made: FineTuned, found: Discovery) -> list[dict]:
    val, clusters = setting_data(setting).val, found.clustering
    return sensitivity(made.vlm, val, made.val, made.truths, clusters, setting.attribute, setting.seed)


def _audited(setting: Setting, made: FineTuned, found: Discovery) -> list[dict]:
    return audit_trial(made.vlm, setting_data(setting).val, made.val, found, setting.seed)


def _repaired(task: Task, made: FineTuned, found: Discovery, device: str) -> dict:
    """What each repair brings, and how many fine-tuning images each group has, (C, 2) without and with the feature."""
    sets = setting_data(task.setting).finetuning
    counts = np.bincount(2 * sets.labels + sets.feature_present, minlength=2 * sets.n_classes).reshape(-1, 2)
    repairs = run_repairs(task.setting, task.budget, task.repairs, made, found, device)
    return {"repairs": list(repairs), "finetuning_groups": counts.tolist()}
