"""Budgets of time and money decide where a sweep stops; driven without Ray, with folds whose duration is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.budgets.admission import Admission
from orchestrator.budgets.costs import CostForecast, GroupStanding, Load, Rates, accounts, assumed_durations
from orchestrator.plan.durations import FoldDurations, assumed_seconds
from orchestrator.plan.query_bounds import Need
from orchestrator.report.formats import markdown
from orchestrator.report.measurements import Selection
from orchestrator.report.report import build_report
from orchestrator.run_options import Limits
from orchestrator.scheduler.fold_queue import Attempt, FoldQueue, build_fold_queue
from orchestrator.search.folds_to_come import FoldsLeft
from orchestrator.search.group_search import GroupSearch
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.fold_states import FoldStates
from orchestrator.store.usage import Usage, UsageMeter, read_usage
from orchestrator.sweep import failed_folds
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from search_spaces.hyperparameters import Hyperparameters, Resources
from search_spaces.sweeps import Sweep
from tests.support.bench import CRASH, Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job
from tests.support.waiting import eventually
from tests.support.whole_folds import restate
from trainables.storage.json_files import write_json


@dataclass
class Clock:
    """Stands in for `UsageMeter`: time passes only while a fold is run."""

    total: Usage = field(default_factory=Usage)

    def elapsed(self, key: str) -> float:
        return 0.0

    def pass_time(self, seconds: float) -> None:
        self.total += Usage(wall_seconds=seconds, fold_seconds=seconds, gpu_seconds=2 * seconds, folds_at_once=1)


def standing(whole: int, *, first: int = 0, queries: Mapping[int | None, Need] | None = None) -> GroupStanding:
    """A started group with so many folds left."""
    left = FoldsLeft(whole=whole, to_finish=first, first=first, with_another_trial=whole)
    return GroupStanding(
        name="icons/erm/line",
        row=("icons", "erm"),
        is_started=True,
        is_finished=False,
        is_idle=False,
        left=left,
        queries=queries or {},
    )


class Timed:
    """A sweep whose folds reserve two GPUs and take as long as `takes` says, given how many are done."""

    def __init__(
        self, out: Path, limits: Limits, *, takes: Callable[[int], float], assumed: float = 100.0, sweep: Sweep
    ) -> None:
        self.bench, self.clock, self.takes, self.crashes = Bench(out, sweep), Clock(), takes, "no fold"
        self.file = self.bench.store.usage_folder / "clock.json"
        self.clock.total = read_usage(self.file.parent)
        specs = FoldSpecs(
            sweep=sweep, benchmarks=self.bench.jobs.benchmarks, manifests=dict.fromkeys(sweep.benchmarks, "0" * 64)
        )
        self.slowness: dict[str, float] = {}
        """By method; 1 where none is given."""
        rates = Rates(gpus_per_fold=2.0, per_gpu_hour=limits.price_per_gpu_hour or 0.0)
        self.forecast = CostForecast(
            lambda kind: assumed * self.slowness.get(kind[1], 1.0),
            self.clock,  # type: ignore[arg-type]
            rates=rates,
        )
        self.forecast.at_once = lambda: 1
        self.accounts = accounts(limits)
        admission = Admission(accounts=self.accounts, forecast=self.forecast)
        self.queue: FoldQueue = build_fold_queue(
            self.bench.groups, specs=specs, store=self.bench.store, admission=admission
        )

    def run_all(self, slots: int = 1) -> None:
        running: list[Attempt] = []
        while True:
            while len(running) < slots and (attempt := self.queue.next()) is not None:
                running.append(attempt)
            if not running:
                assert self.queue.is_finished or self.queue.is_out_of_budget, "nothing can start, and it is not over"
                return
            self._run(running.pop(0))

    def _run(self, attempt: Attempt) -> None:
        if self.crashes in str(attempt.planned.fold):
            self.queue.failed(attempt, CRASH)
            return
        run_job(self.bench.jobs.job(attempt.spec).to_mapping())
        folder = self.bench.store.folds.fold(attempt.planned.key)
        seconds = self.takes(self.queue.counts().done) * self.slowness.get(attempt.spec.method, 1.0)
        restate(folder, seconds=seconds)
        self.clock.pass_time(seconds)
        write_json(self.file, {name: getattr(self.clock.total, name) for name in Usage.__dataclass_fields__})
        self.queue.finished(attempt)

    @property
    def done(self) -> list[int]:
        """Folds done of each group."""
        return [group.counts().done for group in self.queue.groups]

    def row(self, method: str) -> list[GroupSearch]:
        return [group for group in self.queue.groups if group.group.method == method]

    def is_whole(self, method: str) -> bool:
        """Whether every test domain has its choice, done on all seeds."""
        store = self.bench.store
        chosen = [store.records.selected(group.group.name) for group in self.row(method)]
        return all(one and all(store.folds.fold(planned.key).is_done for planned in one.folds) for one in chosen)


SWEEP = stub_sweep(trials=3, seeds=2)
"""Four groups of four folds: three trials on seed 0, the best on one further seed."""


def hours(folds: int) -> float:
    """Of so many folds of 100 s, and a little."""
    return (folds + 0.01) * 100 / 3600


def always(seconds: float) -> Callable[[int], float]:
    return lambda done: seconds


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(
    "limits",
    [Limits(gpu_hours=0.5), Limits(wall_hours=0.25), Limits(money=1.0, price_per_gpu_hour=2.0)],
    ids=["gpu_hours", "wall", "money"],
)
def test_a_row_is_whole_with_as_many_configurations_as_fit_and_goes_on_with_a_larger_budget(
    tmp_path: Path, limits: Limits, slots: int
) -> None:
    # A fold is 100 s on two GPUs: 900 s of wall time, or 0.5 GPU-hours, or 1.0 at 2.0 an hour, hold nine folds. Four
    # groups of one trial and its confirmation are eight.
    timed = Timed(tmp_path, limits, takes=always(100.0), sweep=SWEEP)
    timed.run_all(slots)
    assert sorted(timed.done) == [2, 2, 2, 3]
    assert timed.is_whole("erm")
    assert timed.clock.total.wall_seconds == 900
    assert timed.queue.is_out_of_budget
    (line,) = timed.queue.open.refusals()
    assert "raise --" in line
    more = Timed(tmp_path, Limits(wall_hours=10.0), takes=always(100.0), sweep=SWEEP)
    assert more.clock.total.wall_seconds == 900, "what was spent is known to the next run"
    more.run_all(slots)
    assert more.queue.is_finished
    assert not more.queue.is_out_of_budget
    undisturbed = Bench(tmp_path / "undisturbed", SWEEP)
    undisturbed.run_all()
    if slots == 1:
        assert more.bench.points() == undisturbed.points()
    assert {choice.trials for choice in more.bench.choices().values()} == {3}


def test_a_row_that_does_not_fit_begins_in_part_where_nothing_else_was_begun(tmp_path: Path) -> None:
    # Seven folds: not four groups of a trial and its confirmation, but three, and a trial more.
    timed = Timed(tmp_path, Limits(wall_hours=hours(7)), takes=always(100.0), sweep=SWEEP)
    timed.run_all()
    assert sorted(timed.done) == [0, 2, 2, 3]
    assert timed.clock.total.wall_seconds == 700


def test_less_than_a_trial_and_its_confirmation_begins_nothing(tmp_path: Path) -> None:
    for seconds, folds in ((199, 0), (200, 2)):
        timed = Timed(tmp_path / str(seconds), Limits(wall_hours=seconds / 3600), takes=always(100.0), sweep=SWEEP)
        timed.run_all()
        assert sum(timed.done) == folds
        assert timed.queue.is_out_of_budget


TWO_ROWS = stub_sweep(methods=["erm", "kd"], trials=3, seeds=2)


@pytest.mark.parametrize(
    ("folds", "done"),
    [(7, 7), (16, 16), (20, 16), (23, 16), (24, 24), (29, 29), (32, 32)],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("slots", [1, 3])
def test_no_row_begins_that_would_not_be_whole_beside_another(
    tmp_path: Path, folds: int, done: int, slots: int
) -> None:
    timed = Timed(tmp_path, Limits(wall_hours=hours(folds)), takes=always(100.0), sweep=TWO_ROWS)
    timed.run_all(slots)
    by_method = {name: sum(group.counts().done for group in timed.row(name)) for name in ("erm", "kd")}
    assert sum(by_method.values()) == done
    assert folds == 7 or all(timed.is_whole(name) for name, count in by_method.items() if count)
    assert sum(count > 0 for count in by_method.values()) == (2 if folds >= 24 else 1)
    assert timed.queue.is_finished is (folds == 32)


def test_killed_at_any_fold_the_same_budget_buys_the_same_whole_row(tmp_path: Path) -> None:
    for folds in range(1, 9):
        limits, out = Limits(wall_hours=0.25), tmp_path / str(folds)
        killed = Timed(out, limits, takes=always(100.0), sweep=SWEEP)
        for _ in range(folds):
            attempt = killed.queue.next()
            assert attempt is not None
            killed._run(attempt)
        again = Timed(out, limits, takes=always(100.0), sweep=SWEEP)
        again.run_all()
        assert sorted(again.done) == [2, 2, 2, 3]
        assert again.is_whole("erm")
        assert again.clock.total.wall_seconds == 900


def test_what_one_row_leaves_is_enough_for_a_cheaper_one(tmp_path: Path) -> None:
    # Nine folds of erm leave 90 s: too little for a tenth, enough for eight of kd.
    timed = Timed(tmp_path, Limits(wall_hours=9.9 / 36), takes=always(100.0), sweep=TWO_ROWS)
    timed.slowness = {"kd": 0.1}
    timed.run_all()
    done = {name: sum(group.counts().done for group in timed.row(name)) for name in ("erm", "kd")}
    assert done == {"erm": 9, "kd": 9}
    assert timed.is_whole("erm")
    assert timed.is_whole("kd")
    assert timed.clock.total.wall_seconds == 990


def test_what_was_started_is_finished_whatever_became_of_the_budget(tmp_path: Path) -> None:
    killed = Timed(tmp_path, Limits(wall_hours=hours(9)), takes=always(100.0), sweep=SWEEP)
    for _ in range(2):
        attempt = killed.queue.next()
        assert attempt is not None
        killed._run(attempt)
    assert sorted(killed.done) == [0, 0, 1, 1]
    less = Timed(tmp_path, Limits(wall_hours=hours(2)), takes=always(100.0), sweep=SWEEP)
    less.run_all()
    assert sorted(less.done) == [0, 0, 2, 2]


def test_a_whole_benchmarks_search_ends_with_what_a_budget_leaves(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=20, seeds=2, scope="benchmark", stop_level=0.0)
    timed = Timed(tmp_path, Limits(wall_hours=hours(50)), takes=always(100.0), sweep=sweep)
    timed.run_all()
    (group,) = timed.queue.groups
    # Eleven trials of four folds and the confirmation: 48 of 50.
    assert group.counts().done == 48
    assert timed.is_whole("erm")
    (note,) = (line for line in build_report(timed.bench.store).table("icons").notes if "selected from" in line)
    assert "selected from 11 of 20 configurations, for a budget ended the search" in note


def test_a_choice_made_anew_is_paid_for(tmp_path: Path) -> None:
    # Two trials and a confirmation in each of four groups; then a trial more may need another confirmation.
    timed = Timed(tmp_path, Limits(wall_hours=hours(12)), takes=always(100.0), sweep=SWEEP)
    timed.run_all()
    assert timed.done == [3, 3, 3, 3]
    one_more = Timed(tmp_path, Limits(wall_hours=hours(13)), takes=always(100.0), sweep=SWEEP)
    one_more.run_all()
    assert one_more.done == [3, 3, 3, 3]
    two_more = Timed(tmp_path, Limits(wall_hours=hours(14)), takes=always(100.0), sweep=SWEEP)
    two_more.run_all()
    assert (
        len([group for group in two_more.bench.groups if len(two_more.bench.store.records.trials(group.name)) == 3])
        >= 1
    )
    assert two_more.is_whole("erm")
    assert two_more.clock.total.wall_seconds <= 1400


def test_a_group_is_measured_before_others_go_by_the_assumption(tmp_path: Path) -> None:
    # By the assumption all four groups fit 900 s at once; a fold takes ten times as long.
    timed = Timed(tmp_path, Limits(wall_hours=0.25), takes=always(100.0), assumed=10.0, sweep=SWEEP)
    first = [timed.queue.next() for _ in range(3)]
    assert len({attempt.group for attempt in first if attempt is not None}) == 1
    for attempt in first:
        assert attempt is not None
        timed._run(attempt)
    timed.run_all()
    # Three trials had been begun in the first group by then: a whole row of four does not fit any more.
    assert sorted(timed.done) == [0, 2, 3, 4]
    assert timed.clock.total.wall_seconds == 900


def test_a_search_that_takes_longer_than_forecast_ends_early_with_whole_rows_and_goes_on_later(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=5, seeds=2)
    # 50 s each at first: the row of four groups of six fits 1,200 s. From the third fold on they take 100 s.
    slow: Callable[[int], float] = lambda done: 50.0 if done < 2 else 100.0  # noqa: E731
    timed = Timed(tmp_path, Limits(wall_hours=1200 / 3600), takes=slow, assumed=50.0, sweep=sweep)
    timed.run_all()
    assert timed.is_whole("erm")
    for group in timed.queue.groups:
        trials, chosen = (
            timed.bench.store.records.trials(group.group.name),
            timed.bench.store.records.selected(group.group.name),
        )
        assert 1 <= len(trials) < 5, "no new configuration began"
        assert chosen is not None
        assert chosen.trials == len(trials)
    assert timed.queue.is_out_of_budget
    assert timed.clock.total.wall_seconds <= 1200 + 100, "at most what was begun when the forecast erred"
    more = Timed(tmp_path, Limits(wall_hours=100.0), takes=slow, sweep=sweep)
    assert not more.queue.is_out_of_budget
    more.run_all()
    undisturbed = Bench(tmp_path / "undisturbed", sweep)
    undisturbed.run_all()
    assert more.bench.points() == undisturbed.points()
    for name, choice in more.bench.choices().items():
        assert (choice.number, choice.trials) == (undisturbed.choices()[name].number, 5), "chosen anew among all"


def test_killed_between_the_early_choice_and_the_later_one_it_chooses_among_all(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=5, seeds=2)
    slow: Callable[[int], float] = lambda done: 50.0 if done < 2 else 150.0  # noqa: E731
    Timed(tmp_path, Limits(wall_hours=700 / 3600), takes=slow, assumed=50.0, sweep=sweep).run_all()
    killed = Timed(tmp_path, Limits(), takes=slow, sweep=sweep)
    store = killed.bench.store

    def is_at_its_last_trial(name: str) -> bool:
        chosen = store.records.selected(name)
        return chosen is not None and chosen.trials < len(store.records.trials(name)) == 5

    while not any(is_at_its_last_trial(group.name) for group in killed.bench.groups):
        attempt = killed.queue.next()
        assert attempt is not None
        killed._run(attempt)
    last = Timed(tmp_path, Limits(), takes=slow, sweep=sweep)
    last.run_all()
    assert {choice.trials for choice in last.bench.choices().values()} == {5}
    assert last.queue.is_finished


def test_a_retry_begins_nothing_that_does_not_fit(tmp_path: Path) -> None:
    sweep = stub_sweep(trials=1, seeds=1, space="paper")
    first = Timed(tmp_path, Limits(), takes=always(100.0), sweep=sweep)
    first.crashes = "line"
    first.run_all()
    assert first.clock.total.wall_seconds == 300
    # One fold more ends at 400 s.
    for hours, out_of_budget in ((399 / 3600, True), (400 / 3600, False)):
        again = Timed(tmp_path, Limits(wall_hours=hours), takes=always(100.0), sweep=sweep)
        failed = failed_folds(again.bench.store)
        assert len(failed) == 1
        admission = Admission(accounts=again.accounts, forecast=again.forecast, is_retry=True)
        specs = again.queue.groups[0].specs
        queue = build_fold_queue(
            again.bench.groups,
            specs=specs,
            store=again.bench.store,
            admission=admission,
            only=failed,
            states=FoldStates(again.bench.store, retry_failed=True),
        )
        assert queue.is_out_of_budget is out_of_budget
        assert (queue.next() is None) is out_of_budget


def test_durations_are_measured_then_the_methods_then_assumed() -> None:
    assumed = {("A", "erm"): 10.0, ("B", "erm"): 40.0, ("A", "kd"): 7.0}
    durations = FoldDurations(assumed.__getitem__, {("A", "erm"): [20.0, 40.0], ("B", "erm"): []})
    found = {kind: (durations.of(kind).seconds, durations.of(kind).basis) for kind in assumed}
    assert found == {
        ("A", "erm"): (30.0, "measured"),
        # Folds on A took three times the assumption.
        ("B", "erm"): (120.0, "measured on another benchmark"),
        ("A", "kd"): (7.0, "assumed"),
    }
    # 60 s, and 2 x 5,001 steps of 3 x 32 images at 250 a second.
    assert assumed_seconds(BENCHMARKS["PACS"], Hyperparameters(), "vl2v_adip") == pytest.approx(60 + 10_002 * 96 / 250)
    assert assumed_seconds(BENCHMARKS["PACS"], Hyperparameters(), "zero_shot") == 60


def test_money_is_gpu_hours_and_queries_at_their_prices(tmp_path: Path) -> None:
    timed = Timed(tmp_path, Limits(), takes=always(0.0), sweep=SWEEP)
    # Half of a group's four folds: half of its 3,000 queries at 4.0 a thousand, and 2 x 100 s on two GPUs at 9.0.
    need = {None: Need(images=2900, texts=100)}
    timed.clock.total = Usage(gpu_seconds=1800.0)
    costs = CostForecast(
        lambda kind: 100.0,
        timed.clock,  # type: ignore[arg-type]
        rates=Rates(gpus_per_fold=2.0, per_gpu_hour=9.0, per_1000_queries=4.0),
        asked=lambda: 500,
    )
    (account,) = accounts(Limits(money=20.0, price_per_gpu_hour=9.0))

    def covers(load: Load) -> bool:
        return account.covers(costs.used(), costs.time(load))

    load: Load = [(standing(4, first=2, queries=need), "first")]
    assert account.amount(costs.used()) == pytest.approx(0.5 * 9.0 + 2.0)
    assert account.amount(costs.time(load)) == pytest.approx(400 / 3600 * 9.0 + 6.0)
    assert covers(load)
    assert not covers([(standing(4, queries=need), "whole"), (standing(4, queries=need), "whole")])
    assert covers([(standing(4, first=0, queries=need), "first")])


def test_folds_side_by_side_share_the_wall_but_none_is_shorter_than_one(tmp_path: Path) -> None:
    timed = Timed(tmp_path, Limits(), takes=always(0.0), sweep=SWEEP)
    load: Load = [(standing(4), "whole"), (standing(4), "whole")]
    for at_once, seconds in ((1, 800.0), (4, 200.0), (100, 100.0)):
        timed.forecast.at_once = lambda at_once=at_once: at_once
        assert timed.forecast.time(load).wall_seconds == seconds


def test_budgets_that_would_limit_nothing_are_refused_in_one_line() -> None:
    gpu, none = Resources(gpus_per_worker=1), Resources()
    mistakes: Sequence[tuple[Callable[[], Any], str]] = (
        (lambda: Limits(wall_hours=-1.0), "--wall-budget is a number, 0 or more"),
        (lambda: Limits(money=float("nan")), "--money-budget is a number, 0 or more"),
        (lambda: Limits(gpu_hours=1.0).check(none, None), "folds reserve no GPU here; give --gpus-per-worker"),
        (lambda: Limits(price_per_gpu_hour=1.0).check(none, None), "folds reserve no GPU here"),
        (lambda: Limits(money=1.0).check(gpu, None), "needs a price"),
    )
    for mistake, text in mistakes:
        with pytest.raises(UserError, match=text):
            mistake()
    Limits(gpu_hours=1.0, money=1.0, price_per_gpu_hour=1.0).check(gpu, None)
    Limits(money=1.0).check(none, 0.5)
    assert Limits(gpu_hours=2.0).over(Limits(gpu_hours=1.0, money=3.0)) == Limits(gpu_hours=2.0, money=3.0)


def test_usage_adds_up_over_processes_and_a_kill_forgets_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("orchestrator.store.usage.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("orchestrator.store.usage.LOOK_S", 0.02)
    write_json(tmp_path / "first.json", {"wall_seconds": 100.0, "fold_seconds": 150.0, "gpu_seconds": 300.0})
    running, looks = {"a", "b"}, []

    def look() -> set[str]:
        looks.append(clock.now)
        return running

    meter = UsageMeter(tmp_path, "second", gpus_per_fold=0.5, running=look)
    clock.now += 50.0
    assert meter.total.wall_seconds == 100, "nothing is counted before the work begins"
    with meter:
        assert meter.total.wall_seconds == 100
        clock.now += 4.0
        assert meter.total == Usage(wall_seconds=104.0, fold_seconds=158.0, gpu_seconds=304.0, folds_at_once=2)
        assert (meter.elapsed("a"), meter.elapsed("c")) == (4.0, 0.0)
        seen = len(looks)
        assert eventually(lambda: len(looks) > seen + 2)
        assert read_usage(tmp_path).wall_seconds == 100, "less than five seconds are not worth a file"
        clock.now += 2.0
        assert eventually(lambda: read_usage(tmp_path).wall_seconds == 106.0, 60.0), "a kill would forget more"
        running.clear()
        assert meter.total.wall_seconds == 106
        clock.now += 1.0
    clock.now += 50.0
    assert read_usage(tmp_path) == Usage(wall_seconds=107.0, fold_seconds=162.0, gpu_seconds=306.0, folds_at_once=2)
    assert read_usage(tmp_path / "nowhere") == Usage()


def test_what_the_user_says_of_a_folds_time_goes_before_the_assumption() -> None:
    assumed = assumed_durations(SWEEP, BENCHMARKS, seconds_per_fold=7.0)
    told = CostForecast(assumed, Clock(), rates=Rates(gpus_per_fold=1.0))  # type: ignore[arg-type]
    load: Load = [(standing(3), "whole")]
    assert told.time(load).gpu_seconds == 21
    assert told.basis(load).startswith("assumed")


@pytest.mark.parametrize("selection", ["source_validation", "oracle"])
def test_the_report_says_from_how_many_configurations_a_search_that_was_ended_chose(
    tmp_path: Path, selection: Selection
) -> None:
    def slower(done: int) -> float:
        return 50.0 if done < 2 else 150.0

    sweep = stub_sweep(trials=5, seeds=2)
    timed = Timed(tmp_path, Limits(wall_hours=700 / 3600), takes=slower, assumed=50.0, sweep=sweep)
    timed.run_all()
    store = timed.bench.store
    tried = {group.test_domains[0]: len(store.records.trials(group.name)) for group in timed.bench.groups}
    notes = [
        f"erm on {domain}: selected from {count} of 5 configurations, for a budget ended the search"
        for domain, count in tried.items()
        if 0 < count < 5
    ]
    assert notes
    report = build_report(store, selection=selection)
    assert [line for line in report.table("icons").notes if "selected from" in line] == notes
    assert f"{notes[0]}." in markdown(report)
    Timed(tmp_path, Limits(wall_hours=10.0), takes=always(1.0), sweep=sweep).run_all()
    assert not any("selected from" in line for line in build_report(store, selection=selection).table("icons").notes)
