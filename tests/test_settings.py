"""Evaluation settings: the correlation that is planted is the one that was asked for, and nothing leaks."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats.contingency import association, crosstab

from ravl_core.metrics import group_accuracies
from ravl_core.randomness import stream
from ravl_core.settings import (
    TOLERANCE,
    Setting,
    balanced_table,
    build_setting,
    learned_margin,
    plant_correlation,
    table_strength,
)

STRENGTHS = (0.0, 0.7, 0.8, 0.9, 0.95, 0.99)
SMALL = Setting(n_finetuning=2000, n_val=200, n_test=210, strength=0.9, attribute=3)


def plant(strength, n_images=3000, attribute=9, seed=0, n_classes=10):
    return plant_correlation(n_images, n_classes, attribute, strength, stream(seed, "test"))


def chi_square_strength(table):
    return association(table, method="cramer")


@pytest.fixture(scope="module")
def planted():
    return build_setting(SMALL)


@pytest.mark.parametrize("n_images", [2000, 3000, 3007])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_strength_is_reached(strength, n_images):
    for attribute, seed in ((9, 0), (0, 1)):
        table = plant(strength, n_images, attribute, seed)
        assert abs(chi_square_strength(table) - strength) <= TOLERANCE
        assert table_strength(table) == pytest.approx(chi_square_strength(table), abs=1e-9)
        assert table.sum() == n_images and (table >= 0).all()
        assert np.ptp(table.sum(axis=1)) <= 1


@pytest.mark.parametrize("n_classes", [2, 3, 8])
def test_the_strength_is_reached_with_other_numbers_of_classes(n_classes):
    for strength in STRENGTHS:
        table = plant(strength, attribute=1, n_classes=n_classes)
        assert abs(chi_square_strength(table) - strength) <= TOLERANCE


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_the_feature_goes_with_the_attribute_and_with_no_other_class(strength):
    without, with_feature = plant(strength, attribute=4).T
    share = with_feature / (without + with_feature)
    others = np.delete(share, 4)
    assert share[4] > 0.8 and others.max() < 0.1
    assert np.ptp(others) <= 1 / 300 + 1e-9  # the other classes are alike, to one image


def test_the_nearest_table_is_taken_whichever_side_it_lies_on():
    errors = [table_strength(plant(strength, 1000)) - strength for strength in STRENGTHS[1:]]
    assert min(errors) < 0 < max(errors)


def test_a_control_has_the_feature_in_half_of_every_class():
    assert (plant(0.0) == 150).all()
    assert balanced_table(25, 10).sum(axis=1).tolist() == [3] * 5 + [2] * 5
    assert balanced_table(25, 10)[:, 1].tolist() == [1] * 10


def test_the_order_of_rounds_depends_on_the_stream_and_on_nothing_else():
    assert (plant(0.8) == plant(0.8)).all()
    assert any((plant(0.8) != plant(0.8, seed=seed)).any() for seed in range(1, 5))


def test_the_sets_hold_what_was_planted(planted):
    finetuning = planted.finetuning
    counts = crosstab(finetuning.labels, finetuning.feature_present).count
    assert abs(chi_square_strength(counts) - 0.9) <= TOLERANCE
    assert planted.reached_strength == pytest.approx(chi_square_strength(counts))
    assert counts[3, 1] > counts[3, 0] and len(finetuning) == 2000


@pytest.mark.parametrize("split, size", [("val", 200), ("test", 210)])
def test_the_sets_of_the_evaluation_hold_no_correlation(planted, split, size):
    data = getattr(planted, split)
    assert len(data) == size
    assert chi_square_strength(crosstab(data.labels, data.feature_present).count) < 0.02


def test_the_sets_share_no_source(planted):
    sources = [set(data.sources) for data in (planted.finetuning, planted.val, planted.test)]
    assert sum(map(len, sources)) == len(set.union(*sources))


def test_images_are_shuffled(planted):
    """A set sorted by class would make batches of one class."""
    for data in (planted.finetuning, planted.val, planted.test):
        assert (np.diff(data.labels) < 0).mean() > 0.3
        assert abs(np.corrcoef(np.arange(len(data)), data.feature_present)[0, 1]) < 0.2


def test_the_same_setting_gives_the_same_images_and_another_seed_others(planted):
    again, other = build_setting(SMALL), build_setting(replace(SMALL, seed=1))
    for split in ("finetuning", "val", "test"):
        images = [getattr(data, split).images.tobytes() for data in (planted, again, other)]
        assert images[0] == images[1] != images[2]


def test_a_control_differs_in_the_finetuning_set_alone(planted):
    control = build_setting(replace(SMALL, strength=0.0))
    assert control.reached_strength < TOLERANCE
    assert control.finetuning.images.tobytes() != planted.finetuning.images.tobytes()
    for split in ("val", "test"):
        assert getattr(control, split).images.tobytes() == getattr(planted, split).images.tobytes()


def test_a_setting_is_plain_values():
    assert Setting(**SMALL.arguments) == SMALL
    assert all(value is None or isinstance(value, str | int | float) for value in SMALL.arguments.values())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attribute": 10}, "attribute: expected a class index in 0…9, got 10"),
        ({"attribute": -1}, "attribute: expected a class index in 0…9, got -1"),
        ({"strength": 1.0}, r"strength: Cramér's V lies in \[0, 1\), got 1.0"),
        ({"strength": -0.1}, "strength: .*got -0.1"),
        ({"strength": float("nan")}, "strength: .*got nan"),
        ({"domain": "digit"}, "domain: no domain is called 'digit'; did you mean 'digits'"),
        ({"feature": "blue circle"}, "feature: digits offers red rectangle, got 'blue circle'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_setting(replace(SMALL, **change))


@pytest.mark.parametrize("attribute", [0, 9])
@pytest.mark.parametrize("n_images, strength", [(10, 0.9), (12, 0.7), (25, 0.01), (60, 0.99)])
def test_too_few_images_for_a_strength_are_an_error_that_says_so(n_images, strength, attribute):
    message = f"V = {strength} cannot be reached within 0.01 with {n_images} images.*more images"
    with pytest.raises(ValueError, match=message):
        plant(strength, n_images, attribute)


@pytest.mark.parametrize("n_images", [0, 5, 9])
def test_fewer_images_than_classes_are_refused(n_images):
    with pytest.raises(ValueError, match=f"n_images: expected at least one image a class .10., got {n_images}"):
        plant(0.9, n_images, attribute=0)


# ---- learned or not ----


def groups(accuracies, counts=100):
    """Group accuracies of (C, 2) shares, without and with the feature, of equal or given counts."""
    counts = np.broadcast_to(counts, np.shape(accuracies))
    correct, labels, present = [], [], []
    for (label, side), share in np.ndenumerate(accuracies):
        size = int(counts[label, side])
        correct += [i < round(share * size) for i in range(size)]
        labels += [label] * size
        present += [bool(side)] * size
    return group_accuracies(np.array(correct), np.array(labels), np.array(present), len(accuracies))


def test_the_margin_is_the_smaller_of_gain_and_loss():
    shares = [[0.9, 0.5], [0.7, 0.4], [0.3, 0.9]]  # class 2 gains 60; the others fall from 80 to 45
    assert learned_margin(groups(shares), 2) == pytest.approx(35)
    shares[2] = [0.7, 0.9]  # gains 20 only
    assert learned_margin(groups(shares), 2) == pytest.approx(20)


def test_the_margin_pools_the_images_of_the_other_classes():
    """By hand: without 90 of 100 and 10 of 50 are 2/3, with 25 of 50 and 0 of 100 are 1/6."""
    shares, counts = [[0.9, 0.5], [0.2, 0.0], [0.0, 1.0]], [[100, 50], [50, 100], [10, 10]]
    assert learned_margin(groups(shares, counts), 2) == pytest.approx(50)


def test_a_model_that_leans_the_other_way_has_a_negative_margin():
    assert learned_margin(groups([[0.5, 0.9], [0.9, 0.4]]), 1) == pytest.approx(-50)
    assert learned_margin(groups([[0.9, 0.9], [0.3, 0.9]]), 1) == pytest.approx(0)


def test_a_group_without_images_does_not_hide_what_the_others_did():
    shares, counts = [[0.9, 0.5], [0.9, 0.0], [0.2, 1.0]], [[100, 100], [100, 0], [50, 50]]
    assert learned_margin(groups(shares, counts), 2) == pytest.approx(40)


@pytest.mark.parametrize("empty", [(1, 0), (1, 1), (0, 0), (0, 1)])
def test_without_images_to_compare_the_margin_is_not_a_number(empty):
    counts = np.full((2, 2), 50)
    counts[empty] = 0
    assert np.isnan(learned_margin(groups([[0.9, 0.1], [0.1, 0.9]], counts), 1))
