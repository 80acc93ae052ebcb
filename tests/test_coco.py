"""Whole photographs of COCO: what is read, which photographs are drawn, and what their boxes show."""

import json
from dataclasses import replace

import numpy as np
import pytest
from coco_made_here import CATEGORIES, LAYOUTS, photographs_of_all_kinds, write_coco_folder

from ravl_core.domains import load_domain
from ravl_core.domains.coco import CAPTION, CLASSES, SHARES, SMALLEST, Coco
from ravl_core.domains.coco_folder import find_coco_folder, read_coco_folder
from ravl_core.domains.coverage import ranges, shows
from ravl_core.mitigation.budget import Budget
from ravl_core.settings import Setting, build_setting
from ravl_core.tasks import Task, run_task

N_EACH = 24  # photographs of each class with a chair, and as many without
IN_SPLIT = {"pretraining": 0, "finetuning": 12, "val": 6, "test": 6}
TWO = {7: ([("chair", 10, 20, 30, 40), ("tv", 0, 0, 12, 8)], ("a chair",)), 3: ([("tv", 60, 40, 60, 40)], ())}
# About what some 2,000 photographs, most of them of val2017, have enough images for.
REAL = Setting(
    domain="coco", feature="chair", attribute=0, strength=0.9, n_finetuning=105, n_val=48, n_test=48, initial="rn-mini"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp("coco"), photographs_of_all_kinds(N_EACH))


@pytest.fixture(scope="module")
def domain(folder):
    return Coco(folder=folder)


@pytest.fixture(scope="module")
def real():
    """What RAVL_DATA holds of COCO."""
    try:
        return read_coco_folder(find_coco_folder())
    except FileNotFoundError as error:
        pytest.skip(str(error))


def compose(domain, split="val", seed=0, n_each=4):
    """`n_each` photographs of every class with a chair and as many without, in turn."""
    labels, present = np.repeat([0, 1, 2], 2 * n_each), np.tile([True, False], 3 * n_each)
    return domain.compose(split, labels, present, seed, "chair")


def spoil(folder, change, file="annotations.json"):
    """Let `change` alter a file's content, then read the folder."""
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return read_coco_folder(folder)


# ---- the folder ----


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_read_in_every_layout(tmp_path, layout):
    coco = read_coco_folder(write_coco_folder(tmp_path, TWO, layout))
    assert coco.image_ids.tolist() == [3, 7] and coco.image_sizes.tolist() == [[120, 80]] * 2
    assert [path.name for path in coco.image_paths] == ["3.png", "7.png"]
    assert all(path.is_file() for path in coco.image_paths)
    assert coco.boxes.tolist() == [[60, 40, 120, 80], [10, 20, 40, 60], [0, 0, 12, 8]]
    assert coco.box_image.tolist() == [0, 1, 1] and not coco.is_crowd.any()
    assert [coco.categories[category] for category in coco.box_category] == ["tv", "chair", "tv"]
    assert coco.captions == ((), ("a chair",)) and coco.categories == CATEGORIES
    assert coco.licenses.tolist() == [4, 4] and coco.credits == ("flickr/3", "flickr/7")
    assert coco.n_dropped_boxes == 0


def test_parts_are_joined_and_a_part_without_images_is_left_out(tmp_path):
    for layout, id in (("train2017", 7), ("val2017", 3)):
        write_coco_folder(tmp_path / "both", {id: TWO[id]}, layout)
        write_coco_folder(tmp_path / "one", {id: TWO[id]}, layout)
    (tmp_path / "one/train2017/7.png").unlink()
    (tmp_path / "one/train2017").rmdir()
    both, one = (read_coco_folder(tmp_path / name) for name in ("both", "one"))
    assert both.image_ids.tolist() == [3, 7] and both.box_image.tolist() == [0, 1, 1]
    assert both.captions == ((), ("a chair",))
    assert one.image_ids.tolist() == [3] and len(one.boxes) == 1


def test_captions_may_be_missing(tmp_path):
    coco = read_coco_folder(write_coco_folder(tmp_path, {3: ([("tv", 0, 0, 9, 9)], None)}))
    assert coco.captions == ((),)


def test_boxes_are_clipped_and_those_without_area_dropped_and_counted(tmp_path):
    boxes = [(100, 60, 40, 40), (130, 10, 20, 20), (10, 10, 0, 20), (-9, -9, 9, 9), (10, 10, -5, 5), (-5, 5, 10, 10)]
    coco = read_coco_folder(write_coco_folder(tmp_path, {1: ([("tv", *box) for box in boxes], ())}))
    assert coco.boxes.tolist() == [[100, 60, 120, 80], [0, 5, 5, 15]] and coco.n_dropped_boxes == 4


