"""Which notebooks are finished: a stamp per notebook says what was run and what it wrote.

The stamps lie in a folder that git ignores. A fresh clone has none, so it runs everything, though the results of the
reference run lie in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ravl_core import paths
from ravl_core.atomic import write_atomically
from ravl_core.notebook_file import Notebook
from ravl_core.profiles import Profile
from ravl_core.records import package_versions

PACKAGE = Path(__file__).parent
DECISIVE = {".py", ".json", ".safetensors"}
READERS = ("site.py", "website/")  # look at results and decide none


def package_fingerprint() -> str:
    """A hash of this package's modules, model configurations and weights."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.suffix in DECISIVE):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(READERS):
            digest.update(f"{name} {_hash_of_file(path)}\n".encode())
    return digest.hexdigest()


def fingerprints(notebooks: list[Notebook], profile: Profile, parameters: Mapping) -> dict[str, str]:
    """For each notebook, by name, a hash of all that decides its results, the notebooks it needs included.

    Raises ValueError where a notebook needs one that does not come before it.
    """
    common = [package_fingerprint(), package_versions(), asdict(profile), dict(parameters)]
    found: dict[str, str] = {}
    for notebook in notebooks:
        missing = [name for name in notebook.needs if name not in found]
        if missing:
            raise ValueError(f"{notebook.name}: expected needs to name earlier notebooks, got {missing[0]!r}")
        parts = [notebook.fingerprint, [found[name] for name in notebook.needs], common]
        found[notebook.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return found


def executed_path(notebook: Notebook, profile: Profile) -> Path:
    """Where the executed notebook goes."""
    return paths.results(profile) / "notebooks" / notebook.path.name


def seconds_of_finished(notebook: Notebook, profile: Profile, fingerprint: str) -> float | None:
    """What the finished run took; None if there is none, or if it or anything it wrote has changed since."""
    try:
        stamp = json.loads(_stamp(notebook, profile).read_text())
        current = {path: _hash_of_file(paths.home() / path) for path in stamp["files"]}
        if stamp["fingerprint"] == fingerprint and stamp["files"] == current:
            return float(stamp["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no stamp, half a stamp or a missing file: not finished
    return None


def mark_finished(notebook: Notebook, profile: Profile, fingerprint: str, seconds: float) -> None:
    """Remember a run that passed, with the hash of every file it wrote."""
    executed = executed_path(notebook, profile).relative_to(paths.home()).as_posix()
    files = {path: _hash_of_file(paths.home() / path) for path in [executed, *notebook.artefacts(profile.name)]}
    stamp = {"fingerprint": fingerprint, "seconds": round(seconds, 1), "files": files}
    write_atomically(_stamp(notebook, profile), json.dumps(stamp, indent=1))


def mark_begun(notebook: Notebook, profile: Profile) -> None:
    """From now on the notebook is not finished, and `was_stopped` until its run ends."""
    write_atomically(_stamp(notebook, profile), json.dumps({"begun": True}))


def was_stopped(notebook: Notebook, profile: Profile) -> bool:
    """Whether the last run was stopped before its end: by a kill, or by hand."""
    try:
        return "begun" in json.loads(_stamp(notebook, profile).read_text())
    except (OSError, ValueError, TypeError):
        return False


def forget(notebook: Notebook, profile: Profile) -> None:
    """The run has ended, and the notebook is not finished."""
    _stamp(notebook, profile).unlink(missing_ok=True)


def _stamp(notebook: Notebook, profile: Profile) -> Path:
    return paths.cache(profile) / f"{notebook.name}.json"


def _hash_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
