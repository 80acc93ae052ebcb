"""The page of an audit: whole, self-contained, safe with any name, readable on a phone, and true to the audit."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from made_up_audit import NOTES, made_up_audit, mask_of, with_first_finding
from PIL import Image

from ravl_core.audits.report import MOST_FILES, MOST_ROWS, N_WITH, N_WITHOUT, SIDE, report_page, write_report
from ravl_core.domains.own_images import Note

VOID = {"meta", "img", "br", "line", "circle"}
CELLS = {"td", "th", "dt", "dd"}  # stand apart, though no space in the source says so
NASTY = ("<script>alert(1)</script>", "\"><img src='x' onerror=alert(1)>", "{{ 7 * 7 }} & ‘nine’")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REPAIRED = SimpleNamespace(
    sentences=("Worst-group accuracy 12 % → 58 %.",),
    table=pandas.DataFrame(
        {
            "class": ["<b>seven</b>"], "with_finding": [np.True_], "n": [30],
            "accuracy_before": [0.12], "accuracy_before_low": [0.04], "accuracy_before_high": [0.2],
            "change": [0.46], "change_low": [0.38], "change_high": [np.nan],
        }
    ),
)  # fmt: skip


class Page(HTMLParser):
    """The elements of a page, each with its attributes and those around it; its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attributes), [*self.open]))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), [*self.open]))

    def handle_endtag(self, tag):
        assert tag not in VOID
        assert self.open.pop()[0] == tag, f"</{tag}> at {self.getpos()}"
        self.texts.append(" " * (tag in CELLS))

    def handle_data(self, text):
        if self.open and self.open[-1][0] != "style":
            self.texts.append(text)

    def of(self, tag):
        return [(attributes, around) for name, attributes, around in self.elements if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(scope="module")
def audit():
    return made_up_audit(notes=NOTES)


@pytest.fixture(scope="module")
def source(audit):
    return report_page(audit)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def nasty_audit():
    names = [f"{NASTY[i % 3]} {i}.png" for i in range(30)]
    audit = made_up_audit(class_names=NASTY, names=names, notes=[Note(NASTY[1], NASTY[0], NASTY[1], False)])
    audit = replace(audit, model=NASTY[0], options={NASTY[0]: NASTY[1], "templates": NASTY})
    table = pandas.DataFrame({"column": [NASTY[1]], "cramers_v": [0.3]})
    return with_first_finding(audit, words=((NASTY[0], 1.0),), associations=table, masks={NASTY[0]: mask_of(2, "blur")})


PAGES = {
    "two findings": lambda: (made_up_audit(notes=NOTES), None),
    "a repair": lambda: (made_up_audit(), REPAIRED),
    "no finding": lambda: (made_up_audit(0), None),
    "nasty names": lambda: (nasty_audit(), REPAIRED),
    "many classes": lambda: (made_up_audit(class_names=[f"class {'long ' * 9}{i}" for i in range(30)], n=60), None),
    "unbroken names": lambda: (made_up_audit(class_names=["x" * 90, "y" * 90], names=["z" * 200] * 30), None),
}


@pytest.fixture(scope="module", params=PAGES)
def any_source(request):
    return report_page(*PAGES[request.param]())


# ---- the page as a page ----


def test_elements_are_nested_and_every_id_is_there_once(any_source):
    page = Page(any_source)
    assert page.open == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and {"summary", "regions", "images", "limits"} <= set(ids)
    assert {a["href"] for a, _ in page.of("a")} <= {f"#{name}" for name in ids}


def test_nothing_is_fetched_and_nothing_is_run(any_source):
    page = Page(any_source)
    assert page.of("script") == page.of("link") == page.of("iframe") == page.of("object") == []
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "action", "data")], tag
        assert attributes.get("src", "data:").startswith("data:"), tag
        assert attributes.get("href", "#").startswith("#"), tag
    css = "".join(re.findall(r"<style>(.*?)</style>", any_source, re.DOTALL))
    css += "".join(attributes.get("style", "") for _, attributes, _ in page.elements)
    assert css and "url(" not in css and "@import" not in css and "://" not in css
    (policy,) = [a["content"] for a, _ in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "script-src" not in policy


def test_a_phone_and_a_screen_reader_are_told_what_they_need(any_source):
    page = Page(any_source)
    ((attributes, _),) = page.of("html")
    assert attributes["lang"] == "en"
    assert any(a.get("name") == "viewport" and "width=device-width" in a["content"] for a, _ in page.of("meta"))
    levels = [int(tag[1]) for tag, *_ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and max(np.diff(levels)) <= 1
    for _, around in page.of("table"):
        box = dict(around[-1][1])
        assert box["class"] == "scroll" and box["aria-label"] and box["tabindex"] == "0"
    assert all(attributes.get("scope") in ("col", "row", "colgroup") for attributes, _ in page.of("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a, _ in page.of("svg"))


def test_rows_have_as_many_cells_as_the_table_has_columns(any_source):
    for table in re.findall(r"<table>.*?</table>", any_source, re.DOTALL):
        head, body = table.split("</thead>")
        first, *_ = re.findall(r"<tr>(.*?)</tr>", head, re.DOTALL)
        columns = sum(int(re.search(r'colspan="(\d+)"', f"{th}")[1]) if "colspan" in th else 1
                      for th in re.findall(r"<th[^>]*>", first))  # fmt: skip
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
            assert len(re.findall(r"<t[hd][ >]", row)) == columns


def test_pictures_are_small_jpegs_with_words_for_those_who_cannot_see_them(page, audit):
    pictures = page.of("img")
    assert len(pictures) == 2 * (N_WITH + N_WITHOUT) <= 20
    for attributes, _ in pictures:
        assert attributes["alt"].startswith("A ‘")
        kind, content = attributes["src"].split(",")
        picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert kind == "data:image/jpeg;base64" and picture.format == "JPEG"
        picture.load()
        assert max(picture.size) <= SIDE


def test_large_images_are_sent_small_and_five_findings_stay_below_the_limit():
    audit = made_up_audit(5, n=40)
    photos = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), dtype=np.uint8)
    large = np.stack([np.asarray(Image.fromarray(photo).resize((300, 224))) for photo in photos])
    audit = replace(audit, dataset=replace(audit.dataset, images=large))
    source = report_page(audit)
    content = Page(source).of("img")[0][0]["src"].split(",")[1]
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (200, 149)
    assert len(source.encode()) < 1_500_000


def test_the_same_audit_gives_the_same_bytes_and_a_failure_leaves_the_old_page(audit, source, tmp_path, monkeypatch):
    path = write_report(audit, tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html" and path.read_text(encoding="utf-8") == source
    monkeypatch.setattr("ravl_core.atomic.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_report(made_up_audit(0), path)
    assert path.read_text(encoding="utf-8") == source
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_names_that_are_html_stay_text():
    source = report_page(nasty_audit(), REPAIRED)
    page = Page(source)
    assert "<script" not in source and "<b>seven" not in source
    assert all(set(attributes) == {"src", "alt"} for attributes, _ in page.of("img"))
    assert all(name in page.text for name in NASTY) and "<b>seven</b>" in page.text


def test_a_files_name_that_is_no_utf8_is_shown_not_fatal(tmp_path):
    path = write_report(made_up_audit(names=["\udce9.png"] * 30), tmp_path / "page.html")
    assert r"\udce9.png" in path.read_text(encoding="utf-8")


# ---- what it says ----


def test_every_sentence_leads_to_its_finding(audit, page):
    assert "In one sentence each" in page.text
    for number, (sentence, finding) in enumerate(zip(audit.sentences, audit.findings, strict=True), start=1):
        assert f"{sentence} See finding {number}" in page.text
        assert page.text.count(finding.sentence) == 2  # in the list, and at the head of its finding
        assert any(attributes.get("id") == f"finding-{number}" for attributes, _ in page.of("section"))


def test_the_gallery_shows_other_images_each_and_outlines_the_region(audit):
    first = audit.findings[0]
    audit = replace(audit, findings=(first,))
    page = Page(report_page(audit))
    index, boxes = audit.dataset.image_index, audit.dataset.boxes
    shown = []  # the first region of each image
    for region in first.regions:
        if index[region] not in index[shown]:
            shown.append(region)
    frames = [a["style"] for a, _ in page.of("span") if a.get("class") == "box"]
    assert len(frames) == N_WITH < len(shown)
    for region, style in zip(shown, frames, strict=False):
        x1, y1, x2, y2 = 100 * boxes[region] / 64
        assert style == f"left:{x1:.2f}%;top:{y1:.2f}%;width:{x2 - x1:.2f}%;height:{y2 - y1:.2f}%"
    names = [audit.images.names[index[region]] for region in shown[:N_WITH]]
    assert re.findall(r"<small>(photo \d+\.png)</small>", report_page(audit))[:N_WITH] == names


def test_beside_it_are_images_of_other_classes_without_it_of_each_class_in_turn(audit):
    first = audit.findings[0]
    source = report_page(replace(audit, findings=(first,)))
    names = re.findall(r"<small>(photo \d+\.png)</small>", source)[N_WITH:]
    images = [audit.images.names.index(name) for name in names]
    holding = set(audit.dataset.image_index[first.regions])
    assert len(images) == N_WITHOUT and not holding & set(images)
    labels = audit.dataset.labels[images].tolist()
    assert first.attribute not in labels and labels == [0, 1, 0, 1]


def test_captions_say_the_class_and_what_it_was_taken_for(audit, source):
    captions = re.findall(r"<figcaption><b>(\w+)</b><br>(.*?)<br><small>(.*?)</small>", source)
    names = audit.dataset.class_names
    for label, answer, name in captions:
        image = audit.images.names.index(name)
        prediction = audit.evaluation.predictions[image]
        right = prediction == audit.dataset.labels[image]
        assert label == names[audit.dataset.labels[image]]
        assert answer == ("✓ recognised" if right else f'<span class="wrong">✗ taken for {names[prediction]}</span>')


def test_no_image_without_it_is_said(audit):
    everywhere = np.arange(len(audit.dataset.boxes))
    assert "every image of the other classes holds" in report_page(with_first_finding(audit, regions=everywhere))


def test_the_class_table_and_the_chart_hold_the_findings_numbers(audit, page):
    row = audit.findings[0].table.iloc[0]

    def share(name):
        return f"{100 * row[name]:.0f} % [{100 * row[f'{name}_low']:.0f}, {100 * row[f'{name}_high']:.0f}]"

    cells = f"{row['class']} {row.n_in} {row.n_out} {share('accuracy_in')} {share('accuracy_out')}"
    assert cells in page.text
    lines = [(a["x1"], a["x2"]) for a, around in page.of("line") if around[-1][1].get("class") == "in"]
    circles = [attributes["cx"] for attributes, around in page.of("circle") if around[-1][1]["class"] == "in"]
    at = circles.index(f"{100 * row.accuracy_in:.2f}%")
    assert lines[at] == (f"{100 * row.accuracy_in_low:.2f}%", f"{100 * row.accuracy_in_high:.2f}%")
    assert len(page.of("circle")) == 2 * (3 + 2)  # of one class no image is without it


def test_the_figures_come_with_what_they_mean(audit, page):
    assert "‘nine’ answered more often, points +31.0 [22.0, 40.0]" in page.text
    shares = "62 % with it (n = 40), 31 % of the same classes without (n = 35)"
    for words in ("p = 0.001", shares, "4.50 times its pull"):
        assert words in page.text
    assert "Not defined: no misclassified image" in page.text
    known = Page(report_page(with_first_finding(audit, influence=0.4, influence_images=1))).text
    assert "Of 1 misclassified image with it" in known


def test_the_mask_check_is_said_in_words(audit, page):
    words = (
        "Hiding it lowers the score of ‘nine’ by 30.0 [26.0, 34.0] points in 12 images of other classes. "
        "Against hiding other regions of similar size in 11 of these images, that is a difference of "
        "−28.0 [−32.0, −24.0] points. So the regions themselves move the answers, by 2 of 2 ways of hiding them"
    )
    assert words in page.text


def test_a_mask_that_shows_nothing_is_not_called_a_cause(audit):
    masks = {"blur": mask_of(2, "blur", lowers=0.01), "mean": mask_of(2, "mean", lowers=-0.2)}
    text = Page(report_page(with_first_finding(audit, masks=masks))).text.split("Finding 2")[0]
    assert "It is not shown that hiding these regions" in text and "So the regions themselves" not in text
    raised = Page(report_page(with_first_finding(audit, masks={"mean": masks["mean"]}))).text
    assert "Hiding it raises the score of ‘nine’ by 20.0 [16.0, 24.0] points" in raised
    none = {"mean": mask_of(2, "mean", lowers=-0.0001)}
    assert "by 0.0 [−4.0, 4.0] points" in Page(report_page(with_first_finding(audit, masks=none))).text
    assert "Not asked in this audit." in report_page(with_first_finding(audit, masks={}))


def test_stability_words_and_columns_are_there_where_the_audit_has_them(audit, page):
    for words in ("Found again in 2 of 3 variations", "mark (1.84), arrow (1.20).", "What else do these images share?"):
        assert words in page.text
    bare = replace(audit, findings=audit.findings[:1])
    bare = Page(report_page(with_first_finding(bare, stability=None, words=(), associations=None))).text
    for heading in ("Is it found again?", "What could it be called?", "What else do these images share?"):
        assert heading in page.text and heading not in bare


def test_no_finding_says_what_that_means_and_what_would_have_been_found():
    text = Page(report_page(made_up_audit(0))).text
    assert "proposed 0 clusters of 5" in text and "Finding 1" not in text
    assert "a feature in 10 % of the images (n = 3) would not have been found, however strong." in text
    assert "a feature in 50 % of the images (n = 15) would have been found if" in text and "23 points more" in text


def test_files_that_were_converted_or_left_out_are_counted_with_the_first_few_names(page):
    text = page.text
    assert "16-bit converted 2 grey.tif (shifted by 8 bits); deep.tif (shifted by 4 bits)" in text
    assert "truncated left out 1 half.jpg (image file is truncated)" in text
    many = made_up_audit(notes=[Note(f"{i}.jpg", "huge", "too large", False) for i in range(MOST_FILES + 1)])
    text = Page(report_page(many)).text
    assert f"{MOST_FILES - 1}.jpg (too large) …" in text and f"{MOST_FILES}.jpg" not in text
    assert "Every file was read as it is." in report_page(made_up_audit())


def test_regions_options_and_versions_are_told(page):
    for words in ("120 regions looked at", "3 × 3 grid", "80 % of the 10 boxes", "a photo of a {} · {}", "torch"):
        assert words in page.text


def test_a_repair_has_its_own_section(audit, page):
    text = Page(report_page(audit, REPAIRED)).text
    assert "Before and after the repair Worst-group accuracy 12 % → 58 %." in text
    assert "class with finding n accuracy before change" in text
    assert "yes 30 12 % [4, 20] +46.0 [38.0, nan]" in text
    assert "Before and after" not in page.text


def test_of_many_classes_the_chart_shows_those_that_differ_most_and_the_table_all():
    audit = made_up_audit(1, class_names=[f"class {i}" for i in range(30)], n=60)
    page, table = Page(report_page(audit)), audit.findings[0].table
    charted = [a["aria-label"].split(":")[0] for a, _ in page.of("svg") if "aria-label" in a]
    largest = table.loc[table.difference.abs().nlargest(MOST_ROWS).index]
    assert charted == list(largest.sort_values("difference", ascending=False)["class"])
    assert f"the {MOST_ROWS} classes that differ most" in page.text
    assert all(f"class {i} " in page.text for i in range(30))


# ---- in a browser ----

MEASURE = """
const measure = frame => {
  const page = frame.contentDocument, root = page.documentElement, images = [...page.images];
  page.querySelectorAll("details").forEach(one => one.open = true);
  return [root.scrollWidth - root.clientWidth, root.clientWidth, images.length,
    images.filter(image => image.naturalWidth > 0).length, page.scripts.length];
};
addEventListener("load", () => setTimeout(() => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(measure));
}, 50));
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_it_at_the_width_of_a_phone_without_errors(tmp_path):
    names = ("two findings", "nasty names", "many classes", "unbroken names")
    # in frames, as a browser's own window is never narrower than 500 pixels
    frame = '<iframe style="width: 400px; height: 900px; border: 0" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(html.escape(report_page(*PAGES[name]()))) for name in names)
    page = f"<!DOCTYPE html><meta charset=utf-8><title></title><script>{MEASURE}</script>{frames}"
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    options = "--headless=new --no-sandbox --disable-gpu --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    command = [CHROMIUM, *options.split(), f"--user-data-dir={tmp_path}", str(tmp_path / "page.html")]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr
    measured = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    for name, (beyond, width, images, loaded, scripts) in zip(names, measured, strict=True):
        assert images == loaded > 0 and scripts == 0, name
        assert beyond <= 0 and 0 < width <= 400, f"{name}: {beyond} pixels wider than the window"
