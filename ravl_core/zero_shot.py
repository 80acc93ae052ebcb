"""Zero-shot classification, and `Evaluation`: all that is known about one model on one labelled set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from ravl_core import checks
from ravl_core.domains.dataset import Dataset, check_labels, check_prompts

if TYPE_CHECKING:
    from ravl_core.vlm import VLM

TEMPERATURE = 0.07  # of RaVL's scores


@dataclass(frozen=True)
class Evaluation:
    """What a discovery method may look at; N images, M regions, C classes, D embedding size."""

    image_embeddings: np.ndarray  # (N, D) unit
    region_embeddings: np.ndarray  # (M, D) unit
    image_index: np.ndarray  # (M,) the image of each region, non-decreasing
    boxes: np.ndarray  # (M, 4) pixels
    labels: np.ndarray  # (N,)
    class_names: tuple[str, ...]  # (C,)
    image_probs: np.ndarray  # (N, C) rows sum to 1
    region_probs: np.ndarray  # (M, C) rows sum to 1

    @property
    def predictions(self) -> np.ndarray:
        """(N,) the class with the highest score."""
        return self.image_probs.argmax(axis=1)

    @property
    def accuracy(self) -> float:
        """Share of images whose prediction is their label; NaN where there is no image."""
        return float((self.predictions == self.labels).mean()) if len(self.labels) else np.nan


def class_embeddings(vlm: "VLM", class_names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Unit class embeddings (C, D): the mean over templates of the unit text embeddings, normalised again.

    Raises
    ------
    ValueError
        A template without {} or with other places to fill in, no template, or class names that are empty or repeat.
    """
    check_prompts(class_names, templates)
    texts = [template.format(name) for name in class_names for template in templates]
    means = vlm.encode_texts(texts).reshape(len(class_names), len(templates), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def class_probabilities(embeddings: np.ndarray, classes: np.ndarray, temperature: float = TEMPERATURE) -> np.ndarray:
    """softmax(cosine / temperature) of unit embeddings (N, D) with unit class embeddings (C, D): (N, C)."""
    return softmax(embeddings @ classes.T / temperature, axis=1)


def evaluate(vlm: "VLM", dataset: Dataset, temperature: float = TEMPERATURE) -> Evaluation:
    """Embed and classify the images of a set and all their regions, each image in one pass through the trunk.

    Raises
    ------
    ValueError
        A part of the set that is not of its kind or does not fit the others; a temperature that is not above 0.
    """
    checks.made("vlm", vlm, "a model, see load_vlm", "encode_texts")
    check_labels(dataset)
    temperature = checks.above_zero("temperature", temperature)
    image_embeddings, region_embeddings = vlm.encode(dataset.images, dataset.boxes, dataset.image_index)
    classes = class_embeddings(vlm, dataset.class_names, dataset.templates)
    return Evaluation(
        image_embeddings=image_embeddings,
        region_embeddings=region_embeddings,
        image_index=dataset.image_index,
        boxes=dataset.boxes,
        labels=dataset.labels,
        class_names=dataset.class_names,
        image_probs=class_probabilities(image_embeddings, classes, temperature),
        region_probs=class_probabilities(region_embeddings, classes, temperature),
    )
