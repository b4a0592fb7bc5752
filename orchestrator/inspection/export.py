"""The selected hyperparameters as configurations that `sweep --config` and `train --config` take back.

A configuration holds one fold group's selected trial, resolved: every hyperparameter stands in it. Later defaults do
not change what it means, and its folds have the keys of those that the sweep repeated.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from orchestrator.search.group_view import read_group_view
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError, unknown_name
from search_spaces.fold_groups import FoldGroup
from search_spaces.methods import method_facts
from search_spaces.spaces import search_space
from search_spaces.sweeps import Sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedGroup:
    """One fold group's selected trial."""

    group: str
    trial: int
    accuracy: float | None
    """Mean source validation accuracy that it was selected for; None where that seed failed."""
    config: dict[str, Any]

    @property
    def text(self) -> str:
        """The configuration as YAML, with a comment that says where it comes from."""
        benchmark, method, domain, *own_seed = self.group.split("/")
        accuracy = "" if self.accuracy is None else f", source validation {self.accuracy:.2%}"
        about = ", ".join(["all test domains" if domain == "*" else f"test domain {domain}", *own_seed])
        content: str = yaml.safe_dump(self.config, sort_keys=False)
        return f"# {method} on {benchmark}, selected for {about}: trial {self.trial}{accuracy}.\n{content}"


def export_groups(store: SweepFolder, *, only: str | None = None) -> list[ExportedGroup]:
    """The selected trial of every fold group that has one, or of the one group that is named; zero-shot rows have none.

    Raises:
        UserError: no sweep, no such group, or the group has no selected trial yet.
    """
    sweep = store.existing_sweep()
    groups = {group.name: group for group in store.groups() if method_facts(group.method).trains}
    if only is not None and only not in groups:
        raise unknown_name("fold group", only, groups)
    found = list(_selected(store, sweep, [groups[only]] if only is not None else list(groups.values())))
    if only is not None and not found:
        raise UserError(f"{only} has no selected trial yet; status --out {shlex.quote(store.where)} says what is left")
    return found


def _selected(store: SweepFolder, sweep: Sweep, groups: list[FoldGroup]) -> Iterator[ExportedGroup]:
    for group in groups:
        selected = store.selected(group.name)
        if selected is None:
            continue
        trial = next(trial for trial in store.records.trials(group.name) if trial.number == selected.number)
        fixed = sweep.hyperparameters_for(group.benchmark)
        hyperparameters = search_space(sweep.space).apply(fixed, trial.point)
        yield ExportedGroup(
            group=group.name,
            trial=trial.number,
            accuracy=read_group_view(store, group).objective(trial),
            config={
                "sweep": {
                    "name": f"{sweep.name}-chosen",
                    "benchmarks": [_benchmark_name(store, group.benchmark)],
                    "methods": [group.method],
                    "space": "paper",
                    "seeds": sweep.seeds,
                    "zero_shot": False,
                },
                "hyperparameters": _plain(asdict(hyperparameters)),
            },
        )


def _benchmark_name(store: SweepFolder, name: str) -> str:
    """A folder of the user's own by its path, so that no data root is needed to find it again."""
    known = store.last_run().benchmarks.get(name)
    return name if name in BENCHMARKS or known is None else f"folder:{known.folder}"


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Lists for tuples: YAML's plain values."""
    return {
        name: _plain(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for name, value in content.items()
    }
