"""From records to tables of discovery, against plain loops over the records themselves."""

import math
from dataclasses import fields

import pandas as pd
import pytest
import study_records
from evaluations import planted
from study_records import METHODS, RECIPES, VARIATIONS, record

from ravl_core import paths
from ravl_core.comparison import by_size, compare, inference
from ravl_core.discovery import discover
from ravl_core.discovery_tables import (
    FILES,
    STABILITY,
    DiscoveryTables,
    discovery_tables,
    reference_stability,
    reference_tables,
    stability_table,
)
from ravl_core.slicing import CHANCE, NAMED
from ravl_core.study import table

NAMES = [field.name for field in fields(DiscoveryTables)]


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def finished():
    return study_records.study()


@pytest.fixture(scope="module")
def tables(finished):
    return discovery_tables(iter(finished))


def looked(one):
    return one["metrics"]["discovery"]


def agrees(row, expected):
    """Whether a row of a table holds these values, numbers to four decimals, None as NaN."""
    for name, value in expected.items():
        got = row[name]
        if value is None:
            assert got is None or math.isnan(got), name
        elif isinstance(value, float):
            assert got == pytest.approx(value, abs=0.5001e-4), name
        else:
            assert got == value, name


# --- each table ------------------------------------------------------------------------------------------------------


def test_the_settings_are_the_table_of_the_study(finished, tables):
    expected = table(finished)
    assert len(expected) == len(finished)
    pd.testing.assert_frame_equal(tables.settings, expected, rtol=0, atol=0.5001e-6)


def test_a_row_for_each_setting_and_method(finished, tables):
    rows = tables.methods.to_dict("records")
    for at, one in enumerate(finished):
        for name, judged in looked(one)["methods"].items():
            row = rows.pop(0)
            assert (row["position"], row["method"]) == (at, name)
            agrees(row, {key: value for key, value in judged.items() if key != "reason"})
    assert rows == []
    assert set(tables.methods.method) == {*METHODS, NAMED}
    named = tables.methods[tables.methods.method == NAMED]
    assert len(named) == sum(one["arguments"]["setting"]["domain"] == "coco_objects" for one in finished)


def test_a_row_for_each_setting_size_and_recipe(finished, tables):
    rows = tables.sizes.to_dict("records")
    for at, one in enumerate(finished):
        for size in looked(one)["by_size"]:
            for recipe in RECIPES:
                row = rows.pop(0)
                assert (row["position"], row["n_images"], row["recipe"]) == (at, size["n_images"], recipe)
                agrees(row, size[recipe])
    assert rows == []


def test_a_row_of_inference_for_each_setting(finished, tables):
    assert tables.inference.position.tolist() == list(range(len(finished)))
    n_without = 0
    for row, one in zip(tables.inference.to_dict("records"), finished, strict=True):
        sure = looked(one)["inference"]
        agrees(row, {"smallest_gap_p": sure["smallest_gap_p"], "n_significant": len(sure["significant"])})
        first = sure["first"]
        n_without += first is None
        names = ("gap_p", "n_sources", "influence_images")
        agrees(row, {name: None if first is None else first[name] for name in names})
        for name in ("gap", "influence", "difference"):
            estimate, low, high = [None] * 3 if first is None else first[name]
            agrees(row, {name: estimate, f"{name}_low": low, f"{name}_high": high})
    assert 0 < n_without < len(finished)


def test_a_row_for_each_significant_cluster_in_their_order(finished, tables):
    rows = tables.significant.to_dict("records")
    for at, one in enumerate(finished):
        for rank, cluster in enumerate(looked(one)["inference"]["significant"]):
            row = rows.pop(0)
            assert set(row) == {"position", "rank", *cluster}
            agrees(row, {"position": at, "rank": rank} | cluster)
    assert rows == [] and tables.significant["rank"].max() == 1


def test_all_tables_join_by_position(finished, tables):
    for name in NAMES[1:]:
        rows = getattr(tables, name)
        joined = rows.merge(tables.settings, on="position", suffixes=("", "_of_setting"), validate="many_to_one")
        assert len(joined) == len(rows) > len(finished) / 3, name
        seeds = [finished[at]["arguments"]["setting"]["seed"] for at in rows.position]
        assert joined.seed.tolist() == seeds, name


def test_a_row_for_each_setting_variation_and_recipe(finished):
    rows = stability_table(iter(finished)).to_dict("records")
    n_stable = sum(bool(one["metrics"]["stability"]) for one in finished)
    assert len(rows) == n_stable * len(VARIATIONS) * len(RECIPES) > 0
    for at, one in enumerate(finished):
        setting = one["arguments"]["setting"]
        for varied in one["metrics"]["stability"]:
            for recipe in RECIPES:
                row = rows.pop(0)
                agrees(row, {name: setting[name] for name in ("domain", "feature", "strength", "seed")})
                agrees(row, {"position": at, "planted_attribute": setting["attribute"], "recipe": recipe})
                agrees(row, {name: varied[name] for name in ("kind", "variation", "n_clusters", "n_regions")})
                agrees(row, varied[recipe])
    assert rows == []


