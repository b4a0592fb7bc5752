"""The queue over all fold groups, driven without Ray: order, exactly once, failures, and going on after a crash."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.inspection.status import sweep_status
from orchestrator.report.report import build_report
from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.search.folds_to_come import running_keys
from orchestrator.search.group_view import GroupView
from orchestrator.store.failures import Failure, give_up, record_failure
from orchestrator.store.records import TrialRecord
from orchestrator.sweep import failed_folds
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job, starts
from trainables.storage.json_files import write_json
from trainables.storage.leases import Owner


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize("scope", ["domain", "benchmark"])
def test_every_planned_fold_runs_exactly_once(tmp_path: Path, slots: int, scope: str) -> None:
    bench = Bench(tmp_path, stub_sweep(scope=scope, stop_level=0.0, methods=["erm", "vl2v_adip"], zero_shot=True))
    bench.run_all(slots=slots)
    counted = Counter(start["key"] for start in starts(tmp_path))
    assert set(counted.values()) == {1}
    # 2 methods x 4 domains x (3 trials + 1 further seed), and the teacher on 4 domains x 2 seeds.
    assert len(counted) == 2 * 4 * 4 + 4 * 2
    counts = bench.queue.counts()
    assert (counts.done, counts.planned, counts.waiting) == (40, 40, 0)


def test_the_first_trial_is_the_papers_point_and_the_best_one_is_confirmed_on_all_seeds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=6, seeds=3))
    bench.run_all()
    for group in bench.groups:
        trials, chosen = bench.store.records.trials(group.name), bench.store.records.selected(group.name)
        assert [trial.number for trial in trials] == list(range(6))
        assert [trial.source for trial in trials] == ["paper", *["sampler"] * 5]
        assert trials[0].point["distill.lr"] == bench.sweep.hyperparameters_for("icons").distill.lr
        objectives = [
            bench.store.folds.fold(trial.folds[0].key).read_result()["source_validation"]["accuracy"]  # type: ignore[index]
            for trial in trials
        ]
        assert chosen is not None
        assert objectives[chosen.number] == max(objectives)
        assert [planned.fold.seed for planned in chosen.folds] == [0, 1, 2]
        assert chosen.folds[0] == trials[chosen.number].folds[0]


def test_no_group_gets_a_second_fold_while_another_has_none(tmp_path: Path) -> None:
    bench, running = Bench(tmp_path), []
    for _ in range(8):
        while len(running) < 4:
            attempt = bench.queue.next()
            assert attempt is not None
            running.append(attempt)
        assert len({attempt.group for attempt in running}) == 4
        bench.run(running.pop(random.Random(len(running)).randrange(4)))


def test_a_lone_configuration_does_not_wait_for_its_first_seed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(space="paper", trials=1, seeds=3))
    handed_out = [bench.queue.next() for _ in range(12)]
    assert len({attempt.planned.key for attempt in handed_out if attempt}) == 12
    assert bench.queue.next() is None


@pytest.mark.parametrize("seed", range(6))
def test_a_sweep_that_is_cut_off_anywhere_goes_on_as_if_it_had_not_been(tmp_path: Path, seed: int) -> None:
    whole = Bench(tmp_path / "whole", stub_sweep(trials=13))
    whole.run_all()
    chance = random.Random(seed)
    while True:
        cut = Bench(tmp_path / "cut", stub_sweep(trials=13))
        if cut.queue.is_finished:
            break
        cut.run_all(most=chance.randint(0, 15))
        if (attempt := cut.queue.next()) is not None and chance.random() < 0.5:
            run_job(cut.jobs.job(attempt.spec).to_mapping())  # the worker ended, and nobody was left to hear it
        cut.die()
    assert cut.points() == whole.points()
    assert cut.choices() == whole.choices()
    assert set(Counter(start["key"] for start in starts(tmp_path / "cut")).values()) == {1}


def shared_benches(tmp_path: Path, **options: Any) -> tuple[Bench, Bench]:
    """Two sweeps that want the same, on one store."""
    sweep = stub_sweep(methods=["vl2v_adip"], space="demo", trials=4)
    first, second = (
        Bench(tmp_path / name, sweep, shared=tmp_path / "store", **options) for name in ("first", "second")
    )
    return first, second


@pytest.mark.parametrize("seed", range(4))
def test_sweeps_that_share_a_store_run_every_fold_once(tmp_path: Path, seed: int, no_patience: None) -> None:
    benches = shared_benches(tmp_path, repeatable=True)
    chance = random.Random(seed)
    running: list[tuple[Bench, Attempt]] = []
    handed_out: list[str] = []
    while not all(bench.queue.is_finished for bench in benches):
        bench = chance.choice(benches)
        if chance.random() < 0.5 and (attempt := bench.queue.next()) is not None:
            running.append((bench, attempt))
            handed_out.append(attempt.planned.key)
        elif running:
            owner, attempt = running.pop(chance.randrange(len(running)))
            owner.run(attempt)
    assert not running
    first, second = benches
    keys = {planned.key for group in first.groups for planned in first.store.records.planned_folds(group.name)}
    assert Counter(start["key"] for start in starts(tmp_path / "store")) == dict.fromkeys(keys, 1)
    assert sorted(handed_out) == sorted(keys)
    assert (first.points(), first.choices()) == (second.points(), second.choices())
    assert not list(tmp_path.rglob("lease.json"))


def test_a_fold_that_a_living_sweep_holds_is_passed_over_and_then_taken_over(tmp_path: Path, no_patience: None) -> None:
    first, second = shared_benches(tmp_path)
    held = first.queue.next()
    other = second.queue.next()
    assert held is not None
    assert other is not None
    assert other.planned != held.planned
    assert other.spec.align_key != held.spec.align_key, "the same Align stage would run twice"
    second.queue.dropped(other)
    first.run(held)
    before = second.queue.counts().done
    second.run_all()
    assert before == 0
    assert second.queue.counts().done == second.queue.counts().planned
    assert Counter(start["key"] for start in starts(tmp_path / "store"))[held.planned.key] == 1


def test_a_dead_sweeps_fold_is_handed_out_again(tmp_path: Path, no_patience: None) -> None:
    first, second = shared_benches(tmp_path)
    attempts = [first.queue.next() for _ in range(4)]
    assert None not in attempts
    assert {owner.identity for owner in _owners(second)} == {first.leases.owner.identity}
    first.die()
    second.run_all()
    assert second.queue.is_finished


def test_elsewhere_holds_no_suggestion_up_unless_they_have_to_be_repeatable(tmp_path: Path, no_patience: None) -> None:
    for repeatable in (False, True):
        sweep = stub_sweep(benchmarks=["icons"], trials=3)
        place = tmp_path / str(repeatable)
        first, second = (
            Bench(place / name, sweep, shared=place / "store", repeatable=repeatable) for name in ("first", "second")
        )
        for _ in first.groups:
            assert first.queue.next() is not None
        attempt = second.queue.next()
        assert (attempt is None) == repeatable


def _owners(bench: Bench) -> list[Owner]:
    while bench.queue.next() is not None:
        pass
    return list(bench.queue.elsewhere().values())


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another sweep holds is looked at again at once."""
    monkeypatch.setattr("orchestrator.store.leases.LOOK_AGAIN_S", 0.0)


