"""Alignment of images with their texts: equal to loops, bounded where it has bounds, blind to order."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from ravl_core.language.alignment import alignment


def unit(rows):
    rows = np.asarray(rows, dtype=float)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs(n=40, n_texts=12, size=6, seed=0):
    """Images near their texts, some of which are equal and some of which are the same embedding by another name."""
    random = np.random.default_rng(seed)
    texts = unit(random.normal(size=(n_texts, size)))
    texts[3] = texts[7]  # two texts that no image can tell apart
    same = random.integers(0, n_texts, n)
    return unit(texts[same] + 0.5 * random.normal(size=(n, size))), texts[same], same


def recall_by_loop(images, texts, same, k):
    """Mean chance of being among the first k, where texts that are equally near stand in any order."""
    distinct = {text: next(i for i, other in enumerate(same) if other == text) for text in set(same)}
    chances = []
    for image, own in zip(images, same, strict=True):
        score = {text: round(float(image @ texts[first]), 9) for text, first in distinct.items()}
        nearer = sum(value > score[own] for value in score.values())
        tied = sum(value == score[own] for value in score.values())
        chances.append(sum(place < k for place in range(nearer, nearer + tied)) / tied)
    return np.mean(chances)


@pytest.mark.parametrize("seed", range(4))
def test_recall_equals_a_loop(seed):
    images, texts, same = pairs(seed=seed)
    found = alignment(images, texts, same)
    assert found.recall_at_1 == pytest.approx(recall_by_loop(images, texts, same, 1))
    assert found.recall_at_5 == pytest.approx(recall_by_loop(images, texts, same, 5))
    assert 0.1 < found.recall_at_1 < found.recall_at_5 and found.n_texts == len(set(same))


def test_distance_and_uniformity_equal_loops():
    images, texts, same = pairs()
    found, n = alignment(images, texts, same), len(images)
    assert found.alignment == pytest.approx(sum(((a - b) ** 2).sum() for a, b in zip(images, texts, strict=True)) / n)
    spread = [math.exp(-2 * ((images[i] - images[j]) ** 2).sum()) for i in range(n) for j in range(i)]
    assert found.uniformity == pytest.approx(math.log(sum(spread) / len(spread)))


def test_images_on_their_own_texts_are_found_and_near():
    found = alignment(np.eye(8), np.eye(8), np.arange(8))
    assert (found.recall_at_1, found.recall_at_5, found.alignment, found.n_texts) == (1, 1, 0, 8)
    assert found.uniformity == pytest.approx(-4)  # all are a right angle apart: d² = 2


def test_texts_that_cannot_be_told_apart_share_the_places():
    found = alignment(np.eye(5), np.tile(unit([[1] * 5]), (5, 1)), np.arange(5))
    assert found.recall_at_1 == pytest.approx(1 / 5) and found.recall_at_5 == 1
    twenty = alignment(np.tile(unit([[1, 2]]), (20, 1)), np.tile(unit([[1, 1]]), (20, 1)), np.arange(20))
    assert twenty.recall_at_1 == pytest.approx(1 / 20) and twenty.recall_at_5 == pytest.approx(5 / 20)
    assert twenty.uniformity == pytest.approx(0)


def test_images_on_the_texts_of_others_are_not_found():
    found = alignment(np.eye(8), np.eye(8)[::-1], np.arange(8))
    assert found.recall_at_1 == 0 and found.alignment == pytest.approx(2)
    assert found.recall_at_5 == pytest.approx(4 / 7)  # seven texts, all at a right angle, share the next places


def test_neither_the_order_of_pairs_nor_the_numbers_of_texts_matter():
    images, texts, same = pairs()
    order = np.random.default_rng(1).permutation(len(images))
    found = asdict(alignment(images, texts, same))
    assert asdict(alignment(images[order], texts[order], 30 - same[order])) == pytest.approx(found)


@pytest.mark.parametrize(
    "images, texts, same, message",
    [
        (np.eye(4)[:1], np.eye(4)[:1], [0], "image_embeddings: expected two or more, got 1"),
        (np.eye(4), np.eye(4)[:3], [0, 1, 2, 3], "text_embeddings: expected length 4"),
        (np.eye(4), np.eye(4), [0, 1, 2], "same: expected length 4"),
        (np.eye(4), np.eye(4, 5), [0, 1, 2, 3], "text_embeddings: expected 4 columns"),
        (np.eye(4), 2 * np.eye(4), [0, 1, 2, 3], "text_embeddings: expected rows of norm 1"),
        (np.eye(4), np.eye(4), [0, 1, 2, 4], "same: expected"),
        (np.eye(4), np.eye(4), [0.0, 1.0, 2.0, 3.0], "same: expected"),
    ],
)
def test_what_does_not_belong_together_is_refused(images, texts, same, message):
    with pytest.raises(ValueError, match=message):
        alignment(images, texts, np.array(same))
