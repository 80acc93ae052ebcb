"""Where images, captions, labels and boxes come from. Each domain yields the same typed `Dataset`."""

import difflib
import importlib

from ravl_core.domains.dataset import Dataset, Domain

_DOMAINS = {
    "digits": "digits",
    "mnist": "mnist",
    "fashion_mnist": "fashion_mnist",
    "photos": "photos",
    "coco_objects": "coco_objects",
    "coco": "coco",
}

__all__ = ["Dataset", "Domain", "load_domain"]


def load_domain(name: str) -> Domain:
    """The domain of that name.

    Raises
    ------
    ValueError
        No such domain; the message names the nearest one.
    """
    if name not in _DOMAINS:
        near = difflib.get_close_matches(name, _DOMAINS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(_DOMAINS)}"
        raise ValueError(f"domain: no domain is called {name!r}{hint}")
    return importlib.import_module(f"ravl_core.domains.{_DOMAINS[name]}").domain()
