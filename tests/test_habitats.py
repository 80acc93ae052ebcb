"""The habitats domain: objects that the label names, on the background that was asked for, and what a teacher says."""

import numpy as np
import pytest

from ravl_core.domains import habitats, load_domain
from ravl_core.domains.habitats import BACKGROUNDS, CLASS_NAMES, HABITATS, OBJECTS, TRAITS, descriptions, group_counts
from ravl_core.domains.photos import DISTRACTORS, SPLITS
from ravl_core.language.description import Description

DOMAIN = load_domain("habitats")


def compose(split="finetuning", n_images=60, seed=0, share=0.5):
    present = np.random.default_rng(7).random(n_images) < share
    return DOMAIN.compose(split, np.arange(n_images) % 2, present, seed)


@pytest.fixture(scope="module")
def data():
    return compose()


def names_of(data, image):
    return [name for name, owner in zip(data.box_names, data.image_index, strict=True) if owner == image]


def test_the_domain_says_what_it_offers(data):
    assert (DOMAIN.name, DOMAIN.class_names, DOMAIN.features) == ("habitats", ("mammal", "vehicle"), ("street",))
    assert data.images.shape == (60, 64, 64, 3) and data.images.dtype == np.uint8
    assert data.labels.tolist() == [0, 1] * 30 and data.class_names == CLASS_NAMES
    assert [*data.captions[:2]] == ["a photo of a mammal.", "a photo of a vehicle."] and len(set(data.captions)) == 2


