"""From a finding to a repaired model: fine-tune on one's own images against what was found, and say what that brought.

The regions of the fine-tuning images that resemble the finding are called spurious, and a region-aware recipe trains
with that. Both models are then asked about the same images, in groups by what the audited model saw there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.audits.result import Audit, AuditFinding
from ravl_core.audits.with_and_without import with_and_without
from ravl_core.checkpoints import save_vlm
from ravl_core.checks import made
from ravl_core.closed_loop import SameCluster, same_cluster
from ravl_core.discovery import regions_in_clusters
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.own_images import OwnImages
from ravl_core.intervals import interval_ends, resample_counts, units_of
from ravl_core.masking import MaskEffect, mask_effect
from ravl_core.metrics import Interval, wilson_interval
from ravl_core.mitigation import Budget, History, mitigate
from ravl_core.mitigation.budget import DEFAULT_BUDGET
from ravl_core.proposals import propose
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation, evaluate

if TYPE_CHECKING:
    import pandas

# The row "swaps + RaVL, with classes" of our repairs, see `ravl_core.repair_rows`: on the half of the settings that
# variants were chosen on, the best in overall accuracy of images and in worst-group accuracy of regions.
CHOSEN_OPTIONS = {"swaps": {"class_weight": 1.0}}
CHOSEN_BUDGET = replace(DEFAULT_BUDGET, learning_rate=3e-4)
FEW = 10  # images, or sources: figures of a group of fewer say little
LEVEL, N_RESAMPLES = 0.95, 1000  # of the intervals
N_TOTALS = 3  # rows of all classes: without, with, all images
EVERY_CLASS = "all classes"


@dataclass(frozen=True, eq=False)
class Followed:
    """One finding's regions in the compared images, by the audited and by the repaired model."""

    finding: AuditFinding = field(repr=False)
    # images of other classes: how much more often the attribute is answered with a region than without, -1 … 1
    answered_before: Interval
    answered_after: Interval
    same_cluster: SameCluster
    mask_before: MaskEffect = field(repr=False)
    mask_after: MaskEffect = field(repr=False)


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired model, and what the repair brought."""

    vlm: VLM = field(repr=False)
    history: History = field(repr=False)
    recipe: str
    options: dict
    n_spurious: int  # fine-tuning regions that resemble the finding …
    n_regions: int  # … of so many
    # one row a class and whether its images hold the finding, then three of all classes (the last with_finding None);
    # class, with_finding, n, small, and accuracy_before, accuracy_after, change, each with _low and _high, NaN of n = 0
    table: pandas.DataFrame = field(repr=False)
    worst_group_before: float  # accuracy of the group that is worst then, 0 … 1
    worst_group_after: float
    worst_group_change: Interval
    overall_change: Interval
    followed: tuple[Followed, ...]  # one a finding
    on_audited_images: bool  # compared on the images that the finding was chosen on
    n_trained_on: int  # of the compared images, those that are fine-tuning images, too

    @property
    def sentences(self) -> tuple[str, ...]:
        """What changed, and how far that can be trusted; plain words where nothing got better."""
        told = [_worst_sentence(self), _overall_sentence(self), *_verdicts(self)]
        for one in self.followed:
            told += _followed_sentences(one)
        return (*told, *_cautions(self))

    def save(self, folder: str | Path) -> Path:
        """Write the repaired model where `load_vlm("local-dir:folder")` and open_clip load it; see `save_vlm`."""
        return save_vlm(self.vlm, folder)


def repair(
    audit: Audit,
    vlm: VLM,
    finetuning: OwnImages,
    initial: VLM | None = None,
    finding: int | Sequence[int] = 0,
    recipe: str = "swaps",
    budget: Budget = CHOSEN_BUDGET,
    test: OwnImages | None = None,
    seed: int = 0,
    regions: str | None = None,
    **options,
) -> Repaired:
    """Fine-tune a model so that it no longer leans on what an audit found, and compare it with the audited one.

    Parameters
    ----------
    audit, vlm : the audit, and the model that was audited.
    finetuning : labelled images of the audit's classes to train on; without captions, the first prompt is each one's.
    initial : the model that training starts from, the paper's way: what `vlm` was before its own fine-tuning. None:
        the audited model itself.
    finding : which of the audit's findings, or several of them.
    recipe, options : see `ravl_core.mitigation.mitigate`. Those of "swaps" default to what did best in our repairs.
    budget : how long and in which steps.
    test : images to compare the models on, best ones that neither the audit nor training has seen. None: the audit's.
    seed : of training and of the intervals.
    regions : how regions are proposed, see `ravl_core.proposals.propose`; None: as the audit's were.

    Returns
    -------
    Repaired
        Groups are class × whether an image holds the finding: some region whose nearest medoid, in the audited model's
        embedding, is the finding's. So they are of the same images before and after. Intervals of changes are paired,
        over images or over groups of images that belong together; those of accuracies are Wilson's. The initial and
        the audited model stay as they are.

    Raises
    ------
    ValueError
        No such finding, another model than the audited one, a model that cannot be trained, images of other classes,
        or no region that resembles the finding where some are needed.

    Source: stage 2 of RaVL, section 3; the default recipe is ours.
    """
    made("audit", audit, "an audit, see ravl_core.audit", "findings")
    made("finetuning", finetuning, "images as read_images gives them", "in_files")
    if test is not None:
        made("test", test, "images as read_images gives them", "in_files")
    for name, model in (("vlm", vlm), ("initial", vlm if initial is None else initial)):
        made(name, model, "a model, see load_vlm", "pooling")
    findings, start = _chosen(audit, finding), vlm if initial is None else initial
    _check_models(audit, vlm, start, "vlm" if initial is None else "initial")
    sets = _with_regions("finetuning", finetuning, audit, regions)
    on_audited = test is None or test is audit.images
    compared = audit.dataset if on_audited else _with_regions("test", test, audit, regions)
    before = audit.evaluation if on_audited else evaluate(vlm, compared)

    embeddings = vlm.encode(sets.images, sets.boxes, sets.image_index)[1]
    spurious = _showing("finetuning", embeddings, findings).any(axis=0)
    shown = _showing("test", before.region_embeddings, findings)
    options = CHOSEN_OPTIONS.get(recipe, {}) | options
    repaired, history = mitigate(start, sets, spurious, recipe, budget, seed, **options)

    models, evaluations = (vlm, repaired), (before, evaluate(repaired, compared))
    followed = [
        _follow(one, own, compared, models, evaluations, seed) for one, own in zip(findings, shown, strict=True)
    ]
    return Repaired(
        vlm=repaired,
        history=history,
        recipe=recipe,
        options=options,
        n_spurious=int(spurious.sum()),
        n_regions=len(spurious),
        **_compare(_holding(shown.any(axis=0), compared), compared, evaluations, seed),
        followed=tuple(followed),
        on_audited_images=on_audited,
        n_trained_on=_n_common(compared.images, sets.images),
    )


# ---- what is asked for ----


def _chosen(audit: Audit, finding: int | Sequence[int]) -> list[AuditFinding]:
    n, places = len(audit.findings), np.atleast_1d(finding)
    if not n:
        raise ValueError("finding: the audit has no finding, so there is nothing to repair")
    whole = places.ndim == 1 and places.dtype.kind in "iu" and len(places) > 0
    if not whole or places.min() < 0 or places.max() >= n:
        raise ValueError(f"finding: expected one or some of the audit's {n} findings, 0 … {n - 1}, got {finding!r}")
    return [audit.findings[place] for place in dict.fromkeys(places.tolist())]


def _check_models(audit: Audit, vlm: VLM, start: VLM, name: str) -> None:
    if start.pooling == "crop":
        came = f"{start.name} with pooling='crop'"
        raise ValueError(f"{name}: training needs a tower that embeds an image and its regions together, got {came}")
    dataset, seen, first = audit.dataset, audit.evaluation, audit.dataset.image_index == 0
    own = vlm.encode(dataset.images[:1], dataset.boxes[first], dataset.image_index[first])
    for embeddings, audited in zip(own, (seen.image_embeddings[:1], seen.region_embeddings[first]), strict=True):
        if embeddings.shape != audited.shape or not np.allclose(embeddings, audited, atol=0.01):
            raise ValueError(f"vlm: expected the audited model, {audit.model}; {vlm.name} embeds the images otherwise")


def _with_regions(name: str, own: OwnImages, audit: Audit, regions: str | None) -> Dataset:
    """A user's images with regions of the audit's kind."""
    classes = audit.dataset.class_names
    if tuple(own.class_names) != tuple(classes):
        raise ValueError(
            f"{name}: expected the audit's classes, {', '.join(classes)}, got {', '.join(own.class_names)}"
        )
    boxes = None if own.boxes is None else (own.boxes, own.image_index)
    proposed = propose(audit.options["regions"] if regions is None else regions, own.images, boxes)
    return own.dataset(*proposed, audit.dataset.templates)


def _showing(name: str, embeddings: np.ndarray, findings: list[AuditFinding]) -> np.ndarray:
    """Which regions (M, D) have the medoid of which finding as their nearest, (F, M) bool."""
    shown = np.stack([regions_in_clusters(one.clustering, embeddings, [one.cluster]) for one in findings])
    for one, own in zip(findings, shown, strict=True):
        if not own.any():
            raise ValueError(
                f"{name}: expected images that show what was found, but of their {len(own)} regions none is nearer "
                f"to the medoid of cluster {one.cluster} than to another one's; there is nothing to learn it from"
            )
    return shown


def _holding(regions: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Which images hold some of these regions (M,), (N,) bool."""
    held = np.zeros(len(dataset), dtype=bool)
    held[dataset.image_index[regions]] = True
    return held


