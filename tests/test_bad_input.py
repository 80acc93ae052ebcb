"""Bad input at every entry that a user calls: an error that names the argument, or a result that is defined.

Each case prepares its input and gives back the call. Before and after the call the folder has to be the same, byte by
byte: a call that is refused writes nothing, changes nothing and leaves nothing behind.
"""

import errno
import gzip
import json
import os
import runpy
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from checkpoints_made_here import clip_of, register
from coco_made_here import photographs_of_all_kinds, write_coco_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up_audit import made_up_audit, made_up_images
from PIL import Image
from recipe_runs import few_classes, some
from safetensors.torch import save_file
from tiny import noise, tiny_vlm

import ravl_core as rc
from ravl_core import records, reproduce, study
from ravl_core.domains import files, load_domain
from ravl_core.domains.coco import Coco
from ravl_core.domains.coco_folder import read_coco_folder
from ravl_core.domains.mnist import read_idx
from ravl_core.language.cached import describe
from ravl_core.language.description import Description
from ravl_core.language.teachers import from_function
from ravl_core.mitigation import RECIPES, Budget
from ravl_core.mitigation.recipe import Recipe
from ravl_core.profiles import profile
from ravl_core.repairs import Repair

ARRAYS = ("region_embeddings", "image_index", "labels", "image_probs", "region_probs")
SHORT = Budget(epochs=1, batch_size=6)
QUICK = {"n_permutations": 19, "thorough": False}
SMALL = rc.Setting(n_finetuning=400, n_val=40, n_test=40)
CLASSES = ("cat", "dog")


@dataclass(frozen=True)
class Place:
    """A folder of the test's own, and the test's way to change things for its time."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def write(self, name, content):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def below_a_file(self):
        """A path at which nobody can write, not even root."""
        return self.write("taken", "kept") / "new"

    def full_disk(self):
        """From now on writing fails when half of it is done."""

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        self.monkeypatch.setattr(os, "fsync", fail)

    def pets(self):
        """A folder of images for each class."""
        for name in CLASSES:
            for at in range(2):
                path = self.folder / "pets" / name / f"{at}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(noise(1, 16, 20, seed=at)[0]).save(path)
        return self.folder / "pets"

    def table(self, text):
        """A csv beside those images."""
        self.pets()
        return self.write("pets.csv", text)


def contents(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def frozen(array):
    array.setflags(write=False)
    return array


@cache
def problem():
    """Stage 1's five arrays, which nobody can change."""
    return {name: frozen(getattr(oracles.ragged_problem(0), name)) for name in ARRAYS}


@cache
def vlm():
    return tiny_vlm()


@cache
def data():
    """Twelve digits of three classes, four regions each, which nobody can change."""
    made = few_classes(12)
    return replace(made, **{name: frozen(getattr(made, name)) for name in ("images", "labels", "boxes", "image_index")})


@cache
def spurious():
    return frozen(some(48))


@cache
def audited():
    return made_up_audit()


def rows(n_images):
    """The first images of the data, with their regions."""
    n_regions = 4 * n_images
    parts = {name: getattr(data(), name)[:n_images] for name in ("images", "labels", "captions")}
    return replace(data(), **parts, **{name: getattr(data(), name)[:n_regions] for name in ("boxes", "image_index")})


def no_regions():
    return replace(data(), boxes=data().boxes[:0], image_index=data().image_index[:0])


# ---- how the cases call ----


def discovering(**change):
    return lambda place: lambda: rc.discover(**problem() | change)


def scoring(cluster_labels):
    rest = {name: array for name, array in problem().items() if name != "region_embeddings"}
    return lambda place: lambda: rc.score_clusters(cluster_labels, **rest)


def evaluating(change=None, **options):
    return lambda place: lambda: rc.evaluate(vlm(), replace(data(), **change or {}), **options)


def training(change=None, assignment=..., budget=SHORT, **options):
    def prepare(place):
        chosen = spurious() if assignment is ... else assignment
        options_of = {"budget": budget} | options
        return lambda: rc.mitigate(vlm(), replace(data(), **change or {}), chosen, **options_of)

    return prepare


def budgeted(**change):
    return lambda place: lambda: rc.mitigate(vlm(), data(), spurious(), budget=replace(SHORT, **change))


def planting(**change):
    return lambda place: lambda: rc.build_setting(replace(SMALL, **change))


def loss_of(temperature=0.07, **change):
    def prepare(place):
        embeddings = torch.nn.functional.normalize(torch.arange(24.0).reshape(6, 4) - 7, dim=1)
        images, labels = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 2])
        sides = {"region_embeddings": embeddings, "class_embeddings": embeddings[[0, 3, 5]]}
        batch = sides | {"image_index": images, "labels": labels, "spurious": torch.tensor([True, False] * 3)}
        batch |= {name: value(batch[name]) for name, value in change.items()}
        return lambda: rc.RegionAwareLoss(temperature)(**batch)

    return prepare


def auditing(model=None, images=None, classes=CLASSES, labels=None, **options):
    def prepare(place):
        shown, own = noise(6) if images is None else images, np.arange(6) % 2 if labels is None else labels
        return lambda: rc.audit(vlm() if model is None else model, shown, classes, own, **QUICK | options)

    return prepare


def reading(**options):
    return lambda place: (lambda source: lambda: rc.read_images(source, **{"size": 16} | options))(place.pets())


def of_table(text, **options):
    return lambda place: (lambda path: lambda: rc.read_images(path, size=16, **options))(place.table(text))


COCO = {
    "images": [{"id": 1, "file_name": "pets/cat/0.png"}, {"id": 2, "file_name": "pets/dog/0.png"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"image_id": at, "category_id": at, "bbox": [0, 0, 9, 9]} for at in (1, 2)],
}


def of_coco(**change):
    def prepare(place):
        place.pets()
        path = place.write("pets.json", json.dumps(COCO | change))
        return lambda: rc.read_images(path, size=16)

    return prepare


def loading(name, **options):
    return lambda place: lambda: rc.load_vlm(name, **options)


@cache
def weights(name):
    return {key: value.contiguous() for key, value in clip_of(name).state_dict().items()}


def checkpoint(change=lambda state: state, cut=lambda content: content, name="tiny-rn"):
    """Load a model with weights that were changed, or whose file was."""

    def prepare(place):
        register(place.folder)
        path = place.folder / "weights.safetensors"
        save_file(change(weights("tiny-rn")), path)
        path.write_bytes(cut(path.read_bytes()))
        return lambda: rc.load_vlm(name, pretrained=str(path))

    return prepare


def idx(content):
    return lambda place: (lambda path: lambda: read_idx(path))(place.write("digits.gz", content))


def answers(content):
    """Ask a teacher whose answers are kept in a file of that content."""

    def prepare(place):
        path, teacher = place.write("answers.jsonl", content), from_function(lambda *_: 3, "nobody")
        return lambda: describe(teacher, noise(1), path=path)

    return prepare


