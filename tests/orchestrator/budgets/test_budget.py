"""A query budget decides where a sweep stops: whole fold groups within upper bounds, driven without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.budgets.admission import Admission, Promises
from orchestrator.budgets.remaining_queries import RemainingNeed, fold_need
from orchestrator.execution.failure_kinds import describe
from orchestrator.execution.one_fold import check_budget
from orchestrator.plan.fold_groups import fold_groups
from orchestrator.plan.plan import make_plan
from orchestrator.plan.query_bounds import Need, largest, planned_need, total
from orchestrator.scheduler.fold_queue import FoldQueue, GroupSearch, build_fold_queue
from orchestrator.search.folds_to_come import num_unwritten, unsettled_specs
from orchestrator.search.specs import FoldSpecs
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.hyperparameters import FoldSpec, Hyperparameters
from search_spaces.methods import method_facts
from search_spaces.schedule import stage_steps
from search_spaces.sweeps import Sweep
from tests.support.bench import Bench
from tests.support.query_costs import query_costs
from tests.support.stub_sweep import stub_sweep
from trainables.data.formats.open import open_benchmark
from trainables.data.loading.splits import split_fold
from trainables.fitting.checkpoint import STATE, save_checkpoint
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json
from trainables.teacher.ledger import BudgetReached, QueryLedger, Reservation

PER_FOLD = 10
FOLDS_PER_GROUP = 4
"""3 trials on seed 0, the best on one further seed."""
SWEEP = stub_sweep(methods=["kd"])
"""Four groups, one row."""


class Spending:
    """A teacher's account: every stub fold asks for `PER_FOLD` queries, or for fewer than was feared."""

    def __init__(self, bench: Bench, budget: int, *, really: int = PER_FOLD, asked: int = 0) -> None:
        self.bench, self.really, self.asked = bench, really, asked
        promises = Promises(bench.store)
        self.admission = Admission(budget, forecast=query_costs(lambda: self.asked), promises=promises)
        specs = FoldSpecs(
            sweep=bench.sweep,
            benchmarks=bench.jobs.benchmarks,
            manifests=dict.fromkeys(bench.jobs.benchmarks, "0" * 64),
        )
        self.queue: FoldQueue = build_fold_queue(
            bench.groups, specs=specs, store=bench.store, admission=self.admission, need=self.need
        )
        bench.follow(self.queue)

    def need(self, group: GroupSearch, further: int | None = None) -> Need:
        if not method_facts(group.group.method).asks:
            return Need()
        left = len(list(unsettled_specs(group))) + num_unwritten(group, further) * len(group.group.test_domains)
        return Need(images=PER_FOLD * left)

    def run_all(self, slots: int = 1, *, most: int = 10_000) -> None:
        running: list[Any] = []
        for _ in range(most):
            while len(running) < slots and (attempt := self.queue.next()) is not None:
                running.append(attempt)
            if not running:
                return
            attempt = running.pop(0)
            self.asked += self.really if method_facts(attempt.spec.method).asks else 0
            self.bench.run(attempt)

    @property
    def done(self) -> list[int]:
        """Folds done of each group."""
        return [group.counts().done for group in self.queue.groups]


@pytest.mark.parametrize("slots", [1, 3])
def test_whole_groups_run_and_the_rest_waits_for_a_larger_budget(tmp_path: Path, slots: int) -> None:
    spending = Spending(Bench(tmp_path, SWEEP), 2 * FOLDS_PER_GROUP * PER_FOLD + PER_FOLD)
    spending.run_all(slots)
    assert sorted(spending.done) == [0, 0, 4, 4], "a group that was begun is finished, and none is begun in vain"
    assert spending.asked == 80
    assert spending.queue.is_out_of_budget
    assert not spending.queue.is_finished
    more = Spending(Bench(tmp_path, SWEEP), 10**6)
    more.run_all(slots)
    assert more.done == [4, 4, 4, 4]
    assert not more.queue.is_out_of_budget
    assert more.queue.is_finished


