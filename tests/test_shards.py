"""Embeddings on disk: those of the model, in parts that are made once, whatever happens between them."""

import json
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny import VIT, noise, ragged_boxes, tiny_vlm

import ravl_core as rc
from ravl_core.checkpoints import save_vlm
from ravl_core.domains.dataset import Dataset
from ravl_core.shards import encode_to_disk, image_parts, read_shards

CLASSES, TEMPLATES = ("cat", "dog", "owl"), ("a {}", "one {}")
COUNTS = ([2, 0, 3, 1], [0, 0], [5, 1, 2], [1])  # regions of each image of four parts
DRIVER = "import sys; from test_shards import encode_half; encode_half(*sys.argv[1:])"


def part(number, counts):
    n = len(counts)
    boxes, index = ragged_boxes(counts, seed=number)
    labels, names = np.arange(n) % 3, np.array([f"{number} {'x' * row}" for row in range(n)])
    return Dataset(noise(n, seed=number), labels, ("",) * n, CLASSES, TEMPLATES, boxes, index, sources=names)


def parts(counts=COUNTS):
    return (part(number, own) for number, own in enumerate(counts))


def joined(sets):
    """The parts as one set."""
    sets = list(sets)
    starts = np.cumsum([0, *map(len, sets)])
    arrays = {name: np.concatenate([getattr(one, name) for one in sets]) for name in ("images", "labels", "boxes")}
    index = np.concatenate([one.image_index + start for one, start in zip(sets, starts, strict=False)])
    return replace(sets[0], **arrays, image_index=index, captions=("",) * len(arrays["images"]))


@pytest.fixture
def vlm():
    return tiny_vlm()


@pytest.fixture
def passes(vlm):
    """How many images went through the tower at each pass."""
    seen = []
    vlm.clip.visual.layer1.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    return seen


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.np?")}


# ---- what is read ----


@pytest.mark.parametrize("dtype, tolerance", [("float16", 1e-3), ("float32", 1e-5)])
@pytest.mark.parametrize("pooling", ["early", "crop", "patches"])
def test_what_is_read_is_what_the_model_gives(tmp_path, pooling, dtype, tolerance):
    vlm = tiny_vlm(pooling, tower=VIT) if pooling == "patches" else tiny_vlm(pooling)
    shards = encode_to_disk(vlm, parts(), tmp_path, dtype=dtype)
    expected = rc.evaluate(vlm, joined(parts()))
    for name in ("image_embeddings", "region_embeddings", "image_probs", "region_probs", "boxes"):
        found = getattr(shards, name)
        assert isinstance(found, np.memmap)
        np.testing.assert_allclose(found, getattr(expected, name), atol=tolerance)
    assert shards.image_embeddings.dtype == shards.region_embeddings.dtype == dtype
    assert np.array_equal(shards.image_index, expected.image_index) and np.array_equal(shards.labels, expected.labels)
    assert (shards.class_names, shards.model, shards.notes) == (CLASSES, "tiny", ())
    assert shards.sources.tolist() == [name for one in parts() for name in one.sources]
    np.testing.assert_array_equal(shards.predictions, expected.predictions)


def test_discovery_takes_it_as_it_is(tmp_path, vlm):
    counts = [[4] * 10] * 3
    shards = encode_to_disk(vlm, parts(counts), tmp_path, dtype="float32")
    found = rc.discover(shards, candidates=[4, 5])
    assert found.clustering.labels.shape == (120,)
    expected = rc.discover(rc.evaluate(vlm, joined(parts(counts))), candidates=[4, 5])
    assert np.array_equal(found.clustering.labels, expected.clustering.labels)


def test_parts_without_labels_and_regions_are_asked_what_is_given(tmp_path, vlm):
    empty = SimpleNamespace(images=noise(2), boxes=np.empty((0, 4)), image_index=[])
    with pytest.raises(ValueError, match="class_names: expected some, given or in the first part"):
        encode_to_disk(vlm, [empty], tmp_path)
    shards = encode_to_disk(vlm, [empty], tmp_path, class_names=CLASSES, templates=TEMPLATES)
    assert shards.labels is None and shards.sources is None
    assert shards.region_embeddings.shape == (0, 16) and shards.region_probs.shape == (0, 3)
    assert shards.image_probs.shape == (2, 3)


def test_bfloat16_is_near_and_of_length_one(tmp_path, vlm):
    shards = encode_to_disk(vlm, parts(), tmp_path, precision="bfloat16")
    whole, regions = vlm.encode(joined(parts()).images, shards.boxes, shards.image_index)
    assert (whole * shards.image_embeddings).sum(axis=1).min() > 0.99
    assert (regions * shards.region_embeddings).sum(axis=1).min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(np.float32(shards.region_embeddings), axis=1), 1, atol=1e-3)


# ---- what is made once ----


