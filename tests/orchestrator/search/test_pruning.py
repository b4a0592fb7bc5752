"""Pruning in a search, driven without Ray: what stops, what never does, and that every decision can be made again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.formats import markdown, to_mapping
from orchestrator.report.pruning_audit import PruningAudit, audit
from orchestrator.report.report import Report
from orchestrator.scheduler.fold_queue import Attempt
from orchestrator.search.learning_curves import Curves
from orchestrator.search.pruning import Decision, GroupPruning, read_decisions
from orchestrator.search.pruning_rules import judge_curve
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.sweep_folder import open_store
from tests.support.stub_worker import surface
from tests.support.worked_searches import LAST, Worked, between, sweep_of
from trainables.jobs import FoldJob
from trainables.storage.json_files import read_json, write_json


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_a_pruned_fold_says_why_and_is_never_run_again(tmp_path: Path, pruner: str) -> None:
    bench = Worked(tmp_path, sweep_of(pruner=pruner))
    bench.run_all()
    pruned = [one for one in bench.decisions() if one.verdict == "prune"]
    counts = bench.queue.counts()
    assert len(pruned) == counts.pruned > 0
    assert counts.done + counts.pruned == counts.planned == 4 * (10 + 1)
    for one in pruned:
        assert one.folds == (one.key,)
        assert one.value < one.threshold
        assert not bench.store.folds.fold(one.key).is_done
        assert bench.store.folds.fold_state(one.key, None) == "pruned"
        found = read_json(bench.store.folds.fold(one.key).path / "pruned.json")
        assert found is not None
        assert (found["rule"], found["stage"], found["step"]) == (pruner, "distill", one.step)
        assert (found["value"], found["threshold"], found["against"]) == (one.value, one.threshold, list(one.against))
        assert one.against
    later = Worked(tmp_path, bench.sweep)
    assert later.queue.is_finished
    assert later.queue.counts() == counts
    assert later.queue.next() is None


def test_the_papers_point_and_confirmations_are_never_pruned(tmp_path: Path) -> None:
    def worst_first(job: FoldJob) -> float:
        own = bench.sweep.hyperparameters_for("icons")
        return 0.1 if job.spec.hyperparameters == own or job.spec.fold.seed else surface(job)

    bench = Worked(tmp_path, sweep_of(), accuracy=worst_first)
    bench.run_all(slots=3)
    assert any(one.verdict == "prune" for one in bench.decisions())
    assert not [one for one in bench.decisions() if one.number == 0]
    for group in bench.groups:
        assert bench.store.folds.fold(bench.store.records.trials(group.name)[0].folds[0].key).is_done
        chosen = bench.store.records.selected(group.name)
        assert chosen is not None
        assert all(bench.store.folds.fold(planned.key).is_done for planned in chosen.folds)


def test_the_sampler_is_told_what_a_pruned_trial_reached(tmp_path: Path) -> None:
    bench = Worked(tmp_path)
    bench.run_all()
    for group in bench.queue.groups:
        for tried, trial in zip(group.history(values=True), bench.store.records.trials(group.group.name), strict=True):
            key = trial.folds[0].key
            assert tried.state == ("pruned" if key in bench.pruned_keys() else "complete")
            curve = {entry["step"]: entry["accuracy"] for entry in bench.store.folds.fold(key).read_journal()}
            assert tried.values == (curve if tried.state == "pruned" else {})
    told = [trial.history["pruned"] for group in bench.groups for trial in bench.store.records.trials(group.name)]
    assert any(told)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}, {"scope": "benchmark"}, {"audit_share": 0.5}], ids=str)
def test_a_sweep_that_is_cut_off_anywhere_decides_as_if_it_had_not_been(
    tmp_path: Path, fields: dict[str, Any], seed: int
) -> None:
    whole = Worked(tmp_path / "whole", sweep_of(**fields))
    whole.run_all()
    chance = random.Random(seed)
    while True:
        cut = Worked(tmp_path / "cut", whole.sweep)
        if cut.queue.is_finished:
            break
        cut.run_all(most=chance.randint(0, 8))
        if (attempt := cut.dispatcher.start()) is not None:
            cut.run(attempt, until=chance.randint(0, LAST - 1))
        cut.die()
        if chance.random() < 0.5:
            for marked in (tmp_path / "cut").rglob("pruned.json"):
                marked.unlink()  # the driver was killed between its decision and the mark
    assert cut.made() == whole.made()
    assert cut.points() == whole.points()
    assert cut.queue.counts() == whole.queue.counts()
    marks = [{path.parent.name for path in (tmp_path / name).rglob("pruned.json")} for name in ("cut", "whole")]
    assert marks[0] == marks[1] == whole.pruned_keys()


class RunningOn(Worked):
    """Workers that learn late that their fold was pruned: they report `further` more evaluations."""

    further: Callable[[Attempt], int]

    def run(self, attempt: Attempt, *, until: int = LAST) -> Decision | None:
        decision = super().run(attempt, until=until)
        if decision is not None:
            self.report(
                attempt.planned.key, range(decision.step + 1, min(LAST, decision.step + self.further(attempt)) + 1)
            )
        return decision

    def report(self, key: str, steps: Iterable[int]) -> None:
        """Write evaluations into a fold's journal, whoever ran it."""
        spec = self.store.folds.spec(key)
        assert spec is not None
        entry = {"kind": "evaluation", "stage": "distill", "cross_entropy": 1.0, "domains": {}, "time": 0.0}
        whole = self.accuracy(self.jobs.job(spec))
        lines = [{**entry, "step": step, "accuracy": whole * (step + 1) / (LAST + 1)} for step in steps]
        self.store.folds.fold(key).append_journal(lines)


