"""The static site: whole, linked, safe, the same bytes each time, and readable on a phone without fetching anything."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest
from PIL import Image

import ravl_core
from ravl_core import paths
from ravl_core.notebook_file import read_notebook, source
from ravl_core.site import main, write_site
from ravl_core.website import reference
from ravl_core.website.formulas import formula
from ravl_core.website.pages import site
from ravl_core.website.texts import Links, body, markdown, slug

NOTEBOOKS = sorted(paths.notebooks().glob("*.ipynb"))
PACKAGE = Path(ravl_core.__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "hr", "link", "col"}


class Page(HTMLParser):
    """The elements of a page, its texts, and its ids; elements that are not closed in turn are an error."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(content.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes), [*self.open]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [*self.open]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, text):
        self.texts.append(text)

    def of(self, *tags):
        return [attributes for name, attributes, _ in self.elements if name in tags]

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    @property
    def ids(self):
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def files():
    return site(paths.PROJECT)


@pytest.fixture(scope="module")
def pages(files):
    return {name: Page(content) for name, content in files.items() if name.endswith(".html")}


# ---- the site of the project ----


def test_there_is_a_page_for_everything(files, pages):
    assert {"index.html", "readme.html", "notebooks.html", "contributing.html", "api.html", "modules.html"} <= set(
        pages
    )
    assert {f"{path.stem}.html" for path in NOTEBOOKS} <= set(pages)
    assert "style.css" in files


def test_every_link_and_picture_leads_somewhere(files, pages):
    for name, page in pages.items():
        for target in [a["href"] for a in page.of("a", "link")] + [a["src"] for a in page.of("img")]:
            if target.startswith(("https://", "http://", "mailto:", "data:")):
                continue
            file, _, fragment = target.partition("#")
            there = normpath(join(dirname(name), file)) if file else name
            assert there in files, f"{name}: {target}"
            if fragment:
                assert fragment in pages[there].ids, f"{name}: {target}"


def test_links_between_the_projects_files_became_links_between_pages(pages):
    linked = {a["href"] for a in pages["readme.html"].of("a")}
    named = re.findall(r"\]\(notebooks/(\w+)\.ipynb", (paths.PROJECT / "README.md").read_text(encoding="utf-8"))
    assert named and {f"{name}.html" for name in named} <= linked
    assert not [a["href"] for page in pages.values() for a in page.of("a") if re.search(r"\.(ipynb|md)\b", a["href"])]


