"""The commands: one file per heading of `--help`, two where one would be long. Importing this registers them all."""

from __future__ import annotations

from orchestrator.cli.commands import (
    cluster,
    control,
    data,
    data_fetch,
    look,
    reference,
    results,
    run,
    run_fold,
    teacher,
    teacher_serve,
)

__all__ = [
    "cluster",
    "control",
    "data",
    "data_fetch",
    "look",
    "reference",
    "results",
    "run",
    "run_fold",
    "teacher",
    "teacher_serve",
]
