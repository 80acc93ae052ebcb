"""A grid of settings, one record each: `python -m ravl_core.study --profile demo`.

One pass over a setting does everything: plant, fine-tune, evaluate, discover, repair, measure. Records are written as
results arrive and finished ones are reused, so a study that was stopped at any moment goes on where it was. Settings
run in processes of one thread each, here or on a Dask cluster; on the same kind of machine that gives the same metrics
whatever their number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from ravl_core import paths, records
from ravl_core.atomic import remove_leftovers, write_atomically
from ravl_core.checks import choice, whole_number
from ravl_core.parallel import Outcome, outcomes
from ravl_core.profiles import Profile, profile
from ravl_core.progress import track

if TYPE_CHECKING:
    import pandas

    from ravl_core.tasks import Task

FIGURES_OF_TABLE_3 = ("image_overall", "image_worst_group", "region_overall", "region_worst_group")
KINDS = ("settings", "stability", "search", "repairs", "audits", "sensitivity")  # of grids
ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://\S+:\d+")
DEVICES = ("cpu", "cuda")
ONE_AT_A_TIME = Lock()  # the number of threads is the whole process's


def _when_called(module: str, name: str) -> Callable:
    """A function of a module that is imported when it is first called, so that help need not wait for torch."""

    def call(*arguments, **options):
        return getattr(import_module(f"ravl_core.{module}"), name)(*arguments, **options)

    return call


grid = _when_called("grids", "grid")
run_task = _when_called("tasks", "run_task")
code_version = _when_called("versions", "code_version")
fine_tuning_version = _when_called("versions", "fine_tuning_version")


@dataclass(frozen=True)
class Study:
    """What a run of a grid left behind."""

    records: list[dict]
    n_reused: int
    failures: dict[str, str]  # what failed → its traceback, or why it has none


def run_study(
    tasks: Iterable[Task],
    folder: Path | str,
    workers: int = 2,
    description: str = "settings",
    threads: int = 1,
    scheduler: str | None = None,
    keep: Path | str | None = None,
    device: str = "cpu",
) -> Study:
    """Run every task that has no current record yet; each leaves a record in `folder` as soon as it is done.

    A task that fails is reported in `failures` with its traceback and does not stop the others. One whose process is
    killed (out of memory, say) is tried once more before it is a failure. A record made by other code than the present
    is made again, and a warning says how many there were.

    Parameters
    ----------
    workers : processes on this machine; 1 is this process.
    threads : threads of each process. More than one may change the last digits of the metrics.
    scheduler : the address of a Dask cluster ("tcp://host:8786"), which then runs the tasks instead. Its workers need
        the versions that this process has, and one thread: a worker runs one task at a time.
    keep : a folder for fine-tuned models and what stage 1 sees of them (see `ravl_core.kept`). What it holds already
        is not made again: a task then costs as much as looking at its model. A task that has a record and nothing kept
        is run again. The workers of a cluster write there, so it has to be on a disk that they share with this process.
    device : where each process trains and encodes: "cpu", or "cuda"; several processes share a GPU. A record names it,
        and is one whatever its device.

    Raises
    ------
    ValueError
        `workers` or `threads` is no integer of 1 or more, `scheduler` no address, or there is no such device here.
    ImportError, ConnectionError
        There is no Dask, or no scheduler at that address.
    """
    _check_where(workers, threads, scheduler, device)
    tasks, keep = list(tasks), None if keep is None else Path(keep).absolute()
    versions = {task.setting.domain: _versions(task.setting.domain) for task in tasks}
    work = partial(_run_one, versions=versions, threads=threads, keep=keep, device=device)
    waiting = _unfinished(tasks, folder, keep)
    failures = {}
    with closing(outcomes(work, waiting, workers, scheduler)) as arriving:
        for outcome in track(arriving, description, len(waiting)):
            problem = outcome.problem or _save(outcome, folder, device)
            failures |= {str(outcome.task): problem} if problem else {}
    found = [(task, records.load_record(folder, task.arguments)) for task in tasks]
    finished = [record for task, record in found if _current(task, record)]
    return Study(finished, len(tasks) - len(waiting), failures)


def _check_where(workers: int, threads: int, scheduler: str | None, device: str) -> None:
    whole_number("workers", workers, 1)
    whole_number("threads", threads, 1)
    if scheduler is not None and not ADDRESS.fullmatch(scheduler):
        raise ValueError(f"scheduler: expected an address such as tcp://host:8786, got {scheduler!r}")
    if choice("device", device, DEVICES) == "cuda" and scheduler is None and not _has_gpu():
        raise ValueError("device: expected 'cpu', as this machine has no GPU that torch can use, got 'cuda'")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _unfinished(tasks: Sequence[Task], folder: Path | str, keep: Path | None) -> list[Task]:
    """The tasks to run; also tidies up after runs that were killed."""
    remove_leftovers(folder)
    if keep is not None:
        remove_leftovers(keep)
    found = [(task, records.load_record(folder, task.arguments)) for task in tasks]
    n_stale = sum(record is not None and not _current(task, record) for task, record in found)
    if n_stale:
        warnings.warn(f"{n_stale} records were made by other code than the present and are made again", stacklevel=3)
    return [
        task for task, record in found if not _current(task, record) or (keep is not None and not _is_kept(task, keep))
    ]


def _is_kept(task: Task, keep: Path) -> bool:
    from ravl_core import kept

    folder = kept.folder_of(keep, task.setting, task.budget)
    return kept.is_current(folder, fine_tuning_version(task.setting.domain))


def _current(task: Task, record: dict | None) -> bool:
    return record is not None and not records.stale(record, code_version(task.setting.domain))


def _save(outcome: Outcome, folder: Path | str, device: str) -> str:
    """Write the record of a task; returns the traceback where that fails."""
    task, seconds = outcome.task, {"total": outcome.seconds}
    try:
        names = {"code_version": code_version(task.setting.domain), "device": device}
        records.save_record(folder, task.arguments, outcome.metrics, **names, seconds=seconds)
        return ""
    except (ValueError, OSError):
        return traceback.format_exc()


def _versions(domain: str) -> dict[str, str]:
    return {"code": code_version(domain), **records.package_versions()}


def _check_versions(domain: str, wanted: dict[str, str]) -> None:
    own = _versions(domain)
    differing = [f"{name} {own[name]}, not {version}" for name, version in wanted.items() if own[name] != version]
    if differing:
        raise RuntimeError(f"this worker has other versions than the driver of the study: {'; '.join(differing)}")


def _run_one(task: Task, versions: dict[str, dict[str, str]], threads: int, keep: Path | None, device: str) -> Outcome:
    """Run in a worker, which may be another machine; the record will name the driver's versions."""
    try:
        _check_versions(task.setting.domain, versions[task.setting.domain])
        with ONE_AT_A_TIME, _limited_to(threads):
            start = time.perf_counter()
            metrics = run_task(task, keep=keep, device=device)
            return Outcome(task, metrics, time.perf_counter() - start)
    except Exception:
        return Outcome(task, problem=traceback.format_exc())


