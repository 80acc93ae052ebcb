"""Fine-tuning: what is trained, what stays, and that the objective is the formula."""

from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from recipe_runs import cross_entropies_by_loop, groups_by_loop, steps_of
from test_losses import literal_loops
from tiny import PREPROCESSING, RESNET, digits, ragged_boxes, same_weights, tiny_vlm, weights
from tiny import TEXT as TEXT_TOWER

from ravl_core.checkpoints import open_clip
from ravl_core.losses import RegionAwareLoss, clip_loss
from ravl_core.mitigation import RECIPES, Budget, finetune, mitigate, training
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.recipe import Recipe, Run, groups_of
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.training import regions_of
from ravl_core.mitigation.vl_erm import VLERM
from ravl_core.vlm import VLM
from ravl_core.zero_shot import class_embeddings

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = Budget(epochs=2, batch_size=16, learning_rate=1e-3)
ONE_BATCH = Budget(epochs=1, batch_size=24, learning_rate=1e-3, batchnorm="frozen")
FROZEN = replace(SHORT, batchnorm="frozen")
KEYWORDS = SimpleNamespace(objects=("digit",), background=("grey",))
OPTIONS = {  # without which a recipe cannot be
    "spurious_aware": {"feature": "red rectangle"},
    "language_guided": {"descriptions": (KEYWORDS,) * 40},
}
LOCKED = ("visual.conv", "visual.bn", "visual.layer1", "visual.layer2", "visual.layer3")
TEXT = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "logit_scale")


@pytest.fixture(scope="module")
def data():
    return digits(40)


def ragged(n_images=24):
    """Digits with regions in uneven numbers; some images have none."""
    counts = np.random.default_rng(3).integers(0, 5, n_images)
    boxes, image_index = ragged_boxes(counts.tolist(), 56, 56)
    return replace(digits(n_images), boxes=boxes, image_index=image_index)


def some(n_regions, seed=0):
    return np.random.default_rng(seed).random(n_regions) < 0.3


@dataclass
class Recorder(Recipe):
    """A recipe that also notes every batch and loss."""

    recipe: Recipe
    batches: list = field(default_factory=list)
    losses: list = field(default_factory=list)

    def __post_init__(self):
        for name in ("needs_assignment", "trains_text", "changes_images", "balanced", "regions"):
            setattr(self, name, getattr(self.recipe, name))

    @property
    def encodes_regions(self):
        return self.recipe.encodes_regions

    def begin(self, run):
        self.recipe = self.recipe.begin(run)
        return self

    def change(self, shown):
        return self.recipe.change(shown)

    def objective(self, batch):
        self.batches.append(batch)
        self.losses.append(self.recipe.objective(batch))
        return self.losses[-1]


# ---- what changes and what does not ----


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
@pytest.mark.parametrize("trained", ["tower", "head"])
def test_the_initial_model_stays_as_it_is(initial, data, recipe, trained):
    before, mode = weights(initial), initial.training
    budget = replace(SHORT, trained=trained)
    tuned, _ = mitigate(initial, data, data.shows_feature, recipe, budget)
    assert same_weights(weights(initial), before) and initial.training == mode
    assert all(parameter.requires_grad for parameter in initial.clip.visual.parameters())
    assert not same_weights(weights(tuned, "visual"), weights(initial, "visual"))
    assert tuned.clip is not initial.clip and not tuned.training


def test_the_text_tower_is_locked(initial, data):
    tuned, _ = mitigate(initial, data, data.shows_feature, budget=SHORT)
    assert same_weights(weights(tuned, *TEXT), weights(initial, *TEXT))
    np.testing.assert_array_equal(tuned.encode_texts(["the digit nine"]), initial.encode_texts(["the digit nine"]))


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data, recipe):
    runs = [mitigate(initial, data, data.shows_feature, recipe, SHORT, seed) for seed in (0, 0, 1)]
    (one, first), (same, again), (other, third) = runs
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other)) and first.losses.tobytes() != third.losses.tobytes()


