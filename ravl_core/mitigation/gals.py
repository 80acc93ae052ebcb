"""GALS: the gradient of a classifier's loss is kept where the initial model sees what language names."""

from dataclasses import dataclass, field

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from ravl_core.checks import number, own
from ravl_core.losses import TEMPERATURE
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.recipe import Recipe, Run
from ravl_core.mitigation.vl_erm import COLDEST, class_losses
from ravl_core.vlm import VLM
from ravl_core.zero_shot import class_embeddings

TEMPLATES = ("a photo of a {}", "an image of a {}")  # as in the published configuration
AT_ONCE = 128  # images whose reference maps are made together


@dataclass(frozen=True)
class GALS(Recipe):
    """mean_i [ CE_i + weight · Σ_cells (1 - A_i) · |∂CE_i / ∂features_i| ], the text tower locked.

    CE is that of zero-shot classification. A is where the initial model sees the subject: the gradient of the image's
    cosine with it times the features, summed over channels, negatives cut off, the largest cell 1. Features are what an
    image shares with its regions, layer3's maps of a ResNet or the patches before the last block of a vision
    transformer; its class token stands nowhere and is free. An image whose map is empty has no penalty.

    Parameters
    ----------
    weight : of the penalty; 0 is fine-tuning of the zero-shot classifier.
    subject : what all classes are, "bird" for example; "": each image's own class.
    temperature : τ of the classifier.

    Source: Petryk et al. 2022, and their repository GALS, whose gradient is that of the pixels, of a classifier
    trained anew, with another model's maps: the features, and CLIP as its own guide, are our reading. So is the
    weight, as 10,000 there multiplies a mean over pixels.
    """

    weight: float = 0.1
    subject: str = ""
    temperature: float = TEMPERATURE

    def __post_init__(self):
        number("weight", self.weight, 0)
        number("temperature", self.temperature, COLDEST)
        if not isinstance(self.subject, str):
            raise ValueError(f"subject: expected words for what all classes are, or '', got {self.subject!r}")

    def begin(self, run: Run) -> Recipe:
        """The recipe with the maps of the initial model."""
        labels = run.dataset.labels
        names, which = ((self.subject,), labels * 0) if self.subject else (run.dataset.class_names, labels)
        asked = torch.from_numpy(class_embeddings(run.vlm, names, TEMPLATES)[which]).to(run.vlm.device)  # (N, D)
        images = torch.from_numpy(own(run.dataset.images)).permute(0, 3, 1, 2)
        parts = zip(images.split(AT_ONCE), asked.split(AT_ONCE), strict=True)
        return _Begun(**vars(self) | {"attention": torch.cat([attention_to(run.vlm, *part) for part in parts])})


@dataclass(frozen=True)
class _Begun(GALS):
    attention: torch.Tensor = field(kw_only=True, repr=False)  # (N, P) 0 … 1

    def objective(self, batch: Batch) -> torch.Tensor:
        features = batch.features
        if not features.requires_grad:  # a locked trunk
            features = features.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the faster ways to attend have no second derivative
            embeddings = batch.vlm.pool(features)
        losses = class_losses(embeddings, batch.class_embeddings, batch.labels, self.temperature)
        (gradients,) = torch.autograd.grad(losses.sum(), features, create_graph=True)
        outside = (1 - self.attention[batch.index]) * cells(gradients).abs().sum(dim=2)  # (B, P)
        return (losses + self.weight * outside.sum(dim=1)).mean()


def cells(features: torch.Tensor) -> torch.Tensor:
    """Maps (N, D3, H, W), or tokens (N, 1 + P, W) without the first, as cells with their channels, (N, P, D3 or W)."""
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features[:, 1:]


def attention_to(vlm: VLM, images: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """Where the model sees what unit embeddings (N, D) ask for, in images (N, 3, H, W) uint8: (N, P) 0 … 1.

    Where it sees nothing of the kind, all cells are 1.
    """
    vlm.eval()
    with torch.no_grad():
        features = vlm.trunk(vlm.prepare(images))
    features.requires_grad_()  # it belongs to no graph, so no gradient reaches a weight
    (gradients,) = torch.autograd.grad((vlm.pool(features) * asked).sum(), features)
    evidence = cells(gradients * features.detach()).sum(dim=2).clamp(min=0)
    largest = evidence.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, evidence / largest, 1)
