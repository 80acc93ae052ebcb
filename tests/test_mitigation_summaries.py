"""Table 3 and what goes beyond it, against plain loops over made-up settings and numbers worked out by hand."""

import math
from statistics import mean

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from ravl_core import mitigation_summaries as summaries
from ravl_core.mitigation_summaries import FIGURES, HEADLINE, SECTIONS

pytestmark = pytest.mark.filterwarnings("error")

OURS = ("swaps", "RaVL, balanced")
ORACLES = ("RaVL, true regions", "swaps, true regions", "upsampled, true regions")
METHODS = (*HEADLINE, *OURS, *ORACLES)
WORST = "image_worst_group"
DOMAINS = {"mnist": 10, "fashion_mnist": 7, "coco_objects": 5}  # and how many attributes


def setting(seed, random, domain="mnist", n_attributes=10, **changes):
    """What is the same for all methods of a setting."""
    drawn = {
        "position": seed,
        "domain": domain,
        "initial": ("rn-mini", "rn-mini-deep")[seed % 2],
        "feature": "red rectangle",
        "attribute": int(random.integers(n_attributes)),
        "strength": float(random.choice([0.7, 0.9, 0.99])),
        "seed": seed,
        "trained": "head",
        "half": ("choose", "report")[seed // 2 % 2],
        "margin": float(random.uniform(10, 60)),
        "precision_at_10": float(random.choice([0.3, 0.6, 0.7, 0.8, 0.9, 1.0])),
        "random_precision_at_10": 0.1,
        f"initial_{WORST}": float(random.uniform(0.1, 0.5)),
    }
    return drawn | changes


def made_up(gains=None, n=20, methods=METHODS, domains=DOMAINS, noise=3.0, **changes):
    """A tidy table: `n` settings a domain; a method's figures are the setting's own plus gain and noise, in points."""
    random, rows = np.random.default_rng(0), []
    for at, (domain, n_attributes) in enumerate(domains.items()):
        for seed in range(1000 * at, 1000 * at + n):
            common = setting(seed, random, domain, n_attributes, **changes)
            own = random.uniform(0.4, 0.6, len(FIGURES))
            for method in methods:
                values = own + ((gains or {}).get(method, 0.0) + noise * random.normal(size=len(FIGURES))) / 100
                row = common | {"method": method, "assignment_recall": float(random.uniform(0, 1))}
                rows.append(row | dict(zip(FIGURES, values.tolist(), strict=True)))
    return pd.DataFrame(rows)


def with_values(values, metric=WORST, **changes):
    """A table by hand: method -> one value a setting, None where the method has none; all figures hold it."""
    rows = []
    for method, of_method in values.items():
        for seed, value in enumerate(of_method):
            if value is not None:
                common = setting(seed, np.random.default_rng(seed), attribute=seed, assignment_recall=0.5)
                common |= {name: column[seed] for name, column in changes.items()}
                rows.append(common | {"method": method} | dict.fromkeys(FIGURES, value))
    return pd.DataFrame(rows)


def loop_interval(values, groups):
    """Mean, low and high: 2000 resamples that draw groups whole."""
    members = [[at for at, group in enumerate(groups) if group == name] for name in sorted(set(groups))]
    random, means = np.random.default_rng(0), []
    for _ in range(2000):
        rows = [at for drawn in random.integers(len(members), size=len(members)) for at in members[drawn]]
        means.append(mean(values[at] for at in rows))
    return [mean(values), *np.quantile(means, [0.025, 0.975])]


def loop_differences(table, method, reference, metric, chosen=lambda row: True):
    """Paired differences in points and the cluster of each, setting by setting."""
    found, groups = [], []
    rows = table.to_dict("records")
    for own in rows:
        for other in rows:
            if (own["method"], other["method"]) == (method, reference) and own["position"] == other["position"]:
                difference = 100 * (own[metric] - other[metric])
                if chosen(own) and not math.isnan(difference):
                    found.append(difference)
                    groups.append(f"{own['domain']} {own['attribute']}")
    return found, groups


def row_of(table, **what):
    (row,) = table.loc[np.logical_and.reduce([table[name] == value for name, value in what.items()])].to_dict("records")
    return row


@pytest.fixture(scope="module")
def table():
    """Some methods lack settings, some settings a figure or a Precision@10."""
    made = made_up({"RaVL": 4.0, "swaps": 10.0, "RaVL, true regions": 6.0})
    made = made[(made.method != "VL-GDRO") | (made.seed % 3 > 0)]
    made.loc[(made.method == "RaVL") & (made.seed % 7 == 0), "region_overall"] = math.nan
    made.loc[made.seed % 11 == 5, "precision_at_10"] = math.nan
    return made.reset_index(drop=True)


# ---- paired differences ----


def test_a_difference_is_within_a_setting_and_in_points():
    made = with_values({"standard": [0.5, 0.2, 0.9], "RaVL": [0.6, None, 0.8], "swaps": [0.7, 0.25, None]})
    differences = summaries.paired(made, "standard")
    assert differences.method.tolist() == ["RaVL", "RaVL", "swaps", "swaps"]
    assert differences.seed.tolist() == [0, 2, 0, 1]
    for metric in FIGURES:
        assert differences[metric].tolist() == pytest.approx([10, -10, 20, 5])
        assert differences[f"reference_{metric}"].tolist() == [0.5, 0.9, 0.5, 0.2]
    assert summaries.paired(made, "RaVL")[WORST].tolist() == pytest.approx([-10, 10, 10])


def test_differences_are_those_of_a_loop_in_any_order_of_rows(table):
    shuffled = table.sample(frac=1, random_state=0)
    for made in (table, shuffled):
        differences = summaries.paired(made, "VL-GDRO")
        for metric in FIGURES:
            expected, _ = loop_differences(made, "RaVL", "VL-GDRO", metric)
            found = differences[differences.method == "RaVL"][metric].dropna()
            assert found.tolist() == pytest.approx(expected)


def test_the_rest_of_a_row_is_kept_and_the_table_left_alone(table):
    before = table.copy()
    differences = summaries.paired(table, "standard")
    pd.testing.assert_frame_equal(table, before)
    kept = [column for column in table.columns if column not in FIGURES]
    others = table[table.method != "standard"].reset_index(drop=True)
    pd.testing.assert_frame_equal(differences[kept], others[kept])


@pytest.mark.parametrize("column", ["domain", "initial", "feature", "attribute", "strength", "trained", "seed"])
def test_settings_that_differ_in_anything_are_not_paired(column):
    made = with_values({"standard": [0.5], "RaVL": [0.7]})
    other = made.assign(**{column: "other" if made[column].dtype == object else 77}, **dict.fromkeys(FIGURES, 0.1))
    both = pd.concat([made, other[other.method == "standard"]])
    assert summaries.paired(both, "standard")[WORST].tolist() == pytest.approx([20])
    apart = pd.concat([made[made.method == "RaVL"], other[other.method == "standard"]])
    assert len(summaries.paired(apart, "standard")) == 0


def test_a_setting_without_the_reference_has_no_row():
    made = with_values({"standard": [None, 0.2], "RaVL": [0.6, 0.3]})
    assert summaries.paired(made, "standard").seed.tolist() == [1]


def test_a_missing_figure_is_a_missing_difference_of_that_figure():
    made = with_values({"standard": [0.5, 0.2], "RaVL": [0.6, 0.3]})
    made.loc[(made.method == "standard") & (made.seed == 0), "region_overall"] = math.nan
    differences = summaries.paired(made, "standard")
    assert differences.region_overall.isna().tolist() == [True, False]
    assert differences.image_overall.tolist() == pytest.approx([10, 10])


def test_what_cannot_be_paired_is_refused(table):
    with pytest.raises(ValueError, match=r"reference: expected one of \['standard', .*, got 'RAVL'"):
        summaries.paired(table, "RAVL")
    with pytest.raises(ValueError, match="expected one row a setting and method, got 'RaVL' twice"):
        summaries.paired(pd.concat([table, table[table.method == "RaVL"][:1]]), "standard")


# ---- intervals ----


def test_an_interval_draws_paired_differences_of_a_domain_and_attribute_together(table):
    differences = summaries.paired(table, "standard")
    rows = differences[differences.method == "RaVL"]
    found = summaries.difference_summary(rows, WORST)
    values, groups = loop_differences(table, "RaVL", "standard", WORST)
    assert [found[name] for name in summaries.DIFFERENCE] == pytest.approx(loop_interval(values, groups))
    assert found["n"] == 60 and found["clusters"] == len(set(groups)) == 20


def test_an_interval_over_many_settings_is_the_normal_one_of_the_differences():
    """Settings differ by much more than methods do: the interval is of the differences, not of the two means."""
    made = made_up({"RaVL": 4.0}, n=400, methods=("standard", "RaVL"), domains={"mnist": 10_000})
    found = summaries.difference_summary(summaries.paired(made, "standard"), WORST)
    own, other = (made[made.method == name].sort_values("seed")[WORST].to_numpy() for name in ("RaVL", "standard"))
    values = 100 * (own - other)
    half = 1.96 * np.std(values) / math.sqrt(400)
    assert half < 0.5  # of the means it would be ten points
    assert found["difference_low"] == pytest.approx(np.mean(values) - half, abs=0.1 * half)
    assert found["difference_high"] == pytest.approx(np.mean(values) + half, abs=0.1 * half)


def test_no_setting_is_no_number_and_no_error(table):
    found = summaries.difference_summary(summaries.paired(table, "standard")[:0], WORST)
    assert (found["n"], found["clusters"]) == (0, 0) and math.isnan(found["difference_low"])


# ---- table 3 ----


CUT_NAMES = {None: "all settings", 0.6: "Precision@10 > 0.6", 0.8: "Precision@10 > 0.8"}


@pytest.mark.parametrize("cut", CUT_NAMES)
def test_table_3_is_that_of_a_loop(table, cut):
    numbers = summaries.table_3(table)
    chosen = [row for row in table.to_dict("records") if cut is None or row["precision_at_10"] > cut]
    for method in ("standard", "VL-GDRO", "RaVL", "swaps"):
        for metric in ("image_worst_group", "region_overall", "aligned_accuracy"):
            row = row_of(numbers, settings=CUT_NAMES[cut], method=method, metric=metric)
            own = [one for one in chosen if one["method"] == method and not math.isnan(one[metric])]
            groups = [f"{one['domain']} {one['attribute']}" for one in own]
            expected = loop_interval([100 * one[metric] for one in own], groups)
            assert [row["mean"], row["low"], row["high"]] == pytest.approx(expected)
            assert (row["n"], row["clusters"]) == (len(own), len(set(groups)))
            values, groups = loop_differences(pd.DataFrame(chosen), method, "RaVL", metric)
            if method == "RaVL":
                assert row["n_paired"] == 0 and math.isnan(row["difference"])
            else:
                assert [row[name] for name in summaries.DIFFERENCE] == pytest.approx(loop_interval(values, groups))
                assert row["n_paired"] == len(values)


def test_the_table_above_differs_in_its_numbers_of_settings(table):
    """Or the loops would show little."""
    numbers = summaries.table_3(table).set_index(["settings", "method", "metric"])
    sizes = [numbers.n[name, "RaVL", WORST] for name in CUT_NAMES.values()]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3 and sizes[0] == 60
    assert numbers.n["all settings", "VL-GDRO", WORST] == numbers.n_paired["all settings", "VL-GDRO", WORST] == 40
    standard = numbers.loc["all settings", "standard", "region_overall"]
    assert standard.n == 60 and standard.n_paired == 51


def test_a_precision_at_the_cut_is_not_above_it():
    made = with_values({"RaVL": [0.5, 0.6, 0.7]}, precision_at_10=[0.6, 0.8, 0.9])
    assert summaries.table_3(made).query("metric == 'image_overall'").n.tolist() == [3, 2, 1]


def test_rows_come_in_the_order_that_is_given_and_an_absent_method_has_no_numbers(table):
    numbers = summaries.table_3(table, ["swaps", "JTT", "standard"], [0.8, None])
    assert numbers.method.unique().tolist() == ["swaps", "JTT", "standard"]
    assert numbers.settings.unique().tolist() == ["Precision@10 > 0.8", "all settings"]
    assert numbers.metric[:5].tolist() == list(FIGURES) and len(numbers) == 30
    absent = numbers[numbers.method == "JTT"]
    assert (
        (absent.n == 0).all() and (absent.n_paired == 0).all() and absent[["mean", "difference"]].isna().all(axis=None)
    )
    text = summaries.table_3_text(numbers)
    assert text.index.tolist()[:2] == [("Precision@10 > 0.8", "swaps"), ("Precision@10 > 0.8", "JTT")]
    assert text.loc["all settings", "JTT"].tolist() == [0, *[""] * 10]


def test_the_text_shows_means_differences_and_what_rests_on_fewer_settings():
    made = with_values(
        {"standard": [0.5, 0.6, 0.7], "RaVL": [0.7, 0.7, None]}, attribute=[3, 3, 3]  # one cluster: no spread
    )  # fmt: skip
    made.loc[(made.method == "standard") & (made.seed == 0), "region_overall"] = math.nan
    text = summaries.table_3_text(summaries.table_3(made, above=[None]))
    row = text.loc["all settings", "standard"]
    assert list(text.columns)[:3] == ["n", "image_overall", "image_overall − RaVL"] and row.n == 3
    assert row.image_overall == "60.0 [60.0, 60.0]"
    assert row["image_overall − RaVL"] == "-15.0 [-15.0, -15.0] (n = 2)"
    assert row.region_overall == "65.0 [65.0, 65.0] (n = 2)"
    assert row["region_overall − RaVL"] == "-10.0 [-10.0, -10.0] (n = 1)"
    ours = text.loc["all settings", "RaVL"]
    assert ours.image_overall == "70.0 [70.0, 70.0]" and ours["image_overall − RaVL"] == ""


def test_a_rise_has_a_sign_in_the_text():
    made = with_values({"swaps": [0.5312], "RaVL": [0.5]})
    text = summaries.table_3_text(summaries.table_3(made, above=[None]))
    assert text.loc[("all settings", "swaps"), f"{WORST} − RaVL"] == "+3.1 [+3.1, +3.1]"


# ---- changes, and what stage 1 costs ----


def test_changes_come_section_by_section_and_leave_the_reference_out(table):
    methods = ["RaVL, true regions", "swaps", "standard", "RaVL", "RaVL, balanced", "upsampled"]
    changes = summaries.changes_of_methods(table, methods=methods)
    first = changes.drop_duplicates("method")
    expected = ["RaVL", "upsampled", "swaps", "RaVL, balanced", "RaVL, true regions"]
    assert first.method.tolist() == expected
    assert first.section.tolist() == [SECTIONS[0]] * 2 + [SECTIONS[1]] * 2 + [SECTIONS[2]]
    row = row_of(changes, method="swaps", metric="region_overall")
    expected = loop_interval(*loop_differences(table, "swaps", "standard", "region_overall"))
    assert [row[name] for name in summaries.DIFFERENCE] == pytest.approx(expected)
    assert set(summaries.changes_of_methods(table).method) == set(METHODS) - {"standard"}
    assert set(summaries.changes_of_methods(table, "RaVL").method) == set(METHODS) - {"RaVL"}


def test_the_diagnosed_model_stands_with_the_papers_methods():
    made = with_values({"standard": [0.5], "swaps": [0.6], "diagnosed": [0.4]})
    changes = summaries.changes_of_methods(made)
    assert changes.method.tolist() == ["diagnosed"] * 5 + ["swaps"] * 5
    assert set(changes[changes.method == "diagnosed"].section) == {SECTIONS[0]}


def test_stage_1_costs_what_the_twin_with_the_true_regions_has_more():
    made = with_values(
        {"RaVL": [0.5, 0.6, 0.6], "RaVL, true regions": [0.6, 0.9, None], "swaps": [0.9, 0.9, 0.9]}, attribute=[1, 1, 1]
    )
    costs = summaries.stage_1_costs(made)
    assert costs.method.unique().tolist() == ["RaVL"] and costs.metric.tolist() == list(FIGURES)
    assert costs.difference.tolist() == pytest.approx([20] * 5) and costs.n.tolist() == [2] * 5


def test_stage_1_costs_of_each_method_that_has_a_twin(table):
    costs = summaries.stage_1_costs(table)
    assert costs.method.unique().tolist() == ["upsampled", "RaVL", "swaps"]
    expected = loop_interval(*loop_differences(table, "swaps, true regions", "swaps", WORST))
    assert [row_of(costs, method="swaps", metric=WORST)[n] for n in summaries.DIFFERENCE] == pytest.approx(expected)


def test_without_twins_nothing_is_said_of_stage_1(table):
    costs = summaries.stage_1_costs(table[table.method.isin(HEADLINE)])
    assert costs.empty and list(costs.columns) == ["method", "metric", "n", "clusters", *summaries.DIFFERENCE]


# ---- variants ----


HALVES = ["choose", "choose", "report", "report"]


def test_a_variant_is_chosen_on_one_half_and_reported_on_the_other():
    """The one that is best on the first half is the worst on the second."""
    made = with_values(
        {
            "standard": [0.5, 0.5, 0.5, 0.5],
            "RaVL": [0.5, 0.5, 0.6, 0.6],
            "first": [0.6, 0.6, 0.9, 0.9],
            "second": [0.7, 0.8, 0.2, 0.3],
        },
        half=HALVES,
    )
    found = summaries.chosen_variant(made, WORST, ["first", "second"])
    assert found.method == "second"
    assert found.candidates.index.tolist() == ["second", "first"]
    assert found.candidates.difference.tolist() == pytest.approx([25, 10])
    assert found.reported.loc["standard", "difference"] == pytest.approx(-25)
    assert found.reported.loc["RaVL", "difference"] == pytest.approx(-35)
    assert found.reported.n.tolist() == found.candidates.n.tolist() == [2, 2]
    low, high = found.reported.loc["RaVL", ["difference_low", "difference_high"]]
    assert (low, high) == pytest.approx((-40, -30))


def test_candidates_are_compared_on_the_settings_that_all_have():
    """Over its own settings the first would be ahead: it has the easy one alone."""
    made = with_values(
        {"standard": [0.5] * 4, "first": [0.9, 0.6, 0.5, 0.5], "second": [None, 0.7, 0.5, 0.5]}, half=HALVES
    )
    found = summaries.chosen_variant(made, WORST, ["first", "second"])
    assert found.method == "second" and found.candidates.n.tolist() == [1, 1]
    assert found.candidates.difference.tolist() == pytest.approx([20, 10])
    assert found.reported.n.to_dict() == {"RaVL": 0, "standard": 2}  # there is no RaVL in this table


def test_each_figure_may_choose_another_variant_and_the_first_wins_a_tie():
    made = with_values({"standard": [0.5] * 4, "first": [0.6] * 4, "second": [0.6] * 4}, half=HALVES)
    assert summaries.chosen_variant(made, WORST, ["second", "first"]).method == "second"
    assert summaries.chosen_variant(made, WORST, ["first", "second"]).method == "first"
    made.loc[made.method == "second", "region_overall"] = 0.7
    assert summaries.chosen_variant(made, "region_overall", ["first", "second"]).method == "second"


def test_candidates_that_cannot_be_compared_are_refused(table):
    for candidates, got in ((["swaps", "JTT"], r"\['JTT'\]"), ([], r"\[\]"), (["standard"], r"\['standard'\]")):
        with pytest.raises(ValueError, match=f"candidates: expected some of .*, got {got}"):
            summaries.chosen_variant(table, WORST, candidates)
    apart = with_values({"standard": [0.5] * 4, "first": [0.9, None] * 2, "second": [None, 0.7] * 2}, half=HALVES)
    with pytest.raises(ValueError, match="settings of the half 'choose' that all candidates have, got none"):
        summaries.chosen_variant(apart, WORST, ["first", "second"])


# ---- conditions ----


@pytest.mark.parametrize(
    ("by", "conditions"),
    [
        ("domain", ["mnist", "fashion_mnist", "coco_objects"]),
        ("strength", [0.7, 0.9, 0.99]),
        ("initial", ["rn-mini", "rn-mini-deep"]),
    ],
)
def test_differences_under_each_condition_are_those_of_a_loop(table, by, conditions):
    found = summaries.by_condition(table, "swaps", "standard", by)
    assert found.condition.unique().tolist() == conditions
    for condition in conditions:
        row = row_of(found, condition=condition, metric=WORST)
        values, groups = loop_differences(table, "swaps", "standard", WORST, lambda row, c=condition: row[by] == c)
        assert row["n"] == len(values) and row["clusters"] == len(set(groups))
        assert [row[name] for name in summaries.DIFFERENCE] == pytest.approx(loop_interval(values, groups))


def test_what_was_planted_is_found_above_a_precision_of_six_tenths():
    made = with_values({"standard": [0.5] * 4, "RaVL": [0.6, 0.7, 0.8, 0.9]}, precision_at_10=[0.6, 0.7, 1.0, math.nan])
    found = summaries.by_condition(made, "RaVL", "standard", "found").query("metric == @WORST")
    assert found.condition.tolist() == ["found", "not found"] and found.n.tolist() == [2, 1]
    assert found.difference.tolist() == pytest.approx([25, 10])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([10, 60, 20, 50, 30, 40], {"lower third, 10–20": 2, "middle third, 30–40": 2, "upper third, 50–60": 2}),
        ([0.1, 0.9, 0.5], {"lower third, 0.10–0.10": 1, "middle third, 0.50–0.50": 1, "upper third, 0.90–0.90": 1}),
        # Ties stay together, in the third of their mean rank
        (
            [0, 0, 0, 0.4, 0.6, 0.8],
            {"lower third, 0.00–0.00": 3, "middle third, 0.40–0.40": 1, "upper third, 0.60–0.80": 2},
        ),
        ([0, 0, 0, 0, 0.4, 0.8], {"middle third, 0.00–0.00": 4, "upper third, 0.40–0.80": 2}),
        ([1, 1, 1, 1, 1, 0.2], {"lower third, 0.20–0.20": 1, "middle third, 1.00–1.00": 5}),
        ([0.5, 0.5, 0.5], {"middle third, 0.50–0.50": 3}),
        ([0.1, math.nan, 0.9], {"lower third, 0.10–0.10": 1, "upper third, 0.90–0.90": 1}),
        ([math.nan, math.nan], {}),
    ],
)
@pytest.mark.parametrize("by", ["margin", "assignment_recall", "assignment_precision"])
def test_thirds_are_by_rank(by, values, expected):
    methods = {"standard": [0.5] * len(values), "RaVL": [0.6] * len(values)}
    found = summaries.by_condition(with_values(methods, **{by: values}), "RaVL", "standard", by)
    rows = found[found.metric == WORST]
    assert dict(zip(rows.condition, rows.n, strict=True)) == expected
    assert list(found.columns) == ["method", "by", "condition", "metric", "n", "clusters", *summaries.DIFFERENCE]


