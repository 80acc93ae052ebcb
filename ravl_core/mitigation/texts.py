"""Text embeddings in training. The text tower is locked, so that each text passes through it once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ravl_core.vlm import VLM


class Texts:
    """Texts, encoded once; where the tower's projection is trained, up to there.

    Parameters
    ----------
    vlm : the model that is trained.
    trained : whether its text projection learns.
    """

    def __init__(self, vlm: VLM, trained: bool):
        self.vlm, self.trained = vlm, trained
        self.owner = vlm.clip if hasattr(vlm.clip, "text_projection") else vlm.clip.text

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """What learns: nothing, or the projection."""
        if not self.trained:
            return []
        projection = self.owner.text_projection
        return [projection] if isinstance(projection, torch.nn.Parameter) else list(projection.parameters())

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """What `embed` takes: (T, W) before the projection where that learns, else the unit embeddings (T, D)."""
        distinct, which = np.unique(np.asarray(texts), return_inverse=True)
        if not self.trained:
            return torch.from_numpy(self.vlm.encode_texts(distinct.tolist())[which]).to(self.vlm.device)
        projection, self.owner.text_projection = self.owner.text_projection, None
        try:
            with torch.no_grad():
                tokens = self.vlm.tokenizer(distinct.tolist()).to(self.vlm.device)
                return self.vlm.clip.encode_text(tokens)[torch.from_numpy(which)]
        finally:
            self.owner.text_projection = projection

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (…, D) of features (…, W), by the projection as it is now."""
        if not self.trained:
            return features
        projection = self.owner.text_projection
        projected = projection(features) if isinstance(projection, torch.nn.Linear) else features @ projection
        return F.normalize(projected, dim=-1)
