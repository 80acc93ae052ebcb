"""Distilling Failures: in each class, the direction in which images go from recognised to misclassified.

Jain et al., "Distilling Model Failures as Directions in Latent Space", ICLR 2023. One linear SVM a class separates
the images that the model gets right from those that it gets wrong; images far on the wrong side share a failure mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ravl_core import checks
from ravl_core.slicing.ranked import RankedRegions, nothing, regions_of_images
from ravl_core.zero_shot import Evaluation

COSTS = tuple(np.logspace(-6, 0, 7).tolist())  # C of the SVM
SHOWN = 10  # images that a user would look at


@dataclass(frozen=True, eq=False)
class Whitening:
    """Mean and standard deviation (D,) of a reference set, and whether rows are normalised after the division."""

    mean: np.ndarray
    std: np.ndarray
    normalize_rows: bool = True

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Whitened embeddings (N, D), float64; a row that lies on the mean stays 0."""
        embeddings = checks.numbers("embeddings", embeddings, 2).astype(np.float64)
        checks.same_columns(mean=self.mean[None], embeddings=embeddings)
        whitened = (embeddings - self.mean) / self.std
        if not self.normalize_rows:
            return whitened
        norms = np.linalg.norm(whitened, axis=1, keepdims=True)
        return whitened / np.where(norms > 0, norms, 1)


def fit_whitening(reference: np.ndarray, normalize_rows: bool = True) -> Whitening:
    """Mean and sample standard deviation (of N - 1) of each dimension of reference embeddings (N, D).

    A dimension that is constant in the reference set gets a standard deviation of 1 (the published code divides by
    0): it is 0 there, and says nothing about failures.

    Raises
    ------
    ValueError
        If embeddings are no finite numbers (N, D), or there is none.
    """
    reference = checks.numbers("reference", reference, 2).astype(np.float64)
    if len(reference) == 0:
        raise ValueError("reference: expected at least one embedding, got none")
    constant = (reference == reference[0]).all(axis=0)  # (D,); the computed deviation may be off 0 by rounding
    mean = np.where(constant, reference[0], reference.mean(axis=0))
    variance = ((reference - mean) ** 2).sum(axis=0) / max(len(reference) - 1, 1)
    return Whitening(mean, np.where(constant, 1, np.sqrt(variance)), normalize_rows)


@dataclass(frozen=True, eq=False)
class FailureDirection:
    """The linear SVM of one class, ``coef`` (D,) and ``intercept``; -coef is the direction of its failures.

    ``cv_scores`` holds the cross-validated balanced accuracy of each cost of the grid, ``cost`` the chosen one, and
    ``cv_score`` its balanced accuracy: how coherent the failures of the class are, 0.5 where they are not.
    """

    coef: np.ndarray = field(repr=False)
    intercept: float
    cost: float
    cv_score: float
    cv_scores: np.ndarray = field(repr=False)

    def decisions(self, embeddings: np.ndarray) -> np.ndarray:
        """Decision values (N,) of whitened embeddings (N, D): positive looks right, negative like a failure."""
        return embeddings @ self.coef + self.intercept


def fit_failure_direction(embeddings: np.ndarray, correct: np.ndarray) -> FailureDirection:
    """Fit the SVM of one class.

    Parameters
    ----------
    embeddings : float array (N, D)
        Whitened embeddings of the images of the class.
    correct : bool array (N,)
        Whether the model gets each image right.

    Returns
    -------
    FailureDirection
        Of the cost with the highest balanced accuracy in two-fold cross-validation, the smallest on ties, fitted to
        all images. Folds are stratified and not shuffled; classes are weighted by the inverse of their size. Of a
        cost so small that every image is a support vector at its bound, any intercept from -1 to 1 is optimal: the
        score of that cost is then a matter of rounding; the order of its decisions is not.

    Raises
    ------
    ValueError
        If lengths disagree, or fewer than 2 images are right or fewer than 2 wrong.

    References
    ----------
    ``train_per_class_svm`` in the authors' published code.
    """
    from sklearn.model_selection import StratifiedKFold  # here, so that importing this module is quick

    embeddings, correct = checks.numbers("embeddings", embeddings, 2), checks.truths("correct", correct)
    checks.same_length(embeddings=embeddings, correct=correct)
    if min(correct.sum(), (~correct).sum()) < 2:
        raise ValueError(f"correct: expected 2 or more of each kind, got {correct.sum()} of {len(correct)}")
    folds = list(StratifiedKFold(2).split(embeddings, correct))
    cv_scores = np.array([_balanced_accuracy(embeddings, correct, folds, cost) for cost in COSTS])
    best = int(cv_scores.argmax())  # the first, so the smallest cost, on ties
    svm = _svm(COSTS[best]).fit(embeddings, correct)
    return FailureDirection(svm.coef_[0], float(svm.intercept_[0]), COSTS[best], float(cv_scores[best]), cv_scores)


