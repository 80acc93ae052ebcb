"""The repairs of one setting: which regions are called spurious, which recipe trains with that, and what it brings."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ravl_core.checks import above_zero, choice, whole_number
from ravl_core.closed_loop import look_again, same_cluster
from ravl_core.discovery import Discovery, assign_regions, discover, regions_in_clusters
from ravl_core.domains.dataset import Dataset
from ravl_core.fine_tuned import FineTuned, measure, setting_data
from ravl_core.groups import performance, without_regions
from ravl_core.kmedoids import Clustering
from ravl_core.masking import mask_effect
from ravl_core.mitigation import RECIPES, History, mitigate
from ravl_core.mitigation.budget import Budget
from ravl_core.mitigation.selection import worst_group_on_val
from ravl_core.pretraining import initial_vlm
from ravl_core.pull import membership
from ravl_core.settings import Setting, learned_margin
from ravl_core.significance import significant_clusters
from ravl_core.slicing.ravl import fine_clustering
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation, evaluate

SOURCES = ("discovered", "significant", "fine", "true", "none")
STARTS = ("initial", "fine-tuned")
MOST_CLUSTERS = 8  # that one shortcut may be split over


@dataclass(frozen=True)
class Repair:
    """One row of table 3.

    Parameters
    ----------
    name : what the row is called.
    recipe, options : see `ravl_core.mitigation`.
    assignment : where the spurious regions come from. "discovered": the first finding of stage 1. "significant": the
        clusters that chance does not explain and that pull towards the same class (`ravl_core.significance`). "fine":
        the same among sixteen clusters a class. "true": the planted regions, which a user does not have. "none": no
        region is spurious.
    learning_rate : the peak; None: that of the budget.
    start : the model that training starts from, "initial" or "fine-tuned" (the diagnosed one).
    rounds : with 2, stage 1 looks at the repaired model again, and what it finds then counts as spurious, too.
    followed : whether the found cluster is looked at again afterwards.
    """

    name: str = "RaVL"
    recipe: str = "ravl"
    options: dict = field(default_factory=dict)
    assignment: str = "discovered"
    learning_rate: float | None = None
    start: str = "initial"
    rounds: int = 1
    followed: bool = False

    def __post_init__(self):
        choice("assignment", self.assignment, SOURCES)
        choice("start", self.start, STARTS)
        choice("recipe", self.recipe, RECIPES)
        whole_number("rounds", self.rounds, 1)
        if self.learning_rate is not None:
            above_zero("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class Diagnosed:
    """A fine-tuned model, and what was found in it."""

    setting: Setting
    budget: Budget
    model: FineTuned
    initial: VLM
    found: Discovery
    fine: Clustering  # sixteen clusters a class
    finetuning_regions: np.ndarray  # (M, D) by the diagnosed model


def run_repairs(
    setting: Setting, budget: Budget, repairs: tuple[Repair, ...], model: FineTuned, found: Discovery, device: str
) -> Iterator[dict]:
    """Train by each recipe and measure: accuracies on test; the selection rule, and stage 1 once more, on val."""
    diagnosed, finished = diagnose(setting, budget, model, found, device), {}
    for repair in repairs:
        assignment = spurious_regions(diagnosed, repair.assignment)
        run = _same_run(repair, assignment)
        if run not in finished:  # sources may agree on which regions are spurious
            finished[run] = _repair(diagnosed, repair, assignment)
        yield asdict(repair) | finished[run]


def _same_run(repair: Repair, assignment: np.ndarray) -> tuple:
    """What tells a training run from others, whatever its row is called and wherever its assignment comes from."""
    differing = replace(repair, name="", assignment="none")
    return json.dumps(asdict(differing), sort_keys=True), assignment.tobytes()


def diagnose(setting: Setting, budget: Budget, model: FineTuned, found: Discovery, device: str = "cpu") -> Diagnosed:
    """All that repairs share: the initial model, what was found, and how the diagnosed model sees the regions."""
    sets = setting_data(setting).finetuning
    regions = model.vlm.encode(sets.images, sets.boxes, sets.image_index)[1]
    initial = initial_vlm(setting.initial, setting.domain, setting.pretrained).to(device)
    return Diagnosed(setting, budget, model, initial, found, fine_clustering(model.val, setting.seed), regions)


def spurious_regions(diagnosed: Diagnosed, source: str) -> np.ndarray:
    """Which fine-tuning regions are called spurious, (M,) bool; none where nothing was found or looked for."""
    if source == "true":
        return setting_data(diagnosed.setting).finetuning.shows_feature
    clustering = diagnosed.fine if source == "fine" else diagnosed.found.clustering
    clusters = []
    if source == "discovered":
        clusters = [finding.cluster for finding in diagnosed.found.findings[:1]]
    elif source in ("significant", "fine"):
        clusters = clusters_of_one_shortcut(diagnosed.model.val, clustering, diagnosed.setting.seed)
    return regions_in_clusters(clustering, diagnosed.finetuning_regions, clusters)


def clusters_of_one_shortcut(val: Evaluation, clustering: Clustering, seed: int = 0) -> list[int]:
    """The significant clusters that pull towards the same class as the first: a feature may be split over several."""
    held = membership(clustering.labels, val.image_index, len(val.labels))
    found = significant_clusters(held, val.labels, val.image_probs, seed=seed, most=MOST_CLUSTERS)
    return [one.cluster for one in found if one.attribute == found[0].attribute]


def _repair(diagnosed: Diagnosed, repair: Repair, assignment: np.ndarray) -> dict:
    data, held = setting_data(diagnosed.setting), _held(diagnosed)
    vlm, history = _trained(diagnosed, repair, assignment)
    for _ in range(repair.rounds - 1):
        assignment = assignment | _found_again(diagnosed, vlm)
        vlm, history = _trained(diagnosed, repair, assignment)
    val = data.val if repair.followed else without_regions(data.val)
    seen = evaluate(vlm, val)
    return measure(vlm, data.test) | {
        "val_worst_group": worst_group_on_val(seen.predictions, val.labels, held, val.n_classes),
        "margin": learned_margin(performance(seen, val).images, diagnosed.setting.attribute),
        **agreement(assignment, data.finetuning.shows_feature),
        "final_loss": float(history.losses[-20:].mean()),
        "followed_up": follow_up(diagnosed, vlm, seen) if repair.followed else None,
    }


def _trained(diagnosed: Diagnosed, repair: Repair, assignment: np.ndarray) -> tuple[VLM, History]:
    start = diagnosed.initial if repair.start == "initial" else diagnosed.model.vlm
    rate = repair.learning_rate or diagnosed.budget.learning_rate
    budget, seed = replace(diagnosed.budget, learning_rate=rate), diagnosed.setting.seed
    finetuning = setting_data(diagnosed.setting).finetuning
    guided = {"descriptions": words_of_boxes(finetuning)} if repair.recipe == "language_guided" else {}
    return mitigate(start, finetuning, assignment, repair.recipe, budget, seed, **guided | repair.options)


def _found_again(diagnosed: Diagnosed, vlm: VLM) -> np.ndarray:
    """What stage 1 finds first in a repaired model, among the regions of the fine-tuning set, (M,) bool."""
    data = setting_data(diagnosed.setting)
    found = discover(evaluate(vlm, data.val), seed=diagnosed.setting.seed)
    sets = data.finetuning
    return assign_regions(found, vlm.encode(sets.images, sets.boxes, sets.image_index)[1])


def _held(diagnosed: Diagnosed) -> np.ndarray:
    """Which val images hold the first finding, (N,) bool: the groups that a user knows."""
    val = diagnosed.model.val
    first = [finding.cluster for finding in diagnosed.found.findings[:1]]
    regions = np.isin(diagnosed.found.clustering.labels, first)
    held = np.zeros(len(val.labels), dtype=bool)
    held[val.image_index[regions]] = True
    return held


def follow_up(diagnosed: Diagnosed, vlm: VLM, seen: Evaluation) -> dict | None:
    """The found cluster and stage 1 once more, after a repair; None where nothing had been found.

    Parameters
    ----------
    vlm, seen : the repaired model, and its evaluation of the val set.

    Returns
    -------
    dict
        "same": `same_cluster`, "again": `look_again`, "mask_before" and "mask": `mask_effect` of the found regions on
        the diagnosed and on the repaired model; plain values each.
    """
    if not diagnosed.found.findings:
        return None
    first, seed, val = diagnosed.found.findings[0], diagnosed.setting.seed, setting_data(diagnosed.setting).val
    before, clusters = diagnosed.model.val, diagnosed.found.clustering.labels
    masked = {
        name: mask_effect(model, val, first.regions, first.attribute, seed).plain()
        for name, model in (("mask_before", diagnosed.model.vlm), ("mask", vlm))
    }
    return masked | {
        "same": same_cluster(clusters, first.cluster, before, seen, seed=seed).plain(),
        "again": look_again(diagnosed.found, before, seen, seed).plain(),
    }


def agreement(assignment: np.ndarray, truth: np.ndarray) -> dict:
    """Recall and precision, 0 … 1, of the regions that are called spurious; None without any to divide by."""
    return {
        "assignment_recall": float(assignment[truth].mean()) if truth.any() else None,
        "assignment_precision": float(truth[assignment].mean()) if assignment.any() else None,
    }


class Words(NamedTuple):
    """What language-guided repair is told of one image."""

    objects: tuple[str, ...]
    background: tuple[str, ...]


def words_of_boxes(data: Dataset) -> tuple[Words, ...]:
    """The words for each image (N,) where no teacher looks: its class, and what else its boxes are called, each once.

    An image without other named boxes has a plain background.
    """
    classes = [data.class_names[label] for label in data.labels]
    others = [{} for _ in classes]  # names in the order of boxes
    for name, image in zip(data.box_names or [""] * len(data.boxes), data.image_index, strict=True):
        if name not in ("", classes[image]):
            others[image][name] = None
    plain = ("plain background",)
    return tuple(Words((name,), tuple(behind) or plain) for name, behind in zip(classes, others, strict=True))
