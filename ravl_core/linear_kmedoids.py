"""k-medoids and silhouettes of a great many regions: time linear in their number, and no matrix of distances.

The cosine distance 1 - e·f is linear in f, as long as negative cosines are not clipped to distance 1. So the sum of the
distances between a region and the n members of a cluster is n (1 - e·c), with c the mean of their embeddings. The
alternate scheme of `ravl_core.kmedoids` needs no more than that: the member that is nearest to all others is the one
with the largest e·c, and the silhouettes are made of the means alone. Each step is one pass over blocks of rows for
all candidate numbers of clusters at once, so that embeddings may lie in a memory-mapped file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse

from ravl_core import checks
from ravl_core.kmedoids import (
    MAX_ROUNDS,
    Clustering,
    best_fit,
    drop_emptied,
    first_equals,
    first_medoids,
    silhouette_values,
)

BLOCK_ENTRIES = 2**21  # entries of the embeddings that are widened to float32 at a time (8 MB)


def cluster_many_regions(
    region_embeddings: np.ndarray,
    candidates: Iterable[int],
    seed: int = 0,
    n_first: int = 2**16,
    max_rounds: int = 20,
    tolerance: float = 1e-4,
) -> Clustering:
    """Cluster regions with the number of clusters that has the best silhouette, in time linear in their number.

    The scheme and its start are those of `ravl_core.kmedoids.cluster_regions`, and so are the clusters where no cosine
    is negative and there are no more than `n_first` regions, to rounding. Opposed regions, however, are farther apart
    here than orthogonal ones. Of more regions a random sample is clustered first; where its medoids end, the rounds
    over all the regions begin, and a candidate is done when few regions change their cluster in a round.

    Parameters
    ----------
    region_embeddings : float array (M, D)
        Unit embeddings of all the regions; a memory-mapped float16 array is read block by block and never copied.
    candidates : iterable of int
        Numbers of clusters to try, in this order. Those that are not below the number of distinct embeddings in the
        sample are left out.
    seed : int
        Of the sample, and of the first medoids in it.
    n_first : int
        Size of the sample, which is drawn uniformly; all regions where there are no more.
    max_rounds : int
        Limit of the rounds over all the regions, beyond the sample. Each of them reads the embeddings twice.
    tolerance : float
        A candidate is done after a round over all the regions in which at most this share of them changes cluster;
        0 … 1. On the sample it is done when no medoid moves.

    Returns
    -------
    Clustering
        The fit of the first candidate with the strictly highest positive silhouette, over all the regions; empty
        (``n_clusters`` 0) where no candidate is left or none has a positive silhouette. Every region is in the cluster
        of its nearest medoid, the lowest on ties.

    Raises
    ------
    ValueError
        If embeddings are no finite unit rows, a candidate is not a positive integer, or a number is out of range.

    References
    ----------
    H.-S. Park and C.-H. Jun, "A simple and fast algorithm for K-medoids clustering", Expert Systems with Applications
    36, 2009: the alternate scheme.
    """
    seed, n_first = checks.whole_number("seed", seed, 0), checks.whole_number("n_first", n_first, 1)
    max_rounds, tolerance = (
        checks.whole_number("max_rounds", max_rounds, 1),
        checks.number("tolerance", tolerance, 0, 1),
    )
    embeddings = checks.unit_rows("region_embeddings", region_embeddings)
    rows, sample = embeddings, None
    if len(embeddings) > n_first:
        sample = np.sort(np.random.RandomState(seed).choice(len(embeddings), n_first, replace=False))
        rows = embeddings[sample]
    rows = _widened(rows)
    n_distinct = np.unique(first_equals(rows)).size
    candidates = [k for k in checks.whole_numbers("candidates", candidates, 1) if k < n_distinct]
    fits = [_Fit(medoids, rows.shape) for medoids in first_medoids(_Distances(rows), candidates, seed)]
    _settle(rows, fits, MAX_ROUNDS, 0)
    if sample is not None:
        fits = [_Fit(sample[fit.medoids], embeddings.shape) for fit in fits]
        _settle(embeddings, fits, max_rounds, tolerance)
    labelled = [drop_emptied(fit.labels.astype(np.int64), fit.medoids) for fit in fits]
    return best_fit(embeddings, candidates, labelled, _silhouettes(embeddings, fits))


class _Fit:
    """One candidate: its medoids (k,), and labels (M,), counts (k,) and sums of embeddings (k, D) of its clusters."""

    def __init__(self, medoids: np.ndarray, shape: tuple[int, int]):
        self.medoids = medoids
        self.labels = np.full(shape[0], -1, dtype=np.int32)
        self.counts = np.zeros(len(medoids), dtype=np.int64)
        self.sums = np.zeros((len(medoids), shape[1]))

    def means(self) -> np.ndarray:
        return self.sums / np.maximum(self.counts, 1)[:, None]


class _Distances:
    """The few rows of a matrix of distances (M, M) that are asked for."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | np.ndarray) -> np.ndarray:
        # One row alone would be multiplied by another routine, whose last bits are not those of a matrix product.
        few = np.resize(which, max(2, np.size(which)))
        distances = np.maximum(1 - self.rows[few] @ self.rows.T, 0)  # (few, M)
        distances[np.arange(len(few)), few] = 0
        return distances[: np.size(which)].reshape(*np.shape(which), -1)


