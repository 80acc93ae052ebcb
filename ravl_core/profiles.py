"""How much to run: the same notebooks, three budgets.

The order of precedence is an explicit name (papermill's parameter), the environment variable RAVL_PROFILE, demo.
"""

import os
from dataclasses import dataclass

from ravl_core.checks import nearest


@dataclass(frozen=True)
class Profile:
    """What a run spends on each setting; which settings there are stands in `ravl_core.grids`."""

    name: str
    n_finetuning: int  # images a model is fine-tuned on
    epochs: int  # passes over them; a block of the grid may ask for fewer
    n_val: int  # images for validity and discovery
    n_test: int  # images for accuracies; a block may ask for fewer
    precision: str  # of training; bfloat16 is twice as fast on processors that have it
    workers: int  # processes of one thread each


PROFILES = {
    # CI and nbval: every line of code once, no claim about numbers
    "smoke": Profile("smoke", n_finetuning=800, epochs=3, n_val=300, n_test=400, precision="float32", workers=2),
    # `make reproduce`: enough settings for the shape of every table
    "demo": Profile("demo", n_finetuning=2000, epochs=5, n_val=1000, n_test=2000, precision="float32", workers=2),
    # the reference run that the notebooks show beside their own
    "full": Profile("full", n_finetuning=2000, epochs=5, n_val=1000, n_test=2000, precision="bfloat16", workers=2),
    # CLIP's own models at 224 pixels, with OpenAI's weights; wants a GPU or a cluster, and has not been run by us
    "paper": Profile("paper", n_finetuning=10_000, epochs=5, n_val=1000, n_test=1000, precision="bfloat16", workers=1),
}


def profile(name: str | None = None) -> Profile:
    """The profile called `name`; without a name the one that RAVL_PROFILE names, else demo.

    Raises ValueError for an unknown name, and says where the name came from and which one is nearest.
    """
    chosen = name or os.environ.get("RAVL_PROFILE") or "demo"
    if chosen in PROFILES:
        return PROFILES[chosen]
    source = "profile" if name else "RAVL_PROFILE"
    raise ValueError(f"{source}: expected one of {', '.join(PROFILES)}, got {chosen!r}{nearest(chosen, PROFILES)}")
