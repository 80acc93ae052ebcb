"""When a box shows something: one rule for every domain whose objects have boxes of their own."""

import numpy as np


def shows(boxes: np.ndarray, image_index: np.ndarray, targets: np.ndarray, target_image: np.ndarray) -> np.ndarray:
    """Whether each box shows one of the targets of its image, (M,) bool.

    It does if a target covers half of it, or if half of a target lies in it and fills at least 10 % of it.

    Parameters
    ----------
    boxes : (M, 4) x1, y1, x2, y2 in pixels, none of them empty.
    image_index : (M,) the image of each box, non-decreasing.
    targets : (T, 4) boxes of what may be shown, in any order.
    target_image : (T,) the image of each target; images may have none or several.
    """
    first, last = (np.searchsorted(image_index, target_image, side) for side in ("left", "right"))
    counts = last - first  # (T,) boxes in the target's image; below, P pairs of a target and such a box
    target = np.repeat(np.arange(len(targets)), counts)
    box = ranges(first, counts)
    boxes, targets = np.asarray(boxes, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    sides = np.minimum(boxes[box, 2:], targets[target, 2:]) - np.maximum(boxes[box, :2], targets[target, :2])
    shared = sides.clip(min=0).prod(axis=1)  # (P,) pixels
    of_box, of_target = shared / _areas(boxes)[box], shared / _areas(targets)[target]
    shown = np.zeros(len(boxes), dtype=bool)
    shown[box[(of_box >= 0.5) | (of_target >= 0.5) & (of_box >= 0.1)]] = True
    return shown


def ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts[i]` numbers from `first[i]` on, for each i, one range after the other: (sum of the counts,)."""
    return np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
