"""Domino, held to what the published code returned and to plain loops over its formulas."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from scipy.stats import norm

from ravl_core.metrics import precision_at_k
from ravl_core.slicing.domino import (
    STARTS,
    Mixture,
    confusion_start,
    domino,
    fit_mixture,
    k_means_start,
    principal_components,
    responsibilities,
    slice_order,
    slice_scores,
)
from ravl_core.zero_shot import Evaluation

GOLDEN = Path(__file__).parent / "golden" / "domino"
CASES = sorted(json.loads((GOLDEN / "manifest.json").read_text())["cases"])
PARAMETERS = {
    "weights": "out_weights",
    "means": "out_means",
    "variances": "out_covariances",
    "label_probs": "out_y_probs",
    "prediction_probs": "out_yhat_probs",
    "bound": "out_lower_bound",
}


pytestmark = pytest.mark.filterwarnings("error")


def close(found, expected, **tolerance):
    np.testing.assert_allclose(found, expected, **({"rtol": 0, "atol": 1e-8} | tolerance))


def golden_case(case):
    golden = np.load(GOLDEN / f"{case}.npz", allow_pickle=False)
    fitted = golden["in_fit_mask"]
    labels = np.eye(golden["out_y_probs"].shape[1])[golden["in_targets"]]
    images = golden["in_embeddings_reduced"], labels, golden["in_pred_probs"]
    return golden, [array[fitted] for array in images], [array[~fitted] for array in images]


# --- the published code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_fit_slices_and_posteriors_of_the_published_code(case):
    golden, fitted, others = golden_case(case)
    mixture = fit_mixture(*fitted, golden["in_init_resp"], label_weight=10, prediction_weight=10)
    for name, key in PARAMETERS.items():
        close(getattr(mixture, name), golden[key], err_msg=name)
    assert mixture.n_rounds == golden["out_n_iter"] and mixture.converged == golden["out_converged"]
    slices = slice_order(mixture)[:5]
    np.testing.assert_array_equal(slices, golden["out_slice_cluster_indices"])
    posteriors = responsibilities(mixture, *others)
    close(posteriors.sum(axis=1), 1)
    close(posteriors[:, slices], golden["out_test_proba"])
    np.testing.assert_array_equal(np.eye(5)[posteriors[:, slices].argmax(axis=1)], golden["out_test_hard"])
    top = np.argsort(-posteriors[:, slices], axis=0, kind="stable")[:25]
    np.testing.assert_array_equal(top, golden["out_top25_per_slice"])
    if "out_test_proba_embedding_only" in golden:
        close(responsibilities(mixture, others[0])[:, slices], golden["out_test_proba_embedding_only"])


def test_one_golden_case_has_posteriors_of_embeddings_alone():
    assert sum("out_test_proba_embedding_only" in golden_case(case)[0] for case in CASES) == 1


@pytest.mark.parametrize("case", CASES)
def test_principal_components_of_the_published_code_up_to_sign(case):
    golden, _, _ = golden_case(case)
    embeddings, axes = golden["in_embeddings"], golden["out_pca_components"]
    mean, found = principal_components(embeddings[golden["in_fit_mask"]], len(axes))
    signs = np.sign((found * axes).sum(axis=1))
    close(mean, golden["out_pca_mean"])
    close(found * signs[:, None], axes)
    close((embeddings - mean) @ found.T * signs, golden["in_embeddings_reduced"])


def test_confusion_start_of_the_published_code():
    golden, (_, labels, predictions), _ = golden_case("old_confusion_C2")
    close(confusion_start(labels, predictions, 25, seed=0), golden["in_init_resp"])


def test_k_means_start_of_the_published_code_up_to_relabelling():
    golden, (embeddings, _, _), _ = golden_case("new_kmeans_C3")
    start = k_means_start(embeddings, 12, seed=0)
    assert start.shape == (len(embeddings), 12) and set(start.ravel()) == {0, 1}
    assert np.count_nonzero(start.T @ golden["in_init_resp"]) == 12  # each cluster meets one


# --- the plain loops -------------------------------------------------------------------------------------------------


def random_images(seed, n_images=40, n_classes=3, size=4, n_components=6):
    random = np.random.default_rng(seed)
    labels = np.eye(n_classes)[random.integers(n_classes, size=n_images)]
    predictions = random.dirichlet(np.full(n_classes, 0.4), size=n_images)
    embeddings = random.normal(size=(n_images, size)) + 2 * labels @ random.normal(size=(n_classes, size))
    return (embeddings, labels, predictions), random.dirichlet(np.full(n_components, 0.3), size=n_images)


def plain_joint(image, mixture, s, factors):
    z, y, p = image
    joint = np.log(mixture.weights[s])
    joint += sum(norm.logpdf(z[d], mixture.means[s, d], np.sqrt(mixture.variances[s, d])) for d in range(len(z)))
    joint += factors[0] * np.log(y @ mixture.label_probs[s] + np.finfo(float).eps)
    return joint + factors[1] * np.log(p @ mixture.prediction_probs[s] + np.finfo(float).eps)


def plain_maximisation(images, shares):
    embeddings, labels, predictions = images
    sizes = [sum(shares[:, s]) + 10 * np.finfo(float).eps for s in range(shares.shape[1])]

    def mean(values):
        sums = [sum(shares[i, s] * values[i] for i in range(len(shares))) for s in range(len(sizes))]
        return np.array([total / size for total, size in zip(sums, sizes, strict=True)])

    means = mean(embeddings)
    return SimpleNamespace(
        weights=np.array(sizes) / len(shares),
        means=means,
        variances=mean(embeddings**2) - 2 * means * mean(embeddings) + means**2 + 1e-6,
        label_probs=mean(labels),
        prediction_probs=mean(predictions),
    )


def plain_mixture(images, shares, factors, max_rounds=100):
    """The same fit with a loop over images and components."""
    mixture, bounds = plain_maximisation(images, shares), [-np.inf]
    while len(bounds) <= max_rounds:
        posteriors, evidence = np.empty_like(shares), []
        for i, image in enumerate(zip(*images, strict=True)):
            joint = np.array([plain_joint(image, mixture, s, factors) for s in range(shares.shape[1])])
            highest = joint.max()
            evidence.append(highest + np.log(np.exp(joint - highest).sum()))
            posteriors[i] = np.exp(joint - evidence[-1])
        mixture = plain_maximisation(images, posteriors)
        bounds.append(np.mean(evidence))
        if abs(bounds[-1] - bounds[-2]) < 1e-3:
            break
    mixture.bound, mixture.n_rounds, mixture.converged = bounds[-1], len(bounds) - 1, len(bounds) <= max_rounds
    return mixture


# With soft predictions a maximisation is not exact: the bound of the last case falls on the way.
@pytest.mark.parametrize(
    ("seed", "factors"), [(0, (1, 1)), (1, (10, 10)), (2, (0, 0)), (3, (2, 0.5)), (4, (40, 20)), (0, (1, 40))]
)
def test_the_fit_is_that_of_the_plain_loops(seed, factors):
    images, shares = random_images(seed)
    found, expected = fit_mixture(*images, shares, *factors), plain_mixture(images, shares, factors)
    for name in (*PARAMETERS, "n_rounds", "converged"):
        close(getattr(found, name), getattr(expected, name), err_msg=name)
    joint = [[plain_joint(image, expected, s, factors) for s in range(6)] for image in zip(*images, strict=True)]
    odds = np.exp(np.array(joint) - np.max(joint, axis=1, keepdims=True))
    close(responsibilities(found, *images), odds / odds.sum(axis=1, keepdims=True))


def test_the_confusion_start_is_that_of_the_plain_loops():
    (_, labels, predictions), _ = random_images(0)
    found, noise = confusion_start(labels, predictions, 13, seed=5), np.random.RandomState(5).rand(40, 13)
    for i in range(40):
        row = np.array([labels[i, s % 9 // 3] * predictions[i, s % 3] for s in range(13)])
        row = row / row.sum() + 1e-3 * noise[i]
        close(found[i], row / row.sum(), atol=1e-12)
    assert not np.array_equal(found, confusion_start(labels, predictions, 13, seed=6))


# --- axioms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_without_weights_the_bound_never_falls(seed):
    images, shares = random_images(seed, n_images=80)
    bounds = [fit_mixture(*images, shares, max_rounds=n, tolerance=0).bound for n in range(1, 15)]
    assert (np.diff(bounds) > -1e-5).all() and bounds[-1] > bounds[0] + 0.1  # the variance floor may cost a little


@pytest.mark.parametrize("seed", range(4))
def test_images_in_another_order_and_components_under_other_names_give_the_same_fit(seed):
    images, shares = random_images(seed)
    random = np.random.default_rng(seed)
    order, names = random.permutation(40), random.permutation(6)
    before = fit_mixture(*images, shares, 10, 10)
    after = fit_mixture(*(array[order] for array in images), shares[order][:, names], 10, 10)
    for name in sorted(PARAMETERS.keys() - {"bound"}):
        close(getattr(after, name), getattr(before, name)[names], err_msg=name)
    close(after.bound, before.bound)


def test_rounds_end_at_the_limit_without_convergence():
    images, shares = random_images(1)
    assert fit_mixture(*images, shares).n_rounds > 3
    stopped = fit_mixture(*images, shares, max_rounds=2)
    assert stopped.n_rounds == 2 and stopped.converged is False
    assert fit_mixture(*images, shares, tolerance=1e9).n_rounds == 2  # the first round has nothing to compare with


def test_scores_are_the_largest_signed_difference_and_ties_go_to_the_lowest():
    labels = np.array([[0.4, 0.3, 0.3], [1, 0, 0], [0, 1, 0], [0.0, 0.5, 0.5]])
    predictions = np.array([[0.4, 0.3, 0.3], [0.1, 0.45, 0.45], [0, 0.5, 0.5], [0.5, 0.3, 0.2]])
    mixture = SimpleNamespace(label_probs=labels, prediction_probs=predictions)
    close(slice_scores(mixture), [0, 0.45, 0.5, 0.5])  # 0.9 with the sign left out
    assert slice_order(mixture).tolist() == [2, 3, 1, 0]


# --- numerical edges -------------------------------------------------------------------------------------------------


def test_a_component_and_a_class_without_images_keep_their_place():
    images, shares = random_images(0, n_classes=2)
    wider = [images[0], *(np.pad(array, ((0, 0), (0, 1))) for array in images[1:])]  # a third class, never seen
    mixture = fit_mixture(*wider, np.pad(shares, ((0, 0), (0, 1))), 10, 10)
    close(mixture.weights[6], 10 * np.finfo(float).eps / 40, atol=0, rtol=1e-6)
    assert (mixture.means[6] == 0).all()
    close(mixture.variances[6], 1e-6, atol=1e-12)
    assert (mixture.label_probs[:, 2] == 0).all() and slice_scores(mixture)[6] == 0
    close(mixture.means[:6], fit_mixture(*images, shares, 10, 10).means)
    assert np.isfinite(mixture.bound) and np.isfinite(responsibilities(mixture, *wider)).all()


@pytest.mark.parametrize("value", [0.1, 1234567.8])  # the squares of the second round to 1e-4
def test_equal_images_leave_the_variance_floor(value):
    (embeddings, labels, predictions), shares = random_images(0)
    mixture = fit_mixture(np.full_like(embeddings, value), labels, predictions, shares, 10, 10)
    assert (mixture.variances >= 1e-6).all() and np.isfinite(mixture.bound)


@pytest.mark.parametrize("weight", [1, 2])
def test_a_label_or_prediction_that_a_component_rules_out_leaves_a_trace(weight):
    mixture = Mixture(np.full(2, 0.5), np.zeros((2, 3)), np.ones((2, 3)), np.eye(2), np.eye(2), weight, weight)
    for given in ("labels", "predictions"):
        posterior = responsibilities(mixture, np.zeros((1, 3)), **{given: np.array([[0, 1]])})
        close(posterior, [[np.finfo(float).eps ** weight, 1]], atol=0, rtol=1e-9)


def test_far_apart_images_do_not_underflow():
    images, shares = random_images(0)
    mixture = fit_mixture(*images, shares, 10, 10)
    close(responsibilities(mixture, images[0] + 1e6, *images[1:]).sum(axis=1), 1)


def test_float32_is_fitted_in_float64():
    images, shares = random_images(0)
    rounded = [array.astype(np.float32) for array in (*images, shares)]
    found, expected = (fit_mixture(*arrays) for arrays in (rounded, [array.astype(np.float64) for array in rounded]))
    assert found.means.dtype == np.float64
    np.testing.assert_array_equal(found.means, expected.means)


def test_inputs_are_left_alone():
    images, shares = random_images(0)
    for array in (*images, shares):
        array.setflags(write=False)
    responsibilities(fit_mixture(*images, shares, 10, 10), *images)


@pytest.mark.parametrize(("shape", "n_axes"), [((300, 200), 128), ((60, 200), 60), ((300, 20), 20), ((1, 9), 0)])
def test_fewer_images_or_dimensions_give_fewer_axes(shape, n_axes):
    embeddings = oracles.unit(np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    mean, axes = principal_components(embeddings)
    assert axes.shape == (n_axes, shape[1])
    close(mean, embeddings.mean(axis=0), atol=1e-6)
    close(axes @ axes.T, np.eye(n_axes))


def test_axes_of_many_images_are_exact():
    embeddings = np.random.default_rng(0).normal(size=(600, 520)) * 0.97 ** np.arange(520)
    _, directions = np.linalg.eigh(np.cov(embeddings.T))
    axes = principal_components(embeddings, 20)[1]
    close(np.abs(axes @ directions[:, ::-1][:, :20]), np.eye(20))


def test_equal_embeddings_have_no_axes():
    mean, axes = principal_components(np.full((50, 3), 0.1))
    assert axes.shape == (0, 3)
    close(mean, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: np.zeros(40)}, "embeddings: expected 2 dim"),
        ({0: np.full((40, 4), np.nan)}, "embeddings: expected finite"),
        ({0: np.zeros((39, 4))}, "labels: expected length 39"),
        ({0: np.zeros((0, 4))}, "embeddings: expected at least one image"),
        ({1: np.zeros((40, 3))}, "labels: expected rows that sum to 1"),
        ({2: np.eye(4)[np.zeros(40, dtype=int)]}, "predictions: expected 3 columns"),
        ({3: np.ones((40, 6))}, "initial_responsibilities: expected rows that sum to 1"),
        ({3: np.ones((39, 1))}, "initial_responsibilities: expected length 40"),
        ({4: -1}, "label_weight"),
        ({5: np.nan}, "prediction_weight"),
        ({6: 0}, "max_rounds"),
    ],
)
def test_what_does_not_fit_together_is_named(changes, message):
    images, shares = random_images(0)
    arguments = [*images, shares, 1.0, 1.0, 100]
    for position, value in changes.items():
        arguments[position] = value
    with pytest.raises(ValueError, match=message):
        fit_mixture(*arguments)


def test_posteriors_need_the_columns_of_the_fit():
    (embeddings, labels, predictions), shares = random_images(0)
    mixture = fit_mixture(embeddings, labels, predictions, shares)
    with pytest.raises(ValueError, match="embeddings: expected 4 columns"):
        responsibilities(mixture, embeddings[:, :3])
    with pytest.raises(ValueError, match="labels: expected 3 columns"):
        responsibilities(mixture, embeddings, np.eye(2)[np.zeros(40, dtype=int)])
    with pytest.raises(ValueError, match="predictions: expected length 40"):
        responsibilities(mixture, embeddings, predictions=predictions[:5])
    with pytest.raises(ValueError, match="n_components: expected an integer of 9 or more, got 8"):
        confusion_start(labels, predictions, 8)


# --- the method ------------------------------------------------------------------------------------------------------


def planted_evaluation(attribute=2, n_images=240, n_classes=4, size=32, seed=0):
    """Two regions an image, an object and a background. With the cue as background `attribute` is predicted, surely;
    some images without it are taken, less surely, for the class after theirs. Every class has both."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    cue = random.random(n_images) < 0.3
    unsure = ~cue & (random.random(n_images) < 0.2)
    predicted = np.where(cue, attribute, np.where(unsure, (labels + 1) % n_classes, labels))
    confidence = np.where(unsure, 0.6, 0.95)[:, None]
    kinds = oracles.unit(random.normal(size=(n_classes + 2, size)))  # the objects, the cue, another background
    background = np.where(cue, n_classes, n_classes + 1)
    noise = 0.1 * random.normal(size=(3, n_images, size))
    whole = oracles.unit(kinds[labels] + kinds[background] + noise[0])
    parts = oracles.unit(np.stack([kinds[labels] + noise[1], kinds[background] + noise[2]], axis=1).reshape(-1, size))
    cue_probs = np.where(cue[:, None], np.eye(n_classes)[attribute] * 0.96 + 0.01, 1 / n_classes)
    evaluation = Evaluation(
        image_embeddings=whole.astype(np.float32),
        region_embeddings=parts.astype(np.float32),
        image_index=np.repeat(np.arange(n_images), 2),
        boxes=np.tile([0.0, 0.0, 1.0, 1.0], (2 * n_images, 1)),
        labels=labels,
        class_names=tuple("abcdefgh"[:n_classes]),
        image_probs=np.eye(n_classes)[predicted] * confidence + (1 - confidence) / n_classes,
        region_probs=np.stack([np.eye(n_classes)[labels] * 0.92 + 0.02, cue_probs], axis=1).reshape(-1, n_classes),
    )
    shows_cue = np.stack([np.zeros(n_images, dtype=bool), cue], axis=1).ravel()
    return evaluation, shows_cue


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("attribute", range(4))
def test_a_planted_failure_ranks_first(attribute, start):
    evaluation, shows_cue = planted_evaluation(attribute, seed=attribute)
    found = domino(evaluation, start, seed=attribute)
    assert precision_at_k(found.regions, shows_cue) == 1 and shows_cue.mean() < 0.2
    assert found.attribute == attribute and found.reason == ""
    first = evaluation.image_index[found.regions[:10]]
    assert (evaluation.predictions[first] == attribute).all() and (evaluation.labels[first] != attribute).all()
    assert sorted(evaluation.image_index[found.regions]) == list(range(240))  # one region of every image


