"""Stability: every row is what a plain loop over the variations says, and nothing found is compared as nothing."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny

from ravl_core import stability as module
from ravl_core.comparison import by_size
from ravl_core.discovery import discover
from ravl_core.domains import load_domain
from ravl_core.kept import truths_of
from ravl_core.kmedoids import cluster_regions
from ravl_core.proposals import PROPOSALS
from ravl_core.slicing import ravl as recipes
from ravl_core.slicing.ravl import by_pull, controlled, ravl
from ravl_core.stability import first_findings, overlap, stability
from ravl_core.zero_shot import evaluate

N_CLASSES, NINE, SEED = 10, 9, 3
N_IMAGES = 60  # that regions are proposed for
USUAL = range(2 * N_CLASSES, 5 * N_CLASSES)
RECIPES = ("paper", "pull", "controlled")
NOTHING = {"precision_at_10": 0.0, "attribute": None, "agrees": True, "overlap": 1.0}


def composed(n_images):
    """Images of all classes, half of each with the red rectangle."""
    order = np.arange(n_images)
    return load_domain("digits").compose("val", order % N_CLASSES, order // N_CLASSES % 2 == 1, 0)


def planted(vlm, data):
    """The evaluation of a model that takes most images with the rectangle for nines, because of it."""
    found = evaluate(vlm, data)
    red = (data.images == (255, 0, 0)).all(axis=-1)
    luck = data.images.sum(axis=(1, 2, 3)) % 10 / 10
    fooled = luck < np.where(red.any(axis=(1, 2)), 0.7, 0.1)
    answers = np.where(fooled, NINE, data.labels)
    region_probs = found.region_probs.copy()
    for region, (image, (x1, y1, x2, y2)) in enumerate(zip(data.image_index, data.boxes.astype(int), strict=True)):
        if red[image, y1:y2, x1:x2].mean() > 0.5:
            region_probs[region] = np.eye(N_CLASSES)[NINE]
    return replace(found, image_probs=0.05 + 0.5 * np.eye(N_CLASSES)[answers], region_probs=region_probs)


def problem(data, look=planted):
    """The arguments of `stability` for a model with random weights."""
    vlm = tiny.tiny_vlm(seed=2)
    evaluation = look(vlm, data)
    return vlm, data, evaluation, truths_of(data), cluster_regions(evaluation.region_embeddings, USUAL, SEED), SEED


@pytest.fixture(scope="module", autouse=True)
def planted_and_few():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "evaluate", planted)
        patch.setattr(module, "N_IMAGES", N_IMAGES)
        yield


@pytest.fixture(scope="module")
def asked():
    return problem(composed(120))


@pytest.fixture(scope="module")
def rows(asked, planted_and_few):
    return stability(*asked)


def by_variation(rows):
    return {row["variation"]: row for row in rows}


def plain_findings(evaluation, shown, clustering, seed):
    """Precision, attribute and images of each recipe's first finding."""
    ranked = ravl(evaluation, clustering), by_pull(evaluation, clustering), controlled(evaluation, clustering, seed)
    found = {}
    for name, regions in zip(RECIPES, ranked, strict=True):
        first = [bool(shown[region]) for region in regions.regions[:10]]
        images = {int(evaluation.image_index[region]) for region in regions.regions}
        found[name] = sum(first) / len(first) if first else 0.0, regions.attribute, images
    return found


def assert_row(row, kind, variation, clustering, n_regions, found, base):
    described = [row[key] for key in ("kind", "variation", "n_clusters", "n_regions")]
    assert described == [kind, variation, clustering.n_clusters, n_regions]
    assert list(row) == ["kind", "variation", "n_clusters", "n_regions", *RECIPES]
    for name in RECIPES:
        (precision, attribute, images), (_, base_attribute, base_images) = found[name], base[name]
        either = images | base_images
        expected = {
            "precision_at_10": pytest.approx(precision, abs=1e-12),
            "attribute": attribute,
            "agrees": attribute == base_attribute,
            "overlap": pytest.approx(len(images & base_images) / len(either) if either else 1, abs=1e-12),
        }
        assert row[name] == expected, (variation, name)


def assert_varied(rows, *recipes):
    for name in recipes:
        assert {row[name]["agrees"] for row in rows} == {True, False}, f"{name}: too plain a case"
    assert any(0 < row[name]["overlap"] < 1 for row in rows for name in recipes), "too plain a case"


def test_there_is_one_row_a_variation(rows):
    expected = [("seed", f"seed + {i}") for i in range(1, 6)]
    expected += [("start", "uniform"), ("candidates", "C … 2C-1"), ("candidates", "5C … 8C-1")]
    expected += [("proposals", name) for name in ("boxes", *PROPOSALS)]
    assert [(row["kind"], row["variation"]) for row in rows] == expected


def test_rows_are_what_a_record_holds(rows):
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert all(type(row[name]["agrees"]) is bool and 0 <= row[name]["overlap"] <= 1 for name in RECIPES)


