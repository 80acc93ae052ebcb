"""GALS, held to finite differences of the model's own loss, and to what the initial model sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_runs import FROZEN, SHORT, TEXT, cross_entropies_by_loop, embedded, few_classes, steps_of
from tiny import VIT, same_weights, tiny_vlm, weights

from ravl_core.mitigation import finetune, mitigate
from ravl_core.mitigation.gals import GALS, attention_to
from ravl_core.mitigation.recipe import Run
from ravl_core.saliency import gradient_map
from ravl_core.zero_shot import class_embeddings

pytestmark = pytest.mark.usefixtures("one_thread")
TEMPLATES = ("a photo of a {}", "an image of a {}")


@pytest.fixture(scope="module")
def transformer():
    return tiny_vlm(tower=VIT)


def features_of(vlm, images):
    with torch.no_grad():
        return vlm.trunk(vlm.prepare(torch.from_numpy(images).permute(0, 3, 1, 2)))


def attention_by_loops(vlm, data, subject=""):
    """(N, P): what speaks for the subject in each cell, from first-order gradients of one image at a time."""
    found = []
    for image, label in zip(data.images, data.labels, strict=True):
        prompts = [template.format(subject or data.class_names[label]) for template in TEMPLATES]
        direction = vlm.encode_texts(prompts).mean(axis=0)
        features = features_of(vlm, image[None]).requires_grad_()
        cosine = (vlm.pool(features) @ torch.from_numpy(direction / np.linalg.norm(direction))).sum()
        (gradient,) = torch.autograd.grad(cosine, features)
        evidence = per_cell((gradient * features.detach())[0]).sum(dim=1).clamp(min=0).numpy()
        found.append(evidence / evidence.max() if evidence.max() > 0 else np.ones_like(evidence))
    return np.array(found)


def per_cell(features):
    """One image's maps or tokens as (P, channels), cell by cell."""
    if features.ndim == 2:
        return features[1:]
    height, width = features.shape[1:]
    return torch.stack([features[:, row, column] for row in range(height) for column in range(width)])


def gradients(vlm, data, images, temperature=0.07):
    """|∂CE_i / ∂features_i| summed over channels, one image at a time, in evaluation mode: (B, P)."""
    classes = torch.from_numpy(class_embeddings(vlm, data.class_names, data.templates))
    found = []
    for image in images:
        features = features_of(vlm, data.images[image][None]).requires_grad_()
        logits = (vlm.pool(features) @ classes.T)[0] / temperature
        loss = logits.logsumexp(dim=0) - logits[data.labels[image]]
        found.append(per_cell(torch.autograd.grad(loss, features)[0][0]).abs().sum(dim=1).numpy())
    return np.array(found)


def share_outside(vlm, data, attention):
    """Which share of the gradient falls where the attention does not, the mean over images."""
    every = gradients(vlm, data, range(len(data)))
    return ((every * (1 - attention)).sum(axis=1) / every.sum(axis=1)).mean()


# ---- the objective ----


@pytest.mark.parametrize("tower", ["resnet", "transformer"])
@pytest.mark.parametrize("options", [{}, {"weight": 0.5, "subject": "digit", "temperature": 0.2}, {"weight": 0.0}])
def test_every_step_is_the_formula_of_the_models_own_gradients(initial, transformer, data, tower, options):
    vlm = {"resnet": initial, "transformer": transformer}[tower]
    recipe = GALS(**options)
    attention = attention_by_loops(vlm, data, recipe.subject)
    _, steps = steps_of(vlm, data, recipe, budget=replace(FROZEN, epochs=1))
    assert len(steps) == 2
    for step in steps:
        images, _, classes = embedded(step.vlm, data, step.images)
        labels = data.labels[step.images]
        expected = cross_entropies_by_loop(images, classes, labels, recipe.temperature)
        outside = gradients(step.vlm, data, step.images, recipe.temperature) * (1 - attention[step.images])
        np.testing.assert_allclose(step.loss, (expected + recipe.weight * outside.sum(axis=1)).mean(), rtol=1e-3)


@pytest.mark.parametrize("trained", ["pool", "head", "tower"])
@pytest.mark.parametrize("tower", ["resnet", "transformer"])
def test_the_penalty_reaches_the_weights_through_the_second_derivative(initial, transformer, data, tower, trained):
    """A step along the gradient of the whole loss changes it as that gradient says."""
    vlm = {"resnet": initial, "transformer": transformer}[tower]
    _, steps = steps_of(vlm, data, GALS(weight=1.0), budget=replace(FROZEN, epochs=1, trained=trained))
    batch, model = steps[0].batch, steps[0].vlm  # the model as it was before the step
    run = Run(model, data, None, None, 0)
    recipe = GALS(weight=1.0).begin(run)
    batch = replace(batch, vlm=model, features=batch.features.detach())
    parameter = model.clip.visual.attnpool.v_proj.weight if tower == "resnet" else model.clip.visual.proj
    parameter.requires_grad_(True)
    (gradient,) = torch.autograd.grad(recipe.objective(batch), parameter)
    step = 1e-3 * gradient / gradient.norm()
    with torch.no_grad():
        parameter += step
    above = recipe.objective(batch).item()
    with torch.no_grad():
        parameter -= 2 * step
    below = recipe.objective(batch).item()
    np.testing.assert_allclose(above - below, 2e-3 * gradient.norm().item(), rtol=0.05)


