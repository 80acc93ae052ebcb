"""Clustering of regions: what it costs as it was published, exactly, and in linear time, beside one product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.benchmarks.processes import in_a_fresh_process, timed
from ravl_core.kmedoids import MAX_ROUNDS, Clustering, cluster_regions, cosine_distances, first_medoids
from ravl_core.linear_kmedoids import cluster_many_regions
from ravl_core.progress import track

if TYPE_CHECKING:
    import pandas as pd

SWEEP = range(20, 50)  # the paper's 2C … 5C-1 for ten classes
ROWS_AT_A_TIME = 2**14
N_KINDS, N_NUISANCES = 45, 24


def made_up_kinds(n_regions: int, n_kinds: int = N_KINDS, seed: int = 0) -> np.ndarray:
    """What regions show, (M,) 0 … n_kinds-1: few kinds are common and many are rare."""
    shares = 1 / (5 + np.arange(n_kinds))
    return np.random.default_rng(seed).choice(n_kinds, size=n_regions, p=shares / shares.sum())


def made_up_embeddings(kinds: np.ndarray, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit embeddings, float32 (block, D), of regions that show these kinds.

    Like those of CLIP, all of them share a direction, so that no cosine is negative. Regions of a kind differ along
    directions that all kinds have in common, as light and place would make them differ, and by a little noise.
    """
    random = np.random.default_rng([seed, 1])
    common, *centres = _unit(random.normal(size=(1 + int(kinds.max()) + 1, size)))
    centres, nuisances = np.float32(common + 0.7 * np.array(centres)), _unit(random.normal(size=(N_NUISANCES, size)))
    for start in range(0, len(kinds), ROWS_AT_A_TIME):
        shown = kinds[start : start + ROWS_AT_A_TIME]
        values = random.standard_normal((len(shown), N_NUISANCES), dtype=np.float32) * (0.6 / N_NUISANCES**0.5)
        noise = random.standard_normal((len(shown), size), dtype=np.float32) * np.float32(0.3 / size**0.5)
        yield _unit(centres[shown] + values @ nuisances.astype(np.float32) + noise)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---- cost ----


def plain_clustering(embeddings: np.ndarray, candidates: Sequence[int], seed: int = 0) -> Clustering:
    """The published scheme as it reads: each candidate refitted with loops over clusters, and scored by scikit-learn.

    The same labels and medoids as `ravl_core.kmedoids.cluster_regions`, where no medoid leaves its own cluster.
    """
    from sklearn.metrics import silhouette_score

    distances = cosine_distances(embeddings)
    fits, scores = [], []
    for k in candidates:
        labels, medoids = _plain_fit(distances, k, seed)
        fits.append((labels, medoids))
        scores.append(silhouette_score(distances, labels, metric="precomputed"))
    best = int(np.argmax(scores))
    labels, medoids = fits[best]
    return Clustering(labels, medoids, embeddings[medoids], dict(zip(candidates, scores, strict=True)))


