"""A grid of settings, one record each: `python -m ravl_core.study --profile demo`.

One pass over a setting does everything: plant, fine-tune, evaluate, discover, repair, measure. Finished records are
reused, so a study that was stopped goes on where it was; settings run in processes of one thread each, which gives
the same metrics whatever their number.
"""

import argparse
import hashlib
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ravl_core import paths, records
from ravl_core.grids import KINDS, grid
from ravl_core.paths import MINIATURES
from ravl_core.profiles import Profile, profile
from ravl_core.progress import track
from ravl_core.tasks import Task, run_task

if TYPE_CHECKING:
    import pandas

# The modules that decide the numbers; a record names their common version.
DECIDING = (
    "checkpoints", "discovery", "domains", "groups", "kmedoids", "losses", "metrics", "mitigation",
    "randomness", "regions", "settings", "slicing", "tasks", "vlm", "zero_shot",
)  # fmt: skip
FIGURES_OF_TABLE_3 = ("image_overall", "image_worst_group", "region_overall", "region_worst_group")


@dataclass(frozen=True)
class Study:
    """What a run of a grid left behind."""

    records: list[dict]
    n_reused: int
    failures: dict[str, str]  # what failed → its traceback, or why it has none


def run_study(tasks: Iterable[Task], folder: Path | str, workers: int = 2, description: str = "settings") -> Study:
    """Run every task that has no current record yet, in `workers` processes of one thread each.

    A task that fails is reported in `failures` with its traceback and does not stop the others. A process that is
    killed (out of memory, say) ends the run: what is not finished by then is in `failures` too. A record made by other
    code than the present is made again, and a warning says how many there were.
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
    found = [_finished(task, folder, version) for task in tasks]
    return Study([record for record in found if record is not None], len(tasks) - len(waiting), failures)


def _finished(task: Task, folder: Path | str, version: str) -> dict | None:
    """The record that the present code made of a task."""
    record = records.load_record(folder, task.arguments)
    return None if record is None or records.stale(record, version) else record


def code_version() -> str:
    """The common version of what decides the numbers: those modules and the weights that ship."""
    modules = records.code_version(*(f"ravl_core.{name}" for name in DECIDING))
    weights = sorted(MINIATURES.glob("*/*.safetensors"))
    return hashlib.sha256(modules.encode() + b"".join(path.read_bytes() for path in weights)).hexdigest()[:16]


def _run_waiting(tasks: Sequence[Task], folder, version: str, workers: int, description: str) -> dict[str, str]:
    from joblib import Parallel, delayed

    jobs = (delayed(_run_and_save)(task, folder, version) for task in tasks)
    outcomes = Parallel(n_jobs=max(min(workers, len(tasks)), 1), return_as="generator_unordered")(jobs)
    failures = {}
    try:
        for what, trace in track(outcomes, description, len(tasks)):
            failures |= {what: trace} if trace else {}
    except BrokenProcessPool as error:
        reason = f"not finished when a worker process was killed; run the study again to go on\n{error}"
        lost = [str(task) for task in tasks if _finished(task, folder, version) is None]
        failures = dict.fromkeys(lost, reason) | failures
    return failures


def _run_and_save(task: Task, folder: Path | str, version: str) -> tuple[str, str]:
    """Run in a worker: the name of the task and the traceback, empty if it went well."""
    import torch
    from threadpoolctl import threadpool_limits

    threads, progress = torch.get_num_threads(), os.environ.get("RAVL_PROGRESS")
    os.environ["RAVL_PROGRESS"] = "off"
    torch.set_num_threads(1)  # sums in one order: the same metrics on any number of processes
    try:
        start = time.perf_counter()
        with threadpool_limits(1):  # the same for NumPy and SciPy
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


def table(finished: Iterable[dict]) -> "pandas.DataFrame":
    """Records as a table, one row for each setting and recipe, in the order of strength, attribute, seed.

    Settings whose whole image tower was trained come last. Accuracies are 0 … 1, `margin` is in points; discovery's
    columns are the same for all recipes of a setting. What a record holds no number for is NaN.
    """
    import pandas

    rows = [row for record in finished for row in _rows(record)]
    rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    order = ["trained", "strength", "attribute", "seed", "recipe", "assignment"]
    return pandas.DataFrame(rows).sort_values(order, ignore_index=True) if rows else pandas.DataFrame(columns=order)


def _rows(record: dict) -> list[dict]:
    setting, budget = record["arguments"]["setting"], record["arguments"]["budget"]
    metrics = record["metrics"]
    found = {f"found_{key}" if key == "attribute" else key: value for key, value in metrics["discovery"].items()}
    common = setting | {"trained": budget["trained"], "margin": _points(metrics["margin"])} | found
    standard = {"recipe": "standard", "assignment": "none"} | metrics["standard"]
    kept = ("recipe", "assignment", "assignment_recall", "assignment_precision", *FIGURES_OF_TABLE_3)
    return [common | {k: v for k, v in row.items() if k in kept} for row in (standard, *metrics["repairs"])]


def _points(margin: float | None) -> float | None:
    """A margin without the last bits of its division, so that ten points are valid at T = 10."""
    return None if margin is None else round(margin, 9)


def main() -> None:
    """Run the grid of a profile; finished settings are reused."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default=None, help="smoke, demo or full; else RAVL_PROFILE, else demo")
    parser.add_argument("--grid", default="settings", choices=KINDS)
    parser.add_argument("--workers", type=int, default=None, help="processes of one thread each")
    arguments = parser.parse_args()
    chosen = profile(arguments.profile)
    tasks = grid(chosen, arguments.grid)
    print(
        f"{len(tasks)} settings of profile {chosen.name}, {arguments.workers or chosen.workers} processes", flush=True
    )
    study = run_study(tasks, records_folder(chosen), arguments.workers or chosen.workers)
    for what, trace in study.failures.items():
        print(f"failed: {what}\n{trace}", file=sys.stderr)
    print(f"{len(study.records)} of {len(tasks)} records, {study.n_reused} of them reused")
    sys.exit(1 if study.failures else 0)


def records_folder(chosen: Profile) -> Path:
    """Where the records of a profile lie."""
    return paths.results(chosen) / "records"


if __name__ == "__main__":
    main()
