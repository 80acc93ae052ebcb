"""Spurious-Aware Detection (Yang et al. 2023): which named feature goes with a class's errors, and lifts its accuracy?

The published tool names features by an open-vocabulary detector. Here a feature is a cluster of regions, or the name
of the boxes that show it where a data set has such names. How RaVL adapted the method is not known; this is our
reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ravl_core.discovery import rank_regions
from ravl_core.kmedoids import Clustering
from ravl_core.pull import membership
from ravl_core.slicing.ranked import RankedRegions, nothing
from ravl_core.zero_shot import Evaluation

FEWEST_IMAGES = 10  # of a class with the feature
FEATURES_PER_CLASS = 5


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Every pair of a class and a feature, (C, F) each; F features.

    Attributes
    ----------
    information : float array
        Mutual information of presence and error among the class's images, in nats: 0 … ln 2.
    difference : float array
        Accuracy with the feature - without it, -1 … 1; NaN where there is no image on one side.
    n_with : int array
        Images of the class with the feature.
    """

    information: np.ndarray
    difference: np.ndarray
    n_with: np.ndarray


def feature_table(present: np.ndarray, labels: np.ndarray, correct: np.ndarray, n_classes: int) -> FeatureTable:
    """Mutual information and accuracy gap of each class and feature.

    Parameters
    ----------
    present : bool array (N, F)
        Which images hold which feature.
    labels : int array (N,)
    correct : bool array (N,)
        Whether each image is classified correctly.
    n_classes : int
        C.
    """
    own = (labels == np.arange(n_classes)[:, None]).astype(np.float64)  # (C, N)
    n, right = own.sum(axis=1, keepdims=True), own @ correct[:, None]  # (C, 1)
    n_with, right_with = own @ present, (own * correct) @ present  # (C, F)
    n_without, right_without = n - n_with, right - right_with
    with np.errstate(invalid="ignore"):
        difference = right_with / n_with - right_without / n_without
    counts = np.array([[right_with, n_with - right_with], [right_without, n_without - right_without]])  # (2, 2, C, F)
    return FeatureTable(_mutual_information(counts), difference, n_with.astype(np.int64))


def _mutual_information(counts: np.ndarray) -> np.ndarray:
    """Of the two sides of 2 × 2 tables, counts (2, 2, ...), in nats; 0 for an empty table."""
    total = np.maximum(counts.sum(axis=(0, 1)), 1)
    expected = counts.sum(axis=0, keepdims=True) * counts.sum(axis=1, keepdims=True) / total
    ratio = np.divide(counts, expected, out=np.ones_like(counts), where=counts > 0)
    return (counts * np.log(ratio)).sum(axis=(0, 1)) / total


def rank_features(table: FeatureTable) -> np.ndarray:
    """Pairs (class, feature) in the published order, (R, 2); may be empty.

    Of each class the five features with the most information, of those with any and with ten images or more; all of
    them by descending accuracy gap.
    """
    usable = (table.n_with >= FEWEST_IMAGES) & (table.information > 1e-12) & np.isfinite(table.difference)
    order = np.argsort(np.where(usable, -table.information, np.inf), axis=1, kind="stable")[:, :FEATURES_PER_CLASS]
    pairs = np.array([(label, f) for label, features in enumerate(order) for f in features if usable[label, f]])
    pairs = pairs.reshape(-1, 2).astype(np.int64)
    return pairs[np.argsort(-table.difference[pairs[:, 0], pairs[:, 1]], kind="stable")]


def spurious_aware(evaluation: Evaluation, clustering: Clustering) -> RankedRegions:
    """Features are region clusters; returns the first feature's regions by similarity with the cluster's medoid."""
    present = membership(clustering.labels, evaluation.image_index, len(evaluation.labels))
    pairs = rank_features(_table(evaluation, present))
    if not len(pairs):
        return nothing("no cluster is in ten images of a class and tells anything about its errors")
    attribute, cluster = map(int, pairs[0])
    medoid = clustering.medoid_embeddings[cluster]
    return RankedRegions(rank_regions(evaluation.region_embeddings, clustering.labels, cluster, medoid), attribute)


def spurious_aware_by_names(evaluation: Evaluation, box_names: Sequence[str]) -> RankedRegions:
    """Features are the names of boxes (M,), "" for none: what a perfect detector would say. Not for users' data.

    Names of classes are no features, as in the published tool. Regions keep the order in which they are stored.
    """
    names = np.asarray(box_names)
    features = sorted(set(names.tolist()) - {"", *evaluation.class_names})
    if not features:
        return nothing("no box has a name that is not a class")
    owner = np.searchsorted(features, names).clip(max=len(features) - 1)
    owner = np.where(np.asarray(features)[owner] == names, owner, -1)  # (M,)
    pairs = rank_features(_table(evaluation, membership(owner, evaluation.image_index, len(evaluation.labels))))
    if not len(pairs):
        return nothing("no named feature is in ten images of a class and tells anything about its errors")
    attribute, feature = map(int, pairs[0])
    return RankedRegions(np.flatnonzero(owner == feature), attribute)


def _table(evaluation: Evaluation, present: np.ndarray) -> FeatureTable:
    correct = evaluation.predictions == evaluation.labels
    return feature_table(present, evaluation.labels, correct, len(evaluation.class_names))
