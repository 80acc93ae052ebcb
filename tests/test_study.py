"""A study: one record a task, reused when it is current, redone when it is not, whatever fails beside it."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import pytest
import study_records
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from tiny import tiny_vlm

from ravl_core import kept, paths, progress, records, study
from ravl_core.checkpoints import load_vlm, save_vlm
from ravl_core.discovery import assign_regions, discover
from ravl_core.grids import KINDS, grid
from ravl_core.groups import performance
from ravl_core.mitigation import Budget, mitigate
from ravl_core.profiles import profile
from ravl_core.repair_tables import followed_table, repairs_table
from ravl_core.settings import Setting, build_setting, learned_margin
from ravl_core.study import run_study
from ravl_core.tasks import Repair, Task
from ravl_core.zero_shot import evaluate

SMALL = Setting(strength=0.9, n_finetuning=400, n_val=60, n_test=40)
SHORT = Budget(epochs=1, batch_size=64, learning_rate=1e-3)


@pytest.fixture(autouse=True)
def quiet(monkeypatch, one_thread):
    """No progress, and sums in one order."""
    monkeypatch.setenv("RAVL_PROGRESS", "off")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights, as a name that `load_vlm` takes."""
    return f"local-dir:{save_vlm(tiny_vlm(), tmp_path_factory.mktemp('models') / 'random')}"


def tasks(n_tasks, **changes):
    return [Task(replace(SMALL, seed=seed, **changes), SHORT) for seed in range(n_tasks)]


@pytest.fixture
def instant(monkeypatch):
    """Tasks that take no time: their metrics are their seed, and made up where something is repaired.

    Seeds in `fails` raise; `ran` says what was run.
    """

    class Instant:
        ran, fails = [], set()

        def run(self, task, **options):
            self.options = options
            self.ran.append(task.setting.seed)
            if task.setting.seed in self.fails:
                raise ArithmeticError(f"seed {task.setting.seed} with {task.budget.epochs} epochs")
            names = [repair.name for repair in task.repairs]
            made_up = study_records.record(repairs=names, seed=task.setting.seed)["metrics"] if names else {}
            return {"seed": task.setting.seed} | made_up

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
        assert record["versions"]["code"] == study.code_version("digits")
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
    monkeypatch.setattr(study, "run_task", lambda task, **options: {"model": object()})
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
    assert all(record["versions"]["code"] == study.code_version("digits") for record in done.records)


def test_a_stale_record_is_no_result_when_its_task_now_fails(tmp_path, instant):
    records.save_record(tmp_path, tasks(1)[0].arguments, {"seed": -1}, code_version="0123456789abcdef")
    instant.fails = {0}
    with pytest.warns(UserWarning, match="made by other code"):
        done = run_study(tasks(2), tmp_path, workers=1)
    assert seeds(done) == [1] and len(done.failures) == 1


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


@pytest.mark.parametrize("threads", [1, 2])
def test_a_task_computes_on_one_thread_or_as_many_as_asked_for(tmp_path, monkeypatch, threads):
    inside = []

    def run(task, **options):
        inside.append((pool_sizes(), torch.get_num_threads()))
        return {}

    monkeypatch.setattr(study, "run_task", run)
    with threadpool_limits(3, user_api="blas"):
        run_study(tasks(1), tmp_path, workers=1, threads=threads)
        assert inside == [({threads}, threads)] and 3 in pool_sizes()


