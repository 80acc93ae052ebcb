"""What holds for every test: nothing is fetched, and torch, where a run has loaded it, keeps to one thread."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
