"""House rules: documented, short, quiet, safe to load with, and free of one machine's traces."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "ravl_core").rglob("*.py"))}
COMMANDS = {
    f"ravl_core/{name}.py" for name in ("audit", "study", "reproduce", "pretraining", "progress", "run_notebook")
}
MOST_LINES = (
    14_900  # of code: six domains, all methods of discovery and repair, the audit, teachers, benchmarks, the site
)
MEDIAN_LENGTH, USUAL_LENGTH, MOST_LENGTH = 12, 30, 60  # of functions, docstrings aside

UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve"}
UNSAFE_ATTRIBUTES = {"read_pickle", "to_pickle"}
MACHINE = re.compile(
    r"(?<![\w.~-])/(root|home|Users|work|tmp|mnt|private|content|kaggle|scratch)/|[A-Z]:\\+Users|file:///"
)
SECRET = re.compile(
    r"(?<![A-Za-z0-9])(hf_[A-Za-z0-9]{30,}|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{20,}|npm_\w{36}"
    r"|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|(AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|pypi-[\w-]{50,}|eyJ[\w-]{20,}\.eyJ[\w-]+)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^\s/:@]+:[^\s/:@{}]+@|aws_secret_access_key\s*="
)
PICTURE = re.compile(r'"(image/\w+|application/pdf)": ("[^"]*"|\[[^]]*\])')  # letters that are no words
SHOW_VIOLATIONS = {"tests/test_house.py", "tests/test_notebooks.py"}  # on purpose

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def public(node: ast.Module | ast.ClassDef) -> Iterator[Function | ast.ClassDef]:
    """Public functions and classes of a module, and the public methods of those classes."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def undocumented(tree: ast.Module) -> list[str]:
    found = [] if ast.get_docstring(tree) else ["the module"]
    return found + [f"line {node.lineno}: {node.name}" for node in public(tree) if not ast.get_docstring(node)]


def lengths(tree: ast.Module) -> dict[str, int]:
    """Lines of every function, from `def` to the end, without its docstring."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, Function):
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= node.body[0].end_lineno - node.body[0].lineno + 1
            found[f"line {node.lineno}: {node.name}"] = length
    return found


def lines_of_code(text: str) -> int:
    """Lines that hold code: neither blank nor comments nor docstrings alone."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [
        node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, documented) and ast.get_docstring(node)
    ]
    docstrings = {line for node in texts for line in range(node.lineno, node.end_lineno + 1)}
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout)
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(code - docstrings)


