"""What a notebook file says about itself, and the file without what belongs to one machine.

The key `ravl` of a notebook's metadata tells the runner what to expect:

    {"minutes": {"smoke": 0.5, "demo": 3},            what it takes on 2 cores
     "artefacts": ["results/{profile}/02_table.csv"],  what it writes
     "needs": ["01_evaluation_settings"]}              earlier notebooks whose results it reads (may be left out)
"""

import ast
import copy
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

MACHINE_METADATA = ("papermill", "execution", "ExecuteTime")


@dataclass(frozen=True)
class Notebook:
    """A notebook file that has been read."""

    path: Path
    content: dict

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def cells(self) -> list[dict]:
        """The cells, in order."""
        return self.content["cells"]

    @property
    def ravl(self) -> dict:
        """What the notebook tells the runner; empty where it tells nothing."""
        return self.content.get("metadata", {}).get("ravl", {})

    @property
    def needs(self) -> list[str]:
        """Names of the notebooks whose results this one reads."""
        return list(self.ravl.get("needs", []))

    @cached_property
    def parameters(self) -> dict[str, object]:
        """Names and default values in the cells tagged `parameters`; a value that is no literal is Ellipsis."""
        cells = [cell for cell in self.cells if "parameters" in tags(cell)]
        return {name: value for cell in cells for name, value in _assignments(source(cell)).items()}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides what the notebook does: sources, tags and `ravl`, not its outputs."""
        parts = [[cell["cell_type"], source(cell), tags(cell)] for cell in self.cells]
        return hashlib.sha256(json.dumps([parts, self.ravl], sort_keys=True).encode()).hexdigest()

    def minutes(self, profile: str) -> float | None:
        """The announced cost, or None where the notebook announces none."""
        return self.ravl.get("minutes", {}).get(profile)

    def artefacts(self, profile: str) -> list[str]:
        """The files it writes, relative to the project. Raises ValueError for a path that leaves the project."""
        paths = [template.replace("{profile}", profile) for template in self.ravl.get("artefacts", [])]
        for path in map(PurePosixPath, paths):
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{self.name}: expected artefacts inside the project, got {str(path)!r}")
        return paths


def read_notebook(path: Path | str) -> Notebook:
    """Read a notebook. Raises ValueError, with the file's name, for what is none."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = {cell["cell_type"] for cell in content["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: expected a notebook of format 4, got something else ({error!r})") from error
    if not kinds <= {"code", "markdown", "raw"}:
        raise ValueError(f"{path.name}: expected code, markdown and raw cells, got {sorted(kinds)}")
    return Notebook(path, content)


def source(cell: dict) -> str:
    """The text of a cell, which the format stores as a string or as lines."""
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    """The tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def cleaned(content: dict) -> dict:
    """A copy without what papermill and the kernel note about the machine and the time; outputs stay as they are."""
    content = copy.deepcopy(content)
    metadata = content.get("metadata", {})
    metadata.pop("papermill", None)
    metadata.get("language_info", {}).pop("version", None)
    for cell in content["cells"]:
        kept = {key: value for key, value in cell.get("metadata", {}).items() if key not in MACHINE_METADATA}
        if not kept.get("tags", True):
            del kept["tags"]
        cell["metadata"] = kept
        if "injected-parameters" in tags(cell) and "id" in cell:
            cell["id"] = "injected-parameters"  # papermill draws one at random: other bytes on every run
    return content


def for_committing(content: dict) -> dict:
    """The cleaned notebook as it is read and edited: without the cell papermill put in, counted from 1 without gaps."""
    content = cleaned(content)
    content["cells"] = [cell for cell in content["cells"] if "injected-parameters" not in tags(cell)]
    executed = [cell for cell in content["cells"] if cell.get("execution_count") is not None]
    for count, cell in enumerate(executed, start=1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    return content


def as_text(content: dict) -> str:
    """The file's text, laid out as Jupyter does it, so that differences stay small."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _assignments(code: str) -> dict[str, object]:
    try:
        statements = ast.parse(code).body
    except SyntaxError:
        return {}  # nothing can be known about it, so every parameter is an unknown one
    found = {}
    for statement in statements:
        if isinstance(statement, ast.AnnAssign | ast.Assign):
            targets = [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
            value = _literal(statement.value)
            found.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return found


def _literal(expression: ast.expr | None) -> object:
    try:
        return ast.literal_eval(expression)
    except (ValueError, TypeError):
        return ...