@contextmanager
def _limited_to(threads: int) -> Iterator[None]:
    """So many threads, no progress, and afterwards all as it was: with one worker this is the caller's own process."""
    import torch
    from threadpoolctl import threadpool_limits

    threads_before, progress = torch.get_num_threads(), os.environ.get("RAVL_PROGRESS")
    os.environ["RAVL_PROGRESS"] = "off"
    torch.set_num_threads(threads)  # with one, sums in one order: the same metrics on any number of processes
    try:
        with threadpool_limits(threads):  # the same for NumPy and SciPy
            yield
    finally:
        torch.set_num_threads(threads_before)
        del os.environ["RAVL_PROGRESS"]
        os.environ |= {} if progress is None else {"RAVL_PROGRESS": progress}


def table(finished: Iterable[dict]) -> pandas.DataFrame:
    """Records as a table, one row for each setting and its standard model, in the order of strength, attribute, seed.

    Settings whose whole image tower was trained come last. Accuracies are 0 … 1, `margin` is in points. `position`
    counts the records as they were given, which for a study is the grid's order. What a record holds no number for is
    NaN. What repairs bring stands in `ravl_core.repair_tables`.
    """
    import pandas

    rows = [{"position": at} | _row(record) for at, record in enumerate(finished)]
    rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    order = ["trained", "strength", "attribute", "seed", "recipe", "assignment"]
    return pandas.DataFrame(rows).sort_values(order, ignore_index=True) if rows else pandas.DataFrame(columns=order)


