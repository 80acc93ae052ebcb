"""Runs of a fine-tuning recipe, step by step, and losses from a model's public embeddings by plain loops."""

from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
from tiny import digits

from ravl_core.mitigation import Budget, finetune, training
from ravl_core.mitigation.batch import Batch
from ravl_core.vlm import VLM

SHORT = Budget(epochs=2, batch_size=16, learning_rate=1e-3)
FROZEN = replace(SHORT, batchnorm="frozen")  # what a step sees is then what the model says in evaluation
TEXT = ("transformer", "token_embedding", "positional_embedding", "ln_final", "logit_scale")


@dataclass(frozen=True)
class Step:
    images: np.ndarray  # (B,)
    vlm: VLM  # as it was before the step
    batch: Batch
    loss: float


def steps_of(vlm, dataset, recipe, assignment=None, budget=FROZEN, seed=0):
    """The tuned model and all steps of a run."""
    seen, load = [], training._Batches.load

    def noting(self, images, progress=0.0):
        batch = load(self, images, progress)
        seen.append((images, training.copy_of(self.vlm).eval(), batch))
        return batch

    with patch.object(training._Batches, "load", noting):
        tuned, history = finetune(vlm, dataset, recipe, assignment, budget, seed)
    assert len(seen) == len(history.losses)
    return tuned, [Step(*parts, float(loss)) for parts, loss in zip(seen, history.losses, strict=True)]


def few_classes(n_images, n_classes=3):
    """Digits called by the names of a few classes only, so that a small set has every group."""
    data = digits(n_images)
    return replace(data, labels=data.labels % n_classes, class_names=data.class_names[:n_classes])


def some(n_regions, seed=0, share=0.15):
    """Which regions are spurious, by chance, (M,)."""
    return np.random.default_rng(seed).random(n_regions) < share


def groups_by_loop(dataset, assignment):
    """2 · label + whether any region of the image is spurious, (N,)."""
    found = []
    for image, label in enumerate(dataset.labels):
        mine = [assignment[region] for region in np.flatnonzero(dataset.image_index == image)]
        found.append(2 * int(label) + int(any(mine)))
    return np.array(found)


def embedded(vlm, dataset, images):
    """Embeddings of some images, of their captions and of all classes, float64; (B, D), (B, D), (C, D)."""
    whole = vlm.encode_images(dataset.images[images]).astype(np.float64)
    texts = vlm.encode_texts([dataset.captions[i] for i in images]).astype(np.float64)
    classes = []
    for name in dataset.class_names:
        mean = vlm.encode_texts([template.format(name) for template in dataset.templates]).astype(np.float64).mean(0)
        classes.append(mean / np.sqrt((mean**2).sum()))
    return whole, texts, np.array(classes)


def negative_log_share(logits, right):
    """-log of a softmax's entry, from its definition."""
    return float(np.log(np.exp(logits - logits[right]).sum()))


def clip_by_loops(images, texts, temperature=0.07):
    """The symmetric CLIP loss."""
    logits = images @ texts.T / temperature
    n = len(logits)
    return sum(negative_log_share(side[i], i) for side in (logits, logits.T) for i in range(n)) / (2 * n)


def cross_entropies_by_loop(images, classes, labels, temperature=0.07):
    """Each image's cross-entropy among the classes, (B,)."""
    return np.array(
        [negative_log_share(classes @ image / temperature, y) for image, y in zip(images, labels, strict=True)]
    )
