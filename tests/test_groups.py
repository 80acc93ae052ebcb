"""Performance by group, held to a loop over images and over the regions that show their label."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import digits, ragged_boxes, tiny_vlm

from ravl_core.domains import Dataset
from ravl_core.groups import core_regions_only, group_table, performance, without_regions
from ravl_core.zero_shot import Evaluation, evaluate


def problem(seed, n_images=80, n_classes=3):
    """Images of no to four regions, each of which may show the core feature; (evaluation, dataset)."""
    random = np.random.default_rng(seed)
    boxes, image_index = ragged_boxes(random.integers(0, 5, n_images).tolist())
    labels, names = random.integers(0, n_classes, n_images), tuple("abcdefgh"[:n_classes])
    data = Dataset(
        images=np.zeros((n_images, 1, 1, 3), dtype=np.uint8),
        labels=labels,
        captions=("",) * n_images,
        class_names=names,
        templates=("{}",),
        boxes=boxes,
        image_index=image_index,
        shows_core=random.random(len(boxes)) < 0.4,
        feature_present=random.random(n_images) < 0.5,
    )
    probabilities = [random.dirichlet(np.ones(n_classes), size) for size in (n_images, len(boxes))]
    nothing = np.empty((0, 2))
    return Evaluation(nothing, nothing, image_index, boxes, labels, names, *probabilities), data


def loop(evaluation, data):
    """{(what, class, feature present): correct or not, one entry a member}."""
    members = {}
    for image, label in enumerate(data.labels):
        group = int(label), bool(data.feature_present[image])
        members.setdefault(("image", *group), []).append(np.argmax(evaluation.image_probs[image]) == label)
        for region in range(len(data.boxes)):
            if data.image_index[region] == image and data.shows_core[region]:
                named = np.argmax(evaluation.region_probs[region])
                members.setdefault(("region", *group), []).append(named == label)
    return members


@pytest.mark.parametrize("seed", range(5))
def test_performance_equals_a_loop(seed):
    evaluation, data = problem(seed)
    measured, members = performance(evaluation, data), loop(evaluation, data)
    for what, groups in (("image", measured.images), ("region", measured.core_regions)):
        own = {group[1:]: hits for group, hits in members.items() if group[0] == what}
        for label in range(3):
            for present in (False, True):
                hits = own.get((label, present), [])
                assert groups.count[label, int(present)] == len(hits)
                if hits:
                    assert groups.accuracy[label, int(present)] == pytest.approx(np.mean(hits))
        assert measured.summary[f"{what}_overall"] == pytest.approx(np.mean(sum(own.values(), [])))
        assert measured.summary[f"{what}_worst_group"] == pytest.approx(min(np.mean(hits) for hits in own.values()))


def test_the_summary_is_table_3():
    assert list(performance(*problem(0)).summary) == [
        "image_overall", "image_worst_group", "region_overall", "region_worst_group",
    ]  # fmt: skip


def test_images_and_regions_are_judged_each_by_their_own_scores():
    evaluation, data = problem(0)
    perfect = replace(evaluation, region_probs=np.eye(3)[data.labels[data.image_index]])
    assert performance(perfect, data).summary["region_worst_group"] == 1
    assert performance(perfect, data).images.overall == performance(evaluation, data).images.overall < 1
    perfect = replace(evaluation, image_probs=np.eye(3)[data.labels])
    assert performance(perfect, data).summary["image_worst_group"] == 1
    assert performance(perfect, data).core_regions.overall == performance(evaluation, data).core_regions.overall < 1


def test_regions_that_do_not_show_the_label_do_not_count():
    evaluation, data = problem(0)
    labels = data.labels[data.image_index]
    wrong_elsewhere = np.where(data.shows_core, labels, (labels + 1) % 3)
    assert performance(replace(evaluation, region_probs=np.eye(3)[wrong_elsewhere]), data).core_regions.overall == 1


def test_the_table_holds_every_group_for_a_record():
    measured = performance(*problem(1))
    table = group_table(measured)
    assert table["image_count"] == measured.images.count.tolist()
    assert table["region_count"] == measured.core_regions.count.tolist()
    np.testing.assert_allclose(table["image_accuracy"], measured.images.accuracy, atol=1e-6)
    np.testing.assert_allclose(table["region_accuracy"], measured.core_regions.accuracy, atol=1e-6)


# ---- fewer regions ----


@pytest.mark.parametrize("seed", range(3))
def test_core_regions_are_those_of_a_loop(seed):
    _, data = problem(seed)
    fewer = core_regions_only(replace(data, shows_feature=~data.shows_core))
    kept = [region for region in range(len(data.boxes)) if data.shows_core[region]]
    assert 0 < len(kept) < len(data.boxes)
    assert fewer.boxes.tolist() == data.boxes[kept].tolist()
    assert fewer.image_index.tolist() == data.image_index[kept].tolist()
    assert fewer.shows_core.tolist() == [True] * len(kept) and fewer.shows_feature.tolist() == [False] * len(kept)
    assert core_regions_only(data).shows_feature is None


def test_without_regions_all_images_are_left_and_no_box():
    data, fewer = digits(12), without_regions(digits(12))
    assert fewer.boxes.shape == (0, 4) and fewer.image_index.shape == (0,) and len(fewer) == 12
    assert fewer.shows_core.shape == fewer.shows_feature.shape == (0,)
    for name in ("images", "labels", "captions", "feature_present"):
        assert np.array_equal(getattr(fewer, name), getattr(data, name))
    unknown = without_regions(replace(data, shows_core=None, shows_feature=None))
    assert unknown.boxes.shape == (0, 4) and unknown.shows_feature is None


def test_images_are_judged_alike_without_any_region():
    vlm, data = tiny_vlm(), digits(12)
    fewer = without_regions(data)
    seen = evaluate(vlm, fewer)
    assert seen.region_embeddings.shape == (0, 16) and seen.region_probs.shape == (0, 10)
    np.testing.assert_allclose(seen.image_probs, evaluate(vlm, data).image_probs, atol=1e-4)
    measured = performance(seen, fewer)
    assert measured.images.count.sum() == 12 and measured.core_regions.count.sum() == 0
    assert np.isnan(measured.core_regions.overall)


@pytest.mark.parametrize("missing", ["shows_core", "feature_present"])
def test_a_set_that_does_not_know_its_groups_is_refused(missing):
    evaluation, data = problem(0)
    with pytest.raises(ValueError, match="dataset: group accuracies need to know"):
        performance(evaluation, replace(data, **{missing: None}))


def test_composites_have_one_core_region_an_image():
    data = digits(40)
    exact = np.eye(10)[data.labels]
    evaluation = Evaluation(
        exact, exact, data.image_index, data.boxes, data.labels, data.class_names, exact, exact[data.image_index]
    )
    measured = performance(evaluation, data)
    assert (measured.images.count == measured.core_regions.count).all()
    assert set(measured.summary.values()) == {1.0}
