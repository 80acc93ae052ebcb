"""Every discovery method on one val evaluation, judged by what its regions really show.

Methods see the `Evaluation` alone. What is judged is each method's own first finding or slice: the first ten regions
that it would show to a user.
"""

from collections.abc import Mapping

import numpy as np

from ravl_core.discovery import Discovery
from ravl_core.intervals import finding_intervals
from ravl_core.kmedoids import Clustering, cluster_regions
from ravl_core.metrics import precision_at_k
from ravl_core.pull import membership
from ravl_core.randomness import stream
from ravl_core.significance import largest_statistics, significant_clusters
from ravl_core.slicing import CHANCE, NAMED, PAPER, rank_by_all
from ravl_core.slicing.random_regions import random_ranking_scores
from ravl_core.slicing.ranked import RankedRegions
from ravl_core.slicing.ravl import in_three_ways, ravl
from ravl_core.slicing.spurious_aware import spurious_aware_by_names
from ravl_core.zero_shot import Evaluation

K = 10  # of Precision@10
SIZES = (100, 200, 500)  # images of the smaller val sets that discovery is tried on
N_PERMUTATIONS = 999


def judge(
    ranked: RankedRegions, shows_feature: np.ndarray, feature_present: np.ndarray, image_index: np.ndarray
) -> dict:
    """What a ranking is worth, as plain values.

    Parameters
    ----------
    ranked : RankedRegions
    shows_feature : bool array (M,)
        Which regions show the planted feature.
    feature_present : bool array (N,)
        Which images hold it.
    image_index : int array (M,)

    Returns
    -------
    dict
        `precision_at_10`, 0 … 1; `image_precision_at_10`, the lenient count: the share of the first ten regions
        whose image holds the feature anywhere; `average_precision` over all regions, 0 … 1; `attribute`, `n_regions`
        and `reason` as the method gives them.
    """
    return {
        "precision_at_10": precision_at_k(ranked.regions, shows_feature, K),
        "image_precision_at_10": precision_at_k(ranked.regions, feature_present[image_index], K),
        "average_precision": average_precision(ranked.regions, shows_feature),
        "attribute": ranked.attribute,
        "n_regions": len(ranked),
        "reason": ranked.reason,
    }


def average_precision(ranked_regions: np.ndarray, shows_feature: np.ndarray) -> float:
    """Mean precision at the rank of each region with the feature; one that is not ranked counts as 0. 0 … 1."""
    hits = shows_feature[ranked_regions]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / max(shows_feature.sum(), 1))


def compare(evaluation: Evaluation, truths: Mapping[str, np.ndarray], found: Discovery, seed: int = 0) -> dict:
    """All methods on one evaluation: name → what `judge` says; Random is the mean of a hundred orders.

    `truths` are the arrays of `ravl_core.kept.truths_of`, `found` is stage 1's result, whose clusters are used.
    """
    ranked = rank_by_all(evaluation, found.clustering, seed)
    if len(set(truths.get("box_names", ()))) > 1:
        ranked[NAMED] = spurious_aware_by_names(evaluation, truths["box_names"])
    known = truths["shows_feature"], truths["feature_present"], evaluation.image_index
    judged = {name: judge(regions, *known) for name, regions in ranked.items()}
    return judged | {CHANCE: random_ranking_scores(*known, seed=seed)}


def paper_and_chance(evaluation: Evaluation, truths: Mapping[str, np.ndarray], found: Discovery, seed: int = 0) -> dict:
    """What `compare` says of the paper's recipe and of Random, without the other methods' cost."""
    known = truths["shows_feature"], truths["feature_present"], evaluation.image_index
    chance = random_ranking_scores(*known, seed=seed)
    return {PAPER: judge(ravl(evaluation, found.clustering), *known), CHANCE: chance}