def test_nothing_is_fetched_and_nothing_is_run(files, pages):
    for name, page in pages.items():
        assert page.of("script", "iframe", "object", "embed", "style", "form", "base") == [], name
        assert [a["href"] for a in page.of("link")] == ["data:,", "style.css"]
        for tag, attributes, _ in page.elements:
            assert not [key for key in attributes if key.startswith("on") or key in ("srcset", "action")], (name, tag)
            assert "://" not in attributes.get("src", "") and "url(" not in attributes.get("style", ""), (name, tag)
        (policy,) = [a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'") and "script-src" not in policy
    css = files["style.css"].decode()
    assert css and not re.search(r"url\(|@import|://", css)


def test_pages_have_a_language_a_title_and_headings_with_anchors(files, pages):
    titles = [re.search(b"<title>(.+?)</title>", files[name])[1] for name in pages]
    assert len(set(titles)) == len(titles)
    for name, page in pages.items():
        assert page.of("html")[0]["lang"] == "en"
        assert any(a.get("name") == "viewport" and "width=device-width" in a["content"] for a in page.of("meta"))
        headings = page.of("h1", "h2", "h3", "h4")
        assert len(page.of("h1")) == 1 and all(heading.get("id") for heading in headings), name
        assert len(page.ids) == len(set(page.ids)), name


def test_pictures_have_words_and_tables_have_a_box_that_scrolls(pages):
    for name, page in pages.items():
        assert all(attributes.get("alt", "").strip() for attributes in page.of("img")), name
        assert all(a.get("aria-label") for a in page.of("svg")), name
        boxes = [a for a in page.of("div") if a.get("class") == "scroll"]
        assert len(boxes) == len(page.of("table")) and all(a["aria-label"] and a["tabindex"] == "0" for a in boxes)
        assert all(a.get("scope") in ("row", "col") for a in page.of("th")), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_page_holds_its_texts_code_and_outputs(files, pages, path):
    notebook, page = read_notebook(path), pages[f"{path.stem}.html"]
    shown = [a["src"] for a in page.of("img") if a["src"].startswith("pictures/")]
    kinds = [output.get("data", {}) for output in outputs(notebook)]
    stored = [data["image/png"] for data in kinds if "image/png" in data and "text/html" not in data]
    assert [files[name] for name in shown] == [base64.b64decode(picture) for picture in stored]
    for name in shown:
        Image.open(io.BytesIO(files[name])).verify()
    for cell in notebook.cells:
        if cell["cell_type"] == "code":
            assert " ".join(source(cell).removeprefix("# NBVAL_CHECK_OUTPUT\n").split()) in page.text
    streams = ["".join(output["text"]) for output in outputs(notebook) if output["output_type"] == "stream"]
    assert all(" ".join(text.split()) in page.text for text in streams)
    tables = sum("<table" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs(notebook))
    assert len(page.of("table")) >= tables


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_no_formula_stays_as_latex(pages):
    prose = {name: page for name, page in pages.items() if name not in ("api.html", "modules.html")}
    drawn = sum(len(page.of("svg")) for page in prose.values())
    assert drawn > 50
    for name, page in prose.items():
        texts = re.findall(r"\$\$|\\(?:frac|sum|text|mathrm|log|langle|begin)\b|\$[^$ ]*\\\w+[^$]*\$", page.text)
        assert texts == [], name


def test_the_front_page_shows_what_the_project_is(pages):
    page = pages["index.html"]
    assert "make reproduce" in page.text and "make test" in page.text
    assert any(a["src"].startswith("files/figures/") for a in page.of("img"))
    (table,) = [at for at, (tag, a, _) in enumerate(page.elements) if tag == "table" and a.get("class") == "status"]
    rows = [a["href"] for tag, a, around in page.elements[table:] if tag == "a" and around[-1] == "th"]
    assert rows == [f"{path.stem}.html" for path in NOTEBOOKS]
    shown = {a["src"] for a in page.of("img")}
    for path in NOTEBOOKS:
        pictures = {a["src"] for a in pages[f"{path.stem}.html"].of("img") if a["src"].startswith("pictures/")}
        assert pictures <= shown, path.stem


def test_the_status_is_that_of_the_committed_run(pages):
    text = pages["index.html"].text
    rows = (paths.PROJECT / "results" / "demo" / "status.csv").read_text().splitlines()[1:]
    passed = [row for row in rows if row.split(",")[1] in ("pass", "reused")]
    assert text.count("✓ passed") == len([row for row in passed if row.split(",")[0] in {p.stem for p in NOTEBOOKS}])


def test_every_public_name_has_its_signature_and_docstring(pages):
    page = pages["api.html"]
    assert set(ravl_core.__all__) <= set(page.ids)
    for name in ravl_core.__all__:
        summary = " ".join(getattr(ravl_core, name).__doc__.split("\n\n")[0].replace("`", "").split())
        assert summary in page.text, name
        assert re.search(rf"(def|class) {name}\b", page.text), name
    assert "influence_threshold: float = 0.25" in page.text


def test_every_module_has_its_entry(pages):
    modules = {path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py")}
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules}
    assert {name for name in names if "._" not in name} <= set(pages["modules.html"].ids)
    assert "def write_atomically(" in pages["modules.html"].text


def test_the_same_project_gives_the_same_bytes_whatever_lies_there(files, tmp_path):
    (tmp_path / "index.html").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    written = write_site(paths.PROJECT, tmp_path)
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in written} == files
    assert (tmp_path / "mine.txt").read_text() == "mine"


# ---- a made-up project ----

NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def project(folder, cells, readme="# Title\n\nWords.\n\n## Commands\n\n```bash\nmake reproduce\n```\n"):
    (folder / "notebooks").mkdir()
    (folder / "README.md").write_text(readme)
    content = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "notebooks" / "00_made_up.ipynb").write_text(json.dumps(content))
    return folder


def code(*stored):
    return {"cell_type": "code", "source": "show()", "metadata": {}, "execution_count": 1, "outputs": list(stored)}


def text_cell(text):
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def data(**kinds):
    return {"output_type": "display_data", "data": {name.replace("_", "/"): value for name, value in kinds.items()}}


