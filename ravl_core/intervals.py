"""How sure is a finding? Bootstrap intervals of its figures, over the images that stage 1 happened to look at.

Images that were made from the same scan or photograph resemble each other, so whole sources are drawn where they are
known. The gap adds up absolute values, which noise can only make larger: where accuracy hardly depends on the cluster,
its interval lies above 0 nevertheless. Whether a gap is more than chance is asked of `ravl_core.significance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ravl_core import checks
from ravl_core.discovery import Discovery, best_regions
from ravl_core.metrics import Interval
from ravl_core.zero_shot import Evaluation

DRAWS_AT_A_TIME = 2**23  # of images in resamples (64 MB)


@dataclass(frozen=True, eq=False)
class FindingIntervals:
    """What is known of one cluster, with intervals; an end is NaN where no resample has the figure.

    Attributes
    ----------
    cluster : int
    attribute : int
        The class with the largest accuracy in - accuracy out in the sample; it stays this class in every resample.
    gap : Interval
        Cluster performance gap G, 0 … C.
    influence : Interval
        Cluster influence H, 0 … 1; NaN where the sample has no misclassified image to take it of.
    difference : Interval
        The attribute's accuracy in - accuracy out, without weight, -1 … 1.
    differences : float array (C, 3)
        The same of each class: estimate, low, high; NaN where the class is skipped.
    n_sources : int
        What was drawn: number of sources, or of images where these are not known.
    influence_images : int
        Number of images behind H in the sample.
    """

    cluster: int
    attribute: int
    gap: Interval
    influence: Interval
    difference: Interval
    differences: np.ndarray = field(repr=False)
    n_sources: int
    influence_images: int

    def plain(self) -> dict:
        """The figures as lists and numbers that JSON can hold, None for NaN; without `cluster` and `differences`."""
        intervals = {name: getattr(self, name) for name in ("gap", "influence", "difference")}
        lists = {name: [None if np.isnan(end) else float(end) for end in ends] for name, ends in intervals.items()}
        return lists | {name: getattr(self, name) for name in ("attribute", "influence_images", "n_sources")}


def finding_intervals(
    evaluation: Evaluation,
    found: Discovery,
    cluster: int,
    sources: np.ndarray | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> FindingIntervals:
    """Percentile bootstrap intervals of a cluster's gap, influence and differences of accuracy.

    The intervals take the clustering and the choice of the cluster as given: images are drawn, their regions keep
    their clusters. A finding was chosen for its large gap, which is therefore too large on average, and its interval
    lies too high; on new images expect less.

    Parameters
    ----------
    evaluation : Evaluation
        N images, C classes.
    found : Discovery
        What stage 1 found on it.
    cluster : int
        0 … K-1, usually that of a finding.
    sources : int or str array (N,), optional
        Which scan or photograph each image was made from; whole sources are drawn. Images if not given.
    level : float
        Coverage aimed at, between 0 and 1 (excluded).
    n_resamples : int
        Number of resamples.
    seed : int
        The same seed gives the same intervals.

    Returns
    -------
    FindingIntervals
        Estimates are the figures of `found`. In each resample gap, influence and differences are those of
        `ravl_core.discovery.score_clusters`, with the sample's balance weights; resamples that lack a figure (a class
        without an image in, or out; no misclassified image) do not count for its interval.

    Raises
    ------
    ValueError
        If there is no such cluster, it skips all classes (each has all of its images in, or none), lengths disagree,
        or a number is out of range.

    References
    ----------
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Gap and influence: section 3
    of the paper.
    """
    if not 0 < checks.number("level", level, 0, 1) < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    scores, cluster = found.scores, _checked_cluster(evaluation, found, cluster)
    unit = units_of(evaluation.labels, sources)
    tallies = _tallies(evaluation, found.clustering.labels == cluster, unit).astype(np.float32)  # (6, U, C)
    balance = _balance(scores.n_in[cluster], scores.n_out[cluster])
    blocks = count_blocks(tallies.shape[1], checks.whole_number("n_resamples", n_resamples, 1), seed)
    columns = np.concatenate([np.column_stack(_figures(counts, tallies, balance)) for counts in blocks])  # (B, C + 2)
    estimates = np.array([*scores.difference[cluster], scores.gap[cluster], scores.influence[cluster]])
    estimates[estimates == -np.inf] = np.nan
    table = np.column_stack([estimates, interval_ends(columns, level)])  # (C + 2, 3)
    attribute = int(np.nanargmax(scores.difference[cluster]))
    return FindingIntervals(
        cluster=cluster,
        attribute=attribute,
        gap=Interval(*table[-2].tolist()),
        influence=Interval(*table[-1].tolist()),
        difference=Interval(*table[attribute].tolist()),
        differences=table[:-2],
        n_sources=tallies.shape[1],
        influence_images=int(scores.influence_images[cluster]),
    )


def resample_counts(n_units: int, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each of U units is drawn in each of B resamples of U draws with replacement: int (B, U)."""
    return np.concatenate(list(count_blocks(n_units, n_resamples, seed)))


