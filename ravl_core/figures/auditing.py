"""What an audit's finding looks like, what goes with it, and what hiding it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ravl_core.figures.accuracy import OFFSET, ROW, label_rows, name_dots
from ravl_core.figures.images import top_regions
from ravl_core.figures.style import COLUMN, FAINT, INK, MUTED, SMALL, SPURIOUS, styled

if TYPE_CHECKING:
    from ravl_core.audits.result import Audit, AuditFinding


def gallery(audit: Audit, finding: AuditFinding, n: int = 10) -> Figure:
    """The n most typical regions of a finding, of n images, each outlined in its image; captions say what it is."""
    first = np.unique(audit.dataset.image_index[finding.regions], return_index=True)[1]  # of each image
    regions = finding.regions[np.sort(first)]
    title = f"pulls towards {finding.attribute_name} ({len(finding.regions)} regions in {finding.n_images} images)"
    return top_regions(audit.dataset, regions, n, title, audit.evaluation.predictions)


@styled
def accuracy_with_without(finding: AuditFinding) -> Figure:
    """Accuracy of each class on images with and without a finding, with the table's intervals; largest gain first.

    The finding's class is set in bold; an accuracy that no image is behind is left out.
    """
    table = finding.table.sort_values("difference", ascending=False, kind="stable")  # NaN last
    figure, axes = plt.subplots(figsize=(COLUMN, 0.75 + ROW * len(table)))
    rows = np.arange(len(table))
    axes.hlines(rows, 0, 100, color=FAINT, linewidth=0.4)
    for side, color, shift in (("in", SPURIOUS, -OFFSET), ("out", INK, OFFSET)):
        columns = [f"accuracy_{side}", f"accuracy_{side}_low", f"accuracy_{side}_high"]
        _dots(axes, rows + shift, table[columns].to_numpy(dtype=float), color, filled=side == "in")
    first = table.iloc[0]
    name_dots(axes, first.accuracy_in, first.accuracy_out, ("with the finding", "without"))
    counts = [f"{n_in} | {n_out}" for n_in, n_out in zip(table.n_in, table.n_out, strict=True)]
    label_rows(axes, list(table["class"]), counts, list(table["class"]).index(finding.attribute_name))
    axes.set_xlabel("zero-shot accuracy, %")
    return figure


def _dots(axes: Axes, rows: np.ndarray, intervals: np.ndarray, color: str, filled: bool) -> None:
    """Estimates with their ends, (R, 3) shares: a dot and a line each."""
    value, low, high = 100 * intervals.T
    axes.errorbar(
        value, rows, xerr=np.stack([value - low, high - value]).clip(min=0), fmt="o", color=color,
        markerfacecolor=color if filled else "white", markersize=4, markeredgewidth=1, elinewidth=1, zorder=3,
    )  # fmt: skip


@styled
def mask_effects(finding: AuditFinding) -> Figure:
    """How hiding a finding's regions changes the score of its class: by each fill, and against other regions.

    Images of other classes stand above those of the class itself. On the right: how many images hold such a region, and
    how many of them have another one to compare with.

    Raises
    ------
    ValueError
        The audit did not ask what hiding changes.
    """
    if not finding.masks:
        raise ValueError("finding: expected the effects of at least one mask, got none")
    groups = [(whose, fill, mask) for whose in ("others", "own") for fill, mask in finding.masks.items()]
    changes = [getattr(mask, whose) for whose, _, mask in groups]
    rows = np.arange(len(groups)) + 0.9 * (np.arange(len(groups)) >= len(finding.masks))  # the class itself apart
    figure, axes = plt.subplots(figsize=(COLUMN, 1.05 + ROW * (len(groups) + 1.9)))
    axes.axvline(0, color=MUTED, linewidth=0.6)
    hidden = [change.effect.probability for change in changes]
    beyond = [change.beyond_control.probability for change in changes]
    _dots(axes, rows - OFFSET, np.array(hidden), SPURIOUS, filled=True)
    _dots(axes, rows + OFFSET, np.array(beyond), INK, filled=False)
    axes.set(yticks=rows, yticklabels=[fill for _, fill, _ in groups], ylim=(rows[-1] + 0.6, -1.1))
    _label_groups(axes, rows, [f"{change.n} | {change.n_compared}" for change in changes], finding)
    axes.set_xlabel(f"change of the score of {finding.attribute_name}, points")
    names = ["hidden", "against hiding other regions"]
    figure.legend(axes.containers, names, loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL)
    return figure


def _label_groups(axes: Axes, rows: np.ndarray, counts: list[str], finding: AuditFinding) -> None:
    """Whose images the rows are, above each half of them, and how many images on the right."""
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    where = dict(xycoords=axes.get_yaxis_transform(), textcoords="offset points", fontsize=SMALL, va="center")
    for row, whose in ((0, "images of other classes"), (len(rows) // 2, f"images of {finding.attribute_name}")):
        axes.annotate(whose, (0, rows[row] - 0.75), (0, 0), color=MUTED, **where)
    for row, count in zip([-0.75, *rows], ["images", *counts], strict=True):
        axes.annotate(count, (1, row), (40, 0), ha="right", color=MUTED, annotation_clip=False, **where)
