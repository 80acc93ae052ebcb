"""The fine-tuned model of a setting: made once, kept, and made again only by other code."""

from dataclasses import fields, replace

import numpy as np
import pytest
from tiny import tiny_vlm, weights

from ravl_core import fine_tuned, kept
from ravl_core.fine_tuned import fine_tuned_model
from ravl_core.groups import performance
from ravl_core.mitigation.budget import Budget
from ravl_core.settings import Setting, build_setting, learned_margin
from ravl_core.zero_shot import Evaluation, evaluate

SETTING = Setting(strength=0.5, seed=3, n_finetuning=120, n_val=40, n_test=60)
BUDGET = Budget(epochs=1, batch_size=40)


@pytest.fixture(autouse=True)
def tiny_initial(monkeypatch):
    monkeypatch.setattr(fine_tuned, "initial_vlm", lambda *names: tiny_vlm(seed=1))


@pytest.fixture
def trainings(monkeypatch):
    """The seeds of all trainings."""
    ran, train = [], fine_tuned.mitigate

    def counted(*arguments):
        ran.append(arguments[-1])
        return train(*arguments)

    monkeypatch.setattr(fine_tuned, "mitigate", counted)
    return ran


def same_evaluations(one, other):
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Evaluation))


def test_it_is_the_standard_recipes_model_measured_on_val_and_test():
    made, data = fine_tuned_model(SETTING, BUDGET), build_setting(SETTING)
    assert same_evaluations(made.val, evaluate(made.vlm, data.val))
    assert made.measured["reached_strength"] == data.reached_strength
    assert made.measured["margin"] == learned_margin(performance(made.val, data.val).images, SETTING.attribute)
    for name, vlm in (("initial", tiny_vlm(seed=1)), ("standard", made.vlm)):
        expected = performance(evaluate(vlm, data.test), data.test).summary
        assert {key: made.measured[name][key] for key in expected} == pytest.approx(expected)
    assert np.array_equal(made.truths["shows_feature"], data.val.shows_feature)
    assert set(made.truths) == set(kept.TRUTHS)


def test_what_is_kept_is_loaded_and_equal_to_the_last_bit(tmp_path, trainings):
    first, second = (fine_tuned_model(SETTING, BUDGET, tmp_path) for _ in range(2))
    assert trainings == [3]
    assert same_evaluations(first.val, second.val) and first.measured == second.measured
    assert first.truths.keys() == second.truths.keys()
    assert all(np.array_equal(first.truths[name], second.truths[name]) for name in first.truths)
    mine, theirs = weights(first.vlm), weights(second.vlm)
    assert all((mine[name] == theirs[name]).all() for name in mine)


def test_other_settings_budgets_and_code_train_anew(tmp_path, trainings, monkeypatch):
    fine_tuned_model(SETTING, BUDGET, tmp_path)
    fine_tuned_model(replace(SETTING, seed=4), BUDGET, tmp_path)
    fine_tuned_model(SETTING, replace(BUDGET, learning_rate=1e-4), tmp_path)
    assert trainings == [3, 4, 3]
    monkeypatch.setattr(fine_tuned, "fine_tuning_version", lambda domain: "other")
    fine_tuned_model(SETTING, BUDGET, tmp_path)
    fine_tuned_model(SETTING, BUDGET, tmp_path)
    assert trainings == [3, 4, 3, 3]


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept, "save_kept", lambda *arguments: pytest.fail("kept something"))
    fine_tuned_model(SETTING, BUDGET)
    assert list(tmp_path.iterdir()) == []
