"""Sensitivity: what stage 1 says with other region embeddings, another temperature, other mixtures of images.

One thing varies at a time, and each variation is compared with the base run of its kind, as in `ravl_core.stability`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.comparison import subset
from ravl_core.domains.dataset import Dataset
from ravl_core.kmedoids import Clustering
from ravl_core.losses import TEMPERATURE
from ravl_core.mixtures import drawn, mixtures
from ravl_core.stability import Run, clustered, compared, first_findings
from ravl_core.zero_shot import Evaluation, class_embeddings, class_probabilities, evaluate

if TYPE_CHECKING:
    from ravl_core.vlm import VLM

TEMPERATURES = (0.01, 0.03, 0.3, 1.0)  # beside 0.07, at which models are fine-tuned; CLIP's own is 0.01


def sensitivity(
    vlm: VLM,
    data: Dataset,
    evaluation: Evaluation,
    truths: Mapping[str, np.ndarray],
    clustering: Clustering,
    attribute: int,
    seed: int = 0,
) -> list[dict]:
    """Stage 1 varied in what it is given, and compared with its base run.

    Parameters
    ----------
    vlm, data, evaluation, truths, clustering, seed
        As in `ravl_core.stability.stability`.
    attribute : int
        The class that the feature was planted with; mixtures make it rare or common.

    Returns
    -------
    list of dict
        Rows as in `ravl_core.stability.stability`. `kind` is "pooling" (how regions are embedded; the first row is the
        model's own), "temperature" (of zero-shot probabilities) or "mixture" (400 of 1,000 images;
        compared with as many balanced ones).
    """
    shown, base = truths["shows_feature"], first_findings(evaluation, truths["shows_feature"], clustering, seed)
    rows = [compared("pooling", vlm.pooling, base, base)]
    for pooling in other_poolings(vlm):
        seen = evaluate(with_pooling(vlm, pooling), data)
        rows.append(compared("pooling", pooling, clustered(seen, shown, seed), base))
    rows.append(compared("temperature", f"{TEMPERATURE:g}", base, base))
    for temperature in TEMPERATURES:
        seen = at_temperature(vlm, data, evaluation, temperature)
        found = first_findings(seen, shown, clustering, seed)
        rows.append(compared("temperature", f"{temperature:g}", found, base))
    runs = dict(_mixed(evaluation, truths, attribute, seed))
    return rows + [compared("mixture", name, run, runs["balanced"]) for name, run in runs.items()]


def other_poolings(vlm: VLM) -> list[str]:
    """How else the model could embed regions."""
    offered = (*(vlm.tower.poolings if vlm.tower else ()), "crop")
    return [pooling for pooling in offered if pooling != vlm.pooling]


def with_pooling(vlm: VLM, pooling: str) -> VLM:
    """The same weights, with regions embedded in another way."""
    return type(vlm)(vlm.clip, vlm.tokenizer, vlm.name, vlm.configuration, pooling).to(vlm.device)


def at_temperature(vlm: VLM, data: Dataset, evaluation: Evaluation, temperature: float) -> Evaluation:
    """The same embeddings, with probabilities of another temperature."""
    classes = class_embeddings(vlm, data.class_names, data.templates)
    return replace(
        evaluation,
        image_probs=class_probabilities(evaluation.image_embeddings, classes, temperature),
        region_probs=class_probabilities(evaluation.region_embeddings, classes, temperature),
    )


def _mixed(
    evaluation: Evaluation, truths: Mapping[str, np.ndarray], attribute: int, seed: int
) -> Iterator[tuple[str, Run]]:
    """What is found in each mixture of the evaluation's images."""
    for name, shares in mixtures(len(evaluation.class_names), attribute).items():
        images = drawn(evaluation.labels, truths["feature_present"], shares, seed=seed)
        part, shown, _ = subset(evaluation, truths, images)
        yield name, clustered(part, shown, seed)
