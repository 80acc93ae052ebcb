"""The supervised contrastive loss, held to the published code's values and to loops over its two formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_core.losses import SupervisedContrastiveLoss, clip_loss

GOLDEN = Path(__file__).parent / "golden" / "supcon" / "supcon.npz"


def by_loops(embeddings, positives, negatives, temperature=0.07, form="out"):
    """The mean over anchors that have a positive, term by term, in float64."""
    found = []
    for i, anchor in enumerate(embeddings):
        mine = [p for p in range(len(embeddings)) if positives[i][p] and p != i]
        if not mine:
            continue
        others = [embeddings[a] for a in range(len(embeddings)) if a != i] + list(negatives)
        total = sum(np.exp(anchor @ other / temperature) for other in others)
        shares = [np.exp(anchor @ embeddings[p] / temperature) / total for p in mine]
        found.append(-np.mean(np.log(shares)) if form == "out" else -np.log(np.mean(shares)))
    return np.mean(found) if found else 0.0


def unit(random, *shape):
    rows = random.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random_batch(seed, n_anchors=7, n_negatives=4):
    """Anchors, positives that need not be mutual, negatives; some anchors have no positive."""
    random = np.random.default_rng(seed)
    positives = random.random((n_anchors, n_anchors)) < 0.3
    return unit(random, n_anchors, 5), positives, unit(random, n_negatives, 5)


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


# ---- the published code ----


@pytest.mark.parametrize("temperature", ["0.07", "0.1", "0.5"])
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_golden_values(case, temperature):
    """All views as anchors, the first of each image alone, and each image's other views as the only positives."""
    arrays = np.load(GOLDEN, allow_pickle=False)
    features, labels = arrays[f"in_{case}_features"], arrays[f"in_{case}_labels"]
    n_images, n_views = features.shape[:2]
    embeddings, owner = features.reshape(n_images * n_views, -1), np.repeat(np.arange(n_images), n_views)
    same_class, same_image = labels[owner][:, None] == labels[owner], owner[:, None] == owner
    first = (np.arange(len(owner)) % n_views == 0)[:, None]
    scale = float(temperature) / 0.07  # of the published code, unless its base temperature is set
    outputs = {key.split("_", 3)[3]: arrays[key] for key in arrays if key.split("_")[1:3] == [case, f"t{temperature}"]}
    expected = {
        ("out", "all"): outputs["all_Lout_base_eq_t"],
        ("out", "one"): outputs["one_Lout"] / scale,
        ("out", "own"): outputs["simclr"],
        ("in", "all"): outputs["Lin_loop"],
    }
    np.testing.assert_allclose(outputs["all_Lout"] / scale, outputs["all_Lout_base_eq_t"], rtol=1e-9)
    for (form, which), value in expected.items():
        positives = {"all": same_class, "one": same_class & first, "own": same_image}[which]
        found = SupervisedContrastiveLoss(float(temperature), form)(*tensors(embeddings, positives))
        np.testing.assert_allclose(found, value, rtol=1e-6)


# ---- the formulas ----


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("seed", range(20))
def test_it_equals_the_loops(seed, form):
    embeddings, positives, negatives = random_batch(seed, n_negatives=seed % 4)
    found = SupervisedContrastiveLoss(0.2, form)(*tensors(embeddings, positives, negatives))
    np.testing.assert_allclose(found, by_loops(embeddings, positives, negatives, 0.2, form), rtol=1e-10)


@pytest.mark.parametrize("form", ["out", "in"])
def test_the_gradient_equals_finite_differences(form):
    embeddings, positives, negatives = tensors(*random_batch(3))
    positives[2] = False  # an anchor without
    loss = SupervisedContrastiveLoss(0.5, form)
    inputs = embeddings.requires_grad_(), negatives.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, n: loss(z, positives, n), inputs)


def test_l_in_is_never_above_l_out_and_equal_with_one_positive_each():
    for seed in range(10):
        embeddings, positives, negatives = tensors(*random_batch(seed))
        inner, outer = (
            SupervisedContrastiveLoss(form=form)(embeddings, positives, negatives) for form in ("in", "out")
        )
        assert inner < outer
    pairs = torch.eye(6, dtype=torch.bool).roll(3, dims=0)
    inner, outer = (SupervisedContrastiveLoss(form=form)(embeddings[:6], pairs, negatives) for form in ("in", "out"))
    np.testing.assert_allclose(inner, outer, rtol=1e-12)


