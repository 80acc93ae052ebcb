"""The clusters of stage 1: how their number is chosen, and where a found one lies among all regions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ravl_core.figures.style import BLUE, COLUMN, FAINT, MUTED, SMALL, SPURIOUS, styled
from ravl_core.kmedoids import Clustering

MAP_POINTS = 4000  # more would hide one another


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


@styled
def embedding_map(
    region_embeddings: np.ndarray, labels: np.ndarray, highlight: int, name: str = "found cluster", seed: int = 0
) -> Figure:
    """All regions on the two directions in which they vary most, one cluster highlighted.

    Parameters
    ----------
    region_embeddings : float array (M, D)
        Unit embeddings. Of more than 4,000, as many are drawn at random; the directions are those of all.
    labels : int array (M,)
        Cluster of each region.
    highlight : int
        The cluster to show.
    name : str
        What it is called.
    seed : int
        Of the random draw.
    """
    labels = np.asarray(labels)
    if len(labels) != len(region_embeddings):
        raise ValueError(f"labels: expected one for each of {len(region_embeddings)} regions, got {len(labels)}")
    places, shares = principal_components(region_embeddings)
    drawn = np.random.default_rng(seed).permutation(len(labels))[:MAP_POINTS]
    found = labels == highlight
    figure, axes = plt.subplots(figsize=(COLUMN, 2.8))
    for chosen, marker, size, color, called in (
        (~found, "o", 6, FAINT, "other regions"),
        (found, "^", 14, SPURIOUS, name),
    ):
        x, y = places[drawn[chosen[drawn]]].T
        label = f"{called} ({chosen.sum():,})"
        axes.scatter(x, y, s=size, marker=marker, color=color, alpha=0.8, linewidth=0, label=label)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=SMALL, borderpad=0)
    axes.set(xticks=[], yticks=[], xlabel=f"first component ({shares[0]:.0%})", ylabel=f"second ({shares[1]:.0%})")
    return figure


def principal_components(embeddings: np.ndarray, n: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (M, n) on the n directions of largest variance, and each one's share of the variance, (n,)."""
    centred = np.asarray(embeddings, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    directions = directions[:, ::-1][:, :n]
    directions = directions * np.sign(directions[np.abs(directions).argmax(axis=0), range(n)])  # one sign for all
    return centred @ directions, variances[::-1][:n] / max(variances.sum(), np.finfo(float).tiny)
