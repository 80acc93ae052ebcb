"""The rows of table 3: fixed before their results, chosen by rules that can be run again on committed tables."""

import hashlib
import math
from dataclasses import fields, replace

import numpy as np
import pandas
import pytest

from ravl_core import repair_rows as rows
from ravl_core.grids import grid
from ravl_core.mitigation import RECIPES
from ravl_core.paths import PROJECT
from ravl_core.profiles import PROFILES
from ravl_core.repair_rows import LEARNING_RATES, RATES, SEARCHED, chosen_rates, search_table, stratified
from ravl_core.repairs import Words
from ravl_core.study import half_of

REFERENCE = PROJECT / "results" / "full"
TUPLES = (
    "SEARCHED", "SEARCH_ROWS", "HEADLINE", "ORACLES", "OURS", "READINGS", "IDEAS", "REPORTED", "ROWS", "CHOSEN_IDEAS",
    "TOWER_ROWS", "FEW_ROWS", "COMPETENT_ROWS",
)  # fmt: skip
SEEDS = ("SEARCH_SEEDS", "CHOOSE_SEEDS", "REPORT_SEEDS", "TOWER_SEEDS", "REPAIRED_SEEDS")


@pytest.fixture(scope="module")
def settings():
    """The committed table of the settings that discovery was judged on, a dict each."""
    return pandas.read_csv(REFERENCE / "settings.csv").to_dict("records")


def named(name):
    return {row.name: row for row in getattr(rows, name)}


# ---- which settings ----


def strength_band(strength):
    return "low" if strength < 0.85 else "middle" if strength < 0.97 else "high"


def smallest_hash(cells):
    """Of each cell's seeds the one with the smallest SHA-256."""
    return sorted(min(seeds, key=lambda s: hashlib.sha256(f"repairs {s}".encode()).hexdigest()) for seeds in cells)


def drawn_by_loop(settings):
    """Seeds of the search and of table 3, from their rule."""
    cells, weak, searched = {}, {}, {}
    valid = [one for one in settings if one["strength"] > 0 and one["margin"] >= 10]
    for one in valid:
        cell = one["domain"], one["initial"], one["half"], strength_band(one["strength"])
        if one["precision_at_10"] > 0.6:
            cells.setdefault(cell, []).append(one["seed"])
        else:
            weak.setdefault((one["domain"], one["half"]), []).append(one["seed"])
    repaired = sorted(smallest_hash(cells.values()) + smallest_hash(weak.values()))
    for (domain, initial, half, band), seeds in cells.items():
        left = [seed for seed in seeds if seed not in repaired]
        if band == "middle" and half == "choose" and left:
            searched[domain, initial] = left
    return smallest_hash(searched.values()), repaired


def made_up_settings(n=1500, seed=0):
    """A table of settings that `stratified` may draw from."""
    random = np.random.default_rng(seed)
    columns = {
        "domain": random.choice(["mnist", "coco_objects"], n),
        "initial": random.choice(["rn-mini", "rn-mini-deep"], n),
        "half": random.choice(["choose", "report"], n),
        "strength": random.choice([0.0, 0.7, 0.8, 0.9, 0.95, 0.99], n),
        "margin": np.where(random.random(n) < 0.1, np.nan, random.uniform(0, 40, n)),
        "precision_at_10": random.integers(0, 11, n) / 10,
        "seed": random.permutation(n),
    }
    return pandas.DataFrame(columns)


@pytest.mark.parametrize("seed", range(4))
def test_settings_are_drawn_by_the_rule(seed):
    settings = made_up_settings(seed=seed)
    edge = ["domain", "strength", "margin", "precision_at_10"]
    settings.loc[:1, edge] = ["photos", 0.9, 10.0, 0.6]  # just valid; not quite found
    search, repaired = stratified(settings)
    assert (search, repaired) == drawn_by_loop(settings.to_dict("records"))
    assert (
        len(search) == 4 and len(repaired) == 24 + 4 + settings.half[:2].nunique() and not set(search) & set(repaired)
    )
    assert stratified(settings.sample(frac=1, random_state=seed)) == (search, repaired)


def test_the_seeds_are_those_that_the_rule_draws_from_the_committed_table(settings):
    search, repaired = stratified(pandas.DataFrame(settings))
    assert search == list(rows.SEARCH_SEEDS) and repaired == list(rows.REPAIRED_SEEDS)
    assert drawn_by_loop(settings) == (search, repaired)


def test_halves_are_those_of_the_settings_themselves(settings):
    halves = {task.setting.seed: half_of(task.arguments["setting"]) for task in grid(PROFILES["full"])}
    assert {one["seed"]: one["half"] for one in settings if one["trained"] == "head"}.items() <= halves.items()
    for half, seeds in (("choose", rows.CHOOSE_SEEDS), ("report", rows.REPORT_SEEDS)):
        assert [seed for seed in rows.REPAIRED_SEEDS if halves[seed] == half] == list(seeds)


