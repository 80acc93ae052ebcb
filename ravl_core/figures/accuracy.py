"""Accuracies of classes and groups, with Wilson intervals: what a model leans on, and what a repair changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ravl_core.figures.style import BLUE, COLUMN, FAINT, INK, MUTED, SMALL, SPURIOUS, TEXT, require_columns, styled
from ravl_core.metrics import GroupAccuracies, wilson_interval

if TYPE_CHECKING:
    import pandas

ROW = 0.235  # inches
OFFSET = 0.16  # of the two dots of a row from its middle, so that their intervals stay apart


@styled
def class_accuracy(
    finding_table: pandas.DataFrame,
    class_names: Sequence[str],
    attribute: int,
    names: tuple[str, str] = ("with the cluster", "without"),
) -> Figure:
    """Accuracy of each class on images with and without a cluster, 95 % Wilson intervals, largest difference first.

    Parameters
    ----------
    finding_table : pandas.DataFrame
        ``Finding.table``: one row a class, in the order of the class names; n_in, n_out, accuracy_in, accuracy_out
        (0: never right, 1: always right, NaN: no such image).
    class_names : sequence of str
        C names.
    attribute : int
        Index of the class that the cluster is tied to; its row is set in bold.
    names : pair of str
        What the two sides are called.
    """
    require_columns(finding_table, ("n_in", "n_out", "accuracy_in", "accuracy_out"))
    if len(finding_table) != len(class_names):
        raise ValueError(f"class_names: expected {len(finding_table)} names, one a row, got {len(class_names)}")
    difference = (finding_table["accuracy_in"] - finding_table["accuracy_out"]).to_numpy()
    order = np.argsort(-difference, kind="stable")  # NaN last
    table = finding_table.iloc[order]
    figure, axes = plt.subplots(figsize=(COLUMN, 0.75 + ROW * len(table)))
    sides = [(table[f"accuracy_{side}"].to_numpy(), table[f"n_{side}"].to_numpy()) for side in ("in", "out")]
    rows = np.arange(len(table))
    axes.hlines(rows, 0, 100, color=FAINT, linewidth=0.4)
    _dots(axes, rows - OFFSET, *sides[0], color=SPURIOUS, filled=True)
    _dots(axes, rows + OFFSET, *sides[1], color=INK, filled=False)
    name_dots(axes, sides[0][0][0], sides[1][0][0], names)
    counts = [f"{n_in} | {n_out}" for n_in, n_out in zip(sides[0][1], sides[1][1], strict=True)]
    label_rows(axes, [class_names[label] for label in order], counts, int(np.flatnonzero(order == attribute)[0]))
    axes.set_xlabel("zero-shot accuracy, %")
    return figure


def _dots(axes: Axes, rows: np.ndarray, accuracy: np.ndarray, count: np.ndarray, color: str, filled: bool) -> None:
    low, high = wilson_interval(accuracy, count)
    axes.errorbar(
        100 * accuracy,
        rows,
        xerr=100 * np.stack([accuracy - low, high - accuracy]).clip(min=0),
        fmt="o",
        color=color,
        markerfacecolor=color if filled else "white",
        markersize=4,
        markeredgewidth=1,
        elinewidth=1,
        zorder=3,
    )


def name_dots(axes: Axes, with_cluster: float, without: float, names: tuple[str, str]) -> None:
    """Names of the two kinds of dots above the first row, on the sides on which its dots are."""
    sides = ("right", "left") if not with_cluster < without else ("left", "right")
    for name, dot, color, side in zip(names, "●○", (SPURIOUS, INK), sides, strict=True):
        axes.text(100 * (side == "right"), -0.5, f"{dot} {name}", fontsize=SMALL, color=color, ha=side, va="bottom")


def label_rows(axes: Axes, names: Sequence[str], counts: Sequence[str], bold: int) -> None:
    """Classes on the left and numbers of images on the right; the axis ends at the last row."""
    axes.set(xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), yticklabels=names)
    for tick in axes.get_yticklabels()[bold : bold + 1]:  # none where a panel to the left names the rows
        tick.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    right = 6 + 4.4 * max(len(count) for count in [*counts, "images"])  # points
    where = dict(xycoords=axes.get_yaxis_transform(), textcoords="offset points", fontsize=SMALL, color=MUTED)
    for row, count in enumerate(counts):
        axes.annotate(count, (1, row), (right, 0), ha="right", va="center", **where)
    axes.annotate("images", (1, -0.5), (right, 0), ha="right", va="bottom", annotation_clip=False, **where)


@styled
def before_after(
    groups_before: GroupAccuracies,
    groups_after: GroupAccuracies,
    class_names: Sequence[str],
    attribute: int,
    feature: str = "the feature",
    names: tuple[str, str] = ("before", "after"),
) -> Figure:
    """Accuracy of each group before and after a repair: open dot to filled dot, 95 % Wilson intervals.

    Parameters
    ----------
    groups_before, groups_after : GroupAccuracies
        Of the same images by two models; (C, 2) accuracies, 0 never right, 1 always right.
    class_names : sequence of str
        C names.
    attribute : int
        Index of the class that the feature is tied to; its row is set in bold.
    feature : str
        What the groups differ in.
    names : pair of str
        What the two models are called.
    """
    if len(class_names) != len(groups_before.accuracy) or groups_before.accuracy.shape != groups_after.accuracy.shape:
        shapes = groups_before.accuracy.shape, groups_after.accuracy.shape
        raise ValueError(f"groups: expected {len(class_names)} classes before and after, got shapes {shapes}")
    both = groups_before, groups_after
    height = 0.85 + ROW * len(class_names)
    figure, panels = plt.subplots(1, 2, figsize=(TEXT, height), sharey=True, sharex=True)
    for column, (axes, side) in enumerate(zip(panels, ("without", "with"), strict=True)):
        count = groups_before.count[:, column]
        _change_of_groups(axes, *(groups.accuracy[:, column] for groups in both), count)
        label_rows(axes, class_names, [str(n) for n in count], attribute)
        axes.set_title(f"{side} {feature}", pad=14)
        axes.set_xlabel("accuracy, %")
    worst = [f"{name}: worst group {groups.worst_group:.0%}" for groups, name in zip(both, names, strict=True)]
    figure.legend(panels[0].containers, worst, loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    return figure


def _change_of_groups(axes: Axes, before: np.ndarray, after: np.ndarray, count: np.ndarray) -> None:
    rows = np.arange(len(count))
    axes.hlines(rows, 0, 100, color=FAINT, linewidth=0.4)
    axes.plot([100 * before, 100 * after], [rows - OFFSET, rows + OFFSET], color=MUTED, linewidth=0.7, zorder=2)
    _dots(axes, rows - OFFSET, before, count, color=SPURIOUS, filled=False)
    _dots(axes, rows + OFFSET, after, count, color=BLUE, filled=True)