def test_the_penalty_moves_gradients_to_where_the_initial_model_sees_the_subject(initial):
    data = few_classes(40)
    attention = attention_by_loops(initial, data, "digit")
    budget = replace(SHORT, epochs=10, learning_rate=1e-3, batch_size=20)
    shares = [
        share_outside(finetune(initial, data, GALS(weight, "digit"), budget=budget)[0], data, attention)
        for weight in (0.0, 1.0)
    ]
    assert shares[1] < shares[0] - 0.03


# ---- where the initial model looks ----


def test_maps_are_those_of_saliency_at_layer3(initial, data):
    directions = class_embeddings(initial, data.class_names, TEMPLATES)
    shares = gradient_map(initial, data.images, data.labels, directions, "layer3")
    expected = (shares / shares.max(axis=(1, 2), keepdims=True)).reshape(len(data), -1)
    found = GALS().begin(Run(initial, data, None, None, 0)).attention
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found, attention_by_loops(initial, data), rtol=1e-3, atol=1e-4)


def test_maps_are_between_0_and_1_and_reach_1(initial, transformer, data):
    for vlm in (initial, transformer):
        found = GALS(subject="digit").begin(Run(vlm, data, None, None, 0)).attention
        assert found.shape == (40, 16) and not found.requires_grad
        assert found.min() == 0 and torch.equal(found.amax(dim=1), torch.ones(40))


def test_an_image_without_evidence_may_look_anywhere(initial, data):
    images = torch.from_numpy(data.images[:3]).permute(0, 3, 1, 2)
    assert torch.equal(attention_to(initial, images, torch.zeros(3, 16)), torch.ones(3, 16))


def test_making_maps_leaves_no_gradient_in_the_weights(initial, data):
    before = weights(initial)
    GALS().begin(Run(initial, data, None, None, 0))
    assert all(parameter.grad is None for parameter in initial.parameters()) and same_weights(weights(initial), before)


def test_more_images_than_are_mapped_at_once_keep_their_order(initial, data, monkeypatch):
    expected = GALS().begin(Run(initial, data, None, None, 0)).attention
    monkeypatch.setattr("ravl_core.mitigation.gals.AT_ONCE", 7)
    found = GALS().begin(Run(initial, data, None, None, 0)).attention
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# ---- the run ----


@pytest.mark.parametrize("trained", ["head", "tower"])
def test_by_its_name_it_trains_the_image_tower_alone(initial, data, trained):
    before, budget = weights(initial), replace(FROZEN, epochs=1, trained=trained)
    tuned, history = mitigate(initial, data, None, "gals", budget, weight=0.2)
    assert same_weights(weights(tuned, *TEXT, "text_projection"), weights(initial, *TEXT, "text_projection"))
    assert not same_weights(weights(tuned, "visual.layer4"), weights(initial, "visual.layer4"))
    assert same_weights(weights(tuned, "visual.layer1"), weights(initial, "visual.layer1")) == (trained == "head")
    assert same_weights(weights(initial), before) and np.isfinite(history.losses).all()


def test_another_subject_is_another_run(initial, data):
    budget = replace(SHORT, epochs=1)
    runs = [finetune(initial, data, GALS(subject=name), budget=budget)[1] for name in ("digit", "digit", "bird", "")]
    losses = [run.losses.tobytes() for run in runs]
    assert losses[0] == losses[1] and len(set(losses)) == 3


@pytest.mark.parametrize("tower", ["resnet", "transformer"])
def test_bfloat16_gives_nearly_the_same_loss(initial, transformer, data, tower):
    vlm = {"resnet": initial, "transformer": transformer}[tower]
    half, full = (
        finetune(vlm, data, GALS(), budget=replace(FROZEN, epochs=1, precision=precision))[1].losses
        for precision in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(half[0], full[0], rtol=0.05)  # after a step the models are no longer the same
    assert half[0] != full[0] and np.isfinite(half).all()


@pytest.mark.parametrize(
    "options, came",
    [
        ({"weight": -1.0}, "weight: .*got -1.0"),
        ({"temperature": 0.0}, "temperature: .*got 0.0"),
        ({"subject": None}, "subject: expected words for what all classes are, or '', got None"),
    ],
)
def test_options_that_cannot_be_are_named(options, came):
    with pytest.raises(ValueError, match=came):
        GALS(**options)
