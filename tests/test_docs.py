"""The pages' commands parse, links lead somewhere, every option has help, and the deviations are gathered."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from orchestrator.cli import app
from orchestrator.cli.app import PROGRAM
from tests.docs.generate import pages
from tests.support.command_lines import parsed, request_of
from tests.support.repository import REPOSITORY

GENERATED = ("commands.md", "settings.md")
PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *(path for path in sorted((REPOSITORY / "docs").glob("*.md")) if path.name not in GENERATED),
)
"""What people wrote by hand."""

LINKED = (*PAGES, *(REPOSITORY / "docs" / name for name in GENERATED), REPOSITORY / "CHANGELOG.md")


def command_lines() -> list[str]:
    """Every line of the pages' bash blocks."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    ]
    return list(dict.fromkeys(line for block in blocks for line in block.splitlines() if line.strip()))


def outside_code(page: Path) -> str:
    """A page without its code, which holds brackets that are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Where a link into a page may lead: its headings, as GitHub and the site spell them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


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


def test_the_pages_show_every_command() -> None:
    shown = {parse(line)[0] for line in OURS}
    assert shown == {name.removeprefix(f"{PROGRAM} ") for name, _ in commands()}


def test_every_line_is_ours_or_makes_a_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    for line in command_lines():
        if not line.startswith((PROGRAM, ".venv/bin/python -m pytest tests/")):
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
    page = (REPOSITORY / "docs" / "reproduction.md").read_text()
    section = page.partition("## Deviations")[2].partition("\n## ")[0]
    deviating = [
        path.relative_to(REPOSITORY)
        for package in ("search_spaces", "trainables", "orchestrator")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if re.search(r"Deviation: (?!none)", path.read_text())
    ]
    assert deviating
    assert [path for path in deviating if f"`{path}`" not in section] == []


def test_every_path_that_a_page_names_exists() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"`((?:trainables|search_spaces|orchestrator|tests|docs)/[\w./]*)`", text))
    assert len(named) > 20
    assert {path for path in named if "NAME" not in path and not (REPOSITORY / path).exists()} == set()


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_link_and_image_leads_somewhere(page: Path) -> None:
    """Inside the repository; a page of docs/ links no file above it, because the site has none."""
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_code(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), f"{page.name}: {target}"
        assert path.is_relative_to(page.parent), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_the_site_has_every_page_once() -> None:
    navigation = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    listed = [page for entry in navigation for page in entry.values()]
    assert sorted(listed) == sorted(path.name for path in (REPOSITORY / "docs").glob("*.md"))
    index = (REPOSITORY / "docs" / "index.md").read_text()
    assert [page for page in listed if page != "index.md" and f"]({page})" not in index] == []


def test_every_picture_is_shown() -> None:
    pictures = {path.name for path in (REPOSITORY / "docs").iterdir() if path.suffix in (".png", ".svg")}
    shown = {name for page in PAGES for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())}
    assert pictures == shown


def test_the_readme_is_two_screens() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    first_day = readme.partition("## The first day")[2].partition("\n## ")[0]
    assert [parse(line)[0] for line in first_day.splitlines() if line.startswith(PROGRAM)] == [
        *("doctor", "plan", "sweep", "status", "report")
    ]


@pytest.mark.parametrize("name", pages())
def test_generated_pages_are_what_the_code_says(name: str) -> None:
    assert (REPOSITORY / "docs" / name).read_text() == pages()[name], "write it anew: python -m tests.docs.generate"


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
