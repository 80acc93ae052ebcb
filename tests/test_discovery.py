import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracles
import pytest

from ravl_core.discovery import (
    assign_regions,
    discover,
    rank_clusters,
    rank_regions,
    regions_in_clusters,
    score_clusters,
)
from ravl_core.kmedoids import Clustering

GOLDEN = Path(__file__).parent / "golden" / "ravl_discover"
CASES = sorted(json.loads((GOLDEN / "manifest.json").read_text())["cases"])
SCORES = ("class_gaps", "gap", "influence", "influence_images", "criterion")


def golden_problem(case):
    golden = np.load(GOLDEN / f"{case}.npz")
    n_regions = golden["in_num_regions"]
    problem = SimpleNamespace(
        region_embeddings=golden["in_reg_emb"],
        image_index=np.repeat(np.arange(len(n_regions)), n_regions),
        labels=golden["in_img_true_label"],
        image_probs=golden["in_img_score"],
        region_probs=golden["in_reg_score"],
    )
    return golden, problem


def scores_of(cluster_labels, problem):
    return score_clusters(
        cluster_labels, problem.image_index, problem.labels, problem.image_probs, problem.region_probs
    )


def assert_same_scores(found, expected):
    for name in SCORES:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-12, err_msg=name)


# --- the published code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_findings_of_the_published_code(case):
    golden, problem = golden_problem(case)
    found = discover(problem, candidates=golden["in_candidate_k"].tolist())
    np.testing.assert_allclose(found.scores.class_gaps, golden["out_gap_cluster_by_class"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.scores.influence, golden["out_influence"], rtol=0, atol=1e-6)
    assert [finding.cluster for finding in found.findings] == golden["out_filtered_cluster_idx"].tolist()
    offsets = golden["out_ranked_offsets"]
    for finding, start, stop in zip(found.findings, offsets[:-1], offsets[1:], strict=True):
        np.testing.assert_array_equal(finding.regions, golden["out_ranked_flat"][start:stop])


@pytest.mark.parametrize("case", CASES)
def test_scores_and_ranks_of_the_published_code_on_given_clusters(case):
    golden, problem = golden_problem(case)
    clusters, medoids = golden["fixed_clusters"], golden["fixed_medoids"]
    scores = scores_of(clusters, problem)
    np.testing.assert_allclose(scores.class_gaps, golden["out_fixed_gap_cluster_by_class"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(scores.influence, golden["out_fixed_influence"], rtol=0, atol=1e-6)
    ranked = rank_clusters(scores)
    np.testing.assert_array_equal(ranked, golden["out_fixed_filtered_cluster_idx"])
    offsets = golden["out_fixed_ranked_offsets"]
    for cluster, start, stop in zip(ranked, offsets[:-1], offsets[1:], strict=True):
        medoid = problem.region_embeddings[medoids[cluster]]
        regions = rank_regions(problem.region_embeddings, clusters, cluster, medoid)
        np.testing.assert_array_equal(regions, golden["out_fixed_ranked_flat"][start:stop])


# --- the plain loops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_scores_are_those_of_the_plain_loops(seed):
    problem = oracles.ragged_problem(seed, n_images=40 + seed, n_classes=2 + seed % 4)
    clusters = np.random.default_rng(seed).integers(-1, 7, size=len(problem.image_index))
    clusters[clusters == 4] = 5  # a number that no region has
    expected = oracles.score(clusters, problem.image_index, problem.labels, problem.image_probs, problem.region_probs)
    assert_same_scores(scores_of(clusters, problem), expected)
    assert np.isnan(expected.class_gaps[4]).all() and np.isfinite(expected.influence).any()


@pytest.mark.parametrize("seed", range(4))
def test_findings_are_those_of_the_plain_loops(seed):
    problem = oracles.ragged_problem(seed)
    found = discover(problem, candidates=[6, 9], influence_threshold=0.1, seed=seed)
    labels = found.clustering.labels
    scores = oracles.score(labels, problem.image_index, problem.labels, problem.image_probs, problem.region_probs)
    spurious = [c for c in range(len(scores.gap)) if scores.criterion[c] and scores.influence[c] >= 0.1]
    ranked = sorted(spurious, key=lambda c: -scores.gap[c])
    assert ranked and [finding.cluster for finding in found.findings] == ranked
    for finding in found.findings:
        medoid = problem.region_embeddings[found.clustering.medoids[finding.cluster]].astype(np.float64)
        similar = {r: round(float(problem.region_embeddings[r] @ medoid), 9) for r in finding.regions.tolist()}
        assert sorted(similar) == np.flatnonzero(labels == finding.cluster).tolist()
        values = [similar[r] for r in finding.regions.tolist()]
        assert values == sorted(values, reverse=True)
        ties = [(a, b) for a, b in zip(finding.regions[:-1], finding.regions[1:], strict=True)
                if (problem.region_embeddings[a] == problem.region_embeddings[b]).all()]  # fmt: skip
        assert all(a < b for a, b in ties)


# --- axioms ----------------------------------------------------------------------------------------------------------


def planted_problem(n_images=240, n_classes=4, attribute=2, reliance=0.9, seed=0):
    """Two regions an image, an object and a background; with the cue as background, `attribute` is predicted."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    background = random.integers(3, size=n_images)  # 0 is the cue
    misled = (background == 0) & (random.random(n_images) < reliance)
    missed = (background != 0) & (labels == attribute) & (random.random(n_images) < reliance / 2)
    predictions = np.where(misled, attribute, np.where(missed, (labels + 1) % n_classes, labels))
    kinds = oracles.unit(random.normal(size=(n_classes + 3, 32)))
    shown = np.stack([labels, n_classes + background], axis=1).ravel()
    embeddings = oracles.unit(kinds[shown] + 0.02 * random.normal(size=(2 * n_images, 32)))
    objects = np.eye(n_classes)[labels]
    cue = np.where((background == 0)[:, None], np.eye(n_classes)[attribute], 1 / n_classes)
    problem = SimpleNamespace(
        region_embeddings=embeddings,
        image_index=np.repeat(np.arange(n_images), 2),
        labels=labels,
        image_probs=np.eye(n_classes)[predictions],
        region_probs=np.stack([objects, cue], axis=1).reshape(2 * n_images, n_classes),
    )
    return problem, shown == n_classes


@pytest.mark.parametrize("attribute", range(4))
def test_a_planted_cluster_ranks_first(attribute):
    problem, shows_cue = planted_problem(attribute=attribute, seed=attribute)
    found = discover(problem, candidates=range(5, 10))
    first = found.findings[0]
    assert first.attribute == attribute
    assert shows_cue[first.regions].all() and len(first.regions) == shows_cue.sum()
    assert first.influence == 1 and first.influence_images > 10
    np.testing.assert_array_equal(assign_regions(found, problem.region_embeddings), shows_cue)


def test_no_finding_without_reliance():
    problem, _ = planted_problem(reliance=0)
    found = discover(problem, candidates=range(5, 10))
    assert found.clustering.n_clusters == 7 and found.findings == ()
    assert (found.scores.gap == 0).all()


def test_no_gap_where_accuracy_is_independent_of_the_cluster():
    # In each class, 3 of 4 images are right with the cluster and 6 of 8 without it.
    right = np.tile(np.array([1, 1, 1, 0] + [1, 1, 1, 0] * 2, dtype=bool), 3)
    inside = np.tile(np.array([1] * 4 + [0] * 8, dtype=bool), 3)
    labels = np.repeat(np.arange(3), 12)
    probs = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    scores = score_clusters(np.where(inside, 1, 0), np.arange(36), labels, probs, probs)
    np.testing.assert_array_equal(scores.class_gaps, np.zeros((2, 3)))
    assert (scores.gap == 0).all() and not scores.criterion.any() and (scores.influence == -np.inf).all()


@pytest.mark.parametrize("seed", range(5))
def test_gaps_are_differences_with_a_weight_between_0_and_1(seed):
    problem = oracles.ragged_problem(seed)
    scores = scores_of(np.random.default_rng(seed).integers(6, size=len(problem.image_index)), problem)
    apart = np.abs(scores.difference) > 0
    weight = scores.class_gaps[apart] / scores.difference[apart]
    assert weight.size > 5 and weight.min() > 0 and weight.max() <= 1
    balanced = scores.n_in[apart] == scores.n_out[apart]
    np.testing.assert_allclose(weight == 1, balanced)
    skipped = (scores.n_in == 0) | (scores.n_out == 0)
    np.testing.assert_array_equal(np.isnan(scores.class_gaps), skipped)
    np.testing.assert_array_equal(scores.n_in + scores.n_out, np.tile(np.bincount(problem.labels), (6, 1)))


def permuted(problem, clusters, seed):
    """The same problem with images in another order, and regions in another order within each image."""
    random = np.random.default_rng(seed)
    images = random.permutation(len(problem.labels))
    new_place = np.argsort(images)
    regions = np.lexsort([random.random(len(clusters)), new_place[problem.image_index]])
    moved = SimpleNamespace(
        image_index=new_place[problem.image_index][regions],
        labels=problem.labels[images],
        image_probs=problem.image_probs[images],
        region_probs=problem.region_probs[regions],
    )
    return moved, clusters[regions]


@pytest.mark.parametrize("seed", range(8))
def test_scores_do_not_change_under_a_permutation_of_images_and_regions(seed):
    problem = oracles.ragged_problem(seed)
    random = np.random.default_rng(seed)
    problem.region_probs = random.dirichlet(np.ones(3), size=len(problem.image_index))  # no ties: order decides those
    clusters = random.integers(6, size=len(problem.image_index))
    before = scores_of(clusters, problem)
    moved, moved_clusters = permuted(problem, clusters, seed)
    assert not np.array_equal(moved_clusters, clusters)
    assert_same_scores(scores_of(moved_clusters, moved), before)


@pytest.mark.parametrize("seed", range(4))
def test_relabelling_clusters_permutes_the_rows(seed):
    problem = oracles.ragged_problem(seed)
    random = np.random.default_rng(seed)
    clusters, names = random.integers(6, size=len(problem.image_index)), random.permutation(6)
    before, after = scores_of(clusters, problem), scores_of(names[clusters], problem)
    for name in SCORES:
        np.testing.assert_array_equal(getattr(after, name)[names], getattr(before, name))


# --- one worked example ----------------------------------------------------------------------------------------------

# Cluster 0 is in images 0–3. Class 0: right in 0, 1 (in) and wrong in 4 (out): difference 1, weight 2/3.
# Class 1: wrong in 2, 3 (in), right in 5 (out): difference -1, weight 2/3. Of 2 and 3, whose predicted class is 0, the
# best region of image 2 is in the cluster (tie: the first region), that of image 3 is not.
EXAMPLE = dict(
    cluster_labels=[0, 1, 0, 1, 0, 1, 1, 0, 1, 1],
    image_index=[0, 0, 1, 1, 2, 2, 3, 3, 4, 5],
    labels=[0, 0, 1, 1, 0, 1],
    image_probs=np.eye(2)[[0, 0, 0, 0, 1, 1]],
    region_probs=np.array([[0.5, 0.5]] * 6 + [[0.9, 0.1], [0.2, 0.8]] + [[0.5, 0.5]] * 2),
)


def test_worked_example():
    scores = score_clusters(**EXAMPLE)
    np.testing.assert_allclose(scores.class_gaps[0], [2 / 3, -2 / 3])
    np.testing.assert_allclose(scores.gap[0], 4 / 3)
    assert scores.influence[0] == 0.5 and scores.influence_images[0] == 2 and scores.criterion[0]
    # Cluster 1 is in every image: every class is skipped.
    assert np.isnan(scores.class_gaps[1]).all() and scores.gap[1] == 0 and scores.influence[1] == -np.inf
    np.testing.assert_array_equal(scores.n_in, [[2, 2], [3, 3]])
    np.testing.assert_array_equal(scores.n_out, [[1, 1], [0, 0]])
    np.testing.assert_allclose(scores.accuracy_in, [[1, 0], [2 / 3, 1 / 3]])
    np.testing.assert_allclose(scores.accuracy_out, [[0, 1], [np.nan, np.nan]])


def test_an_image_with_one_region_has_no_influence():
    alone = dict(EXAMPLE, cluster_labels=[0, 1, 0, 1, 0, 0, 1, 1], image_index=[0, 0, 1, 1, 2, 3, 4, 5])
    alone["region_probs"] = np.full((8, 2), 0.5)
    scores = score_clusters(**alone)
    np.testing.assert_allclose(scores.class_gaps[0], [2 / 3, -2 / 3])
    assert scores.influence[0] == -np.inf and scores.influence_images[0] == 0


# --- findings --------------------------------------------------------------------------------------------------------


def test_a_finding_has_a_table():
    golden, problem = golden_problem("case1")
    found = discover(problem)
    for finding in found.findings:
        table, row = finding.table, finding.cluster
        columns = ["n_in", "n_out", "accuracy_in", "accuracy_out", "difference", "weighted_gap"]
        assert list(table.columns) == columns and list(table.index) == list(range(6))
        np.testing.assert_array_equal(table["weighted_gap"], found.scores.class_gaps[row])
        np.testing.assert_array_equal(table["n_in"] + table["n_out"], np.bincount(problem.labels))
        assert finding.attribute == table["difference"].idxmax()
        np.testing.assert_allclose(finding.gap, table["weighted_gap"].abs().sum())
        assert finding.influence == found.scores.influence[row]
        assert finding.influence_images == found.scores.influence_images[row]
    assert found.findings[0].attribute == 2  # the class that the case was planted with
    assert list(found.clustering.silhouettes) == golden["in_candidate_k"].tolist()  # 2C … 5C-1 by default


def test_the_attribute_is_the_class_with_the_largest_difference_without_weight():
    # Class 0: 1 of 20 in, a gain of 1 of small weight; class 1: half in, a gain of ½; class 2: a loss.
    labels = np.repeat([0, 1, 2], 20)
    inside = np.r_[np.arange(20) < 1, np.arange(20) < 10, np.arange(20) < 10]
    right = np.r_[np.arange(20) < 1, np.arange(20) < 10, np.arange(20) >= 10]
    right[25:30] = False
    probs = np.eye(3)[np.where(right, labels, (labels + 1) % 3)]
    kinds = np.eye(3)[np.stack([np.where(inside, 0, 1), np.full(60, 2)], axis=1).ravel()]
    problem = SimpleNamespace(
        region_embeddings=oracles.unit(kinds + 0.01 * np.random.default_rng(0).normal(size=kinds.shape)),
        image_index=np.repeat(np.arange(60), 2),
        labels=labels,
        image_probs=probs,
        region_probs=np.tile([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], (60, 1)),
    )
    finding = discover(problem, candidates=[3]).findings[0]
    assert finding.table["weighted_gap"].idxmax() == 1
    assert finding.attribute == 0


def test_the_influence_threshold_is_reached_by_equality():
    problem = SimpleNamespace(**EXAMPLE)
    scores = score_clusters(**vars(problem))
    assert rank_clusters(scores, 0.5).tolist() == [0]
    assert rank_clusters(scores, 0.51).tolist() == []


def test_findings_with_equal_gaps_come_in_the_order_of_their_clusters():
    scores = SimpleNamespace(
        criterion=np.array([True] * 4 + [False]), influence=np.ones(5), gap=np.array([0.3, 0.5, 0.3, 0.5, 0.9])
    )
    assert rank_clusters(scores).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    "embeddings", [np.tile(np.eye(4, dtype=np.float32)[0], (12, 1)), np.empty((0, 4), dtype=np.float32)]
)
def test_nothing_to_find_is_an_ordinary_result(embeddings):
    n_regions = len(embeddings)
    probs = np.full((n_regions, 3), 1 / 3)
    found = discover(embeddings, np.arange(n_regions) // 2, np.arange(6) % 3, np.full((6, 3), 1 / 3), probs)
    assert found.findings == () and found.clustering.n_clusters == 0
    assert found.scores.class_gaps.shape == (0, 3) and found.scores.gap.shape == (0,)
    assert found.scores.influence.shape == (0,) and found.scores.criterion.dtype == bool
    for which in ("same attribute", "first", "all", [0]):
        marked = assign_regions(found, np.eye(4), which)
        assert marked.dtype == bool and marked.tolist() == [False] * 4


# --- assignment of other regions -------------------------------------------------------------------------------------


def test_assignment_is_to_the_nearest_medoid(monkeypatch):
    monkeypatch.setattr("ravl_core.discovery.REGIONS_AT_A_TIME", 7)
    _, problem = golden_problem("case1")
    found = discover(problem)
    others = oracles.unit(np.random.default_rng(0).normal(size=(200, 32)))
    nearest = oracles.nearest_medoid(others, found.clustering.medoid_embeddings)
    first, second = (nearest == finding.cluster for finding in found.findings)
    assert first.any() and second.any()
    np.testing.assert_array_equal(assign_regions(found, others), first)  # the two name different attributes
    np.testing.assert_array_equal(assign_regions(found, others, "first"), first)
    np.testing.assert_array_equal(assign_regions(found, others, "all"), first | second)
    np.testing.assert_array_equal(assign_regions(found, others, [1]), second)
    assert not assign_regions(found, others, []).any()


def test_same_attribute_takes_all_findings_that_name_it():
    clustering = SimpleNamespace(medoid_embeddings=np.eye(5))
    named = [SimpleNamespace(cluster=cluster, attribute=attribute) for cluster, attribute in [(3, 1), (0, 2), (4, 1)]]
    found = SimpleNamespace(clustering=clustering, findings=tuple(named))
    assert assign_regions(found, np.eye(5), "same attribute").tolist() == [False, False, False, True, True]
    assert assign_regions(found, np.eye(5)).tolist() == [False, False, False, True, False]
    assert assign_regions(found, np.eye(5), [1, 2]).tolist() == [True, False, False, False, True]


def test_a_region_between_medoids_goes_to_the_lowest_cluster():
    clustering = SimpleNamespace(medoid_embeddings=np.eye(3)[[0, 1, 1]])
    found = SimpleNamespace(clustering=clustering, findings=(SimpleNamespace(cluster=1, attribute=0),))
    assert assign_regions(found, np.eye(3)).tolist() == [False, True, False]  # the third ties everywhere: cluster 0


@pytest.mark.parametrize("clusters", [[], [2], [5, 0], [0, 1, 2, 3, 4, 5], np.array([4, 4])])
def test_regions_in_clusters_are_those_whose_nearest_medoid_is_one_of_theirs(clusters):
    random = np.random.default_rng(1)
    medoids, others = (oracles.unit(random.normal(size=(n, 12))) for n in (6, 80))
    found = regions_in_clusters(Clustering(np.arange(6), np.arange(6), medoids, {}), others, clusters)
    nearest = oracles.nearest_medoid(others, medoids)
    assert found.dtype == bool and found.tolist() == [cluster in list(clusters) for cluster in nearest]


def test_no_cluster_and_no_region_are_ordinary_cases():
    nothing = Clustering(np.empty(0, dtype=int), np.empty(0, dtype=int), np.empty((0, 12), dtype=np.float32), {})
    medoids = Clustering(np.arange(3), np.arange(3), np.eye(3, 12), {})
    assert regions_in_clusters(nothing, np.eye(12), []).tolist() == [False] * 12
    for clusters in ([], [1]):
        assert regions_in_clusters(medoids, np.empty((0, 12)), clusters).shape == (0,)
    with pytest.raises(ValueError, match="clusters: expected integers from 0 to 2"):
        regions_in_clusters(medoids, np.eye(12), [3])
    with pytest.raises(ValueError, match="stage1_region_embeddings: expected 12 columns"):
        regions_in_clusters(medoids, np.eye(5), [])


# --- arguments -------------------------------------------------------------------------------------------------------


def test_an_evaluation_stands_for_its_arrays():
    problem = oracles.ragged_problem(1)
    arrays = problem.region_embeddings, problem.image_index, problem.labels, problem.image_probs, problem.region_probs
    together, apart = discover(problem, seed=3), discover(*arrays, seed=3)
    np.testing.assert_array_equal(together.clustering.labels, apart.clustering.labels)
    assert list(apart.clustering.silhouettes) == list(range(6, 15))
    assert_same_scores(together.scores, apart.scores)


def test_read_only_and_non_contiguous_arrays_are_left_as_they_are():
    problem = oracles.ragged_problem(1)
    strided = {name: np.asarray(array).repeat(2, axis=0)[::2] for name, array in vars(problem).items()}
    for array in strided.values():
        array.setflags(write=False)
    expected = discover(problem, candidates=[6])
    assert_same_scores(discover(**strided, candidates=[6]).scores, expected.scores)


def changed(name, change):
    problem = oracles.ragged_problem(0)
    setattr(problem, name, change(np.array(getattr(problem, name))))
    return vars(problem)


def with_entry(value, *at):
    def change(array):
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("region_embeddings", with_entry(np.nan, 0, 0), "region_embeddings: expected finite"),
        ("region_embeddings", lambda a: 2 * a, "region_embeddings: expected rows of norm 1"),
        ("region_embeddings", lambda a: a[:-1], "region_embeddings: expected length"),
        ("region_embeddings", lambda a: a[0], r"region_embeddings: expected 2 dimension\(s\)"),
        ("image_index", lambda a: a[::-1], "image_index: expected a non-decreasing"),
        ("image_index", lambda a: a + 50, "image_index: expected integers from 0 to 49"),
        ("image_index", lambda a: a.astype(float), "image_index: expected integers, got dtype float64"),
        ("image_index", lambda a: a[:-1], "image_index: expected length"),
        ("labels", lambda a: a + 1, "labels: expected integers from 0 to 2"),
        ("labels", lambda a: a - 1, "labels: expected integers from 0 to 2"),
        ("labels", lambda a: a.astype(str), "labels: expected integers"),
        ("labels", lambda a: a > 1, "labels: expected integers, got dtype bool"),
        ("labels", lambda a: a[:-1], "labels: expected length 50"),
        ("image_probs", lambda a: 2 * a, "image_probs: expected rows that sum to 1"),
        ("image_probs", with_entry([1.5, -0.5, 0], 3), "image_probs: expected probabilities, none below 0"),
        ("image_probs", with_entry(np.inf, 0, 0), "image_probs: expected finite"),
        ("region_probs", lambda a: a[:, :2] / a[:, :2].sum(axis=1, keepdims=True), "region_probs: expected 3 columns"),
        ("region_probs", with_entry(np.nan, 0, 0), "region_probs: expected finite"),
    ],
)
def test_wrong_arrays_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        discover(**changed(name, change))


def test_other_wrong_arguments_are_named():
    problem = oracles.ragged_problem(0)
    with pytest.raises(ValueError, match="influence_threshold: expected a number"):
        discover(problem, influence_threshold=float("nan"))
    with pytest.raises(ValueError, match="region_embeddings: expected an array where other arrays are given"):
        discover(problem, problem.image_index)
    with pytest.raises(ValueError, match="cluster_labels: expected integers from -1"):
        scores_of(np.full(len(problem.image_index), -2), problem)
    with pytest.raises(ValueError, match="cluster_labels: expected length"):
        scores_of([0, 1], problem)
    _, golden = golden_problem("case1")
    found = discover(golden, candidates=[12])
    with pytest.raises(ValueError, match="did you mean 'first'"):
        assign_regions(found, golden.region_embeddings, "frist")
    with pytest.raises(ValueError, match="findings: expected integers from 0 to 1"):
        assign_regions(found, golden.region_embeddings, [2])
    with pytest.raises(ValueError, match="stage1_region_embeddings: expected 32 columns"):
        assign_regions(found, np.eye(3))


def test_importing_discovery_does_not_import_torch():
    code = "import ravl_core.discovery, ravl_core.metrics, sys; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
