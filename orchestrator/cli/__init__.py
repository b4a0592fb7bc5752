"""The command line `vl2v-orchestrate`: one file per group of commands, each imports what it needs when it runs."""

from __future__ import annotations

from orchestrator.cli import checks, data, fetching, planning, running, teacher, viewing
from orchestrator.cli.app import app, main, run

__all__ = ["app", "checks", "data", "fetching", "main", "planning", "run", "running", "teacher", "viewing"]
