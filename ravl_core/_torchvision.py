"""Lets open_clip import beside a CPU-only torch.

open_clip and timm import torchvision. Where torchvision's compiled part was built for CUDA and torch was
not, that import stops with "operator torchvision::nms does not exist". Nothing here needs torchvision's
operators, so their schemas are declared and the import is tried once more. Where torchvision works,
`ensure_importable` does nothing.
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


def _declare_schemas():
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
