"""Files and names that mean harm: nothing in them runs, nothing is written where they say, pages show them as text."""

import csv
import gzip
import json
import os
import pickle
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas
import pytest
from coco_made_here import photographs_of_all_kinds, write_coco_folder
from made_up_audit import NOTES, made_up_audit
from PIL import Image
from tiny import digits, noise, tiny_vlm

from ravl_core import kept, paths
from ravl_core.audits.export import FILES, export_audit
from ravl_core.audits.report import report_page, write_report
from ravl_core.audits.result import AuditFinding
from ravl_core.checkpoints import load_vlm, save_vlm
from ravl_core.domains.coco_folder import read_coco_folder
from ravl_core.domains.files import data_file
from ravl_core.domains.image_files import read_image
from ravl_core.domains.mnist import read_idx
from ravl_core.domains.own_images import read_images
from ravl_core.figures import style
from ravl_core.language.cached import describe
from ravl_core.language.description import Description
from ravl_core.language.teachers import from_function
from ravl_core.records import read_records, record_path, save_record
from ravl_core.zero_shot import evaluate

PATHS = ("../../etc/passwd", "/etc/passwd", "a/b", "..", "con", "x" * 300, "two\nlines", "nul\0byte", "back\\slash")
MARKUP = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "</title></style><iframe src=https://example.org>",
    "<a href=javascript:alert(1)>x</a> {{ 7 * 7 }} {% raw %} &lt;b&gt;",
    "<!-- ]]> --><svg/onload=alert(1)>",
)  # fmt: skip
FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", '=HYPERLINK("https://example.org")')
PRIVATE = "the words of another file"


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- what is in a file is never run ----


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """A trap, and the proof that it works."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    (tmp_path / "sprung").unlink()
    yield Trap(tmp_path / "sprung")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "weights.pth"])
def test_a_folder_whose_weights_are_a_program_is_refused(tmp_path, trap, name):
    folder = save_vlm(tiny_vlm(), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(ValueError, match=f"{name}: expected a file of weights alone, as safetensors or torch write it"):
        load_vlm(f"local-dir:{folder}")


def test_a_kept_evaluation_that_is_a_program_is_refused(tmp_path, trap):
    data = digits(4, "val")
    folder = kept.save_kept(tmp_path / "0123", tiny_vlm(), evaluate(tiny_vlm(), data), kept.truths_of(data), {}, "1")
    with np.load(folder / "val.npz") as arrays:
        content = dict(arrays)
    np.savez(folder / "val.npz", **content | {"labels": np.array([trap], dtype=object)})
    with pytest.raises(ValueError, match="allow_pickle=False"):
        kept.load_evaluation(folder)


# ---- what is read ----


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "mnist/../x", "", "train-images-idx3-ubyte.gz\0"])
def test_no_data_file_is_asked_for_that_has_no_known_hash(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    for dataset, file in (("mnist", name), (name, "train-images-idx3-ubyte.gz")):
        with pytest.raises(ValueError, match="expected"):
            data_file(dataset, file)
    assert list(tmp_path.iterdir()) == []


def test_a_data_file_behind_a_link_has_to_have_the_known_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "secret").write_text(PRIVATE)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="expected a file with SHA256") as raised:
        data_file("mnist", "t10k-labels-idx1-ubyte.gz")
    assert PRIVATE not in str(raised.value)


def test_the_name_inside_an_archive_is_not_used(tmp_path):
    labels = b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes([1, 2, 3])
    with open(tmp_path / "labels.gz", "wb") as raw, gzip.GzipFile("../../evil", "wb", fileobj=raw) as file:
        file.write(labels)
    assert b"evil" in (tmp_path / "labels.gz").read_bytes()
    assert read_idx(tmp_path / "labels.gz").tolist() == [1, 2, 3]
    assert files_below(tmp_path) == {"labels.gz"}


@pytest.mark.parametrize("name", ["hf-hub:../../x", "hf-hub:/etc/passwd", "hf-hub:a/b/../../c"])
def test_a_repository_that_is_a_path_is_refused(name):
    with pytest.raises(ValueError, match="Repo id"):
        load_vlm(name)


@pytest.fixture
def listed(tmp_path):
    """A folder with two images, and beside it one image and one file that is none."""
    for name in ("data/a.png", "data/b.png", "outside.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise(1, 8, 8)[0]).save(tmp_path / name)
    (tmp_path / "secret.txt").write_text(PRIVATE)
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(tmp_path / "data" / "pipe.png")
    return tmp_path


def rows_of(folder):
    """What a list may name: two images, one outside by either kind of path, and what is no image."""
    outside = ["../outside.png", str(folder / "outside.png")]
    others = ["../secret.txt", str(folder / "secret.txt"), "link.png", "pipe.png", "/dev/zero", "..", *PATHS]
    return ["a.png", "b.png", *outside], others


@pytest.mark.parametrize("kind", ["table", "coco"])
def test_a_list_may_name_files_anywhere_and_they_are_read_as_images_alone(listed, kind):
    shown, others = rows_of(listed)
    names, before = [*shown, *dict.fromkeys(others)], files_below(listed)
    if kind == "table":
        source = listed / "data" / "list.csv"
        with open(source, "w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *((name, "ab"[at % 2]) for at, name in enumerate(names))])
    else:
        source = listed / "data" / "list.json"
        boxes = [{"image_id": at, "category_id": at % 2, "bbox": [0, 0, 4, 4]} for at in range(len(names))]
        images = [{"id": at, "file_name": name} for at, name in enumerate(names)]
        categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
        source.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    own = read_images(source, size=8)
    assert set(own.names) <= set(shown) and len(own) == 3  # of the two outside, one is the other again
    assert len(own.notes) == len(names) - 3 and not any(note.kept for note in own.notes)
    assert PRIVATE not in repr(own.notes) and files_below(listed) == before | {f"data/{source.name}"}


@pytest.mark.parametrize("name", PATHS)
def test_a_published_folder_names_files_in_it_alone(tmp_path, name):
    folder = write_coco_folder(tmp_path / "coco", photographs_of_all_kinds(1))
    content = json.loads((folder / "annotations.json").read_text())
    content["images"][0]["file_name"] = name
    (folder / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="names an image that is not there"):
        read_coco_folder(folder)


@pytest.mark.parametrize(
    "content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"P6 8 8 255\n" + bytes(192)]
)
def test_formats_whose_readers_start_programs_are_not_tried(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    assert read_image(tmp_path / "a.png", 8).notes == (("unreadable", "no image of a known format"),)


# ---- a cache of answers ----

ANSWER = {"image": "0" * 64, "teacher": "t", "class": None, "objects": ["a"], "background": ["b"]}
BAD_LINES = {
    "no json": b"{'image': 1}",
    "nothing": b"null",
    "a number": b"1" * 5000,
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "not finite": json.dumps(ANSWER | {"objects": [float("nan")]}).encode(),
    "huge": json.dumps(ANSWER | {"objects": [[1] * 1_000_000]}).encode(),
    "huge image": json.dumps(ANSWER | {"image": [1] * 1_000_000}).encode(),
    "no text": json.dumps(ANSWER | {"background": {"a": 1}, "objects": 3}).encode(),
    "class is a list": json.dumps(ANSWER | {"class": ["a"]}).encode(),
    "teacher is a number": json.dumps(ANSWER | {"teacher": 0}).encode(),
    "a field is missing": json.dumps({"image": "a", "teacher": "t", "class": None}).encode(),
    "bytes": b"\x00\xff\xfe",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_of_answers_that_is_wrong_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\n".join([json.dumps(ANSWER).encode(), line, json.dumps(ANSWER).encode(), b""]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="answers.jsonl, line 2: expected an answer") as raised:
        describe(from_function(lambda image, class_name: Description("a", "b"), "t"), noise(1, 8, 8), path=path)
    assert len(str(raised.value)) < 1000 and path.read_bytes() == before


@pytest.mark.filterwarnings("ignore:record .* is treated as missing")
@pytest.mark.parametrize("content", ["[" * 100_000 + "]" * 100_000, '{"arguments": ' + "[" * 9999, "1" * 5000, "NaN"])
def test_a_record_that_no_one_can_read_is_missing(tmp_path, content):
    save_record(tmp_path, {"seed": 1}, {})
    record_path(tmp_path, {"seed": 0}).write_text(content)
    assert len(read_records(tmp_path)) == 1


# ---- what is written ----


@pytest.mark.parametrize("name", [*PATHS[:4], *PATHS[7:], "", ".", "a/../../b"])
def test_a_figure_goes_to_its_folder_or_nowhere(tmp_path, name):
    figure = plt.figure()
    plt.close(figure)
    with pytest.raises(ValueError, match="name: expected that of a file in"):
        style.save(figure, tmp_path / "figures", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*PATHS[:4], *PATHS[6:], ""])
def test_a_profile_is_no_path(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    for folder in (paths.results, paths.figures, paths.cache):
        with pytest.raises(ValueError, match="profile: expected"):
            folder(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [PATHS, MARKUP, FORMULAS], ids=["paths", "markup", "formulas"])
def test_names_from_data_decide_no_files(tmp_path, names):
    images = [f"{names[at % len(names)]} {at}" for at in range(30)]
    audit = made_up_audit(class_names=names, names=images)
    export_audit(audit, tmp_path / "out" / "audit")
    write_report(audit, tmp_path / "out" / "audit" / "index.html")
    save_record(tmp_path / "out", {"setting": names}, {name: 1 for name in names})
    found = files_below(tmp_path)
    assert {name for name in found if "/audit/" not in name} == {
        f"out/{record_path('', {'setting': names}).name}"
    }  # fmt: skip
    assert {Path(name).name for name in found if "/audit/" in name} == {
        *(name for name in FILES if not name.endswith(".parquet")), "index.html",
    }  # fmt: skip


def test_tables_hold_names_as_they_are(tmp_path):
    """A program that looks a file up needs its name; the docstring says what a spreadsheet would make of it."""
    images = [f"{FORMULAS[at % len(FORMULAS)]} {at}" for at in range(30)]
    audit = made_up_audit(class_names=FORMULAS, names=images)
    folder = export_audit(audit, tmp_path / "audit")
    with open(folder / "images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == images
    assert [row["label"] for row in rows] == [FORMULAS[at % len(FORMULAS)] for at in range(30)]
    assert {f"score_{name}" for name in FORMULAS} <= rows[0].keys()
    assert "import the columns as text" in " ".join(export_audit.__doc__.split())


# ---- the page of an audit ----


class Text(HTMLParser):
    """The elements of a page, their attributes, and all that a reader sees."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.words, self.hidden = [], [], 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, attributes))
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "script")

    def handle_data(self, text):
        if not self.hidden:
            self.words.append(text)

    def handle_comment(self, text):
        self.elements.append(("comment", []))


