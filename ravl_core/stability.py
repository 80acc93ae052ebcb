"""Stability: how far would stage 1 have found the same with another seed, start, number of clusters or regions?

One thing varies at a time; the model and its images stay. Recipes agree with the base run where they tie their first
finding to the same class, and overlap with it as far as the first finding's cluster lies in the same images. Both can
be compared between runs whose clusters, and even whose regions, have nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.comparison import K, first_of_each_class, subset
from ravl_core.domains.coverage import shows
from ravl_core.domains.dataset import Dataset
from ravl_core.kmedoids import Clustering, cluster_regions
from ravl_core.metrics import precision_at_k
from ravl_core.proposals import PROPOSALS
from ravl_core.randomness import stream
from ravl_core.slicing.ranked import RankedRegions
from ravl_core.slicing.ravl import in_three_ways
from ravl_core.zero_shot import Evaluation, evaluate

if TYPE_CHECKING:
    from ravl_core.vlm import VLM

N_SEEDS = 5  # other seeds than the setting's own
N_IMAGES = 500  # of the val set, on which regions are proposed


@dataclass(frozen=True, eq=False)
class FirstFinding:
    """The first finding of a recipe; `images` is empty and `attribute` None where it finds nothing."""

    precision_at_10: float
    attribute: int | None  # class index
    images: np.ndarray  # the images with a region in its cluster, ascending


@dataclass(frozen=True, eq=False)
class Run:
    """What stage 1 says in one variation."""

    n_clusters: int
    n_regions: int
    first: dict[str, FirstFinding]  # of each recipe


def stability(
    vlm: VLM,
    data: Dataset,
    evaluation: Evaluation,
    truths: Mapping[str, np.ndarray],
    clustering: Clustering,
    seed: int = 0,
) -> list[dict]:
    """Stage 1 varied in one thing at a time, and compared with its base run.

    Parameters
    ----------
    vlm : VLM
        The model that `evaluation` is of; it embeds the proposed regions.
    data : Dataset
        The val set.
    evaluation : Evaluation
        Of the model on it.
    truths : dict of arrays
        `shows_feature` (M,) and `feature_present` (N,).
    clustering : Clustering
        The base run's, of candidates 2C … 5C-1 and this seed.
    seed : int
        Of the setting. It also draws the images that regions are proposed for, and seeds the permutations of the
        controlled recipe in every variation.

    Returns
    -------
    list of dict
        One a variation. `kind` is "seed", "start", "candidates" or "proposals", `variation` names it, `n_clusters`
        and `n_regions` say what was clustered. For each recipe ("paper", "pull", "controlled") a dict:
        `precision_at_10`, 0 … 1; `attribute`, a class index or None; `agrees`, whether it is the base run's, None
        with None too; `overlap`, the Jaccard index of the images that hold the first finding's cluster here and in
        the base run, 0 … 1.

        Proposals are compared with the set's own boxes ("boxes") on the same images: as many as `N_IMAGES`, the
        classes in turn; those of `ravl_core.comparison.by_size`. A proposed region shows the feature where it covers
        a box that does, or is covered by it; see `ravl_core.domains.coverage`.
    """
    shown = truths["shows_feature"]
    base = first_findings(evaluation, shown, clustering, seed)
    rows = [
        compared(kind, variation, first_findings(evaluation, shown, other, seed), base)
        for kind, variation, other in other_clusterings(evaluation, seed)
    ]
    return rows + _other_regions(vlm, data, evaluation, truths, seed)


def first_findings(evaluation: Evaluation, shows_feature: np.ndarray, clustering: Clustering, seed: int = 0) -> Run:
    """What the paper's recipe, the one ranked by pull and the controlled one find first in a clustering.

    `shows_feature` (M,) says which regions show the planted feature, `seed` is that of the controlled recipe.
    """
    ranked = in_three_ways(evaluation, clustering, seed)
    first = {name: _first(evaluation, shows_feature, regions) for name, regions in ranked.items()}
    return Run(clustering.n_clusters, len(evaluation.image_index), first)


def _first(evaluation: Evaluation, shows_feature: np.ndarray, ranked: RankedRegions) -> FirstFinding:
    images = np.unique(evaluation.image_index[ranked.regions])  # these recipes rank all regions of their cluster
    return FirstFinding(precision_at_k(ranked.regions, shows_feature, K), ranked.attribute, images)


def overlap(images: np.ndarray, others: np.ndarray) -> float:
    """Jaccard index of two sets of images, ascending: 1 where they are the same or both empty, 0 if disjoint."""
    n_shared = len(np.intersect1d(images, others, assume_unique=True))
    n_either = len(images) + len(others) - n_shared
    return n_shared / n_either if n_either else 1.0


def compared(kind: str, variation: str, run: Run, base: Run) -> dict:
    """A row of `stability`: a variation beside the base run, as plain values."""
    recipes = {
        name: {
            "precision_at_10": first.precision_at_10,
            "attribute": first.attribute,
            "agrees": first.attribute == base.first[name].attribute,
            "overlap": overlap(first.images, base.first[name].images),
        }
        for name, first in run.first.items()
    }
    clustered = {"n_clusters": run.n_clusters, "n_regions": run.n_regions}
    return {"kind": kind, "variation": variation} | clustered | recipes


def other_clusterings(evaluation: Evaluation, seed: int) -> Iterator[tuple[str, str, Clustering]]:
    """Kind, name and clusters of each variation on the evaluation's own regions."""
    embeddings, n_classes = evaluation.region_embeddings, len(evaluation.class_names)
    usual = range(2 * n_classes, 5 * n_classes)
    for more in range(1, N_SEEDS + 1):
        yield "seed", f"seed + {more}", cluster_regions(embeddings, usual, seed + more)
    yield "start", "uniform", cluster_regions(embeddings, usual, seed, start="uniform")
    yield "candidates", "C … 2C-1", cluster_regions(embeddings, range(n_classes, 2 * n_classes), seed)
    yield "candidates", "5C … 8C-1", cluster_regions(embeddings, range(5 * n_classes, 8 * n_classes), seed)