def count_blocks(n_units: int, n_resamples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The rows of `resample_counts`, some at a time: a million images have no room for all of them at once."""
    random, left = np.random.default_rng(seed), n_resamples
    while left:
        n_rows = min(left, max(1, DRAWS_AT_A_TIME // max(n_units, 1)))
        drawn = random.integers(n_units, size=(n_rows, n_units))
        drawn += n_units * np.arange(n_rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        left -= n_rows


def _checked_cluster(evaluation: Evaluation, found: Discovery, cluster: int) -> int:
    checks.same_length(image_index=evaluation.image_index, cluster_labels=found.clustering.labels)
    n_clusters = len(found.scores.gap)
    cluster = checks.whole_number("cluster", cluster, 0)
    if cluster >= n_clusters:
        raise ValueError(f"cluster: expected one of {n_clusters} clusters, got {cluster}")
    if np.isnan(found.scores.difference[cluster]).all():
        raise ValueError(f"cluster: expected one that some images of a class hold and some do not, got {cluster}")
    return cluster


def units_of(labels: np.ndarray, sources: np.ndarray | None) -> np.ndarray:
    """(N,) what is drawn with each image, 0 … U-1."""
    if sources is None:
        return np.arange(len(labels))
    checks.same_length(labels=labels, sources=sources)
    return np.unique(sources, return_inverse=True)[1]


def _tallies(evaluation: Evaluation, clustered: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """What a cluster's figures are made of, as numbers of images: float (6, U, C), for each unit and true class.

    The six: images in, out, right and in, right and out, misled (wrong, in, and with more than one region), and misled
    with the best region for the predicted class in the cluster. `clustered` (M,) says which regions are in it.
    """
    labels, predictions, n_images = evaluation.labels, evaluation.predictions, len(evaluation.labels)
    held = np.zeros(n_images, dtype=bool)
    held[evaluation.image_index[clustered]] = True
    best = best_regions(evaluation.image_index, evaluation.region_probs, predictions)  # (N,), -1 where not held anyway
    right, hit = predictions == labels, clustered[best]
    misled = held & ~right & (np.bincount(evaluation.image_index, minlength=n_images) > 1)
    shape = unit.max() + 1, len(evaluation.class_names)
    place = unit * shape[1] + labels
    kinds = held, ~held, held & right, ~held & right, misled, misled & hit
    return np.stack([np.bincount(place[kind], minlength=shape[0] * shape[1]).reshape(shape) for kind in kinds])


def _balance(n_in: np.ndarray, n_out: np.ndarray) -> np.ndarray:
    """The sample's balance weights (C,), which a resample does not change.

    They say how evenly the cluster divides a class, and are 1 only where it does so exactly: drawn anew, they would
    make every resample's gap smaller than that of an evenly divided sample.
    """
    return 2 * np.minimum(n_in, n_out) / np.maximum(n_in + n_out, 1)


def _figures(counts: np.ndarray, tallies: np.ndarray, balance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences (B, C), gap (B,) and influence (B,) of each resample, NaN where it lacks them."""
    # Sums of whole numbers below 2^24 are exact in float32, whose products take half the time.
    sums = (counts.astype(np.float32) @ tallies.astype(np.float32, copy=False)).astype(np.float64)
    n_in, n_out, right_in, right_out, misled, hits = sums  # (B, C) each
    compared = (n_in > 0) & (n_out > 0)
    difference = np.where(compared, right_in / np.maximum(n_in, 1) - right_out / np.maximum(n_out, 1), np.nan)
    class_gaps = balance * difference
    shares = np.where((class_gaps < 0) & (misled > 0), hits / np.maximum(misled, 1), -np.inf)
    influence = shares.max(axis=1)
    influence[influence == -np.inf] = np.nan
    return difference, np.nansum(np.abs(class_gaps), axis=1), influence


def interval_ends(columns: np.ndarray, level: float) -> np.ndarray:
    """Both ends of the interval of each column of (B, F): (F, 2), NaN where a column is all NaN."""
    ends = np.full((columns.shape[1], 2), np.nan)
    there = ~np.isnan(columns).all(axis=0)  # NumPy warns of the others
    if there.any():
        ends[there] = np.nanquantile(columns[:, there], [(1 - level) / 2, (1 + level) / 2], axis=0).T
    return ends
