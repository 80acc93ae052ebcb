"""Could a finding be chance? A permutation null for the largest statistic over all clusters.

Stage 1 looks at dozens of clusters and shows the largest, so a cluster has to be compared with the largest value that
chance gives over all clusters at once. Chance means: within a class, which image has which answer has nothing to do
with which image holds which cluster. So the model's answers are dealt out anew among the images of a class.

A planted feature makes its absence significant too. Later findings are therefore tested given the earlier ones: the
answers are dealt out only among images of a class that agree on what was found before.

Two statistics are tested, the paper's gap G and our pull, and a cluster is significant if both are. That alone does not
make a shortcut. A model of middling competence takes many things for something else, and with enough images all of that
is significant. So a finding also has to stand out: it pulls at least twice as much as anything pulls towards the other
classes, which stand for what the model does anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ravl_core.pull import cluster_pull, commonness, contrast_weights, lower_half

PERMUTATIONS_AT_A_TIME = 50
LEVEL = 0.05
STANDS_OUT = 2.0  # times the largest pull towards another class


@dataclass(frozen=True, eq=False)
class LargestStatistics:
    """Gap and pull of every cluster beside the largest ones of P permutations.

    Attributes
    ----------
    gap : float array (K,)
        The paper's cluster performance gap G, 0 … C; within strata where these are finer than the classes.
    pull : float array (K, C)
        Pull towards every class, -1 … 1; see `ravl_core.pull`.
    null_gap, null_pull : float arrays (P,)
        The largest over all clusters (and classes) in each permutation, ascending.
    """

    gap: np.ndarray
    pull: np.ndarray
    null_gap: np.ndarray
    null_pull: np.ndarray

    @property
    def gap_p_values(self) -> np.ndarray:
        """(K,) for each cluster's gap, 1 / (P + 1) … 1."""
        return _p_values(self.gap, self.null_gap)

    @property
    def pull_p_values(self) -> np.ndarray:
        """(K,) for each cluster's largest pull, 1 / (P + 1) … 1."""
        return _p_values(self.pull.max(axis=1), self.null_pull)

    @property
    def p_values(self) -> np.ndarray:
        """(K,) the larger of the two: small only where gap *and* pull are more than chance gives."""
        return np.maximum(self.gap_p_values, self.pull_p_values)


def _p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    """The share of permutations whose largest statistic reaches the observed one, which is counted among them."""
    reached = len(null) - np.searchsorted(null, observed.astype(np.float64) - 1e-5)  # float32: equal sums may differ
    return (1 + reached) / (1 + len(null))


def largest_statistics(
    held: np.ndarray,
    labels: np.ndarray,
    image_probs: np.ndarray,
    strata: np.ndarray | None = None,
    n_permutations: int = 999,
    seed: int = 0,
    discount: bool = True,
) -> LargestStatistics:
    """Gap and pull of every cluster, and the largest ones that chance gives.

    Parameters
    ----------
    held : bool array (N, K)
        Which images hold which cluster, see `ravl_core.pull.membership`.
    labels : int array (N,)
        True class of each image.
    image_probs : float array (N, C)
        Zero-shot probabilities.
    strata : int array (N,), optional
        Finer than the classes: answers are dealt out, and compared, within a stratum only.
    discount : bool
        Whether a pull counts less where the class itself holds the cluster more often than others do. What is known to
        be no part of the class, the hospital that an X-ray is from say, needs none.
    """
    strata = labels if strata is None else strata
    correct = image_probs.argmax(axis=1) == labels
    answers = np.column_stack([image_probs, correct]).astype(np.float32)  # (N, C + 1): what is dealt out
    weights = contrast_weights(held, labels, strata).astype(np.float32)
    common = commonness(held, labels, image_probs.shape[1]).astype(np.float32) if discount else np.float32(1)
    gap, pull = _statistics(weights, common, labels, strata, answers[None])
    null_gap, null_pull = [np.empty(0)], [np.empty(0)]
    for order in permutations_within(strata, n_permutations, seed):
        gaps, pulls = _statistics(weights, common, labels, strata, answers[order])
        null_gap.append(gaps.max(axis=1, initial=0.0))
        null_pull.append(pulls.max(axis=(1, 2), initial=-1.0))
    return LargestStatistics(gap[0], pull[0], np.sort(np.concatenate(null_gap)), np.sort(np.concatenate(null_pull)))


