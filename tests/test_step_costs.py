"""What a step costs is measured on the real loop; that it is measured, not how long it takes, is tested."""

import numpy as np
import pytest
from tiny import digits, tiny_vlm

from ravl_core import step_costs
from ravl_core.mitigation import Budget


@pytest.fixture
def clock(monkeypatch):
    """Runs that take a second for what is done once, and a given time a step, by how the recipe pools regions."""
    seconds, runs = {None: 1.0, "late": 1.5, "early": 2.5}, []

    def finetune(vlm, dataset, recipe, assignment, budget):
        n_steps = budget.epochs * (len(dataset) // budget.batch_size)
        runs.append((recipe.regions, budget.epochs))
        clock.now += 1 + n_steps * seconds[recipe.regions]

    clock = type("Clock", (), {"now": 0.0, "runs": runs})()
    monkeypatch.setattr(step_costs, "finetune", finetune)
    monkeypatch.setattr(step_costs.time, "perf_counter", lambda: clock.now)
    return clock


def test_what_is_done_once_is_no_part_of_a_step(clock):
    data, budget = digits(40), Budget(epochs=3, batch_size=16)
    table = step_costs.step_costs(tiny_vlm(), data, data.shows_feature, budget, n_rounds=2)
    assert table.seconds.round(9).to_dict() == {
        "images alone": 1.0, "late regions": 1.5, "early regions": 2.5, "the loss alone": 0.0
    }  # fmt: skip
    assert table.times.round(9).to_list() == [1.0, 1.5, 2.5, 0.0]
    assert clock.runs == [(None, 1), (None, 3), ("late", 1), ("late", 3), ("early", 1), ("early", 3)] * 2


def test_the_fastest_of_the_rounds_counts(clock, monkeypatch):
    measured = iter([5.0, 6.0, 7.0, 4.0, 9.0, 6.5])
    monkeypatch.setattr(step_costs, "_seconds_of_a_step", lambda *_: next(measured))
    data = digits(20)
    table = step_costs.step_costs(tiny_vlm(), data, data.shows_feature, Budget(batch_size=8), n_rounds=2)
    assert table.seconds[:3].to_list() == [4.0, 6.0, 6.5]


def test_it_runs_on_the_real_loop():
    data = digits(24)
    table = step_costs.step_costs(tiny_vlm(), data, data.shows_feature, Budget(epochs=2, batch_size=8), n_rounds=1)
    assert table.index.to_list() == ["images alone", "late regions", "early regions", "the loss alone"]
    assert np.isfinite(table.to_numpy()).all() and table.seconds["the loss alone"] > 0
