"""Where things stand: notebooks are read from the project, results and figures go to one folder per profile.

Nothing depends on the working directory, so papermill, nbval and JupyterLab all find the same places.
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MINIATURES = Path(__file__).resolve().parent / "models"  # model folders that ship with the package


def home() -> Path:
    """The folder that holds `results/` and `figures/`: RAVL_HOME, else the project, else the working directory.

    The last case is a package that was installed without its project around it.
    """
    chosen = os.environ.get("RAVL_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    return PROJECT if (PROJECT / "pyproject.toml").is_file() else Path.cwd()


def notebooks() -> Path:
    """The project's folder of notebooks."""
    return PROJECT / "notebooks"


def results(profile: object) -> Path:
    """The folder for the tables and records of a profile (its name, or the `Profile`), made when it is missing."""
    return _folder("results", profile)


def figures(profile: object) -> Path:
    """The folder for the figures of a profile (its name, or the `Profile`), made when it is missing."""
    return _folder("figures", profile)


def cache(profile: object) -> Path:
    """The folder for what git ignores: stamps of finished work and notebooks in the making."""
    return _folder(".cache", profile)


def _folder(kind: str, profile: object) -> Path:
    """`home()/kind/name`. Raises ValueError for a name that would lead to another place."""
    name = getattr(profile, "name", profile)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"profile: expected a Profile or the name of one, got {name!r}")
    folder = home() / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