def _n_common(images: np.ndarray, others: np.ndarray) -> int:
    """How many of some images are among others, pixel by pixel."""
    known = {hash(image.tobytes()) for image in others}
    return sum(hash(image.tobytes()) in known for image in images)


# ---- before and after ----


def _follow(
    finding: AuditFinding,
    regions: np.ndarray,
    dataset: Dataset,
    models: tuple[VLM, VLM],
    evaluations: tuple[Evaluation, Evaluation],
    seed: int,
) -> Followed:
    held, chosen = _holding(regions, dataset), np.flatnonzero(regions)
    rest = finding.attribute, dataset.class_names, dataset.sources
    answered = [with_and_without(held, dataset.labels, e.predictions, *rest, seed=seed).chosen for e in evaluations]
    clusters = np.where(regions, finding.cluster, -1)
    same = same_cluster(clusters, finding.cluster, *evaluations, seed=seed)
    masks = [mask_effect(vlm, dataset, chosen, finding.attribute, seed) for vlm in models]
    return Followed(finding, *answered, same, *masks)


def _compare(held: np.ndarray, dataset: Dataset, evaluations: tuple[Evaluation, Evaluation], seed: int) -> dict:
    """The part of `Repaired` that is about accuracies."""
    tallies = _tallies(held, dataset, evaluations)  # (U, 3, G + 3)
    counts = resample_counts(len(tallies), N_RESAMPLES, seed)
    # Sums of whole numbers below 2^24 are exact in float32, whose products take half the time.
    drawn = (counts.astype(np.float32) @ tallies.reshape(len(tallies), -1).astype(np.float32)).astype(np.float64)
    shares, resampled = (_accuracies(sums.reshape(-1, *tallies.shape[1:])) for sums in (tallies.sum(axis=0), drawn))
    before, after = shares[0]  # (G + 4,) each
    changes = np.column_stack([after - before, interval_ends(resampled[:, 1] - resampled[:, 0], LEVEL)])  # (G + 4, 3)
    return {
        "table": _table(tallies, before[:-1], after[:-1], changes[:-1], dataset.class_names),
        "worst_group_before": float(before[-1]),
        "worst_group_after": float(after[-1]),
        "worst_group_change": Interval(*changes[-1].tolist()),
        "overall_change": Interval(*changes[-2].tolist()),
    }


