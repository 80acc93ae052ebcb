"""The digits domain: what its labels, boxes and captions say is what the pixels show."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ravl_core.domains import load_domain
from ravl_core.domains.digits import CAPTIONS, CLASS_NAMES, SHARES, TEMPLATES
from ravl_core.domains.quadrants import RED

DRAWN = "c6ffdfbfcdc8c2ed872b70c2269f9391070da4d5ef7272b27e0becd97c4a6cef"
PIXELS = "2b1aed3cb7706e09c5cb00841d847a285b4b1d270e2ae3cdf6ace3bdef0618e1"
DOMAIN = load_domain("digits")
SPLITS = tuple(SHARES)


def compose(split="finetuning", n_images=400, seed=0):
    labels = np.arange(n_images) % 10
    return DOMAIN.compose(split, labels, np.random.default_rng(7).random(n_images) < 0.5, seed)


def quadrants_of(image):
    return [image[y : y + 28, x : x + 28] for y in (0, 28) for x in (0, 28)]


def is_red(pixels):
    return bool((pixels == RED).all())


def test_the_splits_share_no_scan_and_leave_none_over():
    used = [set(compose(split, 2000).sources) for split in SPLITS]
    assert sum(map(len, used)) == len(set.union(*used)) == 1797
    sizes = [len(own) / 1797 for own in used]
    np.testing.assert_allclose(sizes, [0.25, 0.35, 0.2, 0.2], atol=0.01)


def test_every_class_is_in_every_split():
    for split in SPLITS:
        data = compose(split, 2000)
        scans = [len(set(data.sources[data.labels == label])) for label in range(10)]
        assert min(scans) > 30


@pytest.mark.parametrize("split", SPLITS)
def test_every_scan_is_used_before_one_is_used_again(split):
    most = compose(split, 2000)
    for data in (compose(split, 100), compose(split, 600), most):
        for label in range(10):
            available = len(set(most.sources[most.labels == label]))
            counts = np.unique(data.sources[data.labels == label], return_counts=True)[1]
            assert len(counts) == min(available, len(data) // 10)
            assert counts.max() - counts.min() <= 1


def test_the_splits_are_the_same_for_every_seed():
    one, other = (set(compose("val", 2000, seed).sources) for seed in (0, 1))
    assert one == other


def test_sources_are_scans_of_the_labels_class():
    data = compose()
    assert (load_digits().target[data.sources] == data.labels).all()


def test_a_digit_in_one_quadrant_a_rectangle_in_another_and_black():
    data = compose()
    assert data.images.shape == (400, 56, 56, 3) and data.images.dtype == np.uint8
    for image, present in zip(data.images, data.feature_present, strict=True):
        parts = quadrants_of(image)
        red = [is_red(part) for part in parts]
        black = [not part.any() for part in parts]
        assert (sum(red), sum(black)) == ((1, 2) if present else (0, 3))
        (digit,) = (part for part, r, b in zip(parts, red, black, strict=True) if not r and not b)
        assert (digit[..., 0] == digit[..., 1]).all() and (digit[..., 0] == digit[..., 2]).all()
        assert digit.max() > 200


def test_the_drawn_digit_is_its_scan():
    data, scans = compose(n_images=50), load_digits().images
    for image, shows_core, source in zip(data.images, data.shows_core.reshape(-1, 4), data.sources, strict=True):
        digit = quadrants_of(image)[shows_core.argmax()][..., 0].astype(float)
        coarse = digit.reshape(4, 7, 4, 7).mean(axis=(1, 3)).ravel()
        assert np.corrcoef(coarse, scans[source].reshape(4, 2, 4, 2).mean(axis=(1, 3)).ravel())[0, 1] > 0.95


def test_what_boxes_show_agrees_with_the_pixels_in_them():
    data = compose()
    assert data.boxes.shape == (1600, 4) and data.image_index.tolist() == sorted(list(range(400)) * 4)
    for region, (x1, y1, x2, y2) in enumerate(data.boxes.astype(int)):
        pixels = data.images[data.image_index[region], y1:y2, x1:x2]
        assert data.shows_feature[region] == is_red(pixels)
        assert data.shows_core[region] == (pixels.any() and not is_red(pixels))


def test_the_feature_is_where_it_was_asked_for():
    data = compose()
    assert (data.feature_present == (np.random.default_rng(7).random(400) < 0.5)).all()
    assert (data.feature_present == data.shows_feature.reshape(-1, 4).any(axis=1)).all()


def test_digits_and_rectangles_stand_in_every_quadrant_alike():
    data = compose(n_images=4000)
    for shows in (data.shows_core, data.shows_feature):
        share = shows.reshape(-1, 4).sum(axis=0) / shows.sum()
        np.testing.assert_allclose(share, 0.25, atol=0.04)


def test_the_rectangle_says_nothing_about_the_place_or_scan_of_the_digit():
    """The same images with and without the feature differ in the rectangle alone."""
    labels = np.arange(100) % 10
    without, with_feature = (DOMAIN.compose("val", labels, np.full(100, present), 0) for present in (False, True))
    rectangle = with_feature.shows_feature.reshape(-1, 4)
    for one, other, red in zip(without.images, with_feature.images, rectangle, strict=True):
        parts = zip(quadrants_of(one), quadrants_of(other), strict=True)
        assert [not np.array_equal(a, b) for a, b in parts] == red.tolist()


def test_captions_come_from_the_four_templates_and_name_the_label():
    data = compose()
    expected = [{caption.format(CLASS_NAMES[label]) for caption in CAPTIONS} for label in data.labels]
    assert all(caption in allowed for caption, allowed in zip(data.captions, expected, strict=True))
    nines = [caption for caption, label in zip(data.captions, data.labels, strict=True) if label == 9]
    assert set(nines) == {caption.format("nine") for caption in CAPTIONS}
    assert data.class_names == CLASS_NAMES and data.templates == TEMPLATES


def same(one, other):
    return (
        one.images.tobytes() == other.images.tobytes()
        and one.captions == other.captions
        and one.boxes.tobytes() == other.boxes.tobytes()
        and all(
            np.array_equal(getattr(one, name), getattr(other, name))
            for name in ("labels", "image_index", "shows_core", "shows_feature", "feature_present", "sources")
        )
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    assert same(compose(), compose())
    other = compose(seed=1)
    assert not same(compose(), other)
    assert compose().images.tobytes() != other.images.tobytes() and compose().captions != other.captions


def digest(*parts):
    return hashlib.sha256(b"".join(bytes(part) for part in parts)).hexdigest()


def test_the_bytes_are_those_that_the_results_were_computed_on():
    """One digest of what was drawn, one of the pixels, which the versions of constraints.txt make."""
    sets = [compose(split, n_images, seed) for split in SPLITS for seed, n_images in ((0, 400), (1, 2000))]
    names = ("labels", "boxes", "image_index", "shows_core", "shows_feature", "feature_present", "sources")
    captions = "\n".join(caption for data in sets for caption in data.captions)
    assert digest(*(getattr(data, name) for data in sets for name in names), captions.encode()) == DRAWN
    assert digest(*(data.images for data in sets)) == PIXELS


def test_box_names_are_the_class_the_feature_or_nothing():
    data = compose()
    names = np.array(data.box_names)
    assert len(names) == len(data.boxes)
    assert (names[data.shows_core] == np.array(CLASS_NAMES)[data.labels]).all()
    assert set(names[data.shows_feature]) == {"red rectangle"}
    assert set(names[~data.shows_core & ~data.shows_feature]) == {""}


@pytest.mark.parametrize("split, nearest", [("finetunning", "finetuning"), ("tests", "test")])
def test_an_unknown_split_is_answered_with_the_nearest(split, nearest):
    with pytest.raises(ValueError, match=f"split: expected one of .*, got '{split}'; did you mean '{nearest}'"):
        compose(split)


@pytest.mark.parametrize("name, hint", [("digit", "did you mean 'digits'"), ("birds", "there are digits")])
def test_an_unknown_domain_is_answered_with_what_there_is(name, hint):
    with pytest.raises(ValueError, match=f"no domain is called '{name}'; {hint}"):
        load_domain(name)


def test_no_image_is_a_dataset_too():
    data = compose(n_images=0)
    assert len(data) == 0 and data.images.shape == (0, 56, 56, 3) and data.boxes.shape == (0, 4)
