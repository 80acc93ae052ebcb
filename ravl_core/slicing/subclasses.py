"""Subclasses of classes, by George's clustering of reduced activations.

Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained Classification Problems", NeurIPS
2020. Embeddings of each class are reduced to few dimensions and clustered. The published code fits on one split
(`train`) and labels another; without one, all images are both. N images, D dimensions, K clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_samples
from sklearn.mixture import GaussianMixture

from ravl_core import checks

REDUCTIONS = ("pca", "none", "hardness", "umap")
CLUSTERINGS = ("gmm", "kmeans")
CANDIDATES = range(2, 11)
N_STARTS = 3  # of every fit; the best one counts
LEAST_SHARE, LEAST_IMAGES = 0.005, 25  # of a class, that a piece of a cluster needs to become a subclass


# --- reduction -------------------------------------------------------------------------------------------------------


def reduce_activations(
    activations: np.ndarray,
    classes: np.ndarray,
    reduction: str = "pca",
    n_components: int = 2,
    normalize: bool = True,
    subtract_mean: bool = False,
    final_weights: np.ndarray | None = None,
    train: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Reduce the activations of each class to a few dimensions.

    Parameters
    ----------
    activations : float array (N, D)
        Penultimate activations, or embeddings.
    classes : int array (N,)
        True class of each image; every class is reduced by itself.
    reduction : {"pca", "none", "hardness", "umap"}
        "hardness" projects on the normalised difference of the final layer's two weight vectors, and takes further
        components from a UMAP of what is orthogonal to it. UMAP, the published default, needs umap-learn.
    n_components : int
        Not used by "none". Components that a class has too few images for are 0.
    normalize, subtract_mean : bool
        Whether the mean of all the activations is subtracted first, then rows divided by their norm (at least 1e-6).
    final_weights : float array (2, D), optional
        For "hardness".
    train : bool array (N,), optional
        Images to fit to; all if not given.
    seed : int
        Seeds UMAP.

    Returns
    -------
    float array (N, n_components)
        (N, D) for "none".

    Raises
    ------
    ValueError
        If an argument has the wrong shape, dtype or range, or a class has no image to fit to.
    ImportError
        If UMAP is asked for and umap-learn is not installed.
    """
    activations = checks.numbers("activations", activations, 2).astype(np.float64)
    checks.choice("reduction", reduction, REDUCTIONS)
    n_components = checks.whole_number("n_components", n_components, 1)
    train = _checked_train(train, activations)
    if subtract_mean:
        activations = activations - activations[train].mean(axis=0)
    if normalize:
        activations = activations / np.maximum(np.linalg.norm(activations, axis=1, keepdims=True), 1e-6)
    if reduction == "none":
        return activations
    if reduction == "hardness":
        hardness, activations = _split_hardness(activations, final_weights)
        if n_components == 1:
            return hardness
        rest = _reduce_classes(activations, classes, _umap, n_components - 1, train, seed)
        return np.hstack([hardness, rest])
    return _reduce_classes(activations, classes, {"pca": _pca, "umap": _umap}[reduction], n_components, train, seed)


def _reduce_classes(
    activations: np.ndarray, classes: np.ndarray, reduce: Callable, n_components: int, train: np.ndarray, seed: int
) -> np.ndarray:
    reduced = np.zeros((len(activations), n_components))
    for images in _by_class(classes, train):
        found = reduce(activations[images], train[images], n_components, seed)
        reduced[images, : found.shape[1]] = found
    return reduced


def _by_class(classes: np.ndarray, train: np.ndarray) -> Iterator[np.ndarray]:
    """The images of each class that occurs."""
    classes = checks.integers("classes", classes, 0, np.iinfo(np.int32).max)
    checks.same_length(train=train, classes=classes)
    missing = np.setdiff1d(classes, classes[train])
    if len(missing):
        raise ValueError(f"train: expected an image of each class, got none of {missing.tolist()}")
    for one in np.unique(classes):
        yield np.flatnonzero(classes == one)


