"""Spurious-Aware Detection, held to plain loops over images and to scikit-learn's mutual information."""

from dataclasses import replace

import numpy as np
import pytest
from evaluations import planted, ragged, without_regions
from sklearn.metrics import mutual_info_score

from ravl_core.kmedoids import Clustering, cluster_regions
from ravl_core.metrics import precision_at_k
from ravl_core.slicing.spurious_aware import (
    FeatureTable,
    feature_table,
    rank_features,
    spurious_aware,
    spurious_aware_by_names,
)

pytestmark = pytest.mark.filterwarnings("error")


def random_images(seed, n_images=90, n_classes=3, n_features=8):
    """Features that few, many, all or no images show; a class without images, one without errors, one without hits."""
    random = np.random.default_rng(seed)
    labels = random.integers(n_classes, size=n_images)
    shares = random.choice([0, 0.05, 0.3, 0.5, 0.95, 1], size=n_features)
    present = random.random((n_images, n_features)) < shares
    correct = random.random(n_images) < 0.3 + 0.5 * present[:, 0]
    correct[labels == 0] |= seed % 3 == 1
    correct[labels == 0] &= seed % 3 != 2
    return present, labels, correct, n_classes + 1


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_information_is_that_of_scikit_learn_and_gaps_are_those_of_plain_loops(seed):
    present, labels, correct, n_classes = random_images(seed)
    table = feature_table(present, labels, correct, n_classes)
    assert table.information.shape == table.difference.shape == table.n_with.shape == (n_classes, present.shape[1])
    assert table.n_with.dtype.kind == "i"
    for label in range(n_classes):
        own = [i for i in range(len(labels)) if labels[i] == label]
        for feature in range(present.shape[1]):
            shows, wrong = [bool(present[i, feature]) for i in own], [not correct[i] for i in own]
            expected = mutual_info_score(shows, wrong) if own else 0.0
            assert table.information[label, feature] == pytest.approx(expected, abs=1e-12)
            right = {side: [correct[i] for i in own if present[i, feature] == side] for side in (True, False)}
            assert table.n_with[label, feature] == len(right[True])
            both = right[True] and right[False]
            difference = np.mean(right[True]) - np.mean(right[False]) if both else np.nan
            assert table.difference[label, feature] == pytest.approx(difference, abs=1e-12, nan_ok=True)


def test_information_by_hand():
    # Presence is correctness: all there is to know about a fair coin. And one that says nothing about it.
    present = np.array([[True, True], [True, False], [False, True], [False, False]])
    table = feature_table(present, np.zeros(4, dtype=int), np.array([True, True, False, False]), 1)
    np.testing.assert_allclose(table.information, [[np.log(2), 0]], atol=1e-15)
    np.testing.assert_array_equal(table.difference, [[1, 0]])
    np.testing.assert_array_equal(table.n_with, [[2, 2]])


@pytest.mark.parametrize("n_images, n_features", [(0, 3), (5, 0), (0, 0)])
def test_no_image_and_no_feature_are_an_empty_table(n_images, n_features):
    nothing = np.zeros(n_images, dtype=bool)
    table = feature_table(np.zeros((n_images, n_features), dtype=bool), np.zeros(n_images, dtype=int), nothing, 2)
    assert table.information.shape == (2, n_features) and (table.information == 0).all()
    assert np.isnan(table.difference).all() and (table.n_with == 0).all()
    assert rank_features(table).shape == (0, 2)


# --- the ranking -----------------------------------------------------------------------------------------------------


def loop_ranking(table):
    """Of each class the five features with the most information, of those that count; all by gap."""
    kept = []
    for label, row in enumerate(table.information):
        enough = [
            f
            for f in range(len(row))
            if table.n_with[label, f] >= 10 and row[f] > 1e-12 and not np.isnan(table.difference[label, f])
        ]
        kept += [(label, f) for f in sorted(enough, key=lambda f: (-row[f], f))[:5]]
    return sorted(kept, key=lambda pair: -table.difference[pair])  # stable


