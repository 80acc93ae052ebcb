"""The comparison of discovery methods: judging, smaller val sets and p-values, against plain loops."""

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from evaluations import of_images, planted, ragged, same, without_regions
from sklearn.metrics import average_precision_score

from ravl_core import records
from ravl_core.comparison import (
    SIZES,
    average_precision,
    by_size,
    compare,
    first_of_each_class,
    inference,
    judge,
    subset,
    what_is_found,
)
from ravl_core.discovery import discover
from ravl_core.kmedoids import cluster_regions
from ravl_core.metrics import precision_at_k
from ravl_core.randomness import stream
from ravl_core.significance import SignificantCluster
from ravl_core.slicing import CHANCE, NAMED, rank_by_all
from ravl_core.slicing import ravl as stage_1
from ravl_core.slicing.random_regions import random_ranking_scores
from ravl_core.slicing.ranked import RankedRegions, nothing
from ravl_core.slicing.spurious_aware import spurious_aware_by_names

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def looked():
    """What a model that leans on a cue is looked at with."""
    evaluation, truths = planted(n_images=240)
    return evaluation, truths, discover(evaluation)


def made_up_truths(evaluation, seed=0):
    random = np.random.default_rng(seed)
    n_images, n_regions = len(evaluation.labels), len(evaluation.image_index)
    return {"shows_feature": random.random(n_regions) < 0.3, "feature_present": random.random(n_images) < 0.5}


def plain(value):
    """As a record holds it, which has to be all that there is to know: no NaN became None on the way."""
    held = json.loads(json.dumps(records.plain(value, "metrics", finite=True), allow_nan=False))
    assert held == json.loads(json.dumps(value, allow_nan=False))  # types of NumPy would not get through
    return held


# --- judging ---------------------------------------------------------------------------------------------------------


def test_a_ranking_is_judged_by_its_first_ten_regions():
    shows = np.zeros(40, dtype=bool)
    shows[[3, 5, 7, 20, 30]] = True
    present, image_index = np.array([True, False, True, False]), np.arange(40) // 10
    ranked = RankedRegions(np.array([3, 0, 5, 11, 12, 20, 31, 32, 33, 34, 30, 7]), attribute=2, reason="some")
    # The lenient count: 3, 0, 5 and 20 lie in images that hold the feature.
    expected = {"precision_at_10": 0.3, "image_precision_at_10": 0.4, "attribute": 2, "n_regions": 12, "reason": "some"}
    found = judge(ranked, shows, present, image_index)
    assert found.pop("average_precision") == pytest.approx((1 / 1 + 2 / 3 + 3 / 6 + 4 / 11 + 5 / 12) / 5)
    assert found == expected


