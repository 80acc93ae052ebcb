"""MNIST and Fashion-MNIST: idx files, the split, and composites, on small files of the same format and on the real."""

import gzip
import hashlib
import os

import numpy as np
import pytest

from ravl_core.domains import files, load_domain
from ravl_core.domains.digits import CLASS_NAMES as DIGITS
from ravl_core.domains.mnist import idx_scans, read_idx
from ravl_core.domains.quadrants import RED
from ravl_core.settings import Setting, build_setting

NAMES = ("mnist", "fashion_mnist")
SPLITS = ("pretraining", "finetuning", "val", "test")
N_TRAIN, N_TEST = 400, 100
COMPLETE = all((files.data_folder() / name / file).is_file() for name in NAMES for file in files.SHA256[name])
real = pytest.mark.skipif(
    not os.environ.get("RAVL_DATA") or not COMPLETE, reason="RAVL_DATA names no folder with mnist and fashion_mnist"
)


def idx(array):
    """The bytes of a gzipped idx file."""
    header = np.array([2048 + array.ndim, *array.shape], ">u4")
    return gzip.compress(header.tobytes() + array.tobytes(), mtime=0)


def numbered_scans(first, n_images):
    """Images whose first two pixels say which one it is, and their labels: all ten classes in turn."""
    number = np.arange(first, first + n_images)
    images = np.full((n_images, 28, 28), 9, np.uint8)
    images[:, 0, 0], images[:, 0, 1] = number // 256, number % 256
    return images, (number % 10).astype(np.uint8)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Both data sets with 400 training and 100 test images; nowhere to fetch the real ones from."""
    checksums = {}
    for dataset in NAMES:
        (tmp_path / dataset).mkdir()
        for part, first, n_images in (("train", 0, N_TRAIN), ("t10k", N_TRAIN, N_TEST)):
            for kind, array in zip(("images-idx3", "labels-idx1"), numbered_scans(first, n_images), strict=True):
                path = tmp_path / dataset / f"{part}-{kind}-ubyte.gz"
                path.write_bytes(idx(array))
                checksums.setdefault(dataset, {})[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("RAVL_DATA", str(tmp_path))
    monkeypatch.setattr(files, "SHA256", checksums)
    monkeypatch.setattr(files, "SOURCES", dict.fromkeys(NAMES, ()))
    idx_scans.cache_clear()
    yield tmp_path
    idx_scans.cache_clear()


def compose(name="mnist", split="finetuning", n_images=200, seed=0):
    labels, present = np.arange(n_images) % 10, np.random.default_rng(7).random(n_images) < 0.5
    return load_domain(name).compose(split, labels, present, seed, "red rectangle")


def quadrants_of(images):
    """(N, 4, 28, 28, 3): top left, top right, bottom left, bottom right."""
    return images.reshape(-1, 2, 28, 2, 28, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 4, 28, 28, 3)


# ---- idx files ----


@pytest.mark.parametrize("array", [np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.array([3, 1, 2], np.uint8)])
def test_an_idx_file_gives_back_its_array(tmp_path, array):
    (tmp_path / "x.gz").write_bytes(idx(array))
    read = read_idx(tmp_path / "x.gz")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8 and not read.flags.writeable


WHOLE = gzip.decompress(idx(np.zeros((3, 4, 5), np.uint8)))


@pytest.mark.parametrize(
    "content, problem",
    [
        (gzip.compress(b"\0\0\x0d\x03" + WHOLE[4:]), "magic number 2049 .labels. or 2051 .images., got 3331"),
        (gzip.compress(b""), "magic number .* got 0"),
        (gzip.compress(WHOLE[:-1]), r"expected 76 bytes for shape \(3, 4, 5\), got 75"),
        (gzip.compress(WHOLE + b"\0"), r"expected 76 bytes for shape \(3, 4, 5\), got 77"),
        (gzip.compress(WHOLE[:10]), "expected .* bytes for shape .* got 10"),
        (WHOLE, "expected a whole gzip file"),
        (gzip.compress(WHOLE)[:-12], "expected a whole gzip file"),
        (gzip.compress(os.urandom(99))[:30] + b"\xff" * 90, "expected a whole gzip file"),
    ],
)
def test_no_idx_file_is_an_error_that_names_it(tmp_path, content, problem):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.gz: .*{problem}"):
        read_idx(tmp_path / "x.gz")


# ---- the domains on small files ----


@pytest.mark.parametrize("name", NAMES)
def test_the_splits_share_no_image_and_leave_none_over(small, name):
    used = {split: set(compose(name, split, 500).sources) for split in SPLITS}
    assert {split: len(own) for split, own in used.items()} == {
        "pretraining": 100, "finetuning": 220, "val": 80, "test": 100,
    }  # fmt: skip
    assert len(set.union(*used.values())) == N_TRAIN + N_TEST
    assert used["test"] == set(range(N_TRAIN, N_TRAIN + N_TEST))


def test_the_two_data_sets_are_dealt_out_apart(small):
    assert set(compose("mnist").sources) != set(compose("fashion_mnist").sources)


def test_the_splits_are_the_same_for_every_seed(small):
    one, other = (set(compose("mnist", "val", 500, seed).sources) for seed in (0, 1))
    assert one == other


@pytest.mark.parametrize("split", SPLITS)
def test_a_composite_shows_the_image_it_names_which_is_of_its_class(small, split):
    data = compose("mnist", split)
    scans = quadrants_of(data.images)[data.shows_core.reshape(-1, 4)].astype(int)  # (N, 28, 28, 3)
    assert (scans[:, 0, 0, 0] * 256 + scans[:, 0, 1, 0] == data.sources).all()
    assert (data.sources % 10 == data.labels).all()
    assert (scans[:, 1:] == 9).all()


@pytest.mark.parametrize("name", NAMES)
def test_boxes_and_their_names_say_what_the_pixels_show(small, name):
    data = compose(name)
    assert data.boxes.shape == (800, 4) and (data.image_index == np.repeat(np.arange(200), 4)).all()
    assert len(data.box_names) == 800
    for region, (x1, y1, x2, y2) in enumerate(data.boxes.astype(int)):
        image = data.image_index[region]
        pixels = data.images[image, y1:y2, x1:x2]
        red, black = bool((pixels == RED).all()), not pixels.any()
        assert (data.shows_feature[region], data.shows_core[region]) == (red, not red and not black)
        shown = "red rectangle" if red else "" if black else data.class_names[data.labels[image]]
        assert data.box_names[region] == shown and type(data.box_names[region]) is str


def test_the_feature_is_where_it_was_asked_for(small):
    data = compose()
    assert (data.feature_present == (np.random.default_rng(7).random(200) < 0.5)).all()
    assert (data.shows_feature.reshape(-1, 4).any(axis=1) == data.feature_present).all()
    assert (data.shows_core.reshape(-1, 4).sum(axis=1) == 1).all()
    assert not (data.shows_core & data.shows_feature).any()


def test_scans_and_rectangles_stand_in_every_quadrant_alike(small):
    data = compose(n_images=4000)
    for shows in (data.shows_core, data.shows_feature):
        np.testing.assert_allclose(shows.reshape(-1, 4).sum(axis=0) / shows.sum(), 0.25, atol=0.04)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small):
    one, again, other = compose(), compose(), compose(seed=1)
    assert one.images.tobytes() == again.images.tobytes() != other.images.tobytes()
    assert one.captions == again.captions != other.captions
    assert one.box_names == again.box_names != other.box_names


def test_the_words_are_those_of_the_data_set(small):
    assert load_domain("mnist").class_names == DIGITS
    fashion = compose("fashion_mnist")
    assert fashion.class_names[9] == "ankle boot" and len(set(fashion.class_names)) == 10
    assert all(fashion.class_names[label] in text for label, text in zip(fashion.labels, fashion.captions, strict=True))
    bags = {text for label, text in zip(fashion.labels, fashion.captions, strict=True) if label == 8}
    assert bags == {
        "the image shows a bag", "this appears to be a bag", "there is an image showing a bag", "the item is a bag",
    }  # fmt: skip
    assert all(template.count("{}") == 1 for template in fashion.templates)


def test_the_files_are_read_once(small):
    compose()
    for path in (small / "mnist").iterdir():
        path.unlink()
    assert len(compose("mnist", "test")) == 200


def test_a_file_that_is_nowhere_is_an_error_before_any_image(small):
    (small / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="mnist/t10k-labels-idx1-ubyte.gz could not be had.*RAVL_DATA"):
        compose("mnist", "finetuning")


def test_what_is_asked_is_checked(small):
    domain, one = load_domain("mnist"), np.array([True])
    with pytest.raises(ValueError, match="split: .*did you mean 'pretraining'"):
        domain.compose("pretrain", np.array([1]), one, 0)
    with pytest.raises(ValueError, match="labels: expected integers from 0 to 9"):
        domain.compose("val", np.array([10]), one, 0)
    with pytest.raises(ValueError, match="feature_present: expected length 1"):
        domain.compose("val", np.array([1]), np.array([True, False]), 0)
    with pytest.raises(ValueError, match="feature: .*'red rectangle'"):
        domain.compose("val", np.array([1]), one, 0, "red circle")


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_can_be_built_of_them(small, name):
    data = build_setting(Setting(domain=name, n_finetuning=1000, n_val=100, n_test=100, strength=0.9))
    assert abs(data.reached_strength - 0.9) < 0.01
    used = [set(part.sources) for part in (data.finetuning, data.val, data.test)]
    assert sum(map(len, used)) == len(set.union(*used))


# ---- the real files ----


@real
@pytest.mark.parametrize("name", NAMES)
def test_the_real_images_are_split_as_the_shares_say(name):
    scans = load_domain(name).scans()
    sizes = {split: sum(map(len, own)) for split, own in scans.by_split.items()}
    assert scans.pixels.shape == (70_000, 28, 28)
    assert sum(sizes.values()) == 70_000 and sizes["test"] == 10_000
    assert [sizes[split] for split in SPLITS[:3]] == pytest.approx([15_000, 33_000, 12_000], abs=10)
    everything = np.concatenate([np.concatenate(own) for own in scans.by_split.values()])
    assert len(set(everything.tolist())) == 70_000
    assert max(map(max, (own for split in SPLITS[:3] for own in scans.by_split[split]))) < 60_000


@real
def test_real_digits_are_told_apart_by_their_mean_images():
    """Labels and images belong together: the nearest class mean is right about 80 % of the time on MNIST."""
    train, test = compose("mnist", "finetuning", 2000), compose("mnist", "test", 1000)
    sides = [quadrants_of(data.images)[data.shows_core.reshape(-1, 4)][..., 0].astype(float) for data in (train, test)]
    means = np.stack([sides[0][train.labels == label].mean(axis=0) for label in range(10)])
    nearest = ((sides[1][:, None] - means) ** 2).sum(axis=(2, 3)).argmin(axis=1)
    assert (nearest == test.labels).mean() > 0.7
