"""The study of language-guided repair: what each method is told and shown, what is measured, and what is made of it."""

import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from tiny import tiny_vlm

from ravl_core import figures, records
from ravl_core.domains import habitats
from ravl_core.groups import without_regions
from ravl_core.language import study, summaries
from ravl_core.language.alignment import alignment
from ravl_core.language.study import BY_NAME, GUIDED, METHODS, Task, compose, language_tasks, run_language_study
from ravl_core.mitigation import RECIPES, Budget
from ravl_core.visual_prompts import dot_grid, red_circle
from ravl_core.zero_shot import class_embeddings, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Task(3, 40, ("zero-shot", "binary", GUIDED, "RaVL"), 40, 40, Budget(epochs=1, batch_size=20))


@pytest.fixture(scope="module")
def test_set():
    return compose("test", np.array([[6, 5], [4, 7]]), seed=2)


@pytest.fixture
def quick(monkeypatch, initial):
    """The study with a model of random weights, and its trainings noted."""
    calls, mitigate = [], study.mitigate

    def noting(vlm, data, spurious, recipe, budget, seed, **options):
        calls.append((recipe, budget.learning_rate, seed, options))
        return mitigate(vlm, data, spurious, recipe, budget, seed, **options)

    monkeypatch.setattr(study, "mitigate", noting)
    monkeypatch.setattr(study, "initial_vlm", lambda name, domain: tiny_vlm())
    return calls


# ---- tasks ----


def test_every_profile_compares_all_methods_and_all_but_the_smallest_sweep_the_size():
    for profile, seeds, sizes in (("smoke", 1, ()), ("demo", 2, (500,)), ("full", 10, (250, 500, 1000))):
        tasks = language_tasks(profile)
        whole = [task for task in tasks if task.methods == tuple(BY_NAME)]
        assert [task.seed for task in whole] == list(range(seeds))
        assert {task.n for task in tasks} - {whole[0].n} == set(sizes)
        assert len(set(tasks)) == len(tasks) and all(set(task.methods) <= BY_NAME.keys() for task in tasks)
    assert all(task.n == 2000 and task.budget == Budget(epochs=5) for task in language_tasks("demo")[:2])
    with pytest.raises(ValueError, match="profile: expected one of"):
        language_tasks("paper")


def test_names_tell_methods_apart_and_every_recipe_has_a_rate():
    assert len(BY_NAME) == len(METHODS)
    assert {method.recipe for method in METHODS} == {""} | study.LEARNING_RATES.keys()
    assert study.LEARNING_RATES.keys() <= RECIPES.keys()


# ---- what methods are told and shown ----


def test_teachers_words_reach_the_recipe_as_far_as_they_are_told(test_set):
    said = habitats.descriptions(test_set, 5)
    everything, objects, classes = (study.told(test_set, 5, telling) for telling in study.TELLINGS)
    assert [tuple(one) for one in everything] == [(one.objects, one.background) for one in said]
    assert [tuple(one) for one in objects] == [(one.objects, ()) for one in said]
    assert [tuple(one) for one in classes] == [((habitats.CLASS_NAMES[label],), ()) for label in test_set.labels]
    assert study.told(test_set, 6) != everything


def test_marks_are_drawn_into_the_images_and_nothing_else_changes(test_set):
    core = test_set.shows_core
    circled = red_circle(test_set.images, test_set.boxes[core], test_set.image_index[core])
    assert study.marked(test_set, "") is test_set
    for mark, expected in (("red circle", circled), ("dots", dot_grid(test_set.images))):
        found = study.marked(test_set, mark)
        assert np.array_equal(found.images, expected) and not np.array_equal(expected, test_set.images)
        assert found.boxes is test_set.boxes and found.labels is test_set.labels


def test_sets_have_the_counts_that_were_asked_for(test_set):
    pairs = list(zip(test_set.labels.tolist(), test_set.feature_present.tolist(), strict=True))
    assert [pairs.count(group) for group in ((0, False), (0, True), (1, False), (1, True))] == [6, 5, 4, 7]


# ---- what is measured ----


def test_figures_equal_loops(test_set, initial):
    found = study.measure(initial, test_set, seed=4)
    seen = evaluate(initial, without_regions(test_set))
    right, labels, street = seen.predictions == test_set.labels, test_set.labels, test_set.feature_present
    groups = [[np.mean(right[(labels == c) & (street == s)]) for s in (False, True)] for c in (0, 1)]
    assert found["overall"] == pytest.approx(right.mean())
    assert found["classes"] == pytest.approx([right[labels == c].mean() for c in (0, 1)])
    assert np.allclose(found["groups"], groups) and found["worst_group"] == np.min(groups)
    assert found["counts"].tolist() == [[6, 5], [4, 7]]
    objects = class_embeddings(initial, habitats.OBJECTS, habitats.TEMPLATES)
    named = [np.argmax(objects @ image) for image in seen.image_embeddings]
    assert found["objects"] == pytest.approx(np.mean(named == test_set.sources))


