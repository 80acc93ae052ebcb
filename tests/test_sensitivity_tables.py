"""Tables of the grid *sensitivity*: means and paired differences of records made up by hand."""

import math

import pandas as pd
import pytest

from ravl_core import sensitivity_tables as tables
from ravl_core.sensitivity_tables import (
    changes_by_lambda,
    changes_by_model,
    learned,
    precision_by_model,
    precision_by_variation,
    repairs_by_model,
    variations_table,
)
from ravl_core.study import FIGURES_OF_TABLE_3

RECIPES = ("paper", "pull", "controlled")
FIGURES = dict.fromkeys(FIGURES_OF_TABLE_3, 0.5)
GROUPS = {"image_accuracy": [[0.5, 0.5], [0.5, 0.5]]}
VARIATIONS = (
    ("pooling", "early", 0.0), ("pooling", "late", 0.2), ("temperature", "0.07", 0.0), ("temperature", "1", -0.3),
    ("mixture", "balanced", 0.1), ("mixture", "class rare", -0.1),
)  # fmt: skip


def record(seed, precision, batchnorm="training", initial="rn-mini", margin=30.0, gain=0.1, domain="mnist"):
    """A record whose stage 1 has that Precision@10 as it is, and whose repair by RaVL brings `gain` in each figure."""
    setting = {"domain": domain, "initial": initial, "feature": "red rectangle", "attribute": seed % 5}
    setting |= {"strength": 0.95, "seed": seed, "pretrained": None, "n_finetuning": 10, "n_val": 10, "n_test": 10}
    rows = []
    for kind, variation, change in VARIATIONS:
        found = {"precision_at_10": precision + change, "attribute": 1, "agrees": change == 0, "overlap": 1.0}
        row = {"kind": kind, "variation": variation, "n_clusters": 9, "n_regions": 40}
        rows.append(row | {recipe: found for recipe in RECIPES})
    judged = {"precision_at_10": precision}
    looked = {"attribute": 1, "gap": 1.0, "influence": 0.5, "influence_images": 3, "n_clusters": 9, "n_findings": 1}
    looked["methods"] = {"RaVL": judged, "Random": judged}
    made = {"recipe": "x", "assignment": "discovered", "assignment_recall": 1.0, "assignment_precision": 1.0}
    made |= {"learning_rate": 1e-3, "start": "initial", "rounds": 1, "val_worst_group": 0.1, "margin": 1.0}
    repairs = [
        made | {"name": name, "groups": GROUPS} | {figure: value + more for figure, value in FIGURES.items()}
        for name, more in (("standard", 0.0), ("RaVL", gain))
    ]
    metrics = {
        "reached_strength": 0.95,
        "margin": margin,
        "initial": FIGURES,
        "standard": FIGURES | {"groups": GROUPS},
        "discovery": looked,
        "sensitivity": rows,
        "repairs": repairs,
        "finetuning_groups": [[1, 1], [1, 1]],
    }
    budget = {"trained": "head", "batchnorm": batchnorm, "learning_rate": 1e-3}
    return {"arguments": {"setting": setting, "budget": budget}, "metrics": metrics}


@pytest.fixture
def records():
    return [
        record(1, 0.6),
        record(2, 0.8, gain=0.3),
        record(1, 0.4, batchnorm="frozen", gain=-0.2),
        record(3, 0.5, initial="vit-mini", margin=4.0),
    ]


def test_variations_have_a_row_a_model_variation_and_recipe(records):
    table = variations_table(iter(records))
    assert len(table) == 4 * len(VARIATIONS) * len(RECIPES)
    assert table.groupby("position")[["initial", "batchnorm", "margin"]].first().values.tolist() == [
        ["rn-mini", "training", 30.0],
        ["rn-mini", "training", 30.0],
        ["rn-mini", "frozen", 30.0],
        ["vit-mini", "training", 4.0],
    ]
    frozen = table[(table.position == 2) & (table.recipe == "pull")].set_index("variation").precision_at_10
    assert frozen.to_dict() == pytest.approx({name: 0.4 + change for _, name, change in VARIATIONS})


def test_models_that_learned_nothing_are_left_out(records):
    assert set(learned(variations_table(records)).position) == {0, 1, 2}
    assert set(learned(variations_table([record(1, 0.6, margin=10.0), record(2, 0.6, margin=9.9)])).position) == {0}


