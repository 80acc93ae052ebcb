"""What holds for every test: nothing is fetched, nothing is timed, and one thread computes."""

import os
import sys

# Before NumPy and scikit-learn are loaded: on small arrays a second thread mostly waits, and on a busy machine long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

pytest_plugins = ["counts"]

os.environ["HF_HUB_OFFLINE"] = "1"

# Hypothesis fails an example that takes longer than 200 ms, which on a busy machine says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="module")
def initial():
    """A model of random weights, where a module has no other."""
    from tiny import tiny_vlm

    return tiny_vlm()


@pytest.fixture(scope="module")
def data():
    """Forty digits of three classes, where a module has no other."""
    from recipe_runs import few_classes

    return few_classes(40)


@pytest.fixture(scope="module")
def assignment(data):
    """Which regions are spurious, by chance, (M,)."""
    from recipe_runs import some

    return some(len(data.boxes))


@pytest.fixture(scope="module")
def one_thread():
    """Sums in one order, so that equal runs give equal bytes, whatever the environment asks for."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def no_open_figures():
    """Each module starts without open figures: one that a refused drawing left elsewhere is not its affair."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    yield
