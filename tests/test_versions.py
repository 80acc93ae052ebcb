"""Versions cover all that decides a number, and no more."""

import ast
from pathlib import Path

import pytest

import ravl_core
from ravl_core import versions

PACKAGE = Path(ravl_core.__file__).parent
ELSEWHERE = {  # modules that numbers do not depend on, or that a version covers in another way
    "atomic", "checks", "domains", "initial_models", "paths", "progress", "records", "versions", "_torchvision",
}  # fmt: skip


def path_of(module):
    name = PACKAGE.joinpath(*module.split("."))
    return name / "__init__.py" if name.is_dir() else name.with_suffix(".py")


def imported_by(module):
    """Modules of the package that a module names in an import, wherever that stands."""
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ravl_core":
            base = node.module.split(".")[1:]
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield full if path_of(full).exists() else ".".join(base)


def reached_from(module):
    """All modules that a module needs, those left out that stand in ELSEWHERE."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name and name not in found and name.split(".")[0] not in ELSEWHERE:
            found.add(name)
            waiting += imported_by(name)
    return found


def covered(names, module):
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_the_version_of_fine_tuning_covers_all_that_it_needs():
    missing = {name for name in reached_from("fine_tuned") if not covered(versions.FINE_TUNING, name)}
    # the list of recipes, of which the standard one is used, and the others with what they alone need
    others = "gals", "group_weights", "language_guided", "multimodal_loss", "ravl", "region_swaps", "spurious_aware"
    others += "swaps", "upsampled", "vl_erm", "vl_gdro"
    assert missing == {"mitigation", *(f"mitigation.{name}" for name in others)}


def test_the_standard_recipe_needs_nothing_of_the_others():
    """Or a model that was kept would be taken for current though another recipe has changed what it depends on."""
    needed = {"mitigation.standard", "mitigation.training", *reached_from("mitigation.standard")}
    needed |= {name for module in list(needed) for name in reached_from(module)}
    assert {name for name in needed if not covered(versions.FINE_TUNING, name)} == set()
    assert {"mitigation.batch", "mitigation.recipe", "mitigation.samplers", "mitigation.texts"} <= needed


def test_the_version_of_a_record_covers_all_that_it_needs():
    names = versions.FINE_TUNING + versions.LOOKING
    needed = reached_from("tasks")
    assert {name for name in needed if not covered(names, name)} == set()
    assert {"closed_loop", "masking", "mitigation.selection", "mitigation.swaps", "repairs", "slicing.ravl"} <= needed


def test_no_version_covers_what_only_says_which_settings_are_run():
    """A row or a setting more leaves the records of the others as they are."""
    names = versions.FINE_TUNING + versions.LOOKING
    assert not any(covered(names, name) for name in ("grids", "repair_rows", "repair_tables", "study", "summaries"))


def test_modules_that_are_named_exist():
    for name in versions.FINE_TUNING + versions.LOOKING:
        assert path_of(name).exists(), name


def test_versions_differ_by_domain_and_by_what_they_cover():
    found = {make(domain) for make in (versions.code_version, versions.fine_tuning_version) for domain in DOMAINS}
    assert len(found) == 2 * len(DOMAINS) and {len(version) for version in found} == {16}


DOMAINS = ("digits", "photos", "mnist", "coco_objects")


@pytest.mark.parametrize("make", [versions.code_version, versions.fine_tuning_version])
def test_the_version_follows_the_models_that_ship(tmp_path, monkeypatch, make):
    monkeypatch.setattr(versions, "MINIATURES", tmp_path)
    monkeypatch.setattr(versions, "_version", versions._version.__wrapped__)
    found = {make("digits")}
    (tmp_path / "rn-mini").mkdir()
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        for content in (b"one", b"two"):
            (tmp_path / "rn-mini" / name).write_bytes(content)
            found.add(make("digits"))
    assert len(found) == 5


def test_the_version_follows_how_a_miniature_s_plan_differs(monkeypatch):
    before = versions.code_version("digits")
    monkeypatch.setattr(versions, "_version", versions._version.__wrapped__)
    assert versions.code_version("digits") == before
    monkeypatch.setitem(versions.CHANGES, "vit-mini", {"steps": 7})
    assert versions.code_version("digits") != before
