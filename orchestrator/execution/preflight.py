"""What is checked before anything expensive: the servers, the images, the weights, the methods, the machines."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.execution.cluster import Cluster, call_on_every_machine, check_answers, check_machine
from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.worker_deaths import living_nodes
from orchestrator.run_options import RunOptions
from orchestrator.scheduler.fold_queue import FoldQueue
from orchestrator.search.folds_to_come import first_specs
from orchestrator.search.group_search import GroupSearch
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.sweep_folder import SweepFolder
from orchestrator.tracking.background import BackgroundSync, Tracking, TrackingAwayError
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.formats.open import check_readable, open_benchmark, resolve_benchmark
from trainables.data.loading.splits import check_splits
from trainables.storage.atomic_files import aside_of
from trainables.storage.json_files import readable_json, write_json

CHECKING = "checking that teacher and student can be built and fit together"

Caller = Callable[[list[dict[str, Any]]], object]
"""Runs the worker's own preflight for a list of jobs."""


def check_data(
    benchmarks: Mapping[str, Benchmark],
    *,
    store: SweepFolder,
    data_root: str | Path | None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, str]:
    """Index every benchmark and decode every image once; what was decoded before is remembered by manifest.

    Returns the hash of each benchmark's images, by benchmark name.

    Raises:
        UserError: a benchmark is not there or not in DomainBed's layout, or has too few images or unreadable ones.
    """
    manifests = {}
    for name, benchmark in benchmarks.items():
        source = open_benchmark(benchmark, data_root, cache=store.data_folder)
        check_splits(source, benchmark)
        if readable_json(store.benchmark_check_file(name)).get("manifest") != source.manifest:
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


def check_servers(options: RunOptions, tracking: Tracking | None) -> None:
    """Raises `UserError` where a server does not answer that the sweep needs, or the machine has too few CPUs."""
    try:
        if tracking is not None:
            tracking.look()
    except TrackingAwayError as error:
        raise _without_tracking(error) from None
    if options.executor != "inline":
        check_machine(options.resources, options.address)
        check_answers(options.address)


def look_for_tracking(tracking: Tracking | None, sync: BackgroundSync, *, resumed: bool) -> None:
    """Look for the tracking server; where a sweep is resumed, it may be away.

    Raises:
        UserError: nothing has run yet and the server does not answer, or the address is none.
    """
    try:
        if tracking is not None:
            tracking.preflight()
    except TrackingAwayError as error:
        if resumed:
            # Whoever starts a lost machine again at night must not have to start the server first.
            sync.is_away(error.reason)
            return
        raise _without_tracking(error) from None


def _without_tracking(error: TrackingAwayError) -> UserError:
    return UserError(
        f"{error}; or train without it (--tracking later) and fill it in afterwards (vl2v-orchestrate sync)"
    )


def unchecked(groups: Sequence[GroupSearch]) -> set[tuple[str, str]]:
    """Pairs of benchmark and method of which no fold is done yet."""
    pairs = {(item.group.benchmark, item.group.method) for item in groups}
    return pairs - {(item.group.benchmark, item.group.method) for item in groups if item.counts().done}


def check_methods(queue: FoldQueue, jobs: FoldJobs, call: Caller) -> None:
    """Build teacher and student of every (benchmark, method) that may start and has no finished fold, on the cluster.

    Raises:
        UserError: what they are made of does not exist or does not fit.
        BudgetReached: the teacher may not be asked for the texts.
    """
    new = unchecked(queue.groups)
    first = {(item.group.benchmark, item.group.method): item for item in reversed(list(queue.open.to_check()))}
    call([jobs.job(next(first_specs(item))).to_mapping() for pair, item in first.items() if pair in new])


def check_budget_can_be_kept(query_budget: int | None, mirrors: StoreMirrors, cluster: Cluster) -> None:
    """Raises `UserError` where nodes that share no disk would have to keep a query budget together."""
    if query_budget is None or not mirrors or cluster.is_local:
        return
    if len(living_nodes()) > 1 or cluster.most_resources() != cluster.resources():
        raise UserError(
            "a query budget cannot be kept by nodes that share no disk: leave --query-budget out, run on one machine "
            "(--address local), or give --out and --store on a shared disk"
        )


def check_shared(
    folder: Path,
    *,
    mirrored: Iterable[str],
    call: Callable[[str, Any], list[dict[str, Any]]] = call_on_every_machine,
) -> None:
    """Look for a folder that folds are kept in on every machine that runs them.

    Args:
        folder: on a disk of this machine.
        mirrored: folders that every machine has of its own, because they mirror an address.
        call: runs a function on every machine of the cluster.

    Raises:
        UserError: a machine does not see what this one writes there.
    """
    if any(folder.is_relative_to(place) for place in mirrored):
        return
    marker = aside_of(folder.absolute() / "probe")
    marker.touch()
    try:
        answers = call("orchestrator.execution.preflight:sees", str(marker))
    finally:
        marker.unlink(missing_ok=True)
    blind = sorted(str(answer["host"]) for answer in answers if not answer["seen"])
    if blind:
        raise UserError(
            f"{len(blind)} of the cluster's {len(answers)} machines do not see {folder} ({', '.join(blind[:3])}): give "
            "--out (and --store) on a disk that all machines share, or an address (s3://BUCKET/FOLDER)"
        )


def sees(marker: str) -> dict[str, Any]:
    """Whether a file is there, on the machine that this runs on."""
    return {"host": socket.gethostname(), "seen": Path(marker).exists()}
