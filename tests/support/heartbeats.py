"""Leases of this process that beat faster than in earnest."""

from __future__ import annotations

import pytest

import trainables.storage.leases


def quick_heartbeats(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let leases that are taken from now on beat every so many seconds.

    A heart of their own beats for them: the process's own may be waiting for a lease that another test never gave back.
    """
    monkeypatch.setattr(trainables.storage.leases, "HEARTBEAT_S", seconds)
    monkeypatch.setattr(trainables.storage.leases, "_heart", trainables.storage.leases._Heart())
