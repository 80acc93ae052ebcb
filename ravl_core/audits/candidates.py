"""What an audit looks at: the regions' clusters, coarse and fine.

The silhouette chooses among 2C … 5C-1 clusters, which of two classes makes four to nine. In photographs such clusters
mix a feature with others. So two finer clusterings stand beside it, and whatever pulls most is tested against the
largest statistics that chance gives over all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ravl_core.kmedoids import Clustering
from ravl_core.pull import membership
from ravl_core.significance import LEVEL, SignificantCluster, significant_clusters
from ravl_core.slicing.ravl import fine_clustering
from ravl_core.zero_shot import Evaluation

PER_CLASS = (8, 16)  # clusters of the finer clusterings


@dataclass(frozen=True, eq=False)
class Candidates:
    """Clusters of several clusterings of the same regions; K clusters in all."""

    clusterings: tuple[Clustering, ...] = field(repr=False)
    held: np.ndarray = field(repr=False)  # (N, K) bool: which images hold which cluster
    clustering_of: np.ndarray = field(repr=False)  # (K,) the place of its clustering
    cluster_of: np.ndarray = field(repr=False)  # (K,) its number there

    def significant(
        self,
        evaluation: Evaluation,
        tested: np.ndarray | None = None,
        level: float = LEVEL,
        n_permutations: int = 999,
        seed: int = 0,
    ) -> tuple[SignificantCluster, ...]:
        """The clusters, by their place among all K, that neither chance nor the model's habits explain.

        `tested` (ascending indices) limits the images that are asked, to one of each group.
        """
        rows = slice(None) if tested is None else tested
        asked = self.held[rows], evaluation.labels[rows], evaluation.image_probs[rows]
        return significant_clusters(*asked, level, n_permutations=n_permutations, seed=seed)

    def regions(self, place: int) -> np.ndarray:
        """The regions (R,) of the cluster at that place, ascending."""
        clustering = self.clusterings[self.clustering_of[place]]
        return np.flatnonzero(clustering.labels == self.cluster_of[place])


def candidates_of(evaluation: Evaluation, coarse: Clustering, seed: int = 0) -> Candidates:
    """The coarse clustering and the finer ones of the same regions."""
    return gathered(evaluation, [coarse, *(fine_clustering(evaluation, seed, per_class) for per_class in PER_CLASS)])


def gathered(evaluation: Evaluation, clusterings: list[Clustering]) -> Candidates:
    """The clusters of some clusterings of an evaluation's regions."""
    n_images = len(evaluation.labels)
    held = [membership(one.labels, evaluation.image_index, n_images) for one in clusterings]
    counts = [one.shape[1] for one in held]
    numbers = np.concatenate([np.arange(count) for count in counts])
    return Candidates(tuple(clusterings), np.hstack(held), np.repeat(np.arange(len(held)), counts), numbers)
