"""What a repair changes, setting by setting."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ravl_core.figures.style import BLACK, MUTED, NORMAL, SMALL, TEXT, require_columns, series_of, styled
from ravl_core.metrics import bootstrap_interval

if TYPE_CHECKING:
    import pandas

METRICS = MappingProxyType(
    {
        "image_overall": "images\noverall",
        "image_worst_group": "images\nworst group",
        "region_overall": "core regions\noverall",
        "region_worst_group": "core regions\nworst group",
    }
)


@styled
def paired_change(
    table: pandas.DataFrame,
    metrics: Mapping[str, str] = METRICS,
    hue: str = "recipe",
    groups: str | None = None,
) -> Figure:
    """Change of accuracy by each recipe: a dot a setting, the mean with its 95 % bootstrap interval, and zero.

    Parameters
    ----------
    table : pandas.DataFrame
        One row a setting and recipe. Each metric's column holds the change in points, repaired minus standard
        fine-tuning on the same setting (0: none, above 0: better); NaN are left out.
    metrics : mapping of str to str
        Columns and what they are called; one panel each.
    hue : str
        Column of the recipe's name; one row each.
    groups : str, optional
        Column of what rows have in common; the bootstrap draws whole groups.
    """
    require_columns(table, [hue, *metrics, *([groups] if groups else [])])
    recipes = {name: table[table[hue] == name] for name in table[hue].unique()}
    looks = series_of(list(recipes))
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(TEXT, 0.85 + 0.5 * len(recipes)), sharex=True, sharey=True, squeeze=False
    )
    for axes, (metric, label) in zip(panels[0], metrics.items(), strict=True):
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=0)
        for row, (name, rows) in enumerate(recipes.items()):
            _draw_changes(axes, row, rows.dropna(subset=[metric]), metric, groups, looks[name])
        axes.set_title(label, fontsize=NORMAL)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    labels = [f"{name}\nn = {len(rows)}" for name, rows in recipes.items()]
    panels[0, 0].set(yticks=range(len(recipes)), yticklabels=labels, ylim=(len(recipes) - 0.45, -0.65))
    figure.supxlabel("change in points, repaired − standard fine-tuning", fontsize=NORMAL)
    return figure


def _draw_changes(axes: Axes, row: int, rows: pandas.DataFrame, metric: str, groups: str | None, look) -> None:
    changes = rows[metric].to_numpy(dtype=float)
    if len(changes) == 0:
        return
    jitter = np.random.default_rng(0).uniform(0.12, 0.34, len(changes))  # so that equal changes do not hide each other
    axes.scatter(changes, row + jitter, s=7, color=look.color, alpha=0.4, linewidth=0)
    mean, low, high = bootstrap_interval(changes, groups=rows[groups].to_numpy() if groups else None)
    axes.errorbar(
        mean, row, xerr=[[max(mean - low, 0)], [max(high - mean, 0)]], fmt=look.marker, color=BLACK, markersize=4,
        markerfacecolor=look.color, elinewidth=1.8, zorder=3,
    )  # fmt: skip
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
    axes.text(
        0.5, row - 0.14, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, ha="center", va="bottom",
        bbox=dict(facecolor="white", edgecolor="none", pad=1),  # over the line at zero
    )  # fmt: skip