def test_suggestions_follow_from_what_the_record_says_was_known(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=4))
    bench.run_all(slots=5, seed=3)
    for group in bench.groups:
        for trial in bench.store.records.trials(group.name):
            known = sorted(number for numbers in trial.history.values() for number in numbers)
            assert known == list(range(trial.number))


def test_a_crash_is_tried_once_more_and_then_given_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=2, seeds=1))
    first = bench.queue.next()
    assert first is not None
    assert bench.queue.failed(first, CRASH)
    again = bench.queue.next()
    while again is not None and again.planned != first.planned:
        bench.run(again)
        again = bench.queue.next()
    assert again is not None
    assert (first.attempt, again.attempt) == (1, 2)
    assert not bench.queue.failed(again, CRASH)
    bench.run_all()
    assert [planned.key for _, planned in bench.queue.failures()] == [first.planned.key]
    assert bench.queue.counts().failed == 1
    chosen = bench.store.records.selected(first.group)
    assert chosen is not None
    assert chosen.number == 1, "a failed trial cannot be chosen"


@pytest.mark.parametrize("kind", ["diverged", "no_metric"])
def test_what_comes_back_equal_is_not_tried_again(tmp_path: Path, kind: Any) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=1, seeds=1))
    attempt = bench.queue.next()
    assert attempt is not None
    assert not bench.queue.failed(attempt, Failure(time=time.time(), kind=kind, error="loss nan at step 7"))


