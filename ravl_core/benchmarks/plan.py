"""What notebook 08 measures in each profile: sizes that fit its time. The full profile's are those of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ravl_core.checks import choice


@dataclass(frozen=True)
class Plan:
    """Arguments of the benchmarks beside this module.

    Parameters
    ----------
    clustering : method → numbers of regions, for `clustering.clustering_costs`.
    candidates : numbers of clusters that it tries.
    agreement : arguments of `clustering.agreement`.
    scale : numbers of regions, for `scale.scale_costs`.
    encoding : arguments of `encoding.encoding_speed`, one set a model.
    memory : numbers of images, for `encoding.encoding_memory`.
    finetuning : arguments of `finetuning.recipe_rates`.
    n_settings : for `finetuning.settings_per_hour`; 0: not measured.
    n_rounds : of the starts.
    """

    clustering: Mapping[str, tuple[int, ...]]
    candidates: tuple[int, ...] = tuple(range(20, 50))
    agreement: Mapping[str, Any] = field(default_factory=dict)
    scale: tuple[int, ...] = ()
    encoding: tuple[Mapping[str, Any], ...] = ()
    memory: tuple[int, ...] = ()
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    n_settings: int = 0
    n_rounds: int = 3


PLANS = {
    "smoke": Plan(
        clustering={"plain": (200, 400), "exact": (200, 400), "linear": (400, 800), "one product": (200, 400)},
        candidates=(4, 5, 6),
        agreement={"n_regions": 600, "seeds": (0,)},
        scale=(2000, 4000),
        encoding=({"model": "rn-mini", "n_images": 16, "n_rounds": 1},),
        memory=(100, 200),
        finetuning={"n_images": 256, "recipes": ("standard", "ravl"), "n_rounds": 1},
        n_rounds=1,
    ),
    "demo": Plan(
        clustering={
            "plain": (1000, 2000, 4000),
            "exact": (1000, 4000, 8000),
            "linear": (4000, 16_000, 64_000),
            "one product": (1000, 4000, 8000),
        },
        agreement={"n_regions": 6000, "seeds": (0, 1)},
        scale=(10_000, 100_000),
        encoding=({"model": "rn-mini", "n_images": 128, "n_rounds": 3},),
        memory=(500, 1000, 2000),
        finetuning={"n_images": 384, "n_rounds": 1},
        n_settings=0,
    ),
    "full": Plan(
        clustering={
            "plain": (1000, 4000, 16_000),
            "exact": (1000, 4000, 16_000),
            "linear": (4000, 16_000, 64_000, 256_000),
            "one product": (1000, 4000, 16_000),
        },
        agreement={"n_regions": 12_000, "seeds": (0, 1, 2, 3, 4)},
        scale=(10_000, 100_000, 1_000_000),
        encoding=(
            {"model": "rn-mini", "n_images": 256, "batch_size": 128, "n_rounds": 5},
            {"model": "RN50", "n_images": 16, "batch_size": 16, "n_rounds": 3},
            {"model": "ViT-B-16", "n_images": 8, "batch_size": 8, "n_rounds": 3},
        ),
        memory=(500, 1000, 2000, 4000, 16_000),
        finetuning={"n_images": 512, "n_rounds": 3},
        n_settings=6,
    ),
}
PLANS["paper"] = PLANS["full"]


def plan(profile: str) -> Plan:
    """The plan of a profile's name. Raises ValueError for another name."""
    return PLANS[choice("profile", profile, PLANS)]
