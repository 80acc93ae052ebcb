"""The audit: any CLIP model and any labelled images in, findings that a careful person can act on out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np

from ravl_core import checks
from ravl_core.audits.candidates import candidates_of
from ravl_core.audits.columns import column_effects
from ravl_core.audits.detectable import detectable_shifts
from ravl_core.audits.findings import find, one_of_each
from ravl_core.audits.result import Audit
from ravl_core.audits.robustness import PROPOSED, coverage, other_proposals, stability_of_all
from ravl_core.checkpoints import load_vlm
from ravl_core.discovery import discover
from ravl_core.domains.dataset import check_prompts
from ravl_core.domains.own_images import OwnImages, from_arrays, read_images
from ravl_core.proposals import propose
from ravl_core.significance import LEVEL
from ravl_core.vlm import VLM
from ravl_core.zero_shot import evaluate

TEMPLATES = ("a photo of a {}", "an image of a {}", "{}")


def audit(
    model: VLM | str,
    images: OwnImages | np.ndarray | str | Path,
    classes: Sequence[str] | None = None,
    labels: np.ndarray | None = None,
    templates: Sequence[str] = TEMPLATES,
    regions: str | None = None,
    words: Sequence[str] = (),
    level: float = LEVEL,
    n_permutations: int = 999,
    influence_threshold: float = 0.25,
    thorough: bool = True,
    seed: int = 0,
    **reading,
) -> Audit:
    """Ask what a model leans on when it tells these classes apart, on these images.

    Parameters
    ----------
    model : a `VLM`, or a name that `load_vlm` knows.
    images : what `read_images` reads (a folder with one folder of images for each class, a csv, COCO json, WILDS
        metadata), what it gave, or (N, H, W, 3) uint8 with `labels`.
    classes : (C,) names, in the order of the labels. For a folder they name its folders; all of them if not given.
    labels : (N,) class indices, for an array of images only.
    templates : prompts with one {} for the class name.
    regions : how images are cut up: "quadrants", "grid 3x3", "superpixels", "detector", or "boxes" for the data's own;
        these where there are some, else quadrants.
    words : names that a finding may be given by the model's own text tower.
    level : where the model's answers have nothing to do with what is in the regions, at most the share of audits that
        find something.
    n_permutations : dealings of the answers that a finding is compared with.
    influence_threshold : of the paper's recipe, whose untested candidates stand in `discovery`; see `discover`.
    thorough : also try other seeds, numbers of clusters and regions.
    seed : the same seed gives the same audit.
    reading : how files are read: `columns`, `split`, `fit`, `most`, …; see `read_images`.

    Raises
    ------
    ValueError
        Fewer than two classes, labels that do not fit the images, no image, a class without a readable image, or an
        option that cannot be.
    FileNotFoundError
        The source, or the folder of a class, is not there.
    """
    vlm = load_vlm(model) if isinstance(model, str) else model
    checks.made("model", vlm, "a model or the name of one, see load_vlm", "encode_texts")
    templates, words = checks.words("templates", templates), checks.words("words", words)
    checks.number("level", level, 0, 1)
    checks.whole_number("n_permutations", n_permutations, 1)
    seed = checks.whole_number("seed", seed, 0)
    own = _own_images(images, classes, labels, vlm.image_size, seed, reading)
    check_prompts(own.class_names, templates)
    regions = regions or ("quadrants" if own.boxes is None else "boxes")
    objects = None if own.boxes is None else (own.boxes, own.image_index)
    dataset = own.dataset(*propose(regions, own.images, objects), templates)
    evaluation = evaluate(vlm, dataset)
    discovery = discover(evaluation, influence_threshold=influence_threshold, seed=seed)
    candidates = candidates_of(evaluation, discovery.clustering, seed)
    found = find(vlm, dataset, evaluation, candidates, level, n_permutations, words, own.metadata, seed)
    tested = one_of_each(dataset.sources, len(dataset), seed)
    answers = candidates.held[tested], dataset.labels[tested], evaluation.image_probs[tested]
    others = columns = None
    if own.metadata is not None:
        columns = column_effects(own.metadata, evaluation, dataset.sources, tested, n_permutations, seed)
    if thorough:
        told = [(finding.regions, finding.attribute) for finding in found]
        tables = stability_of_all(told, evaluation, seed, tested=tested)
        found = tuple(replace(one, stability=table) for one, table in zip(found, tables, strict=True))
        others = other_proposals(vlm, dataset, told, seed, ("boxes", *PROPOSED), tested=tested)
    options = {"regions": regions, "pooling": vlm.pooling, "templates": list(templates), "words": list(words)}
    options |= {"level": level, "n_permutations": n_permutations, "influence_threshold": influence_threshold}
    return Audit(
        model=vlm.name,
        options=options | {"seed": seed},
        images=own,
        dataset=dataset,
        evaluation=evaluation,
        discovery=discovery,
        findings=found,
        detectable=detectable_shifts(*answers, level=level, seed=seed),
        coverage=coverage(own.images, dataset.boxes, dataset.image_index, objects),
        proposals=others,
        columns=columns,
    )


def _own_images(images, classes, labels, size: int, seed: int, reading: dict) -> OwnImages:
    if isinstance(images, OwnImages | str | Path) and labels is not None:
        raise ValueError("labels: expected them with an array of images only; files and read images have their own")
    if isinstance(images, OwnImages):
        return images
    how = read_images if isinstance(images, str | Path) else from_arrays
    for name in reading:
        checks.choice("reading", name, list(signature(how).parameters))
    if isinstance(images, str | Path):
        return read_images(images, classes, size, seed=seed, **reading)
    if labels is None:
        raise ValueError("labels: an array of images needs the class index of each")
    if classes is None:
        raise ValueError("classes: an array of images needs the names of its classes")
    return from_arrays(images, labels, classes, **reading)
