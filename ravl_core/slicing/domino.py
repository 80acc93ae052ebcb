"""Domino: slices of images that lie together, share a label, and are taken for something else (Eyuboglu et al. 2022).

An error-aware mixture: an image's embedding z, label y and predicted probabilities ŷ are drawn given its slice, z from
a diagonal Gaussian and the two others from categorical distributions. The published code, which this follows, weighs
their likelihoods. N images, C classes, D embedding size, S components.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning

from ravl_core import checks
from ravl_core.slicing.ranked import RankedRegions, nothing, regions_of_images
from ravl_core.zero_shot import Evaluation

STARTS = ("confusion", "k-means")
N_COMPONENTS, N_DIMENSIONS = 25, 128
LIKELIHOOD_WEIGHT = 10.0  # of labels and predictions in the authors' evaluation scripts; the class's default is 1
CONFUSION_NOISE = 1e-3
MAX_ROUNDS, TOLERANCE = 100, 1e-3
VARIANCE_FLOOR = 1e-6
EPSILON = np.finfo(np.float64).eps
NO_DIFFERENCE = 1e-12  # between predictions and labels: rounding


@dataclass(frozen=True, eq=False)
class Mixture:
    """A fitted error-aware mixture.

    Attributes
    ----------
    weights : float array (S,)
        Share of each component.
    means, variances : float arrays (S, D)
        Of its diagonal Gaussian; no variance is below 1e-6.
    label_probs, prediction_probs : float arrays (S, C)
        Mean label and mean prediction of its images; 0 throughout for a component that nothing belongs to.
    label_weight, prediction_weight : float
        Factors of the log likelihoods of labels and predictions.
    n_rounds : int
        Rounds of expectation and maximisation.
    bound : float
        Mean log evidence of an image, before the last maximisation.
    converged : bool
        Whether it moved by less than the tolerance in the last round.
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    label_probs: np.ndarray
    prediction_probs: np.ndarray
    label_weight: float = 1.0
    prediction_weight: float = 1.0
    n_rounds: int = 0
    bound: float = -np.inf
    converged: bool = False


def fit_mixture(
    embeddings: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    initial_responsibilities: np.ndarray,
    label_weight: float = 1.0,
    prediction_weight: float = 1.0,
    max_rounds: int = MAX_ROUNDS,
    tolerance: float = TOLERANCE,
) -> Mixture:
    """Fit the mixture by expectation-maximisation, beginning with a maximisation.

    Parameters
    ----------
    embeddings : float array (N, D)
        Image embeddings, reduced or not.
    labels, predictions : float arrays (N, C)
        One-hot labels and predicted probabilities; rows sum to 1.
    initial_responsibilities : float array (N, S)
        Share of each component in each image; rows sum to 1.
    label_weight, prediction_weight : float
        Factors of their log likelihoods, 0 or more; 1 in the paper (equation 3), 10 in the authors' scripts.
    max_rounds : int
        1 or more.
    tolerance : float
        The fit has converged when the bound moves by less.

    Returns
    -------
    Mixture
        Of S components. Components without images and classes without images keep their place.

    Raises
    ------
    ValueError
        If an argument has the wrong shape, dtype or range, lengths disagree, or there is no image.

    References
    ----------
    Eyuboglu et al., "Domino: Discovering Systematic Errors with Cross-Modal Embeddings", ICLR 2022, section 5.
    """
    images = _checked_images(embeddings, labels, predictions)
    shares = checks.probability_rows("initial_responsibilities", initial_responsibilities)
    checks.same_length(embeddings=embeddings, initial_responsibilities=shares)
    factors = [checks.number("label_weight", label_weight, 0), checks.number("prediction_weight", prediction_weight, 0)]
    mixture = _maximise(shares.astype(np.float64), images, factors)
    for n_rounds in range(1, checks.whole_number("max_rounds", max_rounds, 1) + 1):
        log_joint = _log_joint(mixture, *images)
        log_evidence = logsumexp(log_joint, axis=1)  # (N,)
        bound = float(log_evidence.mean())
        converged = abs(bound - mixture.bound) < tolerance
        mixture = _maximise(np.exp(log_joint - log_evidence[:, None]), images, factors)
        mixture = replace(mixture, n_rounds=n_rounds, bound=bound, converged=converged)
        if converged:
            break
    return mixture