def test_recall_is_that_of_the_method_and_not_of_the_reference():
    made = with_values({"standard": [0.5] * 3, "RaVL": [0.6, 0.7, 0.8]}, assignment_recall=[0.1, 0.5, 0.9])
    made.loc[made.method == "standard", "assignment_recall"] = [0.9, 0.5, 0.1]
    found = summaries.by_condition(made, "RaVL", "standard", "assignment_recall").query("metric == @WORST")
    assert found.difference.tolist() == pytest.approx([10, 20, 30])


# ---- what goes with a gain ----


def test_a_rank_correlation_is_scipys_and_its_interval_draws_pairs_by_cluster(table):
    found = summaries.what_goes_with_gain(table, "swaps")
    own = table[table.method == "swaps"].sort_values("seed")
    standard = table[table.method == "standard"].sort_values("seed")
    gain = 100 * (own[WORST].to_numpy() - standard[WORST].to_numpy())
    explanations = {
        "strength": own.strength,
        "assignment_recall": own.assignment_recall,
        "initial": own[f"initial_{WORST}"],
        "reference": standard[WORST],
        "mean": (own[WORST].to_numpy() + standard[WORST].to_numpy()) / 2,
    }
    assert found.index.tolist() == list(explanations) and found.n.tolist() == [60] * 5
    groups = (own.domain + " " + own.attribute.astype(str)).to_numpy()
    members = [np.flatnonzero(groups == name) for name in sorted(set(groups))]
    for name, values in explanations.items():
        assert found.correlation[name] == pytest.approx(spearmanr(values, gain).statistic)
    values, random, drawn = own.strength.to_numpy(), np.random.default_rng(0), []
    for _ in range(2000):
        rows = np.concatenate([members[at] for at in random.integers(len(members), size=len(members))])
        drawn.append(spearmanr(values[rows], gain[rows]).statistic)
    assert found.loc["strength", ["low", "high"]].tolist() == pytest.approx([*np.quantile(drawn, [0.025, 0.975])])


