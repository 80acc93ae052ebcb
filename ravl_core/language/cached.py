"""Answers of teachers, kept in a file that a person can read, mend and ship.

A line of JSON for each answer:

    {"image": SHA-256, "teacher": name, "class": name or null, "objects": […], "background": […], "raw": […]}

Of lines for the same image, teacher and class the last one counts. Each answer is written as soon as it is there, so
that after a kill at most the last line is unfinished; it is ignored, and removed when the next answer is written.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ravl_core import checks
from ravl_core.atomic import naming, write_atomically
from ravl_core.language.description import Description
from ravl_core.language.teachers import Teacher, fingerprint
from ravl_core.progress import track

Key = tuple[str, str, str | None]  # image, teacher, class
MOST_WORDS = 300  # characters of a message about a line, which may be of any length


def describe(
    teacher: Teacher,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    path: Path | str | None = None,
) -> tuple[Description, ...]:
    """What a teacher says about each image; it is asked once about each image and class, and never what is known.

    Parameters
    ----------
    teacher : see `ravl_core.language.teachers`.
    images : (N, H, W, 3) uint8
    labels : (N,) class indices, optional
        Left out, the teacher is told no class.
    class_names : (C,)
    path : of the file of answers, optional
        Answers that it holds are taken from it, the others are added to it.

    Returns
    -------
    descriptions : (N,) in the order of the images

    Raises
    ------
    ValueError
        Images or labels of the wrong shape, type or range; or a line of the file that is no answer, by its number.
    TypeError
        The teacher answers with something else than a `Description`.
    Exception
        Whatever the teacher raises, with a note that names the image. The answers before it are kept in the file.
    """
    images = checks.images("images", images)
    classes = _class_of_each(labels, class_names, len(images))
    keys = [(fingerprint(image), teacher.name, class_name) for image, class_name in zip(images, classes, strict=True)]
    path = None if path is None else Path(path)
    known = {} if path is None else _read(path)
    missing = {key: at for at, key in enumerate(keys) if key not in known}  # one image of each
    if missing:
        with _kept_in(path) as keep:
            for key, at in track(missing.items(), "descriptions"):
                known[key] = _asked(teacher, images[at], key[2], at)
                keep(_line(key, known[key]))
    return tuple(known[key] for key in keys)


def _class_of_each(labels: np.ndarray | None, class_names: Sequence[str], n_images: int) -> list[str | None]:
    if labels is None:
        return [None] * n_images
    labels = checks.class_indices("labels", labels, len(class_names))
    checks.same_length(images=range(n_images), labels=labels)
    return [class_names[label] for label in labels]


def _asked(teacher: Teacher, image: np.ndarray, class_name: str | None, at: int) -> Description:
    try:
        description = teacher(image, class_name)
        if not isinstance(description, Description):
            raise TypeError(f"teacher: expected a Description, got {description!r}")
    except Exception as error:
        error.add_note(f"teacher {teacher.name!r} was asked about image {at}, class {class_name!r}")
        raise
    return description


# ---- the file ----


def _line(key: Key, description: Description) -> bytes:
    image, teacher, class_name = key
    record = {
        "image": image,
        "teacher": teacher,
        "class": class_name,
        "objects": description.objects,
        "background": description.background,
        "raw": description.raw,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _read(path: Path) -> dict[Key, Description]:
    """All answers of a file; none where there is no file."""
    lines = _finished(path.read_bytes()).splitlines() if path.exists() else []
    known = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                record = json.loads(line)
                key = _checked(record["image"], record["teacher"], record["class"])
                known[key] = Description(record["objects"], record["background"], tuple(record.get("raw", ())))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                came = f"{type(error).__name__}: {error}"[:MOST_WORDS]
                raise ValueError(f"{path}, line {number}: expected an answer as {__name__} says, got {came}") from error
    return known


def _checked(image: str, teacher: str, class_name: str | None) -> Key:
    if wrong := [part for part in (image, teacher, class_name or "") if not isinstance(part, str)]:
        raise TypeError(f"expected texts as image, teacher and class, got {wrong[0]!r}")
    return image, teacher, class_name


def _finished(content: bytes) -> bytes:
    """A file's content with a newline at its end, without a last line that a kill has cut short."""
    last = content[content.rfind(b"\n") + 1 :]
    try:
        json.loads(last)
    except (ValueError, RecursionError):  # what was cut short is never whole JSON, nor is nothing
        return content.removesuffix(last)
    return content + b"\n"


@contextmanager
def _kept_in(path: Path | None) -> Iterator[Callable[[bytes], None]]:
    """A function that adds a line to the file at once; where no file is wanted it does nothing."""
    if path is None:
        yield lambda line: None
        return
    content = path.read_bytes() if path.exists() else b""
    if (finished := _finished(content)) != content:
        write_atomically(path, finished)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:  # so that closing has nothing left to write, and to fail at

        def keep(line: bytes) -> None:
            with naming(path):
                while line:
                    line = line[file.write(line) :]

        yield keep