def test_nothing_is_worth_nothing():
    found = judge(nothing("why"), np.array([True, False]), np.array([True]), np.array([0, 0]))
    assert found == {
        "precision_at_10": 0.0,
        "image_precision_at_10": 0.0,
        "average_precision": 0.0,
        "attribute": None,
        "n_regions": 0,
        "reason": "why",
    }
    assert plain(found) == found


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_of_all_regions_is_that_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    shows, ranked = random.random(50) < random.uniform(0.05, 0.9), random.permutation(50)
    scores = np.empty(50)
    scores[ranked] = -np.arange(50)
    assert average_precision(ranked, shows) == pytest.approx(average_precision_score(shows, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_of_some_regions_counts_the_others_as_missed(seed):
    random = np.random.default_rng(seed)
    shows, ranked = random.random(50) < 0.4, random.permutation(50)[: random.integers(50)]
    total, hits = 0, 0
    for place, region in enumerate(ranked.tolist(), 1):
        if shows[region]:
            hits += 1
            total += hits / place
    assert average_precision(ranked, shows) == pytest.approx(total / shows.sum(), abs=1e-12)


def test_average_precision_at_its_ends():
    shows = np.array([True, False, True])
    assert average_precision(np.array([2, 0]), shows) == average_precision(np.array([0, 2, 1]), shows) == 1
    assert average_precision(np.array([1]), shows) == 0
    empty = np.empty(0, dtype=int)
    assert average_precision(empty, shows) == average_precision(np.arange(3), np.zeros(3, dtype=bool)) == 0
    assert average_precision(empty, np.zeros(0, dtype=bool)) == 0


# --- all methods -----------------------------------------------------------------------------------------------------


def test_every_method_is_judged_and_chance_beside_it(looked):
    evaluation, truths, found = looked
    compared = compare(evaluation, truths, found, seed=3)
    ranked = rank_by_all(evaluation, found.clustering, 3)
    ranked[NAMED] = spurious_aware_by_names(evaluation, truths["box_names"])
    assert compared.keys() == {*ranked, CHANCE}
    for name, regions in ranked.items():
        expected = judge(regions, truths["shows_feature"], truths["feature_present"], evaluation.image_index)
        assert compared[name] == expected, name
    assert compared["RaVL"]["precision_at_10"] == precision_at_k(found.findings[0].regions, truths["shows_feature"])
    assert compared[NAMED]["precision_at_10"] == compared[NAMED]["average_precision"] == 1
    keys = set(compared["RaVL"])
    assert all(set(judged) == keys for judged in compared.values())
    plain(compared)


def test_chance_is_the_mean_of_a_hundred_orders(looked):
    evaluation, truths, found = looked
    shows, present = truths["shows_feature"], truths["feature_present"]
    random, strict, lenient = np.random.default_rng(3), [], []
    for _ in range(100):
        first = random.permutation(len(shows))[:10]
        strict.append(np.mean([shows[r] for r in first]))
        lenient.append(np.mean([present[evaluation.image_index[r]] for r in first]))
    judged = compare(evaluation, truths, found, seed=3)[CHANCE]
    assert judged["precision_at_10"] == pytest.approx(np.mean(strict), abs=1e-12)
    assert judged["image_precision_at_10"] == pytest.approx(np.mean(lenient), abs=1e-12)
    assert (judged["attribute"], judged["n_regions"]) == (None, len(shows))


def test_the_average_precision_of_chance_is_near_that_of_random_orders():
    random = np.random.default_rng(0)
    shows = random.random(2000) < 0.2
    several = [average_precision(random.permutation(2000), shows) for _ in range(50)]
    judged = random_ranking_scores(shows, np.ones(5, dtype=bool), np.arange(2000) % 5)
    assert judged["average_precision"] == pytest.approx(np.mean(several), abs=0.01)


def test_true_names_are_asked_only_where_boxes_have_names(looked, monkeypatch):
    monkeypatch.setattr("ravl_core.comparison.rank_by_all", lambda *_: {"one": nothing("")})
    evaluation, truths, found = looked
    for names in (None, np.full(len(evaluation.image_index), "")):
        given = {name: value for name, value in truths.items() if name != "box_names"}
        given |= {} if names is None else {"box_names": names}
        assert NAMED not in compare(evaluation, given, found)
    assert NAMED in compare(evaluation, truths, found)


def test_methods_do_not_see_the_truths(looked):
    evaluation, truths, found = looked
    other = {name: value[::-1] for name, value in truths.items() if name != "box_names"}
    one, another = compare(evaluation, truths, found), compare(evaluation, other, found)
    for name in another:
        assert all(one[name][key] == another[name][key] for key in ("attribute", "n_regions", "reason"))
    assert one["RaVL"]["precision_at_10"] != another["RaVL"]["precision_at_10"]


def image_without_region(evaluation):
    has = np.bincount(evaluation.image_index, minlength=len(evaluation.labels)) > 0
    return of_images(evaluation, [int(np.flatnonzero(~has)[0])])


ODD = {
    "ragged": lambda: ragged(1),
    "one class": lambda: ragged(2, n_classes=1),
    "no region": lambda: without_regions(ragged(3)),
    "a class without images": lambda: replace(ragged(4), labels=np.ones(60, dtype=int)),
    "all correct": lambda: replace(ragged(5), labels=ragged(5).predictions),
    "one image": lambda: ragged(6, n_images=1, n_classes=2),
    "one image without a region": lambda: image_without_region(ragged(7)),
}


@pytest.mark.parametrize("case", ODD)
def test_whatever_comes_gives_plain_values(case):
    evaluation = ODD[case]()
    truths = made_up_truths(evaluation)
    found = discover(evaluation)
    for look in (compare, by_size):
        plain(look(evaluation, truths, found))
    inferred = records.plain(inference(evaluation, truths, found), "metrics", finite=False)
    json.dumps(inferred, allow_nan=False)
    assert inferred["first"] is None or found.findings


# --- part of the images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_subset_is_that_of_a_plain_loop(seed):
    evaluation = ragged(seed)
    truths = made_up_truths(evaluation, seed)
    images = np.sort(np.random.default_rng(seed).permutation(60)[:25])
    part, shows, present = subset(evaluation, truths, images)
    assert same(part, of_images(evaluation, images.tolist()))
    regions = [r for r in range(len(evaluation.image_index)) if evaluation.image_index[r] in images]
    assert shows.tolist() == [truths["shows_feature"][r] for r in regions]
    assert present.tolist() == [truths["feature_present"][i] for i in images]
    assert (np.diff(part.image_index) >= 0).all()


def test_all_images_are_the_whole_set_and_none_an_empty_one():
    evaluation = ragged(0)
    whole, shows, _ = subset(evaluation, made_up_truths(evaluation), np.arange(60))
    assert same(whole, evaluation) and len(shows) == len(evaluation.image_index)
    empty, shows, present = subset(evaluation, made_up_truths(evaluation), np.arange(0))
    assert len(empty.labels) == len(empty.image_index) == len(shows) == len(present) == 0
    assert empty.class_names == evaluation.class_names


def loop_first_of_each_class(labels, order, n_images):
    """In rounds: of each class its next image, the classes in the order of these images, until there are enough."""
    queues = {label: [i for i in order if labels[i] == label] for label in set(labels.tolist())}
    chosen, place = [], {image: at for at, image in enumerate(order)}
    while len(chosen) < n_images and any(queues.values()):
        heads = sorted((queue.pop(0) for queue in queues.values() if queue), key=place.get)
        chosen += heads[: n_images - len(chosen)]
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(6))
def test_images_are_taken_from_the_classes_in_turn(seed):
    random = np.random.default_rng(seed)
    labels = random.choice(5, size=60, p=[0.4, 0.3, 0.2, 0.07, 0.03])  # the rare ones run out
    order = random.permutation(60)
    before = set()
    for n_images in (0, 1, 4, 5, 11, 37, 60, 70):
        chosen = first_of_each_class(labels, order, n_images)
        assert chosen.tolist() == loop_first_of_each_class(labels, order.tolist(), n_images)
        assert before <= set(chosen.tolist())  # nested
        before = set(chosen.tolist())


def test_the_smaller_sets_are_balanced():
    labels = np.arange(200) % 10
    chosen = first_of_each_class(labels, np.random.default_rng(0).permutation(200), 47)
    assert sorted(np.bincount(labels[chosen]).tolist()) == [4] * 3 + [5] * 7


# --- fewer images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_seed", range(3))
def test_discovery_on_fewer_images_is_that_on_their_part(data_seed):
    evaluation = ragged(data_seed, n_images=150)
    truths, found = made_up_truths(evaluation), discover(evaluation, seed=2)
    rows = by_size(evaluation, truths, found, seed=2, sizes=(40, 100, 150, 500))
    assert [row["n_images"] for row in rows] == [40, 100, 150]
    order = stream(2, "fewer images").permutation(150)
    for row in rows[:2]:
        images = first_of_each_class(evaluation.labels, order, row["n_images"])
        part = of_images(evaluation, images.tolist())
        shows = truths["shows_feature"][np.isin(evaluation.image_index, images)]
        clustering = cluster_regions(part.region_embeddings, range(6, 15), 2)
        assert row == {"n_images": len(images)} | by_hand(part, shows, clustering, 2)
    assert rows[2] == {"n_images": 150} | by_hand(evaluation, truths["shows_feature"], found.clustering, 2)
    plain(rows)


def test_what_is_planted_is_found_in_all_sizes(looked):
    evaluation, truths, found = looked
    rows = by_size(evaluation, truths, found, sizes=(120,))
    for row in rows:
        for recipe in ("paper", "pull", "controlled"):
            assert row[recipe] == {"precision_at_10": 1.0, "attribute": 2}
    assert by_size(evaluation, truths, found, sizes=(120,)) == rows


def by_hand(evaluation, shows, clustering, seed):
    ranked = {
        "paper": stage_1.ravl(evaluation, clustering),
        "pull": stage_1.by_pull(evaluation, clustering),
        "controlled": stage_1.controlled(evaluation, clustering, seed),
    }
    return {
        name: {"precision_at_10": precision_at_k(found, shows), "attribute": found.attribute}
        for name, found in ranked.items()
    }


def test_sizes_that_the_set_does_not_reach_are_left_out(looked):
    evaluation, truths, found = looked
    rows = by_size(evaluation, truths, found)
    assert [row["n_images"] for row in rows] == [*(size for size in SIZES if size < 240), 240]
    rows = by_size(evaluation, truths, found, sizes=())
    assert [row["n_images"] for row in rows] == [240]
    assert all(set(row) == {"n_images", "paper", "pull", "controlled"} for row in rows)


def test_nothing_found_is_a_precision_of_0():
    evaluation = without_regions(ragged(0))
    found = discover(evaluation)
    shows, present = np.zeros(0, dtype=bool), np.ones(60, dtype=bool)
    for value in what_is_found(evaluation, shows, present, found.clustering, 0).values():
        assert value == {"precision_at_10": 0.0, "attribute": None}


# --- inference -------------------------------------------------------------------------------------------------------


def test_what_is_planted_is_more_than_chance(looked):
    evaluation, truths, found = looked
    sure = inference(evaluation, truths, found, seed=1)
    assert set(sure) == {"first", "smallest_gap_p", "significant"}
    first = sure["first"]
    assert set(first) == {"gap", "influence", "difference", "attribute", "influence_images", "n_sources", "gap_p"}
    assert first["gap_p"] == sure["smallest_gap_p"] == 0.001
    assert first["attribute"] == 2 and first["n_sources"] == 120
    assert first["gap"][0] == found.findings[0].gap and first["influence"][0] == found.findings[0].influence
    assert first["influence_images"] == found.findings[0].influence_images
    for name in ("gap", "influence", "difference"):
        estimate, low, high = first[name]
        assert low <= estimate <= high
    assert first["gap"][1] < first["gap"][2]
    leading = sure["significant"][0]
    assert set(leading) == {field.name for field in fields(SignificantCluster)} | {"feature_share"}
    assert leading["cluster"] == found.findings[0].cluster and leading["attribute"] == 2
    assert leading["feature_share"] == 1 and leading["p_value"] == 0.001
    assert len(sure["significant"]) <= 5
    plain(sure)
    assert inference(evaluation, truths, found, seed=1) == sure


def test_the_share_of_a_cluster_is_that_of_its_regions():
    evaluation, truths = planted(n_images=240)
    found = discover(evaluation)
    half = {**truths, "shows_feature": truths["shows_feature"] & (np.arange(len(truths["shows_feature"])) % 2 == 0)}
    leading = inference(evaluation, half, found)["significant"][0]
    own = [r for r, label in enumerate(found.clustering.labels) if label == leading["cluster"]]
    assert leading["feature_share"] == pytest.approx(sum(half["shows_feature"][r] for r in own) / len(own))
    assert 0.3 < leading["feature_share"] < 0.7


def test_images_are_drawn_where_sources_are_not_known(looked):
    evaluation, truths, found = looked
    given = {name: value for name, value in truths.items() if name != "sources"}
    assert inference(evaluation, given, found)["first"]["n_sources"] == 240


def test_answers_that_are_dealt_out_anew_are_chance(looked):
    evaluation, truths, _ = looked
    sure = []
    for seed in range(4):
        random, probs = np.random.default_rng(seed), evaluation.image_probs.copy()
        for label in range(4):
            own = np.flatnonzero(evaluation.labels == label)
            probs[own] = probs[random.permutation(own)]
        dealt = replace(evaluation, image_probs=probs)
        found = discover(dealt, influence_threshold=0.0)
        sure.append(inference(dealt, truths, found))
        assert found.findings and sure[-1]["first"]["gap_p"] >= sure[-1]["smallest_gap_p"]
        plain(sure[-1])
    assert sum(one["smallest_gap_p"] <= 0.05 for one in sure) <= 1
    assert sum(bool(one["significant"]) for one in sure) <= 1


def test_without_clusters_or_findings_there_is_nothing_to_be_sure_of():
    bare = without_regions(ragged(3))
    empty = {"first": None, "smallest_gap_p": 1.0, "significant": []}
    assert inference(bare, made_up_truths(bare), discover(bare)) == empty
    evaluation, truths = planted()
    right = replace(evaluation, image_probs=np.eye(4)[evaluation.labels])
    found = discover(right)
    assert found.clustering.n_clusters and not found.findings
    assert inference(right, truths, found) == empty


def test_an_influence_that_no_image_is_behind_is_none_in_a_record():
    evaluation, truths = planted()
    found = discover(evaluation)
    first = found.findings[0]
    nobody = replace(found.scores, influence=np.full_like(found.scores.influence, -np.inf))
    sure = inference(evaluation, truths, replace(found, scores=nobody, findings=(first,)))
    assert sure["first"]["influence"][0] is None and math.isfinite(sure["first"]["gap"][0])
    plain(sure)