def test_tables_of_real_results():
    """The shape of what the comparison gives is the shape of the made-up records."""
    evaluation, truths = planted(n_images=240)
    found = discover(evaluation)
    given = record(seed=2)
    given["metrics"]["discovery"] |= {
        "methods": compare(evaluation, truths, found),
        "inference": inference(evaluation, truths, found),
        "by_size": by_size(evaluation, truths, found),
    }
    made_up = record(seed=2, domain="coco_objects")
    assert looked(made_up)["inference"]["significant"]
    keys = {name: set(value) for name, value in looked(made_up)["methods"].items()}
    assert {name: set(value) for name, value in looked(given)["methods"].items()} == keys
    tables, expected = discovery_tables([given]), discovery_tables([made_up])
    for name in NAMES:
        assert set(getattr(tables, name)) == set(getattr(expected, name)) != set(), name
    assert tables.sizes.n_images.tolist() == [100] * 3 + [200] * 3 + [240] * 3
    methods = tables.methods.set_index("method").precision_at_10
    assert methods["RaVL"] == methods[NAMED] == 1 and 0.05 < methods[CHANCE] < 0.5
    assert tables.inference.loc[0, "gap_p"] == 0.001
    assert tables.significant.loc[0, "feature_share"] == 1


# --- little to show --------------------------------------------------------------------------------------------------


def bare(**setting):
    """A record of a setting in which nothing was found."""
    made = record(**setting)
    looked(made)["inference"] |= {"first": None, "significant": []}
    return made


def test_without_findings_there_are_rows_without_numbers():
    tables = discovery_tables([bare(seed=1), bare(seed=2)])
    assert len(tables.inference) == 2 and tables.inference.n_significant.tolist() == [0, 0]
    for column in ("gap_p", "gap", "gap_low", "influence_high", "n_sources"):
        assert tables.inference[column].isna().all()
    assert len(tables.significant) == 0 and "position" in tables.significant


def test_no_record_is_empty_tables():
    tables = discovery_tables([])
    assert [len(getattr(tables, name)) for name in NAMES] == [0] * 5
    assert all("position" in getattr(tables, name) for name in NAMES[1:])
    empty = stability_table([])
    assert len(empty) == 0 and {"domain", "seed", "kind", "variation", "recipe"} <= set(empty)
    assert len(stability_table([record(seed=1)])) == 0


# --- the reference run -----------------------------------------------------------------------------------------------


def saved(tables, folder):
    """As a run leaves them: the settings' table is written with the grid's own."""
    written = tables.save(folder)
    tables.settings.to_csv(folder / "settings.csv", index=False)
    return written


def assert_same_tables(found, expected):
    for name in NAMES:
        read, given = getattr(found, name), getattr(expected, name)
        pd.testing.assert_frame_equal(read, given.where(given.notna()), check_dtype=False, rtol=0, atol=1e-9)


def test_tables_survive_their_files(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    monkeypatch.setenv("RAVL_HOME", str(tmp_path / "elsewhere"))  # where results go, not where the reference lies
    folder = tmp_path / "results" / "full"
    written = saved(tables, folder)
    assert sorted(path.name for path in written) == sorted(set(FILES.values()) - {"settings.csv"})
    assert all(path.parent == folder for path in written)
    assert_same_tables(reference_tables(), tables)
    with pytest.raises(FileNotFoundError):
        reference_tables("demo")


def test_other_profiles_have_references_of_their_own(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    saved(tables, tmp_path / "results" / "demo")
    assert_same_tables(reference_tables("demo"), tables)


def test_tables_without_findings_survive_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    tables = discovery_tables([bare(seed=1), bare(seed=2)])
    saved(tables, tmp_path / "results" / "full")
    read = reference_tables()
    assert len(read.significant) == 0 and list(read.significant) == list(tables.significant)
    assert read.inference.gap_p.isna().all() and len(read.inference) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_the_command_that_makes_it(tables, tmp_path, monkeypatch, name):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    saved(tables, tmp_path / "results" / "demo")
    (tmp_path / "results" / "demo" / FILES[name]).unlink()
    with pytest.raises(FileNotFoundError, match=f"results/demo: {FILES[name]} missing.*make reproduce PROFILE=demo"):
        reference_tables("demo")


def test_stability_survives_its_file(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"results/demo/{STABILITY} .*make reproduce PROFILE=demo"):
        reference_stability("demo")
    varied = stability_table(finished)
    (tmp_path / "results" / "demo").mkdir(parents=True)
    varied.to_csv(tmp_path / "results" / "demo" / STABILITY, index=False)
    pd.testing.assert_frame_equal(reference_stability("demo"), varied, check_dtype=False)
