"""How long and how a model is trained: what recipes that are to be compared have in common."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One training run.

    `trained` is the part of the image tower that learns. With "head" the maps that regions are cut from stay those of
    the initial model. That matters for the region-aware loss: a region's embedding sees its neighbours through the
    trunk, and a trunk that learns can carry the shortcut into regions that count as relevant.
    """

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3  # the peak of a one-cycle schedule, for AdamW
    weight_decay: float = 0.01
    trained: str = "head"  # layer4 and the attention pool; "pool": the attention pool; "tower": everything
    batchnorm: str = "training"  # or "frozen": keep the initial model's statistics
    precision: str = "float32"  # or "bfloat16": autocast, faster where the processor has it


DEFAULT_BUDGET = Budget()
