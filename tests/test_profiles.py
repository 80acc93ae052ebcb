"""Profiles and paths: one order of precedence, one place per profile, whatever the working directory."""

import dataclasses
from pathlib import Path

import pytest

from ravl_core import paths
from ravl_core.profiles import PROFILES, profile


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("RAVL_PROFILE", raising=False)
    monkeypatch.delenv("RAVL_HOME", raising=False)


def test_the_argument_goes_before_the_environment_and_that_before_demo(monkeypatch):
    assert profile().name == profile("").name == "demo"
    monkeypatch.setenv("RAVL_PROFILE", "smoke")
    assert profile().name == profile("").name == "smoke"
    assert profile("full").name == "full"
    monkeypatch.setenv("RAVL_PROFILE", "")
    assert profile().name == "demo"


def test_an_unknown_name_says_where_from_and_what_is_near(monkeypatch):
    with pytest.raises(ValueError, match="expected .*smoke, demo, full, paper, got 'smok'; did you mean 'smoke'"):
        profile("smok")
    monkeypatch.setenv("RAVL_PROFILE", "xyz")
    with pytest.raises(ValueError, match="RAVL_PROFILE: expected one of .* got 'xyz'$"):
        profile()


@pytest.mark.parametrize("name", PROFILES)
def test_the_values_make_sense(name):
    chosen = profile(name)
    assert chosen.name == name
    assert min(chosen.n_finetuning, chosen.epochs, chosen.n_val, chosen.n_test, chosen.workers) >= 1
    assert chosen.precision in ("float32", "bfloat16")


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile("smoke").epochs = 100


def test_a_larger_profile_never_spends_less_on_a_setting():
    smoke, demo, full = (PROFILES[name] for name in ("smoke", "demo", "full"))
    for less, more in [(smoke, demo), (demo, full)]:
        for name in ("n_finetuning", "epochs", "n_val", "n_test"):
            assert getattr(less, name) <= getattr(more, name)


def test_the_project_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert paths.home() == paths.PROJECT == Path(__file__).resolve().parents[1]
    assert paths.notebooks() == paths.PROJECT / "notebooks"


def test_ravl_home_moves_what_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    assert paths.results("smoke") == paths.results(profile("smoke")) == tmp_path / "results" / "smoke"
    assert paths.figures("demo") == tmp_path / "figures" / "demo"
    assert paths.results("smoke").is_dir() and paths.figures("demo").is_dir()


def test_a_package_without_its_project_writes_where_one_works(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    assert paths.home() == tmp_path


@pytest.mark.parametrize("name", ["..", "a/b", "", "/", None, "a b"])
def test_a_name_never_leads_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="profile: expected"):
        paths.results(name)
    assert list(tmp_path.iterdir()) == []
