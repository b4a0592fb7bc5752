"""A whole fold: repeatable, resumable, shared where it may be, and blind to the test domain."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.hyperparameters import StageHyperparameters, Swad
from tests.support.heartbeats import quick_heartbeats
from tests.support.small_folds import Interrupted, MakeJob, assert_same_weights, losses, run_small_fold, student_weights
from trainables.data.formats.images import ImageSource
from trainables.data.formats.open import open_benchmark
from trainables.fitting.stage import TrainingDivergedError
from trainables.fold import run_fold
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json
from trainables.storage.leases import LeaseLostError, read_owner, this_process
from trainables.worker import run_job


@pytest.mark.parametrize("method", ["vl2v_adip", "vl2v_sd", "erm", "kd"])
def test_a_fold_trains_every_stage_and_repeats_bit_for_bit(make_job: MakeJob, method: str) -> None:
    one, other = make_job(method, out="one"), make_job(method, out="other")
    result = run_small_fold(one)
    torch.rand(7)  # another state of the global generator must not matter
    run_small_fold(other)
    assert_same_weights(one, other)
    assert losses(one) == losses(other)
    stages = ["align"] * 5 + ["distill"] * 9 if method == "vl2v_adip" else ["distill"] * 9
    assert [stage for stage, *_ in losses(one)] == stages
    evaluations = [line["step"] for line in FoldFolder(one.folder).read_journal() if line["kind"] == "evaluation"]
    assert evaluations == ([0, 2, 4] if method == "vl2v_adip" else []) + [0, 2, 4, 6, 8], "step 0 and the last included"
    assert result["status"] == "done"
    assert result["key"] == one.spec.key
    asked = {"vl2v_adip": (5 + 9) * 12, "vl2v_sd": 9 * 12, "erm": 0, "kd": 9 * 12}
    assert result["teacher_queries"]["images"] == asked[method]
    assert FoldFolder(one.folder).read_test()["accuracy"].keys() == {"sketch"}  # type: ignore[index]
    assert result["source_validation"]["domains"].keys() == {"art_painting", "cartoon", "photo"}
    assert not FoldFolder(one.folder).checkpoint.exists()


def test_a_pair_fold_keeps_what_it_held_out_in_a_file_per_domain(make_job: MakeJob) -> None:
    job = make_job("erm")
    fold = replace(job.spec.fold, test_domains=("photo", "sketch"))
    job = replace(job, spec=replace(job.spec, fold=fold))
    result = run_small_fold(job)
    folder = FoldFolder(job.folder)
    assert result["source_validation"]["domains"].keys() == {"art_painting", "cartoon"}
    assert folder.read_test() is None, "nothing tells of both"
    for domain in fold.test_domains:
        held_out = folder.read_held_out(domain)
        assert held_out is not None
        assert held_out["domain"] == domain
        assert held_out["num_images"] == 7 * 6 - 8, "the 80% part"
        assert 0.0 <= held_out["accuracy"] <= 1.0
    texts = [path.read_text() for path in sorted((folder.path / "held_out").iterdir())]
    assert len(texts) == 2
    assert "sketch" not in texts[0]
    assert "photo" not in texts[1]


def test_zero_shot_trains_nothing_and_keeps_the_record(make_job: MakeJob) -> None:
    job = make_job("zero_shot")
    result = run_small_fold(job)
    assert result["stages"] == []
    assert result["chosen"]["rule"] == "zero_shot"
    assert not FoldFolder(job.folder).student.exists()
    asked = result["teacher_queries"]
    assert asked["unique_images"] == asked["images"] == 3 * 8 + 7 * 6, "each image once: validation parts, test domain"
    assert 0.0 <= FoldFolder(job.folder).read_test()["accuracy"]["sketch"] <= 1.0  # type: ignore[index]


def test_a_finished_fold_is_only_read(make_job: MakeJob) -> None:
    job = make_job("erm")
    first = run_small_fold(job)
    before = FoldFolder(job.folder).student.stat().st_mtime_ns
    assert run_small_fold(job) == first
    assert FoldFolder(job.folder).student.stat().st_mtime_ns == before


@pytest.mark.parametrize("reports", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("segments", ["every_evaluation", "off"])
def test_going_on_after_an_interruption_changes_no_bit(make_job: MakeJob, reports: int, segments: Any) -> None:
    whole, broken = (
        make_job(out="whole", swad=Swad(segments=segments)),
        make_job(out="broken", swad=Swad(segments=segments)),
    )
    run_small_fold(whole)
    seen = []

    def report(metrics: dict[str, Any]) -> None:
        seen.append(metrics)
        if len(seen) == reports:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_job(broken.to_mapping(), report)
    run_small_fold(broken)
    assert_same_weights(whole, broken)
    assert losses(whole) == losses(broken)


def test_a_torn_journal_line_is_repaired(make_job: MakeJob) -> None:
    job = make_job("erm")
    with pytest.raises(Interrupted):
        run_job(job.to_mapping(), _interrupt)
    with FoldFolder(job.folder).journal.open("ab") as journal:
        journal.write(b'{"kind": "step", "sta')
    run_small_fold(job)
    assert [step for _, step, *_ in losses(job)] == list(range(9))


def _interrupt(metrics: dict[str, Any]) -> None:
    raise Interrupted


def test_folds_that_agree_on_align_share_one_projection(make_job: MakeJob) -> None:
    one = make_job(distill=StageHyperparameters(num_steps=9, lr=1e-3))
    other = make_job(distill=StageHyperparameters(num_steps=3, lr=1e-4))
    assert one.spec.key != other.spec.key
    assert one.align_folder == other.align_folder
    assert [stage["reused"] for stage in run_small_fold(one)["stages"]] == [False, False]
    left = FoldFolder(one.align_folder).checkpoint
    left.write_bytes(b"of a process that was killed right after it wrote the result")
    result = run_small_fold(other)
    assert not left.exists()
    assert [stage["reused"] for stage in result["stages"]] == [True, False]
    assert result["teacher_queries"]["images"] == 3 * 12
    for name in ("head.weight", "head.bias"):
        assert torch.equal(student_weights(one)[name], student_weights(other)[name])
    assert [stage for stage, *_ in losses(other)] == ["align"] * 5 + ["distill"] * 3


def test_an_align_stage_that_lost_its_bytes_is_fitted_again(make_job: MakeJob) -> None:
    one = make_job()
    run_small_fold(one)
    align, before = FoldFolder(one.align_folder), losses(one)
    projection = align.student.read_bytes()
    align.result.write_bytes(b"")
    FoldFolder(one.folder).result.unlink()
    assert [stage["reused"] for stage in run_small_fold(one)["stages"]] == [False, False]
    assert align.is_done
    assert align.student.read_bytes() == projection
    assert losses(one) == before


def test_another_image_weight_needs_its_own_align(make_job: MakeJob) -> None:
    assert make_job(image_weight=0.5).align_folder != make_job(image_weight=0.4).align_folder


class _PermutedTestLabels:
    """The benchmark with the test domain's labels permuted: what no decision may notice."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def labels(self, domain: str) -> np.ndarray:
        labels = self._source.labels(domain)
        return (labels + 3) % len(self._source.class_names) if domain == "sketch" else labels


