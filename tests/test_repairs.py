"""The repairs of one setting: where spurious regions come from, what is trained with them, and what is measured."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import evaluations
import numpy as np
import oracles
import pytest
from tiny import same_weights, tiny_vlm, weights

from ravl_core import repairs
from ravl_core.checkpoints import load_vlm, save_vlm
from ravl_core.closed_loop import look_again, same_cluster
from ravl_core.discovery import assign_regions, discover
from ravl_core.fine_tuned import fine_tuned_model, measure, setting_data
from ravl_core.grids import repairs_of
from ravl_core.kmedoids import Clustering
from ravl_core.masking import mask_effect
from ravl_core.mitigation import Budget, History, mitigate
from ravl_core.repair_rows import ORACLES, READINGS, REPORTED, ROWS
from ravl_core.repairs import (
    Repair,
    agreement,
    clusters_of_one_shortcut,
    diagnose,
    run_repairs,
    spurious_regions,
    words_of_boxes,
)
from ravl_core.settings import Setting
from ravl_core.significance import significant_clusters
from ravl_core.slicing.ravl import fine_clustering
from ravl_core.zero_shot import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
BUDGET = Budget(epochs=1, batch_size=40, learning_rate=1e-3)
JUDGED = ("image_overall", "image_worst_group", "region_overall", "region_worst_group", "val_worst_group")
LEFT = {"name", "assignment"}  # what may tell rows of one training run apart


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    model = save_vlm(tiny_vlm(), tmp_path_factory.mktemp("models") / "random")
    return Setting(initial=f"local-dir:{model}", strength=0.9, seed=5, n_finetuning=200, n_val=100, n_test=40)


@pytest.fixture(scope="module")
def made(setting):
    return fine_tuned_model(setting, BUDGET)


@pytest.fixture(scope="module")
def found(made, setting):
    found = discover(made.val, seed=setting.seed)
    assert len(found.findings) > 1
    return found


@pytest.fixture(scope="module")
def diagnosed(setting, made, found):
    return diagnose(setting, BUDGET, made, found)


@pytest.fixture
def run(setting, made, found):
    """Run repairs on the setting; by another discovery, if one is given."""
    return lambda *rows, found=found: list(run_repairs(setting, BUDGET, rows, made, found, "cpu"))


@pytest.fixture(scope="module")
def brought(setting, made, found):
    """What the rows of all grids bring, by name."""
    rows = repairs_of(setting.feature, ROWS)
    return {row["name"]: row for row in run_repairs(setting, BUDGET, rows, made, found, "cpu")}


@pytest.fixture
def trained(monkeypatch, diagnosed):
    """The arguments of all trainings, none of which is done: the diagnosed model stands for its result."""
    calls = []

    def noting(vlm, dataset, assignment, recipe, budget, seed, **options):
        calls.append(SimpleNamespace(**locals()))
        return diagnosed.model.vlm, History(np.arange(30.0), np.zeros(30), 0)

    monkeypatch.setattr(repairs, "mitigate", noting)
    return calls


def planted(diagnosed, reliance=0.9):
    """The same setting, were this found in it: a model that leans on a cue, and the regions that show the cue."""
    val, truths = evaluations.planted(reliance=reliance)
    noise = 0.02 * np.random.default_rng(1).normal(size=val.region_embeddings.shape)
    return replace(
        diagnosed,
        model=replace(diagnosed.model, val=val),
        found=discover(val),
        fine=fine_clustering(val),
        finetuning_regions=oracles.unit(val.region_embeddings + noise),
    ), truths["shows_feature"]


def clusters_by_loop(evaluation, clustering, seed):
    """The significant clusters with the attribute of the first, of images that hold them by a loop."""
    held = np.zeros((len(evaluation.labels), clustering.n_clusters), dtype=bool)
    for region, cluster in enumerate(clustering.labels):
        held[evaluation.image_index[region], cluster] = True
    every = significant_clusters(held, evaluation.labels, evaluation.image_probs, seed=seed, most=8)
    return [one.cluster for one in every if one.attribute == every[0].attribute]


def worst_by_loop(predictions, labels, held):
    """Accuracy of the worst group of five images or more."""
    groups = {}
    for predicted, label, holds in zip(predictions, labels, held, strict=True):
        groups.setdefault((label, holds), []).append(predicted == label)
    return min(np.mean(hits) for hits in groups.values() if len(hits) >= 5)


def held_by_loop(evaluation, clustering, cluster):
    """Which images hold a cluster, (N,)."""
    holders = {image for image, own in zip(evaluation.image_index, clustering.labels, strict=True) if own == cluster}
    return np.array([image in holders for image in range(len(evaluation.labels))])


# ---- which regions are spurious ----


def test_discovered_regions_are_those_of_the_first_finding(diagnosed, found):
    spurious = spurious_regions(diagnosed, "discovered")
    nearest = oracles.nearest_medoid(diagnosed.finetuning_regions, found.clustering.medoid_embeddings)
    assert spurious.tolist() == (nearest == found.findings[0].cluster).tolist() and 0 < spurious.sum() < len(spurious)
    assert spurious.tolist() == assign_regions(found, diagnosed.finetuning_regions).tolist()


def test_true_regions_are_the_planted_ones_and_none_are_none(diagnosed, setting):
    data = setting_data(setting).finetuning
    true = spurious_regions(diagnosed, "true")
    assert true.tolist() == data.shows_feature.tolist() and true.sum() == data.feature_present.sum()
    none = spurious_regions(diagnosed, "none")
    assert none.dtype == bool and none.shape == true.shape and not none.any()


@pytest.mark.parametrize("source", ["discovered", "significant", "fine"])
def test_what_a_model_leans_on_is_found_by_every_source(diagnosed, source):
    leaning, shows = planted(diagnosed)
    clustering = leaning.fine if source == "fine" else leaning.found.clustering
    clusters = {"discovered": [leaning.found.findings[0].cluster]}.get(
        source, clusters_by_loop(leaning.model.val, clustering, leaning.setting.seed)
    )
    spurious = spurious_regions(leaning, source)
    nearest = oracles.nearest_medoid(leaning.finetuning_regions, clustering.medoid_embeddings)
    assert spurious.tolist() == np.isin(nearest, clusters).tolist()
    assert spurious.sum() > 0.2 * shows.sum() and shows[spurious].mean() > 0.95


@pytest.mark.parametrize("source", ["significant", "fine"])
def test_where_nothing_is_significant_no_region_is_spurious(diagnosed, source):
    """Whatever the paper's recipe found there."""
    sound, _ = planted(diagnosed, reliance=0.0)
    sound = replace(sound, found=replace(sound.found, findings=diagnosed.found.findings))
    assert not spurious_regions(sound, source).any()


