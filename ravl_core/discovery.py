"""Stage 1 of RaVL: which image feature does a vision-language model lean on? (section 3 of the paper)

Cluster the regions of labelled images, score how the model's zero-shot accuracy depends on each cluster, and rank
the clusters that help one class and hurt another. A model that leans on nothing gives an ordinary result without
findings. Where the paper leaves room, this follows the authors' published code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ravl_core import checks
from ravl_core.kmedoids import Clustering, cluster_regions

if TYPE_CHECKING:
    import pandas

CHOICES = ("first", "same attribute", "all")
REGIONS_AT_A_TIME = 2**16
MOST_EXACT = 20_000  # regions, whose matrix of distances takes 1.6 GB
LAST_CLUSTER = 2**20  # a row is made for every number below the highest


@dataclass(frozen=True, eq=False)
class ClusterScores:
    """How the model's accuracy depends on each cluster; rows are clusters, columns classes.

    An image is *in* a cluster if at least one of its regions is. A class is *skipped* for a cluster (NaN) where it
    has no image in, or none out.

    Attributes
    ----------
    class_gaps : float array (K, C)
        Weighted accuracy gaps w · (accuracy in - accuracy out), w = 2 min(n in, n out) / (n in + n out), in [-1, 1]:
        positive where the class is recognised better with the cluster in the image. NaN where skipped.
    gap : float array (K,)
        Cluster performance gap G: the sum of their absolute values, 0 … C. 0: accuracy does not depend on it.
    influence : float array (K,)
        Cluster influence H, 0 … 1: of the misclassified images in the cluster, in the class where this is highest
        among those with a negative gap, the share whose best region for the (wrong) predicted class lies in the
        cluster. -inf where there is no such image.
    influence_images : int array (K,)
        Number of images behind H; 0 where H is -inf.
    criterion : bool array (K,)
        Whether some class has a positive and some class a negative gap.
    n_in, n_out : int arrays (K, C)
        Images in and out of the cluster.
    accuracy_in, accuracy_out, difference : float arrays (K, C)
        Accuracies of the two, and in - out, without weight; NaN where there is no image, or the class is skipped.
    """

    class_gaps: np.ndarray
    gap: np.ndarray
    influence: np.ndarray
    influence_images: np.ndarray
    criterion: np.ndarray
    n_in: np.ndarray
    n_out: np.ndarray
    accuracy_in: np.ndarray
    accuracy_out: np.ndarray
    difference: np.ndarray


@dataclass(frozen=True, eq=False)
class Finding:
    """One spurious feature.

    Attributes
    ----------
    cluster : int
        Its cluster.
    attribute : int
        The class it is tied to (textual attribute): largest accuracy in - accuracy out, without weight.
    regions : int array
        The cluster's regions by similarity with its medoid, most similar first.
    gap, influence : float
        Cluster performance gap G and cluster influence H.
    influence_images : int
        Number of images behind H: 1.0 from two images says little.
    table : pandas.DataFrame
        One row a class: n_in, n_out, accuracy_in, accuracy_out, difference, weighted_gap.
    """

    cluster: int
    attribute: int
    regions: np.ndarray = field(repr=False)
    gap: float
    influence: float
    influence_images: int
    table: pandas.DataFrame = field(repr=False)


@dataclass(frozen=True, eq=False)
class Discovery:
    """What stage 1 returns: ``findings`` ranked by gap (possibly none), the ``clustering`` and its ``scores``."""

    findings: tuple[Finding, ...]
    clustering: Clustering
    scores: ClusterScores = field(repr=False)


def discover(
    region_embeddings: Any,
    image_index: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    image_probs: np.ndarray | None = None,
    region_probs: np.ndarray | None = None,
    influence_threshold: float = 0.25,
    candidates: Iterable[int] | None = None,
    seed: int = 0,
    clustering: str = "auto",
) -> Discovery:
    """Find the image features that a model's zero-shot predictions lean on: RaVL's stage 1.

    Parameters
    ----------
    region_embeddings : float array (M, D), or an Evaluation
        Unit embeddings of all regions, stored image by image. An object with the attributes ``region_embeddings``,
        ``image_index``, ``labels``, ``image_probs`` and ``region_probs`` stands for all five.
    image_index : int array (M,)
        The image of each region, 0 … N-1, non-decreasing. An image may have any number of regions, also none.
    labels : int array (N,)
        True class of each image.
    image_probs : float array (N, C)
        Zero-shot probabilities of each image. The prediction is the highest, the first one on ties.
    region_probs : float array (M, C)
        Zero-shot probabilities of each region.
    influence_threshold : float
        Lowest cluster influence of a spurious cluster.
    candidates : iterable of int, optional
        Numbers of clusters to try; 2C … 5C-1 if not given.
    seed : int
        Seeds the clustering.
    clustering : "auto", "exact" or "linear"
        As the paper has it, with a matrix of distances, whose memory grows with the square of the regions; or in linear
        time, see `cluster_many_regions`. "auto": exact up to 20,000 regions (1.6 GB), linear beyond.

    Returns
    -------
    Discovery
        Its findings are the clusters that help some class and hurt another and reach the threshold, by descending
        gap (the lowest cluster on ties). There may be none.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, dtype or range, or lengths disagree.

    References
    ----------
    Varma et al., "RaVL: Discovering and Mitigating Spurious Correlations in Fine-Tuned Vision-Language Models",
    NeurIPS 2024, section 3.
    """
    given = image_index, labels, image_probs, region_probs
    if hasattr(region_embeddings, "region_embeddings"):
        region_embeddings, *given = _evaluation_arrays(region_embeddings, given)
    image_index, labels, image_probs, region_probs = _checked_arrays(*given)
    region_embeddings = checks.unit_rows("region_embeddings", region_embeddings)
    checks.same_length(image_index=image_index, region_embeddings=region_embeddings)
    threshold = checks.number("influence_threshold", influence_threshold)
    n_classes = image_probs.shape[1]
    candidates = range(2 * n_classes, 5 * n_classes) if candidates is None else candidates

    clusters = _clustered(region_embeddings, candidates, seed, clustering)
    scores = score_clusters(clusters.labels, image_index, labels, image_probs, region_probs)
    spurious = rank_clusters(scores, threshold)
    findings = tuple(_finding(cluster, region_embeddings, clusters, scores) for cluster in spurious.tolist())
    return Discovery(findings, clusters, scores)


def _clustered(region_embeddings: np.ndarray, candidates: Iterable[int], seed: int, how: str) -> Clustering:
    checks.choice("clustering", how, ("auto", "exact", "linear"))
    if how == "exact" or (how == "auto" and len(region_embeddings) <= MOST_EXACT):
        return cluster_regions(region_embeddings, candidates, seed)
    from ravl_core.linear_kmedoids import cluster_many_regions

    return cluster_many_regions(region_embeddings, candidates, seed)


def _evaluation_arrays(evaluation: Any, given: tuple) -> tuple:
    if any(array is not None for array in given):
        raise ValueError("region_embeddings: expected an array where other arrays are given, got an evaluation")
    names = "region_embeddings", "image_index", "labels", "image_probs", "region_probs"
    return tuple(getattr(evaluation, name) for name in names)


def _checked_arrays(image_index: Any, labels: Any, image_probs: Any, region_probs: Any) -> tuple[np.ndarray, ...]:
    image_probs = checks.probability_rows("image_probs", image_probs)
    region_probs = checks.probability_rows("region_probs", region_probs)
    checks.same_columns(image_probs=image_probs, region_probs=region_probs)
    n_images, n_classes = image_probs.shape
    labels = checks.class_indices("labels", labels, n_classes)
    checks.same_length(image_probs=image_probs, labels=labels)
    image_index = checks.sorted_image_index("image_index", image_index, n_images)
    checks.same_length(region_probs=region_probs, image_index=image_index)
    return image_index, labels, image_probs, region_probs


def score_clusters(
    cluster_labels: np.ndarray,
    image_index: np.ndarray,
    labels: np.ndarray,
    image_probs: np.ndarray,
    region_probs: np.ndarray,
) -> ClusterScores:
    """Cluster performance gap and cluster influence of every cluster.

    Parameters
    ----------
    cluster_labels : int array (M,)
        Cluster of each region, 0 … K-1; -1 for none. A number that no region has keeps its row: no class gap, gap 0.
    image_index : int array (M,)
        The image of each region, non-decreasing.
    labels : int array (N,)
        True class of each image.
    image_probs : float array (N, C)
        Zero-shot probabilities of each image.
    region_probs : float array (M, C)
        Zero-shot probabilities of each region.

    Returns
    -------
    ClusterScores
        Arrays of K rows.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, dtype or range, or lengths disagree.

    References
    ----------
    Section 3 of the paper; ``identify`` in the authors' published code.
    """
    image_index, labels, image_probs, region_probs = _checked_arrays(image_index, labels, image_probs, region_probs)
    cluster_labels = checks.integers("cluster_labels", cluster_labels, -1, LAST_CLUSTER)
    checks.same_length(image_index=image_index, cluster_labels=cluster_labels)
    (n_images, n_classes), n_clusters = image_probs.shape, int(cluster_labels.max(initial=-1)) + 1
    predictions = image_probs.argmax(axis=1)  # (N,), the first class on ties
    cluster, image = _images_by_cluster(cluster_labels, image_index, n_images)

    accuracies = _accuracies(cluster, image, labels, predictions == labels, (n_clusters, n_classes))
    class_gaps = _balance(accuracies["n_in"], accuracies["n_out"]) * accuracies["difference"]
    best = best_regions(image_index, region_probs, predictions)  # (N,)
    several = np.bincount(image_index, minlength=n_images) > 1
    misled = (predictions != labels)[image] & several[image] & (class_gaps[cluster, labels[image]] < 0)
    hit = cluster_labels[best[image]] == cluster
    influence, influence_images = _influence(cluster[misled], labels[image][misled], hit[misled], class_gaps.shape)
    return ClusterScores(
        class_gaps=class_gaps,
        gap=np.nansum(np.abs(class_gaps), axis=1),
        influence=influence,
        influence_images=influence_images,
        criterion=(class_gaps > 0).any(axis=1) & (class_gaps < 0).any(axis=1),
        **accuracies,
    )


def _images_by_cluster(
    cluster_labels: np.ndarray, image_index: np.ndarray, n_images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of a cluster and an image in it, once, however many of the image's regions are in the cluster."""
    clustered = cluster_labels >= 0
    pairs = np.unique(cluster_labels[clustered] * n_images + image_index[clustered])
    return np.divmod(pairs, max(n_images, 1))


