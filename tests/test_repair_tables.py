"""From records of repairs to tidy tables, against plain loops over the records themselves."""

import math

import numpy as np
import pandas
import pytest
from study_records import groups, record

from ravl_core.repair_tables import aligned_accuracy, followed_table, repairs_table
from ravl_core.study import FIGURES_OF_TABLE_3, table

NAMES = ("standard", "RaVL", "swaps")
FOLLOWED = ("RaVL", "swaps")
MADE_BY = ("recipe", "assignment", "assignment_recall", "assignment_precision", "learning_rate", "start", "rounds")


@pytest.fixture(scope="module")
def finished():
    """Settings of two domains and strengths, some with whole towers; one in two records, one of which comes late."""
    cells = [
        {"domain": domain, "strength": strength, "attribute": attribute}
        for domain in ("mnist", "coco_objects")
        for strength in (0.95, 0.8)
        for attribute in (3, 0)
    ]
    made = [record(repairs=NAMES, followed=FOLLOWED, seed=100 - at, **cell) for at, cell in enumerate(cells)]
    made.insert(1, record("tower", repairs=NAMES[:2], seed=100, **cells[0]))
    made.append(record(repairs=("RaVL, balanced", "RaVL"), seed=99, **cells[1]))
    return made


@pytest.fixture(scope="module")
def whole(finished):
    return repairs_table(finished)


def setting_of(one):
    setting = one["arguments"]["setting"]
    return one["arguments"]["budget"]["trained"], setting["strength"], setting["attribute"], setting["seed"]


def same(given, cell):
    return given == cell or (given is None and math.isnan(cell))


def weighted_by_loop(accuracy, counts):
    """Mean of the accuracies of groups that have one, each counted as often as it has fine-tuning images."""
    total = weight = 0
    for of_class, own in zip(accuracy, counts, strict=True):
        for value, n in zip(of_class, own, strict=True):
            if value is not None and not math.isnan(value):
                total, weight = total + value * n, weight + n
    return total / weight


# ---- repairs ----


def test_a_row_for_each_setting_and_method_the_diagnosed_model_first(finished, whole):
    blocks = {}
    for one in finished:
        names = blocks.setdefault(setting_of(one), ["diagnosed"])
        names += [repair["name"] for repair in one["metrics"]["repairs"] if repair["name"] not in names]
    expected = [(*setting, name) for setting in sorted(blocks) for name in blocks[setting]]
    columns = ["trained", "strength", "attribute", "seed", "method"]
    assert list(whole[columns].itertuples(index=False, name=None)) == expected
    assert len(whole) == 8 * 4 + 3 + 1 and list(whole.index) == list(range(len(whole)))
    assert blocks["head", 0.95, 0, 99] == ["diagnosed", "standard", "RaVL", "swaps", "RaVL, balanced"]


def test_rows_hold_the_numbers_of_the_records(finished, whole):
    """Of a method that two records of a setting hold, the first one's."""
    for row in whole.to_dict("records"):
        one = finished[row["position"]]
        metrics, counts = one["metrics"], one["metrics"]["finetuning_groups"]
        assert setting_of(one) == tuple(row[name] for name in ("trained", "strength", "attribute", "seed"))
        of_method = metrics["standard"]
        if row["method"] != "diagnosed":
            (of_method,) = (repair for repair in metrics["repairs"] if repair["name"] == row["method"])
            assert all(same(of_method[name], row[name]) for name in MADE_BY)
            assert row["val_worst_group"] == of_method["val_worst_group"]
            assert same(of_method["margin"], row["repaired_margin"])
        assert all(row[name] == of_method[name] for name in FIGURES_OF_TABLE_3)
        expected = weighted_by_loop(of_method["groups"]["image_accuracy"], counts)
        assert row["aligned_accuracy"] == pytest.approx(expected, abs=1e-12)
        first = next(other for other in finished if setting_of(other) == setting_of(one))
        assert one is first or row["method"] == "RaVL, balanced"


def test_what_describes_a_setting_is_what_the_table_of_the_settings_says(finished, whole):
    described = table(finished[:-1]).set_index("seed")
    columns = [c for c in described.columns if c not in ("recipe", "assignment", "position", *FIGURES_OF_TABLE_3)]
    head = described[described.trained == "head"]
    for row in whole[whole.trained == "head"].to_dict("records"):
        for name in columns:
            cell = head.loc[row["seed"], name]
            assert row[name] == cell or (pandas.isna(row[name]) and pandas.isna(cell)), name
    assert {"margin", "precision_at_10", "half", "initial_image_overall", "found_attribute"} <= set(columns)


def test_the_diagnosed_model_is_standard_fine_tuning_and_was_not_searched(whole):
    diagnosed = whole[whole.method == "diagnosed"]
    assert set(diagnosed.recipe) == {"standard"} and set(diagnosed.assignment) == {"none"}
    assert (
        set(diagnosed.learning_rate) == {1e-3}
        and set(diagnosed["rounds"]) == {1}
        and set(diagnosed.start) == {"initial"}
    )
    undefined = ["val_worst_group", "repaired_margin", "assignment_recall", "assignment_precision"]
    assert diagnosed[undefined].isna().all(axis=None)


