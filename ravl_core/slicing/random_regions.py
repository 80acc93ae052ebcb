"""Random: regions in uniform order, the floor that every method has to clear."""

import numpy as np

from ravl_core.metrics import precision_at_k


def random_precision_at_k(shows_feature: np.ndarray, k: int = 10, n_draws: int = 100, seed: int = 0) -> float:
    """Mean precision among the first k of uniformly ordered regions, over `n_draws` orders.

    `shows_feature` (M,) says which regions show the planted feature; the mean tends to their share.
    """
    random = np.random.default_rng(seed)
    orders = (random.permutation(len(shows_feature)) for _ in range(n_draws))
    return float(np.mean([precision_at_k(order, shows_feature, k) for order in orders]))


def random_ranking_scores(
    shows_feature: np.ndarray, feature_present: np.ndarray, image_index: np.ndarray, seed: int = 0
) -> dict:
    """What `ravl_core.comparison.judge` says of a ranking, for the mean of a hundred uniform orders.

    The average precision is its expectation, to first order the share of regions that show the feature.
    """
    return {
        "precision_at_10": random_precision_at_k(shows_feature, seed=seed),
        "image_precision_at_10": random_precision_at_k(feature_present[image_index], seed=seed),
        "average_precision": float(np.mean(shows_feature)) if len(shows_feature) else 0.0,
        "attribute": None,
        "n_regions": len(shows_feature),
        "reason": "",
    }
