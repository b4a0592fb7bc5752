"""Runs a test once more whose process Ray has ended, and ends the commands that tests start."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _no_command_is_left() -> Iterator[None]:
    """A test that fails leaves no process behind; only those that it started itself are ended."""
    yield
    # A test that never loaded it started none, and need not wait for the engines.
    stub_sweep = sys.modules.get("tests.support.stub_sweep")
    commands = [] if stub_sweep is None else stub_sweep.commands
    while commands:
        process = commands.pop()
        process.kill()
        process.wait()
