"""Before and after a repair: figures held to stage 1's own and to plain loops, and what a second look says."""

import json
from dataclasses import asdict, replace

import numpy as np
import oracles
import pytest
from evaluations import planted, ragged, without_regions
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_core.closed_loop import look_again, same_cluster, same_feature
from ravl_core.discovery import discover, score_clusters
from ravl_core.pull import cluster_pull, membership
from ravl_core.significance import permutations_within, significant_clusters
from ravl_core.zero_shot import Evaluation

pytestmark = pytest.mark.filterwarnings("error")
by_hypothesis = settings(max_examples=30, derandomize=True)

CUE, SAND, GRASS = "cue", "sand", "grass"


@pytest.fixture(scope="module")
def before():
    return planted()


@pytest.fixture(scope="module")
def found(before):
    return discover(before[0], seed=0)


def answering(evaluation, regions=None, attribute=2, seed=5):
    """The same images and regions by a model that says `attribute` where it leans on some regions, else what is right.

    `regions` (M,) bool; the model leans on nothing if there are none.
    """
    random, (n_images, n_classes) = np.random.default_rng(seed), evaluation.image_probs.shape
    regions = np.zeros(len(evaluation.image_index), dtype=bool) if regions is None else regions
    leaning = np.isin(np.arange(n_images), evaluation.image_index[regions])
    misled = leaning & (random.random(n_images) < 0.9)
    missed = ~leaning & leaning.any() & (evaluation.labels == attribute) & (random.random(n_images) < 0.6)
    answer = np.where(misled, attribute, np.where(missed, (evaluation.labels + 1) % n_classes, evaluation.labels))
    probs = 0.8 * np.eye(n_classes)[answer] + 0.2 * random.dirichlet(np.ones(n_classes), n_images)
    hints = np.where(regions[:, None], np.eye(n_classes)[attribute], evaluation.region_probs)
    return replace(evaluation, image_probs=probs, region_probs=hints)


def showing(truths, name):
    return np.array(truths["box_names"]) == name


def json_of(figures):
    return json.loads(json.dumps(figures.plain(), allow_nan=False))


# --- the same cluster ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_whole_clustering_and_of_the_plain_loops(seed):
    one = ragged(seed)
    other = replace(ragged(seed), image_probs=ragged(seed + 10).image_probs, region_probs=one.region_probs[::-1])
    clusters = np.random.default_rng(seed).integers(-1, 4, len(one.image_index))
    held = membership(clusters, one.image_index, len(one.labels))
    for cluster in range(4):
        got = same_cluster(clusters, cluster, one, other, n_permutations=9)
        assert got.cluster == cluster
        for figures, evaluation in ((got.before, one), (got.after, other)):
            answers = evaluation.labels, evaluation.image_probs, evaluation.region_probs
            by_loops = oracles.score(clusters, evaluation.image_index, *answers)
            assert figures.gap == pytest.approx(by_loops.gap[cluster], abs=1e-12)
            assert figures.influence_images == by_loops.influence_images[cluster]
            influence = by_loops.influence[cluster]
            assert figures.influence == (pytest.approx(influence) if np.isfinite(influence) else None)
            pull = cluster_pull(held, *answers[:2]).pull
            assert figures.pull == pytest.approx(pull[cluster, got.attribute], abs=1e-12)
        scores = score_clusters(clusters, one.image_index, one.labels, one.image_probs, one.region_probs)
        assert got.attribute == np.nanargmax(scores.difference[cluster])  # of the diagnosed model


def test_p_values_are_those_of_a_plain_loop():
    one = ragged(3)
    clusters = np.random.default_rng(3).integers(3, size=len(one.image_index))
    held = membership(clusters, one.image_index, len(one.labels))[:, [1]]

    def statistics(probs):
        gap = score_clusters(np.where(clusters == 1, 0, -1), one.image_index, one.labels, probs, one.region_probs).gap
        return gap[0], cluster_pull(held, one.labels, probs).pull.max()

    dealt = [one.image_probs[order] for orders in permutations_within(one.labels, 60, seed=7) for order in orders]
    reached = [np.array(statistics(probs)) >= np.array(statistics(one.image_probs)) - 1e-6 for probs in dealt]
    expected = (1 + np.sum(reached, axis=0)) / 61
    got = same_cluster(clusters, 1, one, one, n_permutations=60, seed=7)
    assert got.before.p_value == got.after.p_value == pytest.approx(expected.max())


