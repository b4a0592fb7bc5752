"""Command lines that are parsed and not run."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer

from orchestrator.cli import app
from orchestrator.cli.app import PROGRAM
from orchestrator.cli.shared_options import collected
from orchestrator.cli.sweep_arguments import Request, RunArguments, SweepArguments, build_request


def parsed(*words: str) -> tuple[str, Any]:
    """A command line, without the program: the command's name, and the context that it would run in."""
    command: Any = _command()
    context, arguments = command.make_context(PROGRAM, list(words)), list(words)
    names = []
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, arguments)
        names.append(name)
        context = command.make_context(name, list(arguments), parent=context)
    return " ".join(names), context


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def requested(*words: str) -> Request:
    """What `sweep` with these words asks for."""
    _, context = parsed("sweep", *words)
    return request_of(context)


def request_of(context: Any) -> Request:
    """What a command line that was parsed asks for."""
    return build_request(collected(SweepArguments, context), collected(RunArguments, context))