def markup_everywhere(value, draw):
    """A copy of an audit in which every text is markup; keys, kinds and numbers stay."""
    if isinstance(value, str):
        return draw()
    if isinstance(value, pandas.DataFrame):
        texts = [name for name in value if value[name].map(lambda cell: isinstance(cell, str)).any()]
        return value.assign(**{name: [markup_everywhere(cell, draw) for cell in value[name]] for name in texts})
    if isinstance(value, tuple | list):
        return type(value)(markup_everywhere(item, draw) for item in value) if not hasattr(value, "_fields") else value
    if isinstance(value, dict):
        return {markup_everywhere(key, draw): markup_everywhere(item, draw) for key, item in value.items()}
    if is_dataclass(value):
        changed = {field.name: markup_everywhere(getattr(value, field.name), draw) for field in fields(value)}
        return replace(value, **changed)
    return value


def nasty_audit():
    """An audit in which each text that comes from data, options or names is markup."""
    turn = iter(range(10**6))

    def draw():
        at = next(turn)
        return f"{MARKUP[at % len(MARKUP)]} {at}"

    audit = made_up_audit(class_names=[draw() for _ in range(3)], notes=NOTES)
    findings = []
    for finding in audit.findings:
        values = {field.name: getattr(finding, field.name) for field in fields(finding)}
        texts = {
            name: markup_everywhere(values[name], draw) for name in ("words", "associations", "stability", "masks")
        }
        findings.append(AuditFinding(**values | texts))
    own = replace(
        audit.images, **{name: markup_everywhere(getattr(audit.images, name), draw) for name in ("names", "notes")}
    )
    others = {
        name: markup_everywhere(getattr(audit, name), draw) for name in ("columns", "proposals", "model", "options")
    }
    return replace(audit, findings=tuple(findings), images=own, **others)


