"""A measurement in a process of its own, so that its peak of memory is nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL
from pathlib import Path

MEGABYTE = 1e6


def resident_mb(entry: str) -> float:
    """What Linux says of this process's memory ("VmRSS" now, "VmHWM" the peak); NaN elsewhere."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status[entry].split()[0]) * 1024 / MEGABYTE
    except (OSError, KeyError):
        return float("nan")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes, and by how many MB memory grew at its peak (NaN where the system does not say)."""
    with suppress(OSError, AttributeError):  # elsewhere than on Linux
        CDLL(None).malloc_trim(0)  # what is free, but was not given back, would hide what is needed
        Path("/proc/self/clear_refs").write_text("5")  # from now on, the highest is that since now
    before, start = resident_mb("VmRSS"), time.perf_counter()
    work()
    return time.perf_counter() - start, resident_mb("VmHWM") - before


def in_a_fresh_process(function: str, *arguments) -> object:
    """What `module.function(*arguments)` of this package gives in a new Python; arguments and result as JSON.

    Raises
    ------
    subprocess.CalledProcessError
        It failed there.
    """
    module, name = function.rsplit(".", 1)
    call = f"import json, sys; from {module} import {name} as f; print(json.dumps(f(*json.loads(sys.argv[1]))))"
    environment = os.environ | {"RAVL_PROGRESS": "off"}
    command = [sys.executable, "-c", call, json.dumps(arguments)]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(said.splitlines()[-1])
