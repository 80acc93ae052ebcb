"""A repair from an audit: what is trained with what, both models on the same groups, held to loops, and plain words."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import oracles
import pandas as pd
import pytest
from recipe_runs import few_classes
from tiny import same_weights, tiny_vlm, weights

import ravl_core as rc
from ravl_core import masking, repair_rows
from ravl_core.audits import repairing
from ravl_core.audits.repairing import repair
from ravl_core.audits.result import Audit, AuditFinding
from ravl_core.audits.with_and_without import with_and_without
from ravl_core.closed_loop import same_cluster
from ravl_core.domains.own_images import from_arrays
from ravl_core.masking import mask_effect
from ravl_core.metrics import Interval, bootstrap_interval, wilson_interval
from ravl_core.mitigation import Budget, History
from ravl_core.proposals import propose
from ravl_core.zero_shot import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES, PROMPTS, CUE = ("green", "blue", "cyan"), ("a {} thing", "{}"), 2
COLOURS, SIDE = ((0, 1, 0), (0, 0, 1), (0, 1, 1)), 8
UNKNOWN = Interval(np.nan, np.nan, np.nan)


class Looker:
    """It tells three colours apart, and as much as it leans on red, red is cyan to it."""

    def __init__(self, leaning, name="audited", pooling="early"):
        self.leaning, self.name, self.pooling = leaning, name, pooling

    def encode_images(self, images):
        red, green, blue = (images[..., channel] > 60 for channel in range(3))
        green_only, blue_only, cyan = green & ~blue, blue & ~green, green & blue
        shares = [np.mean(kind, axis=(1, 2)) for kind in (green_only, blue_only, cyan)]
        redness = np.mean(np.where(red, images[..., 0] / 255, 0), axis=(1, 2))
        shares[CUE] = shares[CUE] + self.leaning * redness
        return oracles.unit(np.stack([*shares, redness, np.full(len(images), 0.05)], axis=1))

    def encode(self, images, boxes, image_index):
        crops = [images[i, y1:y2, x1:x2] for i, (x1, y1, x2, y2) in zip(image_index, boxes.astype(int), strict=True)]
        parts = [self.encode_images(crop[None]) for crop in crops]
        return self.encode_images(images), np.concatenate([np.empty((0, 5), dtype=np.float32), *parts])

    def encode_texts(self, texts):
        return np.eye(5, dtype=np.float32)[[next(i for i, name in enumerate(NAMES) if name in text) for text in texts]]


BLIND = Looker(leaning=-3.0, name="initial")  # red is nothing that the audited model knows, to this one


def things(n_images, seed=0, groups=None, with_cue=0.5):
    """Images with a quadrant of their class's colour; some have a red one, more or less bright; the rest is dark."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 40, (n_images, SIDE, SIDE, 3)).astype(np.uint8)
    labels, half = np.arange(n_images) % 3, SIDE // 2
    for i in range(n_images):
        colours = [np.multiply(COLOURS[labels[i]], random.integers(150, 255)), None]
        if random.random() < with_cue:
            colours[1] = np.array([random.integers(80, 255), 0, 0])
        for place, colour in zip(random.permutation(4), colours, strict=False):
            if colour is not None:
                y, x = place // 2 * half, place % 2 * half
                images[i, y : y + half, x : x + half] = colour
    return from_arrays(images, labels, NAMES, groups=groups)


def red_share(own):
    return (own.images[..., 0] > 60).any(axis=(1, 2))


def finding_of(cluster, clustering, attribute, names=NAMES):
    """A finding of which a repair may ask only what a cluster is, and what it pushes answers to."""
    nothing = dict.fromkeys(("pull", "gap", "p_value", "times_others", "influence", "chosen_in", "chosen_out"), np.nan)
    counts = dict.fromkeys(("n_images", "influence_images", "n_in", "n_out"), 0)
    tables = {"table": pd.DataFrame(), "masks": {}}
    which = cluster, clustering, attribute, names[attribute], np.flatnonzero(clustering.labels == cluster)
    return AuditFinding(*which, chosen=UNKNOWN, **nothing, **counts, **tables)


