"""Benchmarks of fine-tuning, start-up and whole profiles: what they say is what they measured, however long it took."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import digits, same_weights, tiny_vlm, weights

from ravl_core import tasks
from ravl_core.benchmarks import costs, finetuning, start_up
from ravl_core.benchmarks.costs import Measured, cost_table
from ravl_core.mitigation import RECIPES, Budget, finetune
from ravl_core.mitigation.standard import Standard
from ravl_core.repairs import Repair
from ravl_core.settings import Setting

pytestmark = pytest.mark.usefixtures("one_thread")
SECONDS = {"standard": 2.0, "ravl": 6.0}


# ---- images a second ----


@pytest.fixture
def clock(monkeypatch):
    """Runs that take five seconds for what is done once, and so many a step; a bare step takes one."""

    def bare(vlm, dataset, budget):
        passes(1.0, budget)

    def run(vlm, dataset, recipe, assignment, budget):
        assert assignment is dataset.shows_feature
        passes(SECONDS[next(name for name in RECIPES if type(recipe) is RECIPES[name])], budget)

    def passes(seconds, budget):
        clock.runs.append(budget.epochs)
        clock.now += 5 + seconds * budget.epochs * (80 // budget.batch_size)

    clock = SimpleNamespace(now=0.0, runs=[])
    monkeypatch.setattr(finetuning, "bare_steps", bare)
    monkeypatch.setattr("ravl_core.mitigation.finetune", run)
    monkeypatch.setattr(finetuning.time, "perf_counter", lambda: clock.now)
    return clock


def test_rates_leave_out_what_is_done_once(clock):
    budget = Budget(epochs=3, batch_size=16, trained="head", precision="bfloat16")
    table = finetuning.recipe_rates(budget=budget, n_images=80, recipes=["standard", "ravl"], n_rounds=2)
    assert table.recipe.to_list() == ["bare step", "standard", "ravl"]
    assert table.images_per_second.to_list() == pytest.approx([16.0, 8.0, 16 / 6])
    assert table.times.to_list() == pytest.approx([1, 2, 6]) and table.step_seconds.to_list() == pytest.approx(
        [1, 2, 6]
    )
    stated = table[["model", "device", "image_size", "trained", "precision", "batch_size"]].drop_duplicates()
    assert stated.to_numpy().tolist() == [["rn-mini", "cpu", 64, "head", "bfloat16", 16]]
    assert clock.runs == [1] * 3 + [1, 3] * 3 * 2  # each once to warm up, then short and long in turn


def test_the_median_of_the_rounds_counts(clock):
    seconds = iter([1.0, 9.0, 2.0])

    def odd(budget):
        if budget.epochs == 2:
            clock.now += next(seconds)

    budget = Budget(epochs=2, batch_size=40)
    assert finetuning._seconds_of_steps({"odd": odd}, budget, digits(40), 3) == {"odd": 2.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [({"budget": Budget(epochs=1)}, "epochs: expected"), ({"recipes": ["ravel"]}, "ravl")],
)
def test_what_cannot_be_measured_is_refused_before_any_work(options, said, monkeypatch):
    monkeypatch.setattr("ravl_core.checkpoints.load_vlm", None)
    with pytest.raises(ValueError, match=said):
        finetuning.recipe_rates(**options)


@pytest.mark.parametrize("trained", ["tower", "head", "pool"])
def test_the_floor_does_the_work_of_the_loop(trained, monkeypatch):
    """On the loop's batches, the bare step's losses are those of standard fine-tuning at the same learning rate."""
    vlm, data = tiny_vlm(), digits(40)
    before, budget = weights(vlm), Budget(epochs=2, batch_size=16, trained=trained)
    batches = [np.random.default_rng(0)]
    orders = [batches[0].permutation(40) for _ in range(2)]
    same = (order[first : first + 16] for order in orders for first in (0, 16))
    monkeypatch.setattr("ravl_core.mitigation.training.shuffled", lambda *_: same)
    steady = SimpleNamespace(get_last_lr=lambda: [budget.learning_rate], step=lambda: None)
    monkeypatch.setattr(torch.optim.lr_scheduler, "OneCycleLR", lambda *_, **__: steady)
    expected = finetune(vlm, data, Standard(), None, budget)[1].losses
    np.testing.assert_allclose(finetuning.bare_steps(vlm, data, budget), expected, rtol=1e-4)
    assert same_weights(weights(vlm), before) and len(set(expected)) == 4


def test_every_recipe_is_made_and_runs_as_it_is_measured():
    data = finetuning.planted(80, 64)
    for name in RECIPES:
        run = finetuning._run(tiny_vlm(), data, finetuning.made_recipe(name, data))
        assert np.isfinite(run(Budget(epochs=1, batch_size=40))[1].losses).all(), name


def test_images_and_boxes_are_resized_together():
    small, large = finetuning.planted(80, 64), finetuning.planted(80, 96)
    assert large.images.shape == (80, 96, 96, 3) and small.images.shape == (80, 64, 64, 3)
    np.testing.assert_allclose(large.boxes, small.boxes * 1.5, rtol=1e-6)


# ---- settings an hour ----


@pytest.fixture
def timed_studies(monkeypatch):
    """Studies that take four seconds to start and two a setting of each worker."""
    ran = []

    def seconds(tasks, workers, threads, device):
        ran.append((len(tasks), workers, threads, device))
        return 4 + 2 * len(tasks) / workers

    monkeypatch.setattr(finetuning, "_seconds_of_study", seconds)
    return ran


def test_settings_an_hour_leave_out_the_start(timed_studies):
    table = finetuning.settings_per_hour(6)
    assert table.columns.to_list() == ["workers", "threads", "device", "settings", "seconds", "settings_per_hour"]
    assert table.to_numpy().tolist() == [[1, 2, "cpu", 5, 10.0, 1800.0], [2, 1, "cpu", 4, 4.0, 3600.0]]
    assert timed_studies == [(1, 1, 2, "cpu"), (6, 1, 2, "cpu"), (2, 2, 1, "cpu"), (6, 2, 1, "cpu")]


def test_more_settings_than_workers_are_needed(timed_studies):
    with pytest.raises(ValueError, match="n_settings: expected more than workers, 8, got 8"):
        finetuning.settings_per_hour(8, [(1, 1), (8, 1)])
    assert timed_studies == []


def test_a_setting_that_fails_is_no_measurement(monkeypatch):
    broken = [replace(task, setting=replace(task.setting, feature="unicorn")) for task in finetuning.few_tasks(1)]
    monkeypatch.setattr("joblib.externals.loky.ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    with pytest.raises(RuntimeError, match="unicorn"):
        finetuning._seconds_of_study(broken, 1, 1, "cpu")


def test_few_tasks_differ():
    few = finetuning.few_tasks(12)
    assert len({str(task) for task in few}) == 12 and {task.setting.attribute for task in few} == set(range(10))


# ---- the command ----


def test_the_command_hands_on_what_it_is_told(tmp_path, monkeypatch):
    given, threads = {}, torch.get_num_threads()

    def rates(*arguments, **options):
        given["rates"] = arguments, options
        return pd.DataFrame({"recipe": ["ravl"]})

    def an_hour(*arguments):
        given["settings"] = arguments
        return pd.DataFrame({"workers": [2]})

    monkeypatch.setattr(finetuning, "recipe_rates", rates)
    monkeypatch.setattr(finetuning, "settings_per_hour", an_hour)
    out = tmp_path / "made" / "table.csv"
    how = "--device", "cuda", "--trained", "head", "--precision", "bfloat16", "--batch", "32", "--epochs", "4"
    finetuning.main([*how, "--out", str(out), "--model", "RN50", "--size", "96", "--recipes", "ravl"])
    assert out.read_text() == "recipe\nravl\n"
    budget = Budget(4, 32, trained="head", precision="bfloat16")
    assert given["rates"][0] == ("RN50", "cuda", budget) and given["rates"][1]["image_size"] == 96
    assert given["rates"][1]["recipes"] == ["ravl"]
    finetuning.main(["--settings", "9", "--workers", "2", "4", "--device", "cuda", "--out", str(out)])
    assert given["settings"] == (9, [(2, 1), (4, 1)], "cuda") and out.read_text() == "workers\n2\n"
    torch.set_num_threads(threads)


def test_the_command_names_what_it_cannot_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        finetuning.main(["--recipes", "ravel", "--out", str(tmp_path / "table.csv")])
    assert "ravl" in capsys.readouterr().err and not any(tmp_path.iterdir())


# ---- start-up ----


def test_starts_are_timed_in_turn_and_the_median_counts(monkeypatch):
    now, ran, seconds = [0.0], [], iter([1.0, 10.0, 3.0, 12.0, 2.0, 30.0])

    def run(command, **options):
        ran.append(command[1:])
        now[0] += next(seconds)

    monkeypatch.setattr(start_up.subprocess, "run", run)
    monkeypatch.setattr(start_up.time, "perf_counter", lambda: now[0])
    table = start_up.start_up({"one": ("-c", "1"), "two": ("-c", "2")}, n_rounds=3)
    assert table.to_numpy().tolist() == [["one", 2.0], ["two", 12.0]]
    assert ran == [["-c", "1"], ["-c", "2"]] * 3


def test_a_start_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        start_up.start_up({"nothing": ("-c", "raise SystemExit(3)")}, n_rounds=1)


def test_starts_name_commands_that_are_there():
    assert next(iter(start_up.STARTS)) == "bare python"
    named = [arguments[1] for arguments in start_up.STARTS.values() if arguments[0] == "-m"]
    script = "import importlib.util, sys; assert all(importlib.util.find_spec(name) for name in sys.argv[1:])"
    assert len(named) == 3 and subprocess.run([sys.executable, "-c", script, *named]).returncode == 0


# ---- what profiles cost ----

RATES = pd.DataFrame(
    [
        ("mini", "head", "standard", 100.0), ("mini", "head", "ravl", 25.0), ("mini", "tower", "standard", 40.0),
        ("big", "tower", "standard", 10.0), ("mini", "tower", "ravl", 20.0),
    ],
    columns=["model", "trained", "recipe", "images_per_second"],
)  # fmt: skip
CLUSTERING = pd.DataFrame({"regions": [1000, 4000], "seconds": [1.0, 16.0]})
MADE_UP = Measured(RATES, {"mini": 50.0, "big": 5.0}, CLUSTERING, like={"bigger": ("big", 0.5)})


def task(model, trained, *recipes, n_val=500):
    setting = Setting(initial=model, n_finetuning=1000, n_val=n_val, n_test=250)
    return tasks.Task(setting, Budget(epochs=2, trained=trained), tuple(Repair(recipe=name) for name in recipes))


def costs_of(monkeypatch, *some, settings=None):
    monkeypatch.setattr(costs, "grid", lambda profile, kind: some if kind == "repairs" else ())
    table = cost_table(replace(MADE_UP, settings=settings or {}), ["paper"])
    assert (table.profile == "paper").all() and (table.grid == "repairs").all() and (table.settings == len(some)).all()
    return {(row.what, row.how): (row.amount, pytest.approx(3600 * row.hours)) for row in table.itertuples()}


def test_measured_rates_give_hours(monkeypatch):
    """2,000 images at 100 and at 25 a second, for each of two settings; 250 + 2 · 750 images at 50 a second."""
    found = costs_of(monkeypatch, *[task("mini", "head", "ravl", n_val=1000)] * 2)
    assert found == {
        ("images trained on", "measured"): (8000, 2 * (20 + 80)),
        ("images encoded", "measured"): (2 * (250 + 2 * 1250), 2 * 2750 / 50),
        ("regions clustered", "measured"): (8000, 32),
    }


def test_what_was_not_measured_is_extrapolated_and_says_so(monkeypatch):
    """RaVL's is half the standard rate where the tower is trained; "bigger" is half as fast as "big"."""
    found = costs_of(monkeypatch, task("big", "tower", "ravl"), task("bigger", "tower", n_val=2000))
    assert found == {
        ("images trained on", "measured"): (2000, 200),
        ("images trained on", "extrapolated"): (4000, 400 + 400),
        ("images encoded", "measured"): (250 + 2 * 750, 350),
        ("images encoded", "extrapolated"): (250 + 2250, 1000),
        ("regions clustered", "measured"): (2000, 4),  # on the line from 1 to 16 seconds, which has a slope of 2
        ("regions clustered", "extrapolated"): (8000, 64),
    }


