"""A second, plain way through a fold: every weight of every step is kept, and what is wanted is picked afterwards.

Only settings and the demo student's architecture come from the packages; equations, seeds and rules are written again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.hyperparameters import StageHyperparameters, Swad
from tests.support.asymmetric_fold import LOGIT_SCALE, LOPSIDED, text_embedding, tower
from tests.support.plain_data import Scores, Shown, digest_of, mean, score, shown, split
from tests.support.plain_student import PlainStudent, Weights, seed_of
from tests.support.plain_swad import Valley, valley
from trainables.jobs import FoldJob

PROMPTS = ("a photo of a Fox", "a photo of a barn owl", "a photo of a cat", "a photo of a tea pot")
Line = tuple[str, int, str, list[float]]
"""A line of the journal: stage, step, fingerprint of the images (empty for an evaluation), numbers."""


@dataclass
class PlainStage:
    """What happened in a stage."""

    name: str
    losses: list[float] = field(default_factory=list)
    images: list[tuple[int, ...]] = field(default_factory=list)
    """Image ids of every step."""
    weights: list[Weights] = field(default_factory=list)
    """What trains, after every step."""
    evaluated: list[int] = field(default_factory=list)
    """Steps that end with an evaluation."""
    scores: list[Scores] = field(default_factory=list)

    @property
    def accuracies(self) -> list[float]:
        return [mean(scores.accuracy) for scores in self.scores]

    @property
    def cross_entropies(self) -> list[float]:
        return [mean(scores.cross_entropy) for scores in self.scores]

    def best(self, *, later_ties: bool) -> int:
        """Position of the evaluation with the best mean accuracy."""
        places = [place for place, value in enumerate(self.accuracies) if value == max(self.accuracies)]
        return places[-1 if later_ties else 0]


class PlainFold:
    """Runs a job's fold with plain torch; `workers` share every batch."""

    def __init__(self, job: FoldJob, *, workers: int = 1) -> None:
        self.method, self.hyperparameters, self.workers = job.spec.method, job.spec.hyperparameters, workers
        self.seed = job.spec.fold.seed
        self.every = self.hyperparameters.evaluate_every or LOPSIDED.evaluate_every
        self.split = split(job.spec.fold.test_domains, self.seed)
        self.student = PlainStudent(self.method, self.hyperparameters, self.seed)
        self.teacher = tower().eval()
        self.texts = torch.stack([text_embedding(prompt) for prompt in PROMPTS])
        self.stages: list[PlainStage] = []
        self.valley = Valley()
        self.chosen: dict[str, Any] = {"rule": "zero_shot", "step": -1}

    def run(self) -> PlainFold:
        """Fit every stage; then the student holds the chosen weights, and `last_step` tells of the last ones."""
        if self.method != "zero_shot":
            with torch.random.fork_rng(devices=[]):
                chosen = self._train()
            self.last_step = self.test()
            self.student.load(chosen)
        else:
            self.last_step = self.test()
        return self

    def _train(self) -> Weights:
        trained: tuple[str, ...] = ("backbone.", "head.")
        if self.method == "vl2v_adip":
            align = self._fit("align", ("head.",), self.hyperparameters.align, None)
            self.student.load(align.weights[align.evaluated[align.best(later_ties=True)]])
            trained = ("backbone.",)
        swad = None if self.hyperparameters.swad.segments == "off" else self.hyperparameters.swad
        return self._choose(self._fit("distill", trained, self.hyperparameters.distill, swad), swad)

    def _fit(
        self, name: str, trained: tuple[str, ...], settings: StageHyperparameters, swad: Swad | None
    ) -> PlainStage:
        weights = {key: value for key, value in self.student.parameters().items() if key.startswith(trained)}
        adam = torch.optim.Adam(weights.values(), lr=settings.lr, weight_decay=settings.weight_decay)
        stage = PlainStage(name)
        self.stages.append(stage)
        for step in range((settings.num_steps or LOPSIDED.num_steps) // self.every * self.every + 1):
            adam.zero_grad()
            loss, ids = self._loss(name, step)
            loss.backward()
            adam.step()
            stage.losses.append(float(loss.detach()))
            stage.images.append(ids)
            stage.weights.append({key: value.detach().clone() for key, value in weights.items()})
            if step % self.every == 0:
                stage.evaluated.append(step)
                stage.scores.append(self.validation())
                if swad is not None:
                    self.valley = valley(stage.cross_entropies, swad)
                    if self.valley.died is not None:
                        break
        return stage

    def _loss(self, stage: str, step: int) -> tuple[Tensor, tuple[int, ...]]:
        """The mean loss over all images of the step; every worker draws dropout for its own share."""
        total, ids, mode = torch.zeros(()), (), self.hyperparameters.teacher_mode
        for rank in range(self.workers):
            batch = shown(
                self.split.source_train, seed=self.seed, stage=stage, step=step,
                batch_size=self.hyperparameters.batch_size_per_domain,
                num_views=int(mode.removeprefix("views:")) if mode.startswith("views:") else 0,
                rank=rank, workers=self.workers,
            )  # fmt: skip
            torch.default_generator.manual_seed(
                seed_of("\x1f".join(("step", str(self.seed), stage, str(step), str(rank))))
            )
            outputs = self.student.judged(batch.images) if stage == "align" else self.student.trained(batch.images)
            total = total + self._losses(outputs, batch).sum()
            ids += batch.image_ids
        return total / len(ids), ids

    def _losses(self, outputs: Tensor, batch: Shown) -> Tensor:
        """One loss per image [N]."""
        weight, temperature = self.hyperparameters.image_weight, self.hyperparameters.kd_temperature
        with torch.no_grad():
            seen = batch.clean if self.hyperparameters.teacher_mode == "clean" else batch.images
            teacher = F.normalize(self.teacher(seen), dim=-1)
        if self.method.startswith("vl2v"):
            student = F.normalize(outputs, dim=-1)
            image, text = (student * teacher).sum(1), (student * self.texts[batch.labels]).sum(1)
            return -(weight * image + (1.0 - weight) * text)
        likelihood = outputs.log_softmax(1)[torch.arange(len(outputs)), batch.labels]
        if self.method == "erm":
            return -likelihood
        soft = (LOGIT_SCALE * teacher @ self.texts.T / temperature).softmax(1)
        divergence = (soft * (soft.log() - (outputs / temperature).log_softmax(1))).sum(1)
        return -likelihood + temperature**2 * divergence

    def _choose(self, stage: PlainStage, swad: Swad | None) -> Weights:
        best = stage.best(later_ties=False)
        told = {"best_step": stage.evaluated[best], "best_accuracy": stage.accuracies[best]}
        if swad is None:
            self.chosen = {"rule": "best_source_validation", "step": stage.evaluated[best], **told}
            return stage.weights[stage.evaluated[best]]
        assert self.valley.converged is not None, "every case here converges"
        # With the authors' rule a segment begins anew after step 2500 alone: none does here.
        starts = [
            0 if swad.segments == "authors" or place == 0 else stage.evaluated[place - 1] + 1
            for place in self.valley.counted
        ]
        ends = [stage.evaluated[place] for place in self.valley.counted]
        self.chosen = {
            "rule": "swad", "step": ends[-1], "start_step": starts[0], "num_averaged": len(ends),
            "converge_step": stage.evaluated[self.valley.converged], "dead_valley": self.valley.died is not None,
            **told,
        }  # fmt: skip
        segments = [_mean(stage.weights[start : end + 1]) for start, end in zip(starts, ends, strict=True)]
        return {name: weight.float() for name, weight in _mean(segments).items()}

    def logits(self, images: Tensor) -> Tensor:
        """Class logits of the student as it stands (of the teacher, where nothing trains)."""
        if self.method in ("erm", "kd"):
            return self.student.judged(images)
        embeddings = self.teacher(images) if self.method == "zero_shot" else self.student.judged(images)
        return LOGIT_SCALE * F.normalize(embeddings, dim=-1) @ self.texts.T

    def validation(self) -> Scores:
        """The source validation parts."""
        return score(self.logits, self.split.source_validation)

    def test(self) -> tuple[Scores, Scores]:
        """The reported 80% part of each test domain, and its 20% part."""
        return score(self.logits, self.split.test_in), score(self.logits, self.split.test_out)

    def journal(self) -> list[Line]:
        """The journal's lines of all steps and evaluations, in order."""
        lines: list[Line] = []
        for stage in self.stages:
            scores = dict(zip(stage.evaluated, stage.scores, strict=True))
            for step, loss in enumerate(stage.losses):
                lines.append((stage.name, step, digest_of(stage.images[step]), [loss]))
                if step in scores:
                    means = [mean(scores[step].accuracy), mean(scores[step].cross_entropy)]
                    lines.append((stage.name, step, "", [*means, *scores[step].accuracy.values()]))
        return lines


def _mean(weights: list[Weights]) -> Weights:
    return {name: torch.stack([each[name].double() for each in weights]).mean(0) for name in weights[0]}
