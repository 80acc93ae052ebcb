"""Group DRO: groups with a high loss get more weight from batch to batch (Sagawa et al. 2020)."""

import numpy as np
import torch

from ravl_core.checks import integers, number


def group_means(values: torch.Tensor, groups: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Mean of values (B,) over the images of each group, (G,); 0 for a group that the batch does not hold."""
    member = (groups[:, None] == torch.arange(n_groups, device=groups.device)).to(values.dtype)  # (B, G)
    return (member * values[:, None]).sum(dim=0) / member.sum(dim=0).clamp(min=1)


class GroupWeights:
    """The weights q of one run's groups; they sum to 1.

    From mean losses L_g of a batch (0 for an absent group) and A_g = L_g + C / √n_g:

        q_g ← q_g · exp(η · A_g) / Σ,    loss = Σ_g q_g · A_g  with the new q

    Parameters
    ----------
    counts : (G,) n_g, training images of each group. A group of none keeps the weight 0, as in WILDS; the others
        begin with equal weights.
    step_size : η, 0 or more; 0 leaves q as it is.
    adjustment : C, 0 or more: the smaller a group, the more is added to its loss. It moves q and the value that is
        returned; the gradient feels it through q only.

    Source: Sagawa et al. 2020, algorithm 1, and the authors' `LossComputer`, without its option to divide A by its sum.
    """

    def __init__(self, counts: np.ndarray, step_size: float = 0.01, adjustment: float = 0.0, device="cpu"):
        self.step_size = number("step_size", step_size, 0)
        counts = torch.as_tensor(integers("counts", counts, 0, np.iinfo(np.int64).max), device=device)
        if not counts.any():
            raise ValueError(f"counts: expected a group that has images, got {counts.tolist()}")
        self.penalty = number("adjustment", adjustment, 0) / counts.clamp(min=1).sqrt()  # (G,)
        self._log_weights = torch.log_softmax((counts > 0).float().log(), dim=0)

    @property
    def weights(self) -> torch.Tensor:
        """q, (G,)."""
        return self._log_weights.exp()

    def weigh(self, losses: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
        """Update the weights by a batch's losses (B,) of its images' groups (B,); the loss under them, a scalar."""
        adjusted = group_means(losses, groups, len(self.penalty)) + self.penalty
        # By logarithms, because exp(η · A) has no largest value.
        self._log_weights = torch.log_softmax(self._log_weights + self.step_size * adjusted.detach(), dim=0)
        return (self.weights * adjusted).sum()
