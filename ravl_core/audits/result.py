"""What an audit says: findings with all that a careful person asks of them, or none and what could have been found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.discovery import Discovery
from ravl_core.domains.dataset import Dataset
from ravl_core.domains.own_images import OwnImages
from ravl_core.kmedoids import Clustering
from ravl_core.masking import MaskEffect
from ravl_core.metrics import Interval
from ravl_core.zero_shot import Evaluation

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class AuditFinding:
    """One feature that the model leans on: a cluster of regions that neither chance nor the model's habits explain."""

    cluster: int  # its number in …
    clustering: Clustering = field(repr=False)  # … the clustering, coarse or fine, that it is of
    attribute: int  # class index that it pushes answers to
    attribute_name: str
    regions: np.ndarray = field(repr=False)  # (R,) the cluster's regions, most typical first
    n_images: int  # images that hold one of them
    pull: float  # towards the attribute, 0 … 1; see `ravl_core.pull`
    gap: float  # cluster performance gap G, 0 … C
    p_value: float  # against the largest gap and pull that chance gives over all clusters
    times_others: float  # its pull, in times of the largest one towards another class
    influence: float  # cluster influence H, 0 … 1; NaN where no image is behind it
    influence_images: int
    chosen: Interval  # images of other classes: how much more often the attribute is answered with it, -1 … 1
    chosen_in: float  # share of them answered so with it …
    chosen_out: float  # … and of images of the same classes without it
    n_in: int  # images of other classes with it …
    n_out: int  # … and without it, of classes that have both
    # one row a class: class, n_in, n_out, then of accuracy_in, accuracy_out, difference, chosen_in, chosen_out
    # the estimate and its ends (accuracy_in, accuracy_in_low, accuracy_in_high, …); NaN where there is no image
    table: pandas.DataFrame = field(repr=False)
    masks: dict[str, MaskEffect] = field(repr=False)  # by fill: what hiding the regions does to the answers
    # kind, variation, n_clusters, attribute (a class name or None), overlap 0 … 1, found_again
    stability: pandas.DataFrame | None = field(default=None, repr=False)
    words: tuple[tuple[str, float], ...] = ()  # names from the user's list, most fitting first, with their lift
    # column, cramers_v: how far the source's other columns tell which images hold it
    associations: pandas.DataFrame | None = field(default=None, repr=False)

    @property
    def confirmed(self) -> bool:
        """Whether hiding the regions takes the attribute's probability down, beyond what other regions do."""
        return any(mask.others.beyond_control.probability.high < 0 for mask in self.masks.values())

    @property
    def sentence(self) -> str:
        """The finding in words, with its numbers."""
        return _sentence(self)

    @property
    def mask(self) -> MaskEffect:
        """What hiding the regions does, by the first fill."""
        return next(iter(self.masks.values()))


@dataclass(frozen=True)
class Coverage:
    """Do the regions reach what is in the images?"""

    n_regions: int
    per_image: tuple[float, float, float]  # fewest, median, most regions of an image
    images_without: int
    area_covered: float  # mean share of an image's area that lies in some region, 0 … 1
    region_area: float  # median area of a region, as a share of its image, 0 … 1
    objects_covered: float | None  # share of the data's own boxes that some region shows; None where there are none
    n_objects: int


@dataclass(frozen=True, eq=False)
class Audit:
    """All that an audit found; `report` writes it as a page, `export` as tables."""

    model: str  # the model's name
    options: dict  # regions, pooling, templates, seed, …: what it takes to run it again
    images: OwnImages = field(repr=False)
    dataset: Dataset = field(repr=False)
    evaluation: Evaluation = field(repr=False)
    discovery: Discovery = field(repr=False)  # the paper's recipe: candidates, which no test has looked at
    findings: tuple[AuditFinding, ...]
    # n_images, prevalence, shift: what a feature in that share of images has to do to answers to be found 4 times of 5
    detectable: pandas.DataFrame = field(repr=False)
    coverage: Coverage
    # regions, n_regions, n_clusters, n_findings, attribute, overlap: other proposals, of the same images
    proposals: pandas.DataFrame | None = field(default=None, repr=False)
    # see `ravl_core.audits.columns.column_effects`: what else is known of the images, and how answers go with it
    columns: pandas.DataFrame | None = field(default=None, repr=False)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Files that could not be read, and why."""
        return tuple((note.name, f"{note.kind}: {note.detail}") for note in self.images.notes if not note.kept)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each finding in words, the first one first; where there is none, one sentence that says what that means."""
        later = " (Tested among images that agree on the findings before it; the shares are of all images.)"
        told = [finding.sentence + later * (at > 0) for at, finding in enumerate(self.findings)]
        return tuple(told) or (self._nothing(),)

    def _nothing(self) -> str:
        """What it means that there is no finding."""
        common = self.detectable.iloc[-1]
        start = (
            f"No finding: among {len(self.images)} images, no cluster of regions goes with the model's answers more "
            "than chance, or the model's habits, explain."
        )
        if np.isnan(common["shift"]):
            return f"{start} These data could not have shown a shortcut of any strength: more images are needed."
        return (
            f"{start} A feature in {100 * common.prevalence:.0f} % of the images would have been found, four times out "
            f"of five, if it made the model answer one class {100 * common['shift']:.0f} points more often."
        )


def _sentence(finding: AuditFinding) -> str:
    name, shift = repr(finding.attribute_name), finding.chosen
    where = f"cluster {finding.cluster} (of {finding.clustering.n_clusters})"
    beside = f"{100 * finding.chosen_in:.0f} % with it, n = {finding.n_in}; "
    beside += f"{100 * finding.chosen_out:.0f} % without, n = {finding.n_out}"
    text = (
        f"When a region of {where} is in an image of another class, {name} is answered {100 * abs(shift.estimate):.0f} "
        f"points {'more' if shift.estimate >= 0 else 'less'} often ({beside}; 95 % interval {100 * shift.low:+.0f} to "
        f"{100 * shift.high:+.0f}; p = {finding.p_value:.3g})."
    )
    beyond = finding.mask.others.beyond_control.probability
    hidden = finding.mask.others.effect.probability
    if np.isnan(beyond.estimate):
        return f"{text} There was nothing to hide for comparison."
    text += (
        f" Hiding these regions changes the score of {name} by {100 * hidden.estimate:+.0f} points, "
        f"{100 * beyond.estimate:+.0f} [{100 * beyond.low:+.0f}, {100 * beyond.high:+.0f}] of it beyond what hiding "
        "other regions of the images does"
    )
    return f"{text}." if beyond.high < 0 else f"{text}: so the regions go with the answer, but do not draw it."
