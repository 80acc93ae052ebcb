"""Records: named by their arguments, whole or not there, the same bytes for the same run."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravl_core import records
from ravl_core.atomic import write_atomically
from ravl_core.records import code_version, load_record, read_records, record_path, save_record, stale

ARGUMENTS = {"attribute": 9, "strength": 0.95, "attributes": (0, 9), "seed": 0}
METRICS = {"precision": 1.0, "gaps": np.array([0.25, np.nan, -np.inf]), "n": np.int64(3), "valid": np.bool_(True)}
TEXTS = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
DICTIONARIES = st.dictionaries(TEXTS, PLAIN, max_size=4)


def test_a_record_comes_back(tmp_path):
    path = save_record(tmp_path, ARGUMENTS, METRICS, code_version="abc", device="cpu", seconds={"discover": 1.5})
    record = load_record(tmp_path, ARGUMENTS)
    assert path == record_path(tmp_path, ARGUMENTS)
    assert record["arguments"] == {**ARGUMENTS, "attributes": [0, 9]}
    assert record["metrics"] == {"precision": 1.0, "gaps": [0.25, None, None], "n": 3, "valid": True}
    assert record["times"]["seconds"] == {"discover": 1.5}
    assert {"python", "torch", "numpy", "open_clip_torch", "code"} <= set(record["versions"])
    assert read_records(tmp_path) == [record]


@given(arguments=DICTIONARIES, metrics=DICTIONARIES)
def test_whatever_json_holds_comes_back(tmp_path_factory, arguments, metrics):
    folder = tmp_path_factory.mktemp("records")
    save_record(folder, arguments, metrics)
    record = load_record(folder, arguments)
    assert record["arguments"] == arguments and record["metrics"] == metrics


def test_the_name_is_the_arguments_and_nothing_else(tmp_path):
    path = record_path(tmp_path, ARGUMENTS)
    assert len(path.stem) == 16 and int(path.stem, 16) >= 0
    assert record_path(tmp_path, dict(reversed(ARGUMENTS.items()))) == path
    assert record_path(tmp_path, {**ARGUMENTS, "attributes": np.array([0, 9])}) == path
    assert record_path(tmp_path, {**ARGUMENTS, "strength": 0.96}) != path


def test_the_same_run_gives_the_same_bytes_outside_times(tmp_path):
    texts = []
    for run, seconds in enumerate([1.0, 2.0]):
        path = save_record(tmp_path / str(run), ARGUMENTS, METRICS, seconds={"all": seconds})
        record = json.loads(path.read_text())
        assert record.pop("times") and record.pop("checksum")
        texts.append(json.dumps(record))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": float("nan")}, r"arguments\['strength'\]: expected a finite number, got nan"),
        ({"k": [1, float("inf")]}, r"arguments\['k'\]\[1\]: expected a finite number, got inf"),
        ({"model": object()}, r"arguments\['model'\]: expected numbers, strings, lists and dicts, got object"),
        ({"sizes": {1: 2}}, r"arguments\['sizes'\]: expected names as keys, got 1"),
    ],
)
def test_arguments_that_name_no_run_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        save_record(tmp_path, arguments, {})
    assert list(tmp_path.iterdir()) == []


def test_metrics_that_json_cannot_hold_leave_the_old_record(tmp_path):
    save_record(tmp_path, ARGUMENTS, {"precision": 1.0})
    with pytest.raises(ValueError, match=r"metrics\['model'\]"):
        save_record(tmp_path, ARGUMENTS, {"model": object()})
    assert load_record(tmp_path, ARGUMENTS)["metrics"] == {"precision": 1.0}


def test_no_record_is_none(tmp_path):
    assert load_record(tmp_path, ARGUMENTS) is None
    assert read_records(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"precision": 1.0', '"precision": 0.9'),
        lambda text: text.replace('"attribute": 9', '"attribute": 8'),
        lambda text: "[]",
        lambda text: text.replace('"checksum"', '"chequesum"'),
        lambda text: "\x00" * len(text),
    ],
    ids=["half", "empty", "metric", "argument", "list", "no checksum", "zeros"],
)
def test_a_damaged_record_is_named_and_missing(tmp_path, damage):
    path = save_record(tmp_path, ARGUMENTS, METRICS)
    other = save_record(tmp_path, {"seed": 1}, {"precision": 0.5})
    path.write_text(damage(path.read_text()))
    with pytest.warns(UserWarning, match=path.name):
        assert load_record(tmp_path, ARGUMENTS) is None
    with pytest.warns(UserWarning, match=path.name):
        assert [record["metrics"] for record in read_records(tmp_path)] == [{"precision": 0.5}]
    assert other.exists()


def test_a_record_under_a_wrong_name_is_missing(tmp_path):
    save_record(tmp_path, ARGUMENTS, METRICS).rename(record_path(tmp_path, {"seed": 1}))
    with pytest.warns(UserWarning, match="name does not fit"):
        assert load_record(tmp_path, {"seed": 1}) is None


def test_other_files_are_no_records(tmp_path):
    save_record(tmp_path, ARGUMENTS, METRICS)
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / ".0123456789abcdef.json.1.tmp").write_text("{")
    assert len(read_records(tmp_path)) == 1


def test_a_full_disk_leaves_the_old_record_and_no_rubbish(tmp_path, monkeypatch):
    save_record(tmp_path, ARGUMENTS, {"precision": 1.0})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        save_record(tmp_path, ARGUMENTS, {"precision": 0.0})
    assert load_record(tmp_path, ARGUMENTS)["metrics"] == {"precision": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_kill_9_leaves_whole_records_only(tmp_path):
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, itertools\nfrom ravl_core.records import save_record\n"
            "for i in itertools.count(): save_record(sys.argv[1], {'seed': i % 5}, {'values': list(range(20000))})",
            str(tmp_path),
        ]
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("[0-9a-f]*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    whole = read_records(tmp_path)  # a damaged one would warn
    assert whole and all(record["metrics"]["values"] == list(range(20000)) for record in whole)
    assert len(whole) == len(list(tmp_path.glob("[0-9a-f]*.json")))


def test_the_code_version_follows_the_sources(tmp_path, monkeypatch):
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code_version("made_up")
    assert before == code_version("made_up", "made_up") and len(before) == 16
    assert code_version("made_up.part") != before
    (package / "part.py").write_text("x = 2\n")
    assert code_version("made_up") != before
    save_record(tmp_path, ARGUMENTS, {}, code_version=before)
    record = load_record(tmp_path, ARGUMENTS)
    assert stale(record, code_version("made_up")) and not stale(record, before)


@pytest.mark.parametrize("module", ["ravl_core.nowhere", "no_such_package.part", "sys"])
def test_an_unknown_module_is_named(module):
    with pytest.raises(ValueError, match=f"got '{module}'"):
        code_version(module)


def test_a_package_that_is_absent_says_so(monkeypatch):
    monkeypatch.setattr(records, "PACKAGES", ("no-such-package",))
    records._installed.cache_clear()
    assert records.package_versions()["no-such-package"] == "not installed"
    records._installed.cache_clear()


def test_an_atomic_write_replaces_and_makes_folders(tmp_path):
    path = write_atomically(tmp_path / "a" / "b.txt", "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two" and list(path.parent.iterdir()) == [path]
