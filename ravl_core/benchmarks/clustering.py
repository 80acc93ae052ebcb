"""Clustering of regions: what it costs as it was published, exactly, and in linear time, beside one product."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ravl_core.kmedoids import Clustering, cluster_regions, cosine_distances
from ravl_core.linear_kmedoids import cluster_many_regions

if TYPE_CHECKING:
    import pandas as pd

SWEEP = range(20, 50)  # the paper's 2C … 5C-1 for ten classes
ROWS_AT_A_TIME = 2**14
N_KINDS, N_NUISANCES = 45, 24


def made_up_kinds(n_regions: int, n_kinds: int = N_KINDS, seed: int = 0) -> np.ndarray:
    """What regions show, (M,) 0 … n_kinds-1: few kinds are common and many are rare."""
    shares = 1 / (5 + np.arange(n_kinds))
    return np.random.default_rng(seed).choice(n_kinds, size=n_regions, p=shares / shares.sum())


def made_up_embeddings(kinds: np.ndarray, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Unit embeddings, float32 (block, D), of regions that show these kinds.

    Like those of CLIP, all of them share a direction, so that no cosine is negative. Regions of a kind differ along
    directions that all kinds have in common, as light and place would make them differ, and by a little noise.
    """
    random = np.random.default_rng([seed, 1])
    common, *centres = _unit(random.normal(size=(1 + int(kinds.max()) + 1, size)))
    centres, nuisances = np.float32(common + 0.7 * np.array(centres)), _unit(random.normal(size=(N_NUISANCES, size)))
    for start in range(0, len(kinds), ROWS_AT_A_TIME):
        shown = kinds[start : start + ROWS_AT_A_TIME]
        values = random.standard_normal((len(shown), N_NUISANCES), dtype=np.float32) * (0.6 / N_NUISANCES**0.5)
        noise = random.standard_normal((len(shown), size), dtype=np.float32) * np.float32(0.3 / size**0.5)
        yield _unit(centres[shown] + values @ nuisances.astype(np.float32) + noise)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
