"""Spurious-aware fine-tuning (Yang et al. 2023): the found feature has a name, and texts keep it apart from classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ravl_core.checkpoints import open_clip
from ravl_core.checks import choice, number
from ravl_core.losses import TEMPERATURE, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.multimodal_loss import MultimodalLoss
from ravl_core.mitigation.recipe import Recipe, Run
from ravl_core.mitigation.texts import Texts
from ravl_core.mitigation.vl_erm import COLDEST

FEATURE_TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image of a {}", "{}")
PLACES = ("scene without a {}", "scene with a {}")  # as "bird on land" and "bird on water" in the published code


@dataclass(frozen=True)
class SpuriousAware(Recipe):
    """L_CL + the terms of `MultimodalLoss`; the text tower's projection learns too, as in the published code.

    With `spurious_term` "vs" that is L_CL + language_weight · L_lc + image_weight · L_vc + spurious_weight · L_vs, an
    image's place being whether it has a region that stage 1 calls spurious. With "ls" it is
    L_CL + language_weight · (L_lc + spurious_weight · L_ls) + image_weight · L_vc. Published settings are both, with
    weights of 1, on batches that are drawn evenly from all groups.

    Parameters
    ----------
    feature : what a user calls the feature that stage 1 found, "red rectangle" for example, as the method needs words.
    as_released : what the published code computes instead, see `multimodal_loss`: its CLIP loss has class prompts for
        texts, where every other recipe has captions, and all its prompts are from CLIP's 80 templates for ImageNet,
        where otherwise classes have the data's own templates. The logit scale, which it trains, stays fixed.
    temperature : τ of all softmaxes.
    balanced : draw batches evenly from all groups.

    Source: Yang et al. 2023, and their repository CLIP-spurious-finetune. How RaVL took the method over is not known:
    captions in L_CL, groups by discovered regions, the prompts of the feature and "vs" as the default are our reading.
    """

    feature: str = ""
    spurious_term: str = "vs"
    language_weight: float = 1.0
    image_weight: float = 1.0
    spurious_weight: float = 1.0
    as_released: bool = False
    temperature: float = TEMPERATURE
    balanced: bool = True
    needs_assignment: ClassVar[bool] = True
    trains_text: ClassVar[bool] = True

    def __post_init__(self):
        if not isinstance(self.feature, str) or not self.feature.strip():
            raise ValueError(f"feature: expected words for the found feature, got {self.feature!r}")
        choice("spurious_term", self.spurious_term, ("vs", "ls"))
        for name in ("language_weight", "image_weight", "spurious_weight"):
            number(name, getattr(self, name), 0)
        if self.spurious_term == "ls" and self.spurious_weight > 0 and self.language_weight == 0:
            raise ValueError("language_weight: it multiplies L_ls too, expected more than 0 with 'ls', got 0")
        number("temperature", self.temperature, COLDEST)

    @property
    def loss(self) -> MultimodalLoss:
        """The terms, among them CLIP's loss only as released."""
        weight = {"ls": "spurious_weight", "vs": "spurious_class_weight"}[self.spurious_term]
        return MultimodalLoss(
            clip_weight=float(self.as_released),
            image_weight=self.image_weight,
            language_weight=self.language_weight,
            as_released=self.as_released,
            logged=self.as_released,
            **{weight: self.spurious_weight},
        )

    def begin(self, run: Run) -> Recipe:
        """The recipe with the features of its prompts."""
        texts = Texts(run.vlm, self.trains_text)
        released = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        templates = released if self.as_released else FEATURE_TEMPLATES
        features = {
            "feature_features": _features(texts, templates, [self.feature]),
            "place_features": _features(texts, templates, [place.format(self.feature) for place in PLACES]),
            "class_features": _features(texts, released, run.dataset.class_names) if self.as_released else None,
        }
        return _Begun(**vars(self) | features)


@dataclass(frozen=True)
class _Begun(SpuriousAware):
    feature_features: torch.Tensor = field(kw_only=True)  # (T, 1, …)
    place_features: torch.Tensor = field(kw_only=True)  # (T, 2, …)
    class_features: torch.Tensor | None = field(kw_only=True)  # (80, C, …); None: those of the data's own templates

    def objective(self, batch: Batch) -> torch.Tensor:
        classes = batch.class_features.transpose(0, 1) if self.class_features is None else self.class_features
        prompts = (batch.texts.embed(each) for each in (classes, self.feature_features, self.place_features))
        images, places = batch.image_embeddings, batch.groups % 2
        terms = self.loss(images, *prompts, batch.labels, places, 1 / self.temperature)
        if self.as_released:
            return terms.total.mean()
        return clip_loss(images, batch.text_embeddings, self.temperature) + terms.total.mean()


def _features(texts: Texts, templates: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """(T, C, …) features of every template with every name."""
    prompts = [template.format(name) for template in templates for name in names]
    return texts.features(prompts).unflatten(0, (len(templates), len(names)))
