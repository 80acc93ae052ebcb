"""From significant clusters to findings: each with its figures, its intervals and its counterfactual check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.audits.candidates import Candidates
from ravl_core.audits.naming import name_cluster
from ravl_core.audits.result import AuditFinding
from ravl_core.audits.with_and_without import with_and_without
from ravl_core.discovery import rank_regions, score_clusters
from ravl_core.domains.dataset import Dataset
from ravl_core.masking import mask_effect
from ravl_core.significance import LEVEL, SignificantCluster
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation

if TYPE_CHECKING:
    import pandas

FILLS = ("surroundings", "blur")
MOST_LEVELS = 20  # of a column of the source that may be associated with a finding


def find(
    vlm: VLM,
    dataset: Dataset,
    evaluation: Evaluation,
    candidates: Candidates,
    level: float = LEVEL,
    n_permutations: int = 999,
    words: Sequence[str] = (),
    metadata: pandas.DataFrame | None = None,
    seed: int = 0,
) -> tuple[AuditFinding, ...]:
    """The clusters that neither chance nor the model's habits explain, each with all that there is to say of it.

    Parameters
    ----------
    dataset, evaluation, candidates : N images with M regions, the model's answers on them, and clusters of the regions.
    level : of the test against the largest gap and pull that chance gives.
    words : see `name_cluster`.
    metadata : N rows, what else is known of the images.

    Returns
    -------
    Possibly none. Where images have sources that belong together (a patient's), one image of each is tested.
    """
    tested = one_of_each(dataset.sources, len(dataset), seed)
    told = candidates.significant(evaluation, tested, level, n_permutations, seed)
    return tuple(_finding(one, vlm, dataset, evaluation, candidates, words, metadata, seed) for one in told)


def one_of_each(sources: np.ndarray | None, n_images: int, seed: int) -> np.ndarray:
    """One image of each source, drawn at random, ascending; all images (N,) where sources are not known."""
    if sources is None:
        return np.arange(n_images)
    order = np.random.default_rng(seed).permutation(n_images)
    return np.sort(order[np.unique(np.asarray(sources)[order], return_index=True)[1]])


def _finding(
    one: SignificantCluster,
    vlm: VLM,
    dataset: Dataset,
    evaluation: Evaluation,
    candidates: Candidates,
    words: Sequence[str],
    metadata: pandas.DataFrame | None,
    seed: int,
) -> AuditFinding:
    held, cluster = candidates.held[:, one.cluster], int(candidates.cluster_of[one.cluster])
    clustering = candidates.clusterings[candidates.clustering_of[one.cluster]]
    member, medoid = clustering.labels == cluster, clustering.medoid_embeddings[cluster]
    regions = rank_regions(evaluation.region_embeddings, clustering.labels, cluster, medoid)
    beside = with_and_without(
        held, dataset.labels, evaluation.predictions, one.attribute, dataset.class_names, dataset.sources, seed=seed
    )
    influence, behind = _influence(member, evaluation)
    return AuditFinding(
        cluster=cluster,
        clustering=clustering,
        attribute=one.attribute,
        attribute_name=dataset.class_names[one.attribute],
        regions=regions,
        n_images=int(held.sum()),
        pull=one.pull,
        gap=one.gap,
        p_value=one.p_value,
        times_others=one.times_others,
        influence=influence,
        influence_images=behind,
        chosen=beside.chosen,
        chosen_in=beside.chosen_in,
        chosen_out=beside.chosen_out,
        n_in=beside.n_in,
        n_out=beside.n_out,
        table=beside.table,
        masks={fill: mask_effect(vlm, dataset, regions, one.attribute, seed, fill) for fill in FILLS},
        words=name_cluster(vlm, words, dataset.templates, evaluation.region_embeddings, member),
        associations=None if metadata is None else associations(held, metadata),
    )


def _influence(member: np.ndarray, evaluation: Evaluation) -> tuple[float, int]:
    """Cluster influence H of some regions (M,), and the images behind it; NaN where there are none."""
    probs = evaluation.image_probs, evaluation.region_probs
    scores = score_clusters(np.where(member, 0, -1), evaluation.image_index, evaluation.labels, *probs)
    behind = int(scores.influence_images[0])
    return float(scores.influence[0]) if behind else float("nan"), behind


def associations(held: np.ndarray, metadata: pandas.DataFrame) -> pandas.DataFrame:
    """How far other columns tell which images hold a cluster: `column`, `levels` and `cramers_v`, the strongest first.

    Cramér's V is 0 where a column says nothing of it and 1 where it decides. Columns with one value, or with more than
    20, are left out.
    """
    import pandas
    from scipy.stats.contingency import association

    rows = []
    for column in metadata:
        table = pandas.crosstab(metadata[column].astype(str).to_numpy(), held)
        if 2 <= len(table) <= MOST_LEVELS and table.shape[1] == 2:
            strength = float(association(table.to_numpy(), method="cramer", correction=False))
            rows.append({"column": str(column), "levels": len(table), "cramers_v": strength})
    frame = pandas.DataFrame(rows, columns=["column", "levels", "cramers_v"])
    return frame.sort_values("cramers_v", ascending=False, kind="stable", ignore_index=True)