def command(main, *arguments):
    """Run a command in this process; its exit status has to be 2, and what it says is the error."""

    def prepare(place):
        place.monkeypatch.setenv("RAVL_HOME", str(place.folder))
        place.monkeypatch.delenv("RAVL_PROFILE", raising=False)
        words = [word.format(folder=place.folder) for word in arguments]
        place.monkeypatch.setattr(sys, "argv", ["command", *words])
        said = []
        place.monkeypatch.setattr(sys, "stderr", type("Said", (), {"write": said.append, "flush": lambda: None}))

        def run():
            try:
                status = main()
            except SystemExit as stop:
                status = stop.code
            assert status == 2
            raise ValueError("".join(said))

        return run

    return prepare


def audit_command():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the function of that name may be loaded
        runpy.run_module("ravl_core.audit", run_name="__main__")


def reproduce_command():
    return reproduce.main(sys.argv[1:])


class BalancedWithoutGroups(Recipe):
    """A user's own recipe, which asks for batches from groups that nobody told it of."""

    balanced = True


def spoilt(name):
    """Weights of which one array is NaN."""
    return lambda state: {**state, name: torch.full_like(state[name], torch.nan)}


# ---- refused: what is prepared and called, what the message says, and the kind of error where it is no ValueError ----

STAGE_1 = {
    "embeddings: 3e-3 too long": (
        discovering(region_embeddings=1.003 * problem()["region_embeddings"]),
        "region_emb.*1.003",
    ),
    "embeddings: a row of zeros": (
        discovering(region_embeddings=np.zeros((9, 4))),
        "region_embeddings: .* norm 0 in row 0",
    ),
    "embeddings: no columns": (discovering(region_embeddings=np.empty((9, 0))), "region_embeddings: .*norm 0"),
    "embeddings: the name of a file": (discovering(region_embeddings="regions.npy"), "region_embeddings: .*dtype <U"),
    "embeddings: rows of several lengths": (
        discovering(region_embeddings=[[1.0, 0], [1.0]]),
        "region_embeddings: .*array",
    ),
    "embeddings: a tensor with a gradient": (
        discovering(region_embeddings=torch.eye(4, requires_grad=True)),
        "region_embeddings: expected an array, got Tensor: .*detach",
    ),
    "arrays: none but the first": (lambda place: lambda: rc.discover(np.eye(3)), "image_probs: .*dtype object"),
    "arrays: five empty lists": (lambda place: lambda: rc.discover(*[[]] * 5), r"image_probs: .*shape \(0,\)"),
    "arrays: beside an evaluation": (
        lambda place: lambda: rc.discover(oracles.ragged_problem(0), problem()["image_index"]),
        "region_embeddings: expected an array where other arrays are given",
    ),
    "candidates: one number": (discovering(candidates=5), "candidates: expected a sequence of integers, got 5"),
    "candidates: a fraction": (discovering(candidates=[2, 2.5]), "candidates: .*got 2.5"),
    "candidates: none at all, as None": (
        lambda place: lambda: rc.cluster_regions(np.eye(4), None),
        "candidates: .*got None",
    ),
    "start: misspelt": (
        lambda place: lambda: rc.cluster_regions(np.eye(4), [2], start="spraed"),
        "start: .*did you mean 'spread'",
    ),
    "threshold: NaN": (discovering(influence_threshold=np.nan), "influence_threshold: .*got nan"),
    "seed: negative": (discovering(seed=-1), "seed: expected an integer of 0 or more, got -1"),
    "seed: None, which would be chance": (discovering(seed=None), "seed: .*got None"),
    "clusters: the number of a book": (
        scoring(np.full(len(problem()["image_index"]), 2**40)),
        "cluster_labels: .* to 1048576",
    ),
    "clusters: too few": (scoring(np.zeros(3, dtype=int)), "cluster_labels: expected length .*got length 3"),
    "regions to assign: of another model": (
        lambda place: lambda: rc.assign_regions(rc.discover(**problem()), np.eye(3)),
        "stage1_region_embeddings: expected .* columns",
    ),
}
MEASURES = {
    "rank: of a region that is not there": (
        lambda place: lambda: rc.precision_at_k([2], [True, False]),
        "ranked_regions: .*2",
    ),
    "rank: first 0": (lambda place: lambda: rc.precision_at_k([0], [True], k=0), "k: .*got 0"),
    "rank: shares for truths": (lambda place: lambda: rc.precision_at_k([0], [0.5]), "shows_feature: .*booleans"),
    "groups: no class": (lambda place: lambda: rc.group_accuracies([], [], [], 0), "n_classes: .*got 0"),
    "groups: a label below 0": (lambda place: lambda: rc.group_accuracies([True], [-1], [True], 2), "labels: .*-1"),
    "interval: of nothing": (lambda place: lambda: rc.bootstrap_interval([]), "values: expected at least one"),
    "interval: of words": (
        lambda place: lambda: rc.bootstrap_interval(["a", "b"]),
        "statistic: .*values, which are <U1",
    ),
    "interval: of rows of several lengths": (
        lambda place: lambda: rc.bootstrap_interval([[1], [2, 3]]),
        "values: .*array",
    ),
    "interval: 95 for 0.95": (
        lambda place: lambda: rc.bootstrap_interval([1, 2], level=95),
        "level: .*from 0 to 1, got 95",
    ),
    "interval: the name of a statistic": (
        lambda place: lambda: rc.bootstrap_interval([1, 2], statistic="mean"),
        "statistic: expected a function",
    ),
    "interval: two numbers for one": (
        lambda place: lambda: rc.bootstrap_interval([1, 2], statistic=lambda values: values),
        "statistic: expected one number",
    ),
    "interval: seed in words": (lambda place: lambda: rc.bootstrap_interval([1, 2], seed="x"), "seed: .*got 'x'"),
    "interval: too few groups": (lambda place: lambda: rc.bootstrap_interval([1, 2], groups=[1]), "groups: .*length 2"),
}
LOSSES = {
    "loss: temperature 0": (loss_of(temperature=0), "temperature: expected a finite number above 0, got 0"),
    "loss: temperature in words": (loss_of(temperature="cold"), "temperature: .*got 'cold'"),
    "loss: lists for tensors": (loss_of(labels=torch.Tensor.tolist), "labels: expected a tensor, got list"),
    "loss: NumPy for tensors": (loss_of(region_embeddings=torch.Tensor.numpy), "region_embeddings: .*got ndarray"),
    "loss: halves beside floats": (loss_of(region_embeddings=torch.Tensor.half), "same floating-point type.*float16"),
    "loss: integers": (
        loss_of(region_embeddings=torch.Tensor.int, class_embeddings=torch.Tensor.int),
        "got torch.int32",
    ),
    "loss: numbers for truths": (loss_of(spurious=torch.Tensor.float), "spurious: expected a boolean tensor"),
    "loss: no classes": (loss_of(class_embeddings=lambda rows: rows[:0]), "labels: expected indices in 0…-1"),
    "loss: no images": (loss_of(labels=lambda rows: rows[:0]), "image_index: expected indices"),
}
MODELS = {
    "model: misspelt": (loading("RN50-quikgelu"), "did you mean 'RN50-quickgelu'"),
    "model: None": (loading(None), "name: no model is called 'None'"),
    "model: a folder that is not there": (
        loading("local-dir:nowhere"),
        "name: nowhere is no folder",
        FileNotFoundError,
    ),
    "model: a folder of images": (
        lambda place: (lambda folder: lambda: rc.load_vlm(f"local-dir:{folder}"))(place.pets()),
        "pets is no folder with a model",
        FileNotFoundError,
    ),
    "model: a folder without its prefix": (
        lambda place: (lambda folder: lambda: rc.load_vlm(folder))(place.pets()),
        "say 'local-dir:",
    ),
    "model: pooling misspelt": (loading("rn-mini", pooling="erly"), "pooling: .*did you mean 'early'"),
    "model: pooling of another tower": (loading("rn-mini", pooling="patches"), "pooling: .*offers early"),
    "model: a device that is none": (loading("rn-mini", device="gpu"), "device: expected one .*got 'gpu'"),
    "model: a device that is not here": (loading("rn-mini", device="cuda:99"), "device: .*got 'cuda:99'"),
    "weights: no safetensors": (
        checkpoint(cut=lambda content: b"not a tensor" * 9),
        "weights.safetensors: expected a file",
    ),
    "weights: an empty file": (checkpoint(cut=lambda content: b""), "weights.safetensors: expected a file"),
    "weights: half a file": (
        checkpoint(cut=lambda content: content[: len(content) // 2]),
        "weights.safetensors: expected",
    ),
    "weights: of another model": (checkpoint(name="tiny-vit"), r"do not fit tiny-vit: \d+ missing"),
    "weights: one missing": (
        checkpoint(lambda state: {key: value for key, value in state.items() if key != "text_projection"}),
        r"1 missing \(text_projection\)",
    ),
    "weights: NaN": (
        checkpoint(spoilt("text_projection")),
        "weights.safetensors: expected finite .*text_projection",
    ),
    "saving: onto a folder": (
        lambda place: (lambda folder: lambda: rc.save_vlm(vlm(), folder))(place.pets()),
        "folder: .*pets exists already; nothing was written",
        FileExistsError,
    ),
    "saving: below a file": (
        lambda place: (lambda folder: lambda: rc.save_vlm(vlm(), folder))(place.below_a_file()),
        "taken",
        OSError,
    ),
    "saving: as the name of a type": (
        lambda place: lambda: rc.save_vlm(vlm(), place.folder / "new", dtype="float16"),
        "dtype: .*got 'float16'",
    ),
    "saving: as integers": (
        lambda place: lambda: rc.save_vlm(vlm(), place.folder / "new", dtype=torch.int8),
        "dtype: .*got torch.int8",
    ),
    "saving: a name for a model": (
        lambda place: lambda: rc.save_vlm("rn-mini", place.folder / "new"),
        "vlm: .*'rn-mini'",
    ),
}
EVALUATIONS = {
    "data: another thing": (
        lambda place: lambda: rc.evaluate(vlm(), data().images),
        "dataset: expected a Dataset, got ndarray",
    ),
    "data: a name for a model": (
        lambda place: lambda: rc.evaluate("rn-mini", data()),
        "vlm: expected a model.*'rn-mini'",
    ),
    "images: floats": (evaluating({"images": data().images / 255}), "images: expected uint8 .*got float64"),
    "images: without pixels": (
        evaluating({"images": data().images[:, :0]}),
        r"images: expected uint8 .*\(12, 0, 56, 3\)",
    ),
    "images: channels first": (
        evaluating({"images": data().images.transpose(0, 3, 1, 2)}),
        r"images: .*\(12, 3, 56, 56\)",
    ),
    "labels: above the last class": (
        evaluating({"labels": data().labels + 1}),
        "labels: expected integers from 0 to 2",
    ),
    "labels: too few": (evaluating({"labels": data().labels[:-1]}), "labels: expected length 12, as images"),
    "labels: fractions": (evaluating({"labels": data().labels / 2}), "labels: expected integers, got dtype float64"),
    "class names: one twice": (evaluating({"class_names": ("a", "b", "a")}), "class_names: .*do not repeat"),
    "class names: one blank": (evaluating({"class_names": ("a", "b", " ")}), "class_names: .*not empty"),
    "class names: numbers": (evaluating({"class_names": (0, 1, 2)}), r"class_names: .*got \(0, 1, 2\)"),
    "class names: one word": (evaluating({"class_names": "abc"}), "class_names: .*got 'abc'"),
    "class names: none": (evaluating({"class_names": ()}), r"class_names: .*got \(\)"),
    "prompts: no place for the name": (evaluating({"templates": ("{}", "a photo")}), r"templates: .*got \['a photo'\]"),
    "prompts: another place": (evaluating({"templates": ("{} in {place}",)}), "templates: .*nothing else to fill in"),
    "prompts: a brace alone": (evaluating({"templates": ("{} {",)}), "templates: each needs a {}"),
    "prompts: one text, not a list": (
        evaluating({"templates": "a photo of a {}"}),
        "templates: .*got 'a photo of a {}'",
    ),
    "boxes: outside": (evaluating({"boxes": data().boxes + 1}), r"boxes: expected boxes within \(0, 0, 56, 56\)"),
    "boxes: without area": (evaluating({"boxes": data().boxes * [1, 1, 0, 1]}), "boxes: expected x1 < x2 and y1 < y2"),
    "boxes: too few": (evaluating({"boxes": data().boxes[:-1]}), "image_index: expected length 47, as boxes"),
    "boxes: not image by image": (
        evaluating({"image_index": data().image_index[::-1]}),
        "image_index: expected a non-dec",
    ),
    "temperature: 0": (evaluating(temperature=0), "temperature: .*got 0"),
    "temperature: NaN": (evaluating(temperature=np.nan), "temperature: .*got nan"),
    "batches: of none": (lambda place: lambda: vlm().encode_images(data().images, batch_size=0), "batch_size: .*got 0"),
}
TRAINING = {
    "recipe: misspelt": (training(recipe="ravel"), "recipe: .*did you mean 'ravl'"),
    "recipe: an option misspelt": (training(clip_wieght=1), "option of 'ravl': .*did you mean 'clip_weight'"),
    "recipe: an option of another recipe": (
        training(recipe="standard", balanced=True),
        "option of 'standard': .*'balanced'",
    ),
    "recipe: balanced, without an assignment": (
        training(assignment=None, balanced=True),
        "assignment: RegionAware needs",
    ),
    "recipe: balanced, without groups": (
        lambda place: lambda: rc.finetune(vlm(), data(), BalancedWithoutGroups(), spurious(), SHORT),
        "recipe: BalancedWithoutGroups draws .*needs_assignment",
    ),
    "recipe: its name, for itself": (
        lambda place: lambda: rc.finetune(vlm(), data(), "ravl"),
        "recipe: .*got str 'ravl'",
    ),
    "assignment: numbers of regions": (training(assignment=np.arange(3)), r"assignment: .*int64 of shape \(3,\)"),
    "assignment: one value an image": (training(assignment=np.ones(12, dtype=bool)), r"assignment: expected \(48,\)"),
    "budget: epochs below 0": (budgeted(epochs=-1), "epochs: .*got -1"),
    "budget: one and a half epochs": (budgeted(epochs=1.5), "epochs: .*got 1.5"),
    "budget: batches of none": (budgeted(batch_size=0), "batch_size: .*got 0"),
    "budget: a rate below 0": (budgeted(learning_rate=-1e-3), "learning_rate: .*got -0.001"),
    "budget: a rate in words": (budgeted(learning_rate="fast"), "learning_rate: .*got 'fast'"),
    "budget: a part misspelt": (budgeted(trained="haed"), "trained: .*did you mean 'head'"),
    "budget: a number": (training(budget=5), "budget: expected a Budget, got int 5"),
    "training: seed below 0": (training(seed=-1), "seed: .*got -1"),
    "training: no images": (
        lambda place: lambda: rc.mitigate(vlm(), rows(0), spurious()[:0], budget=SHORT),
        "dataset: expected at least one image, got none",
    ),
    "training: float images": (training({"images": data().images / 255}), "images: expected uint8"),
    "training: labels as a list": (
        training({"labels": data().labels.tolist()}),
        "labels: expected a NumPy array, got list",
    ),
    "training: labels above the last class": (
        training({"labels": data().labels + 1}),
        "labels: expected integers from 0",
    ),
    "training: boxes outside": (training({"boxes": data().boxes + 1}), "boxes: expected boxes within"),
    "training: regions not image by image": (
        training({"image_index": data().image_index[::-1]}),
        "image_index: .*non-dec",
    ),
    "training: too few captions": (training({"captions": data().captions[1:]}), "captions: .*an image, 12, got 11"),
    "training: no captions": (training({"captions": None}), "captions: .*got None"),
    "training: prompts without a place": (training({"templates": ("a photo",)}), "templates: each needs a {}"),
    "training: a class twice": (training({"class_names": ("a", "a", "b")}), "class_names: .*do not repeat"),
    "repair row: no round": (lambda place: lambda: Repair(rounds=0), "rounds: expected an integer of 1 or more, got 0"),
    "repair row: half a round": (lambda place: lambda: Repair(rounds=1.5), "rounds: .*got 1.5"),
    "repair row: a recipe misspelt": (lambda place: lambda: Repair(recipe="swap"), "recipe: .*did you mean 'swaps'"),
    "repair row: a rate of 0": (lambda place: lambda: Repair(learning_rate=0), "learning_rate: .*above 0"),
}
SETTINGS = {
    "setting: a domain misspelt": (planting(domain="digit"), "domain: .*did you mean 'digits'"),
    "setting: no domain": (planting(domain=None), "domain: no domain is called None"),
    "setting: a feature misspelt": (planting(feature="red rectangel"), "feature: .*did you mean 'red rectangle'"),
    "setting: a class by its name": (
        planting(attribute="nine"),
        "attribute: expected a class index in 0…9, got 'nine'",
    ),
    "setting: between two classes": (planting(attribute=2.5), "attribute: .*got 2.5"),
    "setting: V = 1": (planting(strength=1), r"strength: Cramér's V lies in \[0, 1\), got 1"),
    "setting: V below 0": (planting(strength=-0.5), "strength: .*got -0.5"),
    "setting: V in words": (planting(strength="strong"), "strength: .*got 'strong'"),
    "setting: V that so few cannot show": (planting(n_finetuning=20), "strength: V = 0.95 cannot be reached"),
    "setting: fewer than none": (planting(n_val=-1), "n_val: .*got -1"),
    "setting: half an image": (planting(n_test=10.5), "n_test: .*got 10.5"),
    "setting: seed below 0": (planting(seed=-1), "seed: .*got -1"),
    "profile: misspelt": (lambda place: lambda: profile("dmo"), "profile: .*did you mean 'demo'"),
    "domain: a split misspelt": (
        lambda place: lambda: load_domain("digits").compose("tset", [0], [True], 0, "red rectangle"),
        "split: .*did you mean 'test'",
    ),
}


def coco_domain(n_each, n_images):
    """Ask a COCO folder of so many photographs of each kind for so many with a class and the feature."""

    def prepare(place):
        folder = write_coco_folder(place.folder / "coco", photographs_of_all_kinds(n_each))
        labels, present = np.zeros(n_images, dtype=int), np.ones(n_images, dtype=bool)
        return lambda: Coco(folder=folder).compose("finetuning", labels, present, 0, "chair")

    return prepare


def coco_folder(change):
    """Read a COCO folder whose annotations were changed, a text in and out."""

    def prepare(place):
        folder = write_coco_folder(place.folder / "coco", photographs_of_all_kinds(1))
        path = folder / "annotations.json"
        path.write_text(change(path.read_text()))
        return lambda: read_coco_folder(folder)

    return prepare


def missing(name, feature):
    """A domain whose data are in no folder and cannot be fetched."""

    def prepare(place):
        place.monkeypatch.setenv("RAVL_DATA", str(place.folder / "nowhere"))
        place.monkeypatch.setattr(files, "SOURCES", dict.fromkeys(files.SOURCES, ()))
        return lambda: rc.build_setting(replace(SMALL, domain=name, feature=feature, attribute=0))

    return prepare


def other_bytes(place):
    """MNIST's files, of which the first is another file under its name."""
    for name in files.SHA256["mnist"]:
        place.write(f"mnist/{name}", gzip.compress(b"somebody else's"))
    place.monkeypatch.setenv("RAVL_DATA", str(place.folder))
    return lambda: rc.build_setting(replace(SMALL, domain="mnist"))


def head(*numbers):
    return np.array(numbers, dtype=">u4").tobytes()


DOMAIN_FILES = {
    "idx: no gzip": (idx(b"plain"), "digits.gz: expected a whole gzip file"),
    "idx: half a gzip": (idx(gzip.compress(head(2049, 9) + bytes(9))[:-9]), "digits.gz: expected a whole gzip file"),
    "idx: nothing in it": (idx(gzip.compress(b"")), "digits.gz: expected magic number 2049 .*got 0"),
    "idx: another magic number": (idx(gzip.compress(head(2050, 1))), "digits.gz: expected magic number .*got 2050"),
    "idx: shorter than it says": (idx(gzip.compress(head(2049, 9) + bytes(8))), "expected 17 bytes .*got 16"),
    "idx: claims the whole memory": (idx(gzip.compress(head(2051, *[2**32 - 1] * 3))), r"expected \d{29} bytes"),
    "idx: other bytes under a known name": (other_bytes, "expected a file with SHA256"),
    "idx: nowhere": (missing("mnist", "red rectangle"), "could not be had. Let RAVL_DATA", FileNotFoundError),
    "coco: nowhere": (missing("coco", "chair"), "no COCO folder: none of .*nowhere", FileNotFoundError),
    "coco: more photographs than there are": (coco_domain(4, 9), r"too few photographs .*9 wanted, 2 there"),
    "coco: cut short": (coco_folder(lambda text: text[:-9]), "annotations.json: expected JSON"),
    "coco: a list": (coco_folder(lambda text: "[]"), "annotations.json: expected COCO's instances format"),
    "coco: an image that is not there": (
        coco_folder(lambda text: text.replace("0.png", "gone.png")),
        "names an image that is not there",
        FileNotFoundError,
    ),
    "coco: boxes of an image that it does not list": (
        coco_folder(lambda text: text.replace('"image_id": 0', '"image_id": 99')),
        "boxes of images that it does not list",
    ),
}
READING = {
    "source: nowhere": (
        lambda place: lambda: rc.read_images(place.folder / "nowhere"),
        "source: there is no .*nowhere",
        FileNotFoundError,
    ),
    "source: an empty folder": (lambda place: lambda: rc.read_images(place.folder), "classes: expected at least two"),
    "classes: misspelt": (reading(classes=["cat", "dgo"]), "there is no 'dgo'; did you mean 'dog'", FileNotFoundError),
    "classes: the folder above": (reading(classes=["cat", ".."]), r"there is no '\.\.'", FileNotFoundError),
    "classes: a blank one": (reading(classes=["cat", ""]), "classes: expected strings that are not empty, got ''"),
    "classes: numbers": (reading(classes=[0, 1]), "classes: expected strings that are not empty, got 0"),
    "size: 0": (reading(size=0), "size: .*got 0"),
    "fit: misspelt": (reading(fit="sqaush"), "fit: .*did you mean 'squash'"),
    "most: fewer than classes": (reading(most=1), "most: expected an integer of 2 or more, got 1"),
    "reading: seed below 0": (reading(most=2, seed=-1), "seed: .*got -1"),
    "reading: columns of a folder": (reading(columns={"path": "file"}), "columns, split: expected a table"),
    "csv: empty": (of_table(""), "pets.csv: expected a header and rows, got 0 lines"),
    "csv: binary": (of_table(b"\xff\xfe\x00" * 30), "pets.csv: expected a table .* in UTF-8"),
    "csv: a quote that stays open": (of_table('path,label\n"pets/cat/0.png,cat\n'), "pets.csv: expected a table"),
    "csv: a row of three cells": (of_table("path,label\na,cat,b\n"), "expected 2 cells, .*got 3 in row 1"),
    "csv: a column misspelt": (of_table("path,lable\na,cat\n"), "no column 'label'; did you mean 'lable'"),
    "csv: a column twice": (of_table("path,path,label\na,b,cat\n"), "'path' more than once"),
    "csv: no column, as None": (of_table("path,label\na,cat\n", columns={"path": None}), "columns: .*no column None"),
    "csv: boxes of three numbers": (
        of_table('path,label,boxes\npets/cat/0.png,cat,"[[1, 2, 3]]"\npets/dog/0.png,dog,\n'),
        r"expected boxes \[\[x1, y1, x2, y2\], …\], got '\[\[1, 2, 3\]\]'",
    ),
    "csv: a label above the last class": (
        of_table("path,label\npets/cat/0.png,0\npets/dog/0.png,7\n", classes=CLASSES),
        r"no readable image of dog; skipped: 1 other label \(pets.csv: 7: 1\)",
    ),
    "json: cut short": (
        lambda place: (lambda path: lambda: rc.read_images(path))(place.write("pets.json", json.dumps(COCO)[:-9])),
        "pets.json: expected COCO's instances format",
    ),
    "json: a category twice": (of_coco(categories=[{"id": at, "name": "cat"} for at in (1, 2)]), "at least two names"),
    "json: a category without a name": (
        of_coco(categories=[{"id": 1, "name": ""}, {"id": 2, "name": "dog"}]),
        "got ''",
    ),
    "json: a box of three numbers": (
        of_coco(annotations=[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9]}]),
        "pets.json: expected COCO's instances format.*got 3",
    ),
    "json: a category that it does not list": (
        of_coco(annotations=[{"image_id": 1, "category_id": 9, "bbox": [0, 0, 9, 9]}]),
        r"pets.json: .*KeyError\(9\)",
    ),
}


