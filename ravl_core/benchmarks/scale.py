"""Stage 1 for as many regions as there are: clustering, scoring and intervals from a memory-mapped file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.benchmarks.clustering import made_up_embeddings, made_up_kinds
from ravl_core.benchmarks.processes import in_a_fresh_process, timed
from ravl_core.progress import track

if TYPE_CHECKING:
    import pandas as pd

CANDIDATES = (20, 25, 30, 35, 40, 45)
PARTS = ("clustering", "scoring", "intervals")
N_CLASSES, REGIONS_AN_IMAGE = 10, 4


def scale_costs(
    sizes: Sequence[int], size: int = 512, candidates: Sequence[int] = CANDIDATES, seed: int = 0
) -> pd.DataFrame:
    """Seconds and memory of stage 1 in linear time, each number of regions in a process of its own.

    Embeddings are made up, written to a float16 file in a temporary folder (2 · D bytes a region) and mapped.

    Parameters
    ----------
    sizes : numbers of regions, four to an image.
    size : D, of an embedding.

    Returns
    -------
    DataFrame
        Columns what ("clustering" with all candidates, "scoring" of all clusters, "intervals" of the first), regions,
        seconds, and peak_mb, by how much memory grew, mapped pages with it (NaN where the system does not say).
    """
    import pandas as pd

    rows = []
    for n in track(sizes, "numbers of regions"):
        with tempfile.TemporaryDirectory() as folder:
            path = write_made_up(Path(folder) / "regions.npy", n, size, seed)
            found = in_a_fresh_process(f"{__name__}.costs_of", str(path), list(candidates), seed)
        rows += [(part, n, *cost) for part, cost in zip(PARTS, found, strict=True)]
    return pd.DataFrame(rows, columns=["what", "regions", "seconds", "peak_mb"])


def write_made_up(path: Path, n_regions: int, size: int, seed: int = 0) -> Path:
    """Write made-up unit embeddings (M, D), float16, block by block."""
    file, start = np.lib.format.open_memmap(path, "w+", np.float16, (n_regions, size)), 0
    for block in made_up_embeddings(made_up_kinds(n_regions, seed=seed), size, seed):
        file[start : start + len(block)] = block
        start += len(block)
    file.flush()
    return path


def costs_of(path: str, candidates: Sequence[int], seed: int) -> list[tuple[float, float]]:
    """In a fresh process: seconds and growth of memory of each of `PARTS`."""
    from ravl_core.discovery import Discovery, rank_clusters, score_clusters
    from ravl_core.intervals import finding_intervals
    from ravl_core.linear_kmedoids import cluster_many_regions
    from ravl_core.zero_shot import Evaluation

    regions = np.load(path, mmap_mode="r")
    index, labels, image_probs, region_probs = made_up_answers(len(regions), seed)
    done = {}

    def clustering():
        done["clusters"] = cluster_many_regions(regions, candidates, seed)

    def scoring():
        done["scores"] = score_clusters(done["clusters"].labels, index, labels, image_probs, region_probs)
        rank_clusters(done["scores"])

    def intervals():
        names = tuple(map(str, range(N_CLASSES)))
        boxes = np.zeros((len(index), 4), dtype=np.float32)
        evaluation = Evaluation(regions[:0], regions, index, boxes, labels, names, image_probs, region_probs)
        found = Discovery((), done["clusters"], done["scores"])
        finding_intervals(evaluation, found, int(done["scores"].gap.argmax()))

    return [timed(part) for part in (clustering, scoring, intervals)]


def made_up_answers(n_regions: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Image of each region (M,), labels (N,), and probabilities of images (N, C) and of regions (M, C)."""
    random = np.random.default_rng([seed, 3])
    index = np.arange(n_regions) // REGIONS_AN_IMAGE
    n_images = int(index[-1]) + 1
    labels = random.integers(N_CLASSES, size=n_images)
    answers = np.where(random.random(n_images) < 0.7, labels, random.integers(N_CLASSES, size=n_images))
    image_probs = np.full((n_images, N_CLASSES), 0.05, dtype=np.float32)
    image_probs[np.arange(n_images), answers] = 0.55
    region_probs = random.dirichlet(np.ones(N_CLASSES), n_regions).astype(np.float32)
    return index, labels, image_probs, region_probs