def _row(record: dict) -> dict:
    metrics = record["metrics"]
    standard = {name: metrics["standard"][name] for name in FIGURES_OF_TABLE_3}
    return discovery_columns(record) | {"recipe": "standard", "assignment": "none"} | standard


def discovery_columns(record: dict) -> dict:
    """What tells a setting from others, the initial model's figures, and what stage 1 found."""
    from ravl_core.slicing import CHANCE, PAPER  # the other methods have tables of their own

    metrics, looked = record["metrics"], record["metrics"]["discovery"]
    columns = setting_columns(record) | {"found_attribute": looked["attribute"]}
    precisions = {"precision_at_10": PAPER, "random_precision_at_10": CHANCE}
    columns |= {column: looked["methods"][method]["precision_at_10"] for column, method in precisions.items()}
    columns |= {name: looked[name] for name in ("gap", "influence", "influence_images", "n_clusters", "n_findings")}
    return columns | {f"initial_{name}": metrics["initial"][name] for name in FIGURES_OF_TABLE_3}


def setting_columns(record: dict) -> dict:
    """What tells a setting from others, and what was planted and learned in it."""
    arguments, metrics = record["arguments"], record["metrics"]
    columns = arguments["setting"] | {"trained": arguments["budget"]["trained"], "half": half_of(arguments["setting"])}
    return columns | {"reached_strength": metrics["reached_strength"], "margin": _points(metrics["margin"])}


def half_of(setting: dict) -> str:
    """Which half of the settings one belongs to: variants are chosen on one half and reported on the other."""
    digest = hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).digest()
    return ("choose", "report")[digest[-1] % 2]


def _points(margin: float | None) -> float | None:
    """A margin without the last bits of its division, so that ten points are valid at T = 10."""
    return None if margin is None else round(margin, 9)


def main() -> None:
    """Run a grid of a profile; finished settings are reused."""
    parser = _parser()
    asked = parser.parse_args()
    try:
        chosen = profile(asked.profile)
        workers = chosen.workers if asked.workers is None else asked.workers
        _check_where(workers, asked.threads, asked.scheduler, asked.device)
    except ValueError as error:
        parser.error(str(error))
    tasks = grid(chosen, asked.grid)
    where = f"on {asked.scheduler}" if asked.scheduler else f"in {workers} process{'es' * (workers > 1)}"
    print(f"{len(tasks)} settings of profile {chosen.name} {where}", flush=True)
    keep = paths.cache(chosen) / "kept" if asked.keep else None
    try:
        study = run_study(
            tasks, records_folder(chosen), workers, asked.grid, asked.threads, asked.scheduler, keep, asked.device
        )
    except (ImportError, ConnectionError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("stopped; finished records are kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    if asked.grid == "search" and not study.failures:
        _write_search(study, chosen)
    for what, problem in study.failures.items():
        print(f"failed: {what}\n{problem}", file=sys.stderr)
    print(f"{len(study.records)} of {len(tasks)} records, {study.n_reused} of them reused")
    sys.exit(1 if study.failures else 0)


def _write_search(study: Study, chosen: Profile) -> None:
    """The table by which learning rates are chosen, `results/<profile>/search.csv`; see `ravl_core.repair_rows`."""
    from ravl_core.repair_tables import repairs_table

    table = repairs_table(study.records).to_csv(index=False, float_format="%.6g")
    write_atomically(paths.results(chosen) / "search.csv", table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--profile", help="smoke, demo, full or paper; else RAVL_PROFILE, else demo")
    parser.add_argument("--grid", default="settings", choices=KINDS)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, help="processes on this machine; else the profile's number")
    where.add_argument("--scheduler", help="run on this Dask cluster instead: tcp://host:8786")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--device", default="cpu", choices=DEVICES, help="where models are trained")
    parser.add_argument("--keep", action="store_true", help="also keep what records leave out, below .cache")
    return parser


def records_folder(chosen: Profile) -> Path:
    """Where the records of a profile lie."""
    return paths.results(chosen) / "records"


if __name__ == "__main__":
    from ravl_core import study  # not the functions of __main__: workers find these by their names

    study.main()
