import json
from pathlib import Path

import numpy as np
import oracles
import pytest

from ravl_core.kmedoids import cluster_regions, cosine_distances, k_medoids, silhouettes

GOLDEN = Path(__file__).parent / "golden" / "ravl_discover"
CASES = sorted(json.loads((GOLDEN / "manifest.json").read_text())["cases"])


@pytest.mark.parametrize("case", CASES)
def test_clusters_of_the_published_code(case):
    golden = np.load(GOLDEN / f"{case}.npz")
    found = cluster_regions(golden["in_reg_emb"], golden["in_candidate_k"].tolist())
    np.testing.assert_array_equal(found.labels, golden["out_clusters"])
    np.testing.assert_array_equal(found.medoids, golden["out_medoids"])
    np.testing.assert_allclose(list(found.silhouettes.values()), golden["out_silhouette_per_k"], rtol=0, atol=1e-6)
    assert list(found.silhouettes) == golden["in_candidate_k"].tolist()
    assert found.n_clusters == len(golden["out_medoids"]) and found.n_emptied == 0
    np.testing.assert_array_equal(found.medoid_embeddings, golden["in_reg_emb"][golden["out_medoids"]])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_k_medoids_is_the_plain_loop(seed, k):
    distances = cosine_distances(oracles.ragged_problem(seed, n_images=20).region_embeddings)
    labels, medoids = k_medoids(distances, k, seed)
    expected_labels, expected_medoids = oracles.k_medoids(distances, k, seed)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(medoids, expected_medoids)


def coarse_distances(seed, n_regions=14):
    """Distances of 0, ½ and 1: ties everywhere, and medoids that fall into one another's cluster."""
    half = np.triu(np.random.default_rng(seed).choice([0, 0.5, 1], p=[0.3, 0.4, 0.3], size=(n_regions, n_regions)), 1)
    return (half + half.T).astype(np.float32)


def test_k_medoids_is_the_plain_loop_where_medoids_are_equal():
    n_emptied = n_unlike_published = 0
    for seed in range(60):
        distances = coarse_distances(seed)
        labels, medoids = k_medoids(distances, 4, seed)
        expected_labels, expected_medoids = oracles.k_medoids(distances, 4, seed)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(medoids, expected_medoids)
        np.testing.assert_array_equal(np.unique(labels), np.arange(len(medoids)))
        n_emptied += len(medoids) < 4
        published, _ = oracles.k_medoids(distances, 4, seed, published=True)
        n_unlike_published += not np.array_equal(np.unique(published, return_inverse=True)[1], labels)
    assert n_emptied > 0, "no case had an emptied cluster, so the rule was not tried"
    assert n_unlike_published > 0, "no case had a medoid in another cluster, so the rule was not tried"


@pytest.fixture
def uniform_oracle(monkeypatch):
    """The plain loop, started from k of the regions in a shuffled order."""
    monkeypatch.setattr(oracles, "seed_medoids", lambda distances, k, random: [*random.permutation(len(distances))[:k]])
    return oracles.k_medoids


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_k_medoids_from_a_uniform_start_is_the_plain_loop(seed, k, uniform_oracle):
    distances = cosine_distances(oracles.ragged_problem(seed, n_images=20).region_embeddings)
    labels, medoids = k_medoids(distances, k, seed, start="uniform")
    expected_labels, expected_medoids = uniform_oracle(distances, k, seed)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(medoids, expected_medoids)
    assert labels.dtype == medoids.dtype == np.int64


def test_a_uniform_start_may_take_equal_regions_and_drops_what_that_empties(uniform_oracle):
    n_emptied = 0
    for seed in range(20):
        distances = coarse_distances(seed)
        labels, medoids = k_medoids(distances, 4, seed, start="uniform")
        expected_labels, expected_medoids = uniform_oracle(distances, 4, seed)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(medoids, expected_medoids)
        n_emptied += len(medoids) < 4
    assert n_emptied > 0, "no case had an emptied cluster, so the rule was not tried"


def test_all_regions_are_a_uniform_start_of_as_many():
    distances = cosine_distances(np.eye(6, dtype=np.float32))
    labels, medoids = k_medoids(distances, 6, 1, start="uniform")
    np.testing.assert_array_equal(medoids[labels], np.arange(6))


