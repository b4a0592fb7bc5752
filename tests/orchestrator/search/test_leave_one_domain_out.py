"""Leave-one-domain-out selection: its pair folds in the queue, its arithmetic, and what it cannot see."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.budgets.remaining_queries import RemainingNeed
from orchestrator.inspection.explain import explain_trial
from orchestrator.inspection.fold_names import known_folds
from orchestrator.inspection.status import sweep_status
from orchestrator.plan.plan import make_plan
from orchestrator.plan.query_bounds import total
from orchestrator.report.domainbed.selection import SELECTION_METHODS
from orchestrator.report.report import build_report
from orchestrator.search.group_view import read_group_view
from orchestrator.search.leave_one_domain_out import held_out_accuracy, held_out_validation
from orchestrator.search.selection_outcome import selection_outcome
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import Failure
from orchestrator.store.records import PlannedFold
from orchestrator.store.sweep_folder import SweepFolder, open_store
from orchestrator.tracking.projection import SweepProjection
from search_spaces.benchmarks import BENCHMARKS
from search_spaces.folds import Fold
from tests.support.bench import Bench
from tests.support.command_lines import requested
from tests.support.repository import REPOSITORY
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import starts
from tests.support.whole_folds import restate, write_whole
from trainables.data.formats.open import open_benchmark
from trainables.storage.json_files import write_json

DOMAINS = ("clipart", "flat", "line", "render3d")


def left_out_sweep(**changes: Any) -> Any:
    return stub_sweep(**{"selection": "leave_one_domain_out", "trials": 3, "seeds": 2, **changes})


def pair_starts(out: Path) -> Counter[str]:
    return Counter(start["key"] for start in starts(out) if "+" in start["fold"])


def test_pair_folds_run_once_each_and_the_first_trials_are_shared(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep())
    bench.run_all(slots=3)
    counted = pair_starts(tmp_path)
    # The sweep's own point: 6 pairs for 4 test domains. Two more trials of each domain: 3 pairs each.
    assert len(counted) == 6 + 2 * 4 * 3
    assert set(counted.values()) == {1}
    assert bench.queue.is_finished
    status = sweep_status(bench.store)
    # 4 groups x (3 trials + 1 further seed + 9 pair folds), where a shared fold counts for both of its groups.
    assert (status.counts.done, status.counts.planned) == (52, 52)
    assert bench.queue.counts() == status.counts


def test_counts_expect_the_pair_folds_before_they_are_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep())
    assert bench.queue.counts().waiting == sweep_status(bench.store).counts.waiting == 52
    plain = Bench(tmp_path / "plain", stub_sweep(trials=3, seeds=2))
    assert plain.queue.counts().waiting == sweep_status(plain.store).counts.waiting == 16


def test_scope_benchmark_runs_every_pair_once_per_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep(scope="benchmark", stop_level=0.0))
    bench.run_all(slots=2)
    assert len(pair_starts(tmp_path)) == 3 * 6


def test_the_choice_is_the_mean_over_the_other_domains(tmp_path: Path) -> None:
    """The stub's held-out accuracy falls as its source validation rises, so the two selections choose apart."""
    bench = Bench(tmp_path, left_out_sweep(seeds=1))
    bench.run_all()
    for group in bench.groups:
        (target,) = group.test_domains
        chosen = bench.store.records.selected(group.name, "leave_one_domain_out")
        assert chosen is not None
        assert bench.store.records.selected(group.name) is None
        scores = {}
        for record in bench.store.records.pairs(group.name):
            held_out = []
            for planned in record.folds:
                (other,) = set(planned.fold.test_domains) - {target}
                held_out.append(json.loads(bench.store.folds.fold(planned.key).held_out(other).read_text())["accuracy"])
            assert len(held_out) == 3
            scores[record.number] = sum(held_out) / 3
        assert chosen.number == max(scores, key=lambda number: (scores[number], number))
        validation = {
            trial.number: bench.store.folds.fold(trial.folds[0].key).read_result()["source_validation"]["accuracy"]  # type: ignore[index]
            for trial in bench.store.records.trials(group.name)
        }
        assert chosen.number == min(validation, key=lambda number: validation[number])


