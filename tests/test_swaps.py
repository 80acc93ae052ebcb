"""RaVL's objective on swapped regions: where nothing is swapped it is RaVL's, and all draws are a run's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipe_runs import FROZEN, SHORT, clip_by_loops, embedded, steps_of
from tiny import digits, ragged_boxes, same_weights, tiny_vlm, weights

from ravl_core.mitigation import finetune, mitigate
from ravl_core.mitigation.ravl import RegionAware
from ravl_core.mitigation.recipe import Run
from ravl_core.mitigation.region_swaps import swap_regions
from ravl_core.mitigation.swaps import Swaps, core_belief
from ravl_core.randomness import stream
from ravl_core.towers import ResNetTower

TOWER = replace(SHORT, trained="tower")


# ---- how likely a region is the core of its image ----


@pytest.mark.parametrize("pooling", ["early", "late"])
def test_the_core_belief_is_the_probability_of_the_images_label_by_loops(pooling):
    vlm = tiny_vlm(pooling)
    boxes, image_index = ragged_boxes([3, 0, 1, 4, 2, 0], 56, 56)
    dataset = replace(digits(6), boxes=boxes, image_index=image_index, labels=np.array([7, 1, 0, 9, 9, 3]))
    belief = core_belief(Run(vlm, dataset, None, None, 0))
    regions = vlm.encode(dataset.images, boxes, image_index)[1].astype(np.float64)
    classes = embedded(vlm, dataset, [0])[2]
    assert belief.shape == (10,)
    for region, image in enumerate(image_index):
        scores = [np.exp(regions[region] @ name / 0.07) for name in classes]
        assert belief[region] == pytest.approx(scores[dataset.labels[image]] / sum(scores), rel=1e-3)


def test_without_any_region_there_is_nothing_to_believe(initial):
    dataset = replace(digits(6), boxes=np.empty((0, 4), dtype=np.float32), image_index=np.empty(0, dtype=np.int64))
    assert core_belief(Run(initial, dataset, None, None, 0)).shape == (0,)


# ---- what the model sees ----


def test_where_nothing_is_swapped_it_is_ravls_recipe(initial, data, assignment):
    """To the last bit where the tower learns; else but for maps that only RaVL's recipe may compute beforehand."""
    options = {"clip_weight": 0.6, "first_clip_weight": 0.2, "aligned_weight": 0.5, "balanced": True}
    recipes = Swaps(swapped=0, **options), RegionAware(**options)
    (one, mine), (other, theirs) = (finetune(initial, data, recipe, assignment, TOWER) for recipe in recipes)
    assert mine.losses.tobytes() == theirs.losses.tobytes() and same_weights(weights(one), weights(other))
    (one, mine), (other, theirs) = (finetune(initial, data, recipe, assignment, SHORT) for recipe in recipes)
    np.testing.assert_allclose(mine.losses, theirs.losses, rtol=1e-4)
    np.testing.assert_allclose(one.encode_images(data.images), other.encode_images(data.images), atol=1e-3)


@pytest.mark.parametrize("swapped, feather", [(0.5, 0.1), (1.0, 0.0)])
def test_every_batch_is_swapped_by_the_initial_models_belief_and_draws_of_the_run(
    initial, data, assignment, swapped, feather
):
    belief = core_belief(Run(initial, data, None, None, 0))
    random, n_changed = stream(3, "swaps"), 0
    _, steps = steps_of(initial, data, Swaps(swapped=swapped, feather=feather), assignment, FROZEN, seed=3)
    assert len(steps) == 4
    for step in steps:
        regions = [region for image in step.images for region in np.flatnonzero(data.image_index == image)]
        plain = torch.from_numpy(data.images[step.images]).permute(0, 3, 1, 2)
        where = (
            torch.from_numpy((data.boxes[regions] / 56).astype(np.float32)),
            torch.tensor([list(step.images).index(data.image_index[region]) for region in regions]),
            torch.from_numpy(assignment[regions]),
            torch.from_numpy(belief[regions]),
        )
        images, spurious = swap_regions(plain, *where, swapped, random, feather)
        changed = (images != plain).flatten(1).any(dim=1)
        n_changed += int(changed.sum())
        assert changed.sum() <= round(swapped * 16)
        assert torch.equal(step.batch.spurious, spurious)
        features = initial.trunk(initial.prepare(images)).detach()  # the trunk is locked
        np.testing.assert_allclose(step.batch.features.numpy(), features.numpy(), rtol=1e-4, atol=1e-4)
    assert n_changed > 8