@pytest.mark.parametrize("start", STARTS)
def test_images_come_by_descending_posterior_of_the_first_slice(start):
    evaluation, _ = planted_evaluation(seed=1)
    found = domino(evaluation, start, n_components=20, n_dimensions=None, weight=2.0, seed=3)
    images = evaluation.image_embeddings.astype(np.float64), np.eye(4)[evaluation.labels], evaluation.image_probs
    shares = confusion_start(*images[1:], 20, 3) if start == "confusion" else k_means_start(images[0], 20, 3)
    mixture = fit_mixture(*images, shares, 2.0, 2.0)
    differences = mixture.prediction_probs - mixture.label_probs
    first = differences.max(axis=1).argmax()
    posterior = responsibilities(mixture, *images)[evaluation.image_index[found.regions], first]
    assert (np.diff(posterior) <= 1e-12).all() and posterior[0] > 0.9 and posterior[-1] < 1e-6
    assert found.attribute == differences[first].argmax()


def test_posteriors_that_round_to_one_are_told_apart():
    evaluation, _ = planted_evaluation()
    images = evaluation.image_embeddings.astype(np.float64), np.eye(4)[evaluation.labels], evaluation.image_probs
    mixture = fit_mixture(*images, k_means_start(images[0], 8), 10, 10)
    first = slice_order(mixture)[0]
    assert np.count_nonzero(responsibilities(mixture, *images)[:, first] == 1) > 10
    factors = (10, 10)
    joint = [[plain_joint(image, mixture, s, factors) for s in range(8)] for image in zip(*images, strict=True)]
    others = np.delete(joint, first, axis=1)
    highest = others.max(axis=1)
    odds = np.array(joint)[:, first] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
    ranked = evaluation.image_index[domino(evaluation, "k-means", n_components=8, n_dimensions=None).regions]
    assert (np.diff(odds[ranked]) < 1e-9).all()


