"""Which of several models is kept: the rule that every recipe's search follows."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from ravl_core.metrics import group_accuracies

Candidate = TypeVar("Candidate")
LEAST = 5  # images of a group that counts


def worst_group_on_val(predictions: np.ndarray, labels: np.ndarray, held: np.ndarray, n_classes: int) -> float:
    """Worst-group accuracy of a val set by the groups that a user knows, 0 … 1.

    Groups are class × (image holds the discovered cluster or not). Groups of fewer than five images are left out, as
    one image decides them; where none is left, the accuracy of all images counts.

    Parameters
    ----------
    predictions, labels : int arrays (N,)
    held : bool array (N,)
        Which images hold the discovered cluster; nowhere, if nothing was found.
    """
    groups = group_accuracies(predictions == labels, labels, held, n_classes)
    counted = groups.accuracy[groups.count >= LEAST]
    return float(counted.min()) if len(counted) else groups.overall


def select(scores: Mapping[Candidate, float]) -> Candidate:
    """The candidate with the highest score; the first one given on ties, and NaN is below everything.

    Raises
    ------
    ValueError
        There is no candidate.
    """
    if not scores:
        raise ValueError("scores: expected at least one candidate, got none")
    return max(scores, key=lambda name: -np.inf if np.isnan(scores[name]) else scores[name])
