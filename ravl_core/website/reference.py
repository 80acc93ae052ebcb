"""The package's own words about itself, read from its sources without importing them: signatures and docstrings."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

LISTS = ("Parameters", "Attributes", "Returns", "Yields", "Raises")  # sections of a docstring that list things
SECTION = re.compile(r"^([A-Z]\w+)\n-{3,}\n", re.M)
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Entry:
    """A function or class as the page shows it."""

    name: str
    signature: str  # as it stands in the source
    summary: str  # the docstring's first paragraph, as HTML
    text: str  # the whole docstring, as HTML
    parts: tuple["Entry", ...] = ()  # public methods and properties


@dataclass(frozen=True)
class Module:
    """A module, its docstring's first paragraph as HTML, and what is public in it."""

    name: str
    summary: str
    entries: tuple[Entry, ...]


def modules(package: Path) -> tuple[Module, ...]:
    """Every module of a package, in the order of their names; private ones are left out."""
    paths = sorted(path for path in package.rglob("*.py") if not path.stem.startswith("_") or path.stem == "__init__")
    return tuple(module(package, ".".join(path.relative_to(package).with_suffix("").parts)) for path in paths)


def module(package: Path, name: str) -> Module:
    """A module of a package by its name inside it (`audits.run`)."""
    path = _source(package, name)
    code = path.read_text(encoding="utf-8")
    tree = ast.parse(code)
    entries = tuple(_entry(node, code) for node in _public(tree))
    full = ".".join([package.name, *name.removesuffix("__init__").split(".")]).rstrip(".")
    return Module(full, _paragraphs(_first(ast.get_docstring(tree))), entries)


def entry(package: Path, room: str, name: str) -> Entry:
    """A public name of a module of the package, which may have imported it from another one of the package.

    Raises ValueError where the module does not have it.
    """
    code = _source(package, room).read_text(encoding="utf-8")
    for node in ast.walk(tree := ast.parse(code)):
        if isinstance(node, Documented) and node.name == name:
            return _entry(node, code)
    for node in tree.body:
        inside = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package.name}.")
        if inside and name in [alias.name for alias in node.names]:
            return entry(package, node.module.removeprefix(f"{package.name}."), name)
    raise ValueError(f"name: expected a function or class of {package.name}.{room}, got {name!r}")


def _source(package: Path, name: str) -> Path:
    path = package.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[Documented]:
    return (node for node in tree.body if isinstance(node, Documented) and not node.name.startswith("_"))


def _entry(node: Documented, code: str) -> Entry:
    docstring = ast.get_docstring(node)
    parts = tuple(_entry(part, code) for part in _public(node)) if isinstance(node, ast.ClassDef) else ()
    lines = [line[node.col_offset :] for line in _signature(node, code.splitlines())]
    text = docstring_html(docstring or "")
    return Entry(node.name, "\n".join(lines), _paragraphs(_first(docstring)), text, parts)


def _signature(node: Documented, lines: list[str]) -> list[str]:
    """The lines of the source that say how something is called; of a class the fields, with their comments."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    if not isinstance(node, ast.ClassDef):
        return lines[first : node.body[0].lineno - 1] or lines[first : node.lineno]
    shown = lines[first : node.lineno]
    for part in node.body:
        if isinstance(part, ast.AnnAssign):
            shown += lines[part.lineno - 1 : part.end_lineno]
        elif isinstance(part, ast.FunctionDef) and part.name == "__init__":
            shown += lines[part.lineno - 1 : part.body[0].lineno - 1]
    return shown


def docstring_html(text: str) -> str:
    """A docstring in numpydoc's layout as HTML."""
    head, *sections = SECTION.split(text)
    html = _paragraphs(head)
    for name, content in zip(sections[::2], sections[1::2], strict=True):
        html += f'<p class="section">{name}</p>\n' + (_list(content) if name in LISTS else _paragraphs(content))
    return html


def _first(docstring: str | None) -> str:
    return (docstring or "").split("\n\n")[0]


def _list(text: str) -> str:
    """Lines `name : what it is`, each with the indented lines below it."""
    items, after = re.split(r"\n\n(?=\S)", text.strip(), maxsplit=1), ""
    if len(items) > 1:
        after = _paragraphs(items[1])
    found = re.findall(r"^(\S.*)\n?((?:[ ]+.*\n?|\n)*)", items[0] + "\n", re.M)
    html = ""
    for line, more in found:
        name, _, what = line.partition(" : ")
        more = " ".join(more.split())
        if more[:1].isupper() and (what[-1:].isalnum() or what.endswith((")", "`"))):  # `name : type`, then a sentence
            what = f"{what}."
        html += f"<dt><code>{escape(name)}</code></dt><dd>{_inline(f'{what} {more}'.strip())}</dd>\n"
    return f"<dl>\n{html}</dl>\n{after}"


def _paragraphs(text: str) -> str:
    """Paragraphs; indented ones and those in columns stay as they are laid out."""
    html = ""
    for part in re.split(r"\n\s*\n", text.strip("\n")):
        if re.search(r"^ {4}|\S {3,}\S", part, re.M):
            html += f"<pre>{escape(part)}</pre>\n"
        elif part.strip():
            html += f"<p>{_inline(' '.join(part.split()))}</p>\n"
    return html


def _inline(text: str) -> str:
    return re.sub(r"(`{1,2})([^`]+)\1", r"<code>\2</code>", escape(text, quote=False))