def exporting(where, audit=None):
    return lambda place: (lambda folder: lambda: rc.export_audit(audit or audited(), folder))(where(place))


def reporting(where, audit=None, repaired=None):
    def prepare(place):
        path = where(place)
        return lambda: rc.write_report(audited() if audit is None else audit, path, repaired)

    return prepare


def on_a_full_disk(place):
    place.full_disk()
    return place.write("report.html", "the earlier one")


def repairing(**change):
    given = {"vlm": vlm, "finetuning": made_up_images, "audit": audited}
    return lambda place: lambda: rc.repair(**{name: make() for name, make in given.items()} | change)


AUDITS = {
    "audit: a model misspelt": (auditing(model="rn-minni"), "did you mean 'rn-mini'"),
    "audit: no model": (auditing(model=7), "model: expected a model or the name of one"),
    "audit: float images": (auditing(images=noise(6) / 255), "images: expected integers, got dtype float64"),
    "audit: no images": (auditing(images=noise(0), labels=[]), "images: .*one image at least"),
    "audit: labels above the last class": (auditing(labels=np.full(6, 2)), "labels: expected integers from 0 to 1"),
    "audit: too few labels": (auditing(labels=[0, 1]), "labels: expected length 6, as images"),
    "audit: labels beside a folder": (
        lambda place: (lambda folder: lambda: rc.audit(vlm(), folder, labels=[0, 1]))(place.pets()),
        "labels: expected them with an array of images only",
    ),
    "audit: one class": (auditing(classes=("cat",)), "classes: expected at least two"),
    "audit: a class twice": (auditing(classes=("cat", "cat")), "classes: .*'cat' more than once"),
    "audit: a prompt that names a place": (auditing(templates=("a {thing}",)), "templates: each needs a {}"),
    "audit: no prompts": (auditing(templates=()), "templates: each needs a {}"),
    "audit: one prompt, not a list": (auditing(templates="a {}"), "templates: expected a list of strings, got 'a {}'"),
    "audit: one word, not a list": (auditing(words="dog"), "words: expected a list of strings, got 'dog'"),
    "audit: a blank word": (auditing(words=("dog", "")), "words: expected strings that are not empty, got ''"),
    "audit: regions misspelt": (auditing(regions="quadrant"), "regions: .*did you mean 'quadrants'"),
    "audit: a grid without rows": (auditing(regions="grid 0x3"), "regions: .*got 0"),
    "audit: boxes that the data do not have": (auditing(regions="boxes"), "regions: expected data with boxes"),
    "audit: level 5": (auditing(level=5), "level: expected a number from 0 to 1, got 5"),
    "audit: level in words": (auditing(level="high"), "level: .*got 'high'"),
    "audit: no permutations": (auditing(n_permutations=0), "n_permutations: .*got 0"),
    "audit: seed in words": (auditing(seed="x"), "seed: .*got 'x'"),
    "audit: an option of reading misspelt": (
        lambda place: (lambda folder: lambda: rc.audit(vlm(), folder, fitt="squash"))(place.pets()),
        "reading: .*did you mean 'fit'",
    ),
    "repair: no audit": (repairing(audit=None), "audit: expected an audit"),
    "repair: a folder for its images": (repairing(finetuning="pets"), "finetuning: .*got str 'pets'"),
    "repair: a name for a model": (repairing(vlm="rn-mini"), "vlm: expected a model"),
    "repair: another model than the audited": (repairing(), "vlm: expected the audited model, made-up"),
    "repair: a finding that is not there": (repairing(finding=2), "finding: .*2 findings, 0 … 1, got 2"),
    "repair: nothing found": (repairing(audit=made_up_audit(0)), "finding: the audit has no finding"),
    "export: no audit": (exporting(lambda place: place.folder / "new", audit=7), "audit: expected an audit.*got int 7"),
    "export: onto others' files": (exporting(Place.pets), "folder: .*is there", FileExistsError),
    "export: below a file": (exporting(Place.below_a_file), "taken", OSError),
    "report: no audit": (reporting(lambda place: place.folder / "new.html", audit=7), "audit: expected an audit"),
    "report: no repair": (reporting(lambda place: place.folder / "new.html", repaired=7), "repaired: .*got int 7"),
    "report: onto a folder": (reporting(Place.pets), "pets", IsADirectoryError),
    "report: below a file": (reporting(Place.below_a_file), "taken", OSError),
    "report: on a full disk": (reporting(on_a_full_disk), "No space left", OSError),
}


