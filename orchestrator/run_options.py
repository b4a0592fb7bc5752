"""How a sweep is run: resources, address, budgets, retries. Nothing in here changes a result: that is in `sweep.json`.

GPU-hours    hours that folds run, times the GPUs that each reserves (workers x GPUs per worker), busy or not
wall time    hours that the sweep's own processes ran, one after the other; time between two runs is not counted
money        GPU-hours at their price, and teacher queries at theirs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError, unknown_name
from search_spaces.hyperparameters import Resources
from search_spaces.settings import check_bounds, flag_of, option, within
from trainables.data.formats.open import resolve_benchmark

Executor = Literal["auto", "tune", "train", "inline"]
"""Where folds run: in Tune actors, through a `TorchTrainer`, one after the other in this process, or in one of the
first two by the number of workers."""

MAX_FAILURES = 1
"""A fold that crashed, or whose worker process died, is tried once more if nothing else was asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a sweep may use, over all its runs. None is no limit; nothing here changes a result."""

    gpu_hours: float | None = field(
        default=None, metadata=option("Budgets and prices", flag="--gpu-hours-budget") | within(0)
    )
    """Most hours that a sweep's folds may run, times the GPUs that each reserves, over all its runs."""
    wall_hours: float | None = field(
        default=None, metadata=option("Budgets and prices", flag="--wall-budget") | within(0)
    )
    """Most hours that a sweep itself may run, over all its runs."""
    money: float | None = field(default=None, metadata=option("Budgets and prices", flag="--money-budget") | within(0))
    """Most money for a sweep's GPU-hours and the teacher's queries."""
    price_per_gpu_hour: float | None = field(default=None, metadata=option("Budgets and prices") | within(0))
    """Price of an hour of one GPU."""
    seconds_per_fold: float | None = field(default=None, metadata=option("Budgets and prices") | within(0))
    """What budgets take a fold to last until one of its method is finished; an assumption if absent."""

    def __post_init__(self) -> None:
        check_bounds(self, flag_of)

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return not (self.gpu_hours is None and self.wall_hours is None and self.money is None)

    def over(self, other: Limits) -> Limits:
        """These, and those of another where nothing is set here."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **own)

    def check(self, resources: Resources, price_per_1000: float | None) -> None:
        """Raise `UserError` for a budget that would limit nothing with these resources and prices."""
        if gpus_per_fold(resources) == 0:
            if self.gpu_hours is not None:
                raise UserError(
                    "--gpu-hours-budget: folds reserve no GPU here; give --gpus-per-worker, or limit hours with "
                    "--wall-budget"
                )
            if self.price_per_gpu_hour is not None:
                raise UserError("--price-per-gpu-hour: folds reserve no GPU here; give --gpus-per-worker")
        if self.money is not None and self.price_per_gpu_hour is None and price_per_1000 is None:
            raise UserError("--money-budget needs a price: --price-per-gpu-hour, --price-per-1000, or both")


def gpus_per_fold(resources: Resources) -> float:
    """GPUs that one fold reserves."""
    return resources.workers * resources.gpus_per_worker


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFunctions:
    """The functions that run in workers, as import paths `module:function`."""

    run_job: str = "trainables.worker:run_job"
    """`(job, report) -> result`: one fold in this process."""
    torch_trainer: str = "trainables.worker:torch_trainer"
    """`(job, *, name, storage_path, callbacks, trainer) -> TorchTrainer` for one fold."""
    preflight: str = "trainables.worker:preflight"
    """`(job) -> facts`: builds teacher and student; raises `UserError` where they do not fit."""

    def to_mapping(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How a sweep is run: where its images are, where and with what its folds run, what they may use."""

    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    """The sweep's benchmarks by name, those that are read from a folder too; looked up if absent."""
    data_root: str | None = field(default=None, metadata=option("Where", metavar="DIR"))
    """Folder that holds the benchmarks' folders (DomainBed's layout)."""
    resources: Resources = field(default_factory=Resources)
    """What a fold is computed with."""
    executor: Executor = field(default="auto", metadata=option("How folds run"))
    """Run folds inside Tune actors (tune), through a TorchTrainer (train), or one after the other in this process
    (inline). Inline needs no Ray, and a breakpoint works. auto takes tune or train by the number of workers."""
    address: str | None = field(default=None, metadata=option("How folds run", metavar="ADDRESS"))
    """Ray cluster to use; RAY_ADDRESS or an own local one if absent."""
    max_concurrent: int | None = field(default=None, metadata=option("How folds run") | within(1))
    """Folds at a time; as many as fit if absent. 1 makes suggestions reproducible."""
    query_budget: int | None = field(default=None, metadata=option("Budgets and prices") | within(0))
    """Most teacher queries, images and texts, that a store's folds may ever ask."""
    price_per_1000: float | None = field(default=None, metadata=option("Budgets and prices") | within(0))
    """Price of a thousand teacher queries; a sweep's folder remembers it."""
    limits: Limits = field(default_factory=Limits)
    """What the sweep may use."""
    max_failures: int = field(default=MAX_FAILURES, metadata=option("How folds run") | within(0))
    """Further attempts at a fold that crashed or whose process died; lost machines do not count."""
    retry_failed: bool = field(default=False, metadata=option("How folds run"))
    """Give folds that failed another try."""
    only_failed: bool = False
    """Give them another try, and run these folds alone."""
    functions: WorkerFunctions = field(default_factory=WorkerFunctions)
    """What runs in the workers."""

    def __post_init__(self) -> None:
        if self.executor not in get_args(Executor):
            raise unknown_name("value for --executor", self.executor, get_args(Executor))
        check_bounds(self, flag_of)

    def check(self) -> None:
        """Raise `UserError` for a budget that would limit nothing with these resources and prices."""
        self.limits.check(self.resources, self.price_per_1000)

    @property
    def counts_queries(self) -> bool:
        """Whether a budget depends on how many queries are still to come."""
        return self.query_budget is not None or (self.limits.money is not None and self.price_per_1000 is not None)

    def benchmark(self, name: str) -> Benchmark:
        """A benchmark of the sweep; raises `UserError` where neither this nor the data root knows it."""
        return self.benchmarks.get(name) or resolve_benchmark(name, self.data_root)

    def to_mapping(self) -> dict[str, Any]:
        """The content of run.json: what a later command on the folder takes over. `price.json` keeps the price."""
        content = asdict(self)
        return {name: value for name, value in content.items() if name not in OF_ONE_COMMAND}


OF_ONE_COMMAND = ("price_per_1000", "retry_failed", "only_failed", "functions")
"""Options that run.json does not keep."""


def absolute_data_root(data_root: str | Path | None) -> str | None:
    """The data root as workers see it, whatever their working folder; an address (`s3://...`) as it is."""
    if data_root is None or "://" in str(data_root):
        return None if data_root is None else str(data_root)
    return str(Path(data_root).expanduser().absolute())
