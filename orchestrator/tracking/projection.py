"""A sweep's records from its store, remembered between two looks, so that one changed fold costs one fold.

The first look reads everything; a later one the folds that are named, and those that were selected or pruned since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.events import ChangedFold
from orchestrator.search.group_view import read_group_view
from orchestrator.search.pruning import read_decisions
from orchestrator.tracking.fold_order import in_order_of_arrival
from orchestrator.tracking.run_records import RunRecord, TrackedFold, trial_record, with_results
from search_spaces.configuration import flat
from search_spaces.errors import UserError
from search_spaces.hyperparameters import fold_spec_from_mapping
from search_spaces.methods import method_facts
from trainables.storage.json_files import read_json

if TYPE_CHECKING:
    from orchestrator.store.records import PlannedFold
    from orchestrator.store.results import FoldResult
    from orchestrator.store.sweep_folder import SweepFolder
    from search_spaces.fold_groups import FoldGroup
    from search_spaces.sweeps import Sweep


@dataclass(frozen=True, slots=True)
class _Slot:
    """A fold that a group names."""

    number: int
    planned: PlannedFold
    selected: bool
    point: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is remembered of a fold that was looked at."""

    selected: bool
    done: bool
    ended: bool
    """Failed or pruned."""


class SweepProjection:
    """The records of one sweep."""

    def __init__(self, store: SweepFolder, sweep: Sweep, documents: Mapping[str, Any]) -> None:
        """Remember what to read.

        Args:
            store: what is read.
            sweep: whose folds they are.
            documents: artifacts of the sweep's own run.
        """
        self._store, self._sweep, self._documents = store, sweep, documents
        self.forget()

    def forget(self) -> None:
        """Read everything at the next look."""
        self._is_whole = False
        self._slots: dict[str, list[_Slot]] = {}
        self._seen: dict[ChangedFold, _Seen] = {}
        self._results: dict[str, dict[str, FoldResult]] = {}
        self._gone: dict[str, FoldResult | None] = {}
        self._manifests: dict[str, str] = {}

    def records(self, changed: Collection[ChangedFold] | None = None) -> Iterator[RunRecord]:
        """Records that may be out of date, parents first.

        Args:
            changed: folds that ended since the last look; None, and every first look, reads everything.
        """
        groups, wanted = self._store.groups(), None if changed is None or not self._is_whole else set(changed)
        if wanted is None:
            self.forget()
        touched = [group for group in groups if wanted is None or any(name == group.name for name, _ in wanted)]
        price = self._store.price_per_1000
        trials = {group.name: [trial_record(fold, price) for fold in self._look(group, wanted)] for group in touched}
        self._is_whole = True
        arrived = [(group, self._result(group, key)) for group, key in in_order_of_arrival(self._store, self._results)]
        over = {group.name: self._is_over(group) for group in groups}
        yield with_results(self._sweep_record(over=all(over.values())), [result for _, result in arrived], price)
        for group in touched:
            own = [result for name, result in arrived if name == group.name]
            yield with_results(_group_record(group, over=over[group.name]), own, price)
            yield from (record for record in trials[group.name] if record is not None)

    def _look(self, group: FoldGroup, wanted: Collection[ChangedFold] | None) -> Iterator[TrackedFold]:
        """The group's folds that may have another record than at the last look."""
        slots = self._slots[group.name] = list(_slots(self._store, group))
        decisions = read_decisions(self._store, group.name)
        pruned = {key for one in decisions if one.verdict == "prune" for key in one.folds}
        for slot in slots:
            name = group.name, slot.planned.key
            seen = self._seen.get(name)
            is_settled = seen is not None and (seen.done or seen.ended)
            pruned_since = slot.planned.key in pruned and not is_settled
            selected_since = seen is not None and seen.selected != slot.selected
            if wanted is not None and name not in wanted and not pruned_since and not selected_since:
                continue
            fold = _tracked(self._store, group, slot)
            self._seen[name] = _Seen(
                selected=fold.selected,
                done=fold.result is not None and not fold.failed,
                ended=fold.failed or fold.pruned is not None,
            )
            if fold.result is not None:
                # What a file holds besides is needed once.
                self._results.setdefault(group.name, {})[slot.planned.key] = replace(fold.result, content={})
            if fold.spec is not None:
                self._manifests.setdefault(group.benchmark, str(fold.spec["data_manifest"]))
            yield fold

    def _result(self, group: str, key: str) -> FoldResult | None:
        """What a fold came to, also of one that is planned no more."""
        known = self._results.get(group, {}).get(key)
        if known is not None:
            return known
        if key not in self._gone:
            self._gone[key] = self._store.folds.result(key)
        return self._gone[key]

    def _is_over(self, group: FoldGroup) -> bool:
        """Whether the group's trial is selected, or none can be, and nothing is left to run."""
        seen = [self._seen.get((group.name, slot.planned.key)) for slot in self._slots[group.name]]
        if not all(one is not None and (one.done or one.ended) for one in seen):
            return False
        records = self._store.records
        if records.selected(group.name) or records.selected(group.name, "leave_one_domain_out"):
            return True
        # Where every fold is done, one is selected soon.
        if all(one is not None and one.done for one in seen):
            return False
        return read_group_view(self._store, group, selection=self._sweep.selection).is_hopeless

    def _sweep_record(self, *, over: bool) -> RunRecord:
        return RunRecord(
            kind="sweep",
            group="",
            key=self._sweep.key,
            name=self._sweep.name,
            version="",
            parameters=flat(self._sweep.to_mapping()),
            documents={**self._documents, "data_manifests.json": dict(sorted(self._manifests.items()))},
            status="FINISHED" if over else "RUNNING",
        )


