import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from sklearn.mixture import GaussianMixture

from ravl_core.slicing import subclasses
from ravl_core.slicing.subclasses import (
    find_subclasses,
    fit_clusters,
    merge_pieces,
    reduce_activations,
    search_clusters,
    split_clusters,
)

GOLDEN = Path(__file__).parent / "golden" / "george"
CASES = {name: case["config"] for name, case in json.loads((GOLDEN / "manifest.json").read_text())["cases"].items()}
OVERCLUSTERED = [name for name, config in CASES.items() if config["over"]]
UP_TO_5 = range(2, 6)


pytestmark = pytest.mark.filterwarnings("error")


# --- the published code ----------------------------------------------------------------------------------------------


def golden_case(case):
    golden, config = np.load(GOLDEN / f"{case}.npz"), CASES[case]
    reduced = reduce_activations(
        golden["in_activations"],
        golden["in_superclass"],
        *config["red"],
        normalize=config["normalize"],
        subtract_mean=config["mean_reduce"],
        final_weights=golden["in_fc_weight"] if "in_fc_weight" in golden else None,
        train=golden["in_train_mask"],
    )
    return golden, config, reduced


def golden_train(golden, superclass):
    """Reduced activations and losses of the train images of a class."""
    members = golden["in_superclass"][golden["in_train_mask"]] == superclass
    return golden["out_train_reduced"][members], golden["in_losses"][golden["in_train_mask"]][members]


@pytest.mark.parametrize("case", CASES)
def test_reduction_of_the_published_code(case):
    golden, _, reduced = golden_case(case)
    train, classes = golden["in_train_mask"], golden["in_superclass"]
    for split, inside in (("train", train), ("val", ~train)):
        for c in (0, 1):
            expected = golden[f"out_{split}_reduced"][classes[inside] == c]
            found = reduced[inside & (classes == c)]
            signs = np.sign((found * expected).sum(axis=0))  # a principal component may point either way
            np.testing.assert_allclose(found * signs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("c", [0, 1])
def test_search_of_the_published_code(case, c):
    golden, config, _ = golden_case(case)
    points, _ = golden_train(golden, c)
    found = search_clusters(points, config["method"], UP_TO_5)
    assert list(found.scores) == [2, 3, 4, 5]
    expected = golden[f"out_mean_cluster_silhouette_s{c}"]
    np.testing.assert_allclose(list(found.scores.values()), expected, rtol=0, atol=1e-6)
    assert adjusted_rand_score(found.labels, golden[f"out_base_train_assign_s{c}"]) == 1


@pytest.mark.parametrize("case", OVERCLUSTERED)
@pytest.mark.parametrize("c", [0, 1])
def test_overclustering_of_the_published_code(case, c):
    golden, config, _ = golden_case(case)
    points, _ = golden_train(golden, c)
    base, expected = golden[f"out_base_train_assign_s{c}"], golden[f"out_overcluster_raw_s{c}"]
    found = split_clusters(points, base, config["method"])
    assert adjusted_rand_score(found, expected) == 1
    np.testing.assert_array_equal(found // 5, base)


@pytest.mark.parametrize("case", OVERCLUSTERED)
@pytest.mark.parametrize("c", [0, 1])
def test_merging_of_the_published_code(case, c):
    golden, _, _ = golden_case(case)
    points, losses = golden_train(golden, c)
    base, pieces = golden[f"out_base_train_assign_s{c}"], golden[f"out_overcluster_raw_s{c}"]
    found = merge_pieces(points, base, pieces, losses)
    np.testing.assert_array_equal(found, golden[f"out_label_map_s{c}"][pieces])


@pytest.mark.parametrize("case", CASES)
def test_subclasses_of_the_published_code(case):
    golden, config, reduced = golden_case(case)
    train, classes = golden["in_train_mask"], golden["in_superclass"]
    factor = 5 if config["over"] else 1
    found = find_subclasses(reduced, classes, golden["in_losses"], config["method"], UP_TO_5, factor, train)
    expected = np.empty(len(train), dtype=int)
    expected[train], expected[~train] = golden["out_train_assignments"], golden["out_val_assignments"]
    assert adjusted_rand_score(found, expected) == 1
    assert set(found) == set(expected)
    assert found[classes == 0].max() < found[classes == 1].min()


# --- reduction -------------------------------------------------------------------------------------------------------


def test_pca_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    activations, classes = random.normal(size=(60, 7)), np.arange(60) % 3
    train = random.random(60) < 0.5
    found = reduce_activations(activations, classes, "pca", 3, normalize=False, train=train)
    for c in range(3):
        pca = PCA(3).fit(activations[train & (classes == c)])
        np.testing.assert_allclose(np.abs(found[classes == c]), np.abs(pca.transform(activations[classes == c])))


def test_the_mean_is_subtracted_before_rows_are_normalised():
    activations = np.random.default_rng(0).normal(2, 1, size=(20, 3))
    found = reduce_activations(activations, np.zeros(20, dtype=int), "none", subtract_mean=True)
    np.testing.assert_allclose(found, oracles.unit(activations - activations.mean(axis=0)))
    zero = reduce_activations(np.zeros((2, 3)), np.zeros(2, dtype=int), "none")
    np.testing.assert_array_equal(zero, np.zeros((2, 3)))


def test_components_that_there_are_no_images_or_dimensions_for_are_0():
    activations, classes = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 0, 0, 0, 0, 1])
    found = reduce_activations(activations, classes, "pca", 4)
    assert found.shape == (6, 4) and (found[:, 2:] == 0).all() and (found[5] == 0).all()
    assert (found[:5, :2] != 0).all()


