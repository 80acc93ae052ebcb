"""Intervals of a finding, held to a plain loop that draws images with their regions and scores the clusters anew."""

import json
from types import SimpleNamespace

import numpy as np
import oracles
import pytest

from ravl_core.discovery import Discovery, discover, score_clusters
from ravl_core.intervals import finding_intervals, resample_counts
from ravl_core.zero_shot import Evaluation

pytestmark = pytest.mark.filterwarnings("error")

ARRAYS = "image_index", "labels", "image_probs", "region_probs"


def evaluation_of(problem):
    n_images, n_classes = problem.image_probs.shape
    return Evaluation(
        image_embeddings=np.zeros((n_images, 1)),
        region_embeddings=getattr(problem, "region_embeddings", np.zeros((len(problem.image_index), 1))),
        image_index=problem.image_index,
        boxes=np.zeros((len(problem.image_index), 4)),
        labels=problem.labels,
        class_names=tuple("abcdefghij"[:n_classes]),
        image_probs=problem.image_probs,
        region_probs=problem.region_probs,
    )


def found_with(clusters, problem):
    """What stage 1 would return for these clusters, as far as intervals look at it."""
    scores = score_clusters(clusters, *(getattr(problem, name) for name in ARRAYS))
    return Discovery((), SimpleNamespace(labels=clusters), scores)


def ragged_case(seed):
    """Few images of no to six regions, and five clusters; some classes have no image in a cluster, or none out."""
    problem = oracles.ragged_problem(seed, n_images=12 + 4 * seed, n_classes=2 + seed % 3)
    clusters = np.random.default_rng(seed).choice(6, p=[0.2, 0.05, 0.4, 0.1, 0.1, 0.15], size=len(problem.image_index))
    return evaluation_of(problem), found_with(clusters - 1, problem)


def drawn(problem, clusters, images):
    """Scores of the problem whose images are these (they may repeat), each with its regions."""
    regions = [np.flatnonzero(problem.image_index == image) for image in images]
    regions_of_all = np.concatenate(regions)
    index = np.repeat(np.arange(len(images)), [len(own) for own in regions])
    probs = problem.image_probs[images], problem.region_probs[regions_of_all]
    return score_clusters(clusters[regions_of_all], index, problem.labels[images], *probs)


def balance_by_loops(evaluation, clustered):
    """How evenly the regions' images divide each class of the sample: 2 min(n_in, n_out) / n."""
    holding = set(evaluation.image_index[clustered].tolist())
    balance = []
    for label in range(len(evaluation.class_names)):
        own = np.flatnonzero(evaluation.labels == label).tolist()
        n_in = len(holding.intersection(own))
        balance.append(2 * min(n_in, len(own) - n_in) / max(len(own), 1))
    return balance


def plain_intervals(evaluation, found, cluster, sources, level, n_resamples, seed):
    """Ends of the figures by a loop over resamples: differences, gap, influence; and the figures of each resample.

    A resample's gap weighs its differences as the sample does.
    """
    sources = np.arange(len(evaluation.labels)) if sources is None else np.asarray(sources)
    names, n_classes = sorted(set(sources.tolist())), len(evaluation.class_names)
    balance = balance_by_loops(evaluation, found.clustering.labels == cluster)
    seen = []
    for counts in resample_counts(len(names), n_resamples, seed):
        images = []
        for name, n in zip(names, counts, strict=True):
            images += n * np.flatnonzero(sources == name).tolist()
        scores = drawn(evaluation, found.clustering.labels, images)
        if cluster < len(scores.gap):
            terms = [balance[c] * abs(scores.difference[cluster, c]) for c in range(n_classes)]
            gap = sum(term for term in terms if not np.isnan(term))
            seen.append([*scores.difference[cluster], gap, scores.influence[cluster]])
        else:  # no image that is drawn holds this cluster or a later one
            seen.append([np.nan] * n_classes + [0.0, -np.inf])
    seen = np.array(seen)
    ends = []
    for column in seen.T:
        there = column[np.isfinite(column)]
        share = (1 - level) / 2
        ends.append([np.quantile(there, share), np.quantile(there, 1 - share)] if len(there) else [np.nan] * 2)
    return np.array(ends), seen


