"""The grids of a profile: fixed before any result is looked at, every setting with a seed of its own."""

import json
from dataclasses import fields, replace

import pytest

from ravl_core import grids
from ravl_core.domains import load_domain
from ravl_core.grids import EVERY, GRIDS, KINDS, Block, Chosen, grid, repairs_of
from ravl_core.mitigation import RECIPES, Budget
from ravl_core.profiles import PROFILES, profile
from ravl_core.randomness import stream
from ravl_core.records import record_path
from ravl_core.repair_rows import CHOOSE_SEEDS, CHOSEN_IDEAS, IDEAS, REPAIRED_SEEDS, SEARCH_SEEDS, TOWER_SEEDS
from ravl_core.repairs import Repair, Words
from ravl_core.settings import plant_correlation

SIZES = ("n_finetuning", "n_val", "n_test")
every_grid = pytest.mark.parametrize("kind", KINDS)
every_profile = pytest.mark.parametrize("chosen", PROFILES.values(), ids=lambda chosen: chosen.name)

RICH = Block(
    "digits", (2, 5), (0.0, 0.9), first_seed=100, features=("red rectangle", "blue dot"), initials=("one", "two"),
    repetitions=3, repairs=(Repair(),),
)  # fmt: skip
PLAIN = Block("digits", (7,), (0.5,), first_seed=0, repetitions=2)


@pytest.fixture
def demo_of(monkeypatch):
    """The grid of the demo profile, were it made of these blocks."""

    def tasks(*blocks, chosen=PROFILES["demo"]):
        monkeypatch.setitem(grids.GRIDS["settings"], "demo", blocks)
        return grid(chosen)

    return tasks


def what(task):
    """What is planted where, without the seed and the numbers of images."""
    return tuple(
        getattr(task.setting, field.name) for field in fields(task.setting) if field.name not in (*SIZES, "seed")
    )


# ---- how a grid is made of blocks ----


def test_a_block_holds_every_combination_in_every_repetition(demo_of):
    tasks = demo_of(RICH)
    assert len(tasks) == 3 * 2 * 2 * 2 * 2
    assert len({what(task) for task in tasks}) == len(tasks) / 3
    assert {task.setting.attribute for task in tasks} == {2, 5} and {task.setting.strength for task in tasks} == {
        0,
        0.9,
    }
    assert {task.setting.feature for task in tasks} == set(RICH.features)
    assert {task.setting.initial for task in tasks} == {"one", "two"}
    assert [task.setting.seed for task in tasks] == list(range(100, 148))
    assert all(task.repairs == (Repair(),) for task in tasks)


def test_blocks_take_turns_so_that_half_a_run_holds_a_little_of_everything(demo_of):
    tasks = demo_of(RICH, PLAIN)
    seeds = [task.setting.seed for task in tasks]
    assert seeds == [*range(100, 116), 0, *range(116, 132), 1, *range(132, 148)]
    assert len({what(task) for task in tasks[:17]}) == len({what(task) for task in tasks})


def test_more_repetitions_leave_the_first_ones_as_they_were(demo_of):
    fewer = demo_of(replace(RICH, repetitions=1))
    assert demo_of(RICH)[: len(fewer)] == fewer


def test_a_block_may_ask_for_less_than_the_profile_and_gets_no_more(demo_of):
    chosen = replace(profile("demo"), epochs=4, n_test=500)
    for asked, got in ((2, 2), (9, 4)):
        (task,) = demo_of(replace(PLAIN, repetitions=1, budget=Budget(epochs=asked)), chosen=chosen)
        assert task.budget == Budget(epochs=got, precision=chosen.precision)
    for asked, got in ((100, 100), (2000, 500)):
        (task,) = demo_of(replace(PLAIN, repetitions=1, n_test=asked), chosen=chosen)
        assert (task.setting.n_finetuning, task.setting.n_test) == (chosen.n_finetuning, got)
    for asked, got in ((500, 500), (9999, chosen.n_finetuning)):
        (task,) = demo_of(replace(PLAIN, repetitions=1, n_finetuning=asked), chosen=chosen)
        assert task.setting.n_finetuning == got


def test_a_block_says_what_is_trained(demo_of):
    tower = replace(PLAIN, budget=Budget(trained="tower"), repetitions=1)
    assert [task.budget.trained for task in demo_of(PLAIN, tower)] == ["head", "tower", "head"]


# ---- and of chosen settings ----


@pytest.fixture
def repairs_of_demo(demo_of, monkeypatch):
    """The demo profile's grid of repairs, were its settings those of RICH and PLAIN and its parts these."""

    def tasks(*parts, chosen=PROFILES["demo"]):
        demo_of(RICH, replace(PLAIN, budget=Budget(epochs=3)))
        monkeypatch.setitem(grids.GRIDS["repairs"], "demo", parts)
        return grid(chosen, "repairs")

    return tasks