def test_whole_towers_are_trained_in_the_middle_band_where_stage_1_found_it(settings):
    """Of the half for reporting."""
    found = {
        one["seed"] for one in settings if one["precision_at_10"] > 0.6 and strength_band(one["strength"]) == "middle"
    }
    assert [seed for seed in rows.REPORT_SEEDS if seed in found] == list(rows.TOWER_SEEDS)


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_ascending_and_the_search_shares_none(name):
    seeds = getattr(rows, name)
    assert list(seeds) == sorted(set(seeds))
    assert name == "SEARCH_SEEDS" or not set(seeds) & set(rows.SEARCH_SEEDS)


# ---- which rows ----


@pytest.mark.parametrize("name", TUPLES)
def test_names_tell_rows_apart_and_every_row_can_be_made(name):
    listed = getattr(rows, name)
    assert len(named(name)) == len(listed)
    for row in listed:
        told = {"spurious_aware": {"feature": "hat"}, "language_guided": {"descriptions": [Words(("hat",), ())]}}
        options = row.options | told.get(row.recipe, {})
        assert options.keys() <= {field.name for field in fields(RECIPES[row.recipe])}
        RECIPES[row.recipe](**options)


def test_equal_rows_have_one_name_and_equal_names_one_row():
    """Rows of all grids together: what a row is called says what it is."""
    every = {}
    for name in TUPLES:
        for row in getattr(rows, name) if name != "SEARCHED" else ():
            assert every.setdefault(row.name, row) == row
    plain = [str(replace(row, name="", followed=False)) for row in every.values() if ", learning rate" not in row.name]
    assert len(set(plain)) == len(plain)


def test_the_search_tries_every_recipe_at_three_rates():
    assert len(rows.SEARCH_ROWS) == 9 * 3 and len(SEARCHED) == 9 and len(RATES) == 3
    asked = [(row.recipe, tuple(row.options.items()), row.learning_rate) for row in rows.SEARCH_ROWS]
    assert asked == [(one.recipe, tuple(one.options.items()), rate) for one in SEARCHED for rate in (3e-4, 1e-3, 3e-3)]
    guided = {"gals", "language_guided"}  # by language; neither is among the baselines of RaVL's table 3
    assert {row.recipe for row in SEARCHED} == set(RECIPES) - guided
    assert not any(row.followed for row in rows.SEARCH_ROWS)
    assert rows.SEARCH_ROWS[0].name == "standard, learning rate 0.0003"


def test_every_row_has_the_rate_that_was_chosen_for_its_recipe():
    assert LEARNING_RATES.keys() == {one.name for one in SEARCHED} and set(LEARNING_RATES.values()) <= set(RATES)
    listed = (*rows.ROWS, *rows.TOWER_ROWS, *rows.FEW_ROWS, *rows.COMPETENT_ROWS, *rows.CHOSEN_IDEAS)
    for row in (row for row in listed if row != rows.LANGUAGE_GUIDED):  # which came after the search
        (base,) = (
            one
            for one in SEARCHED
            if one.recipe == row.recipe
            and one.options.get("as_released") == row.options.get("as_released")
            and (one.recipe != "swaps" or one.options.get("clip_weight") == row.options.get("clip_weight"))
        )
        assert row.learning_rate == LEARNING_RATES[base.name]
        assert row.name == base.name or row.name.startswith(f"{base.name}, ")


def test_rates_by_name_reach_the_rows(monkeypatch):
    """Each recipe's own rate: those that are chosen now may all be equal."""
    rates = {one.name: rate for one, rate in zip(SEARCHED, np.linspace(1e-4, 9e-4, 9), strict=True)}
    monkeypatch.setattr(rows, "LEARNING_RATES", rates)
    for one in SEARCHED:
        assert rows._row(one).learning_rate == rates[one.name]
        assert rows._variant(one, "other", "true", regions="late").learning_rate == rates[one.name]


def test_a_variant_differs_in_what_it_names():
    base = rows.BOTH
    variant = rows._variant(base, "other", "true", feather=0.2)
    rate = LEARNING_RATES["swaps + RaVL"]
    changed = {"name": "swaps + RaVL, other", "options": {"feather": 0.2}, "assignment": "true", "learning_rate": rate}
    assert variant == replace(base, **changed, followed=False) and base.options == {}
    assert rows._variant(rows.SWAPS, "other", feather=0.2).options == {"clip_weight": 1.0, "feather": 0.2}


