"""The options that commands share: one field is one option, of every command that takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli import shared_options
from orchestrator.cli.options import JsonOption
from orchestrator.cli.shared_options import Taken, expanded
from orchestrator.cli.sweep_arguments import RunArguments, SweepArguments
from orchestrator.run_options import Limits, RunOptions
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from search_spaces.settings import option
from tests.support.command_lines import parsed, requested

Asked = tuple[RunArguments, str, bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A nested part."""

    spokes: int | None = field(default=None, metadata=option("Where"))
    """How many spokes [of steel]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bicycle:
    """Stands in for `RunOptions`."""

    bell: bool = field(default=True, metadata=option("Where"))
    """Whether it rings."""
    gears: tuple[str, ...] = field(default=(), metadata=option("How folds run", flag="--gear"))
    """Which gears."""
    wheel: Wheel = field(default_factory=Wheel)


@pytest.fixture
def bicycle(monkeypatch: pytest.MonkeyPatch) -> tuple[typer.Typer, list[Asked]]:
    """A command line of one command whose shared options are the fields of `Bicycle`."""
    monkeypatch.setattr(shared_options, "FIELDS_OF", {RunArguments: Bicycle})
    line, asked = typer.Typer(add_completion=False), list[Asked]()

    @line.command()
    @expanded
    def ride(run: RunArguments, name: Annotated[str, typer.Option("--name")], as_json: JsonOption = False) -> None:
        """Ride."""
        asked.append((run, name, as_json))

    return line, asked


def test_a_field_is_an_option_beside_the_command_s_own(bicycle: tuple[typer.Typer, list[Asked]]) -> None:
    line, asked = bicycle
    words = ["--gear", "high, low", "--gear", "none", "--name", "x", "--no-bell", "--spokes", "36", "--json"]
    assert CliRunner().invoke(line, words).exit_code == 0
    assert CliRunner().invoke(line, ["--name", "y"]).exit_code == 0
    first, second = asked
    given = {"bell": False, "gears": ["high", "low", "none"], "wheel.spokes": 36}
    assert (dict(first[0].given), *first[1:]) == (given, "x", True)
    # What is not said has no value here, so that it hides nothing.
    assert (dict(second[0].given), *second[1:]) == ({}, "y", False)


def test_a_command_takes_what_it_names() -> None:
    def names(taken: Taken) -> list[str]:
        return [name for name, _ in taken.options(Bicycle)]

    assert names(Taken()) == ["bell", "gear", "spokes"]
    assert names(Taken(only=("spokes",))) == ["spokes"]
    assert names(Taken(panels=("Where",))) == ["bell", "spokes"]
    assert names(Taken(panels=("Where",), without=("bell",))) == ["spokes"]


def test_what_is_given_replaces_nested_fields_and_nothing_else() -> None:
    ran = RunOptions(max_concurrent=2, limits=Limits(wall_hours=3.0), resources=Resources(workers=2, batch_pieces=4))
    given = {"limits.money": 1.0, "limits.wall_hours": 5.0, "resources.workers": 1}
    assert RunArguments(given=given).over(ran) == RunOptions(
        max_concurrent=2, limits=Limits(wall_hours=5.0, money=1.0), resources=Resources(workers=1, batch_pieces=4)
    )
    with pytest.raises(UserError, match="--money-budget is a number, 0 or more, got -1"):
        _ = RunArguments(given={"limits.money": -1.0}).options


def test_the_default_of_an_option_hides_no_configuration(tmp_path: Any) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "sweep: {benchmarks: [PACS], methods: [erm], trials: 7, sampler: random}\nresources: {workers: 2}"
    )
    request = requested("--config", str(config))
    assert (request.sweep.trials, request.sweep.sampler, request.options.resources.workers) == (7, "random", 2)
    request = requested("--config", str(config), "--sampler", "tpe", "--workers", "1", "--max-failures", "3")
    assert (request.sweep.trials, request.sweep.sampler, request.options.resources.workers) == (7, "tpe", 1)
    assert request.options.max_failures == 3


def test_retry_shows_what_it_takes_where_nothing_is_said() -> None:
    _, context = parsed("retry", "--out", "runs/x")
    (option,) = (parameter for parameter in context.command.params if parameter.name == "max_failures")
    assert option.show_default == "as it last ran"
    assert not {"executor", "retry_failed", "workers"} & {parameter.name for parameter in context.command.params}


def test_a_bracket_in_a_meaning_is_no_style(bicycle: tuple[typer.Typer, list[Asked]]) -> None:
    assert "How many spokes [of steel]." in CliRunner().invoke(bicycle[0], ["--help"]).output


def test_an_option_of_what_is_none_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="stop_level is no option"):
        shared_options.option_of(shared_options.FIELDS_OF[SweepArguments], "stop_level")
