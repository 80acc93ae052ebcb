"""What holds for every input: the axioms of discovery and repair, and equality with plain loops, on many examples.

`EXAMPLES` says on how many each property is tried. They are the same ones on every run.
"""

from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_runs import clip_by_loops
from test_discovery import assert_same_scores, permuted, planted_problem, scores_of
from test_losses import literal_loops
from test_supervised_contrastive import by_loops, tensors

from ravl_core.discovery import assign_regions, discover, rank_clusters, regions_in_clusters, score_clusters
from ravl_core.kmedoids import cluster_regions, cosine_distances
from ravl_core.linear_kmedoids import cluster_many_regions
from ravl_core.losses import RegionAwareLoss, SupervisedContrastiveLoss, clip_loss
from ravl_core.metrics import group_accuracies, precision_at_k, wilson_interval
from ravl_core.mitigation.ravl import RegionAware

EXAMPLES = {}  # property → on how many examples it is tried


def tried(n_examples, **inputs):
    """A property of all such inputs, tried on so many."""

    def decorate(check):
        EXAMPLES[check.__name__] = n_examples
        return settings(max_examples=n_examples, derandomize=True, deadline=None)(given(**inputs)(check))

    return decorate


seeds = st.integers(0, 2**32 - 1)
thresholds = st.sampled_from([0, 0.1, 0.25, 0.5])
small_problems = st.builds(
    oracles.ragged_problem,
    seed=seeds,
    n_images=st.integers(1, 20),
    n_classes=st.integers(1, 4),
    size=st.integers(1, 8),
)


def nearly_equal(problem, seed):
    """The problem with no two regions equal, and distances of 0 between many: some clusters are emptied."""
    noise = np.random.default_rng(seed).normal(size=problem.region_embeddings.shape)
    problem.region_embeddings = oracles.unit(problem.region_embeddings + 1e-5 * noise)
    return problem


lattice_problems = st.builds(
    oracles.lattice_problem, seed=seeds, n_images=st.integers(1, 20), n_classes=st.integers(1, 4)
)
problems = st.builds(
    oracles.ragged_problem, seed=seeds, n_images=st.integers(1, 60), n_classes=st.integers(1, 5), size=st.just(3)
)


# --- clusters --------------------------------------------------------------------------------------------------------


@tried(60, problem=small_problems | lattice_problems, dtype=st.sampled_from(["f2", "f4", "f8"]))
def test_cosine_distances_are_symmetric_and_between_0_and_1(problem, dtype):
    embeddings = problem.region_embeddings.astype(dtype)
    distances = cosine_distances(embeddings)
    assert distances.dtype == ("f8" if dtype == "f8" else "f4")
    np.testing.assert_array_equal(distances, distances.T)
    assert ((distances >= 0) & (distances <= 1)).all() and (np.diag(distances) == 0).all()
    np.testing.assert_allclose(distances, oracles.cosine_distances(embeddings), rtol=0, atol=2e-6)


def assert_a_fixed_point(distances, clustering, tolerance=0.0):
    """Every region is with its nearest medoid, and no member of a cluster is more central than its medoid."""
    to_medoids = distances[:, clustering.medoids]
    own = to_medoids[np.arange(len(distances)), clustering.labels]
    assert (own <= to_medoids.min(axis=1) + tolerance).all()
    for cluster, medoid in enumerate(clustering.medoids):
        members = np.flatnonzero(clustering.labels == cluster)
        sums = distances[np.ix_(members, members)].sum(axis=1, dtype=np.float64)
        assert len(members)
        assert distances[medoid, members].sum(dtype=np.float64) <= sums.min() + tolerance * len(members)


@tried(50, problem=small_problems | lattice_problems, start=st.sampled_from(["spread", "uniform"]), seed=seeds)
def test_clusters_are_a_fixed_point_of_both_steps(problem, start, seed):
    embeddings = problem.region_embeddings
    found = cluster_regions(embeddings, range(2, 9), seed, start)
    assert all(-1 <= value <= 1 for value in found.silhouettes.values())
    if found.n_clusters:
        assert found.silhouettes[found.n_clusters + found.n_emptied] > 0
        assert_a_fixed_point(cosine_distances(embeddings), found)


