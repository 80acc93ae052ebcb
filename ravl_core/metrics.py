"""How results are judged: precision of a ranking, accuracies of groups, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ravl_core import checks

if TYPE_CHECKING:
    import pandas


def precision_at_k(ranked_regions: Sequence[int], shows_feature: np.ndarray, k: int = 10) -> float:
    """Share of the first k ranked regions that show the planted feature.

    Parameters
    ----------
    ranked_regions : sequence of int
        Region indices, best first. Only the first k count.
    shows_feature : bool array (M,)
        Whether each region shows the feature.
    k : int
        1 or more.

    Returns
    -------
    float
        1 if all of them show it, 0 if none does or there is no region at all. Of fewer than k regions, the share of
        those there are.

    Raises
    ------
    ValueError
        If a rank is no region's index, or k is below 1.

    References
    ----------
    Precision@10 in section 4 of the paper.
    """
    shows_feature = checks.truths("shows_feature", shows_feature)
    ranked = checks.integers("ranked_regions", ranked_regions, 0, len(shows_feature) - 1)
    first = shows_feature[ranked[: checks.whole_number("k", k, 1)]]
    return float(first.mean()) if len(first) else 0.0


@dataclass(frozen=True, eq=False)
class GroupAccuracies:
    """Accuracy in each group, a class with or without a feature.

    Attributes
    ----------
    accuracy : float array (C, 2)
        Column 0 without the feature, column 1 with it; NaN for a group without members.
    count : int array (C, 2)
        Members of each group.
    overall : float
        Share of all members that are correct, so large groups weigh more; NaN without any member.
    worst_group : float
        Lowest accuracy of a group that has members; NaN without any.
    where_worst : (int, bool) or None
        Class of that group, and whether it is the one with the feature; the first on ties.
    """

    accuracy: np.ndarray
    count: np.ndarray
    overall: float
    worst_group: float
    where_worst: tuple[int, bool] | None

    def table(self) -> pandas.DataFrame:
        """One row a class: accuracy and count, with and without the feature."""
        import pandas

        columns = {
            "accuracy_with": self.accuracy[:, 1],
            "accuracy_without": self.accuracy[:, 0],
            "count_with": self.count[:, 1],
            "count_without": self.count[:, 0],
        }
        return pandas.DataFrame(columns).rename_axis("class")


def group_accuracies(
    correct: np.ndarray, labels: np.ndarray, feature_present: np.ndarray, n_classes: int
) -> GroupAccuracies:
    """Accuracy of each class, with and without a feature.

    Parameters
    ----------
    correct : bool array (N,)
        Whether each image (or core region) is classified correctly.
    labels : int array (N,)
        True class.
    feature_present : bool array (N,)
        Whether the spurious feature is in the image.
    n_classes : int
        C.

    Returns
    -------
    GroupAccuracies
        (C, 2) accuracies in [0, 1] and counts, ``overall`` and ``worst_group``.

    Raises
    ------
    ValueError
        If lengths disagree, a label is no class, or an array holds no booleans where it should.
    """
    correct = checks.truths("correct", correct)
    labels = checks.class_indices("labels", labels, checks.whole_number("n_classes", n_classes, 1))
    present = checks.truths("feature_present", feature_present)
    checks.same_length(correct=correct, labels=labels, feature_present=present)
    group = labels * 2 + present
    count = np.bincount(group, minlength=2 * n_classes)
    right = np.bincount(group[correct], minlength=2 * n_classes)
    accuracy = np.divide(right, count, out=np.full(2 * n_classes, np.nan), where=count > 0)
    shape = n_classes, 2
    if len(correct) == 0:
        return GroupAccuracies(accuracy.reshape(shape), count.reshape(shape), np.nan, np.nan, None)
    worst = int(np.nanargmin(accuracy))
    return GroupAccuracies(
        accuracy=accuracy.reshape(shape),
        count=count.reshape(shape),
        overall=float(correct.mean()),
        worst_group=float(accuracy[worst]),
        where_worst=(worst // 2, bool(worst % 2)),
    )


class Interval(NamedTuple):
    """A statistic of the sample and the ends of its interval."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> Interval:
    """Percentile bootstrap interval of a statistic.

    Parameters
    ----------
    values : array (N, ...)
        One row an observation. Rows stay whole, so that several columns are resampled together (paired).
    statistic : callable
        From an array like ``values`` to a number.
    level : float
        Coverage aimed at, between 0 and 1 (excluded).
    n_resamples : int
        Number of resamples.
    seed : int
        The same seed gives the same interval.
    groups : int or str array (N,), optional
        Observations that belong together, such as images made from the same source image or settings that share a
        model. Whole groups are drawn, so dependence within a group widens the interval as it should.

    Returns
    -------
    Interval
        ``estimate`` (of the sample itself), ``low``, ``high``. Resamples whose statistic is NaN are left out.

    Raises
    ------
    ValueError
        If there is no observation, the statistic gives no number, or lengths disagree.

    References
    ----------
    B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = checks.as_array("values", values)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(f"values: expected at least one observation, got shape {values.shape}")
    estimate = _estimate(statistic, values)
    if not 0 < checks.number("level", level, 0, 1) < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    n_resamples = checks.whole_number("n_resamples", n_resamples, 1)
    members = _group_members(np.arange(len(values)) if groups is None else groups, values)
    random = np.random.default_rng(checks.whole_number("seed", seed, 0))
    drawn = (random.integers(len(members), size=len(members)) for _ in range(n_resamples))
    if groups is None:
        statistics = [statistic(values[rows]) for rows in drawn]
    else:
        statistics = [statistic(values[np.concatenate([members[at] for at in chosen])]) for chosen in drawn]
    low, high = np.nanquantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def _estimate(statistic: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    if not callable(statistic):
        raise ValueError(f"statistic: expected a function of an array, got {statistic!r}")
    try:
        return float(statistic(values))
    except TypeError as error:
        came = f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"statistic: expected one number of the values, which are {came}, got {error}") from error


def wilson_interval(accuracy: np.ndarray, count: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends of the interval of a share, each of the shape given; NaN where the count is 0.

    Unlike the plain normal interval it stays within [0, 1] and has a width at 0 and at 1 too.

    References
    ----------
    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    accuracy, count = np.asarray(accuracy, dtype=float), np.asarray(count, dtype=float)
    z = NormalDist().inv_cdf((1 + level) / 2)
    n = np.where(count > 0, count, np.nan)
    centre = (accuracy + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(accuracy * (1 - accuracy) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _group_members(groups: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    groups = np.asarray(groups)
    checks.same_length(values=values, groups=groups)
    _, which = np.unique(groups, return_inverse=True)
    order = np.argsort(which, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
