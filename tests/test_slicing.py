"""What all discovery methods have in common, and the variants of RaVL against plain loops."""

import copy
from dataclasses import replace

import numpy as np
import oracles
import pytest
from evaluations import of_images, planted, ragged, same, without_regions

from ravl_core.discovery import discover
from ravl_core.discovery_summaries import ABLATIONS, OTHER_LIMITS, TABLE_1, VARIANTS
from ravl_core.kmedoids import cluster_regions, cosine_distances, k_medoids
from ravl_core.metrics import precision_at_k
from ravl_core.pull import cluster_pull
from ravl_core.significance import significant_clusters
from ravl_core.slicing import CHANCE, NAMED, ON_CLUSTERS, ON_THEIR_OWN, rank_by_all
from ravl_core.slicing import ravl as stage_1
from ravl_core.slicing.ranked import RankedRegions, nothing, regions_of_images

METHODS = (*ON_THEIR_OWN, *ON_CLUSTERS, "RaVL, controlled")


pytestmark = pytest.mark.filterwarnings("error")


def clustered(evaluation, seed=0):
    n_classes = len(evaluation.class_names)
    return cluster_regions(evaluation.region_embeddings, range(2 * n_classes, 5 * n_classes), seed)


# --- all methods, on all that can come -------------------------------------------------------------------------------


def answered(evaluation, predictions):
    """The evaluation of a model that gives these answers, more or less surely."""
    sure = np.linspace(0.5, 0.9, len(predictions))[:, None]
    n_classes = len(evaluation.class_names)
    return replace(evaluation, image_probs=sure * np.eye(n_classes)[predictions] + (1 - sure) / n_classes)


def all_in_class_0(evaluation):
    return replace(evaluation, labels=np.zeros_like(evaluation.labels))


def with_equal_regions(evaluation):
    return replace(evaluation, region_embeddings=evaluation.region_embeddings[[0] * len(evaluation.image_index)])


def one_region_an_image(evaluation):
    first = np.unique(evaluation.image_index, return_index=True)[1]
    arrays = {name: getattr(evaluation, name)[first] for name in ("region_embeddings", "image_index", "boxes")}
    return replace(evaluation, **arrays, region_probs=evaluation.region_probs[first])


def images_with(evaluation, regions):
    """The first image that has regions, or that has none."""
    has = np.bincount(evaluation.image_index, minlength=len(evaluation.labels)) > 0
    return of_images(evaluation, [int(np.flatnonzero(has == regions)[0])])


CASES = {
    "planted": lambda: planted()[0],
    "two classes": lambda: ragged(1, n_classes=2),
    "three classes": lambda: ragged(2),
    "five classes": lambda: ragged(3, n_images=100, n_classes=5),
    "one class": lambda: ragged(4, n_classes=1),
    "two images": lambda: ragged(5, n_images=2, n_classes=2),
    "all correct": lambda: answered(ragged(6), ragged(6).labels),
    "all wrong": lambda: answered(ragged(7), (ragged(7).labels + 1) % 3),
    "all taken for one class": lambda: answered(ragged(8), np.zeros(60, dtype=int)),
    "classes without images": lambda: all_in_class_0(ragged(9)),
    "half of the images without regions": lambda: of_images(ragged(10), range(60)),
    "equal regions": lambda: with_equal_regions(ragged(11)),
    "one region an image": lambda: one_region_an_image(ragged(12)),
    "no region": lambda: without_regions(ragged(13)),
    "one image": lambda: images_with(ragged(14), regions=True),
    "one image without a region": lambda: images_with(ragged(14), regions=False),
    "no image": lambda: ragged(15, n_images=0),
}


def ranked_in(case):
    evaluation = CASES[case]()
    return evaluation, rank_by_all(evaluation, clustered(evaluation))


@pytest.fixture(scope="module")
def results():
    """What every method says in every case, each made once and only if a test asks for it."""
    made = {}

    def of(case):
        if case not in made:
            made[case] = ranked_in(case)
        return made[case]

    return of


@pytest.mark.parametrize("case", CASES)
def test_every_method_ranks_regions_or_says_why_not(results, case):
    evaluation, ranked = results(case)
    n_regions, n_classes = len(evaluation.image_index), len(evaluation.class_names)
    assert tuple(ranked) == METHODS
    for name, found in ranked.items():
        regions = found.regions
        assert isinstance(found, RankedRegions) and regions.ndim == 1 and regions.dtype.kind == "i", name
        assert len(found) == len(regions) == len(set(regions.tolist())), name
        assert set(regions.tolist()) <= set(range(n_regions)), name
        assert isinstance(found.reason, str) and (len(regions) or found.reason), name
        assert found.attribute is None or type(found.attribute) is int, name
        assert found.attribute is None or (0 <= found.attribute < n_classes and len(regions)), name


