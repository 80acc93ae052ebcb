"""The mend beside a CPU-only torch: exactly one failure of torchvision is mended, in a process of its own each time."""

import subprocess
import sys

import pytest

# What the real package does where its compiled part is missing, on the real torch.
NEEDS_OPERATORS = """
import torch
import torchvision.parts
torch.library.register_fake("torchvision::nms", lambda dets, scores, iou_threshold: dets)
torch.library.register_fake("torchvision::qnms", lambda dets, scores, iou_threshold: dets)
"""


def run(folder, torchvision, script):
    """Run `script` in a new process where torchvision is the source given; returns the finished process."""
    package = folder / "torchvision"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(torchvision)
    (package / "parts.py").write_text("")
    setup = f"import sys\nsys.path.insert(0, {str(folder)!r})\nfrom ravl_core import _torchvision\n"
    return subprocess.run([sys.executable, "-c", setup + script], capture_output=True, text=True)


def test_the_package_is_such_that_it_fails_without_the_mend(tmp_path):
    failed = run(tmp_path, NEEDS_OPERATORS, "import torchvision")
    assert "RuntimeError: operator torchvision::nms does not exist" in failed.stderr


def test_missing_operators_are_declared_and_the_import_succeeds(tmp_path):
    script = """
_torchvision.ensure_importable()
import torch, torchvision
assert "torchvision.parts" in sys.modules
schema = str(torch.ops.torchvision.nms.default._schema)
assert schema == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor", schema
assert torch.ops.torchvision.qnms.default
_torchvision.ensure_importable()  # once more changes nothing
"""
    mended = run(tmp_path, NEEDS_OPERATORS, script)
    assert mended.returncode == 0, mended.stderr


def test_nms_of_our_own_is_there_after_the_mend_and_its_users_may_call_it(tmp_path):
    """Scores in no order, the best box first; boxes that share more than the threshold with a better one are gone."""
    ops = tmp_path / "torchvision" / "ops"
    ops.mkdir(parents=True)
    (ops / "boxes.py").write_text("def _assert_has_ops():\n    raise RuntimeError('not compiled')\n")
    script = """
_torchvision.ensure_importable()
import torch
import torchvision.ops.boxes
torchvision.ops.boxes._assert_has_ops()
boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [20, 0, 30, 10.0]])
kept = torch.ops.torchvision.nms(boxes, torch.tensor([0.2, 0.9, 0.1, 0.5]), 0.55)
assert kept.dtype == torch.int64 and kept.tolist() == [1, 3], kept
assert torch.ops.torchvision.nms(boxes[:0], torch.empty(0), 0.5).shape == (0,)
"""
    mended = run(tmp_path, NEEDS_OPERATORS + "\nimport torchvision.ops.boxes\n", script)
    assert mended.returncode == 0, mended.stderr


def test_no_half_imported_module_is_left_of_the_first_try(tmp_path):
    """Modules of the failed import are imported afresh; those of packages that are only named alike stay."""
    script = """
import types
sys.modules["torchvision_other"] = other = types.ModuleType("torchvision_other")
sys.modules["torchvision.left_over"] = types.ModuleType("torchvision.left_over")
_torchvision.ensure_importable()
assert "torchvision.left_over" not in sys.modules
assert sys.modules["torchvision_other"] is other
"""
    mended = run(tmp_path, NEEDS_OPERATORS, script)
    assert mended.returncode == 0, mended.stderr


@pytest.mark.parametrize("error", ["RuntimeError('operator torchvision::roi_align is broken')", "ImportError('_C')"])
def test_another_failure_comes_through_unchanged(tmp_path, error):
    script = """
try:
    _torchvision.ensure_importable()
except Exception as error:
    print(repr(error))
assert _torchvision._declared is None and "torch" not in sys.modules
"""
    failed = run(tmp_path, f"raise {error}", script)
    assert failed.returncode == 0, failed.stderr
    assert failed.stdout.strip() == error


def test_a_torchvision_that_works_is_left_alone(tmp_path):
    script = """
_torchvision.ensure_importable()
import torchvision
assert torchvision.version == "works"
assert _torchvision._declared is None and "torch" not in sys.modules
"""
    worked = run(tmp_path, "version = 'works'", script)
    assert worked.returncode == 0, worked.stderr
