"""The one progress display: a bar on a terminal, a few plain lines elsewhere.

A bar that is drawn inside a notebook stays behind in the executed file, often frozen at 0 %. So there a long loop
writes a line every ten seconds, and none when it is over sooner. RAVL_PROGRESS=off silences it; the runner of the
notebooks does that, because how many lines there are depends on the machine.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 10.0


def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items of `iterable` and show how far it has come; `total` is needed where it has no length."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if os.environ.get("RAVL_PROGRESS") == "off":
        return iter(iterable)
    if sys.stderr.isatty():
        return _bar(iterable, description, total)
    return _lines(iterable, description, total)


def _bar(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    from tqdm import tqdm  # only here: what never draws a bar does not wait for it

    return iter(tqdm(iterable, desc=description, total=total, leave=False, file=sys.stderr))


def _lines(iterable: Iterable[Item], description: str, total: int | None) -> Iterator[Item]:
    started = last = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and done != total:
            print(f"{description}: {_how_far(done, total, now - started)}", file=sys.stderr, flush=True)
            last = now


def _how_far(done: int, total: int | None, seconds: float) -> str:
    """How many are done, at what rate, and how long the rest takes at that rate."""
    rate = f"{60 * done / seconds:.1f} a minute"
    if total is None:
        return f"{done} of ?, {rate}"
    return f"{done} of {total}, {rate}, {seconds / done * (total - done) / 60:.0f} min left"
