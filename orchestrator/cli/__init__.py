"""The command line `vl2v-orchestrate`: one file per group of commands, each imports what it needs when it runs."""

from __future__ import annotations

from orchestrator.cli.app import app, main, run
from orchestrator.cli.commands import (
    checks,
    controlling,
    data,
    explaining,
    fetching,
    planning,
    serving,
    sweeping,
    syncing,
    teacher,
    training,
    viewing,
    watching,
)

__all__ = [
    "app",
    "checks",
    "controlling",
    "data",
    "explaining",
    "fetching",
    "main",
    "planning",
    "run",
    "serving",
    "sweeping",
    "syncing",
    "teacher",
    "training",
    "viewing",
    "watching",
]