@pytest.mark.parametrize("case", ["planted", "three classes", "one class", "no region", "no image"])
def test_a_ranking_is_an_array_where_one_is_asked_for(results, case):
    evaluation, ranked = results(case)
    shows = np.arange(len(evaluation.image_index)) % 3 == 0
    for name, found in ranked.items():
        assert precision_at_k(found, shows) == precision_at_k(found.regions.tolist(), shows), name
        assert np.asarray(found, dtype=np.float32).dtype == np.float32
        assert np.array_equal(np.array(found), found.regions)


@pytest.mark.parametrize("case", ["planted", "five classes", "equal regions"])
def test_every_method_is_deterministic_and_leaves_the_evaluation_alone(results, case):
    before = CASES[case]()
    evaluation = copy.deepcopy(before)
    again = rank_by_all(evaluation, clustered(evaluation))
    assert same(evaluation, before)
    for name, found in results(case)[1].items():
        assert np.array_equal(found.regions, again[name].regions), name
        assert (found.attribute, found.reason) == (again[name].attribute, again[name].reason), name


def test_where_nothing_can_be_found_nothing_is(results):
    for case in ("no region", "no image", "one image without a region"):
        assert {name for name, found in results(case)[1].items() if len(found)} == set(), case
    ranked = results("one class")[1]  # which helps none at another's cost
    assert not any(len(ranked[name]) for name in (*ABLATIONS, *OTHER_LIMITS))
    assert not len(results("all correct")[1]["RaVL"])  # no image is misled


def test_methods_that_rank_images_show_each_image_once(results):
    evaluation, ranked = results("planted")
    for name in ("Distilling Failures", "George", "George, slices", "Domino", "Domino, k-means starts"):
        images = evaluation.image_index[ranked[name].regions]
        assert len(images) == len(set(images.tolist())) > 0, name


@pytest.mark.parametrize("name", ["Spurious-Aware Detection", "RaVL", "RaVL without influence", *VARIANTS])
@pytest.mark.parametrize("attribute", range(3))
def test_methods_that_rank_clusters_find_what_is_planted(name, attribute):
    """Those that rank images are tested in files of their own."""
    evaluation, truths = planted(attribute, seed=attribute)
    found = alone(name)(evaluation)
    assert found.attribute == attribute
    assert precision_at_k(found, truths["shows_feature"]) == 1


def alone(name):
    """A method as a function of an evaluation."""
    if name in ON_THEIR_OWN:
        return ON_THEIR_OWN[name]
    method = ON_CLUSTERS.get(name, stage_1.controlled)
    return lambda evaluation: method(evaluation, clustered(evaluation))


# --- the registry ----------------------------------------------------------------------------------------------------


def test_the_registry_names_each_method_once_and_all_that_tables_ask_for():
    assert len(set(METHODS)) == len(METHODS) and not {CHANCE, NAMED} & set(METHODS)
    assert {*TABLE_1, *ABLATIONS, *OTHER_LIMITS, *VARIANTS} <= {*METHODS, CHANCE}


def test_methods_get_the_seed_and_the_shared_clusters(monkeypatch):
    asked = {}

    def on_its_own(evaluation, seed):
        asked["own"] = evaluation, seed
        return nothing("own")

    def on_clusters(evaluation, clustering):
        asked["clusters"] = evaluation, clustering
        return nothing("clusters")

    monkeypatch.setattr("ravl_core.slicing.ON_THEIR_OWN", {"one": on_its_own})
    monkeypatch.setattr("ravl_core.slicing.ON_CLUSTERS", {"other": on_clusters})
    evaluation = ragged(0)
    clustering = clustered(evaluation)
    ranked = rank_by_all(evaluation, clustering, seed=5)
    assert {name: found.reason for name, found in ranked.items() if name in ("one", "other")} == {
        "one": "own",
        "other": "clusters",
    }
    assert asked == {"own": (evaluation, 5), "clusters": (evaluation, clustering)}


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.75])
def test_limits_of_the_influence_are_those_in_the_names(results, threshold):
    evaluation, ranked = results("five classes")
    expected = stage_1.ravl(evaluation, clustered(evaluation), threshold)
    assert np.array_equal(ranked[f"RaVL, influence ≥ {threshold:.2f}"].regions, expected.regions)


# --- what is ranked --------------------------------------------------------------------------------------------------


