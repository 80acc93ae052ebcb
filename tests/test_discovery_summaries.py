"""The paper's tables on discovery and what goes beyond them, against plain loops over the records."""

import math

import numpy as np
import pandas as pd
import pytest
import study_records
from study_records import METHODS, RECIPES, VARIATIONS, record

from ravl_core import discovery_summaries as summaries
from ravl_core import paths
from ravl_core.discovery_summaries import ABLATIONS, BASELINES, PAPERS, TABLE_1
from ravl_core.discovery_tables import discovery_tables, reference_tables, stability_table
from ravl_core.metrics import bootstrap_interval, wilson_interval
from ravl_core.settings import THRESHOLDS
from ravl_core.slicing import CHANCE, NAMED
from ravl_core.study import half_of

PRECISION = "precision_at_10"
FOUR = 0.5001e-4  # tables are rounded to four decimals


pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def finished():
    return study_records.study(3)


@pytest.fixture(scope="module")
def tables(finished):
    return discovery_tables(finished)


@pytest.fixture(scope="module")
def rows(tables):
    return summaries.judged(tables)


# --- the records, in plain loops -------------------------------------------------------------------------------------


def setting_of(one):
    return one["arguments"]["setting"]


def margin_of(one):
    margin = one["metrics"]["margin"]
    return -math.inf if margin is None else round(margin, 9)


def judged_records(finished):
    """Position and record of the settings that methods are judged on."""
    return [
        (at, one)
        for at, one in enumerate(finished)
        if one["arguments"]["budget"]["trained"] == "head" and setting_of(one)["strength"] > 0 and margin_of(one) >= 10
    ]


def value_of(one, method, measure=PRECISION):
    return round(one["metrics"]["discovery"]["methods"][method][measure], 4)


def cluster_of(one):
    return f"{setting_of(one)['domain']} {setting_of(one)['attribute']}"


def loop_resamples(groups):
    """Positions of each of 2000 resamples that draw groups whole."""
    members = [[at for at, group in enumerate(groups) if group == name] for name in sorted(set(groups))]
    random = np.random.default_rng(0)
    for _ in range(2000):
        yield [at for drawn in random.integers(len(members), size=len(members)) for at in members[drawn]]


def loop_interval(values, groups):
    """Mean and 95 % bootstrap interval."""
    means = [sum(values[at] for at in drawn) / len(drawn) for drawn in loop_resamples(groups)]
    return sum(values) / len(values), np.quantile(means, 0.025), np.quantile(means, 0.975)


def loop_share(truths):
    count, n = sum(bool(one) for one in truths), len(truths)
    low, high = wilson_interval(count / n, n)
    return {"n": n, "share": count / n, "low": float(low), "high": float(high)}


# --- which settings --------------------------------------------------------------------------------------------------


def test_methods_are_judged_on_planted_and_learned_settings_of_heads(finished, rows):
    kept = judged_records(finished)
    positions = [at for at, _ in kept]
    assert 20 < len(positions) < len(finished) - 20 and 11 in positions  # whose margin is ten points, but for rounding
    assert list(dict.fromkeys(rows.position)) == positions
    for at, one in kept:
        own, setting = rows[rows.position == at], setting_of(one)
        assert set(own.method) == set(one["metrics"]["discovery"]["methods"]) and own.method.is_unique
        for row in own.to_dict("records"):
            assert row[PRECISION] == value_of(one, row["method"])
            assert all(row[name] == setting[name] for name in ("domain", "initial", "feature", "strength"))
            assert row["planted_attribute"] == setting["attribute"]
            assert row["margin"] == pytest.approx(margin_of(one), abs=1e-6)
            assert row["half"] == half_of(setting) and row["cluster"] == cluster_of(one)
            assert row["kind"] == ("synthetic" if setting["domain"] == "mnist" else "real-world")