def test_a_repair_lowers_all_figures_of_the_cluster(before, found):
    evaluation, truths = before
    first = found.findings[0]
    assert (np.array(truths["box_names"])[first.regions] == CUE).all() and first.attribute == 2
    got = same_cluster(found.clustering.labels, first.cluster, evaluation, answering(evaluation))
    assert got.attribute == 2 and got.before.gap == pytest.approx(first.gap)
    assert (got.before.influence, got.before.influence_images) == (first.influence, first.influence_images)
    assert got.before.pull > 0.2 and got.before.p_value == 0.001
    assert got.after.gap == 0 and abs(got.after.pull) < 0.05 and got.after.p_value > 0.05
    assert got.after.influence is None and got.after.influence_images == 0  # nothing is misclassified
    plain = json_of(got)
    assert plain["after"]["influence"] is None and plain["before"] == asdict(got.before)
    assert same_cluster(found.clustering.labels, first.cluster, evaluation, evaluation).after == got.before


def test_a_cluster_that_every_image_holds_has_no_attribute_and_no_pull(before):
    evaluation = before[0]
    whole = replace(
        without_regions(evaluation),
        image_index=np.arange(240),
        boxes=np.zeros((240, 4)),
        region_probs=np.full((240, 4), 0.25),
    )
    got = same_cluster(np.zeros(240, int), 0, whole, whole, n_permutations=9)
    assert got.attribute is None and got.before.pull is None and got.before.gap == 0 and got.before.p_value == 1
    assert json_of(got)["attribute"] is None


def test_a_cluster_without_regions_is_named(before):
    evaluation, _ = before
    n_regions = len(evaluation.image_index)
    with pytest.raises(ValueError, match="cluster: expected one that some region is in, got 1"):
        same_cluster(np.zeros(n_regions, int), 1, evaluation, evaluation)
    with pytest.raises(ValueError, match="cluster: expected an integer of 0 or more, got -1"):
        same_cluster(np.full(n_regions, -1), -1, evaluation, evaluation)
    with pytest.raises(ValueError, match="clustering_labels: expected length"):
        same_cluster(np.zeros(3, int), 0, evaluation, evaluation)


@pytest.mark.parametrize("name", ["labels", "image_index", "boxes", "class_names"])
def test_evaluations_of_other_images_are_refused(before, found, name):
    evaluation, _ = before
    changed = {
        "labels": (evaluation.labels + 1) % 4,
        "image_index": evaluation.image_index - (np.arange(len(evaluation.image_index)) == 0),
        "boxes": evaluation.boxes + 1,
        "class_names": ("z", *evaluation.class_names[1:]),
    }
    other = replace(evaluation, **{name: changed[name]})
    with pytest.raises(ValueError, match=f"the images and regions of the one before, got other {name}"):
        same_cluster(found.clustering.labels, 0, evaluation, other)
    with pytest.raises(ValueError, match=f"the images and regions of the one before, got other {name}"):
        look_again(found, evaluation, other)


# --- the same feature ------------------------------------------------------------------------------------------------


def same_feature_by_loops(one, other, image_index):
    both = [r for r in range(len(one)) if one[r] and other[r]]
    images = [{image_index[r] for r in range(len(one)) if regions[r]} for regions in (one, other)]
    of_images = len(images[0] & images[1]) / len(images[0] | images[1])
    return of_images >= 0.5 or len(both) / min(sum(one), sum(other)) >= 0.5


@by_hypothesis
@given(st.integers(0, 2**32 - 1))
def test_the_same_feature_is_that_of_the_plain_loop(seed):
    random = np.random.default_rng(seed)
    image_index = np.sort(random.integers(8, size=14))
    one, other = random.random((2, 14)) < random.choice([0.2, 0.4, 0.6])
    one[random.integers(14)] = other[random.integers(14)] = True
    assert same_feature(one, other, image_index) == same_feature_by_loops(one, other, image_index)
    assert same_feature(one, other, image_index) == same_feature(other, one, image_index)


