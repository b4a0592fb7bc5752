"""The one door to every budget of a sweep: what admits its folds, and what counts the time that they take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from orchestrator.budgets.budget import Admission
from orchestrator.budgets.promises import Promises
from orchestrator.plan.query_bounds import Need
from orchestrator.run_options import RunOptions, gpus_per_fold
from orchestrator.search.folds_to_come import running_keys
from orchestrator.store.usage import UsageMeter
from trainables.teacher.ledger import reserved_queries

if TYPE_CHECKING:
    from orchestrator.budgets.remaining_need import RemainingNeed
    from orchestrator.search.group_search import GroupAgenda
    from orchestrator.search.specs import FoldSpecs
    from orchestrator.store.sweep_folder import SweepFolder


from orchestrator.budgets.time_budget import QueryPrice, TimeForecast, accounts


class Budgets:
    """Every budget of a sweep: what admits its folds, and what counts the time that they take."""

    def __init__(
        self,
        store: SweepFolder,
        specs: FoldSpecs,
        options: RunOptions,
        *,
        identity: str,
        need: RemainingNeed | None,
        only: Collection[str] | None,
    ) -> None:
        """Read what was used before.

        Args:
            identity: of this process among those that ever worked on the sweep.
            need: of the teacher's queries, where they are limited or cost money.
            only: keys of the folds that are to run, where it is not all.
        """
        self._keys_running: Callable[[], Collection[str]] = tuple
        self._only = only
        limits, price = options.limits, options.price_per_1000
        gpus = gpus_per_fold(options.resources)
        self.meter = UsageMeter(store.usage_folder, identity, gpus_per_fold=gpus, running=self._running)
        self.forecast = TimeForecast(
            specs.sweep, specs.benchmarks, self.meter, seconds_per_fold=limits.seconds_per_fold
        )
        priced = price if limits.money is not None and price is not None else 0.0

        def asked() -> int:
            return reserved_queries(store.folds.queries_folder)

        queries = QueryPrice(priced, need=need or (lambda group: Need()), asked=asked)
        own = accounts(limits, self.forecast, lambda: self.meter.total, gpus=gpus, queries=queries)
        folds = None if only is None else self._failed_folds
        self.admission = Admission(
            options.query_budget,
            need=need,
            asked=asked,
            promises=Promises(store),
            accounts=own,
            forecast=self.forecast,
            folds=folds,
        )

    def follow(self, groups: Sequence[GroupAgenda], running: Callable[[], Collection[str]]) -> None:
        """Look at these groups from now on, and at the keys of the folds that run."""
        self.forecast.groups, self._keys_running = groups, running

    def _running(self) -> Collection[str]:
        return self._keys_running()

    def _failed_folds(self, group: GroupAgenda) -> int:
        return sum(planned.key in (self._only or ()) for _, planned in group.waiting()) + len(running_keys(group))
