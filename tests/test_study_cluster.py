"""A study on a Dask cluster: the same bytes as on one machine, also when a worker of the cluster is killed."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from tiny import tiny_vlm

from ravl_core import study
from ravl_core.checkpoints import save_vlm
from ravl_core.mitigation import Budget
from ravl_core.parallel import Outcome, outcomes
from ravl_core.settings import Setting
from ravl_core.study import run_study
from ravl_core.tasks import Repair, Task

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'ravl-core[cluster]'")

SMALL = Setting(strength=0.9, n_finetuning=200, n_val=60, n_test=20)
SHORT = Budget(epochs=1, batch_size=64, learning_rate=1e-3)
LOST = Task(replace(SMALL, initial="local-dir:/nowhere"), SHORT)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """No progress, and sums in one order in this process too."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAVL_PROGRESS", "off")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    model = f"local-dir:{save_vlm(tiny_vlm(), tmp_path_factory.mktemp('models') / 'random')}"
    plain = [Task(replace(SMALL, seed=seed, initial=model), SHORT) for seed in range(8)]
    return [replace(plain[0], repairs=(Repair(), Repair(assignment="true"))), *plain[1:]]


@pytest.fixture(scope="module")
def cluster():
    """A scheduler in this process, two workers in processes of one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs="CRITICAL"
    ) as cluster:
        yield cluster


def process_ids(cluster):
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        return set(client.run(os.getpid).values())


def without_times(folder):
    """Name → record, except for what may differ between equal runs."""
    found = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        del record["times"], record["checksum"]
        found[path.name] = json.dumps(record)
    return found


def kill_when(n_records, folder, process):
    while len(list(folder.glob("*.json"))) < n_records:
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)


def test_a_cluster_that_loses_a_worker_writes_the_same_bytes_as_one_process_or_two(tasks, cluster, tmp_path):
    folders = {name: tmp_path / name for name in ("cluster", "one", "two")}
    before = process_ids(cluster)
    killer = threading.Thread(target=kill_when, args=(2, folders["cluster"], min(before)), daemon=True)
    killer.start()
    done = run_study([LOST, *tasks], folders["cluster"], scheduler=cluster.scheduler_address)
    killer.join(timeout=60)
    assert not killer.is_alive() and min(before) not in process_ids(cluster)
    assert len(done.records) == len(tasks) and done.n_reused == 0
    ((what, problem),) = done.failures.items()
    assert what == str(LOST) and problem.startswith("Traceback") and "/nowhere" in problem

    for name, workers in (("one", 1), ("two", 2)):
        assert run_study(tasks, folders[name], workers=workers).failures == {}
    expected = without_times(folders["one"])
    assert len(expected) == len(tasks)
    assert without_times(folders["cluster"]) == without_times(folders["two"]) == expected

    again = run_study(tasks, folders["cluster"], scheduler="tcp://localhost:1")  # asks nobody: there is nothing to do
    assert (again.n_reused, again.failures) == (len(tasks), {})


# Run in workers, so they have to be found by name.


def deadly(task):
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task, {"process": os.getpid()})


def of_another_kind(task):
    raise ArithmeticError("raised, not reported")


def slow_after_the_first(task):
    time.sleep(0 if task == 0 else 2)
    return Outcome(task)


def test_a_task_that_kills_every_worker_is_a_problem_and_the_cluster_goes_on(cluster):
    """Dask counts a worker's death against all that waited there: others may be problems too, once."""
    done = {outcome.task: outcome for outcome in outcomes(deadly, range(4), scheduler=cluster.scheduler_address)}
    assert sorted(done) == [0, 1, 2, 3]
    assert "process was killed each time" in done[1].problem and "different workers" in done[1].problem
    assert all("process was killed each time" in outcome.problem for outcome in done.values() if not outcome.metrics)
    again = list(outcomes(deadly, [0, 2, 3], scheduler=cluster.scheduler_address))
    assert sorted(outcome.task for outcome in again) == [0, 2, 3]
    assert os.getpid() not in {outcome.metrics["process"] for outcome in again}


def test_what_a_worker_raises_comes_back_with_its_traceback(cluster):
    (outcome,) = outcomes(of_another_kind, [0], scheduler=cluster.scheduler_address)
    assert "Traceback" in outcome.problem and "ArithmeticError: raised, not reported" in outcome.problem


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch, tmp_path, capsys):
    import dask

    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["study", "--profile", "smoke", "--scheduler", "tcp://localhost:1"])
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        with pytest.raises(ConnectionError, match="scheduler: no Dask scheduler answers at 'tcp://localhost:1'"):
            list(outcomes(deadly, [0], scheduler="tcp://localhost:1"))
        with pytest.raises(SystemExit) as exit:
            study.main()
    assert exit.value.code == 2 and "no Dask scheduler answers at" in capsys.readouterr().err


def test_a_cluster_that_goes_away_is_a_problem_of_what_it_had_not_finished():
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", silence_logs="CRITICAL"
    ) as cluster:
        arriving = outcomes(slow_after_the_first, range(3), scheduler=cluster.scheduler_address)
        first = next(arriving)
        threading.Timer(0.2, cluster.close).start()
        rest = list(arriving)
    assert first.problem == "" and len(rest) == 2 and all(outcome.problem for outcome in rest)
