"""Language-guided repair beside its rivals, on a stand-in for Waterbirds: what the deck reports, and what it asks next.

A task is one fine-tuning set of the habitats domain, in Waterbirds' proportions; its record holds every method on that
set. Val and test sets hold no correlation.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ravl_core import records, versions
from ravl_core.checks import choice
from ravl_core.discovery import assign_regions, discover
from ravl_core.domains import Dataset, habitats
from ravl_core.groups import without_regions
from ravl_core.language.alignment import alignment
from ravl_core.language.cached import describe
from ravl_core.language.teachers import annotation_teacher
from ravl_core.metrics import group_accuracies
from ravl_core.mitigation import mitigate
from ravl_core.mitigation.budget import Budget
from ravl_core.parallel import Outcome, outcomes
from ravl_core.pretraining import initial_vlm
from ravl_core.progress import track
from ravl_core.repairs import Words, agreement
from ravl_core.settings import balanced_table
from ravl_core.study import Study, _limited_to
from ravl_core.visual_prompts import dot_grid, red_circle
from ravl_core.vlm import VLM
from ravl_core.zero_shot import class_embeddings, evaluate

OWN_MODULES = (  # that decide a record, beside those that every study depends on
    "language.alignment", "language.cached", "language.description", "language.study", "language.teachers",
    "visual_prompts",
)  # fmt: skip
FEATURE = habitats.HABITATS[1]
BINARY = "binary"
GUIDED = "language-guided"
TELLINGS = ("everything", "objects", "class")


@dataclass(frozen=True)
class Method:
    """One way to classify: the initial model as it is, or fine-tuned by a recipe.

    Parameters
    ----------
    name : what its row is called.
    recipe, options : see `ravl_core.mitigation`; "" is the initial model.
    mark : what is drawn into test images, "" or "red circle" (around the object) or "dots".
    told : what a language-guided recipe is told of each image: "everything" a teacher says, its "objects" alone, or
        nothing but the name of its "class".
    """

    name: str
    recipe: str = ""
    options: dict = field(default_factory=dict)
    mark: str = ""
    told: str = TELLINGS[0]


METHODS = (
    Method("zero-shot"),
    Method("zero-shot, red circle", mark="red circle"),
    Method("zero-shot, dots", mark="dots"),
    Method(BINARY, "standard"),
    Method(GUIDED, "language_guided"),
    Method(f"{GUIDED}, L_in", "language_guided", {"form": "in"}),
    Method(f"{GUIDED}, own text only", "language_guided", {"positives": "own"}),
    Method(f"{GUIDED}, no background", "language_guided", told="objects"),
    Method(f"{GUIDED}, class names", "language_guided", told="class"),
    Method("RaVL", "ravl"),
    Method("Spurious-Aware", "spurious_aware", {"feature": FEATURE}),
    Method("GALS", "gals"),
)
BY_NAME = {method.name: method for method in METHODS}
IN_SWEEP = (BINARY, GUIDED, "RaVL", "Spurious-Aware")
# Peaks of the one-cycle schedule. Of 3e-4, 1e-3 and 3e-3 those with the highest mean worst-group accuracy on val, the
# first on ties, each recipe alike, on two fine-tuning sets with seeds from 100,000 that enter no table.
LEARNING_RATES = {"standard": 3e-3, "language_guided": 3e-3, "ravl": 3e-3, "spurious_aware": 3e-4, "gals": 3e-4}


@dataclass(frozen=True)
class Task:
    """One fine-tuning set of n images, and which methods are compared on it."""

    seed: int
    n: int = 2000
    methods: tuple[str, ...] = tuple(BY_NAME)
    n_val: int = 1000
    n_test: int = 2000
    budget: Budget = Budget()


def language_tasks(profile: str = "demo") -> tuple[Task, ...]:
    """The tasks of a profile, "smoke", "demo" or "full": some seeds with every method, then smaller sets with a few.

    Raises ValueError for another profile.
    """
    choice("profile", profile, ("smoke", "demo", "full"))
    if profile == "smoke":
        return (Task(0, 200, n_val=120, n_test=80, budget=Budget(epochs=2, batch_size=64)),)
    n_seeds, sizes, swept = (2, (500,), 1) if profile == "demo" else (10, (250, 500, 1000), 10)
    whole = tuple(Task(seed) for seed in range(n_seeds))
    return whole + tuple(Task(seed, n, IN_SWEEP) for n in sizes for seed in range(swept))


def run_language_study(tasks: Sequence[Task], folder: Path | str, workers: int = 2) -> Study:
    """Run every task that has no record of the present code; each leaves one in `folder` as soon as it is done.

    A task that fails is reported in `failures` with its traceback and does not stop the others.
    """
    version = code_version()
    found = {task: records.load_record(folder, asdict(task)) for task in tasks}
    waiting = [task for task, record in found.items() if record is None or records.stale(record, version)]
    failures = {}
    with closing(outcomes(_run_one, waiting, workers)) as arriving:
        for outcome in track(arriving, "language", len(waiting)):
            if outcome.problem:
                failures[str(outcome.task)] = outcome.problem
                continue
            seconds = {"total": outcome.seconds}
            records.save_record(folder, asdict(outcome.task), outcome.metrics, code_version=version, seconds=seconds)
    kept = (records.load_record(folder, asdict(task)) for task in tasks if str(task) not in failures)
    return Study([record for record in kept if record], len(tasks) - len(waiting), failures)


def code_version() -> str:
    """The version of all that decides a record, of the files as they are now."""
    own = records.code_version(*(f"ravl_core.{module}" for module in OWN_MODULES))
    return f"{versions.code_version('habitats')} {own}"


def _run_one(task: Task) -> Outcome:
    try:
        with _limited_to(1):
            start = time.perf_counter()
            return Outcome(task, run_task(task), time.perf_counter() - start)
    except Exception:
        return Outcome(task, problem=traceback.format_exc())


def run_task(task: Task) -> dict:
    """The metrics of a record: every method of the task, each with its name and what `measure` says of it.

    `found` says how well the regions that RaVL calls spurious are those of the feature, `finetuning_groups` how many
    images each class has in a meadow and in a street.
    """
    initial, counts = initial_vlm("rn-mini", "habitats"), habitats.group_counts(task.n)
    finetuning = compose("finetuning", counts, task.seed)
    test = compose("test", balanced_table(task.n_test, 2), task.seed)
    binary = _fine_tuned(BY_NAME[BINARY], initial, finetuning, None, task)
    spurious = _discovered(binary, finetuning, task)
    rows = []
    for method in (BY_NAME[name] for name in task.methods):
        vlm = binary if method.name == BINARY else _fine_tuned(method, initial, finetuning, spurious, task)
        rows.append({"name": method.name} | measure(vlm, marked(test, method.mark), task.seed))
    return {"methods": rows, "found": agreement(spurious, finetuning.shows_feature), "finetuning_groups": counts}


def compose(split: str, counts: np.ndarray, seed: int) -> Dataset:
    """Images of the domain, from how many each class has in a meadow and in a street, (2, 2)."""
    labels, in_street = (np.repeat(side.ravel(), counts.ravel()) for side in np.indices(counts.shape))
    return habitats.domain().compose(split, labels, in_street.astype(bool), seed)


def _fine_tuned(method: Method, initial: VLM, data: Dataset, spurious: np.ndarray | None, task: Task) -> VLM:
    if not method.recipe:
        return initial
    options = method.options
    if method.recipe == "language_guided":
        options = options | {"descriptions": told(data, task.seed, method.told)}
    budget = replace(task.budget, learning_rate=LEARNING_RATES[method.recipe])
    return mitigate(initial, data, spurious, method.recipe, budget, task.seed, **options)[0]


def told(data: Dataset, seed: int, telling: str = TELLINGS[0]) -> list[Words]:
    """What a language-guided recipe is told of each image, (N,); see `Method`."""
    if choice("telling", telling, TELLINGS) == "class":
        return [Words((data.class_names[label],), ()) for label in data.labels]
    said = describe(annotation_teacher(data.images, habitats.descriptions(data, seed)), data.images)
    return [Words(one.objects, one.background if telling == "everything" else ()) for one in said]


def _discovered(binary: VLM, finetuning: Dataset, task: Task) -> np.ndarray:
    """The fine-tuning regions that stage 1's first finding in the binary model calls spurious, (M,) bool."""
    val = evaluate(binary, compose("val", balanced_table(task.n_val, 2), task.seed))
    found = discover(val, seed=task.seed)
    if not found.findings:
        return np.zeros(len(finetuning.boxes), dtype=bool)
    return assign_regions(found, binary.encode(finetuning.images, finetuning.boxes, finetuning.image_index)[1])