def test_a_gain_that_follows_the_strength_goes_with_it():
    strengths = [0.7, 0.99, 0.9, 0.95, 0.8]
    made = with_values({"standard": [0.5] * 5, "RaVL": [0.5 + v / 10 for v in strengths]}, strength=strengths)
    found = summaries.what_goes_with_gain(made, "RaVL")
    assert found.correlation["strength"] == pytest.approx(1) and found.low["strength"] == pytest.approx(1)
    assert math.isnan(found.correlation["reference"]) and found.n["reference"] == 5  # it does not vary
    assert math.isnan(found.correlation["assignment_recall"]) and math.isnan(found.low["assignment_recall"])


def test_luck_alone_makes_a_gain_go_against_the_reference_but_not_against_the_mean():
    made = made_up(n=400, methods=("standard", "RaVL"), domains={"mnist": 10_000}, noise=10.0)
    found = summaries.what_goes_with_gain(made, "RaVL")
    assert found.high["reference"] < -0.4
    assert found.low["mean"] < 0 < found.high["mean"]


def test_values_that_are_missing_leave_a_correlation_out():
    made = with_values({"standard": [0.5] * 3, "RaVL": [0.6, 0.7, 0.8]}, assignment_recall=[math.nan, math.nan, 0.9])
    found = summaries.what_goes_with_gain(made, "RaVL", metric="aligned_accuracy")
    assert found.n.to_dict() == {"strength": 3, "assignment_recall": 1, "initial": 0, "reference": 3, "mean": 3}
    assert math.isnan(found.correlation["assignment_recall"]) and math.isnan(found.correlation["initial"])
    assert found.correlation["mean"] == pytest.approx(1)


