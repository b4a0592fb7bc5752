"""The one training loop: fit one stage, evaluate as it goes, go on after an interruption.

Per step: update, then count the weights for SWAD. At an evaluation: score the source validation parts, feed SWAD,
report, write the journal and a checkpoint. Steps count from 0 and evaluations include step 0 (the authors' order).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.data.loading.batches import Batch
from trainables.fitting.checkpoint import checkpoint_flaw, load_checkpoint, save_checkpoint
from trainables.fitting.evaluation import mean_accuracy, mean_cross_entropy, replaces_best
from trainables.fitting.inputs import StageInputs
from trainables.fitting.swad import DenseAverager
from trainables.fitting.update import Update, image_digest
from trainables.jobs import NOTE
from trainables.methods.recipes import Stage
from trainables.storage.atomic_files import remove_path
from trainables.storage.fold_folder import FoldFolder

State = dict[str, Any]

LOOK_S = 1.0
"""How old a look at the lease may be when the teacher is asked: a process that stood still for longer looks again."""


class TrainingDivergedError(RuntimeError):
    """The loss is not finite; the message names the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """How a stage ended. The student holds the last step's weights."""

    weights: dict[str, Tensor]
    """The chosen weights of what trained: the SWAD average, or those of the best evaluation."""
    chosen: dict[str, Any]
    """How they were chosen: rule, step, and for SWAD the steps that the average covers."""
    last_step: int
    seconds: float
    """Time in the loop, over all interruptions."""
    teacher_embeddings: int
    """Teacher embeddings that the steps used, by all workers together."""


