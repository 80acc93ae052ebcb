"""What else is known of the images: does the model answer by it, and does it go with the label?

A hospital, a camera or a background that stands in a column of the data needs no cluster to be looked at. The same test
as for clusters is asked of each value of each column; and where a column goes with the label, no audit of these images
can tell a shortcut by it from the class itself, which is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ravl_core.audits.with_and_without import with_and_without
from ravl_core.significance import largest_statistics
from ravl_core.zero_shot import Evaluation

if TYPE_CHECKING:
    import pandas

MOST_LEVELS = 20
LEVEL = 0.05
FIELDS = ("column", "value", "n_images", "v_with_label", "attribute", "p_value", "chosen", "chosen_low", "chosen_high",
          "chosen_in", "chosen_out", "n_in", "n_out")  # fmt: skip


def column_effects(
    metadata: pandas.DataFrame,
    evaluation: Evaluation,
    groups: np.ndarray | None = None,
    tested: np.ndarray | None = None,
    n_permutations: int = 999,
    seed: int = 0,
) -> pandas.DataFrame:
    """How the answers go with each value of each column, the smallest p-values first.

    Parameters
    ----------
    metadata : N rows. Columns with one value, or with more than 20, are left out; a missing value is none.
    groups, tested : see `with_and_without` and `ravl_core.audits.findings.one_of_each`.

    Returns
    -------
    pandas.DataFrame
        `column`, `value` and `n_images` with it; `v_with_label`, Cramér's V of the column and the label, 0 … 1; the
        `attribute` (a class's name) that images with it lean to; `p_value` of gap and pull, against the largest that
        chance gives over all values of all columns; `chosen` and its ends: images of other classes, how much more
        often they are answered with the attribute, -1 … 1, and the two shares (`chosen_in` of `n_in`, `chosen_out` of
        `n_out` images).
    """
    import pandas

    columns = {name: table for name in metadata if (table := _levels(metadata[name])) is not None}
    if not columns:
        return pandas.DataFrame(columns=FIELDS)
    tested = np.arange(len(evaluation.labels)) if tested is None else tested
    held = np.column_stack([table.to_numpy(dtype=bool) for table in columns.values()])  # (N, L)
    asked = held[tested], evaluation.labels[tested], evaluation.image_probs[tested]
    test = largest_statistics(*asked, n_permutations=n_permutations, seed=seed, discount=False)
    values = [(name, value) for name, table in columns.items() for value in table]
    strengths = {name: _strength(metadata[name], evaluation.labels) for name in columns}
    rows = []
    for at, (name, value) in enumerate(values):
        attribute = int(test.pull[at].argmax())
        answers = evaluation.labels, evaluation.predictions, attribute, evaluation.class_names
        beside = with_and_without(held[:, at], *answers, groups, seed=seed)
        rows.append((str(name), str(value), int(held[:, at].sum()), strengths[name], evaluation.class_names[attribute],
                     float(test.p_values[at]), *beside.chosen, beside.chosen_in, beside.chosen_out, beside.n_in,
                     beside.n_out))  # fmt: skip
    return pandas.DataFrame(rows, columns=FIELDS).sort_values("p_value", kind="stable", ignore_index=True)


def _levels(column: pandas.Series) -> pandas.DataFrame | None:
    """One boolean column (N,) a value; None where there are too few or too many values."""
    import pandas

    known = column.where(column.notna() & (column.astype(str) != ""))
    table = pandas.get_dummies(known.astype("string"))
    return table if 2 <= table.shape[1] <= MOST_LEVELS else None


def _strength(column: pandas.Series, labels: np.ndarray) -> float:
    """Cramér's V of a column and the label, over the rows where it has a value."""
    import pandas
    from scipy.stats.contingency import association

    known = (column.notna() & (column.astype(str) != "")).to_numpy()
    table = pandas.crosstab(column[known].astype(str).to_numpy(), labels[known]).to_numpy()
    return float(association(table, method="cramer", correction=False)) if min(table.shape) > 1 else 0.0
