"""Bring your own: stage 1 on any CLIP model and any labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ravl_core.checkpoints import load_vlm
from ravl_core.checks import class_indices, same_length
from ravl_core.discovery import Discovery, discover
from ravl_core.domains.dataset import Dataset
from ravl_core.progress import track
from ravl_core.regions import grid_boxes
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation, evaluate

TEMPLATES = ("a photo of a {}", "an image of a {}", "{}")
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Audit:
    """What stage 1 says of a model on a set of images. A finding is a candidate to look at, not a test."""

    dataset: Dataset = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    discovery: Discovery = field(repr=False)
    skipped: tuple[tuple[str, str], ...] = ()  # files that could not be read, and why

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each finding in words, the first one first; empty if there is none."""
        return tuple(_sentence(finding, self.evaluation.class_names) for finding in self.discovery.findings)


def audit(
    model: VLM | str,
    images: np.ndarray | str | Path,
    classes: Sequence[str],
    labels: np.ndarray | None = None,
    templates: Sequence[str] = TEMPLATES,
    grid: tuple[int, int] = (2, 2),
    influence_threshold: float = 0.25,
    seed: int = 0,
) -> Audit:
    """Ask what a model leans on when it tells these classes apart, on these images.

    Parameters
    ----------
    model : a `VLM`, or a name that `load_vlm` knows.
    images : (N, H, W, 3) uint8 with `labels`; or a folder that holds a folder of images for each class.
    classes : (C,) names, in the order of the labels; for a folder, the names of its folders.
    labels : (N,) class indices, for an array of images only.
    templates : prompts with one {} for the class name.
    grid : rows and columns of equal regions that each image is cut into.
    influence_threshold, seed : see `discover`.

    Raises
    ------
    ValueError
        Fewer than two classes, labels that do not fit the images, or a class without a readable image.
    FileNotFoundError
        The folder, or the folder of a class, is not there.
    """
    if len(classes) < 2:
        raise ValueError(f"classes: expected at least two names, got {list(classes)}")
    vlm = load_vlm(model) if isinstance(model, str) else model
    skipped: tuple[tuple[str, str], ...] = ()
    if isinstance(images, str | Path):
        images, labels, skipped = read_folder(Path(images), classes, vlm.image_size)
    elif labels is None:
        raise ValueError("labels: an array of images needs the class index of each")
    labels = class_indices("labels", labels, len(classes))
    same_length(images=images, labels=labels)
    dataset = _dataset(images, labels, classes, templates, grid)
    evaluation = evaluate(vlm, dataset)
    return Audit(dataset, evaluation, discover(evaluation, influence_threshold=influence_threshold, seed=seed), skipped)


def read_folder(
    folder: Path, classes: Sequence[str], size: int
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, str], ...]]:
    """Images of a folder per class as (N, size, size, 3) uint8, their labels (N,), and what was skipped and why."""
    paths = [(path, label) for label, name in enumerate(classes) for path in _files(folder / name)]
    images, labels, skipped = [], [], []
    for path, label in track(paths, "reading images"):
        try:
            images.append(_read(path, size))
            labels.append(label)
        except (OSError, ValueError, SyntaxError) as error:
            skipped.append((path.relative_to(folder).as_posix(), f"{type(error).__name__}: {error}"))
    empty = [name for label, name in enumerate(classes) if label not in labels]
    if empty:
        raise ValueError(f"images: no readable image of {', '.join(empty)}; {len(skipped)} files could not be read")
    return np.stack(images), np.array(labels), tuple(skipped)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"images: expected a folder of images for each class, and there is no {folder.name!r}")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _read(path: Path, size: int) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith("I;16"):  # a plain conversion would cut 16 bits off at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def _dataset(images, labels, classes, templates, grid) -> Dataset:
    boxes, image_index = grid_boxes(len(images), *images.shape[1:3], *grid)
    captions = tuple(templates[0].format(classes[label]) for label in labels)
    return Dataset(images, labels, captions, tuple(classes), tuple(templates), boxes, image_index)


def _sentence(finding, class_names: Sequence[str]) -> str:
    row = finding.table.loc[finding.attribute]
    worst = finding.table.difference.idxmin()
    hurt = finding.table.loc[worst]
    return (
        f"With a region of cluster {finding.cluster} in the image, {class_names[finding.attribute]!r} is recognised "
        f"{100 * row.difference:+.0f} points more often (n = {row.n_in:.0f} with, {row.n_out:.0f} without) and "
        f"{class_names[worst]!r} {100 * hurt.difference:+.0f} points (n = {hurt.n_in:.0f}, {hurt.n_out:.0f}); "
        f"influence {finding.influence:.2f} from {finding.influence_images} images."
    )
