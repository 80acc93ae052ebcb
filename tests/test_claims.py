"""Verdicts follow from intervals, and say so where there is nothing to judge."""

import pandas as pd
import pytest

from ravl_core import claims
from ravl_core.discovery_summaries import ABLATIONS, BASELINES
from ravl_core.slicing import CHANCE

METHODS = ("RaVL", CHANCE, *BASELINES, *ABLATIONS[1:])


@pytest.mark.parametrize(
    ("parts", "claimed", "expected"),
    [
        ([(0.1, 0.3)], 0.0, "holds"),
        ([(-0.1, 0.3)], 0.0, "open"),
        ([(-0.3, -0.1)], 0.0, "does not hold"),
        ([(0.1, 0.3)], 1.91, "does not hold"),
        ([(0.1, 2.3)], 1.91, "open"),
        ([(2.0, 2.3)], 1.91, "holds"),
        ([(0.1, 0.3), (0.2, 0.4)], 0.0, "holds"),
        ([(0.1, 0.3), (-0.2, 0.4)], 0.0, "holds partly"),
        ([(0.1, 0.3), (-0.4, -0.2)], 0.0, "holds partly"),
        ([(-0.1, 0.3), (-0.2, 0.4)], 0.0, "open"),
        ([(-0.1, 0.3), (-0.4, -0.2)], 0.0, "does not hold"),
        ([(0.0, 0.3)], 0.0, "open"),
        ([], 0.0, "not testable here"),
    ],
)
def test_a_verdict_follows_from_intervals(parts, claimed, expected):
    assert claims.verdict(parts, claimed) == expected


def rows(precision, n=40, margin=50.0, kinds=("synthetic", "real-world"), initial="rn-mini"):
    """Settings in which every method has the same precision, but for what `precision` says of each."""
    made = []
    for position in range(n):
        setting = {
            "position": position,
            "domain": f"d{position % len(kinds)}",
            "kind": kinds[position % len(kinds)],
            "initial": initial,
            "feature": "red rectangle",
            "planted_attribute": position % 7,
            "strength": (0.7, 0.9)[position % 4 // 2],
            "margin": margin,
            "half": "choose",
            "cluster": f"d{position % len(kinds)} {position % 7}",
        }
        for method in METHODS:
            value = precision.get(method, 0.2)
            shares = dict.fromkeys(("precision_at_10", "image_precision_at_10", "average_precision"), value)
            made.append(setting | {"method": method} | shares)
    return pd.DataFrame(made)


def verdicts(table):
    return dict(zip(table.index, table.verdict, strict=True))


def test_a_method_that_is_ahead_everywhere_holds_everywhere():
    found = claims.table_1_claims(rows({"RaVL": 0.8}))
    assert found.loc["settings evaluated", ["ours", "verdict"]].tolist() == ["40", "smaller run"]
    lead = found.loc["mean Precision@10 above the closest baseline"]
    assert lead.ours.startswith("+300% [+300%, +300%] over") and lead.verdict == "holds"
    others = found.drop(index=["settings evaluated", "mean Precision@10 above the closest baseline"])
    assert set(others.verdict) == {"holds"} and (others.n.isin([40, 20])).all()
    assert {f"ahead of every method at T = {t}" for t in (10, 20, 30, 40)} <= set(others.index)
    assert {"ahead of every method on synthetic data", "ahead of every method at V = 0.7"} <= set(others.index)


def test_a_lead_below_the_papers_does_not_hold_though_the_method_is_ahead():
    found = verdicts(claims.table_1_claims(rows({"RaVL": 0.5})))
    assert found["mean Precision@10 above the closest baseline"] == "does not hold"  # +150 %, not 191
    assert found["ahead of every method at T = 10"] == "holds"


def test_who_is_ahead_is_named():
    found = claims.table_1_claims(rows({"RaVL": 0.5, "Domino": 0.9}))
    row = found.loc["ahead of every method at T = 10"]
    assert row.verdict == "holds partly"
    assert row.ours == "-0.40 [-0.40, -0.40] to Domino; behind Domino"


def test_a_threshold_without_settings_is_not_testable():
    found = claims.table_1_claims(rows({"RaVL": 0.8}, margin=25.0))
    assert found.loc["ahead of every method at T = 20", "verdict"] == "holds"
    for threshold in (30, 40):
        assert found.loc[f"ahead of every method at T = {threshold}", ["ours", "n", "verdict"]].tolist() == [
            "no setting", 0, "not testable here",
        ]  # fmt: skip


def test_each_ablation_is_a_claim_of_its_own_on_each_kind_of_data():
    found = claims.table_2_claims(rows({"RaVL": 0.8, "RaVL without gap": 0.9}))
    parts = ("real-world, rn-mini (the paper's cell)", "real-world", "synthetic", "all settings")
    names = ("without gap", "without influence", "unweighted gap")
    assert list(found.index) == [f"ahead of {name}: {part}" for part in parts for name in names]
    assert {found.loc[f"ahead of without gap: {part}", "verdict"] for part in parts} == {"does not hold"}
    assert {found.loc[f"ahead of unweighted gap: {part}", "verdict"] for part in parts} == {"holds"}


def test_data_that_are_not_there_make_no_claim():
    found = claims.table_2_claims(rows({"RaVL": 0.8}, kinds=("synthetic",), initial="rn-mini-deep"))
    assert {name.split(": ")[1] for name in found.index} == {"synthetic", "all settings"}