def test_a_finished_folder_is_reused_without_a_pass_and_changes_no_file(tmp_path, vlm, passes):
    encode_to_disk(vlm, parts(), tmp_path)
    before, stamps = contents(tmp_path), [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.np?"))]
    assert passes == [4, 2, 3, 1]
    encode_to_disk(vlm, parts(), tmp_path)
    assert passes == [4, 2, 3, 1] and contents(tmp_path) == before
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.np?"))] == stamps


def test_changed_images_are_encoded_again_and_what_was_made_of_the_old_ones_goes(tmp_path, vlm, passes):
    encode_to_disk(vlm, parts(), tmp_path)
    changed = [part(number + 7 * (number == 2), counts) for number, counts in enumerate(COUNTS)]
    shards = encode_to_disk(vlm, changed, tmp_path)
    assert passes[4:] == [3] and len(list((tmp_path / "shards").iterdir())) == 4
    whole, _ = vlm.encode(changed[2].images, changed[2].boxes, changed[2].image_index)
    np.testing.assert_allclose(shards.image_embeddings[6:9], whole, atol=1e-3)


@pytest.mark.parametrize("change", ["weight", "statistic", "pooling", "precision", "dtype", "boxes"])
def test_whatever_decides_the_embeddings_is_noticed(tmp_path, vlm, passes, change):
    encode_to_disk(vlm, parts(), tmp_path)
    options, again = {}, parts()
    if change == "weight":
        vlm.clip.visual.layer4[0].conv1.weight.data[-1, -1, -1, -1] += 1e-3
    elif change == "statistic":
        vlm.clip.visual.layer1[0].bn1.running_mean[0] += 1e-3
    elif change == "pooling":
        vlm.pooling = "late"
    elif change == "boxes":
        again = (replace(one, boxes=one.boxes * 0.99) for one in again)
    else:
        options = {"precision": "bfloat16"} if change == "precision" else {"dtype": "float32"}
    encode_to_disk(vlm, again, tmp_path, **options)
    # the part without a region has the same boxes as before, none
    assert passes[4:] == ([4, 3, 1] if change == "boxes" else [4, 2, 3, 1])


def test_other_prompts_need_no_pass(tmp_path, vlm, passes):
    before = encode_to_disk(vlm, parts(), tmp_path)
    after = encode_to_disk(vlm, parts(), tmp_path, class_names=("red", "green", "blue", "grey"))
    assert len(passes) == 4 and after.image_probs.shape == (10, 4) and before.image_probs.shape == (10, 3)
    assert np.array_equal(before.image_embeddings, after.image_embeddings)


# ---- interruptions and damage ----


def encode_half(model, folder):
    """In a process of its own: encode two parts, say so, and wait for the third until it is killed."""

    def with_a_stop():
        yield from parts(COUNTS[:2])
        print("two parts", flush=True)
        sys.stdin.read()

    encode_to_disk(rc.load_vlm(model), with_a_stop(), folder)


def test_what_was_made_before_a_kill_is_not_made_again(tmp_path):
    model, passes = save_vlm(tiny_vlm(), tmp_path / "model"), []
    vlm = rc.load_vlm(f"local-dir:{model}")
    vlm.clip.visual.layer1.register_forward_hook(lambda *call: passes.append(len(call[1][0])))
    here = Path(__file__).parent
    environment = os.environ | {"RAVL_PROGRESS": "off", "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])}
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, f"local-dir:{model}", str(tmp_path / "made")],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "two parts\n"
        with pytest.raises(BlockingIOError, match="another process is encoding into"):
            encode_to_disk(vlm, parts(), tmp_path / "made")
        with pytest.raises(FileNotFoundError, match="holds nothing whole"):
            read_shards(tmp_path / "made")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    resumed, before = encode_to_disk(vlm, parts(), tmp_path / "made"), contents(tmp_path / "made")
    assert passes == [3, 1]  # of the parts that were left
    encode_to_disk(vlm, parts(), tmp_path / "at once")
    assert before == contents(tmp_path / "at once") and len(resumed.labels) == 10


@pytest.mark.parametrize("damage", ["a byte", "cut short", "empty"])
def test_a_damaged_shard_is_named_and_made_again(tmp_path, vlm, passes, damage):
    encode_to_disk(vlm, parts(), tmp_path)
    before = contents(tmp_path)
    path = max((tmp_path / "shards").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes({"a byte": content, "cut short": content[:-100], "empty": b""}[damage])
    with pytest.warns(UserWarning, match=f"{path.name} is damaged and will be made again"):
        encode_to_disk(vlm, parts(), tmp_path)
    assert passes[4:] == [3] or passes[4:] == [4]
    assert contents(tmp_path) == before


def test_damaged_arrays_are_written_again(tmp_path, vlm, passes):
    encode_to_disk(vlm, parts(), tmp_path)
    before = contents(tmp_path)
    path = tmp_path / "arrays" / "region_embeddings.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ValueError, match="region_embeddings.npy: expected an array that encode_to_disk wrote"):
        read_shards(tmp_path)
    path.write_bytes(before["arrays/region_embeddings.npy"][:-1] + b"\x00")
    encode_to_disk(vlm, parts(), tmp_path)
    assert contents(tmp_path) == before and len(passes) == 4
    np.save(path, np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected <f2 of shape \(15, 16\), got <f8 of shape \(2, 3\)"):
        read_shards(tmp_path)


def test_a_failure_while_joining_leaves_what_was_there(tmp_path, vlm, monkeypatch):
    encode_to_disk(vlm, parts(), tmp_path)
    before = contents(tmp_path / "arrays")
    with monkeypatch.context() as patch:
        patch.setattr("ravl_core.shards.class_probabilities", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_to_disk(vlm, parts(COUNTS[:2]), tmp_path)
    assert contents(tmp_path / "arrays") == before and len(read_shards(tmp_path).labels) == 10
    assert [path.name for path in (tmp_path).iterdir() if path.name.endswith(".tmp")] == []


# ---- memory ----


@pytest.mark.parametrize("progress", ["off", "on"])
def test_one_part_is_in_memory_at_a_time(tmp_path, vlm, monkeypatch, progress):
    monkeypatch.setenv("RAVL_PROGRESS", progress)
    alive, most = weakref.WeakSet(), []

    class Part:
        def __init__(self, number):
            most.append(len(alive))
            alive.add(self)
            self.__dict__.update(vars(part(number, [1])))

    encode_to_disk(vlm, map(Part, range(5)), tmp_path)
    assert most == [0] * 5 and len(alive) == 0


# ---- parts that do not fit ----


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": None}, "parts: expected all to hold the same, got some without labels"),
        ({"labels": np.array([0, 3])}, "labels: expected integers from 0 to 2"),
        ({"labels": np.array([0])}, "labels: expected length 2, as images"),
        ({"images": np.zeros((2, 8, 8, 3))}, "images: expected uint8"),
        ({"boxes": np.float32([[0, 0, 65, 10]]), "image_index": np.array([0])}, "boxes: expected boxes within"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(tmp_path, vlm, change, message):
    with pytest.raises(ValueError, match=message):
        encode_to_disk(vlm, [part(0, COUNTS[0]), replace(part(1, COUNTS[1]), **change)], tmp_path)
    with pytest.raises(FileNotFoundError):
        read_shards(tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"dtype": "float61"}, "dtype: expected one of 'float16', 'float32', got 'float61'; did you mean 'float16'"),
        ({"precision": "bfloat"}, "precision: expected one of .*; did you mean 'bfloat16'"),
        ({"temperature": 0}, "temperature: expected"),
        ({"files_at_a_time": 3}, "reading: expected a source of files"),
        ({"parts": []}, "parts: expected one at least, got none"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, vlm, options, message):
    with pytest.raises(ValueError, match=message):
        encode_to_disk(vlm, **{"parts": parts(), "folder": tmp_path} | options)


# ---- files ----


def save_images(folder, broken=()):
    for number in range(9):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1, 40, 50, seed=number)[0]).save(path)
        if number in broken:
            path.write_bytes(b"no image")
    return folder


def test_files_are_read_a_part_at_a_time_and_what_is_skipped_is_said(tmp_path, vlm, passes):
    source = save_images(tmp_path / "photos", broken=(3, 4))
    (source / "cat" / "notes.txt").write_text("no image")
    shards = encode_to_disk(vlm, source, tmp_path / "made", files_at_a_time=4, templates=TEMPLATES)
    own = rc.read_images(source, size=64)
    expected = rc.evaluate(vlm, own.dataset(shards.boxes, shards.image_index, TEMPLATES))
    assert passes[:3] == [3, 3, 1]  # of 4, 4 and 1 files
    np.testing.assert_allclose(shards.region_embeddings, expected.region_embeddings, atol=1e-3)
    assert np.array_equal(shards.labels, own.labels) and tuple(shards.sources) == own.names
    assert shards.notes == own.notes and {note.name for note in shards.notes} == {"photos", "cat/4.png", "dog/3.png"}
    assert len(shards.boxes) == 4 * 7 and shards.class_names == ("cat", "dog")
    assert read_shards(tmp_path / "made").notes == shards.notes


def test_boxes_of_the_files_come_along(tmp_path, vlm):
    save_images(tmp_path, broken=(2, 3))
    rows = ["path,label,boxes"]
    for number in range(9):
        boxes = json.dumps([] if number in (4, 5) else [[0, 0, 10 + number, 20], [5, 5, 50, 40]])
        rows.append(f'{("cat", "dog")[number % 2]}/{number}.png,{("cat", "dog")[number % 2]},"{boxes}"')
    (tmp_path / "table.csv").write_text("\n".join(rows))
    shards = encode_to_disk(vlm, tmp_path / "table.csv", tmp_path / "made", files_at_a_time=2)
    own = rc.read_images(tmp_path / "table.csv", size=64)
    assert np.array_equal(shards.boxes, own.boxes) and np.array_equal(shards.image_index, own.image_index)
    whole, regions = vlm.encode(own.images, own.boxes, own.image_index)
    np.testing.assert_allclose(shards.region_embeddings, regions, atol=1e-3)
    read = image_parts(tmp_path / "table.csv", 64, files_at_a_time=2)
    for _ in range(2):  # notes of a second reading replace those of the first
        assert len(list(read)) == len(read) == 5 and tuple(read.notes) == own.notes
