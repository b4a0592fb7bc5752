"""What the folds of one benchmark and method cost: stages, steps, teacher queries, and what sharing saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.benchmarks import Benchmark
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import Hyperparameters, check_teacher_mode
from search_spaces.methods import method_facts
from search_spaces.schedule import stage_steps
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep

NOT_IN_ALIGN = ("distill.", "swad.", "dropout", "kd_temperature")
"""Searched hyperparameters that Align does not depend on (`FoldSpec.align_key`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What the folds of one benchmark and method cost."""

    benchmark: str
    method: str
    fold_groups: int
    trials: int
    folds: int
    stages: int
    """Stages if nothing is shared."""
    stages_shared: int
    """Stages that reuse another fold's Align, at best."""
    steps_per_stage: tuple[int, ...]
    queries_per_configuration: int | None
    """Images the teacher is asked for by one configuration and seed over all test domains; None where not known."""
    queries: int | None
    """Images the teacher is asked for by the whole sweep, if nothing is shared."""
    queries_shared: int | None
    """Of these, images that sharing saves at best."""


def teacher_queries_per_fold(
    benchmark: Benchmark,
    hyperparameters: Hyperparameters,
    method: str,
    *,
    num_test_domains: int = 1,
    steps: Sequence[int] | None = None,
) -> int:
    """Images one fold asks the teacher for in `live` mode: batch x source domains x steps, in every stage.

    480,096 per stage and test domain on a benchmark of four domains with the paper's batch and steps. `steps` are those
    that each stage still makes, where the fold has started.
    """
    facts = method_facts(method)
    if not (facts.uses_teacher_images and facts.trains):
        return 0
    images_per_step = hyperparameters.batch_size_per_domain * (len(benchmark.domains) - num_test_domains)
    return images_per_step * sum(stage_steps(benchmark, hyperparameters, method) if steps is None else steps)


def forecast(sweep: Sweep, benchmark: Benchmark, method: str, groups: Sequence[FoldGroup]) -> Forecast:
    """Count what the fold groups of one benchmark and method cost."""
    facts = method_facts(method)
    hyperparameters = sweep.hyperparameters_for(benchmark.name)
    steps = stage_steps(benchmark, hyperparameters, method)
    folds = sum(group.num_folds for group in groups)
    trials_again = sum((group.trials - 1) * len(group.test_domains) for group in groups)
    aligns_shared = trials_again if align_is_shared(sweep, benchmark, method) else 0
    per_configuration: int | None
    queries: int | None
    queries_shared: int | None
    if not (facts.uses_teacher_images and facts.trains):
        per_configuration = queries = queries_shared = 0
    elif hyperparameters.teacher_mode == "live":
        per_fold = teacher_queries_per_fold(benchmark, hyperparameters, method)
        per_configuration, queries = per_fold * len(benchmark.domains), per_fold * folds
        align = per_fold * steps[0] // sum(steps) if facts.aligns else 0
        queries_shared = align * aligns_shared
    else:
        views = check_teacher_mode(hyperparameters.teacher_mode)
        pools = [domain.pool_size("source") for domain in benchmark.domains]
        per_configuration = None if None in pools else views * sum(size or 0 for size in pools)
        queries, queries_shared = per_configuration, 0
    return Forecast(
        benchmark=benchmark.name,
        method=method,
        fold_groups=len(groups),
        trials=sum(group.trials for group in groups),
        folds=folds,
        stages=folds * len(facts.stages),
        stages_shared=aligns_shared,
        steps_per_stage=steps,
        queries_per_configuration=per_configuration,
        queries=queries,
        queries_shared=queries_shared,
    )


def align_is_shared(sweep: Sweep, benchmark: Benchmark, method: str) -> bool:
    """Whether trials of the same fold reuse one Align stage: the search leaves alone what Align depends on."""
    if not method_facts(method).aligns:
        return False
    searched = search_space(sweep.space).dimensions(benchmark, method, sweep.hyperparameters_for(benchmark.name))
    return all(key.startswith(NOT_IN_ALIGN) for key in searched)
