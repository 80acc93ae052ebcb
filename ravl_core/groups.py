"""Accuracy of a model by group, class × (planted feature present or absent), for images and for core regions."""

from dataclasses import dataclass, replace

import numpy as np

from ravl_core.domains.dataset import Dataset
from ravl_core.metrics import GroupAccuracies, group_accuracies
from ravl_core.zero_shot import Evaluation


@dataclass(frozen=True)
class Performance:
    """The four figures of RaVL's table 3, with the groups behind them."""

    images: GroupAccuracies
    core_regions: GroupAccuracies  # regions that show what the label names, each classified alone

    @property
    def summary(self) -> dict[str, float]:
        """Overall and worst-group accuracy, 0 … 1, of images and of core regions."""
        return {
            "image_overall": self.images.overall,
            "image_worst_group": self.images.worst_group,
            "region_overall": self.core_regions.overall,
            "region_worst_group": self.core_regions.worst_group,
        }


def performance(evaluation: Evaluation, dataset: Dataset) -> Performance:
    """Group accuracies of the model that was evaluated, on the set that it was evaluated on.

    Raises
    ------
    ValueError
        The set does not say which boxes show the core feature or where the planted feature is.
    """
    if dataset.shows_core is None or dataset.feature_present is None:
        raise ValueError("dataset: group accuracies need to know what each box shows and where the feature is")
    correct = evaluation.predictions == dataset.labels
    images = group_accuracies(correct, dataset.labels, dataset.feature_present, dataset.n_classes)
    owners = dataset.image_index[dataset.shows_core]
    named = evaluation.region_probs[dataset.shows_core].argmax(axis=1)
    core = group_accuracies(
        named == dataset.labels[owners], dataset.labels[owners], dataset.feature_present[owners], dataset.n_classes
    )
    return Performance(images, core)


def without_regions(dataset: Dataset) -> Dataset:
    """The same images without any box, for what concerns images alone."""
    return core_regions_only(replace(dataset, shows_core=np.zeros(len(dataset.boxes), dtype=bool)))


def core_regions_only(dataset: Dataset) -> Dataset:
    """The same images with no boxes but those that show what the label names."""
    core = dataset.shows_core
    return replace(
        dataset,
        boxes=dataset.boxes[core],
        image_index=dataset.image_index[core],
        shows_core=core[core],
        shows_feature=None if dataset.shows_feature is None else dataset.shows_feature[core],
    )


def group_table(performance: Performance) -> dict[str, list]:
    """Accuracies and counts of all groups as nested lists, (C, 2) without and with the feature, for a record."""
    return {
        "image_accuracy": np.round(performance.images.accuracy, 6).tolist(),
        "image_count": performance.images.count.tolist(),
        "region_accuracy": np.round(performance.core_regions.accuracy, 6).tolist(),
        "region_count": performance.core_regions.count.tolist(),
    }
