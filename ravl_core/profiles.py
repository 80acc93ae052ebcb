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
    strengths: tuple[float, ...]  # Cramér's V of the planted correlation; 0 plants nothing: a control
    attributes: tuple[int, ...]  # classes that the spurious feature goes with
    repetitions: int  # settings for each strength and attribute, every one with a seed of its own
    repaired_strengths: tuple[float, ...]  # the first repetition at these strengths is repaired too
    n_finetuning: int  # images a model is fine-tuned on
    epochs: int  # passes over them
    n_val: int  # images for validity and discovery
    n_test: int  # images for accuracies
    tower_strengths: tuple[float, ...]  # the same once more, with the whole image tower trained
    precision: str  # of training; bfloat16 is twice as fast on processors that have it
    workers: int  # processes of one thread each


PROFILES = {
    # CI and nbval: every line of code once, no claim about numbers
    "smoke": Profile(
        name="smoke",
        strengths=(0.0, 0.9),
        attributes=(9,),
        repetitions=1,
        repaired_strengths=(0.9,),
        n_finetuning=800,
        epochs=3,
        n_val=300,
        n_test=400,
        tower_strengths=(),
        precision="float32",
        workers=2,
    ),
    # `make reproduce`: enough settings for the shape of every table
    "demo": Profile(
        name="demo",
        strengths=(0.0, 0.7, 0.8, 0.9, 0.95, 0.99),
        attributes=(0, 3, 7, 9),
        repetitions=1,
        repaired_strengths=(0.95,),
        n_finetuning=2000,
        epochs=5,
        n_val=1000,
        n_test=2000,
        tower_strengths=(),
        precision="float32",
        workers=2,
    ),
    # the reference run that the notebooks show beside their own
    "full": Profile(
        name="full",
        strengths=(0.0, 0.7, 0.8, 0.9, 0.95, 0.99),
        attributes=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        repetitions=1,
        repaired_strengths=(0.9, 0.95, 0.99),
        n_finetuning=2000,
        epochs=5,
        n_val=1000,
        n_test=2000,
        tower_strengths=(0.9,),
        precision="bfloat16",
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