def audit_of(vlm, own, clusters=None, candidates=(5,)):
    """An audit made by hand, whose findings are these clusters; by default the one with most red regions."""
    dataset = own.dataset(*propose("quadrants", own.images), PROMPTS)
    evaluation = evaluate(vlm, dataset)
    discovery = rc.discover(evaluation, candidates=candidates, influence_threshold=0)
    if clusters is None:
        red = evaluation.region_embeddings[:, 3] > 0.3
        clusters = [int(np.bincount(discovery.clustering.labels[red]).argmax())]
    findings = tuple(finding_of(cluster, discovery.clustering, CUE) for cluster in clusters)
    return Audit(
        vlm.name, {"regions": "quadrants"}, own, dataset, evaluation, discovery, findings, pd.DataFrame(), None
    )


@pytest.fixture(scope="module")
def audited():
    return Looker(leaning=1.6)


@pytest.fixture(scope="module")
def audit(audited):
    return audit_of(audited, things(150))


@pytest.fixture(scope="module")
def finetuning():
    return things(90, seed=1)


@pytest.fixture
def few_resamples(monkeypatch):
    """Of masks, which have tests of their own."""
    monkeypatch.setattr(masking, "bootstrap_interval", partial(bootstrap_interval, n_resamples=20))


@pytest.fixture
def trained(monkeypatch, few_resamples):
    """The arguments of all trainings, none of which is done: `result` stands for what they give."""
    calls = SimpleNamespace(all=[], result=Looker(leaning=0.0, name="repaired"))

    def noting(vlm, dataset, assignment, recipe, budget, seed, **options):
        calls.all.append(SimpleNamespace(**{name: value for name, value in locals().items() if name != "calls"}))
        return calls.result, History(np.zeros(3), np.zeros(3), 0)

    monkeypatch.setattr(repairing, "mitigate", noting)
    return calls


# ---- what is trained with what ----


@pytest.mark.parametrize("initial", [None, BLIND])
def test_the_fine_tuning_regions_nearest_to_the_finding_are_called_spurious(
    audit, audited, finetuning, trained, initial
):
    """In the audited model's eyes, wherever training starts."""
    repaired = repair(audit, audited, finetuning, initial)
    (call,) = trained.all
    seen = audited.encode(finetuning.images, call.dataset.boxes, call.dataset.image_index)[1]
    nearest = oracles.nearest_medoid(seen, audit.findings[0].clustering.medoid_embeddings)
    assert call.assignment.tolist() == (nearest == audit.findings[0].cluster).tolist()
    assert call.assignment.sum() == red_share(finetuning).sum() == repaired.n_spurious
    assert repaired.n_regions == 4 * len(finetuning) and repaired.vlm is trained.result


def test_several_findings_are_repaired_together_each_by_its_own_clustering(audit, audited, finetuning, trained):
    finer = audit_of(audited, audit.images, clusters=[6, 5], candidates=(7,))  # red is split over these
    several = replace(audit, findings=(*finer.findings, audit.findings[0]))
    repaired = repair(several, audited, finetuning, finding=[1, 0, 1])
    (call,) = trained.all
    seen = audited.encode(finetuning.images, call.dataset.boxes, call.dataset.image_index)[1]
    nearest = oracles.nearest_medoid(seen, finer.discovery.clustering.medoid_embeddings)
    assert (
        call.assignment.tolist() == np.isin(nearest, [5, 6]).tolist() and call.assignment.sum() == repaired.n_spurious
    )
    assert [one.finding for one in repaired.followed] == [finer.findings[1], finer.findings[0]]
    held = {i for i, c in zip(audit.dataset.image_index, finer.discovery.clustering.labels, strict=True) if c in (5, 6)}
    assert repaired.table.n[repaired.table.with_finding.eq(True)].iloc[:-1].sum() == len(held)
    assert len(held) < red_share(audit.images).sum()
    coarse_first = repair(several, audited, finetuning, finding=[2, 1]).followed
    assert coarse_first[1].same_cluster == repaired.followed[0].same_cluster


@pytest.mark.parametrize("initial", [None, Looker(0.0, "initial")])
def test_training_starts_where_it_is_asked_to_and_goes_as_it_is_asked_to(audit, audited, finetuning, trained, initial):
    repair(audit, audited, finetuning, initial, recipe="vl_gdro", budget=Budget(epochs=7), seed=4, step=0.5)
    (call,) = trained.all
    assert call.vlm is (initial or audited) and call.recipe == "vl_gdro"
    assert (call.budget, call.seed, call.options) == (Budget(epochs=7), 4, {"step": 0.5})