def test_the_whole_tower_learns(initial, data):
    tuned, _ = mitigate(initial, data, recipe="standard", budget=replace(SHORT, trained="tower"))
    for part in ("visual.conv1", "visual.layer1", "visual.layer2", "visual.layer3", "visual.layer4", "visual.attnpool"):
        assert not same_weights(weights(tuned, part), weights(initial, part)), part


@pytest.mark.parametrize("trained, locked", [("head", LOCKED), ("pool", (*LOCKED, "visual.layer4"))])
@pytest.mark.parametrize("recipe", ["standard", "ravl"])
def test_what_is_locked_keeps_its_weights_and_statistics(initial, data, recipe, trained, locked):
    tuned, _ = mitigate(initial, data, data.shows_feature, recipe, replace(SHORT, trained=trained))
    for part in locked:
        assert same_weights(weights(tuned, part), weights(initial, part)), part
    assert not same_weights(weights(tuned, "visual.attnpool"), weights(initial, "visual.attnpool"))
    if trained == "head":
        assert not same_weights(weights(tuned, "visual.layer4"), weights(initial, "visual.layer4"))
        statistics = "visual.layer4.0.bn1.running_mean"
        assert not torch.equal(tuned.clip.state_dict()[statistics], initial.clip.state_dict()[statistics])


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
@pytest.mark.parametrize("trained", ["head", "pool"])
def test_maps_that_are_computed_once_change_nothing(initial, data, monkeypatch, recipe, trained):
    budget = replace(SHORT, trained=trained)
    stored, history = mitigate(initial, data, data.shows_feature, recipe, budget)
    passes = []
    monkeypatch.setattr(training._Batches, "_locked_maps", lambda self: passes.append(self))
    fresh, expected = mitigate(initial, data, data.shows_feature, recipe, budget)
    assert passes
    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-4)
    np.testing.assert_allclose(stored.encode_images(data.images), fresh.encode_images(data.images), atol=1e-3)


@pytest.mark.parametrize("trained", ["tower", "head"])
def test_frozen_batchnorm_keeps_its_statistics_and_learns_all_the_same(initial, data, trained):
    for batchnorm, kept in (("frozen", True), ("training", False)):
        budget = replace(SHORT, batchnorm=batchnorm, trained=trained)
        tuned, _ = mitigate(initial, data, data.shows_feature, budget=budget)
        state, before = tuned.clip.state_dict(), initial.clip.state_dict()
        statistics = [key for key in before if "layer4" in key and key.endswith(("running_mean", "running_var"))]
        assert statistics and all(torch.equal(state[key], before[key]) == kept for key in statistics)
        assert not torch.equal(state["visual.layer4.0.bn1.weight"], before["visual.layer4.0.bn1.weight"])


# ---- the objective ----


def oracle(vlm, dataset, spurious, clip_weight):
    """λ·L_CL + (1 - λ)·(mean L_R + mean L_A) for one batch that is the whole set, by loops, from public embeddings."""
    whole, parts = vlm.encode(dataset.images, dataset.boxes, dataset.image_index)
    texts = vlm.encode_texts(list(dataset.captions))
    logits = whole.astype(np.float64) @ texts.T / 0.07
    n_images = len(dataset)
    rows = np.mean([np.log(np.exp(logits[i] - logits[i, i]).sum()) for i in range(n_images)])
    columns = np.mean([np.log(np.exp(logits[:, i] - logits[i, i]).sum()) for i in range(n_images)])
    classes = class_embeddings(vlm, dataset.class_names, dataset.templates)
    relevant, aligned = literal_loops(
        parts.astype(np.float64), dataset.image_index, spurious, classes.astype(np.float64), dataset.labels
    )
    return clip_weight * (rows + columns) / 2 + (1 - clip_weight) * (np.nanmean(relevant) + np.nanmean(aligned))


@pytest.mark.parametrize("pooling", ["early", "late"])
@pytest.mark.parametrize("clip_weight", [0.0, 0.3, 0.8, 1.0])
def test_the_objective_is_the_formula_of_the_models_own_embeddings(pooling, clip_weight):
    """The first batch, before anything has moved, with BatchNorm as in evaluation."""
    vlm, dataset = tiny_vlm(pooling), ragged()
    spurious = some(len(dataset.boxes))
    _, history = mitigate(vlm, dataset, spurious, "ravl", ONE_BATCH, clip_weight=clip_weight)
    assert len(history.losses) == 1
    np.testing.assert_allclose(history.losses[0], oracle(vlm, dataset, spurious, clip_weight), rtol=1e-4)