def test_at_most_so_many_settings_are_judged_the_first_of_the_grid(finished, tables, rows):
    few = summaries.judged(tables, most=7)
    assert list(dict.fromkeys(few.position)) == [at for at, _ in judged_records(finished)[:7]]
    pd.testing.assert_frame_equal(few, rows[rows.position.isin(few.position)])


@pytest.mark.parametrize(
    ("domain", "kind"),
    [("mnist", "synthetic"), ("fashion_mnist", "synthetic"), ("digits", "synthetic")]
    + [(domain, "real-world") for domain in ("coco", "coco_objects", "photos")],
)
def test_scans_are_synthetic_and_photographs_are_real(domain, kind):
    one = record(domain=domain)
    one["metrics"]["margin"] = 30.0
    assert set(summaries.judged(discovery_tables([one])).kind) == {kind}


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_clustered_interval_is_that_of_the_metrics_module(seed):
    random = np.random.default_rng(seed)
    values, clusters = random.random(40), random.choice(["mnist 1", "mnist 10", "coco 3", "mnist 2"], size=40)
    expected = bootstrap_interval(values, groups=clusters, seed=seed)
    found = summaries.clustered_interval(values, clusters, seed)
    assert found.low < found.estimate < found.high
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(summaries.clustered_interval(values, clusters), loop_interval(values, clusters))


def test_a_clustered_interval_of_little():
    assert np.isnan(summaries.clustered_interval(np.empty(0), np.empty(0, dtype=str))).all()
    assert summaries.clustered_interval(np.array([0.25, 0.75]), np.array(["a", "a"])) == (0.5, 0.5, 0.5)
    series = pd.Series([1.0, 0.0, 1.0], index=[7, 3, 3])  # of chosen rows
    found = summaries.clustered_interval(series, pd.Series(list("aab"), index=[7, 3, 3]))
    np.testing.assert_allclose(found, loop_interval([1.0, 0.0, 1.0], list("aab")))


# --- tables 1 and 2 --------------------------------------------------------------------------------------------------


def expected_row(kept, method, first):
    """A row of a precision table from judged records."""
    own, groups = [value_of(one, method) for one in kept], [cluster_of(one) for one in kept]
    behind = [value_of(one, first) - value_of(one, method) for one in kept]
    row = dict(zip(("mean", "low", "high"), loop_interval(own, groups), strict=True))
    return row | dict(zip(("behind", "behind_low", "behind_high"), loop_interval(behind, groups), strict=True))


@pytest.mark.parametrize("methods", [TABLE_1[:3], ABLATIONS[:2]])
def test_a_precision_table_is_that_of_plain_loops(finished, rows, methods):
    found = summaries.precision_table(rows, methods, thresholds=[10, 30])
    assert list(found.index) == [(threshold, method) for threshold in (10, 30) for method in methods]
    assert found.index.names == ["T_eval", "method"] and found["n"].dtype == int
    for threshold in (10, 30):
        kept = [one for _, one in judged_records(finished) if margin_of(one) >= threshold]
        for method in methods:
            row = found.loc[(threshold, method)]
            assert row["n"] == len(kept) > 5
            expected = expected_row(kept, method, methods[0])
            assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-9)
            for measure in ("image_precision_at_10", "average_precision"):
                assert row[measure] == pytest.approx(np.mean([value_of(one, method, measure) for one in kept]))


def test_a_precision_table_has_all_methods_at_all_thresholds(rows):
    found = summaries.precision_table(rows)
    assert list(found.index) == [(threshold, method) for threshold in THRESHOLDS for method in TABLE_1]
    assert found.loc[THRESHOLDS[0], "n"].nunique() == 1
    assert found["n"].groupby("T_eval").first().is_monotonic_decreasing
    own = found.xs(PAPERS, level="method")[["behind", "behind_low", "behind_high"]]
    assert (own == 0).all(axis=None)  # none is behind itself