@tried(50, problem=small_problems, n_first=st.integers(5, 60), seed=seeds)
def test_clusters_in_linear_time_are_a_fixed_point_too(problem, n_first, seed):
    """But for rounding; of positive cosines, where no distance is clipped."""
    embeddings = oracles.unit(np.abs(problem.region_embeddings))
    found = cluster_many_regions(embeddings, range(2, 9), seed, n_first, max_rounds=300, tolerance=0)
    assert all(-1 <= value <= 1 for value in found.silhouettes.values())
    if found.n_clusters:
        assert found.silhouettes[found.n_clusters + found.n_emptied] > 0
        assert_a_fixed_point(oracles.cosine_distances(embeddings), found, tolerance=2e-6)


@tried(40, problem=small_problems | lattice_problems)
def test_regions_are_assigned_to_their_own_clusters_but_for_ties(problem):
    embeddings = problem.region_embeddings
    found = cluster_regions(embeddings, range(2, 9))
    if found.n_clusters:
        belongs = [regions_in_clusters(found, embeddings, [cluster]) for cluster in range(found.n_clusters)]
        assert (np.sum(belongs, axis=0) == 1).all()
        distances = oracles.cosine_distances(embeddings)[:, found.medoids]
        own, assigned = (distances[np.arange(len(embeddings)), at] for at in (found.labels, np.argmax(belongs, axis=0)))
        np.testing.assert_allclose(assigned, own, rtol=0, atol=2e-6)


# --- stage 1 is the plain loops --------------------------------------------------------------------------------------


def assert_stage_1_is_the_loops(problem, distances, threshold, seed):
    n_classes = problem.image_probs.shape[1]
    found = discover(problem, influence_threshold=threshold, seed=seed)
    expected = oracles.discover(problem, distances, range(2 * n_classes, 5 * n_classes), threshold, seed)
    assert found.clustering.silhouettes == pytest.approx(expected.silhouettes, abs=1e-6)
    np.testing.assert_array_equal(found.clustering.labels, expected.labels)
    np.testing.assert_array_equal(found.clustering.medoids, expected.medoids)
    assert_same_scores(found.scores, expected.scores)
    assert [(one.cluster, one.attribute, one.regions.tolist()) for one in found.findings] == expected.findings


@tried(60, problem=small_problems | st.builds(nearly_equal, small_problems, seeds), threshold=thresholds, seed=seeds)
def test_stage_1_is_the_plain_loops(problem, threshold, seed):
    """On the distances of `cosine_distances`: two regions that are each other's nearest tie but for their rounding."""
    assert_stage_1_is_the_loops(problem, cosine_distances(problem.region_embeddings), threshold, seed)


@tried(60, problem=lattice_problems, threshold=thresholds, seed=seeds)
def test_stage_1_is_the_plain_loops_where_all_is_tied(problem, threshold, seed):
    """On distances of its own, which are exact."""
    assert_stage_1_is_the_loops(problem, oracles.cosine_distances(problem.region_embeddings), threshold, seed)


def test_candidates_that_tie_but_for_rounding_are_tied():
    """Silhouettes of exactly ½ at 15 and 17 clusters, the first of which was computed as 0.49999999999999994."""
    problem = oracles.lattice_problem(3917042207, n_images=14, n_classes=4)
    found = cluster_regions(problem.region_embeddings, range(8, 20), seed=75)
    highest = [k for k, value in found.silhouettes.items() if value == pytest.approx(0.5, abs=1e-12)]
    assert highest == [15, 17] and found.n_clusters == 15


# --- axioms of the scores --------------------------------------------------------------------------------------------


def some_clusters(problem, seed, n_clusters=5):
    """A cluster for each region, and -1 for some."""
    return np.random.default_rng(seed).integers(-1, n_clusters, size=len(problem.image_index))


