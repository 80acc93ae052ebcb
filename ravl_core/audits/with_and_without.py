"""A model's answers on images that hold a cluster beside those on images that do not, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.intervals import interval_ends, resample_counts, units_of
from ravl_core.metrics import Interval, wilson_interval

if TYPE_CHECKING:
    import pandas

KINDS = ("in", "out")


@dataclass(frozen=True, eq=False)
class WithAndWithout:
    """What `with_and_without` returns.

    Attributes
    ----------
    table : pandas.DataFrame
        One row a class: `class` (its name), `n_in` and `n_out` (images), then `accuracy_in`, `accuracy_out`,
        `chosen_in`, `chosen_out` (share answered with the attribute), 0 … 1, and `difference` (accuracy in - out),
        -1 … 1; each with `_low` and `_high`. NaN where there is no image.
    chosen : Interval
        Images of other classes: how much more often the attribute is answered with the cluster in the image, -1 … 1.
        Within each class, then averaged over classes by their images with it. NaN where no class has both.
    chosen_in, chosen_out : float
        The two shares that it is the difference of.
    n_in, n_out : int
        The images behind them.
    """

    table: pandas.DataFrame
    chosen: Interval
    chosen_in: float
    chosen_out: float
    n_in: int
    n_out: int


def with_and_without(
    held: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    attribute: int,
    class_names: tuple[str, ...],
    groups: np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> WithAndWithout:
    """Accuracy of each class, and how often the attribute is answered, with and without a cluster in the image.

    Parameters
    ----------
    held : bool array (N,)
        Which images hold the cluster.
    labels, predictions : int arrays (N,)
        True and answered class.
    attribute : int
        The class that the cluster pushes answers to.
    class_names : C names.
    groups : array (N,), optional
        What belongs together, a patient for instance: whole groups are drawn, and an interval of a share counts
        groups rather than images.
    n_resamples, seed : of the bootstrap, which the intervals of differences come from; those of shares are Wilson's.
    """
    unit = units_of(labels, groups)
    tallies = _tallies(held, labels, predictions, attribute, unit, len(class_names))  # (6, U, C)
    counts = resample_counts(tallies.shape[1], n_resamples, seed)
    drawn = np.einsum("bu,fuc->fbc", counts.astype(np.float32), tallies.astype(np.float32)).astype(np.float64)
    sums = tallies.sum(axis=1)  # (6, C)
    difference = np.column_stack([_difference(sums), interval_ends(_difference(drawn), 0.95)])  # (C, 3)
    others = np.arange(len(class_names)) != attribute
    both = others & (sums[0] > 0) & (sums[1] > 0)
    shares = _chosen(sums[:, None], both)[:, 0]  # with, without
    ends = interval_ends((_chosen(drawn, both)[0] - _chosen(drawn, both)[1])[:, None], 0.95)[0]
    return WithAndWithout(
        table=_table(tallies, difference, class_names),
        chosen=Interval(float(shares[0] - shares[1]), *ends.tolist()),
        chosen_in=float(shares[0]),
        chosen_out=float(shares[1]),
        n_in=int(sums[0, both].sum()),
        n_out=int(sums[1, both].sum()),
    )


def _tallies(held, labels, predictions, attribute, unit, n_classes) -> np.ndarray:
    """Images in, out, right and in, right and out, called the attribute and in, … and out: (6, U, C)."""
    right, called = predictions == labels, predictions == attribute
    kinds = held, ~held, right & held, right & ~held, called & held, called & ~held
    shape = unit.max(initial=-1) + 1, n_classes
    place = unit * n_classes + labels
    return np.stack([np.bincount(place[kind], minlength=shape[0] * shape[1]).reshape(shape) for kind in kinds])


def _difference(sums: np.ndarray) -> np.ndarray:
    """Accuracy in - out, (..., C) from (6, ..., C); NaN where there is no image on one side."""
    return _share(sums[2], sums[0]) - _share(sums[3], sums[1])


def _chosen(sums: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Share answered with the attribute, with and without: (2, B) from (6, B, C), over some of the classes."""
    n_in, n_out, called_in, called_out = (sums[kind][:, classes] for kind in (0, 1, 4, 5))  # (B, C')
    weights = np.where(n_out > 0, n_in, 0)
    total = weights.sum(axis=1)
    inside = _share(np.where(n_out > 0, called_in, 0).sum(axis=1), total)
    outside = _share((weights * np.nan_to_num(_share(called_out, n_out))).sum(axis=1), total)
    return np.stack([inside, outside])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def _table(tallies: np.ndarray, difference: np.ndarray, class_names: tuple[str, ...]) -> pandas.DataFrame:
    import pandas

    sums, n_units = tallies.sum(axis=1), (tallies > 0).sum(axis=1)  # (6, C)
    columns = {"class": list(class_names), "n_in": sums[0], "n_out": sums[1]}
    for name, first in (("accuracy", 2), ("chosen", 4)):
        for side, kind in enumerate(KINDS):
            share = _share(sums[first + side], sums[side])
            low, high = wilson_interval(share, n_units[side])
            columns |= {f"{name}_{kind}": share, f"{name}_{kind}_low": low, f"{name}_{kind}_high": high}
    ends = dict(zip(("difference", "difference_low", "difference_high"), difference.T, strict=True))
    return pandas.DataFrame(columns | ends)
