"""What these data could have shown: how strong a shortcut has to be to be found, on these images with these answers.

No finding says little where few images were looked at. So shortcuts of known strength are put into the answers, and the
weakest one is reported that the audit's own rule finds four times out of five. It is supposed that some region shows
the feature and that these regions form a cluster; `ravl_core.audits.robustness` looks at that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ravl_core.progress import track
from ravl_core.significance import LEVEL, significant_clusters

if TYPE_CHECKING:
    import pandas

PREVALENCES = (0.1, 0.25, 0.5)
STEPS = 25  # strengths that are told apart, from 1/25 to 1
DRAWS, ENOUGH = 10, 8  # four of five


def detectable_shifts(
    held: np.ndarray,
    labels: np.ndarray,
    image_probs: np.ndarray,
    prevalences: tuple[float, ...] = PREVALENCES,
    level: float = LEVEL,
    n_permutations: int = 59,
    seed: int = 0,
) -> pandas.DataFrame:
    """The weakest shortcut that is found in 8 of 10 draws, for features of some prevalences.

    In each draw a feature is put into images at random, equally often in each class, and stands for a random class. A
    shortcut of strength s turns the answer of that share of the images of other classes that hold the feature: the
    answered class and the shortcut's class exchange their probabilities.

    Parameters
    ----------
    held : bool array (N, K)
        Which images hold which cluster: the feature has to stand out among them.
    labels : int array (N,)
    image_probs : float array (N, C)
        Zero-shot probabilities.
    prevalences : shares of the images of each class that hold the feature.
    level, n_permutations : of the rule, see `significant_clusters`.

    Returns
    -------
    pandas.DataFrame
        `prevalence`, `n_images` (that would hold the feature) and `shift`, 0 … 1: how much more often images of other
        classes have to be answered with the class. NaN where even 1 is too little: the data could show no shortcut.
    """
    import pandas

    rows, rule = [], {"level": level, "n_permutations": n_permutations}
    for prevalence in track(prevalences, "what could be found"):
        wanted = np.maximum(np.rint(prevalence * np.bincount(labels)), 1)
        step = _weakest(lambda step, n=wanted: _is_found(step / STEPS, n, held, labels, image_probs, rule, seed))
        shift = step / STEPS if step <= STEPS else np.nan
        rows.append({"prevalence": prevalence, "n_images": int(wanted[np.unique(labels)].sum()), "shift": shift})
    return pandas.DataFrame(rows)


def _weakest(is_found) -> int:
    """The smallest step from 1 that is found, by halving; STEPS + 1 if none is."""
    low, high = 0, STEPS + 1  # `low` is not found, `high` is, or is beyond all
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high


def _is_found(
    shift: float, wanted: np.ndarray, held: np.ndarray, labels: np.ndarray, probs: np.ndarray, rule: dict, seed: int
) -> bool:
    """Whether enough of the draws are found; it stops where that is decided."""
    found = missed = 0
    for draw in range(DRAWS):
        feature, attribute, answers = plant(shift, wanted, labels, probs, np.random.default_rng([seed, draw]))
        told = significant_clusters(np.column_stack([feature, held]), labels, answers, seed=seed + draw, most=2, **rule)
        hit = any((one.cluster, one.attribute) == (0, attribute) for one in told)
        found, missed = found + hit, missed + (not hit)
        if found >= ENOUGH or missed > DRAWS - ENOUGH:
            break
    return found >= ENOUGH


def plant(
    shift: float, wanted: np.ndarray, labels: np.ndarray, probs: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, int, np.ndarray]:
    """A feature in `wanted` (C,) images of each class, (N,) bool; its class; and answers (N, C) that lean on it."""
    attribute = int(random.choice(np.unique(labels)))
    order = np.argsort(random.random(len(labels)) + labels)  # class by class, each in random order
    own = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(own, own)
    feature = np.zeros(len(labels), dtype=bool)
    feature[order] = rank < wanted[own]
    turned = np.flatnonzero(feature & (labels != attribute) & (random.random(len(labels)) < shift))
    answered, leaning = probs[turned].argmax(axis=1), probs.copy()
    leaning[turned, attribute], leaning[turned, answered] = probs[turned, answered], probs[turned, attribute]
    return feature, attribute, leaning