@tried(
    60,
    classes=st.lists(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 3)), min_size=1, max_size=5),
    seed=seeds,
)
def test_no_gap_where_accuracy_is_independent_of_the_cluster(classes, seed):
    """Of each class `hits` of `every` images are right, among those with the cluster and among those without it."""
    random, labels, inside, right = np.random.default_rng(seed), [], [], []
    for label, (n_in, n_out, every, hits) in enumerate(classes):
        labels += [label] * every * (n_in + n_out)
        inside += [True] * every * n_in + [False] * every * n_out
        right += [at < hits for at in range(every)] * (n_in + n_out)
    labels, inside, right = map(np.array, (labels, inside, right))
    predictions = np.where(right, labels, (labels + 1) % (len(classes) + 1))
    image_index = np.sort(np.r_[np.arange(len(labels)), random.integers(len(labels), size=len(labels))])
    clusters = random.integers(1, 4, size=len(image_index))
    firsts = np.searchsorted(image_index, np.arange(len(labels)))
    clusters[firsts[inside]] = 0  # one region at least of each image with the cluster
    probs = np.eye(len(classes) + 1)
    scores = score_clusters(clusters, image_index, labels, probs[predictions], probs[predictions[image_index]])
    assert (scores.class_gaps[0, :-1] == 0).all() and scores.gap[0] == 0
    assert not scores.criterion[0] and scores.influence[0] == -np.inf


@tried(60, problem=problems, seed=seeds)
def test_weights_gaps_and_influence_keep_their_bounds(problem, seed):
    scores = scores_of(some_clusters(problem, seed), problem)
    counted = ~np.isnan(scores.difference)
    np.testing.assert_array_equal(counted, (scores.n_in > 0) & (scores.n_out > 0))
    n_in, n_out = scores.n_in[counted], scores.n_out[counted]
    weight = 2 * np.minimum(n_in, n_out) / (n_in + n_out)
    assert ((weight > 0) & (weight <= 1)).all() and ((weight == 1) == (n_in == n_out)).all()
    np.testing.assert_allclose(scores.class_gaps[counted], weight * scores.difference[counted], rtol=1e-12)
    assert (np.abs(scores.class_gaps[counted]) <= 1).all()
    assert ((scores.gap >= 0) & (scores.gap <= problem.image_probs.shape[1])).all()
    known = scores.influence_images > 0
    assert ((scores.influence[known] >= 0) & (scores.influence[known] <= 1)).all()
    assert (scores.influence[~known] == -np.inf).all()


def without_ties(problem, seed):
    """The problem with region scores among which no order decides."""
    random, n_classes = np.random.default_rng(seed), problem.image_probs.shape[1]
    problem.region_probs = random.dirichlet(np.ones(n_classes), size=len(problem.image_index))
    return problem


@tried(50, problem=problems, seed=seeds)
def test_scores_do_not_depend_on_the_order_of_images_and_regions(problem, seed):
    problem, clusters = without_ties(problem, seed), some_clusters(problem, seed)
    moved, moved_clusters = permuted(problem, clusters, seed)
    assert_same_scores(scores_of(moved_clusters, moved), scores_of(clusters, problem))


@tried(50, problem=problems, seed=seeds)
def test_relabelling_clusters_permutes_scores_and_ranks(problem, seed):
    clusters, names = some_clusters(problem, seed), np.random.default_rng(seed).permutation(5)
    # The scores of five clusters, also where the last of them have no region.
    before, after = (
        scores_of(np.r_[labels, np.arange(5)], with_five_more_images(problem))
        for labels in (clusters, np.where(clusters < 0, -1, names[clusters]))
    )
    for name in ("class_gaps", "gap", "influence", "influence_images", "criterion", "n_in", "accuracy_out"):
        np.testing.assert_array_equal(getattr(after, name)[names], getattr(before, name), err_msg=name)
    ranked, renamed = rank_clusters(before, 0.1), rank_clusters(after, 0.1)
    assert sorted(names[ranked]) == sorted(renamed)
    np.testing.assert_array_equal(after.gap[renamed], before.gap[ranked])


def with_five_more_images(problem):
    """Five images of one region each; alike, so that it does not matter which of them is in which cluster."""
    n_images, n_classes = problem.image_probs.shape
    first = np.eye(n_classes)[[0] * 5]
    return SimpleNamespace(
        image_index=np.r_[problem.image_index, n_images + np.arange(5)],
        labels=np.r_[problem.labels, [0] * 5],
        image_probs=np.r_[problem.image_probs, first],
        region_probs=np.r_[problem.region_probs, first],
    )


