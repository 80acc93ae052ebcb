"""Which settings each profile runs, fixed before any result is looked at.

A profile has six grids: *settings*, which discovery is judged on; *stability*, a part of them, tried again with
other seeds, clusters and regions; *search*, where the recipes' learning rates are chosen; *repairs*, where they are
compared; *audits*, models with a shortcut and without, audited as a user's would be; and *sensitivity*, models of
several architectures, looked at and repaired in several ways. Every setting has a seed of its own, and a grid goes
through its blocks repetition by repetition, so that a run that was stopped early holds a little of everything.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ravl_core.checks import choice
from ravl_core.mitigation.budget import DEFAULT_BUDGET, Budget
from ravl_core.profiles import Profile
from ravl_core.repair_rows import (
    CHOOSE_SEEDS,
    CHOSEN_IDEAS,
    COMPETENT_ROWS,
    FEW_ROWS,
    MODEL_ROWS,
    REPORT_SEEDS,
    REPORTED,
    ROWS,
    SEARCH_ROWS,
    SEARCH_SEEDS,
    TOWER_ROWS,
    TOWER_SEEDS,
)
from ravl_core.repairs import Repair
from ravl_core.settings import Setting
from ravl_core.tasks import Task

KINDS = ("settings", "stability", "search", "repairs", "audits", "sensitivity")
EVERY = {"smoke": 2, "demo": 5, "full": 17, "paper": 10}  # that many-th setting is tried for stability
DIGITS = tuple(range(10))


@dataclass(frozen=True)
class Block:
    """Every combination of these is a setting; their seeds are `first_seed`, `first_seed` + 1, …"""

    domain: str
    attributes: tuple[int, ...]  # classes that the feature goes with
    strengths: tuple[float, ...]  # Cramér's V of the planted correlation; 0 plants nothing: a control
    first_seed: int
    features: tuple[str, ...] = ("red rectangle",)
    initials: tuple[str, ...] = ("rn-mini",)
    repetitions: int = 1
    pretrained: str | None = None  # open_clip's tag of the initial models' weights
    budget: Budget = DEFAULT_BUDGET  # the profile decides its precision, and may cut its epochs
    n_finetuning: int = 10_000  # these two are at most what the profile allows
    n_test: int = 2000
    repairs: tuple[Repair, ...] = ()

    def settings(self) -> Iterator[tuple[int, dict]]:
        """The repetition and the arguments of each setting."""
        cells = itertools.product(
            range(self.repetitions), self.strengths, self.features, self.attributes, self.initials
        )
        names = "strength", "feature", "attribute", "initial"
        for seed, (repetition, *values) in enumerate(cells, self.first_seed):
            yield repetition, dict(zip(names, values, strict=True)) | {"domain": self.domain, "seed": seed}


@dataclass(frozen=True)
class Chosen:
    """Some of the settings that discovery is judged on, repaired; with a budget, the models are fine-tuned by that."""

    seeds: tuple[int, ...]
    repairs: tuple[Repair, ...]
    budget: Budget | None = None


def grid(chosen: Profile, kind: str = "settings") -> tuple[Task, ...]:
    """The tasks of a profile's grid, in the order in which they are run.

    Raises
    ------
    ValueError
        There is no grid of that kind.
    """
    if choice("kind", kind, KINDS) == "stability":
        return tuple(replace(task, stability=True) for task in grid(chosen)[:: EVERY[chosen.name]])
    tasks = [pair for part in GRIDS[kind][chosen.name] for pair in _tasks(part, chosen)]
    ordered = sorted(tasks, key=lambda pair: pair[0])  # stable: blocks keep their order
    return tuple(replace(task, audit=kind == "audits", sensitivity=kind == "sensitivity") for _, task in ordered)


def _tasks(part: Block | Chosen, chosen: Profile) -> Iterator[tuple[int, Task]]:
    """The repetition of each task, and the task."""
    if isinstance(part, Block):
        yield from ((repetition, _task(part, chosen, values)) for repetition, values in part.settings())
        return
    for task in grid(chosen):
        if task.setting.seed in part.seeds and part.repairs:
            budget = replace(part.budget or task.budget, precision=chosen.precision)
            yield 0, replace(task, repairs=repairs_of(task.setting.feature, part.repairs), budget=budget)


def repairs_of(feature: str, rows: tuple[Repair, ...]) -> tuple[Repair, ...]:
    """The rows for a setting; Spurious-Aware is told what the found feature is called, as its user would tell it."""
    told = {"spurious_aware": {"feature": feature}}
    return tuple(replace(row, options=row.options | told.get(row.recipe, {})) for row in rows)


def _task(block: Block, chosen: Profile, values: dict) -> Task:
    n_finetuning, n_test = min(block.n_finetuning, chosen.n_finetuning), min(block.n_test, chosen.n_test)
    sizes = {"n_finetuning": n_finetuning, "n_val": chosen.n_val, "n_test": n_test}
    budget = replace(block.budget, epochs=min(block.budget.epochs, chosen.epochs), precision=chosen.precision)
    repairs = repairs_of(values["feature"], block.repairs)
    return Task(Setting(**values, **sizes, pretrained=block.pretrained), budget, repairs)


def of_each_model(
    domain: str, attributes: tuple[int, ...], first_seed: int, initials: tuple[str, ...], budget: Budget
) -> tuple[Block, ...]:
    """Settings of every initial model, and those of the first with the statistics of BatchNorm frozen, too."""
    common = {"budget": budget, "n_test": 1000, "repairs": MODEL_ROWS}
    first = Block(domain, attributes, (0.95,), first_seed, initials=initials[:1], **common)
    others = (
        replace(first, first_seed=first_seed + 100 * at, initials=(name,)) for at, name in enumerate(initials[1:], 1)
    )
    return first, *others, replace(first, budget=replace(budget, batchnorm="frozen"))


BOTH = ("rn-mini", "rn-mini-deep")
THREE = (*BOTH, "vit-mini")
STRENGTHS = (0.7, 0.8, 0.9, 0.95, 0.99)
COCO_CLASSES, PHOTOS = tuple(range(5)), tuple(range(8))
SHORT, TOWER = Budget(epochs=3), Budget(trained="tower")
FULL = {"initials": BOTH, "repetitions": 2, "budget": SHORT, "n_test": 1000}
COCO = FULL | {"budget": DEFAULT_BUDGET}  # objects are learned more slowly than scans
CONTROLS = {"strengths": (0.0,), "initials": BOTH, "budget": SHORT, "n_test": 1000}
# CLIP's own models; the learning rate is ours, and was not tried
CLIP = {
    "initials": ("RN50-quickgelu", "RN101-quickgelu"),
    "pretrained": "openai",
    "budget": Budget(trained="tower", learning_rate=2e-5),
    "n_test": 1000,
}

GRIDS = {
    "settings": {
        "smoke": (
            Block("digits", (9,), (0.0, 0.9), first_seed=0),
            Block("photos", (4,), (0.9,), first_seed=100),
        ),
        "demo": (
            Block("digits", (0, 3, 7, 9), (0.8, 0.95, 0.99), first_seed=0),
            Block("digits", (3, 9), (0.0,), first_seed=50),
            Block(
                "photos", (0, 4), (0.8, 0.95, 0.99), first_seed=100, features=("red rectangle", "horse"), budget=SHORT
            ),
            Block("photos", (0, 4), (0.0,), first_seed=150, budget=SHORT),
        ),
        "full": (
            Block("mnist", DIGITS, STRENGTHS, first_seed=10_000, **FULL),
            Block("fashion_mnist", DIGITS, STRENGTHS, first_seed=20_000, **FULL),
            Block("coco_objects", COCO_CLASSES, STRENGTHS, first_seed=30_000, **COCO | {"repetitions": 5}),
            Block("coco_objects", COCO_CLASSES, STRENGTHS, 40_000, ("person", "banana"), **COCO | {"repetitions": 1}),
            Block("mnist", DIGITS, first_seed=11_000, **CONTROLS),
            Block("fashion_mnist", DIGITS, first_seed=21_000, **CONTROLS),
            Block("coco_objects", COCO_CLASSES, (0.0,), first_seed=39_000, **COCO),
        ),
        "paper": (
            Block("mnist", DIGITS, STRENGTHS, first_seed=50_000, **CLIP),
            Block("fashion_mnist", DIGITS, STRENGTHS, first_seed=60_000, **CLIP),
            Block("mnist", DIGITS, (0.0,), first_seed=59_000, **CLIP),
            Block("coco", (0, 1, 2), STRENGTHS, 70_000, features=("chair",), n_finetuning=2000, **CLIP),
        ),
    },
    "search": {
        "smoke": (Block("digits", (9,), (0.9,), first_seed=2, repairs=SEARCH_ROWS[:3]),),
        "demo": (Block("digits", (0, 7), (0.95,), first_seed=26, repairs=SEARCH_ROWS),),
        "full": (Chosen(SEARCH_SEEDS, SEARCH_ROWS),),
        "paper": (Block("mnist", (0, 7), (0.95,), first_seed=56_000, repairs=SEARCH_ROWS, **CLIP),),
    },
    "repairs": {
        "smoke": (Block("digits", (9,), (0.9,), first_seed=1, repairs=FEW_ROWS),),
        "demo": (
            Block("digits", (3, 9), (0.95,), first_seed=16, repairs=FEW_ROWS),
            Block("photos", (0,), (0.95,), 116, ("red rectangle", "horse"), budget=SHORT, repairs=FEW_ROWS),
        ),
        "full": (
            Chosen(CHOOSE_SEEDS, ROWS),
            Chosen(REPORT_SEEDS, REPORTED),
            Chosen(REPORT_SEEDS, CHOSEN_IDEAS),
            Chosen(TOWER_SEEDS, TOWER_ROWS, TOWER),
            Block("digits", DIGITS, (0.9,), first_seed=30, repairs=COMPETENT_ROWS),  # of an initial model at 85 %
        ),
        "paper": (Block("mnist", DIGITS, (0.9, 0.95, 0.99), first_seed=55_000, repairs=FEW_ROWS, **CLIP),),
    },
    "audits": {
        "smoke": (Block("digits", (9,), (0.0, 0.95), first_seed=3),),
        "demo": (
            Block("digits", (3, 9), (0.95, 0.0), first_seed=60),
            Block("photos", (0, 4), (0.95, 0.0), first_seed=160, budget=SHORT),
        ),
        "full": (
            Block("digits", DIGITS, (0.95, 0.99), first_seed=80_000),
            Block("photos", PHOTOS, (0.95, 0.99), first_seed=82_000, budget=SHORT),
            Block("digits", DIGITS, (0.0,), first_seed=81_000, repetitions=3),
            Block("photos", PHOTOS, (0.0,), first_seed=83_000, repetitions=4, budget=SHORT),
        ),
        "paper": (
            Block("mnist", DIGITS, (0.95,), first_seed=85_000, **CLIP),
            Block("mnist", DIGITS, (0.0,), first_seed=86_000, **CLIP),
        ),
    },
    "sensitivity": {
        "smoke": (Block("digits", (9,), (0.9,), first_seed=40, repairs=MODEL_ROWS[:2]),),
        "demo": (
            *of_each_model("digits", (3, 9), 200, ("rn-mini", "vit-mini"), DEFAULT_BUDGET),
            *of_each_model("photos", (0,), 500, ("rn-mini",), SHORT),
        ),
        "full": (
            *of_each_model("mnist", DIGITS[:5], 90_000, THREE, SHORT),
            *of_each_model("fashion_mnist", DIGITS[:5], 91_000, THREE, SHORT),
            *of_each_model("photos", PHOTOS[:5], 92_000, THREE, SHORT),
        ),
        "paper": (Block("mnist", (0, 3, 7), (0.95,), first_seed=95_000, repairs=MODEL_ROWS, **CLIP),),
    },
}