def _tallies(held: np.ndarray, dataset: Dataset, evaluations: tuple[Evaluation, Evaluation]) -> np.ndarray:
    """Images, those right before and those right after, of each unit that is drawn and each group: (U, 3, G + 3).

    Groups are class × without, with; then of all classes without, with, and all images.
    """
    unit, n_groups = units_of(dataset.labels, dataset.sources), 2 * dataset.n_classes
    place = unit * n_groups + 2 * dataset.labels + held
    kinds = np.ones(len(held), dtype=bool), *(e.predictions == dataset.labels for e in evaluations)
    shape = unit.max() + 1, n_groups
    tallies = [np.bincount(place[kind], minlength=shape[0] * shape[1]).reshape(shape) for kind in kinds]
    groups = np.stack(tallies, axis=1)  # (U, 3, G)
    sides = groups.reshape(*groups.shape[:2], -1, 2).sum(axis=2)  # (U, 3, 2)
    return np.concatenate([groups, sides, sides.sum(axis=2, keepdims=True)], axis=2)


def _accuracies(sums: np.ndarray) -> np.ndarray:
    """Accuracies before and after of those groups, from (B, 3, G + 3), and of the worst one: (B, 2, G + 4)."""
    n, right = sums[:, :1], sums[:, 1:]
    shares = np.divide(right, n, out=np.full(right.shape, np.nan), where=n > 0)
    worst = np.nanmin(shares[:, :, :-N_TOTALS], axis=2, keepdims=True)
    return np.concatenate([shares, worst], axis=2)


