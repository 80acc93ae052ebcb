"""How well images and the texts that describe them agree: is an image's own text found, how near, how spread out?"""

from dataclasses import dataclass

import numpy as np

from ravl_core import checks

FIRST = (1, 5)  # how many of the nearest texts are looked at
SHARPNESS = 2  # t of the uniformity


@dataclass(frozen=True)
class Alignment:
    """Figures of N pairs of an image and its text, unit embeddings both."""

    recall_at_1: float  # share of images whose own text is the nearest of all distinct texts, 0 … 1
    recall_at_5: float  # the same of the five nearest
    alignment: float  # mean squared distance of the pairs, 0 (the same) … 4
    uniformity: float  # of the images: log of the mean of exp(-2 d²) over all pairs, 0 (all in one place) and below
    n_texts: int  # distinct ones, T: by chance recall at k is k / T


def alignment(image_embeddings: np.ndarray, text_embeddings: np.ndarray, same: np.ndarray) -> Alignment:
    """Agreement of images with their own texts.

    Equal texts are one candidate. Where k cuts through texts that are equally near, an image counts by the share of
    them that fits in.

    Parameters
    ----------
    image_embeddings : float array (N, D)
        Unit embeddings of two images or more.
    text_embeddings : float array (N, D)
        Unit embeddings of each image's own text.
    same : int array (N,)
        Which texts are equal: they have the same number, 0 … T-1, and the same embedding.

    Raises
    ------
    ValueError
        Rows that are not of length 1, fewer than two images, sides that do not fit, or numbers that are no integers
        from 0 to N - 1.

    References
    ----------
    T. Wang and P. Isola, Understanding contrastive representation learning through alignment and uniformity on the
    hypersphere, 2020.
    """
    images = checks.unit_rows("image_embeddings", image_embeddings).astype(np.float64)
    texts = checks.unit_rows("text_embeddings", text_embeddings).astype(np.float64)
    if len(images) < 2:
        raise ValueError(f"image_embeddings: expected two or more, got {len(images)}")
    same = checks.integers("same", same, 0, len(images) - 1)
    checks.same_length(image_embeddings=images, text_embeddings=texts, same=same)
    checks.same_columns(image_embeddings=images, text_embeddings=texts)
    _, first, own = np.unique(same, return_index=True, return_inverse=True)
    cosines = (images @ texts[first].T).round(12)  # (N, T); equal ones stay equal in spite of the order of sums
    mine = cosines[np.arange(len(images)), own][:, None]
    nearer, as_near = (cosines > mine).sum(axis=1), (cosines == mine).sum(axis=1)  # (N,), the second with its own
    recalls = [float(((k - nearer) / as_near).clip(0, 1).mean()) for k in FIRST]
    distance = float(((images - texts) ** 2).sum(axis=1).mean())
    return Alignment(*recalls, distance, _uniformity(images), len(first))


def _uniformity(images: np.ndarray) -> float:
    squared = 2 - 2 * (images @ images.T)[np.triu_indices(len(images), 1)]  # d² of each pair
    return float(np.log(np.exp(-SHARPNESS * squared).mean()))
