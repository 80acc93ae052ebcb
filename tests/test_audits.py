"""The audit: arrays and folders of images in, findings in words out, nothing skipped in silence."""

import numpy as np
import pytest
from PIL import Image

import ravl_core as rc
from ravl_core.audits import read_folder
from ravl_core.pretraining import uncorrelated_set

CLASSES = ("zero", "one", "two")


@pytest.fixture(scope="module")
def digits():
    data = uncorrelated_set("digits", "val", 200, seed=0)
    kept = data.labels < len(CLASSES)
    return data.images[kept], data.labels[kept]


@pytest.fixture
def folder(tmp_path, digits):
    for name in CLASSES:
        (tmp_path / name).mkdir()
    for at, (image, label) in enumerate(zip(*digits, strict=True)):
        Image.fromarray(image).save(tmp_path / CLASSES[label] / f"{at:03d}.png")
    return tmp_path


def test_an_array_is_audited_as_stage_1_does_it(digits):
    vlm = rc.load_vlm("rn-mini")
    audit = rc.audit(vlm, digits[0], CLASSES, labels=digits[1], templates=("the digit {}",))
    expected = rc.discover(audit.evaluation)
    assert audit.evaluation.region_embeddings.shape == (4 * len(digits[0]), vlm.embedding_size)
    assert [finding.cluster for finding in audit.discovery.findings] == [f.cluster for f in expected.findings]
    assert len(audit.sentences) == len(expected.findings)
    for sentence, finding in zip(audit.sentences, expected.findings, strict=True):
        assert repr(CLASSES[finding.attribute]) in sentence and f"from {finding.influence_images} images" in sentence


def test_a_folder_gives_what_the_same_array_gives(folder, digits):
    by_name = rc.audit("rn-mini", folder, CLASSES, seed=3)
    assert by_name.skipped == () and by_name.evaluation.labels.tolist() == sorted(digits[1].tolist())
    resized, labels, _ = read_folder(folder, CLASSES, 64)
    again = rc.audit("rn-mini", resized, CLASSES, labels=labels, seed=3)
    np.testing.assert_array_equal(by_name.evaluation.image_probs, again.evaluation.image_probs)


def test_a_finer_grid_gives_more_regions(digits):
    assert len(rc.audit("rn-mini", digits[0], CLASSES, labels=digits[1], grid=(3, 2)).dataset.boxes) == 6 * len(
        digits[0]
    )


def test_what_cannot_be_read_is_skipped_and_named(folder):
    (folder / "zero" / "broken.png").write_bytes(b"no picture")
    whole = (folder / "one").glob("*.png").__next__().read_bytes()
    (folder / "one" / "cut.png").write_bytes(whole[: len(whole) // 2])
    audit = rc.audit("rn-mini", folder, CLASSES)
    assert [name for name, _ in audit.skipped] == ["zero/broken.png", "one/cut.png"]
    assert all(reason for _, reason in audit.skipped)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_every_kind_of_image_is_converted(tmp_path, mode):
    grey = np.full((5, 7), 255 if mode == "1" else 128, dtype=np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) << 8) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "image.tif")
    images, labels, skipped = read_folder(tmp_path, ("a", "b"), 8)
    assert images.shape == (2, 8, 8, 3) and labels.tolist() == [0, 1] and skipped == ()
    assert abs(int(images.mean()) - int(grey[0, 0])) <= 2


def test_what_does_not_fit_is_named(digits, tmp_path):
    images, labels = digits
    with pytest.raises(ValueError, match="classes: expected at least two"):
        rc.audit("rn-mini", images, ("zero",), labels=labels)
    with pytest.raises(ValueError, match="labels: an array of images needs"):
        rc.audit("rn-mini", images, CLASSES)
    with pytest.raises(ValueError, match="labels"):
        rc.audit("rn-mini", images, CLASSES, labels=labels[:-1])
    with pytest.raises(FileNotFoundError, match="there is no 'zero'"):
        rc.audit("rn-mini", tmp_path, CLASSES)
    for name in CLASSES:
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="no readable image of zero, one, two"):
        rc.audit("rn-mini", tmp_path, CLASSES)
