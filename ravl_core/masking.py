"""Counterfactual masks: what does a model answer once some regions are hidden, and nothing else is changed?

Stage 1 says that answers go with a cluster. Whether the regions themselves move the answers is asked by hiding them.
Hiding anything moves answers a little, so other regions of the same images are hidden for comparison.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ravl_core import checks
from ravl_core.domains.coverage import ranges
from ravl_core.domains.dataset import Dataset
from ravl_core.metrics import Interval, bootstrap_interval
from ravl_core.vlm import VLM
from ravl_core.zero_shot import class_embeddings, class_probabilities

FILLS = ("surroundings", "blur", "mean")
RING = 2  # pixels around a box, whose colour replaces what is in it
BLUR = 1 / 8  # standard deviation of the blur along each side of the image, as a share of that side
SAME_PLACE = 0.5  # of the smaller of two boxes: then hiding one hides what is in the other


def mask_regions(
    images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, fill: str = "surroundings"
) -> np.ndarray:
    """Copies of the images, with some boxes hidden.

    Parameters
    ----------
    images : uint8 array (N, H, W, 3)
    boxes : array (M', 4)
        In pixels; every pixel that a box touches is hidden.
    image_index : int array (M',)
        The image of each box, in any order.
    fill : {"surroundings", "blur", "mean"}
        What is put there. "surroundings": the mean colour of the two pixels around the box that lie in the image and
        are not hidden themselves, the image's mean colour where there are none; of boxes that overlap, the larger
        one's colour. "blur": the image under a blur so heavy that colours stay and shapes go. "mean": the mean colour
        of all images.

    Returns
    -------
    uint8 array (N, H, W, 3)
        Equal to `images` outside the boxes.

    Raises
    ------
    ValueError
        If an array has the wrong shape or type, a box is empty or reaches outside its image, or there is no such fill.
    """
    checks.choice("fill", fill, FILLS)
    images = checks.images("images", images)
    masked = images.copy()
    boxes = checks.boxes("boxes", boxes, width=masked.shape[2], height=masked.shape[1])
    image_index = checks.integers("image_index", image_index, 0, len(masked) - 1)
    checks.same_length(boxes=boxes, image_index=image_index)
    places = _places(boxes, image_index)
    hidden = np.zeros(masked.shape[:3], dtype=bool)
    for place in places:
        hidden[place] = True
    if fill == "surroundings":
        for image, rows, columns in places:
            masked[image, rows, columns] = _surrounding_colour(images[image], hidden[image], rows, columns)
    elif fill == "blur":
        owners = np.unique(image_index)
        masked[owners] = np.where(hidden[owners, ..., None], _blurred(masked[owners]), masked[owners])
    elif len(boxes):
        masked[hidden] = np.rint(masked.mean(axis=(0, 1, 2)))
    return masked


def _places(boxes: np.ndarray, image_index: np.ndarray) -> list[tuple[int, slice, slice]]:
    """Image, rows and columns of every box, rounded outwards, small boxes first."""
    x1, y1 = np.floor(boxes[:, :2]).astype(int).T
    x2, y2 = np.ceil(boxes[:, 2:]).astype(int).T
    order = np.argsort((x2 - x1) * (y2 - y1), kind="stable")
    sides = np.stack([image_index, y1, y2, x1, x2], axis=1)[order].tolist()
    return [(image, slice(top, bottom), slice(left, right)) for image, top, bottom, left, right in sides]


def _surrounding_colour(image: np.ndarray, hidden: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Mean colour (3,) of what is seen around a box of an image (H, W, 3)."""
    near = tuple(slice(max(side.start - RING, 0), side.stop + RING) for side in (rows, columns))
    seen = image[near][~hidden[near]]  # all of the box is hidden, so only the ring is left
    return np.rint((seen if len(seen) else image.reshape(-1, 3)).mean(axis=0))


def _blurred(images: np.ndarray) -> np.ndarray:
    """A Gaussian blur that repeats the pixels of the edge beyond it, as one matrix product a side."""
    height, width = images.shape[1:3]
    along_y, along_x = (
        gaussian_filter1d(np.eye(side, dtype=np.float32), BLUR * side, axis=0, mode="nearest")
        for side in (height, width)
    )
    channels = images.transpose(0, 3, 1, 2).astype(np.float32)
    return np.rint(along_y @ channels @ along_x.T).transpose(0, 2, 3, 1)


def control_regions(boxes: np.ndarray, image_index: np.ndarray, regions: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each of some regions another one of its image to compare with: (R,), -1 where none is left.

    It is none of the given ones, and shares less than half of the smaller area with each of them. Of those there are
    it is the one nearest in area, to a pixel, and a random one on ties. None serves twice; the given regions of an
    image choose one after the other.

    Parameters
    ----------
    boxes : array (M, 4)
        All regions, stored image by image.
    image_index : int array (M,)
        The image of each region, non-decreasing.
    regions : int array (R,)
        The given regions, ascending, none twice.
    seed : int
    """
    owners = image_index[regions]  # (R,), ascending
    first, last = (np.searchsorted(image_index, owners, side) for side in ("left", "right"))
    given, other = np.repeat(np.arange(len(regions)), last - first), ranges(first, last - first)  # (P,) pairs
    boxes = np.asarray(boxes, dtype=np.float64)
    area, own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), regions[given]
    taken = np.zeros(len(boxes), dtype=bool)
    taken[other[_shared_area(boxes[own], boxes[other]) >= SAME_PLACE * np.minimum(area[own], area[other])]] = True

    ties = np.random.default_rng(seed).random(len(given))
    order = np.lexsort([ties, np.rint(np.abs(area[own] - area[other])), given])
    given, other = given[order], other[order]  # nearest first for each given region
    turn = np.arange(len(regions)) - np.searchsorted(owners, owners)  # which one of its image's it is
    controls = np.full(len(regions), -1)
    for now in range(turn.max(initial=-1) + 1):
        free = (turn[given] == now) & ~taken[other]
        served, nearest = np.unique(given[free], return_index=True)
        controls[served] = other[free][nearest]
        taken[controls[served]] = True
    return controls


def _shared_area(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Area that two boxes of each pair have in common, (P,)."""
    sides = np.minimum(one[:, 2:], other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    return sides.clip(min=0).prod(axis=1)


@dataclass(frozen=True)
class Changes:
    """What hiding regions changes, as a mean over images with its 95 % bootstrap interval; NaN of no image."""

    probability: Interval  # of the attribute's class, -1 … 1
    accuracy: Interval  # -1 … 1
    predictions: Interval  # share of images whose prediction changes, 0 … 1; of differences, -1 … 1


@dataclass(frozen=True)
class GroupEffect:
    """What hiding regions does to some images."""

    n: int  # images that hold such a region
    n_compared: int  # of these, images that have another region to compare with
    control_area: float  # of the regions hidden for comparison, in times of the regions they stand for; NaN of none
    effect: Changes  # hidden - as it is, over the n images
    beyond_control: Changes  # that minus the same for the other regions, over the images compared


@dataclass(frozen=True)
class MaskEffect:
    """What hiding regions does to a model's answers.

    Where they are a shortcut to the attribute, hiding them helps images of other classes, which are no longer pulled
    towards it, and hurts images of the attribute's own class. The mean over both would hide it. The other regions
    that are hidden for comparison may hold what the label names, so hiding those can cost more accuracy.
    """

    attribute: int
    fill: str
    others: GroupEffect  # images of other classes: the pull
    own: GroupEffect  # images of the attribute's class

    def plain(self) -> dict:
        """Nested dicts of numbers and of lists (estimate, low, high) that JSON can hold, None for NaN."""
        return _plain(asdict(self))


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def mask_effect(
    vlm: VLM, dataset: Dataset, regions: Sequence[int], attribute: int, seed: int = 0, fill: str = "surroundings"
) -> MaskEffect:
    """How answers change when these regions are hidden, beyond what hiding other regions changes.

    Parameters
    ----------
    vlm : the model.
    dataset : N images with M boxes.
    regions : ints 0 … M-1, for instance those of a finding, in any order. All of them that lie in an image are
        hidden together.
    attribute : the class index whose probability is asked for.
    seed : of the choice of other regions, see `control_regions`, and of the bootstrap. The bootstrap draws whole
        sources where the dataset knows them.
    fill : what is put in the place of a region, see `mask_regions`.

    Returns
    -------
    MaskEffect
        Of images that hold none of the regions nothing is said. Images whose every region is given, or lies where a
        given one does, have nothing to compare with: `n - n_compared` of them.

    Raises
    ------
    ValueError
        If a region is none of the dataset's, the attribute is no class, or there is no such fill.
    """
    regions = np.unique(checks.integers("regions", regions, 0, len(dataset.boxes) - 1))
    attribute = int(checks.class_indices("attribute", [attribute], dataset.n_classes)[0])
    controls = control_regions(dataset.boxes, dataset.image_index, regions, seed)
    images, compared = (np.unique(dataset.image_index[some]) for some in (regions, controls[controls >= 0]))
    masked = [
        mask_regions(dataset.images, dataset.boxes[some], dataset.image_index[some], fill)[images]
        for some in (regions, controls[controls >= 0])
    ]
    classes = class_embeddings(vlm, dataset.class_names, dataset.templates)
    answers = [class_probabilities(vlm.encode_images(v), classes) for v in (dataset.images[images], *masked)]
    labels = dataset.labels[images]
    effect, control = (_changes(probs, answers[0], labels, attribute) for probs in answers[1:])  # (n, 3)
    control[~np.isin(images, compared)] = np.nan

    area = (dataset.boxes[:, 2:] - dataset.boxes[:, :2]).prod(axis=1)
    hidden = np.stack([area[regions], np.where(controls >= 0, area[controls], 0)], axis=1)  # (R, 2)
    areas = np.stack([np.bincount(dataset.image_index[regions], column) for column in hidden.T], axis=1)[images]
    sources = images if dataset.sources is None else dataset.sources[images]
    others, own = (
        _group_effect(effect[group], control[group], areas[group], sources[group], seed)
        for group in (labels != attribute, labels == attribute)
    )
    return MaskEffect(attribute, fill, others, own)


def _changes(probs: np.ndarray, before: np.ndarray, labels: np.ndarray, attribute: int) -> np.ndarray:
    """Of each image: change of the attribute's probability, change of correctness, whether the prediction changed."""
    predictions, predictions_before = probs.argmax(axis=1), before.argmax(axis=1)
    gained = (predictions == labels).astype(float) - (predictions_before == labels)
    return np.stack([(probs - before)[:, attribute], gained, predictions != predictions_before], axis=1)


def _group_effect(
    effect: np.ndarray, control: np.ndarray, areas: np.ndarray, sources: np.ndarray, seed: int
) -> GroupEffect:
    """From the changes (n, 3) of a group's images by the regions and by the controls, NaN where there is none."""
    compared = ~np.isnan(control).any(axis=1)
    given, controls = areas[compared].sum(axis=0)
    return GroupEffect(
        n=len(effect),
        n_compared=int(compared.sum()),
        control_area=float(controls / given) if given else np.nan,
        effect=_intervals(effect, sources, seed),
        beyond_control=_intervals((effect - control)[compared], sources[compared], seed),
    )


def _intervals(changes: np.ndarray, sources: np.ndarray, seed: int) -> Changes:
    return Changes(*(_mean_interval(column, sources, seed) for column in changes.T))


def _mean_interval(values: np.ndarray, sources: np.ndarray, seed: int) -> Interval:
    """Mean of (n,) with an interval for which whole sources are drawn: that of `groups`, in a tenth of the time."""
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    unit = np.unique(sources, return_inverse=True)[1]
    sums = np.stack([np.bincount(unit, values), np.bincount(unit)], axis=1)  # (U, 2)
    return bootstrap_interval(sums, lambda drawn: np.divide(*drawn.sum(axis=0)), seed=seed)
