"""Clustering in linear time: the exact clusters where it promises them, and a fixed point of the scheme elsewhere."""

import numpy as np
import oracles
import pytest

from ravl_core import discovery, linear_kmedoids
from ravl_core.kmedoids import cluster_regions, silhouettes
from ravl_core.linear_kmedoids import cluster_many_regions


def positive(seed, n_regions=240, size=16, n_kinds=7):
    """Unit rows (M, D), float32, of a few kinds, none of them opposed to another."""
    random = np.random.default_rng(seed)
    centres = 2 + random.normal(size=(n_kinds, size))
    rows = centres[random.integers(n_kinds, size=n_regions)] + 0.3 * random.normal(size=(n_regions, size))
    rows = oracles.unit(rows).astype(np.float32)
    assert (rows @ rows.T).min() > 0
    return rows


def unclipped(embeddings):
    return 1 - embeddings.astype(np.float64) @ embeddings.T.astype(np.float64)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("block_entries", [2**21, 2**9])
def test_equals_the_exact_clustering(seed, block_entries, monkeypatch):
    monkeypatch.setattr(linear_kmedoids, "BLOCK_ENTRIES", block_entries)
    embeddings = positive(seed)
    found, exact = (how(embeddings, range(3, 15), seed) for how in (cluster_many_regions, cluster_regions))
    np.testing.assert_array_equal(found.labels, exact.labels)
    np.testing.assert_array_equal(found.medoids, exact.medoids)
    assert list(found.silhouettes) == list(exact.silhouettes)
    # A candidate that is not chosen may split a kind between members that are equally central but for rounding.
    off = np.abs(np.array(list(found.silhouettes.values())) - list(exact.silhouettes.values()))
    assert np.sum(off > 1e-5) <= 1 and max(found.silhouettes.values()) == pytest.approx(max(exact.silhouettes.values()))


def test_repeated_regions_tie_as_they_do_exactly():
    embeddings = np.concatenate([positive(1, 60), positive(1, 60), positive(2, 30)])
    found, exact = (how(embeddings, range(2, 12)) for how in (cluster_many_regions, cluster_regions))
    np.testing.assert_array_equal(found.labels, exact.labels)
    np.testing.assert_array_equal(found.medoids, exact.medoids)


@pytest.mark.parametrize("seed", range(4))
def test_begun_on_a_sample_it_ends_at_a_fixed_point(seed):
    embeddings = positive(seed, 900)
    found = cluster_many_regions(embeddings, [6, 7, 8], seed, n_first=100, max_rounds=300, tolerance=0)
    distances = unclipped(embeddings)
    margin = np.sort(distances[:, found.medoids], axis=1)
    clear = margin[:, 1] - margin[:, 0] > 1e-6
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.labels[clear], distances[:, found.medoids].argmin(axis=1)[clear])
    for cluster, medoid in enumerate(found.medoids):
        members = np.flatnonzero(found.labels == cluster)
        sums = distances[np.ix_(members, members)].sum(axis=1)
        assert distances[medoid, members].sum() <= sums.min() + 1e-4
    (score,) = silhouettes(np.maximum(distances, 0) * (1 - np.eye(len(distances))), [found.labels])
    assert found.silhouettes[found.n_clusters + found.n_emptied] == pytest.approx(score, abs=1e-5)


def test_few_rounds_leave_every_region_with_its_nearest_medoid():
    embeddings = positive(3, 900)
    found = cluster_many_regions(embeddings, [12], n_first=50, max_rounds=1)
    products = embeddings @ embeddings[found.medoids].T
    assert (products.max(axis=1) - products[np.arange(len(products)), found.labels]).max() < 1e-6


def test_a_file_of_half_precision_is_read_in_place(tmp_path):
    embeddings = positive(0).astype(np.float16)
    np.save(tmp_path / "regions.npy", embeddings)
    mapped = np.load(tmp_path / "regions.npy", mmap_mode="r")
    found, known = cluster_many_regions(mapped, [5, 6, 7]), cluster_many_regions(embeddings, [5, 6, 7])
    np.testing.assert_array_equal(found.labels, known.labels)
    np.testing.assert_array_equal(np.asarray(mapped), embeddings)
    assert found.medoid_embeddings.dtype == np.float16 and not isinstance(found.medoid_embeddings, np.memmap)