def test_a_lone_configuration_needs_no_pair_fold(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep(space="paper", trials=1))
    bench.run_all()
    assert not pair_starts(tmp_path)
    assert build_report(bench.store).missing == ""


def test_a_sweep_that_was_run_without_goes_on_with_the_same_trials(tmp_path: Path) -> None:
    first = Bench(tmp_path, stub_sweep(trials=3, seeds=2))
    first.run_all()
    points, before = first.points(), len(starts(tmp_path))
    report = build_report(first.store, selection="leave_one_domain_out")
    assert "lacks 36 pair folds (icons/erm/clipart trial 0: clipart+flat seed 0, " in report.missing
    assert report.missing.endswith(
        f"vl2v-orchestrate sweep --config {tmp_path}/sweep.json --out {tmp_path} --selection leave_one_domain_out -y"
    )
    again = requested("--config", str(first.store.sweep_file), "--selection", "leave_one_domain_out").sweep
    assert again == left_out_sweep()
    assert again.key == first.sweep.key
    assert not any(cell.is_whole for cell in report.table("icons").rows[0].ood.values())
    second = Bench(tmp_path, left_out_sweep())
    second.run_all()
    assert second.points() == points
    assert len(pair_starts(tmp_path)) == 30
    # 30 pair folds, and seed 1 of each group's other choice.
    assert len(starts(tmp_path)) == before + 30 + 4
    for selection in ("source_validation", "leave_one_domain_out", "oracle"):
        whole = build_report(second.store, selection=selection)  # type: ignore[arg-type]
        assert whole.missing == ""
        assert all(cell.is_whole for cell in whole.table("icons").rows[0].ood.values())
    chosen = second.store.selected("icons/erm/clipart")
    assert chosen == second.store.records.selected("icons/erm/clipart", "leave_one_domain_out")
    assert chosen is not None
    known = known_folds(second.store)
    told = str(explain_trial(known, known.trials[0]))
    assert f"selected trial {chosen.number}: the best mean accuracy on the source domains that pair folds left" in told
    assert build_report(second.store).selection == "leave_one_domain_out", "what was asked for last"


def test_cut_off_anywhere_it_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "whole", left_out_sweep())
    whole.run_all()
    for _ in range(100):
        if Bench(tmp_path / "cut", left_out_sweep()).run_all(most=7) == []:
            break
    cut = Bench(tmp_path / "cut", left_out_sweep())
    assert cut.queue.is_finished
    for group in cut.groups:
        assert cut.store.records.selected(group.name, "leave_one_domain_out") == whole.store.records.selected(
            group.name, "leave_one_domain_out"
        )
    assert set(Counter(start["key"] for start in starts(tmp_path / "cut")).values()) == {1}


def test_a_trial_whose_pair_fold_failed_cannot_be_chosen(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep(trials=2, seeds=1))
    while (attempt := bench.queue.next()) is not None:
        if attempt.group == "icons/erm/line" and len(attempt.planned.fold.test_domains) == 2 and attempt.number == 1:
            bench.queue.failed(attempt, Failure(time=0.0, kind="diverged", error="loss nan"))
        else:
            bench.run(attempt)
    assert bench.queue.is_finished
    chosen = bench.store.records.selected("icons/erm/line", "leave_one_domain_out")
    assert chosen is not None
    assert chosen.number == 0


def test_where_every_trial_lacks_a_pair_the_group_ends_without_a_choice(tmp_path: Path) -> None:
    write_json(tmp_path / "BEHAVIOUR", {"nan": "clipart+line"})
    bench = Bench(tmp_path, left_out_sweep(trials=2, seeds=1))
    bench.run_all()
    assert bench.store.records.selected("icons/erm/line", "leave_one_domain_out") is None
    assert bench.store.records.selected("icons/erm/flat", "leave_one_domain_out") is not None
    report = build_report(bench.store)
    assert not report.table("icons").rows[0].ood["line"].is_whole
    assert report.table("icons").rows[0].ood["flat"].is_whole


