"""An audit where the answer is known: a setting's fine-tuned model, its val set, and what was planted in it."""

from dataclasses import replace

import numpy as np

from ravl_core.audits.candidates import candidates_of
from ravl_core.audits.findings import find
from ravl_core.audits.result import AuditFinding
from ravl_core.discovery import Discovery
from ravl_core.domains.dataset import Dataset
from ravl_core.metrics import precision_at_k
from ravl_core.vlm import VLM
from ravl_core.zero_shot import Evaluation

K = 10


def audit_trial(vlm: VLM, val: Dataset, evaluation: Evaluation, found: Discovery, seed: int) -> list[dict]:
    """What an audit finds in a model, and how far that is what was planted, as numbers that JSON can hold.

    One entry a finding: the class it names, the share of its first ten regions that show the planted feature, how
    much more often the class is answered with it, and what hiding it does beyond hiding other regions (see
    `ravl_core.masking`), by each fill; intervals as estimate, low and high.
    """
    alone = replace(val, sources=None)  # a user does not know which photographs composites were made of
    told = find(vlm, alone, evaluation, candidates_of(evaluation, found.clustering, seed), seed=seed)
    return [_entry(finding, val.shows_feature) for finding in told]


def _entry(finding: AuditFinding, shows_feature: np.ndarray) -> dict:
    names = "attribute", "n_images", "pull", "gap", "p_value", "times_others", "influence_images"
    return {
        **{name: getattr(finding, name) for name in names},
        "precision_at_10": precision_at_k(finding.regions, shows_feature, K),
        "chosen": [float(end) for end in finding.chosen],
        "masks": {fill: mask.plain()["others"] for fill, mask in finding.masks.items()},
        "confirmed": finding.confirmed,
    }