def test_crowds_are_told_apart(tmp_path):
    write_coco_folder(tmp_path, TWO)
    coco = spoil(tmp_path, lambda content: content["annotations"][1].update(iscrowd=1))
    assert coco.is_crowd.tolist() == [False, False, True]


def test_the_folder_is_found_in_the_place_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("RAVL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="coco_subset is there; download val2017.zip"):
        read_coco_folder()
    write_coco_folder(tmp_path / "coco_subset", {3: TWO[3]})
    assert read_coco_folder().image_ids.tolist() == [3]
    write_coco_folder(tmp_path / "coco", {7: TWO[7]})
    assert read_coco_folder().image_ids.tolist() == [7]


def test_without_a_folder_the_domain_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("RAVL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="RAVL_DATA is not set; download val2017.zip"):
        compose(load_domain("coco"))
    with pytest.raises(FileNotFoundError, match="is no COCO folder: expected annotations.json"):
        compose(Coco(folder=tmp_path))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda content: content.pop("images"), "expected COCO's instances format, KeyError.'images'"),
        (lambda content: content["annotations"][0].pop("bbox"), "expected COCO's instances format, KeyError.'bbox'"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3]), "expected COCO's instances format"),
        (lambda content: content["annotations"][0].update(image_id=99), r"boxes of images .* ids \[99.0\]"),
        (lambda content: content["annotations"][0].update(category_id=1), r"boxes of categories .* ids \[1.0\]"),
    ],
)
def test_a_file_in_another_format_is_named(tmp_path, change, problem):
    write_coco_folder(tmp_path, TWO)
    with pytest.raises(ValueError, match=f"annotations.json: {problem}"):
        spoil(tmp_path, change)


def test_bad_captions_and_broken_json_are_named(tmp_path):
    write_coco_folder(tmp_path, TWO)
    with pytest.raises(ValueError, match="captions.json: expected COCO's captions format"):
        spoil(tmp_path, lambda content: content["annotations"][0].update(caption=None), "captions.json")
    (tmp_path / "captions.json").write_text('{"annotations": [')
    with pytest.raises(ValueError, match="captions.json: expected JSON"):
        read_coco_folder(tmp_path)


def test_a_missing_image_is_named(tmp_path):
    write_coco_folder(tmp_path, TWO)
    (tmp_path / "images/7.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"an image that is not there: .*images.7.png"):
        read_coco_folder(tmp_path)


def test_an_unreadable_image_is_named(tmp_path):
    write_coco_folder(tmp_path, photographs_of_all_kinds(N_EACH))
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"images.\d+.png: expected a photograph that can be read"):
        compose(Coco(folder=tmp_path))


# ---- when a box shows something ----


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ((0, 0, 50, 100), True),  # half of the box is covered
        ((0, 0, 50, 20), True),  # lies in it and fills a tenth
        ((0, 0, 25, 39), False),  # lies in it and fills less than a tenth
        ((0, 0, 25, 41), True),
        ((80, 0, 130, 100), False),  # two fifths of the target lie in it
        ((70, 0, 130, 100), True),
        ((60, 60, 400, 400), False),  # neither's half
        ((-100, -100, 300, 300), True),
        ((200, 0, 250, 50), False),
    ],
)
def test_a_box_shows_what_covers_half_of_it_or_fills_a_tenth(target, shown):
    box = np.array([[0, 0, 100, 100]])
    assert shows(box, np.array([0]), np.array([target]), np.array([0])).tolist() == [shown]