def test_the_regions_are_the_best_for_the_predicted_class():
    evaluation, shows_cue = planted_evaluation()
    regions = domino(evaluation).regions
    misled = (evaluation.predictions == 2)[evaluation.image_index[regions]]
    cue = shows_cue.reshape(-1, 2).any(axis=1)[evaluation.image_index[regions]]
    np.testing.assert_array_equal(shows_cue[regions], misled & cue)


def test_embeddings_are_reduced_first():
    evaluation, _ = planted_evaluation()
    mean, axes = principal_components(evaluation.image_embeddings, 5)
    reduced = replace(evaluation, image_embeddings=(evaluation.image_embeddings - mean) @ axes.T)
    expected = domino(reduced, n_dimensions=None).regions
    np.testing.assert_array_equal(domino(evaluation, n_dimensions=5).regions, expected)
    assert not np.array_equal(domino(evaluation, n_dimensions=None).regions, expected)
    turned = domino(evaluation).regions  # 128 are asked for, and 32 there
    np.testing.assert_array_equal(turned, domino(evaluation, n_dimensions=32).regions)


def test_defaults_are_those_of_the_paper_and_the_scripts():
    evaluation, _ = planted_evaluation()
    expected = domino(evaluation, "confusion", n_components=25, n_dimensions=128, weight=10.0, seed=0)
    np.testing.assert_array_equal(domino(evaluation).regions, expected.regions)
    many, _ = planted_evaluation(n_classes=6)
    np.testing.assert_array_equal(domino(many).regions, domino(many, n_components=36).regions)