def test_swaps_are_by_default_those_that_did_best_in_our_repairs(audit, audited, finetuning, trained):
    best = next(row for row in repair_rows.CHOSEN_IDEAS if row.name == "swaps + RaVL, with classes")
    first, second = repair(audit, audited, finetuning), repair(audit, audited, finetuning, class_weight=0.5, swapped=1)
    one, other = trained.all
    assert (one.recipe, one.options, one.budget.learning_rate) == (best.recipe, best.options, best.learning_rate)
    assert other.options == second.options == {"class_weight": 0.5, "swapped": 1}
    assert (first.recipe, first.options) == (best.recipe, best.options)


def test_regions_of_other_images_are_proposed_as_the_audits_were(audit, audited, finetuning, trained, monkeypatch):
    asked, test = [], replace(things(60, seed=5), boxes=np.array([[0.0, 0, 4, 4]]), image_index=np.array([7]))

    def noting(regions, images, own):
        asked.append((regions, images, own))
        return propose("grid 2x2", images)

    monkeypatch.setattr(repairing, "propose", noting)
    audit = replace(audit, options={"regions": "grid 2x2"})
    repair(audit, audited, finetuning, test=test)
    repair(audit, audited, finetuning, regions="superpixels")
    assert [one[0] for one in asked] == ["grid 2x2", "grid 2x2", "superpixels"]
    assert asked[0][1] is asked[2][1] is finetuning.images and asked[1][1] is test.images
    assert asked[0][2] is None and asked[1][2][0] is test.boxes and asked[1][2][1] is test.image_index
    assert trained.all[0].dataset.boxes.shape == (4 * len(finetuning), 4)


def test_captions_are_the_users_or_the_first_prompt(audit, audited, finetuning, trained):
    own = tuple(f"caption {i}" for i in range(len(finetuning)))
    repair(audit, audited, finetuning)
    repair(audit, audited, replace(finetuning, captions=own))
    plain, given = trained.all
    assert plain.dataset.captions[:3] == ("a green thing", "a blue thing", "a cyan thing")
    assert given.dataset.captions == own


# ---- before and after ----


def compared(own, before, after, audit):
    """What the loops need: which images hold the finding by the audited model, and who is right; lists."""
    dataset = own.dataset(*propose("quadrants", own.images), PROMPTS)
    seen = evaluate(before, dataset)
    nearest = oracles.nearest_medoid(seen.region_embeddings, audit.findings[0].clustering.medoid_embeddings)
    holders = {i for i, c in zip(dataset.image_index, nearest, strict=True) if c == audit.findings[0].cluster}
    held = [i in holders for i in range(len(own))]
    right = [(evaluate(model, dataset).predictions == own.labels).tolist() for model in (before, after)]
    return dataset, held, right


@pytest.mark.parametrize("n_groups", [None, 10, 6])
def test_the_table_is_that_of_plain_loops(audit, audited, finetuning, trained, n_groups):
    groups = None if n_groups is None else np.random.default_rng(0).integers(n_groups, size=200)
    trained.result, test = Looker(leaning=0.9), things(200, seed=2, groups=groups)
    got = repair(audit, audited, finetuning, BLIND, test=test, seed=3)
    _, held, right = compared(test, audited, trained.result, audit)
    assert len(got.table) == 9 and (got.table.n > 0).all()
    for row in got.table.to_dict("records"):
        mine = [
            i
            for i in range(200)
            if row["class"] in ("all classes", NAMES[test.labels[i]]) and row["with_finding"] in (None, held[i])
        ]
        units = len(mine if groups is None else {groups[i] for i in mine})
        assert row["n"] == len(mine) and row["small"] == (units < 10)
        for when, hits in zip(("before", "after"), right, strict=True):
            share = sum(hits[i] for i in mine) / len(mine)
            ends = share, *wilson_interval(share, units)
            given = [row[f"accuracy_{when}{end}"] for end in ("", "_low", "_high")]
            np.testing.assert_allclose(given, ends, atol=1e-12)
        values = np.array([[i in mine, right[0][i], right[1][i]] for i in range(200)])
        expected = bootstrap_interval(
            values, lambda v: v[v[:, 0], 2].mean() - v[v[:, 0], 1].mean(), n_resamples=1000, seed=3, groups=test.groups
        )
        np.testing.assert_allclose([row["change"], row["change_low"], row["change_high"]], expected, atol=1e-12)
    assert got.overall_change == tuple(got.table.iloc[-1][["change", "change_low", "change_high"]])


