"""What is kept of a task: all that stage 1 saw, and the model that it saw it by."""

from dataclasses import fields, replace

import numpy as np
import pytest
from tiny import digits, noise, tiny_vlm, weights

from ravl_core import kept
from ravl_core.mitigation.budget import Budget
from ravl_core.settings import Setting
from ravl_core.zero_shot import Evaluation, evaluate

MEASURED = {"margin": 1 / 3, "initial": {"image_overall": 0.1}, "missing": None}


@pytest.fixture(scope="module")
def data():
    return digits(20, "val")


@pytest.fixture(scope="module")
def fine_tuned():
    return tiny_vlm(seed=1)


@pytest.fixture
def folder(tmp_path, fine_tuned, data):
    return save(tmp_path / "deep" / "0123", fine_tuned, data)


def save(folder, vlm, data, version="one"):
    return kept.save_kept(folder, vlm, evaluate(vlm, data), kept.truths_of(data), MEASURED, version)


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
    save(folder, other, data, "two")
    assert kept.is_current(folder, "two") and not kept.is_current(folder, "one")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    found, _ = kept.load_evaluation(folder)
    assert np.array_equal(found.image_embeddings, evaluate(other, data).image_embeddings)


def test_a_save_that_fails_leaves_what_was_there(folder, data, fine_tuned, monkeypatch):
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save(folder, fine_tuned, data)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_was_not_kept_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        kept.load_evaluation(tmp_path)
    with pytest.raises(FileNotFoundError):
        kept.load_measured(tmp_path)


def test_measurements_come_back_to_the_last_bit_and_name_their_version(folder):
    assert kept.load_measured(folder) == MEASURED
    assert kept.is_current(folder, "one") and not kept.is_current(folder, "two")


@pytest.mark.parametrize("content", [None, "", "[]", '{"measured": {}}', "null"])
def test_what_is_damaged_or_of_no_version_is_not_current(folder, content):
    (folder / "measured.json").unlink() if content is None else (folder / "measured.json").write_text(content)
    assert not kept.is_current(folder, "one")


def test_a_set_that_knows_nothing_has_no_truths(data):
    assert kept.truths_of(replace(data, **dict.fromkeys(kept.TRUTHS))) == {}


def test_each_setting_and_budget_has_a_folder_of_its_own(tmp_path):
    asked = [(Setting(seed=seed), Budget(epochs=epochs)) for seed in (0, 1) for epochs in (3, 5)]
    folders = [kept.folder_of(tmp_path, *each) for each in asked]
    assert len(set(folders)) == 4 and {folder.parent for folder in folders} == {tmp_path}
    assert folders == [kept.folder_of(tmp_path, *each) for each in asked]
