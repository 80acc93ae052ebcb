"""Encoding: images and regions a second in every way there is, beside images alone; and memory over numbers of images.

python -m ravl_core.benchmarks.encoding --model RN50 --device cuda --images 512 --batch 128 --out speed.csv
python -m ravl_core.benchmarks.encoding --memory 500 1000 2000 --out memory.csv
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from ravl_core.domains.dataset import Dataset
    from ravl_core.vlm import VLM

FLOOR = "images alone"
ON_CPU = ("float32", "bfloat16")
# On GPUs torch lets convolutions use TF32 in what is called float32, and matrix products not.
ON_GPU = ("float32, no TF32", "float32", "TF32", "bfloat16")
TF32 = {"float32, no TF32": (False, False), "float32": (True, False), "TF32": (True, True)}  # convolutions, products
MEGABYTE = 1e6


# ---- speed ----


@dataclass(frozen=True)
class _Way:
    """A way to encode: it is called with "float32" or "bfloat16"."""

    name: str
    work: Callable[[str], object]
    n_images: int  # 0 where only regions are pooled
    n_regions: int


def encoding_speed(
    model: str = "rn-mini",
    device: str = "cpu",
    n_images: int = 64,
    regions_per_image: int = 8,
    batch_size: int = 32,
    n_rounds: int = 5,
    precisions: Sequence[str] | None = None,
    ways: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Time every way to encode images and their regions, beside the images alone.

    From arrays to arrays: "images alone", the floor; each pooling that the tower offers, "early", "late" or "patches",
    one pass for an image and its regions; "crop", where each region is an image of its own. On the device alone:
    "trunk"; for CLIP's ResNets "channels_last" and "contiguous", prepared images in two layouts of memory, the weights
    alike, and "first query" and "all queries", the regions' attention pool as it is here and as it was published. All
    are measured in turn in each round, after a round that does not count, and the median of the rounds is kept.

    Parameters
    ----------
    model : as `load_vlm` takes it; a name of open_clip's has random weights.
    device : "cpu" or "cuda".
    n_images, regions_per_image : of noise at the model's resolution, and boxes of any place.
    batch_size : images at a time; of attention pools, the regions of so many images.
    precisions : some of "float32" and "bfloat16"; on a GPU also "float32, no TF32" and "TF32". By default all.
    ways : some of them only.

    Returns
    -------
    DataFrame
        Columns model, device, threads, precision, way, images, regions, batch_ms, images_per_second,
        regions_per_second, of_floor (images a second, as a share of the floor's of that precision) and peak_mb (on a
        GPU all that was allocated, else what the process grew by; NaN where the system does not say).

    Raises
    ------
    ValueError
        An unknown model, device, precision or way, or a number below 1.
    """
    import pandas as pd
    import torch

    from ravl_core import checks
    from ravl_core.checkpoints import load_vlm

    sizes = {"n_images": n_images, "regions_per_image": regions_per_image, "batch_size": batch_size}
    for name, value in (sizes | {"n_rounds": n_rounds}).items():
        checks.whole_number(name, value, 1)
    torch.manual_seed(seed)
    vlm = load_vlm(model, device=device)
    offered = ON_GPU if vlm.device.type == "cuda" else ON_CPU
    precisions = [checks.choice("precisions", name, offered) for name in (precisions or offered)]
    found = _ways(vlm, _made_up(vlm.image_size, n_images, regions_per_image, seed), batch_size)
    chosen = [found[checks.choice("ways", name, found)] for name in (ways or found)]
    seconds, peaks = _measured(chosen, precisions, vlm.device, n_rounds)
    n_batches, rows = -(-n_images // batch_size), []
    for (way, precision), values in seconds.items():
        middle = median(values)
        rates = (way.n_images or np.nan) / middle, (way.n_regions or np.nan) / middle
        counts = way.n_images, way.n_regions, 1000 * middle / n_batches
        rows.append((precision, way.name, *counts, *rates, peaks[way, precision]))
    columns = [
        "precision",
        "way",
        "images",
        "regions",
        "batch_ms",
        "images_per_second",
        "regions_per_second",
        "peak_mb",
    ]
    table = pd.DataFrame(rows, columns=columns)
    floors = table[table.way == FLOOR].set_index("precision").images_per_second
    table.insert(7, "of_floor", table.images_per_second / table.precision.map(floors))
    name = torch.cuda.get_device_name(vlm.device) if vlm.device.type == "cuda" else vlm.device.type
    for column, value in (("threads", torch.get_num_threads()), ("device", name), ("model", model)):
        table.insert(0, column, value)
    return table


def _made_up(size: int, n_images: int, regions_per_image: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, S, S, 3) of noise, boxes (M, 4) that span a quarter to a half of each side, and the image of each."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n_images, size, size, 3), dtype=np.uint8)
    corner = random.uniform(0, 0.5, (n_images * regions_per_image, 2))
    boxes = np.concatenate([corner, corner + random.uniform(0.25, 0.5, corner.shape)], axis=1) * size
    return images, boxes.astype(np.float32), np.repeat(np.arange(n_images), regions_per_image)


def _ways(vlm: VLM, scene: tuple[np.ndarray, np.ndarray, np.ndarray], batch_size: int) -> dict[str, _Way]:
    from ravl_core.vlm import VLM

    images, n_images, n_regions = scene[0], len(scene[0]), len(scene[1])
    ways = [_Way(FLOOR, lambda precision: vlm.encode_images(images, batch_size, precision), n_images, 0)]
    for pooling in (*(vlm.tower.poolings if vlm.tower else ()), "crop"):
        other = VLM(vlm.clip, vlm.tokenizer, vlm.name, vlm.configuration, pooling).to(vlm.device).eval()
        work = lambda precision, other=other: other.encode(*scene, batch_size, precision)  # noqa: E731
        ways.append(_Way(pooling, work, n_images, n_regions))
    if vlm.tower:
        ways += _on_device(vlm, images, batch_size)
    if vlm.has_feature_map:
        ways += _attention_pools(vlm, n_regions, -(-n_regions // len(images)) * batch_size)
    return {way.name: way for way in ways}


def _on_device(vlm: VLM, images: np.ndarray, batch_size: int) -> list[_Way]:
    """Of images that are there and prepared; for ResNets in both layouts."""
    import torch

    from ravl_core.towers import tower_of

    with torch.inference_mode():
        prepared = vlm.prepare(torch.from_numpy(images).permute(0, 3, 1, 2))
    ways = [("trunk", vlm.tower.trunk, prepared)]
    if vlm.has_feature_map:
        plain = tower_of(copy.deepcopy(vlm.clip.visual).to(memory_format=torch.contiguous_format))
        ways.append(("channels_last", lambda part: vlm.tower.pool(vlm.tower.trunk(part)), prepared))
        ways.append(("contiguous", lambda part: plain.pool(plain.trunk(part)), prepared.contiguous()))
    return [_Way(name, _in_batches(work, given, batch_size), len(images), 0) for name, work, given in ways]


def _attention_pools(vlm: VLM, n_regions: int, at_a_time: int) -> list[_Way]:
    """For maps of layer4's size and layout, one a region."""
    import torch

    from ravl_core.towers import attention_pool

    pool, side = vlm.clip.visual.attnpool, vlm.image_size // 32
    maps = torch.randn(n_regions, pool.k_proj.in_features, side, side, device=vlm.device)
    maps = maps.contiguous(memory_format=torch.channels_last)
    works = {"first query": lambda part: attention_pool(pool, part), "all queries": pool}
    return [_Way(name, _in_batches(work, maps, at_a_time), 0, n_regions) for name, work in works.items()]


def _in_batches(work: Callable, given: torch.Tensor, batch_size: int) -> Callable[[str], None]:
    import torch

    @torch.inference_mode()
    def run(precision: str) -> None:
        with torch.autocast(given.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            for part in given.split(batch_size):
                work(part)

    return run


def _measured(
    ways: Sequence[_Way], precisions: Sequence[str], device: torch.device, n_rounds: int
) -> tuple[dict[tuple[_Way, str], list[float]], dict[tuple[_Way, str], float]]:
    """Seconds of each way in each precision and round, and the peak of memory in a round before, which warms up."""
    from ravl_core.progress import track

    turns = [(way, precision) for precision in precisions for way in ways]
    peaks = {turn: _peak_mb(turn[0].work, turn[1], device) for turn in track(turns, "warming up")}
    seconds = {turn: [] for turn in turns}
    for _ in track(range(n_rounds), "rounds of all ways"):
        for way, precision in turns:
            with _as_it_is_called(precision) as kind:
                start = time.perf_counter()
                way.work(kind)
                _wait(device)
                seconds[way, precision].append(time.perf_counter() - start)
    return seconds, peaks


@contextmanager
def _as_it_is_called(precision: str) -> Iterator[str]:
    """Let the GPU's products be as the name says; which of the two kinds that `VLM.encode` knows it is."""
    import torch

    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    for kind, allowed in zip(kinds, TF32.get(precision, before), strict=True):
        kind.allow_tf32 = allowed
    try:
        yield "bfloat16" if precision == "bfloat16" else "float32"
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mb(work: Callable[[str], object], precision: str, device: torch.device) -> float:
    import torch

    with _as_it_is_called(precision) as kind:
        if device.type == "cuda":
            _wait(device)
            torch.cuda.reset_peak_memory_stats(device)
            work(kind)
            _wait(device)
            return torch.cuda.max_memory_allocated(device) / MEGABYTE
        with suppress(OSError, AttributeError):  # elsewhere than on Linux
            ctypes.CDLL(None).malloc_trim(0)  # what is free, but was not given back, would hide what is needed
            Path("/proc/self/clear_refs").write_text("5")  # from now on, the highest is that since now
        before = _resident_mb("VmRSS")
        work(kind)
        return _resident_mb("VmHWM") - before


def _resident_mb(entry: str) -> float:
    """What Linux says of this process's memory; NaN elsewhere. Unlike getrusage's, its peak is not the parent's."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status[entry].split()[0]) * 1024 / MEGABYTE
    except (OSError, KeyError):
        return np.nan


# ---- memory ----


def encoding_memory(
    counts: Sequence[int] = (500, 1000, 2000), images_at_a_time: int = 250, model: str = "rn-mini", seed: int = 0
) -> pd.DataFrame:
    """Peak memory of encoding so many images with four regions each, to disk and in memory, in processes of their own.

    Parameters
    ----------
    counts : numbers of images, of noise at the model's resolution.
    images_at_a_time : of a part, for `encode_to_disk`; `evaluate` has all images in memory.

    Returns
    -------
    DataFrame
        Columns way ("to disk", "in memory"), images, images_at_a_time, peak_mb (with Python and torch; NaN where the
        system does not say), seconds (without starting Python).
    """
    import pandas as pd

    from ravl_core.progress import track

    asked = [(way, count, images_at_a_time, model, seed) for way in ("to disk", "in memory") for count in counts]
    rows = [(*each[:3], *_in_a_fresh_process(each)) for each in track(asked, "processes")]
    return pd.DataFrame(rows, columns=["way", "images", "images_at_a_time", "peak_mb", "seconds"])


def _in_a_fresh_process(asked: tuple) -> tuple[float, float]:
    call = "import sys; from ravl_core.benchmarks.encoding import peak_of; sys.stdout.write(peak_of(sys.argv[1]))"
    environment = os.environ | {"RAVL_PROGRESS": "off"}
    command = [sys.executable, "-c", call, json.dumps(asked)]
    return tuple(json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout))


def peak_of(asked: str) -> str:
    """In a fresh process: encode what `asked` says; the process's peak of memory in MB and the seconds, as JSON."""
    from ravl_core.checkpoints import load_vlm
    from ravl_core.shards import encode_to_disk
    from ravl_core.zero_shot import evaluate

    way, count, at_a_time, model, seed = json.loads(asked)
    vlm, start = load_vlm(model), time.perf_counter()
    if way == "in memory":
        evaluate(vlm, _made_up_set(vlm.image_size, count, seed))
    else:
        sizes = [min(at_a_time, count - first) for first in range(0, count, at_a_time)]
        with tempfile.TemporaryDirectory() as folder:
            parts = (_made_up_set(vlm.image_size, size, seed + at) for at, size in enumerate(sizes))
            encode_to_disk(vlm, parts, folder)
    return json.dumps((_resident_mb("VmHWM"), time.perf_counter() - start))


def _made_up_set(size: int, n_images: int, seed: int) -> Dataset:
    from ravl_core.domains.dataset import Dataset

    images, boxes, index = _made_up(size, n_images, 4, seed)
    return Dataset(
        images, np.arange(n_images) % 2, ("",) * n_images, ("cat", "dog"), ("a photo of a {}",), boxes, index
    )


# ---- command line ----


def main(arguments: list[str] | None = None) -> None:
    """Measure and write a table as csv."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="the table, as csv")
    add("--model", default="rn-mini", help="a name as load_vlm takes it; of open_clip's with random weights")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=1)
    add("--images", type=int, default=64)
    add("--regions", type=int, default=8, help="of each image")
    add("--batch", type=int, default=32)
    add("--rounds", type=int, default=5, help="in which everything has its turn; the median counts")
    add("--precisions", nargs="+", help=f"some of {', '.join(map(repr, ON_GPU))}; else all")
    add("--ways", nargs="+", help="some of them only")
    add("--memory", type=int, nargs="+", help="measure memory instead, for these numbers of images")
    asked = parser.parse_args(arguments)
    import torch

    from ravl_core.atomic import write_atomically

    torch.set_num_threads(asked.threads)
    try:
        if asked.memory:
            table = encoding_memory(asked.memory, model=asked.model)
        else:
            sizes = asked.images, asked.regions, asked.batch, asked.rounds
            table = encoding_speed(asked.model, asked.device, *sizes, asked.precisions, asked.ways)
    except ValueError as error:
        parser.error(str(error))
    write_atomically(Path(asked.out), table.to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    main()
