"""The clusters of stage 1: how their number is chosen."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ravl_core.figures.style import BLUE, COLUMN, MUTED, SMALL, SPURIOUS, styled
from ravl_core.kmedoids import Clustering


@styled
def silhouettes(clustering: Clustering) -> Figure:
    """Mean silhouette of every number of clusters that was tried, the chosen one marked.

    1: every region is far nearer to its own cluster than to the next; 0: between two clusters; below 0: in the wrong
    one. Nothing is marked where no candidate had a positive silhouette.
    """
    figure, axes = plt.subplots(figsize=(COLUMN, 2.0))
    axes.set(xlabel="number of clusters k", ylabel="mean silhouette")
    if not clustering.silhouettes:
        axes.text(0.5, 0.5, "no number of clusters could be tried", ha="center", color=MUTED, transform=axes.transAxes)
        return figure
    candidates = sorted(clustering.silhouettes)
    values = [clustering.silhouettes[k] for k in candidates]
    axes.plot(candidates, values, color=BLUE, marker="o", markersize=2.5, linewidth=1)
    axes.margins(y=0.2)
    if clustering.n_clusters:
        chosen = clustering.n_clusters + clustering.n_emptied
        value = clustering.silhouettes[chosen]
        axes.plot(chosen, value, "o", markersize=8, markerfacecolor="none", color=SPURIOUS, markeredgewidth=1.4)
        side = "right" if chosen > np.mean(candidates) else "left"
        axes.annotate(
            f"k = {chosen}, {value:.2f}", (chosen, value), (-7 if side == "right" else 7, 5), ha=side,
            textcoords="offset points", fontsize=SMALL, color=SPURIOUS,
        )  # fmt: skip
    return figure
