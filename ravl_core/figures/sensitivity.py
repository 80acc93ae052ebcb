"""What depends on what a user sets: means with their intervals, a row a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ravl_core.figures.discovery import name_rows, row_dot
from ravl_core.figures.style import BLUE, COLUMN, FAINT, MUTED, NORMAL, TEXT, require_columns, styled

if TYPE_CHECKING:
    import pandas

ROW = 0.17  # inches


@styled
def choices(
    table: pandas.DataFrame,
    row: str,
    panel: str,
    ends: Sequence[str] = ("mean", "low", "high"),
    names: Mapping[str, str] | None = None,
    x_label: str = "Precision@10",
    marked: float | None = None,
    chosen: Sequence[str] = (),
) -> Figure:
    """A row a choice, a panel a recipe or figure: the mean over settings with its 95 % interval.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a choice and panel, in the order in which they are drawn; a choice that a panel lacks stays empty.
    row, panel : str
        Columns that name the two.
    ends : sequence of str
        Columns of the mean and the two ends of its interval.
    names : mapping of str to str, optional
        What choices and panels are called, where it is not as in the table.
    x_label : str
        What is drawn.
    marked : float, optional
        A value that a dotted line stands at, for instance no change.
    chosen : sequence of str
        Choices whose dots are filled and names bold: what is recommended, or the default.
    """
    require_columns(table, [row, panel, *ends])
    names, rows, panels = names or {}, list(table[row].unique()), list(table[panel].unique())
    size = (COLUMN if len(panels) == 1 else TEXT), 0.65 + ROW * len(rows)
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, sharex=True, squeeze=False)
    for one, name in zip(axes[0], panels, strict=True):
        own = table[table[panel] == name].set_index(row)
        if marked is not None:
            one.axvline(marked, color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
        for at, choice in enumerate(rows):
            one.axhline(at, color=FAINT, linewidth=0.4, zorder=0)
            if choice in own.index and own.loc[choice, list(ends)].notna().all():
                row_dot(one, at, own.loc[choice, list(ends)], color=BLUE, filled=choice in chosen)
        one.set_title(names.get(name, name), fontsize=NORMAL)
    name_rows(axes[0][0], [names.get(choice, choice) for choice in rows], [choice in chosen for choice in rows])
    figure.supxlabel(x_label, fontsize=NORMAL)
    return figure
