"""The multimodal loss of Yang et al. 2023: CLIP's, and terms that tell classes, prompts and a named feature apart.

The published code computes something else than its authors' names of the terms say. Both are here: what is meant, and,
`as_released`, what the code does:

1. Images are compared by a column that is 1 for every training image, so that all of them count as alike.
2. Prompts are stored template by template (row t · C + c) but labelled in blocks of T rows. Their values are then
   averaged over classes instead of templates, and an image takes those of the template whose number is its label.
3. The classifier of places is divided by the norm of the whole matrix, instead of each row by its own.
4. With `logged` (the flag `--use_wandb` of all published commands) class prompts are pushed from each other too, as
   if they named the feature, and `spurious` is computed even where it has no weight.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ravl_core.checks import number


@dataclass(frozen=True)
class MultimodalTerms:
    """One value an image, (B,) each. A term without weight is 0, but for the first three."""

    classification: torch.Tensor  # cross-entropy of the image's zero-shot scores
    image_ce: torch.Tensor  # CLIP's loss with class prompts for texts: over the texts of each image
    language_ce: torch.Tensor  # and over the images of each text
    image: torch.Tensor  # L_vc
    language: torch.Tensor  # L_lc + spurious_weight · L_ls, and the domain term by its weight
    language_pos: torch.Tensor  # the two sides of L_lc and of the domain term, without weights
    language_neg: torch.Tensor
    crossmodal: torch.Tensor  # of images and prompts
    spurious: torch.Tensor  # what places and feature add to `language` and `crossmodal`, for the record
    spurious_classification: torch.Tensor  # L_vs
    total: torch.Tensor  # the weighted sum


@dataclass(frozen=True)
class MultimodalLoss:
    """The weighted sum of CLIP's loss and of terms on cosines, image by image.

    For image i with label y_i, of B images; prompts are T templates of C class names:

        L_vc = mean over images j of -cos(f_i, f_j) where y_j = y_i, +cos(f_i, f_j) elsewhere
        L_lc = the same for a prompt among all class prompts, its mean over the T prompts of class y_i
        L_ls = mean of |cos| over the prompts of class y_i and the prompts of the feature
        L_vs = cross-entropy of the image's place: without or with the feature

        total = clip_weight · (image_ce + language_ce) / 2 + class_weight · classification + image_weight · L_vc
                + language_weight · (L_lc + spurious_weight · L_ls) + spurious_class_weight · L_vs

    As published, L_vc, L_lc and one of L_ls and L_vs have a weight of 1.

    Parameters
    ----------
    crossmodal_weight : of images and class prompts, compared by class as in L_vc, and of |cos| of images and the
        feature's prompts, by `spurious_weight` too.
    domain_weight : of L_lc among the prompts of the places; `language_weight` multiplies it.
    spurious_clip_weight : of CLIP's loss with place prompts for texts. It is added to L_vs, and the sum of both
        weights multiplies both.
    positive_weight, negative_weight : of the two sides of L_vc and L_lc; the negative one also of every |cos|.
    diagonal : in L_ls each class prompt meets only the feature's prompt of the same place in (T, C).
    as_released : what the published code computes; see the module.
    logged : the last departure of the published code; only with `as_released`.

    Source: Yang et al. 2023, and their repository CLIP-spurious-finetune.
    """

    clip_weight: float = 1.0
    class_weight: float = 0.0
    image_weight: float = 1.0
    language_weight: float = 1.0
    crossmodal_weight: float = 0.0
    domain_weight: float = 0.0
    spurious_weight: float = 0.0
    spurious_class_weight: float = 0.0
    spurious_clip_weight: float = 0.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0
    diagonal: bool = False
    as_released: bool = False
    logged: bool = False

    def __post_init__(self):
        for name, value in vars(self).items():
            if name.endswith("_weight"):
                number(name, value, 0)
        if self.logged and not self.as_released:
            raise ValueError("logged: expected False without as_released, got True")
        if self.diagonal and self.crossmodal_weight:
            raise ValueError(f"crossmodal_weight: expected 0 with diagonal, got {self.crossmodal_weight}")

    def __call__(
        self,
        features: torch.Tensor,
        class_prompts: torch.Tensor,
        feature_prompts: torch.Tensor,
        place_prompts: torch.Tensor,
        labels: torch.Tensor,
        places: torch.Tensor,
        scale: torch.Tensor | float,
    ) -> MultimodalTerms:
        """All terms of a batch of B images; embeddings are of norm 1.

        Parameters
        ----------
        features : (B, D), of images.
        class_prompts : (T, C, D).
        feature_prompts : (T', A, D), of prompts that name the feature; for L_ls.
        place_prompts : (T', P, D), of prompts that name the places; for L_vs. Here P = 2: without and with the feature.
        labels, places : (B,) class and place of each image.
        scale : of cosines in a softmax, 1 / τ.

        Raises
        ------
        ValueError
            Shapes that do not belong together.
        """
        self._check(features, class_prompts, feature_prompts, place_prompts)
        image_ce, language_ce = _paired(scale * features @ class_prompts.mean(dim=0)[labels].T)
        classes = F.normalize(class_prompts.mean(dim=0), dim=-1)
        classification = F.cross_entropy(scale * features @ classes.T, labels, reduction="none")
        image, across = self._by_class(features, class_prompts, labels)
        language, language_pos, language_neg = self._among(class_prompts, labels, self.language_weight)
        weight = self.language_weight * self.domain_weight
        domain, domain_pos, domain_neg = self._among(place_prompts, places, weight)
        from_prompts, from_images = self._from_feature(features, class_prompts, feature_prompts, labels)
        terms = {
            "classification": classification,
            "image_ce": image_ce,
            "language_ce": language_ce,
            "image": image,
            "language": language + self.domain_weight * domain + self.spurious_weight * from_prompts,
            "language_pos": language_pos + domain_pos,
            "language_neg": language_neg + domain_neg,
            "crossmodal": across + self.spurious_weight * from_images,
            "spurious": self.language_weight * (domain + from_prompts) + self.crossmodal_weight * from_images,
            "spurious_classification": self._places(features, place_prompts, places, scale),
        }
        return MultimodalTerms(**terms, total=self._total(terms))

    def _total(self, terms):
        return (
            self.clip_weight * (terms["image_ce"] + terms["language_ce"]) / 2
            + self.class_weight * terms["classification"]
            + self.image_weight * terms["image"]
            + self.language_weight * terms["language"]
            + self.crossmodal_weight * terms["crossmodal"]
            + (self.spurious_class_weight + self.spurious_clip_weight) * terms["spurious_classification"]
        )

    def _by_class(self, features, prompts, labels):
        """L_vc and the cross-modal term, (B,) each."""
        kinds = torch.ones_like(labels) if self.as_released else labels
        image = across = torch.zeros_like(features[:, 0])
        if self.image_weight > 0:
            image = self._signed(*_contrast(features, features, kinds, kinds))
        if self.crossmodal_weight > 0:
            across = self._signed(*_contrast(features, prompts.flatten(0, 1), kinds, self._names(prompts)))
        return image, across

    def _among(self, prompts, names, weight):
        """L_lc among prompts (T, C, D) for images of those names (B,), and its two sides; zeros without weight."""
        if weight == 0:
            return [prompts.new_zeros(len(names))] * 3
        rows = prompts.flatten(0, 1)
        positives, negatives = _contrast(rows, rows, self._names(prompts), self._names(prompts))
        loss = self._of_images(self._signed(positives, negatives), prompts, names)
        if self.as_released:  # the sides are those of the first template
            return loss, -positives[names], negatives[names]
        return loss, -self._of_images(positives, prompts, names), self._of_images(negatives, prompts, names)

    def _from_feature(self, features, prompts, feature_prompts, labels):
        """|cos| of class prompts, and of images, with the feature's prompts, (B,) each."""
        pushing = [feature_prompts] if self.spurious_weight > 0 or self.logged else []
        pushing += [prompts] if self.logged else []
        from_prompts = from_images = torch.zeros_like(features[:, 0])
        for others in (prompts.flatten(0, 1) for prompts in pushing):
            if self.language_weight > 0 or self.logged:
                cosines = (prompts.flatten(0, 1) @ others.T).abs()  # (T · C, T' · A)
                nearness = cosines.diagonal() if self.diagonal else cosines.mean(dim=1)
                from_prompts = from_prompts + self.negative_weight * self._of_images(nearness, prompts, labels)
            if self.crossmodal_weight > 0:
                from_images = from_images + self.negative_weight * (features @ others.T).abs().mean(dim=1)
        return from_prompts, from_images

    def _places(self, features, prompts, places, scale):
        """L_vs, and CLIP's loss with place prompts for texts, (B,)."""
        means, loss = prompts.mean(dim=0), torch.zeros_like(features[:, 0])
        if self.spurious_class_weight > 0:
            classifier = means / means.norm() if self.as_released else F.normalize(means, dim=-1)
            loss = loss + F.cross_entropy(scale * features @ classifier.T, places, reduction="none")
        if self.spurious_clip_weight > 0:
            loss = loss + sum(_paired(scale * features @ means[places].T)) / 2
        return loss

    def _signed(self, positives, negatives):
        return self.negative_weight * negatives - self.positive_weight * positives

    def _names(self, prompts):
        """The name that each prompt of (T, C) is taken for, (T · C,)."""
        n_templates, n_names = prompts.shape[:2]
        rows = torch.arange(n_templates * n_names, device=prompts.device)
        return rows // n_templates if self.as_released else rows % n_names

    def _of_images(self, values, prompts, names):
        """Values of all prompts (T · C,) as means for each image's name, (B,)."""
        return values.unflatten(0, prompts.shape[:2]).mean(dim=1 if self.as_released else 0)[names]

    def _check(self, features, class_prompts, feature_prompts, place_prompts):
        prompts = {"class_prompts": class_prompts, "feature_prompts": feature_prompts, "place_prompts": place_prompts}
        for name, values in prompts.items():
            if features.ndim != 2 or values.ndim != 3 or values.shape[2] != features.shape[1]:
                shapes = f"{tuple(features.shape)} and {tuple(values.shape)}"
                raise ValueError(f"features, {name}: expected (B, D) and (T, C, D), got {shapes}")
            n_templates, n_names = values.shape[:2]
            if self.as_released and n_names > n_templates and name != "feature_prompts":
                came = f"{n_templates} templates of {n_names} names"
                raise ValueError(f"{name}: as released, names are looked up among templates, of which there are {came}")
        if self.diagonal and feature_prompts.shape != class_prompts.shape:
            shapes = f"{tuple(feature_prompts.shape)} and {tuple(class_prompts.shape)}"
            raise ValueError(f"feature_prompts: expected the shape of class_prompts with diagonal, got {shapes}")


def _contrast(rows, others, names, other_names):
    """Means over others (M, D) of cosines with each row (N, D): those of the same name, and the rest; (N,) each."""
    cosines = rows @ others.T
    same = names[:, None] == other_names
    return (cosines * same).mean(dim=1), (cosines * ~same).mean(dim=1)


def _paired(logits):
    """Cross-entropy of each row and of each column of (B, B), the diagonal being right; (B,) each."""
    own = torch.arange(len(logits), device=logits.device)
    return tuple(F.cross_entropy(side, own, reduction="none") for side in (logits, logits.T))
