"""Exact k-medoids and silhouettes on cosine distances (section 3 of the paper, first step of stage 1).

The published code clusters with the *alternate* scheme of scikit-learn-extra, refits it for every candidate number of
clusters and scores each fit with scikit-learn. This module returns the same clusters from two observations:

- A float32 cosine distance in [0, 1] is a multiple of 2^-24, so sums of them in float64 are exact, whatever the order
  of summation. Ties between equal regions are therefore real ties, and go to the lowest index.
- The silhouettes of a whole sweep need only the sums of distances between each region and each cluster: one product
  of the distances with the stacked memberships of all the fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from ravl_core import checks
from ravl_core.threads import in_threads

MAX_ROUNDS = 300
STARTS = ("spread", "uniform")
ROUNDING = 1e-12  # silhouettes that are no further apart are equal: they are means of divisions
BLOCK_ENTRIES = 2**19  # entries of the distance matrix that are widened to float64 at a time (4 MB: fits a cache)


@dataclass(frozen=True, eq=False)
class Clustering:
    """Regions grouped around medoids.

    Attributes
    ----------
    labels : int array (M,)
        Cluster of each region; all -1 where there is no clustering.
    medoids : int array (K,)
        The region that stands for each cluster.
    medoid_embeddings : float array (K, D)
        Its embedding, which outlives the regions (stage 2 assigns other images' regions to it).
    silhouettes : dict
        Mean silhouette of every candidate that was tried.
    n_emptied : int
        Clusters that lost all their members to an equal medoid and were dropped from the chosen fit.
    """

    labels: np.ndarray = field(repr=False)
    medoids: np.ndarray
    medoid_embeddings: np.ndarray = field(repr=False)
    silhouettes: dict[int, float]
    n_emptied: int = 0

    @property
    def n_clusters(self) -> int:
        """Number of clusters K; 0 where no candidate had a positive silhouette."""
        return len(self.medoids)


def cluster_regions(
    region_embeddings: np.ndarray, candidates: Iterable[int], seed: int = 0, start: str = "spread"
) -> Clustering:
    """Cluster regions with the number of clusters that has the best silhouette.

    Parameters
    ----------
    region_embeddings : float array (M, D)
        Unit embeddings of all the regions.
    candidates : iterable of int
        Numbers of clusters to try, in this order (RaVL: 2C … 5C-1). Those that are not below the number of distinct
        embeddings are left out.
    seed : int
        Every candidate starts from ``RandomState(seed)``.
    start : "spread" or "uniform"
        How the first medoids are drawn, see `k_medoids`.

    Returns
    -------
    Clustering
        The fit of the first candidate with the strictly highest positive silhouette; empty (``n_clusters`` 0) where
        no candidate is left or none has a positive silhouette.

    Raises
    ------
    ValueError
        If embeddings are no finite unit rows, a candidate is not a positive integer, or there is no such start.
    """
    checks.choice("start", start, STARTS)
    seed = checks.whole_number("seed", seed, 0)
    embeddings = checks.unit_rows("region_embeddings", region_embeddings)
    n_distinct = np.unique(first_equals(embeddings)).size
    candidates = [k for k in checks.whole_numbers("candidates", candidates, 1) if k < n_distinct]
    distances = cosine_distances(embeddings) if candidates else np.empty((0, 0), dtype=np.float32)
    begun = first_medoids(distances, candidates, seed, start)
    fits = in_threads(lambda medoids: _alternate(distances, medoids), begun)
    return best_fit(embeddings, candidates, fits, silhouettes(distances, [labels for labels, _ in fits]))


def best_fit(
    embeddings: np.ndarray, candidates: Sequence[int], fits: Sequence[tuple[np.ndarray, np.ndarray]], scores: np.ndarray
) -> Clustering:
    """The clustering by the first of the fits, (labels, medoids) each, with the highest silhouette above 0."""
    by_candidate = dict(zip(candidates, scores.tolist(), strict=True))
    highest = scores.max(initial=0)
    if highest <= ROUNDING:
        nobody = np.empty(0, dtype=np.int64)
        return Clustering(np.full(len(embeddings), -1, dtype=np.int64), nobody, embeddings[nobody], by_candidate)
    best = int((scores >= highest - ROUNDING).argmax())  # the first one on ties
    labels, medoids = fits[best]
    return Clustering(labels, medoids, embeddings[medoids], by_candidate, candidates[best] - len(medoids))


def cosine_distances(embeddings: np.ndarray, highest: float = 1) -> np.ndarray:
    """1 - cosine between all pairs of unit rows.

    Parameters
    ----------
    embeddings : float array (M, D)
        Unit rows.
    highest : float
        Larger distances are clipped to it. As in the published code, opposed rows are no farther apart than
        orthogonal ones, which have distance 1, unless it is larger; 2 clips none.

    Returns
    -------
    float array (M, M)
        In [0, highest], and 0 for equal rows. float64 for float64 embeddings,
        float32 otherwise. Equal embeddings have distance 0 and equal rows, to the last bit.

    Raises
    ------
    ValueError
        If the rows are not finite or not of norm 1.
    """
    embeddings = checks.unit_rows("embeddings", embeddings)
    embeddings = np.ascontiguousarray(embeddings, dtype=np.promote_types(embeddings.dtype, np.float32))
    distances = embeddings @ embeddings.T  # (M, M), and in place from here on: this is the one large array

    def finish(rows: slice) -> None:
        np.subtract(1, distances[rows], out=distances[rows])
        np.clip(distances[rows], 0, highest, out=distances[rows])

    in_threads(finish, _blocks(len(distances)))
    np.fill_diagonal(distances, 0)
    _equate(distances, first_equals(embeddings))
    return distances


def first_equals(embeddings: np.ndarray) -> np.ndarray:
    """For each row the first row that is equal to it, (M,)."""
    if len(embeddings) == 0:
        return np.empty(0, dtype=np.int64)
    _, group, sizes = np.unique(embeddings[:, 0], return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(sizes[group] > 1)  # few, most often: no other row starts with the same number
    rows = np.ascontiguousarray(embeddings[suspects] + embeddings.dtype.type(0))  # -0.0 becomes 0.0
    keys = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).ravel()
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    firsts = np.arange(len(embeddings))
    firsts[suspects] = suspects[first][which]
    return firsts


def _equate(distances: np.ndarray, first: np.ndarray) -> None:
    """Give equal regions equal rows and columns, in place: rounding leaves up to 1e-6 between equal embeddings."""
    copies = np.flatnonzero(first != np.arange(len(first)))
    if copies.size == 0:
        return
    for rows in _blocks(len(distances)):
        distances[rows, copies] = distances[rows, first[copies]]
    for row in copies:
        distances[row] = distances[first[row]]


def _blocks(n_regions: int, n_entries: int | None = None) -> list[slice]:
    """Slices of rows of an (n, n) matrix that hold about so many entries (16 rows at least)."""
    size = max(16, (n_entries or BLOCK_ENTRIES) // max(n_regions, 1))
    return [slice(start, start + size) for start in range(0, n_regions, size)]


def k_medoids(distances: np.ndarray, k: int, seed: int = 0, start: str = "spread") -> tuple[np.ndarray, np.ndarray]:
    """k-medoids by the alternate scheme.

    Assign every region to its nearest medoid; move each medoid to the member with the smallest sum of distances to
    the members, if that is strictly smaller than the medoid's own; repeat until nothing moves (300 rounds at most);
    assign once more. Ties go to the lowest index. A cluster that ends empty, because its medoid equals another one,
    is dropped.

    Parameters
    ----------
    distances : float array (M, M)
        Symmetric, 0 on the diagonal.
    k : int
        Number of clusters asked for, 1 … M.
    seed : int
        Of the ``RandomState`` that draws the first medoids.
    start : "spread" or "uniform"
        Whether these are spread out as in k-means++ (the published code), or any k regions, all equally likely.

    Returns
    -------
    labels : int array (M,)
        0 … K-1.
    medoids : int array (K,)
        Region indices; K = k less the emptied clusters.

    Raises
    ------
    ValueError
        If distances are not a finite square matrix, k is not in 1 … M, or there is no such start.
    """
    checks.choice("start", start, STARTS)
    distances = _square(distances)
    if checks.whole_number("k", k, 1) > len(distances):
        raise ValueError(f"k: expected at most the number of regions, {len(distances)}, got {k}")
    distances = np.ascontiguousarray(distances)
    return _alternate(distances, first_medoids(distances, [int(k)], seed, start)[0])


def _square(distances: np.ndarray) -> np.ndarray:
    distances = checks.numbers("distances", distances, 2, "f")
    if distances.shape[0] != distances.shape[1]:
        raise ValueError(f"distances: expected a square matrix, got shape {distances.shape}")
    return distances


def _alternate(distances: np.ndarray, medoids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = len(medoids)
    stale = np.ones(k, dtype=bool)  # clusters whose members changed since their medoid was chosen
    labels = _nearest(distances, medoids)
    for _ in range(MAX_ROUNDS):
        moved = _central_members(distances, labels, medoids, stale)
        if np.array_equal(moved, medoids):
            break
        medoids, before, labels = moved, labels, _nearest(distances, moved)
        changed = before != labels
        stale = np.isin(np.arange(k), np.concatenate([before[changed], labels[changed]]))
    return drop_emptied(labels, medoids)


def first_medoids(
    distances: np.ndarray, candidates: Sequence[int], seed: int, start: str = "spread"
) -> list[np.ndarray]:
    """Medoids (k,) that each candidate starts with, drawn by a ``RandomState(seed)`` of its own."""
    if start == "uniform":
        return [np.random.RandomState(seed).choice(len(distances), k, replace=False) for k in candidates]
    # Two candidates with the same number of trials draw the same medoids, as far as they go.
    longest = {_n_trials(k): k for k in sorted(candidates)}
    drawn = {n: _spread_medoids(distances, k, np.random.RandomState(seed)) for n, k in longest.items()}
    return [drawn[_n_trials(k)][:k] for k in candidates]


def _n_trials(k: int) -> int:
    return 2 + int(np.log(k))


def _spread_medoids(distances: np.ndarray, k: int, random: np.random.RandomState) -> np.ndarray:
    """Spread the medoids: draw a few candidates by squared distance, keep the one that lowers the potential most."""
    n_regions, n_trials = len(distances), _n_trials(k)
    medoids = [random.randint(n_regions)]
    potential = distances[medoids[0]] ** 2  # (M,) squared distance to the nearest medoid so far
    while len(medoids) < k:
        draws = random.random_sample(n_trials) * potential.sum()
        drawn = np.searchsorted(np.cumsum(potential, dtype=np.float64), draws)
        drawn = np.minimum(drawn, n_regions - 1)  # the last draw may round past the end
        trials = np.minimum(potential, distances[drawn] ** 2)  # (trials, M)
        best = trials.sum(axis=1).argmin()
        medoids.append(drawn[best])
        potential = trials[best]
    return np.array(medoids, dtype=np.int64)


def _nearest(distances: np.ndarray, medoids: np.ndarray) -> np.ndarray:
    return distances[medoids].argmin(axis=0)  # (M,), lowest cluster on ties


def _central_members(distances: np.ndarray, labels: np.ndarray, medoids: np.ndarray, stale: np.ndarray) -> np.ndarray:
    """The medoids after one update of the stale clusters, (K,)."""
    central = medoids.copy()
    by_cluster = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[by_cluster], np.arange(len(medoids) + 1))
    for cluster in np.flatnonzero(stale & (np.diff(bounds) > 0)):
        members = by_cluster[bounds[cluster] : bounds[cluster + 1]]  # ascending
        sums = _sums_among(distances, members)
        # The medoid itself may have fallen into another cluster: its sum is still over these members.
        current = distances[medoids[cluster], members].sum(dtype=np.float64)
        if sums.min() < current:
            central[cluster] = members[sums.argmin()]
    return central


def _sums_among(distances: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Sum of the distances between each member and all of them, in float64: exact for float32 distances."""
    flat = distances.reshape(-1)  # a view: picking by one flat index is twice as fast as by rows and columns
    starts = members[:, None] * len(distances)
    sums = np.empty(len(members))
    for rows in _blocks(len(members), BLOCK_ENTRIES // 8):
        block = flat.take(starts[rows] + members, mode="clip")  # nothing to clip, but nothing to check either
        sums[rows] = block.sum(axis=1, dtype=np.float64)
    return sums


def drop_emptied(labels: np.ndarray, medoids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and medoids without the clusters that have no member."""
    occupied = np.bincount(labels, minlength=len(medoids)) > 0
    return (np.cumsum(occupied) - 1)[labels], medoids[occupied]


def silhouettes(distances: np.ndarray, labellings: Sequence[np.ndarray]) -> np.ndarray:
    """Mean silhouette of each of several labellings of the same regions.

    A region's silhouette is (b - a) / max(a, b), with a its mean distance to the other members of its cluster and b
    the smallest mean distance to the members of another cluster: 1 where clusters are tight and far apart, 0 where
    they touch, negative where regions sit in the wrong one. As in scikit-learn, it is 0 for the only member of a
    cluster, and where a = b = 0. The mean of a labelling with a single cluster, which has no b, is set to 0.

    Parameters
    ----------
    distances : float array (M, M)
        Symmetric, 0 on the diagonal.
    labellings : sequence of int arrays (M,)
        Cluster of each region, 0 or more.

    Returns
    -------
    float array (number of labellings,)
        In [-1, 1].

    Raises
    ------
    ValueError
        If distances are not a finite square matrix or a labelling does not label its regions.

    References
    ----------
    P. J. Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics 20, 1987.
    """
    distances = _square(distances)
    labellings = [checks.integers("labellings", labels, 0, len(distances) - 1) for labels in labellings]
    for labels in labellings:
        checks.same_length(distances=distances, labellings=labels)
    if not labellings or len(distances) == 0:
        return np.zeros(len(labellings))
    counts = [np.bincount(labels) for labels in labellings]
    ends = np.cumsum([len(count) for count in counts])  # where each labelling's rows end in the stacked memberships
    memberships = _stacked_memberships(labellings, ends)

    def of_rows(rows: slice) -> np.ndarray:
        block = np.ascontiguousarray(distances[rows].T, dtype=np.float64)  # (M, block)
        sums = np.split(memberships @ block, ends[:-1])  # one (K, block) each
        each = zip(sums, labellings, counts, strict=True)
        return np.array([silhouette_values(one, labels[rows], count).sum() for one, labels, count in each])

    return sum(in_threads(of_rows, _blocks(len(distances)))) / len(distances)


def _stacked_memberships(labellings: Sequence[np.ndarray], ends: np.ndarray) -> sparse.csr_matrix:
    """One-hot clusters of all the labellings, one above the other, (sum of K, M)."""
    starts = np.concatenate([[0], ends[:-1]])
    rows = np.concatenate([start + labels for start, labels in zip(starts, labellings, strict=True)])
    columns = np.tile(np.arange(len(labellings[0])), len(labellings))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(ends[-1], len(labellings[0])))


def silhouette_values(sums: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Silhouettes of a block of regions from their sums of distances to each cluster, sums (K, block)."""
    if np.count_nonzero(counts) < 2:
        return np.zeros(len(labels))
    own = labels, np.arange(len(labels))
    within = sums[own] / np.maximum(counts[labels] - 1, 1)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.inf)
    means[own] = np.inf
    between = means.min(axis=0)
    widest = np.maximum(within, between)
    apart = np.divide(between - within, widest, out=np.zeros_like(widest), where=widest > 0)
    return np.where(counts[labels] > 1, apart, 0)