def test_alignment_is_with_what_a_teacher_says_in_any_order(test_set, initial):
    found = study.measure(initial, test_set, seed=4)["alignment"]
    images = initial.encode_images(test_set.images)
    for side in ("objects", "background"):
        texts = [", ".join(sorted(getattr(one, side))) for one in habitats.descriptions(test_set, 4)]
        numbers = np.array([sorted(set(texts)).index(text) for text in texts])
        expected = alignment(images, initial.encode_texts(texts), numbers)
        assert found[side] == pytest.approx(vars(expected), abs=1e-5)


# ---- records ----


def test_a_record_holds_every_method_in_order_and_is_reused(tmp_path, quick, monkeypatch):
    made = run_language_study([SMALL], tmp_path, workers=1)
    (record,) = made.records
    assert made.failures == {} and made.n_reused == 0
    assert [row["name"] for row in record["metrics"]["methods"]] == list(SMALL.methods)
    assert record["metrics"]["finetuning_groups"] == habitats.group_counts(40).tolist()
    assert [call[0] for call in quick] == ["standard", "language_guided", "ravl"]  # the binary model is made once
    assert all(call[1:3] == (study.LEARNING_RATES[call[0]], 3) for call in quick)
    assert [tuple(one) for one in quick[1][3]["descriptions"]] == [
        (one.objects, one.background)
        for one in habitats.descriptions(compose("finetuning", habitats.group_counts(40), 3), 3)
    ]
    again = run_language_study([SMALL], tmp_path, workers=1)
    assert again.records == made.records and again.n_reused == 1 and len(quick) == 3
    monkeypatch.setattr(study, "code_version", lambda: "other")
    monkeypatch.setattr(study, "run_task", lambda task: {"methods": [], "task": task.seed})
    assert run_language_study([SMALL], tmp_path, workers=1).records[0]["metrics"] == {"methods": [], "task": 3}


def test_a_task_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run_task", lambda task: {"methods": [], "inverse": 1 / task.seed})
    made = run_language_study([replace(SMALL, seed=seed) for seed in (0, 2)], tmp_path, workers=1)
    assert [record["metrics"]["inverse"] for record in made.records] == [0.5]
    assert list(made.failures) == [str(replace(SMALL, seed=0))]
    assert "ZeroDivisionError" in made.failures[str(replace(SMALL, seed=0))]


def test_the_version_covers_all_that_decides_a_record(monkeypatch):
    """But not the room's modules that ask language models, or sum records up."""
    names = [f"ravl_core.{name}" for name in study.OWN_MODULES]
    room = {path.stem for path in Path(study.__file__).parent.glob("*.py")} - {"__init__"}
    assert {name.split(".")[-1] for name in names} == room - {"llava", "prompts", "summaries"} | {"visual_prompts"}
    monkeypatch.setattr(study.versions, "code_version", lambda domain: f"of {domain}")
    assert study.code_version() == f"of habitats {records.code_version(*names)}"


# ---- tables ----


def made_up(seeds=6, gain=10.0, n=2000, methods=("zero-shot", "binary", GUIDED)):
    """Records in which the guided method is `gain` points above the binary one, whatever the seed."""
    random = np.random.default_rng(0)
    made = []
    for seed in range(seeds):
        base, rows = random.uniform(0.5, 0.6), []
        for method in methods:
            value = base + (gain / 100 if method == GUIDED else 0)
            found = {"recall_at_1": value / 10, "recall_at_5": value / 2, "alignment": 1 - value, "uniformity": -value}
            rows.append({"name": method, "overall": value, "classes": [value + 0.01, value - 0.01], "objects": value,
                         "groups": [[value, value - 0.2], [value - 0.3, value]], "counts": [[50, 50], [50, 50]],
                         "worst_group": value - 0.3, "alignment": {"objects": found, "background": found}})  # fmt: skip
        made.append({"arguments": {"seed": seed, "n": n}, "metrics": {"methods": rows}})
    return made


@pytest.fixture(scope="module")
def table():
    return summaries.language_table(made_up() + made_up(4, 5.0, 500, ("binary", GUIDED)))


def test_the_table_has_a_row_for_each_set_and_method_in_per_cent(table):
    assert len(table) == 6 * 3 + 4 * 2 and table.n.is_monotonic_increasing
    row = table[(table.n == 2000) & (table.seed == 2) & (table.method == GUIDED)].iloc[0]
    (method,) = [one for one in made_up()[2]["metrics"]["methods"] if one["name"] == GUIDED]
    value = 100 * method["overall"]
    expected = [value, value + 1, value - 1, value, value - 20, value - 30, value, value - 30]
    assert row[list(summaries.FIGURES)].tolist() == pytest.approx(expected)
    assert row["which object"] == pytest.approx(value) and row.images == 200
    assert row["objects, recall at 5"] == pytest.approx(value / 2)
    assert row["background, distance"] == pytest.approx(1 - value / 100) == pytest.approx(1 + row.uniformity)