def test_after_a_kill_what_was_begun_goes_on_and_nothing_else_begins(tmp_path: Path) -> None:
    budget = 2 * FOLDS_PER_GROUP * PER_FOLD
    killed = Spending(Bench(tmp_path, SWEEP), budget)
    killed.run_all(most=3)
    begun = [index for index, done in enumerate(killed.done) if done]
    killed.bench.die()
    lost = 5
    again = Spending(Bench(tmp_path, SWEEP), budget, asked=killed.asked + lost)
    assert not again.queue.is_out_of_budget, "the bounds are above the budget by what was lost; bounds are not reached"
    again.run_all()
    assert [index for index, done in enumerate(again.done) if done] == begun
    assert sorted(again.done) == [0, 0, 4, 4]
    (refusal,) = again.queue.open.refusals()
    assert refusal == (
        f"the query budget of {budget} does not cover what is left: {budget + lost} asked, at most {budget} to come; "
        f"raise --query-budget ({2 * budget + lost} would do) and run the same command again"
    )
    enough = Spending(Bench(tmp_path, SWEEP), 2 * budget + lost, asked=again.asked)
    enough.run_all()
    assert enough.queue.is_finished


def test_a_smaller_budget_is_held_to_no_promise_of_a_larger_one(tmp_path: Path) -> None:
    killed = Spending(Bench(tmp_path, SWEEP), 100)
    killed.run_all(most=1)
    killed.bench.die()
    smaller = Spending(Bench(tmp_path, SWEEP), 19, asked=killed.asked)
    assert smaller.queue.is_out_of_budget, "the confirmation does not fit"
    larger = Spending(Bench(tmp_path, SWEEP), 110, asked=killed.asked)
    larger.run_all()
    assert sorted(larger.done) == [0, 0, 4, 4]


def test_who_meets_the_budgets_end_goes_by_the_bounds_from_then_on(tmp_path: Path) -> None:
    spending = Spending(Bench(tmp_path, SWEEP), FOLDS_PER_GROUP * PER_FOLD)
    first = spending.queue.next()
    assert first is not None
    spending.queue.met_budget(first)
    spending.bench.die()
    again = Spending(Bench(tmp_path, SWEEP), FOLDS_PER_GROUP * PER_FOLD, asked=2 * PER_FOLD + 1)
    assert again.queue.is_out_of_budget, "nothing is asked to find that out once more"


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(
    ("folds", "done"),
    # Less than one whole group: a row of first trials with their confirmations is 8 folds, a group's is 2.
    [(1, [0, 0, 0, 0]), (3, [0, 0, 0, 3]), (5, [0, 0, 2, 3]), (8, [2, 2, 2, 2]), (11, [2, 3, 3, 3])],
)
def test_a_budget_below_one_groups_search_tries_as_many_configurations_as_fit(
    tmp_path: Path, folds: int, done: list[int], slots: int
) -> None:
    sweep = stub_sweep(methods=["kd"], trials=20, seeds=2)
    spending = Spending(Bench(tmp_path, sweep), folds * PER_FOLD + 5)
    spending.run_all(slots)
    assert sorted(spending.done) == done
    assert spending.asked == sum(done) * PER_FOLD
    assert spending.queue.is_out_of_budget
    for group in spending.bench.groups:
        trials, chosen = (
            spending.bench.store.records.trials(group.name),
            spending.bench.store.records.selected(group.name),
        )
        assert (chosen is None) == (not trials)
        assert chosen is None or all(spending.bench.store.folds.fold(planned.key).is_done for planned in chosen.folds)


def test_killed_at_any_fold_a_budget_below_one_groups_search_buys_the_same(tmp_path: Path) -> None:
    sweep = stub_sweep(methods=["kd"], trials=20, seeds=2)
    for most in range(1, 11):
        killed = Spending(Bench(tmp_path / str(most), sweep), 11 * PER_FOLD)
        killed.run_all(most=most)
        killed.bench.die()
        again = Spending(Bench(tmp_path / str(most), sweep), 11 * PER_FOLD, asked=killed.asked)
        again.run_all()
        assert sorted(again.done) == [2, 3, 3, 3]
    more = Spending(Bench(tmp_path / "3", sweep), 10**6, asked=110)
    more.run_all()
    assert more.queue.is_finished
    assert {choice.trials for choice in more.bench.choices().values()} == {20}