def _checked_train(train: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    train = np.ones(len(points), dtype=bool) if train is None else checks.truths("train", train)
    checks.same_length(points=points, train=train)
    return train


def _pca(points: np.ndarray, train: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """Projection on the first principal components of the train points: (N, n_components or fewer)."""
    mean = points[train].mean(axis=0)
    _, _, axes = np.linalg.svd(points[train] - mean, full_matrices=False)
    return (points - mean) @ axes[:n_components].T


def _umap(points: np.ndarray, train: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # UMAP warns when it is imported without TensorFlow, of small classes, and that a seed means one thread.
        warnings.simplefilter("ignore")
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError("reduction by UMAP needs the package umap-learn: pip install umap-learn") from error
        if train.sum() < n_components + 2:
            return np.zeros((len(points), n_components))  # too few for UMAP's spectral start
        umap = UMAP(n_components=n_components, n_neighbors=10, min_dist=0.0, random_state=seed)
        return umap.fit(points[train]).transform(points)


def _split_hardness(activations: np.ndarray, final_weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Position across the decision boundary of two classes (N, 1), and the activations without it (N, D)."""
    if final_weights is None:
        raise ValueError("final_weights: expected the final layer's weights (2, D) for 'hardness', got None")
    weights = checks.numbers("final_weights", final_weights, 2).astype(np.float64)
    checks.same_columns(activations=activations, final_weights=weights)
    if len(weights) != 2 or (weights[0] == weights[1]).all():
        raise ValueError(f"final_weights: expected two different rows, got shape {weights.shape}")
    across = weights[1] - weights[0]
    across /= np.linalg.norm(across)
    hardness = activations @ across[:, None]
    return hardness, activations - hardness * across


# --- clusters of one class -------------------------------------------------------------------------------------------


def fit_clusters(
    points: np.ndarray, k: int, clustering: str = "gmm", seed: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """Cluster points (N, D), as many clusters as there are distinct ones at most.

    Returns a function that gives the shares of the K clusters in each of other points, (N, K): responsibilities of
    a Gaussian mixture with full covariances ("gmm"), or 1 for the nearest cluster of "kmeans". Rows sum to 1.
    """
    k = min(k, len(np.unique(points, axis=0)))
    if k == 1:  # scikit-learn fits no mixture to a single point
        return lambda others: np.ones((len(others), 1))
    with warnings.catch_warnings():
        # Points that differ by rounding only are one to k-means, which then warns of fewer points than clusters; and
        # a mixture stops after 100 rounds, as in the published code, whether it has converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if clustering == "gmm":
            return GaussianMixture(k, n_init=N_STARTS, random_state=seed).fit(points).predict_proba
        fit = KMeans(k, n_init=N_STARTS, random_state=seed).fit(points)
    return lambda others: np.eye(k)[fit.predict(others)]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of one class: ``labels`` (N,), 0 … K-1, and the ``scores`` of the numbers that were tried."""

    labels: np.ndarray = field(repr=False)
    scores: dict[int, float]


def search_clusters(
    points: np.ndarray,
    clustering: str = "gmm",
    candidates: Iterable[int] = CANDIDATES,
    train: np.ndarray | None = None,
    seed: int = 0,
) -> Clusters:
    """Cluster the points of one class with the number of clusters that scores highest.

    The score is the mean over clusters, not over points, of the mean silhouette of a cluster's train points; the
    last candidate counts on ties.

    Parameters
    ----------
    points : float array (N, D)
        Reduced activations of one class.
    clustering : {"gmm", "kmeans"}
        Gaussian mixture with full covariances, or k-means.
    candidates : iterable of int
        Numbers of clusters to try. Those that are not below the number of distinct train points are left out: they
        have no silhouettes.
    train : bool array (N,), optional
        Points to fit to and to score; all if not given.
    seed : int
        Seeds every fit.

    Returns
    -------
    Clusters
        A single cluster, without scores, if no candidate is left. Components without a train point are dropped.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, dtype or range.
    """
    points = checks.numbers("points", points, 2).astype(np.float64)
    checks.choice("clustering", clustering, CLUSTERINGS)
    train = _checked_train(train, points)
    n_distinct = len(np.unique(points[train], axis=0))
    found, scores = np.zeros(len(points), dtype=np.int64), {}
    for k in (checks.whole_number("candidates", k, 2) for k in candidates):
        if k < n_distinct:
            shares = fit_clusters(points[train], k, clustering, seed)(points)  # (N, K)
            labels = shares[:, np.unique(shares[train].argmax(axis=1))].argmax(axis=1)
            scores[k] = _clusters_score(points[train], labels[train])
            found = labels if scores[k] >= max(scores.values()) else found
    return Clusters(found, scores)


def _clusters_score(points: np.ndarray, labels: np.ndarray) -> float:
    return float((np.bincount(labels, _silhouettes(points, labels)) / np.bincount(labels)).mean())


def _silhouettes(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Silhouette of each point (N,); 0 where there is one cluster, or as many as points."""
    if not 1 < len(np.unique(labels)) < len(labels):
        return np.zeros(len(labels))
    return silhouette_samples(cdist(points, points), labels, metric="precomputed")


def split_clusters(
    points: np.ndarray,
    labels: np.ndarray,
    clustering: str = "gmm",
    factor: int = 5,
    train: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Split each cluster of a class into ``factor`` pieces (overclustering).

    `points` (N, D), `labels` (N,); the result (N,) numbers the pieces of cluster k from ``factor`` k on. A cluster
    with fewer distinct train points has fewer pieces.
    """
    points = checks.numbers("points", points, 2).astype(np.float64)
    train = _checked_train(train, points)
    pieces = np.empty(len(points), dtype=np.int64)
    for members in _by_class(labels, train):
        shares = fit_clusters(points[members][train[members]], factor, clustering, seed)(points[members])
        pieces[members] = factor * labels[members] + shares.argmax(axis=1)
    return pieces


def merge_pieces(
    points: np.ndarray,
    labels: np.ndarray,
    pieces: np.ndarray,
    losses: np.ndarray,
    factor: int = 5,
    train: np.ndarray | None = None,
) -> np.ndarray:
    """Keep the pieces that are worth it as clusters of their own, and merge the others of each cluster again.

    A piece is kept if the mean silhouette of its points has grown and is positive, its mean loss is not below its
    cluster's, and it has at least 25 train points, 0.5 % of the class, and 25 points of the rest. Where all images
    are train images, they count as the rest, too.

    Parameters
    ----------
    points : float array (N, D)
        Reduced activations of one class.
    labels, pieces : int arrays (N,)
        Cluster of each point, and its piece: ``factor`` times the cluster, or up to ``factor`` - 1 more.
    losses : float array (N,)
        Loss of each image.
    factor : int
        Most pieces of a cluster.
    train : bool array (N,), optional
        Points that silhouettes and losses are taken from; all if not given.

    Returns
    -------
    int array (N,)
        New labels: cluster by cluster, first what is left of it, if a piece was not kept, then the pieces kept.
    """
    points, train = np.asarray(points, dtype=np.float64), _checked_train(train, points)
    n_clusters, rest = labels.max() + 1, train if train.all() else ~train
    n_pieces = n_clusters * factor
    points, cluster, piece, losses = points[train], labels[train], pieces[train], losses[train]
    before = group_means(_silhouettes(points, cluster), piece, n_pieces)
    after = group_means(_silhouettes(points, piece), piece, n_pieces)
    cluster_losses = np.repeat(group_means(losses, cluster, n_clusters), factor)
    kept = (after > np.maximum(before, 0)) & (group_means(losses, piece, n_pieces) >= cluster_losses)
    kept &= np.bincount(piece, minlength=n_pieces) >= max(LEAST_SHARE * len(piece), LEAST_IMAGES)
    kept &= np.bincount(pieces[rest], minlength=n_pieces) >= LEAST_IMAGES
    return _renumbered(kept.reshape(n_clusters, factor))[pieces]


def group_means(values: np.ndarray, groups: np.ndarray, n_groups: int) -> np.ndarray:
    """Mean of the values of each group, (n_groups,); 0 for a group without any."""
    counts = np.bincount(groups, minlength=n_groups)
    return np.bincount(groups, values, n_groups) / np.maximum(counts, 1)


def _renumbered(kept: np.ndarray) -> np.ndarray:
    """The new cluster of each piece, from which pieces of each cluster were kept, (K, factor): (K * factor,)."""
    stands = np.hstack([~kept.all(axis=1, keepdims=True), kept])  # the rest of each cluster, then its pieces
    numbers = stands.cumsum().reshape(stands.shape) - 1
    return np.where(kept, numbers[:, 1:], numbers[:, :1]).ravel()


def find_subclasses(
    points: np.ndarray,
    classes: np.ndarray,
    losses: np.ndarray,
    clustering: str = "gmm",
    candidates: Iterable[int] = CANDIDATES,
    factor: int = 5,
    train: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Subclass of every image.

    `points` (N, D) are the reduced activations, `classes` and `losses` (N,) true class and loss of each image;
    ``factor`` 1 leaves out the overclustering. For the rest see `search_clusters`. The result (N,) numbers the
    subclasses class by class; a number may have no image.
    """
    train, candidates = _checked_train(train, points), tuple(candidates)
    subclasses, n_subclasses = np.empty(len(points), dtype=np.int64), 0
    for images in _by_class(classes, train):
        of_class, fitted = points[images], train[images]
        labels = search_clusters(of_class, clustering, candidates, fitted, seed).labels
        if factor > 1:
            pieces = split_clusters(of_class, labels, clustering, factor, fitted, seed)
            labels = merge_pieces(of_class, labels, pieces, losses[images], factor, fitted)
        subclasses[images] = n_subclasses + labels
        n_subclasses += labels.max() + 1
    return subclasses
