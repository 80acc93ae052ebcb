"""How many images of each group a smaller set holds, when it is to be like a larger one."""

import numpy as np

from ravl_core.checks import numbers, whole_number

WATERBIRDS = ((3498, 184), (56, 1057))  # training images: landbirds, waterbirds; each on land, on water


def proportional_counts(counts: np.ndarray, n: int) -> np.ndarray:
    """Counts that add up to n in the proportions of `counts`, any shape of integers, 0 or more: int64, same shape.

    By largest remainders; a group that has members keeps at least one, which the largest group gives up. No group gets
    more than it has, as long as n is no more than there are.

    Raises
    ------
    ValueError
        Counts below 0, or n is smaller than the number of groups that have members.
    """
    counts = numbers("counts", np.asarray(counts).reshape(-1), 1, "iu").reshape(np.shape(counts)).astype(np.int64)
    if (counts < 0).any():
        raise ValueError(f"counts: expected 0 or more in each group, got {counts.tolist()}")
    whole_number("n", n, max(1, np.count_nonzero(counts)))
    shares = counts.ravel() * n
    found, remainders = np.divmod(shares, counts.sum())
    found[np.argsort(-remainders, kind="stable")[: n - found.sum()]] += 1
    lacking = (found == 0) & (shares > 0)
    for _ in range(lacking.sum()):
        found[found.argmax()] -= 1
    return (found + lacking).reshape(counts.shape)
