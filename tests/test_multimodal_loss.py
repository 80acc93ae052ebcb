"""Yang et al.'s loss: the released code's values from its golden file, and both forms, term by term, by loops."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ravl_core.mitigation.group_weights import group_means
from ravl_core.mitigation.multimodal_loss import MultimodalLoss

GOLDEN = Path(__file__).parent / "golden" / "clip_spurious_finetune" / "caseA.npz"
PARTS = (
    "classification",
    "image_ce",
    "language_ce",
    "image",
    "language",
    "language_pos",
    "language_neg",
    "crossmodal",
    "spurious",
    "spurious_classification",
)
# By the names of the golden file; "lc_vc_ls" and "lc_vc_vs" are the published settings. Of the two last weights of
# "all_terms" only the sum matters.
CONFIGURATIONS = {
    "clip_only": {"image_weight": 0, "language_weight": 0},
    "lc_vc_ls": {"spurious_weight": 1},
    "lc_vc_vs": {"spurious_class_weight": 1},
    "lc_only": {"image_weight": 0},
    "vc_only": {"language_weight": 0},
    "ls_diag": {"image_weight": 0, "spurious_weight": 1, "diagonal": True},
    "all_terms": {
        "class_weight": 0.6,
        "crossmodal_weight": 0.3,
        "domain_weight": 0.5,
        "spurious_weight": 0.7,
        "spurious_class_weight": 0.4,
        "spurious_clip_weight": 0.2,
    },
    "lc_vc_ls_wandb": {"spurious_weight": 1, "logged": True},
    "lc_vc_vs_wandb": {"spurious_class_weight": 1, "logged": True},
    "wandb_flag_quirk": {"logged": True},
}


@pytest.fixture(scope="module")
def golden():
    return {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(GOLDEN, allow_pickle=False).items()}


def prompts_of(golden):
    return [golden[f"in_emb_{name}"] for name in ("y", "spurious", "generic_spurious")]


def terms_of(golden, prompts=None, labels=None, **options):
    labels = golden["in_y"] if labels is None else labels
    prompts = prompts or prompts_of(golden)
    scale = golden["in_logit_scale"].exp()
    return MultimodalLoss(**options)(golden["in_features"], *prompts, labels, golden["in_place"], scale)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


# ---- what the released code computes ----


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_golden_values_of_every_part(golden, name):
    terms = terms_of(golden, as_released=True, **CONFIGURATIONS[name])
    for part in PARTS:
        same(getattr(terms, part), golden[f"out_{name}_{part}"])
    same(terms.total, golden[f"out_{name}_elementwise"])
    groups = 2 * golden["in_place"] + golden["in_y"]
    same(group_means(terms.total, groups, 4), golden[f"out_{name}_group_loss"])
    assert torch.bincount(groups, minlength=4).tolist() == golden[f"out_{name}_group_count"].tolist()


def test_every_configuration_of_the_golden_file_is_here(golden):
    ending = "_elementwise"
    assert {name[4 : -len(ending)] for name in golden if name.endswith(ending)} == CONFIGURATIONS.keys()


# ---- where the intended form has to give the released code's values ----


@pytest.mark.parametrize("name", ["clip_only", "all_terms"])
def test_clips_loss_and_classification_are_as_released(golden, name):
    terms = terms_of(golden, **CONFIGURATIONS[name])
    for part in ("classification", "image_ce", "language_ce"):
        same(getattr(terms, part), golden[f"out_{name}_{part}"])


def test_clips_loss_alone_is_as_released(golden):
    same(terms_of(golden, **CONFIGURATIONS["clip_only"]).total, golden["out_clip_only_elementwise"])


def test_with_one_class_in_the_batch_the_image_term_is_as_released(golden):
    """The released code takes a column of ones for labels."""
    for label in (0, 1):
        terms = terms_of(golden, labels=torch.full_like(golden["in_y"], label))
        same(terms.image, golden["out_vc_only_image"])
    assert (terms_of(golden).image - golden["out_vc_only_image"]).abs().max() > 0.1


def test_with_prompts_stored_in_blocks_the_cross_modal_term_is_as_released(golden):
    """The released code labels rows in blocks of T, and takes ones for labels."""
    classes, *others = prompts_of(golden)
    n_templates, n_classes, size = classes.shape
    blocks = classes.reshape(n_classes, n_templates, size).transpose(0, 1)
    terms = terms_of(golden, [blocks, *others], torch.ones_like(golden["in_y"]), **CONFIGURATIONS["all_terms"])
    same(terms.crossmodal, golden["out_all_terms_crossmodal"])


def test_clips_loss_on_places_is_as_released(golden):
    terms = terms_of(golden, spurious_clip_weight=1)
    both, alone = (golden[f"out_{name}_spurious_classification"] for name in ("all_terms", "lc_vc_vs"))
    same(terms.spurious_classification, both - alone)


# ---- both forms by loops ----


def softmax_loss(logits, right):
    return float(np.log(np.exp(logits - logits[right]).sum()))


def literal(features, classes, feature, places, labels, place_of, scale, released, logged=False):
    """All terms of weight 1, by their definitions, one image, prompt and pair at a time."""
    n, (n_templates, n_classes, _) = len(features), classes.shape
    found = {name: np.zeros(n) for name in (*PARTS, "L_lc", "L_ls", "domain")}
    means, place_means = classes.mean(axis=0), places.mean(axis=0)
    if released:
        classifier = place_means / np.sqrt((place_means**2).sum())
    else:
        classifier = np.array([mean / np.sqrt((mean**2).sum()) for mean in place_means])
    unit_means = np.array([mean / np.sqrt((mean**2).sum()) for mean in means])
    pairs = np.array([[scale * features[i] @ means[labels[j]] for j in range(n)] for i in range(n)])
    for i in range(n):
        found["classification"][i] = softmax_loss(scale * unit_means @ features[i], labels[i])
        found["image_ce"][i], found["language_ce"][i] = softmax_loss(pairs[i], i), softmax_loss(pairs[:, i], i)
        found["spurious_classification"][i] = softmax_loss(scale * classifier @ features[i], place_of[i])
        for j in range(n):
            alike = released or labels[i] == labels[j]
            found["image"][i] += (-1 if alike else 1) * features[i] @ features[j] / n
        found["L_lc"][i], found["language_pos"][i], found["language_neg"][i] = among(classes, labels[i], released)
        found["domain"][i] = among(places, place_of[i], released)[0]
        rows = rows_of(n_templates, n_classes, labels[i], released)
        for t, c in rows:
            for other in [feature, classes] if logged else [feature]:
                found["L_ls"][i] += np.mean([abs(classes[t, c] @ row) for names in other for row in names]) / len(rows)
    return found


def rows_of(n_templates, n_names, name, released):
    """The prompts whose values an image of that name takes."""
    return [(name, c) for c in range(n_names)] if released else [(t, name) for t in range(n_templates)]


def among(prompts, name, released):
    n_templates, n_names, _ = prompts.shape

    def kind(t, c):
        return (t * n_names + c) // n_templates if released else c

    def sides(t, c):
        positive = negative = 0
        for u in range(n_templates):
            for d in range(n_names):
                cosine = prompts[t, c] @ prompts[u, d] / (n_templates * n_names)
                if kind(t, c) == kind(u, d):
                    positive += cosine
                else:
                    negative += cosine
        return positive, negative

    mine = [sides(t, c) for t, c in rows_of(n_templates, n_names, name, released)]
    loss = np.mean([negative - positive for positive, negative in mine])
    if released:  # the record shows the first template's prompt of that name
        positive, negative = sides(0, name)
        return loss, -positive, negative
    return loss, -np.mean([positive for positive, _ in mine]), np.mean([negative for _, negative in mine])


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def problem(seed, n_images, n_templates, n_classes, n_feature=1, n_places=2, size=5):
    random = np.random.default_rng(seed)
    features = unit(random.normal(size=(n_images, size)) + 0.5)
    prompts = [unit(random.normal(size=(n_templates, k, size)) + 0.5) for k in (n_classes, n_feature, n_places)]
    labels, places = random.integers(0, n_classes, n_images), random.integers(0, n_places, n_images)
    return features, *prompts, labels, places, 3.0


SHAPES = [(7, 4, 3), (5, 3, 3), (1, 2, 2), (6, 5, 1), (9, 12, 10)]  # images, templates, classes


@pytest.mark.parametrize(
    "shape, released", [(shape, released) for released in (False, True) for shape in SHAPES] + [((8, 1, 4), False)]
)
def test_every_term_is_that_of_the_loops(shape, released):
    arrays = problem(sum(shape), *shape, n_feature=2)
    expected = literal(*arrays, released)
    tensors = [torch.as_tensor(array) for array in arrays]

    def terms(**options):
        return MultimodalLoss(as_released=released, **options)(*tensors)

    def close(found, *names):
        np.testing.assert_allclose(found, sum(expected[name] for name in names), rtol=0, atol=1e-12)

    plain = terms(spurious_class_weight=1)
    for name in ("classification", "image_ce", "language_ce", "image", "spurious_classification"):
        close(getattr(plain, name), name)
    close(plain.language, "L_lc")
    close(plain.language_pos, "language_pos")
    close(plain.language_neg, "language_neg")
    close(terms(spurious_weight=1).language, "L_lc", "L_ls")
    close(terms(spurious_weight=1).spurious, "L_ls")
    close(terms(domain_weight=1).language, "L_lc", "domain")
    clip = (expected["image_ce"] + expected["language_ce"]) / 2
    for options, added in (({"spurious_class_weight": 1}, "spurious_classification"), ({"spurious_weight": 1}, "L_ls")):
        total = clip + expected["image"] + expected["L_lc"] + expected[added]
        np.testing.assert_allclose(terms(**options).total, total, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_logged_the_released_code_pushes_class_prompts_from_each_other(shape):
    arrays = problem(1, *shape)
    expected = literal(*arrays, released=True, logged=True)
    terms = MultimodalLoss(as_released=True, logged=True, spurious_weight=1)(*map(torch.as_tensor, arrays))
    np.testing.assert_allclose(terms.language, expected["L_lc"] + expected["L_ls"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_cross_modal_term_by_loops(seed):
    features, classes, feature, places, labels, place_of, scale = problem(seed, 6, 3, 4, n_feature=2)
    expected = np.zeros(6)
    for i in range(6):
        for t in range(3):
            for c in range(4):
                expected[i] += (-1 if c == labels[i] else 1) * features[i] @ classes[t, c] / 12
            for a in range(2):
                expected[i] += 0.7 * abs(features[i] @ feature[t, a]) / 6
    tensors = map(torch.as_tensor, (features, classes, feature, places, labels, place_of, scale))
    terms = MultimodalLoss(crossmodal_weight=0.3, spurious_weight=0.7, language_weight=0, image_weight=0)(*tensors)
    np.testing.assert_allclose(terms.crossmodal, expected, rtol=0, atol=1e-12)
    added = terms.total - (terms.image_ce + terms.language_ce) / 2
    np.testing.assert_allclose(added, 0.3 * expected, rtol=0, atol=1e-12)


def test_diagonal_pairs_prompts_of_one_place():
    features, classes, _, places, labels, place_of, scale = problem(0, 6, 3, 4)
    feature = problem(1, 6, 3, 4)[1]
    expected = [np.mean([abs(classes[t, y] @ feature[t, y]) for t in range(3)]) for y in labels]
    tensors = map(torch.as_tensor, (features, classes, feature, places, labels, place_of, scale))
    found = MultimodalLoss(spurious_weight=1, diagonal=True)(*tensors).spurious
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_weights_of_the_two_sides():
    arrays = [torch.as_tensor(array) for array in problem(0, 6, 3, 4)]
    sides = MultimodalLoss()(*arrays)
    found = MultimodalLoss(positive_weight=0.5, negative_weight=2, spurious_weight=1)(*arrays)
    from_feature = MultimodalLoss(spurious_weight=1)(*arrays).spurious
    expected = 0.5 * sides.language_pos + 2 * sides.language_neg + 2 * from_feature
    np.testing.assert_allclose(found.language, expected, rtol=0, atol=1e-12)
    features, labels = arrays[0], arrays[4]
    cosines, alike = features @ features.T, labels[:, None] == labels
    expected = torch.where(alike, -0.5 * cosines, 2 * cosines).mean(dim=1)
    np.testing.assert_allclose(found.image, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["clip", "class", "image", "language", "crossmodal", "spurious_class"])
def test_the_total_is_linear_in_each_weight(name):
    arrays = [torch.as_tensor(array) for array in problem(2, 6, 3, 4)]
    weights = {f"{one}_weight": 0.5 for one in ("clip", "class", "image", "language", "crossmodal", "spurious_class")}
    low, middle, high = (
        MultimodalLoss(**weights | {f"{name}_weight": weight})(*arrays).total for weight in (0.25, 0.5, 1.0)
    )
    np.testing.assert_allclose((high - middle) / 2, middle - low, rtol=0, atol=1e-12)
    assert (high - low).abs().max() > 0.01


# ---- what it is for ----


def descent(gradient_of, options, steps=200):
    features, *prompts, labels, places, scale = (torch.as_tensor(array) for array in problem(3, 12, 3, 2, size=8))
    learned = {"features": features, "classes": prompts[0]}[gradient_of].clone().requires_grad_()
    for _ in range(steps):
        unit_rows = torch.nn.functional.normalize(learned, dim=-1)
        given = [unit_rows, *prompts] if gradient_of == "features" else [features, unit_rows, *prompts[1:]]
        loss = MultimodalLoss(clip_weight=0, **options)(*given, labels, places, scale).total.mean()
        (gradient,) = torch.autograd.grad(loss, learned)
        learned = (learned - 2 * gradient).detach().requires_grad_()
    return unit_rows.detach(), labels, prompts


def test_as_intended_images_of_a_class_meet_and_classes_part():
    features, labels, _ = descent("features", {"language_weight": 0})
    cosines, alike = features @ features.T, labels[:, None] == labels
    assert cosines[alike].min() > 0.99 and cosines[~alike].max() < -0.9


def test_as_released_all_images_meet():
    features, *_ = descent("features", {"language_weight": 0, "as_released": True})
    assert (features @ features.T).min() > 0.99


def test_as_intended_prompts_of_a_class_meet_and_classes_part():
    classes, *_ = descent("classes", {"image_weight": 0})
    cosines = classes.flatten(0, 1) @ classes.flatten(0, 1).T
    alike = torch.arange(6)[:, None] % 2 == torch.arange(6) % 2
    assert cosines[alike].min() > 0.99 and cosines[~alike].max() < -0.9


def test_the_feature_leaves_class_prompts():
    options = {"image_weight": 0, "spurious_weight": 20}
    classes, _, (before, feature, _) = descent("classes", options, steps=20)
    nearness = [(prompts.flatten(0, 1) @ feature.flatten(0, 1).T).abs().mean() for prompts in (before, classes)]
    assert nearness[1] < 0.5 * nearness[0]


# ---- what is refused ----


@pytest.mark.parametrize(
    "options, came",
    [
        ({"image_weight": -1}, "image_weight: expected a number from 0 to inf, got -1"),
        ({"spurious_weight": float("nan")}, "spurious_weight: .*got nan"),
        ({"logged": True}, "logged: expected False without as_released"),
        ({"diagonal": True, "crossmodal_weight": 0.3}, "crossmodal_weight: expected 0 with diagonal, got 0.3"),
    ],
)
def test_options_that_cannot_be_are_named(options, came):
    with pytest.raises(ValueError, match=came):
        MultimodalLoss(**options)


@pytest.mark.parametrize("place, name", [(1, "class_prompts"), (2, "feature_prompts"), (3, "place_prompts")])
def test_shapes_that_do_not_fit_are_named(place, name):
    arrays = [torch.as_tensor(array) for array in problem(0, 6, 3, 3)]
    for wrong in (arrays[place][0], arrays[place][..., :-1]):
        with pytest.raises(ValueError, match=rf"features, {name}: expected \(B, D\) and \(T, C, D\), got \(6, 5\) and"):
            MultimodalLoss()(*arrays[:place], wrong, *arrays[place + 1 :])
    with pytest.raises(ValueError, match=r"expected \(B, D\) and \(T, C, D\), got \(5,\) and"):
        MultimodalLoss()(arrays[0][0], *arrays[1:])


def test_as_released_there_are_no_more_names_than_templates():
    arrays = [torch.as_tensor(array) for array in problem(0, 6, 3, 4)]
    with pytest.raises(ValueError, match="class_prompts: as released, .* 3 templates of 4 names"):
        MultimodalLoss(as_released=True)(*arrays)
    MultimodalLoss()(*arrays)


def test_diagonal_wants_as_many_prompts_of_the_feature_as_of_the_classes():
    arrays = [torch.as_tensor(array) for array in problem(0, 6, 3, 2, n_feature=1)]
    with pytest.raises(ValueError, match=r"feature_prompts: .*diagonal, got \(3, 1, 5\) and \(3, 2, 5\)"):
        MultimodalLoss(spurious_weight=1, diagonal=True)(*arrays)
