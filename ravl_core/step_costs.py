"""What a training step costs: without regions, with early or late ones, and the region-aware loss alone."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from ravl_core.domains.dataset import Dataset
from ravl_core.losses import RegionAwareLoss
from ravl_core.mitigation.budget import Budget
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.training import finetune
from ravl_core.vlm import VLM

KINDS = {
    "images alone": RegionAware(clip_weight=1.0),
    "late regions": RegionAware(regions="late"),
    "early regions": RegionAware(regions="early"),
}


def step_costs(vlm: VLM, dataset: Dataset, assignment: np.ndarray, budget: Budget, n_rounds: int = 3) -> pd.DataFrame:
    """Seconds of a training step of each kind, and in times of the step without regions.

    All kinds share the loop, the batches and the recipe's other parts. Each is run as often as there are rounds, in
    turn, and the fastest run counts: what a busy machine adds is never negative.

    Parameters
    ----------
    assignment : (M,) bool, which regions are spurious.
    budget : its epochs are how many steps a run has.

    Returns
    -------
    DataFrame
        Rows "images alone", "late regions", "early regions" and "the loss alone" (given the embeddings of one batch,
        forwards and backwards); columns `seconds` and `times`.
    """
    seconds = {kind: [] for kind in KINDS}
    for _ in range(n_rounds):
        for kind, recipe in KINDS.items():
            seconds[kind].append(_seconds_of_a_step(vlm, dataset, recipe, assignment, budget))
    fastest = {kind: min(values) for kind, values in seconds.items()}
    fastest["the loss alone"] = _seconds_of_the_loss(vlm, dataset, assignment, budget.batch_size, n_rounds)
    table = pd.DataFrame({"seconds": fastest})
    return table.assign(times=table.seconds / table.seconds["images alone"])


def _seconds_of_a_step(
    vlm: VLM, dataset: Dataset, recipe: RegionAware, assignment: np.ndarray, budget: Budget
) -> float:
    """The steps of a run's last epochs, without what is done once, by the difference of a long and a short run."""
    short = replace(budget, epochs=1)
    once = _timed(lambda: finetune(vlm, dataset, recipe, assignment, short))
    whole = _timed(lambda: finetune(vlm, dataset, recipe, assignment, budget))
    n_steps = (budget.epochs - 1) * (len(dataset) // min(budget.batch_size, len(dataset)))
    return (whole - once) / n_steps


def _seconds_of_the_loss(vlm: VLM, dataset: Dataset, assignment: np.ndarray, batch_size: int, n_rounds: int) -> float:
    """Forwards and backwards on the regions of the first images, from random unit embeddings of the model's size."""
    own = dataset.image_index < batch_size
    random = torch.Generator().manual_seed(0)
    regions, classes = (
        torch.nn.functional.normalize(torch.randn(n, vlm.embedding_size, generator=random), dim=-1)
        for n in (int(own.sum()), dataset.n_classes)
    )
    known = torch.from_numpy(dataset.image_index[own]), torch.from_numpy(assignment[own])
    labels, loss = torch.from_numpy(dataset.labels[:batch_size]), RegionAwareLoss()

    def step():
        loss(regions.clone().requires_grad_(), *known, classes, labels).total.backward()

    return min(_timed(step) for _ in range(10 * n_rounds))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