def test_a_trial_without_a_finite_objective_fails(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"nan": "line/seed0"})
    bench = Bench(tmp_path, stub_sweep(trials=2))
    bench.run_all()
    assert {planned.fold.test_domain for _, planned in bench.queue.failures()} == {"line"}
    assert bench.queue.counts().failed == 2
    assert bench.store.records.selected("icons/erm/line") is None
    assert "nan" in bench.store.folds.failures(next(bench.queue.failures())[1].key).error


@pytest.mark.parametrize("fields", [{}, {"sampler": "random"}, {"scope": "benchmark", "stop_level": 0.0}], ids=str)
def test_a_trial_that_is_retried_after_the_choice_is_chosen_from_too(tmp_path: Path, fields: dict[str, Any]) -> None:
    sweep = stub_sweep(trials=4, **{"sampler": "random", **fields})
    undisturbed = Bench(tmp_path / "undisturbed", sweep)
    undisturbed.run_all()
    name, best = next(iter(undisturbed.choices().items()))
    lost = undisturbed.store.records.trials(name)[best.number].folds[0].key
    bench = Bench(tmp_path / "lost", sweep)
    while not bench.queue.is_finished:
        attempt = bench.queue.next()
        assert attempt is not None
        if attempt.planned.key == lost:
            bench.queue.failed(attempt, CRASH)
        else:
            bench.run(attempt)
    first = bench.choices()[name]
    assert first.number != best.number
    assert first.without == (best.number,)
    bench.die()
    assert Bench(tmp_path / "lost", sweep).queue.is_finished, "it stays failed, and the choice stands"
    retried = Bench(tmp_path / "lost", sweep, retry_failed=True)
    attempt = retried.queue.next()
    assert attempt is not None
    assert attempt.planned.key == lost
    retried.run(attempt)
    retried.die()
    assert build_report(bench.store).missing, "the choice is to be made anew"
    assert sweep_status(bench.store).counts.waiting == len(best.folds) - len(
        undisturbed.store.records.trials(name)[0].folds
    )
    again = Bench(tmp_path / "lost", sweep)
    again.run_all()
    assert again.choices() == undisturbed.choices()
    assert again.queue.counts() == undisturbed.queue.counts()
    assert not build_report(bench.store).missing


def fail(bench: Bench, key: str) -> None:
    """As a worker that crashed until the fold was given up left it."""
    folder = bench.store.folds.fold(key)
    record_failure(folder, CRASH)
    give_up(folder)


