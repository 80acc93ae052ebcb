"""Which code made the results that lie here, and whether it has changed since: information, not a verdict.

Records say by which code they were made. For tables that a notebook wrote, `results/<profile>/provenance.json` says it:

    {"01_evaluation_settings": {"code": …, "date": …, "packages": {…}, "tables": {"settings.csv": SHA-256, …}}, …}

A table that is not in it, or whose content is another, was made by unknown code.
"""

import hashlib
import json
import warnings
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from ravl_core import paths, records, versions
from ravl_core.atomic import write_atomically
from ravl_core.notebook_file import Notebook
from ravl_core.profiles import Profile

FILE = "provenance.json"


@cache
def present_code() -> str:
    """The version of all that decides a record of any kind, 16 hex digits; nothing is imported for it."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for module in ("domains", "language", *versions.FINE_TUNING, *versions.LOOKING):
        path = package.joinpath(*module.split("."))
        for source in sorted(path.rglob("*.py")) or [path.with_suffix(".py")]:
            digest.update(f"{source.relative_to(package).as_posix()} {_hash_of(source)}\n".encode())
    return digest.hexdigest()[:16]


def note_tables(notebook: Notebook, profile: Profile, code: str) -> Path:
    """Note that code of this version made the tables that a notebook has just written."""
    folder = paths.results(profile)
    tables = [name for path in notebook.artefacts(profile.name) if (name := Path(path).name).endswith(".csv")]
    entry = {
        "code": code,
        "date": datetime.now(UTC).date().isoformat(),
        "packages": records.package_versions(),
        "tables": {name: _hash_of(folder / name) for name in tables if (folder / name).is_file()},
    }
    noted = _noted(folder) | {notebook.name: entry}
    return write_atomically(folder / FILE, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def of_other_code() -> list[str]:
    """A line for each profile's tables of unknown code, tables of other code, and records of other code than the
    present; none where all are of the present code."""
    found = []
    for folder in sorted(path for path in (paths.home() / "results").glob("*") if path.is_dir()):
        tables = {path.name: _code_of(path) for path in sorted(folder.glob("*.csv")) if path.name != "status.csv"}
        unknown = [name for name, code in tables.items() if code is None]
        changed = [name for name, code in tables.items() if code not in (None, present_code())]
        for names, whose in ((unknown, "unknown"), (changed, "other")):
            found += [f"results/{folder.name}: {len(names)} tables of {whose} code: {', '.join(names)}"] * bool(names)
        n_stale, n_records = _stale_records(folder / "records")
        found += [f"results/{folder.name}: {n_stale} of {n_records} records of other code"] * bool(n_stale)
    return found


def _noted(folder: Path) -> dict:
    try:
        noted = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return {name: entry for name, entry in noted.items() if {"code", "tables"} <= entry.keys()}
    except (OSError, ValueError, AttributeError):  # none yet, or damaged
        return {}


def _code_of(table: Path) -> str | None:
    """The version of the code that made a table; None where that is not known."""
    for entry in _noted(table.parent).values():
        if entry["tables"].get(table.name) == _hash_of(table):
            return entry["code"]
    return None


def _hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stale_records(folder: Path) -> tuple[int, int]:
    """How many records of a folder are of other code than the present, and how many there are."""
    with warnings.catch_warnings(action="ignore"):  # damaged records are a study's affair
        found = Counter(records.stale(record, _present_code_of(record)) for record in records.read_records(folder))
    return found[True], found.total()


def _present_code_of(record: dict) -> str:
    """The version that the present code would give a record; "" where it has no such domain."""
    setting = record["arguments"].get("setting")
    if setting is None:
        from ravl_core.language import study  # imports torch

        return study.code_version()
    with suppress(ValueError):
        return versions.code_version(setting["domain"])
    return ""
