"""The questions that a multimodal teacher is asked about an image, in the deck's order and our words.

Two conversations of two turns each: one about the object without the background, one about the background without the
object. The first turn lets the teacher describe, the second turns that into keywords.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ravl_core import checks

Conversation = tuple[str, str]  # what the user says first, and what after the first answer


@dataclass(frozen=True)
class Scaffold:
    """A grid of labelled dots that is laid over each image and explained in the prompts.

    Source: X. Lei et al., "Scaffolding coordinates to promote vision-language coordination in large multi-modal
    models", 2024.
    """

    prepare: Callable[[np.ndarray], np.ndarray]  # lays the dots over one image (H, W, 3) uint8
    rows: int = 6
    columns: int = 6

    def __post_init__(self):
        checks.whole_number("rows", self.rows, 1)
        checks.whole_number("columns", self.columns, 1)

    @property
    def text(self) -> str:
        """What the prompts say of the dots."""
        return (
            f"A grid of {self.rows} × {self.columns} dots is laid over the image. Each is labelled with its row and "
            f'column, from "1,1" at the top left to "{self.rows},{self.columns}" at the bottom right. Use them to tell '
            "where things are, and don't describe the dots."
        )


def object_prompts(kind: str, class_name: str | None = None) -> Conversation:
    """About the object alone; `kind` is what all images show ("bird"), `class_name` what this one is labelled as."""
    belongs = "of the class it belongs to" if class_name is None else f"that make it a {class_name}"
    return (
        f"Identify the {kind} in this image and describe its distinguishing features. Ignore the background. "
        "Be concise.",
        f"Now give the common name of the {kind}, then keywords for the physical traits {belongs}. Ignore the "
        "background. Answer with the keywords only, separated by commas.",
    )


def background_prompts(kind: str) -> Conversation:
    """About the background alone; `kind` is what all images show ("bird")."""
    return (
        f"Describe the background of this image. Ignore the {kind}. Be concise.",
        f"Now give keywords for the background. Ignore the {kind}. Answer with the keywords only, separated by commas.",
    )


def with_scaffold(conversation: Conversation, scaffold: Scaffold | None) -> Conversation:
    """A conversation that explains the dots first; without a scaffold it stays as it is."""
    first, second = conversation
    return conversation if scaffold is None else (f"{scaffold.text} {first}", second)
