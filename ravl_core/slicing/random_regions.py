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
