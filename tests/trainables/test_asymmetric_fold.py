"""Whole folds in which no two things are alike, against a second, plain implementation of everything they do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from search_spaces.hyperparameters import Resources, StageHyperparameters, Swad
from tests.support.asymmetric_fold import COUNTS, IMAGE_SIZE, LopsidedSource, TowerTeacher, asymmetric_job
from tests.support.plain_data import Scores, mean
from tests.support.plain_fold import PROMPTS, PlainFold
from tests.support.plain_swad import valley
from trainables.fold import run_fold
from trainables.fold_setup import Report
from trainables.jobs import FoldJob
from trainables.storage.fold_folder import FoldFolder

OTHERS: dict[str, dict[str, Any]] = {
    "kd": {
        "seed": 4, "test_domains": ("photo",), "teacher_mode": "clean", "student": "test_byobnet",
        "student_weights": "random", "evaluate_every": None, "eval_batch_size": None,
        "distill": StageHyperparameters(lr=0.002, weight_decay=0.004),
        "swad": Swad(segments="authors", num_converge=2, num_tolerate=1, tolerance_ratio=0.01),
        "resources": Resources(batch_pieces=2, swad_device="cpu"),
    },
    "vl2v_adip on stored views": {
        "seed": 3, "test_domains": ("art",), "teacher_mode": "views:2", "swad": Swad(segments="off"), "dropout": 0.2,
        "distill": StageHyperparameters(num_steps=9, lr=0.001),
    },
    "vl2v_sd": {"swad": Swad(num_converge=2, num_tolerate=4, tolerance_ratio=0.02), "eval_batch_size": 64},
    "erm": {"test_domains": ("Zoo", "photo"), "distill": StageHyperparameters(num_steps=12, lr=0.002)},
    "zero_shot": {"eval_batch_size": 1, "seed": 2},
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A fold that ran, and what the plain implementation makes of its job."""

    job: FoldJob
    result: dict[str, Any]
    reports: list[dict[str, Any]]
    plain: PlainFold


def _run(job: FoldJob, report: Report, teacher: TowerTeacher) -> dict[str, Any]:
    torch.set_num_threads(1)
    return run_fold(job, source=LopsidedSource(), teacher=teacher, report=report)


def _pair(job: FoldJob) -> Pair:
    reports: list[dict[str, Any]] = []
    return Pair(job, _run(job, reports.append, TowerTeacher()), reports, PlainFold(job).run())


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(asymmetric_job(tmp_path_factory.mktemp("main")))


def _journal(job: FoldJob) -> list[tuple[str, int, str, list[float]]]:
    return [
        (line["stage"], line["step"], line["images"], [line["loss"]])
        if line["kind"] == "step"
        else (line["stage"], line["step"], "", [line["accuracy"], line["cross_entropy"], *line["domains"].values()])
        for line in FoldFolder(job.folder).read_journal()
    ]


def _close(numbers: Any) -> Any:
    """To the rounding of float32, which training enlarges; the errors that these tests look for are far larger."""
    return pytest.approx(numbers, rel=2e-4, abs=2e-5)


def _test_numbers(scores: tuple[Scores, Scores]) -> dict[str, Any]:
    inner, outer = scores
    return {
        "accuracy": inner.accuracy,
        "balanced_accuracy": inner.balanced_accuracy,
        "num_images": inner.num_images,
        "out_accuracy": outer.accuracy,
    }


def _check_validation(result: dict[str, Any], scores: Scores) -> None:
    told = result["source_validation"]
    assert told["domains"] == _close(scores.accuracy)
    assert told["accuracy"] == _close(mean(scores.accuracy))
    assert told["cross_entropy"] == _close(mean(scores.cross_entropy))


def _check_test(job: FoldJob, numbers: dict[str, Any]) -> None:
    folder, domains = FoldFolder(job.folder), job.spec.fold.test_domains
    if len(domains) == 1:
        told = folder.read_test()
        assert told is not None
        assert {name: told[name] for name in numbers} == {name: _close(values) for name, values in numbers.items()}
        return
    for domain in domains:
        told = folder.read_held_out(domain)
        assert told is not None
        assert {name: told[name] for name in numbers} == _close({n: v[domain] for n, v in numbers.items()})


