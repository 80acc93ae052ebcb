"""From records to tidy tables of discovery: one row for each setting and method, finding, size or variation.

They name the setting by its `position` in the grid, by which they join the table of the settings; the table of
stability, which is of a grid of its own, does so by domain and seed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ravl_core import paths, study
from ravl_core.atomic import write_atomically

RECIPES = ("paper", "pull", "controlled")
DECIMALS = 4  # of shares, which are of ten or of a hundred


@dataclass(frozen=True)
class DiscoveryTables:
    """What the notebooks on discovery read.

    Attributes
    ----------
    settings : one row a setting: what was planted, what was learned, the paper's finding (`ravl_core.study.table`).
    methods : one row a setting and method: Precision@10, the lenient count, average precision, attribute.
    sizes : one row a setting, number of val images and recipe: Precision@10 and attribute.
    inference : one row a setting: intervals and p-values of the paper's first finding.
    significant : one row a cluster that chance does not explain, in the order in which they were found.
    """

    settings: pd.DataFrame
    methods: pd.DataFrame
    sizes: pd.DataFrame
    inference: pd.DataFrame
    significant: pd.DataFrame

    def save(self, folder: Path) -> list[Path]:
        """Write each table but that of the settings, which is the evaluation settings' own, to a file of the folder."""
        names = [name for name in FILES if name != "settings"]
        return [write_atomically(folder / FILES[name], getattr(self, name).to_csv(index=False)) for name in names]


FILES = {
    "settings": "settings.csv",
    "methods": "discovery_methods.csv",
    "sizes": "discovery_sizes.csv",
    "inference": "discovery_inference.csv",
    "significant": "discovery_significant.csv",
}
STABILITY = "discovery_stability.csv"


def discovery_tables(records: Iterable[dict]) -> DiscoveryTables:
    """The tables of the records of a study, which are given in the grid's order."""
    records = list(records)
    return DiscoveryTables(
        settings=study.table(records).round(6),
        methods=_frame(records, _methods),
        sizes=_frame(records, _sizes),
        inference=_frame(records, _inference),
        significant=_frame(records, _significant),
    )


def reference_tables(profile: str = "full") -> DiscoveryTables:
    """The committed tables of the reference run.

    Raises
    ------
    FileNotFoundError
        One is not there; the message says how to make it.
    """
    folder = paths.PROJECT / "results" / profile
    missing = [file for file in FILES.values() if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"results/{profile}: {', '.join(missing)} missing; make reproduce PROFILE={profile}")
    return DiscoveryTables(**{name: pd.read_csv(folder / file) for name, file in FILES.items()})


def stability_table(records: Iterable[dict], of: str = "stability") -> pd.DataFrame:
    """One row a setting, variation and recipe: whether it agrees with the base run, and how far.

    `of` names what was varied: "stability" or "sensitivity", see the modules of these names.
    """
    return _frame(list(records), partial(_varied, of=of), ["domain", "seed", "kind", "variation", "recipe"])


def reference_stability(profile: str = "full") -> pd.DataFrame:
    """The committed table of `stability_table` of the reference run. Raises FileNotFoundError where it is missing."""
    path = paths.PROJECT / "results" / profile / STABILITY
    if not path.is_file():
        raise FileNotFoundError(f"results/{profile}/{STABILITY} is missing; make reproduce PROFILE={profile} makes it")
    return pd.read_csv(path)


def _frame(records: list[dict], rows, columns: list[str] | None = None) -> pd.DataFrame:
    found = [{"position": at} | row for at, record in enumerate(records) for row in rows(record)]
    return pd.DataFrame(found, columns=None if found else columns or ["position"]).round(DECIMALS)


def _methods(record: dict) -> Iterator[dict]:
    shown = ("precision_at_10", "image_precision_at_10", "average_precision", "attribute", "n_regions")
    for name, judged in record["metrics"]["discovery"]["methods"].items():
        yield {"method": name} | {key: judged[key] for key in shown}


def _sizes(record: dict) -> Iterator[dict]:
    for row in record["metrics"]["discovery"]["by_size"]:
        for recipe in RECIPES:
            yield {"n_images": row["n_images"], "recipe": recipe, **row[recipe]}


def _inference(record: dict) -> Iterator[dict]:
    looked = record["metrics"]["discovery"]["inference"]
    first = looked["first"] or {}
    row = {"smallest_gap_p": looked["smallest_gap_p"], "n_significant": len(looked["significant"])}
    row |= {name: first.get(name) for name in ("gap_p", "n_sources", "influence_images")}
    for name in ("gap", "influence", "difference"):
        ends = first.get(name) or (None, None, None)
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
    yield row


def _significant(record: dict) -> Iterator[dict]:
    for rank, found in enumerate(record["metrics"]["discovery"]["inference"]["significant"]):
        yield {"rank": rank, **found}


def _varied(record: dict, of: str) -> Iterator[dict]:
    setting = record["arguments"]["setting"]
    planted = {name: setting[name] for name in ("domain", "feature", "strength", "seed")}
    planted |= {"planted_attribute": setting["attribute"]}
    for row in record["metrics"][of]:
        what = planted | {name: row[name] for name in ("kind", "variation", "n_clusters", "n_regions")}
        for recipe in RECIPES:
            yield what | {"recipe": recipe, **row[recipe]}
