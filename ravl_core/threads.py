"""Work on parts of an array in threads: as many as the linear algebra of this process may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def n_threads() -> int:
    """Threads that NumPy's matrix products take in this process now: OMP_NUM_THREADS, a study's limit, or all cores."""
    from threadpoolctl import threadpool_info

    return min((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1)


def in_threads(work: Callable[[Any], Any], parts: Sequence[Any], most: int | None = None) -> list:
    """What `work` gives for each part, in their order, so that the number of threads changes no result.

    Parameters
    ----------
    work : called once a part. It gains where NumPy or SciPy lets go of the interpreter.
    parts : what it is called with.
    most : threads, at most; None: `n_threads`.
    """
    threads = min(most or n_threads(), len(parts))
    if threads < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, parts))
