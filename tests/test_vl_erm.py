"""VL-ERM, held to ERM's published values and to loops over the model's own embeddings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_runs import FROZEN, SHORT, TEXT, clip_by_loops, cross_entropies_by_loop, embedded, steps_of
from tiny import digits, same_weights, weights

from ravl_core.losses import clip_loss
from ravl_core.mitigation import finetune
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.vl_erm import VLERM, class_losses

GOLDEN = Path(__file__).parent / "golden" / "group_dro"


@pytest.fixture(scope="module")
def data():
    return digits(40)


# ---- the classifier's loss ----


def test_golden_erm():
    """Thirty batches of the published code without group DRO; logits are those of orthogonal classes."""
    arrays = np.load(GOLDEN / "erm.npz", allow_pickle=False)
    logits, labels = torch.from_numpy(arrays["in_logits"]), torch.from_numpy(arrays["in_y"])
    found = [
        class_losses(*pair, temperature=1.0).mean() for pair in zip(logits, [torch.eye(2)] * 30, labels, strict=True)
    ]
    np.testing.assert_allclose(found, arrays["out_loss"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_images, n_classes", [(1, 1), (1, 4), (7, 2), (5, 10)])
def test_class_losses_are_those_of_the_loop(n_images, n_classes):
    random = np.random.default_rng(n_classes)
    images, classes = random.normal(size=(n_images, 6)), random.normal(size=(n_classes, 6))
    labels = random.integers(0, n_classes, n_images)
    found = class_losses(*map(torch.from_numpy, (images, classes, labels)), temperature=0.5)
    np.testing.assert_allclose(found, cross_entropies_by_loop(images, classes, labels, 0.5), rtol=0, atol=1e-12)


# ---- the objective ----


@pytest.mark.parametrize("weight, temperature", [(1.0, 0.07), (0.3, 0.07), (2.0, 0.2)])
def test_every_step_is_the_formula_of_the_models_own_embeddings(initial, data, weight, temperature):
    _, steps = steps_of(initial, data, VLERM(weight, temperature))
    assert len(steps) == 4
    for step in steps:
        images, texts, classes = embedded(step.vlm, data, step.images)
        named = cross_entropies_by_loop(images, classes, data.labels[step.images], temperature)
        expected = clip_by_loops(images, texts, temperature) + weight * named.mean()
        np.testing.assert_allclose(step.loss, expected, rtol=1e-4)


def test_the_default_has_a_weight_of_one_at_the_papers_temperature():
    assert VLERM() == VLERM(weight=1.0, temperature=0.07)


def test_without_weight_it_is_exactly_standard_fine_tuning(initial, data):
    erm, erm_history = finetune(initial, data, VLERM(weight=0.0), budget=SHORT)
    standard, history = finetune(initial, data, Standard(), budget=SHORT)
    assert same_weights(weights(erm), weights(standard))
    assert erm_history.losses.tobytes() == history.losses.tobytes()


def test_in_training_mode_too_the_loss_is_the_sum_of_both(initial, data):
    _, steps = steps_of(initial, data, VLERM(weight=0.5), budget=SHORT)
    for step in steps:
        batch = step.batch
        classes = cross_entropies_by_loop(
            batch.image_embeddings.detach().double().numpy(),
            batch.class_embeddings.double().numpy(),
            data.labels[step.images],
        )
        images = clip_loss(batch.image_embeddings, batch.text_embeddings).item()
        np.testing.assert_allclose(step.loss, images + 0.5 * classes.mean(), rtol=1e-5)


# ---- the run ----


def test_it_shows_the_images_that_standard_fine_tuning_shows(initial, data):
    runs = [steps_of(initial, data, recipe)[1] for recipe in (VLERM(), Standard())]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    counts = [finetune(initial, data, recipe, budget=SHORT)[1].n_images_seen for recipe in (VLERM(), Standard())]
    assert counts == [64, 64]


def test_it_needs_no_regions_and_no_assignment(initial, data):
    bare = replace(data, boxes=np.empty((0, 4), dtype=np.float32), image_index=np.empty(0, dtype=np.int64))
    told = np.zeros(len(data.boxes), dtype=bool)
    runs = [finetune(initial, *given, budget=FROZEN)[1] for given in ((bare, VLERM()), (data, VLERM(), told))]
    assert runs[0].losses.tobytes() == runs[1].losses.tobytes()


def test_the_image_tower_learns_and_the_text_tower_does_not(initial, data):
    before = weights(initial)
    tuned, _ = finetune(initial, data, VLERM(), budget=SHORT)
    assert same_weights(weights(tuned, *TEXT, "text_projection"), weights(initial, *TEXT, "text_projection"))
    assert not same_weights(weights(tuned, "visual.layer4"), weights(initial, "visual.layer4"))
    assert same_weights(weights(initial), before)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data):
    (one, first), (same, again), (other, _) = (finetune(initial, data, VLERM(), None, SHORT, s) for s in (3, 3, 4))
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other))


def test_it_learns_the_labels_that_captions_do_not_tell(initial):
    """With one caption for all images, CLIP's loss has nothing to teach."""
    mute = replace(digits(10), captions=("a picture",) * 10)
    budget = replace(SHORT, epochs=30, batch_size=10, learning_rate=3e-3)
    _, steps = steps_of(initial, mute, VLERM(), budget=budget)
    answers = [(step.batch.image_embeddings @ step.batch.class_embeddings.T).argmax(dim=1) for step in steps]
    right = [(answer == step.batch.labels).float().mean() for answer, step in zip(answers, steps, strict=True)]
    assert np.mean(right[:5]) < 0.3 and np.mean(right[-20:]) > 0.6


@pytest.mark.parametrize(
    "options, came",
    [
        ({"weight": -0.1}, "weight: expected a number from 0 to inf, got -0.1"),
        ({"weight": float("nan")}, "weight: .*got nan"),
        ({"weight": "one"}, "weight: .*got 'one'"),
        ({"temperature": 0.0}, "temperature: .*got 0.0"),
        ({"temperature": -0.07}, "temperature: .*got -0.07"),
    ],
)
def test_options_that_cannot_be_are_named(options, came):
    with pytest.raises(ValueError, match=came):
        VLERM(**options)
