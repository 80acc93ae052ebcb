"""How often audits are right: from the records of models whose shortcut is known to shares with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ravl_core.metrics import wilson_interval
from ravl_core.settings import THRESHOLDS
from ravl_core.study import setting_columns

RIGHT = 0.5  # a finding is right if so large a share of its first ten regions shows the planted feature
FILLS = ("surroundings", "blur")


def trials_table(records: Iterable[Mapping]) -> pd.DataFrame:
    """One row an audited model: what was planted and learned, and what the audit says first.

    `found_*` and `mask_*` are of the first finding, NaN without one: `mask_<fill>` is what hiding its regions does to
    the score of the class on images of other classes, beyond hiding other regions, with `_low` and `_high`.
    """
    rows = [{"position": at} | _row(record) for at, record in enumerate(records)]
    return pd.DataFrame(rows)


def _row(record: Mapping) -> dict:
    columns = setting_columns(record)
    kept = {name: columns[name] for name in ("domain", "initial", "feature", "attribute", "strength", "seed", "margin")}
    told = record["metrics"]["audit"]
    counts = {"n_findings": len(told), "n_confirmed": sum(one["confirmed"] for one in told)}
    first = told[0] if told else None
    names = "attribute", "precision_at_10", "pull", "p_value", "n_images"
    found = {f"found_{name}": first[name] if first else np.nan for name in names}
    ends = zip(("chosen", "chosen_low", "chosen_high"), first["chosen"] if first else [np.nan] * 3, strict=True)
    masks = {}
    for fill in FILLS:
        change = first["masks"][fill]["beyond_control"]["probability"] if first else [np.nan] * 3
        values = [np.nan if end is None else end for end in change]
        masks |= dict(zip((f"mask_{fill}", f"mask_{fill}_low", f"mask_{fill}_high"), values, strict=True))
    return kept | counts | found | dict(ends) | masks


def trial_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Shares of audits, with Wilson's 95 % intervals: `among`, `what`, `count`, `n`, `share`, `low`, `high`.

    A shortcut was learned if the model is valid at T = 10. The first finding is right if half of its first ten regions
    show the planted feature and it names the planted class; a mask counts if its interval lies below zero.
    """
    planted = rows.strength > 0
    right = (rows.found_precision_at_10 >= RIGHT) & (rows.found_attribute == rows.attribute)
    hidden = {fill: right & (rows[f"mask_{fill}_high"] < 0) for fill in FILLS}
    groups = {"learned": planted & (rows.margin >= THRESHOLDS[0]), "planted": planted, "nothing planted": ~planted}
    told = []
    for among, chosen in groups.items():
        whats = {"something is found": rows.n_findings > 0, "something is found and confirmed": rows.n_confirmed > 0}
        if among != "nothing planted":
            whats |= {"the first finding is the planted feature": right}
            whats |= {f"… and hiding it counts ({fill})": mask for fill, mask in hidden.items()}
        told += [{"among": among, "what": what} | _share(hits[chosen]) for what, hits in whats.items()]
    return pd.DataFrame(told)


def _share(hits: pd.Series) -> dict:
    n, count = len(hits), int(hits.sum())
    low, high = wilson_interval(count / n, n) if n else (np.nan, np.nan)
    return {"count": count, "n": n, "share": count / n if n else np.nan, "low": float(low), "high": float(high)}
