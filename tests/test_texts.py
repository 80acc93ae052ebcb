"""Texts in training: encoded once up to the projection, which learns; all else of the text tower stays as it is."""

import numpy as np
import pytest
import torch
from tiny import PREPROCESSING, RESNET, TEXT, VIT, digits, same_weights, tiny_vlm, weights

from ravl_core.checkpoints import MINIATURES, open_clip
from ravl_core.mitigation import Budget, mitigate
from ravl_core.mitigation.texts import Texts
from ravl_core.vlm import VLM

CAPTIONS = ["the digit nine", "a red rectangle", "the digit nine", "nothing", "a red rectangle", "the digit nine"]


def made(kind):
    """A model whose projection is a matrix, a linear layer, or a matrix in a text tower of its own."""
    if kind == "matrix":
        return tiny_vlm()
    torch.manual_seed(0)
    tower, text = (RESNET, TEXT | {"proj_bias": True}) if kind == "linear" else (VIT, TEXT)
    model = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}
    clip = (open_clip.CLIP if kind == "linear" else open_clip.CustomTextCLIP)(**model)
    if kind == "linear":
        torch.nn.init.normal_(clip.text_projection.bias)  # zeros would hide a bias that is left out
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINIATURES / 'rn-mini'}")
    return VLM(clip, tokenizer, kind, {"model_cfg": model, "preprocess_cfg": PREPROCESSING}).eval()


@pytest.fixture(params=["matrix", "linear", "own tower"])
def vlm(request):
    return made(request.param)


def projected(vlm, features):
    """Unit embeddings (T, D) of features (T, W), by loops."""
    owner = vlm.clip if hasattr(vlm.clip, "text_projection") else vlm.clip.text
    projection = owner.text_projection
    layer = hasattr(projection, "weight")
    matrix = (projection.weight.T if layer else projection).detach().double().numpy()
    bias = projection.bias.tolist() if layer else [0.0] * 16
    rows = []
    for feature in features.double().numpy():
        row = [sum(feature[w] * matrix[w, d] for w in range(len(matrix))) + bias[d] for d in range(16)]
        rows.append(np.array(row) / np.sqrt(sum(value**2 for value in row)))
    return np.array(rows)


# ---- embeddings ----


def test_where_the_projection_learns_features_stop_before_it(vlm):
    texts = Texts(vlm, trained=True)
    features = texts.features(CAPTIONS)
    assert features.shape == (6, TEXT["width"]) and not features.requires_grad
    embedded = texts.embed(features)
    np.testing.assert_allclose(embedded.detach().numpy(), vlm.encode_texts(CAPTIONS), atol=1e-6)
    np.testing.assert_allclose(embedded.detach().numpy(), projected(vlm, features), atol=1e-6)


def test_where_nothing_learns_features_are_the_embeddings(vlm):
    texts = Texts(vlm, trained=False)
    features = texts.features(CAPTIONS)
    np.testing.assert_allclose(features.numpy(), vlm.encode_texts(CAPTIONS), atol=1e-6)
    assert texts.embed(features) is features and not features.requires_grad


def test_embeddings_follow_the_projection_as_it_is_now(vlm):
    texts = Texts(vlm, trained=True)
    features = texts.features(CAPTIONS)
    before = texts.embed(features)
    with torch.no_grad():
        for parameter in texts.parameters:
            parameter += torch.randn_like(parameter)
    after = texts.embed(features).detach()
    assert (before - after).abs().max() > 0.1
    np.testing.assert_allclose(after.numpy(), vlm.encode_texts(CAPTIONS), atol=1e-6)


