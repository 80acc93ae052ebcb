"""Upsampled fine-tuning: batches that hold every group equally often, and nothing else that is new."""

from dataclasses import replace

import numpy as np
import pytest
from recipe_runs import FROZEN, SHORT, TEXT, clip_by_loops, embedded, few_classes, groups_by_loop, steps_of
from scipy.stats import binom
from tiny import digits, same_weights, weights

from ravl_core.mitigation import finetune, training
from ravl_core.mitigation.samplers import group_balanced, shuffled
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.upsampled import Upsampled
from ravl_core.randomness import stream

UNEVEN = np.repeat([0, 1, 3, 6], [500, 40, 3, 1])  # groups 2, 4 and 5 have no image


def drawn(groups, batch_size, epochs, seed=0):
    return list(group_balanced(groups, batch_size, epochs, np.random.default_rng(seed)))


def within_chance(counts, n, share):
    """Whether binomial counts lie where all but one in a million do."""
    low, high = binom.interval(1 - 1e-6, n, share)
    return (low <= counts).all() and (counts <= high).all()


# ---- the sampler ----


@pytest.mark.parametrize("seed", range(3))
def test_groups_come_equally_often_and_so_do_the_images_of_one_group(seed):
    order = np.random.default_rng(seed).permutation(len(UNEVEN))
    groups = UNEVEN[order]
    images = np.concatenate(drawn(groups, 32, 100, seed))
    assert len(images) == 100 * (544 // 32) * 32
    counts = np.bincount(groups[images], minlength=7)
    assert within_chance(counts[[0, 1, 3, 6]], len(images), 1 / 4)
    assert counts[[2, 4, 5]].tolist() == [0, 0, 0]
    for group, size in zip([0, 1, 3, 6], [500, 40, 3, 1], strict=True):
        each = np.bincount(images, minlength=len(groups))[groups == group]
        assert within_chance(each, len(images), 1 / (4 * size))


def test_each_place_of_a_batch_is_drawn_alike_and_batches_differ():
    batches = np.array(drawn(UNEVEN, 8, 100))
    assert within_chance((UNEVEN[batches] == 6).sum(axis=0), len(batches), 1 / 4)
    assert len({tuple(batch) for batch in batches.tolist()}) > 0.99 * len(batches)
    assert any(len(set(batch)) < 8 for batch in batches.tolist())  # with replacement


def test_equal_groups_leave_every_image_the_same_chance():
    images = np.concatenate(drawn(np.arange(60) % 6, 10, 200))
    assert within_chance(np.bincount(images, minlength=60), len(images), 1 / 60)


@pytest.mark.parametrize("n_images", [1, 7, 16, 40])
@pytest.mark.parametrize("batch_size", [1, 7, 16])
@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_as_many_batches_as_without(n_images, batch_size, epochs):
    groups = np.arange(n_images) % 3
    sizes = [len(batch) for batch in drawn(groups, batch_size, epochs)]
    plain = [len(batch) for batch in shuffled(n_images, batch_size, epochs, np.random.default_rng(0))]
    assert sizes == plain == [batch_size] * (epochs * (n_images // batch_size))


def test_plain_batches_show_each_image_once_an_epoch():
    batches = list(shuffled(40, 8, 2, np.random.default_rng(0)))
    for epoch in (batches[:5], batches[5:]):
        assert sorted(np.concatenate(epoch).tolist()) == list(range(40))
    assert np.concatenate(batches[:5]).tolist() != np.concatenate(batches[5:]).tolist()


# ---- the recipe ----


def test_it_is_standard_fine_tuning_on_balanced_batches(initial, data, assignment, monkeypatch):
    tuned, history = finetune(initial, data, Upsampled(), assignment, SHORT)
    groups = groups_by_loop(data, assignment)
    monkeypatch.setattr(training, "shuffled", lambda n, *rest: group_balanced(groups, *rest))
    expected, standard = finetune(initial, data, Standard(), None, SHORT)
    assert same_weights(weights(tuned), weights(expected))
    assert history.losses.tobytes() == standard.losses.tobytes()
    assert history.n_images_seen == standard.n_images_seen == 64


def test_its_batches_are_the_samplers_and_its_losses_clips(initial, data, assignment):
    _, steps = steps_of(initial, data, Upsampled(), assignment, seed=5)
    groups = groups_by_loop(data, assignment)
    expected = list(group_balanced(groups, 16, 2, stream(5, "batches")))
    for step, images in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.images, images)
        whole, texts, _ = embedded(step.vlm, data, images)
        np.testing.assert_allclose(step.loss, clip_by_loops(whole, texts), rtol=1e-4)


def test_rare_groups_come_more_often_than_without(initial):
    data = few_classes(60, n_classes=2)
    rare = np.zeros(len(data.boxes), dtype=bool)
    rare[np.flatnonzero(data.image_index == 0)[0]] = True  # one image of class 0 holds the feature
    budget = replace(FROZEN, epochs=4, trained="pool")
    shown = {
        recipe: np.concatenate([step.images for step in steps_of(initial, data, recipe, rare, budget)[1]])
        for recipe in (Standard(), Upsampled())
    }
    n_shown = {recipe: int((images == 0).sum()) for recipe, images in shown.items()}
    assert n_shown[Standard()] <= 4 and within_chance(np.array(n_shown[Upsampled()]), 4 * 48, 1 / 3)
    assert {len(images) for images in shown.values()} == {4 * 48}


def test_balance_can_be_left_out(initial, data, assignment):
    plain, _ = finetune(initial, data, Upsampled(balanced=False), assignment, SHORT)
    standard, _ = finetune(initial, data, Standard(), None, SHORT)
    assert same_weights(weights(plain), weights(standard))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data, assignment):
    runs = [finetune(initial, data, Upsampled(), assignment, SHORT, seed) for seed in (3, 3, 4)]
    (one, first), (same, again), (other, _) = runs
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other))


def test_the_text_tower_is_locked(initial, data, assignment):
    tuned, _ = finetune(initial, data, Upsampled(), assignment, SHORT)
    assert same_weights(weights(tuned, *TEXT, "text_projection"), weights(initial, *TEXT, "text_projection"))


def test_fewer_images_than_a_batch_are_one_batch(initial):
    few = digits(5)
    _, history = finetune(initial, few, Upsampled(), few.shows_feature, replace(SHORT, batch_size=128))
    assert history.losses.shape == (2,) and history.n_images_seen == 10


def test_it_needs_an_assignment(initial, data):
    with pytest.raises(ValueError, match="assignment: Upsampled needs to know which regions are spurious"):
        finetune(initial, data, Upsampled())
