import numpy as np
import pytest

from ravl_core.metrics import bootstrap_interval, group_accuracies, precision_at_k


@pytest.mark.parametrize(
    "ranked, k, expected",
    [
        ([0, 1, 2, 3], 4, 0.5),
        ([0, 2, 1, 3], 2, 1.0),
        ([1, 3, 0, 2], 2, 0.0),
        ([0, 1, 2], 10, 2 / 3),  # of those there are
        ([], 10, 0.0),
        (np.array([2, 1]), 1, 1.0),
    ],
)
def test_precision_at_k(ranked, k, expected):
    assert precision_at_k(ranked, np.array([True, False, True, False]), k=k) == expected


def test_precision_is_at_ten_by_default():
    assert precision_at_k(range(12), np.arange(12) >= 10) == 0.0
    assert precision_at_k(range(12), np.arange(12) < 7) == 0.7


@pytest.mark.parametrize(
    "ranked, shows, k, message",
    [
        ([4], [True] * 4, 10, "ranked_regions: expected integers from 0 to 3"),
        ([-1], [True] * 4, 10, "ranked_regions: expected integers from 0 to 3"),
        ([0], [1, 0], 10, "shows_feature: expected a vector of booleans"),
        ([0], [True], 0, "k: expected an integer of 1 or more, got 0"),
    ],
)
def test_precision_names_wrong_arguments(ranked, shows, k, message):
    with pytest.raises(ValueError, match=message):
        precision_at_k(ranked, np.array(shows), k)


@pytest.mark.parametrize("seed", range(5))
def test_group_accuracies_are_those_of_a_loop(seed):
    random = np.random.default_rng(seed)
    labels, present = random.integers(3, size=60), random.random(60) < 0.4
    correct = random.random(60) < 0.7
    present[labels == 1] = True  # class 1 has no member without the feature
    found = group_accuracies(correct, labels, present, n_classes=4)  # class 3 has no member at all
    groups = {(c, f): correct[(labels == c) & (present == f)] for c in range(4) for f in (False, True)}
    for (c, f), members in groups.items():
        assert found.count[c, int(f)] == len(members)
        np.testing.assert_allclose(found.accuracy[c, int(f)], members.mean() if len(members) else np.nan)
    there = {group: members.mean() for group, members in groups.items() if len(members)}
    assert len(there) == 5
    assert found.worst_group == min(there.values()) == there[found.where_worst]
    np.testing.assert_allclose(found.overall, correct.mean())


def test_group_accuracies_as_a_table():
    found = group_accuracies(
        np.array([True, False, True]), np.array([0, 0, 1]), np.array([True, True, False]), n_classes=2
    )
    expected = {
        "accuracy_with": [0.5, np.nan],
        "accuracy_without": [np.nan, 1.0],
        "count_with": [2, 0],
        "count_without": [0, 1],
    }
    table = found.table()
    assert list(table.columns) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(table[name], values)
    assert found.where_worst == (0, True)


def test_groups_without_members():
    nobody = group_accuracies(np.array([], dtype=bool), [], np.array([], dtype=bool), n_classes=2)
    assert np.isnan(nobody.overall) and np.isnan(nobody.worst_group) and nobody.where_worst is None
    assert nobody.count.sum() == 0 and np.isnan(nobody.accuracy).all()


def test_group_accuracies_name_wrong_arguments():
    truths = np.array([True, False])
    with pytest.raises(ValueError, match="labels: expected integers from 0 to 1"):
        group_accuracies(truths, [0, 2], truths, 2)
    with pytest.raises(ValueError, match="feature_present: expected length 2"):
        group_accuracies(truths, [0, 1], truths[:1], 2)
    with pytest.raises(ValueError, match="correct: expected a vector of booleans"):
        group_accuracies([0.5, 1], [0, 1], truths, 2)


def test_bootstrap_of_the_mean_is_close_to_the_normal_interval():
    values = np.random.default_rng(0).normal(size=400)
    estimate, low, high = bootstrap_interval(values, n_resamples=4000, seed=1)
    error = values.std() / np.sqrt(400)
    assert estimate == values.mean()
    np.testing.assert_allclose([low, high], estimate + np.array([-1.96, 1.96]) * error, atol=0.1 * error)


def test_bootstrap_level_statistic_and_seed():
    values = np.random.default_rng(0).exponential(size=80)
    narrow, wide = (bootstrap_interval(values, np.median, level, 500) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert narrow.estimate == np.median(values)
    assert bootstrap_interval(values, seed=3, n_resamples=200) == bootstrap_interval(values, seed=3, n_resamples=200)
    assert bootstrap_interval(values, seed=3, n_resamples=200) != bootstrap_interval(values, seed=4, n_resamples=200)
    assert bootstrap_interval(np.full(9, 2.5), n_resamples=50) == (2.5, 2.5, 2.5)


def test_bootstrap_draws_whole_groups():
    independent = np.random.default_rng(0).normal(size=60)
    values, groups = np.repeat(independent, 9), np.repeat(np.arange(60), 9)
    order = np.random.default_rng(1).permutation(len(values))
    width = {
        name: np.subtract(*bootstrap_interval(*sample, n_resamples=2000)[:0:-1])
        for name, sample in {"independent": (independent,), "copied": (values,)}.items()
    }
    grouped = bootstrap_interval(values[order], n_resamples=2000, groups=groups[order])
    np.testing.assert_allclose(grouped.high - grouped.low, width["independent"], rtol=0.1)
    np.testing.assert_allclose(width["copied"], width["independent"] / 3, rtol=0.1)


def test_bootstrap_of_uneven_groups_keeps_their_members_together():
    values, groups = np.array([1.0, 1, 1, 0]), np.array(["a", "a", "a", "b"])
    seen = []
    bootstrap_interval(values, lambda sample: seen.append(tuple(sorted(sample))) or 0.0, n_resamples=100, groups=groups)
    assert set(seen) == {(0.0, 0.0), (0.0, 1.0, 1.0, 1.0), (1.0,) * 6}


def test_bootstrap_keeps_rows_whole():
    pairs = np.stack([np.arange(30.0), np.arange(30.0) + 2], axis=1)
    interval = bootstrap_interval(pairs, lambda sample: np.mean(sample[:, 1] - sample[:, 0]), n_resamples=50)
    assert interval == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(values=[]), "values: expected at least one observation"),
        (dict(values=[1.0], level=1.0), "level: expected a number between 0 and 1"),
        (dict(values=[1.0], level=95), "level: expected a number"),
        (dict(values=[1.0], n_resamples=0), "n_resamples: expected an integer of 1 or more"),
        (dict(values=[1.0, 2.0], groups=[0]), "groups: expected length 2"),
    ],
)
def test_bootstrap_names_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(**arguments)
