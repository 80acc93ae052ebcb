import sys

import numpy as np
import oracles
import pytest
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from ravl_core.slicing.george import george, george_slices
from ravl_core.slicing.subclasses import find_subclasses, reduce_activations
from ravl_core.zero_shot import Evaluation

ATTRIBUTE = 2


pytestmark = pytest.mark.filterwarnings("error")


def george_slices_by_mean(evaluation, seed=0):
    return george_slices(evaluation, n_clusters=5, score="mean", seed=seed)


METHODS = [george, george_slices, george_slices_by_mean]


def planted(n_images=300, n_classes=3, share=0.3, seed=0, n_dims=24, mistakes=0.05):
    """A cue by which images of the classes 0 and 1 are taken for class 2; two regions an image, object and rest."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    cue = random.random(n_images) < share
    kinds = oracles.unit(random.normal(size=(n_classes + 2, n_dims)))
    shown = np.stack([labels, n_classes + cue], axis=1)  # (N, 2)
    embeddings = oracles.unit(kinds[shown].sum(axis=1) + 0.05 * random.normal(size=(n_images, n_dims)))
    predictions = np.where(cue, ATTRIBUTE, labels)
    by_chance = ~cue & (random.random(n_images) < mistakes)
    predictions[by_chance] = (labels[by_chance] + 1) % n_classes
    scores = 0.2 + random.random((n_images, n_classes)) + 4 * np.eye(n_classes)[predictions]
    objects = 0.8 * np.eye(n_classes)[labels] + 0.2 / n_classes
    rest = np.where(cue[:, None], 0.9 * np.eye(n_classes)[ATTRIBUTE] + 0.1 / n_classes, 1 / n_classes)
    evaluation = Evaluation(
        image_embeddings=embeddings,
        region_embeddings=kinds[shown.ravel()],
        image_index=np.repeat(np.arange(n_images), 2),
        boxes=np.tile([0, 0, 1, 1], (2 * n_images, 1)),
        labels=labels,
        class_names=tuple(f"class {c}" for c in range(n_classes)),
        image_probs=scores / scores.sum(axis=1, keepdims=True),
        region_probs=np.stack([objects, rest], axis=1).reshape(2 * n_images, n_classes),
    )
    return evaluation, shown.ravel() == n_classes + 1


def changed(evaluation, **arrays):
    return Evaluation(**{**vars(evaluation), **arrays})


def of_images(evaluation, images):
    """The evaluation of some images only."""
    regions = np.isin(evaluation.image_index, images)
    per_image = {name: getattr(evaluation, name)[images] for name in ("image_embeddings", "labels", "image_probs")}
    names = ("region_embeddings", "boxes", "region_probs")
    return changed(
        evaluation,
        **per_image,
        **{name: getattr(evaluation, name)[regions] for name in names},
        image_index=np.searchsorted(images, evaluation.image_index[regions]),
    )


def losses_of(evaluation):
    return -np.log(evaluation.image_probs[np.arange(len(evaluation.labels)), evaluation.labels])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(4))
def test_a_planted_failure_ranks_first(method, seed):
    evaluation, shows_cue = planted(seed=seed, share=[0.3, 0.2, 0.4, 0.25][seed], mistakes=0)
    found = method(evaluation)
    assert shows_cue[found.regions[:5]].all() and found.attribute == ATTRIBUTE and found.reason == ""


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_deterministic(method):
    evaluation, _ = planted()
    np.testing.assert_array_equal(method(evaluation, seed=3), method(evaluation, seed=3))


@pytest.mark.parametrize("options", [{}, {"clustering": "kmeans", "factor": 1}, {"reduction": "none"}])
def test_george_shows_the_subclass_with_the_highest_error_rate(options):
    evaluation, _ = planted()
    wrong, losses = evaluation.predictions != evaluation.labels, losses_of(evaluation)
    reduction = options.get("reduction", "pca")
    points = reduce_activations(evaluation.image_embeddings, evaluation.labels, reduction)
    options = {"clustering": "gmm", "factor": 5, **options}
    subclasses = find_subclasses(
        points, evaluation.labels, losses, options["clustering"], factor=options["factor"], seed=1
    )
    rates = {one: (wrong[subclasses == one].mean(), (subclasses == one).sum()) for one in set(subclasses.tolist())}
    worst = np.flatnonzero(subclasses == max(rates, key=rates.get))
    found = george(evaluation, **options, seed=1)
    np.testing.assert_array_equal(evaluation.image_index[found.regions], worst[np.argsort(-losses[worst])])


@pytest.mark.parametrize("score", ["sum", "mean"])
@pytest.mark.parametrize("n_clusters", [3, 25])
def test_slices_are_ranked_by_loss_and_images_by_responsibility(score, n_clusters):
    evaluation, _ = planted()
    losses, best = losses_of(evaluation), (-1, None, None)
    for c in range(3):
        images = np.flatnonzero(evaluation.labels == c)
        points = PCA(2).fit_transform(evaluation.image_embeddings[images])
        shares = GaussianMixture(n_clusters, n_init=3, random_state=2).fit(points).predict_proba(points)
        for k in range(n_clusters):
            loss = sum(losses[images] * shares[:, k]) / (shares[:, k].sum() if score == "mean" else 1)
            if loss > best[0]:
                best = loss, images, shares[:, k]
    found = george_slices(evaluation, n_clusters=n_clusters, score=score, seed=2)
    _, images, shares = best
    assert sorted(evaluation.image_index[found.regions]) == images.tolist()
    places = np.searchsorted(images, evaluation.image_index[found.regions])
    assert (np.diff(shares[places]) < 1e-9).all()


def test_the_two_scores_of_slices_differ():
    evaluation, _ = planted()
    first, second = (george_slices(evaluation, score=score).regions for score in ("sum", "mean"))
    assert not np.array_equal(first, second)


def test_slices_are_not_normalised_and_george_is():
    evaluation, _ = planted()
    scaled = changed(evaluation, image_embeddings=evaluation.image_embeddings * np.linspace(0.2, 2, 300)[:, None])
    np.testing.assert_array_equal(george(scaled), george(evaluation))
    assert not np.array_equal(george_slices(scaled), george_slices(evaluation))


@pytest.mark.parametrize("method", METHODS)
def test_a_class_without_mistakes_is_no_error(method):
    evaluation, _ = planted()
    probs = evaluation.image_probs.copy()
    probs[evaluation.labels == 0] = [1, 0, 0]
    found = method(changed(evaluation, image_probs=probs))
    assert found.attribute == ATTRIBUTE and (evaluation.labels[evaluation.image_index[found.regions]] == 1).all()


def test_without_mistakes_george_finds_nothing_and_slices_name_no_attribute():
    evaluation, _ = planted()
    right = changed(evaluation, image_probs=0.7 * np.eye(3)[evaluation.labels] + 0.1)
    assert len(george(right)) == 0 and "misclassified" in george(right).reason
    for score in ("sum", "mean"):
        found = george_slices(right, score=score)
        assert len(found) == 100 and found.attribute is None


@pytest.mark.parametrize("method", METHODS)
def test_an_impossible_label_has_a_finite_loss(method):
    evaluation, shows_cue = planted()
    certain = changed(evaluation, image_probs=np.eye(3, dtype=np.float32)[evaluation.predictions])
    found = method(certain)
    assert shows_cue[found.regions[:5]].all() and found.attribute == ATTRIBUTE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_images", [1, 2, 3, 4, 9])
def test_small_classes(method, n_images):
    evaluation, _ = planted()
    of_class = np.flatnonzero(evaluation.labels == 1)
    of_class = of_class[np.argsort(-losses_of(evaluation)[of_class])][:n_images]  # its misclassified images
    some = of_images(evaluation, np.sort(np.r_[np.flatnonzero(evaluation.labels != 1), of_class]))
    found = method(some)
    assert len(found) and found.attribute == ATTRIBUTE
    assert found.reason == ("left out, with fewer than 3 images: class 1" if n_images < 3 else "")
    alone = of_images(evaluation, np.sort(of_class))
    found = method(alone)
    if n_images < 3:
        assert len(found) == 0 and found.attribute is None and found.reason
    else:
        assert 1 <= len(found) <= n_images and found.reason.endswith("class 0, class 2")


@pytest.mark.parametrize("method", METHODS)
def test_no_images_and_no_regions_give_nothing(method):
    evaluation, _ = planted()
    empty = method(of_images(evaluation, np.array([], dtype=int)))
    assert len(empty) == 0 and empty.reason
    names = ("region_embeddings", "image_index", "boxes", "region_probs")
    bare = method(changed(evaluation, **{name: getattr(evaluation, name)[:0] for name in names}))
    assert len(bare) == 0 and "region" in bare.reason


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("noise", [0, 1e-17, 1e-9])
def test_equal_images_are_no_error(method, noise):
    evaluation, _ = planted(n_images=60)
    random = np.random.default_rng(0)
    equal = np.tile(oracles.unit(random.normal(size=(1, 24))), (60, 1)) + noise * random.normal(size=(60, 24))
    assert len(method(changed(evaluation, image_embeddings=equal)))


@pytest.mark.parametrize("score", ["sum", "mean"])
@pytest.mark.parametrize("n_clusters", [5, 9, 25])
def test_slices_without_a_share_in_any_image_are_no_error(score, n_clusters):
    evaluation, _ = planted(n_images=90)
    few = evaluation.image_embeddings[np.arange(90) % 9]  # three images a class, apart by rounding
    few = few + 1e-16 * np.random.default_rng(0).normal(size=few.shape)
    found = george_slices(changed(evaluation, image_embeddings=few), n_clusters=n_clusters, score=score)
    assert len(found) == 30 and found.reason == ""


@pytest.mark.parametrize("method", METHODS)
def test_one_class_and_one_dimension_are_no_error(method):
    evaluation, _ = planted(n_images=60)
    thin = changed(evaluation, image_embeddings=evaluation.image_embeddings[:, :1])
    assert len(method(thin))
    one = changed(evaluation, labels=np.zeros(60, dtype=int))
    assert len(method(one)) and method(one).reason.endswith("class 1, class 2")


def test_unknown_options_are_refused():
    evaluation, _ = planted(n_images=30)
    for method in (george, george_slices):
        with pytest.raises(ValueError, match="reduction: expected one of 'pca', 'none', 'umap'"):
            method(evaluation, reduction="hardness")
    with pytest.raises(ValueError, match="score: expected one of 'sum', 'mean'"):
        george_slices(evaluation, score="mode")


def test_umap_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    for method in (george, george_slices):
        with pytest.raises(ImportError, match="umap-learn"):
            method(planted(n_images=30)[0], reduction="umap")