@pytest.mark.parametrize("name", ["workers", "threads"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_workers_and_threads_are_counts(tmp_path, instant, name, wrong):
    with pytest.raises(ValueError, match=f"{name}: expected an integer of 1 or more, got {wrong}"):
        run_study(tasks(1), tmp_path, **{name: wrong})
    assert instant.ran == []


def test_a_worker_with_other_versions_runs_nothing(instant):
    """A record names the driver's versions, so a worker has to have the same."""
    wanted = {"digits": study._versions("digits") | {"torch": "1.0"}}
    outcome = study._run_one(tasks(1)[0], wanted, threads=1, keep=None, device="cpu")
    assert instant.ran == [] and outcome.metrics is None
    assert "other versions than the driver" in outcome.problem
    assert re.search(r"torch [\d.]+\S*, not 1\.0$", outcome.problem.strip())


def test_a_worker_of_many_threads_runs_one_task_at_a_time(monkeypatch):
    """The number of threads is the whole process's, and the worker of a cluster may have several tasks at once."""
    inside, most = [], []

    def run(task, **options):
        inside.append(task)
        time.sleep(0.05)
        most.append(len(inside))
        inside.remove(task)
        return {}

    monkeypatch.setattr(study, "run_task", run)
    versions = {"digits": study._versions("digits")}
    work = partial(study._run_one, versions=versions, threads=1, keep=None, device="cpu")
    with ThreadPoolExecutor(3) as pool:
        assert all(outcome.problem == "" for outcome in pool.map(work, tasks(3)))
    assert most == [1, 1, 1]


def test_tasks_run_on_the_device_that_is_asked_for_and_the_record_names_it(tmp_path, instant, monkeypatch):
    run_study(tasks(1), tmp_path / "one", workers=1)
    assert instant.options["device"] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (record,) = run_study(tasks(1), tmp_path / "other", workers=1, device="cuda").records
    assert instant.options["device"] == record["device"] == "cuda"


def test_a_device_that_is_not_there_is_refused(tmp_path, instant, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU that torch can use, got 'cuda'"):
        run_study(tasks(1), tmp_path, device="cuda")
    with pytest.raises(ValueError, match="device: expected one of 'cpu', 'cuda', got 'cudo'; did you mean 'cuda'"):
        run_study(tasks(1), tmp_path, device="cudo")
    assert instant.ran == []


# ---- what is kept besides the records ----


@pytest.fixture
def keeping(monkeypatch):
    """Tasks that take no time and keep a file; returns the seeds that were run."""
    ran = []

    def run(task, keep=None, device=None):
        ran.append(task.setting.seed)
        if keep is not None:
            folder = kept.folder_of(keep, task.setting, task.budget)
            folder.mkdir(parents=True, exist_ok=True)
            version = study.fine_tuning_version(task.setting.domain)
            (folder / "measured.json").write_text(json.dumps({"version": version}))
        return {"seed": task.setting.seed}

    monkeypatch.setattr(study, "run_task", run)
    return ran


def test_what_is_kept_lies_beside_no_record(tmp_path, keeping):
    run_study(tasks(2), tmp_path / "records", workers=1, keep=tmp_path / "kept")
    assert len(list((tmp_path / "records").iterdir())) == len(list((tmp_path / "kept").iterdir())) == 2


def test_a_task_with_a_record_and_nothing_kept_is_run_again(tmp_path, keeping):
    run_study(tasks(2), tmp_path / "records", workers=1)
    run_study(tasks(1), tmp_path / "records", workers=1, keep=str(tmp_path / "kept"))
    assert keeping == [0, 1, 0]
    done = run_study(tasks(3), tmp_path / "records", workers=1, keep=tmp_path / "kept")
    assert keeping == [0, 1, 0, 1, 2] and (done.n_reused, seeds(done)) == (1, [0, 1, 2])
    run_study(tasks(3), tmp_path / "records", workers=1)
    assert len(keeping) == 5


def test_a_task_whose_kept_model_is_of_other_code_is_run_again(tmp_path, keeping, monkeypatch):
    folders = {"folder": tmp_path / "records", "keep": tmp_path / "kept"}
    run_study(tasks(2), workers=1, **folders)
    run_study(tasks(2), workers=1, **folders)
    assert keeping == [0, 1]
    monkeypatch.setattr(study, "fine_tuning_version", lambda domain: "other")
    run_study(tasks(1), workers=1, **folders)
    assert keeping == [0, 1, 0]


# ---- leftovers ----


def test_old_leftovers_of_killed_runs_are_removed_and_new_ones_are_no_records(tmp_path, keeping):
    records_folder, kept = tmp_path / "records", tmp_path / "kept"
    run_study(tasks(1), records_folder, workers=1, keep=kept)
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    for age in ("old", "new"):
        (kept / f".{age}.tmp" / "deep").mkdir(parents=True)
        (records_folder / f".{age}.json.1.tmp").write_text("{")
    for path in (kept / ".old.tmp", records_folder / ".old.json.1.tmp", *records_folder.glob("*.json")):
        os.utime(path, (two_days_ago, two_days_ago))
    done = run_study(tasks(1), records_folder, workers=1, keep=kept)
    assert (done.n_reused, seeds(done), keeping) == (1, [0], [0])
    left = sorted(path.name for folder in (kept, records_folder) for path in folder.glob(".*"))
    assert left == [".new.json.1.tmp", ".new.tmp"]


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


@pytest.fixture
def two_settings(monkeypatch):
    """Every grid has two settings, with seeds 0 and 1."""
    monkeypatch.setattr(study, "grid", lambda chosen, kind: tuple(tasks(2)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_runs_the_grid_of_a_profile(tmp_path, command, instant, capsys, kind):
    arguments, n = ("--profile", "smoke", "--workers", "1", "--grid", kind), len(grid(profile("smoke"), kind))
    assert command(*arguments) == 0 and len(instant.ran) == n
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{n} settings of profile smoke in 1 process" and last == f"{n} of {n} records, 0 of them reused"
    assert len(list((tmp_path / "results" / "smoke" / "records").glob("*.json"))) == n
    instant.ran.clear()
    assert command(*arguments) == 0
    assert instant.ran == [] and capsys.readouterr().out.endswith(f"{n} of {n} records, {n} of them reused\n")


def test_a_search_that_failed_leaves_the_table_as_it_was(tmp_path, command, instant):
    written = tmp_path / "results" / "smoke" / "search.csv"
    written.parent.mkdir(parents=True)
    written.write_text("of a search that went well")
    instant.fails = {2}
    assert command("--profile", "smoke", "--workers", "1", "--grid", "search") == 1
    assert written.read_text() == "of a search that went well"


def test_the_command_writes_the_table_of_the_search_and_no_other(tmp_path, command, instant):
    """That is what learning rates are chosen by; see `ravl_core.repair_rows`."""
    for kind in ("settings", "repairs", "search"):
        assert not (tmp_path / "results" / "smoke" / "search.csv").exists()
        assert command("--profile", "smoke", "--workers", "1", "--grid", kind) == 0
    written = pandas.read_csv(tmp_path / "results" / "smoke" / "search.csv")
    task = grid(profile("smoke"), "search")[0]
    expected = study_records.record(repairs=[row.name for row in task.repairs], seed=task.setting.seed)["metrics"]
    assert written.method.tolist() == ["diagnosed", *(row.name for row in task.repairs)]
    assert written.val_worst_group.tolist()[1:] == pytest.approx(
        [repair["val_worst_group"] for repair in expected["repairs"]], rel=1e-5
    )


def test_the_command_takes_the_profile_of_the_environment(command, monkeypatch, capsys):
    monkeypatch.setenv("RAVL_PROFILE", "smoke")
    assert command("--workers", "1") == 0
    assert "profile smoke" in capsys.readouterr().out


def test_the_command_fails_when_a_setting_does_and_says_which(command, two_settings, instant, capsys):
    instant.fails = {1}
    assert command("--profile", "smoke", "--workers", "1") == 1
    printed = capsys.readouterr()
    assert "1 of 2 records" in printed.out
    assert "seed=1" in printed.err and "ArithmeticError: seed 1" in printed.err and "seed=0" not in printed.err


def test_the_command_keeps_things_out_of_the_results(tmp_path, command, two_settings, keeping):
    assert command("--profile", "smoke", "--workers", "1", "--keep") == 0
    assert command("--profile", "smoke", "--workers", "1", "--keep") == 0
    assert len(keeping) == 2 and len(list((paths.cache("smoke") / "kept").iterdir())) == 2
    assert len(list((tmp_path / "results").rglob("*"))) == 2 + 2  # two folders, two records


def test_the_command_hands_on_threads_and_scheduler(command, monkeypatch, capsys):
    given = []

    def run(tasks, folder, workers, description, threads, scheduler, keep, device):
        given.append((workers, description, threads, scheduler, keep, device))
        return study.Study([], 0, {})

    monkeypatch.setattr(study, "run_study", run)
    where = "--scheduler", "tcp://10.0.0.1:8786", "--threads", "4", "--device", "cuda"
    assert command("--profile", "smoke", *where) == 0
    assert given == [(profile("smoke").workers, "settings", 4, "tcp://10.0.0.1:8786", None, "cuda")]
    assert "on tcp://10.0.0.1:8786" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scheduler", "10.0.0.1"], "scheduler: expected an address such as tcp://host:8786, got '10.0.0.1'"),
        (["--scheduler", "tcp://host"], "scheduler: expected an address"),
        (["--scheduler", "tcp://host:8786", "--workers", "2"], "not allowed with argument"),
        (["--workers", "0"], "workers: expected an integer of 1 or more, got 0"),
        (["--threads", "-2"], "threads: expected an integer of 1 or more, got -2"),
        (["--profile", "smok"], "did you mean 'smoke'"),
        (["--grid", "repair"], "invalid choice: 'repair'"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(command, instant, capsys, arguments, said):
    assert command(*arguments) == 2
    assert said in capsys.readouterr().err and instant.ran == []


def test_a_cluster_without_dask_names_the_extra(tmp_path, command, instant, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'ravl-core[cluster]'")):
        run_study(tasks(1), tmp_path / "records", scheduler="tcp://localhost:8786")
    assert command("--profile", "smoke", "--scheduler", "tcp://localhost:8786") == 2
    assert "pip install 'ravl-core[cluster]'" in capsys.readouterr().err and instant.ran == []


def test_dask_is_imported_only_for_a_cluster():
    script = "import ravl_core.study, sys; print('distributed' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def test_a_log_file_gets_a_line_now_and_then(tmp_path, instant, monkeypatch, capsys):
    monkeypatch.delenv("RAVL_PROGRESS")
    run_study(tasks(40), tmp_path / "quick", workers=1)
    assert capsys.readouterr().err == ""
    ticks = iter(range(0, 10_000, 3))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))
    run_study(tasks(40), tmp_path / "slow", workers=1, description="repairs")
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 12 and all(re.fullmatch(r"repairs: \d+ of 40\b.*", line) for line in lines)


def test_ctrl_c_keeps_what_is_finished(command, two_settings, instant, monkeypatch, capsys):
    def interrupted(task, **options):
        if task.setting.seed == 1:
            raise KeyboardInterrupt
        return instant.run(task)

    with monkeypatch.context() as at_the_keyboard:
        at_the_keyboard.setattr(study, "run_task", interrupted)
        assert command("--profile", "smoke", "--workers", "1") == 130
    said = capsys.readouterr().err
    assert said == "stopped; finished records are kept, and the same command goes on from there\n"
    assert command("--profile", "smoke", "--workers", "1") == 0
    assert instant.ran == [0, 1] and "1 of them reused" in capsys.readouterr().out


# ---- for real ----


@pytest.fixture(scope="module")
def real(model):
    true = Repair("true", assignment="true", options={"clip_weight": 0.5})
    repairs = (Repair(followed=True), true, Repair("standard", "standard"))
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
    assert [again["followed_up"], true["followed_up"]] == [None, None]


def test_a_real_record_counts_the_groups_that_models_were_trained_on(real, alone):
    for task, record in zip(real, alone[1].records, strict=True):
        data = build_setting(task.setting).finetuning
        expected = np.zeros((10, 2), dtype=int)
        for label, present in zip(data.labels, data.feature_present, strict=True):
            expected[label, int(present)] += 1
        assert record["metrics"]["finetuning_groups"] == expected.tolist()


def test_tables_are_made_of_real_records(alone):
    """Also of what was looked at again after a repair."""
    finished = alone[1].records
    repaired = repairs_table(finished)
    assert repaired.method.tolist() == ["diagnosed", "RaVL", "true", "standard", "diagnosed", "RaVL"]
    assert repaired.image_overall.tolist()[:2] == [
        finished[0]["metrics"]["standard"]["image_overall"], finished[0]["metrics"]["repairs"][0]["image_overall"],
    ]  # fmt: skip
    assert repaired.aligned_accuracy.between(0, 1).all()
    followed = followed_table(finished)
    assert followed.method.tolist() == ["RaVL"] * sum(r["metrics"]["discovery"]["n_findings"] > 0 for r in finished)


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


def test_two_processes_write_the_same_bytes_as_one_and_report_what_fails(real, alone, tmp_path):
    folder, _ = alone
    lost = Task(replace(SMALL, initial="local-dir:/nowhere"), SHORT)
    done = run_study([lost, *real], tmp_path, workers=2)
    assert done.n_reused == 0 and len(done.records) == 2
    ((what, problem),) = done.failures.items()
    assert what == str(lost) and problem.startswith("Traceback") and "/nowhere" in problem
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir()) and len(names) == 2
    for name in names:
        assert without_times(tmp_path / name) == without_times(folder / name)
