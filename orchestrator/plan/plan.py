"""What a sweep will do and cost before anything runs: fold groups, folds, stages, teacher queries, and what is shared.

Light on purpose: `plan` answers without torch, Ray, Optuna or MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import comb
from typing import TYPE_CHECKING, Any

from orchestrator.plan.asked import asked_lines
from orchestrator.plan.costs import Forecast, forecast
from orchestrator.plan.fold_groups import fold_groups, planned_pair_folds
from orchestrator.plan.query_bounds import Need, planned_need, total
from orchestrator.plan.selection_costs import PairForecast, SelectionCost, pair_forecast, selection_costs
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import unknown_name
from search_spaces.fold_groups import FoldGroup
from search_spaces.methods import method_facts
from search_spaces.sweeps import Sweep

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A sweep spelt out."""

    sweep: Sweep
    benchmarks: Mapping[str, Benchmark]
    groups: tuple[FoldGroup, ...]
    """Every fold group in order: benchmarks, then methods (the zero-shot row first), then test domains."""
    forecasts: tuple[Forecast, ...]
    need: Need | None
    """Teacher queries of the whole sweep at most, on an empty store; None where a benchmark's images are unknown. With
    leave-one-domain-out selection its pair folds are counted in."""
    pair_forecasts: tuple[PairForecast, ...] = ()
    """What leave-one-domain-out selection costs, whether the sweep selects by it or not."""

    @property
    def searched_groups(self) -> tuple[FoldGroup, ...]:
        """The groups that train; the others only evaluate the teacher."""
        return tuple(group for group in self.groups if method_facts(group.method).trains)

    @property
    def selections(self) -> tuple[SelectionCost, ...]:
        """What each model selection needs."""
        return selection_costs(sum(group.num_folds for group in self.groups), self.pair_forecasts)

    @property
    def selection(self) -> SelectionCost:
        """What the sweep's own selection needs."""
        return next(cost for cost in self.selections if cost.selection == self.sweep.selection)

    @property
    def num_folds(self) -> int:
        """Folds of the search, of the further seeds and of the sweep's own selection."""
        return self.selection.folds

    @property
    def num_stages(self) -> int:
        return sum(item.stages for item in self.forecasts) + self.selection.stages

    @property
    def num_stages_shared(self) -> int:
        return sum(item.stages_shared for item in self.forecasts) + self.selection.stages_shared

    @property
    def queries_per_configuration(self) -> int | None:
        """Teacher images of one configuration and seed over every benchmark and training method."""
        return _total(item.queries_per_configuration for item in self._training)

    @property
    def queries(self) -> int | None:
        """Teacher images of the whole sweep, if nothing is shared."""
        pairs = [item.queries for item in self.pair_forecasts] if self.selection.pair_folds else []
        return _total([*(item.queries for item in self._training), *pairs])

    @property
    def queries_shared(self) -> int | None:
        """Teacher images that sharing saves at best."""
        return _total(item.queries_shared for item in self._training)

    @property
    def source_images(self) -> int | None:
        """Images of the source pools of all benchmarks."""
        domains = [domain for name in self.sweep.benchmarks for domain in self.benchmarks[name].domains]
        return _total(domain.pool_size("source") for domain in domains)

    @property
    def modes(self) -> tuple[str, ...]:
        """Teacher modes, each once."""
        modes = (self.sweep.hyperparameters_for(name).teacher_mode for name in self.sweep.benchmarks)
        return tuple(dict.fromkeys(modes))

    @property
    def pair_folds(self) -> int:
        """Pair folds of one configuration and seed that every test domain tries."""
        methods = sum(1 for method in self.sweep.all_methods if method_facts(method).trains)
        return methods * sum(comb(len(self.benchmarks[name].domains), 2) for name in self.sweep.benchmarks)

    @property
    def folds_by_group(self) -> dict[str, int]:
        """Folds of every fold group by its name, its pair folds among them."""
        return {group.name: group.num_folds + self._pair_folds(group) for group in self.groups}

    @property
    def asked_lines(self) -> tuple[str, ...]:
        """Where what runs is not what was asked for, one line each."""
        return tuple(line for name in self.sweep.benchmarks for line in asked_lines(self.sweep, self.benchmarks[name]))

    @property
    def _training(self) -> Iterator[Forecast]:
        return (item for item in self.forecasts if method_facts(item.method).trains)

    def group(self, name: str) -> FoldGroup:
        """Look a fold group up; raises `UserError` with the nearest names."""
        for group in self.groups:
            if group.name == name:
                return group
        raise unknown_name("fold group", name, [group.name for group in self.groups])

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json` and for the tracked plan."""
        return {
            "sweep": self.sweep.to_mapping(),
            "key": self.sweep.key,
            "fold_groups": len(self.searched_groups),
            "zero_shot_groups": len(self.groups) - len(self.searched_groups),
            "trials": sum(group.trials for group in self.searched_groups),
            "folds": self.num_folds,
            "stages": self.num_stages,
            "stages_shared_at_best": self.num_stages_shared,
            "teacher_queries_per_configuration_and_seed": self.queries_per_configuration,
            "teacher_queries": self.queries,
            "teacher_queries_shared_at_best": self.queries_shared,
            "teacher_image_queries_at_most": None if self.need is None else self.need.all_images,
            "teacher_text_queries_at_most": None if self.need is None else self.need.all_texts,
            "asked_and_run": list(self.asked_lines),
            "pair_folds_for_leave_one_domain_out": self.pair_folds,
            "selections": [asdict(cost) for cost in self.selections],
            "groups": [self._group_mapping(group) for group in self.groups],
            "forecasts": [asdict(item) for item in self.forecasts],
        }

    def _pair_folds(self, group: FoldGroup) -> int:
        return planned_pair_folds(self.sweep, group, self.benchmarks[group.benchmark].domain_names)

    def _group_mapping(self, group: FoldGroup) -> dict[str, Any]:
        test_domain = group.test_domains[0] if self.sweep.scope == "domain" else None
        return {**asdict(group), "test_domain": test_domain, "pair_folds": self._pair_folds(group)}


def make_plan(sweep: Sweep, benchmarks: Mapping[str, Benchmark]) -> Plan:
    """Spell a sweep out.

    Args:
        sweep: What is asked for.
        benchmarks: The sweep's benchmarks by name; those of a folder are resolved by the caller.
    """
    groups: list[FoldGroup] = []
    forecasts: list[Forecast] = []
    needs: list[Need | None] = []
    pairs: list[PairForecast] = []
    for name in sweep.benchmarks:
        for method in sweep.all_methods:
            own = fold_groups(sweep, benchmarks[name], method)
            groups.extend(own)
            forecasts.append(forecast(sweep, benchmarks[name], method, own))
            needs.append(planned_need(sweep, benchmarks[name], method, own))
            pairs.append(pair_forecast(sweep, benchmarks[name], method, own))
            if sweep.selection == "leave_one_domain_out":
                needs.append(pairs[-1].need)
    known = [need for need in needs if need is not None]
    return Plan(
        sweep=sweep,
        benchmarks=dict(benchmarks),
        groups=tuple(groups),
        forecasts=tuple(forecasts),
        need=total(known) if len(known) == len(needs) else None,
        pair_forecasts=tuple(pairs),
    )


def _total(counts: Iterable[int | None]) -> int | None:
    values = list(counts)
    return None if None in values else sum(value or 0 for value in values)
