"""An audit as a folder of tables: csv, json and COCO regions that other tools open."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ravl_core.atomic import folder_at_once
from ravl_core.audits.result import Audit, AuditFinding
from ravl_core.checks import made
from ravl_core.records import package_versions, plain

if TYPE_CHECKING:
    import pandas

FILES = {
    *(f"{name}.csv" for name in ("findings", "classes", "masks", "regions", "images", "notes")),
    *("audit.json", "regions_coco.json", "regions.parquet", "images.parquet"),
}
PAGE = "index.html"  # a report that stands beside the tables is replaced with them
FIRST = ("finding", "cluster", "attribute", "sentence")  # columns of findings.csv where there is none
EFFECTS = [f"{side}{end}" for side in ("effect", "beyond_control") for end in ("", "_low", "_high")]
MASK = ["finding", "fill", "images", "measure", "n", "n_compared", "control_area", *EFFECTS]
NOTE = ("name", "kind", "detail", "kept")
DIGITS = "%.7g"  # of numbers in csv


def export_audit(audit: Audit, folder: Path | str, *, parquet: bool = False, overwrite: bool = False) -> Path:
    """Write an audit as tables, all of them or none; the same audit gives the same bytes.

    Names are written as they are, so that they can be looked up. Where the data come from a stranger, have a
    spreadsheet import the columns as text: it would take a name such as =1+1 for a formula.

    findings.csv        one row a finding, with the ends of all intervals
    classes.csv         one row a finding and class
    masks.csv           what hiding a finding's regions changes: one row a fill, a kind of images and a measure
    regions.csv         one row a region: box in pixels of its file, coarse cluster, finding (1 …), rank in it, scores
    images.csv          one row an image: label, prediction, scores, which findings it holds
    notes.csv           one row a file that was converted or left out
    regions_coco.json   the regions as COCO annotations; the score is that of the finding's class, or of the answer
    audit.json          options, sentences, masks, stability, coverage, what could have been found, versions

    Parameters
    ----------
    audit : Audit
    folder : the folder to make; shares and scores in it are 0 … 1.
    parquet : also regions.parquet and images.parquet.
    overwrite : replace a folder that an earlier export made, with the report in it (index.html) where there is one.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        The folder is there, and `overwrite` is False or it holds files that no export writes.
    OSError
        It cannot be written; what was there before is untouched.
    ImportError
        `parquet` without pyarrow.
    """
    made("audit", audit, "an audit, see ravl_core.audit", "evaluation")
    folder = Path(folder)
    _refuse_others_work(folder, overwrite)
    contents = _contents(audit, parquet)
    with folder_at_once(folder, replace=overwrite) as unfinished:
        for name, content in contents.items():
            (unfinished / name).write_bytes(content)
    return folder


def _refuse_others_work(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(f"folder: {folder} is there; overwrite=True replaces an earlier export")
    others = [folder.name] if not folder.is_dir() else sorted({path.name for path in folder.iterdir()} - FILES - {PAGE})
    if others:
        raise FileExistsError(f"folder: {folder} holds what no export writes, such as {others[0]!r}; name another")


def _contents(audit: Audit, parquet: bool) -> dict[str, bytes]:
    """Every file's name and bytes."""
    import pandas

    regions, images = _regions(audit), _images(audit)
    findings = [_finding(number, one) for number, one in enumerate(audit.findings, start=1)]
    tables = {
        "findings": pandas.DataFrame(findings or None, columns=None if findings else FIRST),
        "classes": _classes(audit),
        "masks": pandas.DataFrame(_masks(audit), columns=MASK),
        "regions": regions,
        "images": images,
        "notes": pandas.DataFrame([asdict(note) for note in audit.images.notes], columns=NOTE),
    }
    contents = {f"{name}.csv": _csv(table) for name, table in tables.items()}
    contents["audit.json"] = _json(_summary(audit), indent=1)
    contents["regions_coco.json"] = _json(_coco(audit, regions))
    if parquet:
        contents |= {"regions.parquet": _parquet(regions), "images.parquet": _parquet(images)}
    return contents