def test_without_a_finding_no_region_is_discovered(diagnosed):
    nothing = replace(diagnosed, found=replace(diagnosed.found, findings=()))
    assert not spurious_regions(nothing, "discovered").any()


def test_a_shortcut_may_be_split_over_clusters():
    evaluation, truths = evaluations.planted(n_images=480, n_classes=3)
    whole = discover(evaluation).clustering
    cue = truths["shows_feature"]
    labels = np.where(cue, whole.n_clusters + evaluation.image_index % 2, whole.labels)
    clusters = clusters_of_one_shortcut(evaluation, Clustering(labels, whole.medoids, whole.medoid_embeddings, {}))
    assert sorted(clusters) == [whole.n_clusters, whole.n_clusters + 1]


def test_clusters_of_one_shortcut_are_those_that_pull_towards_the_class_of_the_first(monkeypatch):
    evaluation, _ = evaluations.planted()
    asked, towards = [], {4: 1, 2: 0, 7: 1, 0: 2, 5: 1}
    found = [SimpleNamespace(cluster=cluster, attribute=attribute) for cluster, attribute in towards.items()]

    def significant(held, labels, image_probs, **options):
        asked.append(options)
        return found

    monkeypatch.setattr(repairs, "significant_clusters", significant)
    assert clusters_of_one_shortcut(evaluation, discover(evaluation).clustering, seed=3) == [4, 7, 5]
    assert asked == [{"seed": 3, "most": 8}]
    found.clear()
    assert clusters_of_one_shortcut(evaluation, discover(evaluation).clustering) == []