def test_embeddings_of_any_number_of_dimensions_are_unit_rows(vlm):
    texts = Texts(vlm, trained=True)
    features = texts.features(CAPTIONS)
    embedded = texts.embed(features.unflatten(0, (3, 2)))
    assert embedded.shape == (3, 2, 16)
    assert torch.equal(embedded.flatten(0, 1), texts.embed(features))
    np.testing.assert_allclose(embedded.norm(dim=-1).detach().numpy(), np.ones((3, 2)), atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_texts_that_repeat_are_encoded_once(vlm, trained):
    given = []

    def noting(texts):
        given.extend(texts)
        return tokenizer(texts)

    tokenizer, vlm.tokenizer = vlm.tokenizer, noting
    features = Texts(vlm, trained).features(CAPTIONS)
    assert sorted(given) == sorted(set(CAPTIONS))
    for one, text in enumerate(CAPTIONS):
        for other, same in enumerate(CAPTIONS):
            assert torch.equal(features[one], features[other]) == (text == same)


@pytest.mark.parametrize("name", ["standard", "ravl", "spurious_aware"])
def test_in_a_whole_run_each_text_passes_the_tower_once_however_long_it_is(monkeypatch, name):
    """Captions repeat from image to image and every step asks for them, but only distinct ones are encoded."""
    vlm, data, passed = tiny_vlm(), digits(40), []
    encode = type(vlm.clip).encode_text

    def noting(self, tokens, *options):
        passed.append(sorted(map(tuple, tokens.tolist())))
        return encode(self, tokens, *options)

    monkeypatch.setattr(type(vlm.clip), "encode_text", noting)
    options = {"feature": "red rectangle"} if name == "spurious_aware" else {}
    runs = []
    for epochs in (1, 4):
        mitigate(vlm, data, data.shows_feature, name, Budget(epochs=epochs, batch_size=20), **options)
        runs.append(passed.copy())
        passed.clear()
    assert runs[0] == runs[1] and all(len(rows) == len(set(rows)) for rows in runs[0])
    captions = sorted(set(map(tuple, vlm.tokenizer(list(data.captions)).tolist())))
    assert 1 < len(captions) < len(data) and runs[0].count(captions) >= 1
    n_prompts = len(data.class_names) * len(data.templates) + 12 * bool(options)  # 4 name the feature, 8 its places
    assert sum(map(len, runs[0])) == len(captions) + n_prompts


# ---- the tower ----


def test_the_projection_is_put_back(vlm):
    texts = Texts(vlm, trained=True)
    projection, before = texts.owner.text_projection, weights(vlm)
    texts.features(CAPTIONS)
    assert texts.owner.text_projection is projection
    assert same_weights(weights(vlm), before) and list(weights(vlm)) == list(before)


@pytest.mark.parametrize("where", ["tokenizer", "tower"])
def test_the_projection_is_put_back_also_after_an_error(vlm, monkeypatch, where):
    def fails(*arguments):
        raise ArithmeticError("in the middle")

    texts = Texts(vlm, trained=True)
    projection, before = texts.owner.text_projection, weights(vlm)
    with monkeypatch.context() as broken:
        broken.setattr(*((vlm, "tokenizer", fails) if where == "tokenizer" else (vlm.clip, "encode_text", fails)))
        with pytest.raises(ArithmeticError, match="in the middle"):
            texts.features(CAPTIONS)
    assert texts.owner.text_projection is projection and same_weights(weights(vlm), before)
    np.testing.assert_allclose(
        texts.embed(texts.features(CAPTIONS)).detach().numpy(), vlm.encode_texts(CAPTIONS), atol=1e-6
    )


def test_a_gradient_reaches_the_projection_and_nothing_else(vlm):
    texts = Texts(vlm, trained=True)
    texts.embed(texts.features(CAPTIONS))[:, 0].sum().backward()
    reached = {name for name, parameter in vlm.clip.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in vlm.clip.named_parameters() if "text_projection" in name}
    assert len(reached) == len(texts.parameters) and all(p.grad.abs().max() > 0 for p in texts.parameters)


def test_where_nothing_learns_no_gradient_reaches_the_model(vlm):
    texts = Texts(vlm, trained=False)
    assert texts.parameters == []
    embedded = texts.embed(texts.features(CAPTIONS))
    assert not embedded.requires_grad
    assert all(parameter.grad is None for parameter in vlm.clip.parameters())
