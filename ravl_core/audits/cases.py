"""Audits of real images: chest X-rays and COCO's scenes, each by a small model that was fitted to one half of them.

What the model leans on is not known beforehand, with one exception: X-rays of one hospital into which a marker is put,
a bright letter in a corner as radiographers leave it, mostly beside one diagnosis in the half that is fitted and as
often beside either in the half that is audited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ravl_core.audits.repairing import repair
from ravl_core.audits.result import Audit
from ravl_core.audits.run import audit
from ravl_core.checkpoints import load_vlm
from ravl_core.domains.own_images import OwnImages, read_images
from ravl_core.mitigation import Budget, mitigate
from ravl_core.proposals import propose
from ravl_core.randomness import stream
from ravl_core.vlm import VLM

DIAGNOSES = ("no_finding", "pneumonia_or_other")
SCENES = ("snow_slope", "street", "tennis_court", "park_grass", "baseball_field", "skate_park", "ocean_wave")
XRAY_PROMPTS, SCENE_PROMPTS = ("a chest X-ray with {}", "{}"), ("a photo of a {}", "{}")
MARKED = (0.05, 0.95)  # share of each diagnosis that has the marker in the half that is fitted
REGIONS = "grid 3x3"
FITTING = Budget(epochs=15, batch_size=64, trained="tower")  # a few hundred images: the whole tower, many passes
SEEDS = tuple(range(5))


def read_chest_xrays(folder: Path | str, size: int) -> OwnImages:
    """The X-rays with their diagnosis, patients as groups; the metadata's `source` is the collection they are from."""
    columns = {"path": "file_name", "label": "label", "group": "patient"}
    own = read_images(Path(folder) / "chest_xray" / "labels.csv", DIAGNOSES, size, columns=columns)
    sources = [name.split("/")[-1].split("_")[0] for name in own.names]
    return replace(own, metadata=own.metadata[["view", "sex"]].assign(source=sources))


def read_scenes(folder: Path | str, size: int) -> OwnImages:
    """COCO photographs whose captions agree on a scene."""
    table = Path(folder) / "coco_subset" / "scene_labels_from_captions.csv"
    return read_images(table, SCENES, size, columns={"path": "file_name", "label": "scene"})


def part_of(own: OwnImages, images: np.ndarray) -> OwnImages:
    """Some of the images (ascending indices), without boxes and notes."""
    metadata = None if own.metadata is None else own.metadata.iloc[images].reset_index(drop=True)
    return replace(
        own,
        images=own.images[images],
        labels=own.labels[images],
        names=tuple(own.names[image] for image in images),
        sizes=own.sizes[images],
        windows=own.windows[images],
        captions=None if own.captions is None else tuple(own.captions[image] for image in images),
        groups=None if own.groups is None else own.groups[images],
        metadata=metadata,
        boxes=None,
        image_index=None,
        box_names=None,
        notes=(),
    )


def halves(own: OwnImages, seed: int) -> tuple[OwnImages, OwnImages]:
    """One half to fit and one to audit, by chance; what belongs together stays together."""
    groups = np.arange(len(own)) if own.groups is None else own.groups
    units, of = np.unique(groups, return_inverse=True)
    first = stream(seed, "halves").permutation(len(units)) < len(units) / 2
    return part_of(own, np.flatnonzero(first[of])), part_of(own, np.flatnonzero(~first[of]))


