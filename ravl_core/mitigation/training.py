"""The one training loop that every recipe shares. The text tower is locked, so each text is encoded once."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from ravl_core.checks import choice
from ravl_core.domains.dataset import Dataset
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.progress import track
from ravl_core.randomness import stream
from ravl_core.vlm import VLM, boxes_in_image_units
from ravl_core.zero_shot import class_embeddings


@dataclass(frozen=True)
class History:
    """What happened in training."""

    losses: np.ndarray  # (steps,)
    learning_rates: np.ndarray  # (steps,)
    n_images_seen: int


@dataclass
class Batch:
    """B images on their way through the model. Embeddings are computed when an objective first asks for them."""

    vlm: VLM
    features: torch.Tensor  # (B, D3, H, W) layer3's maps, shared by images and regions
    labels: torch.Tensor  # (B,)
    text_embeddings: torch.Tensor  # (B, D) of the captions
    class_embeddings: torch.Tensor  # (C, D)
    boxes: torch.Tensor  # (R, 4) of the batch's regions, in units of the image
    image_index: torch.Tensor  # (R,) in 0 … B-1
    spurious: torch.Tensor | None  # (R,) bool; None for recipes without regions

    @cached_property
    def image_embeddings(self) -> torch.Tensor:
        """(B, D) unit; pooled together with the regions if the recipe uses those."""
        return self.vlm.pool(self.features) if self.spurious is None else self._both[0]

    @property
    def region_embeddings(self) -> torch.Tensor:
        """(R, D) unit."""
        return self._both[1]

    @cached_property
    def _both(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.vlm.pool_both(self.features, self.boxes, self.image_index)


class Recipe(Protocol):
    """What the loop needs of a recipe."""

    needs_assignment: bool

    def objective(self, batch: Batch) -> torch.Tensor:
        """The loss of one batch, a scalar."""
        ...


def finetune(
    initial_vlm: VLM,
    dataset: Dataset,
    recipe: Recipe,
    assignment: np.ndarray | None = None,
    budget: Budget = DEFAULT_BUDGET,
    seed: int = 0,
) -> tuple[VLM, History]:
    """Train a copy of the model's image tower; the model that is passed in stays as it is.

    Raises
    ------
    ValueError
        The recipe needs an assignment and there is none, or it does not hold one value a region; the model's
        image tower is none of CLIP's ResNets, or it cuts regions out, which this loop does not train.
    """
    if initial_vlm.pooling == "crop":
        came = f"{initial_vlm.name} with pooling='crop'"
        raise ValueError(f"initial_vlm: training needs a ResNet tower with early or late regions, got {came}")
    if len(dataset) == 0:
        raise ValueError("dataset: expected at least one image, got none")
    _check_assignment(recipe, assignment, len(dataset.boxes))
    choice("batchnorm", budget.batchnorm, ("training", "frozen"))
    choice("trained", budget.trained, ("tower", "head", "pool"))
    choice("precision", budget.precision, ("float32", "bfloat16"))
    vlm = copy_of(initial_vlm)
    batches = _Batches(vlm, dataset, assignment if recipe.needs_assignment else None, budget, seed)
    parameters = _unlock(vlm, budget)
    optimizer = torch.optim.AdamW(parameters, lr=budget.learning_rate, weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, budget.learning_rate, total_steps=max(len(batches), 1))
    losses, rates = torch.zeros(len(batches)), np.zeros(len(batches))
    for step, images in enumerate(track(batches, "fine-tuning")):
        with torch.autocast(vlm.device.type, torch.bfloat16, enabled=budget.precision == "bfloat16"):
            loss = recipe.objective(batches.load(images))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step], rates[step] = loss.detach(), schedule.get_last_lr()[0]
        schedule.step()
    return vlm.eval().requires_grad_(True), History(losses.numpy(), rates, len(batches) * batches.batch_size)


def copy_of(vlm: VLM) -> VLM:
    """A copy with weights of its own; the tokenizer is shared."""
    copied = VLM(copy.deepcopy(vlm.clip), vlm.tokenizer, vlm.name, vlm.configuration, vlm.pooling)
    return copied.to(vlm.device).train(vlm.training)


def _unlock(vlm: VLM, budget: Budget) -> list[torch.nn.Parameter]:
    """Let the part that is trained learn; the rest stays as it is, its BatchNorm statistics too."""
    visual = vlm.eval().requires_grad_(False).clip.visual
    parts = {"tower": [visual], "head": [visual.layer4, visual.attnpool], "pool": [visual.attnpool]}[budget.trained]
    for part in parts:
        part.requires_grad_(True).train(budget.batchnorm == "training")
    return [parameter for part in parts for parameter in part.parameters()]


def _check_assignment(recipe: Recipe, assignment: np.ndarray | None, n_regions: int) -> None:
    if assignment is None and recipe.needs_assignment:
        name = type(recipe).__name__
        raise ValueError(f"assignment: {name} needs to know which regions are spurious; see ravl_core.assign_regions")
    if assignment is not None and (np.shape(assignment) != (n_regions,) or np.asarray(assignment).dtype != bool):
        came = f"{np.asarray(assignment).dtype} of shape {np.shape(assignment)}"
        raise ValueError(f"assignment: expected ({n_regions},) booleans, one a fine-tuning region, got {came}")


@dataclass
class _Batches:
    """Shuffled batches for all epochs; the last images of an epoch that fill no batch wait for the next shuffle."""

    vlm: VLM
    dataset: Dataset
    assignment: np.ndarray | None
    budget: Budget
    seed: int
    batch_size: int = field(init=False)

    def __post_init__(self):
        device = self.vlm.device
        dataset = self.dataset
        self.batch_size = min(self.budget.batch_size, len(dataset))
        self.images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2).contiguous().to(device)
        self.labels = torch.from_numpy(dataset.labels).to(device)
        distinct, which = np.unique(dataset.captions, return_inverse=True)
        self.texts = torch.from_numpy(self.vlm.encode_texts(distinct.tolist())[which]).to(device)
        self.classes = torch.from_numpy(class_embeddings(self.vlm, dataset.class_names, dataset.templates)).to(device)
        self.maps = self._locked_maps() if self.budget.trained != "tower" else None
        self.boxes = boxes_in_image_units(dataset.boxes, *dataset.images.shape[1:3])
        self.first_region = np.searchsorted(dataset.image_index, np.arange(len(dataset) + 1))

    def __len__(self) -> int:
        return self.budget.epochs * (len(self.dataset) // self.batch_size)

    def __iter__(self):
        random = stream(self.seed, "batches")
        for _ in range(self.budget.epochs):
            order = random.permutation(len(self.dataset))
            for first in range(0, len(order) - self.batch_size + 1, self.batch_size):
                yield order[first : first + self.batch_size]

    def load(self, images: np.ndarray) -> Batch:
        """Send the images (B,) of that index through the trunk."""
        device = self.vlm.device
        regions, image_index = regions_of(images, self.first_region)
        chosen = torch.from_numpy(images).to(device)
        spurious = None if self.assignment is None else torch.from_numpy(self.assignment[regions]).to(device)
        return Batch(
            vlm=self.vlm,
            features=self._features(chosen),
            labels=self.labels[chosen],
            text_embeddings=self.texts[chosen],
            class_embeddings=self.classes,
            boxes=torch.from_numpy(self.boxes[regions]).to(device),
            image_index=torch.from_numpy(image_index).to(device),
            spurious=spurious,
        )

    def _features(self, chosen: torch.Tensor) -> torch.Tensor:
        if self.maps is not None:
            return self.maps[chosen]
        return self.vlm.trunk(self.vlm.prepare(self.images[chosen]))

    @torch.no_grad()
    def _locked_maps(self) -> torch.Tensor:
        """layer3's maps of all images, (N, D3, H, W): where the trunk is locked, they are computed once."""
        self.vlm.eval()
        parts = self.images.split(256)
        return torch.cat([self.vlm.trunk(self.vlm.prepare(part)) for part in parts]).contiguous(
            memory_format=torch.channels_last
        )


def regions_of(images: np.ndarray, first_region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The regions of some images, in their order, and for each its image's place among them.

    `first_region (N + 1,)` holds where each image's regions begin in the stored list.
    """
    counts = first_region[images + 1] - first_region[images]
    place = np.repeat(np.arange(len(images)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return first_region[images][place] + within, place
