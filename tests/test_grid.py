"""The grid of a profile: fixed before any result is looked at, every setting with a seed of its own."""

import json
from dataclasses import replace

import pytest

from ravl_core.profiles import PROFILES, profile
from ravl_core.randomness import stream
from ravl_core.records import record_path
from ravl_core.settings import plant_correlation
from ravl_core.study import grid

# No shipped profile repeats settings or trains the tower at two strengths; a grid can.
RICH = replace(profile("full"), name="rich", repetitions=2, tower_strengths=(0.8, 0.95))
ALL = [*PROFILES.values(), RICH]

by_profile = pytest.mark.parametrize("chosen", ALL, ids=lambda chosen: chosen.name)


def part(chosen, trained):
    return [task for task in grid(chosen) if task.budget.trained == trained]


def cell(task):
    return task.setting.strength, task.setting.attribute


@by_profile
def test_every_strength_goes_with_every_attribute_in_a_fixed_order(chosen):
    expected = []
    for _ in range(chosen.repetitions):
        for strength in chosen.strengths:
            for attribute in chosen.attributes:
                expected.append((strength, attribute))
    assert [cell(task) for task in part(chosen, "head")] == expected
    assert grid(chosen) == grid(chosen)


@by_profile
def test_every_setting_has_a_seed_of_its_own(chosen):
    assert [task.setting.seed for task in part(chosen, "head")] == list(range(len(part(chosen, "head"))))


@by_profile
def test_sizes_and_budget_are_the_profiles(chosen):
    for task in grid(chosen):
        setting, budget = task.setting, task.budget
        assert (setting.n_finetuning, setting.n_val, setting.n_test) == (
            chosen.n_finetuning,
            chosen.n_val,
            chosen.n_test,
        )
        assert (budget.epochs, budget.precision) == (chosen.epochs, chosen.precision)


@by_profile
def test_repairs_stand_only_where_the_profile_says(chosen):
    n_cells = len(chosen.strengths) * len(chosen.attributes)
    for task in part(chosen, "head"):
        asked = task.setting.seed < n_cells and task.setting.strength in chosen.repaired_strengths
        sources = [repair.assignment for repair in task.repairs]
        assert sources == (["discovered", "true", "none"] if asked else [])
        assert all(repair.recipe == "ravl" and repair.options == {} for repair in task.repairs)


@by_profile
def test_the_tower_is_trained_on_the_same_settings_with_the_same_budget(chosen):
    head = {task.setting.seed: task for task in part(chosen, "head")}
    towers = part(chosen, "tower")
    asked = [(strength, attribute) for strength in chosen.tower_strengths for attribute in chosen.attributes]
    assert [cell(task) for task in towers] == asked
    for task in towers:
        twin = head[task.setting.seed]
        assert task.setting == twin.setting
        assert replace(task.budget, trained="head") == twin.budget
        assert [repair.assignment for repair in task.repairs] == ["discovered"]
    assert len(grid(chosen)) == len(head) + len(towers)


@by_profile
def test_arguments_are_plain_and_no_two_tasks_share_a_record(chosen, tmp_path):
    tasks = grid(chosen)
    assert len({record_path(tmp_path, task.arguments) for task in tasks}) == len(tasks)
    for task in tasks:
        read = json.loads(json.dumps(task.arguments, allow_nan=False))
        assert record_path(tmp_path, read) == record_path(tmp_path, task.arguments)


@by_profile
def test_no_two_tasks_have_the_same_name_in_a_report_of_failures(chosen):
    assert len({str(task) for task in grid(chosen)}) == len(grid(chosen))


def test_asking_for_more_leaves_what_was_there_as_it_was():
    """A second repetition, further repairs or towers do not give settings other seeds."""
    demo = profile("demo")
    settings = [task.setting for task in grid(demo)]
    more = replace(demo, repetitions=3, repaired_strengths=demo.strengths, tower_strengths=(0.9,))
    assert [task.setting for task in part(more, "head")][: len(settings)] == settings
    assert grid(replace(demo, repetitions=3))[: len(settings)] == grid(demo)


@pytest.mark.parametrize("name", PROFILES)
def test_so_many_images_can_show_every_strength(name):
    chosen = profile(name)
    for strength in chosen.strengths:
        for attribute in chosen.attributes[:2]:
            plant_correlation(chosen.n_finetuning, 10, attribute, strength, stream(0, name))


def test_the_demo_has_24_settings():
    tasks = grid(profile("demo"))
    assert len(tasks) == 24 and sum(bool(task.repairs) for task in tasks) == 4


def test_the_full_run_repairs_enough_settings_for_an_interval():
    repaired = [task.setting for task in part(profile("full"), "head") if task.repairs]
    assert len(repaired) >= 15
    assert len({setting.attribute for setting in repaired}) >= 3
    assert len({setting.strength for setting in repaired}) >= 2


def test_smoke_runs_each_kind_of_work_once():
    tasks = grid(profile("smoke"))
    assert [bool(task.repairs) for task in tasks] == [False, True]
    assert tasks[0].setting.strength == 0
