"""The photos domain: eight objects that can be told apart, cut out of photographs that ship with scikit-image."""

import socket

import numpy as np
import pytest
from PIL import Image

from ravl_core.domains import load_domain, photos
from ravl_core.domains.photos import CLASS_NAMES, DISTRACTORS, FEATURES, SPLITS

DOMAIN = load_domain("photos")


def compose(split="finetuning", n_images=80, seed=0, feature="red rectangle", share=0.5):
    present = np.random.default_rng(7).random(n_images) < share
    return DOMAIN.compose(split, np.arange(n_images) % 8, present, seed, feature)


def crops(data, shown):
    """What the boxes show, at 8×8 pixels: (boxes, 192), in 0…1 and without their mean light."""
    found = []
    for image, box in zip(data.images[data.image_index[shown]], data.boxes[shown].tolist(), strict=True):
        found.append(np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX, box=box)).ravel() / 255)
    return np.array(found) - np.mean(found, axis=1, keepdims=True)


def nearest(train, names, test):
    centres = {name: train[names == name].mean(axis=0) for name in sorted(set(names))}
    distances = np.array([np.linalg.norm(test - centre, axis=1) for centre in centres.values()])
    return np.array(list(centres))[distances.argmin(axis=0)]


def test_the_domain_says_what_it_offers():
    assert (DOMAIN.name, DOMAIN.class_names, DOMAIN.features) == ("photos", CLASS_NAMES, FEATURES)
    assert len(CLASS_NAMES) == 8 and FEATURES[0] == "red rectangle" and len(FEATURES) >= 3
    assert not {*CLASS_NAMES} & {*FEATURES} and not {*DISTRACTORS} & {*CLASS_NAMES, *FEATURES}


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_is_planted_where_it_was_asked_for(feature):
    data = compose(feature=feature)
    held = np.zeros(len(data), dtype=bool)
    held[data.image_index[data.shows_feature]] = True
    assert (held == data.feature_present).all() and 0 < held.sum() < len(data)
    named = np.array(data.box_names) == feature
    assert (named == data.shows_feature).all()


@pytest.mark.parametrize("split", SPLITS)
def test_every_image_shows_what_its_label_names(split):
    data = compose(split)
    names = {image: name for image, name in zip(data.image_index[data.shows_core], core_names(data), strict=True)}
    assert [names[image] for image in range(len(data))] == [CLASS_NAMES[label] for label in data.labels]


def core_names(data):
    return np.array(data.box_names)[data.shows_core].tolist()


def test_objects_can_be_told_apart_by_their_pixels_in_another_split():
    train, test = compose("finetuning", 640), compose("test", 160, seed=3)
    found = nearest(crops(train, train.shows_core), np.array(core_names(train)), crops(test, test.shows_core))
    assert np.mean(found == np.array(core_names(test))) > 0.6  # 1 in 8 by chance


def test_splits_share_no_coin_and_no_other_picture_of_a_background():
    sets = [compose(split, 240) for split in SPLITS]
    coins = [set(data.sources[data.labels == CLASS_NAMES.index("coin")].tolist()) for data in sets]
    assert all(len(own) == 6 for own in coins) and len(set.union(*coins)) == 24
    backgrounds = [photos._material(split, "horse").backgrounds for split in SPLITS]
    for quarters in zip(*backgrounds, strict=True):
        assert len({quarter.pixels.tobytes() for quarter in quarters}) == 4


def test_sources_tell_the_objects_apart():
    data = compose(n_images=240)
    single = data.labels != CLASS_NAMES.index("coin")
    assert (data.sources[single] == data.labels[single]).all() and data.sources[~single].min() >= 8


def test_every_cut_out_stands_free_of_its_surroundings():
    material = [photos._material("val", feature) for feature in FEATURES]
    cut_outs = [cores[0] for cores in material[0].cores] + [m.feature[0] for m in material[1:]]
    for one in (*cut_outs, *material[0].distractors):
        opacity = one.pixels[..., 3]
        assert max(opacity.shape) == 64 and (opacity > 250).mean() > 0.25, one.name
        if one.name in ("bottle", "page", "name badge", "cardboard box"):  # box-like
            continue
        assert (opacity < 5).mean() > 0.1, one.name


def test_splits_and_seeds_give_other_images_and_the_same_seed_the_same_bytes():
    pictures = {compose(split, 8, seed).images.tobytes() for split in SPLITS for seed in (0, 1)}
    assert len(pictures) == 8
    assert compose().images.tobytes() == compose().images.tobytes()


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for cached in (photos._photograph, photos._object, photos._material):
        cached.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    for feature in FEATURES:
        assert len(compose(feature=feature)) == 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tests"}, "split: expected one of .*, got 'tests'; did you mean 'test'"),
        ({"feature": "horses"}, "feature: expected one of .*, got 'horses'; did you mean 'horse'"),
        ({"labels": np.array([8])}, "labels: expected integers from 0 to 7"),
        ({"feature_present": np.array([True, False])}, "feature_present: expected length 1, as labels"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    fitting = {"split": "val", "labels": np.array([0]), "feature_present": np.array([True]), "seed": 0}
    assert len(DOMAIN.compose(**fitting)) == 1
    with pytest.raises(ValueError, match=message):
        DOMAIN.compose(**(fitting | change))
