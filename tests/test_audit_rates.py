"""From records of audited models to shares: what counts as learned, found, right, confirmed and hidden."""

from dataclasses import replace

import numpy as np
import pytest

from ravl_core import grids
from ravl_core.audits.rates import trial_rates, trials_table
from ravl_core.audits.trial import audit_trial
from ravl_core.discovery import discover
from ravl_core.metrics import wilson_interval
from ravl_core.profiles import PROFILES


def finding(attribute=3, precision=1.0, confirmed=True, hidden=(-0.2, -0.3, -0.1)):
    masks = {fill: {"beyond_control": {"probability": list(hidden)}} for fill in ("surroundings", "blur")}
    names = {"attribute": attribute, "precision_at_10": precision, "confirmed": confirmed, "masks": masks}
    return names | {"chosen": [0.3, 0.2, 0.4], "pull": 0.2, "p_value": 0.01, "n_images": 40}


def record(strength, margin, findings, attribute=3):
    setting = {"domain": "digits", "initial": "rn-mini", "feature": "red", "attribute": attribute, "seed": 1}
    arguments = {"setting": setting | {"strength": strength}, "budget": {"trained": "head"}}
    return {"arguments": arguments, "metrics": {"audit": findings, "margin": margin, "reached_strength": strength}}


RECORDS = (
    record(0.95, 30.0, [finding(), finding(precision=0.0, confirmed=False)]),
    record(0.95, 30.0, [finding(hidden=(-0.1, -0.3, 0.05))]),
    record(0.95, 30.0, [finding(attribute=4)]),
    record(0.95, 30.0, [finding(precision=0.4), finding()]),
    record(0.95, 30.0, []),
    record(0.95, 9.9, [finding()]),
    record(0.0, 0.0, [finding(confirmed=False, hidden=(None, None, None))]),
    record(0.0, 0.0, []),
)


def test_a_row_holds_the_first_finding_and_counts_all():
    table = trials_table(RECORDS)
    assert table.n_findings.tolist() == [2, 1, 1, 2, 0, 1, 1, 0]
    assert table.n_confirmed.tolist() == [1, 1, 1, 2, 0, 1, 0, 0]
    assert table.found_precision_at_10[:4].tolist() == [1, 1, 1, 0.4] and np.isnan(table.found_precision_at_10[4])
    assert table.mask_blur_high[:2].tolist() == [-0.1, 0.05] and np.isnan(table.mask_blur_high[6])
    assert table.chosen_low[0] == 0.2


@pytest.mark.parametrize(
    "among, what, count, n",
    [
        ("learned", "something is found", 4, 5),
        ("learned", "something is found and confirmed", 4, 5),
        ("learned", "the first finding is the planted feature", 2, 5),
        ("learned", "… and hiding it counts (blur)", 1, 5),
        ("planted", "the first finding is the planted feature", 3, 6),
        ("nothing planted", "something is found", 1, 2),
        ("nothing planted", "something is found and confirmed", 0, 2),
    ],
)
def test_shares_are_counts_with_wilsons_intervals(among, what, count, n):
    rates = trial_rates(trials_table(RECORDS))
    (row,) = rates[(rates.among == among) & (rates.what == what)].itertuples()
    assert (row.count, row.n, row.share) == (count, n, count / n)
    assert (row.low, row.high) == pytest.approx(wilson_interval(count / n, n))


def test_without_any_such_model_a_share_is_unknown():
    rates = trial_rates(trials_table(RECORDS[6:]))
    learned = rates[rates.among == "learned"]
    assert (learned.n == 0).all() and learned.share.isna().all() and learned.high.isna().all()


def test_the_reference_grid_has_enough_models_of_either_kind():
    tasks = grids.grid(PROFILES["full"], "audits")
    strengths = np.array([task.setting.strength for task in tasks])
    assert (strengths > 0).sum() >= 20 and (strengths == 0).sum() >= 59
    assert all(task.audit and not task.repairs for task in tasks)
    assert len({task.setting.seed for task in tasks}) == len(tasks)


def test_a_trial_is_judged_by_the_truth_that_the_audit_never_sees():
    from test_audit_robustness import SIDE, fooled, images_with_red

    from ravl_core.domains.dataset import Dataset
    from ravl_core.regions import quadrants

    class Model:
        """Its answers to hidden images are those of the fooled model."""

        def encode_images(self, images):
            return np.eye(4, 8)[np.zeros(len(images), dtype=int)]

        def encode_texts(self, texts):
            return np.eye(8)[: len(texts)]

    images, _ = images_with_red(160)
    boxes, image_index = quadrants(160, SIDE, SIDE)
    data = Dataset(
        images, np.arange(160) % 4, ("",) * 160, ("one", "two", "three", "four"), ("{}",), boxes, image_index
    )
    evaluation = fooled(None, data)
    crops = [images[i, y : y + 16, x : x + 16] for i in range(160) for y in (0, 16) for x in (0, 16)]
    red = np.array([crop[..., 0].mean() > crop[..., 1:].mean() + 80 for crop in crops])
    told = audit_trial(Model(), replace(data, shows_feature=red), evaluation, discover(evaluation), 3)
    assert told[0]["attribute"] == 1 and told[0]["precision_at_10"] == 1
    blind = audit_trial(Model(), replace(data, shows_feature=~red), evaluation, discover(evaluation), 3)
    assert blind[0]["precision_at_10"] == 0 and blind[0]["pull"] == told[0]["pull"]
