"""Versions of the code, by which results tell whether the present code would make them again.

A version covers the modules that decide the numbers, the domain's own, the models that ship and how the others are
made. It is that of the code which this process has loaded, whatever becomes of the files meanwhile.
"""

import hashlib
from functools import cache

from ravl_core import records
from ravl_core.domains import modules_of
from ravl_core.initial_models import CHANGES, MADE
from ravl_core.paths import MINIATURES

# What a standard fine-tuned model and its evaluation depend on. Of the recipes that is the standard one alone.
FINE_TUNING = (
    "checkpoints", "fine_tuned", "groups", "hub", "kept", "losses", "metrics", "mitigation.batch", "mitigation.budget",
    "mitigation.recipe", "mitigation.samplers", "mitigation.standard", "mitigation.texts", "mitigation.training",
    "pretraining", "randomness", "regions", "settings", "towers", "vlm", "zero_shot",
)  # fmt: skip
# What a record depends on beside that: the methods that look at the model, and the recipes that repair it.
LOOKING = (
    "audits.candidates", "audits.findings", "audits.naming", "audits.result", "audits.trial",
    "audits.with_and_without", "closed_loop", "comparison", "detector", "discovery", "intervals", "kmedoids",
    "linear_kmedoids", "masking", "mitigation", "mixtures", "proposals", "pull", "repairs", "sensitivity",
    "significance", "slicing", "stability", "tasks", "threads",
)  # fmt: skip


def code_version(domain: str) -> str:
    """The version of all that decides a record of that domain, 16 hex digits."""
    return _version(domain, FINE_TUNING + LOOKING)


def fine_tuning_version(domain: str) -> str:
    """The version of what decides a domain's fine-tuned models and their evaluations, 16 hex digits."""
    return _version(domain, FINE_TUNING)


@cache
def _version(domain: str, names: tuple[str, ...]) -> str:
    modules = records.code_version(*(f"ravl_core.{name}" for name in names), *modules_of(domain))
    models = sorted(path for path in MINIATURES.glob("*/*") if path.suffix in (".json", ".safetensors"))
    plan = f"{modules} {MADE.get(domain)} {CHANGES}".encode()
    return hashlib.sha256(plan + b"".join(path.read_bytes() for path in models)).hexdigest()[:16]