def test_table_3_holds_what_it_is_for():
    assert list(named("HEADLINE")) == [
        "standard", "upsampled", "VL-ERM", "VL-GDRO", "Spurious-Aware", "Spurious-Aware, as released", "RaVL",
    ]  # fmt: skip
    told = "upsampled", "VL-GDRO", "Spurious-Aware", "RaVL", "swaps + RaVL"  # what has a use for regions or groups
    assert list(named("ORACLES")) == [f"{name}, true regions" for name in told]
    assert {row.assignment for row in rows.ORACLES} == {"true"}
    assert (rows.WITHOUT_STAGE_1.recipe, rows.WITHOUT_STAGE_1.assignment) == ("ravl", "none")
    assert rows.LATE.options == {"regions": "late"} and rows.LATE.recipe == "ravl"
    assert [row.name for row in rows.REPORTED if row.followed] == ["RaVL", "swaps", "swaps + RaVL"]
    assert [named("REPORTED")[name].options for name in ("RaVL", "swaps", "swaps + RaVL")] == [
        {},
        {"clip_weight": 1},
        {},
    ]
    late = {"Language-guided"}  # came after the reference run's table
    assert late <= set(named("FEW_ROWS")) and set(named("FEW_ROWS")) - late <= set(named("REPORTED"))
    assert set(named("REPORTED")) <= set(named("ROWS"))
    assert set(named("HEADLINE")) <= set(named("FEW_ROWS")) and "RaVL, true regions" in named("FEW_ROWS")
    assert list(named("COMPETENT_ROWS")) == [
        "standard", "upsampled", "VL-GDRO", "RaVL", "RaVL, no spurious regions", "swaps", "swaps + RaVL",
    ]  # fmt: skip
    assert list(named("TOWER_ROWS")) == [
        "standard", "RaVL", "RaVL, late regions", "swaps + RaVL", "swaps + RaVL, late regions",
    ]  # fmt: skip


def test_ideas_are_ours_and_the_chosen_ones_are_some_of_them():
    ideas = named("IDEAS")
    assert all(row in rows.IDEAS for row in rows.CHOSEN_IDEAS)
    assert not ideas.keys() & named("REPORTED").keys() and not ideas.keys() & named("READINGS").keys()
    assert ideas["RaVL, twice"].rounds == 2 and ideas["RaVL, from the fine-tuned model"].start == "fine-tuned"
    assert ideas["RaVL, λ from 0"].options == {"first_clip_weight": 0.0}
    assert {row.assignment for row in rows.IDEAS} == {"discovered", "significant", "fine"}


# ---- what the search chooses ----


def made_up_search():
    """A table of the search: each recipe is best at a rate of its own, and noise hides that here and there."""
    random, best, found = np.random.default_rng(0), {}, []
    for at, one in enumerate(SEARCHED):
        best[one.name] = RATES[at % 3]
        for rate in RATES:
            for setting in range(12):
                value = 0.4 + 0.1 * (rate == best[one.name]) + 0.05 * random.normal()
                found.append(
                    {"method": f"{one.name}, learning rate {rate:g}", "learning_rate": rate, "setting": setting}
                )
                found[-1]["val_worst_group"] = value
    found.append({"method": "diagnosed", "learning_rate": 3e-4, "setting": 0, "val_worst_group": math.nan})
    return pandas.DataFrame(found), best


def test_of_each_recipe_the_rate_with_the_best_mean_is_chosen():
    search, best = made_up_search()
    assert chosen_rates(search) == best
    assert chosen_rates(search.sample(frac=1, random_state=1)) == best
    assert all(isinstance(rate, float) for rate in chosen_rates(search).values())


def test_a_rate_without_any_value_is_not_chosen_and_ties_go_to_the_smaller():
    search, best = made_up_search()
    own = search.method.str.startswith("standard,")
    search.loc[own & (search.learning_rate == 3e-4), "val_worst_group"] = math.nan
    search.loc[own & (search.learning_rate > 3e-4), "val_worst_group"] = 0.5
    assert chosen_rates(search) == best | {"standard": 1e-3}


def test_recipes_whose_names_begin_alike_are_kept_apart():
    search, _ = made_up_search()
    search.loc[search.method == "Spurious-Aware, as released, learning rate 0.0003", "val_worst_group"] = 1.0
    search.loc[search.method == "Spurious-Aware, learning rate 0.003", "val_worst_group"] = 1.0
    found = chosen_rates(search)
    assert (found["Spurious-Aware"], found["Spurious-Aware, as released"]) == (3e-3, 3e-4)


def test_a_recipe_that_was_not_searched_is_refused():
    search, _ = made_up_search()
    with pytest.raises(ValueError, match="scores: expected at least one candidate"):
        chosen_rates(search[~search.method.str.startswith("VL-GDRO")])


def test_the_table_of_the_search_holds_the_means_that_the_choice_is_made_by():
    search, best = made_up_search()
    shown = search_table(search.sample(frac=1, random_state=2))
    assert shown.index.name == "recipe" and list(shown.index) == [one.name for one in SEARCHED]
    assert list(shown.columns) == ["0.0003", "0.001", "0.003"]
    for one in SEARCHED:
        for rate in RATES:
            own = [row["val_worst_group"] for row in search.to_dict("records")
                   if row["method"] == f"{one.name}, learning rate {rate:g}"]  # fmt: skip
            assert shown.loc[one.name, f"{rate:g}"] == pytest.approx(sum(own) / 12)
        assert float(shown.loc[one.name].idxmax()) == best[one.name]


def test_the_rates_are_those_that_the_committed_search_chose():
    if not (REFERENCE / "search.csv").is_file():
        pytest.skip("the search has not been run yet: make reproduce PROFILE=full")
    assert chosen_rates(pandas.read_csv(REFERENCE / "search.csv")) == LEARNING_RATES
