"""The registry of domains: found by name, and every module that decides a domain's images is known."""

import ast
import dataclasses
from pathlib import Path

import pytest

import ravl_core.domains as domains
from ravl_core.domains import load_domain, modules_of, public_sample

FOLDER = Path(domains.__file__).parent
NAMES = tuple(domains._DOMAINS)


def imported_rooms(module):
    """Modules of the package `domains` that a module imports, and those that these import."""
    tree = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "ravl_core.domains":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ravl_core.domains."):
            found.add(node.module.rsplit(".", 1)[1])
    return found.union(*(imported_rooms(name) for name in found))


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_lists_all_modules_that_it_is_made_of(name):
    own, *others = (module.rsplit(".", 1)[1] for module in modules_of(name))
    assert own == name and set(others) == imported_rooms(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_domain_says_what_it_offers(name):
    domain = load_domain(name)
    assert domain.name == name
    assert len(domain.class_names) >= 2 and len(set(domain.class_names)) == len(domain.class_names)
    assert domain.features and not set(domain.features) & set(domain.class_names)


def test_every_module_with_a_domain_is_listed():
    with_domain = {path.stem for path in FOLDER.glob("*.py") if "\ndef domain(" in path.read_text(encoding="utf-8")}
    assert with_domain == set(NAMES)


@pytest.mark.parametrize("find", [load_domain, modules_of])
def test_an_unknown_domain_is_named_with_the_nearest(find):
    with pytest.raises(ValueError, match="no domain is called 'mnits'; did you mean 'mnist'"):
        find("mnits")
    with pytest.raises(ValueError, match="no domain is called 'x'; there are digits"):
        find("x")


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_a_sample_holds_each_class_without_and_with_the_feature(name):
    data, credited = public_sample(name, load_domain(name).features[-1], 3)
    assert len(data) == 6 * data.n_classes and credited == ()
    for label in range(data.n_classes):
        assert data.feature_present[data.labels == label].tolist() == [False] * 3 + [True] * 3


def test_a_sample_is_made_of_what_may_be_shown_and_says_whom_to_credit(monkeypatch):
    class Licensed:
        class_names = ("one", "two")
        composed = []

        def compose(self, *asked):
            self.composed.append((self.open_licences_only, *asked))
            return "data"

        def credits(self, *asked):
            return ("address",) if asked == self.composed[-1][1:] else ()

    licensed = dataclasses.make_dataclass("L", [("open_licences_only", bool, False)], bases=(Licensed,), frozen=True)
    monkeypatch.setattr(domains, "load_domain", lambda name: licensed())
    assert public_sample("licensed", "feature", 1) == ("data", ("address",))
    ((open_only, _, labels, *_),) = Licensed.composed
    assert open_only and labels.tolist() == [0, 0, 1, 1]
