"""Region proposals of a detector: the boxes in which its region-proposal network sees something, whatever it is.

The paper takes a detector's boxes for photographs. Only the first half of it is asked, which tells things from
background and names none of them, so that what no class of the detector fits gets a region, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ravl_core import checks
from ravl_core.progress import track
from ravl_core.proposals import Boxes

if TYPE_CHECKING:
    import torch

BATCH = 4  # images: a detector enlarges them to 800 pixels and more
NEAR_DUPLICATE = 0.7  # intersection over union, from which the box with less objectness is dropped


def detector_boxes(
    images: np.ndarray,
    detector: torch.nn.Module | None = None,
    most: int = 20,
    smallest: float = 0.01,
    device: str = "cpu",
) -> Boxes:
    """The boxes with the highest objectness in each image, without near-duplicates.

    Parameters
    ----------
    images : (N, H, W, 3) uint8
        Of any size: the detector's own transform resizes them.
    detector : a model of torchvision's Faster R-CNN family, optional
        It is put into evaluation mode and on the device. Left out, it is `fasterrcnn_resnet50_fpn_v2` with its COCO
        weights, which torchvision downloads once (170 MB); on a CPU it takes seconds an image.
    most : int
        Boxes of an image, at most; from 1.
    smallest : float
        Boxes below this share of the image's area are dropped, 0 … 1.
    device : str
        "cpu" or "cuda".

    Returns
    -------
    boxes : (M, 4) float32
        x1, y1, x2, y2 in pixels of `images`, inside the image, the highest objectness first. An image in which
        nothing is left gets the whole image.
    image_index : (M,) int64, non-decreasing

    Raises
    ------
    ValueError
        Images of another shape or type, numbers out of range, or a detector without a region-proposal network.
    OSError
        The COCO weights could not be downloaded; the message names the file.

    References
    ----------
    S. Ren et al., "Faster R-CNN: Towards real-time object detection with region proposal networks", NeurIPS 2015.
    """
    images = checks.images("images", images)
    checks.whole_number("most", most, 1)
    checks.number("smallest", smallest, 0, 1)
    detector = (_coco_detector() if detector is None else _checked_detector(detector)).eval().to(device)
    batches = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
    proposed = [boxes for batch in track(batches, "detector") for boxes in _proposed(detector, batch, device)]
    found = [_chosen(boxes, *images.shape[1:3], most, smallest) for boxes in proposed]
    boxes = np.concatenate([np.empty((0, 4), dtype=np.float32), *found])
    return boxes, np.repeat(np.arange(len(images)), [len(own) for own in found])


def _checked_detector(detector: torch.nn.Module) -> torch.nn.Module:
    missing = [part for part in ("transform", "backbone", "rpn") if not hasattr(detector, part)]
    if missing:
        came = f"a {type(detector).__name__} without {', '.join(missing)}"
        raise ValueError(f"detector: expected a model of torchvision's Faster R-CNN family, got {came}")
    return detector


def _coco_detector() -> torch.nn.Module:
    from ravl_core._torchvision import ensure_importable

    ensure_importable()
    from torch import hub
    from torchvision.models import detection

    weights = detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    try:
        return detection.fasterrcnn_resnet50_fpn_v2(weights=weights, weights_backbone=None)
    except OSError as error:  # no network: urllib's errors are OSErrors
        file = weights.url.rsplit("/", 1)[1]
        raise OSError(
            f"detector: could not download {weights.url} ({error}). Put {file} into {hub.get_dir()}/checkpoints, or "
            "call detector_boxes with a model of your own: fasterrcnn_resnet50_fpn_v2(weights=None, "
            "weights_backbone=None) and its load_state_dict(torch.load(file, weights_only=True))"
        ) from error


def _proposed(detector: torch.nn.Module, images: np.ndarray, device: str) -> list[np.ndarray]:
    """Boxes (R, 4) of each image (B, H, W, 3), the highest objectness first, in pixels of these images."""
    import torch

    with torch.inference_mode():
        batch = torch.tensor(images, device=device).permute(0, 3, 1, 2) / 255  # (B, 3, H, W)
        resized, _ = detector.transform(list(batch))
        features = detector.backbone(resized.tensors)
        if isinstance(features, torch.Tensor):  # a backbone with a single map
            features = {"0": features}
        proposed, _ = detector.rpn(resized, features)
    height, width = images.shape[1:3]
    scales = [np.array([width / w, height / h] * 2, dtype=np.float32) for h, w in resized.image_sizes]
    return [boxes.cpu().numpy() * scale for boxes, scale in zip(proposed, scales, strict=True)]


def _chosen(boxes: np.ndarray, height: int, width: int, most: int, smallest: float) -> np.ndarray:
    """Those of an image's boxes (R, 4) that are kept, clipped; the whole image where that is none."""
    whole = np.array([[0, 0, width, height]], dtype=np.float32)
    boxes = boxes.clip(0, whole[:, [2, 3, 2, 3]])
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    large_enough = (sides > 0).all(axis=1) & (sides.prod(axis=1) >= smallest * height * width)
    boxes = boxes[large_enough]
    boxes = boxes[without_duplicates(boxes, NEAR_DUPLICATE)[:most]]
    return boxes if len(boxes) else whole


def without_duplicates(boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression: the boxes that share too little with every box kept before them.

    Parameters
    ----------
    boxes : (R, 4)
        The one to be kept first.
    threshold : float
        A box is dropped if its intersection over union with one kept before is larger, 0 … 1.

    Returns
    -------
    int64 array, ascending
        Positions of the boxes that are kept.
    """
    corners = np.asarray(boxes, dtype=np.float64)
    area = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    left, kept = np.arange(len(corners)), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        sides = np.minimum(corners[first, 2:], corners[left, 2:]) - np.maximum(corners[first, :2], corners[left, :2])
        shared = sides.clip(min=0).prod(axis=1)
        left = left[shared <= threshold * (area[first] + area[left] - shared)]
    return np.array(kept, dtype=np.int64)