def test_the_report_chooses_as_the_sweep_did(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep())
    bench.run_all()
    for group in bench.groups:
        written = bench.store.records.selected(group.name, "leave_one_domain_out")
        assert written is not None
        (tmp_path / "left_out" / f"{group.name.replace('/', '--')}.json").unlink()
        found = selection_outcome(read_group_view(bench.store, group, selection="leave_one_domain_out"))
        assert (found.number, found.folds) == (written.number, written.folds)
        plain = selection_outcome(read_group_view(bench.store, group, selection="source_validation"))
        assert plain.number != found.number
        assert [fold.seed for _, fold in plain.missing.seeds] == [1]


# Numbers worked out by hand: two configurations on three domains, selected for `line`.
HELD_OUT = {
    (0, "clipart"): 0.50, (0, "flat"): 0.70,  # mean 0.60: chosen
    (1, "clipart"): 0.90, (1, "flat"): 0.20,  # mean 0.55
}  # fmt: skip


def write_pairs(store: SweepFolder, *, about_target: float) -> dict[int, list[PlannedFold]]:
    folds: dict[int, list[PlannedFold]] = {0: [], 1: []}
    for (number, other), accuracy in HELD_OUT.items():
        fold = Fold(benchmark="icons", test_domains=tuple(sorted((other, "line"))), seed=0)
        planned = PlannedFold(fold=fold, key=f"{number}-{other}")
        folder = store.folds.fold(planned.key)
        write_json(folder.held_out(other), {"accuracy": accuracy})
        write_json(folder.held_out("line"), {"accuracy": about_target * (number + 1)})
        write_whole(folder, fold)
        folds[number].append(planned)
    return folds