def by_chance(seed: int) -> Callable[[Attempt], int]:
    return lambda attempt: random.Random(f"{seed} {attempt.group} {attempt.number}").randrange(LAST)


@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}, {"scope": "benchmark", "pruner": "asha"}], ids=str)
@pytest.mark.parametrize("further", [lambda attempt: LAST, by_chance(0)], ids=["to the end", "by chance"])
def test_how_far_a_pruned_fold_ran_on_decides_nothing(
    tmp_path: Path, fields: dict[str, Any], further: Callable[[Attempt], int]
) -> None:
    whole = Worked(tmp_path / "at once", sweep_of(trials=18, **fields))
    whole.run_all()
    late = RunningOn(tmp_path / "late", whole.sweep)
    late.further = further
    late.run_all()
    assert late.made() == whole.made()
    assert late.points() == whole.points()


@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}], ids=str)
def test_what_another_sweep_makes_of_a_pruned_fold_meanwhile_decides_nothing(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    whole = Worked(tmp_path / "alone", sweep_of(trials=18, **fields))
    whole.run_all()
    other = RunningOn(tmp_path / "shared", whole.sweep)
    other.further = lambda attempt: 0
    other.run_all(most=30)
    for key in other.pruned_keys():
        reported = {entry["step"] for entry in other.store.folds.fold(key).read_journal()}
        other.report(key, [step for step in range(LAST + 1) if step not in reported])
    other.run_all()
    assert other.made() == whole.made()
    assert other.points() == whole.points()


@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}], ids=str)
def test_late_reports_of_pruned_folds_leave_every_decision_repeatable(tmp_path: Path, fields: dict[str, Any]) -> None:
    bench = RunningOn(tmp_path, sweep_of(trials=14, **fields))
    bench.further = by_chance(0)
    bench.run_all(slots=5)
    states = FoldStates(bench.store)
    for group in bench.groups:
        pruning = GroupPruning(group, sweep=bench.sweep, store=bench.store, states=states, num_steps=LAST + 1)
        for decision in read_decisions(bench.store, group.name):
            judged = pruning.replay(decision, bench.store.records.trials(group.name))
            assert judged is not None
            assert (judged.value, judged.threshold) == (decision.value, decision.threshold)


def test_an_evaluation_without_a_number_is_passed_over(tmp_path: Path) -> None:
    folder = open_store(tmp_path).folds.fold("k")
    folder.path.mkdir(parents=True)
    entry = {"kind": "evaluation", "stage": "distill", "cross_entropy": 1.0}
    accuracies = [float("nan"), None, 0.5, float("inf")]
    folder.append_journal([{**entry, "step": step, "accuracy": value} for step, value in enumerate(accuracies)])
    curves = Curves(open_store(tmp_path), "distill")
    assert curves.of("k") == {2: 0.5}
    rivals = {"k": curves.of("k"), "l": {0: 0.9, 1: 0.9}, "m": {0: 0.8, 1: 0.8}}
    judged = judge_curve("asha", {0: 0.1, 1: 0.1}, rivals, step=1, num_steps=3)
    assert judged is not None
    assert (judged.against, judged.threshold) == (("l", "m"), 0.9)


@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}, {"scope": "benchmark", "pruner": "none"}], ids=str)
@pytest.mark.parametrize("slots", [1, 5])
def test_every_decision_can_be_made_again_from_the_store(tmp_path: Path, fields: dict[str, Any], slots: int) -> None:
    bench = Worked(tmp_path, sweep_of(trials=14, **fields))
    bench.run_all(slots=slots)
    assert bench.decisions()
    states = FoldStates(bench.store)
    for group in bench.groups:
        pruning = GroupPruning(group, sweep=bench.sweep, store=bench.store, states=states, num_steps=LAST + 1)
        for decision in read_decisions(bench.store, group.name):
            judged = pruning.replay(decision, bench.store.records.trials(group.name))
            assert judged is not None
            assert (judged.value, judged.threshold) == (decision.value, decision.threshold)
            assert judged.prune == (decision.verdict != "keep")