def _table(tallies, before, after, changes, class_names) -> pandas.DataFrame:
    import pandas

    n, n_units = tallies[:, 0].sum(axis=0), (tallies[:, 0] > 0).sum(axis=0)  # (G + 3,)
    columns = {
        "class": [*np.repeat(class_names, 2).tolist(), *[EVERY_CLASS] * N_TOTALS],
        "with_finding": pandas.Series([*[False, True] * (len(class_names) + 1), None], dtype=object),
        "n": n,
    }
    for when, share in (("before", before), ("after", after)):
        low, high = wilson_interval(share, n_units, LEVEL)
        columns |= {f"accuracy_{when}": share, f"accuracy_{when}_low": low, f"accuracy_{when}_high": high}
    columns |= dict(zip(("change", "change_low", "change_high"), changes.T, strict=True))
    return pandas.DataFrame(columns | {"small": n_units < FEW})


# ---- in words ----


def _worst_sentence(repaired: Repaired) -> str:
    groups = repaired.table[:-N_TOTALS]
    worst = [groups.loc[groups[f"accuracy_{when}"].idxmin()] for when in ("before", "after")]
    names = [f"{row['class']!r} {'with' if row.with_finding else 'without'} it (n = {row.n})" for row in worst]
    which = f"{names[0]} both times" if names[0] == names[1] else f"{names[0]} before, {names[1]} after"
    shares = repaired.worst_group_before, repaired.worst_group_after
    return f"Worst-group accuracy {_change_text(*shares, repaired.worst_group_change)}; it is {which}."


def _overall_sentence(repaired: Repaired) -> str:
    row = repaired.table.iloc[-1]
    change = _change_text(row.accuracy_before, row.accuracy_after, repaired.overall_change)
    return f"Overall accuracy {change}; n = {row.n}."


def _change_text(before: float, after: float, change: Interval) -> str:
    points, low, high = (f"{_points(end):+d}" for end in change)
    return f"{100 * before:.0f} % → {100 * after:.0f} % ({points} points, 95 % interval {low} to {high})"


def _points(share: float) -> int:
    return round(100 * share)


def _verdicts(repaired: Repaired) -> list[str]:
    told = []
    if repaired.worst_group_change.high < 0:
        told.append("The worst group got worse: this is no repair.")
    elif repaired.worst_group_change.low <= 0:
        told.append("No improvement of the worst group is shown: the interval of its change holds 0.")
    if repaired.overall_change.high < 0:
        told.append("Overall the model got worse: what some groups gained cost others more.")
    return told


def _followed_sentences(followed: Followed) -> list[str]:
    told, attribute = [], repr(followed.finding.attribute_name)
    name = f"cluster {followed.finding.cluster}" + "".join(f" ({word})" for word, _ in followed.finding.words[:1])
    answered = [interval.estimate for interval in (followed.answered_before, followed.answered_after)]
    if np.isfinite(answered).all():
        before, after = map(_points, answered)
        told.append(
            f"Images of other classes with a region of {name} are answered {attribute} {before} points more often than "
            f"those without before, {after} after."
        )
    hidden = [mask.others for mask in (followed.mask_before, followed.mask_after)]
    if hidden[0].n:
        before, after = (_points(others.effect.probability.estimate) for others in hidden)
        told.append(
            f"Hiding the regions there changes the probability of {attribute} by {before:+d} points before, "
            f"{after:+d} after (n = {hidden[0].n})."
        )
    return told


def _cautions(repaired: Repaired) -> list[str]:
    groups = repaired.table[:-N_TOTALS]
    groups, told = groups[groups.n > 0], []
    told.append(f"Groups are class × whether an image holds the finding; the smallest has n = {groups.n.min()}.")
    if groups.small.any():
        told.append(
            f"{groups.small.sum()} of {len(groups)} groups have fewer than {FEW} images, or sources of images: their "
            "figures say little, and one of them may be the worst by chance."
        )
    if repaired.on_audited_images:
        told.append(
            "These are the audited images, on which the finding was chosen: its figures before are too large on "
            "average, and some of every fall is regression to the mean. Other images, as `test`, tell more."
        )
    if repaired.n_trained_on:
        told.append(f"{repaired.n_trained_on} of the compared images were trained on: the figures after flatter.")
    return told