def _accuracies(
    cluster: np.ndarray, image: np.ndarray, labels: np.ndarray, correct: np.ndarray, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Counts and accuracies of images in and out of each cluster, each (K, C)."""
    right = correct[image]
    n_in = _count(cluster, labels[image], shape)
    right_in = _count(cluster[right], labels[image][right], shape)
    n_out = np.bincount(labels, minlength=shape[1]) - n_in
    right_out = np.bincount(labels[correct], minlength=shape[1]) - right_in
    accuracy_in, accuracy_out = _share(right_in, n_in, np.nan), _share(right_out, n_out, np.nan)
    difference = accuracy_in - accuracy_out  # NaN: the class is skipped
    return dict(n_in=n_in, n_out=n_out, accuracy_in=accuracy_in, accuracy_out=accuracy_out, difference=difference)


def _count(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)


def _share(part: np.ndarray, whole: np.ndarray, otherwise: float) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)


def _balance(n_in: np.ndarray, n_out: np.ndarray) -> np.ndarray:
    """Weight of a class gap: 1 where half of the class is in the cluster, towards 0 where nearly all or none is."""
    return _share(2 * np.minimum(n_in, n_out), n_in + n_out, 0.0)


def best_regions(image_index: np.ndarray, region_probs: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Each image's region with the highest score for its predicted class, the first on ties; -1 where it has none.

    `image_index` (M,) is non-decreasing, `region_probs` (M, C), `predictions` (N,); the result is (N,).
    """
    best = np.full(len(predictions), -1, dtype=np.int64)
    if len(image_index) == 0:
        return best
    scores = region_probs[np.arange(len(image_index)), predictions[image_index]]  # (M,)
    images, starts, n_regions = np.unique(image_index, return_index=True, return_counts=True)
    highest = np.repeat(np.maximum.reduceat(scores, starts), n_regions)
    winners = np.flatnonzero(scores == highest)
    _, first = np.unique(image_index[winners], return_index=True)
    best[images] = winners[first]
    return best


def _influence(
    cluster: np.ndarray, label: np.ndarray, hit: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Largest share of hits among the classes of each cluster, and the number of images it is a share of."""
    n_images = _count(cluster, label, shape)
    shares = _share(_count(cluster[hit], label[hit], shape), n_images, -np.inf)
    winner = np.arange(shape[0]), shares.argmax(axis=1)
    return shares[winner], n_images[winner]


def rank_clusters(scores: ClusterScores, influence_threshold: float = 0.25) -> np.ndarray:
    """The spurious clusters by descending gap, the lowest cluster first on ties.

    Spurious is a cluster that helps some class and hurts some class (``criterion``) and whose influence reaches the
    threshold. May be empty.
    """
    spurious = np.flatnonzero(scores.criterion & (scores.influence >= influence_threshold))
    return spurious[np.argsort(-scores.gap[spurious], kind="stable")]


def rank_regions(
    region_embeddings: np.ndarray, cluster_labels: np.ndarray, cluster: int, medoid_embedding: np.ndarray
) -> np.ndarray:
    """Regions of a cluster by similarity with its medoid, most similar first, the lowest index first on ties."""
    members = np.flatnonzero(np.asarray(cluster_labels) == cluster)
    # Row by row rather than as a matrix product, so that equal regions tie to the last bit.
    products = region_embeddings[members].astype(np.float64) * medoid_embedding
    return members[np.argsort(-products.sum(axis=1), kind="stable")]


def _finding(cluster: int, region_embeddings: np.ndarray, clustering: Clustering, scores: ClusterScores) -> Finding:
    medoid = clustering.medoid_embeddings[cluster]
    return Finding(
        cluster=cluster,
        attribute=int(np.nanargmax(scores.difference[cluster])),
        regions=rank_regions(region_embeddings, clustering.labels, cluster, medoid),
        gap=float(scores.gap[cluster]),
        influence=float(scores.influence[cluster]),
        influence_images=int(scores.influence_images[cluster]),
        table=class_table(scores, cluster),
    )


def class_table(scores: ClusterScores, cluster: int) -> pandas.DataFrame:
    """Scores of one cluster, one row a class: counts, accuracies, their difference and the weighted gap."""
    import pandas  # here, so that importing this module is quick

    columns = ("n_in", "n_out", "accuracy_in", "accuracy_out", "difference")
    table = pandas.DataFrame({name: getattr(scores, name)[cluster] for name in columns})
    return table.assign(weighted_gap=scores.class_gaps[cluster]).rename_axis("class")


def assign_regions(
    discovery: Discovery, stage1_region_embeddings: np.ndarray, findings: str | Sequence[int] = "first"
) -> np.ndarray:
    """Which regions, for instance of the fine-tuning set, show a discovered feature: the input of stage 2.

    Each region goes to its nearest stage-1 medoid (highest cosine, the lowest cluster on ties).

    Parameters
    ----------
    discovery : Discovery
        Result of stage 1.
    stage1_region_embeddings : float array (M', D)
        Unit embeddings by the encoder that stage 1 looked at, whatever is trained later.
    findings : {"first", "same attribute", "all"} or sequence of int
        Which findings count: the first; the first and all others that name the same attribute, which may hold
        regions of the class itself; all; or positions in ``discovery.findings``.

    Returns
    -------
    bool array (M',)
        True where the nearest medoid is that of a chosen finding; nowhere, if there is no finding.

    Raises
    ------
    ValueError
        If embeddings are no unit rows of the medoids' size, or there is no such finding.
    """
    clusters = [finding.cluster for finding in _chosen(discovery.findings, findings)]
    return regions_in_clusters(discovery.clustering, stage1_region_embeddings, clusters)


def regions_in_clusters(
    clustering: Clustering, stage1_region_embeddings: np.ndarray, clusters: Sequence[int]
) -> np.ndarray:
    """Which regions have one of these clusters' medoids as their nearest, (M',) bool; see `assign_regions`."""
    embeddings = checks.unit_rows("stage1_region_embeddings", stage1_region_embeddings)
    medoids = clustering.medoid_embeddings  # (K, D)
    checks.same_columns(medoid_embeddings=medoids, stage1_region_embeddings=embeddings)
    if not len(clusters):
        return np.zeros(len(embeddings), dtype=bool)
    clusters = checks.integers("clusters", clusters, 0, len(medoids) - 1)
    return np.isin(_nearest_medoids(embeddings, medoids), clusters)


def _nearest_medoids(embeddings: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    medoids = medoids.astype(np.promote_types(medoids.dtype, np.float32), copy=False)
    nearest = np.empty(len(embeddings), dtype=np.int64)
    for start in range(0, len(embeddings), REGIONS_AT_A_TIME):
        rows = slice(start, start + REGIONS_AT_A_TIME)
        nearest[rows] = (embeddings[rows] @ medoids.T).argmax(axis=1)  # the lowest cluster on ties
    return nearest


def _chosen(findings: tuple[Finding, ...], choice: str | Sequence[int]) -> list[Finding]:
    if isinstance(choice, str):
        choice = checks.choice("findings", choice, CHOICES)
    else:
        choice = checks.numbers("findings", choice, 1, "iu").tolist()
    if not findings or choice == "all":
        return list(findings)
    if choice == "first":
        return [findings[0]]
    if choice == "same attribute":
        return [finding for finding in findings if finding.attribute == findings[0].attribute]
    return [findings[at] for at in checks.integers("findings", choice, 0, len(findings) - 1)]