def test_what_is_stored_in_a_notebook_stays_text(tmp_path):
    link, frame = "<a href='javascript:x()'>go</a>", "<iframe src='https://x.org'></iframe>"
    html = f"<div onclick='x()'>{NASTY}{link}<style>.rule</style>{frame}<b>bold</b></div>"
    stored = [
        {"output_type": "stream", "name": "stdout", "text": [NASTY, "\x1b[31mred\x1b[0m"]},
        data(text_plain=NASTY),
        data(text_html=html, text_plain="no"),
        {"output_type": "error", "ename": "E", "evalue": "e", "traceback": [NASTY]},
    ]
    cells = [text_cell(f"# {NASTY} Head"), code(*stored), {**code(), "source": f"x = '{NASTY}'"}]
    files = site(project(tmp_path, cells))
    for name in ("00_made_up.html", "index.html"):
        page = Page(files[name])
        assert page.of("script", "iframe") == [] and not [
            a for _, a, _ in page.elements if "onerror" in a or "onclick" in a
        ]
        assert not [a for a in page.of("a") if "javascript" in a["href"]] and page.of("img") == []
    page = Page(files["00_made_up.html"])
    assert page.text.count("<script>alert(1)</script>") == 4
    assert "red" in page.text and "\x1b" not in page.text and ".rule" not in page.text
    assert "go" in page.text and len(page.of("b")) == 2  # the site's own name is the other


def test_a_picture_without_heading_or_size_is_shown_too(tmp_path):
    svg = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    jpeg = base64.b64encode(b"not looked at").decode()
    files = site(project(tmp_path, [code(data(**{"image_svg+xml": svg}), data(image_jpeg=jpeg))]))
    page = Page(files["00_made_up.html"])
    assert [files[a["src"]] for a in page.of("img")] == [svg.encode(), b"not looked at"]
    assert {a["alt"] for a in page.of("img")} == {"Figure: this page"}
    assert "00_made_up" in Page(files["index.html"]).text and "not run" in Page(files["index.html"]).text


def test_the_status_table_says_what_failed_and_what_is_unfinished(tmp_path):
    folder = project(tmp_path, [text_cell("# A")])
    (folder / "results" / "demo").mkdir(parents=True)
    head = "notebook,status,seconds,artefacts_found,artefacts_expected,reason\n"
    for status, shown in (
        ("fail", "✗ failed 2 min 1 of 3"),
        ("unfinished", "unfinished – 1 of 3"),
        ("pass", "✓ passed 2 min"),
    ):
        (folder / "results" / "demo" / "status.csv").write_text(f"{head}00_made_up,{status},120.0,1,3,\n")
        assert shown in Page(site(folder)["index.html"]).text