def keeping_a_record(where, arguments, metrics=None):
    return lambda place: (lambda folder: lambda: records.save_record(folder, arguments, metrics or {}))(where(place))


def answer(**change):
    return (
        json.dumps({"image": "a", "teacher": "b", "class": None, "objects": "gull", "background": "sea"} | change)
        + "\n"
    )


KEPT_FILES = {
    "record: NaN among its arguments": (
        keeping_a_record(lambda place: place.folder, {"level": np.nan}),
        r"arguments\['level'\]: expected a finite number, got nan",
    ),
    "record: what JSON cannot hold": (
        keeping_a_record(lambda place: place.folder, {}, {"found": {1, 2}}),
        r"metrics\['found'\]: .*got set",
    ),
    "record: below a file": (keeping_a_record(Place.below_a_file, {}), "taken", OSError),
    "answers: no JSON": (answers(answer() + "gull\n" + answer()), "answers.jsonl, line 2: expected an answer"),
    "answers: no text": (answers(b"\xff\xfe\n"), "answers.jsonl, line 1: expected an answer"),
    "answers: a list": (answers("[]\n"), "answers.jsonl, line 1: expected an answer"),
    "answers: without the image": (answers('{"teacher": "b"}\n'), "line 1: .*KeyError: 'image'"),
    "answers: a number for words": (answers(answer(objects=[7])), "line 1: .*objects: expected texts, got 7"),
    "answers: no words": (answers(answer(background=[])), "line 1: .*background: expected at least one"),
}
COMMANDS = {
    "study: a profile misspelt": (command(study.main, "--profile", "dmo"), "profile: .*did you mean 'demo'"),
    "study: a grid misspelt": (
        command(study.main, "--grid", "setings"),
        "--grid: invalid choice: 'setings' .*'settings'",
    ),
    "study: no worker": (command(study.main, "--workers", "0"), "workers: .*got 0"),
    "study: an argument that it has not": (command(study.main, "--profil3", "demo"), "--profil3"),
    "reproduce: a profile misspelt": (command(reproduce_command, "--profile", "fulll"), "did you mean 'full'"),
    "reproduce: a notebook that is not there": (command(reproduce_command, "--only", "99"), "--only: .*got '99'"),
    "reproduce: no notebooks": (command(reproduce_command, "--notebooks", "{folder}"), r"notebooks: .*NN_\*.ipynb"),
    "audit command: images nowhere": (
        command(audit_command, "{folder}/nowhere", "--out", "{folder}/out"),
        "source: there is no .*nowhere",
    ),
    "audit command: no readable class": (
        command(audit_command, "{folder}", "--out", "{folder}/out"),
        "classes: expected at least two",
    ),
    "audit command: permutations below 1": (
        command(audit_command, "{folder}", "--out", "{folder}/out", "--permutations", "0"),
        "n_permutations: .*got 0",
    ),
    "audit command: a device that is none": (
        command(audit_command, "{folder}", "--out", "{folder}/out", "--device", "gpu"),
        "device: .*got 'gpu'",
    ),
    "audit command: onto a folder": (
        command(audit_command, "{folder}", "--out", "{folder}"),
        "--out: .*exists already",
    ),
}
BAD = STAGE_1 | MEASURES | LOSSES | MODELS | EVALUATIONS | TRAINING | SETTINGS | DOMAIN_FILES | READING | AUDITS
BAD |= KEPT_FILES | COMMANDS


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, place):
    prepare, message, *kind = BAD[name]
    call = prepare(place)
    before = contents(place.folder)
    with pytest.raises(kind[0] if kind else ValueError, match=f"(?s){message}"):
        call()
    assert contents(place.folder) == before