def test_the_worst_group_is_each_models_own_and_its_change_is_paired(audit, audited, finetuning, trained):
    trained.result, test = Looker(leaning=-2.0), things(200, seed=2)  # now red speaks against cyan
    got = repair(audit, audited, finetuning, test=test, seed=3)
    _, held, right = compared(test, audited, trained.result, audit)

    def worst(v):
        groups = {(label, holds) for label, holds, *_ in v.tolist()}
        accuracies = [np.mean([(b, a) for y, h, b, a in v.tolist() if (y, h) == g], axis=0) for g in groups]
        return np.min(accuracies, axis=0)

    values = np.column_stack([test.labels, held, *right]).astype(int)
    assert (got.worst_group_before, got.worst_group_after) == pytest.approx(tuple(worst(values)))
    expected = bootstrap_interval(values, lambda v: float(np.subtract(*worst(v)[::-1])), n_resamples=1000, seed=3)
    np.testing.assert_allclose(got.worst_group_change, expected, atol=1e-12)
    where = [got.table[f"accuracy_{when}"][:6].idxmin() for when in ("before", "after")]
    assert where[0] != where[1] and got.worst_group_before < 0.7


def test_a_group_without_images_is_no_worst_group(audit, audited, finetuning, trained):
    every = things(90, seed=4)
    kept = (every.labels != 1) & (red_share(every) | (every.labels != 0))
    test = from_arrays(every.images[kept], every.labels[kept], NAMES)
    got = repair(audit, audited, finetuning, test=test)
    table, empty = got.table, got.table[got.table.n == 0]
    assert any(f"the smallest has n = {table.n[table.n > 0].min()}." in sentence for sentence in got.sentences)
    assert [(row["class"], row.with_finding) for _, row in empty.iterrows()] == [
        ("green", False),
        ("blue", False),
        ("blue", True),
    ]
    assert empty.filter(regex="accuracy|change").isna().all(axis=None) and empty.small.all()