def test_standard_fine_tuning_is_the_clip_loss_alone(initial):
    dataset = ragged()
    _, history = mitigate(initial, dataset, recipe="standard", budget=ONE_BATCH)
    expected = oracle(initial, dataset, some(len(dataset.boxes)), 1.0)
    np.testing.assert_allclose(history.losses[0], expected, rtol=1e-4)


def test_at_weight_one_the_objective_is_exactly_the_clip_loss(initial, data):
    recorder = Recorder(RegionAware(clip_weight=1.0))
    finetune(initial, data, recorder, data.shows_feature, SHORT)
    for batch, loss in zip(recorder.batches, recorder.losses, strict=True):
        assert torch.equal(loss, clip_loss(batch.image_embeddings, batch.text_embeddings))
    assert len(recorder.losses) == 4


def test_in_training_mode_too_each_loss_is_the_weighted_sum_of_the_batchs_parts(initial, data):
    recorder = Recorder(RegionAware(clip_weight=0.6, labels_in_batch="distinct"))
    _, history = finetune(initial, data, recorder, data.shows_feature, SHORT)
    for batch, loss in zip(recorder.batches, history.losses, strict=True):
        regions = RegionAwareLoss(labels_in_batch="distinct")(
            batch.region_embeddings, batch.image_index, batch.spurious, batch.class_embeddings, batch.labels
        )
        images = clip_loss(batch.image_embeddings, batch.text_embeddings)
        np.testing.assert_allclose(loss, (0.6 * images + 0.4 * regions.total).item(), rtol=1e-5)


def test_a_batch_holds_what_belongs_together(initial):
    """Labels, groups, captions, regions and their assignment follow their images through the shuffle."""
    dataset = ragged(40)
    spurious = some(len(dataset.boxes))
    recorder = Recorder(RegionAware())
    finetune(initial, dataset, recorder, spurious, replace(SHORT, epochs=1, batchnorm="frozen", learning_rate=1e-12))
    whole, parts = initial.encode(dataset.images, dataset.boxes, dataset.image_index)
    texts = initial.encode_texts(list(dataset.captions))
    seen = []
    for batch in recorder.batches:
        images = [int((whole @ row).argmax()) for row in batch.image_embeddings.detach().numpy()]
        regions = [int((parts @ row).argmax()) for row in batch.region_embeddings.detach().numpy()]
        assert batch.labels.tolist() == dataset.labels[images].tolist()
        np.testing.assert_allclose(batch.text_embeddings, texts[images], atol=1e-5)
        assert [images[place] for place in batch.image_index] == dataset.image_index[regions].tolist()
        assert batch.spurious.tolist() == spurious[regions].tolist()
        assert batch.groups.tolist() == groups_by_loop(dataset, spurious)[images].tolist()
        assert sorted(regions) == np.flatnonzero(np.isin(dataset.image_index, images)).tolist()
        seen += images
    assert len(set(seen)) == len(seen) == 32


def passes_through_layer4(vlm, dataset, recipe):
    """How many maps go through layer4 in each pass of the objectives of an epoch."""
    passes = []

    class Watched(Recorder):
        def objective(self, batch):
            layer4 = batch.vlm.clip.visual.layer4
            handle = layer4.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
            loss = super().objective(batch)
            handle.remove()
            return loss

    finetune(vlm, dataset, Watched(recipe), dataset.shows_feature, replace(SHORT, epochs=1))
    return passes


@pytest.mark.parametrize("recipe, regions", [(RegionAware(), 64), (Standard(), 0)])
def test_images_and_regions_go_through_layer4_together(initial, data, recipe, regions):
    """Two passes would give them two sets of BatchNorm statistics; the recipe without regions encodes none."""
    assert passes_through_layer4(initial, data, recipe) == [16 + regions] * 2


