"""Lets open_clip import beside a CPU-only torch.

open_clip and timm import torchvision. Where torchvision's compiled part was built for CUDA and torch was
not, that import stops with "operator torchvision::nms does not exist". Then the schemas are declared and the
import is tried once more. A detector's region proposals need one of these operators, nms, so it gets an
implementation of our own, for the CPU. Where torchvision works, `ensure_importable` does nothing.
"""

import importlib
import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared = None  # torch.library forgets a schema when its Library object is collected


def ensure_importable() -> None:
    """Import torchvision, declaring its missing operators if exactly that stops it.

    Raises
    ------
    RuntimeError
        Any other failure of torchvision's import, unchanged.
    """
    global _declared
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declared = _declare_schemas()
        importlib.import_module("torchvision")
        boxes = sys.modules.get("torchvision.ops.boxes")
        if boxes is not None:  # its functions first ask for all of the compiled part, of which nms is there now
            boxes._assert_has_ops = lambda: None


def _declare_schemas():
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", _nms, "CPU")
    return library


def _nms(dets, scores, iou_threshold):
    """Positions of the boxes (R, 4) that are kept, by descending score (R,)."""
    import torch

    from ravl_core.detector import without_duplicates

    order = scores.argsort(descending=True, stable=True)
    return order[torch.from_numpy(without_duplicates(dets[order].detach().numpy(), iou_threshold))]
