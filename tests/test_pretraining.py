"""The models that settings start from: made once for each domain, to a stated competence, the same on every run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ravl_core import initial_models as pretraining_plans
from ravl_core import paths, pretraining
from ravl_core.checkpoints import miniature_names
from ravl_core.domains import load_domain
from ravl_core.initial_models import CHANGES, MADE, SHIPPED, Pretraining, plan_of
from ravl_core.pretraining import initial_vlm, pretrain, uncorrelated_set


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    monkeypatch.setenv("RAVL_HOME", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short(monkeypatch):
    """Plans of two steps, and how often one was carried out."""
    made = []

    def count(name, plan, device="cpu"):
        made.append((name, plan.domain))
        return pretrain(name, plan, device)

    plans = {domain: Pretraining(domain, steps=2, batch_size=16, n_images=80) for domain in MADE}
    monkeypatch.setattr(pretraining, "MADE", plans)
    monkeypatch.setattr(pretraining, "pretrain", count)
    return made


def weights_of(vlm):
    return {name: value.clone() for name, value in vlm.clip.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_miniature_is_made_once_and_kept(short):
    first = initial_vlm("rn-mini-deep", "digits")
    again = initial_vlm("rn-mini-deep", "digits")
    assert short == [("rn-mini-deep", "digits")]
    assert same(weights_of(first), weights_of(again))
    assert not first.training
    (folder,) = (paths.home() / ".cache" / "initial").iterdir()
    assert folder.name.startswith("rn-mini-deep-digits-")


def test_the_same_plan_gives_the_same_bytes(short):
    initial_vlm("rn-mini", "photos")
    (folder,) = (paths.home() / ".cache" / "initial").iterdir()
    bytes_of_first = (folder / "open_clip_model.safetensors").read_bytes()
    folder.rename(folder.with_name("aside"))
    torch.set_num_threads(2)
    initial_vlm("rn-mini", "photos")
    assert torch.get_num_threads() == 2
    assert (folder / "open_clip_model.safetensors").read_bytes() == bytes_of_first


def test_every_domain_has_its_own(short, monkeypatch):
    digits, photos = (weights_of(initial_vlm("rn-mini-deep", domain)) for domain in ("digits", "photos"))
    assert not same(digits, photos) and len(short) == 2
    changed = {"digits": Pretraining("digits", steps=1, batch_size=16, n_images=80)}
    monkeypatch.setattr(pretraining, "MADE", changed)
    assert not same(weights_of(initial_vlm("rn-mini-deep", "digits")), digits)


def test_what_ships_is_not_made(short):
    initial_vlm("rn-mini", SHIPPED["rn-mini"].domain)
    assert short == [] and set(SHIPPED) == set(miniature_names())


def test_a_vision_transformer_has_a_longer_plan_and_others_the_domain_s():
    for plan in MADE.values():
        assert plan_of("rn-mini-deep", plan) == plan
        longer = plan_of("vit-mini", plan)
        assert longer.steps > plan.steps and longer == replace(plan, **CHANGES["vit-mini"])


def test_a_changed_plan_makes_a_model_of_its_own(short, monkeypatch):
    monkeypatch.setitem(pretraining_plans.CHANGES, "vit-mini", {"steps": 1})
    one = weights_of(initial_vlm("vit-mini", "digits"))
    monkeypatch.setitem(pretraining_plans.CHANGES, "vit-mini", {"steps": 2})
    assert not same(weights_of(initial_vlm("vit-mini", "digits")), one) and len(short) == 2


def test_other_models_are_loaded_by_their_name(short, tmp_path):
    vlm = initial_vlm("rn-mini-deep", "digits")
    (folder,) = (paths.home() / ".cache" / "initial").iterdir()
    loaded = initial_vlm(f"local-dir:{folder}", "photos")
    assert same(weights_of(loaded), weights_of(vlm)) and len(short) == 1
    with pytest.raises(ValueError, match="no model is called 'rn-mni'"):
        initial_vlm("rn-mni", "digits")


def test_training_stops_at_the_competence_that_is_asked_for(monkeypatch):
    accuracies = iter([0.1, 0.3, 0.2, 0.6, 0.9])
    monkeypatch.setattr(pretraining, "_competence", lambda vlm, plan: next(accuracies))
    plan = Pretraining(steps=40, competence=0.5, batch_size=8, n_images=80)
    pretrain("rn-mini", plan)
    assert next(accuracies) == 0.9  # the fourth check ended it


def test_without_a_competence_all_steps_are_taken(monkeypatch):
    monkeypatch.setattr(pretraining, "_competence", lambda vlm, plan: pytest.fail("nothing to check"))
    seen = []
    monkeypatch.setattr(pretraining, "clip_loss", lambda images, texts: seen.append(len(images)) or images.sum())
    pretrain("rn-mini", Pretraining(steps=3, batch_size=8, n_images=80))
    assert seen == [8, 8, 8]


@pytest.mark.parametrize("domain", MADE)
def test_every_plan_belongs_to_a_domain_and_states_a_competence_above_chance(domain):
    plan = MADE[domain]
    assert plan.domain == domain == load_domain(domain).name
    assert 1.5 / len(load_domain(domain).class_names) < plan.competence < 1


def test_full_captions_name_what_else_is_there():
    data = uncorrelated_set("photos", "pretraining", 40, seed=3, feature="horse")
    captions = pretraining._full_captions(data)
    for image, caption in enumerate(captions):
        assert caption.startswith(data.captions[image])
        here = {data.box_names[box] for box in np.flatnonzero(data.image_index == image)}
        others = here - {"", data.class_names[data.labels[image]]}
        assert caption[len(data.captions[image]) :] == "".join(f" and a {name}" for name in sorted(others))
    assert sum("horse" in caption for caption in captions) >= data.feature_present.sum() * 0.9


def test_pretraining_sees_every_feature_of_a_domain():
    plan = Pretraining("photos", n_images=80, names_all=True)
    images, captions = pretraining._pretraining_set(plan)
    assert images.shape == (80, 3, 64, 64) and len(captions) == 80
    assert all(any(feature in caption for caption in captions) for feature in load_domain("photos").features)


def test_an_uncorrelated_set_holds_the_feature_in_half_of_each_class():
    data = uncorrelated_set("digits", "val", 200, seed=0)
    for label in range(10):
        assert data.feature_present[data.labels == label].sum() == 10
