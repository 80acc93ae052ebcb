"""VL-GDRO: CLIP's loss on images and captions, and a classifier's loss whose worst groups count most."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from ravl_core.checks import number
from ravl_core.losses import TEMPERATURE, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.group_weights import GroupWeights
from ravl_core.mitigation.recipe import Recipe, Run
from ravl_core.mitigation.vl_erm import COLDEST, class_losses


@dataclass(frozen=True)
class VLGDRO(Recipe):
    """L_CL + weight · Σ_g q_g · mean CE(f_i · g(class) / τ, y_i) over group g, the text tower locked.

    Groups are class × spurious region or none, and q moves by `GroupWeights`, anew in each run.

    Parameters
    ----------
    weight : of the classifier's loss, 0 or more; 0 is fine-tuning by CLIP's loss alone.
    step_size, adjustment : η and C of `GroupWeights`.
    temperature : τ of both losses.
    balanced : draw batches evenly from all groups. The default, because group DRO is published so: its authors'
        commands set `reweight_groups`, WILDS sets `uniform_over_groups`. In plain batches a rare group is mostly
        absent, and an absent group has no loss.

    Source: RaVL's table 3 names the recipe and gives no formula. That CLIP's loss stays, and the weight of 1, are our
    reading.
    """

    weight: float = 1.0
    step_size: float = 0.01
    adjustment: float = 0.0
    temperature: float = TEMPERATURE
    balanced: bool = True
    needs_assignment: ClassVar[bool] = True

    def __post_init__(self):
        for name in ("weight", "step_size", "adjustment"):
            number(name, getattr(self, name), 0)
        number("temperature", self.temperature, COLDEST)

    def begin(self, run: Run) -> Recipe:
        """The recipe with group weights of its own."""
        counts = np.bincount(run.groups, minlength=run.n_groups)
        groups = GroupWeights(counts, self.step_size, self.adjustment, run.vlm.device)
        return _Begun(**vars(self) | {"groups": groups})


@dataclass(frozen=True)
class _Begun(VLGDRO):
    groups: GroupWeights = field(kw_only=True)

    def objective(self, batch: Batch) -> torch.Tensor:
        images = clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
        classes = class_losses(batch.image_embeddings, batch.class_embeddings, batch.labels, self.temperature)
        return images + self.weight * self.groups.weigh(classes, batch.groups)
