"""What a run of the tests has tried, and by which code the results were made that lie here: the last lines of a run.

A run of all tests that has tried less than README says has failed.
"""

import re
from collections import Counter
from functools import wraps
from pathlib import Path

import pytest

BAD_INPUTS = "test_bad_input.py"  # each test that passes is one
FAULTS = {"test_faults.py": 1, "test_safety.py": 1, "test_study_killed.py": 5}  # a test's, where it does not say more
README = Path(__file__).parents[1] / "README.md"
EXAMPLES = Counter()  # of each test that hypothesis runs


def pytest_collection_modifyitems(items):
    for item in items:
        if getattr(item.obj, "is_hypothesis_test", False) and not hasattr(item.obj.hypothesis.inner_test, "counted"):
            item.obj.hypothesis.inner_test = counting(item.obj.hypothesis.inner_test, item.nodeid.split("[")[0])


def counting(test, name):
    """The body of a test of hypothesis, which counts its examples; arguments that pytest gives are one test's."""

    @wraps(test)
    def counted(*arguments, **options):
        EXAMPLES[name] += 1
        return test(*arguments, **options)

    counted.counted = True
    return counted


def totals(passed, examples):
    """Bad inputs, faults and examples of the tests that passed: node ids with their own properties, and counts."""
    files = [(Path(nodeid.split("::")[0]).name, dict(properties)) for nodeid, properties in passed]
    names = {nodeid.split("[")[0] for nodeid, _ in passed}
    return {
        "bad inputs tried": sum(file == BAD_INPUTS for file, _ in files),
        "faults survived": sum(properties.get("faults", FAULTS.get(file, 0)) for file, properties in files),
        "property examples": sum(n for name, n in examples.items() if name in names and BAD_INPUTS not in name),
    }


def promised(text):
    """What README's table says that a run tries: rows `| bad inputs tried | 300 |`."""
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d,]+) \|", text, re.MULTILINE)
    return {what: int(n.replace(",", "")) for what, n in rows if what in totals([], {})}


def fell_short(found, said):
    """What was tried less often than README says: lines that say so."""
    less = [what for what in found if found[what] < said.get(what, 0)]
    return [f"README promises {said[what]} {what}, this run has {found[what]}" for what in less]


def found_by(config):
    passed = config.pluginmanager.get_plugin("terminalreporter").stats.get("passed", [])
    return totals([(report.nodeid, report.user_properties) for report in passed], EXAMPLES)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if session.config.getoption("file_or_dir") or session.config.getoption("collectonly") or session.shouldstop:
        return
    if fell_short(found_by(session.config), promised(README.read_text(encoding="utf-8"))):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter, config):
    done = yield  # the list of what failed
    found = found_by(config)
    if any(found.values()):
        terminalreporter.write_line("; ".join(f"{what}: {n}" for what, n in found.items()))
    if not config.getoption("file_or_dir"):  # all tests
        from ravl_core import provenance

        for line in fell_short(found, promised(README.read_text(encoding="utf-8"))):
            terminalreporter.write_line(line)
        for line in provenance.of_other_code() or ["all results are of the present code"]:
            terminalreporter.write_line(line)
    return done
