"""An audit as a page: one HTML file that opens anywhere, fetches nothing and runs nothing."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ravl_core.atomic import write_atomically
from ravl_core.audits.result import Audit, AuditFinding
from ravl_core.checks import made
from ravl_core.records import package_versions

if TYPE_CHECKING:
    import pandas

SIDE = 200  # most pixels of a picture's side: of a hundred kilobytes, a finding's ten pictures take most
QUALITY = 80  # of their JPEG
N_WITH, N_WITHOUT = 6, 4  # pictures of a finding
MOST_ROWS = 12  # of a chart: the classes that differ most
MOST_FILES = 5  # named of each kind of note


def write_report(audit: Audit, path: Path | str, repaired: Any = None) -> Path:
    """Write an audit as one HTML page, whole or not at all; the same audit gives the same bytes.

    Parameters
    ----------
    audit : Audit
    path : the file to write; its folder is made, a file that is there is replaced.
    repaired : what a repair of one of the findings gave, for a section *Before and after*: an object with
        `sentences`, strings, and `table`, a data frame in which a column `x` may have ends `x_low` and `x_high`.

    Returns
    -------
    Path
        Of the page. Whatever comes from the data (names of classes, files, columns) is escaped in it.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    # File names need not be UTF-8; a byte that is none is shown as \udc80 … \udcff.
    return write_atomically(path, report_page(audit, repaired).encode(errors="backslashreplace"))


def report_page(audit: Audit, repaired: Any = None) -> str:
    """The page that `write_report` writes, as text."""
    made("audit", audit, "an audit, see ravl_core.audit", "evaluation")
    if repaired is not None:
        made("repaired", repaired, "what ravl_core.repair gave", "table")
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": _share, "points": _points, "figure": _figure, "percent": _percent}
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    return template.render(
        audit=audit,
        findings=[_shown(audit, finding) for finding in audit.findings],
        classes=_classes(audit),
        notes=_notes(audit),
        options=_options(audit),
        versions=package_versions(),
        sentences=getattr(repaired, "sentences", ()),
        table=None if repaired is None else _with_ends(repaired.table),
    )


def _share(value: float, low: float | None = None, high: float | None = None) -> str:
    """A share 0 … 1 in percent, with its interval; a dash for NaN."""
    return _text(value, low, high, 0, "", "{} %")


def _points(value: float, low: float | None = None, high: float | None = None, sign: str = "+") -> str:
    """A difference of shares in points, with its interval; a dash for NaN."""
    return _text(value, low, high, 1, sign, "{}")


def _text(value: float, low: float | None, high: float | None, digits: int, sign: str, unit: str) -> str:
    """In a cell of a table the interval stands below, on a line of its own; elsewhere a new line is a space."""
    if np.isnan(value):
        return "–"
    value, low, high = (None if end is None else round(100 * end, digits) + 0.0 for end in (value, low, high))  # no -0
    ends = "" if low is None else f"\n[{low:.{digits}f}, {high:.{digits}f}]"
    return (unit.format(f"{value:{sign}.{digits}f}") + ends).replace(" ", "\N{NO-BREAK SPACE}").replace("-", "−")


def _figure(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "–"


def _percent(value: float) -> str:
    """A place along a picture or a chart, for CSS and SVG."""
    return f"{100 * float(value):.2f}%"


def _shown(audit: Audit, finding: AuditFinding) -> dict:
    """What the page shows of a finding beside its own figures."""
    holding, first = np.unique(audit.dataset.image_index[finding.regions], return_index=True)
    others = np.setdiff1d(np.flatnonzero(audit.dataset.labels != finding.attribute), holding)
    table = finding.table
    differ = table.difference.abs().sort_values(ascending=False, kind="stable").index[:MOST_ROWS]
    return {
        "is": finding,
        "pictures_with": [_picture(audit, finding.regions[at]) for at in np.sort(first)[:N_WITH]],
        "pictures_without": [_picture(audit, image=image) for image in _in_turn(audit, others)[:N_WITHOUT]],
        "chart": table.loc[differ].sort_values("difference", ascending=False, kind="stable").to_dict("records"),
        "classes": table.to_dict("records"),
        "kinds": _found_again(finding.stability),
        "takes_down": [fill for fill, mask in finding.masks.items() if mask.others.beyond_control.probability.high < 0],
    }


def _in_turn(audit: Audit, images: np.ndarray) -> np.ndarray:
    """Some images, those of all classes in turn."""
    import pandas

    labels = pandas.Series(audit.dataset.labels[images])
    return images[np.argsort(labels.groupby(labels).cumcount().to_numpy(), kind="stable")]


def _picture(audit: Audit, region: int | None = None, image: int | None = None) -> dict:
    """An image small enough to send, and where the region lies in it, as shares of its sides."""
    from PIL import Image

    image = int(image if region is None else audit.dataset.image_index[region])
    pixels = audit.dataset.images[image]
    small, content = Image.fromarray(pixels), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(content, "JPEG", quality=QUALITY)
    label, prediction = (int(answers[image]) for answers in (audit.dataset.labels, audit.evaluation.predictions))
    names = audit.dataset.class_names
    height, width = pixels.shape[:2]
    return {
        "source": "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode(),
        "label": names[label],
        "taken_for": None if prediction == label else names[prediction],
        "name": audit.images.names[image],
        "box": None if region is None else audit.dataset.boxes[region] / [width, height, width, height],
    }


def _found_again(stability: pandas.DataFrame | None) -> list[dict]:
    """One row for each kind of variation: how many there are, and how many found the same again."""
    if stability is None:
        return []
    kinds = stability.groupby("kind", sort=False)
    table = kinds.agg(n=("found_again", "size"), again=("found_again", "sum"), overlap=("overlap", "median"))
    return table.reset_index().to_dict("records")


def _classes(audit: Audit) -> list[dict]:
    right = audit.evaluation.predictions == audit.dataset.labels
    own = [right[audit.dataset.labels == label] for label in range(audit.dataset.n_classes)]
    return [
        {"name": name, "n": len(part), "accuracy": part.mean() if len(part) else np.nan}
        for name, part in zip(audit.dataset.class_names, own, strict=True)
    ]


def _notes(audit: Audit) -> list[dict]:
    """Notes by what was done and why, in their own order, each with the first few files."""
    found: dict[tuple[bool, str], list] = {}
    for note in audit.images.notes:
        found.setdefault((note.kept, note.kind), []).append(note)
    return [
        {"kept": kept, "kind": kind, "n": sum(note.n_files for note in notes), "first": notes[:MOST_FILES]}
        for (kept, kind), notes in found.items()
    ]


def _options(audit: Audit) -> dict[str, str]:
    return {
        name: " · ".join(map(str, value)) or "–" if isinstance(value, tuple | list) else str(value)
        for name, value in audit.options.items()
    }


def _with_ends(table: pandas.DataFrame) -> dict:
    """Names of columns and rows of texts; the ends `x_low` and `x_high` stand in the cell of `x`."""
    names = [name for name in table if not str(name).endswith(("_low", "_high"))]
    rows = [[_cell(row, name) for name in names] for row in table.to_dict("records")]
    return {"columns": [str(name).replace("_", " ") for name in names], "rows": rows}


def _cell(row: dict, name: str) -> str:
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        return (_points if "change" in name else _share)(value, low, high)
    return "–" if value is None else str(value)
