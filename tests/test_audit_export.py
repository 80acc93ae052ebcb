"""The exported tables hold the audit, other tools can open them, and a folder is written whole or not at all."""

import builtins
import csv
import json

import numpy as np
import pandas
import pytest
from made_up_audit import NOTES, made_up_audit

from ravl_core.audits import export
from ravl_core.audits.export import export_audit

NASTY = ('a,"b".png', "two\nlines.png", "=1+1.png", "größe 猫.png", "\udce9.png")


@pytest.fixture(scope="module")
def audit():
    names = [*NASTY, *(f"{i}.png" for i in range(len(NASTY), 30))]
    return made_up_audit(names=names, notes=NOTES)


@pytest.fixture(scope="module")
def folder(audit, tmp_path_factory):
    return export_audit(audit, tmp_path_factory.mktemp("exports") / "audit")


def read(path):
    """Rows of a csv file as the standard library reads them."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_file_is_there_and_nothing_else(folder):
    assert {path.name for path in folder.iterdir()} == export.FILES - {"regions.parquet", "images.parquet"}
    assert [path.name for path in folder.parent.iterdir()] == ["audit"]


def test_the_same_audit_gives_the_same_bytes(audit, folder, tmp_path):
    assert contents(export_audit(audit, tmp_path / "again")) == contents(folder)


def test_findings_have_a_row_each_with_all_interval_ends(audit, folder):
    rows = read(folder / "findings.csv")
    assert [row["attribute"] for row in rows] == [finding.attribute_name for finding in audit.findings]
    assert [row["finding"] for row in rows] == ["1", "2"]
    row, finding = rows[0], audit.findings[0]
    assert row["sentence"] == finding.sentence
    for name in ("pull", "gap", "p_value", "times_others", "chosen_in", "chosen_out", "n_in", "n_out", "n_images"):
        assert float(row[name]) == pytest.approx(getattr(finding, name))
    assert [float(row[name]) for name in ("chosen", "chosen_low", "chosen_high")] == pytest.approx(finding.chosen)
    assert row["influence"] == ""  # NaN
    assert (row["confirmed"], row["found_again"], row["variations"]) == ("True", "2", "3")
    assert row["words"] == "mark; arrow"


def test_classes_have_a_row_for_each_finding_and_class(audit, folder):
    rows = read(folder / "classes.csv")
    assert [(row["finding"], row["class"]) for row in rows] == [
        (str(number), name) for number in (1, 2) for name in audit.dataset.class_names
    ]
    assert float(rows[4]["accuracy_in_low"]) == pytest.approx(audit.findings[1].table.accuracy_in_low[1])


def test_masks_have_a_row_for_each_fill_kind_of_images_and_measure(audit, folder):
    rows = read(folder / "masks.csv")
    assert len(rows) == 2 * 2 * 2 * 3
    (row,) = [
        row
        for row in rows
        if (row["finding"], row["fill"], row["images"], row["measure"]) == ("2", "blur", "others", "accuracy")
    ]
    group = audit.findings[1].masks["blur"].others
    assert [float(row[f"effect{end}"]) for end in ("", "_low", "_high")] == pytest.approx(group.effect.accuracy)
    beyond = [float(row[f"beyond_control{end}"]) for end in ("", "_low", "_high")]
    assert beyond == pytest.approx(group.beyond_control.accuracy)
    assert (row["n"], row["n_compared"]) == ("12", "11")


def test_regions_are_boxes_in_pixels_of_their_files(audit, folder):
    rows = read(folder / "regions.csv")
    assert len(rows) == len(audit.dataset.boxes)
    for region, row in enumerate(rows):
        x1, y1, x2, y2 = audit.dataset.boxes[region]  # the images show the right half of 640 × 480, in 64 × 64
        box = [320 + x1 * 5, y1 * 7.5, 320 + x2 * 5, y2 * 7.5]
        assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == pytest.approx(box)
        assert int(row["coarse_cluster"]) == audit.discovery.clustering.labels[region]
        scores = [float(row[f"score_{name}"]) for name in audit.dataset.class_names]
        assert scores == pytest.approx(audit.evaluation.region_probs[region], rel=1e-5)


def test_regions_say_which_finding_they_are_of_and_how_typical_they_are(audit, folder):
    rows = read(folder / "regions.csv")
    places = {
        int(region): (str(number), str(rank))
        for number, finding in enumerate(audit.findings, start=1)
        for rank, region in enumerate(finding.regions, start=1)
    }
    assert [(row["finding"], row["rank"]) for row in rows] == [places.get(i, ("", "")) for i in range(len(rows))]


def test_images_have_their_answers_and_what_they_hold(audit, folder):
    rows, names = read(folder / "images.csv"), audit.dataset.class_names
    assert [row["image"] for row in rows[:4]] == list(NASTY[:4]) and rows[4]["image"] == "\\udce9.png"
    assert [row["label"] for row in rows] == [names[label] for label in audit.dataset.labels]
    assert [row["prediction"] for row in rows] == [names[answer] for answer in audit.evaluation.predictions]
    assert [row["group"] for row in rows] == list(audit.images.groups)
    for number, finding in enumerate(audit.findings, start=1):
        held = [str(image in audit.dataset.image_index[finding.regions]) for image in range(len(rows))]
        assert [row[f"holds_finding_{number}"] for row in rows] == held


def test_notes_keep_their_order(folder):
    rows = read(folder / "notes.csv")
    assert [(row["name"], row["kind"], row["detail"], row["kept"]) for row in rows] == [
        (note.name, note.kind, note.detail, str(note.kept)) for note in NOTES
    ]


def test_the_summary_is_strict_json_with_null_for_nan(audit, folder):
    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((folder / "audit.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert summary["options"] == {"regions": "quadrants", "templates": ["a photo of a {}", "{}"], "seed": 0}
    assert summary["sentences"] == list(audit.sentences)
    assert summary["detectable"] == [
        {"n_images": 3, "prevalence": 0.1, "shift": None},
        {"n_images": 15, "prevalence": 0.5, "shift": 0.23},
    ]
    assert summary["coverage"]["n_regions"] == len(audit.dataset.boxes)
    assert summary["proposals"][1]["overlap"] is None
    first = summary["findings"][0]
    assert first["words"] == {"mark": 1.84, "arrow": 1.2}
    assert first["masks"] == {fill: mask.plain() for fill, mask in audit.findings[0].masks.items()}
    assert first["stability"][2] == {
        "kind": "candidates", "variation": "C … 2C-1", "n_clusters": 4, "attribute": None, "overlap": 0.1,
        "found_again": False,
    }  # fmt: skip


def test_coco_regions_are_what_the_format_asks_for(audit, folder):
    coco = json.loads((folder / "regions_coco.json").read_text(encoding="utf-8"))
    assert coco["images"][0] == {"id": 0, "file_name": NASTY[0], "width": 640, "height": 480}
    assert [category["name"] for category in coco["categories"]] == ["other", "finding 1: nine", "finding 2: eight"]
    images = {image["id"] for image in coco["images"]}
    categories = {category["id"] for category in coco["categories"]}
    assert len(images) == 30 and len({one["id"] for one in coco["annotations"]}) == len(audit.dataset.boxes)
    rows = read(folder / "regions.csv")
    for one, row in zip(coco["annotations"], rows, strict=True):
        assert one["image_id"] in images and one["category_id"] in categories and one["iscrowd"] == 0
        x, y, width, height = one["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx([float(row[name]) for name in ("x1", "y1", "x2", "y2")])
        assert one["area"] == pytest.approx(width * height)
        assert str(one["category_id"]) == (row["finding"] or "0")


def test_a_coco_score_is_that_of_the_findings_class_or_of_the_answer(audit, folder):
    annotations = json.loads((folder / "regions_coco.json").read_text())["annotations"]
    for region, one in enumerate(annotations):
        image = audit.dataset.image_index[region]
        finding = one["category_id"]
        asked = audit.findings[finding - 1].attribute if finding else audit.evaluation.predictions[image]
        assert one["score"] == pytest.approx(audit.evaluation.region_probs[region, asked])


def test_an_audit_without_findings_has_tables_with_headers(tmp_path):
    folder = export_audit(made_up_audit(0), tmp_path / "audit")
    for name in ("findings", "classes", "masks", "notes"):
        table = pandas.read_csv(folder / f"{name}.csv")
        assert len(table) == 0 and len(table.columns) > 1, name
    assert len(json.loads((folder / "regions_coco.json").read_text())["categories"]) == 1


def test_a_folder_that_is_there_is_an_error_unless_it_is_to_be_replaced(audit, tmp_path):
    folder = export_audit(made_up_audit(0), tmp_path / "audit")
    (folder / "index.html").write_text("an old report")
    before = contents(folder)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_audit(audit, folder)
    assert contents(folder) == before
    export_audit(audit, folder, overwrite=True)
    assert contents(folder)["findings.csv"] != before["findings.csv"] and "index.html" not in contents(folder)


def test_what_no_export_wrote_is_never_removed(audit, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="thesis.tex"):
        export_audit(audit, tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match="thesis.tex"):
        export_audit(audit, tmp_path / "thesis.tex", overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_an_export_that_fails_leaves_what_was_there(audit, tmp_path, monkeypatch):
    folder = export_audit(made_up_audit(0), tmp_path / "audit")
    before = contents(folder)

    def full(path, content):
        raise OSError("no space left")

    monkeypatch.setattr(type(folder), "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        export_audit(audit, folder, overwrite=True)
    assert contents(folder) == before and [path.name for path in tmp_path.iterdir()] == ["audit"]


def test_parquet_holds_the_same_regions_and_images(audit, folder, tmp_path):
    pytest.importorskip("pyarrow")
    written = export_audit(audit, tmp_path / "audit", parquet=True)
    for name in ("regions", "images"):
        table = pandas.read_parquet(written / f"{name}.parquet")
        assert [table["image"][i] for i in range(4)] == [read(folder / f"{name}.csv")[i]["image"] for i in range(4)]
        np.testing.assert_allclose(table["score_nine"], pandas.read_csv(folder / f"{name}.csv")["score_nine"], 1e-5)
    again = export_audit(audit, tmp_path / "again", parquet=True)
    assert contents(written) == contents(again)


def test_parquet_without_pyarrow_says_what_to_install_and_writes_nothing(audit, tmp_path, monkeypatch):
    ordinary = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "pyarrow":
            raise ImportError(name)
        return ordinary(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"ravl-core\[parquet\]"):
        export_audit(audit, tmp_path / "audit", parquet=True)
    assert list(tmp_path.iterdir()) == []
