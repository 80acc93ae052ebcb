"""Discovery methods, one file each; every method ranks the regions of a val `Evaluation`.

To add one, write `method(evaluation, seed=0) -> RankedRegions` in a file of its own and name it in `ON_THEIR_OWN`; one
that works on stage 1's region clusters takes `(evaluation, clustering)` and belongs to `ON_CLUSTERS`.
"""

from functools import partial

from ravl_core.kmedoids import Clustering
from ravl_core.slicing import distilling_failures, domino, george, ravl, spurious_aware
from ravl_core.slicing.ranked import RankedRegions
from ravl_core.zero_shot import Evaluation

PAPER = "RaVL"
CHANCE = "Random"  # has no ranking of its own
NAMED = "Spurious-Aware Detection, true names"  # is told what the boxes show

ON_THEIR_OWN = {
    "Distilling Failures": distilling_failures.distilling_failures,
    "George": george.george,
    "George, slices": george.george_slices,
    "Domino": domino.domino,
    "Domino, k-means starts": partial(domino.domino, start="k-means"),
    "RaVL, ranked by pull, fine clusters": ravl.by_pull_of_fine_clusters,
}
ON_CLUSTERS = {
    "Spurious-Aware Detection": spurious_aware.spurious_aware,
    PAPER: ravl.ravl,
    "RaVL without gap": ravl.without_gap,
    "RaVL without influence": ravl.without_influence,
    "RaVL, unweighted gap": ravl.unweighted_gap,
    **{f"RaVL, influence ≥ {threshold:.2f}": partial(ravl.ravl, threshold=threshold) for threshold in (0.1, 0.5, 0.75)},
    "RaVL, ranked by pull": ravl.by_pull,
}


def rank_by_all(evaluation: Evaluation, clustering: Clustering, seed: int = 0) -> dict[str, RankedRegions]:
    """What every method says of an evaluation; `clustering` is that of its regions, which several methods share."""
    ranked = {name: method(evaluation, seed=seed) for name, method in ON_THEIR_OWN.items()}
    ranked |= {name: method(evaluation, clustering) for name, method in ON_CLUSTERS.items()}
    return ranked | {"RaVL, controlled": ravl.controlled(evaluation, clustering, seed)}
