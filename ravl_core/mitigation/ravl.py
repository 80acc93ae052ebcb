"""RaVL's recipe: CLIP's loss on images, the region-aware loss on regions."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ravl_core.checks import number
from ravl_core.losses import TEMPERATURE, RegionAwareLoss, clip_loss
from ravl_core.mitigation.training import Batch


@dataclass(frozen=True)
class RegionAware:
    """λ · L_CL + (1 - λ) · mean(L_R + L_A), the text tower locked.

    Parameters
    ----------
    clip_weight : λ; 1 is standard fine-tuning, 0 the region-aware loss alone.
    labels_in_batch : see `RegionAwareLoss`.

    Source: RaVL, stage 2.
    """

    clip_weight: float = 0.8
    temperature: float = TEMPERATURE
    labels_in_batch: str = "samples"
    needs_assignment: ClassVar[bool] = True

    def __post_init__(self):
        number("clip_weight", self.clip_weight, 0, 1)

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        images = clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
        regions = RegionAwareLoss(self.temperature, self.labels_in_batch)(
            batch.region_embeddings, batch.image_index, batch.spurious, batch.class_embeddings, batch.labels
        )
        return self.clip_weight * images + (1 - self.clip_weight) * regions.total
