"""Ends the commands that a test started."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_command_is_left() -> Iterator[None]:
    """A test that fails leaves no process behind; only those that it started itself are ended."""
    yield
    # A test that never loaded it started none, and need not wait for the engines.
    stub_sweep = sys.modules.get("tests.orchestrator.stub_sweep")
    commands = [] if stub_sweep is None else stub_sweep.commands
    while commands:
        process = commands.pop()
        process.kill()
        process.wait()
