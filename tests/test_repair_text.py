"""Differences as text, and the closed loop in a row a method."""

import numpy as np
import pandas as pd
import pytest

from ravl_core.repair_text import changes_text, closed_loop_table


def changes(**columns):
    base = {"difference": [1.25, -3.0], "difference_low": [-0.04, -5.5], "difference_high": [2.0, -1.0], "n": [7, 6]}
    return pd.DataFrame({"method": ["a", "a"], "metric": ["image_overall", "region_overall"]} | base | columns)


def test_a_row_a_method_with_signs_and_ends():
    text = changes_text(changes())
    assert text.loc["a"].to_dict() == {
        "n": 7, "image_overall": "+1.2 [-0.0, +2.0]", "region_overall": "-3.0 [-5.5, -1.0]"
    }  # fmt: skip


def test_methods_keep_their_order_and_missing_differences_are_empty():
    both = pd.concat([changes(method=["z", "z"]), changes(difference=[np.nan, 2.0])])
    text = changes_text(both)
    assert list(text.index) == ["z", "a"] and text.loc["a", "image_overall"] == ""


def test_by_several_columns():
    text = changes_text(changes(half=["choose", "report"]), by=("half", "method"))
    assert list(text.index) == [("choose", "a"), ("report", "a")] and text.index.names == ["half", "method"]


COLUMNS = (
    "same_before_gap", "same_after_gap", "same_before_pull", "same_after_pull", "again_covered",
    "mask_before_others_effect_probability", "mask_others_effect_probability",
)  # fmt: skip


def followed(n=6):
    random = np.random.default_rng(0)
    rows = {name: random.random(n) for name in COLUMNS}
    return pd.DataFrame(rows).assign(
        domain="mnist", attribute=np.arange(n) % 3, method="RaVL", again_same_attribute=[1, 0, np.nan, 1, 1, 0],
        again_gone=[True, np.nan, False, True, True, np.nan],
        again_replaced=[False, np.nan, False, True, False, np.nan],
    )  # fmt: skip


def test_the_closed_loop_counts_gone_where_something_significant_was():
    row = closed_loop_table(followed()).loc["RaVL"]
    assert row["n"] == 6 and row["same class"] == "3 of 5"
    assert row["gone"] == "3 of 4" and row["replaced"] == "1 of 4"


def test_means_of_the_closed_loop_are_those_of_the_columns():
    table = followed()
    row = closed_loop_table(table).loc["RaVL"]
    assert row["gap G, before"].startswith(f"{table.same_before_gap.mean():.2f} [")
    assert row["mask, after"].startswith(f"{table.mask_others_effect_probability.mean():.2f} [")
    assert row["pull, after"].startswith(f"{table.same_after_pull.mean():.2f} [")


def test_a_method_without_a_value_has_an_empty_cell():
    table = followed().assign(same_after_pull=np.nan, again_gone=np.nan)
    row = closed_loop_table(table).loc["RaVL"]
    assert row["pull, after"] == "" and row["gone"] == "0 of 0"


def test_the_interval_draws_settings_that_share_a_class_together():
    """Two clusters far apart: an interval of six settings drawn one by one would be narrower."""
    table = followed().assign(attribute=[0, 0, 0, 1, 1, 1], same_after_gap=[0.0, 0, 0, 1, 1, 1])
    assert closed_loop_table(table).loc["RaVL", "gap G, after"] == "0.50 [0.00, 1.00]"


@pytest.mark.parametrize("n_methods", [1, 3])
def test_a_row_for_each_method_in_their_order(n_methods):
    names = ["swaps", "RaVL", "standard"][:n_methods]
    table = pd.concat([followed().assign(method=name) for name in names])
    assert list(closed_loop_table(table).index) == names
