"""How far do an audit's findings hang on its regions, and on how these were clustered?

The audit is varied in one thing at a time, and what is significant then is held against its findings. Regions are
also held against the images: what no region shows cannot be found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ravl_core import checks
from ravl_core.audits.candidates import PER_CLASS, Candidates, candidates_of, gathered
from ravl_core.audits.result import Coverage
from ravl_core.closed_loop import same_feature
from ravl_core.comparison import first_of_each_class
from ravl_core.domains.coverage import shows
from ravl_core.domains.dataset import Dataset
from ravl_core.kmedoids import cluster_regions
from ravl_core.progress import track
from ravl_core.proposals import Boxes, propose
from ravl_core.randomness import stream
from ravl_core.slicing.ravl import fine_clustering
from ravl_core.stability import N_IMAGES, N_SEEDS, other_clusterings, overlap, with_regions
from ravl_core.zero_shot import Evaluation, evaluate

if TYPE_CHECKING:
    import pandas

    from ravl_core.vlm import VLM

Finding = tuple[np.ndarray, int]  # its regions, indices (R,), and the class index of its attribute

N_PERMUTATIONS = 199
PROPOSED = ("quadrants", "3 × 3 grid", "4 × 4 grid", "superpixels")
STABILITY = ["kind", "variation", "n_clusters", "attribute", "overlap", "found_again"]
PROPOSALS = ["regions", "n_regions", "n_clusters", "n_findings", "attribute", "overlap"]


# ---- how far regions reach -------------------------------------------------------------------------------------------


def coverage(images: np.ndarray, boxes: np.ndarray, image_index: np.ndarray, objects: Boxes | None = None) -> Coverage:
    """How many regions there are, and what of the images and of the data's own objects they reach.

    Parameters
    ----------
    images : (N, H, W, 3) uint8, at least one.
    boxes : (M, 4) in pixels.
    image_index : (M,) the image of each box, non-decreasing.
    objects : boxes (T, 4) and the image of each (T,), optional
        The data's own. An object is covered if a region shows it by the rule of `ravl_core.domains.coverage`.

    Raises
    ------
    ValueError
        Boxes that are empty or reach outside their image, or an index that does not fit them.
    """
    n_images, height, width = images.shape[:3]
    boxes = checks.boxes("boxes", boxes, width, height)
    image_index = checks.sorted_image_index("image_index", image_index, n_images)
    checks.same_length(boxes=boxes, image_index=image_index)
    counts = np.bincount(image_index, minlength=n_images)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (height * width)
    n_objects = 0 if objects is None else len(objects[0])
    return Coverage(
        n_regions=len(boxes),
        per_image=(float(counts.min()), float(np.median(counts)), float(counts.max())),
        images_without=int((counts == 0).sum()),
        area_covered=_area_covered(boxes, counts, height, width),
        region_area=float(np.median(areas)) if len(areas) else 0.0,
        objects_covered=_objects_covered(boxes, image_index, *objects) if n_objects else None,
        n_objects=n_objects,
    )


def _area_covered(boxes: np.ndarray, counts: np.ndarray, height: int, width: int) -> float:
    """Mean share of the pixels whose centre is in some box of their image; `counts` (N,) boxes of each."""
    corners = np.ceil(boxes - 0.5).astype(int)  # the first pixel whose centre is past each edge
    shares = []
    for own in np.split(corners, np.cumsum(counts)[:-1]):
        covered = np.zeros((height, width), dtype=bool)
        for x1, y1, x2, y2 in own.tolist():
            covered[y1:y2, x1:x2] = True
        shares.append(covered.mean())
    return float(np.mean(shares))


def _objects_covered(boxes: np.ndarray, image_index: np.ndarray, objects: np.ndarray, owners: np.ndarray) -> float:
    first, last = (np.searchsorted(image_index, owners, side) for side in ("left", "right"))
    each = zip(objects[:, None], owners[:, None], first, last, strict=True)  # `shows` is asked one object at a time
    return float(np.mean([shows(boxes[a:b], image_index[a:b], *target).any() for *target, a, b in each]))


# ---- other clusters of the same regions ------------------------------------------------------------------------------


def stability_of_all(
    findings: Sequence[Finding],
    evaluation: Evaluation,
    seed: int = 0,
    n_permutations: int = N_PERMUTATIONS,
    tested: np.ndarray | None = None,
) -> list[pandas.DataFrame]:
    """Is each finding found again in other clusters of the same regions?

    The variations are five other seeds of the audit's own clusterings, and single clusterings by themselves: with a
    uniform start, of fewer and of more clusters.

    Parameters
    ----------
    findings : sequence of regions (R,) and attribute
        The audit's.
    evaluation : Evaluation
        The one that they were found in.
    seed : int
        Of the audit's clustering, and of the permutations in every variation.
    n_permutations : int
    tested : int array, optional
        The images that significance is asked of, one of each group; all of them if left out.

    Returns
    -------
    list of DataFrame
        One a finding, a row a variation: `kind` and `variation` name it, `n_clusters` says how many there were.
        `found_again`: whether a significant cluster names the same attribute and is the same feature, see
        `ravl_core.closed_loop.SecondLook`. `attribute` (a class name) and `overlap` (the Jaccard index of the images
        that hold it and the finding, 0 … 1) are that cluster's; where there is none, those of the significant cluster
        with the largest overlap; None and 0 where nothing is significant.
    """
    rows = [[] for _ in findings]
    others = _other_candidates(evaluation, seed) if rows else ()
    for kind, variation, candidates in track(others, "other clusters", total=N_SEEDS + 3 + len(PER_CLASS)):
        found = _significant(candidates, evaluation, seed, n_permutations, tested)
        named = {"kind": kind, "variation": variation, "n_clusters": len(candidates.cluster_of)}
        for own, finding in zip(rows, findings, strict=True):
            own.append(named | _nearest(finding, found, evaluation))
    return [_frame(own, STABILITY) for own in rows]


def _other_candidates(evaluation: Evaluation, seed: int) -> Iterator[tuple[str, str, Candidates]]:
    """Kind, name and clusters of each variation: the audit's clusterings by other seeds, then clusterings alone."""
    for more, (kind, variation, coarse) in enumerate(other_clusterings(evaluation, seed), start=1):
        if kind == "seed":
            yield kind, variation, candidates_of(evaluation, coarse, seed + more)
        else:
            yield "one clustering", variation, gathered(evaluation, [coarse])
    for per_class in PER_CLASS:
        yield "one clustering", f"{per_class}C", gathered(evaluation, [fine_clustering(evaluation, seed, per_class)])