def test_other_clusterings_are_the_plain_loop(asked, rows):
    _, _, evaluation, truths, clustering, seed = asked
    base = plain_findings(evaluation, truths["shows_feature"], clustering, seed)
    embeddings = evaluation.region_embeddings
    others = [("seed", f"seed + {i}", cluster_regions(embeddings, USUAL, seed + i)) for i in range(1, 6)]
    others.append(("start", "uniform", cluster_regions(embeddings, USUAL, seed, "uniform")))
    others.append(("candidates", "C … 2C-1", cluster_regions(embeddings, range(10, 20), seed)))
    others.append(("candidates", "5C … 8C-1", cluster_regions(embeddings, range(50, 80), seed)))
    for row, (kind, variation, other) in zip(rows, others, strict=False):
        found = plain_findings(evaluation, truths["shows_feature"], other, seed)
        assert_row(row, kind, variation, other, len(embeddings), found, base)
    assert_varied(rows[: len(others)], *RECIPES)


def half_covered(box, target):
    width = min(box[2], target[2]) - max(box[0], target[0])
    height = min(box[3], target[3]) - max(box[1], target[1])
    shared = max(width, 0) * max(height, 0)
    of_box = shared / ((box[2] - box[0]) * (box[3] - box[1]))
    of_target = shared / ((target[2] - target[0]) * (target[3] - target[1]))
    return of_box >= 0.5 or (of_target >= 0.5 and of_box >= 0.1)


def chosen_images(asked):
    """A plain choice of six images a class; which ones is the stream's affair."""
    _, data, evaluation, *_, seed = asked
    order = module.stream(seed, "fewer images").permutation(len(evaluation.labels))
    return sorted(image for label in range(N_CLASSES) for image in [i for i in order if data.labels[i] == label][:6])


def set_of(data, images, boxes, image_index):
    """Some images of a set with other boxes."""
    return replace(data, images=data.images[images], labels=data.labels[images], boxes=boxes, image_index=image_index)


def test_other_regions_are_the_plain_loop(asked, rows):
    vlm, data, _, _, _, seed = asked
    images, found, variations = chosen_images(asked), {}, {}
    own = [(images.index(i), box) for i, box in zip(data.image_index, data.boxes, strict=True) if i in images]
    features = [
        (images.index(i), box)
        for i, box, shown in zip(data.image_index, data.boxes, data.shows_feature, strict=True)
        if shown and i in images
    ]
    assert len(own) == 4 * N_IMAGES and 0 < len(features) < N_IMAGES
    variations["boxes"] = np.array([box for _, box in own]), np.array([image for image, _ in own])
    variations |= {name: propose(data.images[images]) for name, propose in PROPOSALS.items()}
    for name, (boxes, image_index) in variations.items():
        evaluation = planted(vlm, set_of(data, images, boxes, image_index))
        shown = [
            any(image == other and half_covered(box, target) for other, target in features)
            for image, box in zip(image_index, boxes, strict=True)
        ]
        clustering = cluster_regions(evaluation.region_embeddings, USUAL, seed)
        found[name] = clustering, plain_findings(evaluation, np.array(shown), clustering, seed)
    for row, (name, (clustering, findings)) in zip(rows[-len(found) :], found.items(), strict=True):
        assert_row(row, "proposals", name, clustering, len(variations[name][0]), findings, found["boxes"][1])
    assert_varied(rows[-len(found) :], "paper", "pull")


def test_boxes_are_compared_with_themselves_and_the_digits_own_are_quadrants(rows):
    found = by_variation(rows)
    for name in RECIPES:
        assert found["boxes"][name]["agrees"] and found["boxes"][name]["overlap"] == 1
        assert found["quadrants"][name] == found["boxes"][name]
        assert found["3 × 3 grid"]["n_regions"] == 9 * N_IMAGES


def test_the_images_are_those_of_discovery_on_fewer_images(asked, rows):
    _, _, evaluation, truths, _, seed = asked
    fewer, _ = by_size(evaluation, truths, discover(evaluation, seed=seed), seed, sizes=(N_IMAGES,))
    boxes = by_variation(rows)["boxes"]
    for name in RECIPES:
        assert {key: boxes[name][key] for key in fewer[name]} == fewer[name]


def test_a_set_of_fewer_images_is_taken_whole(monkeypatch, asked):
    monkeypatch.setattr(module, "N_IMAGES", 500)
    monkeypatch.setattr(module, "PROPOSALS", {})
    boxes = by_variation(stability(*asked))["boxes"]
    assert boxes["n_regions"] == 480 and boxes["n_clusters"] == asked[4].n_clusters


def test_the_same_arguments_give_the_same_rows(asked, rows):
    assert stability(*asked) == rows