def test_every_negative_adds_to_the_loss_the_nearer_the_more():
    embeddings, positives, negatives = tensors(*random_batch(1))
    loss = SupervisedContrastiveLoss()
    near, far = embeddings[:1], -embeddings.mean(dim=0, keepdim=True)
    assert loss(embeddings, positives) < loss(embeddings, positives, far) < loss(embeddings, positives, near)
    torch.testing.assert_close(loss(embeddings, positives), loss(embeddings, positives, negatives[:0]))


def test_the_order_of_anchors_and_of_negatives_does_not_matter():
    embeddings, positives, negatives = tensors(*random_batch(5))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    loss = SupervisedContrastiveLoss()
    found = loss(embeddings[order], positives[order][:, order], negatives.flip(0))
    torch.testing.assert_close(found, loss(embeddings, positives, negatives))


def test_with_own_partners_only_it_falls_as_clips_loss_does():
    """On pairs that agree it is near 0, on pairs that are crossed it is as high as 1 / temperature."""
    images = torch.eye(4, dtype=torch.float64)
    partners = torch.eye(8, dtype=torch.bool).roll(4, dims=0)
    for texts, at_least, at_most in ((images, 0, 1e-4), (images.roll(1, dims=0), 14, 15)):
        for value in (SupervisedContrastiveLoss()(torch.cat([images, texts]), partners), clip_loss(images, texts)):
            assert at_least <= value < at_most


# ---- edges ----


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("n_anchors, n_negatives", [(0, 0), (1, 0), (1, 3), (5, 0), (5, 3)])
def test_without_a_positive_it_is_zero_with_a_gradient_of_zero(n_anchors, n_negatives, form):
    random = np.random.default_rng(0)
    embeddings, negatives = tensors(unit(random, n_anchors, 4), unit(random, n_negatives, 4))
    positives = torch.eye(n_anchors, dtype=torch.bool)  # each its own, which does not count
    found = SupervisedContrastiveLoss(form=form)(embeddings.requires_grad_(), positives, negatives)
    found.backward()
    assert found == 0 and torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@pytest.mark.parametrize("form", ["out", "in"])
def test_two_anchors_and_nothing_else_agree_for_free(form):
    embeddings = torch.eye(2, requires_grad=True)
    found = SupervisedContrastiveLoss(form=form)(embeddings, torch.ones(2, 2, dtype=torch.bool))
    found.backward()
    assert found == 0 and torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize("form", ["out", "in"])
def test_large_logits_do_not_overflow_in_float32(form):
    embeddings, positives, negatives = random_batch(2)
    embeddings, negatives = (torch.from_numpy(part.astype("f4")).requires_grad_() for part in (embeddings, negatives))
    found = SupervisedContrastiveLoss(0.001, form)(embeddings, torch.from_numpy(positives), negatives)
    found.backward()
    assert all(torch.isfinite(values).all() for values in (found, embeddings.grad, negatives.grad))


@pytest.mark.parametrize(
    "changed, came",
    [
        ({"embeddings": torch.zeros(7)}, r"embeddings, negatives: expected .*got \(7,\) and \(4, 5\)"),
        ({"negatives": torch.zeros(4, 3)}, r"embeddings, negatives: expected .*got \(7, 5\) and \(4, 3\)"),
        ({"negatives": torch.zeros(5)}, r"embeddings, negatives: expected .*\(5,\)"),
        (
            {"positives": torch.zeros(7, 6, dtype=torch.bool)},
            r"positives: expected booleans of shape \(7, 7\).*\(7, 6\)",
        ),
        ({"positives": torch.zeros(7, 7)}, "positives: expected booleans .*got torch.float32"),
    ],
)
def test_batches_that_do_not_fit_together_are_named(changed, came):
    batch = dict(zip(("embeddings", "positives", "negatives"), tensors(*random_batch(0)), strict=True))
    with pytest.raises(ValueError, match=came):
        SupervisedContrastiveLoss()(**batch | changed)


def test_a_form_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="form: expected one of 'out', 'in', got 'inside'"):
        SupervisedContrastiveLoss(form="inside")