@pytest.mark.parametrize("seed", range(20))
def test_the_ranking_is_that_of_the_plain_loop(seed):
    random = np.random.default_rng(seed)
    shape = random.integers(1, 5), random.integers(1, 12)
    table = FeatureTable(
        information=random.integers(6, size=shape) / 10,  # ties, and features that say nothing
        difference=random.choice([-0.5, -0.1, 0, 0.2, 0.2, 0.9, np.nan], size=shape),
        n_with=random.integers(5, 40, size=shape),
    )
    assert list(map(tuple, rank_features(table).tolist())) == loop_ranking(table)


def row_of(information, difference, n_with):
    return FeatureTable(np.array([information]), np.array([difference]), np.array([n_with]))


def test_a_feature_needs_ten_images_of_the_class():
    table = row_of([0.3, 0.2, 0.1], [0.9, 0.8, 0.1], [9, 10, 11])
    assert rank_features(table).tolist() == [[0, 1], [0, 2]]


def test_a_feature_has_to_say_something_about_errors():
    """Rounding is nothing."""
    table = row_of([1e-16, 0.0, 1e-6], [0.9, 0.8, 0.1], [20, 20, 20])
    assert rank_features(table).tolist() == [[0, 2]]


def test_five_features_a_class_by_information_then_all_by_gap():
    information = np.array([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1], [0.01] * 6])
    difference = np.array([[0.1, -0.9, 0.2, 0.3, 0.4, 1.0], [0.35, 0, 0, 0, 0, 0.99]])
    table = FeatureTable(information, difference, np.full((2, 6), 10))
    found = list(map(tuple, rank_features(table).tolist()))
    assert len(found) == 10 and (0, 5) not in found and (1, 5) not in found
    assert found[:4] == [(0, 4), (1, 0), (0, 3), (0, 2)]
    assert found[-1] == (0, 1)  # goes with errors where it is shown: last


# --- features that are clusters --------------------------------------------------------------------------------------


def loop_first(evaluation, owner):
    """Class and feature that come first, None if there is none; `owner` (M,) is each region's feature, -1: none."""
    n_images, n_features = len(evaluation.labels), owner.max(initial=-1) + 1
    present = np.zeros((n_images, n_features), dtype=bool)
    for image, feature in zip(evaluation.image_index, owner, strict=True):
        if feature >= 0:
            present[image, feature] = True
    correct = np.array([np.argmax(p) == y for p, y in zip(evaluation.image_probs, evaluation.labels, strict=True)])
    table = feature_table(present, evaluation.labels, correct, len(evaluation.class_names))
    ranking = loop_ranking(table)
    return ranking[0] if ranking else None


@pytest.mark.parametrize("seed", range(8))
def test_the_first_clusters_regions_come_by_similarity_with_its_medoid(seed):
    evaluation = ragged(seed, n_images=120, n_classes=2 + seed % 3)
    clustering = cluster_regions(evaluation.region_embeddings, range(4, 9), seed)
    found, first = spurious_aware(evaluation, clustering), loop_first(evaluation, clustering.labels)
    assert first is not None
    assert found.attribute == first[0]
    assert sorted(found.regions.tolist()) == np.flatnonzero(clustering.labels == first[1]).tolist()
    medoid = evaluation.region_embeddings[clustering.medoids[first[1]]].astype(np.float64)
    assert (np.diff(evaluation.region_embeddings[found.regions].astype(np.float64) @ medoid) <= 1e-9).all()


@pytest.mark.parametrize("attribute", range(4))
def test_a_planted_feature_comes_first(attribute):
    evaluation, truths = planted(attribute, seed=attribute)
    clustering = cluster_regions(evaluation.region_embeddings, range(8, 20))
    found = spurious_aware(evaluation, clustering)
    assert found.attribute == attribute
    assert precision_at_k(found, truths["shows_feature"]) == 1


def no_clusters(evaluation):
    nobody = np.empty(0, dtype=int)
    labels = np.full(len(evaluation.image_index), -1)
    return Clustering(labels, nobody, evaluation.region_embeddings[nobody], {})