def test_an_image_contributes_its_best_region_for_the_predicted_class():
    for seed in range(3):
        evaluation = ragged(seed)
        images = np.random.default_rng(seed).permutation(60)[:40]
        expected = []
        for image in images:
            own = [r for r in range(len(evaluation.image_index)) if evaluation.image_index[r] == image]
            label = int(np.argmax(evaluation.image_probs[image]))
            if own:
                expected.append(max(own, key=lambda r: (evaluation.region_probs[r, label], -r)))
        assert len(expected) < 40
        assert regions_of_images(evaluation, images).tolist() == expected
    assert regions_of_images(evaluation, []).tolist() == []


def test_nothing_is_an_empty_ranking_with_a_reason():
    found = nothing("why")
    assert (len(found), found.attribute, found.reason) == (0, None, "why")
    assert np.asarray(found).dtype == np.int64


# --- RaVL and its variants against plain loops -----------------------------------------------------------------------


def loop_differences(evaluation, labels):
    """Accuracy in - accuracy out of each cluster and class, NaN where one side has no image."""
    n_clusters, n_classes = labels.max() + 1, len(evaluation.class_names)
    found = np.full((n_clusters, n_classes), np.nan)
    for c in range(n_clusters):
        holding = {int(i) for i, label in zip(evaluation.image_index, labels, strict=True) if label == c}
        for label in range(n_classes):
            right = {True: [], False: []}
            for image in range(len(evaluation.labels)):
                if evaluation.labels[image] == label:
                    right[image in holding].append(evaluation.predictions[image] == label)
            if right[True] and right[False]:
                found[c, label] = np.mean(right[True]) - np.mean(right[False])
    return found


def loop_choice(method, scores, differences):
    """The cluster that each recipe takes, None if there is none: the first with the largest value."""
    clusters = range(len(scores.gap))

    def spurious(threshold):
        return [c for c in clusters if scores.criterion[c] and scores.influence[c] >= threshold]

    plain = [sum(abs(d) for d in row if not np.isnan(d)) for row in differences]
    candidates, value = {
        "RaVL": (spurious(0.25), scores.gap),
        "RaVL, influence ≥ 0.10": (spurious(0.1), scores.gap),
        "RaVL, influence ≥ 0.75": (spurious(0.75), scores.gap),
        "RaVL without gap": ([c for c in clusters if scores.influence[c] > -np.inf], scores.influence),
        "RaVL without influence": (spurious(-np.inf), scores.gap),
        "RaVL, unweighted gap": (spurious(0.25), plain),
    }[method]
    return max(candidates, key=lambda c: (round(float(value[c]), 12), -c), default=None)


def assert_shows_cluster(found, evaluation, clustering, cluster):
    """All regions of a cluster, by similarity with its medoid."""
    assert sorted(found.regions.tolist()) == np.flatnonzero(clustering.labels == cluster).tolist()
    medoid = evaluation.region_embeddings[clustering.medoids[cluster]].astype(np.float64)
    similar = evaluation.region_embeddings[found.regions].astype(np.float64) @ medoid
    assert (np.diff(similar) <= 1e-9).all()


LOOPED = ("RaVL", "RaVL, influence ≥ 0.10", "RaVL, influence ≥ 0.75", *ABLATIONS[1:])


def looped(seed):
    evaluation = ragged(seed, n_images=70, n_classes=3 + 2 * (seed % 2))
    clustering = clustered(evaluation)
    scores = oracles.score(
        clustering.labels, evaluation.image_index, evaluation.labels, evaluation.image_probs, evaluation.region_probs
    )
    return evaluation, clustering, scores, loop_differences(evaluation, clustering.labels)


@pytest.mark.parametrize("seed", range(12))
def test_recipes_take_the_cluster_of_the_plain_loops(seed):
    evaluation, clustering, scores, differences = looped(seed)
    for name in LOOPED:
        cluster, found = loop_choice(name, scores, differences), ON_CLUSTERS[name](evaluation, clustering)
        if cluster is None:
            assert len(found) == 0 and found.reason == "no cluster meets the criteria", name
        else:
            assert_shows_cluster(found, evaluation, clustering, cluster)
            assert found.attribute == int(np.nanargmax(differences[cluster])), name


