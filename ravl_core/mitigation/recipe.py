"""What makes a recipe: which batches it draws, what it shows of them, and the objective. The loop does the rest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ravl_core.domains.dataset import Dataset
from ravl_core.mitigation.batch import Batch, Shown
from ravl_core.vlm import VLM


@dataclass(frozen=True)
class Run:
    """What a recipe may know before the first step."""

    vlm: VLM  # the initial model; from the first step on, the one that learns
    dataset: Dataset
    assignment: np.ndarray | None  # (M,) bool, which regions are spurious; None where nobody said
    groups: np.ndarray | None  # (N,) see `groups_of`
    seed: int

    @property
    def n_groups(self) -> int:
        """Classes, each without and with the spurious feature."""
        return 2 * self.dataset.n_classes


class Recipe:
    """What the loop needs of a recipe. Those that are to be compared differ in nothing else."""

    needs_assignment: ClassVar[bool] = False  # has to be told which regions are spurious
    trains_text: ClassVar[bool] = False  # the text tower's projection learns, too
    changes_images: ClassVar[bool] = False  # images are changed before they are encoded
    balanced: bool = False  # batches are drawn evenly from all groups, with replacement
    regions: str | None = None  # how regions are pooled in training, "early" or "late"; None: as the model does

    @property
    def encodes_regions(self) -> bool:
        """Whether the objective asks for region embeddings."""
        return False

    def begin(self, run: Run) -> "Recipe":
        """The recipe with all that one run has to remember; itself where there is nothing."""
        return self

    def change(self, shown: Shown) -> Shown:
        """What the model sees of a batch."""
        return shown

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch, a scalar."""
        raise NotImplementedError


def groups_of(dataset: Dataset, assignment: np.ndarray) -> np.ndarray:
    """Class × (no spurious region, at least one) of each image: 2 · label + 0 or 1, (N,) int64."""
    present = np.zeros(len(dataset), dtype=bool)
    present[dataset.image_index[assignment]] = True
    return 2 * dataset.labels.astype(np.int64) + present
