"""Did the repair work? The cluster that was found, before and after it, and stage 1 run once more.

A repaired model has other embeddings and therefore other clusters, so two questions are asked. Do its answers still go
with the *same* cluster, that of the diagnosed model? And what does stage 1 find in it when it starts from nothing?
Regions are the same boxes of the same images throughout, so what was found twice can be compared box by box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ravl_core import checks
from ravl_core.discovery import ClusterScores, Discovery, discover, score_clusters
from ravl_core.kmedoids import Clustering
from ravl_core.pull import cluster_pull, membership
from ravl_core.significance import largest_statistics, significant_clusters
from ravl_core.zero_shot import Evaluation

SAME_FEATURE = 0.5  # of the images, or of the regions of the smaller one, that two findings have in common


@dataclass(frozen=True)
class ClusterFigures:
    """How one model's answers go with a cluster."""

    gap: float  # cluster performance gap G, 0 … C
    influence: float | None  # cluster influence H, 0 … 1; None if no image is behind it
    influence_images: int
    pull: float | None  # towards the attribute, -1 … 1; see `ravl_core.pull`
    p_value: float  # of gap and pull of this one cluster, see `LargestStatistics`; small: more than chance gives


@dataclass(frozen=True)
class SameCluster:
    """One cluster of the diagnosed model, with the answers of both models.

    The cluster was chosen for what the diagnosed model does with it: its figures before are too large on average, and
    some of every fall is regression to the mean. Those after are of a cluster that was fixed beforehand.
    """

    cluster: int
    attribute: int | None  # the class it is tied to in the diagnosed model; None if no class has images in and out
    before: ClusterFigures
    after: ClusterFigures

    def plain(self) -> dict:
        """The figures as nested dicts of numbers that JSON can hold; None where undefined."""
        return asdict(self)


def same_cluster(
    clustering_labels: np.ndarray,
    cluster: int,
    evaluation_before: Evaluation,
    evaluation_after: Evaluation,
    n_permutations: int = 999,
    seed: int = 0,
) -> SameCluster:
    """Gap, influence and pull of the same images and regions by two models.

    Parameters
    ----------
    clustering_labels : int array (M,)
        Cluster of each region in the diagnosed model, -1 for none.
    cluster : int
        One that some region is in.
    evaluation_before, evaluation_after : Evaluation
        The diagnosed and the repaired model, on the same images and regions.
    n_permutations, seed : int
        Of the p-values.

    Raises
    ------
    ValueError
        If the evaluations are of other images or regions, or no region is in the cluster.
    """
    _check_same_images(evaluation_before, evaluation_after)
    cluster = checks.whole_number("cluster", cluster, 0)
    member = np.asarray(clustering_labels) == cluster  # (M,)
    checks.same_length(image_index=evaluation_before.image_index, clustering_labels=member)
    if not member.any():
        raise ValueError(f"cluster: expected one that some region is in, got {cluster}")
    both = [_scored(member, evaluation) for evaluation in (evaluation_before, evaluation_after)]
    difference = both[0].difference[0]
    attribute = None if np.isnan(difference).all() else int(np.nanargmax(difference))
    before, after = (
        ClusterFigures(
            gap=float(scores.gap[0]),
            influence=float(scores.influence[0]) if scores.influence_images[0] else None,
            influence_images=int(scores.influence_images[0]),
            **_pull_and_p_value(member, evaluation, attribute, n_permutations, seed),
        )
        for scores, evaluation in zip(both, (evaluation_before, evaluation_after), strict=True)
    )
    return SameCluster(cluster, attribute, before, after)


def _check_same_images(before: Evaluation, after: Evaluation) -> None:
    for name in ("labels", "image_index", "boxes", "class_names"):
        if not np.array_equal(getattr(before, name), getattr(after, name)):
            raise ValueError(f"evaluation_after: expected the images and regions of the one before, got other {name}")


def _scored(member: np.ndarray, evaluation: Evaluation) -> ClusterScores:
    labels, probs = evaluation.labels, (evaluation.image_probs, evaluation.region_probs)
    return score_clusters(np.where(member, 0, -1), evaluation.image_index, labels, *probs)


def _pull_and_p_value(
    member: np.ndarray, evaluation: Evaluation, attribute: int | None, n_permutations: int, seed: int
) -> dict:
    answers = evaluation.labels, evaluation.image_probs
    held = membership(np.where(member, 0, -1), evaluation.image_index, len(evaluation.labels))
    test = largest_statistics(held, *answers, n_permutations=n_permutations, seed=seed)
    pull = None if attribute is None else float(cluster_pull(held, *answers).pull[0, attribute])
    return {"pull": pull, "p_value": float(test.p_values[0])}


