"""One JSON file per finished run, named by the hash of its arguments: that is what makes a study resumable.

A record holds

    arguments     what was asked for; their hash is the file's name
    metrics       what came out, the same bytes on every run on the same kind of device
    versions      of Python, of the packages that decide the numbers, and of the code itself
    device        "cpu", "cuda", …
    times         seconds per stage, the kind of machine, when it ended: all that differs between equal runs
    checksum      of all the above, so that a damaged file is noticed

JSON has no NaN and no infinity. In `metrics` both are written as null and read back as None (pandas makes NaN of it):
a gap that is not defined and an influence of −∞ both say "there is none". In `arguments` they are an error.
"""

import hashlib
import importlib.util
import json
import math
import platform
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path

from ravl_core.atomic import write_atomically

PACKAGES = ("torch", "numpy", "open_clip_torch", "scikit-learn")
NAME = re.compile(r"[0-9a-f]{16}\.json")


def record_path(folder: Path | str, arguments: Mapping) -> Path:
    """`folder/<16 hex digits>.json`, from the SHA-256 of the arguments as canonical JSON.

    The order of the keys and the kind of sequence do not matter. Raises ValueError for an argument that is not
    finite or that JSON cannot hold.
    """
    return Path(folder) / f"{_hash(plain(arguments, 'arguments', finite=True))}.json"


def save_record(
    folder: Path | str,
    arguments: Mapping,
    metrics: Mapping,
    *,
    code_version: str = "",
    device: str = "cpu",
    seconds: Mapping[str, float] | None = None,
) -> Path:
    """Write the record of a finished run in one step (see the module for what it holds) and return its path.

    Raises ValueError, and writes nothing, for values that JSON cannot hold; OSError when the disk refuses.
    """
    record = {
        "arguments": plain(arguments, "arguments", finite=True),
        "metrics": plain(metrics, "metrics", finite=False),
        "versions": {**package_versions(), "code": code_version},
        "device": str(device),
        "times": {
            "seconds": plain(seconds or {}, "seconds", finite=True),
            # The kind of machine, not its name: records are published.
            "host": f"{platform.system()} {platform.machine()}, {cpu_count()} cores",
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    record["checksum"] = _hash(record)
    text = json.dumps(record, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return write_atomically(record_path(folder, arguments), text + "\n")


def load_record(folder: Path | str, arguments: Mapping) -> dict | None:
    """The record of these arguments, or None when there is none; a damaged one is named in a warning and is none."""
    path = record_path(folder, arguments)
    return _read(path) if path.exists() else None


def read_records(folder: Path | str) -> list[dict]:
    """All whole records of a folder, in the order of their names; damaged ones are named in a warning, not returned."""
    paths = sorted(path for path in Path(folder).glob("*.json") if NAME.fullmatch(path.name))
    return [record for path in paths if (record := _read(path)) is not None]


def code_version(*modules: str) -> str:
    """16 hex digits for the sources of the named modules; a package stands for all modules in it.

    Raises ValueError for a module that cannot be found.
    """
    digest = hashlib.sha256()
    for module in sorted(set(modules)):
        for name, source in _sources(module):
            digest.update(f"{module} {name} {len(source)}\n".encode() + source)
    return digest.hexdigest()[:16]


def stale(record: Mapping, code_version: str) -> bool:
    """Whether a record was made by other code than that of `code_version`."""
    return record["versions"]["code"] != code_version


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = []
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return tuple(found)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers, without importing them."""
    return {"python": platform.python_version(), **dict(_installed())}


def _sources(module: str) -> list[tuple[str, bytes]]:
    """(file name, content) of a module, or of every module of a package."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.has_location:
        raise ValueError(f"modules: expected the name of a module with a source file, got {module!r}")
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return [(origin.name, origin.read_bytes())]
    folder = origin.parent
    return [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py"))]


def plain(value: object, where: str, finite: bool) -> object:
    """`value` in JSON's own types; NumPy's scalars and arrays become numbers and lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise ValueError(f"{where}: expected names as keys, got {wrong[0]!r}")
        return {key: plain(item, f"{where}[{key!r}]", finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]", finite) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if finite:
            raise ValueError(f"{where}: expected a finite number, got {value}")
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{where}: expected numbers, strings, lists and dicts, got {type(value).__name__}")


def _hash(plain: object) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> dict | None:
    problem = ""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        checksum = record.pop("checksum")
        if checksum != _hash(record):
            problem = "its checksum does not fit its content"
        elif path.stem != _hash(record["arguments"]):
            problem = "its name does not fit its arguments"
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        problem = f"it cannot be read ({type(error).__name__})"
    if problem:
        warnings.warn(f"record {path.name} is treated as missing: {problem}", stacklevel=3)
        return None
    return record
