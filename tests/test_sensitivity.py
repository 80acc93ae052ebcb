"""Sensitivity: every row is what a plain loop over the variations says, compared with the base run of its kind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny

from ravl_core.kept import truths_of
from ravl_core.kmedoids import cluster_regions
from ravl_core.mixtures import drawn, mixtures
from ravl_core.sensitivity import TEMPERATURES, at_temperature, other_poolings, sensitivity, with_pooling
from ravl_core.slicing.ravl import by_pull, controlled, ravl
from ravl_core.tasks import Task, run_task
from ravl_core.zero_shot import evaluate

N_CLASSES, ATTRIBUTE, SEED = 10, 4, 2
RECIPES = ("paper", "pull", "controlled")


def problem(tower):
    """The arguments of `sensitivity` for a model with random weights."""
    vlm, data = tiny.tiny_vlm(seed=2, tower=tower), tiny.digits(80, split="val")
    evaluation = evaluate(vlm, data)
    return vlm, data, evaluation, truths_of(data), clustered(evaluation), ATTRIBUTE, SEED


def clustered(evaluation):
    return cluster_regions(evaluation.region_embeddings, range(2 * N_CLASSES, 5 * N_CLASSES), SEED)


@pytest.fixture(scope="module", params=[tiny.RESNET, tiny.VIT], ids=["resnet", "vit"])
def asked(request):
    return problem(request.param)


@pytest.fixture(scope="module")
def rows(asked):
    return sensitivity(*asked)


def plain(evaluation, shows, clustering):
    """Precision, attribute and images of each recipe's first finding."""
    found = {}
    ranked = ravl(evaluation, clustering), by_pull(evaluation, clustering), controlled(evaluation, clustering, SEED)
    for name, one in zip(RECIPES, ranked, strict=True):
        first = [bool(shows[region]) for region in one.regions[:10]]
        images = {int(evaluation.image_index[region]) for region in one.regions}
        found[name] = sum(first) / len(first) if first else 0.0, one.attribute, images
    return found


def assert_row(row, found, base):
    for name in RECIPES:
        (precision, attribute, images), (_, base_attribute, base_images) = found[name], base[name]
        either = images | base_images
        overlap = len(images & base_images) / len(either) if either else 1
        assert row[name] == {
            "precision_at_10": pytest.approx(precision),
            "attribute": attribute,
            "agrees": attribute == base_attribute,
            "overlap": pytest.approx(overlap),
        }


def part_of(evaluation, images):
    """The evaluation of some images, and which regions are kept."""
    kept = np.flatnonzero([image in set(images.tolist()) for image in evaluation.image_index])
    place = {int(image): at for at, image in enumerate(images)}
    part = replace(
        evaluation,
        image_embeddings=evaluation.image_embeddings[images],
        region_embeddings=evaluation.region_embeddings[kept],
        image_index=np.array([place[int(image)] for image in evaluation.image_index[kept]]),
        boxes=evaluation.boxes[kept],
        labels=evaluation.labels[images],
        image_probs=evaluation.image_probs[images],
        region_probs=evaluation.region_probs[kept],
    )
    return part, kept


def test_there_is_a_row_for_each_variation_the_base_first(asked, rows):
    poolings = [asked[0].pooling, *other_poolings(asked[0])]
    temperatures = ["0.07", *(f"{temperature:g}" for temperature in TEMPERATURES)]
    expected = [("pooling", name) for name in poolings] + [("temperature", name) for name in temperatures]
    assert [(row["kind"], row["variation"]) for row in rows] == expected + [
        ("mixture", name) for name in mixtures(N_CLASSES, ATTRIBUTE)
    ]
    assert json.loads(json.dumps(rows)) == rows  # plain values


def test_other_poolings_are_those_that_the_tower_offers():
    assert other_poolings(tiny.tiny_vlm()) == ["late", "crop"]
    assert other_poolings(tiny.tiny_vlm(pooling="crop")) == ["early", "late"]
    assert other_poolings(tiny.tiny_vlm(tower=tiny.VIT)) == ["crop"]


def test_poolings_are_those_of_a_model_that_pools_so(asked, rows):
    vlm, data, evaluation, truths, clustering, *_ = asked
    base = plain(evaluation, truths["shows_feature"], clustering)
    by_name = {row["variation"]: row for row in rows if row["kind"] == "pooling"}
    assert_row(by_name[vlm.pooling], base, base)
    for pooling in other_poolings(vlm):
        seen = evaluate(with_pooling(vlm, pooling), data)
        assert not np.allclose(seen.region_embeddings, evaluation.region_embeddings, atol=1e-3)
        np.testing.assert_allclose(seen.image_embeddings, evaluation.image_embeddings, atol=1e-5)
        assert_row(by_name[pooling], plain(seen, truths["shows_feature"], clustered(seen)), base)


def test_temperatures_change_probabilities_and_no_answer(asked, rows):
    vlm, data, evaluation, truths, clustering, *_ = asked
    base = plain(evaluation, truths["shows_feature"], clustering)
    by_name = {row["variation"]: row for row in rows if row["kind"] == "temperature"}
    assert_row(by_name["0.07"], base, base)
    for temperature in TEMPERATURES:
        seen = evaluate(vlm, data, temperature)
        same = at_temperature(vlm, data, evaluation, temperature)
        for name in ("image_probs", "region_probs"):
            np.testing.assert_allclose(getattr(same, name), getattr(seen, name), atol=1e-6)
            assert not np.allclose(getattr(same, name), getattr(evaluation, name), atol=1e-3)
        np.testing.assert_array_equal(same.predictions, evaluation.predictions)
        assert_row(by_name[f"{temperature:g}"], plain(same, truths["shows_feature"], clustering), base)


def test_mixtures_are_looked_at_as_sets_of_their_own(asked, rows):
    *_, evaluation, truths, _, _, _ = asked
    by_name, found = {row["variation"]: row for row in rows if row["kind"] == "mixture"}, {}
    for name, shares in mixtures(N_CLASSES, ATTRIBUTE).items():
        images = drawn(evaluation.labels, truths["feature_present"], shares, seed=SEED)
        part, kept = part_of(evaluation, images)
        found[name] = plain(part, truths["shows_feature"][kept], clustered(part))
        assert by_name[name]["n_regions"] == len(kept)
        assert_row(by_name[name], found[name], found["balanced"])


def test_the_model_is_left_as_it_was(asked):
    vlm = asked[0]
    before, pooling = tiny.weights(vlm), vlm.pooling
    other = with_pooling(vlm, "crop")
    assert (other.pooling, vlm.pooling) == ("crop", pooling)
    assert tiny.same_weights(before, tiny.weights(vlm))


def test_a_task_asks_for_it(monkeypatch):
    from ravl_core import tasks
    from ravl_core.settings import Setting

    asked = []
    monkeypatch.setattr(tasks, "sensitivity", lambda *arguments: asked.append(arguments) or ["rows"])
    setting = Setting(attribute=6, strength=0.5, seed=9, n_finetuning=200, n_val=60, n_test=60)
    assert run_task(Task(setting))["sensitivity"] == [] and not asked
    metrics = run_task(Task(setting, sensitivity=True))
    assert metrics["sensitivity"] == ["rows"]
    assert asked[0][5:] == (6, 9) and len(asked[0][2].labels) == 60
    assert metrics["discovery"]["by_size"] == []  # no other method is asked
