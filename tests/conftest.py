"""What holds for every test: nothing is fetched, nothing is timed, and torch keeps to one thread where it is loaded."""

import os
import sys

from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"

# Hypothesis fails an example that takes longer than 200 ms, which on a busy machine says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
