"""Standard fine-tuning: CLIP's loss on images and captions."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from ravl_core.losses import TEMPERATURE, clip_loss
from ravl_core.mitigation.training import Batch


@dataclass(frozen=True)
class Standard:
    """The symmetric CLIP loss with diagonal targets, text tower locked."""

    temperature: float = TEMPERATURE
    needs_assignment: ClassVar[bool] = False

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        return clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
