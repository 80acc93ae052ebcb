"""Turn the notebooks, the documents and the docstrings into a static site: `python -m ravl_core.site --out site`.

Notebooks are shown with the outputs that are stored in them; nothing is run. The pages fetch nothing, so the folder can
be opened from a disk, or put on any server.
"""

import argparse
from pathlib import Path

from ravl_core import paths
from ravl_core.atomic import write_atomically


def write_site(project: Path | str, out: Path | str) -> list[Path]:
    """Write the site of a project into a folder and return the files; others that lie there stay.

    Raises ValueError, before anything is written, for a project that cannot be shown (see `ravl_core.website.pages`).
    """
    from ravl_core.website.pages import site

    return [write_atomically(Path(out) / name, content) for name, content in sorted(site(Path(project)).items())]


def main(arguments: list[str] | None = None) -> None:
    """Write the site where the command line says."""
    parser = argparse.ArgumentParser(prog="python -m ravl_core.site", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("site"), help="the folder to write to (default: site)")
    asked = parser.parse_args(arguments)
    try:
        write_site(paths.PROJECT, asked.out)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
