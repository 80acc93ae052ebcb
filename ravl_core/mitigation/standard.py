"""Standard fine-tuning: CLIP's loss on images and captions."""

from dataclasses import dataclass

import torch

from ravl_core.losses import TEMPERATURE, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.recipe import Recipe


@dataclass(frozen=True)
class Standard(Recipe):
    """The symmetric CLIP loss with diagonal targets, text tower locked."""

    temperature: float = TEMPERATURE

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        return clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
