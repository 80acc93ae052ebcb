"""The progress display: a bar on a terminal only, and never a change to what is iterated."""

import io
import re
import sys

import pytest

from ravl_core import progress
from ravl_core.progress import track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes by six seconds with every look at it."""
    monkeypatch.delenv("RAVL_PROGRESS", raising=False)
    ticks = iter(range(0, 10_000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
@pytest.mark.parametrize("silence", ["", "off"])
def test_the_items_come_through(monkeypatch, stderr, silence):
    monkeypatch.setenv("RAVL_PROGRESS", silence)
    monkeypatch.setattr(sys, "stderr", stderr())
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert list(track((x for x in range(3)), "numbers", total=3)) == [0, 1, 2]
    assert list(track(iter(()), "nothing")) == []


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(track(range(4), "fine-tune"))
    assert "fine-tune" in sys.stderr.getvalue() and "\r" in sys.stderr.getvalue()


def test_elsewhere_there_are_a_few_lines(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    list(track(range(8), "fine-tune"))
    lines = sys.stderr.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"fine-tune: {done} of 8" for done in (2, 4, 6)]
    assert all(re.fullmatch(r"[^,]+, \d+\.\d a minute, \d+ min left", line) for line in lines)


def test_rate_and_time_left_follow_from_what_is_done():
    assert progress._how_far(30, 120, 600.0) == "30 of 120, 3.0 a minute, 30 min left"
    assert progress._how_far(1, None, 30.0) == "1 of ?, 2.0 a minute"


def test_a_loop_of_unknown_length_says_so(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    list(track((x for x in range(3)), "fine-tune"))
    assert sys.stderr.getvalue().startswith("fine-tune: 2 of ?, ")


def test_a_short_loop_is_silent(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e9)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    list(track(range(100), "fine-tune"))
    assert sys.stderr.getvalue() == ""


def test_off_means_off(monkeypatch):
    monkeypatch.setenv("RAVL_PROGRESS", "off")
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(track(range(8), "fine-tune"))
    assert sys.stderr.getvalue() == ""


def test_an_error_in_the_loop_is_not_swallowed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with pytest.raises(ZeroDivisionError):
        list(track((1 // x for x in (1, 0)), "divide", total=2))
