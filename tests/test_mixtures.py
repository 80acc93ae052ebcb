"""Mixtures of an evaluation set: their shares are what their names say, and what is drawn has these shares."""

import numpy as np
import pytest

from ravl_core.mixtures import drawn, mixtures

C, ATTRIBUTE = 10, 3
NAMES = ("balanced", "feature in 10 %", "feature in 90 %", "class rare", "class common", "long tail")


def balanced_set(per_group=50):
    """Labels and presence of `per_group` images of each class and side, in random order."""
    labels, present = (np.repeat(side.ravel(), per_group) for side in np.indices((C, 2)))
    order = np.random.default_rng(0).permutation(len(labels))
    return labels[order], present[order].astype(bool)


def test_shares_sum_to_one_and_are_what_their_names_say():
    shares = mixtures(C, ATTRIBUTE)
    assert tuple(shares) == NAMES
    for share in shares.values():
        assert share.shape == (C, 2) and (share > 0).all()
        assert share.sum() == pytest.approx(1)
    classes = {name: share.sum(axis=1) for name, share in shares.items()}
    features = {name: share[:, 1] / share.sum(axis=1) for name, share in shares.items()}
    np.testing.assert_allclose(shares["balanced"], 1 / (2 * C))
    np.testing.assert_allclose(features["feature in 10 %"], 0.1)
    np.testing.assert_allclose(features["feature in 90 %"], 0.9)
    assert classes["class rare"][ATTRIBUTE] == pytest.approx(0.25 / C)
    assert classes["class common"][ATTRIBUTE] == pytest.approx(0.25)
    assert classes["long tail"][0] / classes["long tail"][-1] == pytest.approx(10)
    assert (np.diff(classes["long tail"]) < 0).all()
    for name in NAMES[3:]:
        np.testing.assert_allclose(features[name], 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_has_the_shares_of_its_mixture(name):
    labels, present = balanced_set()
    share = mixtures(C, ATTRIBUTE)[name]
    images = drawn(labels, present, share)
    counts = [[np.sum((labels[images] == c) & (present[images] == side)) for side in (False, True)] for c in range(C)]
    np.testing.assert_array_equal(counts, np.round(400 * share))
    assert (np.diff(images) > 0).all()


def test_a_group_that_has_too_few_images_gives_what_it_has():
    labels, present = balanced_set(per_group=4)
    share = np.zeros((C, 2))
    share[2, 1] = 1.0
    images = drawn(labels, present, share, share=0.4)
    assert set(images) == set(np.flatnonzero((labels == 2) & present))


def test_mixtures_share_images_and_another_seed_draws_others():
    labels, present = balanced_set()
    share = mixtures(C, ATTRIBUTE)
    rare, balanced = (set(drawn(labels, present, share[name], seed=5)) for name in ("class rare", "balanced"))
    of_class = {image for image in balanced if labels[image] == ATTRIBUTE}
    assert {image for image in rare if labels[image] == ATTRIBUTE} < of_class
    assert set(drawn(labels, present, share["balanced"], seed=5)) == balanced
    assert set(drawn(labels, present, share["balanced"], seed=6)) != balanced


def test_a_share_beyond_all_images_is_refused():
    with pytest.raises(ValueError, match="share"):
        drawn(*balanced_set(), mixtures(C, ATTRIBUTE)["balanced"], share=1.5)
