"""When a stage updates, evaluates and is looked at: plain arithmetic that plans, searches and folds share."""

from __future__ import annotations

from search_spaces.benchmarks import Benchmark, steps_and_interval
from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from search_spaces.methods import StageName, method_facts

FEWEST_SHARED = 2
"""Folds that two configurations share before one of them can be stopped: fewer have no spread."""


def stage_schedule(benchmark: Benchmark, hyperparameters: Hyperparameters, stage: StageName) -> tuple[int, int]:
    """Update steps of a stage, and the interval between two evaluations."""
    own: StageHyperparameters = getattr(hyperparameters, stage)
    interval = hyperparameters.evaluate_every or benchmark.evaluate_every
    return steps_and_interval(own.num_steps or benchmark.num_steps, interval)


def stage_steps(benchmark: Benchmark, hyperparameters: Hyperparameters, method: str) -> tuple[int, ...]:
    """Update steps of each stage of a method."""
    return tuple(stage_schedule(benchmark, hyperparameters, stage)[0] for stage in method_facts(method).stages)


def looks_between_folds(num_folds: int) -> int:
    """How often a configuration of so many folds is looked at between two of them; the level is shared among these."""
    return max(0, num_folds - FEWEST_SHARED)
