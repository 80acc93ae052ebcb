"""CONTRIBUTING.md and notebooks/README.md: a page each, and whatever they name is there."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from ravl_core import paths, reproduce
from ravl_core.notebook_file import read_notebook
from ravl_core.profiles import PROFILES

PAGES = {
    name: (paths.PROJECT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "notebooks/README.md")
}
NOTEBOOKS = {path.stem: read_notebook(path) for path in sorted(paths.notebooks().glob("*.ipynb"))}
MAKEFILE = (paths.PROJECT / "Makefile").read_text(encoding="utf-8")
MADE_BY_RUNS = re.compile(r"<|NN|records|^(results|figures)/$|^site/")  # patterns, and what a run makes
both = pytest.mark.parametrize("name", PAGES)


def ticked(text):
    """What stands in backticks, but for blocks of code."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))


def commands(text):
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S))
    return [
        line.split("  #")[0].strip()
        for line in [*blocks.splitlines(), *ticked(text)]
        if re.match(r"\.venv|make |RAVL_\w+=", line)
    ]


@both
def test_it_is_one_page(name):
    assert len(PAGES[name].splitlines()) <= 80


@both
def test_files_it_names_exist(name):
    named = {item for item in ticked(PAGES[name]) if re.fullmatch(r"[\w./<>-]+(/|\.(py|md|csv))|[\w-]+/[\w/-]+", item)}
    folders = [paths.PROJECT, *sorted(path for path in (paths.PROJECT / "ravl_core").iterdir() if path.is_dir())]
    folders.append(paths.PROJECT / "ravl_core")
    missing = [item for item in named if not any((folder / item).exists() for folder in folders)]
    assert len(named) >= 4 and [item for item in missing if not MADE_BY_RUNS.search(item)] == []


@both
def test_links_lead_to_files(name):
    links = re.findall(r"\]\(([^)#]+)\)", PAGES[name])
    folder = (paths.PROJECT / name).parent
    assert links and [link for link in links if not (folder / link).exists()] == []


@both
def test_commands_call_what_exists(name):
    found = commands(PAGES[name])
    assert len(found) >= 4
    for command in found:
        words = re.sub(r"^(\w+=\w+ )+", "", command).split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", MAKEFILE, re.M), command
            continue
        assert words[0] in (".venv/bin/python", ".venv/bin/ruff", ".venv/bin/papermill", ".venv/bin/jupyter"), command
        if words[1] == "-m":
            assert importlib.util.find_spec(words[2]), command
        if words[1:3] == ["-m", "ravl_core.reproduce"]:
            asked = reproduce._arguments([word.replace("NN", "02") for word in words[3:]])
            assert asked.profile in PROFILES and reproduce.select(list(NOTEBOOKS.values()), asked.only)
        for file in re.findall(r"\b(?:notebooks|tests)/[\w.]+", command):
            assert (paths.PROJECT / file).is_file(), command


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("domains/__init__", ["_DOMAINS"]),
        ("initial_models", ["MADE"]),
        ("grids", ["Block"]),
        ("slicing/__init__", ["ON_THEIR_OWN", "ON_CLUSTERS", "RankedRegions"]),
        ("mitigation/__init__", ["RECIPES"]),
        ("mitigation/recipe", ["Recipe", "objective"]),
    ],
)
def test_names_it_tells_to_change_are_where_it_says(module, names):
    tree = ast.parse((paths.PROJECT / "ravl_core" / f"{module}.py").read_text(encoding="utf-8"))
    known = {getattr(node, key) for node in ast.walk(tree) for key in ("id", "name") if hasattr(node, key)}
    for name in names:
        assert re.search(rf"\b{name}\b", PAGES["CONTRIBUTING.md"]) and name in known


def test_the_table_of_notebooks_names_them_all_and_what_they_build_on():
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) \|.*\| ([^|]*?) ?\|$", PAGES["notebooks/README.md"], re.M))
    assert set(NOTEBOOKS) <= set(rows)
    for stem, notebook in NOTEBOOKS.items():
        if re.fullmatch(r"[\d, ]*", rows[stem]):
            assert set(re.findall(r"\d\d", rows[stem])) <= {need[:2] for need in notebook.needs}, stem


def test_the_profiles_are_those_there_are():
    table = PAGES["notebooks/README.md"].split("| profile |")[1]
    assert re.findall(r"^\| (\w+) \|", table, re.M) == list(PROFILES)


def test_the_longest_definition_is_that_of_the_rule():
    rule = re.search(r"LONGEST_DEFINITION = (\d+)", Path(__file__).with_name("test_notebooks.py").read_text())[1]
    assert rule == "5" and "more than five lines" in PAGES["notebooks/README.md"]
