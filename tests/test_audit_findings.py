"""What an audit says of a cluster: shares by plain loops, tests that hold their level, and effects that are there."""

from types import SimpleNamespace

import numpy as np
import oracles
import pandas as pd
import pytest

from ravl_core.audits.columns import FIELDS, column_effects
from ravl_core.audits.detectable import detectable_shifts, plant
from ravl_core.audits.findings import associations, one_of_each
from ravl_core.audits.naming import name_cluster
from ravl_core.audits.with_and_without import with_and_without
from ravl_core.metrics import bootstrap_interval, wilson_interval
from ravl_core.pull import cluster_pull
from ravl_core.significance import significant_clusters

pytestmark = pytest.mark.filterwarnings("error")
NAMES = ("cat", "dog", "owl")


def answers(n_images=150, n_classes=3, seed=0, lean=0.0, attribute=1, prevalence=0.4):
    """Probabilities of a fair classifier; images with the feature answer with the attribute as often as it leans."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n_images) % n_classes)
    probs = random.dirichlet(np.ones(n_classes), n_images) + 0.5 * np.eye(n_classes)[labels]
    held = random.random(n_images) < prevalence
    leans = held & (random.random(n_images) < lean)
    probs[leans] = 0.3 * probs[leans] + 2 * np.eye(n_classes)[attribute]
    return held, labels, probs / probs.sum(axis=1, keepdims=True)


def evaluation(labels, probs):
    return SimpleNamespace(labels=labels, image_probs=probs, predictions=probs.argmax(axis=1), class_names=NAMES)


# ---- with and without ----


def test_shares_with_and_without_are_those_of_plain_loops():
    held, labels, probs = answers(lean=0.6)
    predictions = probs.argmax(axis=1)
    found = with_and_without(held, labels, predictions, 1, NAMES)
    for label, row in enumerate(found.table.itertuples()):
        for side, chosen in (("in", held), ("out", ~held)):
            own = predictions[(labels == label) & chosen]
            assert getattr(row, f"n_{side}") == len(own)
            for name, hits in (("accuracy", own == label), ("chosen", own == 1)):
                assert getattr(row, f"{name}_{side}") == pytest.approx(hits.mean())
                ends = getattr(row, f"{name}_{side}_low"), getattr(row, f"{name}_{side}_high")
                assert ends == pytest.approx(wilson_interval(hits.mean(), len(own)))
        assert row.difference == pytest.approx(row.accuracy_in - row.accuracy_out)
        assert row.difference_low < row.difference < row.difference_high
    assert tuple(found.table["class"]) == NAMES


def standardised(rows):
    """(R, 3) label, held, answered with the attribute → difference within classes, weighted by images with it."""
    total = weight = 0.0
    for label in (0, 2):
        inside, outside = (
            rows[(rows[:, 0] == label) & (rows[:, 1] == 1)],
            rows[(rows[:, 0] == label) & (rows[:, 1] == 0)],
        )
        if len(inside) and len(outside):
            total += len(inside) * (inside[:, 2].mean() - outside[:, 2].mean())
            weight += len(inside)
    return total / weight if weight else np.nan


@pytest.mark.parametrize("grouped", [False, True])
def test_how_much_more_often_the_attribute_is_answered_is_a_difference_within_classes(grouped):
    held, labels, probs = answers(lean=0.5, seed=3)
    held |= (labels == 2) & (np.arange(len(held)) % 3 > 0)  # more common in one class, which must not count
    predictions = probs.argmax(axis=1)
    groups = np.repeat(np.arange(50), 3).astype(str) if grouped else None
    found = with_and_without(held, labels, predictions, 1, NAMES, groups, seed=4)
    rows = np.column_stack([labels, held, predictions == 1]).astype(float)
    assert found.chosen.estimate == pytest.approx(standardised(rows))
    assert found.chosen_in - found.chosen_out == pytest.approx(found.chosen.estimate)
    assert found.n_in == (held & (labels != 1)).sum() and found.n_out == (~held & (labels != 1)).sum()
    expected = bootstrap_interval(rows, standardised, seed=9, n_resamples=4000, groups=groups)
    assert found.chosen.low == pytest.approx(expected.low, abs=0.02)
    assert found.chosen.high == pytest.approx(expected.high, abs=0.02)


def test_groups_that_repeat_each_other_widen_every_interval():
    held, labels, probs = answers(60, lean=0.5)
    thrice = [np.repeat(array, 3, axis=0) for array in (held, labels, probs.argmax(axis=1))]
    groups = np.repeat(np.arange(60), 3)
    alone, together = (with_and_without(*thrice, 1, NAMES, given) for given in (None, groups))
    assert together.chosen.high - together.chosen.low > 1.4 * (alone.chosen.high - alone.chosen.low)
    widths = [one.table.accuracy_in_high - one.table.accuracy_in_low for one in (alone, together)]
    assert (widths[1] > 1.3 * widths[0]).all()
    once = with_and_without(held, labels, probs.argmax(axis=1), 1, NAMES)
    assert together.table.accuracy_in_low.to_numpy() == pytest.approx(once.table.accuracy_in_low.to_numpy())


def test_where_no_image_is_nothing_is_said():
    labels = np.array([0, 0, 1, 1, 2, 2])
    everywhere = with_and_without(np.ones(6, dtype=bool), labels, labels, 1, NAMES)
    assert np.isnan(everywhere.chosen).all() and (everywhere.n_in, everywhere.n_out) == (0, 0)
    assert everywhere.table.accuracy_out.isna().all() and everywhere.table.difference.isna().all()
    assert (everywhere.table.accuracy_in == 1).all()


# ---- what could have been found ----


def clusters(n_images, seed=0, n_clusters=8):
    return np.random.default_rng(seed).random((n_images, n_clusters)) < 0.4


def weakest(n_images, **more):
    _, labels, probs = answers(n_images)
    return detectable_shifts(clusters(n_images), labels, probs, **more)


def test_more_images_and_more_common_features_show_weaker_shortcuts():
    few, many = weakest(90), weakest(600, prevalences=(0.25, 0.5))
    assert few.columns.tolist() == ["prevalence", "n_images", "shift"] and few.prevalence.tolist() == [0.1, 0.25, 0.5]
    assert many.n_images.tolist() == [150, 300] and few.n_images.tolist() == [9, 24, 45]
    assert many["shift"][1] < many["shift"][0] < 1
    assert (few["shift"].fillna(2)[[1, 2]].to_numpy() > many["shift"].to_numpy()).all()


def test_a_shortcut_a_little_stronger_than_the_weakest_is_found_and_half_of_it_is_not():
    shift, (_, labels, probs) = float(weakest(300, prevalences=(0.5,))["shift"].iloc[0]), answers(300)
    found = {}
    for strength in (shift + 0.08, shift / 2):
        hits = 0
        for draw in range(12):
            feature, attribute, leaning = plant(strength, np.full(3, 50), labels, probs, np.random.default_rng(draw))
            held = np.column_stack([feature, clusters(300, seed=draw + 7)])
            told = significant_clusters(held, labels, leaning, n_permutations=199, seed=draw)
            hits += any((one.cluster, one.attribute) == (0, attribute) for one in told)
        found[strength] = hits
    assert found[shift + 0.08] >= 9 and found[shift / 2] <= 5


def test_a_planted_shortcut_is_as_common_in_each_class_and_turns_that_share_of_answers():
    _, labels, probs = answers(600)
    feature, attribute, leaning = plant(0.3, np.array([40, 80, 120]), labels, probs, np.random.default_rng(0))
    assert np.bincount(labels[feature]).tolist() == [40, 80, 120]
    changed = (leaning != probs).any(axis=1)
    assert not changed[~feature | (labels == attribute)].any()
    assert (leaning[changed].argmax(axis=1) == attribute).all()
    np.testing.assert_array_equal(np.sort(leaning), np.sort(probs))
    could = feature & (labels != attribute) & (probs.argmax(axis=1) != attribute)
    assert changed[could].mean() == pytest.approx(0.3, abs=0.1)


def test_too_few_images_could_show_nothing():
    assert weakest(9)["shift"].isna().all()


# ---- what else is known ----


def test_a_column_that_the_answers_go_with_is_found_and_noise_is_not():
    held, labels, probs = answers(400, lean=0.5, seed=1)
    random = np.random.default_rng(0)
    metadata = pd.DataFrame(
        {
            "camera": np.where(held, "old", "new"),
            "shelf": random.integers(4, size=400),
            "name": [f"image {i}" for i in range(400)],
            "constant": "x",
            "empty": [None] * 400,
        }
    )
    found = column_effects(metadata, evaluation(labels, probs), n_permutations=199)
    assert set(found.column) == {"camera", "shelf"} and len(found) == 6
    first = found.iloc[0]
    assert first.column == "camera" and first.p_value <= 0.01
    old = found[found.value == "old"].iloc[0]
    assert old.attribute == "dog" and old.chosen_low > 0 and old.n_images == held.sum()
    assert (found[found.column == "shelf"].p_value > 0.05).all()
    assert found.v_with_label.between(0, 0.2).all()


def test_a_column_that_goes_with_the_label_says_so_and_its_effect_is_not_discounted():
    random = np.random.default_rng(2)
    labels = np.arange(300) % 2
    cue = np.where(labels == 1, random.random(300) < 0.9, random.random(300) < 0.15)
    probs = np.full((300, 2), 0.5) + np.outer(np.where(cue, 0.3, -0.3), [-1, 1])
    names = SimpleNamespace(labels=labels, image_probs=probs, predictions=probs.argmax(axis=1), class_names=NAMES[:2])
    found = column_effects(pd.DataFrame({"clip": np.where(cue, "yes", "no")}), names, n_permutations=199)
    yes = found[found.value == "yes"].iloc[0]
    assert yes.v_with_label > 0.6 and yes.p_value <= 0.01 and yes.attribute == "dog" and yes.chosen == 1
    assert (
        cluster_pull(cue[:, None], labels, probs).pull.max() < 0.1
    )  # as a cluster it may be what the class looks like


def test_columns_of_noise_are_rarely_called_significant():
    n_wrong = 0
    for seed in range(60):
        _, labels, probs = answers(90, seed=seed)
        noise = pd.DataFrame(np.random.default_rng(seed).integers(2, size=(90, 3)))
        n_wrong += column_effects(noise, evaluation(labels, probs), n_permutations=99).p_value.min() <= 0.05
    assert n_wrong <= 8  # more than 8 of 60 at 5 % has a probability of 0.4 %


def test_without_columns_there_are_no_rows():
    _, labels, probs = answers(30)
    found = column_effects(pd.DataFrame({"same": ["x"] * 30}), evaluation(labels, probs))
    assert len(found) == 0 and tuple(found.columns) == FIELDS


def test_associations_name_the_columns_that_tell_which_images_hold_a_cluster():
    random = np.random.default_rng(0)
    held = random.random(200) < 0.5
    frame = pd.DataFrame(
        {"noise": random.integers(3, size=200), "site": np.where(held, "a", "b"), "id": np.arange(200)}
    )
    found = associations(held, frame)
    assert found.column.tolist() == ["site", "noise"]
    assert found.cramers_v.iloc[0] == pytest.approx(1) and found.cramers_v.iloc[1] < 0.25
    assert len(associations(np.ones(200, dtype=bool), frame)) == 0


# ---- one of each, names ----


def test_one_image_of_each_group_is_tested():
    assert one_of_each(None, 4, 0).tolist() == [0, 1, 2, 3]
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    chosen = {tuple(one_of_each(groups, 6, seed).tolist()) for seed in range(40)}
    assert all(sorted(groups[list(one)]) == ["a", "b", "c"] and list(one) == sorted(one) for one in chosen)
    assert len(chosen) == 6, "every image of a group has its turn"


class Speaker:
    """A text tower that knows three words, one axis each."""

    def encode_texts(self, texts):
        return np.eye(4)[[{"red": 0, "green": 1, "sky": 2}[text.split()[-1]] for text in texts]]


def test_a_cluster_is_called_what_fits_its_regions_better_than_others():
    random = np.random.default_rng(0)
    member = np.arange(60) < 20
    regions = oracles.unit(np.eye(4)[np.where(member, 1, 3)] + np.eye(4)[2] + 0.1 * random.normal(size=(60, 4)))
    found = name_cluster(Speaker(), ("red", "green", "sky"), ("a photo of {}",), regions, member)
    assert found[0][0] == "green" and found[0][1] > 1
    assert abs(dict(found)["sky"]) < 1, "what all regions show names none"
    assert name_cluster(Speaker(), (), ("{}",), regions, member) == ()
    assert name_cluster(Speaker(), ("red",), ("{}",), regions, np.ones(60, dtype=bool)) == ()
