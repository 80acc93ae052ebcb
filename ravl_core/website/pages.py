"""All pages of the site, from the project's files: the same files, the same bytes."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import ravl_core
from ravl_core.notebook_file import Notebook, source
from ravl_core.reproduce import find_notebooks
from ravl_core.website import reference
from ravl_core.website.notebooks import coloured, notebook_body
from ravl_core.website.texts import Body, Links, body, markdown

HERE = Path(__file__).parent
DOCUMENTS = {
    "README.md": "readme.html",
    "notebooks/README.md": "notebooks.html",
    "CONTRIBUTING.md": "contributing.html",
}
PROFILE = "demo"  # whose outputs the committed notebooks hold


@dataclass(frozen=True)
class Page:
    """A notebook's page, and what the front page says of it."""

    address: str
    title: str
    body: Body
    lead: str  # what the reader will see, as HTML
    status: dict[str, str]  # its row of the status table; empty where it has none


def site(project: Path) -> dict[str, bytes]:
    """Every file of the site by its place, for a project with `README.md`, `notebooks/` and `results/demo/status.csv`.

    Raises
    ------
    ValueError
        There is no notebook, or one holds a formula that cannot be drawn, or README.md has no section with the command
        `make reproduce`.
    """
    notebooks = find_notebooks(project / "notebooks")
    documents = {file: page for file, page in DOCUMENTS.items() if (project / file).is_file()}
    links = Links(project, documents | {f"notebooks/{n.path.name}": f"{n.name}.html" for n in notebooks})
    status, files, pages = _status(project), {}, []
    for notebook in notebooks:
        content, pictures = notebook_body(notebook, links)
        files |= pictures
        pages.append(_page(notebook, content, links, status.get(notebook.name, {})))
    render = _renderer(pages, list(documents.values()))
    readme = (project / "README.md").read_text(encoding="utf-8")
    front = body(markdown(_beginning(readme)), "README.md", links)
    files["index.html"] = render("front.html", _title(front), body=front)
    for file, address in documents.items():
        content = body(markdown((project / file).read_text(encoding="utf-8")), file, links)
        files[address] = render("document.html", _title(content), body=content)
    for at, page in enumerate(pages):
        around = {"before": pages[at - 1] if at else None, "after": pages[at + 1] if at + 1 < len(pages) else None}
        files[page.address] = render("document.html", page.title, body=page.body, **around)
    files["api.html"] = render("reference.html", "The public names", rooms=_rooms())
    files["modules.html"] = render("modules.html", "All modules", modules=reference.modules(HERE.parent))
    files["style.css"] = (HERE / "style.css").read_bytes()
    return files | links.copied


def _renderer(pages: list[Page], documents: list[str]):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["coloured"] = coloured

    def render(template: str, title: str, **values) -> bytes:
        values = {"before": None, "after": None, "body": None} | values
        text = environment.get_template(template).render(title=title, pages=pages, documents=documents, **values)
        return text.encode()

    return render


def _page(notebook: Notebook, content: Body, links: Links, status: dict[str, str]) -> Page:
    first = next((source(cell) for cell in notebook.cells if cell["cell_type"] == "markdown"), "")
    seen = re.search(r"^\*\*You will see\*\*\s+(.*?)(?:\n\n|\Z)", first, re.M | re.S)
    text = seen[1][0].upper() + seen[1][1:] if seen else ""
    lead = body(markdown(text), f"notebooks/{notebook.path.name}", links).html
    return Page(f"{notebook.name}.html", _title(content) or notebook.name, content, lead, status)


def _title(content: Body) -> str:
    return next((heading.text for heading in content.headings), "")


def _status(project: Path) -> dict[str, dict[str, str]]:
    path = project / "results" / PROFILE / "status.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {row["notebook"]: row for row in csv.DictReader(file)}


def _beginning(readme: str) -> str:
    """What stands before README's first section, and the section with the commands."""
    head, *sections = re.split(r"^(?=## )", readme, flags=re.M)
    commands = [section for section in sections if re.search(r"^make reproduce", section, re.M)]
    if not commands:
        raise ValueError("README.md: expected a section with the command `make reproduce`, got none")
    return head + commands[0]


def _rooms() -> list[tuple[reference.Module, list[reference.Entry]]]:
    """The public names by the module or package they come from, in the order of `ravl_core._ROOMS`."""
    found: dict[str, list[reference.Entry]] = {}
    for name, place in ravl_core._ROOMS.items():
        found.setdefault(place.split(".")[0], []).append(reference.entry(HERE.parent, place, name))
    return [(reference.module(HERE.parent, room), entries) for room, entries in found.items()]