def test_a_choice_made_anew_is_counted_before_it_is_known_to_be_needed(tmp_path: Path) -> None:
    sweep = stub_sweep(methods=["kd"], trials=20, seeds=2)
    for folds, done in ((8, [2, 2, 2, 2]), (9, [2, 2, 2, 2])):
        spending = Spending(Bench(tmp_path, sweep), folds * PER_FOLD, asked=0 if folds == 8 else 80)
        spending.run_all()
        assert spending.done == done
    more = Spending(Bench(tmp_path, sweep), 10 * PER_FOLD, asked=80)
    more.run_all()
    assert sum(more.done) > 8
    assert more.asked <= 100


@pytest.mark.parametrize(
    ("folds", "done"), [(14, [0, 12]), (20, [0, 16]), (24, [0, 16]), (32, [16, 16])], ids=lambda value: str(value)
)
@pytest.mark.parametrize("slots", [1, 3])
def test_whole_rows_come_before_parts_of_further_ones(tmp_path: Path, folds: int, done: list[int], slots: int) -> None:
    sweep = stub_sweep(methods=["erm", "kd", "vl2v_adip"])
    spending = Spending(Bench(tmp_path, sweep), folds * PER_FOLD)
    spending.run_all(slots)
    by_method: dict[str, int] = {}
    for group in spending.queue.groups:
        by_method[group.group.method] = by_method.get(group.group.method, 0) + group.counts().done
    assert by_method.pop("erm") == 16, "asks for nothing"
    assert sorted(by_method.values()) == done


def test_what_was_not_spent_lets_another_group_begin(tmp_path: Path) -> None:
    spending = Spending(Bench(tmp_path, SWEEP), FOLDS_PER_GROUP * PER_FOLD + 8, really=1)
    spending.run_all()
    assert sorted(spending.done) == [0, 4, 4, 4]
    assert spending.asked == 12


def test_a_budget_of_nothing_starts_nothing(tmp_path: Path) -> None:
    spending = Spending(Bench(tmp_path, SWEEP), 0)
    assert spending.queue.is_out_of_budget
    assert spending.queue.next() is None
    with pytest.raises(UserError, match="0 or more, got -1"):
        Admission(-1)


def test_a_worker_that_meets_the_budget_ends_the_sweep_and_fails_nothing(tmp_path: Path) -> None:
    spending = Spending(Bench(tmp_path, SWEEP), 10**6)
    first, second = spending.queue.next(), spending.queue.next()
    assert first is not None
    assert second is not None
    attempt = describe(BudgetReached(budget=5, asked=5, wanted=1))
    assert attempt.kind == "budget"
    spending.queue.met_budget(first)
    assert spending.queue.next() is None
    assert not spending.queue.is_out_of_budget, "another fold still runs"
    spending.bench.run(second)
    assert spending.queue.is_out_of_budget
    assert spending.queue.counts().failed == 0
    assert not list(tmp_path.rglob("error.json"))


def test_between_two_events_a_groups_queries_are_counted_once(tmp_path: Path) -> None:
    counted: list[tuple[str, int | None]] = []

    class Counting(Spending):
        def need(self, group: GroupSearch, further: int | None = None) -> Need:
            counted.append((group.group.name, further))
            return super().need(group, further)

    sweep = stub_sweep(methods=["kd", "vl2v_adip"])
    spending = Counting(Bench(tmp_path, sweep), 4 * FOLDS_PER_GROUP * PER_FOLD)
    first = spending.queue.next()
    assert first is not None
    for _ in range(3):
        assert not spending.queue.is_out_of_budget
        assert len(list(spending.queue.open.admitted())) == 4
    started = {call for call in counted if call[0] == first.group}
    assert len(counted) == len(set(counted)) + len(started), "only the group that started is counted again"
    counted.clear()
    spending.bench.run(first)
    list(spending.queue.open.admitted())
    assert {name for name, _ in counted} == {group.name for group in spending.bench.groups}, "a fold ended"
    assert len(counted) == len(set(counted))