def with_marker(own: OwnImages, shares: tuple[float, ...], seed: int) -> OwnImages:
    """A bright L in the upper left corner of some of each class's images, drawn by chance; metadata says which."""
    random, images = stream(seed, "marker"), own.images.copy()
    marked = np.zeros(len(own), dtype=bool)
    for label, share in enumerate(shares):
        members = random.permutation(np.flatnonzero(own.labels == label))
        marked[members[: round(share * len(members))]] = True
    unit = max(images.shape[1] // 32, 1)  # 2 pixels of 64
    for rows, columns in (
        (slice(unit, 7 * unit), slice(unit, 3 * unit)),
        (slice(5 * unit, 7 * unit), slice(unit, 6 * unit)),
    ):
        images[marked, rows, columns] = 255
    return replace(own, images=images, metadata=pd.DataFrame({"marker": marked}))


def fitted(sets: OwnImages, prompts: tuple[str, ...], seed: int, initial: str = "rn-mini") -> VLM:
    """A model fine-tuned to tell the classes of these images apart, the standard way."""
    dataset = sets.dataset(*propose(REGIONS, sets.images), prompts)
    return mitigate(load_vlm(initial), dataset, recipe="standard", budget=FITTING, seed=seed)[0]


def chest_xray_case(own: OwnImages, seed: int) -> tuple[VLM, OwnImages, Audit]:
    """The X-rays as they are: the model, what it was fitted to, and the audit of the other half."""
    return _case(*halves(own, seed), XRAY_PROMPTS, seed)


def marker_case(own: OwnImages, seed: int) -> tuple[VLM, OwnImages, Audit]:
    """The X-rays of one source, with the marker beside one diagnosis; see the module's text."""
    first, second = halves(part_of(own, np.flatnonzero(own.metadata.source == "nih")), seed)
    return _case(with_marker(first, MARKED, seed), with_marker(second, (0.5, 0.5), seed), XRAY_PROMPTS, seed)


def scenes_case(own: OwnImages, seed: int) -> tuple[VLM, OwnImages, Audit]:
    """COCO's scenes."""
    return _case(*halves(own, seed), SCENE_PROMPTS, seed)


def _case(first: OwnImages, second: OwnImages, prompts: tuple[str, ...], seed: int):
    vlm = fitted(first, prompts, seed)
    return vlm, first, audit(vlm, second, templates=prompts, regions=REGIONS, thorough=False, seed=seed)


CASES = {
    "chest X-rays": (read_chest_xrays, chest_xray_case),
    "chest X-rays, marker": (read_chest_xrays, marker_case),
    "COCO scenes": (read_scenes, scenes_case),
}


def run_cases(folder: Path | str, seeds: Iterable[int] = SEEDS) -> pd.DataFrame:
    """Every case with every seed, one row each; where the marker is found, the model is repaired."""
    seeds, rows, size = list(seeds), [], load_vlm("rn-mini").image_size
    for name, (read, case) in CASES.items():
        own = read(folder, size)
        rows += [{"case": name, "seed": seed} | _row(*case(own, seed), seed) for seed in seeds]
    return pd.DataFrame(rows)


def _row(vlm: VLM, sets: OwnImages, done: Audit, seed: int) -> dict:
    first = done.findings[0] if done.findings else None
    row = {
        "n_fitted": len(sets),
        "n_audited": len(done.images),
        "accuracy": done.evaluation.accuracy,
        "n_findings": len(done.findings),
        "finding": first.sentence if first else "",
        "confirmed": first.confirmed if first else None,
        "n_candidates": len(done.discovery.findings),
        "detectable_half": done.detectable["shift"].iloc[-1],
    }
    if done.columns is not None:
        column = done.columns.iloc[0]
        names = "column", "value", "attribute", "p_value", "v_with_label", "chosen", "chosen_low", "chosen_high"
        row |= {f"column_{name}" if name != "column" else name: column[name] for name in names}
    if first is not None and "marker" in done.images.metadata:
        row |= {"v_with_marker": first.associations.cramers_v.max()} | _repaired(vlm, sets, done, seed)
    return row


def _repaired(vlm: VLM, sets: OwnImages, done: Audit, seed: int) -> dict:
    after = repair(done, vlm, sets, load_vlm("rn-mini"), budget=FITTING, seed=seed)
    change = {"worst_change": after.worst_group_change.estimate, "worst_low": after.worst_group_change.low}
    change |= {"worst_high": after.worst_group_change.high, "overall_change": after.overall_change.estimate}
    return {"worst_before": after.worst_group_before, "worst_after": after.worst_group_after} | change
