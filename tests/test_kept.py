"""What is kept of a task: all that stage 1 saw, and the model that it saw it by."""

from dataclasses import fields

import numpy as np
import pytest
from tiny import digits, noise, tiny_vlm, weights

from ravl_core import kept
from ravl_core.zero_shot import Evaluation, evaluate


@pytest.fixture(scope="module")
def data():
    return digits(20, "val")


@pytest.fixture(scope="module")
def fine_tuned():
    return tiny_vlm(seed=1)


@pytest.fixture
def folder(tmp_path, fine_tuned, data):
    return kept.save_kept(tmp_path / "deep" / "0123", fine_tuned, evaluate(fine_tuned, data), data)


def test_the_evaluation_comes_back_to_the_last_bit(folder, fine_tuned, data):
    expected, (found, truths) = evaluate(fine_tuned, data), kept.load_evaluation(folder)
    for field in fields(Evaluation):
        one, other = getattr(expected, field.name), getattr(found, field.name)
        assert type(one) is type(other) and np.array_equal(one, other), field.name
    assert set(truths) == set(kept.TRUTHS)
    for name, value in truths.items():
        assert np.array_equal(value, getattr(data, name)), name


def test_the_model_comes_back_and_the_initial_one_stays(folder, fine_tuned):
    initial = tiny_vlm(seed=2)
    before = weights(initial)
    loaded = kept.load_fine_tuned(folder, initial)
    images = noise(3)
    assert np.array_equal(loaded.encode_images(images), fine_tuned.encode_images(images))
    assert not np.array_equal(loaded.encode_images(images), initial.encode_images(images))
    assert all((value == before[name]).all() for name, value in weights(initial).items())


def test_saving_again_replaces_and_leaves_nothing_else(folder, data):
    other = tiny_vlm(seed=3)
    kept.save_kept(folder, other, evaluate(other, data), data)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    found, _ = kept.load_evaluation(folder)
    assert np.array_equal(found.image_embeddings, evaluate(other, data).image_embeddings)


def test_a_save_that_fails_leaves_what_was_there(folder, data, fine_tuned, monkeypatch):
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        kept.save_kept(folder, fine_tuned, evaluate(fine_tuned, data), data)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_was_not_kept_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        kept.load_evaluation(tmp_path)
