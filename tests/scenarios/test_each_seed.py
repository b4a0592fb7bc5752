"""The authors' protocol: every seed is searched anew and has a choice of its own; driven without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.inspection.explain import explain_fold, explain_trial
from orchestrator.inspection.export import export_groups
from orchestrator.inspection.fold_names import known_folds
from orchestrator.inspection.status import sweep_status
from orchestrator.report.formats import markdown
from orchestrator.report.measurements import measure
from orchestrator.report.report import build_report
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep

TRIALS, SEEDS, DOMAINS = 4, 2, ("clipart", "flat", "line", "render3d")


def authors_sweep(**fields: Any) -> Sweep:
    return stub_sweep(sampler="authors", space="official", trials=TRIALS, seeds=SEEDS, **fields)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("authors"), authors_sweep())
    bench.run_all(slots=3)
    return bench


def test_every_seed_has_draws_of_its_own_that_all_test_domains_share(bench: Bench) -> None:
    points = {
        (group.test_domains[0], group.own_seed): [trial.point for trial in bench.store.records.trials(group.name)]
        for group in bench.groups
    }
    assert set(points) == {(domain, seed) for domain in DOMAINS for seed in range(SEEDS)}
    for seed in range(SEEDS):
        assert all(points[domain, seed] == points[DOMAINS[0], seed] for domain in DOMAINS)
    first, second = points["line", 0], points["line", 1]
    assert first[0] == second[0], "the paper's own, as DomainBed's hparams seed 0"
    assert all(one != other for one, other in zip(first[1:], second[1:], strict=True))


def test_every_seed_chooses_by_its_own_source_validation(bench: Bench) -> None:
    counts = bench.queue.counts()
    assert counts.done == counts.planned == len(DOMAINS) * SEEDS * TRIALS, "nothing is repeated on another seed"
    for group in bench.groups:
        trials, chosen = bench.store.records.trials(group.name), bench.store.records.selected(group.name)
        accuracies = {}
        for trial in trials:
            (planned,) = trial.folds
            assert planned.fold.seed == group.own_seed
            result = bench.store.folds.fold(planned.key).read_result()
            assert result is not None
            accuracies[trial.number] = result["source_validation"]["accuracy"]
        assert chosen is not None
        assert chosen.number == max(accuracies, key=lambda number: (accuracies[number], number))
        assert chosen.folds == trials[chosen.number].folds


@pytest.mark.parametrize("selection", ["source_validation", "oracle"])
def test_a_cell_holds_each_seeds_own_choice(bench: Bench, selection: Any) -> None:
    measured = measure(bench.store, selection)
    assert not measured.missing
    cells = {(item.test_domain, item.seed): item for item in measured.measurements}
    assert len(cells) == len(measured.measurements) == len(DOMAINS) * SEEDS
    for (domain, seed), item in cells.items():
        assert item.group == f"icons/erm/{domain}/seed{seed}"
    report = build_report(bench.store, selection=selection)
    (row,) = report.table("icons").rows
    assert report.table("icons").seeds == (0, 1)
    assert row.average_ood.is_whole
    assert row.ood["line"].values == tuple(cells["line", seed].values["ood"] for seed in (0, 1))
    text = markdown(report)
    assert "Each seed had its own search" in text
    assert "seed 0" not in text


def test_the_oracle_has_every_seed_whatever_the_sweep_chose(bench: Bench) -> None:
    """With one search for all seeds the oracle's choice lacks the further ones, where the sweep chose another."""
    assert not build_report(bench.store, selection="oracle").missing


def test_leave_one_domain_out_chooses_on_each_seed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, authors_sweep(selection="leave_one_domain_out"))
    bench.run_all(slots=2)
    left_out = [planned for group in bench.groups for _, planned in bench.store.records.left_out_folds(group.name)]
    pairs = {planned.key for planned in left_out if len(planned.fold.test_domains) == 2}
    assert len(pairs) == TRIALS * SEEDS * 6, "each pair serves both of its domains"
    report = build_report(bench.store)
    assert not report.missing
    assert report.table("icons").rows[0].average_ood.is_whole
    assert "folds (the same seed) that leave" in markdown(report)


def test_cut_off_anywhere_it_goes_on_as_if_it_had_not_been(tmp_path: Path, bench: Bench) -> None:
    for most in (1, 7, 20, 31):
        killed = Bench(tmp_path / str(most), authors_sweep())
        killed.run_all(most=most)
        killed.die()
        again = Bench(tmp_path / str(most), authors_sweep())
        again.run_all()
        assert again.points() == bench.points()
        assert again.choices() == bench.choices()


def test_names_tell_the_seeds_apart(bench: Bench) -> None:
    known = known_folds(bench.store)
    assert known.trial("icons/line/seed1/trial2") is None, "a fold"
    assert known.fold("icons/line/seed1/trial2").fold.seed == 1
    with pytest.raises(UserError, match=r"2 trials match .*icons/erm/line/seed0/trial2, icons/erm/line/seed1/trial2"):
        known.trial("icons/line/trial2")
    assert [group.name for group in sweep_status(bench.store).groups] == [group.name for group in bench.groups]
    exported = export_groups(bench.store, only="icons/erm/line/seed1")
    assert "selected for test domain line, seed1: trial" in exported[0].text
    explained = explain_fold(known, known.fold("icons/line/seed1/trial0"))
    assert "icons/erm/line/seed1" in "\n".join(explained.lines)


def test_a_trial_of_all_test_domains_is_named_with_its_seed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, authors_sweep(scope="benchmark", stop_level=0.0))
    bench.run_all()
    assert {group.name for group in bench.groups} == {"icons/erm/*/seed0", "icons/erm/*/seed1"}
    trial = known_folds(bench.store).trial("icons/*/seed1/trial2")
    assert trial is not None
    assert (trial.group, trial.number, len(trial.folds)) == ("icons/erm/*/seed1", 2, 4)
    assert explain_trial(known_folds(bench.store), trial).lines