@pytest.mark.parametrize("n_images, expected", [(240, 64), (20, None)])
def test_fine_clusters_are_sixteen_a_class_or_as_many_as_there_are_regions(n_images, expected):
    evaluation, _ = evaluations.planted(n_images=n_images)
    clustering = fine_clustering(evaluation, seed=2)
    assert clustering.n_clusters == (expected or len(evaluation.region_embeddings))
    assert clustering.medoid_embeddings.tolist() == evaluation.region_embeddings[clustering.medoids].tolist()
    nearest = oracles.nearest_medoid(evaluation.region_embeddings, clustering.medoid_embeddings)
    assert (nearest == clustering.labels).mean() > 0.95  # but for ties


def test_without_regions_there_are_no_fine_clusters():
    evaluation = evaluations.without_regions(evaluations.planted()[0])
    clustering = fine_clustering(evaluation)
    assert clustering.n_clusters == 0 and clustering.labels.shape == (0,)
    assert clustering.medoid_embeddings.shape == (0, 32)
    assert clusters_of_one_shortcut(evaluation, clustering) == []


@pytest.mark.parametrize("seed", range(5))
def test_agreement_equals_a_loop(seed):
    random = np.random.default_rng(seed)
    assignment, truth = random.random(60) < 0.4, random.random(60) < 0.2
    both = sum(bool(said and true) for said, true in zip(assignment, truth, strict=True))
    assert agreement(assignment, truth) == {
        "assignment_recall": pytest.approx(both / truth.sum()),
        "assignment_precision": pytest.approx(both / assignment.sum()),
    }


def test_agreement_without_any_region_to_divide_by_is_none():
    some, nothing = np.array([True, False, True]), np.zeros(3, dtype=bool)
    assert agreement(nothing, some) == {"assignment_recall": 0.0, "assignment_precision": None}
    assert agreement(some, nothing) == {"assignment_recall": None, "assignment_precision": 0.0}
    assert agreement(nothing[:0], some[:0]) == {"assignment_recall": None, "assignment_precision": None}


# ---- what repairs share ----


def test_what_repairs_share_is_made_once(diagnosed, setting, made, found):
    data = setting_data(setting).finetuning
    assert diagnosed.model is made and diagnosed.found is found
    assert same_weights(weights(diagnosed.initial), weights(load_vlm(setting.initial)))
    regions = made.vlm.encode(data.images, data.boxes, data.image_index)[1]
    assert np.array_equal(diagnosed.finetuning_regions, regions)
    assert np.array_equal(diagnosed.fine.labels, fine_clustering(made.val, setting.seed).labels)


def test_equal_runs_are_trained_once_and_keep_their_own_names(run, trained, found):
    rows = (
        Repair("one", "standard", assignment="none"),
        Repair("two", "standard", assignment="none"),
        Repair("three", "standard", assignment="significant"),  # of this model nothing is
        Repair("other regions", "standard", assignment="true"),
        Repair("other recipe", "vl_erm", assignment="none"),
        Repair("other options", "vl_erm", {"weight": 0.5}, assignment="none"),
        Repair("other rate", "standard", assignment="none", learning_rate=3e-3),
        Repair("one", "standard", assignment="none"),
    )
    given = run(*rows)
    assert [row["name"] for row in given] == [row.name for row in rows]
    assert [row["assignment"] for row in given] == [row.assignment for row in rows]
    assert [(call.recipe, call.assignment.any(), call.options, call.budget.learning_rate) for call in trained] == [
        ("standard", False, {}, 1e-3),
        ("standard", True, {}, 1e-3),
        ("vl_erm", False, {}, 1e-3),
        ("vl_erm", False, {"weight": 0.5}, 1e-3),
        ("standard", False, {}, 3e-3),
    ]
    plain = [{name: value for name, value in row.items() if name not in LEFT} for row in given]
    assert plain[0] == plain[1] == plain[2] == plain[7]


def test_a_row_says_what_it_was_asked_for(run, trained):
    asked = Repair("a", "vl_erm", {"weight": 0.5}, "true", 3e-3, "fine-tuned", 1, False)
    (row,) = run(asked)
    assert {name: row[name] for name in vars(asked)} == vars(asked)