def test_chosen_settings_are_those_that_discovery_is_judged_on(repairs_of_demo):
    rows = Repair("one", "standard"), Repair("two")
    tasks = repairs_of_demo(Chosen((131, 0, 105), rows))
    settings = {task.setting.seed: task for task in grid(PROFILES["demo"])}
    assert [task.setting.seed for task in tasks] == [105, 0, 131]  # in the grid's order
    for task in tasks:
        assert task == replace(settings[task.setting.seed], repairs=rows)
    assert tasks[1].budget.epochs == 3


def test_a_budget_of_their_own_replaces_that_of_the_settings_but_for_its_precision(repairs_of_demo):
    chosen = replace(profile("demo"), precision="bfloat16")
    part = Chosen((0, 105), (Repair(),), Budget(epochs=4, trained="tower"))
    for task in repairs_of_demo(part, chosen=chosen):
        assert task.budget == Budget(epochs=4, trained="tower", precision="bfloat16")


def test_parts_follow_one_another_and_one_without_rows_has_no_task(repairs_of_demo):
    one, two = (Repair("one"),), (Repair("two"),)
    block = replace(PLAIN, first_seed=900, repairs=(Repair("block"),))
    tasks = repairs_of_demo(Chosen((105, 0), one), Chosen((105, 0), ()), block, Chosen((0,), two))
    assert [(task.setting.seed, task.repairs[0].name) for task in tasks] == [
        (105, "one"), (0, "one"), (900, "block"), (0, "two"), (901, "block"),
    ]  # fmt: skip


def test_spurious_aware_alone_is_told_what_the_feature_is_called():
    rows = Repair("a", "spurious_aware", {"as_released": True}), Repair("b", "ravl", {"clip_weight": 0.5}), Repair("c")
    told = repairs_of("blue dot", rows)
    assert told[0] == replace(rows[0], options={"as_released": True, "feature": "blue dot"})
    assert told[1:] == rows[1:] and rows[0].options == {"as_released": True}


def test_an_unknown_grid_is_refused():
    with pytest.raises(ValueError, match="kind: expected one of 'settings', .*, got 'repair'; did you mean 'repairs'"):
        grid(profile("smoke"), "repair")


# ---- the grids there are ----


def test_every_profile_has_every_grid():
    assert set(GRIDS) | {"stability"} == set(KINDS)
    assert all(chosen.keys() == PROFILES.keys() for chosen in (*GRIDS.values(), EVERY))


@every_profile
def test_the_grid_of_stability_is_a_part_of_the_settings(chosen):
    settings, tried_again = grid(chosen), grid(chosen, "stability")
    assert all(task.stability for task in tried_again) and not any(task.stability for task in settings)
    assert tuple(replace(task, stability=False) for task in tried_again) == settings[:: EVERY[chosen.name]]


@every_grid
@every_profile
def test_a_grid_is_the_same_each_time_and_within_the_budget_of_its_profile(chosen, kind):
    tasks = grid(chosen, kind)
    assert tasks and tasks == grid(chosen, kind)
    for task in tasks:
        assert all(1 <= getattr(task.setting, name) <= getattr(chosen, name) for name in SIZES)
        assert 1 <= task.budget.epochs <= chosen.epochs and task.budget.precision == chosen.precision


@every_profile
def test_a_seed_belongs_to_one_setting(chosen):
    """Also across grids: repairs may be of settings that discovery is judged on, with their seeds."""
    settings = {}
    for kind in KINDS:
        for task in grid(chosen, kind):
            assert settings.setdefault(task.setting.seed, what(task)) == what(task)
    seeds = [task.setting.seed for task in grid(chosen, "settings")]
    assert len(set(seeds)) == len(seeds)


@every_grid
@every_profile
def test_arguments_are_plain_and_no_two_tasks_share_a_record_or_a_name(chosen, kind, tmp_path):
    tasks = grid(chosen, kind)
    assert len({record_path(tmp_path, task.arguments) for task in tasks}) == len(tasks)
    assert len({str(task) for task in tasks}) == len(tasks)  # failures are reported by it
    for task in tasks:
        read = json.loads(json.dumps(task.arguments, allow_nan=False))
        assert record_path(tmp_path, read) == record_path(tmp_path, task.arguments)


@every_profile
def test_discovery_is_judged_on_planted_settings_and_on_controls(chosen):
    tasks = grid(chosen, "settings")
    assert {task.setting.strength > 0 for task in tasks} == {True, False}
    assert all(task.repairs == () for task in tasks)


@every_profile
def test_repairs_are_of_planted_settings_with_and_without_stage_1(chosen):
    tasks = grid(chosen, "repairs")
    assert all(task.repairs and task.setting.strength > 0 for task in tasks)
    sources = {repair.assignment for task in tasks for repair in task.repairs if repair.recipe == "ravl"}
    assert {"discovered", "true", "none"} <= sources


