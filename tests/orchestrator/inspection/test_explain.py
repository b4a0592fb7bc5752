"""Why a fold or trial is there, what became of it, and the configurations that can be had again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import run
from orchestrator.inspection.explain import explain_fold, explain_trial
from orchestrator.inspection.export import export_groups
from orchestrator.inspection.fold_names import known_folds
from orchestrator.search.specs import FoldSpecs
from orchestrator.store.failures import Failure
from search_spaces.errors import UserError
from tests.support.bench import Bench
from tests.support.command_lines import requested
from tests.support.stub_sweep import stub_sweep
from tests.support.worked_searches import Worked, between, sweep_of
from trainables.storage.json_files import write_json


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A finished sweep, the numbers of which follow from a formula."""
    made = Bench(tmp_path_factory.mktemp("out"), stub_sweep(methods=["vl2v_adip"], space="demo", trials=3))
    made.run_all()
    return made


def test_a_first_trial_is_the_papers(bench: Bench) -> None:
    known = known_folds(bench.store)
    explained = explain_fold(known, known.fold("icons/line/seed0/trial0"))
    assert explained.lines[0] == (
        "tried as trial 0 of icons/vl2v_adip/line: the sweep's own hyperparameters (the paper's, where nothing "
        "overrides them) come first"
    )
    assert explained.facts["uses"][0]["source"] == "paper"


def test_a_suggested_trial_names_its_point(bench: Bench) -> None:
    known = known_folds(bench.store)
    trial = known.trial("icons/vl2v_adip/line/trial2")
    assert trial is not None
    assert all(f"{name}=" in explain_trial(known, trial).lines[1] for name in trial.point)


ALL_BEFORE = ", ".join(map(str, range(11)))


@pytest.mark.parametrize(
    ("fields", "number", "origin"),
    [
        ({"sampler": "random"}, 11, "drawn by the sampler random, which looks at no other trial"),
        ({"sampler": "authors", "space": "official"}, 2, "drawn by the sampler authors, which looks at no other trial"),
        (
            {"sampler": "tpe"},
            2,
            "drawn without a look at other trials, for the sampler tpe learns once 10 of them are complete or pruned, "
            "and 2 were",
        ),
        ({"sampler": "tpe"}, 11, f"suggested by the sampler tpe, which knew of the trials complete {ALL_BEFORE}"),
        ({"sampler": "cmaes"}, 11, f"suggested by the sampler cmaes, which knew of the trials complete {ALL_BEFORE}"),
    ],
    ids=["random", "authors", "tpe at first", "tpe", "cmaes"],
)
def test_a_suggested_trial_names_its_sampler_and_what_that_looked_at(
    tmp_path: Path, fields: dict[str, Any], number: int, origin: str
) -> None:
    made = Bench(tmp_path, stub_sweep(trials=12, seeds=1, **fields))
    made.run_all()
    known = known_folds(made.store)
    trial = known.trial(f"icons/erm/line/trial{number}")
    assert trial is not None
    assert explain_trial(known, trial).lines[0] == f"tried as trial {number} of icons/erm/line: {origin}"


def test_the_choice_names_every_number_that_it_went_by(bench: Bench) -> None:
    known = known_folds(bench.store)
    chosen = known.selected["icons/vl2v_adip/line"]
    trials = [trial for trial in known.trials if trial.group == "icons/vl2v_adip/line"]
    explained = explain_fold(known, known.fold("icons/line/seed1"))
    assert f"because trial {chosen.number} is selected in icons/vl2v_adip/line" in explained.lines[0]
    (line,) = [line for line in explained.lines if f"selected trial {chosen.number}:" in line]
    assert line.startswith(f"icons/vl2v_adip/line selected trial {chosen.number}: the best source validation accuracy")
    for trial in trials:
        result = bench.store.folds.fold(trial.folds[0].key).read_result()
        assert result is not None
        assert f"{trial.number}: {result['source_validation']['accuracy']:.2%}" in line
        known_accuracies = explained.facts["choices"]["icons/vl2v_adip/line"]["source_validation"]
        assert known_accuracies[str(trial.number)] == result["source_validation"]["accuracy"]


def test_folds_that_share_an_align_stage_name_each_other(tmp_path: Path) -> None:
    made = Bench(tmp_path, stub_sweep(methods=["vl2v_adip"], space="demo", trials=3, seeds=2))
    made.run_all()
    known = known_folds(made.store)
    of_line = [fold for fold in known.folds if fold.fold.test_domain == "line"]
    keys = {fold.key: made.store.folds.spec(fold.key).align_key for fold in of_line}  # type: ignore[union-attr]
    for fold in of_line:
        sharing = explain_fold(known, fold).facts["align"]["shared_with"]
        expected = {other for other in keys if other != fold.key and keys[other] == keys[fold.key]}
        assert {label.split()[0] for label in sharing} == {key[:12] for key in expected}
    assert any(explain_fold(known, fold).facts["align"]["shared_with"] for fold in of_line), "nothing was shared"


