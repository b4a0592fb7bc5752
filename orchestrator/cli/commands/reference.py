"""`settings`, `spaces`, `methods` and `benchmarks`: what can be set and run, from the code that reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Annotated, Any

import typer

from orchestrator.cli.app import app
from orchestrator.cli.catalogue import SECTION_TITLES, Entry, as_typed, catalogue, find_entries
from orchestrator.cli.console import wide_console
from orchestrator.cli.options import JsonOption
from orchestrator.cli.shared_options import OverridesArgument
from search_spaces.benchmarks import BENCHMARKS, benchmark
from search_spaces.configuration import flat
from search_spaces.methods import METHODS, MethodFacts
from search_spaces.spaces import SPACES, Choice, Dimension, search_space
from search_spaces.sweeps import BENCHMARK_DEFAULTS, override_config, sweep_from_mapping


@app.command("settings", rich_help_panel="Reference")
def settings_command(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="[KEY]",
            help="A setting (align.lr, trials), a group of them (swad), or the last part of a name (lr).",
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a configuration file, for an editor.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show every setting: its default, what is allowed, what it means, who reads it, where benchmarks differ."""
    if schema:
        from orchestrator.cli.configuration_schema import configuration_schema

        typer.echo(json.dumps(configuration_schema(), indent=1))
        return
    found = catalogue() if key is None else find_entries(key)
    if as_json:
        typer.echo(json.dumps([entry.to_mapping() for entry in found], indent=1))
    elif key is None:
        _show_all(found)
    else:
        for number, entry in enumerate(found):
            typer.echo(("\n" if number else "") + "\n".join(entry_lines(entry)))


