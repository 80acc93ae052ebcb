"""Run every notebook and say what came of it: `python -m ravl_core.reproduce [--profile demo]`.

Each notebook runs through papermill in a process of its own. Executed notebooks go to results/<profile>/notebooks/,
a table of what passed to results/<profile>/status.csv; a run that is stopped leaves "unfinished" there. Work that is
finished, and that nothing has changed since, is reused; a notebook that fails does not stop the others; no half-run
notebook ever takes the place of one that passed.
"""

import argparse
import ast
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ravl_core import finished, paths, provenance
from ravl_core.atomic import alone, remove_leftovers, write_atomically
from ravl_core.checks import nearest
from ravl_core.notebook_file import Notebook, as_text, cleaned, for_committing, read_notebook
from ravl_core.profiles import PROFILES, Profile, profile

SECONDS_BETWEEN_SIGNS_OF_LIFE = 60
STATUS = "status.csv"


@dataclass(frozen=True)
class Outcome:
    """What came of one notebook: a row of the status table."""

    notebook: str
    status: str  # pass, fail or reused; until then unfinished
    seconds: float
    artefacts_found: int
    artefacts_expected: int
    reason: str = ""


def find_notebooks(folder: Path) -> list[Notebook]:
    """The notebooks `NN_*.ipynb` of a folder in their order. Raises ValueError if there is none."""
    found = [read_notebook(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise ValueError(f"notebooks: expected files named NN_*.ipynb in {folder}, got none")
    return found


def select(notebooks: list[Notebook], only: list[str]) -> list[Notebook]:
    """Those whose name begins with one of `only`; all without it. Raises ValueError for a beginning nobody has."""
    for start in only:
        if not any(notebook.name.startswith(start) for notebook in notebooks):
            names = ", ".join(notebook.name for notebook in notebooks)
            raise ValueError(f"--only: expected the beginning of one of {names}, got {start!r}")
    return [notebook for notebook in notebooks if not only or notebook.name.startswith(tuple(only))]


def reproduce(
    folder: Path,
    profile: Profile,
    parameters: Mapping | None = None,
    only: list[str] | None = None,
    force: bool = False,
) -> list[Outcome]:
    """Run the notebooks of a folder and return one outcome each; `force` runs finished ones again.

    Raises ValueError if there is no such notebook, or if one asks for what it cannot have; BlockingIOError while
    another process runs notebooks of this profile.
    """
    everything = find_notebooks(folder)
    chosen = select(everything, only or [])
    if "profile" in (parameters or {}):
        raise ValueError("parameters: expected the profile as an argument of its own, got it among the parameters")
    parameters = {"profile": profile.name, **(parameters or {})}
    fingerprints = finished.fingerprints(everything, profile, parameters)
    for notebook in chosen:
        notebook.artefacts(profile.name)  # a path that cannot be is named before anything is spent
    busy = f"profile: expected no other run of the notebooks of profile {profile.name}, and one is going on"
    with alone(paths.cache(profile) / "lock", busy):
        for folder in (paths.cache(profile), paths.results(profile), paths.figures(profile)):
            remove_leftovers(folder)
        return _run_in_turn(chosen, profile, parameters, fingerprints, force)


def _run_in_turn(
    notebooks: list[Notebook], profile: Profile, parameters: Mapping, fingerprints: Mapping, force: bool
) -> list[Outcome]:
    """One outcome each; at any moment the table on disk says how far it has come."""
    reused = {
        notebook.name: None if force else finished.seconds_of_finished(notebook, profile, fingerprints[notebook.name])
        for notebook in notebooks
    }
    announce(notebooks, profile, reused)
    outcomes = [_before(notebook, profile, reused[notebook.name]) for notebook in notebooks]
    write_status(outcomes, profile)
    for at, notebook in enumerate(notebooks):
        if outcomes[at].status == "unfinished":
            outcomes[at] = _run(notebook, profile, parameters, fingerprints[notebook.name])
            write_status(outcomes, profile)
    return outcomes


def announce(notebooks: list[Notebook], profile: Profile, reused: Mapping[str, float | None]) -> None:
    """Print what there is to do and what it costs, before it is spent."""
    to_run = [notebook for notebook in notebooks if reused[notebook.name] is None]
    known = [cost for notebook in to_run if (cost := notebook.minutes(profile.name)) is not None]
    unknown = f", and {len(to_run) - len(known)} of unknown cost" if len(known) < len(to_run) else ""
    work = f"{len(to_run)} of {len(notebooks)} notebooks to run"
    _say(f"Profile {profile.name}: {work}, about {sum(known):g} min{unknown}")
    for notebook in notebooks:
        again = ", again: its last run was stopped" if finished.was_stopped(notebook, profile) else ""
        _say(f"  {notebook.name:<28} {'reused' if notebook not in to_run else _cost(notebook, profile) + again}")


def status_table(outcomes: list[Outcome]) -> str:
    """The outcomes as aligned text."""
    width = max(len(outcome.notebook) for outcome in outcomes)
    lines = [f"{'notebook':<{width}}  {'time':>7}  status  artefacts"]
    for o in outcomes:
        found = f"{o.artefacts_found}/{o.artefacts_expected}"
        lines.append(f"{o.notebook:<{width}}  {o.seconds:>6.0f}s  {o.status:<6}  {found:<9}  {o.reason}".rstrip())
    return "\n".join(lines)


def write_status(outcomes: list[Outcome], profile: Profile) -> Path:
    """Write the outcomes to results/<profile>/status.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(outcomes[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**asdict(outcome), "seconds": f"{outcome.seconds:.1f}"} for outcome in outcomes)
    return write_atomically(paths.results(profile) / STATUS, text.getvalue())


def update_notebooks(folder: Path, profile: Profile, outcomes: list[Outcome]) -> None:
    """Copy the outputs of the notebooks that passed into their sources, ready for committing."""
    for notebook in find_notebooks(folder):
        if any(outcome.notebook == notebook.name and outcome.status != "fail" for outcome in outcomes):
            executed = read_notebook(finished.executed_path(notebook, profile))
            write_atomically(notebook.path, as_text(for_committing(executed.content)))
            _say(f"updated {notebook.path.name}")


def _before(notebook: Notebook, profile: Profile, seconds: float | None) -> Outcome:
    """What is known before anything runs: that a finished run is reused, or that there is none."""
    n = len(notebook.artefacts(profile.name))
    if seconds is None:
        return Outcome(notebook.name, "unfinished", 0.0, 0, n)
    return Outcome(notebook.name, "reused", seconds, n, n)


def _run(notebook: Notebook, profile: Profile, parameters: Mapping, fingerprint: str) -> Outcome:
    """Run one notebook, check what it wrote, and keep it if all is well."""
    finished.mark_begun(notebook, profile)
    artefacts, code = notebook.artefacts(profile.name), provenance.present_code()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".running-", suffix=".tmp", dir=paths.cache(profile)) as folder:
        output = Path(folder) / notebook.path.name
        marker = Path(folder) / "started"
        marker.touch()
        reason = _unknown_parameter(notebook, parameters) or _execute(notebook, profile, parameters, output)
        missing = [path for path in artefacts if not _is_fresh(paths.home() / path, marker)]
        if missing and not reason:
            reason = f"not written by this run: {', '.join(missing)}"
        _keep(output, notebook, profile, failed=bool(reason))
    seconds = time.monotonic() - started
    if reason:
        finished.forget(notebook, profile)
    else:
        provenance.note_tables(notebook, profile, code)
        finished.mark_finished(notebook, profile, fingerprint, seconds)
    _say(f"  {notebook.name}: {f'failed, {reason}' if reason else 'passed'} ({seconds:.0f} s)")
    found = len(artefacts) - len(missing)
    return Outcome(notebook.name, "fail" if reason else "pass", seconds, found, len(artefacts), reason)


def _unknown_parameter(notebook: Notebook, parameters: Mapping) -> str:
    """papermill would only log a parameter that the notebook does not have, and run with the default."""
    for name in parameters:
        if name not in notebook.parameters:
            hint = nearest(name, notebook.parameters)
            return f"unknown parameter {name!r}, the notebook has {', '.join(notebook.parameters) or 'none'}{hint}"
    return ""


def _execute(notebook: Notebook, profile: Profile, parameters: Mapping, output: Path) -> str:
    """Run the notebook in a process of its own; the answer is what went wrong, or ""."""
    environment = {
        **os.environ,
        "RAVL_PROFILE": profile.name,
        "RAVL_PROGRESS": "off",
        "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, not one of the same name in the user's folder
    }
    command = [sys.executable, "-m", "ravl_core.run_notebook", str(notebook.path.resolve()), str(output)]
    log = output.with_suffix(".log")
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [*command, json.dumps(dict(parameters))],
            stdin=subprocess.PIPE,  # open as long as this process lives
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=notebook.path.parent,
            env=environment,
        )
        try:
            status = _wait(process, notebook, profile)
        finally:
            process.kill()
            process.stdin.close()
            process.wait()
    if status == 0:
        return ""
    reason = Path(f"{output}.reason")
    if reason.exists():
        return " ".join(reason.read_text(encoding="utf-8").split())
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return " ".join([f"its process ended with status {status}:", *last])


def _wait(process: subprocess.Popen, notebook: Notebook, profile: Profile) -> int:
    """The exit status, with a line now and then that says how long it has taken."""
    started = time.monotonic()
    _say(f"  {notebook.name}: running, {_cost(notebook, profile)}")
    while True:
        try:
            return process.wait(timeout=SECONDS_BETWEEN_SIGNS_OF_LIFE)
        except subprocess.TimeoutExpired:
            _say(f"  {notebook.name}: {(time.monotonic() - started) / 60:.0f} min of {_cost(notebook, profile)}")


def _is_fresh(path: Path, marker: Path) -> bool:
    """Whether a run that began when `marker` was written has written this file, with something in it."""
    return path.is_file() and path.stat().st_size > 0 and path.stat().st_mtime_ns >= marker.stat().st_mtime_ns


def _keep(output: Path, notebook: Notebook, profile: Profile, failed: bool) -> None:
    """Put the executed notebook where results are; one that failed goes aside, to be looked at."""
    if not output.exists():
        return
    aside = paths.cache(profile) / "failed" / notebook.path.name
    target = aside if failed else finished.executed_path(notebook, profile)
    write_atomically(target, as_text(cleaned(read_notebook(output).content)))
    if failed:
        _say(f"  {notebook.name}: see {os.path.relpath(aside)}")
    else:
        aside.unlink(missing_ok=True)


def _cost(notebook: Notebook, profile: Profile) -> str:
    minutes = notebook.minutes(profile.name)
    return "unknown cost" if minutes is None else f"about {minutes:g} min"


def _say(line: str) -> None:
    print(line, flush=True)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ravl_core.reproduce", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default=None, help=f"{', '.join(PROFILES)}; else RAVL_PROFILE, else demo")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="notebooks whose names begin so")
    parser.add_argument("--force", action="store_true", help="run finished notebooks again")
    parser.add_argument("--update-notebooks", action="store_true", help="copy the outputs into the notebooks")
    parser.add_argument("--notebooks", type=Path, default=paths.notebooks(), metavar="FOLDER", help="another folder")
    parser.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="for every notebook"
    )
    return parser.parse_args(given)


def _value(text: str) -> object:
    """A parameter from the command line: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main(given: list[str] | None = None) -> int:
    """Run what the command line asks for. The exit status is 0 if all is well, 1 if a notebook failed, 2 for misuse."""
    arguments = _arguments(given)
    try:
        chosen = profile(arguments.profile)
        parameters = {name: _value(text) for name, text in arguments.parameter}
        outcomes = reproduce(arguments.notebooks, chosen, parameters, arguments.only, arguments.force)
    except (ValueError, BlockingIOError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.update_notebooks:
        update_notebooks(arguments.notebooks, chosen, outcomes)
    status = paths.results(chosen) / STATUS
    _say(f"\n{status_table(outcomes)}\n\nwritten to {os.path.relpath(status)}")
    return 1 if any(outcome.status == "fail" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
