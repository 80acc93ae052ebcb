"""An executed notebook as the body of its page: texts, coloured code, and the outputs that are stored in it."""

import base64
import re
import struct
from html import escape

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ravl_core.notebook_file import Notebook, source
from ravl_core.website.texts import Body, Links, body, markdown

PICTURES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of a terminal
PIXELS_PER_PIXEL = 1.25  # of the pictures in notebooks, which are drawn for dense screens


def coloured(code: str) -> str:
    """Python code as HTML, with a class for each kind of word."""
    return highlight(code, PythonLexer(), HtmlFormatter())


def notebook_body(notebook: Notebook, links: Links) -> tuple[Body, dict[str, bytes]]:
    """The body of a notebook's page, and its pictures by their place on the site.

    Raises ValueError, with the notebook's name, for a formula that cannot be drawn.
    """
    pictures: dict[str, bytes] = {}
    try:
        html = "\n".join(_cell(cell, notebook.name, pictures) for cell in notebook.cells)
    except ValueError as error:
        raise ValueError(f"{notebook.path.name}: {error}") from error
    return body(html, f"notebooks/{notebook.path.name}", links), pictures


def _cell(cell: dict, name: str, pictures: dict[str, bytes]) -> str:
    if cell["cell_type"] == "markdown":
        return markdown(source(cell))
    if cell["cell_type"] == "raw" or not source(cell).strip():
        return ""
    outputs = "\n".join(_output(output, name, pictures) for output in cell["outputs"])
    code = source(cell).removeprefix("# NBVAL_CHECK_OUTPUT\n")  # speaks to the tests, not to readers
    return f'<div class="cell">\n{coloured(code)}{outputs}</div>'


def _output(output: dict, name: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return _text(_joined(output["text"]))
    if output["output_type"] == "error":
        return _text("\n".join(output["traceback"]))
    data = output["data"]
    if "text/html" in data:
        return f'<div class="output">{_joined(data["text/html"])}</div>'
    if "text/markdown" in data:
        return f'<div class="output">{markdown(_joined(data["text/markdown"]))}</div>'
    for kind, ending in PICTURES.items():
        if kind in data:
            stored = _joined(data[kind])
            return _figure(stored.encode() if ending == "svg" else base64.b64decode(stored), name, ending, pictures)
    return _text(_joined(data.get("text/plain", "")))


def _figure(content: bytes, name: str, ending: str, pictures: dict[str, bytes]) -> str:
    place = f"pictures/{name}_{len(pictures) + 1}.{ending}"
    pictures[place] = content
    size = ""
    if ending == "png":  # so that the page does not jump while it loads
        width, height = (round(side / PIXELS_PER_PIXEL) for side in struct.unpack(">II", content[16:24]))
        size = f' width="{width}" height="{height}"'
    return f'<figure class="picture"><img src="{place}"{size}></figure>'


def _text(text: str) -> str:
    return f'<pre class="output">{escape(ANSI.sub("", text))}</pre>'


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)
