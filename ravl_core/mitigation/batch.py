"""A batch on its way through the model: what is shown of it, and what the model makes of that."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ravl_core.mitigation.texts import Texts
from ravl_core.vlm import VLM


@dataclass(frozen=True)
class Shown:
    """B images with R regions before they are encoded; what a recipe that changes images may change."""

    images: torch.Tensor  # (B, 3, H, W) uint8
    boxes: torch.Tensor  # (R, 4) in units of the image
    image_index: torch.Tensor  # (R,) in 0 … B-1
    spurious: torch.Tensor  # (R,) bool
    regions: np.ndarray  # (R,) where these regions stand in the fine-tuning set


@dataclass
class Batch:
    """B images. Embeddings are computed when an objective first asks for them."""

    vlm: VLM
    index: torch.Tensor  # (B,) where these images stand in the fine-tuning set
    features: torch.Tensor  # (B, D3, H, W) layer3's maps, shared by images and regions
    labels: torch.Tensor  # (B,)
    groups: torch.Tensor | None  # (B,) class × spurious region or none; None where nobody said what is spurious
    texts: Texts
    caption_features: torch.Tensor  # (B, …) of `texts`
    class_features: torch.Tensor  # (C, T, …) of the zero-shot prompts
    boxes: torch.Tensor  # (R, 4) of the batch's regions, in units of the image
    image_index: torch.Tensor  # (R,) in 0 … B-1
    spurious: torch.Tensor | None  # (R,) bool
    encodes_regions: bool
    progress: float  # the share of the steps that lies behind, 0 … 1

    @cached_property
    def text_embeddings(self) -> torch.Tensor:
        """(B, D) unit, of the captions."""
        return self.texts.embed(self.caption_features)

    @cached_property
    def class_embeddings(self) -> torch.Tensor:
        """(C, D) unit: the mean over prompts of their unit embeddings, normalised again."""
        return torch.nn.functional.normalize(self.texts.embed(self.class_features).mean(dim=1), dim=-1)

    @cached_property
    def image_embeddings(self) -> torch.Tensor:
        """(B, D) unit; pooled together with the regions if the recipe uses those."""
        return self._both[0] if self.encodes_regions else self.vlm.pool(self.features)

    @property
    def region_embeddings(self) -> torch.Tensor:
        """(R, D) unit."""
        return self._both[1]

    @cached_property
    def _both(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vlm.pool_both(self.features, self.boxes, self.image_index)
