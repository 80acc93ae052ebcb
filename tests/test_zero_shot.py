"""Zero-shot classification, held to loops over classes, templates and images."""

import numpy as np
import pytest
from tiny import digits, noise, ragged_boxes, tiny_vlm

from ravl_core.domains import Dataset
from ravl_core.zero_shot import class_embeddings, class_probabilities, evaluate

CLASSES, TEMPLATES = ("zero", "nine", "a {brace}"), ("a photo of the number {}", "{}", "there is {} here")


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm()


def unit(vector):
    return vector / np.linalg.norm(vector)


def dataset(counts=(2, 0, 3, 1), n_classes=3):
    boxes, image_index = ragged_boxes(list(counts))
    n_images = len(counts)
    names = CLASSES[:n_classes]
    return Dataset(noise(n_images), np.arange(n_images) % n_classes, names, names, TEMPLATES, boxes, image_index)


def test_class_embeddings_are_unit_means_over_templates(vlm):
    expected = []
    for name in CLASSES:
        texts = [template.replace("{}", name) for template in TEMPLATES]
        expected.append(unit(np.mean([vlm.encode_texts([text])[0] for text in texts], axis=0)))
    found = class_embeddings(vlm, CLASSES, TEMPLATES)
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_class_embeddings_follow_the_order_of_the_classes_and_not_of_the_templates(vlm):
    found = class_embeddings(vlm, CLASSES, TEMPLATES)
    np.testing.assert_allclose(class_embeddings(vlm, CLASSES[::-1], TEMPLATES[::-1]), found[::-1], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.01, 1.0])
def test_probabilities_are_the_softmax_of_cosine_over_temperature(temperature):
    random = np.random.default_rng(0)
    embeddings, classes = (np.array([unit(row) for row in random.normal(size=(n, 8))]) for n in (5, 3))
    found = class_probabilities(embeddings, classes, temperature)
    for row, embedding in zip(found, embeddings, strict=True):
        exponentials = [np.exp(embedding @ other / temperature) for other in classes]
        np.testing.assert_allclose(row, np.array(exponentials) / sum(exponentials), rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_the_temperature_is_the_papers():
    found = class_probabilities(np.eye(2), np.eye(2))
    np.testing.assert_allclose(found[0, 0] / found[0, 1], np.exp(1 / 0.07))


def test_scores_of_a_cold_softmax_stay_finite():
    found = class_probabilities(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1e-4)
    assert np.isfinite(found).all() and found.tolist() == [[1, 0], [0, 1]]


def test_an_evaluation_holds_what_belongs_together(vlm):
    data = dataset()
    ev = evaluate(vlm, data)
    assert ev.image_embeddings.shape == (4, 16) and ev.region_embeddings.shape == (6, 16)
    assert ev.image_probs.shape == (4, 3) and ev.region_probs.shape == (6, 3)
    assert ev.class_names == CLASSES and ev.labels is data.labels
    assert ev.boxes is data.boxes and ev.image_index is data.image_index
    whole, parts = vlm.encode(data.images, data.boxes, data.image_index)
    classes = class_embeddings(vlm, CLASSES, TEMPLATES)
    np.testing.assert_allclose(ev.image_probs, class_probabilities(whole, classes), atol=1e-5)
    np.testing.assert_allclose(ev.region_probs, class_probabilities(parts, classes), atol=1e-5)
    np.testing.assert_allclose(ev.region_probs.sum(axis=1), 1, atol=1e-5)


def test_accuracy_is_the_share_of_images_whose_best_class_is_their_label(vlm):
    ev = evaluate(vlm, digits(60))
    best = [max(range(10), key=lambda label: row[label]) for row in ev.image_probs]
    assert ev.predictions.tolist() == best
    assert ev.accuracy == pytest.approx(np.mean([one == label for one, label in zip(best, ev.labels, strict=True)]))
    assert 0 < ev.accuracy < 1


def test_a_set_without_regions_is_evaluated(vlm):
    ev = evaluate(vlm, dataset(counts=(0, 0)))
    assert ev.image_probs.shape == (2, 3) and ev.region_probs.shape == (0, 3)


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{}", "a photo"), "a photo of {}"])
def test_templates_without_a_place_for_the_name_are_refused(vlm, templates):
    with pytest.raises(ValueError, match="templates: each needs a {} for the class name"):
        class_embeddings(vlm, CLASSES, templates)


@pytest.mark.parametrize("names", [("zero", "zero"), ("zero", ""), ("zero", " ")])
def test_class_names_that_cannot_be_told_apart_are_refused(vlm, names):
    with pytest.raises(ValueError, match="class_names: expected names that are not empty and do not repeat"):
        class_embeddings(vlm, names, TEMPLATES)
