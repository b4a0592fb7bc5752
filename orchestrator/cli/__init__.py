"""The command line `vl2v-orchestrate`: one file per group of commands, each imports what it needs when it runs."""

from __future__ import annotations

from orchestrator.cli import commands
from orchestrator.cli.app import app, main, run

__all__ = ["app", "commands", "main", "run"]