def test_failures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Bench(tmp_path)
    attempt = made.queue.next()
    assert attempt is not None
    made.queue.failed(attempt, Failure(time=0.0, kind="diverged", error="loss is nan at step 7"))
    assert run(["explain", attempt.planned.key[:8], "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "failed after 1 (diverged): loss is nan at step 7" in said
    assert "has no selected trial yet" in said


@pytest.mark.parametrize("pruner", ["median", "asha"])
def test_a_fold_that_was_stopped_says_by_what(tmp_path: Path, pruner: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = Worked(tmp_path, sweep_of(pruner=pruner))
    made.run_all()
    one = next(one for one in made.decisions() if one.verdict == "prune")
    line = f"pruned: {pruner}: best source validation accuracy {one.value:.1%} at distill step {one.step} of 9"
    for subject in (one.key[:8], f"{one.group}/trial{one.number}"):
        assert run(["explain", subject, "--out", str(tmp_path)]) == 0
        assert f"  {line} is below {one.threshold:.1%}, by {len(one.trials)} other trials" in capsys.readouterr().out
    assert run(["explain", one.key[:8], "--out", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["state"]["pruned"]["rule"] == pruner
    assert [(told["rule"], told["step"]) for told in facts["decisions"]] == [(pruner, one.step)]


def test_a_trial_that_was_stopped_between_folds_says_by_what(tmp_path: Path) -> None:
    made = Worked(tmp_path, between())
    made.run_all()
    one = next(one for one in made.decisions() if one.verdict == "prune")
    known = known_folds(made.store)
    trial = known.trial(f"{one.group}/trial{one.number}")
    assert trial is not None
    line = (
        f"after {one.step} folds the chance to overtake trial {one.trials[0]} is {one.value:.2%}, below "
        f"{one.threshold:.2%}"
    )
    assert f"pruned: {line}" in explain_trial(known, trial).lines
    told = [explain_fold(known, known.fold(planned.key)).lines for planned in trial.folds]
    pruned = [f"pruned with its trial: {line}" in lines for lines in told]
    assert pruned == [planned.key in one.folds for planned in trial.folds]


@pytest.mark.parametrize("fields", [{}, {"scope": "benchmark", "pruner": "none"}], ids=str)
def test_an_audited_trial_was_condemned_and_let_run(tmp_path: Path, fields: dict[str, Any]) -> None:
    made = Worked(tmp_path, sweep_of(audit_share=1.0, **fields))
    made.run_all()
    one = next(one for one in made.decisions() if one.verdict == "audit")
    known = known_folds(made.store)
    trial = known.trial(f"{one.group}/trial{one.number}")
    assert trial is not None
    line = f"condemned and let run on, so that the regret is known ({one.line})"
    for lines in (explain_trial(known, trial).lines, explain_fold(known, known.fold(one.key)).lines):
        assert line in lines
        assert any("done in" in told for told in lines)


def test_what_another_sweep_on_the_store_gave_up_says_so(tmp_path: Path) -> None:
    first = Worked(tmp_path / "first")
    first.run_all()
    one = next(one for one in first.decisions() if one.verdict == "prune")
    other = Worked(tmp_path / "other", sweep_of(pruner="none"), shared=tmp_path / "first")
    other.run_all(most=4 * one.number)
    known = known_folds(other.store)
    told = explain_fold(known, known.fold(one.key)).lines if one.key in {fold.key for fold in known.folds} else ()
    assert f"pruned by another sweep on the store: {one.line}" in told


def test_two_trials_with_equal_points_share_a_fold(tmp_path: Path) -> None:
    made = Bench(tmp_path)
    attempt = made.queue.next()
    assert attempt is not None
    (first,) = made.store.records.trials("icons/erm/clipart")
    twin = {"group": first.group, "number": 1, "source": "sampler", "point": first.point, "created": 0.0}
    folds = json.loads((tmp_path / "trials" / "icons--erm--clipart" / "0.json").read_text())["folds"]
    write_json(tmp_path / "trials" / "icons--erm--clipart" / "1.json", {**twin, "folds": folds, "history": {}})
    known = known_folds(made.store)
    lines = explain_fold(known, known.fold(attempt.planned.key)).lines
    assert any("for 2 trials: icons/erm/clipart/trial0, icons/erm/clipart/trial1" in line for line in lines)
    trial = known.trial("icons/erm/clipart/trial1")
    assert trial is not None
    assert "icons/clipart/seed0 is shared with icons/erm/clipart/trial0" in explain_trial(known, trial).lines


def test_exported_hyperparameters_make_the_confirmed_folds_again(bench: Bench, tmp_path: Path) -> None:
    """The round trip: --config of what was exported plans the very folds that were confirmed, by key."""
    assert run(["export-hparams", "--out", str(bench.store.out), "--into", str(tmp_path)]) == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for path in files:
        request = requested("--config", str(path))
        again = Bench(tmp_path / f"again-{path.stem}", request.sweep)
        domain = path.stem.split("--")[2]
        group = f"icons/vl2v_adip/{domain}"
        (record,) = [record for record in again.groups if record.name == group]
        assert record.trials == 1
        specs = FoldSpecs(sweep=request.sweep, benchmarks=request.options.benchmarks, manifests=again.store.manifests())
        confirmed = bench.store.records.selected(group)
        assert confirmed is not None
        assert specs.planned(record, {}, range(record.seeds)) == confirmed.folds


def test_one_groups_export_is_printed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(bench.store.out)
    assert run(["export-hparams", "icons/vl2v_adip/line", "--out", out]) == 0
    assert capsys.readouterr().out.startswith("# vl2v_adip on icons, selected for test domain line: trial ")
    assert run(["export-hparams", "icons/vl2v_adip/lines", "--out", out]) == 2
    assert "nearest: icons/vl2v_adip/line" in capsys.readouterr().err


def test_nothing_is_exported_before_it_is_chosen(tmp_path: Path) -> None:
    made = Bench(tmp_path)
    made.run_all(most=1)
    assert export_groups(made.store) == []
    with pytest.raises(UserError, match="has no selected trial yet"):
        export_groups(made.store, only="icons/erm/line")