@pytest.mark.parametrize("again", ["fails again", "is done"])
def test_a_retry_ends_where_it_leaves_a_choice_to_be_made_anew(tmp_path: Path, again: str) -> None:
    """A trial had failed before its group chose, and so has a further seed of that choice: both are to be retried."""
    sweep = stub_sweep(trials=2, sampler="random")
    bench = Bench(tmp_path, sweep)
    name = bench.groups[0].name
    lost: set[str] = set()
    while not bench.queue.is_finished:
        attempt = bench.queue.next()
        assert attempt is not None
        if attempt.group == name and (attempt.number == 1 or attempt.planned.fold.seed == 1):
            lost.add(attempt.planned.key)
            bench.queue.failed(attempt, CRASH)
        else:
            bench.run(attempt)
    bench.die()
    chosen = bench.choices()[name]
    assert (chosen.number, chosen.without) == (0, (1,))
    asked = failed_folds(bench.store)
    assert set(asked) == lost
    retried = Bench(tmp_path, sweep, retry_failed=True, only=asked, max_failures=0)
    attempt = retried.queue.next()
    assert attempt is not None
    assert attempt.number == 1
    if again == "is done":
        retried.run(attempt)
    else:
        retried.queue.failed(attempt, CRASH)
    assert retried.queue.next() is None
    assert retried.queue.is_finished
    assert not retried.queue.is_out_of_budget
    retried.die()
    after = Bench(tmp_path, sweep)
    after.run_all()
    counts = after.queue.counts()
    assert (counts.failed, counts.waiting) == ((0, 0) if again == "is done" else (1, 0)), "the further seed was run"


def test_a_retry_leaves_pair_folds_alone_that_nobody_chooses_by(tmp_path: Path) -> None:
    by_pairs = Bench(tmp_path, stub_sweep(trials=2, selection="leave_one_domain_out"))
    by_pairs.run_all()
    by_pairs.die()
    key = by_pairs.store.records.pairs(by_pairs.groups[0].name)[0].folds[0].key
    by_pairs.store.folds.fold(key).result.unlink()
    fail(by_pairs, key)
    assert set(failed_folds(by_pairs.store)) == {key}
    by_accuracy = Bench(tmp_path, stub_sweep(trials=2))
    by_accuracy.run_all()
    assert not failed_folds(by_accuracy.store)
    assert by_accuracy.store.folds.failures(key).failed, "nothing was forgiven"


def test_what_a_killed_worker_left_beside_a_result_is_taken_away(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=1, space="paper", seeds=1))
    attempt = bench.queue.next()
    assert attempt is not None
    checkpoint = bench.store.folds.fold(attempt.planned.key).checkpoint
    run_job(bench.jobs.job(attempt.spec).to_mapping())
    checkpoint.write_bytes(b"as far as it was")
    assert bench.queue.finished(attempt)
    assert not checkpoint.exists()


def test_failed_folds_stay_failed_until_a_retry_is_asked_for(tmp_path: Path) -> None:
    sweep = stub_sweep(space="paper", trials=1, seeds=2)
    bench = Bench(tmp_path, sweep)
    for _ in range(2):
        attempt = bench.queue.next()
        assert attempt is not None
        bench.queue.failed(attempt, CRASH)
    bench.run_all()
    assert (bench.queue.counts().failed, bench.queue.counts().done) == (1, 7)
    later = Bench(tmp_path, sweep)
    assert later.queue.is_finished
    retried = Bench(tmp_path, sweep, retry_failed=True)
    assert len(retried.run_all()) == 1
    assert retried.queue.counts().failed == 0


def test_folds_that_share_an_align_stage_stand_back_while_it_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo", trials=3))
    attempts = [bench.queue.next() for _ in range(5)]
    assert attempts[4] is None
    assert all(attempts[:4])
    assert [len(bench.store.records.trials(group.name)) for group in bench.groups] == [2, 2, 2, 2]
    first = attempts[0]
    assert first is not None
    write_json(bench.store.folds.align(first.spec.align_key).result, {})
    later = bench.queue.next()
    assert later is not None
    assert (later.group, later.number) == (first.group, 1)


def test_a_point_that_was_tried_already_is_not_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(trials=2, seeds=1))
    attempt = bench.queue.next()
    assert attempt is not None
    bench.run(attempt)
    old = bench.store.records.trials(attempt.group)[0]
    bench.store.records.write_trial(
        TrialRecord(
            group=old.group, number=1, point=old.point, folds=old.folds, source="sampler", created=0.0, history={}
        )
    )
    later = Bench(tmp_path, bench.sweep)
    later.run_all()
    assert Counter(start["key"] for start in starts(tmp_path))[old.folds[0].key] == 1
    assert later.queue.counts().done == 8