@pytest.mark.parametrize("start", ["initial", "fine-tuned"])
@pytest.mark.parametrize("rate, expected", [(None, 1e-3), (3e-4, 3e-4)])
def test_training_starts_where_it_is_asked_to_at_the_rate_asked_for(run, trained, setting, made, start, rate, expected):
    run(Repair("a", "vl_erm", {"weight": 0.25}, "true", rate, start))
    (call,) = trained
    assert call.budget == replace(BUDGET, learning_rate=expected) and call.seed == setting.seed
    assert call.recipe == "vl_erm" and call.options == {"weight": 0.25}
    data = setting_data(setting).finetuning
    assert call.dataset is data and call.assignment.tolist() == data.shows_feature.tolist()
    expected = made.vlm if start == "fine-tuned" else load_vlm(setting.initial)
    assert (call.vlm is made.vlm) == (start == "fine-tuned")
    assert same_weights(weights(call.vlm), weights(expected))


def test_language_guided_repair_is_told_what_boxes_are_called(run, trained, setting):
    run(Repair("one", "language_guided"), Repair("two", "language_guided", {"form": "in"}), Repair("three", "standard"))
    words = words_of_boxes(setting_data(setting).finetuning)
    assert [call.options for call in trained] == [{"descriptions": words}, {"descriptions": words, "form": "in"}, {}]


def test_words_are_the_class_and_the_names_of_other_boxes_each_once(setting):
    data = setting_data(setting).finetuning
    image_index = np.array([0, 0, 0, 0, 1, 2, 2])
    own, other = (data.class_names[data.labels[image]] for image in (0, 2))
    names = ("tree", own, "pond", "tree", "", other, "")
    few = replace(data, labels=data.labels[:3], image_index=image_index, boxes=data.boxes[:7], box_names=names)
    assert words_of_boxes(few)[0] == ((own,), ("tree", "pond"))
    plain = [((data.class_names[label],), ("plain background",)) for label in few.labels]
    assert list(words_of_boxes(few)[1:]) == plain[1:]
    assert list(words_of_boxes(replace(few, box_names=None))) == plain
    assert {"red rectangle"} in [set(one.background) for one in words_of_boxes(data)]


def test_what_is_found_in_the_repaired_model_counts_in_a_second_round(run, trained, diagnosed, setting, monkeypatch):
    """Regions are then those of the repaired model, by its own clusters; training begins anew."""
    other = tiny_vlm(seed=9)
    models = iter([other, diagnosed.model.vlm])
    train = repairs.mitigate
    monkeypatch.setattr(repairs, "mitigate", lambda *given, **options: (next(models), train(*given, **options)[1]))
    (row,) = run(Repair("twice", rounds=2))
    data = setting_data(setting)
    again = discover(evaluate(other, data.val), seed=setting.seed)
    regions = other.encode(data.finetuning.images, data.finetuning.boxes, data.finetuning.image_index)[1]
    more = assign_regions(again, regions)
    first = spurious_regions(diagnosed, "discovered")
    assert (more & ~first).any()  # or a second round would add nothing
    assert [call.assignment.tolist() for call in trained] == [first.tolist(), (first | more).tolist()]
    assert same_weights(weights(trained[1].vlm), weights(diagnosed.initial))
    assert {name: row[name] for name in agreement(first, first)} == agreement(
        first | more, data.finetuning.shows_feature
    )


def test_more_rounds_add_regions(run, trained):
    run(Repair("thrice", rounds=3))
    assert len(trained) == 3
    sets = [set(np.flatnonzero(call.assignment)) for call in trained]
    assert sets[0] <= sets[1] <= sets[2]


# ---- what is measured ----


def test_every_row_of_table_3_can_be_run(brought):
    assert list(brought) == [row.name for row in ROWS]
    for row in brought.values():
        read = json.loads(json.dumps(row, allow_nan=False))
        assert all(0 <= read[name] <= 1 for name in JUDGED)
        assert math.isfinite(read["margin"]) and math.isfinite(read["final_loss"])
        assert np.sum(read["groups"]["image_count"]) == 40
    for row in ORACLES:
        assert brought[row.name]["assignment_recall"] == brought[row.name]["assignment_precision"] == 1
    assert brought["RaVL, no spurious regions"]["assignment_recall"] == 0
    differing = [row.name for row in (*REPORTED, *READINGS)]  # no two are the same run
    assert len({brought[name]["final_loss"] for name in differing}) == len(differing)


