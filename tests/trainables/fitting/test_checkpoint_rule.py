"""Which evaluation's weights a stage ends with, against the reference implementation's records and saved files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from search_spaces.hyperparameters import Hyperparameters, Swad
from tests.support.golden import golden_json
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore, replaces_best
from trainables.fitting.inputs import StageInputs
from trainables.fitting.stage import StageFit, StageOutcome
from trainables.fitting.workers import Workers
from trainables.jobs import FoldJob
from trainables.methods.recipes import METHODS
from trainables.storage.fold_folder import FoldFolder
from trainables.student.model import Student
from trainables.worker import run_job


def cases() -> Any:
    return golden_json("steps_records.json")["record_choice"]


def fit(folder: Path, accuracies: Sequence[float], *, later_ties: bool) -> StageOutcome:
    """Fit a stage that is evaluated after every step, with these accuracies; step k leaves a bias of its own."""
    student = Student(backbone=nn.Flatten(), head=nn.Linear(3, 2), head_name="classifier")
    told = iter(accuracies)
    ids = torch.arange(2)
    batch = Batch(images=torch.ones(2, 3, 1, 1), labels=ids, image_ids=ids, views=ids, domains=ids, global_size=2)
    inputs = StageInputs(
        student=student,
        ask=None,
        logit_scale=1.0,
        texts=torch.empty(2, 0),
        hyperparameters=Hyperparameters(),
        batches=lambda first_step: [batch] * (len(accuracies) - first_step),
        validate=lambda: {
            "d": DomainScore(accuracy=next(told), balanced_accuracy=0.0, cross_entropy=0.0, num_images=1)
        },
        report=lambda metrics: None,
        workers=Workers(),
        seed=0,
        num_steps=len(accuracies),
        evaluate_every=1,
    )
    stage = METHODS["erm"].stages[-1]
    return StageFit(stage, inputs, folder=FoldFolder(folder), averager=None, later_ties=later_ties).run()


def replacements(accuracies: Sequence[float], *, later_ties: bool) -> list[int]:
    """Evaluations that become the best so far, by the rule alone."""
    best, found = -math.inf, []
    for position, accuracy in enumerate(accuracies):
        if replaces_best(accuracy, best, later_ties=later_ties):
            best = accuracy
            found.append(position)
    return found


def test_golden_record_choice() -> None:
    for case in cases():
        chosen = replacements(case["train_out"], later_ties=False)[-1]
        assert case["test_in"][chosen] == case["training_domain_validation"]
        first = math.inf if case["model_save"] is None else case["model_save"]
        saved = [case["steps"][position] for position in replacements(case["train_out"], later_ties=True)]
        written = [step for step in saved if step >= first]
        assert written == case["saved_at_steps"]
        assert (written[-1] if written else None) == case["final_checkpoint_step"]


def test_a_stage_ends_with_the_weights_that_the_golden_choice_names(tmp_path: Path) -> None:
    tied = {tuple(case["train_out"]): case for case in cases() if case["train_out"].count(max(case["train_out"])) > 1}
    assert len(tied) > 3
    for number, case in enumerate(tied.values()):
        first = fit(tmp_path / f"{number}-first", case["train_out"], later_ties=False)
        assert case["test_in"][first.chosen["step"]] == case["training_domain_validation"]
        last = fit(tmp_path / f"{number}-last", case["train_out"], later_ties=True)
        assert last.chosen["step"] == replacements(case["train_out"], later_ties=True)[-1] > first.chosen["step"]
        assert not torch.equal(first.weights["head.bias"], last.weights["head.bias"])


@pytest.mark.parametrize("later_ties", [False, True])
def test_nan_is_never_the_best(later_ties: bool) -> None:
    assert replacements([math.nan, 0.5, math.nan, 0.5], later_ties=later_ties) == ([1, 3] if later_ties else [1])


def test_align_takes_the_later_of_equals_and_distill_the_first(
    make_job: Callable[..., FoldJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, ties = StageFit.run, {}

    def watched(fit: StageFit) -> StageOutcome:
        ties[fit.stage.name] = fit.later_ties
        return run(fit)

    monkeypatch.setattr(StageFit, "run", watched)
    run_job(make_job("vl2v_adip", swad=Swad(segments="off")).to_mapping())
    assert ties == {"align": True, "distill": False}
