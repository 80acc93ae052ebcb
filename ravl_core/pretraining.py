"""The miniatures that settings start from, and how they are made.

A miniature starts from random weights and learns, with CLIP's loss on images and captions, from composites of its
domain without any planted correlation. It is stopped early, at a middling competence: a model that is perfect before
fine-tuning has nothing to learn from a shortcut, and one that knows nothing learns only the shortcut.

One of them ships with the project (`python -m ravl_core.pretraining rn-mini` makes it again); the others are made when
a setting first asks for them, and kept.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ravl_core import paths, records
from ravl_core.checkpoints import MINIATURES, load_vlm, open_clip, save_vlm
from ravl_core.domains import Dataset, load_domain, modules_of
from ravl_core.initial_models import MADE, SHIPPED, Pretraining, plan_of
from ravl_core.losses import clip_loss
from ravl_core.progress import track
from ravl_core.settings import balanced_table
from ravl_core.vlm import VLM
from ravl_core.zero_shot import evaluate

CHECK_EVERY = 2  # steps
CHECKED_IMAGES = 400


def initial_vlm(name: str, domain: str, pretrained: str | None = None) -> VLM:
    """The model that the settings of a domain start from.

    A miniature is one that was pre-trained on that domain: the shipped one, or one that is made now (a minute or two)
    and kept for the next time. Any other name goes to `load_vlm`.
    """
    if name not in _architectures() or domain not in MADE:
        return load_vlm(name, pretrained)
    if name in SHIPPED and SHIPPED[name].domain == domain:
        return load_vlm(name)
    plan = plan_of(name, MADE[domain])
    folder = _folder(name, plan)
    if not folder.is_dir():
        _make(name, plan, folder)
    return load_vlm(f"local-dir:{folder}")


def _architectures() -> list[str]:
    return sorted(path.parent.name for path in MINIATURES.glob("*/open_clip_config.json"))


def _folder(name: str, plan: Pretraining) -> Path:
    """Where a miniature is kept; another plan or other code gives another place."""
    modules = [f"ravl_core.{module}" for module in ("pretraining", "vlm", "towers", "losses")]
    version = records.code_version(*modules, *modules_of(plan.domain))
    configuration = (MINIATURES / name / "open_clip_config.json").read_text()
    digest = hashlib.sha256(f"{version} {plan} {configuration}".encode()).hexdigest()[:16]
    return paths.home() / ".cache" / "initial" / f"{name}-{plan.domain}-{digest}"


def _make(name: str, plan: Pretraining, folder: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same bytes on every run
    try:
        save_vlm(pretrain(name, plan), folder, dtype=torch.float16)
    except FileExistsError:  # another process was first, with the same bytes
        pass
    finally:
        torch.set_num_threads(threads)


def pretrain(name: str, plan: Pretraining, device: str = "cpu") -> VLM:
    """Train the miniature of that name from random weights; returns it in evaluation mode."""
    torch.manual_seed(plan.seed)
    configuration = json.loads((MINIATURES / name / "open_clip_config.json").read_text())
    clip = open_clip.CLIP(**configuration["model_cfg"])
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINIATURES / name}")
    vlm = VLM(clip, tokenizer, name, configuration).to(device).to(memory_format=torch.channels_last)
    images, captions = _pretraining_set(plan)
    tokens = tokenizer(captions)
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=plan.steps)
    vlm.train()
    for step, batch in enumerate(track(_batches(len(images), plan), f"pre-training {name}", plan.steps), 1):
        image_embeddings = vlm.pool(vlm.trunk(vlm.prepare(images[batch])))
        text_embeddings = F.normalize(clip.encode_text(tokens[batch].to(device)), dim=-1)
        optimizer.zero_grad(set_to_none=True)
        clip_loss(image_embeddings, text_embeddings).backward()
        optimizer.step()
        schedule.step()
        if plan.competence is not None and step % CHECK_EVERY == 0 and _competence(vlm, plan) >= plan.competence:
            break
    return vlm.eval()


def _pretraining_set(plan: Pretraining) -> tuple[torch.Tensor, list[str]]:
    """Images (N, 3, H, W) uint8 and captions; every feature of the domain is in half of its part of the images."""
    features = load_domain(plan.domain).features
    n_images = plan.n_images // len(features)
    parts = [uncorrelated_set(plan.domain, "pretraining", n_images, plan.seed, feature) for feature in features]
    images = torch.from_numpy(np.concatenate([part.images for part in parts])).permute(0, 3, 1, 2).contiguous()
    return images, [
        caption for part in parts for caption in (_full_captions(part) if plan.names_all else part.captions)
    ]


def _full_captions(dataset: Dataset) -> list[str]:
    """Captions that go on to name what else the boxes of an image show."""
    others = [set() for _ in range(len(dataset))]
    for name, image in zip(dataset.box_names, dataset.image_index.tolist(), strict=True):
        if name and name != dataset.class_names[dataset.labels[image]]:
            others[image].add(f" and a {name}")
    return [caption + "".join(sorted(names)) for caption, names in zip(dataset.captions, others, strict=True)]


def _competence(vlm: VLM, plan: Pretraining) -> float:
    """Zero-shot accuracy on composites of objects that were not trained on; leaves the model in training mode."""
    accuracy = evaluate(vlm, uncorrelated_set(plan.domain, "finetuning", CHECKED_IMAGES, plan.seed)).accuracy
    vlm.train()
    return accuracy


def uncorrelated_set(domain: str, split: str, n_images: int, seed: int, feature: str | None = None) -> Dataset:
    """Equal classes, a feature of the domain (the first, if none is named) in half of each class."""
    source = load_domain(domain)
    table = balanced_table(n_images, len(source.class_names))
    labels, present = (np.repeat(side.ravel(), table.ravel()) for side in np.indices(table.shape))
    return source.compose(split, labels, present.astype(bool), seed, feature or source.features[0])


def _batches(n_images: int, plan: Pretraining):
    random = np.random.default_rng(plan.seed)
    order = np.concatenate([random.permutation(n_images) for _ in range(plan.steps * plan.batch_size // n_images + 1)])
    for step in range(plan.steps):
        yield torch.from_numpy(order[step * plan.batch_size : (step + 1) * plan.batch_size])


def main() -> None:
    """Make a shipped miniature, say how competent it is, and put its weights where they ship from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SHIPPED))
    name = parser.parse_args().name
    torch.set_num_threads(1)  # the same bytes on every run
    vlm = pretrain(name, SHIPPED[name])
    folder = save_vlm(vlm, MINIATURES / f"{name}.new", dtype=torch.float16)
    shutil.move(folder / "open_clip_model.safetensors", MINIATURES / name / "open_clip_model.safetensors")
    shutil.rmtree(folder)
    shipped = evaluate(load_vlm(name), uncorrelated_set(SHIPPED[name].domain, "val", 2000, seed=0))
    print(f"{name}: zero-shot accuracy {shipped.accuracy:.3f} on 2,000 uncorrelated validation composites")


if __name__ == "__main__":
    main()
