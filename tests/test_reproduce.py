"""The runner, on made-up notebooks: what passes, what fails, what is reused, and what a kill leaves behind."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from ravl_core import finished, paths
from ravl_core import reproduce as runner
from ravl_core.atomic import write_atomically
from ravl_core.notebook_file import as_text, cleaned, for_committing, read_notebook
from ravl_core.profiles import PROFILES
from ravl_core.reproduce import main

WRITES = """
from pathlib import Path
import os
out = Path(os.environ["RAVL_HOME"]) / "results" / profile / "{name}.csv"
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text("a,b\\n1,2\\n")
print(profile)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project of its own, with a folder `notebooks`."""
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    monkeypatch.delenv("RAVL_PROFILE", raising=False)
    monkeypatch.setattr(finished, "package_fingerprint", str)  # the package may be edited while its tests run
    (tmp_path / "notebooks").mkdir()
    return tmp_path


@pytest.fixture
def no_kernel(monkeypatch):
    """Where only the book-keeping matters: a notebook is executed by writing what it announces."""

    def execute(notebook, profile, parameters, output):
        for path in notebook.artefacts(profile.name):
            write_atomically(paths.home() / path, notebook.fingerprint)
        output.write_text(notebook.path.read_text())
        return ""

    monkeypatch.setattr(runner, "_execute", execute)


def make(home: Path, name: str, *code: str, parameters: str = 'profile: str = ""  # "" = demo', **ravl) -> Path:
    """Write a notebook of a parameters cell and the given code cells; it announces `{name}.csv` unless told else."""
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell("# Made up"), first, *map(nbformat.v4.new_code_cell, code)]
    ravl = {"minutes": {"smoke": 0.5}, "artefacts": [f"results/{{profile}}/{name}.csv"], **ravl}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = home / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "ravl": ravl}), path)
    return path


def run(home: Path, *arguments: str) -> tuple[int, dict[str, dict]]:
    """The exit status and the rows of the status table, by notebook."""
    status = main(["--notebooks", str(home / "notebooks"), "--profile", "smoke", *arguments])
    with open(home / "results" / "smoke" / "status.csv", newline="") as file:
        return status, {row["notebook"]: row for row in csv.DictReader(file)}


def executed(home: Path, name: str) -> Path:
    return home / "results" / "smoke" / "notebooks" / f"{name}.ipynb"


def touch_all_later(home: Path) -> None:
    """Make every result older than any run that follows."""
    for path in (home / "results").rglob("*.csv"):
        os.utime(path, (1, 1))


def test_a_notebook_passes_and_is_reused_until_something_changes(home, capsys):
    path = make(home, "01_first", WRITES.format(name="01_first"))
    status, rows = run(home)
    assert (status, rows["01_first"]["status"], rows["01_first"]["artefacts_found"]) == (0, "pass", "1")
    announced = capsys.readouterr().out
    assert announced.startswith("Profile smoke: 1 of 1 notebooks to run, about 0.5 min")
    before = executed(home, "01_first").stat().st_mtime_ns

    status, rows = run(home)
    assert (status, rows["01_first"]["status"]) == (0, "reused")
    assert "0 of 1 notebooks to run" in capsys.readouterr().out
    assert executed(home, "01_first").stat().st_mtime_ns == before

    (home / "results" / "smoke" / "01_first.csv").write_text("changed by hand")
    assert run(home)[1]["01_first"]["status"] == "pass"
    path.write_text(path.read_text().replace("a,b", "c,d"))
    assert run(home)[1]["01_first"]["status"] == "pass"
    assert (home / "results" / "smoke" / "01_first.csv").read_text() == "c,d\n1,2\n"


def test_what_is_executed_holds_outputs_and_nothing_of_the_machine(home):
    make(home, "01_first", WRITES.format(name="01_first"))
    run(home)
    text = executed(home, "01_first").read_text()
    content = json.loads(text)
    assert nbformat.validate(nbformat.reads(text, as_version=4)) is None
    assert content["cells"][-1]["outputs"][0]["text"] == ["smoke\n"]
    assert "papermill" not in content["metadata"] and str(home) not in text
    assert all(not {"papermill", "execution"} & set(cell["metadata"]) for cell in content["cells"])
    assert not re.search(r"\d{4}-\d{2}-\d{2}T", text)


def test_one_failure_stops_nobody_and_is_told(home, capsys):
    make(home, "01_breaks", "1 / 0")
    make(home, "02_forgets", "print('no artefact')")
    make(home, "03_works", WRITES.format(name="03_works"))
    status, rows = run(home)
    assert status == 1
    assert [rows[name]["status"] for name in sorted(rows)] == ["fail", "fail", "pass"]
    assert "ZeroDivisionError: division by zero" in rows["01_breaks"]["reason"]
    assert rows["02_forgets"]["reason"] == "not written by this run: results/smoke/02_forgets.csv"
    assert not executed(home, "01_breaks").exists()
    assert "ZeroDivisionError" in (home / ".cache" / "smoke" / "failed" / "01_breaks.ipynb").read_text()
    table = capsys.readouterr().out
    assert re.search(r"03_works +\d+s +pass +1/1", table) and re.search(r"01_breaks +\d+s +fail +0/1", table)


def test_a_result_of_an_earlier_run_does_not_count(home):
    make(home, "01_first", "x = 1")
    old = home / "results" / "smoke" / "01_first.csv"
    old.parent.mkdir(parents=True)
    old.write_text("from last year")
    touch_all_later(home)
    status, rows = run(home)
    assert (status, rows["01_first"]["artefacts_found"]) == (1, "0")


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_artefact_or_a_folder_is_none(tmp_path, content):
    marker, artefact = tmp_path / "marker", tmp_path / "artefact"
    marker.touch()
    artefact.mkdir() if content is None else artefact.write_text(content)
    assert not runner._is_fresh(artefact, marker)


def test_an_unknown_parameter_fails_before_anything_runs(home):
    make(home, "01_first", WRITES.format(name="01_first"), parameters='profile: str = ""\nseed: int = 0')
    status, rows = run(home, "-p", "sead", "1")
    assert status == 1
    assert rows["01_first"]["reason"] == (
        "unknown parameter 'sead', the notebook has profile, seed; did you mean 'seed'?"
    )
    assert not (home / "results" / "smoke" / "01_first.csv").exists()


def test_a_notebook_without_the_profile_parameter_fails(home):
    make(home, "01_first", "x = 1", parameters="%magic")
    assert "unknown parameter 'profile', the notebook has none" in run(home)[1]["01_first"]["reason"]


def test_parameters_arrive_with_their_types_and_decide_reuse(home):
    check = "assert (profile, seed) == ('smoke', 3) and type(seed) is int\n"
    make(home, "01_first", check + WRITES.format(name="01_first"), parameters='profile: str = ""\nseed: int = 0')
    assert run(home, "-p", "seed", "3")[1]["01_first"]["status"] == "pass"
    assert run(home, "-p", "seed", "3")[1]["01_first"]["status"] == "reused"
    assert run(home, "-p", "seed", "4")[1]["01_first"]["status"] == "fail"


def test_a_dead_kernel_is_a_failure(home):
    make(home, "01_dies", WRITES.format(name="01_dies"), "import os; os._exit(138)", "print('never')")
    make(home, "02_works", WRITES.format(name="02_works"))
    status, rows = run(home)
    assert (status, rows["01_dies"]["status"], rows["02_works"]["status"]) == (1, "fail", "pass")
    assert "kernel died" in rows["01_dies"]["reason"]
    assert not executed(home, "01_dies").exists()


def test_a_dead_papermill_is_a_failure_too(home):
    make(home, "01_dies", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    status, rows = run(home)
    assert status == 1
    assert "its process ended with status -9" in rows["01_dies"]["reason"]


def test_the_package_has_another_fingerprint_when_its_code_or_weights_change(tmp_path, monkeypatch):
    monkeypatch.setattr(finished, "PACKAGE", tmp_path)
    seen = [finished.package_fingerprint()]
    for name in ("a.py", "models/mini.json", "models/mini.safetensors"):
        for text in ("one", "two"):
            write_atomically(tmp_path / name, text)
            seen.append(finished.package_fingerprint())
    for name in ("a.pyc", "site.py", "website/pages.py"):  # compiled, and what only looks at results
        write_atomically(tmp_path / name, "else")
    assert len(set(seen)) == 7 and finished.package_fingerprint() == seen[-1]


def test_a_profile_of_other_values_runs_again(home, no_kernel):
    make(home, "01_first")
    smoke = PROFILES["smoke"]
    statuses = [
        runner.reproduce(home / "notebooks", chosen)[0].status
        for chosen in (smoke, smoke, dataclasses.replace(smoke, epochs=smoke.epochs + 1))
    ]
    assert statuses == ["pass", "reused", "pass"]


def test_only_and_force(home, no_kernel):
    for name in ("01_first", "02_second"):
        make(home, name, WRITES.format(name=name))
    assert list(run(home, "--only", "02")[1]) == ["02_second"]
    assert {row["status"] for row in run(home, "--only", "02", "--force")[1].values()} == {"pass"}
    assert main(["--notebooks", str(home / "notebooks"), "--profile", "smoke", "--only", "07"]) == 2


def test_a_notebook_runs_again_when_one_that_it_needs_has_changed(home, no_kernel):
    first = make(home, "01_first", WRITES.format(name="01_first"))
    make(home, "02_second", WRITES.format(name="02_second"), needs=["01_first"])
    make(home, "03_third", WRITES.format(name="03_third"))
    run(home)
    first.write_text(first.read_text().replace("a,b", "c,d"))
    assert [row["status"] for row in run(home)[1].values()] == ["pass", "pass", "reused"]


@pytest.mark.parametrize(
    ("ravl", "message"),
    [
        (
            {"artefacts": ["../elsewhere.csv"]},
            "01_first: expected artefacts inside the project, got '../elsewhere.csv'",
        ),
        ({"artefacts": ["/elsewhere.csv"]}, "01_first: expected artefacts inside the project"),
        ({"needs": ["02_later"]}, "01_first: expected needs to name earlier notebooks, got '02_later'"),
    ],
)
def test_what_cannot_be_is_named_before_anything_runs(home, capsys, ravl, message):
    make(home, "01_first", WRITES.format(name="01_first"), **ravl)
    assert main(["--notebooks", str(home / "notebooks"), "--profile", "smoke"]) == 2
    assert message in capsys.readouterr().err
    assert not (home / "results" / "smoke" / "01_first.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "smok"], "did you mean 'smoke'"),
        (["--profile", "smoke"], "expected files named NN_*.ipynb"),
        (["--profile", "smoke", "-p", "profile", "demo"], "among the parameters"),
    ],
)
def test_misuse_is_named(home, capsys, arguments, message):
    if "-p" in arguments:
        make(home, "01_first")
    assert main(["--notebooks", str(home / "notebooks"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"cells": [{}]}', '{"cells": [{"cell_type": "spell", "source": ""}]}']
)
def test_what_is_no_notebook_is_named(home, text):
    path = home / "notebooks" / "01_first.ipynb"
    path.write_text(text)
    with pytest.raises(ValueError, match="01_first.ipynb: expected"):
        read_notebook(path)


def test_updated_notebooks_hold_the_outputs_and_their_own_sources(home):
    path = make(home, "01_first", WRITES.format(name="01_first"))
    failing = make(home, "02_breaks", "1 / 0")
    before, untouched = read_notebook(path), failing.read_text()
    run(home, "--update-notebooks")
    after = read_notebook(path)
    assert after.fingerprint == before.fingerprint
    assert [cell.get("execution_count") for cell in after.cells] == [None, 1, 2]
    assert after.cells[-1]["outputs"][0]["text"] == ["smoke\n"]
    assert "papermill" not in path.read_text() and str(home) not in path.read_text()
    assert failing.read_text() == untouched
    assert run(home, "--only", "01")[1]["01_first"]["status"] == "reused"


def test_cleaning_keeps_what_the_author_wrote():
    cell = {
        "cell_type": "code",
        "source": "x",
        "execution_count": 7,
        "metadata": {"tags": ["parameters"], "execution": {"iopub": "now"}, "jupyter": {"source_hidden": True}},
        "outputs": [{"output_type": "execute_result", "execution_count": 7}],
    }
    content = {"metadata": {"papermill": {"input_path": "/a"}, "ravl": {"artefacts": []}}, "cells": [cell]}
    clean = for_committing(content)
    assert clean["metadata"] == {"ravl": {"artefacts": []}}
    assert clean["cells"][0]["metadata"] == {"tags": ["parameters"], "jupyter": {"source_hidden": True}}
    assert clean["cells"][0]["execution_count"] == clean["cells"][0]["outputs"][0]["execution_count"] == 1
    assert content["cells"][0]["execution_count"] == 7 and cleaned(clean) == clean
    assert as_text(json.loads(as_text(clean))) == as_text(clean)


def test_a_long_run_gives_signs_of_life(home, monkeypatch, capsys):
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.5)
    make(home, "01_first", WRITES.format(name="01_first"), "import time; time.sleep(1.5)")
    assert run(home)[0] == 0
    assert "01_first: 0 min of about 0.5 min" in capsys.readouterr().out


def test_nothing_to_do_imports_nothing_heavy(home):
    heavy = ["torch", "open_clip", "papermill", "pandas", "matplotlib", "sklearn", "nbformat"]
    code = f"import sys, ravl_core.reproduce; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_kill_9_leaves_no_half_result_and_the_next_run_mends_it(home):
    waits = 'import os, time\nopen(os.environ["RAVL_HOME"] + "/kernel", "w").write(str(os.getpid()))\n'
    waits += 'time.sleep(0 if os.path.exists(os.environ["RAVL_HOME"] + "/go") else 600)\n'
    make(home, "01_first", WRITES.format(name="01_first"))
    make(home, "02_waits", WRITES.format(name="02_waits"), waits)
    code = "from ravl_core import finished, reproduce; finished.package_fingerprint = str; reproduce.main()"
    command = [sys.executable, "-c", code, "--notebooks", str(home / "notebooks"), "--profile", "smoke"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    kernel = home / "kernel"
    wait_until(lambda: kernel.exists() and kernel.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_alive(int(kernel.read_text())))
    assert executed(home, "01_first").exists() and not executed(home, "02_waits").exists()
    with open(home / "results" / "smoke" / "status.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["pass", "unfinished"]

    (home / "go").touch()
    status, rows = run(home)
    assert (status, rows["01_first"]["status"], rows["02_waits"]["status"]) == (0, "reused", "pass")


def wait_until(holds, seconds: float = 120) -> None:
    """Wait for something that has to come; the limit only keeps a broken runner from hanging the tests."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc").is_dir()


def test_every_profile_can_be_asked_for(home, monkeypatch):
    make(home, "01_first")
    for name in PROFILES:
        monkeypatch.setenv("RAVL_PROFILE", name)
        seen = []
        monkeypatch.setattr(runner, "_run", lambda notebook, chosen, *rest: seen.append(chosen.name) or OUTCOME)  # noqa: B023
        assert main(["--notebooks", str(home / "notebooks")]) == 0
        assert seen == [name]


OUTCOME = runner.Outcome("01_first", "pass", 1.0, 1, 1)


def test_the_cell_that_papermill_adds_is_named_alike_on_every_run():
    added = {"cell_type": "code", "id": "f643d988", "metadata": {"tags": ["injected-parameters"]}, "outputs": []}
    own = {"cell_type": "code", "id": "01-03", "metadata": {}, "outputs": []}
    cells = cleaned({"metadata": {}, "cells": [added, own]})["cells"]
    assert [cell["id"] for cell in cells] == ["injected-parameters", "01-03"]