def _check_every_step_and_evaluation(pair: Pair) -> None:
    ours, expected = _journal(pair.job), pair.plain.journal()
    assert [line[:3] for line in ours] == [line[:3] for line in expected]
    for line, plain in zip(ours, expected, strict=True):
        assert line[3] == _close(plain[3]), line[:2]


def _check_the_chosen_weights(pair: Pair) -> None:
    _check_validation(pair.result, pair.plain.validation())
    assert pair.result["chosen"].keys() == pair.plain.chosen.keys()
    for name, value in pair.plain.chosen.items():
        assert pair.result["chosen"][name] == (_close(value) if isinstance(value, float) else value), name
    _check_test(pair.job, _test_numbers(pair.plain.test()))


def _check_that_the_oracle_sees_the_last_step(pair: Pair) -> None:
    if len(pair.job.spec.fold.test_domains) == 1:
        told = FoldFolder(pair.job.folder).read_test()
        assert told is not None
        expected = _test_numbers(pair.plain.last_step)
        assert told["last_step"] == {name: _close(values) for name, values in expected.items()}


def _check_that_the_evaluated_weights_are_saved(pair: Pair) -> None:
    saved = FoldFolder(pair.job.folder).student
    if pair.job.spec.method == "zero_shot":
        assert not saved.exists()
        return
    weights, again = load_file(saved), PlainFold(pair.job)
    assert pair.result["student_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert weights.keys() >= again.student.parameters().keys()
    again.student.load(weights)
    _check_validation(pair.result, again.validation())
    _check_test(pair.job, _test_numbers(again.test()))


def _check_stages_and_reports(pair: Pair) -> None:
    stages, batch = pair.plain.stages, 5 * len(pair.plain.split.source_train)
    asked = {stage.name: len(stage.losses) * batch * (pair.job.spec.method != "erm") for stage in stages}
    assert [(stage["name"], stage["steps"], stage["teacher_embeddings"]) for stage in pair.result["stages"]] == [
        (stage.name, len(stage.losses), asked[stage.name]) for stage in stages
    ]
    places = [(stage.name, step, False) for stage in stages for step in stage.evaluated]
    last = ("predict", len(stages[-1].losses) if stages else 1, True)
    told = [(report["stage"], report["step"], report["final"]) for report in pair.reports]
    assert told == [*places, last]
    numbers = [value for stage in stages for value in stage.accuracies]
    assert [report["source_validation_accuracy"] for report in pair.reports[:-1]] == _close(numbers)
    assert pair.reports[-1]["source_validation_accuracy"] == pair.result["source_validation"]["accuracy"]
    assert pair.reports[-1]["source_validation_cross_entropy"] == pair.result["source_validation"]["cross_entropy"]


def _check_queries(pair: Pair) -> None:
    if pair.job.spec.hyperparameters.teacher_mode != "live" or pair.job.spec.method == "zero_shot":
        return
    shown = [image for stage in pair.plain.stages for images in stage.images for image in images]
    if pair.job.spec.method == "erm":
        shown = []
    queries = pair.result["teacher_queries"]
    assert queries == {
        "images": len(shown),
        "texts": len(PROMPTS),
        "unique_images": len(set(shown)),
        "bytes": len(shown) * 3 * IMAGE_SIZE**2 * 4 + sum(map(len, PROMPTS)),
        "unconfirmed": 0,
    }


def _check_all(pair: Pair) -> None:
    _check_every_step_and_evaluation(pair)
    _check_the_chosen_weights(pair)
    _check_that_the_oracle_sees_the_last_step(pair)
    _check_that_the_evaluated_weights_are_saved(pair)
    _check_stages_and_reports(pair)
    _check_queries(pair)


def test_the_main_fold_is_that_of_the_plain_implementation(main: Pair) -> None:
    _check_all(main)


@pytest.mark.parametrize("name", OTHERS)
def test_other_folds_are_those_of_the_plain_implementation(tmp_path: Path, name: str) -> None:
    _check_all(_pair(asymmetric_job(tmp_path, name.split()[0], **OTHERS[name])))


def test_no_two_things_are_alike(main: Pair) -> None:
    """What the tests above can see follows from this: a fixture that becomes even would hide errors."""
    plain = main.plain
    align, distill = plain.stages
    best, tied = align.best(later_ties=True), align.best(later_ties=False)
    assert tied < best < len(align.scores) - 1, "neither the first of equals nor the last step"
    assert plain.valley.died is not None
    assert len(distill.losses) < 25, "the valley is dead before the last step"
    chosen = plain.valley.counted[-1]
    assert distill.best(later_ties=False) not in (chosen, len(distill.scores) - 1), "the best evaluation is another"
    usual = valley(distill.cross_entropies, Swad())
    assert (usual.counted, usual.died) != (plain.valley.counted, plain.valley.died)
    (inner, outer), (last, _) = plain.test(), plain.last_step
    assert (
        len({inner.accuracy["maps"], inner.balanced_accuracy["maps"], last.accuracy["maps"], *outer.accuracy.values()})
        == 4
    )
    assert COUNTS["maps"][2] == 0, "a class is absent from the test domain"
    validation = plain.validation()
    by_images = sum(validation.accuracy[name] * validation.num_images[name] for name in validation.accuracy)
    assert abs(by_images / sum(validation.num_images.values()) - mean(validation.accuracy)) > 0.02
    sizes = [
        len(part) for split in (plain.split.source_train, plain.split.source_validation) for part in split.values()
    ]
    assert len(set(sizes)) == len(sizes) == 6


class Interrupted(Exception):
    """Stands for kill -9: nothing after it runs."""


class InterruptedTeacher(TowerTeacher):
    """Is interrupted at some queries, counted over all attempts."""

    def __init__(self, interrupted: Sequence[int]) -> None:
        super().__init__()
        self.interrupted, self.asked = interrupted, 0

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        self.asked += 1
        if self.asked in self.interrupted:
            raise Interrupted
        return super().embed_images(images_N3HW)


def test_going_on_in_mid_stage_and_at_the_dead_valley_changes_no_bit(main: Pair, tmp_path: Path) -> None:
    whole, expected, broken = main.job, main.result, asymmetric_job(tmp_path)
    dead = expected["stages"][-1]["steps"] - 1
    # Step 6 of Align, whose step 5 is then made again; step 10 of Distill, where the valley has begun, likewise.
    teacher = InterruptedTeacher((7, 7 + 8 + 11))

    def report(metrics: dict[str, Any]) -> None:
        if (metrics["stage"], metrics["step"]) == ("distill", dead):
            raise Interrupted

    for _ in range(3):
        with pytest.raises(Interrupted):
            _run(broken, report, teacher)
    asked = teacher.asked
    result = _run(broken, report, teacher)
    assert teacher.asked == asked == 13 + 13 + 2 * 2, "nothing trains after the valley is dead"
    for name in ("source_validation", "chosen"):
        assert result[name] == expected[name]
    assert _journal(broken) == _journal(whole)
    ours, others = FoldFolder(broken.folder), FoldFolder(whole.folder)
    assert ours.student.read_bytes() == others.student.read_bytes()
    assert ours.test.read_bytes() == others.test.read_bytes()


@pytest.mark.parametrize("images_at_once", [1, 5, 1000])
def test_the_evaluation_batch_changes_no_number(tmp_path: Path, images_at_once: int) -> None:
    job = asymmetric_job(tmp_path, "zero_shot", eval_batch_size=images_at_once)
    plain = PlainFold(job)
    _check_validation(_run(job, lambda metrics: None, TowerTeacher()), plain.validation())
    _check_test(job, _test_numbers(plain.test()))