def test_by_hand_and_as_domainbed_selects(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    folds = write_pairs(store, about_target=0.3)
    scores = [held_out_validation(store, number, own, ["line"]) for number, own in folds.items()]
    assert [score and score.accuracy for score in scores] == pytest.approx([0.60, 0.55])
    records: list[dict[str, Any]] = []
    names = ("clipart", "flat", "line")
    for number in folds:
        settings = {"trial_seed": 0, "dataset": "Toy", "algorithm": "ERM", "hparams_seed": number}
        single = {f"env{index}_{part}_acc": 0.0 for index in range(3) for part in ("in", "out")}
        records.append({"step": 0, "args": {**settings, "test_envs": [2]}, **single, "env2_in_acc": number / 10})
        for index, other in enumerate(names[:2]):
            pair = {**single, f"env{index}_in_acc": HELD_OUT[number, other]}
            records.append({"step": 0, "args": {**settings, "test_envs": [index, 2]}, **pair})
    ranking = SELECTION_METHODS["leave_one_domain_out"].ranking(records)
    assert [seed for seed, _ in ranking] == [0, 1]
    assert [accuracies.validation for _, accuracies in ranking] == pytest.approx([0.60, 0.55])


def test_scope_benchmark_means_over_test_domains_by_hand(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    folds = write_pairs(store, about_target=0.1)
    # Pairs {clipart, line} and {flat, line}; for clipart it counts what they say of line (0.1), and so for flat.
    score = held_out_validation(store, 0, folds[0], ["clipart", "flat", "line"])
    assert score is not None
    assert score.accuracy == pytest.approx((0.1 + 0.1 + 0.6) / 3)


def test_what_a_pair_fold_says_of_the_target_cannot_be_opened_for_it(tmp_path: Path) -> None:
    folds = write_pairs(open_store(tmp_path / "a"), about_target=0.1)
    other = open_store(tmp_path / "b")
    write_pairs(other, about_target=0.4)
    for number, own in folds.items():
        for planned in own:
            about_target = other.folds.fold(planned.key).held_out("line")
            about_target.write_text("poison: whoever opens this fails")
        found = [held_out_validation(store, number, own, ["line"]) for store in (open_store(tmp_path / "a"), other)]
        assert found[0] == found[1] is not None
    with pytest.raises(ValueError, match="unpack"):
        held_out_accuracy(other, folds[0][0], selecting_for="render3d")


def test_one_function_opens_held_out_files() -> None:
    """Whoever else wants to has to change this list, and say why."""
    root = REPOSITORY
    users = {
        str(path.relative_to(root))
        for package in ("search_spaces", "trainables", "orchestrator")
        for path in (root / package).rglob("*.py")
        if "held_out" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr in ("held_out", "read_held_out")
    }
    assert users == {
        "orchestrator/search/leave_one_domain_out.py",
        "trainables/fold.py",
        # Compares the files' bytes with what the result states of them.
        "trainables/storage/finished_folds.py",
        "trainables/storage/fold_folder.py",
    }


def test_permuted_test_labels_change_no_choice(tmp_path: Path) -> None:
    """With all numbers about a domain replaced, its own group suggests and chooses the same."""
    group, plain, permuted = "icons/erm/line", *(Bench(tmp_path / name, left_out_sweep()) for name in ("one", "two"))
    plain.run_all()
    while (attempt := permuted.queue.next()) is not None:
        if "line" in attempt.planned.fold.test_domains:
            run_permuted(permuted, attempt, "line")
        else:
            permuted.run(attempt)
    assert permuted.points()[group] == plain.points()[group]
    chosen = [bench.store.records.selected(group, "leave_one_domain_out") for bench in (plain, permuted)]
    assert chosen[0] == chosen[1] is not None


def run_permuted(bench: Bench, attempt: Any, domain: str) -> None:
    """Run a fold whose labels of a test domain are permuted: only its numbers about that domain differ."""
    from tests.support.stub_worker import run_job

    run_job(bench.jobs.job(attempt.spec).to_mapping())
    folder = bench.store.folds.fold(attempt.planned.key)
    if len(attempt.planned.fold.test_domains) == 2:
        accuracy = json.loads(folder.held_out(domain).read_text())["accuracy"]
        write_json(folder.held_out(domain), {"domain": domain, "accuracy": 1.0 - accuracy})
    else:
        write_json(folder.test, {"accuracy": {domain: 0.0}})
    restate(folder)
    bench.queue.finished(attempt)


def test_a_budget_counts_pair_folds_as_the_plan_does(tmp_path: Path) -> None:
    sweep = left_out_sweep(methods=["vl2v_adip"], trials=3, seeds=2)
    bench = Bench(tmp_path, sweep)
    specs = FoldSpecs(sweep=sweep, benchmarks=bench.jobs.benchmarks, manifests={"icons": "0" * 64})
    sources = {"icons": open_benchmark(BENCHMARKS["icons"])}
    need = RemainingNeed(specs, sources, store=bench.store)
    need.unchecked = {("icons", "vl2v_adip")}
    plan = make_plan(sweep, BENCHMARKS)
    assert plan.need is not None
    assert total(map(need, bench.queue.groups)).queries == plan.need.queries
    bench.run_all()
    assert total(map(need, bench.queue.groups)).queries == 0


def test_tracking_gets_every_pair_fold_and_no_held_out_number(tmp_path: Path) -> None:
    bench = Bench(tmp_path, left_out_sweep())
    bench.run_all()
    records = list(SweepProjection(bench.store, bench.sweep, {}).records())
    own = [record for record in records if record.kind == "trial" and record.group == "icons/erm/line"]
    assert len({record.key for record in own}) == len(own) == 3 + 9 + 1
    assert sum(record.tags["chosen"] == "true" for record in own) == 2, "the chosen trial on both seeds"
    assert all("held_out" not in name for record in own for name in (point.name for point in record.metrics()))
    (group,) = [record for record in records if record.kind == "group" and record.group == "icons/erm/line"]
    best = [point.value for point in group.metrics() if point.name == "source_validation_accuracy"]
    results = [
        bench.store.folds.fold(trial.folds[0].key).read_result()
        for trial in bench.store.records.trials("icons/erm/line")
    ]
    assert len(best) == 3 + 1, "pair folds have other source domains and stand beside nothing"
    assert max(best) >= max(result["source_validation"]["accuracy"] for result in results if result)
