"""Fine-tuning: what is trained, what stays, and that the objective is the formula."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from test_losses import literal_loops
from tiny import digits, ragged_boxes, same_weights, tiny_vlm, weights

from ravl_core.losses import RegionAwareLoss, clip_loss
from ravl_core.mitigation import Budget, finetune, mitigate, training
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.standard import Standard
from ravl_core.mitigation.training import regions_of
from ravl_core.zero_shot import class_embeddings

SHORT = Budget(epochs=2, batch_size=16, learning_rate=1e-3)
ONE_BATCH = Budget(epochs=1, batch_size=24, learning_rate=1e-3, batchnorm="frozen")
LOCKED = ("visual.conv", "visual.bn", "visual.layer1", "visual.layer2", "visual.layer3")
TEXT = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "logit_scale")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums in one order, so that equal runs give equal bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def initial():
    return tiny_vlm()


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
class Recorder:
    """A recipe that also notes every batch and loss."""

    recipe: object
    batches: list = field(default_factory=list)
    losses: list = field(default_factory=list)

    @property
    def needs_assignment(self):
        return self.recipe.needs_assignment

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
    """Labels, captions, regions and their assignment follow their images through the shuffle."""
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
        assert sorted(regions) == np.flatnonzero(np.isin(dataset.image_index, images)).tolist()
        seen += images
    assert len(set(seen)) == len(seen) == 32


@pytest.mark.parametrize("recipe, regions", [(RegionAware(), 64), (Standard(), 0)])
def test_images_and_regions_go_through_layer4_together(initial, data, recipe, regions):
    """Two passes would give them two sets of BatchNorm statistics; the recipe without regions encodes none."""
    passes = []

    class Watched(Recorder):
        def objective(self, batch):
            layer4 = batch.vlm.clip.visual.layer4
            handle = layer4.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
            loss = super().objective(batch)
            handle.remove()
            return loss

    finetune(initial, data, Watched(recipe), data.shows_feature, replace(SHORT, epochs=1))
    assert passes == [16 + regions] * 2


def test_no_region_at_all_leaves_the_clip_loss(initial):
    dataset = replace(digits(24), boxes=np.empty((0, 4), dtype=np.float32), image_index=np.empty(0, dtype=np.int64))
    nothing = np.empty(0, dtype=bool)
    _, history = mitigate(initial, dataset, nothing, budget=ONE_BATCH, clip_weight=0.5)
    _, standard = mitigate(initial, dataset, recipe="standard", budget=ONE_BATCH)
    np.testing.assert_allclose(history.losses, 0.5 * standard.losses, rtol=1e-5)


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


# ---- what is refused ----


def test_a_recipe_with_regions_needs_an_assignment(initial, data):
    with pytest.raises(ValueError, match="assignment: RegionAware needs to know which regions are spurious"):
        mitigate(initial, data)


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