def test_the_seed_decides():
    evaluation, _ = planted_evaluation()
    for start in STARTS:
        one, again = (domino(evaluation, start, seed=1).regions for _ in range(2))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, domino(evaluation, start, seed=2).regions)


def part_of(evaluation, images):
    """The evaluation of some of its images, which all have two regions."""
    images = np.asarray(images, dtype=np.int64)
    regions = np.stack([2 * images, 2 * images + 1], axis=1).ravel()
    of_images = {name: getattr(evaluation, name)[images] for name in ("image_embeddings", "labels", "image_probs")}
    of_regions = {name: getattr(evaluation, name)[regions] for name in ("region_embeddings", "boxes", "region_probs")}
    return replace(evaluation, image_index=np.repeat(np.arange(len(images)), 2), **of_images, **of_regions)


def assert_nothing(found, reason):
    assert len(found) == 0 and found.attribute is None and reason in found.reason


def test_too_few_components_for_the_classes_are_a_reason():
    evaluation, _ = planted_evaluation()
    assert_nothing(domino(evaluation, n_components=15), "needs 16 components for 4 classes")
    assert len(domino(evaluation, n_components=16)) == 240
    assert len(domino(evaluation, "k-means", n_components=3)) == 240


def test_few_images_get_few_components():
    evaluation, _ = planted_evaluation()
    for start in STARTS:
        found = domino(part_of(evaluation, range(20)), start)
        assert len(found) == 20 and found.reason == "20 components instead of 25, as there are only 20 images"
    assert_nothing(domino(part_of(evaluation, range(15))), "15 components and 15 images")
    for n_images in (1, 2, 3):
        assert len(domino(part_of(evaluation, range(n_images)), "k-means")) == n_images


