"""VL-ERM: CLIP's loss on images and captions, and a classifier's loss on images and classes."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ravl_core.checks import number
from ravl_core.losses import TEMPERATURE, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.recipe import Recipe

COLDEST = 1e-6


def class_losses(
    image_embeddings: torch.Tensor,
    class_embeddings: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """Cross-entropy of each image's zero-shot scores, (B,); 0 where all probability is on the label.

    Unit embeddings of images (B, D) and classes (C, D), labels (B,).
    """
    return F.cross_entropy(image_embeddings @ class_embeddings.T / temperature, labels, reduction="none")


@dataclass(frozen=True)
class VLERM(Recipe):
    """L_CL + weight · mean_i CE(f_i · g(class) / τ, y_i), the text tower locked.

    Classes are embedded as in zero-shot classification. No region is used, and nothing has to be known of groups.

    Parameters
    ----------
    weight : of the classifier's loss, 0 or more; 0 is standard fine-tuning.
    temperature : τ of both losses.

    Source: RaVL's table 3 names the recipe and gives no formula. That CLIP's loss stays, and the weight of 1, are our
    reading.
    """

    weight: float = 1.0
    temperature: float = TEMPERATURE

    def __post_init__(self):
        number("weight", self.weight, 0)
        number("temperature", self.temperature, COLDEST)

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch."""
        images = clip_loss(batch.image_embeddings, batch.text_embeddings, self.temperature)
        classes = class_losses(batch.image_embeddings, batch.class_embeddings, batch.labels, self.temperature)
        return images + self.weight * classes.mean()