def test_cluster_regions_tries_every_candidate_from_the_start_that_was_asked_for():
    embeddings = oracles.ragged_problem(2).region_embeddings
    found = cluster_regions(embeddings, range(6, 12), seed=4, start="uniform")
    distances = cosine_distances(embeddings)
    fits = {k: k_medoids(distances, k, 4, start="uniform") for k in range(6, 12)}
    assert list(found.silhouettes.values()) == silhouettes(distances, [labels for labels, _ in fits.values()]).tolist()
    labels, medoids = fits[max(found.silhouettes, key=found.silhouettes.get)]
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.medoids, medoids)
    usual, spread = cluster_regions(embeddings, range(6, 12), 4), cluster_regions(embeddings, range(6, 12), 4, "spread")
    np.testing.assert_array_equal(usual.labels, spread.labels)
    assert usual.silhouettes == spread.silhouettes != found.silhouettes


@pytest.mark.parametrize("seed", range(5))
def test_silhouettes_are_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    distances = cosine_distances(oracles.ragged_problem(seed).region_embeddings)
    labellings = [random.integers(k, size=len(distances)) for k in (2, 3, 7)]
    lonely = labellings[2].copy()
    lonely[0] = 7  # the only member of its cluster
    gappy = labellings[1] * 2  # clusters 1 and 3 have no member
    labellings += [lonely, gappy, np.zeros(len(distances), dtype=int)]
    expected = [oracles.silhouette(distances, labels) for labels in labellings]
    np.testing.assert_allclose(silhouettes(distances, labellings), expected, rtol=0, atol=1e-6)


def test_silhouettes_do_not_depend_on_the_block(monkeypatch):
    distances = cosine_distances(oracles.ragged_problem(3).region_embeddings)
    labels, _ = k_medoids(distances, 5, 0)
    whole = silhouettes(distances, [labels])
    monkeypatch.setattr("ravl_core.kmedoids.BLOCK_ENTRIES", 1)
    np.testing.assert_allclose(silhouettes(distances, [labels]), whole, rtol=0, atol=1e-14)
    assert len(distances) > 32


def test_silhouette_of_one_partition_is_the_same_under_any_names():
    distances = cosine_distances(oracles.ragged_problem(1).region_embeddings)
    labels, _ = k_medoids(distances, 5, 0)
    named, renamed, spread = silhouettes(distances, [labels, 4 - labels, 3 * labels])
    assert named == renamed == spread


def test_cosine_distances():
    embeddings = oracles.ragged_problem(0).region_embeddings
    distances = cosine_distances(embeddings)
    expected = np.clip(1 - embeddings.astype(np.float64) @ embeddings.T.astype(np.float64), 0, 1)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-6)
    assert distances.dtype == np.float32 and distances.min() == 0 and distances.max() == 1
    assert cosine_distances(oracles.unit(embeddings).astype(np.float64)).dtype == np.float64
    assert cosine_distances(embeddings.astype(np.float16)).dtype == np.float32


@pytest.mark.parametrize("size", [3, 48, 513])
def test_equal_embeddings_have_equal_distances(size):
    random = np.random.default_rng(size)
    embeddings = oracles.unit(random.normal(size=(301, size)))
    copies = random.choice(301, size=100, replace=False)
    embeddings[copies] = embeddings[copies[0]]
    distances = cosine_distances(embeddings)
    assert (distances[np.ix_(copies, copies)] == 0).all()
    assert (distances[copies] == distances[copies[0]]).all()
    np.testing.assert_array_equal(distances, distances.T)
    assert (np.diag(distances) == 0).all()


def nearly_equal_regions(per_kind=10, n_kinds=3):
    """Distinct embeddings of a few kinds whose distances within a kind round to zero."""
    random = np.random.default_rng(0)
    kinds = np.repeat(np.eye(4)[:n_kinds], per_kind, axis=0)
    return oracles.unit(kinds + 1e-5 * random.normal(size=kinds.shape))


