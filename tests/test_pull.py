"""Pull, held to plain loops over images, and to what it is for: direction and breadth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravl_core.pull import cluster_pull, commonness, lower_half, membership

pytestmark = pytest.mark.filterwarnings("error")


def shifts_by_loops(held, labels, probs, strata):
    """(C, K, C), one sentence of the definition a loop: classes, clusters, the strata of a class by their size."""
    n_images, n_classes = probs.shape
    shifts = np.zeros((n_classes, held.shape[1], n_classes))
    for label in range(n_classes):
        own = [i for i in range(n_images) if labels[i] == label]
        for cluster in range(held.shape[1]):
            for stratum in sorted({strata[i] for i in own}):
                members = [i for i in own if strata[i] == stratum]
                inside = [probs[i] for i in members if held[i, cluster]]
                outside = [probs[i] for i in members if not held[i, cluster]]
                if inside and outside:
                    balance = 2 * min(len(inside), len(outside)) / len(members)
                    shift = balance * (np.mean(inside, axis=0) - np.mean(outside, axis=0))
                    shifts[label, cluster] += len(members) / len(own) * shift
    return shifts


def lower_half_by_loops(shifts):
    n_classes, n_clusters, _ = shifts.shape
    pull = np.zeros((n_clusters, n_classes))
    for cluster in range(n_clusters):
        for label in range(n_classes):
            others = sorted(shifts[other, cluster, label] for other in range(n_classes) if other != label)
            if others:
                pull[cluster, label] = np.mean(others[: len(others) // 2 + 1])
    return pull


def share_that_holds(held, cluster, images):
    """The share of some images that hold a cluster, 0 of none."""
    return sum(bool(held[i, cluster]) for i in images) / len(images) if images else 0.0


def commonness_by_loops(held, labels, n_classes):
    """(K, C) the share of all other images that hold a cluster, divided by that of the class, at most 1."""
    common = np.ones((held.shape[1], n_classes))
    for cluster in range(held.shape[1]):
        for label in range(n_classes):
            inside = share_that_holds(held, cluster, [i for i, own in enumerate(labels) if own == label])
            outside = share_that_holds(held, cluster, [i for i, own in enumerate(labels) if own != label])
            if inside > 0:
                common[cluster, label] = min(outside / inside, 1)
    return common


def pull_by_loops(shifts, held, labels):
    return lower_half_by_loops(shifts) * commonness_by_loops(held, labels, len(shifts))


def random_problem(seed, n_classes=4, n_clusters=5, n_images=60):
    """Clusters that few, many, no or all images hold, and answers that lean on them."""
    random = np.random.default_rng(seed)
    labels = random.integers(n_classes, size=n_images)
    held = random.random((n_images, n_clusters)) < random.choice([0, 0.1, 0.5, 0.9, 1], size=n_clusters)
    pushed = 2 * (held @ random.normal(size=(n_clusters, n_classes)) + np.eye(n_classes)[labels])
    weights = np.exp(pushed + random.normal(size=pushed.shape))
    return held, labels, weights / weights.sum(axis=1, keepdims=True), random


problems = st.builds(
    random_problem,
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 6),
    n_clusters=st.integers(0, 4),
    n_images=st.integers(1, 50),
)
by_hypothesis = settings(max_examples=60, derandomize=True)


# --- the plain loops -------------------------------------------------------------------------------------------------


@by_hypothesis
@given(problems)
def test_shifts_and_pull_are_those_of_the_plain_loops(problem):
    held, labels, probs, _ = problem
    got, expected = cluster_pull(held, labels, probs), shifts_by_loops(held, labels, probs, labels)
    np.testing.assert_allclose(got.shifts, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.pull, pull_by_loops(expected, held, labels), rtol=0, atol=1e-12)


@by_hypothesis
@given(problems, st.integers(1, 6))
def test_within_strata_it_is_the_mean_of_the_strata_by_size(problem, n_strata):
    held, labels, probs, random = problem
    strata = labels + 10 * random.integers(n_strata, size=len(labels))
    got, expected = cluster_pull(held, labels, probs, strata), shifts_by_loops(held, labels, probs, strata)
    np.testing.assert_allclose(got.shifts, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.pull, pull_by_loops(expected, held, labels), rtol=0, atol=1e-12)


def test_by_hand():
    # Class 0: probability of class 1 is 0.7 in, and 0.2, 0.3 out: 2/3 of 0.45. Class 1: of class 0, 0.1 in and 0.5 out.
    held = np.array([[1], [0], [0], [1], [0]], dtype=bool)
    to_class_1 = np.array([0.7, 0.2, 0.3, 0.9, 0.5])
    got = cluster_pull(held, np.array([0, 0, 0, 1, 1]), np.stack([1 - to_class_1, to_class_1], axis=1))
    np.testing.assert_allclose(got.shifts[:, 0], [[-0.3, 0.3], [-0.4, 0.4]])
    # Of two classes, the only other one. 1/3 of class 0 and 1/2 of class 1 hold the cluster: times 1 and 2/3.
    np.testing.assert_allclose(got.pull, [[-0.4, 0.2]])
    assert got.attribute.tolist() == [1]
    np.testing.assert_allclose(got.strength, [0.2])


def test_classes_that_are_all_in_or_all_out_or_empty_give_no_shift():
    _, _, probs, random = random_problem(0, n_classes=4)
    labels = random.integers(3, size=60)  # class 3 has no image
    held = np.stack([labels == 0, np.where(labels == 1, True, random.random(60) < 0.5)], axis=1)
    got = cluster_pull(held, labels, probs)
    assert (got.shifts[:, 0] == 0).all() and (got.pull[0] == 0).all()
    np.testing.assert_array_equal((got.shifts[:, 1] == 0).all(axis=1), [False, True, False, True])
    assert got.attribute[0] == 0  # the first of those that tie


@pytest.mark.parametrize("n_clusters", [0, 3])
def test_one_class_pulls_nothing(n_clusters):
    held, labels, probs, _ = random_problem(1, n_classes=1, n_clusters=n_clusters)
    np.testing.assert_array_equal(cluster_pull(held, labels, probs).pull, np.zeros((n_clusters, 1)))


@pytest.mark.parametrize(
    "towards, expected",
    [  # shifts of the other classes towards class 0, in any order
        ([0.3], 0.3),
        ([0.5, -0.1], 0.2),  # both of two
        ([0.9, 0.2, 0.4, -0.3], 0.1),  # three of four: -0.3, 0.2, 0.4
        ([0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4, 0.5], 0.3),  # five of nine: 0.1 to 0.5
    ],
)
def test_the_lower_half_by_hand(towards, expected):
    n_classes = len(towards) + 1
    shifts = np.random.default_rng(0).normal(size=(n_classes, 1, n_classes))
    shifts[:, 0, 0] = [-5, *towards]  # that of class 0 towards itself does not count
    np.testing.assert_allclose(lower_half(shifts)[0, 0], expected)
    np.testing.assert_allclose(lower_half(shifts), lower_half_by_loops(shifts))


def test_the_lower_half_keeps_the_axes_between():
    shifts = np.random.default_rng(0).normal(size=(4, 2, 3, 4))
    got = lower_half(shifts)
    assert got.shape == (2, 3, 4)
    for i in range(2):
        np.testing.assert_allclose(got[i], lower_half_by_loops(shifts[:, i]))


# --- properties ------------------------------------------------------------------------------------------------------


@by_hypothesis
@given(problems)
def test_ranges(problem):
    got = cluster_pull(*problem[:3])
    assert (np.abs(got.shifts) <= 1).all() and (np.abs(got.pull) <= 1).all()
    np.testing.assert_allclose(got.shifts.sum(axis=-1), 0, atol=1e-12)  # what one class gains, others lose


@by_hypothesis
@given(problems)
def test_order_of_images_and_names_of_clusters_do_not_matter(problem):
    held, labels, probs, random = problem
    images, clusters = random.permutation(len(labels)), random.permutation(held.shape[1])
    before = cluster_pull(held, labels, probs)
    after = cluster_pull(held[images][:, clusters], labels[images], probs[images])
    np.testing.assert_allclose(after.shifts, before.shifts[:, clusters], rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.pull, before.pull[clusters], rtol=0, atol=1e-12)


@by_hypothesis
@given(problems)
def test_names_of_classes_do_not_matter(problem):
    held, labels, probs, random = problem
    names = random.permutation(probs.shape[1])  # class c becomes names[c]
    renamed = np.empty_like(probs)
    renamed[:, names] = probs
    before, after = cluster_pull(held, labels, probs), cluster_pull(held, names[labels], renamed)
    np.testing.assert_allclose(after.shifts[names][:, :, names], before.shifts, rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.pull[:, names], before.pull, rtol=0, atol=1e-12)


@by_hypothesis
@given(problems)
def test_the_complement_of_a_cluster_shifts_the_other_way(problem):
    held, labels, probs, _ = problem
    np.testing.assert_allclose(
        cluster_pull(~held, labels, probs).shifts, -cluster_pull(held, labels, probs).shifts, rtol=0, atol=1e-12
    )


def test_nothing_is_left_within_the_strata_of_the_cluster_itself():
    held, labels, probs, _ = random_problem(3)
    both = np.stack([held[:, 1], ~held[:, 1]], axis=1)
    assert np.abs(cluster_pull(both, labels, probs).shifts).max() > 0.05
    assert (cluster_pull(both, labels, probs, 2 * labels + held[:, 1]).shifts == 0).all()


# --- what it is for --------------------------------------------------------------------------------------------------


def answers(labels, towards, lean, random):
    """Probabilities that favour the true class; `lean` (N,) of their mass goes to the class `towards`."""
    n_classes = labels.max() + 1
    own = 0.7 * np.eye(n_classes)[labels] + 0.3 * random.dirichlet(np.ones(n_classes), size=len(labels))
    return (1 - lean[:, None]) * own + lean[:, None] * np.eye(n_classes)[towards]


@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("attribute", [0, 1])
def test_a_planted_cluster_comes_first_and_its_complement_does_not(n_classes, attribute):
    random = np.random.default_rng(attribute)
    labels = np.arange(400) % n_classes
    held = random.random((400, 6)) < 0.4
    held[:, 3] = ~held[:, 2]  # 2 is planted
    got = cluster_pull(held, labels, answers(labels, attribute, 0.5 * held[:, 2], random))
    assert got.strength.argmax() == 2 and got.attribute[2] == attribute
    assert got.strength[2] > 0.25
    assert got.pull[3, attribute] < -0.25
    if n_classes > 2:  # of two classes, what draws images to one drives them from the other
        assert got.strength[3] < 0.1


def test_what_draws_one_class_only_has_little_pull():
    random = np.random.default_rng(0)
    labels = np.arange(500) % 10
    held = random.random((500, 2)) < 0.4
    looks_alike = answers(labels, 9, 0.8 * (held[:, 0] & (labels == 4)), random)
    planted = answers(labels, 9, 0.3 * held[:, 1], random)
    alike, broad = cluster_pull(held, labels, looks_alike), cluster_pull(held, labels, planted)
    assert alike.shifts[4, 0, 9] > 0.5 and alike.strength[0] < 0.05
    assert broad.strength[1] > 0.15 and broad.attribute[1] == 9


def test_what_is_common_in_its_own_class_only_has_little_pull():
    random = np.random.default_rng(0)
    labels = np.arange(500) % 10
    typical = random.random(500) < np.where(labels == 9, 0.9, 0.1)  # what nines look like, and some others
    planted = random.random(500) < 0.1
    probs = answers(labels, 9, 0.8 * (typical | planted), random)
    got = cluster_pull(np.stack([typical, planted], axis=1), labels, probs)
    undiscounted = lower_half(got.shifts)[:, 9]
    assert undiscounted.min() > 0.06 and 0.8 < undiscounted[0] / undiscounted[1] < 1.25
    assert got.pull[0, 9] < 0.02 and got.pull[1, 9] > 0.06 and got.attribute[1] == 9


# --- how common in the class itself ----------------------------------------------------------------------------------


@by_hypothesis
@given(problems)
def test_commonness_is_that_of_the_plain_loops(problem):
    held, labels, probs, _ = problem
    got, n_classes = commonness(held, labels, probs.shape[1]), probs.shape[1]
    np.testing.assert_allclose(got, commonness_by_loops(held, labels, n_classes), rtol=0, atol=1e-12)
    assert got.shape == (held.shape[1], n_classes) and (got >= 0).all() and (got <= 1).all()


def test_commonness_by_hand():
    labels = np.repeat([0, 1, 2], [2, 4, 10])
    n_held = [
        (2, 0, 0),  # class 0 alone
        (1, 2, 5),  # half of every class
        (0, 0, 0),  # none
        (2, 4, 10),  # all
        (1, 4, 3),  # 1/2, 1 and 3/10
    ]
    place = np.concatenate([np.arange(2), np.arange(4), np.arange(10)])  # of an image in its class
    held = place[:, None] < np.transpose(n_held)[labels]
    expected = [
        [0, 1, 1],
        [1, 1, 1],
        [1, 1, 1],
        [1, 1, 1],
        [7 / 14 / (1 / 2), 4 / 12 / 1, 1],  # other images count, not classes; class 2 holds it less often than 5/6
    ]
    np.testing.assert_allclose(commonness(held, labels, 3), expected)


def test_what_only_the_class_itself_holds_pulls_nothing():
    held, labels, probs, _ = random_problem(5)
    for label in range(4):
        own = held & (labels == label)[:, None]
        some = own.any(axis=0)
        np.testing.assert_array_equal(commonness(own, labels, 4)[some, label], 0)
        assert some.any() and (commonness(own, labels, 4)[:, np.arange(4) != label] == 1).all()
        np.testing.assert_array_equal(cluster_pull(own, labels, probs).pull[some, label], 0)


def test_what_others_hold_as_often_or_more_is_not_discounted():
    labels = np.arange(90) % 3
    for share in (0.1, 0.3, 0.7):  # equal shares as fractions of other sizes: 3/30 and 6/60
        held = (np.arange(90) // 3 < 30 * share)[:, None]
        np.testing.assert_array_equal(commonness(held, labels, 3), [[1, 1, 1]])
    held, labels, probs, _ = random_problem(6)
    common, got = commonness(held, labels, 4), cluster_pull(held, labels, probs)
    rarer = np.array([[held[labels == c, k].mean() < held[labels != c, k].mean() for c in range(4)] for k in range(5)])
    assert 3 < rarer.sum() < 17 and (common[rarer] == 1).all() and (common < 1).any()
    np.testing.assert_array_equal(got.pull[rarer], lower_half(got.shifts)[rarer])


def test_an_empty_class_and_an_unheld_cluster_are_not_discounted():
    held, labels, _, _ = random_problem(7)
    held = np.column_stack([held, np.zeros(len(labels), dtype=bool)])
    got = commonness(held, labels, 6)  # classes 4 and 5 have no image
    np.testing.assert_array_equal(got[:, 4:], 1)
    np.testing.assert_array_equal(got[-1], 1)
    np.testing.assert_array_equal(got[:, :4], commonness(held, labels, 4))
    assert commonness(held[:, :0], labels, 6).shape == (0, 6)


@by_hypothesis
@given(problems)
def test_commonness_does_not_depend_on_names_or_order(problem):
    held, labels, probs, random = problem
    n_classes = probs.shape[1]
    names = random.permutation(n_classes)  # class c becomes names[c]
    images, clusters = random.permutation(len(labels)), random.permutation(held.shape[1])
    before = commonness(held, labels, n_classes)
    after = commonness(held[images][:, clusters], names[labels][images], n_classes)
    np.testing.assert_array_equal(after[:, names], before[clusters])


@by_hypothesis
@given(problems, st.integers(2, 4))
def test_commonness_does_not_change_with_copies_of_all_images(problem, n_copies):
    held, labels, probs, _ = problem
    copies = np.repeat(np.arange(len(labels)), n_copies)
    before = commonness(held, labels, probs.shape[1])
    np.testing.assert_allclose(commonness(held[copies], labels[copies], probs.shape[1]), before, rtol=0, atol=1e-12)


# --- membership ------------------------------------------------------------------------------------------------------


@by_hypothesis
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 5)), max_size=20))
def test_membership_is_that_of_a_loop(regions):
    image_index = np.array(sorted(image for image, _ in regions), dtype=np.int64)
    clusters = np.array([cluster for _, cluster in regions], dtype=np.int64)
    held = membership(clusters, image_index, 8)  # the last image has no region
    assert held.dtype == bool and held.shape == (8, max(clusters, default=-1) + 1)
    for image in range(8):
        for cluster in range(held.shape[1]):
            assert held[image, cluster] == any((image_index == image) & (clusters == cluster))


def test_membership_names_wrong_clusters():
    with pytest.raises(ValueError, match="cluster_labels: expected integers from -1"):
        membership(np.array([0, -2]), np.array([0, 1]), 2)
