"""Tiny architectures under names of their own, and models of random weights in published layouts."""

import json

import torch
from tiny import RESNET, TEXT, VIT

from ravl_core.checkpoints import open_clip

SMALL_TEXT = {**TEXT, "context_length": 77}
ARCHITECTURES = {
    "tiny-rn": {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": SMALL_TEXT},
    "tiny-rn-quickgelu": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": SMALL_TEXT},
    "tiny-vit": {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": SMALL_TEXT},
    "tiny-parts": {"embed_dim": 16, "custom_text": True, "vision_cfg": VIT, "text_cfg": SMALL_TEXT},
}


def register(folder):
    """Let open_clip know the tiny architectures, written to a folder."""
    for name, architecture in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(architecture))
    open_clip.add_model_config(folder)


def clip_of(name, seed=0):
    """A model of random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return open_clip.create_model(name).eval()


def openai_layout(clip):
    """The state dict of OpenAI's archives: half precision, and three numbers beside the weights."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in clip.state_dict().items()}
    numbers = {"input_resolution": clip.visual.image_size, "context_length": 77, "vocab_size": 49408}
    return {**state, **{key: torch.tensor(value) for key, value in numbers.items()}}
