"""How long and how a model is trained; in a file of its own, so that it can be named without importing torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What recipes that are to be compared have in common."""

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 3e-4  # the peak of a one-cycle schedule, for AdamW
    weight_decay: float = 0.01
    batchnorm: str = "training"  # or "frozen": keep the initial model's statistics
    trained: str = "tower"  # or "head": layer4 and the attention pool, on the initial model's layer3
    precision: str = "float32"  # or "bfloat16": autocast, faster where the processor has it


DEFAULT_BUDGET = Budget()
