"""The benchmark of encoding measures what it says, whatever that takes; no figure is asserted."""

import contextlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import VIT, ragged_boxes, tiny_vlm

from ravl_core.benchmarks import encoding
from ravl_core.benchmarks.encoding import ON_CPU, encoding_memory, encoding_speed, main

SMALL = {"n_images": 6, "regions_per_image": 2, "batch_size": 4, "n_rounds": 2}
RESNET_WAYS = [
    "images alone", "early", "late", "crop", "trunk", "channels_last", "contiguous", "first query", "all queries",
]  # fmt: skip


@pytest.fixture(scope="module")
def table():
    return encoding_speed(**SMALL)


def test_every_way_is_measured_in_every_precision(table):
    assert table.precision.tolist() == ["float32"] * 9 + ["bfloat16"] * 9
    assert table.way.tolist() == RESNET_WAYS * 2
    assert set(table.model) == {"rn-mini"} and set(table.device) == {"cpu"}
    assert set(table.threads) == {torch.get_num_threads()}


def test_rates_are_counts_by_seconds_and_the_floor_is_the_images_alone(table):
    seconds = table.batch_ms / 1000 * 2  # of two batches
    np.testing.assert_allclose(table.images_per_second.dropna(), (table.images / seconds)[table.images > 0])
    np.testing.assert_allclose(table.regions_per_second.dropna(), (table.regions / seconds)[table.regions > 0])
    assert table[table.regions > 0].way.unique().tolist() == ["early", "late", "crop", "first query", "all queries"]
    assert set(table.regions) == {0, 12} and set(table.images) == {0, 6}
    for _, own in table.groupby("precision"):
        np.testing.assert_allclose(own.of_floor, own.images_per_second / own.images_per_second.iloc[0])
        assert own.of_floor.iloc[0] == 1


def test_the_ways_do_what_their_names_say():
    vlm, (boxes, index) = tiny_vlm(), ragged_boxes([2, 0, 3])
    images, seen = np.zeros((3, 64, 64, 3), dtype=np.uint8), []
    ways = encoding._ways(vlm, (images, boxes, index), 2)
    visual = vlm.clip.visual
    visual.layer1.register_forward_hook(lambda *call: seen.append(("trunk", *call[2].shape[:1])))
    visual.layer4.register_forward_hook(lambda *call: seen.append(("head", *call[2].shape[:1])))
    visual.attnpool.register_forward_hook(lambda *call: seen.append(("published pool", *call[2].shape[:1])))
    expected = {
        "images alone": [("trunk", 2), ("head", 2), ("trunk", 1), ("head", 1)],
        "early": [("trunk", 2), ("head", 4), ("trunk", 1), ("head", 4)],
        "late": [("trunk", 2), ("head", 2), ("trunk", 1), ("head", 1)],
        "crop": [("trunk", 2), ("head", 2), ("trunk", 1), ("head", 1)] * 2 + [("trunk", 2), ("head", 2)],
        "trunk": [("trunk", 2), ("trunk", 1)],
        "channels_last": [("trunk", 2), ("head", 2), ("trunk", 1), ("head", 1)],
        "contiguous": [],  # a tower of its own
        "first query": [],
        "all queries": [("published pool", 4), ("published pool", 1)],
    }
    assert list(ways) == list(expected)
    for name, passes in expected.items():
        seen.clear()
        ways[name].work("float32")
        assert sorted(seen) == sorted(passes)


def test_a_precision_is_that_of_the_products():
    vlm, kinds = tiny_vlm(), []
    ways = encoding._ways(vlm, encoding._made_up(64, 2, 1, 0), 2)
    vlm.clip.visual.conv1.register_forward_hook(lambda *call: kinds.append(call[2].dtype))
    for name in ("images alone", "late", "crop", "trunk", "channels_last"):
        for precision in ON_CPU:
            kinds.clear()
            ways[name].work(precision)
            assert set(kinds) == {getattr(torch, precision)}


def test_ways_are_measured_in_turn_and_once_more_to_warm_up():
    calls = []
    ways = [encoding._Way(name, lambda kind, name=name: calls.append((kind, name)), 1, 0) for name in "ab"]
    seconds, peaks = encoding._measured(ways, ON_CPU, torch.device("cpu"), 3)
    assert calls == [(kind, name) for kind in ON_CPU for name in "ab"] * 4
    assert len(peaks) == 4 and all(len(values) == 3 for values in seconds.values())


def test_tf32_is_as_the_name_says_and_as_before_afterwards():
    kinds = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [kind.allow_tf32 for kind in kinds]
    for name, called, allowed in [
        ("float32, no TF32", "float32", [False, False]), ("float32", "float32", [True, False]),
        ("TF32", "float32", [True, True]), ("bfloat16", "bfloat16", before),
    ]:  # fmt: skip
        with contextlib.suppress(KeyError), encoding._as_it_is_called(name) as kind:
            assert kind == called and [kind.allow_tf32 for kind in kinds] == allowed
            raise KeyError
        assert [kind.allow_tf32 for kind in kinds] == before


def test_memory_that_is_needed_is_seen():
    if np.isnan(encoding._resident_mb("VmHWM")):
        pytest.skip("this system does not say")
    for megabytes in (40, 80, 40):  # a peak of before is none of now
        peak = encoding._peak_mb(
            lambda kind, n=megabytes: np.ones(n * 10**6, dtype=np.uint8), "float32", torch.device("cpu")
        )
        assert peak == pytest.approx(megabytes, abs=8)


def test_a_transformer_has_its_own_ways(monkeypatch):
    monkeypatch.setattr("ravl_core.checkpoints.load_vlm", lambda name, device: tiny_vlm(tower=VIT))
    table = encoding_speed("a name", **SMALL, precisions=["float32"])
    assert table.way.tolist() == ["images alone", "patches", "crop", "trunk"]


def test_some_ways_and_precisions_alone(tmp_path):
    out = tmp_path / "made" / "speed.csv"
    main(["--images", "2", "--regions", "1", "--rounds", "1", "--threads", str(torch.get_num_threads()),
          "--precisions", "bfloat16", "--ways", "late", "--out", str(out)])  # fmt: skip
    table = pd.read_csv(out)
    assert table[["precision", "way", "regions"]].values.tolist() == [["bfloat16", "late", 2]]
    assert table.of_floor.isna().all()  # the floor was not measured


@pytest.mark.parametrize(
    "options, message",
    [
        ({"ways": ["lat"]}, "ways: expected one of .*, got 'lat'; did you mean 'late'"),
        ({"precisions": ["TF32"]}, "precisions: expected one of 'float32', 'bfloat16', got 'TF32'"),
        ({"n_rounds": 0}, "n_rounds: expected an integer of 1 or more, got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encoding_speed(**SMALL | options)


def test_memory_is_that_of_processes_which_encode_all_images(monkeypatch):
    asked = []

    def here(each):
        asked.append(each)
        return json.loads(encoding.peak_of(json.dumps(each)))

    monkeypatch.setattr(encoding, "_in_a_fresh_process", here)
    table = encoding_memory([3, 5], images_at_a_time=2)
    assert table[["way", "images"]].values.tolist() == [
        ["to disk", 3], ["to disk", 5], ["in memory", 3], ["in memory", 5],
    ]  # fmt: skip
    assert len(asked) == 4 and (table.seconds > 0).all()


def test_a_fresh_process_answers():
    peak_mb, seconds = encoding._in_a_fresh_process(("to disk", 3, 2, "rn-mini", 0))
    assert seconds > 0 and not peak_mb < 50  # NaN where the system does not say
