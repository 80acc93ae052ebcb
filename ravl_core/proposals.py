"""Region proposals: boxes for images that come without any, or other boxes than theirs.

Stage 1 can only find what some region shows. The paper takes quadrants for MNIST and a detector's boxes for
photographs (`ravl_core.detector`); the other ways need no trained detector.
"""

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from ravl_core import checks
from ravl_core.progress import track
from ravl_core.regions import grid_boxes

Boxes = tuple[np.ndarray, np.ndarray]  # (M, 4) float32 and the image of each, (M,) non-decreasing


def grid(images: np.ndarray, rows: int, columns: int) -> Boxes:
    """Equal cells, the same for each image, row by row: `ravl_core.regions.grid_boxes` for images (N, H, W, 3)."""
    return grid_boxes(*checks.images("images", images).shape[:3], rows, columns)


def superpixels(images: np.ndarray, scale: float = 200.0, min_size: float = 0.02) -> Boxes:
    """Bounding boxes of the segments of each image, by Felzenszwalb and Huttenlocher's method.

    The defaults give about 6 boxes for an image of our digits and 10 to 15 for a photograph.

    Parameters
    ----------
    images : (N, H, W, 3) uint8
    scale : float
        The larger, the fewer and larger the segments; above 0.
    min_size : float
        Smallest segment, as a share of the image, 0 … 1: smaller ones are joined to a neighbour.

    Returns
    -------
    boxes : (M, 4) float32
        x1, y1, x2, y2 in pixels, x2 and y2 exclusive. Segments of an image that share a box give it once. An image
        that is a single segment gives the whole image.
    image_index : (M,) int64, non-decreasing

    Raises
    ------
    ValueError
        Images of another shape or type, or numbers out of range.

    References
    ----------
    P. F. Felzenszwalb and D. P. Huttenlocher, "Efficient graph-based image segmentation", IJCV 59, 2004; the
    implementation is scikit-image's.
    """
    images = checks.images("images", images)
    if checks.number("scale", scale, 0) == 0:
        raise ValueError("scale: expected a number above 0, got 0")
    n_pixels = max(1, round(checks.number("min_size", min_size, 0, 1) * images[:1, ..., 0].size))
    found = [_segment_boxes(image, scale, n_pixels) for image in track(images, "superpixels")]
    boxes = np.concatenate([np.empty((0, 4), dtype=np.float32), *found])
    return boxes, np.repeat(np.arange(len(images)), [len(own) for own in found])


def _segment_boxes(image: np.ndarray, scale: float, n_pixels: int) -> np.ndarray:
    """Distinct boxes (S, 4) of the segments of an image (H, W, 3), from left to right."""
    from scipy.ndimage import find_objects
    from skimage.segmentation import felzenszwalb

    # No blur: it would put rims of mixed colour, segments of their own, around every object of so small an image.
    segments = felzenszwalb(image, scale=scale, sigma=0, min_size=n_pixels, channel_axis=-1)  # (H, W) from 0
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in find_objects(segments + 1)]
    return np.unique(np.array(corners, dtype=np.float32), axis=0)


PROPOSALS: dict[str, Callable[[np.ndarray], Boxes]] = {
    "quadrants": partial(grid, rows=2, columns=2),
    "3 × 3 grid": partial(grid, rows=3, columns=3),
    "4 × 4 grid": partial(grid, rows=4, columns=4),
    "superpixels": superpixels,
}
_GRID = re.compile(r"(?:grid )?(\d+) ?[x×] ?(\d+)(?: grid)?")


def propose(regions: str, images: np.ndarray, own: Boxes | None = None) -> Boxes:
    """Regions by name.

    Parameters
    ----------
    regions : str
        "quadrants"; a grid of rows by columns ("grid 3x4", "3 × 4 grid"); "superpixels"; "boxes": the data's own;
        "detector": those of `ravl_core.detector` with its usual weights.
    images : (N, H, W, 3) uint8
    own : boxes (M, 4) and the image of each (M,), optional
        The data's own.

    Raises
    ------
    ValueError
        No such name (with the nearest match), "boxes" of data that has none, or images of another shape or type.
    """
    cells = _GRID.fullmatch(str(regions))
    if cells:
        return grid(images, *(checks.whole_number("regions", int(number), 1) for number in cells.groups()))
    checks.choice("regions", regions, (*PROPOSALS, "grid 3x4", "boxes", "detector"))
    if regions == "detector":
        from ravl_core.detector import detector_boxes

        return detector_boxes(images)
    if regions != "boxes":
        return PROPOSALS[regions](images)
    if own is None or not len(own[0]):
        raise ValueError("regions: expected data with boxes of its own for 'boxes', got data without any")
    return own
