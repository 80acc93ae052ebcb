"""Descriptions: keywords are read from any answer, and a teacher is asked once, whatever happens to its file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import noise

from ravl_core.language.cached import describe
from ravl_core.language.description import Description, keywords
from ravl_core.language.prompts import Scaffold, background_prompts, object_prompts, with_scaffold
from ravl_core.language.teachers import annotation_teacher, fingerprint, from_function

CLASSES = ("landbird", "waterbird")


class Recorder:
    """A teacher that says how bright an image is, notes what it was asked, and fails on request."""

    def __init__(self, name="recorder", fails_on=None):
        self.name, self.asked, self.fails_on = name, [], fails_on

    def __call__(self, image, class_name):
        brightness = int(image.sum())
        if brightness == self.fails_on:
            raise RuntimeError("out of memory")
        self.asked.append((brightness, class_name))
        return Description(f"{brightness}é, beak", f"ground of {class_name}", (f"{brightness} said",))


def expected(images, labels):
    return [
        ((f"{int(image.sum())}é", "beak"), (f"ground of {CLASSES[label]}",))
        for image, label in zip(images, labels, strict=True)
    ]


def pairs(descriptions):
    return [(one.objects, one.background) for one in descriptions]


@pytest.fixture
def images():
    return noise(5, 8, 6)


@pytest.fixture
def labels():
    return np.array([0, 1, 0, 1, 1])


# ---- keywords ----


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Seagull, pointed beak, streamlined body, webbed feet.", "seagull|pointed beak|streamlined body|webbed feet"),
        ("Mountains; water\ncity. Trees", "mountains|water|city|trees"),
        ("1. Long neck\r\n2. 'Orange bill'\n- white-tipped\n• and legs", "long neck|orange bill|white-tipped|legs"),
        ("water, Water,\n and water, sand, and", "water|sand"),
        ("andean condor, bird's nest", "andean condor|bird's nest"),
        (" . ,\n", ""),
    ],
)  # fmt: skip
def test_keywords_stand_between_commas_full_stops_and_ends_of_lines(text, found):
    assert keywords(text) == tuple(found.split("|") if found else ())


@given(st.lists(st.sampled_from([*"ab1 ,.\n-\"'AİẞΣ\u2028", "and", "And "]), max_size=12))
def test_keywords_are_read_as_themselves_again(parts):
    text = "".join(parts)
    assert keywords(", ".join(keywords(text))) == keywords(text)


def test_a_description_cleans_its_keywords_and_joins_them():
    description = Description(["Gull", "gull. Webbed feet "], "Sea, sky")
    assert description == Description(("gull", "webbed feet"), ("sea", "sky"), raw=("another answer",))
    assert description.texts() == ("gull, webbed feet", "sea, sky")
    assert len({description, Description("gull, webbed feet", "sea, sky")}) == 1


@pytest.mark.parametrize(
    ("objects", "background", "error", "message"),
    [
        ("", "sea", ValueError, r"objects: expected at least one keyword, got \(''"),
        ("gull", [" .", ","], ValueError, r"background: expected at least one keyword, got \(' .'"),
        ("gull", (), ValueError, "background"),
        (["gull", 3], "sea", TypeError, "objects: expected texts, got 3"),
    ],
)
def test_a_description_without_keywords_is_refused(objects, background, error, message):
    with pytest.raises(error, match=message):
        Description(objects, background)


# ---- prompts ----


def test_prompts_ask_for_the_object_and_the_background_apart():
    for turn in object_prompts("fish", "carp"):
        assert "fish" in turn and "Ignore the background" in turn
    for turn in background_prompts("fish"):
        assert "background" in turn and "Ignore the fish" in turn
    assert "carp" in object_prompts("fish", "carp")[1] and "carp" not in object_prompts("fish", "carp")[0]
    assert "None" not in "".join(object_prompts("fish"))


def test_a_scaffold_is_explained_before_the_first_question():
    conversation = background_prompts("bird")
    first, second = with_scaffold(conversation, Scaffold(lambda image: image, rows=4, columns=7))
    assert "4 × 7" in first and '"4,7"' in first and first.endswith(conversation[0])
    assert second == conversation[1] and with_scaffold(conversation, None) == conversation
    with pytest.raises(ValueError, match="columns: expected an integer of 1 or more, got 0"):
        Scaffold(lambda image: image, columns=0)


# ---- teachers ----


def test_annotations_are_found_by_the_image_whatever_its_place(images):
    descriptions = [Description(f"bird {n}", f"place {n}") for n in range(5)]
    teacher = annotation_teacher(images, descriptions)
    order = [3, 0, 3, 4]
    assert describe(teacher, images[order].copy()) == tuple(descriptions[n] for n in order)
    with pytest.raises(LookupError, match="one of the 5 annotated images"):
        describe(teacher, 255 - images)


def test_of_equal_images_the_first_annotation_counts(images):
    one, other = Description("one", "here"), Description("other", "there")
    assert annotation_teacher(images[[2, 2]], [one, other])(images[2], None) is one


def test_other_annotations_have_another_name(images):
    one, other = Description("one", "here"), Description("other", "there")
    names = [
        annotation_teacher(images[:2], [one, other]).name,
        annotation_teacher(images[[1, 0]], [other, one]).name,
        annotation_teacher(images[:2], [other, one]).name,
        annotation_teacher(images[1:3], [one, other]).name,
        annotation_teacher(images[:2], [one, Description("other", "here")]).name,
    ]
    assert names[0] == names[1] and len(set(names)) == 4


def test_annotations_are_one_for_each_image(images):
    with pytest.raises(ValueError, match="descriptions: expected length 5, as images, got length 1"):
        annotation_teacher(images, [Description("one", "here")])


def test_images_of_other_pixels_or_shape_have_other_fingerprints(images):
    changed = images[0].copy()
    changed[7, 5, 2] ^= 1
    different = [*images, changed, images[0].reshape(6, 8, 3), images[0][:, ::-1]]
    assert len({fingerprint(image) for image in different}) == len(different)
    assert fingerprint(np.asfortranarray(images[0])) == fingerprint(images[0])


# ---- asking ----


def test_each_image_gets_its_own_answer_and_equal_ones_are_asked_about_once(images, labels):
    order = [4, 0, 4, 2, 1, 0]
    teacher = Recorder()
    found = describe(teacher, images[order], labels[order], CLASSES)
    assert pairs(found) == expected(images[order], labels[order])
    assert [brightness for brightness, _ in teacher.asked] == [int(images[n].sum()) for n in (4, 0, 2, 1)]


def test_an_image_is_asked_about_again_for_another_class(images):
    teacher = Recorder()
    describe(teacher, images[[0, 0]], np.array([0, 1]), CLASSES)
    describe(teacher, images[:1])
    assert [class_name for _, class_name in teacher.asked] == ["landbird", "waterbird", None]


def test_a_function_is_a_teacher_under_its_name(images):
    teacher = from_function(lambda image, class_name: Description(class_name, "sky"), "by class")
    assert teacher.name == "by class"
    assert describe(teacher, images[:1], np.array([1]), CLASSES) == (Description("waterbird", "sky"),)


def test_no_images_have_no_descriptions(tmp_path):
    assert describe(Recorder(), noise(1)[:0], path=tmp_path / "a.jsonl") == ()
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 8, 8, 3))}, "images: expected uint8"),
        ({"images": np.zeros((2, 8, 8), dtype=np.uint8)}, "images: expected uint8"),
        ({"labels": np.array([0, 2])}, "labels: expected integers from 0 to 1"),
        ({"labels": np.array([0])}, "labels: expected length 2, as images, got length 1"),
    ],
)
def test_other_images_and_labels_are_refused(change, message):
    given = {"images": noise(2, 8, 8), "labels": np.array([0, 1]), "class_names": CLASSES} | change
    with pytest.raises(ValueError, match=message):
        describe(Recorder(), **given)


def test_a_teacher_that_answers_otherwise_is_refused(images):
    with pytest.raises(TypeError, match="teacher: expected a Description, got 'a gull'"):
        describe(from_function(lambda image, class_name: "a gull", "wrong"), images)


# ---- the file ----


@pytest.fixture
def answers(tmp_path, images, labels):
    """A file, in a new folder, that holds the answers about all five images."""
    path = tmp_path / "new" / "answers.jsonl"
    describe(Recorder(), images, labels, CLASSES, path)
    return path


def asked(images, labels, path, name="recorder"):
    """The images that a teacher still has to be asked about, and what it and the file say of all."""
    teacher = Recorder(name)
    found = describe(teacher, images, labels, CLASSES, path)
    brightness = [int(image.sum()) for image in images]
    return [brightness.index(value) for value, _ in teacher.asked], pairs(found)


def test_a_line_says_all_in_words(answers, images):
    lines = answers.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert json.loads(lines[1]) == {
        "image": fingerprint(images[1]),
        "teacher": "recorder",
        "class": "waterbird",
        "objects": [f"{int(images[1].sum())}é", "beak"],
        "background": ["ground of waterbird"],
        "raw": [f"{int(images[1].sum())} said"],
    }
    assert "é" in lines[1]


def test_what_the_file_holds_is_not_asked_and_the_file_stays(answers, images, labels):
    before = answers.read_bytes()
    assert asked(images, labels, answers) == ([], expected(images, labels))
    assert answers.read_bytes() == before
    assert describe(Recorder(), images, labels, CLASSES, str(answers))[2].raw == (f"{int(images[2].sum())} said",)


def test_another_teacher_is_asked_for_itself(answers, images, labels):
    assert asked(images, labels, answers, "another")[0] == [0, 1, 2, 3, 4]
    assert len(answers.read_bytes().splitlines()) == 10


def test_the_last_line_for_an_image_wins_and_may_be_edited(answers, images, labels):
    first = json.loads(answers.read_text(encoding="utf-8").splitlines()[0])
    del first["raw"]
    mended = json.dumps({**first, "objects": ["Mended, by hand"]})
    answers.write_text(answers.read_text(encoding="utf-8") + "\r\n" + mended, encoding="utf-8")  # no newline at its end
    wanted = [(("mended", "by hand"), ("ground of landbird",)), *expected(images, labels)[1:]]
    assert asked(images, labels, answers) == ([], wanted)
    more = np.concatenate([images, noise(1, 8, 6, seed=1)])
    assert asked(more, np.append(labels, 0), answers)[0] == [5]
    assert asked(more, np.append(labels, 0), answers) == ([], [*wanted, *expected(more[5:], [0])])


def test_a_file_cut_anywhere_loses_no_whole_line(answers, images, labels):
    whole = answers.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in [*range(ends[2], ends[3] + 1), 0, 1]:
        answers.write_bytes(whole[:cut])
        n_whole = sum(end - 1 <= cut for end in ends)  # a line that lacks nothing but its newline is whole
        assert asked(images, labels, answers) == (list(range(n_whole, 5)), expected(images, labels)), cut
        assert answers.read_bytes() == whole


@pytest.mark.parametrize("line", [b'{"image": "a", ', b"[1]", b"3", b"{}", b"\xff", None])
def test_a_line_that_is_no_answer_is_named(answers, images, labels, line):
    lines = answers.read_bytes().splitlines()
    if line is None:
        line = json.dumps({**json.loads(lines[2]), "background": []}).encode()
    answers.write_bytes(b"\n".join([*lines[:2], line, *lines[3:], b""]))
    before = answers.read_bytes()
    with pytest.raises(ValueError, match=r"answers.jsonl, line 3: expected an answer"):
        describe(Recorder(), images, labels, CLASSES, answers)
    assert answers.read_bytes() == before


def test_a_failure_names_the_image_and_keeps_what_was_answered(tmp_path, images, labels):
    path = tmp_path / "answers.jsonl"
    failing = Recorder(fails_on=int(images[3].sum()))
    with pytest.raises(RuntimeError, match="out of memory") as failure:
        describe(failing, images, labels, CLASSES, path)
    assert failure.value.__notes__ == ["teacher 'recorder' was asked about image 3, class 'waterbird'"]
    assert len(path.read_bytes().splitlines()) == 3
    assert asked(images, labels, path) == ([3, 4], expected(images, labels))


def test_an_answer_is_in_the_file_before_the_next_question(tmp_path, images):
    path, n_lines = tmp_path / "answers.jsonl", []

    def count(image, class_name):
        n_lines.append(len(path.read_bytes().splitlines()))
        return Description("gull", "sea")

    describe(from_function(count, "counts lines"), images, path=path)
    assert n_lines == [0, 1, 2, 3, 4]