@pytest.mark.parametrize("fields", [{}, {"pruner": "asha"}, {"scope": "benchmark", "pruner": "none"}], ids=str)
def test_no_decision_reads_a_test_number(tmp_path: Path, fields: dict[str, Any]) -> None:
    made = []
    for name, content in (("none", None), ("permuted", b'{"accuracy": {"line": 0.0}}'), ("no JSON", b"\x00 what?")):
        bench = Worked(tmp_path / name, sweep_of(**fields))
        bench.test_json = content
        bench.run_all()
        made.append((bench.made(), bench.points(), bench.choices(), audit(bench.store)))
    assert made[0] == made[1] == made[2]
    assert made[0][0]


def test_another_sweep_on_the_store_goes_on_with_a_pruned_fold_and_its_result_wins(tmp_path: Path) -> None:
    first = Worked(tmp_path / "first")
    first.run_all()
    key = min(first.pruned_keys())
    other = open_store(tmp_path / "other", shared=tmp_path / "first")
    other.claim(sweep_of(pruner="none"), first.groups, {"icons": "0" * 64})
    assert first.store.folds.fold_state(key, None) == "pruned"
    assert other.folds.fold_state(key, None) == "waiting"
    spec = first.store.folds.spec(key)
    assert spec is not None
    first.write_result(spec)
    assert first.store.folds.fold_state(key, None) == other.folds.fold_state(key, None) == "done"
    again = Worked(tmp_path / "first", first.sweep)
    before = first.queue.counts()
    after = again.queue.counts()
    assert (after.done, after.pruned) == (before.done + 1, before.pruned - 1)


def test_a_worker_that_came_to_its_result_while_it_was_stopped_counts_at_the_end(tmp_path: Path) -> None:
    bench = Worked(tmp_path)
    bench.run_all()
    before = bench.queue.counts()
    spec = bench.store.folds.spec(min(bench.pruned_keys()))
    assert spec is not None
    bench.write_result(spec)
    bench.queue.workers_ended()
    after = bench.queue.counts()
    assert (after.done, after.pruned) == (before.done + 1, before.pruned - 1)
    assert after == Worked(tmp_path, bench.sweep).queue.counts()


