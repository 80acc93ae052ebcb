"""A study: one record a task, reused when it is current, redone when it is not, whatever fails beside it."""

import json
import os
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from tiny import tiny_vlm

from ravl_core import records, study
from ravl_core.checkpoints import load_vlm, save_vlm
from ravl_core.discovery import assign_regions, discover
from ravl_core.groups import performance
from ravl_core.mitigation import Budget, mitigate
from ravl_core.settings import Setting, build_setting, learned_margin
from ravl_core.study import run_study
from ravl_core.tasks import Repair, Task
from ravl_core.zero_shot import evaluate

SMALL = Setting(strength=0.9, n_finetuning=400, n_val=60, n_test=40)
SHORT = Budget(epochs=1, batch_size=64, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress, and sums in one order."""
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights, as a name that `load_vlm` takes."""
    return f"local-dir:{save_vlm(tiny_vlm(), tmp_path_factory.mktemp('models') / 'random')}"


def tasks(n_tasks, **changes):
    return [Task(replace(SMALL, seed=seed, **changes), SHORT) for seed in range(n_tasks)]


@pytest.fixture
def instant(monkeypatch):
    """Tasks that take no time: their metrics are their seed. Seeds in `fails` raise; `ran` says what was run."""

    class Instant:
        ran, fails = [], set()

        def run(self, task):
            self.ran.append(task.setting.seed)
            if task.setting.seed in self.fails:
                raise ArithmeticError(f"seed {task.setting.seed} with {task.budget.epochs} epochs")
            return {"seed": task.setting.seed}

    fake = Instant()
    fake.ran, fake.fails = [], set()
    monkeypatch.setattr(study, "run_task", fake.run)
    return fake


def without_times(path):
    """The bytes of a record except for what may differ between equal runs."""
    record = json.loads(path.read_text())
    del record["times"], record["checksum"]
    return json.dumps(record)


def seeds(finished):
    return [record["metrics"]["seed"] for record in finished.records]


# ---- records ----


def test_every_task_leaves_a_record(tmp_path, instant):
    done = run_study(tasks(3), tmp_path, workers=1)
    assert (seeds(done), done.n_reused, done.failures) == ([0, 1, 2], 0, {})
    assert len(list(tmp_path.glob("*.json"))) == 3
    for task, record in zip(tasks(3), done.records, strict=True):
        assert record == records.load_record(tmp_path, task.arguments)
        assert record["arguments"]["setting"] == task.setting.arguments
        assert record["versions"]["code"] == study.code_version()
        assert record["times"]["seconds"]["total"] >= 0


def test_finished_tasks_are_reused(tmp_path, instant):
    run_study(tasks(2), tmp_path, workers=1)
    instant.ran.clear()
    done = run_study(tasks(3), tmp_path, workers=1)
    assert (instant.ran, done.n_reused, seeds(done)) == ([2], 2, [0, 1, 2])
    instant.ran.clear()
    done = run_study(tasks(3), tmp_path, workers=1)
    assert (instant.ran, done.n_reused, seeds(done)) == ([], 3, [0, 1, 2])


def test_records_come_in_the_order_of_the_tasks_and_only_theirs(tmp_path, instant):
    run_study(tasks(4), tmp_path, workers=1)
    assert seeds(run_study(tasks(4)[2:0:-1], tmp_path, workers=1)) == [2, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, setting=replace(task.setting, attribute=3)),
        lambda task: replace(task, budget=replace(task.budget, epochs=2)),
        lambda task: replace(task, repairs=(Repair(),)),
        lambda task: replace(task, repairs=(Repair(options={"clip_weight": 0.5}),)),
    ],
    ids=["setting", "budget", "repairs", "options"],
)
def test_whatever_changes_a_task_changes_its_record(tmp_path, instant, change):
    run_study(tasks(1), tmp_path, workers=1)
    assert run_study([change(tasks(1)[0])], tmp_path, workers=1).n_reused == 0
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_no_task_is_an_empty_study(tmp_path):
    done = run_study([], tmp_path)
    assert (done.records, done.n_reused, done.failures) == ([], 0, {})


