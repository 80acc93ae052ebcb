"""How training went."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ravl_core.figures.style import COLUMN, label_line_ends, series_of, styled


@styled
def loss_curves(histories: Mapping[str, np.ndarray], window: int | None = None) -> Figure:
    """Loss at each step, faint as it was and bold as a moving average.

    Parameters
    ----------
    histories : mapping of str to float array (steps,)
        Losses of each run, for instance ``History.losses``; their heights compare only where the objective is the
        same.
    window : int, optional
        Steps that are averaged; a twentieth of the run if not given. At the ends it averages those there are.
    """
    looks = series_of(list(histories))
    figure, axes = plt.subplots(figsize=(COLUMN, 2.2))
    ends = {}
    for name, losses in histories.items():
        losses = np.asarray(losses, dtype=float)
        smooth = smoothed(losses, window or max(1, len(losses) // 20))
        steps = np.arange(1, len(losses) + 1)
        axes.plot(steps, losses, color=looks[name].color, alpha=0.25, linewidth=0.6)
        axes.plot(steps, smooth, color=looks[name].color, linestyle=looks[name].line)
        ends[name] = smooth[-1]
    last = max(len(losses) for losses in histories.values())
    axes.set(xlabel="step", ylabel="loss", xlim=(0, last), ylim=(0, None))
    label_line_ends(axes, last, ends, looks)
    return figure


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Moving average of the same length; at the ends, of the values there are."""
    kernel = np.ones(min(window, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
