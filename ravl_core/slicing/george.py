"""George: the classes split into subclasses by clustering, and the subclass that the model fails on.

Sohoni et al., "No Subclass Left Behind: Fine-Grained Robustness in Coarse-Grained Classification Problems", NeurIPS
2020. The clustering is that of `subclasses`; here are the two ways to rank what it finds.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ravl_core import checks
from ravl_core.slicing.ranked import RankedRegions, nothing, regions_of_images
from ravl_core.slicing.subclasses import CANDIDATES, find_subclasses, fit_clusters, group_means, reduce_activations
from ravl_core.zero_shot import Evaluation


def george(
    evaluation: Evaluation,
    reduction: str = "pca",
    n_components: int = 2,
    clustering: str = "gmm",
    candidates: Iterable[int] = CANDIDATES,
    factor: int = 5,
    seed: int = 0,
) -> RankedRegions:
    """Regions of the images of the subclass with the highest error rate.

    The published method trains on the subclasses and does not rank them, so the ranking is our reading: the subclass
    with the highest error rate, the larger one on ties; its images by descending loss, because memberships hardly
    differ within a cluster; the class that its misclassified images are most often taken for as the attribute. The
    loss is the cross-entropy of the zero-shot probabilities. PCA stands for UMAP unless it is asked for.

    Parameters
    ----------
    evaluation : Evaluation
        Of the validation set, which is the train and the validation split of the published method here.
    reduction : {"pca", "none", "umap"}
        There is no final layer for "hardness".
    n_components, clustering, candidates, factor, seed
        As for `reduce_activations` and `find_subclasses`.

    Returns
    -------
    RankedRegions
        Empty, with the reason, where no class has 3 images, no image is misclassified or no ranked image has regions.

    Raises
    ------
    ValueError
        If an option is not known.
    ImportError
        If UMAP is asked for and umap-learn is not installed.
    """
    checks.choice("reduction", reduction, ("pca", "none", "umap"))
    images, reason = _images_to_cluster(evaluation)
    wrong = (evaluation.predictions != evaluation.labels)[images]
    if not wrong.any():
        return nothing("no misclassified image in a class of 3 or more images")
    classes, losses = evaluation.labels[images], _losses(evaluation)[images]
    points = reduce_activations(evaluation.image_embeddings[images], classes, reduction, n_components, seed=seed)
    subclasses = find_subclasses(points, classes, losses, clustering, candidates, factor, seed=seed)
    sizes = np.bincount(subclasses)
    worst = np.lexsort([-sizes, -group_means(wrong, subclasses, len(sizes))])[0]
    members = np.flatnonzero(subclasses == worst)
    hardest = members[np.argsort(-losses[members], kind="stable")]
    return _shown(evaluation, images[hardest], images[members], reason)


def george_slices(
    evaluation: Evaluation,
    reduction: str = "pca",
    n_components: int = 2,
    n_clusters: int = 25,
    score: str = "sum",
    seed: int = 0,
) -> RankedRegions:
    """Regions of the images of the slice with the highest loss: George as a baseline in Domino's published code.

    Each class is reduced, without normalisation, and clustered by a Gaussian mixture of a fixed size; all its images
    are ranked by their responsibility for the slice. The published code takes the cross-entropy of probabilities as
    if they were logits, and the same number of slices from every class; here the loss is the cross-entropy, and the
    best slice of all classes counts. PCA stands for UMAP unless it is asked for.

    Parameters
    ----------
    evaluation : Evaluation
        Of the validation set.
    reduction, n_components, seed
        As for `george`.
    n_clusters : int
        Slices of each class; fewer where a class has fewer distinct images.
    score : {"sum", "mean"}
        Of losses weighted by responsibilities. "sum" is published, and favours large slices.

    Returns
    -------
    RankedRegions
        The attribute is the class that is predicted most often for the slice's misclassified images, None if it has
        none. Empty, with the reason, where no class has 3 images, or no ranked image a region.

    Raises
    ------
    ValueError
        If an option is not known.
    ImportError
        If UMAP is asked for and umap-learn is not installed.

    References
    ----------
    ``GeorgeSDM`` in the code of Eyuboglu et al., "Domino", ICLR 2022.
    """
    checks.choice("reduction", reduction, ("pca", "none", "umap"))
    checks.choice("score", score, ("sum", "mean"))
    images, reason = _images_to_cluster(evaluation)
    if len(images) == 0:
        return nothing(reason)
    classes, losses = evaluation.labels[images], _losses(evaluation)[images]
    points = reduce_activations(evaluation.image_embeddings[images], classes, reduction, n_components, False, seed=seed)
    best = -np.inf, images, images
    for c in np.unique(classes):
        of_class = np.flatnonzero(classes == c)
        shares = fit_clusters(points[of_class], n_clusters, "gmm", seed)(points[of_class])  # (N of the class, K)
        sizes = np.maximum(shares.sum(axis=0), np.finfo(np.float64).tiny)  # a slice may have no share in any image
        scores = losses[of_class] @ shares / (sizes if score == "mean" else 1)
        k = scores.argmax()
        if scores[k] > best[0]:
            ranked = np.argsort(-shares[:, k], kind="stable")
            best = scores[k], images[of_class[ranked]], images[of_class[shares.argmax(axis=1) == k]]
    return _shown(evaluation, *best[1:], reason)


def _images_to_cluster(evaluation: Evaluation) -> tuple[np.ndarray, str]:
    """The images of classes that have at least 3, and a sentence on the classes that do not."""
    few = np.bincount(evaluation.labels, minlength=len(evaluation.class_names)) < 3  # (C,)
    names = ", ".join(evaluation.class_names[c] for c in np.flatnonzero(few))
    return np.flatnonzero(~few[evaluation.labels]), f"left out, with fewer than 3 images: {names}" if names else ""


def _losses(evaluation: Evaluation) -> np.ndarray:
    """Cross-entropy of each image (N,), finite."""
    probs = evaluation.image_probs[np.arange(len(evaluation.labels)), evaluation.labels].astype(np.float64)
    return -np.log(np.maximum(probs, np.finfo(np.float64).tiny))


def _shown(evaluation: Evaluation, ranked: np.ndarray, members: np.ndarray, reason: str) -> RankedRegions:
    """The regions of ranked images, and the class that the misclassified members are most often taken for."""
    regions = regions_of_images(evaluation, ranked)
    if len(regions) == 0:
        return nothing("no ranked image has a region")
    taken_for = evaluation.predictions[members][(evaluation.predictions != evaluation.labels)[members]]
    return RankedRegions(regions, int(np.bincount(taken_for).argmax()) if len(taken_for) else None, reason)
