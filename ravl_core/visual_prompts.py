"""Marks drawn into images to lead a model's or a teacher's eye: a red ellipse in a box, and a grid of labelled dots.

Sources: A. Shtedritski et al., "What does CLIP know about a red circle?", 2023; X. Lei et al., "Scaffolding coordinates
to promote vision-language coordination in large multi-modal models", 2024. Sizes are ours.
"""

import numpy as np

from ravl_core import checks

RED = (255, 0, 0)
BRIGHT = 128  # mean of a pixel's colours from which on what is drawn there is black
SHARE = 50  # of the shorter side: one so-many-th of it is a line's width and a dot's side, in pixels
SMALLEST_LABEL = 8  # pixels, the size of the letters, which is a third of a cell's shorter side


def red_circle(images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, width: int | None = None) -> np.ndarray:
    """Copies of the images with a red ellipse in each box, which touches the box's four sides from inside.

    Parameters
    ----------
    images : uint8 array (N, H, W, 3)
    boxes : array (M, 4)
        x1, y1, x2, y2 in pixels; every pixel that a box touches counts as its own.
    image_index : int array (M,)
        The image of each box, in any order; an image may have none or several.
    width : int, optional
        Of the line in pixels; a fiftieth of the shorter side of the images if left out, at least 1.

    Returns
    -------
    uint8 array (N, H, W, 3)
        Equal to `images` outside the boxes.

    Raises
    ------
    ValueError
        If an array has the wrong shape or type, a box is empty or reaches outside its image, or the width is below 1.
    """
    from PIL import Image, ImageDraw

    drawn = checks.images("images", images).copy()
    n_images, height, columns = drawn.shape[:3]
    boxes = checks.boxes("boxes", boxes, columns, height)
    image_index = checks.integers("image_index", image_index, 0, n_images - 1)
    checks.same_length(boxes=boxes, image_index=image_index)
    width = _line(drawn) if width is None else checks.whole_number("width", width, 1)
    corners = np.concatenate([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:]) - 1], axis=1).astype(int)
    for image, sides in zip(image_index, corners.tolist(), strict=True):
        picture = Image.fromarray(drawn[image])
        ImageDraw.Draw(picture).ellipse(sides, outline=RED, width=width)
        drawn[image] = picture
    return drawn


def dot_grid(images: np.ndarray, rows: int = 6, columns: int = 6, labels: bool | None = None) -> np.ndarray:
    """Copies of the images with a grid of square dots, labelled "1,1" … by row and column as in a matrix.

    A dot and its label are black where the pixel in the dot's middle is bright, and white where it is dark.

    Parameters
    ----------
    images : uint8 array (N, H, W, 3)
    rows, columns : int
        Dots, 1 or more each; they stand in the middles of as many equal cells.
    labels : bool, optional
        Whether the dots are labelled; if left out, where the labels can be read: cells of 24 pixels.

    Returns
    -------
    uint8 array (N, H, W, 3)

    Raises
    ------
    ValueError
        If the images are not of that kind, or rows or columns are below 1 or more than there are pixels.
    """
    from PIL import Image, ImageDraw

    drawn = checks.images("images", images).copy()
    height, width = drawn.shape[1:3]
    middles = _middles(height, width, rows, columns)  # (rows * columns, 2)
    side, size = _line(drawn), min(height // rows, width // columns) // 3  # of dots and of letters
    labels = size >= SMALLEST_LABEL if labels is None else labels
    for at, image in enumerate(drawn):
        picture = Image.fromarray(image)
        draw = ImageDraw.Draw(picture)
        draw.fontmode = "1"  # no grey between black and white
        for dot, (x, y) in enumerate(middles.tolist()):
            colour = (0,) * 3 if image[y, x].mean() >= BRIGHT else (255,) * 3
            left, top = x - side // 2, y - side // 2
            draw.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
            if labels:
                draw.text((x, top + side + 1), _name(dot, columns), colour, anchor="ma", font_size=max(size, 1))
        drawn[at] = picture
    return drawn


def _name(dot: int, columns: int) -> str:
    return f"{dot // columns + 1},{dot % columns + 1}"


def _line(images: np.ndarray) -> int:
    return max(1, round(min(images.shape[1:3]) / SHARE))


def _middles(height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """x and y of the pixel in the middle of each cell, row by row: (rows * columns, 2)."""
    for name, value, most in (("rows", rows, height), ("columns", columns, width)):
        if checks.whole_number(name, value, 1) > most:
            raise ValueError(f"{name}: expected at most {most}, one for each pixel, got {value}")
    y, x = (((2 * np.arange(n) + 1) * side) // (2 * n) for n, side in ((rows, height), (columns, width)))
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
