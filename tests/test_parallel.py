"""What comes of tasks that run in processes: each task once, whatever is killed; and no process outlives its driver."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from ravl_core.parallel import Outcome, outcomes

# Run in workers, so they have to be found by name.


def say_where(task):
    return Outcome(task, {"process": os.getpid()}, seconds=0.5)


def deadly(task, folder):
    """Task 1 reports a problem, task 2 kills its process each time, task 3 the first time; one file a start."""
    attempt = len(list(folder.glob(f"{task}-*")))
    (folder / f"{task}-{attempt}").touch()
    if task == 1:
        return Outcome(task, problem="task 1 fails by itself")
    if task == 2 or (task == 3 and attempt == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task, {"value": task})


def unpicklable(task):
    return Outcome(task, {"value": threading.Lock()})


def rest(task, folder):
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def processes_of(done):
    return {outcome.metrics["process"] for outcome in done}


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_task_comes_back_once(workers):
    done = list(outcomes(say_where, range(5), workers))
    assert sorted(outcome.task for outcome in done) == list(range(5))
    assert all(outcome.problem == "" and outcome.seconds == 0.5 for outcome in done)
    assert len(processes_of(done)) <= workers
    assert (os.getpid() in processes_of(done)) == (workers == 1)  # one worker is this process


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"scheduler": "tcp://localhost:1"}])
def test_no_task_starts_nothing(options):
    assert list(outcomes(say_where, [], **options)) == []


def test_results_come_while_others_run():
    """In this process the second task has not begun when the first one's result is there."""
    begun = []
    done = outcomes(lambda task: begun.append(task) or Outcome(task), [1, 2], workers=1)
    assert next(done).task == 1 and begun == [1]


def test_a_killed_process_is_replaced_and_its_task_alone_is_tried_once_more(tmp_path):
    done = {outcome.task: outcome for outcome in outcomes(partial(deadly, folder=tmp_path), range(7), workers=2)}
    assert {task: outcome.metrics for task, outcome in done.items() if not outcome.problem} == {
        task: {"value": task} for task in (0, 3, 4, 5, 6)
    }
    assert done[1].problem == "task 1 fails by itself"
    assert "process was killed each time" in done[2].problem and "SIGKILL" in done[2].problem
    assert [len(list(tmp_path.glob(f"{task}-*"))) for task in range(7)] == [1, 1, 2, 2, 1, 1, 1]


def test_a_result_that_cannot_travel_is_the_problem_of_its_task():
    done = list(outcomes(unpicklable, range(3), workers=2))
    assert sorted(outcome.task for outcome in done) == [0, 1, 2]
    assert all("cannot pickle '_thread.lock' object" in outcome.problem for outcome in done)


# ---- processes end with their driver ----

DRIVER = """
import signal
import sys
from functools import partial
from pathlib import Path
from test_parallel import rest
from ravl_core.parallel import outcomes

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
try:
    list(outcomes(partial(rest, folder=Path(sys.argv[1])), range(4), workers=2))
except KeyboardInterrupt:
    sys.exit(130)
"""


def alive(process):
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds=60):
    """Wait until it holds; returns whether it does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize(("kind", "to_all"), [(signal.SIGKILL, False), (signal.SIGINT, True)], ids=["kill", "Ctrl-C"])
def test_no_process_outlives_its_driver(tmp_path, kind, to_all):
    """A terminal sends Ctrl-C to all of them: only the driver hears it, and its workers do not complain."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=Path(__file__).parent,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert until(lambda: len(list(tmp_path.iterdir())) == 2), driver.stderr.read()
        (os.killpg if to_all else os.kill)(driver.pid, kind)
        said = driver.communicate(timeout=60)[1]
        assert until(lambda: not any(alive(path.name) for path in tmp_path.iterdir()))
    finally:
        driver.kill()
    assert len(list(tmp_path.iterdir())) == 2  # no task begun since
    if to_all:
        assert driver.returncode == 130 and "Traceback" not in said
