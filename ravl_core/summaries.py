"""From the table of a study to the settings that the paper's tables are made of: which are valid, which are judged."""

from collections.abc import Sequence

import pandas as pd

from ravl_core import paths
from ravl_core.settings import THRESHOLDS

PAPERS_SETTINGS = 654  # valid ones


def reference_table(kind: str = "settings") -> pd.DataFrame:
    """The committed table of the full run's grid of that kind, which the notebooks show beside their own.

    Raises
    ------
    FileNotFoundError
        It is not there; the message says how to make it.
    """
    path = paths.PROJECT / "results" / "full" / f"{kind}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"results/full/{kind}.csv is missing; `make reproduce PROFILE=full` makes it")
    return pd.read_csv(path)


def of_standard_models(table: pd.DataFrame, trained: str | None = None) -> pd.DataFrame:
    """One row a setting: the standard fine-tuned model that stage 1 looked at.

    `trained` is the part of the image tower that learned; "head" if not given, or what there is where there is none.
    """
    standard = table[table.recipe == "standard"]
    if trained is None:
        trained = "head" if not len(standard) or (standard.trained == "head").any() else standard.trained.iloc[0]
    return standard[standard.trained == trained]


def validity_table(
    table: pd.DataFrame, by: Sequence[str] = ("strength",), thresholds: Sequence[int] = THRESHOLDS
) -> pd.DataFrame:
    """Settings of each combination of `by`, and how many of them are valid at each T_eval (margin ≥ T points)."""
    margins = of_standard_models(table).groupby(list(by)).margin
    valid = {f"T = {t}": margins.apply(lambda margin, t=t: int((margin >= t).sum())) for t in thresholds}
    return pd.DataFrame({"settings": margins.size(), **valid})


def evaluated(table: pd.DataFrame, most: int = PAPERS_SETTINGS) -> pd.DataFrame:
    """The settings that methods are judged on: those valid at T = 10, at most `most`, the first in the grid's order."""
    planted = of_standard_models(table).query("strength > 0")
    return planted[planted.margin >= THRESHOLDS[0]].sort_values("position").head(most)
