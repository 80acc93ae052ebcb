"""Models and data that are made in a moment: random weights, a few images, regions in uneven numbers."""

import numpy as np
import torch

from ravl_core.checkpoints import MINIATURES, open_clip
from ravl_core.domains import load_domain
from ravl_core.vlm import VLM

RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
VIT = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
PREPROCESSING = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}


def tiny_vlm(pooling=None, seed=0, tower=RESNET):
    """A CLIP model with random weights, in evaluation mode, as `load_vlm` gives it."""
    torch.manual_seed(seed)
    model = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": TEXT}
    clip = open_clip.CLIP(**model)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINIATURES / 'rn-mini'}")
    vlm = VLM(clip, tokenizer, "tiny", {"model_cfg": model, "preprocess_cfg": PREPROCESSING}, pooling)
    if vlm.has_feature_map:
        spread_embeddings(vlm)
    elif vlm.tower:
        enliven(vlm.clip.visual)
    return vlm.eval()


@torch.no_grad()
def spread_embeddings(vlm):
    """Random towers map all images to almost one point, where any mistake looks right; give them a life of their own.

    BatchNorm's statistics come from a few images, its weights are drawn (open_clip's zeros switch the residual
    branches off), and the mean embedding is subtracted by the last bias.
    """
    visual, images = vlm.clip.visual, torch.from_numpy(noise(16, seed=99)).permute(0, 3, 1, 2)
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = 1.0
    visual.train()(vlm.prepare(images))
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    visual.attnpool.c_proj.bias -= visual.eval()(vlm.prepare(images)).mean(dim=0)


@torch.no_grad()
def enliven(transformer):
    """The same for a vision transformer: biases and norms that are drawn, and strong patches and attention."""
    for name, value in transformer.named_parameters():
        if value.ndim == 1:
            value += 0.3 * torch.randn_like(value)
        elif "conv1" in name or "in_proj" in name:
            value *= 3


def noise(n_images, height=64, width=64, seed=0):
    """Images of blurred noise, (N, height, width, 3) uint8; no two are alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n_images, 4, 4, 3))
    return coarse.repeat(-(-height // 4), axis=1).repeat(-(-width // 4), axis=2)[:, :height, :width].astype(np.uint8)


def ragged_boxes(counts, height=64, width=64, seed=0):
    """Boxes (M, 4) of any place and size for images that have `counts` of them, and the image of each (M,)."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.7, (sum(counts), 2))
    side = random.uniform(0.15, 0.3, (sum(counts), 2))
    boxes = np.concatenate([corner, corner + side], axis=1) * [width, height, width, height]
    return boxes.astype(np.float32), np.repeat(np.arange(len(counts)), counts)


def digits(n_images, split="finetuning", seed=0):
    """Composites of all classes in turn, every other one with the red rectangle."""
    order = np.arange(n_images)
    return load_domain("digits").compose(split, order % 10, order % 2 == 1, seed)


def weights(vlm, *parts):
    """Copies of all parameters and BatchNorm statistics, or of those whose names begin with one of `parts`."""
    state = vlm.clip.state_dict()
    return {key: value.clone() for key, value in state.items() if not parts or key.startswith(parts)}


def same_weights(one, other):
    """Whether two results of `weights` are equal to the last bit."""
    assert one.keys() == other.keys() and one
    return all(torch.equal(value, other[key]) for key, value in one.items())