# --- the plain loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_source", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_intervals_are_those_of_a_plain_loop(seed, by_source):
    evaluation, found = ragged_case(seed)
    n_images, n_classes = evaluation.image_probs.shape
    sources = np.random.default_rng(seed).choice(list("pqrstuvw"), size=n_images) if by_source else None
    assert np.bincount(evaluation.image_index, minlength=n_images).min() == 0
    checked = 0
    for cluster in np.flatnonzero(~np.isnan(found.scores.difference).all(axis=1)):
        got = finding_intervals(evaluation, found, int(cluster), sources, 0.9, 40, seed)
        ends, seen = plain_intervals(evaluation, found, cluster, sources, 0.9, 40, seed)
        rows = np.array([*got.differences[:, 1:], got.gap[1:], got.influence[1:]])
        np.testing.assert_allclose(rows, ends, rtol=0, atol=1e-9)
        assert got.n_sources == (len(set(sources)) if by_source else n_images)
        checked += np.isnan(seen[:, :n_classes]).any() and np.isinf(seen[:, -1]).any()
    assert checked  # some resamples lack a class, some have no influence


def test_the_loops_cover_figures_that_no_resample_has():
    skipped, without_influence = 0, 0
    for seed in range(6):
        scores = ragged_case(seed)[1].scores
        compared = ~np.isnan(scores.difference).all(axis=1)
        skipped += np.isnan(scores.difference[compared]).sum()
        without_influence += np.isinf(scores.influence[compared]).sum()
    assert skipped > 3 and without_influence > 3


@pytest.mark.parametrize("seed", range(4))
def test_estimates_are_those_of_the_finding(seed):
    problem = oracles.ragged_problem(seed)
    found = discover(problem, candidates=[6, 9], influence_threshold=0.1, seed=seed)
    assert found.findings
    for finding in found.findings:
        got = finding_intervals(evaluation_of(problem), found, finding.cluster, n_resamples=20)
        assert (got.cluster, got.attribute) == (finding.cluster, finding.attribute)
        assert (got.gap.estimate, got.influence.estimate) == (finding.gap, finding.influence)
        assert got.influence_images == finding.influence_images
        np.testing.assert_array_equal(got.differences[:, 0], finding.table["difference"])
        assert got.difference == tuple(got.differences[got.attribute])
        assert got.difference.estimate == finding.table["difference"].max()


# --- balance ---------------------------------------------------------------------------------------------------------


def evenly_divided(n_right_in, n_right_out, n=20):
    """Three classes of 2n images; n of each hold the cluster, and of these and of the others so many are right."""
    labels, inside = np.repeat([0, 1, 2], 2 * n), np.tile(np.repeat([True, False], n), 3)
    counts = np.column_stack([n_right_in, n_right_out]).ravel()
    right = np.concatenate([np.arange(n) < count for count in counts])
    probs = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    problem = SimpleNamespace(image_index=np.arange(6 * n), labels=labels, image_probs=probs, region_probs=probs)
    return evaluation_of(problem), found_with(np.where(inside, 0, 1), problem)


def test_an_evenly_divided_and_perfectly_separated_sample_has_its_gap_in_every_resample():
    got = finding_intervals(*evenly_divided([20, 0, 0], [0, 20, 20]), 0)
    assert got.gap == (3, 3, 3) and got.difference == (1, 1, 1)  # weights of the resamples would give less, always


def test_the_interval_of_an_evenly_divided_sample_holds_its_estimate():
    got = finding_intervals(*evenly_divided([20, 1, 0], [1, 19, 20]), 0)
    assert got.gap.estimate == pytest.approx(0.95 + 0.9 + 1)
    assert got.gap.low < got.gap.estimate < got.gap.high <= 3


def test_a_gap_is_weighted_by_the_sample_in_every_resample():
    labels, inside = np.zeros(40, dtype=int), np.arange(40) < 4  # 4 of 40 in: weight 0.2
    probs = np.eye(2)[np.where(inside, labels, 1 - labels)]
    problem = SimpleNamespace(image_index=np.arange(40), labels=labels, image_probs=probs, region_probs=probs)
    got = finding_intervals(evaluation_of(problem), found_with(np.where(inside, 0, 1), problem), 0)
    np.testing.assert_allclose(got.gap, 0.2, rtol=0, atol=1e-12)