# ---- repairs that hurt ----


def test_repairs_that_hurt_are_counted_with_wilsons_interval():
    made = with_values(
        {"standard": [0.5] * 10, "RaVL": [0.4, 0.499, *[0.5] * 3, *[0.6] * 5], "swaps": [0.9] * 8 + [None] * 2}
    )
    found = summaries.repairs_that_hurt(made)
    assert found.index.tolist() == ["RaVL", "swaps"]
    assert found.loc["RaVL", ["worse", "n", "share"]].tolist() == [2, 10, 0.2]
    assert found.loc["RaVL", ["low", "high"]].tolist() == pytest.approx([0.0567, 0.5098], abs=1e-4)  # Wilson, 2 of 10
    assert found.loc["swaps", ["worse", "n", "share", "low"]].tolist() == [0, 8, 0, 0]
    assert found.high["swaps"] == pytest.approx(3.8415 / (8 + 3.8415), abs=1e-4)  # z² / (n + z²)
    assert summaries.repairs_that_hurt(made, reference="swaps").loc["RaVL", ["worse", "n"]].tolist() == [8, 8]


def test_a_figure_that_is_missing_hurts_no_one():
    made = with_values({"standard": [0.5, 0.5], "RaVL": [0.4, math.nan]})
    assert summaries.repairs_that_hurt(made).loc["RaVL", ["worse", "n"]].tolist() == [1, 1]
    nothing = summaries.repairs_that_hurt(made[made.method == "standard"])
    assert nothing.empty and list(nothing.columns) == ["worse", "n", "share", "low", "high"]
