"""The one training loop that every recipe shares."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ravl_core.checks import choice, made, own
from ravl_core.domains.dataset import Dataset, check_dataset
from ravl_core.mitigation.batch import Batch, Shown
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.mitigation.recipe import Recipe, Run, groups_of
from ravl_core.mitigation.samplers import group_balanced, shuffled
from ravl_core.mitigation.texts import Texts
from ravl_core.progress import track
from ravl_core.randomness import stream
from ravl_core.vlm import VLM, boxes_in_image_units


@dataclass(frozen=True)
class History:
    """What happened in training."""

    losses: np.ndarray  # (steps,)
    learning_rates: np.ndarray  # (steps,)
    n_images_seen: int


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
        The recipe needs an assignment and there is none, or it does not hold one value a region; the model
        cuts regions out, which this loop does not train, or its image tower does not pool as the recipe asks.
    """
    assignment = None if assignment is None else np.asarray(assignment)
    _check(initial_vlm, dataset, recipe, assignment, budget)
    vlm = copy_of(initial_vlm)
    vlm.pooling = recipe.regions or vlm.pooling
    groups = groups_of(dataset, assignment) if recipe.needs_assignment else None
    recipe = recipe.begin(Run(vlm, dataset, assignment if recipe.needs_assignment else None, groups, seed))
    batches = _Batches(vlm, dataset, recipe, assignment, groups, budget, seed)
    parameters = _unlock(vlm, budget, batches.texts)
    optimizer = torch.optim.AdamW(parameters, lr=budget.learning_rate, weight_decay=budget.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, budget.learning_rate, total_steps=max(len(batches), 1))
    losses, rates = torch.zeros(len(batches), device=vlm.device), np.zeros(len(batches))  # nobody waits for a loss
    for step, images in enumerate(track(batches, "fine-tuning")):
        with torch.autocast(vlm.device.type, torch.bfloat16, enabled=budget.precision == "bfloat16"):
            loss = recipe.objective(batches.load(images, step / len(batches)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses[step], rates[step] = loss.detach(), schedule.get_last_lr()[0]
        schedule.step()
    vlm.pooling = initial_vlm.pooling
    return vlm.eval().requires_grad_(True), History(losses.cpu().numpy(), rates, len(batches) * batches.batch_size)


def copy_of(vlm: VLM) -> VLM:
    """A copy with weights of its own; the tokenizer is shared."""
    copied = VLM(copy.deepcopy(vlm.clip), vlm.tokenizer, vlm.name, vlm.configuration, vlm.pooling)
    return copied.to(vlm.device).train(vlm.training)


def _unlock(vlm: VLM, budget: Budget, texts: Texts) -> list[torch.nn.Parameter]:
    """Let the part that is trained learn; the rest stays as it is, its BatchNorm statistics too."""
    parts = vlm.eval().requires_grad_(False).tower.parts(budget.trained)
    for part in parts:
        part.requires_grad_(True).train(budget.batchnorm == "training")
    for projection in texts.parameters:
        projection.requires_grad_(True)
    return [parameter for part in parts for parameter in part.parameters()] + texts.parameters


def _check(vlm: VLM, dataset: Dataset, recipe: Recipe, assignment: np.ndarray | None, budget: Budget) -> None:
    made("initial_vlm", vlm, "a model, see load_vlm", "tower")
    made("recipe", recipe, "a recipe, see ravl_core.mitigation.RECIPES", "needs_assignment")
    made("budget", budget, "a Budget", "batch_size")
    check_dataset(dataset)
    if vlm.pooling == "crop":
        came = f"{vlm.name} with pooling='crop'"
        raise ValueError(f"initial_vlm: training needs regions from the image's own features, got {came}")
    if len(dataset) == 0:
        raise ValueError("dataset: expected at least one image, got none")
    n_regions = len(dataset.boxes)
    if recipe.balanced and not recipe.needs_assignment:
        name = type(recipe).__name__
        raise ValueError(f"recipe: {name} draws batches evenly from groups, so it has to say needs_assignment = True")
    if assignment is None and recipe.needs_assignment:
        name = type(recipe).__name__
        raise ValueError(f"assignment: {name} needs to know which regions are spurious; see ravl_core.assign_regions")
    if assignment is not None and (assignment.shape != (n_regions,) or assignment.dtype != bool):
        came = f"{assignment.dtype} of shape {assignment.shape}"
        raise ValueError(f"assignment: expected ({n_regions},) booleans, one a fine-tuning region, got {came}")
    choice("batchnorm", budget.batchnorm, ("training", "frozen"))
    choice("trained", budget.trained, ("tower", "head", "pool"))
    choice("precision", budget.precision, ("float32", "bfloat16"))
    choice("regions", recipe.regions or vlm.pooling, vlm.tower.poolings)


@dataclass
class _Batches:
    """The batches of a run, in order, and what each needs on its way through the model."""

    vlm: VLM
    dataset: Dataset
    recipe: Recipe
    assignment: np.ndarray | None
    groups: np.ndarray | None
    budget: Budget
    seed: int
    batch_size: int = field(init=False)

    def __post_init__(self):
        dataset = self.dataset
        self.batch_size = min(self.budget.batch_size, len(dataset))
        self.images = torch.from_numpy(own(dataset.images)).permute(0, 3, 1, 2).contiguous().to(self.vlm.device)
        self.labels = self._there(dataset.labels)
        self.texts = Texts(self.vlm, self.recipe.trains_text)
        self.captions = self.texts.features(dataset.captions)
        self.prompts = self._prompt_features()
        self.boxes = self._there(boxes_in_image_units(dataset.boxes, *dataset.images.shape[1:3]))
        told = self.recipe.needs_assignment
        self.spurious, self.image_groups = (self._there(x) if told else None for x in (self.assignment, self.groups))
        self.first_region = np.searchsorted(dataset.image_index, np.arange(len(dataset) + 1))
        locked = self.budget.trained != "tower" and not self.recipe.changes_images
        self.maps = self._locked_maps() if locked else None

    def __len__(self) -> int:
        return self.budget.epochs * (len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        random, sizes = stream(self.seed, "batches"), (self.batch_size, self.budget.epochs)
        if self.recipe.balanced:
            return group_balanced(self.groups, *sizes, random)
        return shuffled(len(self.dataset), *sizes, random)

    def load(self, images: np.ndarray, progress: float = 0.0) -> Batch:
        """Send the images (B,) of that index through the trunk."""
        regions, image_index = regions_of(images, self.first_region)
        chosen, which, image_index = (self._there(each) for each in (images, regions, image_index))
        boxes, spurious = self.boxes[which], None if self.spurious is None else self.spurious[which]
        if self.recipe.changes_images:
            shown = self.recipe.change(Shown(self.images[chosen], boxes, image_index, spurious, regions))
            features, spurious = self._encode(shown.images), shown.spurious
        else:
            features = self._encode(self.images[chosen]) if self.maps is None else self.maps[chosen]
        return Batch(
            vlm=self.vlm,
            index=chosen,
            features=features,
            labels=self.labels[chosen],
            groups=None if self.image_groups is None else self.image_groups[chosen],
            texts=self.texts,
            caption_features=self.captions[chosen],
            class_features=self.prompts,
            boxes=boxes,
            image_index=image_index,
            spurious=spurious,
            encodes_regions=self.recipe.encodes_regions,
            progress=progress,
        )

    def _there(self, values: np.ndarray) -> torch.Tensor:
        """On the model's device, without waiting for what that has yet to do."""
        return torch.from_numpy(own(values)).to(self.vlm.device, non_blocking=True)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.budget.trained == "tower"):
            return self.vlm.trunk(self.vlm.prepare(images))

    def _prompt_features(self) -> torch.Tensor:
        """(C, T, …) features of the zero-shot prompts."""
        names, templates = self.dataset.class_names, self.dataset.templates
        texts = [template.format(name) for name in names for template in templates]
        return self.texts.features(texts).unflatten(0, (len(names), len(templates)))

    @torch.no_grad()
    def _locked_maps(self) -> torch.Tensor:
        """The trunk's features of all images, (N, …): where the trunk is locked, they are computed once."""
        self.vlm.eval()
        features = torch.cat([self.vlm.trunk(self.vlm.prepare(part)) for part in self.images.split(256)])
        return features.contiguous(memory_format=torch.channels_last) if features.ndim == 4 else features


def regions_of(images: np.ndarray, first_region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The regions of some images, in their order, and for each its image's place among them.

    `first_region (N + 1,)` holds where each image's regions begin in the stored list.
    """
    counts = first_region[images + 1] - first_region[images]
    place = np.repeat(np.arange(len(images)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return first_region[images][place] + within, place