def test_recipes_differ_from_each_other_in_these_problems():
    choices, attributes = [], []
    for seed in range(12):
        _, _, scores, differences = looped(seed)
        choices.append([loop_choice(name, scores, differences) for name in LOOPED])
        if choices[-1][0] is not None:
            kinds = differences, scores.class_gaps
            attributes.append([np.nanargmax(values[choices[-1][0]]) for values in kinds])
    assert any(by_difference != by_gap for by_difference, by_gap in attributes)
    for column in range(1, len(LOOPED)):
        assert any(row[column] != row[0] for row in choices), LOOPED[column]
    assert any(None in row for row in choices)


@pytest.mark.parametrize("seed", range(4))
def test_the_recipe_is_the_first_finding_of_stage_1(seed):
    evaluation = ragged(seed, n_images=80)
    found = discover(evaluation, seed=seed)
    ranked = stage_1.ravl(evaluation, found.clustering)
    assert found.findings
    assert np.array_equal(ranked.regions, found.findings[0].regions)
    assert ranked.attribute == found.findings[0].attribute


def loop_membership(evaluation, labels):
    held = np.zeros((len(evaluation.labels), labels.max() + 1), dtype=bool)
    for image, label in zip(evaluation.image_index, labels, strict=True):
        if label >= 0:
            held[image, label] = True
    return held


@pytest.mark.parametrize("seed", range(4))
def test_by_pull_takes_the_cluster_and_the_class_with_the_largest_pull(seed):
    evaluation = ragged(seed)
    clustering = clustered(evaluation)
    held = loop_membership(evaluation, clustering.labels)
    pull = cluster_pull(held, evaluation.labels, evaluation.image_probs).pull
    cluster, attribute = np.unravel_index(pull.argmax(), pull.shape)
    found = stage_1.by_pull(evaluation, clustering)
    assert_shows_cluster(found, evaluation, clustering, cluster)
    assert found.attribute == attribute


@pytest.mark.parametrize("n_images, n_classes, n_clusters", [(100, 3, 48), (20, 2, 32), (6, 3, None)])
def test_fine_clusters_are_sixteen_a_class_or_as_many_as_regions(n_images, n_classes, n_clusters):
    evaluation = ragged(1, n_images, n_classes)
    n_regions = len(evaluation.image_index)
    assert n_clusters is None or n_regions > n_clusters
    labels, _ = k_medoids(cosine_distances(evaluation.region_embeddings), n_clusters or n_regions, 3)
    pull = cluster_pull(loop_membership(evaluation, labels), evaluation.labels, evaluation.image_probs).pull
    cluster, attribute = np.unravel_index(pull.argmax(), pull.shape)
    found = stage_1.by_pull_of_fine_clusters(evaluation, seed=3)
    assert sorted(found.regions.tolist()) == np.flatnonzero(labels == cluster).tolist()
    assert found.attribute == attribute


def test_fine_clusters_find_a_feature_that_coarse_ones_blur():
    """Three kinds of background, one of which is the cue, are closer to each other than objects are."""
    evaluation, truths = planted()
    random = np.random.default_rng(0)
    place = oracles.unit(random.normal(size=(1, 32)))[0]
    near = truths["shows_feature"] | np.isin(truths["box_names"], ["sand", "grass"])
    regions = evaluation.region_embeddings.copy()
    regions[near] = oracles.unit(regions[near] + 3 * place)
    blurred = replace(evaluation, region_embeddings=regions)
    coarse = cluster_regions(regions, [7], 0)
    assert precision_at_k(stage_1.by_pull(blurred, coarse), truths["shows_feature"]) < 0.8
    assert precision_at_k(stage_1.by_pull_of_fine_clusters(blurred), truths["shows_feature"]) == 1


@pytest.mark.parametrize("seed", range(2))
def test_controlled_shows_the_first_significant_cluster(seed):
    evaluation, _ = planted(attribute=3, seed=seed)
    clustering = clustered(evaluation)
    held = loop_membership(evaluation, clustering.labels)
    first = significant_clusters(held, evaluation.labels, evaluation.image_probs, seed=seed)[0]
    found = stage_1.controlled(evaluation, clustering, seed)
    assert_shows_cluster(found, evaluation, clustering, first.cluster)
    assert found.attribute == first.attribute == 3


def test_controlled_finds_nothing_where_answers_are_dealt_out_anew():
    evaluation, _ = planted()
    random, probs = np.random.default_rng(1), evaluation.image_probs.copy()
    for label in range(4):
        own = np.flatnonzero(evaluation.labels == label)
        probs[own] = probs[random.permutation(own)]
    dealt = replace(evaluation, image_probs=probs)
    found = stage_1.controlled(dealt, clustered(dealt))
    assert len(found) == 0 and found.reason == "no cluster is significant"
    assert len(stage_1.by_pull(dealt, clustered(dealt))) > 0