def _settle(embeddings: np.ndarray, fits: Sequence[_Fit], max_rounds: int, tolerance: float) -> None:
    """Rounds of the alternate scheme, until few regions change cluster or no medoid moves."""
    _assign(embeddings, fits)
    moving = fits
    for _ in range(max_rounds):
        moving = _move(embeddings, moving)
        shares = _assign(embeddings, moving)
        moving = [fit for fit, share in zip(moving, shares, strict=True) if share > tolerance]
        if not moving:
            return


def _widened(rows: np.ndarray) -> np.ndarray:
    """Rows as a product wants them: float64 stays, all else becomes float32."""
    return np.ascontiguousarray(rows, dtype=np.promote_types(rows.dtype, np.float32))


def _blocks(embeddings: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    size = max(16, BLOCK_ENTRIES // max(embeddings.shape[1], 1))
    for start in range(0, len(embeddings), size):
        rows = slice(start, start + size)
        yield rows, _widened(embeddings[rows])


def _products(
    embeddings: np.ndarray, fits: Sequence[_Fit], vectors: Sequence[np.ndarray]
) -> Iterator[tuple[slice, np.ndarray, list[np.ndarray]]]:
    """Blocks of rows with their products with the vectors (k, D) of each fit, (k, block) each."""
    if not fits:
        return
    stacked = np.concatenate(vectors).astype(np.promote_types(embeddings.dtype, np.float32))
    ends = np.cumsum([len(few) for few in vectors])
    for rows, block in _blocks(embeddings):
        yield rows, block, np.split(stacked @ block.T, ends[:-1])


def _assign(embeddings: np.ndarray, fits: Sequence[_Fit]) -> list[float]:
    """Put every region into the cluster of its nearest medoid; the share of the regions that changed, of each fit."""
    n_changed = np.zeros(len(fits))
    for rows, block, products in _products(embeddings, fits, [embeddings[fit.medoids] for fit in fits]):
        for i, fit in enumerate(fits):
            nearest, before = _highest(products[i]), fit.labels[rows]
            n_changed[i] += np.count_nonzero(nearest != before)
            fit.sums += _changes(before, nearest, len(fit.medoids), block.dtype) @ block
            fit.labels[rows] = nearest
    for fit in fits:
        fit.counts = np.bincount(fit.labels, minlength=len(fit.medoids))
    return (n_changed / max(len(embeddings), 1)).tolist()


def _highest(products: np.ndarray) -> np.ndarray:
    """Row of the highest product in each column of (k, block), the lowest on ties: argmax, in half its time."""
    highest, labels = products[0].copy(), np.zeros(products.shape[1], dtype=np.int32)
    for cluster in range(1, len(products)):
        np.copyto(labels, cluster, where=products[cluster] > highest)
        np.maximum(highest, products[cluster], out=highest)
    return labels


def _changes(before: np.ndarray, after: np.ndarray, k: int, dtype: np.dtype) -> sparse.csr_matrix:
    """What becomes of the sums of k clusters, (k, block): 1 where a row has come, -1 where it has gone."""
    changed = np.flatnonzero(before != after)
    gone = changed[before[changed] >= 0]
    signs = np.repeat(np.array([1, -1], dtype=dtype), [len(changed), len(gone)])
    places = np.concatenate([after[changed], before[gone]]), np.concatenate([changed, gone])
    return sparse.csr_matrix((signs, places), shape=(k, len(before)))


def _move(embeddings: np.ndarray, fits: Sequence[_Fit]) -> list[_Fit]:
    """Move each medoid to the most central member, if that is strictly more central; the fits in which one moved."""
    means = [fit.means() for fit in fits]
    best = [fit.medoids.copy() for fit in fits]
    nearness = [_own_products(embeddings[fit.medoids], mean) for fit, mean in zip(fits, means, strict=True)]
    for rows, block, products in _products(embeddings, fits, means):
        for i, fit in enumerate(fits):
            clusters, members = _most_central(products[i], fit.labels[rows])
            values = _own_products(block[members], means[i][clusters])
            nearer = values > nearness[i][clusters]
            best[i][clusters[nearer]] = rows.start + members[nearer]
            nearness[i][clusters[nearer]] = values[nearer]
    moved = [not np.array_equal(fit.medoids, medoids) for fit, medoids in zip(fits, best, strict=True)]
    for fit, medoids in zip(fits, best, strict=True):
        fit.medoids = medoids
    return [fit for fit, has_moved in zip(fits, moved, strict=True) if has_moved]


def _own_products(rows: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Products of rows (K, D) with one mean each, in float64 and row by row, so that equal rows tie."""
    return (rows.astype(np.float64) * means).sum(axis=1)


def _most_central(products: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters in a block, and of each the first member with the highest product with its own mean."""
    own = products[labels, np.arange(len(labels))]
    highest = np.full(len(products), -np.inf, dtype=products.dtype)
    np.maximum.at(highest, labels, own)
    leading = np.flatnonzero(own == highest[labels])
    clusters, first = np.unique(labels[leading], return_index=True)
    return clusters, leading[first]


def _silhouettes(embeddings: np.ndarray, fits: Sequence[_Fit]) -> np.ndarray:
    """Mean silhouette of each fit; see `ravl_core.kmedoids.silhouettes`."""
    totals = np.zeros(len(fits))
    for rows, _, products in _products(embeddings, fits, [fit.means() for fit in fits]):
        for i, fit in enumerate(fits):
            sums = fit.counts[:, None] * np.maximum(1 - products[i], 0)
            totals[i] += silhouette_values(sums, fit.labels[rows], fit.counts).sum()
    return totals / max(len(embeddings), 1)
