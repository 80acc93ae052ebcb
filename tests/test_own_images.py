"""A user's own images: folders, tables, COCO and arrays, with labels, boxes and groups; nothing is left out unsaid."""

import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ravl_core.domains.own_images import Note, count_notes, from_arrays, read_images

CLASSES = ("cat", "dog")


def save(path, value=100, width=12, height=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, dtype=np.uint8)).save(path)
    return path


def saved_with_box(path, box, width=60, height=40):
    """A black image with a white rectangle, where a box says that it is."""
    x1, y1, x2, y2 = box
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y1:y2, x1:x2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def seen_box(pixels):
    y, x = np.nonzero(pixels[..., 0] > 127)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def write_table(path, header, *rows, encoding="utf-8"):
    lines = [",".join(map(_quoted, row)) for row in (header.split(","), *rows)]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def _quoted(cell):
    return '"' + str(cell).replace('"', '""') + '"'


def write_coco(path, images, boxes, categories=("cat", "dog", "leash")):
    """`boxes` as (image id, category name, x, y, width, height, whether a crowd)."""
    content = {
        "images": [{"id": id, "file_name": name} for id, name in images.items()],
        "categories": [{"id": 7 * at, "name": name} for at, name in enumerate(categories, start=1)],
        "annotations": [
            {"image_id": id, "category_id": 7 * (categories.index(name) + 1), "bbox": box, "iscrowd": int(crowd)}
            for id, name, *box, crowd in boxes
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path):
    """Four cats of greys 0 … 3 and three dogs of 10 … 12, at two depths."""
    for grey, name in enumerate(["b.png", "a.png", "deep/c.png", "deep/down/d.PNG"]):
        save(tmp_path / "cat" / name, grey)
    for grey, name in enumerate(["x.png", "y.png", "z.png"], start=10):
        save(tmp_path / "dog" / name, grey)
    return tmp_path


@pytest.fixture
def table(tmp_path):
    """Six images in images/, cats and dogs in turn, with a patient for each two."""
    rows = []
    for at in range(6):
        save(tmp_path / "images" / f"{at}.png", at)
        rows.append((f"images/{at}.png", CLASSES[at % 2], f"P{at // 2}", at * 1.5, "front" if at else ""))
    return write_table(tmp_path / "labels.csv", "path,label,group,age,view", *rows)


# ---- folders ----


def test_a_folder_of_folders_is_read_at_every_depth_and_sorted(folder):
    own = read_images(folder, size=4)
    assert own.class_names == ("cat", "dog") and own.labels.tolist() == [0] * 4 + [1] * 3
    assert own.names[:4] == ("cat/a.png", "cat/b.png", "cat/deep/c.png", "cat/deep/down/d.PNG")
    assert own.images.shape == (7, 4, 4, 3) and own.images[:, 0, 0, 0].tolist() == [1, 0, 2, 3, 10, 11, 12]
    assert own.sizes.tolist() == [[12, 8]] * 7 and own.windows.tolist() == [[0, 0, 12, 8]] * 7
    assert own.notes == () and own.boxes is own.groups is own.captions is own.metadata is None
    assert read_images(folder, ("dog", "cat"), 4).labels.tolist() == [0] * 3 + [1] * 4


def test_hidden_files_are_ignored_and_other_files_are_counted(folder):
    save(folder / "cat" / ".hidden.png")
    save(folder / "cat" / ".hidden" / "e.png")
    save(folder / ".git" / "e.png")
    for name in ("a.txt", "b.txt", "c", "d.dcm"):
        (folder / "cat" / name).write_text("no image")
    own = read_images(str(folder), size=4)
    assert len(own) == 7 and own.class_names == ("cat", "dog")
    (note,) = own.notes
    assert note == Note(folder.name, "other files", ".dcm: 1, .txt: 2, no ending: 1", False, 4)


def test_links_are_followed_and_circles_end(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "far.png", 50)
    (folder / "bird").symlink_to(elsewhere)
    (folder / "dog" / "far").symlink_to(elsewhere)
    (folder / "cat" / "circle").symlink_to(folder / "cat")
    own = read_images(folder, size=4)
    assert own.class_names == ("bird", "cat", "dog") and own.names[0] == "bird/far.png"
    assert len(own) == 9 and own.images[own.names.index("dog/far/far.png"), 0, 0, 0] == own.images[0, 0, 0, 0] == 50


def test_names_that_are_no_text_are_written_as_text(folder):
    save(folder / "cat" / "plain.png", 77).rename(folder / "cat" / os.fsdecode(b"\xff.png"))
    own = read_images(folder, size=4)
    "".join(own.names).encode("utf-8")
    assert len(own) == 8 and 77 in own.images


def test_what_cannot_be_read_is_skipped_named_and_leaves_no_gap(folder):
    (folder / "cat" / "aa.png").write_bytes(b"no image")
    (folder / "cat" / "x.jpg").mkdir()
    save(folder / "dog" / "xx.png", width=1)
    own = read_images(folder, size=4)
    assert own.images[:, 0, 0, 0].tolist() == [1, 0, 2, 3, 10, 11, 12] and own.labels.tolist() == [0] * 4 + [1] * 3
    found = [(note.name, note.kind, note.kept) for note in own.notes]
    assert found == [
        ("cat/aa.png", "unreadable", False),
        ("cat/x.jpg", "unreadable", False),
        ("dog/xx.png", "one pixel", False),
    ]


def test_what_is_converted_is_noted_and_kept(folder):
    Image.new("CMYK", (4, 4)).save(folder / "dog" / "w.tif")
    own = read_images(folder, size=4)
    assert len(own) == 8
    assert [(note.name, note.kind, note.kept) for note in own.notes] == [("dog/w.tif", "CMYK", True)]


def test_a_class_without_a_readable_image_is_named_with_the_reason(folder):
    (folder / "bird").mkdir()
    (folder / "bird" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"no readable image of bird; skipped: 1 unreadable \(bird/a.png: no image"):
        read_images(folder, size=4)
    (folder / "bird" / "a.png").unlink()
    with pytest.raises(ValueError, match="no readable image of bird; skipped: none"):
        read_images(folder, size=4)


def test_folders_and_classes_that_do_not_fit_are_named(folder):
    with pytest.raises(FileNotFoundError, match="source: there is no .*nowhere"):
        read_images(folder / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no 'cats'; did you mean 'cat'"):
        read_images(folder, ("cats", "dog"))
    with pytest.raises(ValueError, match="classes: expected at least two names, got ..cat"):
        read_images(folder, ("cat",))
    with pytest.raises(ValueError, match="classes: expected at least two names, got ..cat"):
        read_images(folder, "cat")
    with pytest.raises(ValueError, match="classes: expected names that differ, got 'cat' more than once"):
        read_images(folder, ("cat", "dog", "cat"))
    with pytest.raises(ValueError, match="at least two names"):
        read_images(folder / "dog")
    with pytest.raises(ValueError, match="source: expected a folder, a .csv or a .json, got a.png"):
        read_images(folder / "cat" / "a.png")
    for more in ({"split": "val"}, {"columns": {"path": "file"}}):
        with pytest.raises(ValueError, match="columns, split: expected a table"):
            read_images(folder, **more)
    with pytest.raises(ValueError, match="size: expected an integer of 1 or more, got 0"):
        read_images(folder, size=0)
    with pytest.raises(ValueError, match="fit: .*'squash'"):
        read_images(folder, fit="squish")


@pytest.mark.parametrize("most, expected", [(2, [1, 1]), (5, [3, 2]), (6, [3, 3]), (7, [4, 3]), (99, [4, 3])])
def test_a_draw_is_even_over_the_classes_and_repeats(folder, most, expected):
    own = read_images(folder, size=4, most=most, seed=1)
    assert np.bincount(own.labels).tolist() == expected
    assert own.names == read_images(folder, size=4, most=most, seed=1).names == tuple(sorted(own.names))
    values = dict(zip(read_images(folder, size=4).names, [1, 0, 2, 3, 10, 11, 12], strict=True))
    assert own.images[:, 0, 0, 0].tolist() == [values[name] for name in own.names]


def test_a_draw_depends_on_the_seed_and_holds_each_class(folder):
    drawn = [read_images(folder, size=4, most=2, seed=seed).names for seed in range(40)]
    counts = Counter(name for names in drawn for name in names)
    assert len(counts) == 7 and min(counts[name] for name in counts) >= 3
    with pytest.raises(ValueError, match="most: expected an integer of 2 or more, got 1"):
        read_images(folder, size=4, most=1)


# ---- tables ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_gives_labels_groups_and_metadata(tmp_path, table, encoding):
    table.write_text(table.read_text(), encoding=encoding)
    own = read_images(table, size=4)
    assert own.class_names == CLASSES and own.labels.tolist() == [0, 1] * 3
    assert own.names == tuple(f"images/{at}.png" for at in range(6))
    assert own.images[:, 0, 0, 0].tolist() == list(range(6))
    assert own.groups.tolist() == ["P0", "P0", "P1", "P1", "P2", "P2"] and own.groups.dtype.kind == "U"
    assert own.metadata.columns.tolist() == ["age", "view"] and own.metadata.age.tolist() == [
        at * 1.5 for at in range(6)
    ]
    assert own.metadata.view.tolist() == [""] + ["front"] * 5 and own.notes == ()


def test_rows_stay_together_when_some_are_left_out(tmp_path, table):
    (tmp_path / "images" / "2.png").unlink()
    text = table.read_text().replace('"images/1.png","dog"', '"images/1.png","fox"')
    first, *others = text.splitlines(keepends=True)[1:]
    again = '"images/0.png","dog","P9","0","back"\n', '"./images/3.png","dog","P9","0","back"\n'
    table.write_text(
        "".join(['"path","label","group","age","view"\n', first, again[0], *others[:3], again[1], *others[3:]])
    )
    own = read_images(table, CLASSES, size=4)
    assert own.images[:, 0, 0, 0].tolist() == [0, 3, 4, 5] and own.labels.tolist() == [0, 1, 0, 1]
    assert own.groups.tolist() == ["P0", "P1", "P2", "P2"] and own.metadata.age.tolist() == [0, 4.5, 6, 7.5]
    assert own.metadata.index.tolist() == [0, 1, 2, 3]
    assert own.notes == (
        Note("labels.csv", "other label", "fox: 1", False, 1),
        Note("images/0.png", "duplicate", "listed as 'cat', and once more as 'dog'", False),
        Note("./images/3.png", "duplicate", "listed as 'dog', and once more as 'dog'", False),
        Note("images/2.png", "missing", "no such file", False),
    )
    drawn = read_images(table, CLASSES, size=4, most=3)
    ages = dict(zip(own.names, own.metadata.age, strict=True))
    assert drawn.metadata.age.tolist() == [ages[name] for name in drawn.names]


def test_columns_of_other_names_are_mapped_and_files_are_found_beside_the_table_or_in_images(tmp_path, table):
    far = save(tmp_path / "far" / "away.png", 70)
    rows = [("5.png", "no", "A", "cat", "a cat"), (far, "no", "", "dog", ""), ("images/4.png", "yes", "B", "dog", "c")]
    path = write_table(tmp_path / "other.csv", "file,label,patient,finding,text", *rows)
    columns = {"path": "file", "label": "finding", "group": "patient", "caption": "text"}
    own = read_images(path, size=4, columns=columns)
    assert own.labels.tolist() == [0, 1, 1] and own.images[:, 0, 0, 0].tolist() == [5, 70, 4]
    assert own.names == ("5.png", str(far), "images/4.png") and own.captions == ("a cat", "", "c")
    assert own.groups.tolist() == ["A", str(far), "B"], "an image without a group is one of its own"
    assert own.metadata.columns.tolist() == ["label"]
    data = own.dataset(np.zeros((0, 4)), np.zeros(0, dtype=int), ("a photo of a {}", "{}"))
    assert data.captions == ("a cat", "a photo of a dog", "c") and data.sources is own.groups


@pytest.mark.parametrize("cells", [("0", "1", "1", "2", "-1", ""), ("0.0", "1.0", "1.0", "2.0", "-1.0", "")])
def test_labels_may_be_indices_into_the_classes(tmp_path, table, cells):
    rows = [(f"images/{at}.png", cell) for at, cell in enumerate(cells)]
    path = write_table(tmp_path / "n.csv", "path,y", *rows)
    own = read_images(path, CLASSES, size=4)
    assert own.labels.tolist() == [0, 1, 1] and own.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert own.notes[0].kind == "other label" and own.notes[0].n_files == 3 and "(empty): 1" in own.notes[0].detail
    with pytest.raises(ValueError, match="classes: expected the names that the numbers"):
        read_images(path, size=4)


def test_classes_may_be_called_by_numbers(tmp_path, table):
    path = write_table(tmp_path / "n.csv", "path,label", ("images/0.png", "1"), ("images/1.png", "0"))
    assert read_images(path, ("1", "0"), size=4).labels.tolist() == [0, 1]


@pytest.mark.parametrize("split, rows", [("val", [1, 4]), (1, [1, 4]), ("train", [0, 3]), ("2", [2, 5]), (None, None)])
def test_wilds_metadata_gives_a_split(tmp_path, table, split, rows):
    listed = [(f"images/{at}.png", at % 2, at % 3, ("land", "water")[at // 3]) for at in range(6)]
    write_table(tmp_path / "metadata.csv", "img_filename,y,split,place", *listed)
    own = read_images(tmp_path, CLASSES, size=4, split=split)
    assert own.images[:, 0, 0, 0].tolist() == (list(range(6)) if rows is None else rows)
    assert own.labels.tolist() == [grey % 2 for grey in own.images[:, 0, 0, 0]]
    assert own.metadata.place.tolist() == [("land", "water")[grey // 3] for grey in own.images[:, 0, 0, 0]]
    with pytest.raises(ValueError, match="split: no row of metadata.csv is in 'other'"):
        read_images(tmp_path, CLASSES, split="other")


def test_splits_may_be_named(tmp_path, table):
    rows = [(f"images/{at}.png", CLASSES[at % 2], ("train", "val")[at // 3]) for at in range(6)]
    path = write_table(tmp_path / "named.csv", "path,label,split", *rows)
    assert read_images(path, size=4, split="val").images[:, 0, 0, 0].tolist() == [3, 4, 5]
    with pytest.raises(ValueError, match="no column 'split'"):
        read_images(table, size=4, split="val")


def test_a_table_that_cannot_be_used_says_why(tmp_path, table):
    def refused(content, match, **more):
        path = tmp_path / "bad.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=match):
            read_images(path, size=4, **more)

    refused("", "bad.csv: expected a header and rows, got 0 lines")
    refused("path,label\n", "bad.csv: expected a header and rows, got 1 lines")
    refused(b"path,label\n\xff.png,cat\n", "bad.csv: expected a table of comma-separated values in UTF-8")
    refused('path,label\n"a.png,cat\n', "bad.csv: expected a table of comma-separated values")
    refused("path,label\na.png,cat\nb.png\n", "bad.csv: expected 2 cells, as in the header, got 1 in row 2")
    refused("path,label,label\na,b,c\n", "bad.csv: expected columns that differ, got 'label' more than once")
    refused("path,labels\na.png,cat\n", "columns: .*bad.csv has no column 'label'; did you mean 'labels'.*say which")
    refused("where,label\na.png,cat\nb.png,dog\n", "has no column 'path'; there are 'where', 'label'; say which")
    refused("path,label\na.png,cat\n", "has no column 'lable'; did you mean 'label'", columns={"label": "lable"})
    refused("path,label\na.png,cat\n", "columns: expected path, .* as keys, got 'paht'", columns={"paht": "path"})
    refused("path,label,boxes\na.png,cat,[[1]\nb.png,dog,\n", r"bad.csv: expected boxes .*got '\[\[1\]' for a.png")
    refused('path,label,boxes\na.png,cat,"[1,2]"\nb.png,dog,\n', "bad.csv: expected boxes")
    refused("path,label\na.png,cat\nb.png,dog\n", r"no readable image of cat, dog; skipped: 2 missing \(a.png")
    refused(
        "path,label\na.png,cat\nb.png,dog\n", "no readable image of ox, hen; .* 2 other label", classes=("ox", "hen")
    )


# ---- boxes ----


@pytest.mark.parametrize("fit", ["squash", "centre"])
def test_boxes_lie_where_the_objects_are_seen(tmp_path, fit):
    boxes = [(20, 10, 40, 30), (12, 4, 34, 18), (30, 20, 50, 40)]
    for at, box in enumerate(boxes):
        saved_with_box(tmp_path / f"{at}.png", box)
    rows = [(f"{at}.png", CLASSES[at % 2], json.dumps([box])) for at, box in enumerate(boxes)]
    own = read_images(write_table(tmp_path / "a.csv", "path,label,boxes", *rows), size=80, fit=fit)
    assert own.image_index.tolist() == [0, 1, 2] and own.boxes.dtype == np.float32 and own.box_names is None
    for at, box in enumerate(own.boxes):
        np.testing.assert_allclose(box, seen_box(own.images[at]), atol=1)
    np.testing.assert_allclose(own.in_files(own.boxes, own.image_index), boxes, atol=1e-4)


def test_boxes_are_clipped_and_those_that_are_nothing_are_counted(tmp_path):
    save(tmp_path / "a.png", width=60, height=40)
    save(tmp_path / "b.png", width=60, height=40)
    boxes = {
        "cut": [-20, 10, 20, 90],
        "whole": [15, 5, 45, 35],
        "outside": [70, 10, 80, 20],
        "empty": [20, 10, 20, 30],
        "backwards": [40, 30, 30, 10],
        "not a number": [float("nan"), 0, 10, 10],
        "endless": [0, 0, float("inf"), 40],
        "thin": [30, 10, 30.2, 30],
        "left of the centre": [0, 0, 10, 40],
    }
    rows = [("a.png", "cat", ""), ("b.png", "dog", json.dumps(list(boxes.values())))]
    path = write_table(tmp_path / "a.csv", "path,label,boxes", *rows)
    squashed, centre = read_images(path, size=40), read_images(path, size=40, fit="centre")
    expected = [[0, 10, 20 / 1.5, 40], [10, 5, 30, 35], [0, 0, 40, 40], [0, 0, 10 / 1.5, 40]]
    np.testing.assert_allclose(squashed.boxes, expected, rtol=1e-6)
    np.testing.assert_allclose(centre.boxes, [[0, 10, 10, 40], [5, 5, 35, 35], [0, 0, 40, 40]], rtol=1e-6)
    assert squashed.image_index.tolist() == [1] * 4 and centre.image_index.tolist() == [1] * 3
    bad = Note("b.png", "bad box", "4 of 9 boxes", True)
    assert squashed.notes == (bad, Note("b.png", "box not shown", "1 of 9 boxes", True))
    assert centre.notes == (bad, Note("b.png", "box not shown", "2 of 9 boxes", True))


def test_a_table_whose_boxes_are_all_empty_has_no_box(tmp_path, table):
    rows = [(f"images/{at}.png", CLASSES[at % 2], "[]") for at in range(2)]
    own = read_images(write_table(tmp_path / "a.csv", "path,label,boxes", *rows), size=4)
    assert own.boxes.shape == (0, 4) and own.image_index.shape == (0,) and own.image_index.dtype == np.int64


# ---- COCO ----


@pytest.fixture
def coco(tmp_path):
    """Cat, dog with a leash, both, a leash alone, a crowd of cats, and a dog with a small cat that is a crowd."""
    for id in range(6):
        save(tmp_path / "images" / f"{id}.png", id, width=60, height=40)
    boxes = [
        (1, "leash", 0, 0, 30, 20, False),
        (0, "cat", 15, 10, 30, 20, False),
        (1, "dog", 30, 10, 60, 30, False),
        (2, "cat", 0, 0, 30, 20, False),
        (2, "dog", 0, 0, 30, 20, False),
        (3, "leash", 0, 0, 30, 20, False),
        (4, "cat", 0, 0, 30, 20, True),
        (5, "dog", 0, 0, 15, 20, False),
        (5, "cat", 0, 0, 30, 20, True),
        (5, "leash", 0, 0, 0, 20, False),
        (5, "leash", 0, 0, 60, 40, False),
    ]
    return write_coco(tmp_path / "annotations.json", {id: f"{id}.png" for id in range(6)}, boxes)


def test_an_image_of_coco_has_the_one_class_that_it_holds(coco):
    own = read_images(coco, CLASSES, size=20)
    assert own.names == ("0.png", "1.png", "5.png") and own.labels.tolist() == [0, 1, 1]
    assert own.images[:, 0, 0, 0].tolist() == [0, 1, 5]
    assert own.image_index.tolist() == [0, 1, 1, 2, 2]
    assert own.box_names == ("cat", "leash", "dog", "dog", "leash")
    expected = [[5, 5, 15, 15], [0, 0, 10, 10], [10, 5, 20, 20], [0, 0, 5, 10], [0, 0, 20, 20]]
    np.testing.assert_allclose(own.boxes, expected, rtol=1e-6)
    assert own.notes == (
        Note("annotations.json", "no class", "none of them: 2", False, 2),
        Note("annotations.json", "several classes", "cat and dog: 1", False, 1),
        Note("5.png", "bad box", "1 of 3 boxes", True),
    )
    assert read_images(coco, ("dog", "cat"), size=20).labels.tolist() == [1, 0, 0]
    assert read_images(coco, ("dog", "leash"), size=20).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "json_name, folder",
    [
        ("a.json", "images"),
        ("a.json", "."),
        ("annotations/instances_val2017.json", "val2017"),
        ("a.json", "images/sub"),
    ],
)
def test_images_of_coco_are_found_where_they_usually_are(tmp_path, json_name, folder):
    names = {id: f"{'sub/' if 'sub' in folder else ''}{id}.png" for id in range(2)}
    for id in names:
        save(tmp_path / folder / f"{id}.png", id)
    boxes = [(0, "cat", 0, 0, 9, 8, False), (1, "dog", 0, 0, 9, 8, False)]
    own = read_images(write_coco(tmp_path / json_name, names, boxes, CLASSES), size=4)
    assert own.class_names == CLASSES and own.images[:, 0, 0, 0].tolist() == [0, 1]
    assert own.names == tuple(names.values())


def test_coco_with_missing_files_and_names_twice_is_read_all_the_same(coco, tmp_path):
    content = json.loads(coco.read_text())
    content["images"] += [{"id": 8, "file_name": "0.png"}, {"id": 9, "file_name": "gone.png"}]
    content["annotations"] += [{"image_id": id, "category_id": 14, "bbox": [0, 0, 9, 9]} for id in (8, 9)]
    coco.write_text(json.dumps(content))
    own = read_images(coco, CLASSES, size=4)
    assert own.labels.tolist() == [0, 1, 1]
    kinds = {note.name: note.kind for note in own.notes if note.name != "annotations.json"}
    assert kinds == {"0.png": "duplicate", "gone.png": "missing", "5.png": "bad box"}


def test_json_that_is_not_coco_is_named(coco, tmp_path):
    with pytest.raises(ValueError, match="classes: .*annotations.json has no category 'cta'; did you mean 'cat'"):
        read_images(coco, ("cta", "dog"))
    whole = json.loads(coco.read_text())
    broken = [
        "{",
        "[]",
        "[" * 100_000,
        "{}",
        json.dumps({**whole, "annotations": [{"image_id": 0, "category_id": 99, "bbox": [0, 0, 1, 1]}]}),
        json.dumps({**whole, "annotations": [{"image_id": 0, "category_id": 7, "bbox": [0, 0, 1]}]}),
        json.dumps({**whole, "annotations": [{"image_id": 0, "category_id": 7, "bbox": "none"}]}),
        json.dumps({**whole, "images": [{"id": [], "file_name": "a.png"}]}),
        json.dumps({**whole, "images": {"id": 3}}),
    ]
    for text in broken:
        coco.write_text(text)
        with pytest.raises(ValueError, match="annotations.json: expected COCO's instances format"):
            read_images(coco, CLASSES)


# ---- arrays and notes ----


def test_arrays_are_taken_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 9, 3), dtype=np.uint8)
    own = from_arrays(images, [0, 1, 1], CLASSES, [[0, 1, 9, 6], [2, 2, 4, 4]], [0, 2], groups=[5, 5, 6])
    assert own.images is images and own.names == ("image 0", "image 1", "image 2") and len(own) == 3
    assert own.sizes.tolist() == [[9, 6]] * 3 and own.groups.tolist() == ["5", "5", "6"]
    np.testing.assert_array_equal(own.in_files(own.boxes, own.image_index), [[0, 1, 9, 6], [2, 2, 4, 4]])
    assert from_arrays(images, [0, 1, 1], CLASSES).boxes is None


@pytest.mark.parametrize(
    "change, match",
    [
        ({"images": np.zeros((3, 6, 9, 3))}, "images: expected"),
        ({"images": np.zeros((3, 6, 9, 4), dtype=np.uint8)}, "images: expected .N, H, W, 3. uint8"),
        ({"images": np.zeros((3, 6, 9, 3), dtype=np.uint16)}, "images: expected .N, H, W, 3. uint8"),
        ({"labels": [0, 1]}, "labels: expected length 3"),
        ({"labels": [0, 1, 2]}, "labels: expected integers from 0 to 1"),
        ({"classes": ("cat",)}, "classes: expected at least two"),
        ({"groups": ["a"]}, "groups: expected length 3"),
        ({"boxes": [[0, 0, 10, 6]], "image_index": [0]}, "boxes: expected boxes within"),
        ({"boxes": [[0, 0, 9, 6]], "image_index": [3]}, "image_index: expected integers from 0 to 2"),
        ({"boxes": [[0, 0, 9, 6]], "image_index": [0, 1]}, "image_index: expected length 1"),
        ({"boxes": [[0, 0, 9, 6]]}, "image_index: expected"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, match):
    whole = {"images": np.zeros((3, 6, 9, 3), dtype=np.uint8), "labels": [0, 1, 1], "classes": CLASSES}
    with pytest.raises(ValueError, match=match):
        from_arrays(**{**whole, **change})


def test_notes_are_counted_by_kind_and_fate():
    notes = [
        Note("a", "huge", "1", True),
        Note("b", "huge", "2", False),
        Note("c", "huge", "3", True),
        Note("d", "other label", "x: 7", False, 7),
    ]
    rows = count_notes(notes).to_dict("records")
    assert [tuple(row.values()) for row in rows] == [
        ("other label", False, 7, "d: x: 7"),
        ("huge", True, 2, "a: 1"),
        ("huge", False, 1, "b: 2"),
    ]
    assert count_notes(()).columns.tolist() == ["kind", "kept", "files", "example"] and len(count_notes(())) == 0
