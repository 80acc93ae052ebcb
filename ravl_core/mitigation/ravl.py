"""RaVL's recipe: CLIP's loss on images, the region-aware loss on regions."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ravl_core.checks import number
from ravl_core.losses import TEMPERATURE, RegionAwareLoss, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.recipe import Recipe
from ravl_core.mitigation.vl_erm import class_losses


@dataclass(frozen=True)
class RegionAware(Recipe):
    """λ · L_CL + (1 - λ) · mean(L_R + L_A), the text tower locked.

    Parameters
    ----------
    clip_weight : λ; 1 is standard fine-tuning, 0 the region-aware loss alone.
    first_clip_weight : λ of the first step, from which it moves in a straight line to `clip_weight`; None: no change.
    relevant_weight, aligned_weight : of L_R and L_A; 0 leaves one out.
    class_weight : of the zero-shot classifier's cross-entropy on images, which VL-ERM has; 0: none.
    labels_in_batch : see `RegionAwareLoss`.
    regions : "early" or "late" pooling in training; None: as the model pools.
    balanced : draw batches evenly from all groups, see `ravl_core.mitigation.samplers`.

    Source: RaVL, stage 2. The schedule, the balanced batches and the classifier's loss are ours.
    """

    clip_weight: float = 0.8
    first_clip_weight: float | None = None
    relevant_weight: float = 1.0
    aligned_weight: float = 1.0
    class_weight: float = 0.0
    temperature: float = TEMPERATURE
    labels_in_batch: str = "samples"
    regions: str | None = None
    balanced: bool = False
    needs_assignment: ClassVar[bool] = True

    def __post_init__(self):
        number("clip_weight", self.clip_weight, 0, 1)
        for name in ("relevant_weight", "aligned_weight", "class_weight"):
            number(name, getattr(self, name), 0)
        if self.first_clip_weight is not None:
            number("first_clip_weight", self.first_clip_weight, 0, 1)

    @property
    def encodes_regions(self) -> bool:
        """Regions cost nothing where they have no weight."""
        return min(self.clip_weight, self._first) < 1

    @property
    def _first(self) -> float:
        return self.clip_weight if self.first_clip_weight is None else self.first_clip_weight

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        images = clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
        if self.class_weight:
            classes = batch.image_embeddings, batch.class_embeddings, batch.labels
            images = images + self.class_weight * class_losses(*classes, self.temperature).mean()
        if not self.encodes_regions:
            return images
        terms = RegionAwareLoss(self.temperature, self.labels_in_batch)(
            batch.region_embeddings, batch.image_index, batch.spurious, batch.class_embeddings, batch.labels
        )
        regions = self.relevant_weight * terms.relevant + self.aligned_weight * terms.aligned
        weight = self._first + (self.clip_weight - self._first) * batch.progress
        return weight * images + (1 - weight) * regions
