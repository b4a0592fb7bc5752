"""The README's commands parse, every command and option has help, and the deviations are gathered."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from orchestrator.cli import app
from orchestrator.cli.app import PROGRAM
from tests.support.command_lines import parsed, request_of
from tests.support.repository import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def command_lines() -> list[str]:
    """Every line of the README's bash blocks."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, groups left out."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for child, inner in command.commands.items():
                yield from below(f"{name} {child}", inner)
        else:
            yield name, command

    yield from below(PROGRAM, typer.main.get_command(app))


def parse(line: str) -> tuple[str, Any]:
    """Parse a command line without running it: the command's name and its context."""
    program, *arguments = shlex.split(line)
    assert program == PROGRAM
    return parsed(*arguments)


OURS = [line for line in command_lines() if line.startswith(PROGRAM)]


def test_the_readme_shows_every_command() -> None:
    shown = {parse(line)[0] for line in OURS}
    assert shown == {name.removeprefix(f"{PROGRAM} ") for name, _ in commands()}


def test_every_line_is_ours_or_makes_a_target() -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    for line in command_lines():
        if not line.startswith(PROGRAM):
            program, target = line.split()
            assert (program, target in targets) == ("make", True), line


@pytest.mark.parametrize("line", OURS)
def test_a_command_line_parses(line: str, tmp_path: Path) -> None:
    for domain in ("day", "night"):
        (tmp_path / "pets" / domain / "cat").mkdir(parents=True)
    name, context = parse(line.replace("DIR", str(tmp_path)))
    if name in ("plan", "sweep"):
        assert request_of(context).options.benchmarks


def test_a_wrong_line_would_not_parse() -> None:
    with pytest.raises(typer.TyperException):
        parse(f"{PROGRAM} plan --no-such-option")


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_every_command_and_option_has_help(name: str, command: Any) -> None:
    assert command.help, name
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name}"


def test_every_option_help_fits_its_readers() -> None:
    """Options that several commands share say the same everywhere."""
    said: dict[str, set[str]] = {}
    shared = {"benchmark", "data_root", "config", "workers", "gpus_per_worker", "executor", "address", "error"}
    for name, command in commands():
        for parameter in command.params:
            if parameter.name in shared and "sample" not in name:
                said.setdefault(parameter.name, set()).add(parameter.help)
    assert {name for name, texts in said.items() if len(texts) > 1} == set()


def test_the_deviations_are_gathered() -> None:
    section = README.partition("## Deviations")[2].partition("\n## ")[0]
    deviating = [
        path.relative_to(REPOSITORY)
        for package in ("search_spaces", "trainables", "orchestrator")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if re.search(r"Deviation: (?!none)", path.read_text())
    ]
    assert deviating
    assert [path for path in deviating if f"`{path}`" not in section] == []


def test_every_path_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`((?:trainables|search_spaces|orchestrator|docs)/[\w./]*)`", README))
    named |= set(re.findall(r"\((docs/[\w./-]+)\)", README))
    assert named
    assert {path for path in named if not (REPOSITORY / path).exists()} == set()


def test_no_machine_path_or_registry_host_is_tracked() -> None:
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    suffixes = {".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ""}
    forbidden = re.compile(r"(^|[^a-z])/(work|farm|root)/|index-url|find-links")
    found = []
    for name in listed.stdout.splitlines():
        path = REPOSITORY / name
        if path.suffix in suffixes and path.is_file() and path != Path(__file__):
            found += [name for line in path.read_text(errors="replace").splitlines() if forbidden.search(line)]
    assert found == []