def test_umap_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="umap-learn"):
        reduce_activations(np.eye(4), np.zeros(4, dtype=int), "umap")
    with pytest.raises(ImportError, match="umap-learn"):
        reduce_activations(np.eye(4), np.zeros(4, dtype=int), "hardness", 2, final_weights=np.eye(4)[:2])


class SomeUMAP:
    """Stands for UMAP: the first columns of what it is given, noting how it was made."""

    def __init__(self, **options):
        self.options = options

    def fit(self, points):
        self.mean = points.mean(axis=0)
        return self

    def transform(self, points):
        SomeUMAP.made = self
        return (points - self.mean)[:, : self.options["n_components"]]


def test_hardness_takes_further_components_from_a_umap_of_the_rest(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=SomeUMAP))
    activations = np.random.default_rng(0).normal(size=(12, 3))
    weights = np.array([[0.0, 1, 1], [0.0, 4, 5]])  # (0, 0.6, 0.8) leads across the boundary
    classes, train = np.zeros(12, dtype=int), np.arange(12) < 9
    found = reduce_activations(activations, classes, "hardness", 3, False, False, weights, train, seed=7)
    across = activations @ [0, 0.6, 0.8]
    np.testing.assert_allclose(found[:, 0], across)
    rest = activations[:, :2] - across[:, None] * [0, 0.6]
    np.testing.assert_allclose(found[:, 1:], rest - rest[train].mean(axis=0))
    assert SomeUMAP.made.options == dict(n_components=2, n_neighbors=10, min_dist=0.0, random_state=7)


def test_a_class_that_is_too_small_for_umap_is_one_point(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=SomeUMAP))
    activations = np.random.default_rng(0).normal(size=(7, 3))
    found = reduce_activations(activations, np.array([0, 0, 0, 0, 1, 1, 1]), "umap")
    assert (found[4:] == 0).all() and (found[:4] != 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reduction": "pcs"}, "reduction: expected one of .*did you mean 'pca'"),
        ({"n_components": 0}, "n_components: expected an integer of 1 or more"),
        ({"activations": np.zeros(3)}, "activations: expected 2 dim"),
        ({"classes": np.zeros(3, dtype=int)}, "classes: expected length 4"),
        ({"train": np.ones(3, dtype=bool)}, "train: expected length 4"),
        ({"train": np.array([True, True, False, False])}, "train: expected an image of each class"),
        ({"reduction": "hardness"}, "final_weights: expected the final layer's weights"),
        ({"reduction": "hardness", "final_weights": np.eye(4)[:3]}, "final_weights: expected two different rows"),
        ({"reduction": "hardness", "final_weights": np.ones((2, 4))}, "final_weights: expected two different rows"),
        ({"reduction": "hardness", "final_weights": np.eye(2)}, "final_weights: expected 4 columns"),
    ],
)
def test_wrong_arguments_of_the_reduction_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        reduce_activations(**{"activations": np.eye(4), "classes": np.array([0, 0, 1, 1]), **changes})


# --- clusters of one class -------------------------------------------------------------------------------------------


def blobs(random, n_points, n_dims, n_blobs=3):
    centres = random.normal(0, 3, size=(n_blobs, n_dims))
    return centres[random.integers(n_blobs, size=n_points)] + random.normal(size=(n_points, n_dims))


@pytest.mark.parametrize("clustering", ["gmm", "kmeans"])
def test_equal_points_are_one_cluster(clustering):
    for n_points in (1, 5):
        shares = fit_clusters(np.ones((n_points, 2)), 3, clustering)
        np.testing.assert_array_equal(shares(np.zeros((4, 2))), np.ones((4, 1)))