@dataclass(frozen=True)
class SecondLook:
    """What stage 1 says of a repaired model, beside what it said of the diagnosed one.

    The *old* finding is the first one of the diagnosed model, the *new* one the first of the repaired model. Two
    findings are the same feature if half of the images that hold either hold both, or if they share half of the regions
    of the smaller one: new clusters may divide a feature, or hold more than it. Two common things can pass for the same
    one by chance, which makes `gone` harder to reach, not easier. None where there is nothing to compare.

    Attributes
    ----------
    n_findings_before, n_findings_after : int
        Findings of the paper's recipe, which names many clusters of sound models, too.
    attribute : int or None
        The class that the new finding is tied to.
    gap : float or None
        The new finding's gap, 0 … C.
    same_attribute : bool or None
        Whether that is the class of the old finding.
    covered : float or None
        Share of the old finding's regions that are in the new one, 0 … 1.
    jaccard : float or None
        Regions in both, as a share of the regions in either, 0 … 1.
    place : int or None
        The rank, from 1, of the first finding after the repair that is the same feature as the old one.
    n_significant_before, n_significant_after : int
        Findings that neither chance nor what a model does anyway explains; see `ravl_core.significance`.
    gone : bool or None
        Whether no significant finding of the repaired model is the same feature as the old finding. None if none of the
        diagnosed model was: what is not shown to be there cannot go. Stage 1 sees only what forms a cluster of the new
        embeddings, so read it beside `SameCluster.after`.
    replaced : bool or None
        Whether the old one is gone and a significant finding has come that is the same feature as none before.
    """

    n_findings_before: int
    n_findings_after: int
    attribute: int | None
    gap: float | None
    same_attribute: bool | None
    covered: float | None
    jaccard: float | None
    place: int | None
    n_significant_before: int
    n_significant_after: int
    gone: bool | None
    replaced: bool | None

    def plain(self) -> dict:
        """The fields as numbers that JSON can hold; None where undefined."""
        return asdict(self)


def look_again(
    found: Discovery, evaluation_before: Evaluation, evaluation_after: Evaluation, seed: int = 0
) -> SecondLook:
    """Run stage 1 on the repaired model and compare with what was found in the diagnosed one.

    Parameters
    ----------
    found : Discovery
        What stage 1 found in the diagnosed model.
    evaluation_before, evaluation_after : Evaluation
        The diagnosed and the repaired model, on the same images and regions.
    seed : int
        Of the second clustering and of the permutations.

    Raises
    ------
    ValueError
        If the evaluations are of other images or regions, or `found` is of another number of regions.
    """
    _check_same_images(evaluation_before, evaluation_after)
    checks.same_length(image_index=evaluation_before.image_index, clustering_labels=found.clustering.labels)
    again = discover(evaluation_after, seed=seed)
    old, new = (look.findings[0] if look.findings else None for look in (found, again))
    significant = [
        _significant(look.clustering, evaluation, seed)
        for look, evaluation in ((found, evaluation_before), (again, evaluation_after))
    ]
    compared = {} if old is None else _compared(found, again, significant, evaluation_after.image_index)
    undefined = dict.fromkeys(("same_attribute", "covered", "jaccard", "place", "gone", "replaced"))
    return SecondLook(
        n_findings_before=len(found.findings),
        n_findings_after=len(again.findings),
        attribute=new.attribute if new else None,
        gap=new.gap if new else None,
        n_significant_before=len(significant[0]),
        n_significant_after=len(significant[1]),
        **undefined | compared,
    )


def _significant(clustering: Clustering, evaluation: Evaluation, seed: int) -> list[np.ndarray]:
    """The regions (M,) bool of each significant cluster."""
    held = membership(clustering.labels, evaluation.image_index, len(evaluation.labels))
    clusters = significant_clusters(held, evaluation.labels, evaluation.image_probs, seed=seed)
    return [clustering.labels == one.cluster for one in clusters]


def _compared(
    found: Discovery, again: Discovery, significant: Sequence[list[np.ndarray]], image_index: np.ndarray
) -> dict:
    """What there is to say where something was found before."""
    regions = [[look.clustering.labels == one.cluster for one in look.findings] for look in (found, again)]
    old = regions[0][0]

    def among(these: list[np.ndarray], feature: np.ndarray) -> list[int]:
        return [at for at, one in enumerate(these, start=1) if same_feature(one, feature, image_index)]

    compared = {"place": next(iter(among(regions[1], old)), None)}
    if again.findings:
        both = (old & regions[1][0]).sum()
        compared["same_attribute"] = found.findings[0].attribute == again.findings[0].attribute
        compared["covered"] = float(both / old.sum())
        compared["jaccard"] = float(both / (old | regions[1][0]).sum())
    if among(significant[0], old):
        compared["gone"] = not among(significant[1], old)
        came = [one for one in significant[1] if not among(significant[0], one)]
        compared["replaced"] = compared["gone"] and bool(came)
    return compared


def same_feature(one: np.ndarray, other: np.ndarray, image_index: np.ndarray) -> bool:
    """Whether two sets of regions, (M,) bool each and none empty, are the same feature; see `SecondLook`."""
    images = [np.unique(image_index[regions]) for regions in (one, other)]
    common = np.intersect1d(*images, assume_unique=True).size
    of_images = common / (images[0].size + images[1].size - common)
    of_regions = (one & other).sum() / min(one.sum(), other.sum())
    return bool(max(of_images, of_regions) >= SAME_FEATURE)