def test_a_difference_is_paired():
    """Two methods that rise and fall together have a difference without spread."""
    made = [record(seed=seed, attribute=seed % 4) for seed in range(12)]
    for seed, one in enumerate(made):
        one["metrics"]["margin"] = 50.0
        methods = one["metrics"]["discovery"]["methods"]
        methods["Domino"][PRECISION] = (seed % 4) / 10
        methods[PAPERS][PRECISION] = (seed % 4) / 10 + 0.2
    found = summaries.precision_table(summaries.judged(discovery_tables(made)), (PAPERS, "Domino"), [10])
    row = found.loc[(10, "Domino")]
    assert row["low"] < row["high"]
    assert row[["behind", "behind_low", "behind_high"]].tolist() == pytest.approx([0.2] * 3)


def test_a_threshold_that_no_setting_reaches_has_no_numbers(rows):
    found = summaries.precision_table(rows, TABLE_1[:2], [10, 101])
    assert (found.loc[101, "n"] == 0).all() and found.loc[101].drop(columns="n").isna().all(axis=None)
    assert (found.loc[10, "n"] > 0).all() and found.loc[10].notna().all(axis=None)


def test_settings_on_which_a_method_has_no_value_are_left_out(finished, rows):
    """True names are known of some domains only."""
    kept = [one for _, one in judged_records(finished) if setting_of(one)["domain"] == "coco_objects"]
    found = summaries.precision_table(rows, (PAPERS, NAMED), [10])
    assert found["n"].tolist() == [len(kept)] * 2
    assert found["mean"].tolist() == pytest.approx(
        [np.mean([value_of(one, name) for one in kept]) for name in (PAPERS, NAMED)]
    )
    measure = summaries.wide(rows, (PAPERS, NAMED))
    assert set(measure.domain) == {"coco_objects"} and len(summaries.wide(rows, (PAPERS,))) > len(measure)


def test_one_row_a_setting(finished, rows):
    measure = summaries.wide(rows, METHODS, "average_precision")
    kept = judged_records(finished)
    assert measure.position.tolist() == [at for at, _ in kept]
    for method in METHODS:
        assert measure[method].tolist() == [value_of(one, method, "average_precision") for _, one in kept]
    described = ["domain", "kind", "initial", "feature", "strength", "margin", "half", "cluster"]
    once = rows.drop_duplicates("position").reset_index(drop=True)
    pd.testing.assert_frame_equal(measure[described], once[described], check_names=False)


@pytest.mark.parametrize("by", [["kind"], ["kind", "strength"], ["half", "initial"]])
def test_precision_by_anything_is_that_of_plain_loops(finished, rows, by):
    methods = (PAPERS, "George")
    found = summaries.precision_by(rows, by, methods)
    kinds = {"mnist": "synthetic", "coco_objects": "real-world"}
    parts = {}
    for _, one in judged_records(finished):
        names = setting_of(one) | {"kind": kinds[setting_of(one)["domain"]], "half": half_of(setting_of(one))}
        parts.setdefault(tuple(names[name] for name in by), []).append(one)
    assert found.index.names == [*by, "method"] and found["n"].dtype == int
    assert list(found.index) == [(*key, method) for key in sorted(parts) for method in methods]
    for key, kept in parts.items():
        for method in methods:
            row = found.loc[(*key, method)]
            assert row["n"] == len(kept)
            expected = expected_row(kept, method, PAPERS)
            assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-9)


# --- the headline ----------------------------------------------------------------------------------------------------


def with_precisions(made, **precisions):
    """Judged rows in which these methods (PAPERS: ours) have these values on every setting, or one a setting."""
    for at, one in enumerate(made):
        one["metrics"]["margin"] = 50.0
        for name, value in precisions.items():
            value = value[at] if isinstance(value, list) else value
            one["metrics"]["discovery"]["methods"][name][PRECISION] = value
    return summaries.judged(discovery_tables(made))


def several(n_settings=12):
    return [record(seed=seed, attribute=seed % 6) for seed in range(n_settings)]


