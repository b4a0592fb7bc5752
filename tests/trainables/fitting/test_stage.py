"""One stage by hand: modes, journal, reports, a valley that dies, and what a second run of it does."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters, Swad
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.inputs import StageInputs
from trainables.fitting.stage import StageFit, StageOutcome, TrainingDivergedError, load_weights
from trainables.fitting.swad import DenseAverager
from trainables.fitting.workers import Workers
from trainables.methods.recipes import METHODS
from trainables.storage.fold_folder import FoldFolder
from trainables.student.model import Student

SWAD = Swad(num_converge=2, num_tolerate=2, tolerance_ratio=0.1)
DYING = (3.0, 1.0, 1.05, 1.5, 1.6, 0.2, 0.2)
"""Cross-entropies of evaluations: the valley starts at the second and is dead at the fifth; nothing after it counts."""


def step_batch(step: int) -> Batch:
    """Another batch at every step: two images of 12 over all workers."""
    ids = torch.tensor([step, step + 100])
    return Batch(
        images=torch.full((2, 3, 1, 1), 1.0 + step),
        labels=torch.tensor([0, 1]),
        image_ids=ids,
        views=ids,
        domains=ids,
        global_size=12,
    )


@dataclass
class Bench:
    """A stage that is evaluated every second step, with these cross-entropies."""

    folder: Path
    entropies: Sequence[float]
    swad: Swad | None = None
    method: str = "erm"
    workers: Workers = field(default_factory=Workers)
    modes: list[bool] = field(default_factory=list)
    """The student's mode at each step."""
    shown: list[int] = field(default_factory=list)
    """Steps whose batch was asked for."""
    reports: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.student = Student(backbone=nn.Flatten(), head=nn.Linear(3, 2), head_name="classifier")
        self.student.head.register_forward_pre_hook(lambda module, inputs: self.modes.append(self.student.training))
        self.evaluated = 0

    def run(self) -> StageOutcome:
        stage = METHODS[self.method].stages[-1]
        averager = DenseAverager(self.swad) if self.swad is not None else None
        return StageFit(stage, self.inputs(), folder=FoldFolder(self.folder), averager=averager, later_ties=False).run()

    def inputs(self) -> StageInputs:
        return StageInputs(
            student=self.student,
            ask=lambda batch: torch.ones(2, 4) / 2.0,
            logit_scale=3.0,
            texts=torch.eye(2, 4),
            hyperparameters=Hyperparameters(distill=StageHyperparameters(lr=0.1)),
            batches=self._batches,
            validate=self._validate,
            report=self.reports.append,
            workers=self.workers,
            seed=0,
            num_steps=2 * len(self.entropies) - 1,
            evaluate_every=2,
        )

    def _batches(self, first_step: int) -> Iterable[Batch]:
        for step in range(first_step, 2 * len(self.entropies) - 1):
            self.shown.append(step)
            yield step_batch(step)

    def _validate(self) -> dict[str, DomainScore]:
        self.student.eval()
        step = self.shown[-1]
        entropy = self.entropies[step // 2]
        # Domains of unlike size, whose plain mean is the entropy and 1 - entropy / 10.
        return {
            name: DomainScore(
                accuracy=1.0 - entropy / 10 + sign * 0.01,
                balanced_accuracy=0.0,
                cross_entropy=entropy + sign * 0.5,
                num_images=images,
            )
            for name, sign, images in (("a", 1, 5), ("b", -1, 50))
        }


def journal(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in FoldFolder(folder).read_journal() if line["kind"] == kind]


def test_the_student_trains_at_every_step_whatever_an_evaluation_leaves(tmp_path: Path) -> None:
    bench = Bench(tmp_path, (3.0, 2.0, 1.0))
    bench.student.eval()
    bench.run()
    assert bench.modes == [True] * 5


def test_a_dead_valley_ends_the_stage_and_a_second_run_only_reads(tmp_path: Path) -> None:
    bench = Bench(tmp_path, DYING, SWAD)
    outcome = bench.run()
    assert bench.shown == list(range(9)), "nothing is trained after the evaluation at step 8"
    assert outcome.last_step == 8
    # Evaluation k covers steps 2 k - 1 and 2 k. Convergence at the second (step 2); what follows is counted as it
    # leaves the window of two: the second itself, then the third; the fourth and fifth exceed the threshold.
    told = {"rule": "swad", "converge_step": 2, "dead_valley": True, "best_step": 2}
    assert outcome.chosen.items() >= told.items()
    assert outcome.chosen["best_accuracy"] == pytest.approx(0.9)
    again = Bench(tmp_path, DYING, SWAD)
    second = again.run()
    assert again.shown == again.reports == []
    assert second.chosen == outcome.chosen
    assert (second.last_step, second.seconds) == (8, pytest.approx(outcome.seconds, abs=1.0))
    assert all(torch.equal(weight, outcome.weights[name]) for name, weight in second.weights.items())


def test_without_swad_no_valley_ends_a_stage(tmp_path: Path) -> None:
    outcome = Bench(tmp_path, DYING).run()
    assert outcome.last_step == 12
    assert outcome.chosen == {
        "rule": "best_source_validation", "step": 10, "best_step": 10, "best_accuracy": pytest.approx(0.98),
    }  # fmt: skip


def test_the_weights_of_the_best_evaluation_are_those_of_its_step(tmp_path: Path) -> None:
    bench, kept = Bench(tmp_path, (3.0, 1.0, 2.0)), {}
    validate = bench._validate

    def noted() -> dict[str, DomainScore]:
        kept[bench.shown[-1]] = {name: weight.clone() for name, weight in bench.student.named_parameters()}
        return validate()

    bench._validate = noted  # type: ignore[method-assign]
    outcome = bench.run()
    assert outcome.chosen["step"] == 2
    assert outcome.weights.keys() == kept[2].keys() == {"head.weight", "head.bias"}
    for name, weight in outcome.weights.items():
        assert torch.equal(weight, kept[2][name])
        assert not torch.equal(weight, kept[4][name])


def test_journal_and_reports_tell_of_every_step_and_evaluation(tmp_path: Path) -> None:
    bench, started = Bench(tmp_path, (3.0, 1.0, 2.0)), time.perf_counter()
    outcome = bench.run()
    elapsed = time.perf_counter() - started
    steps = journal(tmp_path, "step")
    assert [(line["stage"], line["step"]) for line in steps] == [("distill", step) for step in range(5)]
    assert len({line["images"] for line in steps}) == 5
    assert all(len(line["images"]) == 16 for line in steps)
    evaluations = journal(tmp_path, "evaluation")
    assert [line["step"] for line in evaluations] == [0, 2, 4]
    assert [line["cross_entropy"] for line in evaluations] == pytest.approx([3.0, 1.0, 2.0])
    assert [line["accuracy"] for line in evaluations] == pytest.approx([0.7, 0.9, 0.8])
    assert evaluations[1]["domains"] == pytest.approx({"a": 0.91, "b": 0.89})
    assert [report["source_validation_cross_entropy"] for report in bench.reports] == pytest.approx([3.0, 1.0, 2.0])
    assert [report["source_validation_accuracy"] for report in bench.reports] == pytest.approx([0.7, 0.9, 0.8])
    assert [(report["stage"], report["step"], report["final"]) for report in bench.reports] == [
        ("distill", step, False) for step in (0, 2, 4)
    ]
    assert outcome.teacher_embeddings == 0
    assert 0.0 < outcome.seconds <= elapsed


def test_losses_of_the_journal_are_the_workers_sum(tmp_path: Path) -> None:
    """Two of 12 images are this worker's: by hand its first loss is their mean cross-entropy times 2 / 12."""
    bench = Bench(tmp_path, (3.0, 1.0))
    with torch.no_grad():
        logits = bench.student(step_batch(0).images)
        expected = float(nn.functional.cross_entropy(logits, torch.tensor([0, 1]))) * 2 / 12
    bench.run()
    assert journal(tmp_path, "step")[0]["loss"] == pytest.approx(expected)


class _Second(Workers):
    """The second of two workers; the first one has the same numbers."""

    def __init__(self) -> None:
        super().__init__(rank=1, size=2)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.mul_(2)

    def agree(self, value: Any) -> Any:
        return value

    def wrap(self, module: nn.Module) -> nn.Module:
        return module


def test_only_the_first_worker_writes_and_all_report(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "fold", (3.0, 1.0), workers=_Second())
    bench.run()
    assert not (tmp_path / "fold").exists()
    assert len(bench.reports) == 2


def test_embeddings_are_counted_for_all_workers_and_over_an_interruption(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 2:
            raise Stopped

    bench = Bench(tmp_path, (3.0, 1.0, 2.0, 1.5), method="kd")
    inputs = bench.inputs
    bench.inputs = lambda: replace(inputs(), report=stop)  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        bench.run()
    again = Bench(tmp_path, (3.0, 1.0, 2.0, 1.5), method="kd")
    outcome = again.run()
    assert again.shown == [3, 4, 5, 6]
    assert outcome.teacher_embeddings == 7 * 12
    assert outcome.chosen["best_step"] == 2


@pytest.mark.parametrize(
    ("bad_step", "message"),
    [
        (1, "is nan at step 1; the last good checkpoint is that of step 0"),
        (0, "is nan at step 0; there is no checkpoint before it"),
    ],
)
def test_a_loss_that_is_not_finite_names_its_step_and_the_last_good_one(
    tmp_path: Path, bad_step: int, message: str
) -> None:
    bench = Bench(tmp_path, (3.0, 1.0))
    batches = bench._batches

    def poisoned(first_step: int) -> Iterable[Batch]:
        for step, batch in enumerate(batches(first_step), first_step):
            yield replace(batch, images=batch.images * float("nan")) if step == bad_step else batch

    bench._batches = poisoned  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match=f"the loss of stage distill {message}"):
        bench.run()


def test_weights_are_copied_in_by_name() -> None:
    module = nn.Linear(2, 1)
    weight, before = torch.tensor([[5.0, 6.0]]), module.bias.item()
    load_weights(module, {"weight": weight})
    weight.zero_()
    assert module.weight.tolist() == [[5.0, 6.0]]
    assert module.bias.item() == before
    with pytest.raises(KeyError, match="none_such"):
        load_weights(module, {"none_such": weight})