def test_permuted_test_labels_change_test_accuracy_only(make_job: MakeJob) -> None:
    true, permuted = make_job("erm", out="true"), make_job("erm", out="permuted")
    source = open_benchmark(true.benchmark, true.data_root)
    results = [
        run_fold(job, source=wrapped, teacher=None, report=lambda metrics: None)
        for job, wrapped in ((true, source), (permuted, _PermutedTestLabels(source)))
    ]
    assert_same_weights(true, permuted)
    assert losses(true) == losses(permuted)
    assert results[0]["source_validation"] == results[1]["source_validation"]
    assert results[0]["chosen"] == results[1]["chosen"]
    test, other = (FoldFolder(job.folder).read_test() for job in (true, permuted))
    assert test["accuracy"] != other["accuracy"]  # type: ignore[index]


def test_result_and_journal_hold_no_test_domain_number(make_job: MakeJob) -> None:
    job = make_job("erm")
    run_small_fold(job)
    folder = FoldFolder(job.folder)
    for file in (folder.result, folder.journal):
        # Of test.json the result states the bytes.
        text = file.read_text().replace('"test.json"', "")
        assert "test" not in text.replace('"test_domains"', ""), file
        assert text.count("sketch") <= 1, file


def test_a_loss_that_is_not_finite_names_its_step(make_job: MakeJob) -> None:
    job = make_job("erm", distill=StageHyperparameters(num_steps=9, lr=1e30))
    with pytest.raises(TrainingDivergedError, match=r"step \d+"):
        run_small_fold(job)
    assert not FoldFolder(job.folder).is_done


def test_nothing_of_the_fold_stays_half_written(make_job: MakeJob) -> None:
    job = make_job()
    for folder in (job.folder, job.align_folder):
        # What a process leaves that is killed in the middle of a write.
        Path(folder).mkdir(parents=True)
        (Path(folder) / ".checkpoint.pt.1.part").write_bytes(b"half")
    run_small_fold(job)
    assert not list(Path(job.folder).parent.parent.rglob("*.part"))


def test_a_worker_whose_folder_somebody_else_took_stops_at_its_next_report(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_heartbeats(monkeypatch, 0.02)
    job, other, reports = make_job("erm"), this_process(), 0

    def report(metrics: dict[str, Any]) -> None:
        nonlocal reports
        reports += 1
        write_json(FoldFolder(job.folder).worker, asdict(other))
        time.sleep(0.3)

    with pytest.raises(LeaseLostError, match=f"^process {other.process} on {other.host} has taken over this fold"):
        run_fold(job, source=open_benchmark(job.benchmark, job.data_root), teacher=None, report=report)
    assert reports == 1
    assert not FoldFolder(job.folder).is_done
    assert read_owner(FoldFolder(job.folder).worker) == other


@pytest.mark.parametrize("reports", [1, 3, 5])
def test_a_fold_that_was_taken_over_and_finished_meanwhile_is_left_as_it_is(make_job: MakeJob, reports: int) -> None:
    """The process stands still after an evaluation; another one takes over, finishes, and lets go."""
    other, job = make_job("erm", out="other"), make_job("erm", out="one")
    run_small_fold(other)
    finished, folder, seen = FoldFolder(other.folder), FoldFolder(job.folder), list[str]()

    def report(metrics: dict[str, Any]) -> None:
        seen.append("report")
        if len(seen) == reports:
            for file in (file for file in finished.path.iterdir() if file.is_file()):
                shutil.copyfile(file, folder.path / file.name)
            folder.checkpoint.unlink(missing_ok=True)
            folder.worker.unlink()
            seen.extend(sorted(_stamps(folder)))

    with pytest.raises(LeaseLostError, match="another process, which has released it, has taken over this fold"):
        run_job(job.to_mapping(), report)
    assert seen[reports:] == sorted(_stamps(folder)), "nothing of the other one's was touched"


def _stamps(folder: FoldFolder) -> list[str]:
    return [f"{file.name} {file.stat().st_mtime_ns}" for file in folder.path.iterdir() if file.name != ".lock"]