def test_settings_that_were_timed_themselves_are_not_taken_apart(monkeypatch):
    found = costs_of(monkeypatch, *[task("unknown", "head")] * 3, settings={("paper", "repairs"): 7.0})
    assert found == {("settings", "measured"): (3, 21)}


def test_rounds_of_a_repair_count_as_often(monkeypatch):
    twice = replace(task("mini", "head"), repairs=(Repair(recipe="ravl", rounds=2),))
    assert costs.images_trained_on([twice]) == {("mini", "head", "standard"): 2000, ("mini", "head", "ravl"): 4000}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (task("unknown", "head"), "rate of 'standard' or 'standard' for unknown, head"),
        (task("big", "tower", "gals"), "rates of 'gals'"),
    ],
)
def test_a_rate_that_nobody_knows_is_an_error(monkeypatch, given, said):
    with pytest.raises(ValueError, match=said):
        costs_of(monkeypatch, given)


def test_another_trained_part_lends_its_ratio():
    few = replace(MADE_UP, training=RATES[:4])  # RaVL with the head alone: a quarter of the standard rate
    assert costs.training_rate(few, "big", "tower", "ravl") == (2.5, "extrapolated")


def test_the_real_profiles_are_counted():
    """Every grid of both profiles has a row, and every repair of the full one is trained."""
    names = ["rn-mini", "rn-mini-deep", "vit-mini", "RN50-quickgelu", "RN101-quickgelu"]
    parts = [(part, recipe) for part in ("head", "tower") for recipe in RECIPES]
    rates = pd.DataFrame([(name, *each, 1.0) for name in names for each in parts], columns=RATES.columns)
    table = cost_table(Measured(rates, dict.fromkeys(names, 1.0), CLUSTERING))
    assert set(zip(table.profile, table.grid, strict=True)) == {
        (profile, kind) for profile in ("full", "paper") for kind in costs.KINDS
    }
    assert (table.hours > 0).all() and (table.how == "measured").all()
    trained = table[table.what == "images trained on"].set_index(["profile", "grid"])
    assert trained.amount["full", "repairs"] > 1000 * trained.settings["full", "repairs"]
    np.testing.assert_allclose(trained.amount, 3600 * trained.hours)
