"""What a command line asks for, and the one place that turns options into a `Sweep`.

A later source wins: packaged defaults, then the configuration file, then options, then KEY=VALUE overrides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.run_options import RunOptions
from search_spaces.benchmarks import BENCHMARKS, HEADLINE, Benchmark
from search_spaces.errors import UserError, echoed, unknown_name
from search_spaces.methods import parse_methods
from search_spaces.sweeps import Sweep, load_config, override_config, resources_from_mapping, sweep_from_mapping
from trainables.student.names import student_weights_file
from trainables.teacher.names import check_teacher

LONGEST_NAME = 100
"""Bytes of a sweep's name: its key goes behind it in the name of a folder."""
RUNS = Path("runs")
"""Where sweeps go that were given no --out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a command line asks for."""

    sweep: Sweep
    options: RunOptions
    """Where and with what it runs; its benchmarks are those of the sweep."""
    says_trials: bool
    """Whether anything says how many trials there are."""

    def default_out(self) -> str:
        """A folder that follows from content, so that the same command without --out resumes too."""
        return str(RUNS / f"{self.sweep.name}-{self.sweep.key[:8]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepArguments:
    """What a command line says about a sweep."""

    config: str | None = None
    """Configuration file, or the name of a packaged one."""
    overrides: Sequence[str] = ()
    """`align.lr=1e-4`, ..."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Values of the options that were given, by the place of their field (`trials`, `hyperparameters.teacher`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunArguments:
    """What a command line says about how a sweep is run."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """Values of the options that were given, by the place of their field (`max_concurrent`, `limits.money`)."""

    def over(self, options: RunOptions) -> RunOptions:
        """The options, with what was given in place of theirs.

        Raises:
            UserError: a value that is not allowed.
        """
        for place, value in self.given.items():
            options = _replaced(options, place, value)
        return options

    @property
    def options(self) -> RunOptions:
        """What was given, and the default of everything else."""
        return self.over(RunOptions())


def build_request(asked: SweepArguments, run: RunArguments | None = None) -> Request:
    """Build the sweep and how it is run.

    Raises:
        UserError: an unknown name or key (with the nearest ones), or a value that is not allowed.
    """
    run = run or RunArguments()
    options = run.options
    config = load_config(asked.config) if asked.config else {}
    for place, value in asked.given.items():
        config = _put(config, place if "." in place else f"sweep.{place}", value)
    for place, value in run.given.items():
        if place.startswith("resources."):
            config = _put(config, place, value)
    if "methods" in asked.given:
        config = _put(config, "sweep.methods", list(parse_methods(",".join(asked.given["methods"]))))
    config = override_config(config, asked.overrides)
    benchmarks = resolve_names(_section(config, "sweep").get("benchmarks"), options.data_root)
    if benchmarks:
        config = _put(config, "sweep.benchmarks", list(benchmarks))
    return Request(
        sweep=sweep_from_mapping(_with_absolute_paths(config)),
        options=replace(options, benchmarks=benchmarks, resources=resources_from_mapping(config)),
        says_trials="trials" in _section(config, "sweep"),
    )


def check_search(request: Request) -> None:
    """Raises `UserError` for a space to search where nothing says how often: the one trial would search nothing."""
    space = request.sweep.space
    if space != "paper" and not request.says_trials:
        raise UserError(
            f"space {space} is searched by trials, and none are asked for; add --trials N with N of 2 or more, or "
            "leave --space out (--trials 1 runs the sweep's own hyperparameters)"
        )


def check_names(sweep: Sweep) -> None:
    """Raises `UserError` for a name that is none, and for a teacher or weights that cannot exist."""
    name = sweep.name
    if not name.strip() or not name.isprintable() or "/" in name or len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(
            f"--name is 1 to {LONGEST_NAME} bytes of printable text without '/', because a folder is called so; "
            f"got {name[:LONGEST_NAME]!r}"
        )
    for benchmark in sweep.benchmarks:
        hyperparameters = sweep.hyperparameters_for(benchmark)
        check_teacher(hyperparameters.teacher)
        student_weights_file(hyperparameters.student, hyperparameters.student_weights)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return the value, or raise `UserError` with the nearest ones."""
    if value not in allowed:
        raise unknown_name(f"value for {option}", value, allowed)
    return value


def resolve_names(names: Any, data_root: str | None) -> dict[str, Benchmark]:
    """The benchmarks by their own names, in order, once each.

    Raises:
        UserError: there is no such benchmark, or the data root is neither a folder nor an address (`s3://...`).
    """
    if data_root is not None and "://" not in data_root and not os.path.isdir(os.path.expanduser(data_root)):
        raise UserError(f"the data root {data_root} is not a folder")
    if names is None:
        return {}
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise UserError(f"sweep.benchmarks wants a list of names, got {echoed(names)}")
    resolved: dict[str, Benchmark] = {}
    for name in listed(given):
        for one in HEADLINE if name.lower() == "all" else (name,):
            benchmark = _benchmark(one, data_root)
            known = resolved.setdefault(benchmark.name, benchmark)
            if known != benchmark:
                raise UserError(f"two benchmarks are called {benchmark.name}: {known.folder} and {benchmark.folder}")
    return resolved


def _benchmark(name: str, data_root: str | None) -> Benchmark:
    for known in BENCHMARKS.values():
        if known.name.lower() == name.lower():
            return known
    from trainables.data.formats.open import resolve_benchmark

    return resolve_benchmark(name, data_root)


def _with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Weight files by absolute path: a worker has another working folder."""
    own = _section(config, "benchmark_hyperparameters")
    return {
        **config,
        "hyperparameters": _absolute(_section(config, "hyperparameters")),
        "benchmark_hyperparameters": {name: _absolute(_section(own, name)) for name in own},
    }


def _absolute(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    result = dict(hyperparameters)
    weights, teacher = result.get("student_weights"), result.get("teacher")
    if isinstance(weights, str) and weights not in ("pretrained", "random"):
        result["student_weights"] = _absolute_file(weights)
    if isinstance(teacher, str) and teacher.startswith("open_clip:"):
        kind, _, rest = teacher.partition(":")
        result["teacher"] = ":".join([kind, *(_absolute_file(part) for part in rest.split(":", 1))])
    return result


def _absolute_file(text: str) -> str:
    path = Path(text).expanduser()
    return str(path.resolve()) if path.suffix and path.is_file() else text


def listed(values: Sequence[str]) -> list[str]:
    """`--method erm,kd --method vl2v_adip` as three names."""
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def _put(config: Mapping[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A configuration with one value in its place."""
    head, _, rest = place.partition(".")
    return {**config, head: _put(_section(config, head), rest, value) if rest else value}


def _replaced(options: Any, place: str, value: Any) -> Any:
    """A dataclass with one field changed, of a nested one too."""
    head, _, rest = place.partition(".")
    return replace(options, **{head: _replaced(getattr(options, head), rest, value) if rest else value})


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise UserError(f"{name} wants a mapping, got {echoed(section)}")
    return dict(section)
