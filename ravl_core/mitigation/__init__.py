"""Fine-tuning recipes on one training loop. A recipe is a sampler and an objective; each has a file of its own."""

from dataclasses import fields

import numpy as np

from ravl_core.checks import choice
from ravl_core.domains.dataset import Dataset
from ravl_core.mitigation import (
    gals,
    language_guided,
    ravl,
    spurious_aware,
    standard,
    swaps,
    upsampled,
    vl_erm,
    vl_gdro,
)
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.mitigation.training import History, finetune
from ravl_core.vlm import VLM

__all__ = ["RECIPES", "Budget", "History", "finetune", "mitigate"]

RECIPES = {
    "standard": standard.Standard,
    "upsampled": upsampled.Upsampled,
    "vl_erm": vl_erm.VLERM,
    "vl_gdro": vl_gdro.VLGDRO,
    "spurious_aware": spurious_aware.SpuriousAware,
    "ravl": ravl.RegionAware,
    "swaps": swaps.Swaps,
    "language_guided": language_guided.LanguageGuided,
    "gals": gals.GALS,
}


def mitigate(
    initial_vlm: VLM,
    finetuning_set: Dataset,
    assignment: np.ndarray | None = None,
    recipe: str = "ravl",
    budget: Budget = DEFAULT_BUDGET,
    seed: int = 0,
    **options,
) -> tuple[VLM, History]:
    """Fine-tune the initial model by a recipe; the model that is passed in stays as it is.

    Parameters
    ----------
    assignment : (M,) bool, which fine-tuning regions are spurious, from `assign_regions`; every recipe but "standard",
        "vl_erm", "language_guided" and "gals" needs it, for its regions or for its groups.
    recipe : a name in `RECIPES`; `options` go to it (for "ravl": `clip_weight`, `labels_in_batch`, …).
    budget : how long, in which batches and steps; equal for recipes that are to be compared.

    Raises
    ------
    ValueError
        An unknown recipe (with the nearest match), or an assignment that does not fit the set.
    """
    chosen = RECIPES[choice("recipe", recipe, tuple(RECIPES))]
    for option in options:
        choice(f"option of {recipe!r}", option, [field.name for field in fields(chosen)])
    return finetune(initial_vlm, finetuning_set, chosen(**options), assignment, budget, seed)