@pytest.mark.parametrize("start", STARTS)
def test_what_there_is_not_enough_of_is_a_reason(start):
    evaluation, _ = planted_evaluation()
    assert_nothing(domino(part_of(evaluation, []), start), "no image")
    nobody = {name: getattr(evaluation, name)[:0] for name in ("region_embeddings", "boxes", "region_probs")}
    assert_nothing(domino(replace(evaluation, image_index=np.arange(0), **nobody), start), "no region")
    alone = replace(evaluation, labels=np.zeros(240, dtype=int), image_probs=np.ones((240, 1)), class_names=("a",))
    assert_nothing(domino(alone, start), "one class")
    right = replace(evaluation, image_probs=np.eye(4)[evaluation.labels])
    assert_nothing(domino(right, start), "no slice in which predictions differ")


@pytest.mark.parametrize("start", STARTS)
def test_without_errors_the_least_sure_slice_comes_first(start):
    evaluation, _ = planted_evaluation()
    confidence = np.where(evaluation.labels == 1, 0.5, 0.95)[:, None]
    probs = np.eye(4)[evaluation.labels] * confidence + (1 - confidence) * np.eye(4)[(evaluation.labels + 2) % 4]
    found = domino(replace(evaluation, image_probs=probs), start)
    assert (evaluation.labels[evaluation.image_index[found.regions[:10]]] == 1).all() and found.attribute == 3


