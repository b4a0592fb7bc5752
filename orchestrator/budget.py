"""Budgets at work: which fold groups may start, so that what is started can be finished.

Queries: the meter in every worker never asks one more than the budget. What is decided here is only where to stop: a
group begins when an upper bound of all its folds fits what the started ones leave.

Time and money (`orchestrator.limits`): a group begins when the forecast of all its folds fits, and a begun one tries no
further configuration once the forecast of finishing what is begun does not; then its best so far is confirmed, so that
tables have whole rows. Nothing that runs is ended, so a forecast that errs may overrun a budget by what is begun.

A budget is no part of a sweep's identity: raise it, run the same command again, and the sweep goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.limits import Account
from orchestrator.query_forecast import Need, largest, own_need, preflight_need, total
from orchestrator.selection_forecast import points_agree
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from trainables.data.images import ImageSource
from trainables.data.open import open_benchmark

if TYPE_CHECKING:
    from orchestrator.group_agenda import GroupAgenda
    from orchestrator.specs import FoldSpecs
    from orchestrator.store import Store
    from orchestrator.time_budget import TimeForecast


class Admission:
    """Decides which fold groups may start, and in those whether another trial may. Without a budget, all may."""

    def __init__(
        self,
        budget: int | None = None,
        *,
        need: Callable[[GroupAgenda], Need] | None = None,
        asked: Callable[[], int] | None = None,
        accounts: Sequence[Account] = (),
        forecast: TimeForecast | None = None,
        folds: Callable[[GroupAgenda], int] | None = None,
    ) -> None:
        """Remember whom to ask.

        Args:
            budget: most queries ever, images and texts together; None for no limit.
            need: an upper bound of what a group still asks for.
            asked: queries that were asked so far, in all of the store.
            accounts: budgets of time and money.
            forecast: what these go by.
            folds: how many folds of a group are to run, where it is not all that are left; then none is exempt for
                having been begun.
        """
        if budget is not None and budget < 0:
            raise UserError(f"the query budget is 0 or more, got {budget}")
        self.budget = budget
        self._need: Callable[[GroupAgenda], Need] = need or (lambda group: Need())
        self._asked = asked or (lambda: 0)
        self._accounts, self._forecast, self._folds = accounts, forecast, folds
        self._admitted: dict[str, GroupAgenda] = {}
        self._refused: set[str] = set()
        self._begun: dict[str, GroupAgenda] = {}
        self._postponed: set[str] = set()
        self._closed = False

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run: it was admitted before, or all that it may need fits beside the others."""
        return self._time_admits(group) and self.queries_admit(group)

    def queries_admit(self, group: GroupAgenda) -> bool:
        """Whether the query budget lets the group run, whatever the other budgets say."""
        name = group.group.name
        if self.budget is None or (name in self._admitted and not self._closed):
            return True
        if name in self._refused:
            return False
        need = self._need(group)
        open_groups = [other for other in self._admitted.values() if not other.is_finished]
        promised = total([need, *map(self._need, open_groups)])
        fits = need.queries == 0 or (not self._closed and self._asked() + promised.queries <= self.budget)
        if fits:
            self._admitted[name] = group
        else:
            self._refused.add(name)
        return fits

    def permits_trial(self, group: GroupAgenda) -> bool:
        """Whether a group that was begun may try one configuration more, and all that were begun still be finished."""
        if not self._accounts or not group.is_started:
            return True
        load = [(other, other.num_to_finish) for other in self._open() if other is not group]
        load.append((group, group.num_to_finish + group.num_per_trial))
        return all(account.covers(load) for account in self._accounts)

    def refusals(self, groups: Iterable[GroupAgenda]) -> list[str]:
        """Which budgets do not cover what is left of these groups, one line each."""
        load = [(group, self._left(group)) for group in groups]
        lines = [account.refusal(load) for account in self._accounts if not account.covers(load)]
        if self.budget is not None:
            promised = total(self._need(group) for group, _ in load).queries
            if self._closed or self._asked() + promised > self.budget:
                lines.append(
                    f"the query budget of {self.budget:,} does not cover what is left; raise --query-budget and run "
                    "the same command again"
                )
        return lines

    def look_again(self) -> None:
        """A fold ended: it may have asked for less than the bound, or left views that others need no more."""
        self._refused.clear()
        self._postponed.clear()
        if self._forecast is not None:
            self._forecast.refresh()

    def close(self) -> None:
        """A worker met the budget's end (others may spend it too): nothing that asks starts any more."""
        self._closed = True
        self._refused.clear()

    def _time_admits(self, group: GroupAgenda) -> bool:
        name = group.group.name
        if not self._accounts or name in self._begun:
            return True
        if name in self._postponed:
            return False
        exempt = self._folds is None and group.is_started
        if exempt or (self._may_be_measured(group) and self._covers(group)):
            self._begun[name] = group
            return True
        self._postponed.add(name)
        return False

    def _may_be_measured(self, group: GroupAgenda) -> bool:
        """One group at a time goes by the assumption, so that a wrong one does not begin everything."""
        forecast = self._forecast
        if forecast is None or forecast.is_measured(group):
            return True
        return all(forecast.is_measured(other) or other.is_at_rest for other in self._open())

    def _covers(self, group: GroupAgenda) -> bool:
        load = [(other, self._left(other)) for other in [*self._open(), group]]
        return all(account.covers(load) for account in self._accounts)

    def _left(self, group: GroupAgenda) -> int:
        return group.num_left if self._folds is None else self._folds(group)

    def _open(self) -> list[GroupAgenda]:
        return [group for group in self._begun.values() if not group.is_finished]


