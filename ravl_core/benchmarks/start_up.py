"""How long one waits before anything begins: imports and the help of the commands, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COMMANDS = ("study", "audit", "reproduce")
STARTS = {
    "bare python": ("-c", "pass"),
    "import ravl_core": ("-c", "import ravl_core"),
    "import torch": ("-c", "import torch"),
    "first use of rc.discover": ("-c", "import ravl_core as rc; rc.discover"),
    "first use of rc.load_vlm": ("-c", "import ravl_core as rc; rc.load_vlm"),
    **{f"ravl_core.{name} --help": ("-m", f"ravl_core.{name}", "--help") for name in COMMANDS},
}


def start_up(starts: Mapping[str, Sequence[str]] = STARTS, n_rounds: int = 3) -> pd.DataFrame:
    """Seconds from the start of Python to its end, the median over rounds in which everything has its turn.

    Parameters
    ----------
    starts : what is measured → the arguments of Python.

    Returns
    -------
    DataFrame
        Columns what and seconds; the first row, a Python that does nothing, is the floor of the others.

    Raises
    ------
    subprocess.CalledProcessError
        A start failed.
    """
    import pandas as pd

    seconds = {what: [] for what in starts}
    for _ in range(n_rounds):
        for what, arguments in starts.items():
            seconds[what].append(_seconds_of(arguments))
    return pd.DataFrame({"what": list(seconds), "seconds": [median(values) for values in seconds.values()]})


def _seconds_of(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