@pytest.mark.parametrize(
    ("cells", "readme", "message"),
    [
        (
            [text_cell(r"$\nosuchthing x$")],
            None,
            r"00_made_up.ipynb: formula: expected LaTeX .* got '\\\\nosuchthing x'",
        ),
        ([], "# Title\n", "README.md: expected a section with the command `make reproduce`"),
    ],
)
def test_what_cannot_be_shown_is_named_before_anything_is_written(tmp_path, cells, readme, message):
    folder = project(tmp_path, cells, **({"readme": readme} if readme else {}))
    with pytest.raises(ValueError, match=message):
        write_site(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_command_line_that_cannot_be_met_ends_with_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ravl_core.paths.PROJECT", tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["--out", str(tmp_path / "out")])
    assert end.value.code == 2 and "NN_*.ipynb" in capsys.readouterr().err


# ---- its parts ----


def test_links_lead_to_pages_copies_or_nowhere(tmp_path):
    inside = tmp_path / "project"
    (inside / "results").mkdir(parents=True)
    for path in (inside / "results" / "a.csv", inside / "code.py", tmp_path / "outside.csv"):
        path.write_text("1")
    links = Links(inside, {"README.md": "readme.html", "notebooks/00_made_up.ipynb": "00_made_up.html"})
    answers = {
        "../README.md": "readme.html",
        "00_made_up.ipynb#The-Loss": "00_made_up.html#the-loss",
        "#Table-1": "#table-1",
        "../results/a.csv": "files/results/a.csv",
        "../code.py": None,
        "../../outside.csv": None,
        "absent.csv": None,
        "javascript:x()": None,
        "//x.org/a.png": None,
        "https://x.org/a": "https://x.org/a",
    }
    assert {target: links.resolved(target, "notebooks/x.ipynb") for target in answers} == answers
    assert links.copied == {"files/results/a.csv": b"1"}
    shown = body(markdown("[code](code.py) ![far](https://x.org/a.png)\n\n## A\n\n## A"), "README.md", links)
    assert "<a" not in shown.html.split("<h2")[0] and "far" in shown.html and shown.pictures == ()
    assert [heading.anchor for heading in shown.headings] == ["a", "a-1"]
    assert slug("Table 1: `a_b` – is it?") == "table-1-a_b--is-it"


def test_columns_of_words_are_aligned_to_the_left_and_figures_to_the_right():
    table = "| n | what | value |\n|---|---|---|\n| 1 | holds | 0.83 [0.78, 0.87] |\n| 2 | " + "long " * 9 + "| −0.1 |"
    html = body(markdown(table), "README.md", Links(Path("."), {})).html
    assert re.findall(r'<th class="([\w ]+)" scope="col">(\w+)', html) == [("text wide", "what")]
    assert html.count('<td class="text wide">') == 2 and html.count("<td>") == 4
    named = body(markdown("| name |\n|---|\n| 00_quickstart |"), "README.md", Links(Path("."), {})).html
    assert '<td class="text">00_quickstart' in named


def test_a_formula_is_drawn_where_the_line_is():
    small, tall = formula("x"), formula(r"\frac{x}{y}")
    for drawn in (small, tall):
        assert drawn.startswith('<svg role="img" aria-label="') and drawn.endswith('Z"/></svg>')
    assert -0.1 < float(re.search(r"vertical-align:(-?[\d.]+)em", small)[1]) <= 0
    assert float(re.search(r"vertical-align:(-?[\d.]+)em", tall)[1]) < -0.2
    assert "&lt;" in formula("x < y") and "x < y" not in formula("x < y")
    assert formula(r"H \ge 1").split("style")[1] == formula(r"H \geq 1").split("style")[1]


def test_a_displayed_formula_falls_into_parts():
    assert formula(r"a = b, \qquad c = d", display=True).count("<svg") == 2
    assert formula(r"\begin{aligned} a &= b \\ c &= d \end{aligned}", display=True).count("<svg") == 2
    html = markdown("$$\n\\frac{a}{b}\n$$\n\nand \\$5 or $x$\n\n\\begin{align}\na\n\\end{align}")
    assert html.count('<span class="formula">') == 2 and html.count("<svg") == 3 and "$5" in html


def test_docstrings_become_lists_paragraphs_and_examples():
    listed = "a : float\n    How ``b`` is.\nc : what it is,\n    and more."
    text = f"Do <it>.\n\n    x = 1\n\nParameters\n----------\n{listed}\n\nAfter."
    html = reference.docstring_html(text)
    assert html.startswith("<p>Do &lt;it&gt;.</p>") and "<pre>    x = 1</pre>" in html
    assert "<dt><code>a</code></dt><dd>float. How <code>b</code> is.</dd>" in html
    assert "<dt><code>c</code></dt><dd>what it is, and more.</dd>" in html and "<p>After.</p>" in html


def test_a_signature_is_what_stands_in_the_source():
    assert reference.entry(PACKAGE, "mitigation", "finetune").signature.startswith(
        "def finetune(\n    initial_vlm: VLM,"
    )
    setting = reference.entry(PACKAGE, "settings", "Setting")
    assert "attribute: int = 9  # class index" in setting.signature and "def " not in setting.signature
    assert [part.name for part in setting.parts] == ["arguments"]
    with pytest.raises(ValueError, match="expected a function or class of ravl_core.settings, got 'nothing'"):
        reference.entry(PACKAGE, "settings", "nothing")


# ---- in a browser ----

MEASURE = """
const look = frame => {
  const page = frame.contentDocument, root = page.documentElement, images = [...page.images];
  page.querySelectorAll("details").forEach(one => one.open = true);
  return [root.scrollWidth - root.clientWidth, root.clientWidth, images.filter(i => i.naturalWidth == 0).length,
    getComputedStyle(page.querySelector("h1")).lineHeight == "normal"];
};
addEventListener("load", () => {
  const frames = [...document.querySelectorAll("iframe")];
  frames.forEach(frame => [...frame.contentDocument.images].forEach(image => image.loading = "eager"));
  setTimeout(() => document.title = JSON.stringify(frames.map(look)), 1500);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_every_page_without_errors_and_without_scrolling_sideways(files, tmp_path, width):
    for name, content in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_bytes(content)
    names = [name for name in files if name.endswith(".html")]
    # in frames, as a browser's own window is never narrower than 500 pixels
    frame = '<iframe style="width: {}px; height: 900px; border: 0" src="site/{}"></iframe>'
    frames = "".join(frame.format(width, name) for name in names)
    (tmp_path / "all.html").write_text(
        f"<!DOCTYPE html><meta charset=utf-8><title></title><script>{MEASURE}</script>{frames}"
    )
    options = "--headless=new --no-sandbox --disable-gpu --enable-logging=stderr --virtual-time-budget=6000 --dump-dom"
    options += " --allow-file-access-from-files"  # to look into the frames
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path / 'user'}", str(tmp_path / "all.html")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr
    measured = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    for name, (beyond, across, missing, unstyled) in zip(names, measured, strict=True):
        assert beyond <= 0 and 0 < across <= width, f"{name}: {beyond} pixels wider than the window"
        assert missing == 0 and not unstyled, name