def test_a_lead_is_a_ratio_of_means_less_one(finished, rows):
    found = summaries.lead_over(rows, PAPERS, "Domino")
    kept = [one for _, one in judged_records(finished)]
    ours, theirs = ([value_of(one, name) for one in kept] for name in (PAPERS, "Domino"))
    assert found.estimate == pytest.approx(np.mean(ours) / np.mean(theirs) - 1)
    leads = sorted(
        sum(ours[at] for at in drawn) / sum(theirs[at] for at in drawn) - 1
        for drawn in loop_resamples([cluster_of(one) for one in kept])
    )
    assert leads[48] - 1e-9 <= found.low <= leads[51] + 1e-9  # whichever way quantiles are taken
    assert leads[1948] - 1e-9 <= found.high <= leads[1951] + 1e-9


def test_a_lead_of_one_is_twice_as_much():
    rows = with_precisions(several(), RaVL=0.6, Domino=0.3)
    assert summaries.lead_over(rows, PAPERS, "Domino") == pytest.approx((1, 1, 1))
    assert summaries.lead_over(rows, "Domino", PAPERS) == pytest.approx((-0.5, -0.5, -0.5))


def test_the_lead_over_one_that_never_finds_anything_is_infinite():
    rows = with_precisions(several(), RaVL=0.6, Domino=0.0)
    assert summaries.lead_over(rows, PAPERS, "Domino") == (np.inf, np.inf, np.inf)


def test_the_lead_over_one_that_rarely_finds_anything_has_no_upper_end():
    rows = with_precisions(several(), RaVL=0.6, Domino=[0.6] + 11 * [0.0])  # many resamples are without the first
    found = summaries.lead_over(rows, PAPERS, "Domino")
    assert found.estimate == pytest.approx(11) and 0 < found.low < 11 and found.high == np.inf


def test_where_neither_finds_anything_there_is_no_lead():
    rows = with_precisions(several(), RaVL=0.0, Domino=0.0)
    assert np.isnan(summaries.lead_over(rows, PAPERS, "Domino")).all()


def test_the_closest_baseline_has_the_highest_mean(finished, rows):
    kept = [one for _, one in judged_records(finished)]
    means = {name: np.mean([value_of(one, name) for one in kept]) for name in BASELINES}
    assert summaries.closest_baseline(rows) == max(means, key=means.get)
    rows = with_precisions(several(), RaVL=1.0, **{name: at / 10 for at, name in enumerate(BASELINES)})
    assert summaries.closest_baseline(rows) == BASELINES[-1]
    assert summaries.closest_baseline(rows, BASELINES[:3]) == BASELINES[2]
    rows = with_precisions(several(), Domino=0.4, George=5 * [1.0] + 7 * [0.1])  # of a higher mean, a lower median
    assert summaries.closest_baseline(rows, ["Domino", "George"]) == "George"
    assert not {PAPERS, CHANCE, NAMED} & set(BASELINES)


# --- false discoveries -----------------------------------------------------------------------------------------------


def test_claims_on_controls_are_counted_by_four_rules(finished, tables):
    controls = [one["metrics"]["discovery"] for one in finished if setting_of(one)["strength"] == 0]
    firsts = [looked["inference"]["first"] for looked in controls]
    expected = {
        "paper's recipe": [looked["n_findings"] > 0 for looked in controls],
        "first finding, gap p ≤ 0.05": [first is not None and first["gap_p"] <= 0.05 for first in firsts],
        "any cluster, gap p ≤ 0.05": [looked["inference"]["smallest_gap_p"] <= 0.05 for looked in controls],
        "controlled": [bool(looked["inference"]["significant"]) for looked in controls],
    }
    found = summaries.false_discoveries(tables)
    assert list(found.index) == list(expected)
    assert found["n"].dtype == found["claims"].dtype == int
    counts = set()
    for rule, claimed in expected.items():
        share = loop_share(claimed)
        assert found.loc[rule, ["n", "share", "low", "high"]].to_dict() == pytest.approx(share), rule
        assert found.loc[rule, "claims"] == sum(claimed)
        assert 0 < sum(claimed) < len(controls) and share["low"] < share["share"] < share["high"]
        counts.add(sum(claimed))
    assert len(counts) > 1


