"""The region-aware loss, held to literal loops over its formulas."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_core.losses import RegionAwareLoss, clip_loss

GOLDEN = Path(__file__).parent / "golden" / "ravl_stage2_formula"


def literal_loops(regions, image_index, spurious, classes, labels, tau=0.07, distinct=False):
    """The two formulas, term by term, in float64; per image, NaN without a relevant region."""

    def s(i, y):
        own = [r for r in range(len(regions)) if image_index[r] == i and not spurious[r]]
        return np.exp(max(regions[r] @ classes[y] for r in own) / tau) if own else 0.0

    n = len(labels)
    named = sorted(set(labels)) if distinct else list(labels)
    bad = [r for r in range(len(regions)) if spurious[r]]
    penalty = sum(max(np.exp(regions[r] @ classes[y] / tau) for y in labels) for r in bad)
    relevant, aligned = np.full(n, np.nan), np.full(n, np.nan)
    for i, y in enumerate(labels):
        if s(i, y) == 0.0:
            continue
        relevant[i] = -np.log(s(i, y) / (sum(s(i, other) for other in named) + penalty))
        rivals = sum(s(j, y) for j in range(n) if labels[j] != y)
        aligned[i] = -np.log(s(i, y) / (s(i, y) + rivals + sum(np.exp(regions[r] @ classes[y] / tau) for r in bad)))
    return relevant, aligned


def random_batch(seed, n_images=6, n_classes=4, size=5):
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(n_images), rng.integers(0, 5, n_images))
    regions, classes = rng.normal(size=(len(index), size)), rng.normal(size=(n_classes, size))
    regions /= np.linalg.norm(regions, axis=1, keepdims=True)
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    return regions, index, rng.random(len(index)) < 0.4, classes, rng.integers(0, n_classes, n_images)


def tensors(regions, index, spurious, classes, labels):
    return [torch.from_numpy(np.asarray(a)) for a in (regions, index, spurious, classes, labels)]


@pytest.mark.parametrize("case", ["a", "d_no_spurious"])
def test_golden_formulas(case):
    arrays = np.load(GOLDEN / f"{case}.npz", allow_pickle=False)
    index = np.repeat(np.arange(len(arrays["in_labels"])), arrays["in_num_regions"])
    batch = tensors(
        arrays["in_region_emb"], index, arrays["in_is_spurious"], arrays["in_text_emb_per_class"], arrays["in_labels"]
    )
    for reading, key in (("samples", "out_LR_over_samples"), ("distinct", "out_LR_over_distinct_labels")):
        out = RegionAwareLoss(float(arrays["in_tau"]), reading)(*batch)
        np.testing.assert_allclose(out.relevant, arrays[key].mean(), rtol=1e-6)
        np.testing.assert_allclose(out.aligned, arrays["out_LA"].mean(), rtol=1e-6)
        np.testing.assert_allclose(out.total, arrays[key].mean() + arrays["out_LA"].mean(), rtol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_equals_literal_loops_on_ragged_batches(seed):
    batch = random_batch(seed)
    for reading in ("samples", "distinct"):
        relevant, aligned = literal_loops(*batch, distinct=reading == "distinct")
        out = RegionAwareLoss(labels_in_batch=reading)(*tensors(*batch))
        if np.isnan(relevant).all():
            assert out.total == 0
        else:
            np.testing.assert_allclose(out.relevant, np.nanmean(relevant), rtol=1e-9)
            np.testing.assert_allclose(out.aligned, np.nanmean(aligned), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_gradient_equals_finite_differences(seed):
    regions, *rest = tensors(*random_batch(seed))
    regions.requires_grad_()
    assert torch.autograd.gradcheck(lambda r: RegionAwareLoss()(r, *rest).total, regions)


EDGE_CASES = {
    "no spurious region": dict(spurious=[0, 0, 0, 0], labels=[0, 1]),
    "only spurious regions": dict(spurious=[1, 1, 1, 1], labels=[0, 1]),
    "one image has only spurious regions": dict(spurious=[1, 1, 0, 0], labels=[0, 1]),
    "one label": dict(spurious=[0, 1, 0, 1], labels=[1, 1]),
    "one label, no spurious region": dict(spurious=[0, 0, 0, 0], labels=[1, 1]),
    "one image": dict(spurious=[0, 1, 0, 0], labels=[2], index=[0, 0, 0, 0]),
    "one image, no spurious region": dict(spurious=[0, 0, 0, 0], labels=[2], index=[0, 0, 0, 0]),
    "an image without regions": dict(spurious=[0, 1, 0, 0], labels=[0, 1, 2]),
    "no regions": dict(spurious=[], labels=[0, 1], index=[]),
}


@pytest.mark.parametrize("name", EDGE_CASES)
def test_edge_cases_have_finite_values_and_gradients(name):
    case = EDGE_CASES[name]
    index = case.get("index", [0, 0, 1, 1])
    rng = np.random.default_rng(3)
    regions, classes = rng.normal(size=(len(index), 4)), rng.normal(size=(3, 4))
    regions, classes = (torch.from_numpy(a / np.linalg.norm(a, axis=1, keepdims=True)) for a in (regions, classes))
    regions.requires_grad_(), classes.requires_grad_()
    spurious, labels = torch.tensor(case["spurious"], dtype=torch.bool), torch.tensor(case["labels"])
    out = RegionAwareLoss()(regions, torch.tensor(index, dtype=torch.long), spurious, classes, labels)
    out.total.backward()
    assert torch.isfinite(out.total) and torch.isfinite(regions.grad).all() and torch.isfinite(classes.grad).all()
    arrays = regions.detach().numpy(), index, case["spurious"], classes.detach().numpy(), case["labels"]
    relevant, aligned = literal_loops(*arrays)
    expected = 0.0 if np.isnan(relevant).all() else np.nanmean(relevant) + np.nanmean(aligned)
    np.testing.assert_allclose(out.total.detach(), expected, rtol=1e-9, atol=1e-12)


def test_with_one_label_both_terms_agree():
    regions, index, spurious, classes, _ = random_batch(1)
    out = RegionAwareLoss(labels_in_batch="distinct")(*tensors(regions, index, spurious, classes, np.full(6, 2)))
    np.testing.assert_allclose(out.relevant, out.aligned)


def test_large_logits_do_not_overflow_in_float32():
    regions, index, spurious, classes, labels = random_batch(2)
    batch = tensors(regions.astype("f4"), index, spurious, classes.astype("f4"), labels)
    out = RegionAwareLoss(temperature=0.001)(*batch)
    assert torch.isfinite(out.total)


@pytest.mark.parametrize(
    "position, value, message",
    [
        (0, torch.zeros(4, 3), "region_embeddings"),
        (1, torch.tensor([0, 0, 1, 2]), "image_index"),
        (1, torch.tensor([0, 0, 1]), "image_index"),
        (2, torch.zeros(4), "spurious"),
        (4, torch.tensor([0, 3]), "labels"),
        (4, torch.tensor([0.0, 1.0]), "labels"),
        (4, torch.tensor([-1, 0]), "labels"),
    ],
)
def test_batches_that_do_not_fit_together_are_named(position, value, message):
    image_index, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1])
    batch = [torch.zeros(4, 2), image_index, torch.zeros(4, dtype=torch.bool), torch.zeros(3, 2), labels]
    batch[position] = value
    with pytest.raises(ValueError, match=message):
        RegionAwareLoss()(*batch)


def test_clip_loss_equals_two_cross_entropies():
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 5, 8))
    logits = images @ texts.T / 0.07
    rows = np.mean([np.log(np.exp(logits[i] - logits[i, i]).sum()) for i in range(5)])
    columns = np.mean([np.log(np.exp(logits[:, i] - logits[i, i]).sum()) for i in range(5)])
    np.testing.assert_allclose(clip_loss(torch.from_numpy(images), torch.from_numpy(texts)), (rows + columns) / 2)