def _significant(
    candidates: Candidates, evaluation: Evaluation, seed: int, n_permutations: int, tested: np.ndarray | None = None
) -> list[Finding]:
    found = candidates.significant(evaluation, tested, n_permutations=n_permutations, seed=seed)
    return [(candidates.regions(one.cluster), one.attribute) for one in found]


def _nearest(finding: Finding, found: Sequence[Finding], evaluation: Evaluation) -> dict:
    """The one of other findings on the same regions that is this one again, or else overlaps with it most."""
    (regions, attribute), image_index = finding, evaluation.image_index
    rows = [
        {
            "attribute": evaluation.class_names[other],
            "overlap": overlap(np.unique(image_index[regions]), np.unique(image_index[members])),
            "found_again": other == attribute
            and same_feature(_chosen(regions, len(image_index)), _chosen(members, len(image_index)), image_index),
        }
        for members, other in found
    ]
    nothing = {"attribute": None, "overlap": 0.0, "found_again": False}
    return max(rows, key=lambda row: (row["found_again"], row["overlap"]), default=nothing)


def _chosen(positions: np.ndarray, length: int) -> np.ndarray:
    return np.isin(np.arange(length), positions)


def _frame(rows: Sequence[dict], columns: list[str]) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame(rows, columns=columns)
    frame["attribute"] = pandas.Series([row["attribute"] for row in rows], dtype=object)  # a column of text loses None
    return frame


# ---- other regions ---------------------------------------------------------------------------------------------------


def other_proposals(
    vlm: VLM,
    dataset: Dataset,
    findings: Sequence[Finding],
    seed: int = 0,
    names: Sequence[str] = PROPOSED,
    most: int = N_IMAGES,
    n_permutations: int = N_PERMUTATIONS,
    tested: np.ndarray | None = None,
) -> pandas.DataFrame:
    """What is found in other regions of the same images?

    Parameters
    ----------
    vlm : VLM
        It embeds the proposed regions.
    dataset : Dataset
        The audit's images and regions.
    findings : sequence of regions (R,) and attribute
        The audit's, the first one first; possibly none.
    seed : int
        Of the clusterings and permutations, and of which images are taken.
    names : sequence of str
        See `ravl_core.proposals.propose`; "boxes" are the regions of the dataset itself, on these images.
    most : int
        So many images at most are taken, the classes in turn.
    n_permutations : int
    tested : int array, optional
        Only these images may be taken, one of each group.

    Returns
    -------
    DataFrame
        A row a name: `regions` is the name, `n_regions`, `n_clusters` and `n_findings` count. `attribute` is the class
        name of the first finding there, None without one. `overlap` is the Jaccard index of the images that hold it
        and those that hold the audit's first finding, among the images taken, 0 … 1: 0 where nothing is found, NaN
        where the audit found nothing.
    """
    order = stream(seed, "fewer images").permutation(len(dataset) if tested is None else tested)
    images = first_of_each_class(dataset.labels, order, most)
    held = [np.flatnonzero(np.isin(images, dataset.image_index[regions])) for regions, _ in findings[:1]]
    own = np.isin(dataset.image_index, images)
    own = dataset.boxes[own], np.searchsorted(images, dataset.image_index[own])
    rows = []
    for name in track(names, "other regions"):
        evaluation = evaluate(vlm, with_regions(dataset, images, *propose(name, dataset.images[images], own)))
        n_classes = len(evaluation.class_names)
        coarse = cluster_regions(evaluation.region_embeddings, range(2 * n_classes, 5 * n_classes), seed)
        candidates = candidates_of(evaluation, coarse, seed)
        found = _significant(candidates, evaluation, seed, n_permutations)
        counts = len(evaluation.boxes), len(candidates.cluster_of), len(found)
        rows.append(dict(zip(PROPOSALS, (name, *counts, *_first(found, held, evaluation)), strict=True)))
    return _frame(rows, PROPOSALS)


def _first(found: Sequence[Finding], held: Sequence[np.ndarray], evaluation: Evaluation) -> tuple[str | None, float]:
    """Attribute of the first finding, and its overlap with the images that hold the audit's first one, if any."""
    regions, attribute = found[0] if found else (np.empty(0, dtype=np.int64), None)
    name = None if attribute is None else evaluation.class_names[attribute]
    return name, overlap(np.unique(evaluation.image_index[regions]), held[0]) if held else np.nan
