"""What does a model lean on? An audit of your images from the command line: `python -m ravl_core.audit photos/ …`.

    python -m ravl_core.audit photos/ --model RN50-quickgelu --pretrained openai --out report
    python -m ravl_core.audit scans/labels.csv --columns path=file_name label=finding group=patient --out report
    python -m ravl_core.audit photos/ --model mine/ --repair training/ --initial RN50-quickgelu --out report

Writes `report/index.html`, tables and, after a repair, the repaired model. Exit status: 0, whether something was found
or not; 2 for arguments or data that do not fit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Audit, write the report and say what was found."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    out = Path(asked.out)
    if out.exists() and not asked.overwrite:
        parser.error(f"--out: {out} exists already; choose another folder, or --overwrite")
    if asked.save and not asked.repair:
        parser.error("--save: expected --repair, too: there is no repaired model to save")
    try:
        _run(asked, out)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        parser.error(str(error))


def _run(asked: argparse.Namespace, out: Path) -> None:
    from ravl_core.audits.export import export_audit
    from ravl_core.audits.report import write_report
    from ravl_core.audits.run import TEMPLATES, audit
    from ravl_core.checkpoints import load_vlm
    from ravl_core.domains.own_images import count_notes

    vlm = load_vlm(asked.model, asked.pretrained, asked.device, asked.pooling)
    reading = {"columns": _pairs(asked.columns), "split": asked.split, "fit": asked.fit, "most": asked.most}
    look = {"templates": tuple(asked.templates or TEMPLATES), "regions": asked.regions, "words": tuple(asked.words)}
    look |= {"level": asked.level, "n_permutations": asked.permutations, "thorough": not asked.quick}
    done = audit(vlm, asked.images, asked.classes, seed=asked.seed, **look, **reading)
    export_audit(done, out, overwrite=asked.overwrite, parquet=asked.parquet)
    print(*done.sentences, sep="\n")
    repaired = _repaired(asked, vlm, done, reading) if asked.repair and done.findings else None
    if asked.repair and repaired is None:
        print("Nothing was found, so nothing is repaired.")
    write_report(done, out / "index.html", repaired)
    for row in count_notes(done.images.notes).itertuples():
        print(f"{row.files} files {'converted' if row.kept else 'left out'}: {row.kind}")
    print(f"report: {out / 'index.html'}")


def _repaired(asked: argparse.Namespace, vlm, done, reading: dict):
    """The repaired model's figures, its weights saved."""
    from ravl_core.audits.repairing import repair
    from ravl_core.checkpoints import load_vlm
    from ravl_core.domains.own_images import read_images
    from ravl_core.mitigation import Budget

    budget = Budget(epochs=asked.epochs, batch_size=asked.batch, learning_rate=asked.learning_rate)
    classes, size = done.dataset.class_names, vlm.image_size
    test_reading = reading | {"split": asked.test_split}
    sets = read_images(asked.repair, classes, size, **reading | {"split": asked.repair_split})
    test = read_images(asked.test, classes, size, **test_reading) if asked.test else None
    initial = load_vlm(asked.initial, asked.initial_pretrained, asked.device, asked.pooling) if asked.initial else None
    repaired = repair(done, vlm, sets, initial, budget=budget, test=test, seed=asked.seed)
    print(*repaired.sentences, sep="\n")
    if asked.save:
        print(f"repaired model: local-dir:{repaired.save(asked.save)}")
    return repaired


def _pairs(pairs: list[str]) -> dict[str, str] | None:
    """["path=file_name", …] as a dict."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"--columns: expected pairs such as path=file_name, got {wrong[0]!r}")
    return dict(pair.split("=", 1) for pair in pairs) or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ravl_core.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("images", help="a folder with one folder of images a class, a csv, COCO json, or a folder with metadata.csv")
    add("--classes", nargs="+", help="class names, in the order of integer labels; else all there are")
    add("--out", required=True, help="folder for the report and the tables; must not exist")
    add("--overwrite", action="store_true", help="replace that folder")
    add("--parquet", action="store_true", help="write tables as parquet, too (wants pyarrow)")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="rn-mini", help="open_clip name, hf-hub:org/name, local-dir:folder")
    model.add_argument("--pretrained", help="open_clip's tag of its weights, or a checkpoint file")
    model.add_argument("--pooling", help="how a region is embedded: early, late, patches or crop")
    model.add_argument("--device", default="cpu")
    data = parser.add_argument_group("data")
    data.add_argument("--columns", nargs="+", default=[], metavar="NAME=COLUMN", help="path, label, group, boxes, …")
    data.add_argument("--split", help="of WILDS metadata: train, val or test")
    data.add_argument("--fit", default="squash", help="squash: the whole image; centre: its central square")
    data.add_argument("--most", type=int, help="at most so many images, evenly over classes")
    look = parser.add_argument_group("what is asked")
    look.add_argument("--templates", nargs="+", help="prompts with {} for the class; else those of `audit`")
    look.add_argument("--regions", help="quadrants, grid 3x3, superpixels, detector or boxes")
    look.add_argument("--words", nargs="+", default=[], help="names that a finding may be given")
    look.add_argument("--level", type=float, default=0.05, help="share of sound models in which something is found")
    look.add_argument("--permutations", type=int, default=999)
    look.add_argument("--quick", action="store_true", help="without other seeds, clusters and regions")
    look.add_argument("--seed", type=int, default=0)
    mend = parser.add_argument_group("repair of the first finding")
    mend.add_argument("--repair", help="fine-tuning images, like the first argument")
    mend.add_argument("--repair-split", help="of WILDS metadata: the rows to fine-tune on")
    mend.add_argument("--initial", help="the model that fine-tuning starts from; else the audited one")
    mend.add_argument("--initial-pretrained")
    mend.add_argument("--test", help="images on which before and after are compared; else the audited ones")
    mend.add_argument("--test-split", help="of WILDS metadata: the rows to compare on")
    mend.add_argument("--save", help="folder for the repaired model, which open_clip loads as local-dir:")
    mend.add_argument("--epochs", type=int, default=5)
    mend.add_argument("--batch", type=int, default=128)
    mend.add_argument("--learning-rate", type=float, default=1e-3)
    return parser


if __name__ == "__main__":
    main()
else:
    from ravl_core.audits.run import audit

    # Imported, this file would hide the function `ravl_core.audit` behind a module of that name.
    sys.modules[__name__] = audit
