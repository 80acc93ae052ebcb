"""Where does a model look? Maps of what in an image speaks for a class, from gradients and activations.

HiResCAM multiplies each activation of a layer with the gradient of the score, and adds up the channels of each cell. A
cell's value is then how fast the score falls as that cell's activations are faded, which Grad-CAM's averaged gradients
do not guarantee.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from ravl_core import checks
from ravl_core.vlm import VLM, _to_channels_first, attention_pool

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def gradient_map(
    vlm: VLM,
    images: np.ndarray,
    classes: np.ndarray,
    class_embeddings: np.ndarray,
    layer: str = "layer2",
    batch_size: int = 128,
) -> np.ndarray:
    """What in each image speaks for a class: gradient × activation, summed over channels, the positive part.

    The score is the cosine between the image's embedding and its class's. It is that of evaluation mode, and the model
    is left as it was.

    Parameters
    ----------
    vlm : a model whose image tower is one of CLIP's ResNets.
    images : uint8 array (N, H, W, 3)
    classes : int array (N,)
        The class asked about in each image.
    class_embeddings : float array (C, D)
        Unit embeddings of the classes. Other directions do as well, for instance the difference of two classes.
    layer : {"layer1", "layer2", "layer3", "layer4"}
        Whose activations. At 64 pixels the maps have 16, 8, 4 and 2 cells a side.

    Returns
    -------
    float32 array (N, h, w)
        None below 0, the sum of each map is 1. Where nothing speaks for the class all cells are equal.

    Raises
    ------
    ValueError
        If the tower is no ResNet, there is no such layer or class, or an array has the wrong shape or type.

    References
    ----------
    R. L. Draelos and L. Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks, arXiv:2011.08891.
    """
    checks.choice("layer", layer, LAYERS)
    if not vlm.has_feature_map:
        raise ValueError(f"vlm: expected an image tower that is one of CLIP's ResNets, got {vlm.name}")
    images, directions = checks.images("images", images), checks.numbers("class_embeddings", class_embeddings, 2)
    classes = checks.class_indices("classes", classes, len(directions))
    checks.same_length(images=images, classes=classes)
    if directions.shape[1] != vlm.embedding_size:
        raise ValueError(f"class_embeddings: expected {vlm.embedding_size} columns, got {directions.shape[1]}")
    asked = torch.from_numpy(directions[classes].astype(np.float32)).to(vlm.device)  # (N, D)
    batches = [slice(first, first + batch_size) for first in range(0, len(images), batch_size)]
    with _evaluation_mode(vlm):
        maps = [_evidence(vlm, vlm.prepare(_to_channels_first(images[own])), asked[own], layer) for own in batches]
    side = vlm.image_size >> (LAYERS.index(layer) + 2)  # the stem divides by 4
    return _to_shares(np.concatenate([np.empty((0, side, side), dtype=np.float32), *maps]))


@contextmanager
def _evaluation_mode(vlm: VLM) -> Iterator[None]:
    """Every part in evaluation mode, and afterwards each in the mode that it had."""
    modes = [(part, part.training) for part in vlm.modules()]
    vlm.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _evidence(vlm: VLM, prepared: torch.Tensor, asked: torch.Tensor, layer: str) -> np.ndarray:
    """Sum over channels of gradient × activation, (B, h, w)."""
    visual = vlm.clip.visual
    parts = [getattr(visual, name) for name in LAYERS]
    at = LAYERS.index(layer) + 1
    with torch.no_grad():
        activations = visual.stem(prepared)
        for part in parts[:at]:
            activations = part(activations)
    with torch.enable_grad():
        activations.requires_grad_(True)  # they belong to no graph, so no gradient reaches a weight
        features = activations
        for part in parts[at:]:
            features = part(features)
        embeddings = F.normalize(attention_pool(visual.attnpool, features), dim=-1)
        (gradients,) = torch.autograd.grad((embeddings * asked).sum(), activations)
    return (gradients * activations.detach()).sum(dim=1).cpu().numpy()


def _to_shares(evidence: np.ndarray) -> np.ndarray:
    """Positive parts (N, h, w), scaled to a sum of 1; equal cells where there is none."""
    positive = np.maximum(evidence, 0)
    totals = positive.sum(axis=(1, 2), keepdims=True)
    equal = np.full_like(positive, 1 / np.prod(positive.shape[1:]))
    return np.divide(positive, totals, out=equal, where=totals > 0)


def share_inside(
    maps: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, height: float, width: float
) -> np.ndarray:
    """Which share of its image's map lies in each box, (M,) 0 … 1; cells that are cut count by the area inside.

    Parameters
    ----------
    maps : float array (N, h, w)
        None below 0, each with a positive sum. They cover the whole image.
    boxes : array (M, 4)
        In pixels of the images.
    image_index : int array (M,)
        The image of each box, in any order.
    height, width : numbers
        Of the images, in pixels.

    Raises
    ------
    ValueError
        If an array has the wrong shape or range, a box is empty or reaches outside, or a map is all 0.
    """
    maps = checks.numbers("maps", maps, 3)
    totals = maps.sum(axis=(1, 2))
    if (maps < 0).any() or (totals <= 0).any():
        raise ValueError("maps: expected cells of 0 or more and a positive sum in each map")
    boxes = checks.boxes("boxes", boxes, width=width, height=height)
    image_index = checks.integers("image_index", image_index, 0, len(maps) - 1)
    checks.same_length(boxes=boxes, image_index=image_index)
    along_y = _covered(boxes[:, 1], boxes[:, 3], height, maps.shape[1])  # (M, h)
    along_x = _covered(boxes[:, 0], boxes[:, 2], width, maps.shape[2])  # (M, w)
    return np.einsum("mhw,mh,mw->m", maps[image_index], along_y, along_x, optimize=True) / totals[image_index]


def _covered(start: np.ndarray, end: np.ndarray, length: float, n_cells: int) -> np.ndarray:
    """Which share of each of `n_cells` equal cells along one side lies between start and end: (M, n_cells)."""
    edges = np.arange(n_cells + 1)
    first, last = (np.asarray(side, dtype=np.float64)[:, None] / length * n_cells for side in (start, end))  # in cells
    return (np.minimum(last, edges[1:]) - np.maximum(first, edges[:-1])).clip(min=0)