def _checked_images(embeddings: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> list[np.ndarray]:
    embeddings = checks.numbers("embeddings", embeddings, 2, "f")
    if len(embeddings) == 0:
        raise ValueError(f"embeddings: expected at least one image, got shape {embeddings.shape}")
    labels = checks.probability_rows("labels", labels)
    predictions = checks.probability_rows("predictions", predictions)
    checks.same_length(embeddings=embeddings, labels=labels, predictions=predictions)
    checks.same_columns(labels=labels, predictions=predictions)
    return [array.astype(np.float64) for array in (embeddings, labels, predictions)]


def _maximise(shares: np.ndarray, images: list[np.ndarray], factors: list[float]) -> Mixture:
    """The parameters that suit the responsibilities (N, S) best."""
    embeddings, labels, predictions = images
    sizes = shares.sum(axis=0) + 10 * EPSILON  # (S,), never 0
    means, squares, label_probs, prediction_probs = (
        shares.T @ values / sizes[:, None] for values in (embeddings, embeddings**2, labels, predictions)
    )
    variances = np.maximum(squares - means**2, 0) + VARIANCE_FLOOR  # rounding may leave a little below 0
    return Mixture(sizes / len(shares), means, variances, label_probs, prediction_probs, *factors)


def _log_joint(
    mixture: Mixture, embeddings: np.ndarray, labels: np.ndarray | None, predictions: np.ndarray | None
) -> np.ndarray:
    """Weighted log p(slice, z, y, ŷ), (N, S); without y or ŷ where there is none."""
    # The squared distance, multiplied out, is two matrix products; no array (N, S, D) is needed.
    precisions = 1 / mixture.variances  # (S, D)
    scaled = mixture.means * precisions
    distances = embeddings**2 @ precisions.T - 2 * embeddings @ scaled.T + (mixture.means * scaled).sum(axis=1)
    volumes = np.log(2 * np.pi * mixture.variances).sum(axis=1)
    log_joint = np.log(mixture.weights) - (volumes + distances) / 2
    if labels is not None:
        log_joint += mixture.label_weight * np.log(labels @ mixture.label_probs.T + EPSILON)
    if predictions is not None:
        log_joint += mixture.prediction_weight * np.log(predictions @ mixture.prediction_probs.T + EPSILON)
    return log_joint


def responsibilities(
    mixture: Mixture, embeddings: np.ndarray, labels: np.ndarray | None = None, predictions: np.ndarray | None = None
) -> np.ndarray:
    """Posterior of each component given an image, with the weights of the fit.

    Parameters
    ----------
    mixture : Mixture
        Of S components.
    embeddings : float array (N, D)
        Reduced as those that were fitted.
    labels, predictions : float arrays (N, C), optional
        One-hot labels and predicted probabilities. What is left out plays no part.

    Returns
    -------
    float array (N, S)
        Rows sum to 1.

    Raises
    ------
    ValueError
        If an argument has other columns than the mixture, or lengths disagree.
    """
    embeddings = checks.numbers("embeddings", embeddings, 2, "f").astype(np.float64)
    checks.same_columns(means=mixture.means, embeddings=embeddings)
    for name, given in (("labels", labels), ("predictions", predictions)):
        if given is not None:
            checks.same_columns(label_probs=mixture.label_probs, **{name: checks.probability_rows(name, given)})
            checks.same_length(embeddings=embeddings, **{name: given})
    log_joint = _log_joint(mixture, embeddings, labels, predictions)
    return np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))


def slice_scores(mixture: Mixture) -> np.ndarray:
    """How far predictions exceed labels in each component, (S,), 0 … 1.

    |max over classes of (prediction probability - label probability)|: 1 where all are taken for one class that none
    belongs to. As in the published code, the maximum is over signed differences.
    """
    return np.abs((mixture.prediction_probs - mixture.label_probs).max(axis=1))


def slice_order(mixture: Mixture) -> np.ndarray:
    """The components (S,) by descending `slice_scores`, the lowest first on ties."""
    return np.argsort(-slice_scores(mixture), kind="stable")


