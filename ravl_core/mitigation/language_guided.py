"""Language-guided abstractions: keywords of the object pull an image, keywords of its background push it away."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ravl_core.checks import choice, number
from ravl_core.losses import TEMPERATURE, SupervisedContrastiveLoss, clip_loss
from ravl_core.mitigation.batch import Batch
from ravl_core.mitigation.recipe import Recipe, Run
from ravl_core.mitigation.texts import Texts
from ravl_core.mitigation.vl_erm import COLDEST


@dataclass(frozen=True)
class LanguageGuided(Recipe):
    """The supervised contrastive loss on images, what a teacher says of their objects, and of their backgrounds.

    Anchors are the batch's images and one text for each, the keywords of its object. The keywords of its background
    make another text, which is a candidate of every anchor and nobody's positive. So an image comes close to the words
    for its object and does not to those for its place.

    What the method is held against, "binary CLIP", is the recipe "standard" on captions that name the class alone.

    Parameters
    ----------
    descriptions : one `Description` (see `ravl_core.language`) for each fine-tuning image, in their order; anything
        with `objects` and `background`, tuples of keywords, is one. A background may have none.
    form : "out" or "in", see `SupervisedContrastiveLoss`.
    positives : "class": all images and object texts of the anchor's class; "own": an image's own text, and the reverse.
    clip_weight : of CLIP's loss on images and captions beside it; 0: none.
    joiner : what stands between keywords.
    temperature : τ of both losses.
    trains_text : whether the text tower's projection learns, too.

    Source: Rao, Kommineni, Sinkala and Anand, Fighting Spurious Correlations Using Language Guided Abstractions, who
    give the loss. What is an anchor, a positive and a negative in it, and CLIP's loss beside it, are our reading.
    """

    descriptions: Sequence = field(default=(), repr=False)
    form: str = "out"
    positives: str = "class"
    clip_weight: float = 0.0
    joiner: str = ", "
    temperature: float = TEMPERATURE
    trains_text: bool = False

    def __post_init__(self):
        if not len(self.descriptions):
            raise ValueError("descriptions: LanguageGuided needs one for each fine-tuning image, got none")
        silent = [image for image, description in enumerate(self.descriptions) if not len(description.objects)]
        if silent:
            raise ValueError(f"descriptions: expected keywords of each object, got none for image {silent[0]}")
        choice("form", self.form, ("out", "in"))
        choice("positives", self.positives, ("class", "own"))
        number("clip_weight", self.clip_weight, 0)
        number("temperature", self.temperature, COLDEST)

    def begin(self, run: Run) -> Recipe:
        """The recipe with the features of its texts."""
        if len(self.descriptions) != len(run.dataset):
            came = f"{len(self.descriptions)} for {len(run.dataset)} images"
            raise ValueError(f"descriptions: expected one for each fine-tuning image, got {came}")
        objects = [self.joiner.join(description.objects) for description in self.descriptions]
        backgrounds = [self.joiner.join(description.background) for description in self.descriptions]
        features = Texts(run.vlm, self.trains_text).features(objects + backgrounds)
        features = dict(zip(("object_features", "background_features"), features.chunk(2), strict=True))
        described = torch.tensor([text != "" for text in backgrounds], device=run.vlm.device)
        return _Begun(**vars(self) | features | {"has_background": described})


@dataclass(frozen=True)
class _Begun(LanguageGuided):
    object_features: torch.Tensor = field(kw_only=True)  # (N, …)
    background_features: torch.Tensor = field(kw_only=True)  # (N, …)
    has_background: torch.Tensor = field(kw_only=True)  # (N,) bool

    def objective(self, batch: Batch) -> torch.Tensor:
        behind = batch.index[self.has_background[batch.index]]
        objects, backgrounds = (
            batch.texts.embed(features)
            for features in (self.object_features[batch.index], self.background_features[behind])
        )
        names = batch.labels if self.positives == "class" else torch.arange(len(objects), device=objects.device)
        names = torch.cat([names, names])
        loss = SupervisedContrastiveLoss(self.temperature, self.form)
        total = loss(torch.cat([batch.image_embeddings, objects]), names[:, None] == names, backgrounds)
        if self.clip_weight:
            total = total + self.clip_weight * clip_loss(
                batch.image_embeddings, batch.text_embeddings, self.temperature
            )
        return total