def test_means_are_over_seeds_and_lie_in_their_intervals(table):
    found = summaries.means(table)
    assert len(found) == 3 * len(summaries.FIGURES) and set(found.seeds) == {6}
    for row in found.itertuples():
        values = table[(table.n == 2000) & (table.method == row.method)][row.figure]
        assert (
            row.mean == pytest.approx(values.mean()) and values.min() <= row.low < row.mean < row.high <= values.max()
        )


def test_differences_are_paired_by_seed(table):
    found = summaries.changes(table).set_index(["method", "figure"])
    assert set(found.index.get_level_values("method")) == {"zero-shot", GUIDED}
    row = found.loc[(GUIDED, "worst group")]
    assert [row.difference, row.low, row.high] == pytest.approx([10, 10, 10]) and row.seeds == 6
    few = summaries.paired(table, (GUIDED, 500), ("binary", 2000), "overall")
    assert len(few) == 4 and few == pytest.approx([5] * 4)  # the seeds that both have


def test_the_deck_is_as_printed_and_as_its_groups_are():
    deck = summaries.DECK
    assert deck.loc["overall"].tolist() == [83.69, 80.29, 89.35, 90.61, 96.01]
    assert deck.loc["vehicle in a meadow", "model 2 (ViT-L/14)"] == 84.74
    assert (deck.loc["worst group"] == deck.loc[list(summaries.GROUPS)].min()).all()
    halves = deck.loc[list(summaries.GROUPS)].to_numpy().reshape(2, 2, 5).mean(axis=1)  # the classes' own groups
    off = np.abs(halves - deck.loc[list(habitats.CLASS_NAMES)].to_numpy()).max(axis=0)
    assert off.round(1).tolist() == [0.2, 0.0, 0.0, 6.5, 0.0]  # model 1's do not average
    overall = (2255 * deck.loc["mammal"] + 642 * deck.loc["vehicle"]) / 2897
    assert (overall - deck.loc["overall"]).abs().max() < 0.11


def test_the_decks_table_has_ours_and_theirs_side_by_side(table):
    found = summaries.deck_table(table)
    assert list(found.columns[:4]) == ["images", "zero-shot", "binary", GUIDED]
    assert found.index[1] == "mammal (landbird)" and found.index[-1] == "worst group"
    assert found.index[5] == "vehicle in a meadow (waterbird on land)"
    assert found.images.tolist() == [200, 100, 100, 50, 50, 50, 50, 50]
    mean = table[(table.n == 2000) & (table.method == GUIDED)].overall.mean()
    assert found.loc["overall", GUIDED].startswith(f"{mean:.1f} [")
    assert found.loc["worst group", "deck: model 2 (ViT-L/14)"] == 84.74


def test_a_sweep_holds_what_was_tried_with_several_sizes(table):
    found = summaries.sweep_table(table)
    assert found.n.tolist() == [500, 500, 2000, 2000] and found.method.tolist() == ["binary", GUIDED] * 2
    assert found.seeds.tolist() == [4, 4, 6, 6]
    assert summaries.sweep_table(table[table.n == 500]).empty


def test_verdicts_follow_from_the_intervals(table):
    found = summaries.verdicts(table)
    assert found.verdict["above binary fine-tuning, worst group"] == "holds"
    assert found.ours["above binary fine-tuning, worst group"] == "+10.0 [+10.0, +10.0]"
    assert found.verdict["500 images do what 2,000 do for binary fine-tuning, worst group"] == "holds"
    assert found.verdict["above GALS, worst group"] == "not testable here"
    worse = summaries.verdicts(summaries.language_table(made_up(gain=-5)))
    assert worse.verdict["another task suffers less than by binary fine-tuning"] == "does not hold"
    few = summaries.verdicts(summaries.language_table(made_up(seeds=2)))
    assert set(few.verdict) == {"open", "not testable here"}


# ---- figures ----


def test_figures_show_every_method_and_size(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_method = figures.accuracy_by_method(summaries.means(table))
        by_size = figures.accuracy_by_size(summaries.sweep_table(table))
        by_method.canvas.draw(), by_size.canvas.draw()
    names = [tick.get_text() for tick in by_method.axes[0].get_yticklabels()]
    assert names == ["zero-shot", "binary", GUIDED] and len(by_method.axes) == 2
    drawn = sorted(container.lines[0].get_xdata()[0] for container in by_method.axes[0].containers)
    means = summaries.means(table, ["worst group"])["mean"]
    assert drawn == pytest.approx(sorted(means))
    (axes,) = by_size.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["500\n4", "2,000\n6"]
    heights = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    sweep = summaries.sweep_table(table)
    assert heights == [sweep[sweep.method == name]["mean"].tolist() for name in ("binary", GUIDED)]


def test_figures_refuse_tables_that_lack_something(table):
    with pytest.raises(ValueError, match="table: expected columns"):
        figures.accuracy_by_method(summaries.means(table).drop(columns="low"))
    with pytest.raises(ValueError, match="table: expected at least one row"):
        figures.accuracy_by_method(summaries.means(table), ("another",))
    with pytest.raises(ValueError, match="table: expected at least one row"):
        figures.accuracy_by_size(summaries.sweep_table(table).head(0))
