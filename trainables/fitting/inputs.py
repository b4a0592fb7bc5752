"""What a stage works on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from search_spaces.hyperparameters import Hyperparameters, StageHyperparameters
from trainables.data.loading.batches import Batch
from trainables.fitting.evaluation import DomainScore
from trainables.fitting.workers import Workers
from trainables.methods.recipes import Stage
from trainables.student.model import Student

StillHeld = Callable[[float], None]
"""Raises `LeaseLostError` where another process has the folder, or had it within so many seconds."""


def nothing_held(every_s: float) -> None:
    """This process shares its folder with nobody."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInputs:
    """What a stage works on; the same for every stage of a fold."""

    student: Student
    ask: Callable[[Batch], Tensor] | None
    """Batch -> the teacher's image embeddings [B, D], L2-normalised; None for a method without a teacher."""
    logit_scale: float
    """The teacher's exp(logit_scale); 1 without a teacher."""
    texts: Tensor
    """Text embeddings [C, D]; empty [C, 0] for a method without a teacher."""
    hyperparameters: Hyperparameters
    batches: Callable[[int], Iterable[Batch]]
    """First step -> this worker's share of every batch from there to the last step."""
    validate: Callable[[], dict[str, DomainScore]]
    """Scores the student on the source validation parts."""
    report: Callable[[dict[str, Any]], None]
    workers: Workers
    seed: int
    num_steps: int
    evaluate_every: int
    still_held: StillHeld = nothing_held
    """Called before anything is asked or written, with the age in seconds at which a look counts no more."""
    batch_pieces: int = 1
    """See `Resources.batch_pieces`."""


def stage_settings(stage: Stage, hyperparameters: Hyperparameters) -> StageHyperparameters:
    """The optimiser's settings of a stage."""
    return hyperparameters.align if stage.name == "align" else hyperparameters.distill
