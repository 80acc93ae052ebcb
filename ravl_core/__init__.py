"""RaVL: discover and mitigate spurious correlations in fine-tuned vision-language models.

The public API in one place; each name is imported from its room when it is first used, so that
``import ravl_core`` is quick and needs neither torch nor open_clip.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = {
    "audit": "audits.run",
    "Audit": "audits.result",
    "repair": "audits.repairing",
    "write_report": "audits.report",
    "export_audit": "audits.export",
    "read_images": "domains.own_images",
    "load_vlm": "checkpoints",
    "save_vlm": "checkpoints",
    "evaluate": "zero_shot",
    "Evaluation": "zero_shot",
    "encode_to_disk": "shards",
    "read_shards": "shards",
    "cluster_regions": "kmedoids",
    "cluster_many_regions": "linear_kmedoids",
    "Clustering": "kmedoids",
    "score_clusters": "discovery",
    "discover": "discovery",
    "Discovery": "discovery",
    "Finding": "discovery",
    "assign_regions": "discovery",
    "RegionAwareLoss": "losses",
    "precision_at_k": "metrics",
    "group_accuracies": "metrics",
    "bootstrap_interval": "metrics",
    "mitigate": "mitigation",
    "finetune": "mitigation",
    "Setting": "settings",
    "build_setting": "settings",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str):
    if name not in _ROOMS:
        raise AttributeError(f"ravl_core has no attribute {name!r}; the public names are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"ravl_core.{_ROOMS[name]}"), name)


def __dir__():
    return __all__
