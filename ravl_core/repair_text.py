"""Tables of repairs for reading: differences as text, and the closed loop in one row a method."""

from collections.abc import Sequence

import pandas as pd

from ravl_core.discovery_summaries import clustered_interval
from ravl_core.mitigation_summaries import DIFFERENCE, clusters

BEFORE_AFTER = {  # what is shown of `repair_tables.followed_table`, before and after a repair
    "gap G": ("same_before_gap", "same_after_gap"),
    "pull": ("same_before_pull", "same_after_pull"),
    "mask": ("mask_before_others_effect_probability", "mask_others_effect_probability"),
}


def difference_text(row: pd.Series) -> str:
    """A difference and its ends, as in +3.1 [+0.4, +5.9]; nothing where there is none."""
    if pd.isna(row.difference):
        return ""
    mean, low, high = (f"{row[end]:+.1f}" for end in DIFFERENCE)
    return f"{mean} [{low}, {high}]"


def changes_text(changes: pd.DataFrame, by: Sequence[str] = ("method",)) -> pd.DataFrame:
    """Differences in points as text, a column a metric, a row for each combination of `by`, with its n.

    `changes` has the columns metric, n, difference, difference_low and difference_high, and those of `by`.
    """
    rows = {}
    for key, part in changes.groupby(list(by), sort=False, observed=True):
        cells = {row.metric: difference_text(row) for _, row in part.iterrows()}
        rows[key if len(by) > 1 else key[0]] = {"n": int(part.n.max())} | cells
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(list(by))


def closed_loop_table(followed: pd.DataFrame) -> pd.DataFrame:
    """The found cluster before and after each method's repair, mean [95 % interval], and what stage 1 finds again.

    Parameters
    ----------
    followed : `repair_tables.followed_table`.

    Returns
    -------
    DataFrame
        One row a method: n settings with a finding; gap, pull and the effect of a mask on other classes' images, before
        and after; `same class` and `covered`: how often the new first finding names the same class, and the mean share
        of the old regions in it; `gone` and `replaced` of the settings where the old finding was significant.
    """
    rows = {}
    for method, part in followed.groupby("method", sort=False):
        row = {"n": len(part)}
        for name, columns in BEFORE_AFTER.items():
            row |= {f"{name}, {when}": _mean(part, c) for when, c in zip(("before", "after"), columns, strict=True)}
        shown = part[part.again_gone.notna()]
        row |= {"same class": _share(part.again_same_attribute), "covered": _mean(part, "again_covered")}
        row |= {"gone": _share(shown.again_gone), "replaced": _share(shown.again_replaced)}
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _mean(part: pd.DataFrame, column: str) -> str:
    """Mean and interval, where settings that share a domain and an attribute are drawn together; "" without any."""
    values = part.dropna(subset=[column])
    if values.empty:
        return ""
    mean, low, high = (f"{end:.2f}" for end in clustered_interval(values[column], clusters(values)))
    return f"{mean} [{low}, {high}]"


def _share(truths: pd.Series) -> str:
    """How many are true, as in 3 of 21, of the values that are known."""
    known = truths.dropna().astype(bool)
    return f"{int(known.sum())} of {len(known)}"