def _plain_fit(distances: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    (medoids,) = first_medoids(distances, [k], seed)
    for _ in range(MAX_ROUNDS):
        before, labels = medoids.copy(), distances[medoids].argmin(axis=0)
        for cluster in range(k):
            members = np.flatnonzero(labels == cluster)
            sums = distances[np.ix_(members, members)].sum(axis=1, dtype=np.float64)
            current = distances[medoids[cluster], members].sum(dtype=np.float64)
            if len(members) and sums.min() < current:
                medoids[cluster] = members[sums.argmin()]
        if np.array_equal(before, medoids):
            break
    return distances[medoids].argmin(axis=0), medoids


METHODS = {
    "plain": plain_clustering,
    "exact": cluster_regions,
    "linear": cluster_many_regions,
    "one product": lambda embeddings, candidates, seed: cosine_distances(embeddings),
}


def clustering_costs(
    sizes: Mapping[str, Sequence[int]], size: int = 1024, candidates: Sequence[int] = SWEEP, seed: int = 0
) -> pd.DataFrame:
    """Seconds and memory of clustering made-up regions, each method and number of them in a process of its own.

    Parameters
    ----------
    sizes : "plain", "exact", "linear" or "one product", the floor → numbers of regions.
    size : D, of an embedding.

    Returns
    -------
    DataFrame
        Columns method, regions, seconds, peak_mb (by how much memory grew; NaN where the system does not say) and
        matrix_mb, what the float32 distances take.
    """
    import pandas as pd

    asked = [(method, n) for method, numbers in sizes.items() for n in numbers]
    rows = []
    for method, n in track(asked, "clusterings"):
        found = in_a_fresh_process(f"{__name__}.cost_of", method, n, size, list(candidates), seed)
        rows.append((method, n, *found, 4 * n**2 / 1e6))
    return pd.DataFrame(rows, columns=["method", "regions", "seconds", "peak_mb", "matrix_mb"])


def cost_of(method: str, n_regions: int, size: int, candidates: Sequence[int], seed: int) -> tuple[float, float]:
    """In a fresh process: seconds and growth of memory of one clustering, after one of few regions that warms up."""
    cluster = METHODS[method]
    few = np.concatenate(list(made_up_embeddings(made_up_kinds(max(200, 4 * max(candidates)), seed=seed), size, seed)))
    cluster(few, candidates[:2], seed)
    embeddings = np.concatenate(list(made_up_embeddings(made_up_kinds(n_regions, seed=seed), size, seed)))
    return timed(lambda: cluster(embeddings, candidates, seed))


# ---- agreement ----


def agreement(
    n_regions: int = 12_000, seeds: Sequence[int] = (0, 1, 2, 3, 4), candidates: Sequence[int] = SWEEP, size: int = 256
) -> pd.DataFrame:
    """How far linear clustering agrees with the exact one, beside how far the exact one agrees with itself.

    The regions are four to an image. One kind of region is a cue: images that show it are taken for class 0.

    Returns
    -------
    DataFrame
        Three rows a seed: seed; way, "linear" (begun on all the regions, as up to 65,536), "linear, from a quarter"
        (begun on a sample) or "exact, another seed"; regions; k and k exact (numbers of clusters chosen); adjusted
        Rand index with the exact clusters (1 the same, 0 by chance); and same finding: whether both name a first
        finding, for the same class, and at least 90 % of the smaller one's regions are the other one's too.
    """
    import pandas as pd

    rows = [row for seed in track(seeds, "seeds") for row in _agreements(n_regions, seed, candidates, size)]
    columns = ["seed", "way", "regions", "k", "k exact", "adjusted Rand index", "same finding"]
    return pd.DataFrame(rows, columns=columns)


def _agreements(n_regions: int, seed: int, candidates: Sequence[int], size: int) -> list[tuple]:
    from sklearn.metrics import adjusted_rand_score

    regions, *known = made_up_problem(n_regions, size, seed)
    ways = {
        "linear": cluster_many_regions(regions, candidates, seed, n_first=n_regions),
        "linear, from a quarter": cluster_many_regions(regions, candidates, seed, n_first=n_regions // 4),
        "exact, another seed": cluster_regions(regions, candidates, seed + 1000),
    }
    exact = cluster_regions(regions, candidates, seed)
    finding, rows = _first_finding(exact, known), []
    for way, clusters in ways.items():
        score = adjusted_rand_score(exact.labels, clusters.labels)
        same = _same_finding(finding, _first_finding(clusters, known))
        rows.append((seed, way, n_regions, clusters.n_clusters, exact.n_clusters, score, same))
    return rows


def _first_finding(clusters: Clustering, known: Sequence[np.ndarray]) -> tuple[int, np.ndarray] | None:
    """The class and the regions of the first finding."""
    from ravl_core.discovery import rank_clusters, score_clusters

    scores = score_clusters(clusters.labels, *known)
    ranked = rank_clusters(scores)
    if len(ranked) == 0:
        return None
    return int(np.nanargmax(scores.difference[ranked[0]])), np.flatnonzero(clusters.labels == ranked[0])


def _same_finding(one: tuple[int, np.ndarray] | None, other: tuple[int, np.ndarray] | None) -> bool:
    if one is None or other is None or one[0] != other[0]:
        return False
    return len(np.intersect1d(one[1], other[1])) >= 0.9 * min(len(one[1]), len(other[1]))


def made_up_problem(n_regions: int, size: int, seed: int, n_classes: int = 10) -> tuple[np.ndarray, ...]:
    """Arguments of `discover` for four regions an image, (M, D), of which a common kind is taken for class 0."""
    kinds = made_up_kinds(n_regions, seed=seed)
    index, random = np.arange(n_regions) // 4, np.random.default_rng([seed, 2])
    n_images = int(index[-1]) + 1
    labels, cue = random.integers(n_classes, size=n_images), np.zeros(n_images, dtype=bool)
    cue[index[kinds == 1]] = True
    misled = cue & (random.random(n_images) < 0.7)
    missed = ~cue & (labels == 0) & (random.random(n_images) < 0.6)
    answers = np.where(misled, 0, np.where(missed, 1 + random.integers(n_classes - 1, size=n_images), labels))
    sure = np.full((n_images, n_classes), 0.3 / (n_classes - 1))
    sure[np.arange(n_images), answers] = 0.7
    of_regions = np.full((n_regions, n_classes), 1 / n_classes)
    of_regions[kinds == 1] = np.eye(n_classes)[0]
    regions = np.concatenate(list(made_up_embeddings(kinds, size, seed)))
    return regions, index, labels, sure, of_regions