class StageFit:
    """One stage of one fold."""

    def __init__(
        self, stage: Stage, inputs: StageInputs, *, folder: FoldFolder, averager: DenseAverager | None, later_ties: bool
    ) -> None:
        """Args:
        averager: SWAD, or None to choose the best evaluation.
        later_ties: see `replaces_best`.
        """
        self.stage, self.inputs, self.folder = stage, inputs, folder
        self.averager, self.later_ties = averager, later_ties
        inputs.student.set_trainable(stage.trains)
        inputs.student.train()
        self.weights = {name: p for name, p in inputs.student.named_parameters() if p.requires_grad}
        self.update = Update(stage, inputs, self.weights)
        self.next_step = 0
        self.seconds = 0.0
        self.teacher_embeddings = 0
        self.ended_early = False
        self.best: State = {"step": -1, "accuracy": float("-inf"), "weights": {}}
        self.pending: list[tuple[int, Tensor, Tensor]] = []

    def run(self) -> StageOutcome:
        """Fit from where the checkpoint stands to the end.

        Raises:
            TrainingDivergedError: a loss is not finite.
        """
        self._restore()
        started = time.perf_counter()
        if self.next_step < self.inputs.num_steps and not self.ended_early:
            for step, batch in enumerate(self.inputs.batches(self.next_step), self.next_step):
                self._update(step, batch)
                if step % self.inputs.evaluate_every == 0:
                    self.seconds += time.perf_counter() - started
                    started = time.perf_counter()
                    self._evaluate(step)
                    if self.ended_early:
                        break
        self.seconds += time.perf_counter() - started
        return self._outcome()

    def _update(self, step: int, batch: Batch) -> None:
        self.inputs.still_held(LOOK_S)
        self.pending.append((step, self.update(step, batch), image_digest(batch.image_ids)))
        self.teacher_embeddings += batch.global_size if self.stage.asks_teacher else 0
        if self.averager is not None:
            self.averager.after_step(self.weights, step)

    def _evaluate(self, step: int) -> None:
        lines = self._step_lines()
        scores = self.inputs.validate()
        self.inputs.student.train()
        accuracy, cross_entropy = mean_accuracy(scores), mean_cross_entropy(scores)
        if replaces_best(accuracy, self.best["accuracy"], later_ties=self.later_ties):
            keep = self.averager is None
            copies = {name: w.detach().clone() for name, w in self.weights.items()} if keep else {}
            self.best = {"step": step, "accuracy": accuracy, "weights": copies}
        if self.averager is not None:
            self.ended_early = self.averager.after_evaluation(step, cross_entropy)
        self.next_step = step + 1
        lines.append(
            {
                "kind": "evaluation", "stage": self.stage.name, "step": step, "accuracy": accuracy,
                "cross_entropy": cross_entropy, "domains": {n: s.accuracy for n, s in scores.items()},
                "time": time.time(),
            }
        )  # fmt: skip
        if self.inputs.workers.is_first:
            self.inputs.still_held(0.0)
            self.folder.append_journal(lines)
            save_checkpoint(self.folder.checkpoint, self._state())
        self.inputs.report(
            {
                "stage": self.stage.name, "step": step, "final": False,
                "source_validation_accuracy": accuracy, "source_validation_cross_entropy": cross_entropy,
            }
        )  # fmt: skip

    def _step_lines(self) -> list[State]:
        """The journal's lines of the steps since the last evaluation, summed over the workers."""
        if not self.pending:
            return []
        workers = self.inputs.workers
        losses = workers.sum(torch.stack([loss.double() for _, loss, _ in self.pending])).tolist()
        digests = workers.sum(torch.stack([digest for *_, digest in self.pending]).to(workers.device)).tolist()
        steps = [step for step, *_ in self.pending]
        self.pending.clear()
        for step, loss in zip(steps, losses, strict=True):
            if not abs(loss) < float("inf"):
                before = f"the last good checkpoint is that of step {self.next_step - 1}"
                raise TrainingDivergedError(
                    f"the loss of stage {self.stage.name} is {loss} at step {step}; "
                    f"{before if self.next_step else 'there is no checkpoint before it'}"
                )
        return [
            {"kind": "step", "stage": self.stage.name, "step": step, "loss": loss, "images": f"{digest % 2**64:016x}"}
            for step, loss, digest in zip(steps, losses, digests, strict=True)
        ]

    def _state(self) -> State:
        return {
            "stage": self.stage.name,
            "next_step": self.next_step,
            "ended_early": self.ended_early,
            "seconds": self.seconds,
            "teacher_embeddings": self.teacher_embeddings,
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "optimizer": self.update.optimizer.state_dict(),
            "averager": self.averager.state() if self.averager is not None else None,
            "best": self.best,
        }

    def _restore(self) -> None:
        workers = self.inputs.workers
        flaw = workers.agree(checkpoint_flaw(self.folder.checkpoint) if workers.is_first else "")
        if flaw:
            self._discard_checkpoint(flaw)
        state = load_checkpoint(self.folder.checkpoint, stage=self.stage.name)
        if state is None:
            return
        load_weights(self.inputs.student, state["weights"])
        self.update.optimizer.load_state_dict(state["optimizer"])
        if self.averager is not None:
            self.averager.load_state(state["averager"])
        self.best = state["best"]
        self.next_step, self.ended_early = state["next_step"], state["ended_early"]
        self.seconds, self.teacher_embeddings = state["seconds"], state["teacher_embeddings"]

    def _discard_checkpoint(self, flaw: str) -> None:
        """Begin the stage again, with equal numbers: it asks for nothing that it has not asked before."""
        workers, path = self.inputs.workers, self.folder.checkpoint
        if workers.is_first:
            remove_path(path)
        # No worker looks for the file before it is gone.
        workers.agree(None)
        self.inputs.report({NOTE: f"{path} {flaw}; stage {self.stage.name} starts again"})

    def _outcome(self) -> StageOutcome:
        if self.averager is None:
            weights, step = self.best["weights"], self.best["step"]
            chosen: State = {"rule": "best_source_validation", "step": step}
        else:
            average = self.averager.result()
            weights = average.weights
            chosen = {
                "rule": "swad", "step": average.end_step, "start_step": average.start_step,
                "num_averaged": average.count, "converge_step": self.averager.valley.converge_step,
                "dead_valley": self.averager.valley.is_dead,
            }  # fmt: skip
        return StageOutcome(
            weights=weights,
            chosen=chosen | {"best_step": self.best["step"], "best_accuracy": self.best["accuracy"]},
            last_step=self.next_step - 1,
            seconds=self.seconds,
            teacher_embeddings=self.teacher_embeddings,
        )


@torch.no_grad()
def load_weights(student: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy named weights into the student, in place; names that it lacks are an error."""
    parameters = dict(student.named_parameters())
    for name, weight in weights.items():
        parameters[name].copy_(weight)