def _statistics(
    weights: np.ndarray, common: np.ndarray, labels: np.ndarray, strata: np.ndarray, answers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gaps (P, K) and pulls (P, K, C) for P dealings of the answers (P, N, C + 1)."""
    n_dealings, _, width = answers.shape
    answers = answers.transpose(1, 2, 0)  # (N, C + 1, P)
    gap = sum(np.abs(weights[strata == s].T @ answers[strata == s, -1]) for s in np.unique(strata))  # (K, P)
    shifts = []
    for label in range(width - 1):
        own = labels == label
        sums = weights[own].T @ answers[own, :-1].reshape(own.sum(), (width - 1) * n_dealings)  # (K, C * P)
        shifts.append(sums.reshape(-1, width - 1, n_dealings).transpose(2, 0, 1))
    return gap.T, lower_half(np.stack(shifts)) * common


def permutations_within(strata: np.ndarray, n_permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Index arrays (up to 50, N) that deal out values among the members of each stratum."""
    random = np.random.default_rng(seed)
    members = np.argsort(strata, kind="stable")
    which = np.unique(strata, return_inverse=True)[1]
    for first in range(0, n_permutations, PERMUTATIONS_AT_A_TIME):
        n = min(PERMUTATIONS_AT_A_TIME, n_permutations - first)
        keys = random.random((n, len(strata))) + which
        order = np.empty((n, len(strata)), dtype=np.int64)
        order[:, members] = keys.argsort(axis=1, kind="stable")
        yield order


@dataclass(frozen=True)
class SignificantCluster:
    """A cluster that neither chance nor what the model does anyway explains, given those before it."""

    cluster: int
    attribute: int  # the class it pulls towards
    pull: float  # 0 … 1
    gap: float  # 0 … C
    p_value: float
    times_others: float  # its pull, in times of the largest one towards another class


def significant_clusters(
    held: np.ndarray,
    labels: np.ndarray,
    image_probs: np.ndarray,
    level: float = LEVEL,
    stands_out: float = STANDS_OUT,
    n_permutations: int = 999,
    seed: int = 0,
    most: int = 5,
) -> tuple[SignificantCluster, ...]:
    """The clusters with the largest pull, each judged given the ones before it, until one is no finding.

    Parameters
    ----------
    held : bool array (N, K)
    labels : int array (N,)
    image_probs : float array (N, C)
    level : float
        Where answers have nothing to do with clusters, at most the share of cases in which something is found.
    stands_out : float
        A finding pulls at least so many times as much as any cluster pulls towards another class, given the finding.
        Two equally strong shortcuts to two classes hide each other from this rule; 0 switches it off.
    most : int
        Stop after so many.

    Returns
    -------
    tuple of SignificantCluster
        Possibly empty. `pull` and `gap` are within the strata of what was found before.
    """
    found, strata = [], np.asarray(labels)
    while held.shape[1] and len(found) < most:
        test = largest_statistics(held, labels, image_probs, strata, n_permutations, seed + len(found))
        pull = np.where((test.p_values <= level)[:, None], test.pull, -1.0)
        cluster, attribute = np.unravel_index(pull.argmax(), pull.shape)
        strata = 2 * strata + held[:, cluster]
        named = [*(one.attribute for one in found), attribute]
        times = _times_others(pull[cluster, attribute], cluster_pull(held, labels, image_probs, strata).pull, named)
        if pull[cluster, attribute] <= 0 or times < stands_out:
            break
        figures = test.pull[cluster, attribute], test.gap[cluster], test.p_values[cluster], times
        found.append(SignificantCluster(int(cluster), int(attribute), *map(float, figures)))
    return tuple(found)


def _times_others(pull: float, given_it: np.ndarray, named: list[int]) -> float:
    """A pull in times of the largest one (K, C) towards a class that is not named yet; at most a thousand."""
    others = np.delete(given_it, named, axis=1).max(initial=0.0)
    return float(min(pull / max(others, 1e-9), 1000.0))
