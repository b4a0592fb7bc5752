"""The folder of a sweep that was interrupted before the modules moved: read as on that day, and resumed to its table.

The folder is `tests/fixtures/interrupted_sweep`, made by `tests.support.interrupted_sweep`. Only the command line, the
files that users keep and MLflow are looked at. The trainer's version stands in every key: once it is raised, a second
fixture takes the resuming over, and this one is still read.
"""

from __future__ import annotations

import copy
import json
import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from search_spaces.hyperparameters import TRAINER_VERSION, fold_spec_from_mapping
from tests.support import sweep_folder
from tests.support.interrupted_sweep import MID_STAGE, SWEEP, expected, standing, unpacked

SAVED = 18
"""The step of the killed fold's checkpoint, from which it goes on: the kill came while the next one was written."""

RUN_STATUS = {"done": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}
"""Of a fold's run in MLflow, by the fold's state."""


def test_every_key_follows_from_the_spec_beside_it(tmp_path: Path) -> None:
    out = unpacked(tmp_path / "out")
    specs = {
        file.parent.name: fold_spec_from_mapping(json.loads(file.read_text())) for file in out.glob("folds/*/spec.json")
    }
    assert len(specs) > 10
    assert {key: spec.key for key, spec in specs.items()} == {key: key for key in specs}
    aligns = {spec.align_key for spec in specs.values() if spec.method == "vl2v_adip"}
    assert aligns == {folder.name for folder in out.glob("aligns/*")}
    assert {spec.trainer_version for spec in specs.values()} == {expected()["trainer_version"]} == {TRAINER_VERSION}


def test_the_readers_tell_what_they_told_on_that_day(tmp_path: Path) -> None:
    out, wanted = unpacked(tmp_path / "out"), expected()
    assert standing(out) == wanted["interrupted"]
    assert {explained["state"] for explained in wanted["explanations"].values()} >= {
        "done",
        "failed",
        "pruned",
        "waiting",
    }
    for key, explained in wanted["explanations"].items():
        assert sweep_folder.explanation(out, key) == explained
    assert sweep_folder.answer(out, "report")["sweep_key"] == json.loads((out / "sweep.json").read_text())["key"]


@pytest.mark.slow
def test_sync_brings_the_folders_mlflow_up_to_date_once(tmp_path: Path) -> None:
    out = unpacked(tmp_path / "out")
    before = sweep_folder.tracked(out)
    assert before == [tuple(run) for run in expected()["tracked"]]
    assert sweep_folder.answer(out, "sync")["runs_written"] > 0
    assert sweep_folder.tracked(out) == wanted_runs(out)
    assert set(before) < set(wanted_runs(out)), "MLflow was behind"
    assert len(list(out.glob("mlartifacts/*/artifacts/spec.json"))) == len(wanted_runs(out)), "files lie elsewhere"
    assert sweep_folder.answer(out, "sync")["runs_written"] == 0


def test_a_table_of_another_torch_may_differ_by_one_image() -> None:
    wanted, one_image = expected()["resumed"]["table"], expected()["one_image"]

    def changed(images: float | None) -> Any:
        table = copy.deepcopy(wanted)
        (first, second) = table["vl2v_adip"]["ood"]["line"]
        table["vl2v_adip"]["ood"]["line"] = [first, None if images is None else second + images * one_image["line"]]
        return table

    assert list(sweep_folder.table_differences(changed(-1.0), wanted, one_image)) == []
    for images in (2.0, None):
        (difference,) = sweep_folder.table_differences(changed(images), wanted, one_image)
        assert difference.startswith("vl2v_adip ood line")


@pytest.mark.slow
def test_the_same_command_ends_in_the_table_of_that_day(tmp_path: Path) -> None:
    out = unpacked(tmp_path / "out")
    before, folds = sweep_folder.finished_files(out), sweep_folder.folds(out)
    (resumed,) = (key for key, fold in folds.items() if fold["state"] == "in mid-stage")
    done = sweep_folder.run(out, *SWEEP)
    assert done.returncode == 3, done.stderr
    after = sweep_folder.finished_files(out)
    assert {name: after.get(name) for name in before} == before
    assert_same_end(out, "resumed")
    assert sweep_folder.tracked(out) == wanted_runs(out)
    lines = map(json.loads, (out / "folds" / resumed / "journal.jsonl").read_text().splitlines())
    steps = Counter(line["step"] for line in lines if (line["kind"], line["stage"]) == ("step", "distill"))
    assert [steps[step] for step in range(MID_STAGE + 1)] == [1] * (SAVED + 1) + [2] * (MID_STAGE - SAVED)


@pytest.mark.slow
def test_retry_does_the_failed_fold_and_the_sweep_the_rest(tmp_path: Path) -> None:
    out = unpacked(tmp_path / "out")
    before = sweep_folder.folds(out)
    (failed,) = (key for key, fold in before.items() if fold["state"] == "failed")
    assert sweep_folder.answer(out, "retry")["retried"] == 1
    after = sweep_folder.folds(out)
    assert after.pop(failed)["state"] == "done"
    assert after == {key: fold for key, fold in before.items() if key != failed}
    done = sweep_folder.run(out, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert_same_end(out, "retried")
    assert None not in dict(sweep_folder.cells(sweep_folder.table(out))).values()
    assert sweep_folder.tracked(out) == wanted_runs(out)


def assert_same_end(out: Path, name: str) -> None:
    """At equal torch all is equal, the students' bytes too; else each cell of the table is, but for one image."""
    found, wanted = standing(out), expected()
    if (version("torch"), platform.machine()) == (wanted["torch"], wanted["machine"]):
        assert found == wanted[name]
    else:
        assert list(sweep_folder.table_differences(found["table"], wanted[name]["table"], wanted["one_image"])) == []


def wanted_runs(out: Path) -> list[tuple[str, str]]:
    """Every fold that ended, once, with the status that its run has in MLflow."""
    folds = sweep_folder.folds(out).items()
    return sorted((key, RUN_STATUS[fold["state"]]) for key, fold in folds if fold["state"] in RUN_STATUS)
