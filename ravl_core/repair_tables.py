"""Records of the grid of repairs as tidy tables: a row for each setting and method."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from ravl_core.study import FIGURES_OF_TABLE_3, discovery_columns, setting_columns

DIAGNOSED = "diagnosed"  # the model that stage 1 looked at
MADE_BY = ("recipe", "assignment", "assignment_recall", "assignment_precision", "learning_rate", "start", "rounds")
ORDER = ["trained", "strength", "attribute", "seed"]


def repairs_table(finished: Iterable[dict]) -> pd.DataFrame:
    """One row for each setting and method, the diagnosed model first, in the order of strength, attribute, seed.

    Accuracies are 0 … 1, margins in points; `position` counts the records as given. `aligned_accuracy` is the image
    accuracy where the correlation holds: groups are weighted as in the fine-tuning set. What there is no number for
    is NaN. Several records of one setting, with other repairs each, make one block of rows.
    """
    rows = [{"position": at} | row for at, record in enumerate(finished) for row in _rows(record)]
    rows = [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).sort_values(ORDER, kind="stable").drop_duplicates([*ORDER, "domain", "method"])
    return table.reset_index(drop=True)


def followed_table(finished: Iterable[dict]) -> pd.DataFrame:
    """One row for each setting and method whose found cluster was looked at again; see `ravl_core.repairs.follow_up`.

    Columns are named by the path to a value: `same_after_gap`, `again_gone`, `mask_before_…`.
    """
    rows = [
        {"position": at} | setting_columns(record) | {"method": repair["name"]} | _flat(repair["followed_up"])
        for at, record in enumerate(finished)
        for repair in record["metrics"]["repairs"]
        if repair["followed_up"]
    ]
    return pd.DataFrame(rows).sort_values(ORDER, kind="stable", ignore_index=True) if rows else pd.DataFrame()


def _flat(nested: dict, prefix: str = "") -> dict:
    """Dicts of dicts as one, the keys joined by underscores; of an interval its estimate, low and high."""
    flat = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}_")
        elif isinstance(value, list):
            flat |= _flat(dict(zip((name, f"{name}_low", f"{name}_high"), value, strict=True)), prefix)
        else:
            flat[prefix + name] = math.nan if value is None else value
    return flat


def _rows(record: dict) -> list[dict]:
    metrics, common = record["metrics"], discovery_columns(record)
    counts = np.array(metrics["finetuning_groups"])
    standard = {"recipe": "standard", "assignment": "none", "start": "initial", "rounds": 1}
    standard |= {"learning_rate": record["arguments"]["budget"]["learning_rate"]}
    found = [common | {"method": DIAGNOSED} | standard | _figures(metrics["standard"], counts)]
    for repair in metrics["repairs"]:
        made_by = {name: repair[name] for name in MADE_BY}
        judged = {"val_worst_group": repair["val_worst_group"], "repaired_margin": repair["margin"]}
        found.append(common | {"method": repair["name"]} | made_by | _figures(repair, counts) | judged)
    return found


def _figures(measured: dict, counts: np.ndarray) -> dict:
    figures = {name: measured[name] for name in FIGURES_OF_TABLE_3}
    return figures | {"aligned_accuracy": aligned_accuracy(measured["groups"]["image_accuracy"], counts)}


def aligned_accuracy(accuracy: list, counts: np.ndarray) -> float:
    """Group accuracies (C, 2), weighted by how many fine-tuning images each group has; 0 … 1.

    Groups without a test image are left out. WILDS reports Waterbirds' average in this way.
    """
    accuracy = np.array(accuracy, dtype=np.float64)
    counts = np.where(np.isnan(accuracy), 0, counts)
    return float((np.nan_to_num(accuracy) * counts).sum() / counts.sum())
