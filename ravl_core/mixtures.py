"""Evaluation sets of other mixtures than the balanced one, drawn from it: rare classes, a rare feature."""

from collections.abc import Mapping

import numpy as np

from ravl_core.checks import number
from ravl_core.randomness import stream

SHARE = 0.4  # of the images, in every mixture
RARE = 0.25  # of its even share
FEW, MANY = 0.1, 0.9  # of the images of a class have the feature
LONGEST = 10  # times the smallest class, in the long tail


def mixtures(n_classes: int, attribute: int) -> Mapping[str, np.ndarray]:
    """The mixtures by name, each as the share of every group: (C, 2) without and with the feature, in sum 1.

    "balanced": as the evaluation sets of all settings. "feature in 10 %" and "feature in 90 %": of each class. "class
    rare" and "class common": the attribute's class has a quarter of its even share, or of all images. "long tail": the
    first class is ten times as large as the last.
    """
    even = np.full(n_classes, 1 / n_classes)
    tail = LONGEST ** -np.linspace(0, 1, n_classes)
    parts = {
        "balanced": (even, 0.5),
        "feature in 10 %": (even, FEW),
        "feature in 90 %": (even, MANY),
        "class rare": (_with_share(even, attribute, RARE / n_classes), 0.5),
        "class common": (_with_share(even, attribute, 0.25), 0.5),
        "long tail": (tail / tail.sum(), 0.5),
    }
    return {name: np.outer(classes, (1 - feature, feature)) for name, (classes, feature) in parts.items()}


def _with_share(even: np.ndarray, attribute: int, share: float) -> np.ndarray:
    """Class shares (C,), of which one class has `share` and the others what is left, evenly."""
    others = (1 - share) / (len(even) - 1)
    return np.where(np.arange(len(even)) == attribute, share, others)


def drawn(
    labels: np.ndarray, present: np.ndarray, shares: np.ndarray, share: float = SHARE, seed: int = 0
) -> np.ndarray:
    """Images of a mixture, ascending.

    Parameters
    ----------
    labels : (N,) class of each image, 0 … C-1
    present : (N,) bool, which images hold the feature
    shares : (C, 2) of each class without and with the feature, in sum 1
    share : of the N images that are drawn, 0 … 1; a group that has fewer than its part gives what it has
    seed : the groups of all mixtures are drawn in one order, so that mixtures share images
    """
    n_images = number("share", share, 0, 1) * len(labels)
    order = stream(seed, "mixtures").permutation(len(labels))
    chosen = []
    for label, present_or_not in np.ndindex(shares.shape):
        group = order[(labels[order] == label) & (present[order] == bool(present_or_not))]
        chosen.append(group[: round(n_images * shares[label, present_or_not])])
    return np.sort(np.concatenate(chosen))