REPAIRED = SimpleNamespace(
    sentences=MARKUP,
    table=pandas.DataFrame({name: [MARKUP[at]] for at, name in enumerate(MARKUP)} | {"a_low": [0.1]}),
)


def test_whatever_the_data_say_the_page_has_the_elements_that_it_has_anyway():
    audit = nasty_audit()
    usual, page = Text(report_page(made_up_audit(notes=NOTES))), report_page(audit, REPAIRED)
    shown = Text(page)
    assert {tag for tag, _ in shown.elements} == {tag for tag, _ in usual.elements}
    known = {(tag, name) for tag, attributes in usual.elements for name, _ in attributes}
    assert {(tag, name) for tag, attributes in shown.elements for name, _ in attributes} <= known
    for tag, attributes in shown.elements:
        for name, value in attributes:
            assert not name.startswith("on") and tag not in ("script", "iframe", "comment")
            assert name != "href" or value.startswith("#"), (tag, value)
            assert name != "src" or value.startswith("data:image/jpeg;base64,"), (tag, value)
    told = " ".join(shown.words)
    assert all(told.count(text) > 5 for text in MARKUP)
    assert all(sentence in told for sentence in audit.sentences) and "pulls" not in audit.sentences[0]


def test_classes_are_shown_as_they_are_called():
    names = (*MARKUP, *PATHS[:7], *FORMULAS[:4])
    page = Text(report_page(made_up_audit(class_names=names)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in Text(report_page(made_up_audit())).elements}
    assert [name for name in names if name not in page.words] == []
