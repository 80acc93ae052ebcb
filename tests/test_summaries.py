"""From records to the paper's tables, against plain loops over the records themselves."""

import math

import numpy as np
import pandas
import pytest

from ravl_core import paths, summaries
from ravl_core.settings import THRESHOLDS
from ravl_core.study import FIGURES_OF_TABLE_3, table

KEYS = ["trained", "strength", "attribute", "seed", "recipe", "assignment"]


def figures(random):
    return {name: float(random.uniform(0.2, 1)) for name in FIGURES_OF_TABLE_3}


def made_up(attribute, strength, seed, trained="head", domain="digits"):
    """A record as a study leaves it, with numbers that only its seed and the trained part decide."""
    random = np.random.default_rng([seed, trained == "tower"])
    found = random.random() < 0.8
    return {
        "arguments": {
            "setting": {"domain": domain, "attribute": attribute, "strength": strength, "seed": seed},
            "budget": {"trained": trained, "epochs": 5},
        },
        "metrics": {
            "reached_strength": strength + 0.003,
            "margin": float(random.uniform(-5, 60)),
            "initial": figures(random),
            "standard": figures(random) | {"final_loss": 1.0, "groups": {"image_count": [[1, 2]]}},
            "discovery": {
                "n_findings": int(found),
                "n_clusters": 21,
                "methods": {
                    "RaVL": {"precision_at_10": float(random.integers(11) / 10) if found else 0.0},
                    "Random": {"precision_at_10": float(random.uniform(0, 0.2))},
                },
                "attribute": attribute if found else None,
                "gap": 0.4 if found else None,
                "influence": 0.7 if found else None,
                "influence_images": 30 * found,
            },
            "repairs": [{"name": "RaVL", "recipe": "ravl", "assignment": "true"} | figures(random)],
        },
    }


@pytest.fixture(scope="module")
def finished():
    """Several attributes, strengths and trained parts, with numbers missing here and there."""
    made = []
    for seed, (strength, attribute) in enumerate((v, a) for v in (0.0, 0.8, 0.9, 0.95) for a in (7, 0, 3)):
        made.append(made_up(attribute, strength, seed))
        if strength == 0.9:
            made.append(made_up(attribute, strength, seed, "tower"))
    made[1]["metrics"]["margin"] = made[5]["metrics"]["margin"] = None
    made[-2]["metrics"]["standard"]["image_worst_group"] = None
    return made[::-1]


@pytest.fixture
def whole(finished):
    return table(finished)


def of_heads(finished):
    return [record for record in finished if record["arguments"]["budget"]["trained"] == "head"]


def strength_of(record):
    return record["arguments"]["setting"]["strength"]


def margin_of(record):
    margin = record["metrics"]["margin"]
    return math.nan if margin is None else margin


def setting_of(record):
    setting = record["arguments"]["setting"]
    return record["arguments"]["budget"]["trained"], setting["strength"], setting["attribute"], setting["seed"]


def same(one, other):
    return one == other or (one is None and math.isnan(other))


# ---- records as a table ----


def test_a_row_for_each_setting_and_its_standard_model(finished, whole):
    """What it was repaired by has a table of its own, see `ravl_core.repair_tables`."""
    expected = {(*setting_of(record), "standard", "none") for record in finished}
    assert len(whole) == len(expected) == 12 + 3
    assert set(whole[KEYS].itertuples(index=False, name=None)) == expected


def test_rows_are_ordered_whatever_the_order_of_the_records(finished, whole):
    assert whole[KEYS].apply(tuple, axis=1).is_monotonic_increasing
    assert list(whole.index) == list(range(len(whole)))
    order = np.random.default_rng(0).permutation(len(finished))
    shuffled = table(finished[i] for i in order)
    pandas.testing.assert_frame_equal(shuffled.drop(columns="position"), whole.drop(columns="position"))
    assert np.array_equal(order[shuffled.position], whole.position)


def test_the_table_holds_the_numbers_of_the_records(finished, whole):
    records = {setting_of(record): record for record in finished}
    for row in whole.to_dict("records"):
        values = records[row["trained"], row["strength"], row["attribute"], row["seed"]]["metrics"]
        assert all(same(values["standard"][name], row[name]) for name in FIGURES_OF_TABLE_3)
        assert same(values["margin"] and round(values["margin"], 9), row["margin"])
        assert row["reached_strength"] == values["reached_strength"]
        assert all(row[f"initial_{name}"] == values["initial"][name] for name in FIGURES_OF_TABLE_3)
        discovery = values["discovery"].copy()
        methods = discovery.pop("methods")
        assert row["precision_at_10"] == methods["RaVL"]["precision_at_10"]
        assert row["random_precision_at_10"] == methods["Random"]["precision_at_10"]
        assert same(discovery.pop("attribute"), row["found_attribute"])
        assert all(same(value, row[name]) for name, value in discovery.items())