@pytest.mark.parametrize("clustering", ["gmm", "kmeans"])
def test_points_apart_by_rounding_are_no_error(clustering):
    points = np.repeat([[0.0, 0], [1, 0]], 6, axis=0) + 1e-17 * np.random.default_rng(0).normal(size=(12, 2))
    shares = fit_clusters(points, 5, clustering)(points)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares[:6].argmax(axis=1) != shares[6:].argmax(axis=1)).all()


def test_a_mixture_that_has_not_converged_is_no_warning(monkeypatch):
    hasty = partial(GaussianMixture, max_iter=2)
    points = blobs(np.random.default_rng(0), 90, 2)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        expected = hasty(5, n_init=3, random_state=7).fit(points)
    monkeypatch.setattr(subclasses, "GaussianMixture", hasty)
    np.testing.assert_array_equal(fit_clusters(points, 5, seed=7)(points), expected.predict_proba(points))


@pytest.mark.parametrize("clustering", ["gmm", "kmeans"])
@pytest.mark.parametrize("seed", range(3))
def test_the_search_takes_the_best_mean_of_the_clusters_silhouettes(clustering, seed):
    points = blobs(np.random.default_rng(seed), 90, 2, 4)
    makers = {
        "gmm": lambda k: GaussianMixture(k, n_init=3, random_state=seed),
        "kmeans": lambda k: KMeans(k, n_init=3, random_state=seed),
    }
    scores, fits = {}, {}
    for k in range(2, 8):
        fits[k] = makers[clustering](k).fit_predict(points)
        values = silhouette_samples(points, fits[k])
        scores[k] = np.mean([values[fits[k] == cluster].mean() for cluster in set(fits[k].tolist())])
    found = search_clusters(points, clustering, range(2, 8), seed=seed)
    assert found.scores == pytest.approx(scores, abs=1e-6)
    assert adjusted_rand_score(found.labels, fits[max(scores, key=scores.get)]) == 1


def test_the_last_candidate_counts_on_ties(monkeypatch):
    monkeypatch.setattr(subclasses, "_clusters_score", lambda points, labels: min(len(set(labels)), 4))
    found = search_clusters(blobs(np.random.default_rng(0), 60, 2), candidates=[3, 5, 4, 2])
    assert len(set(found.labels)) == 4


def test_points_that_are_not_fitted_go_to_the_nearest_cluster():
    train = np.arange(40) < 30
    sides = np.where(np.arange(40) % 2, 5.0, -5.0)[:, None]
    points = sides + np.random.default_rng(0).normal(size=(40, 2))
    for clustering in ("gmm", "kmeans"):
        found = search_clusters(points, clustering, train=train)
        assert adjusted_rand_score(found.labels, np.arange(40) % 2) == 1
        assert found.scores == search_clusters(points[train], clustering).scores


@pytest.mark.parametrize("clustering", ["gmm", "kmeans"])
@pytest.mark.parametrize("n_points", [1, 2, 3, 4, 6])
def test_few_points_have_few_clusters(clustering, n_points):
    points = np.random.default_rng(0).normal(size=(n_points, 2))
    found = search_clusters(points, clustering)
    assert list(found.scores) == list(range(2, n_points)) and len(found.labels) == n_points
    twice = search_clusters(np.repeat(points, 3, axis=0), clustering)
    assert list(twice.scores) == list(range(2, n_points))
    pieces = split_clusters(np.repeat(points, 3, axis=0), np.zeros(3 * n_points, dtype=int), clustering)
    assert pieces.max() < min(n_points, 5) and (pieces[::3] == pieces[2::3]).all()


def test_a_component_without_points_is_dropped():
    # Twelve components on three points each of which occurs many times, apart by rounding.
    random = np.random.default_rng(0)
    points = np.repeat(np.array([[0.0, 0], [1, 0], [0, 1]]), 8, axis=0) + 1e-17 * random.normal(size=(24, 2))
    found = search_clusters(points, "gmm", candidates=[9])
    assert set(found.labels) == set(range(found.labels.max() + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clustering": "gnm"}, "clustering: expected one of 'gmm', 'kmeans'"),
        ({"candidates": [1]}, "candidates: expected an integer of 2 or more, got 1"),
        ({"points": np.full((4, 2), np.inf)}, "points: expected finite numbers"),
        ({"train": np.ones(5, dtype=bool)}, "train: expected length 4"),
    ],
)
def test_wrong_arguments_of_the_search_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        search_clusters(**{"points": np.random.default_rng(0).normal(size=(4, 2)), **changes})