def test_another_seed_is_another_base(monkeypatch, asked, rows):
    monkeypatch.setattr(module, "PROPOSALS", {})
    vlm, data, evaluation, truths, *_ = asked
    later = cluster_regions(evaluation.region_embeddings, USUAL, SEED + 1)
    seeded = by_variation(stability(vlm, data, evaluation, truths, later, SEED + 1))
    earlier = by_variation(rows)
    assert seeded["seed + 1"]["n_clusters"] == earlier["seed + 2"]["n_clusters"]
    for name in ("paper", "pull"):
        assert seeded["seed + 1"][name]["attribute"] == earlier["seed + 2"][name]["attribute"]


def test_where_all_regions_are_alike_every_run_finds_nothing_and_agrees(monkeypatch):
    monkeypatch.setattr(module, "PROPOSALS", {"quadrants": PROPOSALS["quadrants"]})
    data = composed(60)
    rows = stability(*problem(replace(data, images=np.zeros_like(data.images))))
    assert len(rows) == 10
    for row in rows:
        assert row["n_clusters"] == 0
        assert all(row[name] == NOTHING for name in RECIPES)


def test_a_finding_and_none_do_not_agree(monkeypatch, asked):
    vlm, data, evaluation, truths, _, seed = asked
    none = cluster_regions(evaluation.region_embeddings, [], seed)
    assert none.n_clusters == 0
    monkeypatch.setattr(module, "PROPOSALS", {})
    *rows, _ = stability(vlm, data, evaluation, truths, none, seed)
    found = [row["pull"] for row in rows if row["pull"]["attribute"] is not None]
    assert len(found) > 4
    assert not any(first["agrees"] or first["overlap"] for first in found)


def test_images_may_have_no_region():
    data = composed(80)
    boxes, image_index = tiny.ragged_boxes([0, 3, 1, 4, 0, 2, 5, 3] * 10, 56, 56)
    shown = np.random.default_rng(1).random(len(boxes)) < 0.3
    rows = stability(*problem(replace(data, boxes=boxes, image_index=image_index, shows_feature=shown)))
    found = by_variation(rows)
    assert found["seed + 1"]["n_regions"] == 180 and 0 < found["boxes"]["n_regions"] < 180
    assert found["4 × 4 grid"]["n_regions"] == 16 * N_IMAGES


def no_regions(images):
    return np.empty((0, 4), dtype=np.float32), np.empty(0, dtype=np.int64)


def test_proposals_may_give_no_region_at_all(monkeypatch, asked):
    monkeypatch.setattr(module, "PROPOSALS", {"none": no_regions})
    *_, boxes, none = stability(*asked)
    assert none["n_clusters"] == none["n_regions"] == 0
    for name in RECIPES:
        nothing_before = boxes[name]["attribute"] is None
        assert none[name] == NOTHING | {"agrees": nothing_before, "overlap": float(nothing_before)}


def test_the_images_of_a_finding_are_those_with_a_region_in_its_cluster(asked):
    _, _, evaluation, truths, clustering, seed = asked
    found = first_findings(evaluation, truths["shows_feature"], clustering, seed)
    assert found.n_clusters == clustering.n_clusters and found.n_regions == len(evaluation.image_index)
    sets = [set(evaluation.image_index[clustering.labels == cluster]) for cluster in range(clustering.n_clusters)]
    for first in (found.first["paper"], found.first["pull"]):
        assert set(first.images) in sets and np.all(np.diff(first.images) > 0)


@pytest.mark.parametrize(
    "images, others, expected",
    [([], [], 1), ([1], [], 0), ([], [2, 5], 0), ([1, 2], [1, 2], 1), ([1, 2, 3], [2, 3, 4], 0.5), ([0], [1], 0)],
)
def test_overlap(images, others, expected):
    assert overlap(np.array(images, dtype=int), np.array(others, dtype=int)) == expected


def test_a_real_model_is_looked_at_as_it_is(monkeypatch):
    """The same with the model's own answers, and a set that knows no more than what is asked for."""
    monkeypatch.setattr(module, "evaluate", evaluate)
    vlm, data, evaluation, truths, clustering, seed = problem(composed(60), evaluate)
    known = {name: truths[name] for name in ("shows_feature", "feature_present")}
    unknown = replace(data, sources=None, shows_core=None, box_names=None)
    found = by_variation(stability(vlm, unknown, evaluation, known, clustering, seed))
    assert len(found) == 13
    for name in RECIPES:  # all images are among the few, so encoding them anew gives what is known already
        assert found["quadrants"][name]["agrees"] and found["quadrants"][name]["overlap"] == 1


def test_every_variation_is_tested_with_the_same_permutations(monkeypatch, asked):
    monkeypatch.setattr(module, "PROPOSALS", {"quadrants": PROPOSALS["quadrants"]})
    seeds = []
    monkeypatch.setattr(recipes, "controlled", lambda *a: seeds.append(a[2]) or controlled(*a))
    stability(*asked)
    assert seeds == [SEED] * 11  # the base, eight clusterings, boxes, quadrants
