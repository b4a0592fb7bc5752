"""What users type finds one fold or trial, or an error that names the candidates."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.inspection.fold_names import KnownFolds, known_folds
from orchestrator.store.sweep_folder import open_store
from search_spaces.errors import UserError
from tests.support.bench import Bench
from tests.support.stub_sweep import stub_sweep
from tests.support.stub_worker import run_job


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> KnownFolds:
    bench = Bench(tmp_path_factory.mktemp("out"), stub_sweep(methods=["erm", "kd"], trials=2))
    bench.run_all()
    return known_folds(bench.store)


def test_every_fold_is_found_by_its_key_and_by_its_name(known: KnownFolds) -> None:
    assert len(known.folds) == 2 * 4 * (2 + 1)
    for fold in known.folds:
        assert known.fold(fold.key) == known.fold(fold.key[:8].upper()) == known.fold(fold.name) == fold


def test_a_name_needs_as_much_as_tells_it_apart(known: KnownFolds) -> None:
    confirmed = known.fold("icons/line/seed1/kd")
    assert (confirmed.fold.seed, confirmed.method, confirmed.uses[0].purpose) == (1, "kd", "repeat")
    assert known.fold("Icons/kd/seed1/line/") == confirmed
    assert known.fold("icons/line/seed0/erm/trial1").uses[0].number == 1
    with pytest.raises(UserError, match=r"4 folds match 'icons/line/seed0': .*icons/line/seed0/erm/trial0.*kd/trial1"):
        known.fold("icons/line/seed0")


@pytest.mark.parametrize("text", ["icons", "icons/line/seed7", "nosuch/line/seed0", "abcdef123", "12345", "", "/"])
def test_what_there_is_not_is_told_with_the_nearest(known: KnownFolds, text: str) -> None:
    with pytest.raises(UserError, match=r"no fold .*nearest: icons/.*6 or more characters"):
        known.fold(text)


def test_many_candidates_are_not_all_listed(known: KnownFolds) -> None:
    with pytest.raises(UserError, match=r"16 folds match 'icons/seed0'.* and 4 more"):
        known.fold("icons/seed0")


def test_a_trial_has_a_number_and_no_seed(known: KnownFolds) -> None:
    trial = known.trial("icons/line/kd/trial1")
    assert trial is not None
    assert (trial.group, trial.number) == ("icons/kd/line", 1)
    assert known.trial("icons/line/kd/seed0/trial1") is None
    assert known.trial("icons/line/seed0") is None
    with pytest.raises(UserError, match="2 trials match 'icons/line/trial1': icons/erm/line/trial1, icons/kd/line"):
        known.trial("icons/line/trial1")
    with pytest.raises(UserError, match="no fold 'icons/line/trial9'"):
        known.trial("icons/line/trial9")


def test_a_trial_of_all_test_domains(tmp_path: Path) -> None:
    bench = Bench(tmp_path, stub_sweep(scope="benchmark"))
    bench.run_all(most=5)
    for text in ("icons/erm/*/trial1", "icons/erm/trial1", "icons/trial1"):
        trial = known_folds(bench.store).trial(text)
        assert trial is not None
        assert (trial.group, trial.number, len(trial.folds)) == ("icons/erm/*", 1, 4)


def test_folds_of_train_are_found_without_a_sweep(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "sweep")
    attempt = bench.queue.next()
    assert attempt is not None
    run_job(bench.jobs.job(attempt.spec).to_mapping())
    alone = open_store(tmp_path / "alone")
    alone.folds.fold("").path.parent.mkdir()
    bench.store.folds.fold("").path.rename(alone.folds.fold("").path)
    assert known_folds(alone).fold(str(attempt.planned.fold)).key == attempt.planned.key


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no fold yet"):
        known_folds(open_store(tmp_path)).fold("icons/line/seed0")