def test_a_method_without_a_teacher_runs_on_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    specs = FoldSpecs(sweep=bench.sweep, benchmarks=bench.jobs.benchmarks, manifests={"icons": "0" * 64})
    need = RemainingNeed(specs, {"icons": open_benchmark(BENCHMARKS["icons"])}, store=bench.store)
    admission = Admission(0, forecast=query_costs(lambda: 0))
    bench.follow(build_fold_queue(bench.groups, specs=specs, store=bench.store, admission=admission, need=need))
    bench.run_all()
    assert bench.queue.is_finished


def test_a_begun_folds_steps_behind_its_checkpoint_are_never_needed_again(tmp_path: Path) -> None:
    source = open_benchmark(BENCHMARKS["icons"])
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], trials=1, seeds=1))
    specs = FoldSpecs(sweep=bench.sweep, benchmarks=bench.jobs.benchmarks, manifests={"icons": "0" * 64})
    need = RemainingNeed(specs, {"icons": source}, store=bench.store)
    attempt = bench.queue.next()
    assert attempt is not None
    (group,) = [group for group in bench.queue.groups if group.group.name == attempt.group]
    hyperparameters = attempt.spec.hyperparameters
    align, distill = stage_steps(BENCHMARKS["icons"], hyperparameters, "vl2v_adip")
    per_step, texts = 3 * hyperparameters.batch_size_per_domain, 13
    assert need(group).queries == (align + distill) * per_step + texts
    folder, shared = bench.store.folds.fold(attempt.planned.key), bench.store.folds.align(attempt.spec.align_key)
    state = dict.fromkeys(STATE) | {"stage": "align", "next_step": 3, "ended_early": False}
    save_checkpoint(shared.checkpoint, state)
    assert need(group).queries == (align - 3 + distill) * per_step + texts
    save_checkpoint(shared.checkpoint, state | {"next_step": 4})
    assert need(group).queries == (align - 4 + distill) * per_step + texts, "a newer checkpoint is read anew"
    write_json(shared.result, {})
    assert need(group).queries == distill * per_step + texts
    save_checkpoint(folder.checkpoint, state | {"stage": "distill", "next_step": 1})
    assert need(group).queries == (distill - 1) * per_step + texts
    save_checkpoint(folder.checkpoint, state | {"stage": "distill", "next_step": 2, "ended_early": True})
    assert need(group).queries == texts, "SWAD's valley has ended"


def test_train_counts_a_begun_fold_from_its_checkpoint(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["kd"], trials=1, seeds=1))
    attempt = bench.queue.next()
    assert attempt is not None
    hyperparameters, texts = attempt.spec.hyperparameters, 13
    (steps,) = stage_steps(BENCHMARKS["icons"], hyperparameters, "kd")
    per_step = 3 * hyperparameters.batch_size_per_domain
    job = bench.jobs.job(attempt.spec)
    # Killed two steps after the checkpoint of step 3: the check, the texts, and those two are asked for again.
    asked = texts + texts + 5 * per_step
    QueryLedger(Path(job.queries_folder), job.spec.key).reserve(Reservation(images=asked))
    state = dict.fromkeys(STATE) | {"stage": "distill", "next_step": 3, "ended_early": False}
    save_checkpoint(FoldFolder(job.folder).checkpoint, state)
    enough = asked + texts + texts + (steps - 3) * per_step
    check_budget(replace(job, query_budget=enough))
    with pytest.raises(BudgetReached):
        check_budget(replace(job, query_budget=enough - 1))


def test_needs_add_up_and_what_is_shared_counts_once() -> None:
    one = Need(images=3, texts=1, shared={"texts": (0, 7), "view 0": (10, 0)})
    other = Need(images=2, shared={"view 0": (10, 0), "view 1": (10, 0)})
    both = total([one.times(2), other])
    assert (both.images, both.texts) == (8, 2)
    assert (both.all_images, both.all_texts, both.queries) == (28, 9, 37)
    assert both.price(2.0) == pytest.approx(0.074)
    assert one.times(0).queries == 0


