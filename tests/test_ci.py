"""What `make test` says at its end: how much was tried, and which results are of code that has since changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import counts
import pytest
from test_reproduce import make, run

from ravl_core import finished, paths, provenance, reproduce
from ravl_core.atomic import write_atomically
from ravl_core.records import save_record
from ravl_core.versions import code_version

ROOT = Path(__file__).parents[1]
PRESENT = "0123456789abcdef"
TRIED = """
import pytest
from hypothesis import given, settings, strategies as st

@pytest.mark.parametrize("n", [1, 2, 3])
@settings(max_examples=7)
@given(st.integers(0, 10**9))
def test_passes(n, x): pass

@settings(max_examples=5)
@given(st.integers(0, 10**9))
def test_fails(x): assert x < 0

@pytest.mark.parametrize("n", [1, 2])
def test_refuses(n, record_property): record_property("faults", 4 * n)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project of its own, where notebooks are executed by writing what they announce."""

    def execute(notebook, profile, parameters, output):
        for path in notebook.artefacts(profile.name):
            write_atomically(paths.home() / path, notebook.fingerprint)
        output.write_text(notebook.path.read_text())
        return ""

    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    monkeypatch.setattr(finished, "package_fingerprint", str)
    monkeypatch.setattr(provenance, "present_code", lambda: PRESENT)
    monkeypatch.setattr(reproduce, "_execute", execute)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_everything_is_run_by_one_command_and_the_notebooks_are_compared():
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "RAVL_PROFILE=smoke" in recipe and "--nbval-lax" in recipe and "notebooks" in recipe


def test_a_run_that_tries_less_than_the_readme_says_is_told():
    said = counts.promised(
        "| tried | | lost |\n|---|---|---|\n| n | 654 | 373 |\n"
        "| bad inputs tried | 1,300 | none |\n| faults survived | 7 | none |\n"
    )
    assert said == {"bad inputs tried": 1300, "faults survived": 7}
    found = {"bad inputs tried": 1300, "faults survived": 6, "property examples": 0}
    assert counts.fell_short(found, said) == ["README promises 7 faults survived, this run has 6"]
    readme = counts.promised(counts.README.read_text(encoding="utf-8"))
    assert set(readme) == set(counts.totals([], {})) and min(readme.values()) > 0


def test_what_was_tried_is_counted(tmp_path):
    for name in ("test_bad_input", "test_faults", "test_study_killed", "test_properties"):
        (tmp_path / f"{name}.py").write_text(TRIED)
    search = os.pathsep.join([str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "counts", "-p", "no:cacheprovider", "--rootdir", "."]
    said = subprocess.run(
        [*command, *sorted(path.name for path in tmp_path.iterdir())],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": search},
    ).stdout  # fmt: skip
    # a test counts as often as it says, else once in a file of faults, or as often as that file says
    tried = {"bad inputs tried": 5, "faults survived": 3 + 3 * 5 + 4 * (4 + 8), "property examples": 3 * 3 * 7}
    assert "; ".join(f"{what}: {n}" for what, n in tried.items()) in said


def test_what_failed_is_not_counted():
    passed = [("tests/test_faults.py::test_a", [("faults", 12)]), ("tests/test_properties.py::test_b[1]", [])]
    examples = {"tests/test_properties.py::test_b": 10, "tests/test_properties.py::test_c": 20}
    assert counts.totals(passed, examples) == {
        "bad inputs tried": 0, "faults survived": 12, "property examples": 10,
    }  # fmt: skip
    assert set(counts.FAULTS) <= {path.name for path in (ROOT / "tests").iterdir()}


def test_tables_say_which_code_made_them(home):
    artefacts = [f"results/{{profile}}/{name}" for name in ("settings.csv", "01_table.csv", "01_report.html")]
    make(home, "01_first", artefacts=artefacts)
    make(home, "02_second")
    run(home)
    noted = json.loads((home / "results" / "smoke" / provenance.FILE).read_text())
    assert noted.keys() == {"01_first", "02_second"} and noted["01_first"]["code"] == PRESENT
    assert noted["01_first"]["tables"].keys() == {"settings.csv", "01_table.csv"}
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", noted["01_first"]["date"]) and "torch" in noted["01_first"]["packages"]
    assert provenance.of_other_code() == []


def test_tables_of_other_or_unknown_code_are_listed(home, monkeypatch):
    for name in ("01_first", "02_second", "03_third"):
        make(home, name)
    monkeypatch.setattr(provenance, "present_code", lambda: "before")
    run(home, "--only", "01", "03")
    monkeypatch.setattr(provenance, "present_code", lambda: PRESENT)
    run(home, "--only", "02")
    (home / "results" / "smoke" / "03_third.csv").write_text("changed by hand")
    write_atomically(home / "results" / "full" / "settings.csv", "made long ago")
    assert provenance.of_other_code() == [
        "results/full: 1 tables of unknown code: settings.csv",
        "results/smoke: 1 tables of unknown code: 03_third.csv",
        "results/smoke: 1 tables of other code: 01_first.csv",
    ]


@pytest.mark.parametrize("content", ["", "[]", '{"01_first": {}}', '{"01_first": 3}'])
def test_a_damaged_note_is_none(home, content):
    make(home, "01_first")
    run(home)
    (home / "results" / "smoke" / provenance.FILE).write_text(content)
    assert provenance.of_other_code() == ["results/smoke: 1 tables of unknown code: 01_first.csv"]
    run(home, "--force")
    assert provenance.of_other_code() == []


def test_records_of_other_code_are_listed(home):
    folder = home / "results" / "demo" / "records"
    for seed, version in enumerate([code_version("digits"), "before", "before"]):
        save_record(folder, {"setting": {"domain": "digits", "seed": seed}}, {}, code_version=version)
    save_record(folder, {"setting": {"domain": "gone", "seed": 0}}, {}, code_version="before")
    save_record(folder, {"seed": 0}, {}, code_version="before")  # of the study of language
    (folder / "0123456789abcdef.json").write_text("{")
    assert provenance.of_other_code() == ["results/demo: 4 of 5 records of other code"]


def test_the_version_of_tables_follows_what_decides_numbers_and_nothing_else(tmp_path, monkeypatch):
    found = []
    for changed in ("", "metrics.py", "domains/digits.py", "slicing/ravl.py", "figures/style.py"):
        for source in (ROOT / "ravl_core").rglob("*.py"):
            name = source.relative_to(ROOT / "ravl_core").as_posix()
            write_atomically(tmp_path / name, source.read_text() + "# changed" * (name == changed))
        monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
        found.append(provenance.present_code.__wrapped__())
    assert len(set(found)) == 4 and found[-1] == found[0]
