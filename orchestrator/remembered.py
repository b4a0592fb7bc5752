"""Where and with what a sweep last ran, so that `retry`, `rerun` and `export-hparams` need no configuration.

Nothing in here changes a result: that is in `sweep.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from orchestrator.limits import Limits
from orchestrator.store import Store
from search_spaces.benchmarks import Benchmark
from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Resources
from trainables.data.open import resolve_benchmark
from trainables.record import read_json, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """Settings of the command that ran a sweep last."""

    benchmarks: Mapping[str, Benchmark] = field(default_factory=dict)
    """The sweep's benchmarks by name, those that are read from a folder too."""
    data_root: str | None = None
    resources: Resources = field(default_factory=Resources)
    executor: Literal["auto", "tune", "train"] = "auto"
    address: str | None = None
    """Of a Ray cluster, where one was given to the command."""
    max_concurrent: int | None = None
    query_budget: int | None = None
    limits: Limits = field(default_factory=Limits)
    max_failures: int = 1

    def benchmark(self, name: str) -> Benchmark:
        """A benchmark of the sweep; raises `UserError` where neither this nor the data root knows it."""
        return self.benchmarks.get(name) or resolve_benchmark(name, self.data_root)


def remember_run(store: Store, run: LastRun) -> None:
    """Note the settings, in place of those of an earlier run."""
    write_json(store.run_file, asdict(run))


def last_run(store: Store) -> LastRun:
    """The settings noted last; defaults where none were."""
    content = read_json(store.run_file, advice="run the sweep again, which writes it anew")
    if content is None:
        return LastRun()
    benchmarks, resources = content["benchmarks"], content["resources"]
    try:
        parts = {
            "benchmarks": {name: from_mapping(Benchmark, value) for name, value in benchmarks.items()},
            "resources": from_mapping(Resources, resources),
            "limits": from_mapping(Limits, content.get("limits", {})),
        }
        return LastRun(**{**content, **parts})
    except (TypeError, UserError) as error:
        raise UserError(f"{store.run_file} was written by another version ({error}); run the sweep again") from None
