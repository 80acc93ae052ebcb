"""Words for a cluster, from the user's list, by the model's own text tower."""

from collections.abc import Sequence

import numpy as np

from ravl_core.vlm import VLM
from ravl_core.zero_shot import class_embeddings

MOST_WORDS = 5


def name_cluster(
    vlm: VLM, words: Sequence[str], templates: Sequence[str], region_embeddings: np.ndarray, member: np.ndarray
) -> tuple[tuple[str, float], ...]:
    """The words that fit a cluster's regions better than other regions, the best first.

    Parameters
    ----------
    words : what to choose from; as prompts they stand where a class name does.
    region_embeddings : (M, D) unit.
    member : bool array (M,)
        Which regions are in the cluster.

    Returns
    -------
    Up to five pairs of a word and its lift: mean cosine with the cluster's regions less with the others, in standard
    deviations of the word's cosine over all regions; 0: fits no better than elsewhere. A name is the model's
    association, not what the regions show.
    """
    if not len(words) or member.all() or not member.any():
        return ()
    cosines = region_embeddings @ class_embeddings(vlm, words, templates).T  # (M, W)
    spread = np.maximum(cosines.std(axis=0), 1e-9)
    lift = (cosines[member].mean(axis=0) - cosines[~member].mean(axis=0)) / spread
    best = np.argsort(-lift, kind="stable")[:MOST_WORDS]
    return tuple((words[at], float(lift[at])) for at in best)