# ---- failures ----


def test_a_failing_task_is_reported_and_does_not_stop_the_rest(tmp_path, instant):
    instant.fails = {1}
    done = run_study(tasks(3), tmp_path, workers=1)
    assert seeds(done) == [0, 2] and instant.ran == [0, 1, 2]
    ((what, trace),) = done.failures.items()
    assert "seed=1" in what
    assert trace.startswith("Traceback") and "ArithmeticError: seed 1" in trace and "in run" in trace


def test_a_failed_task_is_tried_again(tmp_path, instant):
    instant.fails = {1}
    run_study(tasks(3), tmp_path, workers=1)
    instant.fails, instant.ran = set(), []
    done = run_study(tasks(3), tmp_path, workers=1)
    assert (instant.ran, seeds(done), done.n_reused, done.failures) == ([1], [0, 1, 2], 2, {})


def test_two_failures_on_one_setting_are_both_reported(tmp_path, instant):
    """Tasks may differ in the budget alone."""
    instant.fails = {0}
    task = tasks(1)[0]
    done = run_study([task, replace(task, budget=replace(SHORT, epochs=7))], tmp_path, workers=1)
    assert len(done.failures) == 2
    assert any("with 7 epochs" in trace for trace in done.failures.values())


def test_metrics_that_no_record_can_hold_are_a_failure_of_their_task(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run_task", lambda task: {"model": object()})
    done = run_study(tasks(1), tmp_path, workers=1)
    assert done.records == [] and "expected numbers, strings" in "".join(done.failures.values())


# ---- damaged and stale records ----


def test_a_damaged_record_is_named_and_redone(tmp_path, instant):
    run_study(tasks(2), tmp_path, workers=1)
    path = records.record_path(tmp_path, tasks(2)[1].arguments)
    path.write_text(path.read_text()[:100])
    instant.ran.clear()
    with pytest.warns(UserWarning, match=path.name):
        done = run_study(tasks(2), tmp_path, workers=1)
    assert (instant.ran, done.n_reused, seeds(done)) == ([1], 1, [0, 1])


def test_records_of_other_code_are_counted_and_redone(tmp_path, instant):
    for task in tasks(2):
        records.save_record(tmp_path, task.arguments, {"seed": -1}, code_version="0123456789abcdef")
    with pytest.warns(UserWarning, match="2 records were made by other code than the present and are made again"):
        done = run_study(tasks(3), tmp_path, workers=1)
    assert (instant.ran, done.n_reused, seeds(done)) == ([0, 1, 2], 0, [0, 1, 2])
    assert all(record["versions"]["code"] == study.code_version() for record in done.records)


def test_a_stale_record_is_no_result_when_its_task_now_fails(tmp_path, instant):
    records.save_record(tmp_path, tasks(1)[0].arguments, {"seed": -1}, code_version="0123456789abcdef")
    instant.fails = {0}
    with pytest.warns(UserWarning, match="made by other code"):
        done = run_study(tasks(2), tmp_path, workers=1)
    assert seeds(done) == [1] and len(done.failures) == 1


def test_the_version_names_modules_that_exist_and_all_that_decide():
    assert len(study.code_version()) == 16
    decide = {"tasks", "settings", "mitigation", "discovery", "kmedoids", "losses", "vlm", "domains", "regions"}
    assert decide <= set(study.DECIDING)


def test_the_version_follows_the_weights_that_ship(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MINIATURES", tmp_path)
    versions = {study.code_version()}
    (tmp_path / "rn-mini").mkdir()
    for content in (b"one", b"two"):
        (tmp_path / "rn-mini" / "open_clip_model.safetensors").write_bytes(content)
        versions.add(study.code_version())
    assert len(versions) == 3


# ---- the process it runs in ----


def test_a_study_leaves_the_process_as_it_was(tmp_path, instant, monkeypatch):
    monkeypatch.delenv("RAVL_PROGRESS")
    torch.set_num_threads(2)
    run_study(tasks(1), tmp_path, workers=1)
    assert torch.get_num_threads() == 2 and "RAVL_PROGRESS" not in os.environ
    monkeypatch.setenv("RAVL_PROGRESS", "on")
    run_study(tasks(2), tmp_path, workers=1)
    assert os.environ["RAVL_PROGRESS"] == "on"


def pool_sizes():
    """Threads of every BLAS and OpenMP library in this process."""
    return {pool["num_threads"] for pool in threadpool_info()}


def test_a_task_computes_on_one_thread(tmp_path, monkeypatch):
    inside = []
    monkeypatch.setattr(study, "run_task", lambda task: inside.append((pool_sizes(), torch.get_num_threads())) or {})
    with threadpool_limits(2, user_api="blas"):
        run_study(tasks(1), tmp_path, workers=1)
        assert inside == [({1}, 1)] and 2 in pool_sizes()


# ---- the command line ----


@pytest.fixture
def command(tmp_path, instant, monkeypatch):
    """Run the command line in this process, with results below `tmp_path`; returns its exit code."""
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    monkeypatch.delenv("RAVL_PROFILE", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["study", *arguments])
        with pytest.raises(SystemExit) as exit:
            study.main()
        return exit.value.code

    return run


def test_the_command_runs_the_grid_of_a_profile(tmp_path, command, instant, capsys):
    assert command("--profile", "smoke", "--workers", "1") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("2 settings of profile smoke") and last == "2 of 2 records, 0 of them reused"
    assert len(list((tmp_path / "results" / "smoke" / "records").glob("*.json"))) == 2
    instant.ran.clear()
    assert command("--profile", "smoke", "--workers", "1") == 0
    assert instant.ran == [] and capsys.readouterr().out.endswith("2 of 2 records, 2 of them reused\n")


def test_the_command_takes_the_profile_of_the_environment(command, monkeypatch, capsys):
    monkeypatch.setenv("RAVL_PROFILE", "smoke")
    assert command("--workers", "1") == 0
    assert "profile smoke" in capsys.readouterr().out


def test_the_command_fails_when_a_setting_does_and_says_which(command, instant, capsys):
    instant.fails = {1}
    assert command("--profile", "smoke", "--workers", "1") == 1
    printed = capsys.readouterr()
    assert "1 of 2 records" in printed.out
    assert "seed=1" in printed.err and "ArithmeticError: seed 1" in printed.err and "seed=0" not in printed.err


# ---- a killed worker ----


run_and_save = study._run_and_save


def run_until_killed(task, folder, version):
    """In a worker: seed 0 is finished, seed 1 fails, and when both are known seed 2 kills its process."""

    def run_task(task):
        if task.setting.seed == 1:
            raise ArithmeticError("seed 1 fails by itself")
        while task.setting.seed == 2 and not (any(folder.glob("*.json")) and (folder / "failed").exists()):
            time.sleep(0.05)
        if task.setting.seed == 2:
            os._exit(3)
        return {"seed": task.setting.seed}

    study.run_task = run_task
    outcome = run_and_save(task, folder, version)
    if task.setting.seed == 1:
        (folder / "failed").touch()
    return outcome


def test_a_killed_worker_loses_no_finished_record_and_the_next_run_goes_on(tmp_path, instant, monkeypatch):
    with monkeypatch.context() as deadly:
        deadly.setattr(study, "_run_and_save", run_until_killed)
        done = run_study(tasks(6), tmp_path, workers=2)
    failed = {int(what.split("seed=")[1].split(",")[0]): reason for what, reason in done.failures.items()}
    assert 0 in seeds(done) and {1, 2} <= set(failed)
    assert sorted([*seeds(done), *failed]) == list(range(6))  # each task once, as a record or as a failure
    assert "worker process was killed" in failed[2] and "EXIT(3)" in failed[2]
    again = run_study(tasks(6), tmp_path, workers=1)
    assert (seeds(again), again.failures, again.n_reused) == (list(range(6)), {}, len(done.records))


# ---- for real ----


@pytest.fixture(scope="module")
def real(model):
    repairs = (Repair(), Repair(assignment="true", options={"clip_weight": 0.5}), Repair("standard"))
    return [Task(replace(SMALL, seed=seed, initial=model), SHORT, repairs[: 3 - 2 * seed]) for seed in (0, 1)]


@pytest.fixture(scope="module")
def alone(real, tmp_path_factory):
    """The real tasks, one after the other in this process: (folder, study)."""
    folder = tmp_path_factory.mktemp("alone")
    return folder, run_study(real, folder, workers=1)


def test_a_real_study_records_every_stage(real, alone):
    _, done = alone
    assert done.failures == {} and len(done.records) == 2
    for task, record in zip(real, done.records, strict=True):
        metrics = record["metrics"]
        assert abs(metrics["reached_strength"] - 0.9) < 0.01
        assert len(metrics["repairs"]) == len(task.repairs)
        for measured in (metrics["initial"], metrics["standard"], *metrics["repairs"]):
            assert 0 <= measured["image_worst_group"] <= measured["image_overall"] <= 1
            assert np.sum(measured["groups"]["image_count"]) == np.sum(measured["groups"]["region_count"]) == 40
    true, again = done.records[0]["metrics"]["repairs"][1:]
    assert (true["assignment_recall"], true["assignment_precision"]) == (1, 1)
    standard = done.records[0]["metrics"]["standard"]
    assert {name: again[name] for name in standard} == standard  # the same recipe, budget and seed


def test_a_real_record_is_what_the_stages_give_one_by_one(real, alone):
    """Validity and discovery on val, accuracies on test, the repair from the initial model."""
    metrics, task = alone[1].records[0]["metrics"], real[0]
    data, initial = build_setting(task.setting), load_vlm(task.setting.initial)
    tuned, _ = mitigate(initial, data.finetuning, recipe="standard", budget=SHORT, seed=task.setting.seed)
    val = evaluate(tuned, data.val)
    found = discover(val, seed=task.setting.seed)
    assert metrics["margin"] == pytest.approx(learned_margin(performance(val, data.val).images, 9))
    assert metrics["discovery"]["n_findings"] == len(found.findings)
    assert metrics["discovery"]["n_clusters"] == found.clustering.n_clusters
    regions = tuned.encode(data.finetuning.images, data.finetuning.boxes, data.finetuning.image_index)[1]
    repaired, _ = mitigate(initial, data.finetuning, assign_regions(found, regions), budget=SHORT)
    for vlm, recorded in ((initial, "initial"), (tuned, "standard"), (repaired, None)):
        recorded = metrics[recorded] if recorded else metrics["repairs"][0]
        for name, value in performance(evaluate(vlm, data.test), data.test).summary.items():
            assert recorded[name] == pytest.approx(value)


def test_two_processes_write_the_same_bytes_as_one(real, alone, tmp_path):
    folder, _ = alone
    done = run_study(real, tmp_path, workers=2)
    assert done.failures == {} and done.n_reused == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir()) and len(names) == 2
    for name in names:
        assert without_times(tmp_path / name) == without_times(folder / name)


def test_a_real_failure_comes_back_from_its_process(tmp_path):
    lost = tasks(2, initial="local-dir:/nowhere")
    done = run_study(lost, tmp_path, workers=2)
    assert done.records == [] and len(done.failures) == 2
    assert all("nowhere" in trace for trace in done.failures.values())


def test_an_unknown_assignment_is_refused(real, tmp_path):
    task = replace(real[0], repairs=(Repair(assignment="treu"),))
    done = run_study([task], tmp_path, workers=1)
    assert "did you mean 'true'" in "".join(done.failures.values())
