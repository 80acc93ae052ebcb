"""Kills, full disks and two at once: what was finished stays, nothing half-written is taken for whole, work goes on."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
from made_up_audit import made_up_audit
from test_reproduce import WRITES, executed, is_alive, make, run, wait_until
from test_study_killed import SHORT, SMALL
from tiny import digits, noise, tiny_vlm

from ravl_core import finished, kept, paths, provenance, reproduce, study
from ravl_core.atomic import folder_at_once, remove_leftovers, write_atomically
from ravl_core.audits.export import export_audit
from ravl_core.audits.report import write_report
from ravl_core.checkpoints import load_vlm, save_vlm
from ravl_core.discovery_tables import FILES, DiscoveryTables
from ravl_core.figures import style
from ravl_core.language.cached import describe
from ravl_core.language.description import Description
from ravl_core.language.teachers import from_function
from ravl_core.notebook_file import read_notebook
from ravl_core.profiles import PROFILES
from ravl_core.records import load_record, read_records, save_record
from ravl_core.tasks import Task
from ravl_core.zero_shot import evaluate

HERE = Path(__file__).parent
SMOKE = PROFILES["smoke"]
ENOUGH = 64  # bytes that a full disk still takes
N_KILLS, N_SEEDS, LENGTH = 12, 5, 2_000_000
N_TASKS = 2


def contents(folder):
    """Every file below a folder, hidden ones too, and what is in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder):
    return sorted(folder.rglob(".*.tmp"))


def in_a_day(folder):
    """Make all that was left behind old enough to be removed."""
    for path in leftovers(folder):
        os.utime(path, (1, 1))


def elsewhere(code, *arguments, **options):
    """Python code in a process of its own."""
    search = os.pathsep.join([str(HERE.parent), str(HERE)])
    environment = os.environ | {"RAVL_PROGRESS": "off", "PYTHONPATH": search}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, text=True, **options)


# ---- what is written, as a first version (n = 1) and as a second one (n = 2) that is to replace it ----


def write_record(folder, n):
    save_record(folder, {"seed": 0}, {"values": [n] * 100})


def write_figure(folder, n):
    figure, axes = plt.subplots()
    axes.plot([n, 2])
    plt.close(figure)
    style.save(figure, folder, "00_figure")


def write_tables(folder, n):
    table = pandas.DataFrame({"value": [n] * 100})
    DiscoveryTables(**dict.fromkeys(FILES, table)).save(folder)


def write_page(folder, n):
    write_report(AUDITS[n], folder / "page.html")


def write_export(folder, n):
    export_audit(AUDITS[n], folder / "audit", overwrite=True)


def write_kept(folder, n):
    measured = {"margin": float(n)}
    kept.save_kept(folder / "0123", tiny_vlm(seed=n), EVALUATION, kept.truths_of(DATA), measured, str(n))


def write_model(folder, n):
    save_vlm(tiny_vlm(seed=n), folder / f"model {n}")  # it replaces nothing


def write_status(folder, n):
    reproduce.write_status([reproduce.Outcome(f"0{i}_first", "pass", n, 1, 1) for i in range(3)], SMOKE)


