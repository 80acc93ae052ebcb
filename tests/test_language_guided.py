"""Language-guided abstractions, held to loops over the embeddings of images and keywords by the model of every step."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from recipe_runs import FROZEN, SHORT, TEXT, clip_by_loops, embedded, few_classes, steps_of
from test_supervised_contrastive import by_loops
from tiny import VIT, digits, same_weights, tiny_vlm, weights

from ravl_core.mitigation import finetune, mitigate
from ravl_core.mitigation.language_guided import LanguageGuided
from ravl_core.mitigation.recipe import Run
from ravl_core.mitigation.standard import Standard

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Keywords:
    """What a teacher says of one image."""

    objects: tuple[str, ...]
    background: tuple[str, ...] = ()


WORDS = ("thin", "round", "open", "bent", "slanted")
PLACES = ("grey", "wall", "red rectangle")


def described(dataset, seed=0):
    """Keywords by the label and by chance; some images have none of their background."""
    random = np.random.default_rng(seed)
    found = []
    for label in dataset.labels:
        objects = (f"digit {label}", str(random.choice(WORDS)))
        found.append(Keywords(objects, tuple(random.choice(PLACES, random.integers(0, 3), replace=False).tolist())))
    return tuple(found)


@pytest.fixture(scope="module")
def descriptions(data):
    return described(data)


def expected_loss(step, data, recipe):
    """The recipe's loss on a step's images, from the public embeddings of the model of that step."""
    images, captions, _ = embedded(step.vlm, data, step.images)
    mine = [recipe.descriptions[i] for i in step.images]
    objects = step.vlm.encode_texts([recipe.joiner.join(one.objects) for one in mine]).astype(np.float64)
    told = [recipe.joiner.join(one.background) for one in mine if one.background]
    backgrounds = step.vlm.encode_texts(told).astype(np.float64)
    n, labels = len(mine), data.labels[step.images]
    positives = np.zeros((2 * n, 2 * n), dtype=bool)
    for i in range(2 * n):
        for j in range(2 * n):
            own = i % n == j % n
            positives[i, j] = own if recipe.positives == "own" else labels[i % n] == labels[j % n]
    rows = np.concatenate([images, objects])
    loss = by_loops(rows, positives, backgrounds, recipe.temperature, recipe.form)
    return loss + recipe.clip_weight * clip_by_loops(images, captions, recipe.temperature)


# ---- the objective ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"form": "in"},
        {"positives": "own"},
        {"form": "in", "positives": "own", "clip_weight": 0.5, "temperature": 0.2},
        {"joiner": " and ", "clip_weight": 2.0, "trains_text": True},
    ],
)
def test_every_step_is_the_formula_of_the_models_own_embeddings(initial, data, descriptions, options):
    recipe = LanguageGuided(descriptions, **options)
    _, steps = steps_of(initial, data, recipe)
    assert len(steps) == 4
    for step in steps:
        np.testing.assert_allclose(step.loss, expected_loss(step, data, recipe), rtol=1e-4)


def test_vision_transformers_learn_by_it_too(data, descriptions):
    recipe = LanguageGuided(descriptions)
    _, steps = steps_of(tiny_vlm(tower=VIT), data, recipe)
    for step in steps:
        np.testing.assert_allclose(step.loss, expected_loss(step, data, recipe), rtol=1e-4)
    assert steps[-1].loss < steps[0].loss


def test_without_backgrounds_there_is_nothing_to_be_pushed_from_but_the_batch(initial, data, descriptions):
    objects_only = tuple(replace(one, background=()) for one in descriptions)
    _, steps = steps_of(initial, data, LanguageGuided(objects_only))
    _, with_them = steps_of(initial, data, LanguageGuided(descriptions))
    assert steps[0].loss < with_them[0].loss
    np.testing.assert_allclose(steps[0].loss, expected_loss(steps[0], data, LanguageGuided(objects_only)), rtol=1e-4)


def test_images_come_near_their_objects_words_and_less_so_those_of_their_backgrounds(initial):
    data = few_classes(20)
    budget = replace(SHORT, epochs=15, batch_size=20, learning_rate=3e-3)
    own_words, near_wall = [], []
    for places in ((), ("grey wall",)):
        said = tuple(Keywords((f"digit {label}",), places) for label in data.labels)
        tuned, _ = finetune(initial, data, LanguageGuided(said), budget=budget)
        texts = tuned.encode_texts(["digit 0", "digit 1", "digit 2", "grey wall"])
        cosines = tuned.encode_images(data.images) @ texts.T
        own_words.append((cosines.argmax(axis=1) == data.labels).mean())
        near_wall.append(cosines[:, 3].mean())
    assert min(own_words) > 0.8 and near_wall[1] < near_wall[0] - 0.005


# ---- the run ----


def test_each_distinct_text_is_encoded_once(initial, data, descriptions, monkeypatch):
    asked, encode = [], type(initial).encode_texts
    monkeypatch.setattr(type(initial), "encode_texts", lambda vlm, texts: asked.append(texts) or encode(vlm, texts))
    groups = np.zeros(len(data), dtype=np.int64)
    LanguageGuided(descriptions).begin(Run(initial, data, None, groups, 0))
    texts = {", ".join(words) for one in descriptions for words in (one.objects, one.background)}
    assert [sorted(texts)] == [sorted(each) for each in asked]


@pytest.mark.parametrize("trains_text", [False, True])
def test_the_text_projection_learns_only_where_asked(initial, data, descriptions, trains_text):
    before = weights(initial)
    tuned, _ = finetune(initial, data, LanguageGuided(descriptions, trains_text=trains_text), budget=SHORT)
    assert same_weights(weights(tuned, *TEXT), weights(initial, *TEXT))
    assert same_weights(weights(tuned, "text_projection"), weights(initial, "text_projection")) != trains_text
    assert same_weights(weights(initial), before)


def test_by_its_name_it_is_the_same_run_and_other_keywords_are_another(initial, data, descriptions):
    budget = replace(SHORT, epochs=1)
    one = mitigate(initial, data, None, "language_guided", budget, descriptions=list(descriptions), form="in")
    same = finetune(initial, data, LanguageGuided(descriptions, "in"), budget=budget)
    other = finetune(initial, data, LanguageGuided(described(data, seed=1), "in"), budget=budget)
    assert same_weights(weights(one[0]), weights(same[0])) and one[1].losses.tobytes() == same[1].losses.tobytes()
    assert other[1].losses.tobytes() != one[1].losses.tobytes()


def test_bfloat16_gives_nearly_the_same_loss(initial, data, descriptions):
    half, full = (
        finetune(initial, data, LanguageGuided(descriptions), budget=replace(SHORT, precision=precision))[1].losses
        for precision in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(half, full, rtol=0.05)


def test_a_batch_says_which_images_it_holds(initial, data):
    _, steps = steps_of(initial, data, Standard(), budget=replace(FROZEN, epochs=1))
    for step in steps:
        assert torch.equal(step.batch.index, torch.from_numpy(step.images))


# ---- what is refused ----


def test_without_descriptions_the_recipe_says_what_it_needs(initial, data):
    with pytest.raises(ValueError, match="descriptions: LanguageGuided needs one for each fine-tuning image, got none"):
        mitigate(initial, data, recipe="language_guided")


def test_descriptions_of_another_set_are_named(initial, data, descriptions):
    with pytest.raises(ValueError, match="descriptions: expected one for each fine-tuning image, got 39 for 40 images"):
        finetune(initial, data, LanguageGuided(descriptions[:-1]))
    with pytest.raises(ValueError, match="got 40 for 50 images"):
        finetune(initial, digits(50), LanguageGuided(descriptions))


def test_an_image_of_which_nothing_is_said_is_named(descriptions):
    with pytest.raises(ValueError, match="descriptions: expected keywords of each object, got none for image 2"):
        LanguageGuided((*descriptions[:2], Keywords((), ("grey",)), *descriptions[2:]))


@pytest.mark.parametrize(
    "options, came",
    [
        ({"form": "inner"}, "form: expected one of 'out', 'in', got 'inner'"),
        ({"positives": "classes"}, "positives: .*did you mean 'class'"),
        ({"clip_weight": -1.0}, "clip_weight: .*got -1.0"),
        ({"temperature": 0.0}, "temperature: .*got 0.0"),
    ],
)
def test_options_that_cannot_be_are_named(descriptions, options, came):
    with pytest.raises(ValueError, match=came):
        LanguageGuided(descriptions, **options)