def _csv(table: pandas.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n", float_format=DIGITS).encode(errors="backslashreplace")


def _json(value: Mapping, indent: int | None = None) -> bytes:
    text = json.dumps(plain(value, "audit", finite=False), ensure_ascii=False, allow_nan=False, indent=indent)
    return f"{text}\n".encode(errors="backslashreplace")


def _parquet(table: pandas.DataFrame) -> bytes:
    try:
        import pyarrow  # noqa: F401  pandas would name other packages too
    except ImportError as error:
        raise ImportError("parquet: expected pyarrow to be installed (pip install 'ravl-core[parquet]')") from error
    content = io.BytesIO()
    table.to_parquet(content, engine="pyarrow", index=False)
    return content.getvalue()


def _finding(number: int, finding: AuditFinding) -> dict:
    """A row of findings.csv."""
    plain = "n_images pull gap p_value times_others influence influence_images chosen_in chosen_out n_in n_out"
    row = {
        "finding": number,
        "cluster": finding.cluster,
        "attribute": finding.attribute_name,
        "sentence": finding.sentence,
        "n_regions": len(finding.regions),
        **{name: getattr(finding, name) for name in plain.split()},
        **dict(zip(("chosen", "chosen_low", "chosen_high"), finding.chosen, strict=True)),
        "confirmed": finding.confirmed,
        "words": "; ".join(word for word, _ in finding.words),
    }
    if finding.stability is not None:
        row |= {"found_again": int(finding.stability.found_again.sum()), "variations": len(finding.stability)}
    return row


def _masks(audit: Audit) -> list[tuple]:
    """Rows of masks.csv."""
    return [
        (number, fill, images, measure, group.n, group.n_compared, group.control_area)
        + (*getattr(group.effect, measure), *getattr(group.beyond_control, measure))
        for number, finding in enumerate(audit.findings, start=1)
        for fill, mask in finding.masks.items()
        for images, group in (("others", mask.others), ("own", mask.own))
        for measure in ("probability", "accuracy", "predictions")
    ]


def _classes(audit: Audit) -> pandas.DataFrame:
    import pandas

    tables = [finding.table.assign(finding=number) for number, finding in enumerate(audit.findings, start=1)]
    table = pandas.concat(tables) if tables else pandas.DataFrame(columns=["finding", "class"])
    return table[["finding", *table.columns.drop("finding")]]


def _regions(audit: Audit) -> pandas.DataFrame:
    import pandas

    data = audit.dataset
    corners = audit.images.in_files(data.boxes, data.image_index)
    finding, rank = np.zeros((2, len(data.boxes)), dtype=np.int64)  # 0: of none
    for number, one in enumerate(audit.findings, start=1):
        finding[one.regions], rank[one.regions] = number, np.arange(1, len(one.regions) + 1)
    columns = {
        "region": np.arange(len(data.boxes)),
        "image": _readable(audit.images.names)[data.image_index],
        **dict(zip(("x1", "y1", "x2", "y2"), corners.T, strict=True)),
        "coarse_cluster": audit.discovery.clustering.labels,  # a finding may be of a finer clustering
        "finding": pandas.array(finding, dtype="Int64"),
        "rank": pandas.array(rank, dtype="Int64"),
        **_scores(data.class_names, audit.evaluation.region_probs),
    }
    table = pandas.DataFrame(columns)
    table.loc[finding == 0, ["finding", "rank"]] = pandas.NA
    return table


def _images(audit: Audit) -> pandas.DataFrame:
    import pandas

    data, names = audit.dataset, _readable(audit.dataset.class_names)
    held = {
        f"holds_finding_{number}": np.isin(np.arange(len(data)), data.image_index[finding.regions])
        for number, finding in enumerate(audit.findings, start=1)
    }
    columns = {
        "image": _readable(audit.images.names),
        "label": names[data.labels],
        "prediction": names[audit.evaluation.predictions],
        **_scores(data.class_names, audit.evaluation.image_probs),
        **held,
        "group": None if audit.images.groups is None else audit.images.groups,
    }
    return pandas.DataFrame(columns)


def _readable(names: tuple[str, ...]) -> np.ndarray:
    """Names as UTF-8 can hold them, (n,) object: a byte of a file's name that is none becomes \\udc80 … \\udcff."""
    return np.array([name.encode(errors="backslashreplace").decode() for name in names], dtype=object)


def _scores(class_names: tuple[str, ...], probabilities: np.ndarray) -> dict[str, np.ndarray]:
    return {f"score_{name}": column for name, column in zip(class_names, probabilities.T, strict=True)}


def _summary(audit: Audit) -> dict:
    """What audit.json holds; NaN becomes null."""
    return {
        "model": audit.model,
        "options": audit.options,
        "classes": audit.dataset.class_names,
        "n_images": len(audit.images),
        "accuracy": audit.evaluation.accuracy,
        "sentences": audit.sentences,
        "findings": [_in_full(finding) for finding in audit.findings],
        "detectable": _rows(audit.detectable),
        "coverage": asdict(audit.coverage),
        "proposals": _rows(audit.proposals),
        "versions": package_versions(),
    }


def _in_full(finding: AuditFinding) -> dict:
    """What no row of findings.csv can hold."""
    return {
        "cluster": finding.cluster,
        "attribute": finding.attribute_name,
        "masks": {fill: mask.plain() for fill, mask in finding.masks.items()},
        "stability": _rows(finding.stability),
        "words": dict(finding.words),
        "associations": _rows(finding.associations),
    }


def _rows(table: pandas.DataFrame | None) -> list[dict] | None:
    return None if table is None else table.to_dict("records")


def _coco(audit: Audit, regions: pandas.DataFrame) -> dict:
    """The regions as COCO annotations; category 0 stands for all that are in no finding."""
    data, probabilities = audit.dataset, audit.evaluation.region_probs
    files = zip(_readable(audit.images.names), audit.images.sizes.tolist(), strict=True)
    category = regions.finding.fillna(0).to_numpy(dtype=np.int64)
    attributes = np.array([-1, *(finding.attribute for finding in audit.findings)])[category]
    asked = np.where(category > 0, attributes, audit.evaluation.predictions[data.image_index])
    scores = probabilities[np.arange(len(regions)), asked]
    corners = regions[["x1", "y1", "x2", "y2"]].to_numpy().round(3)
    boxes = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).round(3)  # x, y, width, height
    named = [f"finding {number}: {one.attribute_name}" for number, one in enumerate(audit.findings, start=1)]
    return {
        "images": [{"id": i, "file_name": name, "width": w, "height": h} for i, (name, (w, h)) in enumerate(files)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(["other", *named])],
        "annotations": [
            {
                "id": at + 1,  # some tools take an annotation 0 for none
                "image_id": int(data.image_index[at]),
                "category_id": int(category[at]),
                "bbox": boxes[at],
                "area": boxes[at, 2] * boxes[at, 3],
                "iscrowd": 0,
                "score": scores[at],
            }
            for at in range(len(regions))
        ],
    }
