"""Leave-one-domain-out selection at work in one fold group: pair folds once the search is over, then the choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.plan.fold_groups import chooses, domain_pairs
from orchestrator.search.pair_folds import held_out_validation
from orchestrator.search.selection import select
from orchestrator.store.records import GroupRecord, PairRecord, PlannedFold, TrialRecord
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.folds import Fold

if TYPE_CHECKING:
    from orchestrator.search.specs import FoldSpecs
    from orchestrator.store.fold_states import FoldStates


class LeftOut:
    """The pair folds of a group's complete trials.

    They begin when every trial has ended: a trial that failed or was pruned costs none, and a search that is cut off
    early is no dearer than without them. They are on the trials' seed.
    """

    def __init__(self, group: GroupRecord, *, specs: FoldSpecs, store: SweepFolder, states: FoldStates) -> None:
        self._group, self._specs, self._store, self._states = group, specs, store, states
        self._pairs = domain_pairs(group.test_domains, specs.benchmarks[group.benchmark].domain_names)
        self._records = store.records.pairs(group.name)

    @property
    def num_per_trial(self) -> int:
        """Pair folds of one trial."""
        return len(self._pairs)

    @property
    def is_begun(self) -> bool:
        """Pair folds are written."""
        return bool(self._records)

    def folds(self) -> Iterator[Fold]:
        """The pair folds of one configuration."""
        return (
            Fold(benchmark=self._group.benchmark, test_domains=pair, seed=self._group.all_seeds[0])
            for pair in self._pairs
        )

    @property
    def num_expected(self) -> int:
        """Pair folds of the group: those that are written, or of all trials while none is."""
        return sum(len(record.folds) for record in self._records) or self._group.trials * len(self._pairs)

    @property
    def is_hopeless(self) -> bool:
        """Every pair fold has ended, and none of the trials has them all."""
        return bool(self._records) and self._all_settled and not any(map(self._is_whole, self._records))

    def planned(self) -> Iterator[tuple[int, PlannedFold]]:
        """The pair folds that are written, with their trial's number."""
        for record in self._records:
            yield from ((record.number, planned) for planned in record.folds)

    def begin(self, trials: Sequence[TrialRecord]) -> bool:
        """Write the pair folds of trials that have none; False where nothing was left to write."""
        known = {record.number for record in self._records}
        new = [trial for trial in trials if trial.number not in known]
        for trial in new:
            planned = tuple(
                PlannedFold(fold=fold, key=self._specs.spec(self._group, trial.point, fold).key)
                for fold in self.folds()
            )
            record = PairRecord(group=self._group.name, number=trial.number, folds=planned)
            self._store.records.write_pairs(record)
            self._records.append(record)
        return bool(new)

    def chosen(self) -> int | None:
        """The number of the best trial; None while pair folds wait or run, and where no trial has them all."""
        if not self._all_settled:
            return None
        domains = self._group.test_domains
        found = [held_out_validation(self._store, record.number, record.folds, domains) for record in self._records]
        scores = [score for score in found if score is not None]
        return select(scores).number if scores else None

    @property
    def _all_settled(self) -> bool:
        return all(self._states.settled(planned.key) for _, planned in self.planned())

    def _is_whole(self, record: PairRecord) -> bool:
        return not any(self._states.failed(planned.key) for planned in record.folds)


def left_out(group: GroupRecord, *, specs: FoldSpecs, store: SweepFolder, states: FoldStates) -> LeftOut | None:
    """The group's pair folds, where the sweep selects by them and the group has something to choose."""
    if specs.sweep.selection != "leave_one_domain_out" or not chooses(group.method, group.trials):
        return None
    return LeftOut(group, specs=specs, store=store, states=states)
