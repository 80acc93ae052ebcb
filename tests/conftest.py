"""What holds for every test: nothing is fetched, nothing is timed, and one thread computes."""

import os
import sys

# Before NumPy and scikit-learn are loaded: on small arrays a second thread mostly waits, and on a busy machine long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"

# Hypothesis fails an example that takes longer than 200 ms, which on a busy machine says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