def test_numbers_that_are_missing_are_nan_and_columns_are_plain_values(whole):
    missing = [record(repairs=("RaVL",), seed=1)]
    repair = missing[0]["metrics"]["repairs"][0]
    repair |= dict.fromkeys(
        ("assignment_recall", "assignment_precision", "margin", "val_worst_group", "region_overall")
    )
    missing[0]["metrics"]["margin"] = None
    rows = repairs_table(missing)
    for column in ("assignment_recall", "assignment_precision", "repaired_margin", "val_worst_group", "margin"):
        assert rows[column].dtype == float and math.isnan(rows[column][1])
    assert math.isnan(rows.region_overall[1]) and not math.isnan(rows.region_overall[0])
    assert whole.columns.is_unique
    assert not {"groups", "options", "followed", "followed_up", "name", "final_loss"} & set(whole.columns)


def test_the_order_of_records_decides_the_positions_alone(finished, whole):
    """But for the setting that has several, whose methods come in the records' order."""
    once = finished[:-1]
    order = np.random.default_rng(0).permutation(len(once))
    one, other = repairs_table(once), repairs_table(once[at] for at in order)
    pandas.testing.assert_frame_equal(one.drop(columns="position"), other.drop(columns="position"))
    assert order[other.position].tolist() == one.position.tolist()


def test_settings_that_differ_in_the_domain_alone_are_two():
    made = [record(repairs=("RaVL",), seed=5, domain=domain) for domain in ("mnist", "coco_objects")]
    rows = repairs_table(made)
    assert sorted(zip(rows.domain, rows.method, strict=True)) == [
        ("coco_objects", "RaVL"), ("coco_objects", "diagnosed"), ("mnist", "RaVL"), ("mnist", "diagnosed"),
    ]  # fmt: skip


def test_no_record_is_an_empty_table():
    assert len(repairs_table([])) == 0 and len(repairs_table(iter([]))) == 0


def test_a_table_survives_a_file(whole, tmp_path):
    whole.to_csv(tmp_path / "repairs.csv", index=False)
    pandas.testing.assert_frame_equal(pandas.read_csv(tmp_path / "repairs.csv"), whole, check_dtype=False)


# ---- accuracy where the correlation holds ----


@pytest.mark.parametrize("seed", range(10))
def test_aligned_accuracy_equals_a_loop(seed):
    accuracy = groups(seed)["image_accuracy"]
    counts = np.random.default_rng(seed).integers(0, 50, (3, 2))
    assert aligned_accuracy(accuracy, counts) == pytest.approx(weighted_by_loop(accuracy, counts.tolist()))


def test_aligned_accuracy_by_hand():
    accuracy = [[0.9, 0.1], [0.2, 1.0]]
    assert aligned_accuracy(accuracy, np.array([[90, 10], [0, 100]])) == pytest.approx((81 + 1 + 100) / 200)
    assert aligned_accuracy([[0.9, None], [math.nan, 1.0]], np.array([[50, 10], [7, 100]])) == pytest.approx(145 / 150)
    assert aligned_accuracy([[0.3, 0.3], [0.3, 0.3]], np.array([[1, 2], [3, 4]])) == pytest.approx(0.3)


# ---- what was looked at again ----


def flattened(nested, path=()):
    """(path, value) of every leaf; a list of three is an estimate and its ends."""
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from flattened(value, (*path, name))
        elif isinstance(value, list):
            estimate, low, high = value
            yield "_".join((*path, name)), estimate
            yield "_".join((*path, name, "low")), low
            yield "_".join((*path, name, "high")), high
        else:
            yield "_".join((*path, name)), value


def test_a_row_for_each_repair_that_was_looked_at_again(finished):
    followed = followed_table(finished)
    expected = [
        (at, repair["name"], repair["followed_up"])
        for at, one in enumerate(finished)
        for repair in one["metrics"]["repairs"]
        if repair["followed_up"]
    ]
    assert len(followed) == len(expected) > 10
    rows = {(row["position"], row["method"]): row for row in followed.to_dict("records")}
    for position, name, nested in expected:
        row, setting = rows[position, name], finished[position]["arguments"]["setting"]
        leaves = dict(flattened(nested))
        assert all(same(value, row[path]) for path, value in leaves.items())
        assert all(row[key] == setting[key] for key in ("domain", "seed", "strength", "attribute", "initial"))
        assert {"margin", "half", "trained", "reached_strength"} <= row.keys()
    keys = ["trained", "strength", "attribute", "seed"]
    assert followed[keys].apply(tuple, axis=1).is_monotonic_increasing
    assert {"same_after_gap", "again_gone", "mask_before_others_effect_probability_low"} <= set(followed.columns)
    assert followed["mask_others_effect_probability_high"].isna().all() and followed.same_before_influence.isna().all()


def test_methods_of_a_setting_keep_their_order(finished):
    followed = followed_table(finished)
    for _, block in followed.groupby(["trained", "seed"]):
        assert list(block.method) == [name for name in FOLLOWED if name in set(block.method)]


def test_where_nothing_was_looked_at_again_there_is_no_row():
    assert len(followed_table([])) == len(followed_table([record(seed=1)])) == 0
    assert len(followed_table([record(repairs=NAMES, seed=1)])) == 0