def _svm(cost: float):
    from sklearn.svm import SVC

    return SVC(kernel="linear", C=cost, class_weight="balanced")


def _balanced_accuracy(embeddings: np.ndarray, correct: np.ndarray, folds: list, cost: float) -> float:
    """Mean over folds of the mean recall of right and wrong images."""
    recalls = []
    for fitted, held_out in folds:
        truth = correct[held_out]
        hit = _svm(cost).fit(embeddings[fitted], correct[fitted]).predict(embeddings[held_out]) == truth
        recalls += [hit[truth].mean(), hit[~truth].mean()]
    return float(np.mean(recalls))


def distilling_failures(evaluation: Evaluation, seed: int = 0) -> RankedRegions:
    """Regions of the images that look most like failures, in the class whose failures are the most coherent.

    Whitening and SVMs are fitted to the images that are ranked (the published code fits on one split and ranks
    another). The paper ranks within a class only. Our choices: the class with the highest cross-validated score
    counts, the first on ties; its images come by ascending decision value, each with one region; the attribute is
    the class that misclassified images among the first 10 are most often taken for, or where these have none, all
    misclassified images of the class. A class with fewer than 2 right or 2 wrong images is left out.

    Parameters
    ----------
    evaluation : Evaluation
        Of the validation set.
    seed : int
        Unused: nothing is drawn.

    Returns
    -------
    RankedRegions
        Empty, with the reason, where every class is left out or none of the ranked images has a region.
    """
    embeddings, labels, predictions = evaluation.image_embeddings, evaluation.labels, evaluation.predictions
    correct, n_classes = predictions == labels, len(evaluation.class_names)
    fewer = np.minimum(*(np.bincount(labels[these], minlength=n_classes) for these in (correct, ~correct)))  # (C,)
    reason = _left_out(evaluation, np.flatnonzero(fewer < 2))
    if (fewer < 2).all():
        return nothing(reason)
    whitened = fit_whitening(embeddings)(embeddings)  # (N, D)
    members = {c: np.flatnonzero(labels == c) for c in np.flatnonzero(fewer >= 2).tolist()}
    directions = {c: fit_failure_direction(whitened[images], correct[images]) for c, images in members.items()}
    best = max(directions, key=lambda c: directions[c].cv_score)  # the first on ties
    hardest = members[best][np.argsort(directions[best].decisions(whitened[members[best]]), kind="stable")]
    regions = regions_of_images(evaluation, hardest)
    if len(regions) == 0:
        return nothing(f"no image of the class {evaluation.class_names[best]} has a region")
    return RankedRegions(regions, _taken_for(predictions, hardest, correct), reason)


def _left_out(evaluation: Evaluation, classes: np.ndarray) -> str:
    names = ", ".join(evaluation.class_names[c] for c in classes)
    return f"left out, with fewer than 2 correct or 2 misclassified images: {names}" if names else ""


def _taken_for(predictions: np.ndarray, hardest: np.ndarray, correct: np.ndarray) -> int:
    """The class that is predicted most often for the misclassified of the images that are shown, or of all."""
    wrong = hardest[~correct[hardest]]
    shown = wrong[np.isin(wrong, hardest[:SHOWN])]
    return int(np.bincount(predictions[shown if len(shown) else wrong]).argmax())
