"""Evaluations for tests of discovery methods: random ones with ragged regions, and one that leans on a planted cue."""

from dataclasses import fields, replace

import numpy as np
import oracles

from ravl_core.zero_shot import Evaluation

NAMES = tuple("abcdefghij")


def evaluation_of(problem, image_embeddings=None):
    """An `Evaluation` of the five arrays that stage 1 looks at; image embeddings are random unless given."""
    n_images, n_classes = problem.image_probs.shape
    if image_embeddings is None:
        image_embeddings = oracles.unit(np.random.default_rng(0).normal(size=(n_images, 8)))
    return Evaluation(
        image_embeddings=image_embeddings,
        region_embeddings=problem.region_embeddings,
        image_index=problem.image_index,
        boxes=np.zeros((len(problem.image_index), 4)),
        labels=problem.labels,
        class_names=NAMES[:n_classes],
        image_probs=problem.image_probs,
        region_probs=problem.region_probs,
    )


def ragged(seed, n_images=60, n_classes=3):
    """Images of no to six regions, with ties of all kinds; see `oracles.ragged_problem`."""
    return evaluation_of(oracles.ragged_problem(seed, n_images, n_classes))


def planted(attribute=2, n_images=240, n_classes=4, reliance=0.9, seed=0):
    """Images of an object, a background and up to two more regions; a background, the cue, means `attribute`.

    An eighth of each class has no region. Returns the evaluation, and truths as `ravl_core.kept.truths_of` has them.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    background = random.integers(3, size=n_images)  # 0 is the cue
    misled = (background == 0) & (random.random(n_images) < reliance)
    missed = (background != 0) & (labels == attribute) & (random.random(n_images) < 0.8 * reliance)
    predictions = np.where(misled, attribute, np.where(missed, (labels + 1) % n_classes, labels))
    kinds = oracles.unit(random.normal(size=(n_classes + 5, 32)))  # objects, backgrounds, two that say nothing
    images, shown = [], []
    for image in np.flatnonzero(np.arange(n_images) // n_classes % 8):
        others = random.integers(n_classes + 3, n_classes + 5, size=random.integers(3))
        content = [labels[image], n_classes + background[image], *others]
        images += [image] * len(content)
        shown += content
    images, shown = np.array(images), np.array(shown)
    hints = np.full((len(kinds), n_classes), 1 / n_classes)
    hints[:n_classes], hints[n_classes] = np.eye(n_classes), np.eye(n_classes)[attribute]
    evaluation = Evaluation(
        image_embeddings=oracles.unit(
            kinds[labels] + kinds[n_classes + background] + 0.1 * random.normal(size=(n_images, 32))
        ),
        region_embeddings=oracles.unit(kinds[shown] + 0.02 * random.normal(size=(len(shown), 32))),
        image_index=images,
        boxes=np.zeros((len(shown), 4)),
        labels=labels,
        class_names=NAMES[:n_classes],
        image_probs=0.8 * np.eye(n_classes)[predictions] + 0.2 * random.dirichlet(np.ones(n_classes), n_images),
        region_probs=hints[shown],
    )
    names = np.array([*NAMES[:n_classes], "cue", "sand", "grass", "", "leaf"])
    truths = {
        "shows_feature": shown == n_classes,
        "feature_present": background == 0,
        "sources": np.arange(n_images) // 2,
        "box_names": names[shown],
    }
    return evaluation, truths


def of_images(evaluation, images):
    """The evaluation of some of its images, in their order, by a plain loop."""
    images = list(images)
    regions = [r for i in images for r in range(len(evaluation.image_index)) if evaluation.image_index[r] == i]
    index = np.array([images.index(evaluation.image_index[r]) for r in regions], dtype=int)
    regions = np.array(regions, dtype=int)
    arrays = {name: getattr(evaluation, name)[images] for name in ("image_embeddings", "labels", "image_probs")}
    arrays |= {name: getattr(evaluation, name)[regions] for name in ("region_embeddings", "boxes", "region_probs")}
    return replace(evaluation, **arrays, image_index=index)


def without_regions(evaluation):
    """The same images, none of which has a region."""
    arrays = {name: getattr(evaluation, name)[:0] for name in ("region_embeddings", "image_index", "boxes")}
    return replace(evaluation, **arrays, region_probs=evaluation.region_probs[:0])


def same(one, other):
    """Whether all arrays of two evaluations are equal."""
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Evaluation))