def test_only_targets_of_the_same_image_count():
    boxes, image_index = np.tile([[0, 0, 10, 10]], (5, 1)), np.array([0, 0, 1, 3, 3])
    targets, target_image = np.array([[0, 0, 9, 9], [50, 50, 60, 60], [0, 0, 10, 10]]), np.array([3, 0, 2])
    assert shows(boxes, image_index, targets, target_image).tolist() == [False, False, False, True, True]
    assert shows(boxes, image_index, targets[:0], target_image[:0]).tolist() == [False] * 5
    assert shows(boxes[:0], image_index[:0], targets, target_image).shape == (0,)
    assert ranges(np.array([5, 1, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]


# ---- the domain ----


def test_each_split_has_its_share_of_every_cell(domain):
    for split, expected in IN_SPLIT.items():
        assert domain.available(split, "chair").tolist() == [[expected, expected]] * 3
    assert list(IN_SPLIT) == list(SHARES)


def test_every_photograph_is_drawn_once_and_the_splits_share_none(domain):
    used = [compose(domain, split, n_each=n).sources.tolist() for split, n in IN_SPLIT.items()]
    drawn = sum(used, [])
    assert len(drawn) == 6 * N_EACH and len(set(drawn)) == len(drawn)


def test_the_splits_are_the_same_for_every_seed_and_the_draws_are_not(domain):
    one, other = (compose(domain, seed=seed, n_each=6).sources for seed in (0, 1))
    assert set(one) == set(other) and one.tolist() != other.tolist()
    assert set(compose(domain, seed=0).sources) != set(compose(domain, seed=1).sources)


def test_the_same_seed_gives_the_same_bytes(domain):
    one, other = compose(domain), compose(domain)
    assert one.images.tobytes() == other.images.tobytes() and one.boxes.tobytes() == other.boxes.tobytes()
    assert (one.captions, one.box_names) == (other.captions, other.box_names)


def test_photographs_hold_their_class_and_the_feature_where_asked(domain, folder):
    data, photographs = compose(domain), photographs_of_all_kinds(N_EACH)
    for row, source in enumerate(data.sources):
        held = {name for name, *_ in photographs[source][0]}
        assert held & set(sum(CLASSES.values(), ())) <= set(CLASSES[data.class_names[data.labels[row]]])
        assert ("chair" in held) == data.feature_present[row]
        assert (data.images[row] == source % 256).all()
    assert data.images.shape == (24, 224, 224, 3) and data.images.dtype == np.uint8


def test_boxes_are_scaled_with_the_photograph_and_show_their_category(domain):
    data = compose(replace(domain, image_size=112))
    assert data.images.shape[1:3] == (112, 112)
    assert (np.bincount(data.image_index) == 2 + data.feature_present).all()
    names, labels = np.array(data.box_names), data.labels[data.image_index]
    chairs = data.boxes[names == "chair"]
    np.testing.assert_allclose(chairs, [[70 / 120 * 112, 28, 110 / 120 * 112, 112]] * len(chairs), rtol=1e-6)
    assert (data.shows_feature == (names == "chair")).all()
    assert (data.shows_core == np.isin(names, ["dining table", "umbrella", "laptop"])).all()
    shown = [set(names[data.shows_core & (labels == label)]) for label in range(3)]
    assert shown == [{"dining table"}, {"umbrella"}, {"laptop"}]


def test_cells_of_a_grid_show_what_lies_in_them(domain):
    data = compose(replace(domain, regions="grid"))
    assert set(data.box_names) == {""} and (np.bincount(data.image_index) == 9).all()
    tables = np.flatnonzero((data.labels == 0) & data.feature_present)
    core, chair = data.shows_core.reshape(-1, 9)[tables], data.shows_feature.reshape(-1, 9)[tables]
    assert (core == [0, 0, 0, 1, 1, 0, 1, 1, 0]).all()  # the lower two rows, but for the last column
    assert (chair == [0, 0, 0, 0, 0, 1, 0, 0, 1]).all()
    assert not data.shows_feature.reshape(-1, 9)[~data.feature_present].any()


def test_a_photograph_with_one_box_gets_quadrants_besides(tmp_path):
    photographs = {id: ([("tv", 0, 0, 50, 40)], ()) for id in range(8)}
    data = Coco(folder=write_coco_folder(tmp_path, photographs)).compose(
        "val", np.array([2, 2]), np.array([False, False]), 0, "chair"
    )
    assert data.image_index.tolist() == [0] * 5 + [1] * 5 and data.box_names == ("tv", "", "", "", "") * 2
    assert data.shows_core.tolist() == [True, True, False, False, False] * 2
    assert (data.boxes[1:5] == [[0, 0, 112, 112], [112, 0, 224, 112], [0, 112, 112, 224], [112, 112, 224, 224]]).all()


def test_two_classes_or_a_small_feature_leave_a_photograph_out(tmp_path):
    side = (SMALLEST * 120 * 80) ** 0.5
    table, speck, just = ("dining table", 0, 40, 90, 40), (0, 0, side - 0.1, side), (0, 0, side + 0.1, side)
    kinds = [
        ([table], [1, 0]),
        ([table, ("tv", *speck)], [1, 0]),  # too small to make it ambiguous
        ([table, ("tv", *just)], [0, 0]),
        ([table, ("chair", *just)], [0, 1]),
        ([table, ("chair", *speck)], [0, 0]),  # neither with nor without a chair
        ([("tv", *speck)], [0, 0]),
    ]
    for place, (objects, expected) in enumerate(kinds):
        photographs = {id: (objects, ()) for id in range(4)}
        coco = Coco(folder=write_coco_folder(tmp_path / str(place), photographs))
        n_val = coco.available("val", "chair")
        assert n_val.tolist() == [expected, [0, 0], [0, 0]]


def test_captions_are_the_photographs_own_and_name_the_class(domain, tmp_path):
    data = compose(domain)
    for caption, label in zip(data.captions, data.labels, strict=True):
        name = data.class_names[label]
        own = {"one person and one dining table."} if label == 0 else None  # the only caption that names it
        others = {"one person and one umbrella", "one person and one laptop", "somebody"}
        assert caption in (own or {f"{text}, {CAPTION.format(name)}" for text in others})
    silent = {id: (held, ()) for id, (held, _) in photographs_of_all_kinds(N_EACH).items()}
    data = compose(Coco(folder=write_coco_folder(tmp_path, silent)))
    assert set(data.captions) == {CAPTION.format(name) for name in data.class_names}


def test_other_classes_and_features_can_be_chosen(folder):
    domain = Coco(classes={"table": ("dining table",), "laptop": ("laptop",)}, features=("person",), folder=folder)
    data = domain.compose("test", np.array([0, 1, 1]), np.array([True] * 3), 0, "person")
    assert data.class_names == domain.class_names == ("table", "laptop")
    assert data.shows_feature.sum() == 3 and data.shows_core.sum() == 3


def test_cells_with_too_few_photographs_are_listed(domain):
    labels, present = np.repeat([0, 1, 2], [7, 6, 9]), np.repeat([True, False, True], [7, 7, 8])
    with pytest.raises(ValueError, match="too few photographs for the val split") as caught:
        domain.compose("val", labels, present, 0, "chair")
    assert str(caught.value).endswith(
        "(dining table with chair: 7 wanted, 6 there; electronic device with chair: 8 wanted, 6 there)"
    )
    with pytest.raises(ValueError, match="pretraining split .*: 1 wanted, 0 there"):
        compose(domain, "pretraining", n_each=1)


def test_a_setting_that_asks_for_too_many_photographs_says_which(folder, monkeypatch):
    monkeypatch.setattr("ravl_core.settings.load_domain", lambda name: Coco(folder=folder))
    data = build_setting(replace(REAL, n_finetuning=36, n_val=36, n_test=36, strength=0.88))
    assert len(data.finetuning) == 36 and abs(data.reached_strength - 0.88) < 0.01
    with pytest.raises(ValueError, match="too few photographs for the finetuning split .dining table with chair: "):
        build_setting(REAL)


@pytest.mark.parametrize(
    ("options", "arguments", "problem"),
    [
        ({}, {"split": "tests"}, "split: expected one of .* did you mean 'test'"),
        ({}, {"feature": "chairs"}, "feature: expected one of 'chair', got 'chairs'"),
        ({}, {"labels": np.array([3])}, "labels: expected integers from 0 to 2"),
        ({}, {"feature_present": np.array([True, True])}, "feature_present: expected length 1"),
        ({"regions": "rpn"}, {}, "regions: expected one of 'objects', 'grid', got 'rpn'"),
        ({"classes": {"mug": ("cups",)}}, {}, "category: expected one of .* got 'cups'"),
    ],
)
def test_bad_arguments_are_named(domain, options, arguments, problem):
    good = {"split": "val", "labels": np.array([0]), "feature_present": np.array([True]), "seed": 0, "feature": "chair"}
    with pytest.raises(ValueError, match=problem):
        replace(domain, **options).compose(**good | arguments)


def test_no_image_is_a_dataset_too(domain):
    data = compose(domain, n_each=0)
    assert len(data) == 0 and data.images.shape == (0, 224, 224, 3) and data.boxes.shape == (0, 4)


# ---- on COCO itself, where there is some ----


def test_the_real_folder_is_whole(real):
    assert len(real.categories) == 80 and "person" in real.categories
    assert (real.boxes[:, :2] < real.boxes[:, 2:]).all() and (np.diff(real.box_image) >= 0).all()
    assert (real.boxes[:, 2:] <= real.image_sizes[real.box_image]).all() and (real.boxes >= 0).all()


@pytest.mark.parametrize(("strength", "n_finetuning"), [(0.0, 96), (0.8, 111), (0.9, 105)])
def test_a_setting_of_real_photographs_is_built(real, strength, n_finetuning):
    data = build_setting(replace(REAL, strength=strength, n_finetuning=n_finetuning))
    assert abs(data.reached_strength - strength) <= 0.01
    sources = np.concatenate([data.finetuning.sources, data.val.sources, data.test.sources])
    assert len(set(sources)) == len(sources) == n_finetuning + 96
    cells = 2 * data.val.labels + data.val.feature_present
    assert np.bincount(cells).tolist() == [8] * 6
    shown = np.bincount(data.val.image_index, weights=data.val.shows_feature) > 0
    assert (shown == data.val.feature_present).all()
    assert (np.bincount(data.val.image_index, weights=data.val.shows_core) > 0).all()


def test_a_task_on_real_photographs_ends_with_its_metrics(real):
    metrics = run_task(Task(replace(REAL, n_val=24, n_test=24), Budget(epochs=1, batch_size=32)))
    assert {"margin", "initial", "standard", "discovery"} <= metrics.keys()
    assert np.isfinite(metrics["standard"]["final_loss"])
    assert np.sum(metrics["standard"]["groups"]["image_count"]) == 24
    assert metrics["discovery"]["n_clusters"] >= 2
