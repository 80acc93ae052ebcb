"""Group DRO's weights, held to the published code's thirty batches and to loops; VL-GDRO, to the model's embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_runs import (
    FROZEN,
    SHORT,
    TEXT,
    clip_by_loops,
    cross_entropies_by_loop,
    embedded,
    groups_by_loop,
    steps_of,
)
from tiny import digits, same_weights, weights

from ravl_core.mitigation import finetune
from ravl_core.mitigation.group_weights import GroupWeights, group_means
from ravl_core.mitigation.recipe import Run, groups_of
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.upsampled import Upsampled
from ravl_core.mitigation.vl_gdro import VLGDRO

GOLDEN = Path(__file__).parent / "golden" / "group_dro"


# ---- the weights ----


@pytest.mark.parametrize(
    "case, step_size, adjustment", [("robust_eta0.01", 0.01, 0.0), ("robust_eta0.1_adjC3", 0.1, 3.0)]
)
def test_golden_group_dro(case, step_size, adjustment):
    arrays = np.load(GOLDEN / f"{case}.npz", allow_pickle=False)
    learned = GroupWeights(arrays["in_group_counts"], step_size, adjustment)
    for batch, logits in enumerate(torch.from_numpy(arrays["in_logits"])):
        labels, groups = (torch.from_numpy(arrays[name][batch]) for name in ("in_y", "in_group"))
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        loss = learned.weigh(losses, groups)
        np.testing.assert_allclose(loss, arrays["out_loss"][batch], rtol=0, atol=1e-6)
        np.testing.assert_allclose(learned.weights, arrays["out_adv_probs"][batch], rtol=0, atol=1e-6)
    assert batch == 29 and len(set(arrays["in_group"][0])) < 4  # batches without some group are among them


def test_golden_erm_keeps_its_weights():
    arrays = np.load(GOLDEN / "erm.npz", allow_pickle=False)
    learned = GroupWeights(arrays["in_group_counts"], step_size=0.0)
    for batch, logits in enumerate(torch.from_numpy(arrays["in_logits"])):
        labels, groups = (torch.from_numpy(arrays[name][batch]) for name in ("in_y", "in_group"))
        learned.weigh(torch.nn.functional.cross_entropy(logits, labels, reduction="none"), groups)
        np.testing.assert_allclose(learned.weights, arrays["out_adv_probs"][batch], rtol=0, atol=1e-6)


def dro_by_loops(batches, counts, step_size, adjustment):
    """Losses and weights after each batch, from the formulas; batches are pairs of losses and groups."""
    q = np.array([1.0 if n else 0.0 for n in counts])
    q /= q.sum()
    for losses, groups in batches:
        adjusted = np.zeros(len(counts))
        for g, n in enumerate(counts):
            mine = [loss for loss, group in zip(losses, groups, strict=True) if group == g]
            adjusted[g] = sum(mine) / len(mine) if mine else 0.0
            adjusted[g] += adjustment / np.sqrt(n) if n else 0.0
        q = np.array([q[g] * np.exp(step_size * adjusted[g]) for g in range(len(counts))])
        q = q / q.sum()
        yield sum(q[g] * adjusted[g] for g in range(len(counts))), q


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0, 0.01, 0.5]), st.booleans())
def test_weights_are_those_of_the_plain_loops(seed, n_groups, batch_size, step_size, adjusted):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 50, n_groups)
    counts[random.integers(n_groups)] += 1
    batches = [
        (random.exponential(size=batch_size), random.choice(np.flatnonzero(counts), batch_size)) for _ in range(4)
    ]
    learned = GroupWeights(counts, step_size, 2.0 if adjusted else 0.0)
    expected = dro_by_loops(batches, counts, step_size, 2.0 if adjusted else 0.0)
    for (losses, groups), (loss, q) in zip(batches, expected, strict=True):
        found = learned.weigh(torch.from_numpy(losses), torch.from_numpy(groups))
        np.testing.assert_allclose(found, loss, rtol=1e-5)
        np.testing.assert_allclose(learned.weights, q, rtol=0, atol=1e-6)


def test_one_update_by_hand():
    # Mean losses 2, 0 and 1; weights in proportion to exp(1), exp(0) and exp(0.5).
    learned = GroupWeights(np.array([5, 5, 5]), step_size=0.5)
    loss = learned.weigh(torch.tensor([1.0, 3.0, 1.0]), torch.tensor([0, 0, 2]))
    parts = np.array([np.e, 1, np.sqrt(np.e)])
    np.testing.assert_allclose(learned.weights, parts / parts.sum(), rtol=1e-6)
    np.testing.assert_allclose(loss, (2 * np.e + np.sqrt(np.e)) / parts.sum(), rtol=1e-6)


@pytest.mark.parametrize("adjustment", [0.0, 3.0])
def test_the_gradient_is_that_of_weighted_means_by_the_updated_weights(adjustment):
    learned = GroupWeights(np.array([9, 1, 4]), step_size=0.5, adjustment=adjustment)
    losses = torch.tensor([0.5, 2.0, 1.0, 0.1], requires_grad=True)
    learned.weigh(losses, torch.tensor([0, 1, 0, 1])).backward()
    q = learned.weights
    np.testing.assert_allclose(losses.grad, [q[0] / 2, q[1] / 2, q[0] / 2, q[1] / 2], rtol=1e-6)
    assert not learned.weights.requires_grad


def test_a_smaller_group_gets_more_from_the_adjustment():
    learned = GroupWeights(np.array([100, 4]), step_size=1.0, adjustment=2.0)
    learned.weigh(torch.zeros(2), torch.tensor([0, 1]))
    np.testing.assert_allclose(learned.weights, np.exp([0.2, 1.0]) / np.exp([0.2, 1.0]).sum(), rtol=1e-6)


def test_a_group_without_training_images_never_has_weight():
    learned = GroupWeights(np.array([3, 0, 5]), step_size=0.1, adjustment=1.0)
    np.testing.assert_array_equal(learned.weights, [0.5, 0, 0.5])
    loss = learned.weigh(torch.tensor([1.0, 2.0]), torch.tensor([0, 2]))
    assert torch.isfinite(loss) and learned.weights[1] == 0
    np.testing.assert_allclose(learned.weights.sum(), 1, rtol=1e-6)


def test_large_losses_overflow_nowhere():
    learned = GroupWeights(np.array([3, 3]), step_size=10.0)
    for _ in range(100):
        loss = learned.weigh(torch.tensor([50.0, 80.0]), torch.tensor([0, 1]))
    np.testing.assert_allclose(learned.weights, [0, 1])
    np.testing.assert_allclose(loss, 80)


@pytest.mark.parametrize(
    "options, came",
    [
        ({"counts": np.array([0, 0])}, r"counts: expected a group that has images, got \[0, 0\]"),
        ({"counts": np.array([3, -1])}, "counts: expected integers from 0"),
        ({"step_size": -0.01}, "step_size: .*got -0.01"),
        ({"adjustment": -1.0}, "adjustment: .*got -1.0"),
    ],
)
def test_weights_that_cannot_be_are_refused(options, came):
    with pytest.raises(ValueError, match=came):
        GroupWeights(**{"counts": np.array([1, 2]), **options})


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), max_size=12))
def test_group_means_are_those_of_a_loop(pairs):
    values, groups = [value for value, _ in pairs], [group for _, group in pairs]
    found = group_means(torch.tensor(values, dtype=torch.float64), torch.tensor(groups, dtype=torch.int64), 6)
    for g in range(6):
        mine = [value for value, group in pairs if group == g]
        np.testing.assert_allclose(found[g], np.mean(mine) if mine else 0, rtol=0, atol=1e-12)


# ---- the objective ----


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("options", [{}, {"weight": 0.4, "step_size": 0.5, "adjustment": 2.0, "temperature": 0.2}])
def test_every_step_is_the_formula_of_the_models_own_embeddings(initial, data, assignment, balanced, options):
    groups, budget = groups_by_loop(data, assignment), replace(FROZEN, epochs=3, batch_size=8)
    _, steps = steps_of(initial, data, VLGDRO(balanced=balanced, **options), assignment, budget)
    temperature, named, images = options.get("temperature", 0.07), [], []
    for step in steps:
        whole, texts, classes = embedded(step.vlm, data, step.images)
        named.append(cross_entropies_by_loop(whole, classes, data.labels[step.images], temperature))
        images.append(clip_by_loops(whole, texts, temperature))
    counts = [int((groups == g).sum()) for g in range(6)]
    batches = [(losses, groups[step.images]) for losses, step in zip(named, steps, strict=True)]
    assert min(counts) > 0 and any(len(set(own)) < 6 for _, own in batches) and len(steps) == 15
    robust = dro_by_loops(batches, counts, options.get("step_size", 0.01), options.get("adjustment", 0.0))
    for step, clip, (loss, _) in zip(steps, images, robust, strict=True):
        np.testing.assert_allclose(step.loss, clip + options.get("weight", 1.0) * loss, rtol=1e-4)


def test_the_default_is_the_published_setting_of_group_dro():
    assert VLGDRO() == VLGDRO(weight=1.0, step_size=0.01, adjustment=0.0, temperature=0.07, balanced=True)


def test_groups_are_class_and_spurious_region(initial, data, assignment):
    np.testing.assert_array_equal(groups_of(data, assignment), groups_by_loop(data, assignment))
    _, steps = steps_of(initial, data, VLGDRO(), assignment)
    for step in steps:
        assert step.batch.groups.tolist() == groups_by_loop(data, assignment)[step.images].tolist()


@pytest.mark.parametrize("balanced, twin", [(True, Upsampled()), (False, Standard())])
def test_without_weight_clips_loss_is_left(initial, data, assignment, balanced, twin):
    robust, history = finetune(initial, data, VLGDRO(weight=0.0, balanced=balanced), assignment, SHORT)
    other, expected = finetune(initial, data, twin, assignment, SHORT)
    assert same_weights(weights(robust), weights(other))
    assert history.losses.tobytes() == expected.losses.tobytes() and history.n_images_seen == 64


def test_groups_that_the_data_lack_take_no_weight(initial):
    """Of ten classes, five never have the feature and five always do."""
    data = digits(40)
    begun = VLGDRO().begin(Run(initial, data, data.shows_feature, groups_of(data, data.shows_feature), 0))
    np.testing.assert_allclose(begun.groups.weights, np.tile([0.1, 0, 0, 0.1], 5), rtol=1e-6)


# ---- the run ----


def test_every_run_has_weights_of_its_own(initial, data, assignment):
    recipe = VLGDRO(step_size=0.5)
    run = Run(initial, data, assignment, groups_of(data, assignment), 0)
    one, other = recipe.begin(run), recipe.begin(run)
    one.groups.weigh(torch.tensor([3.0, 1.0]), torch.tensor([0, 1]))
    assert one.groups.weights[0] > 0.3
    np.testing.assert_allclose(other.groups.weights, np.full(6, 1 / 6), rtol=1e-6)
    assert recipe == VLGDRO(step_size=0.5) and not hasattr(recipe, "groups")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data, assignment):
    recipe = VLGDRO(step_size=0.5)  # one recipe for all runs
    (one, first), (same, again), (other, _) = (finetune(initial, data, recipe, assignment, SHORT, s) for s in (3, 3, 4))
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other))


def test_the_image_tower_learns_and_the_text_tower_does_not(initial, data, assignment):
    before = weights(initial)
    tuned, _ = finetune(initial, data, VLGDRO(), assignment, SHORT)
    assert same_weights(weights(tuned, *TEXT, "text_projection"), weights(initial, *TEXT, "text_projection"))
    assert not same_weights(weights(tuned, "visual.layer4"), weights(initial, "visual.layer4"))
    assert same_weights(weights(initial), before)


def test_it_learns_the_labels_that_captions_do_not_tell(initial):
    mute = replace(digits(10), captions=("a picture",) * 10)
    budget = replace(SHORT, epochs=40, batch_size=10, learning_rate=3e-3)
    _, steps = steps_of(initial, mute, VLGDRO(), mute.shows_feature, budget)
    answers = [(step.batch.image_embeddings @ step.batch.class_embeddings.T).argmax(dim=1) for step in steps]
    right = [(answer == step.batch.labels).float().mean() for answer, step in zip(answers, steps, strict=True)]
    assert np.mean(right[:5]) < 0.3 and np.mean(right[-20:]) > 0.6


def test_bfloat16_keeps_the_weights_exact(initial, data, assignment):
    """Means and weights of groups are float32, whatever the model computes in."""
    half, full = (
        finetune(initial, data, VLGDRO(step_size=0.5), assignment, replace(SHORT, precision=precision))[1].losses
        for precision in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(half, full, rtol=0.05)
    assert not np.array_equal(half, full)


def test_it_needs_an_assignment(initial, data):
    with pytest.raises(ValueError, match="assignment: .*needs to know which regions are spurious"):
        finetune(initial, data, VLGDRO())


@pytest.mark.parametrize("name", ["weight", "step_size", "adjustment", "temperature"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), "much"])
def test_options_that_cannot_be_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a number from .*got {value!r}"):
        VLGDRO(**{name: value})
    if name == "temperature":
        with pytest.raises(ValueError, match="temperature: .*got 0"):
            VLGDRO(temperature=0.0)
