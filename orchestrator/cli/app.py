"""The typer app, its entry point, and how a mistake becomes one line and an `ExitCode`."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from orchestrator.exit_codes import ExitCode
from search_spaces.errors import UserError, unknown_name
from trainables.storage.redaction import redact
from trainables.teacher.ledger import BudgetReached

PROGRAM = "vl2v-orchestrate"
RUN_AGAIN = "what is done is kept; mend that and run the same command to resume"


GROUPS = ("Run", "Look", "Control", "Data", "Teacher", "Cluster", "Results", "Reference")
"""Headings of `--help` in their order; each has its file in `commands/`."""


class CommandGroup(TyperGroup):
    """A group that names the nearest commands when it does not know one, and shows its own by heading."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for parameter in (*self.params, *(one for command in self.commands.values() for one in command.params)):
            if getattr(parameter, "is_flag", False):
                # Typer shows the type `<bool>` otherwise.
                parameter.metavar = ""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands by heading; those of one heading as they are registered."""
        place = {name: number for number, name in enumerate(GROUPS)}
        return sorted(self.commands, key=lambda name: place.get(getattr(self.commands[name], "rich_help_panel", ""), 0))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise unknown_name("command", name, self.commands)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Search, train, track and report leave-one-domain-out folds of VL2V-ADiP."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed(PROGRAM))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    if sys.getfilesystemencoding().lower() != "utf-8":
        # Names on disk are UTF-8 whatever the locale says; Python decides how it reads them before it runs anything.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a user's mistake is one line on stderr."""
    if sys.stdout is None:
        return _mistake("stdout is closed, so there is nowhere to print; give it a file, a pipe or /dev/null")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold letters that this terminal has not.
        sys.stdout.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(arguments), prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        return _mistake(str(error))
    except BudgetReached as reached:
        print(f"error: {reached}", file=sys.stderr)
        return ExitCode.BUDGET_REACHED
    except typer.TyperException as error:
        return _mistake(_usage_line(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _unheard()
    except SystemExit as ended:
        # Typer ends the process with 1 where a pipe is broken.
        if isinstance(ended.__context__, BrokenPipeError):
            return _unheard()
        raise
    except OSError as error:
        _drop_output()
        return _mistake(f"{_os_line(error)}; {RUN_AGAIN}")
    except json.JSONDecodeError as error:
        # What is written appears whole or not at all, so this is a file that lost its bytes later.
        return _mistake(f"a JSON file is damaged ({error.msg}, {error.doc[:40]!r} is read); {RUN_AGAIN}")
    return code if isinstance(code, int) else ExitCode.DONE


def _unheard() -> int:
    """The reader (`| head`) has gone: nothing is left to say, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.DONE


def _drop_output() -> None:
    """Where stdout takes nothing more, keep Python from trying again at exit, which would end in exit code 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _mistake(line: str) -> int:
    print(f"error: {redact(' '.join(line.split()))}", file=sys.stderr)
    return ExitCode.USER_MISTAKE


def _os_line(error: OSError) -> str:
    """What the system refused, and for which file."""
    said = error.strerror or str(error) or type(error).__name__
    return said if error.filename is None else f"{error.filename}: {said}"


def _usage_line(error: typer.TyperException) -> str:
    """Typer's message, or for an unknown option the nearest ones."""
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None and option is not None:
        allowed = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        return str(unknown_name("option", option, [*allowed, "--help"], hint=f"see {context.command_path} --help"))
    message = error.format_message()
    return f"{message} See {context.command_path} --help" if context is not None else message