def test_the_mark_of_a_fold_that_ended_with_its_driver_is_tidied_up_and_no_other(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    ended, elsewhere = bench.queue.next(), bench.queue.next()
    assert ended is not None
    assert elsewhere is not None
    for attempt in (ended, elsewhere):
        bench.store.folds.mark_running(attempt.planned.key, "some owner")
    run_job(bench.jobs.job(ended.spec).to_mapping())  # and the driver is killed before it tidies up
    Bench(tmp_path).queue.counts()
    left = [path.parent.name for path in tmp_path.rglob("running.json")]
    assert left == [elsewhere.planned.key], "another sweep may run that one in a shared store"


def test_a_fold_that_was_stopped_from_outside_waits_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    attempt = bench.queue.next()
    assert attempt is not None
    bench.queue.dropped(attempt)
    again = bench.queue.next()
    assert again is not None
    assert again.planned == attempt.planned
    assert again.attempt == 1


@pytest.mark.parametrize("fields", [{}, {"scope": "benchmark"}, {"selection": "leave_one_domain_out"}], ids=str)
def test_what_is_counted_is_what_a_fresh_look_at_the_store_counts(tmp_path: Path, fields: dict[str, Any]) -> None:
    bench, chance = Bench(tmp_path, stub_sweep(trials=3, seeds=2, **fields)), random.Random(0)
    running: list[Attempt] = []
    while True:
        while len(running) < 3 and (attempt := bench.queue.next()) is not None:
            running.append(attempt)
        fresh = Bench(tmp_path, bench.sweep).queue
        seen, anew = bench.queue.counts(), fresh.counts()
        assert (seen.done, seen.failed, seen.planned) == (anew.done, anew.failed, anew.planned)
        assert seen.running == sum(len(running_keys(group)) for group in bench.queue.groups) >= len(running)
        assert [group.is_finished for group in bench.queue.groups] == [group.is_finished for group in fresh.groups]
        rows = sweep_status(bench.store).groups
        assert [row.counts for row in rows] == [group.counts() for group in bench.queue.groups]
        assert [(row.best, row.accuracy) for row in rows] == [_best(group.view) for group in bench.queue.groups]
        if not running:
            break
        attempt = running.pop(chance.randrange(len(running)))
        what = chance.random()
        if what < 0.1:
            bench.queue.dropped(attempt)
        elif what < 0.3:
            bench.queue.failed(attempt, CRASH)
        else:
            bench.run(attempt)
    assert bench.queue.is_finished


def test_an_event_costs_no_more_with_more_fold_groups_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    bench = Bench(tmp_path, stub_sweep(methods=["erm", "vl2v_adip", "vl2v_sd", "kd"], trials=2))
    original = GroupView.counts
    monkeypatch.setattr(GroupView, "counts", lambda view: looked.append(view.group.name) or original(view))
    bench.queue.counts()
    assert len(looked) == 16
    attempt = bench.queue.next()
    assert attempt is not None
    looked.clear()
    bench.run(attempt)
    bench.queue.counts()
    bench.queue.next()
    assert len(set(looked)) <= 2


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("changes", [{}, {"scope": "benchmark", "stop_level": 0.0}], ids=str)
def test_distill_only_trials_share_one_align_stage_per_fold_and_seed(
    tmp_path: Path, changes: dict[str, Any], slots: int
) -> None:
    bench = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo", trials=6, seeds=3, **changes))
    bench.run_all(slots=slots)
    ran = [start["key"] for start in starts(tmp_path, "ALIGNS")]
    assert len(ran) == len(set(ran)) == 4 * 3, "folds of one configuration x seeds, whatever the number of trials"
    assert len(starts(tmp_path)) == 4 * (6 + 2)


def _best(view: GroupView) -> tuple[int | None, float | None]:
    return view.best, None if view.best is None else view.objectives[view.best]