def principal_components(embeddings: np.ndarray, n_dimensions: int = N_DIMENSIONS) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and principal axes (P, D) of embeddings (N, D), which reduce as ``(embeddings - mean) @ axes.T``.

    P is `n_dimensions` where there are so many images and dimensions, and the smaller of the two otherwise (the
    published code refuses). Equal embeddings have no axes: P is 0.
    """
    embeddings = checks.numbers("embeddings", embeddings, 2, "f").astype(np.float64)
    n_axes = min(checks.whole_number("n_dimensions", n_dimensions, 1), *embeddings.shape)
    if n_axes == 0 or (embeddings == embeddings[0]).all():
        return embeddings[:1].sum(axis=0), np.empty((0, embeddings.shape[1]))
    fitted = PCA(n_axes, svd_solver="full").fit(embeddings)  # exact: the default may draw a random projection
    return fitted.mean_, fitted.components_


def confusion_start(labels: np.ndarray, predictions: np.ndarray, n_components: int, seed: int = 0) -> np.ndarray:
    """Initial responsibilities of the paper: one component for each pair of label and predicted class, and again.

    Parameters
    ----------
    labels, predictions : float arrays (N, C)
        One-hot labels and predicted probabilities.
    n_components : int
        S, C² or more.
    seed : int
        Of the noise that tells apart the components of a pair.

    Returns
    -------
    float array (N, S)
        Component s stands for label (s mod C²) // C, predicted as s mod C. Rows sum to 1.

    Raises
    ------
    ValueError
        If there are fewer components than pairs, or the arrays have other shapes.
    """
    checks.same_columns(labels=labels, predictions=predictions)
    checks.same_length(labels=labels, predictions=predictions)
    checks.whole_number("n_components", n_components, labels.shape[1] ** 2)
    pairs = np.einsum("ny,np->nyp", labels, predictions).reshape(len(labels), -1)  # (N, C²)
    shares = pairs[:, np.arange(n_components) % pairs.shape[1]]  # (N, S)
    shares /= shares.sum(axis=1, keepdims=True)
    shares += CONFUSION_NOISE * np.random.RandomState(seed).random_sample(shares.shape)
    return shares / shares.sum(axis=1, keepdims=True)


def k_means_start(embeddings: np.ndarray, n_components: int, seed: int = 0) -> np.ndarray:
    """Initial responsibilities (N, S) of the later code: one-hot k-means clusters of the embeddings (N, D).

    `n_components` is at most N. Where embeddings repeat, components may be without images.
    """
    with warnings.catch_warnings():
        # Fewer distinct embeddings than clusters leave some empty, which the mixture takes; whether rounding tells
        # two embeddings apart is known to k-means alone.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(n_components, n_init=1, random_state=seed).fit_predict(embeddings)
    return np.eye(n_components)[clusters]


def domino(
    evaluation: Evaluation,
    start: str = "confusion",
    n_components: int | None = None,
    n_dimensions: int | None = N_DIMENSIONS,
    weight: float = LIKELIHOOD_WEIGHT,
    seed: int = 0,
) -> RankedRegions:
    """Fit the mixture to images, and rank them by how surely they belong to the slice with the largest disagreement.

    Parameters
    ----------
    evaluation : Evaluation
        Its image embeddings, labels and image probabilities are used.
    start : {"confusion", "k-means"}
        Initial responsibilities: `confusion_start` (the paper) or `k_means_start` (the authors' later code).
    n_components : int, optional
        Components to fit, at most N; max(25, C²) if not given: 25 in the paper, and the confusion start needs C².
    n_dimensions : int, optional
        Principal components that embeddings are reduced to; None leaves them as they are.
    weight : float
        Of the log likelihoods of labels and of predictions: 10 as in the authors' evaluation scripts.
    seed : int
        Seeds the start.

    Returns
    -------
    RankedRegions
        One region an image, images by descending posterior of the first slice; that slice orders all N images, so
        the others are not needed. The attribute is the class whose mean prediction exceeds its share of labels most in
        this slice: the class that the slice is pushed to, which is our reading. Nothing, with the reason, where
        there are too few components or images for the classes, one class, no region, or no disagreement.

    Raises
    ------
    ValueError
        If ``start`` or a number is out of its range.

    References
    ----------
    Eyuboglu et al., "Domino: Discovering Systematic Errors with Cross-Modal Embeddings", ICLR 2022, section 5.
    """
    checks.choice("start", start, STARTS)
    n_images, n_classes = evaluation.image_probs.shape
    wanted = max(N_COMPONENTS, n_classes**2) if n_components is None else n_components
    used = min(checks.whole_number("n_components", wanted, 1), n_images)
    if problem := _obstacle(evaluation, start, used):
        return nothing(problem)
    embeddings = _reduced(evaluation.image_embeddings, n_dimensions)
    images = embeddings, np.eye(n_classes)[evaluation.labels], evaluation.image_probs.astype(np.float64)
    shares = confusion_start(*images[1:], used, seed) if start == "confusion" else k_means_start(embeddings, used, seed)
    mixture = fit_mixture(*images, shares, weight, weight)
    first = slice_order(mixture)[0]
    if slice_scores(mixture)[first] <= NO_DIFFERENCE:
        return nothing("no slice in which predictions differ from labels")
    order = np.argsort(-_log_odds(_log_joint(mixture, *images), first), kind="stable")
    attribute = int((mixture.prediction_probs - mixture.label_probs)[first].argmax())
    reason = "" if used == wanted else f"{used} components instead of {wanted}, as there are only {n_images} images"
    return RankedRegions(regions_of_images(evaluation, order), attribute, reason)


def _obstacle(evaluation: Evaluation, start: str, n_components: int) -> str:
    """Why the method cannot be used on these images with so many components; "" where it can."""
    n_images, n_classes = evaluation.image_probs.shape
    if n_images == 0:
        return "no image"
    if len(evaluation.image_index) == 0:
        return "no region"
    if n_classes == 1:
        return "one class only: predictions cannot differ from labels"
    if start == "confusion" and n_components < n_classes**2:
        needed = f"the confusion start needs {n_classes**2} components for {n_classes} classes"
        return f"{needed}, and as many images: {n_components} components and {n_images} images"
    return ""


def _reduced(embeddings: np.ndarray, n_dimensions: int | None) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    if n_dimensions is None:
        return embeddings
    mean, axes = principal_components(embeddings, n_dimensions)
    return (embeddings - mean) @ axes.T if len(axes) else embeddings


def _log_odds(log_joint: np.ndarray, component: int) -> np.ndarray:
    """Log odds of a component, (N,): in the order of its posterior, also where posteriors round to 1."""
    others = np.logaddexp.reduce(np.delete(log_joint, component, axis=1), axis=1)
    return log_joint[:, component] - others
