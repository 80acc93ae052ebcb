"""`import ravl_core` is quick: what is slow to import waits until it is used, and every public name is there then."""

import subprocess
import sys

import pytest

import ravl_core

SLOW = ("torch", "open_clip", "torchvision", "sklearn", "skimage", "scipy", "pandas", "matplotlib", "numpy")


def test_the_package_alone_imports_nothing_slow():
    script = f"import ravl_core, sys; print([name for name in {SLOW} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


@pytest.mark.parametrize("command", ["study", "audit", "reproduce", "benchmarks.finetuning"])
def test_the_help_of_a_command_waits_for_nothing_slow(command):
    slow = sorted({*SLOW} - {"numpy"})
    script = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print([name for name in {slow} if name in sys.modules], file=sys.stderr))\n"
        f"sys.argv[1:] = ['--help']; runpy.run_module('ravl_core.{command}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]" and "usage:" in done.stdout


def test_the_public_names_are_listed():
    designed = {
        "load_vlm", "evaluate", "cluster_regions", "score_clusters", "discover", "RegionAwareLoss",
        "precision_at_k", "mitigate", "assign_regions",
    }  # fmt: skip
    assert designed <= set(ravl_core.__all__)
    assert dir(ravl_core) == ravl_core.__all__


@pytest.mark.parametrize("name", ravl_core.__all__)
def test_every_public_name_resolves(name):
    found = getattr(ravl_core, name)
    assert callable(found) and found.__name__ == name and found.__doc__


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'disover'.*discover"):
        ravl_core.disover  # noqa: B018
