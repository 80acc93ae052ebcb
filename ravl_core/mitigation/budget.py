"""How long and how a model is trained: what recipes that are to be compared have in common."""

from dataclasses import dataclass

from ravl_core.checks import number, whole_number


@dataclass(frozen=True)
class Budget:
    """One training run.

    `trained` is the part of the image tower that learns. With "head" or "pool" the maps that regions are cut from stay
    those of the initial model and are computed once, which makes a run several times cheaper.
    """

    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3  # the peak of a one-cycle schedule, for AdamW
    weight_decay: float = 0.01
    trained: str = "head"  # layer4 and the attention pool; "pool": the attention pool; "tower": everything
    batchnorm: str = "training"  # or "frozen": keep the initial model's statistics
    precision: str = "float32"  # or "bfloat16": autocast, faster where the processor has it

    def __post_init__(self):
        whole_number("epochs", self.epochs, 0)
        whole_number("batch_size", self.batch_size, 1)
        number("learning_rate", self.learning_rate, 0)
        number("weight_decay", self.weight_decay, 0)


DEFAULT_BUDGET = Budget()