def claiming(n_settings, n_claims):
    """Controls, in the first of which each rule claims something."""
    made = [record(seed=seed, strength=0.0) for seed in range(n_settings)]
    first = {"gap_p": 0.05, "gap": [1.0] * 3, "influence": [1.0] * 3, "difference": [1.0] * 3}
    cluster = {"cluster": 1, "attribute": 2, "pull": 0.5, "gap": 1.0, "p_value": 0.01, "feature_share": 0.0}
    for at, one in enumerate(made):
        yes = at < n_claims
        sure = {"first": first | {"influence_images": 1, "n_sources": 1}, "smallest_gap_p": 0.05}
        none = {"first": None, "smallest_gap_p": 0.0501}
        one["metrics"]["discovery"]["n_findings"] = int(yes)
        one["metrics"]["discovery"]["inference"] = (sure if yes else none) | {"significant": [cluster] * yes}
    return summaries.false_discoveries(discovery_tables(made))


def test_shares_have_wilsons_intervals():
    found = claiming(50, 5)
    assert (found["claims"] == 5).all() and (found["n"] == 50).all()
    np.testing.assert_allclose(found[["share", "low", "high"]], [[0.1, 0.0434758, 0.2136022]] * 4, atol=1e-6)
    for row in found.to_dict("records"):  # its ends are where the share is 1.96 standard errors off
        for end in (row["low"], row["high"]):
            assert abs(end - 0.1) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 50), abs=1e-6)


def test_no_claim_and_no_control_are_no_error():
    found = claiming(20, 0)
    assert (found["claims"] == 0).all() and (found["low"] < 1e-9).all() and (found["high"] > 0.1).all()
    found = summaries.false_discoveries(discovery_tables([record(strength=0.9)]))
    assert (found["n"] == 0).all() and found[["share", "low", "high"]].isna().all(axis=None)


# --- how many images it takes ----------------------------------------------------------------------------------------


def loop_power(finished):
    """(setting, size, recipe, right, right and named) of judged settings."""
    for at, one in judged_records(finished):
        for size in one["metrics"]["discovery"]["by_size"]:
            for recipe in RECIPES:
                right = size[recipe][PRECISION] >= 0.5
                named = right and size[recipe]["attribute"] == setting_of(one)["attribute"]
                yield at, size["n_images"], recipe, right, named


def test_a_finding_is_right_if_half_of_its_regions_show_the_feature(finished, tables):
    found = summaries.power_rows(tables)
    expected = list(loop_power(finished))
    columns = ["position", "n_images", "recipe", "found", "named"]
    assert list(found[columns].itertuples(index=False, name=None)) == expected
    halves = found[found[PRECISION] == 0.5]
    assert len(halves) and halves.found.all()
    assert 0 < found.named.sum() < found.found.sum() < len(found)
    for row in found.to_dict("records"):
        setting = setting_of(finished[row["position"]])
        assert row["planted_attribute"] == setting["attribute"] and row["domain"] == setting["domain"]


def test_nothing_found_is_not_named():
    made = [record(seed=1)]
    made[0]["metrics"]["margin"] = 50.0
    for size in made[0]["metrics"]["discovery"]["by_size"]:
        size |= {recipe: {"precision_at_10": 0.0, "attribute": None} for recipe in RECIPES}
    found = summaries.power_rows(discovery_tables(made))
    assert len(found) == 12 and not found.found.any() and not found.named.any()


@pytest.mark.parametrize("by", [("recipe", "n_images"), ("domain", "recipe", "n_images"), ("recipe",)])
def test_power_is_a_share_of_settings(finished, tables, by):
    rows = summaries.power_rows(tables)
    found = summaries.power_table(rows, by)
    parts = {}
    for at, n_images, recipe, right, _ in loop_power(finished):
        names = {"recipe": recipe, "n_images": n_images, "domain": setting_of(finished[at])["domain"]}
        parts.setdefault(tuple(names[name] for name in by), []).append(right)
    assert list(found.index.names) == list(by) and len(found) == len(parts)
    for key, right in parts.items():
        row = found.loc[key if len(by) > 1 else key[0]]
        assert row.to_dict() == pytest.approx(loop_share(right)), key


