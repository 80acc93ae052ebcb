"""Pull: which class do images that hold a cluster lean towards? Our own statistic beside the paper's gap and influence.

A shortcut draws images of the other classes towards one class. The paper's gap adds up changes of accuracy whatever
their direction, so the absence of a feature has as large a gap as its presence. Pull keeps the sign, and looks at
probabilities rather than at right and wrong, which wants fewer images. And it discounts look-alikes in two ways: what
draws one other class only (a four that looks like a nine) is none, so only the less affected half of the other classes
counts; and what is more common in the class itself than in the others may be what that class looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ravl_core import checks


@dataclass(frozen=True, eq=False)
class ClusterPull:
    """How images in a cluster lean towards each class.

    Attributes
    ----------
    shifts : float array (C, K, C)
        For the images of each class (first axis): mean probability of each class (last axis) with the cluster in the
        image less without, times the paper's balance weight 2 min(n_in, n_out) / n; -1 … 1, and 0 where all images
        of the class hold the cluster, or none.
    pull : float array (K, C)
        Mean of the shifts towards a class over the lower half of the other classes, times `commonness`; 0: none, 1: the
        cluster turns images of every class into this one.
    """

    shifts: np.ndarray
    pull: np.ndarray

    @property
    def attribute(self) -> np.ndarray:
        """(K,) the class that each cluster pulls towards most, the first on ties."""
        return self.pull.argmax(axis=1)

    @property
    def strength(self) -> np.ndarray:
        """(K,) the pull towards that class."""
        return self.pull.max(axis=1)


def membership(cluster_labels: np.ndarray, image_index: np.ndarray, n_images: int) -> np.ndarray:
    """Which images have a region in which cluster: bool (N, K); a region with label -1 is in none."""
    cluster_labels = checks.integers("cluster_labels", cluster_labels, -1, np.iinfo(np.int32).max)
    held = np.zeros((n_images, int(cluster_labels.max(initial=-1)) + 1), dtype=bool)
    clustered = cluster_labels >= 0
    held[np.asarray(image_index)[clustered], cluster_labels[clustered]] = True
    return held


def cluster_pull(
    held: np.ndarray, labels: np.ndarray, image_probs: np.ndarray, strata: np.ndarray | None = None
) -> ClusterPull:
    """The pull of every cluster towards every class.

    Parameters
    ----------
    held : bool array (N, K)
        Which images hold which cluster, see `membership`.
    labels : int array (N,)
        True class of each image.
    image_probs : float array (N, C)
        Zero-shot probabilities.
    strata : int array (N,), optional
        Finer than the classes: images are then compared within a stratum only, and a class has the mean of its
        strata by size.
    """
    weights = contrast_weights(held, labels, labels if strata is None else strata)
    shifts = class_sums(weights, labels, np.asarray(image_probs, dtype=np.float64))
    return ClusterPull(shifts, lower_half(shifts) * commonness(held, labels, image_probs.shape[1]))


def commonness(held: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """How common each cluster is in images of other classes, as a share of how common it is in each class: (K, C).

    0: only that class holds it, so it may be the very thing that is named; 1: others hold it as often, or more often.
    This supposes an evaluation set in which the features one looks for do not go with a class, as the paper's do not.
    """
    own = (labels == np.arange(n_classes)[:, None]).astype(np.float64)  # (C, N)
    n, n_held = own.sum(axis=1), (own @ held).T  # (C,), (K, C)
    inside = n_held / np.maximum(n, 1)
    outside = (n_held.sum(axis=1, keepdims=True) - n_held) / np.maximum(n.sum() - n, 1)
    return np.divide(outside, inside, out=np.ones_like(inside), where=inside > outside)


def contrast_weights(held: np.ndarray, labels: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Weights (N, K) whose products with any values, summed over a class, are its weighted differences in - out.

    Within a stratum of n of the n_class images of a class, 2 min(n_in, n_out) / n * (mean in - mean out) * n / n_class.
    """
    which, n = np.unique(strata, return_inverse=True, return_counts=True)[1:]
    member = (which[:, None] == np.arange(len(n))).astype(np.float64)  # (N, S)
    n_in = member.T @ held  # (S, K)
    n_out = n[:, None] - n_in
    fewer = np.minimum(n_in, n_out)
    per_in, per_out = 2 * fewer / np.maximum(n_in, 1), 2 * fewer / np.maximum(n_out, 1)
    return np.where(held, per_in[which], -per_out[which]) / np.bincount(labels)[labels][:, None]


def class_sums(weights: np.ndarray, labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Products of weights (N, K) and values (N, C), summed over the images of each class: (C, K, C)."""
    n_classes = values.shape[1]
    own = [labels == label for label in range(n_classes)]
    return np.stack([weights[mine].T @ values[mine] for mine in own])


def lower_half(shifts: np.ndarray) -> np.ndarray:
    """Mean over the less affected half of the other classes: shifts (C, ..., C) -> (..., C).

    Of C - 1 other classes the lower ⌊(C - 1) / 2⌋ + 1 count, so of one other class that one, of nine five.
    """
    n_classes = len(shifts)
    if n_classes < 2:
        return np.zeros(shifts.shape[1:])
    n_counted = (n_classes - 1) // 2 + 1
    others = [np.delete(shifts[..., label], label, axis=0) for label in range(n_classes)]  # (C-1, ...) each
    return np.stack([np.sort(other, axis=0)[:n_counted].mean(axis=0) for other in others], axis=-1)
