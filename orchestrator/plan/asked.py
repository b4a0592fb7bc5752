"""What was asked for and what runs: a request that is honoured in name alone is refused, or named where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters
from search_spaces.methods import method_facts
from search_spaces.schedule import stage_schedule
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep, check_shared_choice


def check_asked(sweep: Sweep, benchmarks: Mapping[str, Benchmark]) -> None:
    """Refuse a sweep that cannot give what it was asked for.

    Raises:
        UserError: a choice for all test domains by the reported images; fewer steps than one interval.
    """
    check_shared_choice(sweep)
    for name in sweep.benchmarks:
        for method in sweep.all_methods:
            check_steps(benchmarks[name], sweep.hyperparameters_for(name), method)


def check_steps(benchmark: Benchmark, hyperparameters: Hyperparameters, method: str) -> None:
    """Raises `UserError` for a stage with fewer steps than one interval between evaluations: it would train one."""
    for stage, asked, run, interval in _steps(benchmark, hyperparameters, method):
        if asked < interval:
            raise UserError(
                f"{stage}.num_steps: {asked:,} asked, {run:,} run on {benchmark.name}, which is evaluated every "
                f"{interval:,} steps; ask for {interval:,} or more, or for evaluate_every={asked} or less"
            )


def asked_lines(sweep: Sweep, benchmark: Benchmark) -> Iterator[str]:
    """One line for each request of which another number runs on a benchmark; none where all is as asked."""
    hyperparameters = sweep.hyperparameters_for(benchmark.name)
    training = [method for method in sweep.all_methods if method_facts(method).trains]
    space = search_space(sweep.space)
    fixed = [method for method in training if not space.dimensions(benchmark, method, hyperparameters)]
    if sweep.trials > 1 and fixed:
        yield (
            f"{sweep.trials:,} trials asked, 1 run of {', '.join(fixed)} on {benchmark.name}: space {space.name} "
            "varies nothing there"
        )
    if sweep.trials == 1 and len(fixed) < len(training):
        yield (
            f"space {space.name} is not searched on {benchmark.name}: 1 trial asked, and the first one is the sweep's "
            "own hyperparameters"
        )
    told = {}
    for method in training:
        for stage, asked, run, interval in _steps(benchmark, hyperparameters, method):
            if asked != run:
                told[stage] = (
                    f"{stage} on {benchmark.name}: {asked:,} steps asked, {run:,} run, for it ends with an evaluation, "
                    f"one every {interval:,} steps"
                )
    yield from told.values()


def _steps(benchmark: Benchmark, hyperparameters: Hyperparameters, method: str) -> Iterator[tuple[str, int, int, int]]:
    """Of each stage whose steps or interval were asked for: its name, steps asked, steps run, and the interval."""
    for stage in method_facts(method).stages:
        asked = getattr(hyperparameters, stage).num_steps
        if asked is not None or hyperparameters.evaluate_every is not None:
            run, interval = stage_schedule(benchmark, hyperparameters, stage)
            yield stage, benchmark.num_steps if asked is None else asked, run, interval
