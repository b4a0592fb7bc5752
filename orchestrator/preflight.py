"""What is checked before anything expensive: the images, the weights, the methods, the machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.agenda import Agenda
from orchestrator.group_agenda import GroupAgenda
from orchestrator.specs import FoldJobs
from orchestrator.store import Store
from search_spaces.benchmarks import Benchmark
from trainables.data.open import check_readable, open_benchmark, resolve_benchmark
from trainables.record import read_json, write_json

CHECKING = "checking that teacher and student can be built and fit together"

Caller = Callable[[list[dict[str, Any]]], object]
"""Runs the worker's own preflight for a list of jobs."""


def check_data(
    benchmarks: Mapping[str, Benchmark],
    *,
    store: Store,
    data_root: str | Path | None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Index every benchmark and decode every image once; what was decoded before is remembered by manifest.

    Returns the hash of each benchmark's images, by benchmark name.

    Raises:
        UserError: a benchmark is not there or not in DomainBed's layout, or has images that cannot be read.
    """
    manifests = {}
    for name, benchmark in benchmarks.items():
        source = open_benchmark(benchmark, data_root, cache=store.data_folder)
        checked = read_json(store.benchmark_check_file(name))
        if checked is None or checked["manifest"] != source.manifest:
            tell(f"reading every image of {name} once")
            check_readable(source)
            write_json(store.benchmark_check_file(name), {"manifest": source.manifest})
        manifests[name] = source.manifest
    return manifests


def resolve_benchmarks(names: Sequence[str], data_root: str | Path | None) -> dict[str, Benchmark]:
    """Benchmarks by name: registered ones, and folders below the data root.

    Raises:
        UserError: there is no such benchmark; names the nearest.
    """
    return {name: resolve_benchmark(name, data_root) for name in names}


def unchecked(groups: Sequence[GroupAgenda]) -> set[tuple[str, str]]:
    """Pairs of benchmark and method of which no fold is done yet."""
    pairs = {(item.group.benchmark, item.group.method) for item in groups}
    return pairs - {(item.group.benchmark, item.group.method) for item in groups if item.counts().done}


def check_methods(agenda: Agenda, jobs: FoldJobs, call: Caller) -> None:
    """Build teacher and student of every (benchmark, method) that may start and has no finished fold, on the cluster.

    Raises:
        UserError: what they are made of does not exist or does not fit.
        BudgetReached: the teacher may not be asked for the texts.
    """
    new = unchecked(agenda.groups)
    first = {(item.group.benchmark, item.group.method): item for item in reversed(list(agenda.to_check()))}
    call([jobs.job(next(item.first_specs())).to_mapping() for pair, item in first.items() if pair in new])
