"""Runs a test once more whose process Ray has ended, and lets Ctrl-C reach the commands that tests start."""

from __future__ import annotations

import signal
from typing import Any

import pytest

_ended: set[str] = set()


def pytest_configure() -> None:
    """Whatever a shell runs in its background ignores Ctrl-C, and so does what that starts: a command could not end."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any, sched: Any) -> None:
    """A raylet that dies takes the process that started it along, without a word: that is no verdict on the test.

    The second time it is.
    """
    if crashitem not in _ended:
        _ended.add(crashitem)
        sched.mark_test_pending(crashitem)
        report.outcome, report.longrepr = "skipped", (crashitem, 0, "its process was ended; it is run once more")
