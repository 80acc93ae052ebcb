"""Spurious-aware fine-tuning, held to loops over embeddings of its prompts by the model of every step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_runs import FROZEN, SHORT, TEXT, clip_by_loops, embedded, groups_by_loop, steps_of
from test_multimodal_loss import literal
from tiny import digits, same_weights, tiny_vlm, weights

from ravl_core.checkpoints import open_clip
from ravl_core.mitigation import finetune
from ravl_core.mitigation.recipe import Run, groups_of
from ravl_core.mitigation.samplers import group_balanced
from ravl_core.mitigation.spurious_aware import SpuriousAware
from ravl_core.mitigation.upsampled import Upsampled
from ravl_core.randomness import stream

FEATURE = "red rectangle"
OWN_TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}", "{}")


def prompts(vlm, templates, names):
    """Unit embeddings (T, C, D) by the model's public function, float64."""
    return np.array([vlm.encode_texts([template.format(name) for name in names]) for template in templates], np.float64)


def terms_by_loops(step, data, assignment, released, temperature=0.07):
    """All terms of a step, of weight 1, and L_CL on captions."""
    published = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    own, classes = (published, published) if released else (OWN_TEMPLATES, data.templates)
    images, texts, _ = embedded(step.vlm, data, step.images)
    given = (
        prompts(step.vlm, classes, data.class_names),
        prompts(step.vlm, own, ["red rectangle"]),
        prompts(step.vlm, own, ["scene without a red rectangle", "scene with a red rectangle"]),
    )
    places = groups_by_loop(data, assignment)[step.images] % 2
    terms = literal(images, *given, data.labels[step.images], places, 1 / temperature, released)
    return {name: values.mean() for name, values in terms.items()} | {"L_CL": clip_by_loops(images, texts, temperature)}


# ---- the objective ----


@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_with_vs_every_step_is_the_formula_of_the_models_own_embeddings(initial, data, assignment, temperature):
    recipe = SpuriousAware(FEATURE, "vs", 0.5, 0.3, 0.7, temperature=temperature)
    _, steps = steps_of(initial, data, recipe, assignment)
    assert len(steps) == 4
    for step in steps:
        terms = terms_by_loops(step, data, assignment, False, temperature)
        expected = terms["L_CL"] + 0.5 * terms["L_lc"] + 0.3 * terms["image"] + 0.7 * terms["spurious_classification"]
        np.testing.assert_allclose(step.loss, expected, rtol=1e-4)


def test_with_ls_every_step_is_the_formula_of_the_models_own_embeddings(initial, data, assignment):
    _, steps = steps_of(initial, data, SpuriousAware(FEATURE, "ls", 0.5, 0.3, 0.7), assignment)
    for step in steps:
        terms = terms_by_loops(step, data, assignment, False)
        expected = terms["L_CL"] + 0.5 * (terms["L_lc"] + 0.7 * terms["L_ls"]) + 0.3 * terms["image"]
        np.testing.assert_allclose(step.loss, expected, rtol=1e-4)


@pytest.mark.parametrize("term", ["vs", "ls"])
def test_as_released_clips_loss_is_on_class_prompts_of_the_published_templates(initial, data, assignment, term):
    _, steps = steps_of(
        initial, data, SpuriousAware(FEATURE, term, as_released=True), assignment, replace(FROZEN, epochs=1)
    )
    for step in steps:
        terms = terms_by_loops(step, data, assignment, True)
        expected = (terms["image_ce"] + terms["language_ce"]) / 2 + terms["image"] + terms["L_lc"]
        if term == "vs":
            expected += terms["spurious_classification"]
        else:
            expected += terms["L_ls"] + pushed_from_each_other(step, data)
        np.testing.assert_allclose(step.loss, expected, rtol=1e-4)


def pushed_from_each_other(step, data):
    """What the published commands' logging adds: |cos| of all class prompts with those of the image's template."""
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    classes = prompts(step.vlm, templates, data.class_names)
    rows = classes.reshape(-1, classes.shape[2])
    return np.mean([np.abs(classes[label] @ rows.T).mean() for label in data.labels[step.images]])


def test_published_settings_are_the_default():
    assert SpuriousAware(FEATURE) == SpuriousAware(FEATURE, "vs", 1.0, 1.0, 1.0, False, 0.07, True)


def test_without_weights_it_is_upsampled_fine_tuning_but_for_the_texts(initial, data, assignment):
    recipe = SpuriousAware(FEATURE, "vs", 0, 0, 0)
    _, steps = steps_of(initial, data, recipe, assignment)
    _, plain = steps_of(initial, data, Upsampled(), assignment)
    np.testing.assert_allclose(steps[0].loss, plain[0].loss, rtol=1e-5)
    for step, other in zip(steps, plain, strict=True):
        np.testing.assert_array_equal(step.images, other.images)
    assert steps[-1].loss != plain[-1].loss  # the projection of texts has learned meanwhile


def test_ten_classes_of_few_templates_are_no_trouble_as_released(initial):
    few = digits(16)
    _, history = finetune(initial, few, SpuriousAware(FEATURE, as_released=True), few.shows_feature, SHORT)
    assert np.isfinite(history.losses).all()