def test_without_clusters_errors_or_regions_there_is_nothing():
    evaluation, _ = planted()
    clustering = cluster_regions(evaluation.region_embeddings, range(8, 20))
    right = replace(evaluation, image_probs=np.eye(4)[evaluation.labels])
    wrong = replace(evaluation, image_probs=np.eye(4)[(evaluation.labels + 1) % 4])
    bare = without_regions(evaluation)
    cases = [(evaluation, no_clusters(evaluation)), (right, clustering), (wrong, clustering), (bare, no_clusters(bare))]
    for given, clusters in cases:
        found = spurious_aware(given, clusters)
        assert len(found) == 0 and found.attribute is None and "no cluster is in ten images" in found.reason


def test_a_feature_of_nine_images_a_class_is_not_found():
    evaluation, truths = planted(n_images=400)
    clustering = cluster_regions(evaluation.region_embeddings, range(8, 20))
    (cue,) = np.unique(clustering.labels[truths["shows_feature"]])
    held = np.unique(evaluation.image_index[clustering.labels == cue])
    for n_images, is_found in ((9, False), (10, True)):
        few = np.concatenate([held[evaluation.labels[held] == label][:n_images] for label in range(4)])
        kept = (clustering.labels != cue) | np.isin(evaluation.image_index, few)
        rare = replace(clustering, labels=np.where(kept, clustering.labels, -1))
        found = spurious_aware(evaluation, rare)
        assert (found.attribute == 2 and clustering.labels[found.regions[0]] == cue) == is_found


# --- features that are names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", range(4))
def test_a_planted_name_comes_first_with_all_its_boxes_as_they_are_stored(attribute):
    evaluation, truths = planted(attribute, seed=attribute)
    found = spurious_aware_by_names(evaluation, truths["box_names"])
    assert found.attribute == attribute
    assert found.regions.tolist() == np.flatnonzero(truths["shows_feature"]).tolist()
    again = spurious_aware_by_names(evaluation, tuple(map(str, truths["box_names"])))
    assert np.array_equal(found.regions, again.regions)


@pytest.mark.parametrize("seed", range(8))
def test_names_are_ranked_as_by_the_plain_loop(seed):
    evaluation = ragged(seed, n_images=120)
    words = ["sand", "", "a", "b", "zebra", "Ape", "sea", "rock"]  # a and b are classes
    names = np.random.default_rng(seed).choice(words, size=len(evaluation.image_index))
    features = sorted({str(name) for name in names} - {"", "a", "b", "c"})
    first = loop_first(evaluation, np.array([features.index(n) if n in features else -1 for n in names]))
    found = spurious_aware_by_names(evaluation, names)
    assert first is not None and found.attribute == first[0]
    assert found.regions.tolist() == [r for r, name in enumerate(names) if name == features[first[1]]]


def test_the_name_of_a_class_is_no_feature():
    evaluation, truths = planted()
    called = np.where(truths["shows_feature"], evaluation.class_names[1], truths["box_names"])
    found = spurious_aware_by_names(evaluation, called)
    assert not truths["shows_feature"][found.regions].any()
    assert set(called[found.regions]) <= {"sand", "grass", "leaf"}


@pytest.mark.parametrize("names", [[""], ["a", "b"], ["a", "", "d"]])
def test_without_names_that_are_no_classes_there_is_nothing(names):
    evaluation, _ = planted()
    found = spurious_aware_by_names(evaluation, np.resize(names, len(evaluation.image_index)))
    assert len(found) == 0 and found.reason == "no box has a name that is not a class"


def test_without_regions_or_errors_no_name_is_found():
    evaluation, truths = planted()
    assert "no box has a name" in spurious_aware_by_names(without_regions(evaluation), []).reason
    right = replace(evaluation, image_probs=np.eye(4)[evaluation.labels])
    found = spurious_aware_by_names(right, truths["box_names"])
    assert len(found) == 0 and "no named feature is in ten images" in found.reason
