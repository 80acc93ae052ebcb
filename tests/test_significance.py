"""The permutation null, held to plain loops; how often it is wrong about noise, and what it finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_core.discovery import score_clusters
from ravl_core.pull import cluster_pull
from ravl_core.significance import largest_statistics, permutations_within, significant_clusters

pytestmark = pytest.mark.filterwarnings("error")


def gaps(held, labels, probs):
    """(K,) the paper's gap by stage 1's own code; the last cluster must have an image."""
    image_index, clusters = np.nonzero(held)  # one region for each cluster that an image holds
    region_probs = np.full((len(clusters), probs.shape[1]), 1 / probs.shape[1])
    return score_clusters(clusters, image_index, labels, probs, region_probs).gap


def gaps_within(held, labels, probs, strata):
    """(K,) by a loop: weighted differences of accuracy in each stratum, by its share of its class, without signs."""
    right, found = probs.argmax(axis=1) == labels, np.zeros(held.shape[1])
    for cluster in range(held.shape[1]):
        for stratum in sorted(set(strata.tolist())):
            own = strata == stratum
            inside, outside = right[own & held[:, cluster]], right[own & ~held[:, cluster]]
            if len(inside) and len(outside):
                share = own.sum() / (labels == labels[own][0]).sum()
                balance = 2 * min(len(inside), len(outside)) / own.sum()
                found[cluster] += share * balance * abs(inside.mean() - outside.mean())
    return found


def noise(seed, n_images=120, n_classes=4, n_clusters=8):
    """Answers and clusters both depend on the class, and on nothing else."""
    random = np.random.default_rng(seed)
    labels = np.arange(n_images) % n_classes
    held = random.random((n_images, n_clusters)) < random.uniform(0.1, 0.7, size=(n_classes, n_clusters))[labels]
    held[0, -1] = True
    confusions = random.uniform(0, 1, size=(n_classes, n_classes)) + 2.5 * np.eye(n_classes)
    weights = np.exp(confusions[labels] + random.normal(size=(n_images, n_classes)))
    return held, labels, weights / weights.sum(axis=1, keepdims=True)


def planted(seed, attribute=1, push=2.5, only_from=None, **size):
    """Noise, but images that hold the feature lean towards a class: all of them, or those of one class only.

    Cluster 0 holds the feature, cluster 1 the images without it.
    """
    held, labels, probs = noise(seed, **size)
    feature = np.random.default_rng(seed + 1000).random(len(labels)) < 0.4
    held[:, 0], held[:, 1] = feature, ~feature
    leans = feature if only_from is None else feature & (labels == only_from)
    pushed = probs * np.exp(push * np.outer(leans, np.eye(probs.shape[1])[attribute]))
    return held, labels, pushed / pushed.sum(axis=1, keepdims=True)


def two_planted(seed, pushes, attributes=(1, 2), **size):
    """Noise with two features that do not go together, clusters 0 and 1; each pulls towards a class of its own."""
    held, labels, probs = planted(seed, attributes[0], pushes[0], **size)
    held[:, 1] = np.random.default_rng(seed + 2000).random(len(labels)) < 0.4
    pushed = probs * np.exp(pushes[1] * np.outer(held[:, 1], np.eye(probs.shape[1])[attributes[1]]))
    return held, labels, pushed / pushed.sum(axis=1, keepdims=True)


problems = st.builds(
    noise,
    seed=st.integers(0, 2**32 - 1),
    n_images=st.integers(6, 60),
    n_classes=st.integers(1, 5),
    n_clusters=st.integers(1, 5),
)
by_hypothesis = settings(max_examples=40, derandomize=True)


# --- the statistics --------------------------------------------------------------------------------------------------


@by_hypothesis
@given(problems)
def test_with_classes_as_strata_they_are_the_papers_gap_and_our_pull(problem):
    got = largest_statistics(*problem, n_permutations=1)
    np.testing.assert_allclose(got.gap, gaps(*problem), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.pull, cluster_pull(*problem).pull, rtol=0, atol=1e-6)


@by_hypothesis
@given(problems, st.integers(0, 2**32 - 1))
def test_within_finer_strata_they_are_those_of_plain_loops(problem, seed):
    labels = problem[1]
    strata = 2 * labels + np.random.default_rng(seed).integers(2, size=len(labels))
    got = largest_statistics(*problem, strata, n_permutations=1)
    np.testing.assert_allclose(got.gap, gaps_within(*problem, strata), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.pull, cluster_pull(*problem, strata).pull, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gaps_within(*problem, labels), gaps(*problem), rtol=0, atol=1e-12)  # the loop itself


def test_a_class_without_images_shifts_nothing():
    held, labels, probs = noise(0)
    probs = np.column_stack([probs[:, :2], np.zeros(len(labels)), probs[:, 2:]])  # class 2 of 5 has no image
    labels = labels + (labels >= 2)
    got = largest_statistics(held, labels, probs, n_permutations=20)
    np.testing.assert_allclose(got.gap, gaps(held, labels, probs), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.pull, cluster_pull(held, labels, probs).pull, rtol=0, atol=1e-6)
    assert len(got.null_gap) == len(got.null_pull) == 20
    held, labels, probs = planted(0, n_images=240)
    probs = np.column_stack([probs[:, :2], np.zeros(240), probs[:, 2:]])
    found = significant_clusters(held, labels + (labels >= 2), probs, n_permutations=99)
    assert (found[0].cluster, found[0].attribute) == (0, 1)


def test_what_is_common_in_a_class_is_discounted_in_the_null_as_well():
    held, labels, probs = planted(0, n_images=80)
    held[:, 0] &= (labels != 1) | (np.arange(80) % 8 == 1)
    held[:, 2] &= labels == 3  # pulls nothing towards class 3, whatever is dealt out
    got = largest_statistics(held[:, [2]], labels, probs, n_permutations=70)
    dealt = [probs[order] for orders in permutations_within(labels, 70, seed=0) for order in orders]
    largest = [cluster_pull(held[:, [2]], labels, one).pull.max() for one in dealt]
    np.testing.assert_allclose(got.null_pull, np.sort(largest), rtol=0, atol=1e-6)
    assert got.pull[0, 3] == 0


# --- the null --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finer", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_null_is_that_of_a_plain_loop(seed, finer):
    held, labels, probs = planted(seed, n_images=40)
    strata = 2 * labels + held[:, 2] if finer else labels
    got = largest_statistics(held, labels, probs, strata, n_permutations=70, seed=seed)
    largest_gap, largest_pull = [], []
    for orders in permutations_within(strata, 70, seed):
        for order in orders:
            dealt = probs[order]
            largest_gap.append((gaps_within(held, labels, dealt, strata) if finer else gaps(held, labels, dealt)).max())
            largest_pull.append(cluster_pull(held, labels, dealt, strata).pull.max())
    np.testing.assert_allclose(got.null_gap, np.sort(largest_gap), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.null_pull, np.sort(largest_pull), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_permutations", [0, 1, 50, 120])
def test_permutations_deal_out_within_strata(n_permutations):
    strata = np.random.default_rng(0).integers(5, size=40) * 7 - 3
    orders = np.concatenate([np.empty((0, 40), dtype=int), *permutations_within(strata, n_permutations, seed=4)])
    assert orders.shape == (n_permutations, 40)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(40), (n_permutations, 1)))
    np.testing.assert_array_equal(strata[orders], np.tile(strata, (n_permutations, 1)))
    assert len(np.unique(orders, axis=0)) == n_permutations


def test_every_order_within_a_stratum_is_as_likely():
    strata = np.array([1, 0, 1, 1, 0])
    orders = np.concatenate(list(permutations_within(strata, 6000, seed=0)))
    which, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(which) == 2 * 6
    np.testing.assert_allclose(counts, 500, atol=90)


def test_the_seed_decides_the_null():
    problem = noise(0)
    first, again, other = (largest_statistics(*problem, n_permutations=60, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.null_gap, again.null_gap)
    np.testing.assert_array_equal(first.null_pull, again.null_pull)
    assert (first.null_gap != other.null_gap).any() and (first.null_pull != other.null_pull).any()
    np.testing.assert_array_equal(first.gap, other.gap)


# --- p-values --------------------------------------------------------------------------------------------------------


@by_hypothesis
@given(problems, st.integers(0, 120))
def test_p_values_are_those_of_a_count(problem, n_permutations):
    got = largest_statistics(*problem, n_permutations=n_permutations)
    for cluster in range(len(got.gap)):
        by_gap = sum(value >= got.gap[cluster] - 1e-5 for value in got.null_gap)
        by_pull = sum(value >= got.pull[cluster].max() - 1e-5 for value in got.null_pull)
        assert got.gap_p_values[cluster] == (1 + by_gap) / (1 + n_permutations)
        assert got.pull_p_values[cluster] == (1 + by_pull) / (1 + n_permutations)
        assert got.p_values[cluster] == (1 + max(by_gap, by_pull)) / (1 + n_permutations)
        assert 1 / (1 + n_permutations) <= got.p_values[cluster] <= 1


@pytest.mark.parametrize("seed", range(10))
def test_equal_gaps_are_counted_whatever_the_rounding(seed):
    """Few images a class give few values of the gap, so that permutations often tie with what is observed."""
    random = np.random.default_rng(seed)
    labels = np.arange(30) % 10
    right, held = random.random(30) < 0.5, random.random((30, 3)) < 0.4
    held[0, -1] = True
    probs = np.eye(10)[np.where(right, labels, (labels + 1) % 10)]
    got = largest_statistics(held, labels, probs, n_permutations=99, seed=seed)
    observed = gaps(held, labels, probs)  # in float64
    null = [gaps(held, labels, probs[order]).max() for part in permutations_within(labels, 99, seed) for order in part]
    reached = (np.array(null)[:, None] >= observed - 1e-9).sum(axis=0)
    np.testing.assert_array_equal(got.gap_p_values, (1 + reached) / 100)


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_is_rarely_significant():
    tests = [largest_statistics(*noise(seed), n_permutations=99, seed=seed) for seed in range(160)]
    by_gap = np.array([test.gap_p_values.min() for test in tests])
    by_pull = np.array([test.pull_p_values.min() for test in tests])
    for p_values in (by_gap, by_pull):  # of the largest over all clusters: uniform
        for level in (0.05, 0.25, 0.5, 0.75):
            assert abs((p_values <= level).mean() - level) < max(0.05, 3 * np.sqrt(level * (1 - level) / 160))
    # Without the further rule, by which less is found.
    found = [significant_clusters(*noise(seed), stands_out=0, n_permutations=99, seed=seed) for seed in range(160)]
    assert sum(map(bool, found)) <= 0.1 * 160
    default = [significant_clusters(*noise(seed), n_permutations=99, seed=seed) for seed in range(160)]
    assert sum(map(bool, default)) <= 0.05 * 160


def test_noise_with_nothing_but_unbalanced_classes_is_rarely_significant():
    n_found = 0
    for seed in range(60):
        held, labels, probs = noise(seed, n_images=200)
        kept = np.random.default_rng(seed).random(200) < np.array([1, 0.6, 0.3, 0.1])[labels]
        kept_problem = held[kept], labels[kept], probs[kept]
        n_found += bool(significant_clusters(*kept_problem, stands_out=0, n_permutations=99, seed=seed))
    assert n_found <= 6


# --- what is found ---------------------------------------------------------------------------------------------------


def test_a_planted_cluster_is_found_and_its_absence_is_not():
    alone = 0
    for seed in range(30):
        found = significant_clusters(*planted(seed, attribute=seed % 4, n_images=240), n_permutations=99, seed=seed)
        assert (found[0].cluster, found[0].attribute) == (0, seed % 4)
        assert found[0].p_value == 1 / 100
        assert 1 not in [one.cluster for one in found]
        alone += len(found) == 1
    assert alone >= 27  # further ones are chance, at level 0.05


def test_the_absence_is_significant_before_it_is_tested_given_the_feature():
    held, labels, probs = planted(0)
    test = largest_statistics(held, labels, probs, n_permutations=99)
    assert test.gap_p_values[1] == 1 / 100  # it has the gap of the feature itself
    np.testing.assert_allclose(test.gap[1], test.gap[0], atol=1e-6)
    given_it = largest_statistics(held, labels, probs, 2 * labels + held[:, 0], n_permutations=99)
    assert given_it.gap[1] == 0 and given_it.gap_p_values[1] == 1


def test_figures_are_those_of_one_test_after_another():
    held, labels, probs = noise(2)
    options = dict(level=1.0, stands_out=0, n_permutations=99, seed=7, most=3)
    found, strata = significant_clusters(held, labels, probs, **options), labels
    assert len({one.cluster for one in found}) == 3
    for place, one in enumerate(found):
        test = largest_statistics(held, labels, probs, strata, n_permutations=99, seed=7 + place)
        assert (one.cluster, one.attribute) == np.unravel_index(test.pull.argmax(), test.pull.shape)
        assert (one.pull, one.gap) == (test.pull.max(), test.gap[one.cluster])
        assert one.p_value == test.p_values[one.cluster]
        assert [type(value) for value in vars(one).values()] == [int, int, float, float, float, float]
        strata = 10 * strata + held[:, one.cluster]  # agree on all that was found before
    assert max(one.p_value for one in found) > 0.01


def test_a_feature_split_over_two_clusters_gives_two_findings():
    for seed in range(10):
        held, labels, probs = planted(seed, push=4, n_images=400)
        half = np.random.default_rng(seed).random(400) < 0.5
        held[:, 0], held[:, 1] = held[:, 0] & half, held[:, 0] & ~half
        found = significant_clusters(held, labels, probs, n_permutations=99, seed=seed)
        assert {one.cluster for one in found[:2]} == {0, 1}
        assert [one.attribute for one in found[:2]] == [1, 1]
        assert min(one.times_others for one in found[:2]) >= 2


def test_of_two_classes_the_absence_does_not_hide_the_feature():
    would_hide = 0
    for seed in range(20):
        attribute = seed % 2
        held, labels, probs = planted(seed, attribute, push=13, n_images=240, n_classes=2)
        probs = probs**0.3 / (probs**0.3).sum(axis=1, keepdims=True)  # unsure, so the feature moves its own class too
        before = cluster_pull(held, labels, probs).pull
        would_hide += before[1, 1 - attribute] > before[0, attribute] / 2
        found = significant_clusters(held, labels, probs, n_permutations=99, seed=seed)
        assert (found[0].cluster, found[0].attribute) == (0, attribute) and found[0].times_others > 2
        assert 1 not in [one.cluster for one in found]
    assert would_hide >= 8  # if the absence were not compared given the feature


def test_two_shortcuts_of_different_strength_to_two_classes_are_both_found():
    for seed in range(10):
        found = significant_clusters(*two_planted(seed, (4, 1.8), n_images=600), n_permutations=99, seed=seed)
        assert [(one.cluster, one.attribute) for one in found[:2]] == [(0, 1), (1, 2)]
        assert min(one.times_others for one in found) >= 2


def test_two_shortcuts_of_equal_strength_to_two_classes_hide_each_other():
    for seed in range(10):
        problem = two_planted(seed, (3, 3), n_images=600)
        assert significant_clusters(*problem, n_permutations=99, seed=seed) == ()
        found = significant_clusters(*problem, stands_out=0, n_permutations=99, seed=seed)
        assert {(one.cluster, one.attribute) for one in found[:2]} == {(0, 1), (1, 2)}
        # The second is compared with classes that are not named yet, so the first no longer hides it.
        assert found[0].times_others < 2 < found[1].times_others


def test_two_shortcuts_to_the_same_class_do_not_hide_each_other():
    for seed in range(10):
        problem = two_planted(seed, (3, 3), attributes=(1, 1), n_images=600)
        found = significant_clusters(*problem, n_permutations=99, seed=seed)
        assert {(one.cluster, one.attribute) for one in found[:2]} == {(0, 1), (1, 1)}


def times_others_by_loops(held, labels, probs, found):
    """Pull of the last finding, divided by the largest of any cluster towards a class that no finding names."""
    agree = [(label, *(row[one.cluster] for one in found)) for label, row in zip(labels.tolist(), held, strict=True)]
    strata = np.array([sorted(set(agree)).index(own) for own in agree])
    given = cluster_pull(held, labels, probs, strata).pull
    named, largest = {one.attribute for one in found}, 0.0
    for cluster in range(held.shape[1]):
        for label in range(probs.shape[1]):
            if label not in named:
                largest = max(largest, given[cluster, label])
    return min(found[-1].pull / largest, 1000) if largest > 0 else 1000


@pytest.mark.parametrize("seed", range(8))
def test_times_others_are_those_of_plain_loops(seed):
    problem = two_planted(seed, (3, 2), n_images=200, n_classes=2 + seed % 4, attributes=(1, seed % 2))
    found = significant_clusters(*problem, level=1.0, stands_out=0, n_permutations=9, seed=seed, most=4)
    assert len(found) == 4
    for place in range(4):
        expected = times_others_by_loops(*problem, found[: place + 1])
        assert found[place].times_others == pytest.approx(expected, rel=1e-4)


def test_nothing_else_to_compare_with_is_a_thousand_times():
    held, labels, probs = planted(0, n_images=240, n_classes=2)
    alone = significant_clusters(held[:, :1], labels, probs, n_permutations=99)
    assert len(alone) == 1 and alone[0].times_others == 1000  # given it, nothing is left of the only cluster


def test_a_finding_stands_out_as_much_as_asked():
    problem = planted(0, n_images=240)
    times = significant_clusters(*problem, n_permutations=99)[0].times_others
    assert 2 < times < 1000
    assert significant_clusters(*problem, stands_out=times, n_permutations=99)[0].times_others == times
    assert significant_clusters(*problem, stands_out=times * (1 + 1e-9), n_permutations=99) == ()


@pytest.mark.parametrize("seed", range(6))
def test_findings_that_stand_out_are_the_first_of_those_that_need_not(seed):
    problem = two_planted(seed, (3, 2), n_images=300)
    every = significant_clusters(*problem, level=1.0, stands_out=0, n_permutations=9, seed=seed)
    for stands_out in (0.5, 1, 1.5, 2, 5, 50):
        some = significant_clusters(*problem, level=1.0, stands_out=stands_out, n_permutations=9, seed=seed)
        n_first = next((i for i, one in enumerate(every) if one.times_others < stands_out), len(every))
        assert some == every[:n_first]


def test_a_middling_model_has_no_finding_however_many_the_images():
    for seed in range(5):
        held, labels, probs = noise(seed, n_images=2000)
        leans = held[:, :4] @ (1.3 * np.eye(4))  # each of four things looks a little like something else
        pushed = probs * np.exp(leans)
        problem = held, labels, pushed / pushed.sum(axis=1, keepdims=True)
        assert significant_clusters(*problem, stands_out=0, n_permutations=99, seed=seed)
        assert significant_clusters(*problem, n_permutations=99, seed=seed) == ()


def test_a_larger_pull_that_is_not_significant_does_not_stop_the_search():
    random = np.random.default_rng(0)
    labels, held = np.arange(400) % 4, random.random((400, 3)) < 0.4
    flips = held[:, 0] & (random.random(400) < 0.4)  # cluster 0 makes some wrong, cluster 1 makes all less sure
    lean = np.where(flips, 0.7, np.where(held[:, 1], 0.49, 0.02))[:, None]
    probs = (1 - lean) * np.eye(4)[labels] + lean * np.eye(4)[1]
    test = largest_statistics(held, labels, probs, n_permutations=99)
    assert test.pull[:, 1].argmax() == 1 and test.pull_p_values[1] == 1 / 100 and test.gap_p_values[1] > 0.05
    found = significant_clusters(held, labels, probs, n_permutations=99)
    assert [(one.cluster, one.attribute) for one in found] == [(0, 1)]


def test_what_is_common_in_its_own_class_only_is_not_found():
    n_found, n_without = 0, 0
    for seed in range(10):
        held, labels, probs = noise(seed, n_images=1000)
        typical = np.random.default_rng(seed).random(1000) < np.where(labels == 1, 0.9, 0.1)
        held[:, 0] = typical
        pushed = probs * np.exp(3 * np.outer(typical, np.eye(4)[1]))
        problem = held, labels, pushed / pushed.sum(axis=1, keepdims=True)
        n_found += bool(significant_clusters(*problem, n_permutations=99, seed=seed))
        # A feature as rare in other images, and as strong, is found where it is as rare in the class.
        held[:, 0] &= (labels != 1) | (np.random.default_rng(seed + 1000).random(1000) < 1 / 9)
        rare = significant_clusters(*problem, n_permutations=99, seed=seed)
        n_without += bool(rare) and (rare[0].cluster, rare[0].attribute) == (0, 1)
    assert n_found <= 1 and n_without >= 9


def test_what_draws_one_class_only_is_not_significant():
    n_found = 0
    for seed in range(20):
        problem = planted(seed, attribute=5, push=5, only_from=2, n_images=1000, n_classes=10)
        test = largest_statistics(*problem, n_permutations=99, seed=seed)
        assert test.gap_p_values[0] <= 0.05 and test.pull[0].max() < 0.02
        n_found += bool(significant_clusters(*problem, n_permutations=99, seed=seed))
    assert n_found <= 1


def test_what_draws_all_classes_without_changing_an_answer_is_not_significant():
    held, labels, probs = planted(0, push=0)
    sure = 0.7 * np.eye(4)[labels] + 0.3 * (0.2 * probs + 0.8 * np.eye(4)[np.where(held[:, 0], 1, labels)])
    test = largest_statistics(held, labels, sure, n_permutations=99)
    assert test.pull_p_values[0] == 1 / 100 and test.gap_p_values[0] == test.p_values[0] == 1
    assert significant_clusters(held, labels, sure, n_permutations=99) == ()


def test_level_and_most_are_kept():
    problem = planted(0)
    assert len(significant_clusters(*problem, level=1.0, stands_out=0, n_permutations=19)) == 5
    assert len(significant_clusters(*problem, level=1.0, stands_out=0, n_permutations=19, most=3)) == 3
    assert significant_clusters(*problem, level=1.0, stands_out=0, n_permutations=19, most=0) == ()
    assert significant_clusters(*problem, level=0.049, n_permutations=19) == ()  # the smallest p-value is 1/20
    assert significant_clusters(*problem, level=0.05, n_permutations=19)[0].cluster == 0


def test_the_first_of_many_is_the_only_one():
    problem = planted(0)
    options = dict(level=1.0, stands_out=0, n_permutations=19)
    many, one = (significant_clusters(*problem, **options, most=most) for most in (4, 1))
    assert len(many) == 4 and many[:1] == one


def test_no_cluster_no_finding():
    _, labels, probs = noise(0)
    nothing = np.zeros((len(labels), 0), dtype=bool)
    assert significant_clusters(nothing, labels, probs) == ()
    test = largest_statistics(nothing, labels, probs, n_permutations=3)
    assert test.p_values.shape == (0,) and test.null_gap.tolist() == [0] * 3 and test.null_pull.tolist() == [-1] * 3


def test_one_class_has_no_finding():
    held, labels, probs = noise(0, n_classes=1)
    assert significant_clusters(held, labels, probs, n_permutations=19) == ()
    assert significant_clusters(held, labels, probs, level=1.0, stands_out=0, n_permutations=19) == ()