def inference(evaluation: Evaluation, truths: Mapping[str, np.ndarray], found: Discovery, seed: int = 0) -> dict:
    """How sure stage 1 can be: intervals of its first finding, p-values, and the findings that chance does not explain.

    Returns
    -------
    dict
        `first`: intervals of gap, influence and the attribute's accuracy difference of the paper's first finding, and
        the p-value of its gap; `smallest_gap_p`: of any cluster; `significant`: the clusters of
        `ravl_core.significance`, each with the share of its regions that show the planted feature.
    """
    if not found.clustering.n_clusters:
        return {"first": None, "smallest_gap_p": 1.0, "significant": []}
    held = membership(found.clustering.labels, evaluation.image_index, len(evaluation.labels))
    asked = held, evaluation.labels, evaluation.image_probs
    test = largest_statistics(*asked, n_permutations=N_PERMUTATIONS, seed=seed)
    significant = significant_clusters(*asked, n_permutations=N_PERMUTATIONS, seed=seed)
    shares = [float(truths["shows_feature"][found.clustering.labels == one.cluster].mean()) for one in significant]
    first = None
    if found.findings:
        intervals = finding_intervals(evaluation, found, found.findings[0].cluster, truths.get("sources"), seed=seed)
        first = intervals.plain() | {"gap_p": float(test.gap_p_values[found.findings[0].cluster])}
    return {
        "first": first,
        "smallest_gap_p": float(test.gap_p_values.min()),
        "significant": [vars(one) | {"feature_share": share} for one, share in zip(significant, shares, strict=True)],
    }


def by_size(
    evaluation: Evaluation, truths: Mapping[str, np.ndarray], found: Discovery, seed: int = 0, sizes: tuple = SIZES
) -> list[dict]:
    """Discovery on fewer val images of the same model: for each size, and for all of them, what is found.

    The smaller sets are nested and drawn class by class; see `subset`.
    """
    order = stream(seed, "fewer images").permutation(len(evaluation.labels))
    rows = []
    for n_images in [size for size in sizes if size < len(order)]:
        part, shows, present = subset(evaluation, truths, first_of_each_class(evaluation.labels, order, n_images))
        n_classes = len(part.class_names)
        clustering = cluster_regions(part.region_embeddings, range(2 * n_classes, 5 * n_classes), seed)
        rows.append({"n_images": n_images} | what_is_found(part, shows, present, clustering, seed))
    known = truths["shows_feature"], truths["feature_present"]
    return [*rows, {"n_images": len(order)} | what_is_found(evaluation, *known, found.clustering, seed)]


def what_is_found(
    evaluation: Evaluation, shows: np.ndarray, present: np.ndarray, clustering: Clustering, seed: int
) -> dict:
    """The paper's recipe, the one ranked by pull and the controlled one, in short: attribute and Precision@10 each."""
    return {
        name: {"precision_at_10": precision_at_k(ranked.regions, shows, K), "attribute": ranked.attribute}
        for name, ranked in in_three_ways(evaluation, clustering, seed).items()
    }


def first_of_each_class(labels: np.ndarray, order: np.ndarray, n_images: int) -> np.ndarray:
    """The first n images in an order that takes from all classes in turn, sorted."""
    rank = np.empty(len(labels), dtype=np.int64)  # of each image among those of its class
    for label in np.unique(labels):
        own = order[labels[order] == label]
        rank[own] = np.arange(len(own))
    return np.sort(order[np.argsort(rank[order], kind="stable")[:n_images]])


def subset(
    evaluation: Evaluation, truths: Mapping[str, np.ndarray], images: np.ndarray
) -> tuple[Evaluation, np.ndarray, np.ndarray]:
    """The evaluation of some images (ascending), which of its regions show the feature, and which images hold it."""
    place = np.full(len(evaluation.labels), -1)
    place[images] = np.arange(len(images))
    regions = np.flatnonzero(place[evaluation.image_index] >= 0)
    part = Evaluation(
        image_embeddings=evaluation.image_embeddings[images],
        region_embeddings=evaluation.region_embeddings[regions],
        image_index=place[evaluation.image_index[regions]],
        boxes=evaluation.boxes[regions],
        labels=evaluation.labels[images],
        class_names=evaluation.class_names,
        image_probs=evaluation.image_probs[images],
        region_probs=evaluation.region_probs[regions],
    )
    return part, truths["shows_feature"][regions], truths["feature_present"][images]