def called(tree: ast.Module, *names: str) -> list[str]:
    """Calls of a function by its bare name, or as an attribute of builtins."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            bare = isinstance(function, ast.Name) and function.id in names
            built_in = isinstance(function, ast.Attribute) and ast.unparse(function.value) in (
                "builtins",
                "__builtins__",
            )
            if bare or (built_in and function.attr in names):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def keywords(call: ast.Call) -> dict[str | None, object]:
    return {word.arg: word.value.value if isinstance(word.value, ast.Constant) else ... for word in call.keywords}


def unsafe(tree: ast.Module) -> list[str]:
    """Whatever can run code that lies in a file: pickle by any name, eval, exec, torch.load of more than weights."""
    found = [f"line {line}: import of {name}" for line, name in imported(tree) if name.split(".")[0] in UNPICKLERS]
    found += [f"line {line}: {name}" for line, name in imported(tree) if name in ("torch.load", "joblib.load")]
    found += called(tree, "eval", "exec", "__import__")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), keywords(node)
            loads = name.split(".")[-2:]
            if (
                (loads == ["torch", "load"] and given.get("weights_only") is not True)
                or loads == ["joblib", "load"]
                or loads[-1] in UNSAFE_ATTRIBUTES
                or given.get("allow_pickle", False) is not False
            ):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def machine_paths(text: str) -> list[str]:
    text = PICTURE.sub("", text)
    return [f"line {text.count(chr(10), 0, hit.start()) + 1}: {hit[0]}" for hit in MACHINE.finditer(text)]


def secrets(text: str) -> list[str]:
    """Tokens of usual services, private keys and passwords in addresses; only their first letters are repeated."""
    text = PICTURE.sub("", text)
    return [f"line {text.count(chr(10), 0, hit.start()) + 1}: {hit[0][:8]}…" for hit in SECRET.finditer(text)]


def tracked() -> list[Path]:
    """What is committed; without git, what an archive of the project holds."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        files = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = [ROOT / name for name in ("ravl_core", "tests", "notebooks")]
        files = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def text_of(path: Path) -> str | None:
    """The file's text, or None where it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


# ---- the rules ----


@pytest.mark.parametrize("name", MODULES)
def test_whatever_is_public_is_documented(name):
    assert undocumented(tree_of(MODULES[name])) == []


def test_functions_are_short():
    found = {(name, what): n for name, path in MODULES.items() for what, n in lengths(tree_of(path)).items()}
    assert len(found) > 100
    assert {what: n for what, n in found.items() if n > MOST_LENGTH} == {}
    assert median(found.values()) <= MEDIAN_LENGTH
    assert quantiles(found.values(), n=10)[-1] <= USUAL_LENGTH


def test_the_package_stays_small():
    n_lines = {name: lines_of_code(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
    longest = sorted(n_lines, key=n_lines.get)[-5:]
    assert sum(n_lines.values()) <= MOST_LINES, f"the longest are {', '.join(longest)}"


@pytest.mark.parametrize("name", sorted(MODULES.keys() - COMMANDS))
def test_only_commands_print(name):
    assert called(tree_of(MODULES[name]), "print") == []


def test_the_commands_exist():
    assert COMMANDS <= MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_nothing_runs_code_from_a_file(name):
    assert unsafe(tree_of(MODULES[name])) == []


def test_no_file_names_a_place_on_one_machine():
    names = {path.relative_to(ROOT).as_posix(): path for path in tracked()}
    assert {"pyproject.toml", "ravl_core/__init__.py"} <= names.keys()
    found = {}
    for name in names.keys() - SHOW_VIOLATIONS:
        found[name] = machine_paths(text_of(names[name]) or "")
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_no_file_holds_a_secret():
    found = {path.relative_to(ROOT).as_posix(): secrets(text_of(path) or "") for path in tracked()}
    assert {name: problems for name, problems in found.items() if problems} == {}


# ---- each rule finds what breaks it ----


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = 1", "the module"),
        ('"""."""\ndef shown(): pass', "shown"),
        ('"""."""\nasync def shown(): pass', "shown"),
        ('"""."""\nclass Shown: x = 1', "Shown"),
        ('"""."""\nclass Shown:\n    """."""\n    @property\n    def part(self): return 1', "part"),
    ],
)
def test_a_missing_docstring_is_found(source, problem):
    (found,) = undocumented(ast.parse(source))
    assert problem in found


def test_private_and_inner_functions_need_no_docstring():
    hidden = "def _hidden(): pass\nclass _Hidden:\n    def part(self): pass"
    inner = 'def shown():\n    """."""\n    def inner(): pass'
    assert undocumented(ast.parse(f'"""."""\n{hidden}\n{inner}')) == []


def test_lengths_leave_out_the_docstring_and_nothing_else():
    body = ["    x = 1", "", "    # why", "    return x"]
    plain = "\n".join(["def f(", "    a,", "):", *body])
    documented = "\n".join(["def f(", "    a,", "):", '    """One.', "", "    Two.", '    """', *body])
    assert [*lengths(ast.parse(plain)).values()] == [*lengths(ast.parse(documented)).values()] == [7]
    method = ast.parse(
        "class A:\n    @property\n    def part(self):\n        def inner():\n            pass\n        return inner"
    )
    assert sorted(lengths(method).values()) == [2, 4]


def test_lines_of_code_leave_out_docstrings_comments_and_blank_lines():
    module = '"""One.\n\nTwo.\n"""\n\nimport ast  # why\n\n# alone\nx = (\n    1,\n)\n\n'
    function = 'def f():\n    """F."""\n    return """a\nb"""\n'
    text = module + function
    assert lines_of_code(text) == 1 + 3 + 1 + 2


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, dill as d",
        "def f():\n    from cloudpickle import loads",
        "eval('1')",
        "class A:\n    def f(self): exec(text)",
        "import builtins\nbuiltins.exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "joblib.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "pandas.read_pickle(path)",
        "table.to_pickle(path)",
    ],
)
def test_unsafe_code_is_found(source):
    assert len(unsafe(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "ast.literal_eval(text)",
        "frame.eval('a + b')",
        "json.load(file)",
        "from joblib import Parallel",
    ],
)
def test_safe_code_is_not(source):
    assert unsafe(ast.parse(source)) == []


def test_a_print_is_found_and_a_name_that_holds_one_is_not():
    assert called(ast.parse("def f():\n    print('x', file=file)"), "print") == ["line 2: print('x', file=file)"]
    assert called(ast.parse("fingerprint()\nself.print()\nname = 'print'"), "print") == []


@pytest.mark.parametrize(
    "text", ["/root/x", "in /home/me/a.csv", '"/tmp/x"', "(/work/x)", "C:\\Users\\me", "file:///x/y"]
)
def test_a_place_on_one_machine_is_found(text):
    (found,) = machine_paths(f"first\n{text}\nlast")
    assert found.startswith("line 2: ")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/x",
        "results/tmp/x",
        "a/home/b",
        "#!/usr/bin/env bash",
        "~/work/x",
        "./tmp/x",
        "my-files/work/x",
        'left "image/png": "ab+/tmp/cd" right',
        '"image/png": [\n "ab+/tmp/",\n "cd"\n]',
    ],
)
def test_other_paths_are_not(text):
    assert machine_paths(text) == []


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        ("hf_", "a1B2" * 9),
        ("ghp_", "a1B2" * 9),
        ("github_pat_", "a1B2_" * 8),
        ("glpat-", "a1-2" * 5),
        ("sk-", "proj-" + "a1B2" * 9),
        ("xoxb-", "123456789012"),
        ("AKIA", "ABCDEFGH12345678"),
        ("AIza", "a1-_5" * 7),
        ("-----BEGIN RSA ", "PRIVATE KEY-----"),
        ("https://me:", "word@example.org"),
        ("aws_secret_access_key", " = x"),
    ],
)
def test_a_secret_is_found_and_not_repeated(start, rest):
    (found,) = secrets(f'first\nkey: "{start}{rest}"')
    assert found.startswith("line 2: ") and rest not in found


@pytest.mark.parametrize(
    "text",
    ["hf_hub_download", "sk-learn", "task-of-many-words-in-a-row-with-dashes", "https://example.org/a:b@c", "ghp_short",
     "https://{user}:{token}@host", '"image/png": "AKIAABCDEFGH12345678"', "BEGIN PUBLIC KEY"],
)  # fmt: skip
def test_other_words_are_no_secrets(text):
    assert secrets(text) == []


def test_binary_files_are_no_texts(tmp_path):
    (tmp_path / "a").write_bytes(b"\x89PNG\xff/tmp/x")
    (tmp_path / "b").write_bytes(b"\0/tmp/x")
    (tmp_path / "c").write_text("…", encoding="utf-8")
    assert [text_of(tmp_path / name) for name in "abc"] == [None, None, "…"]
