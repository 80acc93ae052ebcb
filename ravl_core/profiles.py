"""How much to run: the same notebooks, three budgets.

The order of precedence is an explicit name (papermill's parameter), the environment variable RAVL_PROFILE, demo.
"""

import difflib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """What a run spends. The notebooks read everything that may differ between runs from here."""

    name: str
    n_finetuning: int  # images a model is fine-tuned on
    epochs: int  # passes over them
    strengths: tuple[float, ...]  # Cramér's V of the planted correlation; 0 plants nothing
    attributes: tuple[int, ...]  # classes that the spurious feature goes with, one a setting
    seeds: tuple[int, ...]  # one model a setting and seed
    n_evaluation: int  # images in val, and in test
    n_mitigation_settings: int  # settings that are repaired, the valid ones in order
    workers: int  # processes of one thread each


PROFILES = {
    # CI and nbval: every line of code once, no claim about numbers
    "smoke": Profile(
        name="smoke",
        n_finetuning=600,
        epochs=2,
        strengths=(0.0, 0.95),
        attributes=(9,),
        seeds=(0,),
        n_evaluation=300,
        n_mitigation_settings=1,
        workers=2,
    ),
    # `make reproduce`: enough settings for the shape of every table
    "demo": Profile(
        name="demo",
        n_finetuning=3000,
        epochs=4,
        strengths=(0.0, 0.7, 0.8, 0.9, 0.95, 0.99),
        attributes=(0, 3, 6, 9),
        seeds=(0,),
        n_evaluation=600,
        n_mitigation_settings=4,
        workers=2,
    ),
    # the reference run: every class, many seeds
    "full": Profile(
        name="full",
        n_finetuning=3000,
        epochs=4,
        strengths=(0.0, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99),
        attributes=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        seeds=tuple(range(15)),
        n_evaluation=600,
        n_mitigation_settings=36,
        workers=2,
    ),
}


def profile(name: str | None = None) -> Profile:
    """The profile called `name`; without a name the one that RAVL_PROFILE names, else demo.

    Raises ValueError for an unknown name, and says where the name came from and which one is nearest.
    """
    chosen = name or os.environ.get("RAVL_PROFILE") or "demo"
    if chosen in PROFILES:
        return PROFILES[chosen]
    source = "profile" if name else "RAVL_PROFILE"
    near = difflib.get_close_matches(chosen, PROFILES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{source}: expected one of {', '.join(PROFILES)}, got {chosen!r}{hint}")