# ---- what learns ----


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("term", ["vs", "ls"])
def test_of_the_text_tower_the_projection_learns_alone(initial, data, assignment, term, released):
    before = weights(initial)
    recipe = SpuriousAware(FEATURE, term, as_released=released)
    tuned, history = finetune(initial, data, recipe, assignment, replace(SHORT, epochs=1))
    assert same_weights(weights(tuned, *TEXT), weights(initial, *TEXT))
    assert not same_weights(weights(tuned, "text_projection"), weights(initial, "text_projection"))
    assert not same_weights(weights(tuned, "visual.attnpool"), weights(initial, "visual.attnpool"))
    assert same_weights(weights(initial), before) and np.isfinite(history.losses).all()


def test_every_run_has_prompts_of_its_own(initial, data, assignment):
    recipe = SpuriousAware(FEATURE)
    run = Run(initial, data, assignment, groups_of(data, assignment), 0)
    other = replace(run, vlm=tiny_vlm(seed=1))
    one, two = recipe.begin(run), recipe.begin(other)
    assert not torch.equal(one.place_features, two.place_features)
    assert recipe == SpuriousAware(FEATURE) and not hasattr(recipe, "place_features")
    assert not one.place_features.requires_grad and one.place_features.shape == (4, 2, 16)


def test_it_learns_to_tell_the_places_apart(initial):
    """Which images hold the feature, by the prompts that say so."""
    few = digits(20)
    budget = replace(SHORT, epochs=40, batch_size=20, learning_rate=3e-3)
    held = groups_by_loop(few, few.shows_feature) % 2
    right = []
    for recipe in (SpuriousAware(FEATURE, "vs"), SpuriousAware(FEATURE, "vs", spurious_weight=0)):
        tuned, _ = finetune(initial, few, recipe, few.shows_feature, budget)
        names = ["scene without a red rectangle", "scene with a red rectangle"]
        classifier = prompts(tuned, OWN_TEMPLATES, names).mean(axis=0)
        classifier /= np.linalg.norm(classifier, axis=1, keepdims=True)
        right.append(((tuned.encode_images(few.images) @ classifier.T).argmax(axis=1) == held).mean())
    assert right[0] > 0.9 > right[1]


# ---- the run ----


def test_batches_hold_all_groups_alike_unless_told_otherwise(initial, data, assignment):
    groups = groups_by_loop(data, assignment)
    _, steps = steps_of(initial, data, SpuriousAware(FEATURE), assignment, seed=2)
    expected = list(group_balanced(groups, 16, 2, stream(2, "batches")))
    for step, images in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.images, images)
    _, steps = steps_of(initial, data, SpuriousAware(FEATURE, balanced=False), assignment)
    for epoch in (steps[:2], steps[2:]):
        assert len(set(np.concatenate([step.images for step in epoch]).tolist())) == 32


@pytest.mark.parametrize("term", ["vs", "ls"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data, assignment, term):
    recipe = SpuriousAware(FEATURE, term)  # one recipe for all runs
    (one, first), (same, again), (other, _) = (finetune(initial, data, recipe, assignment, SHORT, s) for s in (3, 3, 4))
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other)) and first.n_images_seen == 64


def test_another_name_of_the_feature_is_another_run(initial, data, assignment):
    runs = [finetune(initial, data, SpuriousAware(name), assignment, SHORT)[1] for name in (FEATURE, "blue ball")]
    assert runs[0].losses.tobytes() != runs[1].losses.tobytes()


@pytest.mark.parametrize("released", [False, True])
def test_bfloat16_gives_nearly_the_same_loss(initial, data, assignment, released):
    recipe = SpuriousAware(FEATURE, as_released=released)
    half, full = (
        finetune(initial, data, recipe, assignment, replace(SHORT, precision=precision))[1].losses
        for precision in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(half, full, rtol=0.05)
    assert not np.array_equal(half, full)


# ---- what is refused ----


def test_it_needs_an_assignment(initial, data):
    with pytest.raises(ValueError, match="assignment: .*needs to know which regions are spurious"):
        finetune(initial, data, SpuriousAware(FEATURE))


@pytest.mark.parametrize("feature", ["", "  ", None, 3])
def test_the_feature_needs_words(feature):
    with pytest.raises(ValueError, match=f"feature: expected words for the found feature, got {feature!r}"):
        SpuriousAware(feature)
    with pytest.raises(ValueError, match="feature: expected words for the found feature, got ''"):
        SpuriousAware()


@pytest.mark.parametrize(
    "options, came",
    [
        ({"spurious_term": "lv"}, "spurious_term: expected one of 'vs', 'ls', got 'lv'"),
        ({"language_weight": -1.0}, "language_weight: .*got -1.0"),
        ({"image_weight": float("nan")}, "image_weight: .*got nan"),
        ({"spurious_weight": "one"}, "spurious_weight: .*got 'one'"),
        ({"temperature": 0.0}, "temperature: .*got 0.0"),
        ({"spurious_term": "ls", "language_weight": 0.0}, "language_weight: it multiplies L_ls too"),
    ],
)
def test_options_that_cannot_be_are_named(options, came):
    with pytest.raises(ValueError, match=came):
        SpuriousAware(FEATURE, **options)