def test_emptied_clusters_are_dropped_and_counted():
    found = cluster_regions(nearly_equal_regions(), [6])
    assert found.n_clusters == 3 and found.n_emptied == 3
    assert found.medoid_embeddings.shape == (3, 4)
    np.testing.assert_array_equal(np.bincount(found.labels), [10, 10, 10])
    np.testing.assert_array_equal(found.labels[found.medoids], [0, 1, 2])


def test_the_first_candidate_wins_a_tie():
    tied = cluster_regions(nearly_equal_regions(), [2, 5, 6, 4])
    assert tied.silhouettes[5] == tied.silhouettes[6] == tied.silhouettes[4] > tied.silhouettes[2]
    assert tied.n_emptied == 2


def test_candidates_stay_below_the_number_of_distinct_embeddings():
    embeddings = np.repeat(np.eye(5, dtype=np.float32), 4, axis=0)
    found = cluster_regions(embeddings, range(2, 10))
    assert list(found.silhouettes) == [2, 3, 4] and found.n_clusters == 4


@pytest.mark.parametrize(
    "embeddings, candidates, tried",
    [
        (np.eye(6, dtype=np.float32), [2, 3], {2: 0.0, 3: 0.0}),  # all equally far: no silhouette above 0
        (np.tile(np.eye(3, dtype=np.float32)[0], (9, 1)), [2, 3], {}),  # a single distinct embedding
        (np.eye(3, dtype=np.float32), [3, 4], {}),
        (np.eye(3, dtype=np.float32), [], {}),
        (np.eye(3, dtype=np.float32), [1], {1: 0.0}),
        (np.empty((0, 7), dtype=np.float32), [2, 3], {}),
    ],
)
def test_no_clustering_is_an_ordinary_result(embeddings, candidates, tried):
    found = cluster_regions(embeddings, candidates)
    assert found.n_clusters == 0 and found.n_emptied == 0 and found.silhouettes == tried
    assert found.labels.tolist() == [-1] * len(embeddings) and found.labels.dtype == np.int64
    assert found.medoids.shape == (0,) and found.medoids.dtype == np.int64
    assert found.medoid_embeddings.shape == (0, embeddings.shape[1])


def test_the_same_seed_gives_the_same_clusters_and_inputs_stay():
    embeddings = oracles.ragged_problem(2).region_embeddings
    embeddings.setflags(write=False)
    first, again = (cluster_regions(embeddings, range(6, 9), seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.silhouettes == again.silhouettes
    strided = np.repeat(embeddings, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(cluster_regions(strided, range(6, 9), seed=4).labels, first.labels)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: cluster_regions(np.ones((3, 2), dtype=np.float32), [2]), "region_embeddings: expected rows of norm 1"),
        (lambda: cluster_regions(np.eye(3), [2.5]), "candidates: expected an integer"),
        (lambda: cluster_regions(np.eye(3), [0]), "candidates: expected an integer of 1 or more, got 0"),
        (lambda: cluster_regions(np.eye(3), [2], 0, "unifrom"), "start: expected one of 'spread', 'uniform'"),
        (lambda: k_medoids(np.zeros((3, 3)), 2, 0, "random"), "start: expected one of .* got 'random'"),
        (lambda: k_medoids(np.zeros((3, 2)), 2, 0), "distances: expected a square matrix"),
        (lambda: k_medoids(np.zeros((3, 3)), 4, 0), "k: expected at most the number of regions, 3, got 4"),
        (lambda: k_medoids(np.full((3, 3), np.nan), 2, 0), "distances: expected finite"),
        (lambda: silhouettes(np.zeros((3, 3)), [[0, 1]]), "labellings: expected length 3"),
        (lambda: silhouettes(np.zeros((3, 3)), [[0, 1, -1]]), "labellings: expected integers from 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_distances_need_not_be_contiguous():
    distances = cosine_distances(oracles.ragged_problem(5).region_embeddings)
    wide = np.repeat(distances, 2, axis=1)
    wide.setflags(write=False)
    labels, medoids = k_medoids(wide[:, ::2], 5, 0)
    expected_labels, expected_medoids = k_medoids(distances, 5, 0)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(medoids, expected_medoids)
    assert silhouettes(wide[:, ::2], [labels]) == silhouettes(distances, [labels])
