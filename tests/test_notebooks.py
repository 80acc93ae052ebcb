"""The committed notebooks: executed from top to bottom, checked, free of one machine's traces and of algorithms."""

import ast
import copy
import json
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from ravl_core import paths
from ravl_core.notebook_file import Notebook, read_notebook, source, tags

FILES = sorted(paths.notebooks().glob("*.ipynb"))
LONGEST_DEFINITION = 5  # lines; anything longer is an algorithm and belongs into ravl_core
MACHINE = re.compile(
    r"(?<![\w.])/(work|home|root|tmp|usr|opt|mnt|var|etc|Users|private|content|kaggle)/"
    r"|site-packages|\.venv/|\.pyenv/|[A-Z]:\\|ipykernel_\d|file://"
)
BAR = re.compile(r"\d+%\|")
PICTURE = re.compile(r"base64,[\w+/=\s]+")


def code_cells(notebook: Notebook) -> list[dict]:
    return [cell for cell in notebook.cells if cell["cell_type"] == "code"]


def statements(cell: dict) -> list[ast.stmt]:
    """The cell's Python, without lines that are IPython's."""
    lines = source(cell).splitlines()
    return ast.parse("\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)).body


def texts(node: object) -> Iterator[str]:
    """Every text of a notebook, but no pictures: their letters are not words."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            if key not in ("image/png", "image/jpeg", "application/pdf"):
                yield from texts(value)
    elif isinstance(node, list):
        if all(isinstance(item, str) for item in node):
            yield "".join(node)
        else:
            for item in node:
                yield from texts(item)
    elif isinstance(node, str):
        yield node


def parameter_problems(notebook: Notebook) -> Iterator[str]:
    cells = [cell for cell in code_cells(notebook) if "parameters" in tags(cell)]
    if len(cells) != 1:
        yield f"expected one cell tagged parameters, got {len(cells)}"
        return
    for statement in statements(cells[0]):
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            yield f"parameters: expected `name: type = value`, got {ast.unparse(statement)!r}"
    for name, value in notebook.parameters.items():
        if value is ...:
            yield f"parameters: expected a literal value for {name}"
    if notebook.parameters.get("profile") != "":
        yield 'parameters: expected profile: str = ""'


def execution_problems(notebook: Notebook) -> Iterator[str]:
    last = 0
    for i, cell in enumerate(code_cells(notebook)):
        count = cell.get("execution_count")
        if not source(cell).strip():
            yield f"code cell {i} is empty"
        elif count is None:
            yield f"code cell {i} was not executed"
        elif count <= last:
            yield f"code cell {i} was executed out of order: [{count}] after [{last}]"
        last = count or last
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            yield f"code cell {i} holds an error"
        if "injected-parameters" in tags(cell):
            yield f"code cell {i} was put in by papermill"


def check_problems(notebook: Notebook) -> Iterator[str]:
    """A checked cell without count or outputs would pass whatever it prints."""
    for i, cell in enumerate(code_cells(notebook)):
        checked = "NBVAL_CHECK_OUTPUT" in source(cell) or "nbval-check-output" in tags(cell)
        if checked and not (cell.get("execution_count") and cell["outputs"]):
            yield f"code cell {i} is checked, but holds nothing to compare with"
    if not any(isinstance(node, ast.Assert) for node in nodes(notebook)):
        yield "there is no assert"


def machine_problems(notebook: Notebook) -> Iterator[str]:
    for text in texts(notebook.content):
        text = PICTURE.sub("", text)
        if match := MACHINE.search(text):
            yield f"trace of a machine: {text[max(0, match.start() - 40) : match.end() + 40]!r}"
        if BAR.search(text):
            yield f"a progress bar stayed behind: {text[:80]!r}"
    for key in ("papermill", "execution", "ExecuteTime"):
        if any(key in part.get("metadata", {}) for part in [notebook.content, *notebook.cells]):
            yield f"metadata: {key}"


def metadata_problems(notebook: Notebook) -> Iterator[str]:
    kernel = notebook.content["metadata"].get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"kernel: expected python3, got {kernel!r}"
    for name in ("smoke", "demo"):
        if not isinstance(notebook.minutes(name), int | float):
            yield f"metadata: expected ravl.minutes.{name}"
    artefacts = notebook.artefacts("{profile}")
    if not artefacts:
        yield "metadata: expected ravl.artefacts"
    for path in artefacts:
        if not path.startswith(("results/{profile}/", "figures/{profile}/")):
            yield f"artefacts: expected results/{{profile}}/... or figures/{{profile}}/..., got {path!r}"


def definition_problems(notebook: Notebook) -> Iterator[str]:
    for node in nodes(notebook):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > LONGEST_DEFINITION:
                yield f"{node.name} has {lines} lines: it belongs into ravl_core"


def nodes(notebook: Notebook) -> Iterator[ast.AST]:
    for cell in code_cells(notebook):
        for statement in statements(cell):
            yield from ast.walk(statement)


KINDS = [
    parameter_problems,
    execution_problems,
    check_problems,
    machine_problems,
    metadata_problems,
    definition_problems,
]


def test_there_are_notebooks():
    assert FILES, "no notebook in the project's folder notebooks"
    assert [path.name for path in FILES if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("problems", KINDS, ids=lambda kind: kind.__name__)
def test_the_notebook_is_clean(path, problems):
    assert list(problems(read_notebook(path))) == []


def test_no_two_notebooks_write_the_same_file():
    written = Counter(artefact for path in FILES for artefact in read_notebook(path).artefacts("demo"))
    assert [artefact for artefact, n in written.items() if n > 1] == []


def code(text: str, count: int | None, *outputs: dict, **metadata) -> dict:
    return {
        "cell_type": "code",
        "source": text,
        "execution_count": count,
        "outputs": list(outputs),
        "metadata": metadata,
    }


def stream(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text}


GOOD = {
    "metadata": {
        "kernelspec": {"name": "python3"},
        "ravl": {"minutes": {"smoke": 1, "demo": 2}, "artefacts": ["results/{profile}/a.csv"]},
    },
    "cells": [
        {"cell_type": "markdown", "source": "# See https://example.org/home/x", "metadata": {}},
        code('profile: str = ""  # demo', 1, tags=["parameters"]),
        code("# NBVAL_CHECK_OUTPUT\nprint(1)", 2, stream("1")),
        code("%matplotlib inline\nassert 1 < 2", 3),
    ],
}


def spoilt(cell: int, **changes) -> dict:
    content = copy.deepcopy(GOOD)
    content["cells"][cell].update(changes)
    return content


def described(**changes) -> dict:
    content = copy.deepcopy(GOOD)
    content["metadata"].update(changes)
    return content


BAD = [
    (spoilt(1, metadata={}), "expected one cell tagged parameters, got 0"),
    (spoilt(1, source='profile = ""'), "expected `name: type = value`"),
    (spoilt(1, source='profile: str = ""\nx: int = 1 + len("a")'), "expected a literal value for x"),
    (spoilt(1, source='profile: str = "smoke"'), 'expected profile: str = ""'),
    (spoilt(2, execution_count=None), "code cell 1 was not executed"),
    (spoilt(2, execution_count=None), "code cell 1 is checked, but holds nothing"),
    (spoilt(2, outputs=[]), "code cell 1 is checked, but holds nothing"),
    (spoilt(3, metadata={"tags": ["nbval-check-output"]}), "code cell 2 is checked, but holds nothing"),
    (spoilt(3, execution_count=2), "executed out of order: [2] after [2]"),
    (spoilt(3, source=" \n"), "code cell 2 is empty"),
    (spoilt(3, source="x = 1"), "there is no assert"),
    (spoilt(3, outputs=[{"output_type": "error"}]), "code cell 2 holds an error"),
    (spoilt(3, metadata={"tags": ["injected-parameters"]}), "put in by papermill"),
    (spoilt(3, metadata={"execution": {}}), "metadata: execution"),
    (spoilt(3, outputs=[stream("read /home/me/a.csv")]), "trace of a machine"),
    (spoilt(3, outputs=[stream("'/work/x'")]), "trace of a machine"),
    (spoilt(3, outputs=[stream(["lib/site-", "packages/torch"])]), "trace of a machine"),
    (spoilt(3, source='assert open("/tmp/x")'), "trace of a machine"),
    (spoilt(0, source="It lies in C:\\data"), "trace of a machine"),
    (spoilt(3, outputs=[stream("tune:   0%|          | 0/10")]), "a progress bar stayed behind"),
    (spoilt(3, source="assert 1\ndef f():\n" + "    x = 1\n" * 5), "f has 6 lines"),
    (described(papermill={"input_path": "a"}), "metadata: papermill"),
    (described(kernelspec={"name": "mine"}), "expected python3, got 'mine'"),
    (described(ravl={"minutes": {"smoke": 1, "demo": 2}}), "expected ravl.artefacts"),
    (described(ravl={"artefacts": ["results/{profile}/a.csv"], "minutes": {"smoke": 1}}), "expected ravl.minutes.demo"),
    (described(ravl={"artefacts": ["results/demo/a.csv"]}), "expected results/{profile}/"),
]


def all_problems(content: dict, folder) -> list[str]:
    path = folder / "00_made_up.ipynb"
    path.write_text(json.dumps(content))
    return [problem for kind in KINDS for problem in kind(read_notebook(path))]


def test_a_clean_notebook_has_no_problems(tmp_path):
    assert all_problems(GOOD, tmp_path) == []


@pytest.mark.parametrize(("content", "problem"), BAD, ids=[f"{i} {problem}" for i, (_, problem) in enumerate(BAD)])
def test_every_kind_of_problem_is_seen(content, problem, tmp_path):
    assert [found for found in all_problems(content, tmp_path) if problem in found]