@pytest.mark.parametrize("start", STARTS)
def test_a_class_without_images_and_images_without_regions_are_left_out(start):
    evaluation, _ = planted_evaluation()
    found = domino(part_of(evaluation, np.flatnonzero(evaluation.labels != 2)), start)
    assert found.attribute == 2 and len(found) == 180
    kept = evaluation.image_index % 3 > 0
    names = ("region_embeddings", "boxes", "region_probs", "image_index")
    sparse = replace(evaluation, **{name: getattr(evaluation, name)[kept] for name in names})
    everything, some = domino(evaluation, start).regions, domino(sparse, start).regions
    np.testing.assert_array_equal(np.flatnonzero(kept)[some], everything[kept[everything]])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("n_distinct", [1, 7])
def test_repeated_embeddings_are_fitted(start, n_distinct):
    evaluation, _ = planted_evaluation()
    repeated = evaluation.image_embeddings[np.arange(240) % n_distinct]
    found = domino(replace(evaluation, image_embeddings=repeated), start)
    assert sorted(evaluation.image_index[found.regions]) == list(range(240))


def test_a_wrong_argument_is_named():
    evaluation, _ = planted_evaluation()
    with pytest.raises(ValueError, match="start: expected one of 'confusion', 'k-means', got 'kmeans'; did you mean"):
        domino(evaluation, "kmeans")
    with pytest.raises(ValueError, match="n_components"):
        domino(evaluation, n_components=0)
    with pytest.raises(ValueError, match="n_dimensions"):
        domino(evaluation, n_dimensions=0)
    with pytest.raises(ValueError, match="weight"):
        domino(evaluation, weight=-1.0)