def test_precision_is_the_mean_over_models_and_the_change_is_paired_with_the_base_of_its_kind(records):
    table = precision_by_variation(learned(variations_table(records)))
    rows = table[table.recipe == "paper"].set_index("variation")
    mean = (0.6 + 0.8 + 0.4) / 3
    assert rows["mean"].to_dict() == pytest.approx({name: mean + change for _, name, change in VARIATIONS})
    expected = {"early": 0, "late": 0.2, "0.07": 0, "1": -0.3, "balanced": 0, "class rare": -0.2}
    assert rows.change.to_dict() == pytest.approx(expected, abs=1e-9)
    assert (rows.n == 3).all() and (rows.low <= rows["mean"]).all() and (rows["mean"] <= rows.high).all()
    assert rows.low["early"] < rows["mean"]["early"] < rows.high["early"]  # three models that differ
    assert rows.change_low["late"] == pytest.approx(0.2) == rows.change_high["late"]  # the same in each


def test_a_pooling_is_compared_with_the_own_one_of_each_architecture():
    one, other = record(1, 0.6), record(2, 0.4, initial="vit-mini")
    for row, name in zip(other["metrics"]["sensitivity"], ("patches", "crop"), strict=False):
        row["variation"] = name
    table = precision_by_variation(variations_table([one, other]), by=["initial"])
    changes = table[(table.recipe == "pull") & (table.kind == "pooling")].set_index(["initial", "variation"]).change
    expected = {
        ("rn-mini", "early"): 0,
        ("rn-mini", "late"): 0.2,
        ("vit-mini", "patches"): 0,
        ("vit-mini", "crop"): 0.2,
    }
    assert changes.to_dict() == pytest.approx(expected, abs=1e-9)


def test_models_are_told_apart_by_architecture_and_batchnorm(records):
    table = precision_by_model(variations_table(records))
    paper = table[table.recipe == "paper"].set_index("model")
    assert paper["mean"].to_dict() == pytest.approx({"rn-mini": 0.7, "rn-mini, BatchNorm frozen": 0.4, "vit-mini": 0.5})
    assert paper.n.to_dict() == {"rn-mini": 2, "rn-mini, BatchNorm frozen": 1, "vit-mini": 1}
    assert list(dict.fromkeys(table.recipe)) == list(RECIPES)


def test_a_setting_keeps_the_repairs_of_each_of_its_models(records):
    table = repairs_by_model(iter(records))
    of_first = table[(table.seed == 1) & (table.method == "RaVL")].set_index("batchnorm").image_overall
    assert of_first.to_dict() == pytest.approx({"training": 0.6, "frozen": 0.3})
    assert len(table) == 4 * 3  # diagnosed, standard, RaVL


def test_changes_are_against_the_standard_model_of_the_same_kind(records):
    table = changes_by_model(repairs_by_model(records))
    worst = table[table.metric == "region_worst_group"].set_index("model")
    expected = {"rn-mini": 20.0, "rn-mini, BatchNorm frozen": -20.0, "vit-mini": 10.0}
    assert worst.difference.to_dict() == pytest.approx(expected)
    assert worst.n.to_dict() == {"rn-mini": 2, "rn-mini, BatchNorm frozen": 1, "vit-mini": 1}
    assert set(table.method) == {"RaVL"}


def test_lambda_is_compared_on_the_settings_that_have_all_three():
    gains = {1: (0.1, 0.2, 0.3), 2: (0.3, 0.2, 0.1), 3: (0.9, 0.9, None), 4: (0.9, 0.9, 0.9)}
    rows = []
    for seed, values in gains.items():
        for method, gain in zip(("standard", *tables.LAMBDAS), (0.0, *values), strict=True):
            if gain is not None:
                own = {"domain": "mnist", "initial": "a", "feature": "b", "attribute": seed, "strength": 0.9}
                own |= {"trained": "head", "seed": seed, "method": method, "precision_at_10": 0.5 if seed == 4 else 0.9}
                figures = dict.fromkeys((*FIGURES_OF_TABLE_3, "aligned_accuracy"), 0.1 + gain)
                rows.append(own | figures)
    table = changes_by_lambda(pd.DataFrame(rows))
    overall = table[table.metric == "image_overall"]
    assert overall.weight.tolist() == [0.5, 0.8, 0.95] and overall.n.tolist() == [2, 2, 2]
    assert overall.difference.tolist() == pytest.approx([20.0, 20.0, 20.0])
    assert not any(math.isnan(end) for end in overall.difference_low)