def _other_regions(
    vlm: VLM, data: Dataset, evaluation: Evaluation, truths: Mapping[str, np.ndarray], seed: int
) -> list[dict]:
    order = stream(seed, "fewer images").permutation(len(evaluation.labels))  # as in `by_size`
    images = first_of_each_class(evaluation.labels, order, N_IMAGES)
    own, shown, _ = subset(evaluation, truths, images)
    base = clustered(own, shown, seed)
    rows = [compared("proposals", "boxes", base, base)]
    for name, propose in PROPOSALS.items():
        proposed = evaluate(vlm, with_regions(data, images, *propose(data.images[images])))
        covers = shows(proposed.boxes, proposed.image_index, own.boxes[shown], own.image_index[shown])
        rows.append(compared("proposals", name, clustered(proposed, covers, seed), base))
    return rows


def clustered(evaluation: Evaluation, shows_feature: np.ndarray, seed: int) -> Run:
    """What is found first in clusters of the usual numbers, 2C … 5C-1."""
    n_classes = len(evaluation.class_names)
    clustering = cluster_regions(evaluation.region_embeddings, range(2 * n_classes, 5 * n_classes), seed)
    return first_findings(evaluation, shows_feature, clustering, seed)


def with_regions(data: Dataset, images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray) -> Dataset:
    """Some of the images, with other boxes, of which nothing is known."""
    return replace(
        data,
        images=data.images[images],
        labels=data.labels[images],
        captions=tuple(data.captions[image] for image in images),
        boxes=boxes,
        image_index=image_index,
        shows_core=None,
        shows_feature=None,
        feature_present=None,
        box_names=None,
        sources=None,
    )