# --- resamples -------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_draws_with_replacement():
    counts = resample_counts(30, 4000, seed=3)
    assert counts.shape == (4000, 30) and counts.dtype.kind == "i"
    assert (counts.sum(axis=1) == 30).all()
    chances = [np.mean(counts == n) for n in range(4)]  # binomial: 30 draws, each with chance 1/30
    np.testing.assert_allclose(chances, [0.3617, 0.3742, 0.1871, 0.0602], atol=0.005)
    np.testing.assert_allclose(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1], -1 / 29, atol=0.05)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.08)


def test_counts_depend_on_the_seed_alone():
    np.testing.assert_array_equal(resample_counts(20, 7, seed=1), resample_counts(20, 7, seed=1))
    assert (resample_counts(20, 7, seed=1) != resample_counts(20, 7, seed=2)).any()


def test_the_same_seed_gives_the_same_intervals():
    evaluation, found = ragged_case(5)
    first, again, other = (finding_intervals(evaluation, found, 1, seed=seed).gap for seed in (0, 0, 1))
    assert first == again and first.low != other.low


# --- what widens an interval -----------------------------------------------------------------------------------------


def test_copies_of_images_add_nothing_where_their_sources_are_known():
    evaluation, found = ragged_case(5)
    twice = np.repeat(np.arange(len(evaluation.labels)), 2)
    copies = [np.flatnonzero(evaluation.image_index == image) for image in twice]
    regions = np.concatenate(copies)
    problem = SimpleNamespace(
        image_index=np.repeat(np.arange(len(twice)), [len(own) for own in copies]),
        labels=evaluation.labels[twice],
        image_probs=evaluation.image_probs[twice],
        region_probs=evaluation.region_probs[regions],
    )
    doubled, found_again = evaluation_of(problem), found_with(found.clustering.labels[regions], problem)
    once, same = finding_intervals(evaluation, found, 1), finding_intervals(doubled, found_again, 1, twice)
    np.testing.assert_allclose(same.differences, once.differences, atol=1e-12)
    np.testing.assert_allclose([same.gap, same.influence], [once.gap, once.influence], atol=1e-12)
    assert same.n_sources == once.n_sources and same.influence_images == 2 * once.influence_images
    naive = finding_intervals(doubled, found_again, 1)
    assert naive.gap.high - naive.gap.low < 0.85 * (once.gap.high - once.gap.low)


def test_a_higher_level_widens_the_interval():
    evaluation, found = ragged_case(5)
    ends = [finding_intervals(evaluation, found, 1, level=level).gap[1:] for level in (0.5, 0.8, 0.99)]
    lows, highs = np.transpose(ends)
    assert (np.diff(lows) < 0).all() and (np.diff(highs) > 0).all()


def simulated(seed, n_sources=60, copies=1):
    """Two classes; half of the images hold the cluster, which lifts the accuracy of class 0 from 0.4 to 0.8.

    It lowers that of class 1 from 0.9 to 0.6. Copies of an image have all in common.
    """
    random = np.random.default_rng(seed)
    labels, inside = random.integers(2, size=n_sources), random.random(n_sources) < 0.5
    right = random.random(n_sources) < np.where(labels == 0, np.where(inside, 0.8, 0.4), np.where(inside, 0.6, 0.9))
    labels, inside, right = (np.repeat(array, copies) for array in (labels, inside, right))
    probs = np.eye(2)[np.where(right, labels, 1 - labels)]
    problem = SimpleNamespace(image_index=np.arange(len(labels)), labels=labels, image_probs=probs, region_probs=probs)
    return evaluation_of(problem), found_with(np.where(inside, 0, 1), problem), np.repeat(np.arange(n_sources), copies)


def coverage(n_cases, **kind):
    """How many of the intervals hold the true differences of both classes: with sources, without."""
    hits = np.zeros(2, dtype=int)
    for seed in range(n_cases):
        evaluation, found, sources = simulated(seed, **kind)
        for way, known in enumerate((sources, None)):
            got = finding_intervals(evaluation, found, 0, known, n_resamples=300, seed=seed).differences
            hits[way] += ((got[:, 1] <= [0.4, -0.3]) & ([0.4, -0.3] <= got[:, 2])).sum()
    return hits


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    with_sources, without = coverage(50, n_sources=240)  # two classes each: 100 intervals
    assert 90 <= with_sources <= 99 and with_sources == without


def test_intervals_of_copies_hold_the_truth_only_where_sources_are_known():
    with_sources, without = coverage(50, n_sources=100, copies=5)
    assert 90 <= with_sources <= 99 and without < 75


