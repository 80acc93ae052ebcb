"""A study that is killed again and again ends with the records of one that never was."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_vlm

from ravl_core import study
from ravl_core.checkpoints import save_vlm
from ravl_core.mitigation import Budget
from ravl_core.settings import Setting
from ravl_core.tasks import Task

N_SETTINGS = 24
SMALL = Setting(strength=0.9, n_finetuning=200, n_val=60, n_test=20)
SHORT = Budget(epochs=1, batch_size=64, learning_rate=1e-3)
WORKERS = (2, 1, 1, 2, 1)  # of the runs that are killed; what they leave does not depend on it
DRIVER = "import sys; from test_study_killed import drive; drive(*sys.argv[1:])"

run_one = study._run_one


def run_and_count(task, starts, **options):
    """In a worker: leave a file for each start of a setting."""
    (starts / f"{task.setting.seed}-{os.getpid()}").touch()
    return run_one(task, **options)


def drive(model, folder, workers):
    """Run, or go on with, the study in this process, and say how many records were reused."""
    tasks = [Task(replace(SMALL, seed=seed, initial=model), SHORT) for seed in range(N_SETTINGS)]
    starts = Path(folder) / "starts"
    starts.mkdir(parents=True, exist_ok=True)
    study._run_one = partial(run_and_count, starts=starts)
    try:
        done = study.run_study(tasks, Path(folder) / "records", workers=int(workers))
    finally:
        study._run_one = run_one
    assert done.failures == {} and len(done.records) == N_SETTINGS
    print(done.n_reused)
    return done


def drive_elsewhere(model, folder, workers):
    """The same in a process of its own, with a process group of its own."""
    command = [sys.executable, "-c", DRIVER, model, str(folder), str(workers)]
    here = Path(__file__).parent
    environment = os.environ | {"RAVL_PROGRESS": "off", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finished(folder):
    """Name → content of every record that is there."""
    return {path.name: path.read_bytes() for path in (folder / "records").glob("*.json")}


def without_times(content):
    """The record except for what may differ between equal runs."""
    record = json.loads(content)
    del record["times"], record["checksum"]
    return json.dumps(record)


def n_starts(folder):
    """How often each seed was begun."""
    return np.bincount([int(path.name.split("-")[0]) for path in (folder / "starts").iterdir()], minlength=N_SETTINGS)


def kill_after(run, folder, n_records, seconds):
    """Kill a run and its workers as soon as so many records are there, and a little later."""
    give_up = time.monotonic() + 120
    while len(finished(folder)) < n_records:
        assert run.poll() is None and time.monotonic() < give_up, run.communicate()[1]
        time.sleep(0.01)
    time.sleep(seconds)
    assert run.poll() is None, "it was done before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"local-dir:{save_vlm(tiny_vlm(), tmp_path_factory.mktemp('models') / 'random')}"


@pytest.fixture
def undisturbed(model, tmp_path, monkeypatch):
    """Folder of a study that ran through in this process, and the seconds that a setting took there."""
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    done = drive(model, tmp_path / "undisturbed", 1)
    return tmp_path / "undisturbed", np.median([record["times"]["seconds"]["total"] for record in done.records])


def test_a_study_that_is_killed_five_times_leaves_the_records_of_one_that_ran_through(model, undisturbed, tmp_path):
    folder, random = tmp_path / "killed", np.random.default_rng(0)
    seen, begun = {}, {}
    for workers in WORKERS:
        further, moment = random.integers(1, 4), random.uniform(0, undisturbed[1])
        run = drive_elsewhere(model, folder, workers)
        kill_after(run, folder, len(seen) + further, moment)
        seen = finished(folder)
        for content in seen.values():
            seed = json.loads(content)["arguments"]["setting"]["seed"]
            begun.setdefault(seed, n_starts(folder)[seed])

    run = drive_elsewhere(model, folder, 2)
    said, problems = run.communicate(timeout=300)
    assert run.returncode == 0, problems
    at_the_end, expected = finished(folder), finished(undisturbed[0])

    # nothing that was finished before a kill was begun again, and a kill cost no more than what its workers had begun
    assert int(said) == len(seen) and all(at_the_end[name] == content for name, content in seen.items())
    assert all(n_starts(folder)[seed] == n for seed, n in begun.items())
    assert n_starts(folder).sum() <= N_SETTINGS + sum(WORKERS)

    assert at_the_end.keys() == expected.keys() and len(expected) == N_SETTINGS
    for name, content in expected.items():
        assert without_times(at_the_end[name]) == without_times(content)