def test_with_a_clip_weight_of_one_it_is_clips_loss_of_what_is_seen(initial, data, assignment):
    _, steps = steps_of(initial, data, Swaps(clip_weight=1.0), assignment)
    plain = [clip_by_loops(*embedded(step.vlm, data, step.images)[:2]) for step in steps]
    for step in steps:
        images = step.vlm.pool(step.batch.features).detach().double().numpy()
        texts = embedded(step.vlm, data, step.images)[1]
        assert step.loss == pytest.approx(clip_by_loops(images, texts), rel=1e-4)
    assert max(abs(step.loss - loss) for step, loss in zip(steps, plain, strict=True)) > 0.01


@pytest.mark.parametrize("clip_weight, regions", [(1.0, 0), (0.8, 64)])
def test_with_a_clip_weight_of_one_no_region_is_encoded(initial, data, assignment, monkeypatch, clip_weight, regions):
    pool, passes = ResNetTower.pool, []

    def counted(self, features):
        passes.extend([len(features)] * torch.is_grad_enabled())  # those of training
        return pool(self, features)

    monkeypatch.setattr(ResNetTower, "pool", counted)
    mitigate(initial, data, assignment, "swaps", replace(SHORT, epochs=1), clip_weight=clip_weight)
    assert passes == [16 + regions] * 2


# ---- a run ----


def test_every_run_has_draws_and_beliefs_of_its_own(initial, data, assignment):
    recipe = Swaps()
    other = tiny_vlm(seed=5)
    begun = [recipe.begin(Run(vlm, data, assignment, None, 0)) for vlm in (initial, initial, other)]
    assert np.array_equal(begun[0].core_belief, begun[1].core_belief)
    assert not np.allclose(begun[0].core_belief, begun[2].core_belief)
    first = begun[0].random.random(4)
    assert np.array_equal(begun[1].random.random(4), first) and begun[0].random is not begun[1].random
    assert recipe == Swaps() and set(vars(recipe)) == set(vars(Swaps()))


@pytest.mark.parametrize("options", [{}, {"clip_weight": 1.0, "balanced": True}])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(initial, data, assignment, options):
    runs = [mitigate(initial, data, assignment, "swaps", SHORT, seed, **options) for seed in (0, 0, 1)]
    (one, first), (same, again), (other, third) = runs
    assert same_weights(weights(one), weights(same)) and first.losses.tobytes() == again.losses.tobytes()
    assert not same_weights(weights(one), weights(other)) and first.losses.tobytes() != third.losses.tobytes()


def test_the_draws_of_batches_and_of_swaps_are_apart(initial, data, assignment):
    """The same images in the same order, however many of them are swapped."""
    orders = [
        [step.images.tolist() for step in steps_of(initial, data, recipe, assignment)[1]]
        for recipe in (Swaps(swapped=0.0), Swaps(swapped=1.0), RegionAware())
    ]
    assert orders[0] == orders[1] == orders[2]


def test_regions_may_be_pooled_late_in_training_alone(initial, data, assignment):
    tuned, steps = steps_of(initial, data, Swaps(swapped=0, regions="late"), assignment)
    _, expected = steps_of(tiny_vlm("late"), data, Swaps(swapped=0), assignment)
    assert steps[0].loss == pytest.approx(expected[0].loss, rel=1e-5) and tuned.pooling == "early"


def test_it_needs_an_assignment_and_with_nothing_spurious_nothing_is_swapped(initial, data):
    with pytest.raises(ValueError, match="assignment: Swaps needs to know which regions are spurious"):
        mitigate(initial, data, recipe="swaps")
    nothing = np.zeros(len(data.boxes), dtype=bool)
    (_, mine), (_, theirs) = (mitigate(initial, data, nothing, name, TOWER) for name in ("swaps", "ravl"))
    assert mine.losses.tobytes() == theirs.losses.tobytes()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"swapped": 1.5}, "swapped: expected .*1.5"),
        ({"swapped": -0.1}, "swapped: "),
        ({"swapped": "half"}, "swapped: "),
        ({"feather": 0.6}, "feather: "),
        ({"clip_weight": 2}, "clip_weight: "),
        ({"regions": "crop"}, "regions: expected one of 'early', 'late', got 'crop'"),
        ({"share": 0.5}, "option of 'swaps': .*'share'"),
    ],
)
def test_options_that_cannot_be_are_named(initial, data, assignment, options, message):
    with pytest.raises(ValueError, match=message):
        mitigate(initial, data, assignment, "swaps", SHORT, **options)
