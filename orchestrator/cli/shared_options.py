"""The options that commands share, written once: where their fields are, in `Sweep` and in `RunOptions`.

A command asks for them with a parameter of type `SweepArguments` or `RunArguments`; `expanded` puts an option in its
place for every field that is one:

    @app.command("plan")
    @expanded
    def plan_command(asked: SweepArguments, run: Annotated[RunArguments, Taken(without=("retry_failed",))]) -> None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from orchestrator.cli.sweep_arguments import RunArguments, SweepArguments, listed
from orchestrator.run_options import RunOptions
from search_spaces.settings import Panel, Setting, settings
from search_spaces.sweeps import Sweep

FIELDS_OF: Mapping[type, type] = {SweepArguments: Sweep, RunArguments: RunOptions}

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE.yaml",
        help="Configuration file, or a packaged one: demo.yaml, smoke.yaml.",
        rich_help_panel="What is run",
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides: align.lr=1e-4, resources.threads_per_worker=2, ..."),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """Which of the shared options a command takes, by parameter name (`max_concurrent`); all where nothing is said."""

    only: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    without: tuple[str, ...] = ()
    absent: str = ""
    """What help shows as the default of each, where that is not the field's own."""

    def options(self, cls: type) -> Iterator[tuple[str, Setting]]:
        """The fields of a dataclass that the command takes as options, by parameter name."""
        for setting in settings(cls):
            name = setting.flag.removeprefix("--").replace("-", "_")
            if setting.option is None or name in self.without:
                continue
            if (not self.only or name in self.only) and (not self.panels or setting.option.panel in self.panels):
                yield name, setting


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with options in place of its parameters of type `SweepArguments` and `RunArguments`."""
    bundles: dict[str, tuple[type, Taken]] = {}
    parameters = [_parameter("context", typer.Context)]
    hints = get_type_hints(command, include_extras=True)
    for name, own in inspect.signature(command).parameters.items():
        kind, *notes = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if kind in FIELDS_OF:
            taken = next((note for note in notes if isinstance(note, Taken)), Taken())
            bundles[name] = kind, taken
            parameters += _declared(kind, taken)
        else:
            parameters.append(_parameter(name, hints[name], own.default))

    @wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        shared = {name: collected(kind, context, taken) for name, (kind, taken) in bundles.items()}
        command(**shared, **{name: values[name] for name in hints if name in values})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def collected(kind: type, context: typer.Context, taken: Taken | None = None) -> Any:
    """The `SweepArguments` or `RunArguments` of a command line that was parsed."""
    given = {}
    for name, setting in (taken or Taken()).options(FIELDS_OF[kind]):
        source, value = context.get_parameter_source(name), context.params.get(name)
        # A default that went on would hide what the configuration says, or what the sweep last ran with.
        if source is not None and source.name != "DEFAULT":
            given[setting.place] = listed(value or ()) if get_origin(setting.kind) is tuple else value
    if kind is RunArguments:
        return RunArguments(given=given)
    overrides = tuple(context.params.get("overrides") or ())
    return SweepArguments(given=given, config=context.params.get("config"), overrides=overrides)


def option_of(cls: type, place: str) -> Any:
    """The declaration of one field's option, for a command that takes no more."""
    (setting,) = (one for one in settings(cls) if one.place == place)
    return _option(setting)


def _declared(kind: type, taken: Taken) -> Iterator[inspect.Parameter]:
    """The parameters that typer sees in place of a `SweepArguments` or `RunArguments`."""
    if kind is SweepArguments:
        yield _parameter("overrides", OverridesArgument, None)
        yield _parameter("config", ConfigOption, None)
    for name, setting in taken.options(FIELDS_OF[kind]):
        default = setting.default if isinstance(setting.default, int | float | str) else None
        yield _parameter(name, Annotated[_type(setting), _option(setting, taken.absent)], default)


def _type(setting: Setting) -> Any:
    """What typer makes of a value; which ones are allowed, the dataclass says."""
    if get_origin(setting.kind) is tuple:
        return list[str] | None
    if setting.kind is bool:
        return bool
    return (str if setting.choices else setting.kind) | None


def _option(setting: Setting, absent: str = "") -> Any:
    assert setting.option is not None, f"{setting.place} is no option"
    can_be_turned_off = setting.kind is bool and setting.default
    return typer.Option(
        f"{setting.flag}/--no-{setting.flag.removeprefix('--')}" if can_be_turned_off else setting.flag,
        metavar=setting.metavar,
        # In the terminal's markup a bracket begins a style.
        help=setting.meaning.replace("[", r"\["),
        show_default=absent or True,
        rich_help_panel=setting.option.panel,
    )


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
