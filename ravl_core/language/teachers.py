"""Teachers: whatever looks at an image and describes it.

A teacher sees the pixels and is told no position, so that the answers of one that knows its images from annotations
and of one that looks at them stay right under any shuffling and sub-sampling, and one cache serves both.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ravl_core import checks
from ravl_core.language.description import Description

Answer = Callable[[np.ndarray, str | None], Description]


class Teacher(Protocol):
    """What `describe` asks; `name` tells apart all teachers that answer differently (model, prompts, options)."""

    name: str

    def __call__(self, image: np.ndarray, class_name: str | None) -> Description:
        """The description of one image (H, W, 3) uint8, whose class is `class_name`, or None if that is not told."""
        ...


@dataclass(frozen=True)
class _Function:
    function: Answer
    name: str

    def __call__(self, image: np.ndarray, class_name: str | None) -> Description:
        return self.function(image, class_name)


def from_function(function: Answer, name: str) -> Teacher:
    """A teacher of any function of an image and the name of its class; see `Teacher` for what its name has to tell."""
    return _Function(function, name)


def annotation_teacher(images: np.ndarray, descriptions: Sequence[Description]) -> Teacher:
    """A teacher that knows these images (N, H, W, 3) by their pixels and says what is given for each.

    Of equal images the first one's description counts. The name holds a hash of all that the teacher knows.

    Raises
    ------
    ValueError
        Another number of descriptions than of images; and LookupError when asked about an image that is none of them.
    """
    images = checks.images("images", images)
    checks.same_length(images=images, descriptions=descriptions)
    known: dict[str, Description] = {}
    for image, description in zip(images, descriptions, strict=True):
        known.setdefault(fingerprint(image), description)

    def answer(image: np.ndarray, class_name: str | None) -> Description:
        if (found := known.get(fingerprint(image))) is None:
            raise LookupError(f"image: expected one of the {len(known)} annotated images, got another")
        return found

    contents = hashlib.sha256(repr(sorted(known.items(), key=lambda item: item[0])).encode()).hexdigest()[:16]
    return from_function(answer, f"annotations {contents}")


def fingerprint(image: np.ndarray) -> str:
    """SHA-256 of an image's pixels and of its shape, without which a turned blank image would be the same."""
    return hashlib.sha256(f"{image.shape} {image.dtype} ".encode() + image.tobytes()).hexdigest()