def test_no_region_at_all_leaves_the_clip_loss(initial):
    dataset = replace(digits(24), boxes=np.empty((0, 4), dtype=np.float32), image_index=np.empty(0, dtype=np.int64))
    nothing = np.empty(0, dtype=bool)
    _, history = mitigate(initial, dataset, nothing, budget=ONE_BATCH, clip_weight=0.5)
    _, standard = mitigate(initial, dataset, recipe="standard", budget=ONE_BATCH)
    np.testing.assert_allclose(history.losses, 0.5 * standard.losses, rtol=1e-5)


# ---- the weights of its terms ----


@pytest.mark.parametrize("weight, aligned", [("relevant_weight", 0), ("aligned_weight", 1)])
def test_one_of_the_two_region_losses_may_be_left_out_or_weighted(initial, weight, aligned):
    dataset = ragged()
    spurious = some(len(dataset.boxes))
    classes = class_embeddings(initial, dataset.class_names, dataset.templates).astype(np.float64)
    parts = initial.encode(dataset.images, dataset.boxes, dataset.image_index)[1].astype(np.float64)
    both = [np.nanmean(t) for t in literal_loops(parts, dataset.image_index, spurious, classes, dataset.labels)]
    assert abs(both[0] - both[1]) > 0.1  # or they could be taken for each other
    for value in (0.0, 0.3):
        _, history = mitigate(initial, dataset, spurious, "ravl", ONE_BATCH, clip_weight=0.0, **{weight: value})
        expected = both[1 - aligned] + value * both[aligned]
        np.testing.assert_allclose(history.losses[0], expected, rtol=1e-4)


@pytest.mark.parametrize("clip_weight", [0.3, 1.0])
def test_a_classifiers_loss_may_be_added_to_clips(initial, clip_weight):
    """λ · (L_CL + weight · mean CE) + (1 - λ) · the regions' loss; without any region's weight, too."""
    dataset = ragged()
    spurious = some(len(dataset.boxes))
    whole = initial.encode_images(dataset.images).astype(np.float64)
    classes = class_embeddings(initial, dataset.class_names, dataset.templates).astype(np.float64)
    entropies = cross_entropies_by_loop(whole, classes, dataset.labels)
    for weight in (0.0, 0.7):
        options = {"clip_weight": clip_weight, "class_weight": weight}
        _, history = mitigate(initial, dataset, spurious, "ravl", ONE_BATCH, **options)
        expected = oracle(initial, dataset, spurious, clip_weight) + clip_weight * weight * entropies.mean()
        np.testing.assert_allclose(history.losses[0], expected, rtol=1e-4)


@pytest.mark.parametrize("first, last", [(0.0, 0.8), (1.0, 0.25)])
def test_the_weight_of_clips_loss_moves_in_a_straight_line(initial, data, first, last):
    recorder = Recorder(RegionAware(first_clip_weight=first, clip_weight=last))
    _, history = finetune(initial, data, recorder, data.shows_feature, replace(SHORT, epochs=3))
    assert len(history.losses) == 6
    for step, (batch, loss) in enumerate(zip(recorder.batches, history.losses, strict=True)):
        weight = first + (last - first) * step / 6
        images = clip_loss(batch.image_embeddings, batch.text_embeddings)
        regions = RegionAwareLoss()(
            batch.region_embeddings, batch.image_index, batch.spurious, batch.class_embeddings, batch.labels
        )
        np.testing.assert_allclose(loss, (weight * images + (1 - weight) * regions.total).item(), rtol=1e-5)


@pytest.mark.parametrize("first, last, encoded", [(None, 1.0, 0), (1.0, 1.0, 0), (0.0, 1.0, 64), (1.0, 0.5, 64)])
def test_regions_are_encoded_only_where_they_have_a_weight_at_some_time(initial, data, first, last, encoded):
    recipe = RegionAware(first_clip_weight=first, clip_weight=last)
    assert passes_through_layer4(initial, data, recipe) == [16 + encoded] * 2