# ---- odd, but defined ----


def in_float16(place):
    rounded = {"region_embeddings": problem()["region_embeddings"].astype(np.float16)}
    return len(rc.discover(**problem() | rounded).clustering.labels) == len(problem()["image_index"])


def answered(predictions, n_classes=3):
    return np.eye(n_classes)[np.asarray(predictions)]


def found_when(predictions):
    """What stage 1 finds where every image is answered so."""
    return rc.discover(**problem() | {"image_probs": answered(predictions)}).findings


def one_of(n_images, n_classes, n_regions):
    """Stage 1 on images with so many regions each, all different."""
    index = np.repeat(np.arange(n_images), n_regions)
    regions = oracles.unit(np.random.default_rng(0).normal(size=(len(index), 4)))
    shares = np.full((n_images, n_classes), 1 / n_classes), np.full((len(index), n_classes), 1 / n_classes)
    return rc.discover(regions, index, np.arange(n_images) % n_classes, *shares)


def empty_scores(place):
    scores = scoring(np.full(len(problem()["image_index"]), -1))(place)()
    return scores.gap.shape == (0,) and scores.class_gaps.shape == (0, 3)


def noted(prepare, place):
    """What was said of files while reading, once each."""
    return {(note.kind, note.kept) for note in prepare(place)().notes}