def test_a_margin_of_ten_points_is_valid_at_ten():
    record = made_up(3, 0.9, 1)
    record["metrics"]["margin"] = 9.999999999999998
    assert summaries.validity_table(table([record])).loc[0.9, "T = 10"] == 1


def test_columns_are_plain_values_and_accuracies_are_those_after_training(whole):
    assert not {"groups", "final_loss", "options", "initial", "epochs", "repairs"} & set(whole.columns)
    assert {*KEYS, "margin", "precision_at_10", "domain", *FIGURES_OF_TABLE_3} <= set(whole.columns)
    assert whole.columns.is_unique


def test_none_is_a_number_that_is_missing_even_in_a_whole_column(finished):
    nothing = made_up(3, 0.9, 1)
    nothing["metrics"]["discovery"] |= {"attribute": None, "gap": None, "influence": None}
    nothing["metrics"]["margin"] = None
    rows = table([nothing])
    for column in ("found_attribute", "gap", "influence", "margin"):
        assert rows[column].dtype == float and rows[column].isna().all()
    assert summaries.validity_table(rows).loc[0.9].tolist() == [1, 0, 0, 0, 0]


def test_no_record_is_an_empty_table_that_can_be_asked():
    empty = table([])
    assert len(empty) == 0 and list(empty.columns) == KEYS
    assert len(summaries.of_standard_models(empty)) == 0


def test_a_table_survives_a_file(whole, tmp_path):
    """An assignment is called none, which a reader of csv files could take for a missing value."""
    whole.to_csv(tmp_path / "settings.csv", index=False)
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "settings.csv"), whole, check_dtype=False)


# ---- the reference run ----


def test_the_reference_is_the_file_of_the_full_run(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setenv("RAVL_HOME", str(tmp_path / "elsewhere"))  # where results go, not where the reference lies
    (tmp_path / "results" / "full").mkdir(parents=True)
    whole.to_csv(tmp_path / "results" / "full" / "settings.csv", index=False)
    read = summaries.reference_table()
    pandas.testing.assert_frame_equal(read, whole, check_dtype=False)


def test_each_grid_has_a_reference_of_its_own(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    (tmp_path / "results" / "full").mkdir(parents=True)
    whole[:3].to_csv(tmp_path / "results" / "full" / "repairs.csv", index=False)
    pandas.testing.assert_frame_equal(summaries.reference_table("repairs"), whole[:3], check_dtype=False)
    with pytest.raises(FileNotFoundError, match="settings.csv"):
        summaries.reference_table()


def test_a_missing_reference_names_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    with pytest.raises(FileNotFoundError, match="results/full/settings.csv .*make reproduce PROFILE=full"):
        summaries.reference_table()


# ---- validity ----


def test_standard_models_are_one_row_a_setting(finished, whole):
    models = summaries.of_standard_models(whole)
    assert sorted(models.seed) == sorted(record["arguments"]["setting"]["seed"] for record in of_heads(finished))
    assert set(models.recipe) == {"standard"}
    towers = summaries.of_standard_models(whole, trained="tower")
    assert len(towers) == 3 and set(towers.strength) == {0.9}


def test_validity_counts_settings_of_each_strength(finished, whole):
    counts = summaries.validity_table(whole)
    assert list(counts.index) == [0.0, 0.8, 0.9, 0.95]
    assert list(counts.columns) == ["settings", *(f"T = {t}" for t in THRESHOLDS)]
    for strength in counts.index:
        margins = [margin_of(record) for record in of_heads(finished) if strength_of(record) == strength]
        expected = [len(margins)] + [sum(margin >= t for margin in margins) for t in THRESHOLDS]
        assert counts.loc[strength].tolist() == expected
    assert counts["T = 10"].sum() > counts["T = 40"].sum() > 0  # or the test would show little


def test_a_margin_at_the_threshold_is_valid():
    record = made_up(3, 0.9, 1)
    record["metrics"]["margin"] = 20.0
    assert summaries.validity_table(table([record]), thresholds=[10, 20, 21]).loc[0.9].tolist() == [1, 1, 1, 0]


def test_validity_is_counted_by_whatever_is_asked_for():
    made = [made_up(3, 0.9, seed, domain=domain) for seed in range(6) for domain in ("digits", "photos")]
    counts = summaries.validity_table(table(made), by=["domain", "strength"], thresholds=[10])
    assert counts.index.tolist() == [("digits", 0.9), ("photos", 0.9)]
    valid = sum(margin_of(record) >= 10 for record in made[::2])
    assert counts.loc[("photos", 0.9)].tolist() == [6, valid]


def test_methods_are_judged_on_the_first_valid_settings_of_the_grid(finished):
    order = np.random.default_rng(1).permutation(len(finished))
    given = [finished[i] for i in order]
    kept = [
        at
        for at, record in enumerate(given)
        if setting_of(record)[0] == "head" and strength_of(record) > 0 and margin_of(record) >= 10
    ]
    assert len(kept) > 3
    assert summaries.evaluated(table(given)).position.tolist() == kept
    assert summaries.evaluated(table(given), most=2).position.tolist() == kept[:2]