def icons_spec(method: str, **changes: Any) -> FoldSpec:
    hyperparameters = replace(Hyperparameters(student="small", teacher="demo"), **changes)
    fold = Fold(benchmark="icons", test_domains=("line",), seed=0)
    return FoldSpec(
        fold=fold, method=method, hyperparameters=hyperparameters, data_manifest="", teacher_fingerprint="t"
    )


def test_a_folds_need_is_what_it_asks(tmp_path: Path) -> None:
    benchmark, source = BENCHMARKS["icons"], open_benchmark(BENCHMARKS["icons"])
    source_manifest = source.manifest

    def need(method: str, **changes: Any) -> Need:
        spec = replace(icons_spec(method, **changes), data_manifest=source_manifest)
        return fold_need(spec, benchmark, source, embeddings=str(tmp_path))

    live = need("vl2v_adip", batch_size_per_domain=5)
    assert (live.all_images, live.all_texts) == (2 * 151 * 3 * 5, 13), "two stages of 151 steps on three domains"
    assert need("erm").queries == 0
    splits = split_fold(source, benchmark, Fold(benchmark="icons", test_domains=("line",), seed=0))
    parts = (splits.source_validation, splits.test_in, splits.test_out)
    assert need("zero_shot").all_images == sum(len(own) for part in parts for own in part.values())
    stored = need("vl2v_adip", teacher_mode="views:2")
    assert stored.all_images == 2 * ((343 + 15) + (222 + 15) + (222 + 15)), "each shard may be filled up with 15"
    assert stored.all_texts == 13
    assert need("vl2v_adip", teacher_mode="views:2", teacher="remote:http://127.0.0.1:9").all_images == 2 * 787
    assert stored.times(20).queries == stored.queries, "asked once, whatever the number of folds"


def test_the_plan_bounds_what_the_sweep_needs(tmp_path: Path) -> None:
    """On the images that the package counts, plan and sweep forecast alike."""
    for mode in ("live", "views:3", "clean"):
        sweep = stub_sweep(methods=["vl2v_adip"], space="official", zero_shot=True)
        sweep = replace(sweep, benchmark_hyperparameters=_with_mode(sweep, mode))
        bench = Bench(tmp_path / mode.replace(":", "-"), sweep)
        specs = FoldSpecs(sweep=sweep, benchmarks=bench.jobs.benchmarks, manifests={"icons": "0" * 64})
        source = open_benchmark(BENCHMARKS["icons"])
        specs.manifests["icons"] = source.manifest  # type: ignore[index]
        need = RemainingNeed(specs, {"icons": source}, store=bench.store)
        queue = build_fold_queue(bench.groups, specs=specs, store=bench.store)
        need.unchecked = {("icons", "vl2v_adip"), ("icons", "zero_shot")}
        planned = make_plan(sweep, bench.jobs.benchmarks).need
        assert planned is not None
        assert planned.queries == total(map(need, queue.groups)).queries, mode


def _with_mode(sweep: Sweep, mode: str) -> dict[str, dict[str, Any]]:
    return {"icons": {**sweep.benchmark_hyperparameters["icons"], "teacher_mode": mode}}


def test_the_bound_takes_the_largest_batch_of_the_space() -> None:
    sweep = stub_sweep(methods=["vl2v_adip"], space="official", trials=2, seeds=1)
    at_most = largest(sweep, BENCHMARKS["icons"], "vl2v_adip").batch_size_per_domain
    assert at_most == int(2**5.5)
    groups = fold_groups(sweep, BENCHMARKS["icons"], "vl2v_adip")
    need = planned_need(sweep, BENCHMARKS["icons"], "vl2v_adip", groups)
    assert need is not None
    assert need.all_images == 4 * 2 * (2 * 151 * 3 * at_most)
    assert np.isclose(need.price(1000.0), need.queries)