def test_two_sweeps_that_give_a_fold_up_are_both_named(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.folds.mark_pruned("k", {"rule": "asha"}, "one")
    store.folds.mark_pruned("k", {"rule": "median"}, "two")
    store.folds.mark_pruned("k", {"rule": "asha"}, "one")
    found = read_json(store.folds.fold("k").path / "pruned.json")
    assert found == {"rule": "median", "sweeps": ["one", "two"]}


def test_domains_are_the_rungs_of_a_benchmarks_search(tmp_path: Path) -> None:
    bench = Worked(tmp_path, between())
    ended = bench.run_all()
    (group,) = bench.groups
    trials = bench.store.records.trials(group.name)
    order = [attempt.planned.key for attempt in ended if attempt.number]
    planned = [fold.key for trial in trials[1:] for fold in trial.folds]
    assert [key for key in planned if key in order] == order, "one trial's folds follow one another"
    stopped = {one.number: one for one in bench.decisions() if one.verdict == "prune"}
    assert stopped
    for trial in trials:
        done = [bench.store.folds.fold(fold.key).is_done for fold in trial.folds]
        if trial.number in stopped:
            one = stopped[trial.number]
            assert 2 <= one.step < 4
            assert done == [position < one.step for position in range(4)]
            assert one.folds == tuple(fold.key for fold in trial.folds[one.step :])
            assert one.against == tuple(fold.key for fold in trials[one.trials[0]].folds[: one.step])
        else:
            assert all(done)
    counts = bench.queue.counts()
    assert counts.pruned == sum(4 - one.step for one in stopped.values())
    assert counts.planned == 4 * (10 + 1)
    chosen = bench.store.records.selected(group.name)
    assert chosen is not None
    assert chosen.number not in stopped


def test_between_folds_other_trials_are_tried_side_by_side_and_the_papers_point_at_once(tmp_path: Path) -> None:
    bench = Worked(tmp_path, between())
    attempts = [bench.queue.next() for _ in range(7)]
    assert [attempt.number for attempt in attempts if attempt] == [0, 0, 0, 0, 1, 2, 3]


def test_a_stop_level_of_zero_runs_the_whole_grid(tmp_path: Path) -> None:
    bench = Worked(tmp_path, between(stop_level=0.0))
    bench.run_all()
    counts = bench.queue.counts()
    assert (counts.done, counts.pruned) == (44, 0)
    assert bench.decisions() == []


@pytest.mark.parametrize("fields", [{}, {"scope": "benchmark", "pruner": "none"}], ids=str)
def test_what_is_audited_runs_to_its_end_and_shows_the_regret(tmp_path: Path, fields: dict[str, Any]) -> None:
    bench = Worked(tmp_path, sweep_of(audit_share=1.0, **fields))
    bench.run_all()
    counts = bench.queue.counts()
    assert (counts.pruned, counts.done) == (0, counts.planned)
    assert {one.verdict for one in bench.decisions()} <= {"keep", "audit"}
    found = audit(bench.store)
    audited = {(one.group, one.number) for one in bench.decisions() if one.verdict == "audit"}
    assert found.trials_audited == len(found.regrets) == len(audited) > 0
    assert found.false_stops == 0, "the stub's curves never cross"
    assert f"of {len(audited)} that were to be pruned" in found.line


def test_an_audited_trial_that_turns_out_best_is_a_false_stop(tmp_path: Path) -> None:
    bench = Worked(tmp_path, sweep_of(audit_share=1.0))
    bench.run_all()
    one = next(one for one in bench.decisions() if one.verdict == "audit")
    result = bench.store.folds.fold(one.key).read_result()
    assert result is not None
    write_json(bench.store.folds.fold(one.key).result, result | {"source_validation": {"accuracy": 1.0}})
    best = max(
        bench.store.folds.fold(trial.folds[0].key).read_result()["source_validation"]["accuracy"]  # type: ignore[index]
        for trial in bench.store.records.trials(one.group)
        if (one.group, trial.number)
        not in {(two.group, two.number) for two in bench.decisions() if two.verdict == "audit"}
    )
    found = audit(bench.store)
    assert found.false_stops == 1
    assert max(found.regrets) == pytest.approx(1.0 - best)


def test_the_account_of_what_was_saved(tmp_path: Path) -> None:
    bench = Worked(tmp_path, between())
    bench.run_all()
    found = audit(bench.store)
    assert found.folds_not_run == found.folds_saved == bench.queue.counts().pruned
    assert found.folds_stopped == 0
    report = Report(
        sweep="s",
        sweep_key="k",
        scope="benchmark",
        space="wide",
        selection="source_validation",
        tables=(),
        pruning=found,
    )
    assert f"## Pruning\n\n{found.line}.\n" in markdown(report)
    assert json.loads(json.dumps(to_mapping(report)))["pruning"]["folds_not_run"] == found.folds_not_run
    assert "Pruning" not in markdown(replace(report, pruning=PruningAudit()))
    inside = Worked(tmp_path / "inside")
    inside.run_all()
    found = audit(inside.store)
    assert (found.folds_not_run, found.folds_stopped) == (0, inside.queue.counts().pruned)
    pruned = [one for one in inside.decisions() if one.verdict == "prune"]
    assert found.folds_saved == pytest.approx(sum(1 - (one.step + 1) / (LAST + 1) for one in pruned))


def test_a_decision_torn_by_a_crash_is_made_again(tmp_path: Path) -> None:
    bench = Worked(tmp_path)
    bench.run_all()
    shutil.copytree(tmp_path, tmp_path.with_name("torn"))
    path = next((tmp_path.with_name("torn") / "pruning").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    store = open_store(tmp_path.with_name("torn"))
    store.records.append_decision(path.stem.replace("--", "/"), {"after": "the tear"})
    lines = store.records.decisions(path.stem.replace("--", "/"))
    assert len(lines) == len(bench.store.records.decisions(path.stem.replace("--", "/")))
    assert lines[-1] == {"after": "the tear"}


def test_a_trial_is_not_pruned_between_folds_while_one_of_them_runs(tmp_path: Path) -> None:
    def paper_is_best(job: FoldJob) -> float:
        is_paper = job.spec.hyperparameters == bench.sweep.hyperparameters_for("icons")
        return 0.9 if is_paper else 0.1 + len(job.spec.fold.test_domain) / 1000

    bench = Worked(tmp_path, between(trials=2), accuracy=paper_is_best)
    bench.slots = 5
    attempts = [bench.dispatcher.start() for _ in range(5)]
    papers, own = attempts[:4], attempts[4]
    for _ in range(2):
        assert own is not None
        bench.run(own)
        own = bench.dispatcher.start()
    assert own is not None
    assert own.number == 1
    for attempt in papers:
        assert attempt is not None
        bench.run(attempt)
    assert bench.queue.next() is None
    assert bench.decisions() == [], "its third fold runs"
    bench.run(own)
    bench.run_all()
    (decision,) = bench.decisions()
    assert (decision.verdict, decision.step, len(decision.folds)) == ("prune", 3, 1)
