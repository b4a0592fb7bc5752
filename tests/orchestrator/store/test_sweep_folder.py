"""The store: what is written is read back, a folder has one sweep, and files say what they are."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.store.records import PlannedFold, SelectedTrial, TrialRecord
from orchestrator.store.search_records import group_slug
from orchestrator.store.sweep_folder import SweepFolder, open_store
from search_spaces.errors import UserError
from search_spaces.fold_groups import FoldGroup
from search_spaces.folds import Fold
from tests.support.stub_sweep import stub_sweep
from tests.support.whole_folds import write_whole
from trainables.storage.leases import Lease, this_process

GROUP = FoldGroup(name="icons/erm/line", benchmark="icons", method="erm", test_domains=("line",), trials=3, seeds=2)
PLANNED = PlannedFold(fold=Fold(benchmark="icons", test_domains=("line",), seed=0), key="ab" * 32)
TRIAL = TrialRecord(
    group=GROUP.name,
    number=10,
    point={"distill.lr": 1e-4, "swad.num_converge": 3},
    folds=(PLANNED,),
    source="sampler",
    created=1.5,
    history={"complete": [0], "failed": [], "running": [1]},
)


def claimed(out: Path, **fields: object) -> SweepFolder:
    store = open_store(out)
    store.claim(stub_sweep(**fields), (GROUP,), {"icons": "m1"})
    return store


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    store = claimed(tmp_path)
    assert store.sweep() == stub_sweep()
    assert store.groups() == (GROUP,)
    assert store.manifests() == {"icons": "m1"}
    store.records.write_trial(TRIAL)
    store.records.write_trial(replace(TRIAL, number=9))
    assert [trial.number for trial in store.records.trials(GROUP.name)] == [9, 10]
    assert store.records.trials(GROUP.name)[1] == TRIAL
    record = SelectedTrial(group=GROUP.name, number=10, folds=(PLANNED, replace(PLANNED, key="cd" * 32)))
    store.records.write_selected(record)
    assert store.records.selected(GROUP.name) == record
    assert [planned.key[:2] for planned in store.records.planned_folds(GROUP.name)] == ["ab", "cd"]


def test_an_empty_folder_holds_no_sweep(tmp_path: Path) -> None:
    store = open_store(tmp_path / "nothing")
    assert store.sweep() is None
    assert store.groups() == ()
    assert store.records.trials("a/b/c") == []
    assert not store.out.exists(), "reading made a folder"


def test_a_trial_number_is_written_once(tmp_path: Path) -> None:
    store = claimed(tmp_path)
    store.records.write_trial(TRIAL)
    with pytest.raises(AssertionError, match="already written"):
        store.records.write_trial(TRIAL)


def test_the_same_sweep_claims_its_folder_again(tmp_path: Path) -> None:
    claimed(tmp_path).records.write_trial(TRIAL)
    before = (tmp_path / "sweep.json").read_bytes()
    claimed(tmp_path, name="another name only")
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_another_sweep_is_refused_in_one_line_that_names_the_difference(tmp_path: Path) -> None:
    claimed(tmp_path).records.write_trial(TRIAL)
    with pytest.raises(UserError, match=r"belongs to another sweep \('stub', which differs in sweep.trials\)") as error:
        claimed(tmp_path, trials=4)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"sweep\.trials"):
        open_store(tmp_path).check_sweep(stub_sweep(trials=4))


def test_other_images_and_another_trainer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = claimed(tmp_path)
    store.records.write_trial(TRIAL)
    with pytest.raises(UserError, match="other images of icons"):
        store.claim(stub_sweep(), (GROUP,), {"icons": "m2"})
    monkeypatch.setattr("orchestrator.store.sweep_folder.TRAINER_VERSION", "99")
    with pytest.raises(UserError, match="by trainer version 1, this is 99"):
        claimed(tmp_path)


def test_a_sweep_that_handed_out_no_fold_gives_way(tmp_path: Path) -> None:
    first, changed = claimed(tmp_path), stub_sweep(trials=4)
    key = first._sweep_key
    store = open_store(tmp_path)
    assert store._sweep_key == key
    store.check_sweep(changed)
    store.claim(changed, (GROUP,), {"icons": "m2"})
    assert (store.sweep(), store.manifests()) == (changed, {"icons": "m2"})
    assert store._sweep_key == changed.key != key, "what the first one gave up would count as pruned"


def test_a_store_without_folds_of_the_sweep_gives_way_too(tmp_path: Path) -> None:
    out, first, second = (tmp_path / name for name in ("out", "first", "second"))
    for wanted in (first, second, out, second):
        store = open_store(out, shared=wanted)
        store.check_writable()
        assert (store.shared, open_store(out).shared) == (wanted, wanted)
    store.claim(stub_sweep(), (GROUP,), {"icons": "m1"})
    store.records.write_trial(TRIAL)
    with pytest.raises(UserError, match=f"out keeps its folds in {second}, not in {first}; "):
        open_store(out, shared=first)


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to the output folder"):
        open_store(tmp_path / "file" / "out").check_writable()
    with pytest.raises(UserError, match="file is a file; --out and --store are folders or addresses"):
        open_store(tmp_path / "file")


DAMAGE = {
    "cut off": (b'{"group": "ic', "Unterminated string"),
    "empty": (b"", "Expecting value"),
    "zeroes of a lost disk": (bytes(40), "Expecting value"),
    "not text": (b'{"a": "\xff"}', "codec can't decode"),
    "a list": (b"[]", "it holds a list"),
    "nothing in it": (b"{}", "(lacks group, number|it has no ')"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["sweep.json", "run.json", "trials/icons--erm--line/10.json", "spec.json", "result.json"]
)
def test_a_damaged_file_is_named_in_one_line(name: str, damage: str, tmp_path: Path) -> None:
    store, (content, why) = claimed(tmp_path), DAMAGE[damage]
    store.records.write_trial(TRIAL)
    is_of_fold = name in ("spec.json", "result.json")
    path = store.folds.fold(PLANNED.key).path / name if is_of_fold else tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

    def look(store: SweepFolder) -> None:
        store.records.trials(GROUP.name)
        result = store.folds.fold(PLANNED.key).read_result()
        assert result is None or result["seconds"]
        store.folds.spec(PLANNED.key)
        store.existing_sweep()
        store.last_run()

    why = "lacks fold, method" if (name, damage) == ("spec.json", "nothing in it") else why
    with pytest.raises(UserError, match=rf"{path.name} is damaged \((.*{why}.*)\): ") as error:
        look(open_store(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_users_mistake(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        open_store(tmp_path / "out").check_writable()


def test_a_fold_runs_while_the_one_who_started_it_lives(tmp_path: Path) -> None:
    store, lease = claimed(tmp_path), Lease(tmp_path / "lease.json", this_process())
    assert store.folds.fold_state(PLANNED.key, store.living_owner()) == "waiting"
    lease.take()
    store.folds.mark_running(PLANNED.key, lease.owner.identity)
    assert store.folds.fold_state(PLANNED.key, store.living_owner()) == "running"
    lease.release()
    assert store.folds.fold_state(PLANNED.key, store.living_owner()) == "waiting"
    write_whole(store.folds.fold(PLANNED.key), PLANNED.fold)
    assert store.folds.fold_state(PLANNED.key, None) == "done"


def test_group_names_become_file_names() -> None:
    assert group_slug("PACS/vl2v_adip/*") == "PACS--vl2v_adip--all"
    assert GROUP.num_folds == 4
