"""What a profile costs: its grids counted, and hours from rates that were measured, marked where they were not.

A grid whose settings were timed themselves has one row, their number times their seconds. Any other is the sum of its
parts: images trained on, images encoded and regions clustered, each by the rate of its model. So a sum leaves out what
is small beside these: data, scores, permutations, and stage 1 in the variations of a stability or audit grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ravl_core.grids import KINDS, grid
from ravl_core.profiles import PROFILES
from ravl_core.settings import Setting

if TYPE_CHECKING:
    from ravl_core.tasks import Task

MEASURED, EXTRAPOLATED = "measured", "extrapolated"
REGIONS = 4  # of an image: quadrants
RECIPE = "standard"  # whose rate is known of every model, or of one that it is like


@dataclass(frozen=True)
class Measured:
    """What costs are computed from.

    Parameters
    ----------
    training : columns model, trained, recipe, images_per_second; see `finetuning.recipe_rates`.
    encoding : of each model images a second, with their regions.
    clustering : columns regions and seconds, above 0; see `discover`.
    settings : of a profile and the kind of a grid, seconds of one of its settings from a run.
    like : a model whose rates were not measured → one whose were, and how many times as fast it is.
    """

    training: pd.DataFrame
    encoding: Mapping[str, float]
    clustering: pd.DataFrame
    settings: Mapping[tuple[str, str], float] = field(default_factory=dict)
    like: Mapping[str, tuple[str, float]] = field(default_factory=dict)


def cost_table(measured: Measured, profiles: Sequence[str] = ("full", "paper")) -> pd.DataFrame:
    """Hours of every grid of the profiles, on one process of the machine that the rates are of.

    Returns
    -------
    DataFrame
        Columns profile, grid, settings (their number), what, amount (of images, regions or settings), hours, and how:
        "measured" where a rate of that very model, recipe and trained part, or the time of such settings, was measured
        and regions are within the measured numbers; else "extrapolated". Extrapolated rates: a model's by `like`; a
        recipe's from the standard one's, in the ratio that another model or trained part has; clustering by a power
        law through all measured points.

    Raises
    ------
    ValueError
        A rate that is neither measured nor like one that is.
    """
    rows = []
    for profile in profiles:
        for kind in KINDS:
            tasks = grid(PROFILES[profile], kind)
            start = {"profile": profile, "grid": kind, "settings": len(tasks)}
            rows += [start | row for row in _costs_of(tasks, measured, measured.settings.get((profile, kind)))]
    return pd.DataFrame(rows)


def _costs_of(tasks: Sequence[Task], measured: Measured, seconds: float | None) -> list[dict]:
    """The rows of a grid: its settings as they were timed, or its parts, measured and extrapolated apart."""
    if seconds is not None:
        return [_row("settings", len(tasks), len(tasks) * seconds, MEASURED)]
    parts = {}
    for part, amount, taken, how in _parts(tasks, measured):
        total = parts.setdefault((part, how), [0, 0.0])
        total[0] += amount
        total[1] += taken
    return [_row(part, amount, taken, how) for (part, how), (amount, taken) in parts.items()]


def _row(what: str, amount: int, seconds: float, how: str) -> dict:
    return {"what": what, "amount": amount, "hours": seconds / 3600, "how": how}


def _parts(tasks: Sequence[Task], measured: Measured):
    """Of each kind of work: what it is, its amount, its seconds, and how they are known."""
    for (model, trained, recipe), n_images in images_trained_on(tasks).items():
        rate, how = training_rate(measured, model, trained, recipe)
        yield "images trained on", n_images, n_images / rate, how
    for model, n_images in images_encoded(tasks).items():
        rate, how = encoding_rate(measured, model)
        yield "images encoded", n_images, n_images / rate, how
    for n_regions, n_times in Counter(REGIONS * task.setting.n_val for task in tasks).items():
        seconds, how = clustering_seconds(measured, n_regions)
        yield "regions clustered", n_times * n_regions, n_times * seconds, how


def images_trained_on(tasks: Sequence[Task]) -> Counter:
    """Images times epochs, by (model, trained part, recipe): a fine-tuned model each setting, and its repairs."""
    counts = Counter()
    for task in tasks:
        n_images = task.setting.n_finetuning * task.budget.epochs
        for recipe, rounds in [(RECIPE, 1), *((repair.recipe, repair.rounds) for repair in task.repairs)]:
            counts[task.setting.initial, task.budget.trained, recipe] += rounds * n_images
    return counts


def images_encoded(tasks: Sequence[Task]) -> Counter:
    """Images by model: test by the initial model, val and test by the fine-tuned one and by each repaired one."""
    counts = Counter()
    for task in tasks:
        one: Setting = task.setting
        counts[one.initial] += one.n_test + (1 + len(task.repairs)) * (one.n_val + one.n_test)
    return counts


def training_rate(measured: Measured, model: str, trained: str, recipe: str) -> tuple[float, str]:
    """Images a second of a recipe, and how that is known."""
    rates = measured.training.set_index(["model", "trained", "recipe"]).images_per_second
    if (model, trained, recipe) in rates:
        return float(rates[model, trained, recipe]), MEASURED
    if (model, trained, RECIPE) in rates:
        return float(rates[model, trained, RECIPE]) * _share_of_standard(rates, trained, recipe), EXTRAPOLATED
    if model in measured.like:
        other, times = measured.like[model]
        return times * training_rate(measured, other, trained, recipe)[0], EXTRAPOLATED
    raise ValueError(f"measured: expected a rate of {recipe!r} or {RECIPE!r} for {model}, {trained}, got none")


def _share_of_standard(rates: pd.Series, trained: str, recipe: str) -> float:
    """A recipe's rate in terms of the standard one's: the mean over models, of that trained part if there are any."""
    table = rates.unstack("recipe")
    if recipe not in table or (shares := (table[recipe] / table[RECIPE]).dropna()).empty:
        raise ValueError(f"measured: expected the rates of {recipe!r} and {RECIPE!r} for some model, got none")
    same = shares[shares.index.get_level_values("trained") == trained]
    return float((shares if same.empty else same).mean())


def encoding_rate(measured: Measured, model: str) -> tuple[float, str]:
    """Images a second, with their regions, and how that is known."""
    if model in measured.encoding:
        return measured.encoding[model], MEASURED
    if model in measured.like and measured.like[model][0] in measured.encoding:
        other, times = measured.like[model]
        return times * measured.encoding[other], EXTRAPOLATED
    raise ValueError(f"measured: expected a rate of encoding for {model}, got {', '.join(measured.encoding) or 'none'}")


def clustering_seconds(measured: Measured, n_regions: int) -> tuple[float, str]:
    """Seconds of stage 1 on so many regions, on logarithmic axes between measured sizes and by their slope beyond."""
    points = measured.clustering.sort_values("regions")
    sizes, seconds = np.log(points.regions.to_numpy(float)), np.log(points.seconds.to_numpy(float))
    if sizes[0] <= np.log(n_regions) <= sizes[-1]:
        return float(np.exp(np.interp(np.log(n_regions), sizes, seconds))), MEASURED
    if len(points) < 2:
        raise ValueError(
            f"measured: expected two sizes of clustering or more for {n_regions} regions, got {len(points)}"
        )
    slope, height = np.polyfit(sizes, seconds, 1)
    return float(np.exp(slope * np.log(n_regions) + height)), EXTRAPOLATED