class RemainingNeed:
    """What a fold group still asks the teacher for, at most, given what is on disk."""

    def __init__(self, specs: FoldSpecs, sources: Mapping[str, ImageSource], *, embeddings: Path) -> None:
        self._specs, self._sources, self._embeddings = specs, sources, embeddings
        self.unchecked: set[tuple[str, str]] = set()
        """Pairs of benchmark and method whose teacher and student are still to be checked, which asks too."""

    def __call__(self, group: GroupAgenda) -> Need:
        """Folds that are written but not done, folds that will be written, and the check before the first."""
        record = group.group
        if group.is_finished or not _asks(record.method):
            return Need()
        unwritten = group.num_unwritten
        needs = [self.of_fold(spec) for spec in group.unsettled_specs()]
        if unwritten:
            benchmark = self._specs.benchmarks[record.benchmark]
            at_most = largest(self._specs.sweep, benchmark, record.method)
            for spec in group.first_specs():
                needs.append(self.of_fold(spec, batch_size_per_domain=at_most.batch_size_per_domain).times(unwritten))
        needs += self._pairs(group)
        if (record.benchmark, record.method) in self.unchecked:
            mode = self._specs.sweep.hyperparameters_for(record.benchmark).teacher_mode
            check = preflight_need(record.method, teacher_mode=mode, classes=self._classes(record.benchmark))
            name = f"preflight {record.benchmark} {record.method}"
            needs.append(Need(shared={name: (check.images, check.texts)}))
        return total(needs)

    def _pairs(self, group: GroupAgenda) -> Iterator[Need]:
        """Pair folds that will be written; one that several groups try alike counts once."""
        record, sweep = group.group, self._specs.sweep
        agreeing = record.trials if points_agree(sweep) else 1
        for spec, is_settled in group.unwritten_pairs():
            at_most = largest(sweep, self._specs.benchmarks[record.benchmark], record.method)
            need = self.of_fold(spec, batch_size_per_domain=at_most.batch_size_per_domain)
            alike = {
                f"{record.method} {spec.fold} trial {number}": (need.images, need.texts)
                for number in range(1 if is_settled else 0, agreeing)
            }
            yield Need(shared={**need.shared, **alike}) + need.times(record.trials - agreeing)

    def of_fold(self, spec: FoldSpec, *, batch_size_per_domain: int | None = None) -> Need:
        """What one fold asks for, with its own batch size or a given one."""
        if batch_size_per_domain is not None:
            hyperparameters = replace(spec.hyperparameters, batch_size_per_domain=batch_size_per_domain)
            spec = replace(spec, hyperparameters=hyperparameters)
        name = spec.fold.benchmark
        return fold_need(spec, self._specs.benchmarks[name], self._sources[name], embeddings=str(self._embeddings))

    def _classes(self, benchmark: str) -> int:
        return len(self._sources[benchmark].class_names)


def remaining_need(specs: FoldSpecs, *, store: Store, data_root: str | None) -> RemainingNeed:
    """The needs of a sweep's groups, counted on its own images."""
    sources = {
        name: open_benchmark(benchmark, data_root, cache=store.data_folder)
        for name, benchmark in specs.benchmarks.items()
    }
    return RemainingNeed(specs, sources, embeddings=store.embeddings_folder)


def fold_need(spec: FoldSpec, benchmark: Benchmark, source: ImageSource, *, embeddings: str) -> Need:
    """What one fold asks the teacher for at most, given what its embedding store below `embeddings` holds."""
    own = own_need(
        benchmark,
        spec.hyperparameters,
        spec.method,
        spec.fold.test_domain,
        pool=lambda name, role: len(source.pool(name, role)),
        classes=len(source.class_names),
        num_test_domains=len(spec.fold.test_domains),
    )
    if spec.hyperparameters.teacher_mode == "live" or not method_facts(spec.method).trains or not _asks(spec.method):
        return own
    # Loads torch, which only stored views need.
    from trainables.teacher.filling import missing_queries

    missing = missing_queries(
        embeddings,
        source,
        mode=spec.hyperparameters.teacher_mode,
        teacher=spec.hyperparameters.teacher,
        teacher_fingerprint=spec.teacher_fingerprint,
        image_size=spec.hyperparameters.image_size or benchmark.image_size,
        domains=benchmark.source_domains(spec.fold.test_domains),
    )
    return own + Need(shared=missing)


def _asks(method: str) -> bool:
    facts = method_facts(method)
    return facts.uses_teacher_images or facts.uses_teacher_texts