def pet(name, boxes="", at=0):
    return f'pets/{name}/{at}.png,{name},"{boxes}"\n'


TABLE = "path,label,boxes\n" + pet("cat") + pet("dog")


def trained(prepare, place):
    return np.isfinite(prepare(place)()[1].losses).all()


def as_before(one, other):
    return np.array_equal(prepare_losses(one), prepare_losses(other))


def prepare_losses(prepare):
    return prepare(None)()[1].losses


def of_view(place):
    """Images behind a negative stride, which torch does not take as they are."""
    view = frozen(data().images[:, ::-1].copy()[:, ::-1])
    return as_before(training({"images": view}), training())


def quietly(place):
    """Arrays that nobody may write to give no warning either."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return prepare_losses(training()).shape == (2,)


def damaged(content):
    """A record whose file was changed is named in a warning, counts as missing and stays where it is."""

    def check(place):
        path = records.save_record(place.folder, {"a": 1}, {"b": 2.5})
        path.write_bytes(content(path.read_bytes()))
        before = contents(place.folder)
        with pytest.warns(UserWarning, match=f"record {path.name} is treated as missing"):
            assert records.load_record(place.folder, {"a": 1}) is None
        return contents(place.folder) == before

    return check


def cut_answer(place):
    """A last line that a kill cut short is asked again, and gives way to the answer."""
    path, teacher = place.write("answers.jsonl", '{"image": "a", "tea'), from_function(lambda *_: GULL, "somebody")
    return describe(teacher, noise(1), path=path) == (GULL,) and len(path.read_text().splitlines()) == 1


GULL = Description("gull", "sea")


def audit_of(**options):
    def check(place):
        done = auditing(**options)(place)()
        return done.findings == () and len(done.sentences) == 1

    return check


def learned_without(recipe):
    return lambda place: trained(training(assignment=np.zeros(48, dtype=bool), recipe=recipe), place)


ODD = {
    "embeddings in float16": in_float16,
    "embeddings in a tensor": lambda place: len(
        discovering(region_embeddings=torch.tensor(problem()["region_embeddings"]))(place)().clustering.labels
    ),
    "no image": lambda place: rc.discover(np.empty((0, 4)), [], [], np.empty((0, 3)), np.empty((0, 3))).findings == (),
    "one image": lambda place: one_of(1, 3, 9).findings == (),
    "one class": lambda place: one_of(9, 1, 4).findings == (),
    "one region": lambda place: one_of(1, 3, 1).clustering.labels.tolist() == [-1],
    "no region": lambda place: one_of(6, 3, 0).clustering.n_clusters == 0,
    "equal regions": lambda place: rc.cluster_regions(np.tile(np.eye(4)[0], (9, 1)), [2, 3]).n_clusters == 0,
    "all answers right": lambda place: found_when(problem()["labels"]) == (),
    "all answers wrong": lambda place: found_when((problem()["labels"] + 1) % 3) == (),
    "no candidate": lambda place: discovering(candidates=[])(place)().clustering.n_clusters == 0,
    "more clusters than regions": lambda place: discovering(candidates=[10**6])(place)().clustering.silhouettes == {},
    "regions of no cluster": empty_scores,
    "nothing to assign": lambda place: not rc.assign_regions(one_of(6, 3, 0), np.eye(4)).any(),
    "precision of no ranking": lambda place: rc.precision_at_k([], [True]) == 0,
    "precision of one region, ranked twice": lambda place: rc.precision_at_k([1, 1], [False, True]) == 1,
    "precision beyond the ranking": lambda place: rc.precision_at_k([0], [True], k=10**9) == 1,
    "accuracies of no image": lambda place: rc.group_accuracies([], [], [], 2).where_worst is None,
    "interval of one value": lambda place: rc.bootstrap_interval([3.0]) == (3, 3, 3),
    "interval with a NaN": lambda place: np.isnan(rc.bootstrap_interval([np.nan, 1, 2]).estimate),
    "loss of regions that are all spurious": lambda place: loss_of(spurious=torch.ones_like)(place)().total == 0,
    "loss of NaN": lambda place: loss_of(region_embeddings=lambda rows: rows * torch.nan)(place)().total.isnan(),
    "evaluation of no image": lambda place: np.isnan(rc.evaluate(vlm(), rows(0)).accuracy),
    "evaluation of one image": lambda place: rc.evaluate(vlm(), rows(1)).image_probs.shape == (1, 3),
    "evaluation without regions": lambda place: rc.evaluate(vlm(), no_regions()).region_probs.shape == (0, 3),
    "evaluation of images of one pixel": lambda place: np.isfinite(
        rc.evaluate(vlm(), replace(no_regions(), images=data().images[:, :1, :1])).image_probs
    ).all(),
    "setting with empty sets": lambda place: len(planting(n_val=0)(place)().val) == 0,
    "setting with fewer images than classes": lambda place: len(planting(n_test=3)(place)().test) == 3,
    "setting without a correlation": lambda place: planting(strength=0)(place)().reached_strength == 0,
    "setting of more images than there are scans": lambda place: len(planting(n_val=2500)(place)().val) == 2500,
    "training for no epoch": lambda place: prepare_losses(budgeted(epochs=0)).shape == (0,),
    "training in a batch larger than the set": lambda place: prepare_losses(budgeted(batch_size=10**6)).shape == (1,),
    "training without regions": lambda place: np.isfinite(
        rc.mitigate(vlm(), no_regions(), spurious()[:0], budget=SHORT)[1].losses
    ).all(),
    "training on one image": lambda place: np.isfinite(
        rc.mitigate(vlm(), rows(1), spurious()[:4], budget=SHORT)[1].losses
    ).all(),
    "training with everything spurious": lambda place: trained(training(assignment=np.ones(48, dtype=bool)), place),
    "training with a list for an assignment": lambda place: as_before(
        training(assignment=spurious().tolist()), training()
    ),
    "training on a view of images": of_view,
    "training on read-only arrays": quietly,
    **{
        f"{recipe} with nothing spurious": learned_without(recipe)
        for recipe in RECIPES
        if recipe not in ("language_guided", "spurious_aware")  # which have to be told more
    },
    "reading more images than there are": lambda place: len(reading(most=999)(place)()) == 4,
    "a row of a file that is not there": lambda place: (
        noted(of_table(TABLE + pet("cat", at=9)), place) == {("missing", False)}
    ),
    "a file listed twice": lambda place: noted(of_table(TABLE + pet("cat")), place) == {("duplicate", False)},
    "boxes outside, without area, and of NaN": lambda place: (
        noted(of_table(TABLE + pet("cat", "[[90, 0, 99, 9], [1, 1, 1, 9], [NaN, 0, 9, 9]]", at=1)), place)
        == {("bad box", True)}
    ),
    "a box that reaches outside": lambda place: (
        of_table(TABLE + pet("dog", "[[-5, -5, 99, 99]]", at=1))(place)().boxes.tolist() == [[0, 0, 16, 16]]
    ),
    "boxes of an image that the json does not list": lambda place: (
        noted(
            of_coco(
                images=COCO["images"], annotations=[*COCO["annotations"], {**COCO["annotations"][0], "image_id": 9}]
            ),
            place,
        )
        == {("unlisted image", False)}
    ),
    "a box without area in a json": lambda place: (
        noted(of_coco(annotations=[{**COCO["annotations"][0], "bbox": [3, 3, 0, 5]}, COCO["annotations"][1]]), place)
        == {("bad box", True)}
    ),
    "an audit of two images": audit_of(images=noise(2), labels=[0, 1]),
    "an audit of one class's images": audit_of(labels=np.zeros(6, dtype=int)),
    "an audit of equal images": audit_of(images=np.repeat(noise(1), 6, axis=0)),
    "a record cut short": damaged(lambda content: content[:-9]),
    "a record with another number": damaged(lambda content: content.replace(b"2.5", b"3.5")),
    "a record that is empty": damaged(lambda content: b""),
    "a record that is no text": damaged(lambda content: b"\xff\xfe"),
    "an answer cut short": cut_answer,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_defined(name, place):
    assert ODD[name](place)


# ---- whatever arrays come ----

DTYPES = arrays.scalar_dtypes() | st.sampled_from([np.dtype(kind) for kind in ("O", "U3", "f2", "u1", "?")])
ANY_ARRAY = DTYPES.flatmap(lambda dtype: _of_dtype(dtype))
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
FLOATS = ("region_embeddings", "image_probs", "region_probs")


def _of_dtype(dtype):
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return (
        shapes.map(lambda shape: np.ones(shape).astype(dtype)) if dtype.kind in "OUmM" else arrays.arrays(dtype, shapes)
    )


def changed(name, at, value):
    array = np.array(problem()[name], dtype=np.float64)
    array.flat[at % array.size] = value
    return {name: array}


@pytest.mark.parametrize("name", ARRAYS)
@few
@given(array=ANY_ARRAY)
def test_any_array_is_refused_by_its_name(name, array):
    with pytest.raises(ValueError, match="^(region_embeddings|image_index|labels|image_probs|region_probs): expected"):
        rc.discover(**problem() | {name: array})


@pytest.mark.parametrize("name", FLOATS)
@few
@given(at=st.integers(0, 10**6), value=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_number_that_is_none_is_refused(name, at, value):
    with pytest.raises(ValueError, match=f"{name}: expected finite numbers, got 1 NaN or infinite"):
        rc.discover(**problem() | changed(name, at, value))


@few
@given(at=st.integers(0, 10**6), length=st.floats(0, 3).filter(lambda length: abs(length - 1) > 2.01e-3))
def test_one_row_of_another_length_is_refused(at, length):
    regions = problem()["region_embeddings"].astype(np.float64)
    row = at % len(regions)
    regions[row] *= length / np.linalg.norm(regions[row])
    with pytest.raises(ValueError, match=rf"region_embeddings: .* in row {row} \(1 such rows\)"):
        rc.cluster_regions(regions, [2])


@pytest.mark.parametrize("name", ["image_probs", "region_probs"])
@few
@given(at=st.integers(0, 10**6), more=st.floats(1.1e-3, 9) | st.floats(-9, -1.1e-3))
def test_one_distribution_that_does_not_sum_to_1_is_refused(name, at, more):
    place = at % problem()[name].size
    with pytest.raises(ValueError, match=f"{name}: expected (rows that sum to 1|probabilities, none below 0)"):
        rc.discover(**problem() | changed(name, at, problem()[name].flat[place] + more))


@few
@given(at=st.integers(0, 10**6), label=st.integers(-(2**40), -1) | st.integers(3, 2**40))
def test_one_label_that_is_no_class_is_refused(at, label):
    labels = np.array(problem()["labels"])
    labels[at % len(labels)] = label
    with pytest.raises(ValueError, match="labels: expected integers from 0 to 2"):
        rc.discover(**problem() | {"labels": labels})


@few
@given(order=st.permutations(range(12)).filter(lambda order: list(order) != sorted(order)))
def test_regions_in_another_order_of_images_are_refused(order):
    with pytest.raises(ValueError, match="image_index: expected a non-decreasing index"):
        rc.evaluate(vlm(), replace(data(), image_index=np.repeat(np.array(order), 4)))


@few
@given(corner=st.tuples(*[st.floats(-90, 90, width=32)] * 2), size=st.tuples(*[st.floats(-90, 90, width=32)] * 2))
def test_a_box_is_refused_unless_it_lies_in_its_image(corner, size):
    box = np.float32([*corner, corner[0] + size[0], corner[1] + size[1]])
    inside = (box[2:] > box[:2]).all() and (box[:2] >= 0).all() and (box[2:] <= 56).all()
    one = replace(rows(1), boxes=box[None], image_index=np.array([0]))
    if inside:
        np.testing.assert_allclose(np.linalg.norm(rc.evaluate(vlm(), one).region_embeddings, axis=1), 1, atol=1e-5)
    else:
        with pytest.raises(ValueError, match="^boxes: expected (x1 < x2|boxes within)"):
            rc.evaluate(vlm(), one)


def views(array):
    """The same numbers in memory that is laid out otherwise, none of them to be written to."""
    doubled = np.repeat(array, 2, axis=-1)[..., ::2]
    return [frozen(view) for view in (np.asfortranarray(array), doubled, array[::-1].copy()[::-1])]


@settings(few, max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_layout_in_memory_changes_nothing(seed):
    plain = {name: getattr(oracles.ragged_problem(seed), name) for name in ARRAYS}
    expected = rc.discover(**{name: array.copy() for name, array in plain.items()})
    for layout in zip(*map(views, plain.values()), strict=True):
        found = rc.discover(**dict(zip(ARRAYS, layout, strict=True)))
        np.testing.assert_array_equal(found.clustering.labels, expected.clustering.labels)
        np.testing.assert_array_equal(found.scores.class_gaps, expected.scores.class_gaps)
