"""Writes the pages that follow from the code: docs/commands.md, docs/settings.md, docs/configuration.schema.json.

python -m tests.docs.generate
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from orchestrator.cli import app
from orchestrator.cli.app import GROUPS, PROGRAM
from orchestrator.cli.catalogue import SECTION_TITLES, catalogue
from orchestrator.cli.commands.reference import entry_lines
from orchestrator.cli.configuration_schema import configuration_schema
from orchestrator.exit_codes import ExitCode
from tests.support.repository import REPOSITORY

EXIT_CODES = {
    ExitCode.DONE: "done",
    ExitCode.USER_MISTAKE: "your mistake, or something that failed: one line on stderr says what and where to look",
    ExitCode.FAILED_FOLDS: "finished with failed folds, or `rerun` found a difference",
    ExitCode.BUDGET_REACHED: "a budget was reached",
    ExitCode.INTERRUPTED: "interrupted: run the same command to resume",
}


def commands() -> Iterator[tuple[str, str, Any]]:
    """Every command with its heading and its full name, in the order of `--help`."""

    def below(heading: str, name: str, command: Any) -> Iterator[tuple[str, str, Any]]:
        if not hasattr(command, "commands"):
            yield heading, name, command
            return
        for child in command.list_commands(None):
            inner = command.commands[child]
            yield from below(heading or inner.rich_help_panel, f"{name} {child}", inner)

    yield from below("", PROGRAM, typer.main.get_command(app))


def commands_page() -> str:
    """Every command and option, with defaults."""
    lines = ["# Commands", "", "This page is written from `--help` (`python -m tests.docs.generate`).", ""]
    found = list(commands())
    for heading in GROUPS:
        lines += [f"## {heading}", ""]
        for group, name, command in found:
            if group == heading:
                lines += _command_lines(name, command)
    lines += ["## Exit codes", ""]
    assert set(EXIT_CODES) == set(ExitCode)
    lines += [f"* {int(code)}: {words}." for code, words in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"


def _command_lines(name: str, command: Any) -> list[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"### {name.removeprefix(f'{PROGRAM} ')}", "", *_paragraphs(command.help), "", f"    {usage}", ""]
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        panels.setdefault(getattr(parameter, "rich_help_panel", None) or "", []).append(_parameter_line(parameter))
    for panel, described in panels.items():
        lines += [*([f"{panel}:", ""] if panel else []), *described, ""]
    return lines


def _parameter_line(parameter: Any) -> str:
    value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or ""
    if parameter.param_type_name == "argument":
        names = value or parameter.name
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts]) + (f" {value}" if value else "")
    return f"* `{names}`{_default(parameter)}: {_plain(parameter.help)}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return " (required)"
    shown = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    if shown is None or (isinstance(shown, bool) and not shown) or shown in ((), []):
        return ""
    return f" (default: {'on' if shown is True else shown})"


def _paragraphs(text: str) -> list[str]:
    first, *others = (_plain(part) for part in text.split("\n\n"))
    return [first, *(line for part in others for line in ("", part))]


def _plain(text: str) -> str:
    """Help on one line, without the terminal's escapes."""
    return " ".join(text.split()).replace("\\[", "[")


def settings_page() -> str:
    """Every setting, a section each."""
    lines = [
        "# Settings",
        "",
        "This page is written from the code (`python -m tests.docs.generate`). `vl2v-orchestrate settings KEY` prints",
        "one of them. A hyperparameter is given as `align.lr=1e-4`. Another setting is given with its section",
        "(`sweep.trials=3`), or as an option. In a configuration file each stands in its section;",
        "[configuration.schema.json](configuration.schema.json) is the schema of such a file.",
        "",
    ]
    for section, title in SECTION_TITLES.items():
        lines += [f"## {title.replace('`', '')}", ""]
        for entry in catalogue():
            if entry.section == section:
                _, meaning, *facts = entry_lines(entry)
                listed = [" ".join(fact.split()) for fact in facts if fact.split() != ["methods", "all"]]
                lines += [f"### {entry.key}", "", meaning.strip(), "", *(_fact(line) for line in listed), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _fact(line: str) -> str:
    name = next(name for name in ("default", "allowed", "given as", "read by", "methods") if line.startswith(name))
    return f"* {name}: `{line.removeprefix(name).strip()}`"


@cache
def pages() -> dict[str, str]:
    """What stands in each generated file of docs/."""
    return {
        "commands.md": commands_page(),
        "settings.md": settings_page(),
        "configuration.schema.json": json.dumps(configuration_schema(), indent=1) + "\n",
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (REPOSITORY / "docs" / name).write_text(text)