def test_labels_and_features_are_those_asked_for_in_every_split():
    for split in SPLITS:
        made = compose(split, 12)
        present = np.random.default_rng(7).random(12) < 0.5
        assert made.labels.tolist() == [0, 1] * 6 and (made.feature_present == present).all()
        assert (made.sources // 2 == made.labels).all()


def test_boxes_say_what_they_show(data):
    names = np.array(data.box_names)
    assert set(names) <= {*CLASS_NAMES, *HABITATS, *DISTRACTORS}
    assert (data.shows_core == (names == np.array(CLASS_NAMES)[data.labels[data.image_index]])).all()
    assert (data.shows_feature == (names == "street")).all()
    for image, in_street in enumerate(data.feature_present):
        named = names_of(data, image)
        assert CLASS_NAMES[data.labels[image]] in named
        assert HABITATS[not in_street] not in named
    without = [image for image in range(60) if not {*HABITATS} & {*names_of(data, image)}]
    assert len(without) <= 2  # where objects left no room


def test_boxes_of_the_background_hardly_touch_the_object(data):
    for image in range(len(data)):
        own = data.image_index == image
        grounds = data.boxes[own & np.isin(data.box_names, HABITATS)]
        for x1, y1, x2, y2 in data.boxes[own & data.shows_core].tolist():
            for left, top, right, bottom in grounds.tolist():
                shared = max(0, min(x2, right) - max(x1, left)) * max(0, min(y2, bottom) - max(y1, top))
                assert shared < 0.5 * (right - left) * (bottom - top)


def test_with_another_background_the_same_image_keeps_everything_else():
    labels, nowhere = np.arange(20) % 2, np.zeros(20, dtype=bool)
    meadow, street = (DOMAIN.compose("val", labels, present, 3) for present in (nowhere, ~nowhere))
    assert (meadow.boxes == street.boxes).all() and (meadow.sources == street.sources).all()
    renamed = [{"meadow": "street"}.get(name, name) for name in meadow.box_names]
    assert renamed == [*street.box_names] and meadow.captions == street.captions
    mixed = DOMAIN.compose("val", labels, labels == 1, 3)
    for image, label in enumerate(labels):
        assert (mixed.images[image] == (street if label else meadow).images[image]).all()
    grey = greyness(meadow), greyness(street)
    assert (grey[0] > grey[1] + 5).mean() > 0.9  # grass is green, whatever its light


def greyness(data):
    """How much greener than red or blue the boxes of background are, on average: (boxes,)."""
    shown = np.isin(data.box_names, HABITATS)
    found = []
    for image, (x1, y1, x2, y2) in zip(data.image_index[shown], data.boxes[shown].astype(int), strict=True):
        red, green, blue = data.images[image, y1:y2, x1:x2].reshape(-1, 3).mean(axis=0)
        found.append(green - (red + blue) / 2)
    return np.array(found)


def test_splits_share_no_part_of_a_background():
    for habitat in HABITATS:
        for quarters in zip(*(habitats._material(split, habitat).backgrounds for split in SPLITS), strict=True):
            assert len({quarter.pixels.tobytes() for quarter in quarters}) == 4


def test_objects_are_grey_half_transparent_and_named_as_their_class():
    for label, cores in enumerate(habitats._material("test", "street").cores):
        for core in cores:
            assert core.name == CLASS_NAMES[label] and OBJECTS[core.source] in OBJECTS[2 * label : 2 * label + 2]
            colours, opacity = core.pixels[..., :3], core.pixels[..., 3]
            assert (colours == colours[..., :1]).all() and np.ptp(colours) > 0 or core.source == 1  # a silhouette
            assert opacity.max() == round(255 * habitats.OPACITY)


def test_splits_and_seeds_give_other_images_and_the_same_seed_the_same_bytes(data):
    pictures = {compose(split, 4, seed).images.tobytes() for split in SPLITS for seed in (0, 1)}
    assert len(pictures) == 8 and compose().images.tobytes() == data.images.tobytes()


# ---- what a teacher says ----


def test_a_description_names_the_object_its_traits_and_the_background_it_has(data):
    for image, told in enumerate(descriptions(data)):
        name = OBJECTS[data.sources[image]]
        assert isinstance(told, Description) and told.objects[:2] == (CLASS_NAMES[data.labels[image]], name)
        traits, ground = told.objects[2:], HABITATS[int(data.feature_present[image])]
        assert 2 <= len(traits) <= 3 and {*traits} <= {*TRAITS[name]}
        assert 2 <= len(told.background) <= 3 and {*told.background} <= {*BACKGROUNDS[ground]}


def test_descriptions_vary_and_depend_on_the_seed_alone(data):
    first, again, other = descriptions(data), descriptions(data), descriptions(data, seed=1)
    assert first == again and first != other and len(set(first)) > 40
    for part in ("objects", "background"):
        assert {len(getattr(told, part)) for told in first} == ({4, 5} if part == "objects" else {2, 3})


def test_no_word_is_used_for_two_objects_or_two_backgrounds():
    words = [*CLASS_NAMES, *OBJECTS, *sum(TRAITS.values(), ()), *sum(BACKGROUNDS.values(), ())]
    assert len(words) == len(set(words)) and {*TRAITS} == {*OBJECTS} and {*BACKGROUNDS} == {*HABITATS}


def test_in_pretraining_captions_say_what_a_teacher_would_say():
    made = compose("pretraining", 12, seed=5)
    for caption, told in zip(made.captions, descriptions(made, seed=5), strict=True):
        assert caption == f"a photo of a {', '.join(told.objects + told.background)}."


# ---- groups ----


def test_groups_have_waterbirds_proportions():
    assert group_counts(4795).tolist() == [[3498, 184], [56, 1057]]
    assert group_counts(2000).tolist() == [[1459, 77], [23, 441]]
    assert group_counts(20).min() >= 1 and group_counts(20).sum() == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "split: expected one of .*, got 'train'"),
        ({"feature": "water"}, "feature: expected one of 'street', got 'water'"),
        ({"labels": np.array([2])}, "labels: expected integers from 0 to 1"),
        ({"feature_present": np.array([True, False])}, "feature_present: expected length 1, as labels"),
        ({"feature_present": np.array([1])}, "feature_present: expected a vector of booleans"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    fitting = {"split": "val", "labels": np.array([0]), "feature_present": np.array([True]), "seed": 0}
    with pytest.raises(ValueError, match=message):
        DOMAIN.compose(**(fitting | change))