@every_profile
def test_every_setting_that_is_repaired_has_a_standard_row_and_names_tell_its_rows_apart(chosen):
    """Several tasks of one setting and budget make one block of rows; see `ravl_core.repair_tables`."""
    names = {}
    for task in grid(chosen, "repairs"):
        names.setdefault((task.setting.seed, task.budget), []).extend(repair.name for repair in task.repairs)
    for of_setting in names.values():
        assert "standard" in of_setting and len(set(of_setting)) == len(of_setting)


@pytest.mark.parametrize("kind", ["search", "repairs"])
@every_profile
def test_every_row_can_be_run_and_is_told_the_feature_where_it_needs_a_name(chosen, kind):
    for task in grid(chosen, kind):
        for repair in task.repairs:
            images = {"descriptions": [Words(("hat",), ())]} if repair.recipe == "language_guided" else {}
            RECIPES[repair.recipe](**repair.options, **images)
            asks = repair.recipe == "spurious_aware"
            assert repair.options.get("feature") == (task.setting.feature if asks else None)


def test_the_full_grids_are_of_the_chosen_seeds():
    """The search has settings of its own, whole towers are trained on some of table 3's, and digits stand apart."""
    search, repaired = (grid(PROFILES["full"], kind) for kind in ("search", "repairs"))
    assert sorted(task.setting.seed for task in search) == list(SEARCH_SEEDS)
    towers = [task for task in repaired if task.budget.trained == "tower"]
    assert sorted(task.setting.seed for task in towers) == list(TOWER_SEEDS)
    digits = [task for task in repaired if task.setting.domain == "digits"]
    assert sorted(task.setting.attribute for task in digits) == list(range(10))
    assert {task.setting.seed for task in repaired if task not in digits} == set(REPAIRED_SEEDS)
    judged = {task.setting: task.budget for task in grid(PROFILES["full"])}
    assert not any(task.setting in judged for task in digits)
    for task in (*search, *repaired):
        assert task in digits or task in towers or task.budget == judged[task.setting]


@every_profile
def test_sensitivity_is_asked_of_planted_settings_of_its_own_grid_alone(chosen):
    for kind in KINDS:
        assert {task.sensitivity for task in grid(chosen, kind)} == {kind == "sensitivity"}
    for task in grid(chosen, "sensitivity"):
        assert task.setting.strength > 0 and {"standard", "RaVL"} <= {repair.name for repair in task.repairs}


def test_every_architecture_has_as_many_settings_and_the_first_has_them_with_frozen_statistics_too():
    tasks = grid(PROFILES["full"], "sensitivity")
    cells = {}
    for task in tasks:
        model = task.setting.initial, task.budget.batchnorm
        cells.setdefault(model, []).append((task.setting.domain, task.setting.attribute, task.setting.seed))
    assert set(cells) == {(name, "training") for name in grids.THREE} | {("rn-mini", "frozen")}
    assert all(len(own) == 15 for own in cells.values())
    assert cells["rn-mini", "training"] == cells["rn-mini", "frozen"]
    planted = [{cell[:2] for cell in own} for own in cells.values()]
    assert all(own == planted[0] for own in planted)


def test_of_the_full_grid_ideas_are_tried_on_one_half_and_the_chosen_ones_reported_on_the_other():
    names = {}
    for task in grid(PROFILES["full"], "repairs"):
        if task.budget.trained == "head" and task.setting.domain != "digits":
            names.setdefault(task.setting.seed, set()).update(repair.name for repair in task.repairs)
    ideas, reported = {row.name for row in IDEAS}, {row.name for row in CHOSEN_IDEAS}
    for seed, tried in names.items():
        assert tried & ideas == (ideas if seed in CHOOSE_SEEDS else reported)


DOMAINS = {task.setting.domain for chosen in PROFILES.values() for kind in KINDS for task in grid(chosen, kind)}


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_so_many_images_of_a_domain_can_show_what_is_planted(domain):
    try:
        source = load_domain(domain)
    except OSError as error:
        pytest.skip(f"the data of {domain} are not here: {error}")
    cells = set()
    for chosen in PROFILES.values():
        for setting in (task.setting for kind in KINDS for task in grid(chosen, kind)):
            if setting.domain == domain:
                assert setting.feature in source.features and 0 <= setting.attribute < len(source.class_names)
                cells.add((setting.n_finetuning, setting.strength))
    for n_images, strength in sorted(cells):
        plant_correlation(n_images, len(source.class_names), 0, strength, stream(0, domain))


@every_grid
def test_a_larger_profile_never_does_less(kind):
    smoke, demo, full = (grid(PROFILES[name], kind) for name in ("smoke", "demo", "full"))
    assert len(smoke) <= len(demo) <= len(full)
    for less, more in ((smoke, demo), (demo, full)):
        assert sum(len(task.repairs) for task in less) <= sum(len(task.repairs) for task in more)