def marked(data: Dataset, mark: str) -> Dataset:
    """The set with images in which a mark is drawn, "" for none; see `Method`."""
    if choice("mark", mark, ("", "red circle", "dots")) == "":
        return data
    core = data.shows_core
    circled = mark == "red circle"
    images = red_circle(data.images, data.boxes[core], data.image_index[core]) if circled else dot_grid(data.images)
    return replace(data, images=images)


def measure(vlm: VLM, test: Dataset, seed: int = 0) -> dict:
    """What a model makes of a test set.

    Returns
    -------
    dict
        `overall`, `classes` (2,), `groups` and `counts` (2, 2), `worst_group`: accuracy, 0 … 1, and images of each
        class in a meadow and in a street. `objects`: accuracy on another task, which of the four objects an image
        shows. `alignment`: agreement with what a teacher says of the `objects` and of the `background`.
    """
    seen = evaluate(vlm, without_regions(test))
    right = seen.predictions == test.labels
    groups = group_accuracies(right, test.labels, test.feature_present, 2)
    objects = class_embeddings(vlm, habitats.OBJECTS, habitats.TEMPLATES)
    named = (seen.image_embeddings @ objects.T).argmax(axis=1)
    return {
        "overall": groups.overall,
        "classes": [right[test.labels == label].mean() for label in (0, 1)],
        "groups": groups.accuracy,
        "counts": groups.count,
        "worst_group": groups.worst_group,
        "objects": float((named == test.sources).mean()),
        "alignment": _alignments(vlm, seen.image_embeddings, test, seed),
    }


def _alignments(vlm: VLM, images: np.ndarray, test: Dataset, seed: int) -> dict:
    """Keywords stand in the order of the alphabet: texts that say the same are the same text."""
    said, found = habitats.descriptions(test, seed), {}
    for side in ("objects", "background"):
        texts, same = np.unique([", ".join(sorted(getattr(one, side))) for one in said], return_inverse=True)
        found[side] = asdict(alignment(images, vlm.encode_texts(texts.tolist())[same], same))
    return found