@tried(50, problem=problems, seed=seeds)
def test_relabelling_classes_permutes_class_gaps_and_changes_nothing_else(problem, seed):
    random, (n_images, n_classes) = np.random.default_rng(seed), problem.image_probs.shape
    problem, clusters = without_ties(problem, seed), some_clusters(problem, seed)
    problem.image_probs = random.dirichlet(np.ones(n_classes), size=n_images)
    names = random.permutation(n_classes)
    renamed = SimpleNamespace(
        image_index=problem.image_index,
        labels=names[problem.labels],
        image_probs=problem.image_probs[:, np.argsort(names)],
        region_probs=problem.region_probs[:, np.argsort(names)],
    )
    before, after = scores_of(clusters, problem), scores_of(clusters, renamed)
    np.testing.assert_array_equal(after.class_gaps[:, names], before.class_gaps)
    np.testing.assert_allclose(after.gap, before.gap, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(after.influence, before.influence)
    np.testing.assert_array_equal(after.criterion, before.criterion)


@tried(40, problem=problems, seed=seeds, copies=st.integers(2, 4))
def test_copies_of_all_images_change_counts_alone(problem, seed, copies):
    clusters, n_images = some_clusters(problem, seed), len(problem.labels)
    copied = SimpleNamespace(
        image_index=np.concatenate([problem.image_index + n_images * at for at in range(copies)]),
        labels=np.tile(problem.labels, copies),
        image_probs=np.tile(problem.image_probs, (copies, 1)),
        region_probs=np.tile(problem.region_probs, (copies, 1)),
    )
    before, after = scores_of(clusters, problem), scores_of(np.tile(clusters, copies), copied)
    for name in ("class_gaps", "gap", "influence", "criterion", "difference"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)
    for name in ("n_in", "n_out", "influence_images"):
        np.testing.assert_array_equal(getattr(after, name), copies * getattr(before, name), err_msg=name)


@tried(
    25,
    n_images=st.integers(160, 300),
    n_classes=st.integers(3, 6),
    attribute=st.integers(0, 5),
    reliance=st.floats(0.6, 1),
    seed=seeds,
)
def test_a_planted_cluster_ranks_first(n_images, n_classes, attribute, reliance, seed):
    planted = dict(n_images=n_images, n_classes=n_classes, attribute=attribute % n_classes, reliance=reliance)
    problem, shows_cue = planted_problem(**planted, seed=seed)
    found = discover(problem, candidates=range(n_classes, n_classes + 7))
    first = found.findings[0]
    assert first.attribute == attribute % n_classes and first.influence == 1
    assert sorted(first.regions) == np.flatnonzero(shows_cue).tolist()
    assert first.gap == max(finding.gap for finding in found.findings) and precision_at_k(first.regions, shows_cue) == 1
    np.testing.assert_array_equal(assign_regions(found, problem.region_embeddings), shows_cue)


# --- losses ----------------------------------------------------------------------------------------------------------


def unit(random, *shape):
    rows = random.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def made_up_batch(seed, n_images, n_classes, size, share, twins=False):
    """Regions, image of each, whether spurious, classes, labels; with twins many regions are equal, and tie."""
    random = np.random.default_rng(seed)
    index = np.repeat(np.arange(n_images), random.integers(0, 5, n_images))
    regions = unit(random, len(index), size)
    if twins and len(regions):
        regions = regions[random.integers(1 + len(regions) // 3, size=len(regions))]
    classes, labels = unit(random, n_classes, size), random.integers(0, n_classes, n_images)
    return regions, index, random.random(len(index)) < share, classes, labels


sizes = dict(seed=seeds, n_images=st.integers(1, 7), n_classes=st.integers(1, 5), size=st.integers(1, 6))
batches = st.builds(made_up_batch, **sizes, share=st.sampled_from([0, 0.3, 0.7, 1]), twins=st.booleans())
temperatures = st.floats(0.05, 2)
readings = st.sampled_from(["samples", "distinct"])


@tried(80, batch=batches, temperature=temperatures, reading=readings)
def test_the_region_aware_loss_is_the_plain_loops(batch, temperature, reading):
    relevant, aligned = literal_loops(*batch, temperature, distinct=reading == "distinct")
    out = RegionAwareLoss(temperature, reading)(*tensors(*batch))
    expected = (0, 0) if np.isnan(relevant).all() else (np.nanmean(relevant), np.nanmean(aligned))
    np.testing.assert_allclose([out.relevant, out.aligned], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(out.total, sum(expected), rtol=1e-9, atol=1e-12)
    assert out.relevant >= -1e-12 and out.aligned >= -1e-12  # shares of sums that hold them


def assert_slopes(loss, *inputs, step=1e-6):
    """The gradient of a loss of these tensors is that of central differences, entry by entry."""
    slopes = torch.autograd.grad(loss(*inputs), inputs, allow_unused=True, materialize_grads=True)
    for values, slope in zip(inputs, slopes, strict=True):
        found = torch.zeros_like(values)
        with torch.no_grad():
            for at in np.ndindex(*values.shape):
                here = values[at].item()
                for change in (step, -step):
                    values[at] = here + change
                    found[at] += loss(*inputs) / (2 * change)
                values[at] = here
        np.testing.assert_allclose(slope, found, rtol=1e-6, atol=1e-7)


# In one dimension all regions are 1 or -1, so the largest score is tied and has no gradient.
smooth = sizes | dict(size=st.integers(2, 6), share=st.sampled_from([0, 0.3, 0.7, 1]))


@tried(25, batch=st.builds(made_up_batch, **smooth), reading=readings)
def test_the_region_aware_gradient_is_that_of_finite_differences(batch, reading):
    regions, index, spurious, classes, labels = tensors(*batch)

    def loss(regions, classes):
        terms = RegionAwareLoss(0.3, reading)(regions, index, spurious, classes, labels)
        return terms.relevant + 2 * terms.aligned  # twice, so that neither can stand for the other

    assert_slopes(loss, regions.requires_grad_(), classes.requires_grad_())


@tried(50, batch=batches, seed=seeds, reading=readings)
def test_the_region_aware_loss_does_not_depend_on_the_order_of_a_batch(batch, seed, reading):
    regions, index, spurious, classes, labels = batch
    random = np.random.default_rng(seed)
    images, order, names = (random.permutation(len(rows)) for rows in (labels, regions, classes))
    places, class_names = np.argsort(images), np.argsort(names)  # where each image and class has gone
    moved = regions[order], places[index][order], spurious[order], classes[names], class_names[labels[images]]
    one, other = (RegionAwareLoss(labels_in_batch=reading)(*tensors(*given)) for given in (batch, moved))
    torch.testing.assert_close(other.relevant, one.relevant)
    torch.testing.assert_close(other.aligned, one.aligned)


@tried(50, batch=batches, temperature=temperatures)
def test_both_terms_agree_when_a_batch_holds_one_label(batch, temperature):
    *given, labels = batch
    out = RegionAwareLoss(temperature, "distinct")(*tensors(*given, np.full_like(labels, labels[0])))
    torch.testing.assert_close(out.relevant, out.aligned)


@tried(60, batch=batches, seed=seeds, weight=st.floats(0, 1), progress=st.floats(0, 1))
def test_the_objective_at_a_weight_of_one_is_clips_loss(batch, seed, weight, progress):
    """However λ gets there; and at any λ it is the mixture that the paper says."""
    random, (regions, index, spurious, classes, labels) = np.random.default_rng(seed), tensors(*batch)
    images, texts = unit(random, 2, len(labels), classes.shape[1])
    shown = SimpleNamespace(
        image_embeddings=torch.from_numpy(images),
        text_embeddings=torch.from_numpy(texts),
        region_embeddings=regions,
        image_index=index,
        spurious=spurious,
        class_embeddings=classes,
        labels=labels,
        progress=progress,
    )
    clip, terms = clip_by_loops(images, texts), RegionAwareLoss()(regions, index, spurious, classes, labels)
    np.testing.assert_allclose(RegionAware(clip_weight=1.0).objective(shown), clip, rtol=1e-9)
    expected = weight * clip + (1 - weight) * terms.total
    np.testing.assert_allclose(RegionAware(clip_weight=weight).objective(shown), expected, rtol=1e-9)
    shown.progress = 1.0
    arrived = RegionAware(first_clip_weight=weight, clip_weight=1.0).objective(shown)
    np.testing.assert_allclose(arrived, clip, rtol=1e-9)


@tried(50, seed=seeds, n=st.integers(1, 8), size=st.integers(1, 6), temperature=temperatures)
def test_clips_loss_is_the_plain_loops_and_takes_both_sides_alike(seed, n, size, temperature):
    images, texts = unit(np.random.default_rng(seed), 2, n, size)
    found = clip_loss(*tensors(images, texts), temperature)
    np.testing.assert_allclose(found, clip_by_loops(images, texts, temperature), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(clip_loss(*tensors(texts, images), temperature), found)


def made_up_anchors(seed, n_anchors, n_negatives, size, share):
    """Anchors, positives that need not be mutual, negatives."""
    random = np.random.default_rng(seed)
    positives = random.random((n_anchors, n_anchors)) < share
    return unit(random, n_anchors, size), positives, unit(random, n_negatives, size)


anchors = st.builds(
    made_up_anchors,
    seed=seeds,
    n_anchors=st.integers(1, 8),
    n_negatives=st.integers(0, 5),
    size=st.integers(1, 6),
    share=st.sampled_from([0, 0.2, 0.6, 1]),
)
forms = st.sampled_from(["out", "in"])


@tried(80, given_anchors=anchors, temperature=temperatures, form=forms)
def test_the_supervised_contrastive_loss_is_the_plain_loops(given_anchors, temperature, form):
    found = SupervisedContrastiveLoss(temperature, form)(*tensors(*given_anchors))
    np.testing.assert_allclose(found, by_loops(*given_anchors, temperature, form), rtol=1e-9, atol=1e-12)


@tried(25, given_anchors=anchors, form=forms)
def test_the_supervised_contrastive_gradient_is_that_of_finite_differences(given_anchors, form):
    embeddings, positives, negatives = tensors(*given_anchors)
    loss = SupervisedContrastiveLoss(0.3, form)
    assert_slopes(lambda z, n: loss(z, positives, n), embeddings.requires_grad_(), negatives.requires_grad_())


# --- how results are judged ------------------------------------------------------------------------------------------


@tried(60, shows=st.lists(st.booleans(), min_size=1, max_size=30), k=st.integers(1, 35), seed=seeds)
def test_precision_at_k_is_the_share_of_the_first_k_alone(shows, k, seed):
    random, shows = np.random.default_rng(seed), np.array(shows)
    ranked = random.permutation(len(shows))[: random.integers(len(shows) + 1)]
    found, first = precision_at_k(ranked, shows, k), ranked[:k].tolist()
    assert found == (sum(bool(shows[region]) for region in first) / len(first) if first else 0)
    shuffled = [*random.permutation(ranked[:k]), *random.permutation(ranked[k:])]
    assert precision_at_k(shuffled, shows, k) == found
    assert precision_at_k(ranked, ~shows, k) == pytest.approx(1 - found if first else 0)


members = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=1, max_size=40)


@tried(60, members=members, seed=seeds)
def test_the_worst_group_is_a_lower_bound_that_no_right_answer_lowers(members, seed):
    correct, labels, present = map(np.array, zip(*members, strict=True))
    found = group_accuracies(correct, labels, present, 4)
    groups = {}
    for right, label, there in members:
        groups.setdefault((label, there), []).append(right)
    shares = {group: sum(hits) / len(hits) for group, hits in groups.items()}
    assert found.worst_group == min(shares.values()) == shares[found.where_worst]
    assert 0 <= found.worst_group <= found.overall + 1e-12 <= np.nanmax(found.accuracy) + 2e-12
    assert np.nansum(found.accuracy * found.count) == pytest.approx(found.overall * len(members))
    order, better = np.random.default_rng(seed).permutation(len(members)), correct.copy()
    assert group_accuracies(correct[order], labels[order], present[order], 4).worst_group == found.worst_group
    better[order[0]] = True
    assert group_accuracies(better, labels, present, 4).worst_group >= found.worst_group


@tried(80, n=st.integers(1, 5000), part=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilsons_interval_holds_the_shares_that_a_test_would_not_reject(n, part, level):
    share = round(part * n) / n
    low, high = map(float, wilson_interval(share, n, level))
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 and low < high
    z = NormalDist().inv_cdf((1 + level) / 2)
    for end in (low, high):  # both are z standard errors of their own from the share
        assert n * (share - end) ** 2 == pytest.approx(z**2 * end * (1 - end), rel=1e-6, abs=1e-9)
    assert wilson_interval(1 - share, n, level) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    wider, longer = wilson_interval(share, n, (1 + level) / 2), wilson_interval(share, 4 * n, level)
    assert wider[0] <= low + 1e-12 and high <= wider[1] + 1e-12 and longer[1] - longer[0] < high - low