def test_the_whole_file_is_never_widened(monkeypatch):
    monkeypatch.setattr(linear_kmedoids, "BLOCK_ENTRIES", 2**10)
    shapes = []
    widened = linear_kmedoids._widened

    def noted(rows):
        shapes.append(len(rows))
        return widened(rows)

    monkeypatch.setattr(linear_kmedoids, "_widened", noted)
    cluster_many_regions(positive(0, 900).astype(np.float16), [5, 6], n_first=100)
    assert shapes and max(shapes) <= 100


@pytest.mark.parametrize("n_regions", [0, 1])
def test_hardly_any_regions_are_no_clusters(n_regions):
    found = cluster_many_regions(positive(0)[:n_regions], [1, 2, 3])
    assert found.n_clusters == 0 and found.labels.tolist() == [-1] * n_regions


def test_opposed_regions_are_farther_apart_than_orthogonal_ones():
    rows = np.float32([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, 0.6], [0, 1]])
    found = cluster_many_regions(rows, [2], 0)
    (score,) = silhouettes(np.maximum(unclipped(rows), 0) * (1 - np.eye(5)), [found.labels])
    assert found.silhouettes[2] == pytest.approx(score, abs=1e-6)


def test_another_seed_draws_another_sample():
    embeddings = positive(5, 900)
    one, two = (cluster_many_regions(embeddings, [30], seed, n_first=60, max_rounds=1) for seed in (0, 1))
    again = cluster_many_regions(embeddings, [30], 0, n_first=60, max_rounds=1)
    assert one.medoids.tolist() == again.medoids.tolist() != two.medoids.tolist()


@pytest.mark.parametrize(
    "wrong",
    [{"n_first": 0}, {"max_rounds": 0}, {"tolerance": -0.1}, {"tolerance": 1.5}, {"seed": -1}, {"candidates": [0]}],
    ids=str,
)
def test_what_is_out_of_range_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        cluster_many_regions(positive(0), **({"candidates": [3]} | wrong))


def test_rows_that_are_no_unit_rows_are_refused():
    with pytest.raises(ValueError, match="region_embeddings"):
        cluster_many_regions(2 * positive(0), [3])


# ---- discovery ----


def problem():
    embeddings = positive(4, 200)
    given = oracles.ragged_problem(4)
    index = np.sort(np.random.default_rng(0).integers(len(given.labels), size=200))
    probabilities = np.random.default_rng(1).dirichlet(np.ones(given.image_probs.shape[1]), 200)
    return embeddings, index, given.labels, given.image_probs, probabilities


def test_discovery_is_the_same_either_way():
    exact, linear = (discovery.discover(*problem(), seed=2, clustering=how) for how in ("exact", "linear"))
    np.testing.assert_array_equal(linear.clustering.labels, exact.clustering.labels)
    np.testing.assert_array_equal(linear.scores.gap, exact.scores.gap)
    assert [found.cluster for found in linear.findings] == [found.cluster for found in exact.findings]


def noted(calls, name, function):
    def called(*given, **options):
        calls.append(name)
        return function(*given, **options)

    return called


@pytest.mark.parametrize(("most", "called"), [(200, "cluster_regions"), (199, "cluster_many_regions")])
def test_discovery_takes_the_exact_way_as_long_as_it_fits(most, called, monkeypatch):
    calls = []
    monkeypatch.setattr(discovery, "MOST_EXACT", most)
    for module, name in ((discovery, "cluster_regions"), (linear_kmedoids, "cluster_many_regions")):
        whole = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, whole=whole, name=name, **k: (calls.append(name), whole(*a, **k))[1]
        )
    discovery.discover(*problem())
    assert calls == [called]


def test_discovery_names_a_way_that_there_is_not():
    with pytest.raises(ValueError, match="clustering.*linear"):
        discovery.discover(*problem(), clustering="liner")
