"""What fold groups and folds still ask the teacher for, at most, given what is on disk.

A fold that has started continues from its checkpoint: the steps behind it are never asked for again. Those since the
checkpoint are, and so are the texts of the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from orchestrator.plan.query_bounds import Need, largest, own_need, preflight_need, total
from orchestrator.plan.selection_costs import points_agree
from orchestrator.search.folds_to_come import first_specs, num_unwritten, unsettled_specs, unwritten_pairs
from orchestrator.search.group_search import GroupSearch
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.results import whole_result
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.benchmarks import Benchmark
from search_spaces.hyperparameters import FoldSpec
from search_spaces.methods import method_facts
from search_spaces.schedule import stage_steps
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.storage.fold_folder import FoldFolder


class RemainingNeed:
    """What a fold group still asks the teacher for, at most, given what is on disk."""

    def __init__(self, specs: FoldSpecs, sources: Mapping[str, ImageSource], *, store: SweepFolder) -> None:
        self._specs, self._sources, self._store = specs, sources, store
        self.unchecked: set[tuple[str, str]] = set()
        """Pairs of benchmark and method whose teacher and student are still to be checked, which asks too."""

    def __call__(self, group: GroupSearch, further: int | None = None) -> Need:
        """Folds that are written but not done, folds that will be written, and the check before the first.

        `further` trials will be written, or all that are left.
        """
        record = group.group
        if group.is_finished or not method_facts(record.method).asks:
            return Need()
        unwritten = num_unwritten(group, further)
        needs = [self.of_written(spec) for spec in unsettled_specs(group)]
        if unwritten:
            benchmark = self._specs.benchmarks[record.benchmark]
            at_most = largest(self._specs.sweep, benchmark, record.method)
            for spec in first_specs(group):
                needs.append(self.of_fold(spec, batch_size_per_domain=at_most.batch_size_per_domain).times(unwritten))
        needs += self._pairs(group)
        if (record.benchmark, record.method) in self.unchecked:
            mode = self._specs.sweep.hyperparameters_for(record.benchmark).teacher_mode
            check = preflight_need(record.method, teacher_mode=mode, classes=self._classes(record.benchmark))
            name = f"preflight {record.benchmark} {record.method}"
            needs.append(Need(shared={name: (check.images, check.texts)}))
        return total(needs)

    def _pairs(self, group: GroupSearch) -> Iterator[Need]:
        """Pair folds that will be written; one that several groups try alike counts once."""
        record, sweep = group.group, self._specs.sweep
        agreeing = record.trials if points_agree(sweep) else 1
        for spec, is_settled in unwritten_pairs(group):
            at_most = largest(sweep, self._specs.benchmarks[record.benchmark], record.method)
            need = self.of_fold(spec, batch_size_per_domain=at_most.batch_size_per_domain)
            alike = {
                f"{record.method} {spec.fold} trial {number}": (need.images, need.texts)
                for number in range(1 if is_settled else 0, agreeing)
            }
            yield Need(shared={**need.shared, **alike}) + need.times(record.trials - agreeing)

    def of_written(self, spec: FoldSpec) -> Need:
        """What a fold asks for that may have started."""
        benchmark, source = self._specs.benchmarks[spec.fold.benchmark], self._sources[spec.fold.benchmark]
        folder, align = self._store.folds.fold(spec.key), self._store.folds.align(spec.align_key)
        embeddings = str(self._store.folds.embeddings_folder)
        return fold_need(spec, benchmark, source, embeddings=embeddings, folder=folder, align=align)

    def of_fold(self, spec: FoldSpec, *, batch_size_per_domain: int) -> Need:
        """What a fold asks for that will be written, with this batch size."""
        hyperparameters = replace(spec.hyperparameters, batch_size_per_domain=batch_size_per_domain)
        spec, name = replace(spec, hyperparameters=hyperparameters), spec.fold.benchmark
        embeddings = str(self._store.folds.embeddings_folder)
        return fold_need(spec, self._specs.benchmarks[name], self._sources[name], embeddings=embeddings)

    def _classes(self, benchmark: str) -> int:
        return len(self._sources[benchmark].class_names)


def remaining_need(specs: FoldSpecs, *, store: SweepFolder, data_root: str | None) -> RemainingNeed:
    """The needs of a sweep's groups, counted on its own images."""
    sources = {
        name: open_benchmark(benchmark, data_root, cache=store.data_folder)
        for name, benchmark in specs.benchmarks.items()
    }
    return RemainingNeed(specs, sources, store=store)


def fold_need(
    spec: FoldSpec,
    benchmark: Benchmark,
    source: ImageSource,
    *,
    embeddings: str,
    folder: FoldFolder | None = None,
    align: FoldFolder | None = None,
) -> Need:
    """What one fold asks the teacher for at most, given what its embedding store below `embeddings` holds.

    `folder` and `align` are the fold's and its Align stage's, where these may have started.
    """
    live = spec.hyperparameters.teacher_mode == "live"
    steps = None
    if live and folder is not None and align is not None and method_facts(spec.method).uses_teacher_images:
        steps = tuple(_steps_left(spec, benchmark, folder, align))
    own = own_need(
        benchmark,
        spec.hyperparameters,
        spec.method,
        spec.fold.test_domain,
        pool=lambda name, role: len(source.pool(name, role)),
        classes=len(source.class_names),
        num_test_domains=len(spec.fold.test_domains),
        steps=steps,
    )
    if live or not method_facts(spec.method).trains or not method_facts(spec.method).asks:
        return own
    # Loads torch, which only stored views need.
    from trainables.teacher.stored.filling import missing_queries

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


def _steps_left(spec: FoldSpec, benchmark: Benchmark, folder: FoldFolder, align: FoldFolder) -> Iterator[int]:
    """Update steps that each stage of a fold still makes."""
    steps = stage_steps(benchmark, spec.hyperparameters, spec.method)
    for stage, num_steps in zip(method_facts(spec.method).stages, steps, strict=True):
        place = align if stage == "align" else folder
        if align.is_done if stage == "align" else whole_result(folder, spec.key) is not None:
            yield 0
            continue
        try:
            written = place.checkpoint.stat()
        except FileNotFoundError:
            yield num_steps
            continue
        yield _steps_after(place.checkpoint, written.st_mtime_ns, stage, num_steps)


@lru_cache(maxsize=4096)
def _steps_after(checkpoint: Path, written: int, stage: str, num_steps: int) -> int:
    """Steps after the checkpoint that was written then."""
    # Loads torch, which nothing needs before a fold has started.
    from trainables.fitting.checkpoint import steps_left

    return steps_left(checkpoint, stage=stage, num_steps=num_steps)