@pytest.mark.parametrize(
    "one, other, expected",
    [  # eight images of two regions, even and odd numbers
        (range(0, 16, 2), range(0, 16, 2), True),
        (range(0, 16, 2), range(1, 16, 2), True),  # other regions of the same images
        (range(0, 16, 2), range(0, 6, 2), True),  # a part of it: all of the smaller one, three of eight images
        (range(0, 6, 2), range(4, 16, 2), False),  # one of three regions, one of eight images
        (range(0, 8, 2), [0, 2, 9, 11, 13, 15], True),  # half of the smaller one's regions
        (range(0, 8, 2), [0, 3, 5, 9, 11], True),  # three of six images
        (range(0, 8, 2), [0, 3, 9, 11], False),  # two of six images, a quarter of the regions
        (range(0, 8, 2), range(8, 16, 2), False),
    ],
)
def test_the_same_feature_by_hand(one, other, expected):
    masks = [np.isin(np.arange(16), list(regions)) for regions in (one, other)]
    assert same_feature(*masks, np.arange(16) // 2) is expected


# --- a second look ---------------------------------------------------------------------------------------------------


def test_an_unchanged_model_gives_the_same_again(before, found):
    evaluation, _ = before
    got = look_again(found, evaluation, evaluation, seed=0)
    first = found.findings[0]
    assert got.n_findings_before == got.n_findings_after == len(found.findings)
    assert (got.attribute, got.gap, got.same_attribute) == (first.attribute, first.gap, True)
    assert (got.covered, got.jaccard, got.place) == (1, 1, 1)
    assert got.n_significant_before == got.n_significant_after >= 1
    assert (got.gone, got.replaced) == (False, False)


def test_a_repaired_model_has_lost_it_and_gained_nothing(before, found):
    evaluation, _ = before
    got = look_again(found, evaluation, answering(evaluation))
    assert got.n_significant_before >= 1 and got.n_significant_after == 0
    assert (got.gone, got.replaced) == (True, False)
    assert got.n_findings_after == 0  # right everywhere: no gap
    assert [got.attribute, got.gap, got.same_attribute, got.covered, got.jaccard, got.place] == [None] * 6
    assert json_of(got) == asdict(got)


def test_a_model_that_leans_on_something_else_has_replaced_it(before, found):
    evaluation, truths = before
    after = answering(evaluation, showing(truths, SAND), attribute=1)
    got = look_again(found, evaluation, after)
    assert (got.gone, got.replaced) == (True, True)
    assert got.attribute == 1 and got.same_attribute is False and got.n_significant_after >= 1
    assert got.covered == got.jaccard == 0 and got.place != 1


def test_what_comes_beside_the_old_feature_does_not_replace_it(before, found):
    evaluation, truths = before
    after = answering(evaluation, showing(truths, CUE), seed=1)
    sand = np.isin(np.arange(240), evaluation.image_index[showing(truths, SAND)])
    probs = after.image_probs.copy()
    probs[sand & (np.random.default_rng(1).random(240) < 0.5)] = 0.8 * np.eye(4)[1] + 0.05
    got = look_again(found, evaluation, replace(after, image_probs=probs))
    assert got.n_significant_before == 1 and got.n_significant_after == 2
    assert (got.gone, got.replaced) == (False, False)


def look_again_at_other_embeddings(before, found):
    evaluation, truths = before
    after = replace(answering(evaluation, showing(truths, SAND)), region_embeddings=ragged_embeddings(evaluation))
    return after, look_again(found, evaluation, after, seed=4)


def test_the_new_finding_is_the_first_one_by_that_seed(before, found):
    after, got = look_again_at_other_embeddings(before, found)
    by_seed = {seed: discover(after, seed=seed) for seed in (0, 4)}
    assert got.gap == by_seed[4].findings[0].gap != by_seed[0].findings[0].gap
    assert got.attribute == by_seed[4].findings[0].attribute and got.n_findings_after == len(by_seed[4].findings)


def test_the_same_feature_with_another_class_is_not_gone(before, found):
    evaluation, truths = before
    after = answering(evaluation, showing(truths, CUE), attribute=0)
    got = look_again(found, evaluation, after)
    assert got.same_attribute is False and got.jaccard == 1 and got.place == 1
    assert (got.gone, got.replaced) == (False, False)


def test_overlap_is_counted_in_regions_of_the_first_findings(before, found):
    """The new embeddings put half of the cue with the grass, and some of the grass with the other half."""
    evaluation, truths = before
    random = np.random.default_rng(0)
    cue, grass = (np.flatnonzero(showing(truths, name)) for name in (CUE, GRASS))
    centres = [evaluation.region_embeddings[of].mean(axis=0) for of in (cue, grass)]
    embeddings = evaluation.region_embeddings.copy()
    for moved, centre in ((cue[::2], centres[1]), (grass[:15], centres[0])):
        embeddings[moved] = oracles.unit(centre + 0.01 * random.normal(size=(len(moved), embeddings.shape[1])))
    leaning = np.isin(np.arange(len(embeddings)), [*cue[1::2], *grass[:15]])
    after = replace(answering(evaluation, leaning), region_embeddings=embeddings)
    new = set(discover(after, seed=1).findings[0].regions.tolist())
    old = set(found.findings[0].regions.tolist())
    assert old - new and new - old and old & new
    got = look_again(found, evaluation, after, seed=1)
    assert got.covered == pytest.approx(len(old & new) / len(old)) and 0.3 < got.covered < 0.7
    assert got.jaccard == pytest.approx(len(old & new) / len(old | new))
    assert got.gone is False  # a part of the old feature is the same feature


def test_what_was_not_shown_to_be_there_cannot_go(before):
    """A first finding of the paper's recipe that is not significant."""
    evaluation, _ = before
    random = np.random.default_rng(2)
    wrong = random.random(240) < 0.3
    answer = np.where(wrong, random.integers(4, size=240), evaluation.labels)
    sound = replace(evaluation, image_probs=0.8 * np.eye(4)[answer] + 0.05)
    found = discover(sound, influence_threshold=0.0)
    assert found.findings
    got = look_again(found, sound, answering(evaluation))
    assert got.n_significant_before == 0 and (got.gone, got.replaced) == (None, None)
    assert got.n_findings_before == len(found.findings)
    came = look_again(found, sound, evaluation)
    assert came.n_significant_after >= 1 and came.gone is None and came.same_attribute is not None


def test_no_finding_before_leaves_nothing_to_compare(before):
    evaluation, _ = before
    sound = answering(evaluation)
    found = discover(sound)
    assert not found.findings
    got = look_again(found, sound, evaluation)
    assert got.n_findings_before == 0 and got.n_findings_after >= 1 and got.attribute == 2 and got.gap > 1
    undefined = got.same_attribute, got.covered, got.jaccard, got.place, got.gone, got.replaced
    assert undefined == (None,) * 6
    assert json_of(got) == asdict(got)


def test_no_region_at_all_is_an_ordinary_case(before):
    bare = without_regions(before[0])
    got = look_again(discover(bare), bare, bare)
    assert got.n_findings_before == got.n_findings_after == got.n_significant_before == got.n_significant_after == 0
    assert all(value in (None, 0) for value in got.plain().values())


def test_another_number_of_regions_is_refused(before, found):
    bare = without_regions(before[0])
    with pytest.raises(ValueError, match="clustering_labels: expected length 0, as image_index"):
        look_again(found, bare, bare)


def test_significant_findings_are_counted_in_each_models_own_clusters(before, found):
    after, got = look_again_at_other_embeddings(before, found)
    for n, look, model in (
        (got.n_significant_before, found, before[0]),
        (got.n_significant_after, discover(after, seed=4), after),
    ):
        held = membership(look.clustering.labels, model.image_index, len(model.labels))
        assert n == len(significant_clusters(held, model.labels, model.image_probs, seed=4))


def ragged_embeddings(evaluation: Evaluation) -> np.ndarray:
    """Other embeddings of the same regions, in which nothing forms a cluster."""
    return oracles.unit(np.random.default_rng(9).normal(size=evaluation.region_embeddings.shape))