# --- edges -----------------------------------------------------------------------------------------------------------


def test_the_attribute_has_the_largest_difference_without_weight():
    labels = np.repeat([0, 1], 20)
    inside = np.r_[np.arange(20) < 1, np.arange(20) < 10]  # class 0: 1 of 20 in, a gain of 1 of small weight
    right = np.r_[np.arange(20) < 1, np.arange(20) < 5]  # class 1: half in, a gain of 1/2
    probs = np.eye(2)[np.where(right, labels, 1 - labels)]
    problem = SimpleNamespace(image_index=np.arange(40), labels=labels, image_probs=probs, region_probs=probs)
    found = found_with(np.where(inside, 0, 1), problem)
    np.testing.assert_allclose(found.scores.class_gaps[0], [0.1, 0.5])
    got = finding_intervals(evaluation_of(problem), found, 0)
    assert got.attribute == 0 and got.difference == (1, 1, 1)


def test_the_attribute_stays_what_it_is_in_the_sample():
    labels, inside = np.repeat([0, 1], 40), np.tile([True, False], 40)
    right = inside.copy()
    right[[0, 2, 40, 42, 44]] = False  # class 0: 18 of 20 in, class 1: 17 of 20
    probs = np.eye(2)[np.where(right, labels, 1 - labels)]
    problem = SimpleNamespace(image_index=np.arange(80), labels=labels, image_probs=probs, region_probs=probs)
    evaluation, found = evaluation_of(problem), found_with(np.where(inside, 0, 1), problem)
    got = finding_intervals(evaluation, found, 0)
    assert got.attribute == 0 and got.difference.estimate == 0.9
    seen = plain_intervals(evaluation, found, 0, None, 0.95, 300, 0)[1]
    assert 0.1 < (seen[:, 1] > seen[:, 0]).mean() < 0.9
    assert got.difference.low < np.quantile(seen[:, :2].max(axis=1), 0.025)


def test_without_influence_it_is_not_a_number_and_none_in_json():
    evaluation, found, _ = simulated(0)  # one region an image: no influence
    got = finding_intervals(evaluation, found, 0)
    assert np.isnan(got.influence).all() and got.influence_images == 0
    plain = got.plain()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["influence"] == [None] * 3
    assert plain["gap"] == list(got.gap) and plain["difference"] == list(got.difference)
    names = {"gap", "influence", "difference", "attribute", "influence_images", "n_sources"}
    assert set(plain) == names and (plain["attribute"], plain["n_sources"]) == (0, 60)


def test_a_skipped_class_is_not_a_number():
    evaluation, found, _ = simulated(0)
    clusters = np.where(evaluation.labels == 1, 0, found.clustering.labels)  # all of class 1 is in
    got = finding_intervals(evaluation, found_with(clusters, evaluation), 0)
    assert np.isnan(got.differences[1]).all() and np.isfinite(got.differences[0]).all()
    assert got.attribute == 0 and got.gap.estimate == found.scores.class_gaps[0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(cluster=2), "cluster: expected one of 2 clusters, got 2"),
        (dict(cluster=-1), "cluster: expected an integer of 0 or more, got -1"),
        (dict(sources=np.arange(3)), "sources: expected length 60, as labels, got length 3"),
        (dict(level=1.0), "level: expected a number between 0 and 1, got 1.0"),
        (dict(level=-0.5), "level: expected a number from 0 to 1, got -0.5"),
        (dict(n_resamples=0), "n_resamples: expected an integer of 1 or more, got 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    evaluation, found, _ = simulated(0)
    with pytest.raises(ValueError, match=message):
        finding_intervals(evaluation, found, **dict(cluster=0) | change)


def test_a_cluster_in_every_image_has_no_interval():
    evaluation, found, _ = simulated(0)
    everywhere = found_with(np.zeros(60, dtype=int), evaluation)
    with pytest.raises(ValueError, match="cluster: expected one that some images of a class hold and some do not"):
        finding_intervals(evaluation, everywhere, 0)


def test_clusters_of_other_regions_are_refused():
    evaluation, found, _ = simulated(0)
    other = Discovery((), SimpleNamespace(labels=found.clustering.labels[:-1]), found.scores)
    with pytest.raises(ValueError, match="cluster_labels: expected length 60, as image_index, got length 59"):
        finding_intervals(evaluation, other, 0)
