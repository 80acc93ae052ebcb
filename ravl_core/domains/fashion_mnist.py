"""Fashion-MNIST in RaVL's layout: MNIST's format and split, with articles of clothing."""

from functools import partial

from ravl_core.domains.mnist import idx_scans
from ravl_core.domains.quadrants import QuadrantDomain

CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}", "{}")  # zero-shot
CAPTIONS = (
    "the image shows a {}",
    "this appears to be a {}",
    "there is an image showing a {}",
    "the item is a {}",
)


def domain() -> QuadrantDomain:
    """The Fashion-MNIST domain."""
    return QuadrantDomain("fashion_mnist", CLASS_NAMES, TEMPLATES, CAPTIONS, partial(idx_scans, "fashion_mnist"))