def _show_all(found: Sequence[Entry]) -> None:
    """By section; a table of so many columns would be unreadable on a terminal."""
    width = wide_console().width
    for section, title in SECTION_TITLES.items():
        typer.echo(f"\n{title}\n")
        for entry in found:
            if entry.section == section:
                facts = f"{entry.key} = {entry.default_text}  ({entry.allowed}; read by: {entry.read_by})"
                typer.echo(fill(facts, width, subsequent_indent="  ", break_on_hyphens=False))
                typer.echo(
                    fill(entry.meaning, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
                )


def entry_lines(entry: Entry) -> list[str]:
    """One setting, a fact a line."""
    ways = [entry.flag] if entry.flag else []
    ways += [f"{entry.key}=VALUE"] if entry.section != "options" else []
    facts = {
        "default": entry.default_text,
        "allowed": entry.allowed,
        "given as": " or ".join(ways),
        "read by": entry.read_by,
        "methods": "all" if entry.methods == tuple(METHODS) else ", ".join(entry.methods),
    }
    return [entry.key, f"  {entry.meaning}", *(f"  {name:9} {text}" for name, text in facts.items())]


@app.command("spaces", rich_help_panel="Reference")
def spaces_command(
    overrides: OverridesArgument = None,
    name: Annotated[str | None, typer.Option("--space", metavar="NAME", help="One space alone.")] = None,
    on: Annotated[str, typer.Option("--benchmark", metavar="NAME", help="Benchmark that is searched.")] = "PACS",
    as_json: JsonOption = False,
) -> None:
    """Show the search spaces: which hyperparameters vary, how far, and for which methods."""
    spaces = [search_space(name)] if name is not None else list(SPACES.values())
    found = {space.name: _dimensions(space.name, benchmark(on).name, overrides or ()) for space in spaces}
    if as_json:
        content = [{"name": space.name, "summary": space.summary, "dimensions": found[space.name]} for space in spaces]
        typer.echo(json.dumps(content, indent=1))
        return
    for space in spaces:
        typer.echo(f"\n{space.name}: {space.summary}")
        rows = [(item["key"], item["values"], ", ".join(item["methods"])) for item in found[space.name]]
        if rows:
            _show_table(("hyperparameter", "values", "methods"), rows)


def _dimensions(space: str, name: str, overrides: Iterable[str]) -> list[dict[str, Any]]:
    """What a space varies, with the methods that each dimension is the same for."""
    methods = [method for method, facts in METHODS.items() if facts.trains]
    config = override_config({"sweep": {"benchmarks": [name], "methods": methods}}, overrides)
    hyperparameters = sweep_from_mapping(config).hyperparameters_for(name)
    found: dict[tuple[str, str], list[str]] = {}
    for method in methods:
        for key, dimension in search_space(space).dimensions(BENCHMARKS[name], method, hyperparameters).items():
            found.setdefault((key, dimension_text(dimension)), []).append(method)
    return [{"key": key, "values": text, "methods": listed} for (key, text), listed in sorted(found.items())]


def dimension_text(dimension: Dimension) -> str:
    """A dimension in words: `0.1, 0.5`, `1e-06 to 0.01 (logarithmic)`, `1 to 6 (whole numbers)`."""
    if isinstance(dimension, Choice):
        return ", ".join(as_typed(value) for value in dimension.values)
    ends = f"{as_typed(dimension.low)} to {as_typed(dimension.high)}"
    kind = "logarithmic" if getattr(dimension, "log", False) else "whole numbers" if type(dimension.low) is int else ""
    return f"{ends} ({kind})" if kind else ends


@app.command("methods", rich_help_panel="Reference")
def methods_command(as_json: JsonOption = False) -> None:
    """Show the methods: their stages, and what they ask the teacher."""
    if as_json:
        content = [
            {"name": facts.name, "title": facts.title, "stages": list(facts.stages), "asks": _asked(facts)}
            for facts in METHODS.values()
        ]
        typer.echo(json.dumps(content, indent=1))
        return
    rows = [
        (facts.name, facts.title, ", ".join(facts.stages) or "-", ", ".join(_asked(facts)) or "-")
        for facts in METHODS.values()
    ]
    _show_table(("method", "what it is", "stages", "asks the teacher for"), rows)


def _asked(facts: MethodFacts) -> list[str]:
    asked = {"images": facts.uses_teacher_images, "texts": facts.uses_teacher_texts}
    return [name for name, is_asked in asked.items() if is_asked]


@app.command("benchmarks", rich_help_panel="Reference")
def benchmarks_command(as_json: JsonOption = False) -> None:
    """Show the registered benchmarks: domains, classes, images, steps, and the settings that they bring along."""
    if as_json:
        typer.echo(json.dumps([_benchmark_facts(name) for name in BENCHMARKS], indent=1))
        return
    width = wide_console().width
    for name in BENCHMARKS:
        for number, line in enumerate(benchmark_lines(_benchmark_facts(name))):
            typer.echo(fill(line, width, initial_indent="  " if number else "", subsequent_indent="    "))


def benchmark_lines(facts: Mapping[str, Any]) -> list[str]:
    """A benchmark in two or three lines."""
    lines = [
        f"{facts['name']} (folder {facts['folder']}): {facts['classes']} classes, {facts['images']:,} images, views of "
        f"{facts['image_size']} pixels, {facts['num_steps']} steps a stage, evaluated every {facts['evaluate_every']}",
        "domains: " + ", ".join(f"{one['name']} ({one['letter']}, {one['images']:,})" for one in facts["domains"]),
    ]
    if facts["settings"]:
        lines.append("brings along: " + ", ".join(f"{key}={as_typed(own)}" for key, own in facts["settings"].items()))
    return lines


def _benchmark_facts(name: str) -> dict[str, Any]:
    known = BENCHMARKS[name]
    return {
        "name": name,
        "folder": known.folder,
        "domains": [
            {"name": domain.name, "letter": domain.letter, "images": domain.num_images} for domain in known.domains
        ],
        "classes": known.num_classes,
        "images": known.num_images,
        "num_steps": known.num_steps,
        "evaluate_every": known.evaluate_every,
        "image_size": known.image_size,
        "settings": flat(BENCHMARK_DEFAULTS.get(name, {})),
    }


def _show_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, title in enumerate(head):
        # The name is what one types.
        table.add_column(title, no_wrap=number == 0)
    for row in rows:
        # A bracket in a text is no style.
        table.add_row(*map(Text, row))
    wide_console().print(table)
