"""A grid of settings, one record each: `python -m ravl_core.study --profile demo`.

One pass over a setting does everything: plant, fine-tune, evaluate, discover, repair, measure. Finished records are
reused, so a study that was stopped goes on where it was; settings run in processes of one thread each, which gives
the same metrics whatever their number.
"""

import os
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ravl_core import records
from ravl_core.checks import choice
from ravl_core.mitigation.budget import Budget
from ravl_core.progress import track
from ravl_core.settings import Setting

# The modules that decide the numbers; a record names their common version.
DECIDING = (
    "checkpoints", "discovery", "domains", "groups", "kmedoids", "losses", "metrics", "mitigation",
    "randomness", "regions", "settings", "slicing", "study", "vlm", "zero_shot",
)  # fmt: skip


@dataclass(frozen=True)
class Repair:
    """One row of the repair table."""

    recipe: str = "ravl"
    options: dict = field(default_factory=dict)
    assignment: str = "discovered"  # or "true": the planted regions, which a user does not have


@dataclass(frozen=True)
class Task:
    """A setting, how its model is fine-tuned, and by which recipes it is repaired afterwards."""

    setting: Setting
    budget: Budget = Budget()
    repairs: tuple[Repair, ...] = ()

    @property
    def arguments(self) -> dict:
        """The task as plain values; their hash names its record."""
        return asdict(self)


@dataclass(frozen=True)
class Study:
    """What a run of a grid left behind."""

    records: list[dict]
    n_reused: int
    failures: dict[str, str]  # what failed → its traceback


def run_task(task: Task) -> dict:
    """One pass over a setting; returns its metrics.

    Validity and discovery use the val set, accuracies the test set.
    """
    from ravl_core.checkpoints import load_vlm
    from ravl_core.discovery import discover
    from ravl_core.groups import performance
    from ravl_core.mitigation import mitigate
    from ravl_core.settings import build_setting, learned_margin
    from ravl_core.zero_shot import evaluate

    setting = task.setting
    data = build_setting(setting)
    initial = load_vlm(setting.initial)
    fine_tuned, history = mitigate(initial, data.finetuning, None, "standard", task.budget, setting.seed)
    val = evaluate(fine_tuned, data.val)
    found = discover(val, seed=setting.seed)
    return {
        "reached_strength": data.reached_strength,
        "margin": learned_margin(performance(val, data.val).images, setting.attribute),
        "initial": _measure(initial, data.test),
        "standard": _measure(fine_tuned, data.test) | {"final_loss": float(history.losses[-20:].mean())},
        "discovery": _discovery_metrics(found, data.val, setting),
        "repairs": [_repair(task, repair, initial, fine_tuned, found, data) for repair in task.repairs],
    }


def _measure(vlm, dataset) -> dict:
    from ravl_core.groups import group_table, performance
    from ravl_core.zero_shot import evaluate

    measured = performance(evaluate(vlm, dataset), dataset)
    return measured.summary | {"groups": group_table(measured)}


def _discovery_metrics(found, val, setting: Setting) -> dict:
    from ravl_core.metrics import precision_at_k
    from ravl_core.slicing.random_regions import random_precision_at_k

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
    from ravl_core.discovery import assign_regions
    from ravl_core.mitigation import mitigate

    truth = data.finetuning.shows_feature
    if choice("assignment", repair.assignment, ("discovered", "true")) == "true":
        assignment = truth
    else:
        finetuning = data.finetuning
        embeddings = fine_tuned.encode(finetuning.images, finetuning.boxes, finetuning.image_index)[1]
        assignment = assign_regions(found, embeddings)
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


def run_study(tasks: Iterable[Task], folder: Path | str, workers: int = 2, description: str = "settings") -> Study:
    """Run every task that has no current record yet, in `workers` processes of one thread each.

    A task that fails is reported in `failures` with its traceback and does not stop the others. A record made by
    other code than the present is made again, and a warning says how many there were.
    """
    tasks, version = list(tasks), code_version()
    waiting, n_stale = [], 0
    for task in tasks:
        record = records.load_record(folder, task.arguments)
        if record is None or records.stale(record, version):
            waiting.append(task)
            n_stale += record is not None
    if n_stale:
        warnings.warn(f"{n_stale} records were made by other code than the present and are made again", stacklevel=2)
    failures = _run_waiting(waiting, folder, version, workers, description)
    found = [records.load_record(folder, task.arguments) for task in tasks]
    finished = [record for record in found if record is not None and not records.stale(record, version)]
    return Study(finished, len(tasks) - len(waiting), failures)


def code_version() -> str:
    """The common version of the modules that decide the numbers."""
    return records.code_version(*(f"ravl_core.{name}" for name in DECIDING))


def _run_waiting(tasks: Sequence[Task], folder, version: str, workers: int, description: str) -> dict[str, str]:
    from joblib import Parallel, delayed

    jobs = (delayed(_run_and_save)(task, folder, version) for task in tasks)
    outcomes = Parallel(n_jobs=max(min(workers, len(tasks)), 1), return_as="generator_unordered")(jobs)
    return {what: trace for what, trace in track(outcomes, description, len(tasks)) if trace}


def _run_and_save(task: Task, folder: Path | str, version: str) -> tuple[str, str]:
    """Run in a worker: the name of the task and the traceback, empty if it went well."""
    import torch

    threads, progress = torch.get_num_threads(), os.environ.get("RAVL_PROGRESS")
    os.environ["RAVL_PROGRESS"] = "off"
    torch.set_num_threads(1)  # sums in one order: the same metrics on any number of processes
    try:
        start = time.perf_counter()
        metrics = run_task(task)
        seconds = {"total": time.perf_counter() - start}
        records.save_record(folder, task.arguments, metrics, code_version=version, seconds=seconds)
        return str(task), ""
    except Exception:
        return str(task), traceback.format_exc()
    finally:  # with one worker this is the caller's own process
        torch.set_num_threads(threads)
        del os.environ["RAVL_PROGRESS"]
        os.environ |= {} if progress is None else {"RAVL_PROGRESS": progress}