def _group_record(group: FoldGroup, *, over: bool) -> RunRecord:
    about = {"benchmark": group.benchmark, "method": group.method, "test_domains": "+".join(group.test_domains)}
    return RunRecord(
        kind="group",
        group=group.name,
        key=group.name,
        name=group.name,
        version="",
        parameters=about,
        status="FINISHED" if over else "RUNNING",
    )


def _slots(store: SweepFolder, group: FoldGroup) -> Iterator[_Slot]:
    """The folds that a group names, each once, with the number of the trial they belong to."""
    records = store.records
    trials, by_validation = records.trials(group.name), records.selected(group.name)
    by_pairs = records.selected(group.name, "leave_one_domain_out")
    selected = {planned.key for one in (by_validation, by_pairs) if one for planned in one.folds}
    named = [(trial.number, planned) for trial in trials for planned in trial.folds]
    if by_validation:
        named += [(by_validation.number, planned) for planned in by_validation.folds]
    named += records.left_out_folds(group.name)
    points = {trial.number: trial.point for trial in trials}
    seen: set[str] = set()
    for number, planned in named:
        if planned.key not in seen:
            seen.add(planned.key)
            yield _Slot(number, planned, planned.key in selected, points.get(number, {}))


def _tracked(store: SweepFolder, group: FoldGroup, slot: _Slot) -> TrackedFold:
    key = slot.planned.key
    folder, (state, result), spec = store.folds.fold(key), store.folds.standing(key, None), _spec(store, key)
    has_align = spec is not None and method_facts(group.method).aligns
    # Which other sweeps gave it up too is no concern of this one's run.
    pruned = (store.folds.pruned(key) or {}) if state == "pruned" else None
    return TrackedFold(
        group=group.name,
        number=slot.number,
        planned=slot.planned,
        folder=folder,
        align=store.folds.align(fold_spec_from_mapping(spec).align_key) if spec is not None and has_align else None,
        selected=slot.selected,
        method=group.method,
        spec=spec,
        result=store.folds.result(key) if state == "failed" else result,
        point=slot.point,
        failed=state == "failed",
        pruned=None if pruned is None else {name: value for name, value in pruned.items() if name != "sweeps"},
    )


def _spec(store: SweepFolder, key: str) -> dict[str, Any] | None:
    """What a fold was asked to compute; None before it first started, and where the file is damaged."""
    try:
        return None if store.folds.spec(key) is None else read_json(store.folds.fold(key).spec)
    except UserError:
        return None
