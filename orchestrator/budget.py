"""A query budget at work: which fold groups may start, so that what is started can be finished.

The meter in every worker never asks one query more than the budget. What is decided here is only where to stop: a group
begins when an upper bound of all its folds fits what the started ones leave. The budget is no part of a sweep's
identity: raise it, run the same command again, and the sweep goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.query_forecast import Need, largest, own_need, preflight_need, total
from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from trainables.data.images import ImageSource
from trainables.data.open import open_benchmark

if TYPE_CHECKING:
    from orchestrator.agenda import GroupAgenda
    from orchestrator.specs import FoldSpecs
    from orchestrator.store import Store


class Admission:
    """Decides which fold groups may start. Without a budget, all may."""

    def __init__(
        self,
        budget: int | None = None,
        *,
        need: Callable[[GroupAgenda], Need] | None = None,
        asked: Callable[[], int] | None = None,
    ) -> None:
        """Remember whom to ask.

        Args:
            budget: most queries ever, images and texts together; None for no limit.
            need: an upper bound of what a group still asks for.
            asked: queries that were asked so far, in all of the store.
        """
        if budget is not None and budget < 0:
            raise UserError(f"the query budget is 0 or more, got {budget}")
        self.budget = budget
        self._need: Callable[[GroupAgenda], Need] = need or (lambda group: Need())
        self._asked = asked or (lambda: 0)
        self._admitted: dict[str, GroupAgenda] = {}
        self._refused: set[str] = set()
        self._closed = False

    def admits(self, group: GroupAgenda) -> bool:
        """Whether the group's folds may run: it was admitted before, or all that it may need fits beside the others."""
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

    def look_again(self) -> None:
        """A fold ended: it may have asked for less than the bound, or left views that others need no more."""
        self._refused.clear()

    def close(self) -> None:
        """A worker met the budget's end (others may spend it too): nothing that asks starts any more."""
        self._closed = True
        self._refused.clear()


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
        if (record.benchmark, record.method) in self.unchecked:
            mode = self._specs.sweep.hyperparameters_for(record.benchmark).teacher_mode
            check = preflight_need(record.method, teacher_mode=mode, classes=self._classes(record.benchmark))
            name = f"preflight {record.benchmark} {record.method}"
            needs.append(Need(shared={name: (check.images, check.texts)}))
        return total(needs)

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