# ---- training ----


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
@pytest.mark.parametrize("trained", ["tower", "head"])
def test_the_loss_falls_on_a_few_images(initial, recipe, trained):
    few = digits(10)
    budget = Budget(epochs=25, batch_size=10, learning_rate=3e-3, trained=trained)
    tuned, history = mitigate(initial, few, few.shows_feature, recipe, budget)
    assert history.losses[-3:].mean() < 0.8 * history.losses[:3].mean()
    assert np.isfinite(history.losses).all()


def test_the_history_says_what_happened(initial, data):
    _, history = mitigate(initial, data, recipe="standard", budget=SHORT)
    assert history.losses.shape == history.learning_rates.shape == (4,)  # 40 images are two whole batches of 16
    assert history.n_images_seen == 64
    assert history.learning_rates.max() == pytest.approx(1e-3, rel=0.3) and history.learning_rates.argmax() == 1
    assert history.learning_rates[-1] < 1e-5


def test_every_epoch_shuffles_anew(initial):
    recorder = Recorder(Standard())
    finetune(initial, digits(16), recorder, None, replace(SHORT, epochs=3))
    orders = [tuple(batch.labels.tolist()) for batch in recorder.batches]
    assert len(set(orders)) == 3 and len({tuple(sorted(order)) for order in orders}) == 1


def test_fewer_images_than_a_batch_are_one_batch(initial):
    few = digits(5)
    _, history = mitigate(initial, few, few.shows_feature, budget=replace(SHORT, batch_size=128))
    assert history.losses.shape == (2,) and history.n_images_seen == 10


def test_no_epoch_is_the_initial_model(initial, data):
    tuned, history = mitigate(initial, data, data.shows_feature, budget=replace(SHORT, epochs=0))
    assert same_weights(weights(tuned), weights(initial))
    assert history.losses.shape == (0,) and history.n_images_seen == 0


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
def test_bfloat16_trains_float32_weights_to_nearly_the_same_loss(initial, data, recipe):
    half, full = (
        mitigate(initial, data, data.shows_feature, recipe, replace(SHORT, precision=precision))
        for precision in ("bfloat16", "float32")
    )
    assert all(parameter.dtype == torch.float32 for parameter in half[0].parameters())
    np.testing.assert_allclose(half[1].losses, full[1].losses, rtol=0.05)
    assert not np.array_equal(half[1].losses, full[1].losses)


def test_a_tuned_model_can_be_tuned_again(initial, data):
    once, _ = mitigate(initial, data, recipe="standard", budget=replace(SHORT, trained="head"))
    twice, _ = mitigate(once, data, data.shows_feature, budget=replace(SHORT, trained="tower"))
    assert not same_weights(weights(twice, "visual.layer1"), weights(once, "visual.layer1"))


# ---- what a recipe may ask for ----


@dataclass(frozen=True)
class WithText(VLERM):
    """A recipe that asks for captions and classes, and trains the text tower's projection."""

    trains_text: ClassVar[bool] = True


@dataclass(frozen=True)
class Negative(RegionAware):
    """RaVL's recipe on negatives, in which what was called spurious is not, and the other way round."""

    changes_images: ClassVar[bool] = True

    def change(self, shown):
        return replace(shown, images=255 - shown.images, spurious=~shown.spurious)


def with_a_text_tower_of_its_own():
    """A model whose text projection lies one level deeper."""
    torch.manual_seed(0)
    model = {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": TEXT_TOWER}
    return VLM(
        open_clip.CustomTextCLIP(**model),
        tiny_vlm().tokenizer,
        "two towers",
        {"model_cfg": model, "preprocess_cfg": PREPROCESSING},
    ).eval()


@pytest.mark.parametrize("make", [tiny_vlm, with_a_text_tower_of_its_own], ids=["one module", "own tower"])
@pytest.mark.parametrize("trained", ["head", "tower"])
def test_a_recipe_may_train_the_text_projection_and_nothing_else_of_the_text_tower(data, make, trained):
    vlm = make()
    before, grads = weights(vlm), [p.requires_grad for p in vlm.clip.parameters()]
    tuned, _ = finetune(vlm, data, WithText(), None, replace(SHORT, trained=trained))
    assert same_weights(weights(vlm), before) and [p.requires_grad for p in vlm.clip.parameters()] == grads
    after = weights(tuned)
    moved = {name for name in before if not name.startswith("visual.") and not torch.equal(before[name], after[name])}
    assert {name.removeprefix("text.") for name in moved} == {"text_projection"}
    assert not torch.equal(after["visual.attnpool.c_proj.weight"], before["visual.attnpool.c_proj.weight"])


def test_texts_follow_their_projection_from_step_to_step(initial, data):
    _, steps = steps_of(initial, data, WithText())
    texts = [data.captions[i] for i in steps[0].images]
    assert np.abs(steps[-1].vlm.encode_texts(texts) - initial.encode_texts(texts)).max() > 1e-4
    for step in steps:
        captions = step.vlm.encode_texts([data.captions[i] for i in step.images])
        classes = class_embeddings(step.vlm, data.class_names, data.templates)
        np.testing.assert_allclose(step.batch.text_embeddings.detach().numpy(), captions, atol=1e-5)
        np.testing.assert_allclose(step.batch.class_embeddings.detach().numpy(), classes, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"spurious_aware"}))
