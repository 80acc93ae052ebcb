"""Markdown and stored HTML as the body of a page: safe elements, headings with anchors, links that lead somewhere."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, NavigableString, Tag
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ravl_core.website.formulas import formula

# Other elements and attributes are taken away; of an element the text stays.
ELEMENTS = set(
    "a abbr b blockquote br caption code dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6 hr i img kbd "
    "li ol p path pre s small span strong sub summary sup svg table tbody td tfoot th thead tr ul".split()
)
ATTRIBUTES = set(
    "alt aria-label class colspan d height href id loading open role rowspan src title viewbox width".split()
)
COPIED = {".cff", ".csv", ".pdf", ".png", ".svg", ""}  # files that a page may link to; "" for LICENSE
HEADING = re.compile("h[1-6]")
FIGURE = re.compile(
    r"[-+−±–(\[<≥≤.]?\s*(\d+(?![\d_])|∞)|nan$|[-–—]?$", re.I
)  # how a cell begins that holds a number, or nothing


@dataclass(frozen=True)
class Heading:
    """A heading of a page."""

    level: int
    anchor: str
    text: str


@dataclass(frozen=True)
class Picture:
    """A picture of a page, and the heading it stands under."""

    source: str
    alt: str
    anchor: str


@dataclass(frozen=True)
class Body:
    """The body of a page, and what can be linked to in it."""

    html: str
    headings: tuple[Heading, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Links:
    """Where links between files of the project lead on the site."""

    project: Path
    pages: dict[str, str]  # file of the project → its page
    copied: dict[str, bytes] = field(default_factory=dict)  # file of the site → content, filled as links ask for it

    def resolved(self, target: str, file: str) -> str | None:
        """The address for a link in a file of the project (`notebooks/00_quickstart.ipynb`); None where it has none."""
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return target if parts.scheme in ("http", "https", "mailto") else None
        fragment = f"#{slug(unquote(parts.fragment))}" if parts.fragment else ""
        if not parts.path:
            return fragment or None
        path = normpath(join(dirname(file), unquote(parts.path)))
        return self.pages[path] + fragment if path in self.pages else self.copy_of(path)

    def copy_of(self, path: str) -> str | None:
        """The address of the copy of a table, a figure or the licence; None for other files."""
        source = (self.project / path).resolve()
        if not source.is_relative_to(self.project.resolve()) or source.suffix not in COPIED or not source.is_file():
            return None
        self.copied[f"files/{path}"] = source.read_bytes()
        return f"files/{path}"


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return formula(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return formula(body, display=True)


def markdown(text: str) -> str:
    """Markdown as HTML, formulas as SVG, code blocks coloured. Raises ValueError for a formula that cannot be drawn."""
    return MarkdownWithMath(_Renderer(escape=False, exclude_anchor_links=True)).render(text)


def body(html: str, file: str, links: Links) -> Body:
    """HTML made of a file of the project as the body of its page."""
    soup = BeautifulSoup(html, "html.parser")
    _keep_what_is_safe(soup)
    headings: list[Heading] = []
    pictures: list[Picture] = []
    for tag in soup.find_all(["a", "img", "table", HEADING]):
        above = headings[-1] if headings else Heading(1, "", "this page")
        if tag.name == "a":
            _link(tag, links.resolved(tag.get("href", ""), file))
        elif tag.name == "img":
            pictures += _picture(tag, file, links, above)
        elif tag.name == "table":
            _table(tag, soup, above)
        else:
            headings.append(_heading(tag, soup, {heading.anchor for heading in headings}))
    return Body(str(soup), tuple(headings), tuple(pictures))


def slug(text: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def _keep_what_is_safe(soup: BeautifulSoup) -> None:
    for text in soup.find_all(string=lambda text: type(text) is not NavigableString):
        text.extract()  # comments, scripts and styles are texts of other types
    for tag in soup.find_all(True):
        allowed = ATTRIBUTES | ({"style"} if tag.name == "svg" else set())  # where a formula stands on the line
        tag.attrs = {name: value for name, value in tag.attrs.items() if name in allowed}
        if tag.name not in ELEMENTS:
            tag.unwrap()


def _link(tag: Tag, address: str | None) -> None:
    if address is None:
        tag.unwrap()  # a file that the site does not hold: its name remains
    else:
        tag["href"] = address


def _picture(tag: Tag, file: str, links: Links, above: Heading) -> list[Picture]:
    """Point a picture to its file; one that would have to be fetched leaves only its words."""
    source = tag.get("src", "")
    if not source.startswith("pictures/"):  # those of a notebook's outputs are there already
        address = links.resolved(source, file)
        if address is None or urlsplit(address).scheme:
            tag.replace_with(tag.get("alt", ""))
            return []
        tag["src"] = address
    tag["alt"] = tag.get("alt") or f"Figure: {above.text}"
    tag["loading"] = "lazy"
    return [Picture(tag["src"], tag["alt"], above.anchor)]


def _heading(tag: Tag, soup: BeautifulSoup, taken: set[str]) -> Heading:
    text = " ".join(tag.get_text().split())
    anchor = first = slug(text) or "section"
    n = 0
    while anchor in taken:
        n += 1
        anchor = f"{first}-{n}"
    tag["id"] = anchor
    link = soup.new_tag("a", attrs={"class": "anchor", "href": f"#{anchor}", "aria-label": f"Link to “{text}”"})
    link.string = "#"
    tag.append(link)
    return Heading(int(tag.name[1]), anchor, text)


def _table(tag: Tag, soup: BeautifulSoup, above: Heading) -> None:
    """Put a table in a box that scrolls, and align columns of words to the left."""
    label = f"Table: {above.text}"
    tag.wrap(soup.new_tag("div", attrs={"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label}))
    rows = [row.find_all(["th", "td"]) for row in tag.find_all("tr")]
    inside = [row for row in rows if row and row[0].find_parent("thead") is None]
    for row in rows:
        for cell in row:
            if cell.name == "th":
                cell["scope"] = "row" if row in inside else "col"
    for column in range(max(map(len, inside), default=0)):
        cells = [row[column] for row in inside if column < len(row)]
        texts = [cell.get_text().strip() for cell in cells]
        words = sum(not FIGURE.match(text) for text in texts)
        if 2 * words > len(texts):
            kind = "text wide" if max(map(len, texts)) > 40 else "text"
            for cell in cells + [row[column] for row in rows if row not in inside and len(row) > column]:
                cell["class"] = kind
