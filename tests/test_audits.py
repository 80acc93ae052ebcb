"""The audit from end to end: arrays, folders and the command; a planted shortcut is found, named, hidden, repaired."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import ravl_core as rc
from ravl_core.audits.result import Audit
from ravl_core.domains.own_images import from_arrays
from ravl_core.mitigation import Budget

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = {"n_permutations": 99, "thorough": False}


@pytest.fixture(scope="module")
def leaning():
    """A model that takes digits beside a red rectangle for a nine, and its setting."""
    data = rc.build_setting(rc.Setting(attribute=9, strength=0.99, seed=3, n_finetuning=1500, n_val=400, n_test=400))
    budget = Budget(epochs=4)
    return rc.mitigate(rc.load_vlm("rn-mini"), data.finetuning, recipe="standard", budget=budget, seed=3)[0], data


@pytest.fixture(scope="module")
def audited(leaning):
    vlm, data = leaning
    own = from_arrays(data.val.images, data.val.labels, data.val.class_names)
    own = replace(own, metadata=pd.DataFrame({"red": data.val.feature_present, "half": np.arange(len(own)) % 2}))
    return rc.audit(vlm, own, templates=data.val.templates, words=("red", "digit"), n_permutations=199)


def write_folder(root, data, labels):
    for at, (image, label) in enumerate(zip(data.images, data.labels, strict=True)):
        if label in labels:
            path = root / data.class_names[label] / f"{at:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


@pytest.fixture(scope="module")
def folder(leaning, tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("digits"), leaning[1].val, (3, 8, 9))
    (root / "three" / "broken.png").write_bytes(b"no picture")
    return root


def test_a_planted_shortcut_is_the_first_finding_and_every_check_agrees(audited, leaning):
    val = leaning[1].val
    first = audited.findings[0]
    assert first.attribute_name == "nine" and rc.precision_at_k(first.regions, val.shows_feature) == 1
    assert first.chosen.low > 0.2 and first.p_value <= 0.05 and first.confirmed
    holds = np.isin(np.arange(len(val.labels)), val.image_index[first.regions])
    # Of the 200 images with the feature; on some processors the finest clusters halve them.
    assert val.feature_present[holds].all() and first.n_images == holds.sum() >= 80
    nine = first.table[first.table["class"] == "nine"].iloc[0]
    assert nine.difference_low > 0.3 and nine.n_in == holds[val.labels == 9].sum() > 5
    for mask in first.masks.values():
        assert mask.others.beyond_control.probability.high < 0
    assert first.stability.found_again.mean() > 0.5
    assert {word for word, _ in first.words} == {"red", "digit"}
    red, v = first.associations.iloc[0][["column", "cramers_v"]]
    assert red == "red" and v == pytest.approx(np.corrcoef(holds, val.feature_present)[0, 1], abs=1e-3)
    red = audited.columns[audited.columns.column == "red"]
    assert red.p_value.min() <= 0.05 and set(audited.columns.column) == {"red", "half"}


def test_the_sentence_holds_the_numbers(audited):
    (sentence, *_), first = audited.sentences, audited.findings[0]
    for part in ("'nine'", f"{100 * first.chosen.estimate:.0f} points", f"n = {first.n_in}", f"n = {first.n_out}"):
        assert part in sentence
    assert f"{100 * first.mask.others.effect.probability.estimate:+.0f} points" in sentence


def test_a_sentence_says_where_hiding_does_not_take_the_answer_away(audited):
    first = audited.findings[0]
    assert "do not draw it" not in first.sentence
    effect = replace(first.mask.others.effect, probability=first.chosen)  # an interval above zero
    others = replace(first.mask.others, beyond_control=effect)
    shown = {fill: replace(mask, others=others) for fill, mask in first.masks.items()}
    assert replace(first, masks=shown).sentence.endswith("so the regions go with the answer, but do not draw it.")
    two = replace(audited, findings=(first, first))
    assert two.sentences[0] == first.sentence and two.sentences[1].startswith(first.sentence)
    assert "Tested among images that agree on the findings before it" in two.sentences[1]


def test_the_audit_holds_what_stage_1_says_and_how_to_run_it_again(audited, leaning):
    again = rc.discover(audited.evaluation)
    assert [one.cluster for one in audited.discovery.findings] == [one.cluster for one in again.findings]
    assert audited.options["regions"] == "quadrants" and audited.options["seed"] == 0
    assert audited.coverage.per_image == (4, 4, 4) and audited.coverage.area_covered == 1
    assert {"quadrants", "superpixels"} <= set(audited.proposals.regions)
    same = audited.proposals[audited.proposals.regions == "quadrants"].iloc[0]
    assert same.attribute == "nine" and same.overlap == 1
    json.dumps(audited.options)


def test_where_nothing_is_planted_it_says_so_and_what_could_have_been_found():
    data = rc.build_setting(rc.Setting(strength=0.0, seed=5, n_finetuning=100, n_val=400, n_test=100)).val
    audit = rc.audit("rn-mini", data.images, data.class_names, labels=data.labels, templates=data.templates, **FEW)
    assert audit.findings == () and len(audit.sentences) == 1
    assert audit.sentences[0].startswith("No finding: among 400 images")
    shift = audit.detectable["shift"].iloc[-1]
    assert 0 < shift < 1 and f"{100 * shift:.0f} points more often" in audit.sentences[0]
    assert audit.detectable.prevalence.iloc[-1] == 0.5


def test_a_folder_of_three_classes_is_read_looked_at_and_counted(folder, leaning):
    vlm, data = leaning
    audit = rc.audit(vlm, folder, templates=data.val.templates, **FEW)
    assert isinstance(audit, Audit) and audit.dataset.class_names == ("eight", "nine", "three")
    assert len(audit.images) == 120 and [name for name, _ in audit.skipped] == ["three/broken.png"]
    ordered = rc.audit(vlm, folder, ("three", "nine"), templates=data.val.templates, **FEW)
    assert ordered.dataset.class_names == ("three", "nine") and len(ordered.images) == 80


def test_the_same_seed_gives_the_same_audit(folder, leaning):
    one, two = (rc.audit(leaning[0], folder, regions="grid 3x3", seed=4, **FEW) for _ in range(2))
    assert one.sentences == two.sentences and len(one.dataset.boxes) == 9 * len(one.images)
    pd.testing.assert_frame_equal(one.detectable, two.detectable)
    np.testing.assert_array_equal(one.discovery.clustering.labels, two.discovery.clustering.labels)


def test_groups_are_tested_by_one_image_each(leaning):
    vlm, data = leaning
    repeated = np.repeat(np.arange(30), 8)
    images, labels = data.val.images[:30][repeated], data.val.labels[:30][repeated] % 3
    own = from_arrays(images, labels, ("a", "b", "c"), groups=repeated)
    fooled = rc.audit(vlm, replace(own, groups=None), **FEW)
    careful = rc.audit(vlm, own, **FEW)
    assert len(careful.findings) <= len(fooled.findings)
    assert careful.detectable.n_images.iloc[-1] <= 18 < fooled.detectable.n_images.iloc[-1]


def test_what_does_not_fit_is_named(leaning, tmp_path):
    vlm, data = leaning
    images, labels, names = data.val.images, data.val.labels, data.val.class_names
    with pytest.raises(ValueError, match="classes: expected at least"):
        rc.audit(vlm, images, ("zero",), labels=np.zeros_like(labels))
    with pytest.raises(ValueError, match="labels: an array of images needs"):
        rc.audit(vlm, images, names)
    with pytest.raises(ValueError, match="classes: an array of images needs"):
        rc.audit(vlm, images, labels=labels)
    with pytest.raises(ValueError, match="labels"):
        rc.audit(vlm, images, names, labels=labels[:-1])
    with pytest.raises(ValueError, match="quadrants"):
        rc.audit(vlm, images, names, labels=labels, regions="quadrant")
    with pytest.raises(FileNotFoundError):
        rc.audit(vlm, tmp_path / "nowhere")


# ---- the command ----


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAVL_PROGRESS": "off"}
    command = [sys.executable, "-m", "ravl_core.audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_the_command_writes_a_report_tables_and_a_repaired_model(folder, leaning, tmp_path):
    vlm, data = leaning
    model = rc.save_vlm(vlm, tmp_path / "tuned")
    training = write_folder(tmp_path / "training", data.finetuning, (3, 8, 9))
    prompts = ["--templates", *data.val.templates, "--permutations", 99, "--quick"]
    mend = ["--repair", training, "--initial", "rn-mini", "--epochs", 1, "--save", tmp_path / "repaired"]
    done = run(folder, "--model", f"local-dir:{model}", "--out", tmp_path / "out", *prompts, *mend)
    assert done.returncode == 0, done.stderr
    assert "'nine' is answered" in done.stdout and "1 files left out: unreadable" in done.stdout
    page = (tmp_path / "out" / "index.html").read_text()
    assert "nine" in page and "data:image/" in page
    assert {"findings.csv", "regions.csv", "images.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    repaired = rc.load_vlm(f"local-dir:{tmp_path / 'repaired'}")
    assert repaired.encode_images(data.val.images[:2]).shape == (2, vlm.embedding_size)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere"),
        ([".", "--model", "rn-mimi"], "did you mean 'rn-mini'"),
        ([".", "--columns", "path"], "--columns: expected pairs"),
        ([".", "--save", "there"], "--save: expected --repair"),
    ],
)
def test_the_command_says_what_is_wrong_and_writes_nothing(arguments, message, tmp_path):
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_keeps_what_is_there(tmp_path):
    (tmp_path / "out").mkdir()
    assert "exists already" in run(".", "--out", tmp_path / "out").stderr


def test_importing_the_command_leaves_the_function_in_its_place():
    code = "import ravl_core.audit, ravl_core as rc; assert callable(rc.audit), rc.audit"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
