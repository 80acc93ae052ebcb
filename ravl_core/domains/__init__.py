"""Where images, captions, labels and boxes come from. Each domain yields the same typed `Dataset`."""

import importlib
from dataclasses import replace

import numpy as np

from ravl_core.checks import nearest
from ravl_core.domains.dataset import Dataset, Domain

# Each domain's modules, its own first: what decides its images.
_DOMAINS = {
    "digits": ("digits", "quadrants", "dataset"),
    "photos": ("photos", "composites", "coverage", "dataset"),
    "habitats": ("habitats", "photos", "composites", "coverage", "proportions", "dataset"),
    "mnist": ("mnist", "digits", "quadrants", "files", "dataset"),
    "fashion_mnist": ("fashion_mnist", "mnist", "digits", "quadrants", "files", "dataset"),
    "coco_objects": ("coco_objects", "coco_folder", "composites", "coverage", "dataset"),
    "coco": ("coco", "coco_folder", "coverage", "dataset"),
}

__all__ = ["Dataset", "Domain", "load_domain", "modules_of", "public_sample"]


def load_domain(name: str) -> Domain:
    """The domain of that name.

    Raises
    ------
    ValueError
        No such domain; the message names the nearest one.
    """
    return importlib.import_module(modules_of(name)[0]).domain()


def modules_of(name: str) -> tuple[str, ...]:
    """Names of the modules that a domain is made of, its own first; raises ValueError like `load_domain`."""
    if name not in _DOMAINS:
        hint = nearest(name, _DOMAINS) or f"; there are {', '.join(_DOMAINS)}"
        raise ValueError(f"domain: no domain is called {name!r}{hint}")
    return tuple(f"{__name__}.{module}" for module in _DOMAINS[name])


def public_sample(name: str, feature: str, n: int) -> tuple[Dataset, tuple[str, ...]]:
    """For each class of a domain n images without and n with the feature, and the photographs to give credit for.

    Where photographs have licences of their own, the images hold only what may be shown in public.
    """
    domain = load_domain(name)
    if hasattr(domain, "open_licences_only"):
        domain = replace(domain, open_licences_only=True)
    n_classes = len(domain.class_names)
    labels, present = np.repeat(np.arange(n_classes), 2 * n), np.tile(np.repeat([False, True], n), n_classes)
    asked = "finetuning", labels, present, 0, feature
    return domain.compose(*asked), domain.credits(*asked) if hasattr(domain, "credits") else ()
