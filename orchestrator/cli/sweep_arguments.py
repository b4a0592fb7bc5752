"""What a command line asks for, and the one place that turns options into a `Sweep`.

A later source wins: packaged defaults, then the configuration file, then options, then KEY=VALUE overrides.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.benchmarks import BENCHMARKS, HEADLINE, Benchmark
from search_spaces.errors import UserError, unknown_name
from search_spaces.hyperparameters import Resources
from search_spaces.methods import parse_methods
from search_spaces.sweeps import Sweep, load_config, override_config, resources_from_mapping, sweep_from_mapping

DEFAULT_METHODS = ("vl2v_adip",)
RUNS = Path("runs")
"""Where sweeps go that were given no --out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a command line asks for."""

    sweep: Sweep
    benchmarks: Mapping[str, Benchmark]
    """The sweep's benchmarks by name."""
    resources: Resources
    data_root: str | None

    def default_out(self) -> str:
        """A folder that follows from content, so that the same command without --out goes on too."""
        return str(RUNS / f"{self.sweep.name}-{self.sweep.key[:8]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepOptions:
    """Options that describe a sweep; None leaves what the configuration says."""

    config: str | None = None
    benchmark: Sequence[str] | None = None
    method: Sequence[str] | None = None
    space: str | None = None
    trials: int | None = None
    seeds: int | None = None
    scope: str | None = None
    selection: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    name: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    teacher: str | None = None
    teacher_mode: str | None = None
    data_root: str | None = None
    overrides: Sequence[str] = ()


def build_request(options: SweepOptions) -> Request:
    """Build the sweep and all that goes with it.

    Raises:
        UserError: an unknown name or key (with the nearest ones), or a value that is not allowed.
    """
    config = load_config(options.config) if options.config else {}
    sweep = _section(config, "sweep")
    sweep |= _given(space=options.space, trials=options.trials, seeds=options.seeds, scope=options.scope)
    sweep |= _given(sampler=options.sampler, pruner=options.pruner, selection=options.selection, name=options.name)
    if options.method:
        sweep["methods"] = list(parse_methods(",".join(options.method)))
    sweep.setdefault("methods", list(DEFAULT_METHODS))
    if options.benchmark:
        sweep["benchmarks"] = _split(options.benchmark)
    resources = _section(config, "resources")
    resources |= _given(workers=options.workers, gpus_per_worker=options.gpus_per_worker)
    hyperparameters = _section(config, "hyperparameters")
    hyperparameters |= _given(teacher=options.teacher, teacher_mode=options.teacher_mode)
    config = {**config, "sweep": sweep, "resources": resources, "hyperparameters": hyperparameters}
    config = override_config(config, options.overrides)
    benchmarks = resolve_names(_section(config, "sweep").get("benchmarks"), options.data_root)
    if benchmarks:
        config["sweep"]["benchmarks"] = list(benchmarks)
    return Request(
        sweep=sweep_from_mapping(_with_absolute_paths(config)),
        benchmarks=benchmarks,
        resources=resources_from_mapping(config),
        data_root=options.data_root,
    )


def check_money(query_budget: int | None, price_per_1000: float | None) -> None:
    """Raises `UserError` for a budget or a price below 0."""
    if query_budget is not None and query_budget < 0:
        raise UserError(f"--query-budget is 0 or more, got {query_budget}")
    if price_per_1000 is not None and not (price_per_1000 >= 0 and math.isfinite(price_per_1000)):
        raise UserError(f"--price-per-1000 is 0 or more, got {price_per_1000}")


def check_runs(max_concurrent: int | None, max_failures: int | None) -> None:
    """Raises `UserError` for a number of folds at a time, or of further attempts, that cannot be."""
    from orchestrator.store.failures import check_max_failures

    if max_concurrent is not None and max_concurrent < 1:
        raise UserError(f"--max-concurrent is 1 or more, got {max_concurrent}")
    if max_failures is not None:
        check_max_failures(max_failures)


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
    listed = [names] if isinstance(names, str) else names
    if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
        raise UserError(f"sweep.benchmarks wants a list of names, got {names!r}")
    resolved: dict[str, Benchmark] = {}
    for name in _split(listed):
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


def _split(values: Sequence[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, Mapping):
        raise UserError(f"{name} wants a mapping, got {section!r}")
    return dict(section)
