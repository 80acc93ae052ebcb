"""Which images make a batch: each in its turn, or evenly from all groups. Both show the same number of images."""

from collections.abc import Iterator

import numpy as np


def shuffled(n_images: int, batch_size: int, epochs: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches (B,) of indices for all epochs; the last images of an epoch that fill no batch wait for the next one."""
    for _ in range(epochs):
        order = random.permutation(n_images)
        for first in range(0, n_images - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def group_balanced(
    groups: np.ndarray, batch_size: int, epochs: int, random: np.random.Generator
) -> Iterator[np.ndarray]:
    """As many batches as `shuffled` has, drawn with replacement, every group that has images equally often.

    An image's weight is 1 / (images of its group): the sampler of group DRO's `reweight_groups` (Sagawa et al. 2020)
    and of WILDS' `uniform_over_groups`.
    """
    weights = 1 / np.bincount(groups)[groups]
    for _ in range(epochs * (len(groups) // batch_size)):
        yield random.choice(len(groups), batch_size, p=weights / weights.sum())
