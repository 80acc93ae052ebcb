"""Boxes of an image, and RoIAlign for any number of boxes an image.

Boxes are `(x1, y1, x2, y2)` in pixels of the image, `(M, 4)`; `image_index (M,)` says which image a box is of.
"""

import numpy as np
import torch


def grid_boxes(n_images: int, height: int, width: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Equal cells, row by row, the same for each image.

    Returns
    -------
    boxes : (n_images * rows * columns, 4) float32
    image_index : (n_images * rows * columns,) int64, non-decreasing
    """
    y, x = np.meshgrid(np.arange(rows) * height / rows, np.arange(columns) * width / columns, indexing="ij")
    cells = np.stack([x, y, x + width / columns, y + height / rows], axis=-1).reshape(-1, 4).astype(np.float32)
    return np.tile(cells, (n_images, 1)), np.repeat(np.arange(n_images), rows * columns)


def quadrants(n_images: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The four quadrants of each image: top left, top right, bottom left, bottom right (the authors' MNIST regions)."""
    return grid_boxes(n_images, height, width, 2, 2)


def roi_align(features: torch.Tensor, boxes: torch.Tensor, image_index: torch.Tensor, size: int) -> torch.Tensor:
    """RoIAlign with half-pixel alignment and adaptive sampling, as one matrix product a region.

    Bilinear sampling is linear in the features and separable in x and y, so the pooled region is
    `weights (P*P, H*W) @ features (H*W, D)`; the weights need the boxes only.

    Parameters
    ----------
    features : (N, D, H, W) feature maps.
    boxes : (M, 4) in units of the image: 0 and 1 are its left and right (top and bottom) edges.
    image_index : (M,) the image that each box is of.
    size : P, cells along each side of the result.

    Returns
    -------
    (M, D, P, P)

    Source: He et al. 2017 (Mask R-CNN), with the half-pixel shift and the sampling of torchvision's `aligned=True`.
    """
    n_channels, height, width = features.shape[1:]
    along_x = _sampling_weights(boxes[:, 0], boxes[:, 2], width, size)  # (M, P, W)
    along_y = _sampling_weights(boxes[:, 1], boxes[:, 3], height, size)  # (M, P, H)
    weights = torch.einsum("mph,mqw->mpqhw", along_y, along_x).reshape(len(boxes), size * size, height * width)
    cells = features.permute(0, 2, 3, 1).reshape(len(features), height * width, n_channels)  # (N, H*W, D)
    pooled = torch.bmm(weights.to(cells.dtype), cells[image_index])  # (M, P*P, D)
    return pooled.reshape(len(boxes), size, size, n_channels).permute(0, 3, 1, 2)


def _sampling_weights(start: torch.Tensor, end: torch.Tensor, length: int, size: int) -> torch.Tensor:
    """How much each of `length` cells counts in each of `size` bins along one axis: (M, P, length)."""
    bin_width = (end - start) * length / size  # (M,) in cells
    n_samples = bin_width.ceil().clamp(min=1)  # (M,) adaptive: as many as the bin has cells
    most = int(n_samples.max()) if len(n_samples) else 1
    sample = torch.arange(most, device=start.device, dtype=start.dtype)  # (S,)
    offset = (sample[None] + 0.5) / n_samples[:, None]  # (M, S) inside a bin, 0…1
    bins = torch.arange(size, device=start.device, dtype=start.dtype)  # (P,)
    position = start[:, None, None] * length - 0.5 + (bins[None, :, None] + offset[:, None]) * bin_width[:, None, None]
    weights = _bilinear_weights(position, length)  # (M, P, S, length)
    counted = (sample[None] < n_samples[:, None]) / n_samples[:, None]  # (M, S) 1/n for real samples, else 0
    return torch.einsum("mpsl,ms->mpl", weights, counted)


def _bilinear_weights(position: torch.Tensor, length: int) -> torch.Tensor:
    """Weights of the two cells around each position, (..., length); zero further than one cell outside the map."""
    inside = (position >= -1) & (position <= length)
    position = position.clamp(0, length - 1)
    cells = torch.arange(length, device=position.device, dtype=position.dtype)
    return (1 - (position[..., None] - cells).abs()).clamp(min=0) * inside[..., None]