def write_notebook(folder, n):
    output = folder.parent / "output.ipynb"
    if not output.exists():
        output.write_text(json.dumps({"metadata": {}, "cells": [code_cell("1")]}))
    written = json.loads(output.read_text()) | {"cells": [code_cell(f"print({n})" * 9)]}
    notebook = replace(read_notebook(output), path=Path("01_first.ipynb"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "read_notebook", lambda path: replace(notebook, content=written))
        reproduce._keep(output, notebook, SMOKE, failed=False)


def write_stamp(folder, n):
    finished.mark_finished(*made_up_notebook(folder), "x" * 99, n)


def write_provenance(folder, n):
    provenance.note_tables(*made_up_notebook(folder), str(n))


def made_up_notebook(folder):
    """A notebook that has been executed, and its profile."""
    notebook = replace(read_notebook(paths.notebooks() / "00_quickstart.ipynb"), content={"metadata": {}, "cells": []})
    if not (path := finished.executed_path(notebook, SMOKE)).exists():
        write_atomically(path, "{}")
    return notebook, SMOKE


def code_cell(source):
    return {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": 1}


IN_PLACE = {  # files that replace others by one rename
    "record": write_record,
    "figure": write_figure,
    "tables": write_tables,
    "report": write_page,
    "status": write_status,
    "executed notebook": write_notebook,
    "stamp": write_stamp,
    "provenance": write_provenance,
}
FOLDERS = {"export": write_export, "kept model": write_kept, "model": write_model}
WRITERS = IN_PLACE | FOLDERS
AUDITS = {n: made_up_audit(n) for n in (1, 2)}
DATA = digits(6, "val")
EVALUATION = evaluate(tiny_vlm(), DATA)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty project of its own, with a folder `notebooks`."""
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    monkeypatch.delenv("RAVL_PROFILE", raising=False)
    monkeypatch.setattr(finished, "package_fingerprint", str)  # the package may be edited while its tests run
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "written").mkdir()
    return tmp_path


# ---- a disk that is full ----


@contextmanager
def full_disk(n_bytes=ENOUGH):
    """No file may grow beyond so many bytes: what is larger stops half-way, in compiled code, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_space(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", WRITERS)
def test_a_write_that_stops_half_way_leaves_what_was_there_and_names_the_file(what, home):
    write, folder = WRITERS[what], home / "written"
    write(folder, 1)
    before = contents(home)
    with pytest.raises(OSError, match=str(home)), full_disk():
        write(folder, 2)
    assert contents(home) == before and leftovers(home) == []
    write(folder, 2)
    assert contents(home) != before


@pytest.mark.parametrize("what", IN_PLACE)
def test_a_disk_that_is_full_at_the_last_moment_does_so_too(what, home, monkeypatch):
    write, folder = WRITERS[what], home / "written"
    write(folder, 1)
    before = contents(home)
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=f"No space left on device: '{home}"):
        write(folder, 2)
    assert contents(home) == before and leftovers(home) == []


@pytest.mark.parametrize("what", ["export", "kept model"])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one_there(what, home, monkeypatch):
    write, folder = WRITERS[what], home / "written"
    write(folder, 1)
    before, rename, seen = contents(home), Path.rename, []

    def refuse_the_second(path, target):
        if Path(target).name.startswith("."):
            seen.append(target)
        elif seen and path != seen[0]:
            no_space()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_second)
    with pytest.raises(OSError, match="No space"):
        write(folder, 2)
    assert seen and contents(home) == before and leftovers(home) == []


@pytest.fixture
def answers():
    """Three images, and a teacher that says more than a full disk takes."""
    return noise(3, 8, 6), from_function(lambda image, class_name: Description(f"{image.sum()} " * 99, "sea"), "talks")


def test_an_answer_that_finds_no_space_leaves_those_before_it(home, answers):
    path, (images, teacher) = home / "answers.jsonl", answers
    describe(teacher, images[:1], path=path)
    before = path.read_bytes()
    with pytest.raises(OSError, match=str(path)), full_disk(len(before) + ENOUGH):
        describe(teacher, images, path=path)
    assert path.read_bytes().startswith(before) and len(path.read_bytes()) == len(before) + ENOUGH
    found = describe(teacher, images, path=path)  # what was cut short is asked for again
    assert path.read_bytes().startswith(before) and len(path.read_bytes().splitlines()) == 3
    assert describe(from_function(no_space, "talks"), images, path=path) == found


def test_a_task_whose_record_finds_no_space_is_a_failure_and_the_others_go_on(home, monkeypatch):
    monkeypatch.setattr(study, "run_task", lambda task, **options: {"values": [task.setting.seed] * 10_000})
    save = study.records.save_record

    def fail_once(folder, arguments, *rest, **options):
        with full_disk() if arguments["setting"]["seed"] == 1 else nullcontext():
            return save(folder, arguments, *rest, **options)

    monkeypatch.setattr(study.records, "save_record", fail_once)
    tasks = [Task(replace(SMALL, seed=seed), SHORT) for seed in range(3)]
    done = study.run_study(tasks, home / "records", workers=1)
    assert len(done.records) == 2 and len(done.failures) == 1 and str(home) in "".join(done.failures.values())
    monkeypatch.setattr(study.records, "save_record", save)
    done = study.run_study(tasks, home / "records", workers=1)
    assert (len(done.records), done.n_reused, done.failures) == (3, 2, {}) and leftovers(home) == []


# ---- kill -9 ----

KEEPS_WRITING = """
import itertools, sys
from ravl_core.records import save_record
for i in itertools.count():
    save_record(sys.argv[1], {"seed": i % int(sys.argv[2])}, {"text": str(i % 10) * int(sys.argv[3])})
"""


def is_whole(record):
    text = record["metrics"]["text"]
    return len(text) == LENGTH and len(set(text)) == 1


def test_kill_9_at_any_moment_of_writing_leaves_whole_records(tmp_path, record_property):
    random, ever = np.random.default_rng(0), set()
    for kill in range(N_KILLS):
        known = {path.name for path in tmp_path.glob("*.json")}
        writer = elsewhere(KEEPS_WRITING, tmp_path, N_SEEDS, LENGTH)
        started = time.time_ns()
        wait_until(lambda: any(path.stat().st_mtime_ns > started for path in tmp_path.glob("*.json")))  # noqa: B023
        time.sleep(random.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        with warnings.catch_warnings(action="error"):  # of a damaged record
            found = read_records(tmp_path)
        assert found and all(is_whole(record) for record in found), kill
        assert known <= {path.name for path in tmp_path.glob("*.json")}
        ever |= {path.name for path in leftovers(tmp_path)}
    before = read_records(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(before) + len(ever)
    in_a_day(tmp_path)
    remove_leftovers(tmp_path)
    assert leftovers(tmp_path) == [] and read_records(tmp_path) == before
    record_property("faults", N_KILLS)


def killed(work, name, call=1):
    """Do the work in a copy of this process that kills itself at that call of a function; whether it came to that."""
    owner, attribute = name
    process = os.fork()
    if process == 0:
        original, calls = getattr(owner, attribute), []

        def call_or_die(*arguments, **options):
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        try:
            setattr(owner, attribute, call_or_die)
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("what", IN_PLACE)
def test_a_kill_before_a_file_is_in_its_place_leaves_the_old_one(what, moment, home):
    write, folder = WRITERS[what], home / "written"
    write(folder, 1)
    before = contents(home)
    assert killed(partial(write, folder, 2), (os, moment))
    (left,) = leftovers(home)
    assert contents(home) == before | {left.relative_to(home).as_posix(): left.read_bytes()}
    in_a_day(home)
    remove_leftovers(left.parent)
    assert contents(home) == before
    write(folder, 2)
    assert contents(home).keys() == before.keys() and leftovers(home) == []


@pytest.mark.parametrize(
    ("what", "moment"),
    [
        ("export", "write_bytes"),
        ("kept model", "write_text"),
        ("model", "write_text"),
        *((f, "rename") for f in FOLDERS),
    ],
)
def test_a_kill_before_a_folder_is_in_its_place_leaves_the_old_one(what, moment, home):
    write, folder = WRITERS[what], home / "written"
    write(folder, 1)
    before = contents(home)
    assert killed(partial(write, folder, 2), (Path, moment))
    (left,) = leftovers(home)
    assert {name: content for name, content in contents(home).items() if ".tmp/" not in name} == before
    in_a_day(home)
    remove_leftovers(left.parent)
    assert contents(home) == before
    write(folder, 2)
    assert contents(home) != before and leftovers(home) == []


def test_a_kill_between_an_answer_and_the_next_question_loses_no_answer(home, answers):
    path, (images, teacher) = home / "answers.jsonl", answers

    def answer_or_die(image, class_name):
        if (image == images[2]).all():
            os.kill(os.getpid(), signal.SIGKILL)
        return teacher(image, class_name)

    assert killed(lambda: describe(from_function(answer_or_die, "talks"), images, path=path), (os, "fsync"))
    assert len(path.read_bytes().splitlines()) == 2
    asked = []
    again = from_function(lambda image, class_name: asked.append(image) or teacher(image, class_name), "talks")
    assert describe(again, images, path=path) == describe(teacher, images)
    assert len(asked) == 1 and (asked[0] == images[2]).all()


def test_a_notebook_that_is_killed_keeps_its_last_good_run_and_one_run_goes_on_at_a_time(home, monkeypatch, capsys):
    def execute(notebook, profile, parameters, output):  # where only the book-keeping matters
        for path in notebook.artefacts(profile.name):
            write_atomically(paths.home() / path, notebook.fingerprint)
        output.write_text(notebook.path.read_text())
        return ""

    monkeypatch.setattr(reproduce, "_execute", execute)
    for name in ("01_first", "02_waits", "03_last"):
        make(home, name, WRITES.format(name=name))
    assert [row["status"] for row in run(home)[1].values()] == ["pass"] * 3
    waits = 'import os, time\nopen(os.environ["RAVL_HOME"] + "/kernel", "w").write(str(os.getpid()))\ntime.sleep(600)\n'
    make(home, "02_waits", waits, WRITES.format(name="02_waits"), minutes={"smoke": 7})
    good = contents(home / "results")

    code = "from ravl_core import finished, reproduce; finished.package_fingerprint = str; reproduce.main()"
    arguments = "--notebooks", home / "notebooks", "--profile", "smoke"
    process, kernel = elsewhere(code, *arguments, stdout=subprocess.DEVNULL), home / "kernel"
    wait_until(lambda: kernel.exists() and kernel.read_text())
    capsys.readouterr()
    assert reproduce.main([*map(str, arguments)]) == 2  # a second one, meanwhile
    assert "no other run of the notebooks of profile smoke, and one is going on" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_alive(int(kernel.read_text())))

    status = good.pop("smoke/status.csv")
    found = contents(home / "results")
    assert [line.split(",")[1] for line in found.pop("smoke/status.csv").decode().splitlines()[1:]] == [
        "reused", "unfinished", "reused",
    ]  # fmt: skip
    assert found == good and executed(home, "02_waits").exists()

    in_a_day(home)
    make(home, "02_waits", waits.replace("600", "0"), WRITES.format(name="02_waits"), minutes={"smoke": 7})
    assert [row["status"] for row in run(home)[1].values()] == ["reused", "pass", "reused"]
    announced = capsys.readouterr().out
    assert "1 of 3 notebooks to run, about 7 min" in announced
    assert "02_waits                     about 7 min, again: its last run was stopped" in announced
    assert announced.count("again") == 1 and leftovers(home) == []
    assert [row["status"] for row in run(home)[1].values()] == ["reused"] * 3
    assert "again" not in capsys.readouterr().out and contents(home / "results")["smoke/status.csv"] != status


# ---- two at once ----

DRIVER = """
import json, sys
from pathlib import Path
from ravl_core import study
from ravl_core.mitigation import Budget
from ravl_core.settings import Setting
from ravl_core.tasks import Task
model, folder, n_tasks, setting, budget = sys.argv[1], Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
tasks = [Task(Setting(**setting | {"seed": seed, "initial": model}), Budget(**budget)) for seed in range(n_tasks)]
print("ready", flush=True)
sys.stdin.readline()
done = study.run_study(tasks, folder / "records", workers=1, keep=folder / "kept")
print(json.dumps({"records": len(done.records), "failures": done.failures}))
"""


def test_two_studies_on_one_folder_both_end_well(tmp_path, record_property):
    model = f"local-dir:{save_vlm(tiny_vlm(), tmp_path / 'model')}"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    asked = N_TASKS, json.dumps(asdict(SMALL)), json.dumps(asdict(SHORT))
    both = [elsewhere(DRIVER, model, tmp_path, *asked, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:  # at once, when both have imported what they need
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        said, problems = process.communicate(timeout=300)
        assert process.returncode == 0, problems
        assert json.loads(said) == {"records": N_TASKS, "failures": {}} and "Warning" not in problems
    with warnings.catch_warnings(action="error"):
        assert len(read_records(tmp_path / "records")) == N_TASKS
    folders = [path for path in (tmp_path / "kept").iterdir() if not path.name.startswith(".")]
    assert len(folders) == N_TASKS and leftovers(tmp_path) == []
    for folder in folders:
        kept.load_evaluation(folder), kept.load_measured(folder), kept.load_fine_tuned(folder, load_vlm(model))
    record_property("faults", 2)


def test_two_that_write_one_folder_at_once_leave_one_of_them_whole(tmp_path):
    def write(folder, value):
        with folder_at_once(folder, replace=True) as unfinished:
            for name in "ab":
                (unfinished / name).write_text(value * 1000)

    write(tmp_path / "both", "0")
    processes = []
    for value in "12":
        process = os.fork()
        if process == 0:
            try:
                for _ in range(200):
                    write(tmp_path / "both", value)
                os._exit(0)
            finally:
                os._exit(1)
        processes.append(process)
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0, 0]
    found = contents(tmp_path)
    assert found.keys() == {"both/a", "both/b"} and found["both/a"] == found["both/b"] and len(found["both/a"]) == 1000


def test_of_two_that_make_one_new_folder_the_first_stays(tmp_path):
    def write(value):
        with folder_at_once(tmp_path / "new") as unfinished:
            (unfinished / "a").write_text(value)
            if value == "second":
                write("first")  # while the second one is at work

    with pytest.raises(FileExistsError, match="new exists already; nothing was written"):
        write("second")
    assert contents(tmp_path) == {"new/a": b"first"}


def test_two_that_write_the_same_record_leave_it_whole(tmp_path):
    both = [elsewhere(KEEPS_WRITING, tmp_path, 1, LENGTH) for _ in range(2)]
    wait_until(lambda: list(tmp_path.glob("*.json")))
    give_up = time.monotonic() + 1
    while time.monotonic() < give_up:
        with warnings.catch_warnings(action="error"):
            assert is_whole(load_record(tmp_path, {"seed": 0}))
    for process in both:
        process.send_signal(signal.SIGKILL)
        process.wait()
