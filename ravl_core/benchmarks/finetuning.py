"""Fine-tuning: images a second of each recipe beside a bare CLIP step, and settings an hour.

python -m ravl_core.benchmarks.finetuning --device cuda --model RN50 --out rates.csv
python -m ravl_core.benchmarks.finetuning --settings 8 --device cuda --workers 1 2 4 8 16 --out settings.csv
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from ravl_core.domains.dataset import Dataset
    from ravl_core.mitigation.budget import Budget
    from ravl_core.mitigation.recipe import Recipe
    from ravl_core.tasks import Task
    from ravl_core.vlm import VLM

FLOOR = "bare step"
FEATURE = "red rectangle"
ON_CPU = ((1, 2), (2, 1))  # workers and the threads of each: two cores either way
FEW = {"n_finetuning": 800, "n_val": 300, "n_test": 400}  # images of a setting, as in the smoke profile


# ---- images a second ----


def recipe_rates(
    model: str = "rn-mini",
    device: str = "cpu",
    budget: Budget | None = None,
    n_images: int = 512,
    image_size: int | None = None,
    recipes: Sequence[str] | None = None,
    n_rounds: int = 5,
    pretrained: str | None = None,
) -> pd.DataFrame:
    """Images a second of the training loop for each recipe, beside the bare step, which is the floor.

    The bare step encodes a batch, takes CLIP's loss with the captions' embeddings given, and moves the weights of the
    part of the tower that is trained; where the trunk is locked, its features are given, too. Seconds of a step are the
    difference of a long run and one of a single epoch, so that nothing counts that is done once. All are measured in
    turn in each round, and the median of the rounds is kept.

    Parameters
    ----------
    model, pretrained : as `load_vlm` takes them; without a tag, a name of open_clip's has random weights.
    budget : its epochs, 2 or more, are those of the long run; by default 5 epochs of the whole tower.
    n_images : of the fine-tuning set: digits with a planted rectangle, whose true regions the recipes are told.
    image_size : side of the images in pixels; by default the model's own, so that none is resized in a step.
    recipes : names in `ravl_core.mitigation.RECIPES`; by default all.

    Returns
    -------
    DataFrame
        Columns recipe, images_per_second, times (of the bare step's time), step_seconds, and what it was measured with:
        model, device, image_size, trained, precision, batch_size, threads. The first row is the bare step.

    Raises
    ------
    ValueError
        A budget of less than two epochs, or an unknown recipe, model or device.
    """
    import pandas as pd
    import torch

    from ravl_core.checkpoints import load_vlm
    from ravl_core.checks import choice, whole_number
    from ravl_core.mitigation import RECIPES, Budget

    budget = budget or Budget(trained="tower")
    whole_number("budget.epochs", budget.epochs, 2)
    names = [choice("recipes", name, tuple(RECIPES)) for name in RECIPES] if recipes is None else recipes
    names = [choice("recipes", name, tuple(RECIPES)) for name in names]
    vlm = load_vlm(model, pretrained, device)
    dataset = planted(n_images, image_size or vlm.image_size)
    runs = {FLOOR: lambda chosen: bare_steps(vlm, dataset, chosen)}
    runs |= {name: _run(vlm, dataset, made_recipe(name, dataset)) for name in names}
    seconds = pd.Series(_seconds_of_steps(runs, budget, dataset, n_rounds))
    batch_size = min(budget.batch_size, len(dataset))
    figures = {"images_per_second": batch_size / seconds, "times": seconds / seconds[FLOOR], "step_seconds": seconds}
    return pd.DataFrame(figures).rename_axis("recipe").reset_index().assign(
        model=model, device=device_name(vlm.device), image_size=dataset.images.shape[1], trained=budget.trained,
        precision=budget.precision, batch_size=batch_size, threads=torch.get_num_threads(),
    )  # fmt: skip


def bare_steps(vlm: VLM, dataset: Dataset, budget: Budget) -> np.ndarray:
    """CLIP steps with nothing around them, on the loop's batches; their losses, (steps,)."""
    import numpy as np
    import torch

    from ravl_core.losses import clip_loss
    from ravl_core.mitigation.training import copy_of

    vlm = copy_of(vlm).eval().requires_grad_(False)
    texts = torch.from_numpy(vlm.encode_texts(list(dataset.captions))).to(vlm.device)  # (N, D)
    images = torch.from_numpy(dataset.images).permute(0, 3, 1, 2).contiguous().to(vlm.device)  # (N, 3, H, W)
    features = None if budget.trained == "tower" else _trunk_features(vlm, images)
    parameters = []
    for part in vlm.tower.parts(budget.trained):
        parameters += part.requires_grad_(True).train().parameters()
    optimizer = torch.optim.AdamW(parameters, lr=budget.learning_rate, weight_decay=budget.weight_decay)
    size, random, losses = min(budget.batch_size, len(images)), np.random.default_rng(0), []
    for _ in range(budget.epochs):
        order = torch.from_numpy(random.permutation(len(images))).to(vlm.device)
        for chosen in order[: len(order) // size * size].split(size):
            with torch.autocast(vlm.device.type, torch.bfloat16, enabled=budget.precision == "bfloat16"):
                given = vlm.trunk(vlm.prepare(images[chosen])) if features is None else features[chosen]
                loss = clip_loss(vlm.pool(given), texts[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses).float().cpu().numpy()  # which waits for a GPU to be done


def _trunk_features(vlm: VLM, images: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        features = torch.cat([vlm.trunk(vlm.prepare(part)) for part in images.split(256)])
    return features.contiguous(memory_format=torch.channels_last) if features.ndim == 4 else features


def planted(n_images: int, size: int) -> Dataset:
    """Digits with a planted rectangle, (N, size, size, 3), their boxes with them."""
    import numpy as np
    from PIL import Image

    from ravl_core.settings import Setting, build_setting

    dataset = build_setting(Setting(n_finetuning=n_images, n_val=20, n_test=20, strength=0.9)).finetuning
    if dataset.images.shape[1] == size:
        return dataset
    scale = size / np.array(dataset.images.shape[2:0:-1] * 2)  # of x, y, x, y
    images = np.stack([np.asarray(Image.fromarray(image).resize((size, size))) for image in dataset.images])
    return replace(dataset, images=images, boxes=(dataset.boxes * scale).astype(np.float32))


def made_recipe(name: str, dataset: Dataset) -> Recipe:
    """The recipe of that name, as plain as it comes, with the words that some need."""
    from ravl_core.mitigation import RECIPES
    from ravl_core.repairs import words_of_boxes

    words = {"spurious_aware": {"feature": FEATURE}, "language_guided": {"descriptions": words_of_boxes(dataset)}}
    return RECIPES[name](**words.get(name, {}))


def _run(vlm: VLM, dataset: Dataset, recipe: Recipe) -> Callable[[Budget], object]:
    from ravl_core.mitigation import finetune

    return lambda budget: finetune(vlm, dataset, recipe, dataset.shows_feature, budget)


def _seconds_of_steps(runs: dict[str, Callable], budget: Budget, dataset: Dataset, n_rounds: int) -> dict[str, float]:
    """Seconds of a step of each kind: the median over rounds, in each of which every kind has its turn."""
    from ravl_core.progress import track

    short = replace(budget, epochs=1)
    n_steps = (budget.epochs - 1) * (len(dataset) // min(budget.batch_size, len(dataset)))
    seconds = {name: [] for name in runs}
    for run in runs.values():
        run(short)  # what is slow only the first time
    for _ in track(range(n_rounds), "rounds of all recipes"):
        for name, run in runs.items():
            once, whole = (_timed(run, each) for each in (short, budget))
            seconds[name].append((whole - once) / n_steps)
    return {name: median(values) for name, values in seconds.items()}


def _timed(work: Callable, *arguments) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def device_name(device: torch.device) -> str:
    """What a table calls a device: the processor's kind is left out, a GPU has its name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


# ---- settings an hour ----


def settings_per_hour(
    n_settings: int = 6,
    plans: Iterable[tuple[int, int]] = ON_CPU,
    device: str = "cpu",
    tasks: Sequence[Task] | None = None,
) -> pd.DataFrame:
    """How many settings an hour brings: planted, fine-tuned, evaluated, discovered by all methods, measured.

    Each plan runs twice in processes of its own, with one setting a worker and with all of them. The difference is
    what the settings beyond the first of each worker take, without the start of Python, torch and a GPU.

    Parameters
    ----------
    n_settings : as many as workers do not suffice: a worker's first is not counted.
    plans : (workers, threads of each).
    device : "cpu", or "cuda", which all workers share.
    tasks : other settings than `few_tasks`.

    Returns
    -------
    DataFrame
        Columns workers, threads, device, settings, seconds, settings_per_hour; settings are those that count.

    Raises
    ------
    ValueError
        There are no more settings than workers.
    RuntimeError
        A setting failed; the message is its traceback.
    """
    import pandas as pd
    import torch

    from ravl_core.progress import track

    tasks, plans, rows = list(few_tasks(n_settings) if tasks is None else tasks), list(plans), []
    if (most := max(workers for workers, _ in plans)) >= len(tasks):
        raise ValueError(f"n_settings: expected more than workers, {most}, got {len(tasks)}")
    for workers, threads in track(plans, "plans"):
        first, all_of_them = (_seconds_of_study(few, workers, threads, device) for few in (tasks[:workers], tasks))
        counted, seconds = len(tasks) - workers, all_of_them - first
        rows.append((workers, threads, device_name(torch.device(device)), counted, seconds, 3600 * counted / seconds))
    return pd.DataFrame(rows, columns=["workers", "threads", "device", "settings", "seconds", "settings_per_hour"])


def few_tasks(n_settings: int) -> list[Task]:
    """Settings of the smoke profile's size, one class after the other."""
    from ravl_core.mitigation.budget import Budget
    from ravl_core.settings import Setting
    from ravl_core.tasks import Task

    settings = (Setting(attribute=seed % 10, strength=0.9, seed=seed, **FEW) for seed in range(n_settings))
    return [Task(setting, Budget(epochs=3)) for setting in settings]


def _seconds_of_study(tasks: Sequence[Task], workers: int, threads: int, device: str) -> float:
    """In a process of its own, so that a single worker, too, begins with nothing loaded."""
    from joblib.externals.loky import ProcessPoolExecutor

    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1) as fresh:
        start = time.perf_counter()
        failures = fresh.submit(_failures, tasks, folder, workers, threads, device).result()
        seconds = time.perf_counter() - start
    if failures:
        raise RuntimeError(next(iter(failures.values())))
    return seconds


def _failures(tasks: Sequence[Task], folder: str, workers: int, threads: int, device: str) -> dict[str, str]:
    from ravl_core.study import run_study

    os.environ["RAVL_PROGRESS"] = "off"
    return run_study(tasks, folder, workers, threads=threads, device=device).failures


# ---- command line ----


def main(arguments: list[str] | None = None) -> None:
    """Measure and write a table as csv."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    from ravl_core.atomic import write_atomically

    try:
        table = _table(asked)
    except ValueError as error:
        parser.error(str(error))
    write_atomically(Path(asked.out), table.to_csv(index=False, float_format="%.6g"))


def _table(asked: argparse.Namespace) -> pd.DataFrame:
    import torch

    from ravl_core.mitigation.budget import Budget

    torch.set_num_threads(asked.threads)
    if asked.settings:
        plans = ON_CPU if asked.workers is None else [(workers, asked.threads) for workers in asked.workers]
        return settings_per_hour(asked.settings, plans, asked.device)
    budget = Budget(asked.epochs, asked.batch, trained=asked.trained, precision=asked.precision)
    sizes = {"n_images": asked.images, "image_size": asked.size, "n_rounds": asked.rounds}
    return recipe_rates(asked.model, asked.device, budget, recipes=asked.recipes, pretrained=asked.pretrained, **sizes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--out", required=True, help="the table, as csv")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=1, help="of this process; with --workers, of each of them")
    add("--model", default="rn-mini", help="a name as load_vlm takes it; without --pretrained random weights")
    add("--pretrained", help="open_clip's tag")
    add("--trained", default="tower", help="tower, head or pool")
    add("--precision", default="float32", help="float32 or bfloat16")
    add("--recipes", nargs="+", help="names of recipes; else all")
    add("--images", type=int, default=512, help="of the fine-tuning set")
    add("--size", type=int, help="side of the images in pixels; else the model's own")
    add("--batch", type=int, default=128)
    add("--epochs", type=int, default=5, help="of the long run; the short one has a single epoch")
    add("--rounds", type=int, default=5, help="in which everything has its turn; the median counts")
    add("--settings", type=int, help="measure settings an hour instead, with so many of them")
    add("--workers", type=int, nargs="+", help="numbers of processes; else 1 of 2 threads and 2 of one thread")
    return parser


if __name__ == "__main__":
    main()
