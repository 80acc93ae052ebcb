"""Real handwritten digits in the layout of RaVL's MNIST settings, with nothing to download.

scikit-learn ships 1,797 scans of 8×8 pixels, here enlarged to the 28×28 of MNIST.
"""

from functools import cache

import numpy as np

from ravl_core.domains.quadrants import QUADRANT, QuadrantDomain, Scans, split_by_class

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = ("a photo of the number {}", "the digit {}", "an image of a {}", "{}")  # zero-shot, authors' demo
CAPTIONS = (
    "the image shows a {}",
    "the digit appears to be {}",
    "there is an image showing a {}",
    "the number is a {}",
)
SHARES = {"pretraining": 0.25, "finetuning": 0.35, "val": 0.2, "test": 0.2}  # of each class's scans


def domain() -> QuadrantDomain:
    """The digits domain."""
    return QuadrantDomain("digits", CLASS_NAMES, TEMPLATES, CAPTIONS, _scans)


@cache
def _scans() -> Scans:
    """All 1,797 scans at a quadrant's size."""
    from skimage.transform import resize
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = resize(digits.images / 16, (len(digits.images), QUADRANT, QUADRANT), order=1)
    return Scans((scans * 255).round().astype(np.uint8), split_by_class("digits", digits.target, SHARES))
