"""RaVL's stage 1 as one method among others: the paper's recipe, its ablations, and two variants of our own.

All of them rank the same region clusters and return the regions of the first, by similarity with its medoid.
"""

import numpy as np

from ravl_core.discovery import ClusterScores, rank_clusters, rank_regions, score_clusters
from ravl_core.kmedoids import Clustering, cosine_distances, k_medoids
from ravl_core.pull import cluster_pull, membership
from ravl_core.significance import significant_clusters
from ravl_core.slicing.ranked import RankedRegions, nothing
from ravl_core.zero_shot import Evaluation

THRESHOLD = 0.25  # lowest influence of a spurious cluster
CLUSTERS_PER_CLASS = 16  # of the fine clusters


def ravl(evaluation: Evaluation, clustering: Clustering, threshold: float = THRESHOLD) -> RankedRegions:
    """The paper's recipe: of the clusters that help a class, hurt a class and have influence, the largest gap."""
    scores = _scores(evaluation, clustering)
    return _first(evaluation, clustering, scores, rank_clusters(scores, threshold))


def without_gap(evaluation: Evaluation, clustering: Clustering) -> RankedRegions:
    """Ablation of table 2: clusters ranked by influence alone. How the paper ranks without the gap is our reading."""
    scores = _scores(evaluation, clustering)
    return _first(evaluation, clustering, scores, _ranked(scores.influence, np.isfinite(scores.influence)))


def without_influence(evaluation: Evaluation, clustering: Clustering) -> RankedRegions:
    """Ablation of table 2: ranked by gap among all clusters that help a class and hurt a class."""
    scores = _scores(evaluation, clustering)
    return _first(evaluation, clustering, scores, _ranked(scores.gap, scores.criterion))


def unweighted_gap(evaluation: Evaluation, clustering: Clustering) -> RankedRegions:
    """Ablation of table 2: the gap adds up plain differences of accuracy, however few images they rest on."""
    scores = _scores(evaluation, clustering)
    gap = np.nansum(np.abs(scores.difference), axis=1)
    return _first(evaluation, clustering, scores, _ranked(gap, scores.criterion & (scores.influence >= THRESHOLD)))


def by_pull(evaluation: Evaluation, clustering: Clustering) -> RankedRegions:
    """Ours: the cluster that pulls images of the other classes most towards one class; see `ravl_core.pull`."""
    if not clustering.n_clusters:
        return nothing("no cluster")
    held = membership(clustering.labels, evaluation.image_index, len(evaluation.labels))
    pull = cluster_pull(held, evaluation.labels, evaluation.image_probs)
    cluster = int(pull.strength.argmax())
    if pull.strength[cluster] <= 0:
        return nothing("no cluster pulls towards a class")
    return _regions(evaluation, clustering, cluster, int(pull.attribute[cluster]))


def by_pull_of_fine_clusters(evaluation: Evaluation, seed: int = 0) -> RankedRegions:
    """Ours: ranked by pull among 16 clusters a class, where the silhouette prefers 2 to 5.

    In photographs the silhouette chooses a few coarse clusters, in which a feature is one thing among others.
    """
    return by_pull(evaluation, fine_clustering(evaluation, seed))


def fine_clustering(evaluation: Evaluation, seed: int = 0, per_class: int = CLUSTERS_PER_CLASS) -> Clustering:
    """So many clusters a class, or as many as there are regions."""
    n_clusters = min(per_class * len(evaluation.class_names), len(evaluation.region_embeddings))
    if not n_clusters:
        none = np.empty(0, dtype=np.int64)
        return Clustering(none, none, evaluation.region_embeddings, {})
    labels, medoids = k_medoids(cosine_distances(evaluation.region_embeddings), n_clusters, seed)
    return Clustering(labels, medoids, evaluation.region_embeddings[medoids], {})


def controlled(evaluation: Evaluation, clustering: Clustering, seed: int = 0) -> RankedRegions:
    """Ours: the same cluster, if chance does not explain it (`ravl_core.significance`); nothing otherwise."""
    held = membership(clustering.labels, evaluation.image_index, len(evaluation.labels))
    found = significant_clusters(held, evaluation.labels, evaluation.image_probs, seed=seed, most=1)
    if not found:
        return nothing("no cluster is significant")
    return _regions(evaluation, clustering, found[0].cluster, found[0].attribute)


def in_three_ways(evaluation: Evaluation, clustering: Clustering, seed: int = 0) -> dict[str, RankedRegions]:
    """What the paper's recipe ("paper"), the one ranked by pull ("pull") and the controlled one find first."""
    return {
        "paper": ravl(evaluation, clustering),
        "pull": by_pull(evaluation, clustering),
        "controlled": controlled(evaluation, clustering, seed),
    }


def _scores(evaluation: Evaluation, clustering: Clustering) -> ClusterScores:
    return score_clusters(
        clustering.labels, evaluation.image_index, evaluation.labels, evaluation.image_probs, evaluation.region_probs
    )


def _ranked(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept clusters by descending value, the lowest cluster first on ties."""
    clusters = np.flatnonzero(kept)
    return clusters[np.argsort(-values[clusters], kind="stable")]


def _first(
    evaluation: Evaluation, clustering: Clustering, scores: ClusterScores, clusters: np.ndarray
) -> RankedRegions:
    if not len(clusters):
        return nothing("no cluster" if not clustering.n_clusters else "no cluster meets the criteria")
    first = int(clusters[0])
    return _regions(evaluation, clustering, first, int(np.nanargmax(scores.difference[first])))


def _regions(evaluation: Evaluation, clustering: Clustering, cluster: int, attribute: int) -> RankedRegions:
    medoid = clustering.medoid_embeddings[cluster]
    return RankedRegions(rank_regions(evaluation.region_embeddings, clustering.labels, cluster, medoid), attribute)
