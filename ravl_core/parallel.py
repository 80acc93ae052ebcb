"""Where the tasks of a study run: in this process, in several on this machine, or on a Dask cluster.

Workers hand back what came of a task and write nothing; the process that drives the study keeps it. So all that a
stop at any moment can lose is what was being worked on.
"""

import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

ATTEMPTS = 2  # of a task whose process is killed: what took the memory may be gone by the second


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its metrics, or the reason why it has none."""

    task: Any
    metrics: dict | None = None
    seconds: float = 0.0
    problem: str = ""  # a traceback, where there is one


Work = Callable[[Any], Outcome]  # reports an exception as a problem; has to be picklable


def outcomes(work: Work, tasks: Sequence, workers: int = 1, scheduler: str | None = None) -> Iterator[Outcome]:
    """What came of each task, as soon as it is known.

    With a `scheduler`, the address of a Dask cluster, the tasks run there; else in `workers` processes on this
    machine, and with one in this process. A task whose process is killed is tried once more (on a cluster as often as
    the cluster allows, by default three times) and is a problem after that; the others go on.

    Raises
    ------
    ImportError
        A cluster is asked for and Dask is not installed.
    ConnectionError
        No scheduler answers at that address.
    """
    if scheduler is not None and tasks:
        return _on_cluster(work, tasks, scheduler)
    n_processes = min(workers, len(tasks))
    return _in_processes(work, tasks, n_processes) if n_processes > 1 else (work(task) for task in tasks)


def _in_processes(work: Work, tasks: Sequence, n_processes: int) -> Iterator[Outcome]:
    """Each process is a pool of its own, so that a kill is one task's and no other's."""
    from joblib.externals.loky import FIRST_COMPLETED, wait

    waiting = deque((task, 1) for task in tasks)
    idle, running = [], {}
    try:
        while waiting or running:
            while waiting and len(running) < n_processes:
                task, attempt = waiting.popleft()
                process, future = _submit(idle, work, task)
                running[future] = process, task, attempt
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                process, task, attempt = running.pop(future)
                idle.append(process)
                error = future.exception()
                if error is None:
                    yield future.result()
                elif _was_killed(error) and attempt < ATTEMPTS:
                    waiting.append((task, attempt + 1))
                else:
                    yield Outcome(task, problem=_reason(error))
    finally:
        for process in [*idle, *(process for process, _, _ in running.values())]:
            process.shutdown(kill_workers=True)


def _submit(idle: list, work: Work, task: Any) -> tuple:
    """Hand a task to an idle process, or to a new one; returns (process, future)."""
    from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor

    while idle:
        process = idle.pop()
        with suppress(BrokenProcessPool):  # it was killed
            return process, process.submit(work, task)
    process = ProcessPoolExecutor(1, initializer=_follow, initargs=(os.getpid(),))
    return process, process.submit(work, task)


def _follow(driver: int) -> None:
    """In a worker: leave Ctrl-C to the driver, and end when the driver does, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_driver():
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_driver, daemon=True).start()


def _on_cluster(work: Work, tasks: Sequence, scheduler: str) -> Iterator[Outcome]:
    with _client(scheduler) as client:
        from distributed import as_completed

        futures = client.map(work, tasks, pure=False, key="setting")
        task_of = {future.key: task for future, task in zip(futures, tasks, strict=True)}
        for future in as_completed(futures, loop=client.loop):
            try:
                outcome = future.result()
            except Exception as error:
                outcome = Outcome(task_of[future.key], problem=_reason(error))
            future.release()  # or it is computed again when the worker that holds it goes
            yield outcome


def _client(scheduler: str):
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("scheduler: a cluster needs Dask; pip install 'ravl-core[cluster]' brings it") from error
    try:
        return Client(scheduler, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"scheduler: no Dask scheduler answers at {scheduler!r}: {error}") from error


def _was_killed(error: BaseException) -> bool:
    """Whether a process ended under a task, here or on a cluster."""
    return type(error).__name__ in ("TerminatedWorkerError", "KilledWorker")


def _reason(error: BaseException) -> str:
    if _was_killed(error):
        return f"its process was killed each time it was tried; was there too little memory or time?\n{error}"
    return "".join(traceback.format_exception(error))