def merged_by_loops(points, labels, pieces, losses, factor, train):
    """New labels by the rule, piece by piece."""
    rest = train if train.all() else ~train
    old, new = silhouette_samples(points[train], labels[train]), silhouette_samples(points[train], pieces[train])
    kept = []
    for piece in range(factor * (labels.max() + 1)):
        inside, parent = pieces[train] == piece, labels[train] == piece // factor
        kept.append(
            inside.sum() >= max(0.005 * train.sum(), 25)
            and (pieces[rest] == piece).sum() >= 25
            and new[inside].mean() > max(old[inside].mean(), 0)
            and losses[train][inside].mean() >= losses[train][parent].mean()
        )
    names, n_names = {}, 0
    for cluster in range(labels.max() + 1):
        of_cluster = range(factor * cluster, factor * (cluster + 1))
        if not all(kept[piece] for piece in of_cluster):
            names.update(dict.fromkeys(of_cluster, n_names))
            n_names += 1
        for piece in of_cluster:
            if kept[piece]:
                names[piece] = n_names
                n_names += 1
    return np.array([names[piece] for piece in pieces]), kept


@pytest.mark.parametrize("seed", range(6))
def test_merging_is_that_of_the_plain_loops(seed):
    random = np.random.default_rng(seed)
    n_points, factor = 600, 3
    pieces = random.choice(9, size=n_points, p=np.array([9, 4, 1, 6, 6, 6, 5, 5, 2]) / 44)
    places = random.normal(0, 4, size=(9, 2))
    points = places[pieces] + random.normal(size=(n_points, 2)) * 0.7
    losses = random.random(9)[pieces] + random.random(n_points)
    train = np.ones(n_points, dtype=bool) if seed % 2 else random.random(n_points) < 0.6
    expected, kept = merged_by_loops(points, pieces // factor, pieces, losses, factor, train)
    found = merge_pieces(points, pieces // factor, pieces, losses, factor, train)
    np.testing.assert_array_equal(found, expected)
    assert any(kept) and not all(kept)


def two_pieces(sizes=(100, 40), losses=(0.0, 1.0), apart=10.0):
    """One cluster of two pieces, and another one beside it."""
    random = np.random.default_rng(0)
    pieces = np.repeat([0, 1, 2], [*sizes, 30])
    points = np.array([[0.0, 0], [apart, 0], [5, 12]])[pieces] + random.normal(size=(len(pieces), 2))
    return dict(points=points, labels=pieces // 2, pieces=pieces, losses=np.array([*losses, 0.5])[pieces], factor=2)


def n_merged(**changes):
    return len(set(merge_pieces(**{**two_pieces(), **changes}).tolist()))


def test_a_piece_is_kept_with_what_is_left_before_it():
    assert merge_pieces(**two_pieces()).tolist() == [0] * 100 + [1] * 40 + [2] * 30
    assert merge_pieces(**two_pieces(losses=(1, 0))).tolist() == [1] * 100 + [0] * 40 + [2] * 30


def test_a_cluster_whose_pieces_are_all_kept_is_gone():
    kept = merge_pieces(**two_pieces(losses=(1, 1)))
    assert kept.tolist() == [0] * 100 + [1] * 40 + [2] * 30


def test_each_condition_on_a_piece_counts():
    assert n_merged(**two_pieces(sizes=(100, 25))) == 3
    assert n_merged(**two_pieces(sizes=(100, 24))) == 2  # too few
    assert n_merged(**two_pieces(sizes=(7000, 30))) == 2  # below 0.5 % of the class
    assert n_merged(**two_pieces(apart=0.0)) == 2  # not silhouettes that are better than before
    beside = two_pieces()
    beside["points"][beside["pieces"] == 1] += [-5, 12]  # around the other cluster, which is tight
    beside["points"][beside["pieces"] == 2] = [5, 12] + 0.1 * beside["points"][:30]
    before, after = (silhouette_samples(beside["points"], beside[name])[100:140] for name in ("labels", "pieces"))
    assert before.mean() < after.mean() < 0 and n_merged(**beside) == 2  # better, but not positive
    few = two_pieces(sizes=(100, 60))
    rest = np.arange(len(few["labels"])) % 2 == 0
    assert n_merged(**few, train=~rest) == 3
    rest[100:112] = False  # 24 of the piece's 30 points are left
    assert n_merged(**few, train=~rest) == 2


def test_the_subclasses_of_a_class_do_not_depend_on_other_classes():
    random = np.random.default_rng(0)
    points, losses = blobs(random, 120, 2, 6), random.random(120)
    classes = np.arange(120) % 3
    found = find_subclasses(points, classes, losses)
    for c in range(3):
        alone = classes == c
        labels = find_subclasses(points[alone], np.zeros(40, dtype=int), losses[alone])
        np.testing.assert_array_equal(found[alone], labels + found[alone].min())
    assert set(found) == set(range(found.max() + 1))
