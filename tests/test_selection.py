"""Which model a search keeps: the score against a loop, and the choice among few candidates by hand."""

import math

import numpy as np
import pytest

from ravl_core.mitigation.selection import select, worst_group_on_val


def problem(seed, n_images=120, n_classes=4):
    """Predictions, labels and held images; some groups have few images or none."""
    random = np.random.default_rng(seed)
    labels = random.choice(n_classes, n_images, p=[0.4, 0.4, 0.15, 0.05])
    held = random.random(n_images) < np.array([0.5, 0.1, 0.3, 0.5])[labels]
    predictions = np.where(random.random(n_images) < 0.6, labels, random.integers(0, n_classes, n_images))
    return predictions, labels, held, n_classes


def groups_by_loop(predictions, labels, held):
    """Correct or not, of each image of each group that has one."""
    members = {}
    for predicted, label, holds in zip(predictions, labels, held, strict=True):
        members.setdefault((label, holds), []).append(predicted == label)
    return members


# ---- the score ----


@pytest.mark.parametrize("seed", range(10))
def test_the_score_is_the_worst_group_of_five_images_or_more(seed):
    given = problem(seed)
    members = groups_by_loop(*given[:3])
    assert min(map(len, members.values())) < 5  # or the test would not see that these are left out
    expected = min(sum(hits) / len(hits) for hits in members.values() if len(hits) >= 5)
    assert worst_group_on_val(*given) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n, expected", [(4, 0.75), (5, 0.0)])
def test_a_group_counts_from_five_images_on(n, expected):
    """All of a small group are wrong, three in four of a large one are right."""
    labels = np.repeat([0, 1], [20, n])
    predictions = np.concatenate([np.repeat([0, 1], [15, 5]), np.zeros(n, dtype=int)])
    assert worst_group_on_val(predictions, labels, np.zeros(20 + n, dtype=bool), 2) == expected


def test_the_cluster_divides_a_class():
    labels = np.zeros(20, dtype=int)
    predictions = np.repeat([0, 1], [12, 8])
    held = np.arange(20) >= 10  # two of ten are right with it, all without
    assert worst_group_on_val(predictions, labels, held, 2) == pytest.approx(0.2)
    assert worst_group_on_val(predictions, labels, ~held, 2) == pytest.approx(0.2)
    assert worst_group_on_val(predictions, labels, np.zeros(20, dtype=bool), 2) == pytest.approx(0.6)


def test_where_no_group_is_large_enough_all_images_count():
    labels, held = np.arange(8) % 2, np.arange(8) // 4 == 1  # four groups of two
    predictions = np.where(np.arange(8) < 3, labels, 1 - labels)
    assert worst_group_on_val(predictions, labels, held, 2) == pytest.approx(3 / 8)


def test_no_image_has_no_score():
    nothing = np.empty(0, dtype=int)
    assert math.isnan(worst_group_on_val(nothing, nothing, np.empty(0, dtype=bool), 2))


# ---- the choice ----


@pytest.mark.parametrize(
    "scores, chosen",
    [
        ({3e-4: 0.1, 1e-3: 0.5, 3e-3: 0.3}, 1e-3),
        ({"a": 0.5, "b": 0.5, "c": 0.4}, "a"),
        ({"c": 0.4, "b": 0.5, "a": 0.5}, "b"),
        ({"a": math.nan, "b": 0.0, "c": math.nan}, "b"),
        ({"a": 0.2, "b": math.nan}, "a"),
        ({"a": math.nan, "b": math.nan}, "a"),
        ({"a": np.float64(0.1), "b": np.float64(0.2)}, "b"),
        ({"only": 0.0}, "only"),
    ],
)
def test_the_highest_score_is_chosen_and_the_first_on_ties(scores, chosen):
    assert select(scores) == chosen


def test_a_choice_among_none_is_refused():
    with pytest.raises(ValueError, match="scores: expected at least one candidate, got none"):
        select({})