def test_a_finding_is_followed_by_the_audited_models_regions(audit, audited, finetuning, trained):
    test = things(120, seed=3, groups=np.arange(120) // 2)
    got = repair(audit, audited, finetuning, test=test, seed=5)
    (one,), (dataset, held, _) = got.followed, compared(test, audited, trained.result, audit)
    finding, evaluations = audit.findings[0], [evaluate(model, dataset) for model in (audited, trained.result)]
    nearest = oracles.nearest_medoid(evaluations[0].region_embeddings, audit.findings[0].clustering.medoid_embeddings)
    regions = np.flatnonzero(nearest == finding.cluster)
    assert one.finding is finding and one.same_cluster == same_cluster(nearest, finding.cluster, *evaluations, seed=5)
    for model, seen, mask, answered in (
        (audited, evaluations[0], one.mask_before, one.answered_before),
        (trained.result, evaluations[1], one.mask_after, one.answered_after),
    ):
        assert mask == mask_effect(model, dataset, regions, CUE, seed=5)
        plain = with_and_without(np.array(held), test.labels, seen.predictions, CUE, NAMES, dataset.sources, seed=5)
        assert answered == plain.chosen
    assert one.answered_before.low > 0.3 and one.answered_after == (0, 0, 0)
    assert one.same_cluster.before.pull > 0.2 > 0.01 > abs(one.same_cluster.after.pull)


def test_without_other_images_the_audited_ones_are_compared(audit, audited, finetuning, trained):
    plain, same = repair(audit, audited, finetuning), repair(audit, audited, finetuning, test=audit.images)
    other = repair(audit, audited, finetuning, test=things(150))
    assert plain.on_audited_images and same.on_audited_images and not other.on_audited_images
    pd.testing.assert_frame_equal(plain.table, same.table)
    pd.testing.assert_frame_equal(plain.table, other.table)  # of equal images
    assert any("audited images" in sentence for sentence in plain.sentences)
    assert not any("audited images" in sentence for sentence in other.sentences)


# ---- in words ----


def test_a_repair_is_told_in_numbers(audit, audited, finetuning, trained):
    named = replace(audit, findings=(replace(audit.findings[0], words=(("red spot", 2.0), ("rose", 1.0))),))
    got = repair(named, audited, finetuning, test=things(300, seed=6))
    (one,) = got.followed
    low, high = (f"{round(100 * end):+d}" for end in got.worst_group_change[1:])
    worst, overall, answers, hiding, groups = got.sentences
    assert f"{100 * got.worst_group_before:.0f} % → 100 %" in worst and f"interval {low} to {high})" in worst
    assert worst.startswith("Worst-group accuracy") and "'green' with it" in worst or "'blue' with it" in worst
    assert f"→ 100 % ({round(100 * got.overall_change.estimate):+d} points" in overall and "n = 300" in overall
    points = round(100 * one.answered_before.estimate)
    assert f"cluster {one.finding.cluster} (red spot) are answered 'cyan' {points} points more often" in answers
    assert answers.endswith(" 0 after.")
    change = round(100 * one.mask_before.others.effect.probability.estimate)
    assert change < 0 and f"by {change:+d} points before, +0 after (n = {one.mask_before.others.n})" in hiding
    assert f"n = {got.table.n[:6].min()}" in groups


@pytest.mark.parametrize(
    "leaning, told",
    [
        (0.0, None),
        (1.6, "No improvement of the worst group is shown"),
        (1.65, "No improvement"),
        (9.0, "The worst group got worse"),
    ],
)
def test_what_is_no_repair_is_said(audit, audited, finetuning, trained, leaning, told):
    trained.result = Looker(leaning)
    got = repair(audit, audited, finetuning, test=things(300, seed=6))
    verdicts = ("No improvement", "The worst group got worse", "Overall the model got worse")
    found = [sentence for sentence in got.sentences if sentence.startswith(verdicts)]
    assert [sentence.startswith(told) for sentence in found[:1]] == ([] if told is None else [True])
    assert (len(found) == 2 and found[1].startswith(verdicts[2])) == (got.overall_change.high < 0) == (leaning == 9.0)


def test_small_groups_and_images_that_were_trained_on_are_said(audit, audited, finetuning, trained):
    seen = finetuning.images[:5]
    few = things(55, seed=8, with_cue=0.3)
    test = from_arrays(np.concatenate([few.images, seen]), np.concatenate([few.labels, finetuning.labels[:5]]), NAMES)
    got = repair(audit, audited, finetuning, test=test)
    small = got.table.small[:6].sum()
    assert 0 < small < 6 and got.n_trained_on == 5
    assert any(f"{small} of 6 groups have fewer than 10 images" in sentence for sentence in got.sentences)
    assert any(sentence.startswith("5 of the compared images were trained on") for sentence in got.sentences)
    unseen = repair(audit, audited, finetuning, test=things(300, seed=6))
    assert unseen.n_trained_on == 0 and not any("trained on" in sentence for sentence in unseen.sentences)


def test_where_nothing_can_be_compared_no_sentence_speaks_of_it(audit, audited, finetuning, trained):
    """Only images of the attribute's own class hold the finding."""
    every = things(120, seed=9)
    kept = ~red_share(every) | (every.labels == CUE)
    got = repair(audit, audited, finetuning, test=from_arrays(every.images[kept], every.labels[kept], NAMES))
    assert np.isnan(got.followed[0].answered_before.estimate) and got.followed[0].mask_before.others.n == 0
    assert not any("nan" in sentence or "answered" in sentence or "Hiding" in sentence for sentence in got.sentences)


# ---- what cannot be done ----


@pytest.mark.parametrize("finding", [1, -1, [0, 1], [], 0.0, True, "first", [[0]]])
def test_a_finding_that_is_not_there_is_named(audit, audited, finetuning, trained, finding):
    with pytest.raises(ValueError, match=r"finding: expected one or some of the audit's 1 findings, 0 … 0, got"):
        repair(audit, audited, finetuning, finding=finding)
    with pytest.raises(ValueError, match="finding: the audit has no finding"):
        repair(replace(audit, findings=()), audited, finetuning, finding=finding)


def test_what_does_not_fit_is_named_before_anything_is_trained(audit, audited, finetuning, trained):
    crop = Looker(1.6, "cropper", pooling="crop")
    other_classes = replace(finetuning, class_names=("green", "cyan", "blue"))
    plain = things(60, seed=1, with_cue=0)
    for arguments, message in (
        ({"vlm": crop}, "vlm: training needs a tower .* got cropper with pooling='crop'"),
        ({"initial": crop}, "initial: training needs a tower .* got cropper"),
        ({"vlm": Looker(0.5, "another")}, "vlm: expected the audited model, audited; another embeds"),
        ({"vlm": tiny_vlm()}, "vlm: expected the audited model"),
        ({"finetuning": other_classes}, "finetuning: expected the audit's classes, green, blue, cyan, got green, cyan"),
        ({"test": other_classes}, "test: expected the audit's classes"),
        ({"finetuning": plain}, "finetuning: expected images that show what was found, but of their 240 regions none"),
        ({"test": plain}, "test: expected images that show what was found, but of their 240 regions none"),
        ({"regions": "quadrant"}, "regions: .*quadrants"),
    ):
        with pytest.raises(ValueError, match=message):
            repair(**{"audit": audit, "vlm": audited, "finetuning": finetuning} | arguments)
    assert trained.all == []
    repair(audit, crop_of(audited), finetuning, initial=Looker(0.0))  # an audited model need not be trained


def crop_of(looker):
    return Looker(looker.leaning, looker.name, pooling="crop")


# ---- with real models ----


def own_of(dataset):
    own = from_arrays(dataset.images, dataset.labels, dataset.class_names)
    return replace(own, captions=dataset.captions)


def digits_audit(vlm, dataset, attribute, **options):
    """An audit of digits, its finding the cluster with the largest gap."""
    evaluation = evaluate(vlm, dataset)
    discovery = rc.discover(evaluation, **options)
    cluster = int(discovery.scores.gap.argmax())
    finding = finding_of(cluster, discovery.clustering, attribute, dataset.class_names)
    how = {"regions": "quadrants"}
    return Audit("digits", how, own_of(dataset), dataset, evaluation, discovery, (finding,), pd.DataFrame(), None)


def test_a_repair_leaves_both_models_as_they_are_and_can_be_saved(tmp_path, few_resamples):
    vlm, initial, data = tiny_vlm(), tiny_vlm(seed=1), few_classes(40)
    before = weights(vlm), weights(initial)
    audit = digits_audit(vlm, replace(data, sources=None), attribute=1)
    budget = Budget(epochs=1, batch_size=20)
    from_initial, from_audited = (repair(audit, vlm, own_of(data), start, budget=budget) for start in (initial, None))
    assert same_weights(weights(vlm), before[0]) and same_weights(weights(initial), before[1])
    text = ("transformer", "text_projection")
    assert same_weights(weights(from_initial.vlm, *text), weights(initial, *text))
    assert same_weights(weights(from_audited.vlm, *text), weights(vlm, *text))
    assert len(from_initial.history.losses) == 2 and from_initial.n_trained_on == 40
    loaded = rc.load_vlm(f"local-dir:{from_initial.save(tmp_path / 'repaired')}")
    given, expected = (model.encode_images(data.images) for model in (loaded, from_initial.vlm))
    np.testing.assert_allclose(given, expected, atol=1e-5)


def test_an_audits_finding_is_repaired_on_images_that_nobody_has_seen(few_resamples):
    """Digits whose nines have a red rectangle: the repair helps the worst group of the standard fine-tuned model."""
    setting = rc.Setting(strength=0.95, seed=3, n_finetuning=1000, n_val=300, n_test=400)
    data, initial, budget = rc.build_setting(setting), rc.load_vlm("rn-mini"), Budget(epochs=3, batch_size=64)
    vlm, _ = rc.mitigate(initial, data.finetuning, None, "standard", budget, seed=3)
    audit = digits_audit(vlm, data.val, setting.attribute, candidates=(20,))
    got = repair(audit, vlm, own_of(data.finetuning), initial, budget=budget, test=own_of(data.test))
    assert got.n_spurious > 0.9 * data.finetuning.shows_feature.sum() and got.n_trained_on == 0
    assert got.worst_group_before < 0.15 and got.worst_group_change.low > 0.1 and got.overall_change.low > 0
    (one,) = got.followed
    assert one.answered_after.high < one.answered_before.low and one.same_cluster.after.pull < 0.1
    before, after = (mask.others.effect.probability for mask in (one.mask_before, one.mask_after))
    assert before.high < -0.3 < -0.2 < after.low