def test_other_recipes_leave_the_text_tower_alone(initial, data, name):
    options = OPTIONS.get(name, {})
    tuned, _ = mitigate(initial, data, data.shows_feature, name, replace(SHORT, epochs=1), **options)
    assert same_weights(weights(tuned, *TEXT), weights(initial, *TEXT))


@pytest.mark.parametrize("trained", ["head", "tower"])
def test_what_is_changed_is_what_the_model_sees(initial, trained):
    """The same as training on changed images from the beginning, regions and their flags included."""
    dataset, budget = ragged(40), replace(SHORT, trained=trained)
    spurious = some(len(dataset.boxes))
    tuned, history = finetune(initial, dataset, Negative(), spurious, budget)
    negative = replace(dataset, images=255 - dataset.images)
    expected, other = finetune(initial, negative, RegionAware(), ~spurious, budget)
    np.testing.assert_allclose(history.losses, other.losses, rtol=1e-4)
    np.testing.assert_allclose(tuned.encode_images(dataset.images), expected.encode_images(dataset.images), atol=1e-3)


def test_maps_of_unchanged_images_are_not_computed_where_images_change(initial, data, monkeypatch):
    monkeypatch.setattr(training._Batches, "_locked_maps", lambda self: pytest.fail("maps that nobody uses"))
    finetune(initial, data, Negative(), data.shows_feature, replace(SHORT, epochs=1))


