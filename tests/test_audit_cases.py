"""Real images for an audit: halves that share no patient, and a marker that stands where it is said to stand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ravl_core.audits import cases
from ravl_core.audits.cases import halves, part_of, with_marker
from ravl_core.domains.own_images import from_arrays


@pytest.fixture
def own():
    images = np.random.default_rng(0).integers(0, 200, (60, 64, 64, 3), dtype=np.uint8)
    made = from_arrays(images, np.arange(60) % 2, ("ill", "well"), groups=np.arange(60) // 3)
    return replace(made, metadata=pd.DataFrame({"site": np.arange(60) % 5}))


def test_a_part_keeps_everything_in_step(own):
    part = part_of(own, np.array([3, 10, 41]))
    assert part.names == ("image 3", "image 10", "image 41") and len(part) == 3
    np.testing.assert_array_equal(part.images, own.images[[3, 10, 41]])
    assert part.groups.tolist() == ["1", "3", "13"] and part.metadata["site"].tolist() == [3, 0, 1]


def test_halves_hold_every_image_once_and_share_no_group(own):
    first, second = halves(own, seed=1)
    assert sorted(first.names + second.names) == sorted(own.names)
    assert not set(first.groups) & set(second.groups) and len(first) == len(second) == 30
    assert halves(own, seed=1)[0].names == first.names != halves(own, seed=2)[0].names


def test_the_marker_is_in_that_share_of_each_class_and_nowhere_else(own):
    marked = with_marker(own, (0.1, 0.9), seed=0)
    present = marked.metadata.marker.to_numpy()
    assert [present[own.labels == label].sum() for label in (0, 1)] == [3, 27]
    changed = (marked.images != own.images).any(axis=-1)  # (N, H, W)
    assert not changed[~present].any() and changed[present][:, 2:14, 2:12].any(axis=(1, 2)).all()
    changed[:, 2:14, 2:12] = False
    assert not changed.any()
    assert (marked.images[present, 3, 3] == 255).all() and (marked.images[present, 12, 10] == 255).all()
    assert (own.images < 200).all(), "the images that came in stay as they were"


def test_every_case_is_run_with_every_seed_and_a_found_marker_is_repaired(own, monkeypatch):
    repaired = []

    def case(images, seed):
        return None, images, audit_of(images, found=seed == 1)

    def audit_of(images, found):
        from made_up_audit import made_up_audit

        audit = made_up_audit(1 if found else 0)
        return replace(audit, images=replace(audit.images, metadata=pd.DataFrame({"marker": [True]})))

    monkeypatch.setattr(cases, "CASES", {"one": (lambda folder, size: own, case), "two": (lambda f, s: own, case)})
    monkeypatch.setattr(cases, "_repaired", lambda *a: repaired.append(a[-1]) or {"worst_after": 0.5})
    table = cases.run_cases("nowhere", seeds=(0, 1))
    assert table[["case", "seed"]].values.tolist() == [["one", 0], ["one", 1], ["two", 0], ["two", 1]]
    assert table.n_findings.tolist() == [0, 1, 0, 1] and repaired == [1, 1]
    assert table.finding[0] == "" and len(table.finding[1]) > 10 and table.worst_after[1] == 0.5
    assert np.isnan(table.worst_after[0]) and table.detectable_half.tolist() == [0.23] * 4
