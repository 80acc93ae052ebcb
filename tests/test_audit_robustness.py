"""Robustness of an audit: every row is what a plain loop says, a planted finding comes again and a random one never."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from ravl_core.audits import robustness as module
from ravl_core.audits.robustness import PROPOSALS, STABILITY, coverage, other_proposals, stability_of_all
from ravl_core.domains.dataset import Dataset
from ravl_core.kmedoids import Clustering, cluster_regions, cosine_distances, k_medoids
from ravl_core.proposals import propose
from ravl_core.regions import quadrants
from ravl_core.significance import significant_clusters
from ravl_core.zero_shot import Evaluation

CLASSES, TWO, SEED = ("one", "two", "three", "four"), 1, 3
USUAL = range(8, 20)
SIDE = 32


def images_with_red(n_images):
    """Blurred noise in which four of ten images have a red quadrant, and which: (N, 32, 32, 3) and bool (N,)."""
    random = np.random.default_rng(SEED)
    images, red = tiny.noise(n_images, SIDE, SIDE, seed=1), random.random(n_images) < 0.4
    for image in np.flatnonzero(red):
        top, left = 16 * random.integers(2, size=2)
        images[image, top : top + 16, left : left + 16] = (255, 0, 0)
    return images // 2 + random.integers(0, 40, images.shape, dtype=np.uint8), red


def fooled(vlm, dataset):
    """The evaluation of a model that sees colours, and leans towards "two" where a quarter of an image is red."""
    cells = [
        np.stack([part.mean(axis=(0, 1)) for half in np.array_split(crop, 2) for part in np.array_split(half, 2, 1)])
        for image, (x1, y1, x2, y2) in zip(dataset.image_index, dataset.boxes.astype(int), strict=True)
        for crop in [dataset.images[image, y1:y2, x1:x2]]
    ]
    seen = np.array(cells, dtype=np.float64).reshape(len(cells), 12) - 80
    red = (dataset.images[..., 0].astype(int) - dataset.images[..., 1:].max(axis=-1) > 80).mean(axis=(1, 2)) > 0.2
    luck = np.random.default_rng(0).normal(size=(1000, 4))[dataset.images.sum(axis=(1, 2, 3)) % 1000]
    weights = np.exp(2 * np.eye(4)[dataset.labels] + 0.5 * luck + 3 * np.outer(red, np.eye(4)[TWO]))
    probs = weights / weights.sum(axis=1, keepdims=True)
    return Evaluation(
        image_embeddings=np.tile(np.eye(12)[0], (len(dataset), 1)),
        region_embeddings=seen / np.linalg.norm(seen, axis=1, keepdims=True),
        image_index=dataset.image_index,
        boxes=dataset.boxes,
        labels=dataset.labels,
        class_names=dataset.class_names,
        image_probs=probs,
        region_probs=np.full((len(seen), 4), 0.25),
    )


@pytest.fixture(scope="module", autouse=True)
def colours():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "evaluate", fooled)
        yield


@pytest.fixture(scope="module")
def data():
    images, _ = images_with_red(160)
    boxes, image_index = quadrants(160, SIDE, SIDE)
    return Dataset(images, np.arange(160) % 4, ("",) * 160, CLASSES, ("{}",), boxes, image_index)


@pytest.fixture(scope="module")
def evaluation(data):
    return fooled(None, data)


@pytest.fixture(scope="module")
def red(data):
    """The planted finding: red quadrants, and "two"."""
    crops = [data.images[i, y : y + 16, x : x + 16] for i in range(160) for y in (0, 16) for x in (0, 16)]
    return np.flatnonzero([crop[..., 0].mean() > crop[..., 1:].mean() + 80 for crop in crops]), TWO


def random_regions(n=60):
    return np.sort(np.random.default_rng(5).permutation(640)[:n]), TWO


def plain_findings(evaluation, clusterings, images=None, n_permutations=199):
    """Regions and attribute of each significant cluster of all clusterings; `images` are those that are tested."""
    images = range(len(evaluation.labels)) if images is None else images
    clusters = [(one, cluster) for one in clusterings for cluster in range(one.labels.max() + 1)]
    members = [{at for at, label in enumerate(one.labels.tolist()) if label == cluster} for one, cluster in clusters]
    held = [[any(evaluation.image_index[at] == image for at in own) for own in members] for image in images]
    labels, probs = ([array[image] for image in images] for array in (evaluation.labels, evaluation.image_probs))
    asked = np.array(held), np.array(labels), np.array(probs)
    found = significant_clusters(*asked, n_permutations=n_permutations, seed=SEED)
    return [(members[one.cluster], one.attribute) for one in found]


def plain_row(finding, found, image_index):
    """Attribute, overlap and whether it is found again, by sets."""
    best = None, 0.0, False
    for number, (members, attribute) in enumerate(found):
        regions = set(finding[0].tolist())
        own, other = ({int(image_index[at]) for at in some} for some in (regions, members))
        of_images = len(own & other) / len(own | other)
        same = max(of_images, len(regions & members) / min(len(regions), len(members))) >= 0.5
        row = CLASSES[attribute], of_images, same and attribute == finding[1]
        if number == 0 or row[::-1][:2] > best[::-1][:2]:
            best = row
    return best


def fine(evaluation, n_clusters, seed):
    labels, medoids = k_medoids(cosine_distances(evaluation.region_embeddings), n_clusters, seed)
    return Clustering(labels, medoids, evaluation.region_embeddings[medoids], {})


def plain_clusterings(evaluation):
    embeddings = evaluation.region_embeddings
    for more in range(1, 6):
        seed = SEED + more
        coarse = cluster_regions(embeddings, USUAL, seed)
        yield "seed", f"seed + {more}", [coarse, fine(evaluation, 32, seed), fine(evaluation, 64, seed)]
    yield "one clustering", "uniform", [cluster_regions(embeddings, USUAL, SEED, start="uniform")]
    yield "one clustering", "C … 2C-1", [cluster_regions(embeddings, range(4, 8), SEED)]
    yield "one clustering", "5C … 8C-1", [cluster_regions(embeddings, range(20, 32), SEED)]
    yield "one clustering", "8C", [fine(evaluation, 32, SEED)]
    yield "one clustering", "16C", [fine(evaluation, 64, SEED)]


# ---- other clusters --------------------------------------------------------------------------------------------------


def test_a_planted_finding_is_found_again_in_all_variations_and_a_random_one_in_none(evaluation, red):
    planted, random = stability_of_all([red, random_regions()], evaluation, SEED)
    assert list(planted.columns) == STABILITY and len(planted) == len(random) == 10
    assert planted.found_again.all() and set(planted.attribute) == {"two"} and (planted.overlap > 0.4).all()
    assert not random.found_again.any() and (random.overlap < 0.5).all()


def test_the_planted_finding_with_another_attribute_is_not_found_again(evaluation, red):
    (table,) = stability_of_all([(red[0], 2)], evaluation, SEED)
    assert not table.found_again.any() and set(table.attribute) == {"two"}


def test_rows_are_those_of_a_plain_loop_also_where_some_images_are_tested(evaluation, red):
    half = np.arange(0, 160, 3)
    findings = [red, random_regions(), (red[0][::9], TWO)]
    found = {"all": stability_of_all(findings, evaluation, SEED)}
    found["half"] = stability_of_all(findings, evaluation, SEED, n_permutations=99, tested=half)
    for at, (kind, variation, clusterings) in enumerate(plain_clusterings(evaluation)):
        again = {
            "all": plain_findings(evaluation, clusterings),
            "half": plain_findings(evaluation, clusterings, half, 99),
        }
        for some, tables in found.items():
            for finding, table in zip(findings, tables, strict=True):
                row = plain_row(finding, again[some], evaluation.image_index)
                n_clusters = sum(one.labels.max() + 1 for one in clusterings)
                expected = [kind, variation, n_clusters, row[0], pytest.approx(row[1]), row[2]]
                assert table.iloc[at].tolist() == expected
    assert any(not one.equals(other) for one, other in zip(*found.values(), strict=True)), "too plain a case"


def test_a_finding_that_is_there_comes_before_one_that_overlaps_more():
    image_index = np.arange(10)
    evaluation = Evaluation(*[None] * 2, image_index, None, image_index, CLASSES, None, None)
    finding, wider, within = np.arange(6), np.arange(7), np.arange(2)
    row = module._nearest((finding, 1), [(wider, 0), (within, 1)], evaluation)
    assert row == {"attribute": "two", "overlap": pytest.approx(2 / 6), "found_again": True}
    row = module._nearest((finding, 2), [(within, 1), (wider, 0)], evaluation)
    assert row == {"attribute": "one", "overlap": pytest.approx(6 / 7), "found_again": False}
    row = module._nearest((finding, 1), [(np.array([8]), 0)], evaluation)
    assert row == {"attribute": "one", "overlap": 0, "found_again": False}


def test_all_findings_are_judged_by_one_set_of_clusterings(monkeypatch, evaluation, red):
    asked = []
    few = [("seed", "seed + 1", cluster_regions(evaluation.region_embeddings, USUAL, SEED))]
    monkeypatch.setattr(module, "other_clusterings", lambda *arguments: asked.append(arguments[1]) or few)
    assert [len(table) for table in stability_of_all([red, red, random_regions()], evaluation, SEED)] == [3, 3, 3]
    assert asked == [SEED]


def test_no_findings_have_no_tables_and_nothing_is_clustered(monkeypatch, evaluation):
    monkeypatch.setattr(module, "other_clusterings", None)
    assert stability_of_all([], evaluation, SEED) == []


def test_where_nothing_is_significant_the_attribute_is_none(evaluation, red):
    """Also where no cluster is left at all: all regions alike."""
    alike = np.tile(np.eye(12)[0], (640, 1))
    for other in (
        replace(evaluation, image_probs=np.full((160, 4), 0.25)),
        replace(evaluation, region_embeddings=alike),
    ):
        (table,) = stability_of_all([red], other, SEED, n_permutations=20)
        assert [value is None for value in table.attribute] == [True] * 10
        assert not table.overlap.any() and not table.found_again.any()
    assert table.n_clusters.max() == 2, "the two finer clusterings hold one cluster of everything each"


# ---- other regions ---------------------------------------------------------------------------------------------------

NAMES = ("quadrants", "grid 1x3", "4 × 4 grid", "boxes")


def plain_choice(data, most, images):
    """As many of these images of each class as go into `most`; the order is the stream's affair."""
    order = module.stream(SEED, "fewer images").permutation(images)
    return sorted(int(i) for label in range(4) for i in [i for i in order if data.labels[i] == label][: most // 4])


@pytest.mark.parametrize("most, tested", [(100, None), (500, None), (48, np.arange(0, 160, 3))])
def test_other_proposals_are_a_plain_loop(data, red, most, tested):
    candidates = np.arange(160) if tested is None else tested
    table = other_proposals(None, data, [red, random_regions()], SEED, NAMES, most, tested=tested)
    images = plain_choice(data, min(most, len(candidates)), candidates)
    held = {image for image in images if image in data.image_index[red[0]]}
    for name, row in zip(NAMES, table.itertuples(), strict=True):
        boxes, image_index = propose("quadrants" if name == "boxes" else name, data.images[images])
        part = replace(
            data, images=data.images[images], labels=data.labels[images], boxes=boxes, image_index=image_index
        )
        evaluation = fooled(None, part)
        coarse = cluster_regions(evaluation.region_embeddings, USUAL, SEED)
        clusterings = [coarse, fine(evaluation, 32, SEED), fine(evaluation, 64, SEED)]
        found = plain_findings(evaluation, clusterings)
        expected = [name, len(boxes), sum(one.labels.max() + 1 for one in clusterings), len(found)]
        first = {images[image_index[region]] for region in found[0][0]} if found else set()
        expected += [CLASSES[found[0][1]] if found else None, pytest.approx(len(first & held) / len(first | held))]
        assert list(row)[1:] == expected
    assert list(table.columns) == PROPOSALS
    assert table.n_findings[0] and table.overlap[0] > 0.4 and table.iloc[3, 1:].equals(table.iloc[0, 1:])


def test_overlap_is_nan_where_the_audit_found_nothing_and_nought_where_the_proposals_do(monkeypatch, data, red):
    assert np.isnan(other_proposals(None, data, [], SEED, ["quadrants"], 40).overlap[0])
    monkeypatch.setattr(module, "evaluate", lambda *a: replace(fooled(*a), image_probs=np.full((40, 4), 0.25)))
    row = other_proposals(None, data, [red], SEED, ["quadrants"], 40).iloc[0]
    assert (row.n_findings, row.attribute, row.overlap) == (0, None, 0)


def test_no_names_are_an_empty_table_with_its_columns(data, red):
    table = other_proposals(None, data, [red], SEED, ())
    assert list(table.columns) == PROPOSALS and not len(table)


def test_a_real_model_embeds_superpixels(monkeypatch, data, red):
    monkeypatch.undo()
    from ravl_core.zero_shot import evaluate

    monkeypatch.setattr(module, "evaluate", evaluate)
    table = other_proposals(tiny.tiny_vlm(), data, [red], SEED, ["superpixels"], 24, n_permutations=9)
    assert table.n_regions[0] > 24 and table.n_clusters[0] > 1


def test_an_unknown_name_is_named(data, red):
    with pytest.raises(ValueError, match="regions: expected one of .* did you mean 'superpixels'"):
        other_proposals(None, data, [red], SEED, ["superpixel"])


# ---- coverage --------------------------------------------------------------------------------------------------------


def plain_area(boxes, image_index, n_images, height, width):
    covered = 0
    for image in range(n_images):
        own = [box for box, owner in zip(boxes, image_index, strict=True) if owner == image]
        for y in np.arange(height) + 0.5:
            for x in np.arange(width) + 0.5:
                covered += any(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in own)
    return covered / (n_images * height * width)


def plain_shows(box, target):
    sides = [min(box[i + 2], target[i + 2]) - max(box[i], target[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    of_box, of_target = (shared / ((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in (box, target))
    return of_box >= 0.5 or (of_target >= 0.5 and of_box >= 0.1)


def test_coverage_is_that_of_plain_loops():
    images = np.zeros((7, 20, 30, 3), dtype=np.uint8)
    boxes, image_index = tiny.ragged_boxes([3, 0, 1, 5, 2, 0, 4], 20, 30, seed=2)
    objects, owners = tiny.ragged_boxes([2, 1, 4, 3, 5, 6, 9], 20, 30, seed=4)
    shuffled = np.random.default_rng(0).permutation(len(owners))  # the data's own may come in any order
    got = coverage(images, boxes, image_index, (objects[shuffled], owners[shuffled]))
    assert got.n_regions == 15 and got.per_image == (0, 2, 5) and got.images_without == 2
    assert got.area_covered == pytest.approx(plain_area(boxes, image_index, 7, 20, 30), abs=1e-12)
    areas = sorted((x2 - x1) * (y2 - y1) / 600 for x1, y1, x2, y2 in boxes.tolist())
    assert got.region_area == pytest.approx(areas[7], rel=1e-5)
    shown = [
        any(owner == image and plain_shows(box, target) for box, image in zip(boxes, image_index, strict=True))
        for target, owner in zip(objects, owners, strict=True)
    ]
    assert 0 < sum(shown) < len(shown), "too plain a case"
    assert got.n_objects == 30 and got.objects_covered == pytest.approx(np.mean(shown))


def test_a_grid_covers_everything_and_no_region_nothing():
    images = np.zeros((3, 31, 17, 3), dtype=np.uint8)
    cells = coverage(images, *propose("grid 4x3", images))
    assert (cells.n_regions, cells.per_image, cells.images_without) == (36, (12, 12, 12), 0)
    assert cells.area_covered == 1 and cells.region_area == pytest.approx(1 / 12)
    assert cells.objects_covered is None and cells.n_objects == 0
    nothing = np.empty((0, 4)), np.empty(0, dtype=int)
    none = coverage(images, *nothing, objects=nothing)
    assert (none.n_regions, none.per_image, none.images_without) == (0, (0, 0, 0), 3)
    assert none.area_covered == none.region_area == 0 and none.objects_covered is None


def test_the_datas_own_boxes_as_regions_cover_all_objects_and_overlap_counts_once():
    images = np.zeros((2, 10, 10, 3), dtype=np.uint8)
    boxes, image_index = np.array([[0, 0, 4, 5], [0, 0, 4, 5], [2, 0, 6, 5]]), np.array([0, 0, 0])
    got = coverage(images, boxes, image_index, (boxes, image_index))
    assert got.objects_covered == 1 and got.area_covered == pytest.approx(0.30 / 2)


@pytest.mark.parametrize(
    "boxes, image_index, message",
    [
        ([[0, 0, 5, 11]], [0], "boxes: expected boxes within"),
        ([[0, 0, 5, 5]], [2], "image_index"),
        ([[0, 0, 5, 5]], [0, 1], "image_index: expected length 1"),
    ],
)
def test_boxes_that_do_not_fit_are_named(boxes, image_index, message):
    with pytest.raises(ValueError, match=message):
        coverage(np.zeros((2, 10, 10, 3), dtype=np.uint8), np.array(boxes), np.array(image_index))
