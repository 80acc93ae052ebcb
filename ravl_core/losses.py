"""The losses of fine-tuning: CLIP's, the supervised contrastive loss, and RaVL's region-aware loss."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ravl_core.checks import above_zero, choice

TEMPERATURE = 0.07  # of RaVL, for scores and for losses
NAMES = ("region_embeddings", "image_index", "spurious", "class_embeddings", "labels")  # of the region-aware loss


def clip_loss(
    image_embeddings: torch.Tensor, text_embeddings: torch.Tensor, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Symmetric contrastive loss of paired unit embeddings (B, D), each image's own text being the only positive.

    Half cross-entropy over the texts of each image, half over the images of each text; 0 is a perfect match.
    Source: Radford et al. 2021 (CLIP), with the logit scale fixed at 1 / temperature.
    """
    logits = image_embeddings @ text_embeddings.T / temperature  # (B, B)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class SupervisedContrastiveLoss(nn.Module):
    """Each anchor is pulled towards all its positives at once, and pushed away from every other candidate.

    For anchor i, `P(i)` are its positives and `A(i)` all other anchors and all negatives:

        L_out^i = -1/|P(i)| Σ_{p in P(i)} log( exp(z_i·z_p / τ) / Σ_{a in A(i)} exp(z_i·z_a / τ) )
        L_in^i = -log( 1/|P(i)| Σ_{p in P(i)} exp(z_i·z_p / τ) / Σ_{a in A(i)} exp(z_i·z_a / τ) )

    L_in is never above L_out. With one positive each the two are equal.

    Parameters
    ----------
    temperature : τ.
    form : "out" for L_out, "in" for L_in.

    Source: Khosla et al. 2020. Their code scales by τ / 0.07, which is left out, and counts an anchor without positives
    as 0, where here it leaves the mean.
    """

    def __init__(self, temperature: float = TEMPERATURE, form: str = "out"):
        super().__init__()
        self.temperature = above_zero("temperature", temperature)
        self.form = choice("form", form, ("out", "in"))

    def forward(
        self, embeddings: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The mean over anchors that have a positive, a scalar; without any it is zero, with a gradient of zero.

        Parameters
        ----------
        embeddings : (A, D) unit embeddings of the anchors.
        positives : (A, A) bool, which anchors are positives of the one in each row, for instance
            `labels[:, None] == labels`; none is its own, whatever the diagonal says.
        negatives : (K, D) unit embeddings that every anchor is pushed away from; they are no anchors.

        Raises
        ------
        ValueError
            Shapes that do not belong together, or positives that are not booleans.
        """
        negatives = embeddings[:0] if negatives is None else negatives
        _check_candidates(embeddings, positives, negatives)
        itself = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
        has_positive = (positives & ~itself).any(dim=1)
        if not has_positive.any():
            return embeddings.sum() * 0
        itself = itself[has_positive]
        positives = positives[has_positive] & ~itself  # (V, A)
        among_anchors = (embeddings[has_positive] @ embeddings.T / self.temperature).masked_fill(itself, -torch.inf)
        against = embeddings[has_positive] @ negatives.T / self.temperature  # (V, K)
        log_shares = torch.cat([among_anchors, against], dim=1).log_softmax(dim=1)
        return -self._mean_log_shares(log_shares[:, : len(embeddings)], positives).mean()

    def _mean_log_shares(self, log_shares, positives):
        """The mean over positives of the logarithms, or the logarithm of the mean: (V,)."""
        counts = positives.sum(dim=1, dtype=log_shares.dtype)
        if self.form == "out":
            return torch.where(positives, log_shares, 0).sum(dim=1) / counts
        return log_shares.masked_fill(~positives, -torch.inf).logsumexp(dim=1) - counts.log()


@dataclass(frozen=True)
class RegionAwareTerms:
    """Means over the batch's images that have a relevant region; scalars that carry gradients."""

    relevant: torch.Tensor  # mean L_R
    aligned: torch.Tensor  # mean L_A

    @property
    def total(self) -> torch.Tensor:
        """mean L_R + mean L_A, without λ and without the CLIP loss."""
        return self.relevant + self.aligned


class RegionAwareLoss(nn.Module):
    """RaVL's stage 2: relevant regions name their image's class, spurious regions name none.

    For image i, `R_i^r` are its relevant regions, `R_B^s` all spurious regions of the batch, and
    `e(r, y) = exp(<f(r), g(y)> / τ)` and `s(R, y) = max_{r in R} e(r, y)`:

        L_R^i = -log( s(R_i^r, y_i) / ( Σ_{y_j in B} s(R_i^r, y_j) + Σ_{r in R_B^s} max_{y_j in B} e(r, y_j) ) )
        L_A^i = -log( s(R_i^r, y_i) / ( s(R_i^r, y_i) + Σ_{j: y_j≠y_i} s(R_j^r, y_i) + Σ_{r in R_B^s} e(r, y_i) ) )

    Parameters
    ----------
    temperature : τ.
    labels_in_batch : how `Σ_{y_j in B}` is read: over the batch's "samples" (a label counts as often as it
        occurs) or over its "distinct" labels.

    Source: RaVL, stage 2. The authors released no code for it; the reading of the sum is ours.
    """

    def __init__(self, temperature: float = TEMPERATURE, labels_in_batch: str = "samples"):
        super().__init__()
        self.temperature = above_zero("temperature", temperature)
        self.labels_in_batch = choice("labels_in_batch", labels_in_batch, ("samples", "distinct"))

    def forward(
        self,
        region_embeddings: torch.Tensor,
        image_index: torch.Tensor,
        spurious: torch.Tensor,
        class_embeddings: torch.Tensor,
        labels: torch.Tensor,
    ) -> RegionAwareTerms:
        """Both terms for one batch of B images with any number of regions each.

        Parameters
        ----------
        region_embeddings : (M, D) unit embeddings by the model that is being trained.
        image_index : (M,) the image of each region, in 0 … B-1.
        spurious : (M,) bool, whether stage 1 calls the region spurious.
        class_embeddings : (C, D) unit embeddings of the classes.
        labels : (B,) class index of each image.

        An image without a relevant region leaves the means, but its label and its spurious regions still count.
        With no image left both terms are zero, with a gradient of zero.

        Raises
        ------
        ValueError
            No tensors, or types or shapes that do not belong together, or an image or class index out of range.
        """
        _check_batch(region_embeddings, image_index, spurious, class_embeddings, labels)
        logits = region_embeddings @ class_embeddings.T / self.temperature  # (M, C)
        scores = self._relevant_scores(logits, image_index, spurious, len(labels))  # (B, C) log s(R_i^r, y)
        has_relevant = scores[:, 0] > -torch.inf
        if not has_relevant.any():
            return RegionAwareTerms(logits.sum() * 0, logits.sum() * 0)
        scores, kept = scores[has_relevant], labels[has_relevant]
        own = scores.gather(1, kept[:, None])[:, 0]  # (V,) log s(R_i^r, y_i)
        penalty = self._spurious_penalty(logits[spurious], labels)
        others = torch.logsumexp(scores + self._label_counts(labels, scores).log(), dim=1)  # (V,)
        relevant = (torch.logaddexp(others, penalty) - own).mean()
        aligned = (self._column_sums(scores, kept, own, logits[spurious]) - own).mean()
        return RegionAwareTerms(relevant, aligned)

    def _relevant_scores(self, logits, image_index, spurious, n_images):
        """Largest logit over each image's relevant regions: (B, C), -inf without any."""
        relevant = logits[~spurious]
        index = image_index[~spurious][:, None].expand_as(relevant)
        start = logits.new_full((n_images, logits.shape[1]), -torch.inf)
        return start.scatter_reduce(0, index, relevant, "amax")

    def _label_counts(self, labels, scores):
        """How often each class counts in a sum over the batch's labels: (C,)."""
        counts = torch.bincount(labels, minlength=scores.shape[1]).to(scores.dtype)
        return counts if self.labels_in_batch == "samples" else counts.clamp(max=1)

    def _spurious_penalty(self, spurious_logits, labels):
        """log P: spurious regions with the batch's label that fits each best."""
        if not len(spurious_logits):
            return spurious_logits.new_tensor(-torch.inf)
        return spurious_logits[:, labels.unique()].amax(dim=1).logsumexp(dim=0)

    def _column_sums(self, scores, labels, own, spurious_logits):
        """log of L_A's denominator for each image: its own score, other classes' images, spurious regions; (V,)."""
        of_class = labels[:, None] == torch.arange(scores.shape[1], device=labels.device)  # (V, C)
        rivals = scores.masked_fill(of_class, -torch.inf)
        columns = torch.cat([rivals, spurious_logits])  # (V + S, C)
        return torch.logaddexp(own, _logsumexp(columns, dim=0)[labels])


def _logsumexp(values: torch.Tensor, dim: int) -> torch.Tensor:
    """logsumexp whose gradient is zero, not NaN, where everything is -inf."""
    empty = (values == -torch.inf).all(dim=dim, keepdim=True)
    total = torch.logsumexp(values.masked_fill(empty, 0), dim=dim)
    return total.masked_fill(empty.squeeze(dim), -torch.inf)


def _check_candidates(embeddings, positives, negatives):
    if embeddings.ndim != 2 or negatives.ndim != 2 or embeddings.shape[1] != negatives.shape[1]:
        came = f"{tuple(embeddings.shape)} and {tuple(negatives.shape)}"
        raise ValueError(f"embeddings, negatives: expected (A, D) and (K, D), got {came}")
    expected = (len(embeddings), len(embeddings))
    if positives.shape != expected or positives.dtype != torch.bool:
        came = f"{positives.dtype} of shape {tuple(positives.shape)}"
        raise ValueError(f"positives: expected booleans of shape {expected}, got {came}")


def _check_floats(region_embeddings, class_embeddings):
    types = region_embeddings.dtype, class_embeddings.dtype
    alike = types[0] == types[1] or torch.is_autocast_enabled(region_embeddings.device.type)
    if not (alike and all(one.is_floating_point for one in types)):
        came = " and ".join(map(str, types))
        raise ValueError(f"region_embeddings, class_embeddings: expected the same floating-point type, got {came}")


def _check_batch(region_embeddings, image_index, spurious, class_embeddings, labels):
    given = region_embeddings, image_index, spurious, class_embeddings, labels
    for name, value in zip(NAMES, given, strict=True):
        if not torch.is_tensor(value):
            raise ValueError(f"{name}: expected a tensor, got {type(value).__name__}")
    _check_floats(region_embeddings, class_embeddings)
    n_regions, n_images, n_classes = len(region_embeddings), len(labels), len(class_embeddings)
    sides = region_embeddings.shape, class_embeddings.shape
    if any(len(side) != 2 for side in sides) or sides[0][1] != sides[1][1]:
        shapes = " and ".join(str(tuple(side)) for side in sides)
        raise ValueError(f"region_embeddings, class_embeddings: expected (M, D) and (C, D), got {shapes}")
    for name, values in (("image_index", image_index), ("spurious", spurious)):
        if values.shape != (n_regions,):
            raise ValueError(f"{name}: expected shape ({n_regions},), one a region, got {tuple(values.shape)}")
    if spurious.dtype != torch.bool:
        raise ValueError(f"spurious: expected a boolean tensor, got {spurious.dtype}")
    for name, values, size in (("image_index", image_index, n_images), ("labels", labels, n_classes)):
        if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
            raise ValueError(f"{name}: expected a vector of indices, got {values.dtype} of shape {tuple(values.shape)}")
        if len(values) and (int(values.min()) < 0 or int(values.max()) >= size):
            raise ValueError(f"{name}: expected indices in 0…{size - 1}, got {int(values.min())}…{int(values.max())}")
