"""pyproject.toml, constraints.txt and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = ["pyproject.toml", "constraints.txt", "environment.yml"]


def requirements() -> list[Requirement]:
    """Every dependency of the package and of its extras."""
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def pins(lines: list[str]) -> dict[str, str]:
    """Normalised name -> version of lines `name==version`; anything else is an error."""
    found = {}
    for line in lines:
        name, _, version = re.fullmatch(r"([\w.-]+)(\[\w+\])?==([\w.]+)", line).groups()
        assert canonicalize_name(name) not in found, f"{name} is pinned twice"
        found[canonicalize_name(name)] = version
    return found


def constraints() -> dict[str, str]:
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return pins([line for line in lines if line and not line.startswith("#")])


def conda() -> tuple[list[str], dict[str, str]]:
    """The packages from conda, and the pins of its pip section."""
    parts = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(part["pip"] for part in parts if isinstance(part, dict))
    assert from_pip[-1] == "-e ."
    return [part for part in parts if isinstance(part, str)], pins(from_pip[:-1])


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_one_version_everywhere(requirement):
    name = canonicalize_name(requirement.name)
    version = constraints()[name]
    assert Version(version) in requirement.specifier
    assert conda()[1][name] == version


def test_every_dependency_has_a_lower_bound():
    loose = [r.name for r in requirements() if not any(part.operator == ">=" for part in r.specifier)]
    assert loose == []


def test_conda_adds_nothing_of_its_own():
    from_conda, from_pip = conda()
    assert from_pip.items() <= constraints().items()
    python = next(part.split("=")[1] for part in from_conda if part.startswith("python="))
    assert Version(python) in Requirement("python" + PROJECT["requires-python"]).specifier


@pytest.mark.parametrize("name", FILES)
def test_nothing_of_one_machine(name):
    text = (ROOT / name).read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for pattern in [r"\+cpu", r"\+cu\d", r"\w://", r"file:", r"index-url", r"find-links", r"(?<![\w.*])/\w+/", r" @ "]:
        assert not [line for line in lines if re.search(pattern, line)], pattern


def test_the_weights_travel_with_the_package():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "ravl_core"
    carried = {path for pattern in tool["package-data"]["ravl_core"] for path in package.glob(pattern)}
    left_behind = {path for path in (package / "models").rglob("*") if path.is_file()} - carried
    assert left_behind == set()


def test_the_licence_is_mit():
    assert PROJECT["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