# --- stability -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stable(finished):
    return stability_table(finished)


def varied(finished, kind, variation, recipe):
    """(record, its row) of the settings that were varied in this way."""
    return [
        (one, row[recipe])
        for one in finished
        for row in one["metrics"]["stability"]
        if (row["kind"], row["variation"]) == (kind, variation)
    ]


KEYS = [(kind, variation, recipe) for kind, variation in VARIATIONS for recipe in RECIPES]


def test_agreement_is_a_share_of_settings(finished, stable):
    found = summaries.agreement_table(stable)
    assert list(found.index) == KEYS and found["n"].dtype == int
    for key in KEYS:
        own = [row for _, row in varied(finished, *key)]
        assert len(own) > 20
        share = loop_share([row["agrees"] for row in own])
        row = found.loc[key]
        assert row[list(share)].to_dict() == pytest.approx(share)
        assert row["overlap"] == pytest.approx(np.mean([one["overlap"] for one in own]), abs=FOUR)
    assert found["share"].nunique() > 3


def test_precision_of_each_variation(finished, stable):
    found = summaries.variation_table(stable)
    assert list(found.index) == KEYS and found["n"].dtype == int
    for key in KEYS[:4]:
        own = varied(finished, *key)
        values, groups = [row[PRECISION] for _, row in own], [cluster_of(one) for one, _ in own]
        row = found.loc[key, ["mean", "low", "high"]]
        assert row.tolist() == pytest.approx(loop_interval(values, groups), abs=1e-9)
        assert found.loc[key, "n"] == len(own)


def test_stability_is_that_of_judged_settings(finished, tables, stable):
    """Its records are those of a grid of its own, whose positions are others."""
    order = np.random.default_rng(0).permutation(len(finished))
    other = stability_table([finished[at] for at in order])
    kept = {(setting_of(one)["domain"], setting_of(one)["seed"]) for _, one in judged_records(finished)}
    for given in (stable, other):
        found = summaries.of_judged(given, tables)
        inside = [pair in kept for pair in zip(given.domain, given.seed, strict=True)]
        assert 0 < sum(inside) < len(given)
        pd.testing.assert_frame_equal(found, given[inside].reset_index(drop=True))


# --- files and empty hands -------------------------------------------------------------------------------------------


def test_the_reference_gives_the_same_summaries(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path)
    tables.save(tmp_path / "results" / "full")
    tables.settings.to_csv(tmp_path / "results" / "full" / "settings.csv", index=False)
    read = reference_tables()
    asked = (
        lambda given: summaries.precision_table(summaries.judged(given), TABLE_1[:3], [10, 40]),
        lambda given: summaries.precision_by(summaries.judged(given), ["strength"], ABLATIONS[:2]),
        summaries.false_discoveries,
        lambda given: summaries.power_table(summaries.power_rows(given)),
    )
    for summary in asked:
        pd.testing.assert_frame_equal(summary(read), summary(tables), check_dtype=False, rtol=0, atol=1e-9)


def test_no_valid_setting_is_a_table_without_numbers():
    """As in a run of few settings: nothing planted was learned."""
    made = [record(seed=seed) for seed in range(3)]
    for one in made:
        one["metrics"]["margin"] = 3.0
    tables = discovery_tables(made)
    rows = summaries.judged(tables)
    assert len(rows) == 0 and {"kind", "cluster", "planted_attribute", PRECISION} <= set(rows)
    found = summaries.precision_table(rows)
    assert len(found) == len(THRESHOLDS) * len(TABLE_1) and (found["n"] == 0).all()
    assert found.drop(columns="n").isna().all(axis=None)
    assert len(summaries.power_rows(tables)) == 0
