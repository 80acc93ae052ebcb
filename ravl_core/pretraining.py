"""Make a shipped miniature again: `python -m ravl_core.pretraining rn-mini`.

A miniature starts from random weights and learns, with CLIP's loss on images and captions, from composites without
any planted correlation. It is stopped early, at a middling competence: a model that is perfect before fine-tuning has
nothing to learn from a shortcut, and one that knows nothing learns only the shortcut.
"""

import argparse
import json
import shutil
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ravl_core.checkpoints import MINIATURES, load_vlm, open_clip, save_vlm
from ravl_core.domains import Dataset, load_domain
from ravl_core.losses import clip_loss
from ravl_core.progress import track
from ravl_core.settings import balanced_table
from ravl_core.vlm import VLM
from ravl_core.zero_shot import evaluate


@dataclass(frozen=True)
class Pretraining:
    """How a miniature is made."""

    steps: int
    domain: str = "digits"
    batch_size: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    n_images: int = 4000
    seed: int = 0


PLANS = {"rn-mini": Pretraining(steps=60)}


def pretrain(name: str, plan: Pretraining, device: str = "cpu") -> VLM:
    """Train the miniature of that name from random weights; returns it in evaluation mode."""
    torch.manual_seed(plan.seed)
    configuration = json.loads((MINIATURES / name / "open_clip_config.json").read_text())
    clip = open_clip.CLIP(**configuration["model_cfg"])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINIATURES / name}")
    vlm = VLM(clip, tokenizer, name, configuration).to(device).to(memory_format=torch.channels_last)
    data = uncorrelated_set(plan.domain, "pretraining", plan.n_images, plan.seed)
    images = torch.from_numpy(data.images).permute(0, 3, 1, 2).contiguous()
    tokens = tokenizer(list(data.captions))
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.steps)
    vlm.train()
    for batch in track(_batches(len(data), plan), f"pre-training {name}", plan.steps):
        image_embeddings = vlm.pool(vlm.trunk(vlm.prepare(images[batch])))
        text_embeddings = F.normalize(clip.encode_text(tokens[batch].to(device)), dim=-1)
        optimizer.zero_grad(set_to_none=True)
        clip_loss(image_embeddings, text_embeddings).backward()
        optimizer.step()
        schedule.step()
    return vlm.eval()


def uncorrelated_set(domain: str, split: str, n_images: int, seed: int) -> Dataset:
    """Equal classes, the first feature of the domain in half of each class."""
    source = load_domain(domain)
    table = balanced_table(n_images, len(source.class_names))
    labels, present = (np.repeat(side.ravel(), table.ravel()) for side in np.indices(table.shape))
    return source.compose(split, labels, present.astype(bool), seed)


def _batches(n_images: int, plan: Pretraining):
    random = np.random.default_rng(plan.seed)
    order = np.concatenate([random.permutation(n_images) for _ in range(plan.steps * plan.batch_size // n_images + 1)])
    for step in range(plan.steps):
        yield torch.from_numpy(order[step * plan.batch_size : (step + 1) * plan.batch_size])


def main() -> None:
    """Make one miniature, say how competent it is, and put its weights where they ship from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PLANS))
    name = parser.parse_args().name
    torch.set_num_threads(1)  # the same bytes on every run
    vlm = pretrain(name, PLANS[name])
    folder = save_vlm(vlm, MINIATURES / f"{name}.new", dtype=torch.float16)
    shutil.move(folder / "open_clip_model.safetensors", MINIATURES / name / "open_clip_model.safetensors")
    shutil.rmtree(folder)
    shipped = evaluate(load_vlm(name), uncorrelated_set(PLANS[name].domain, "val", 2000, seed=0))
    print(f"{name}: zero-shot accuracy {shipped.accuracy:.3f} on 2,000 uncorrelated validation composites")


if __name__ == "__main__":
    main()