def test_a_recipe_is_shown_the_images_and_regions_of_its_batch(initial):
    dataset, seen = ragged(40), []
    spurious = some(len(dataset.boxes))

    class Noting(Negative):
        def change(self, shown):
            seen.append(shown)
            return super().change(shown)

    _, steps = steps_of(initial, dataset, Noting(), spurious)
    assert len(seen) == len(steps) == 4
    for shown, step in zip(seen, steps, strict=True):
        regions = [r for i in step.images for r in np.flatnonzero(dataset.image_index == i)]
        assert shown.regions.tolist() == regions
        np.testing.assert_array_equal(shown.images.permute(0, 2, 3, 1).numpy(), dataset.images[step.images])
        assert [step.images[place] for place in shown.image_index] == dataset.image_index[regions].tolist()
        np.testing.assert_allclose(shown.boxes.numpy() * 56, dataset.boxes[regions], rtol=1e-5)
        assert shown.spurious.tolist() == spurious[regions].tolist()
        assert step.batch.spurious.tolist() == (~spurious[regions]).tolist()
        features = initial.trunk(initial.prepare(255 - shown.images))  # the trunk is locked
        np.testing.assert_allclose(step.batch.features.numpy(), features.detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", [RegionAware(), Negative()])
@pytest.mark.parametrize("trained", ["pool", "head", "tower"])
def test_the_trunk_gets_a_gradient_only_where_it_is_trained(initial, data, recipe, trained):
    recorder = Recorder(recipe)
    tuned, _ = finetune(initial, data, recorder, data.shows_feature, replace(SHORT, trained=trained))
    assert {batch.features.requires_grad for batch in recorder.batches} == {trained == "tower"}
    assert same_weights(weights(tuned, "visual.layer1"), weights(initial, "visual.layer1")) == (trained != "tower")


def test_balanced_batches_come_evenly_from_all_groups(initial):
    """RaVL's own recipe, too; a tenth of the images hold what is spurious."""
    dataset = replace(digits(40), labels=np.arange(40) % 2, class_names=("even", "odd"))
    spurious = np.isin(dataset.image_index, [0, 1, 2, 3])
    shares = {}
    for balanced in (False, True):
        recorder = Recorder(RegionAware(clip_weight=1.0, balanced=balanced))
        finetune(initial, dataset, recorder, spurious, replace(SHORT, epochs=20, trained="pool"))
        drawn = torch.cat([batch.groups for batch in recorder.batches]).numpy()
        assert len(recorder.batches) == 40 and len(drawn) == 640
        shares[balanced] = np.bincount(drawn, minlength=4) / 640
    np.testing.assert_allclose(shares[True], 0.25, atol=0.08)  # 4.7 standard deviations
    np.testing.assert_allclose(shares[False], [0.45, 0.05, 0.45, 0.05], atol=0.02)


@pytest.mark.parametrize("own, asked", [("early", "late"), ("late", "early"), ("late", "late")])
def test_regions_may_be_pooled_in_another_way_in_training_alone(own, asked):
    vlm, dataset, inside = tiny_vlm(own), ragged(), []

    class Watched(Recorder):
        def objective(self, batch):
            inside.append((batch.vlm.pooling, vlm.pooling))
            return super().objective(batch)

    spurious = some(len(dataset.boxes))
    tuned, history = finetune(vlm, dataset, Watched(RegionAware(0.3, regions=asked)), spurious, ONE_BATCH)
    assert inside == [(asked, own)] and tuned.pooling == vlm.pooling == own
    np.testing.assert_allclose(history.losses[0], oracle(tiny_vlm(asked), dataset, spurious, 0.3), rtol=1e-4)
    other = {"early": "late", "late": "early"}[asked]
    assert abs(history.losses[0] - oracle(tiny_vlm(other), dataset, spurious, 0.3)) > 1e-3


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_runs_by_one_recipe_object_know_nothing_of_each_other(initial, data, name):
    recipe = RECIPES[name](**OPTIONS.get(name, {}))
    before = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    (one, first), (other, second) = (finetune(initial, data, recipe, data.shows_feature, SHORT) for _ in range(2))
    assert first.losses.tobytes() == second.losses.tobytes() and same_weights(weights(one), weights(other))
    assert {field.name: getattr(recipe, field.name) for field in fields(recipe)} == before


def test_a_run_begins_with_what_the_recipe_asked_for(initial):
    dataset, runs = ragged(40), []
    spurious = some(len(dataset.boxes))

    class Noting(Recorder):
        def begin(self, run):
            runs.append((run, weights(run.vlm)))
            return super().begin(run)

    for recipe in (RegionAware(), Standard()):
        finetune(initial, dataset, Noting(recipe), spurious, SHORT, seed=7)
    for run, then in runs:
        assert run.seed == 7 and run.dataset is dataset and run.n_groups == 20
        assert run.vlm is not initial and same_weights(then, weights(initial))
    assert runs[0][0].assignment is spurious
    assert runs[0][0].groups.tolist() == groups_by_loop(dataset, spurious).tolist()
    assert runs[1][0].assignment is None and runs[1][0].groups is None


def test_a_recipe_that_asks_for_nothing_is_told_nothing(initial, data):
    """Whether or not somebody said which regions are spurious."""
    runs = []
    for assignment in (None, data.shows_feature):
        recorder = Recorder(Standard())
        runs.append(finetune(initial, data, recorder, assignment, SHORT))
        assert all(batch.spurious is None and batch.groups is None for batch in recorder.batches)
        assert [batch.progress for batch in recorder.batches] == [0, 0.25, 0.5, 0.75]
    assert runs[0][1].losses.tobytes() == runs[1][1].losses.tobytes()
    assert same_weights(weights(runs[0][0]), weights(runs[1][0]))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_class_and_whether_a_region_is_spurious(seed):
    counts = np.random.default_rng(seed).integers(0, 4, 30)
    boxes, image_index = ragged_boxes(counts.tolist(), 56, 56)
    dataset = replace(digits(30), boxes=boxes, image_index=image_index)
    for assignment in (some(len(boxes), seed), np.zeros(len(boxes), dtype=bool), np.ones(len(boxes), dtype=bool)):
        groups = groups_of(dataset, assignment)
        assert groups.dtype == np.int64 and groups.tolist() == groups_by_loop(dataset, assignment).tolist()


def test_a_class_has_two_groups():
    assert Run(None, digits(3), None, None, 0).n_groups == 20


def test_a_recipe_without_an_objective_is_none(initial, data):
    with pytest.raises(NotImplementedError):
        finetune(initial, data, Recipe(), None, SHORT)


# ---- what is refused ----


def test_a_recipe_with_regions_needs_an_assignment(initial, data):
    with pytest.raises(ValueError, match="assignment: RegionAware needs to know which regions are spurious"):
        mitigate(initial, data)


def test_options_of_ravl_that_cannot_be_are_named(initial, data):
    for options, message in (
        ({"clip_weight": 1.1}, "^clip_weight: "),
        ({"first_clip_weight": -0.1}, "first_clip_weight: "),
        ({"class_weight": -1.0}, "class_weight: "),
        ({"aligned_weight": -1.0}, "aligned_weight: "),
        ({"relevant_weight": float("nan")}, "relevant_weight: "),
        ({"regions": "crop"}, "regions: expected one of 'early', 'late', got 'crop'"),
        ({"regions": "latte"}, "regions: .*did you mean 'late'"),
        ({"clip_wait": 1.0}, "option of 'ravl': .*'clip_wait'; did you mean 'clip_weight'"),
    ):
        with pytest.raises(ValueError, match=message):
            mitigate(initial, data, data.shows_feature, budget=SHORT, **options)


@pytest.mark.parametrize("recipe", ["standard", "ravl"])
@pytest.mark.parametrize(
    "assignment, came",
    [
        (np.zeros(159, dtype=bool), r"bool of shape \(159,\)"),
        (np.zeros((160, 1), dtype=bool), r"bool of shape \(160, 1\)"),
        (np.zeros(160, dtype=int), r"int64 of shape \(160,\)"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused(initial, data, recipe, assignment, came):
    with pytest.raises(ValueError, match=rf"assignment: expected \(160,\) booleans.*got {came}"):
        mitigate(initial, data, assignment, recipe)


@pytest.mark.parametrize("recipe, nearest", [("rval", "ravl"), ("standart", "standard")])
def test_an_unknown_recipe_is_answered_with_the_nearest(initial, data, recipe, nearest):
    with pytest.raises(ValueError, match=f"recipe: .*got '{recipe}'; did you mean '{nearest}'"):
        mitigate(initial, data, recipe=recipe)


@pytest.mark.parametrize(
    "change",
    [{"batchnorm": "frozn"}, {"trained": "heads"}, {"precision": "bfloat"}],
    ids=lambda change: next(iter(change)),
)
def test_a_budget_that_cannot_be_is_named(initial, data, change):
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"{name}: expected one of .*got '{value}'; did you mean"):
        mitigate(initial, data, recipe="standard", budget=replace(SHORT, **change))


def test_an_unknown_reading_of_the_loss_is_named(initial, data):
    with pytest.raises(ValueError, match="labels_in_batch: .*'sample'; did you mean 'samples'"):
        mitigate(initial, data, data.shows_feature, budget=SHORT, labels_in_batch="sample")


# ---- regions of a batch ----


@pytest.mark.parametrize("seed", range(20))
def test_regions_of_a_batch_equal_a_loop(seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 4, 9)
    image_index = np.repeat(np.arange(9), counts)
    images = random.permutation(9)[: random.integers(0, 9)]
    found, place = regions_of(images, np.searchsorted(image_index, np.arange(10)))
    expected = [
        (region, at) for at, i in enumerate(images) for region in range(len(image_index)) if image_index[region] == i
    ]
    assert list(zip(found.tolist(), place.tolist(), strict=True)) == expected