@pytest.mark.parametrize("name, source", [("RaVL", "discovered"), ("RaVL, true regions", "true")])
def test_a_row_is_what_its_steps_give_one_by_one(brought, diagnosed, setting, made, found, name, source):
    """Accuracies on test; the selection rule and the margin on val. One of the two is looked at again."""
    row, data = brought[name], setting_data(setting)
    budget = replace(BUDGET, learning_rate=row["learning_rate"])
    assignment = spurious_regions(diagnosed, source)
    vlm, history = mitigate(diagnosed.initial, data.finetuning, assignment, "ravl", budget, setting.seed)
    assert {key: row[key] for key in measure(vlm, data.test)} == measure(vlm, data.test)
    assert row["final_loss"] == pytest.approx(history.losses.mean())  # five steps, and the last twenty count
    predictions, labels = evaluate(vlm, data.val).predictions, data.val.labels
    held = held_by_loop(made.val, found.clustering, found.findings[0].cluster)
    assert row["val_worst_group"] == pytest.approx(worst_by_loop(predictions, labels, held))
    right, present, nine = predictions == labels, data.val.feature_present, labels == setting.attribute
    gain = right[nine & present].mean() - right[nine & ~present].mean()
    cost = right[~nine & ~present].mean() - right[~nine & present].mean()
    assert row["margin"] == pytest.approx(100 * min(gain, cost))


def test_the_groups_of_the_selection_rule_are_those_of_the_first_finding(run, trained, made, found, monkeypatch):
    """The ones that a user knows: the planted feature decides nothing."""
    asked = []
    monkeypatch.setattr(repairs, "worst_group_on_val", lambda *given: asked.append(given) or 0.25)
    (row,) = run(Repair("a"))
    ((predictions, labels, held, n_classes),) = asked
    assert row["val_worst_group"] == 0.25 and n_classes == 10
    assert predictions.tolist() == made.val.predictions.tolist() and labels.tolist() == made.val.labels.tolist()
    assert held.tolist() == held_by_loop(made.val, found.clustering, found.findings[0].cluster).tolist()
    assert 0 < held.sum() < len(held)


def test_the_last_twenty_losses_are_the_final_one(run, trained):
    assert run(Repair("a"))[0]["final_loss"] == pytest.approx(np.mean(range(10, 30)))


def test_rows_that_ask_for_it_are_looked_at_again(brought, diagnosed, setting, made, found):
    followed = {name for name, row in brought.items() if row["followed_up"] is not None}
    assert followed == {row.name for row in ROWS if row.followed} and "RaVL" in followed
    data, row = setting_data(setting), brought["RaVL"]
    budget = replace(BUDGET, learning_rate=row["learning_rate"])
    assignment = spurious_regions(diagnosed, "discovered")
    vlm, _ = mitigate(diagnosed.initial, data.finetuning, assignment, "ravl", budget, setting.seed)
    first, seen, seed = found.findings[0], evaluate(vlm, data.val), setting.seed
    expected = {
        "same": same_cluster(found.clustering.labels, first.cluster, made.val, seen, seed=seed).plain(),
        "again": look_again(found, made.val, seen, seed).plain(),
        "mask_before": mask_effect(made.vlm, data.val, first.regions, first.attribute, seed).plain(),
        "mask": mask_effect(vlm, data.val, first.regions, first.attribute, seed).plain(),
    }
    assert row["followed_up"] == expected
    assert row["followed_up"]["mask"] != row["followed_up"]["mask_before"]
    assert row["followed_up"]["same"]["before"] != row["followed_up"]["same"]["after"]


def test_a_model_in_which_nothing_was_found_is_repaired_all_the_same(run, trained, found, setting, made):
    rows = Repair("RaVL", followed=True), Repair("none", assignment="none", followed=True)
    given = run(*rows, found=replace(found, findings=()))
    assert len(trained) == 1 and not trained[0].assignment.any()
    labels = made.val.labels
    for row in given:
        assert row["followed_up"] is None and row["assignment_precision"] is None
        nowhere = np.zeros(len(labels), dtype=bool)
        assert row["val_worst_group"] == pytest.approx(worst_by_loop(made.val.predictions, labels, nowhere))
        json.dumps(row, allow_nan=False)


def test_no_row_is_nothing_to_do(run, trained):
    assert run() == [] and trained == []


# ---- what is refused ----


@pytest.mark.parametrize(
    "options, message",
    [
        ({"assignment": "treu"}, "assignment: expected one of .*'treu'; did you mean 'true'"),
        ({"start": "fine-tuend"}, "start: expected one of .*did you mean 'fine-tuned'"),
    ],
)
def test_a_row_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Repair(**options)
