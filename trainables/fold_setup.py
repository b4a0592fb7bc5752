"""The parts that a fold's steps share: its splits, text embeddings, student, batches and scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.hyperparameters import Hyperparameters
from search_spaces.schedule import stage_schedule
from trainables.data.formats.images import ImageSource, Indices, cached
from trainables.data.loading.batches import Batch, BatchStream, EvaluationBatch, evaluation_batches
from trainables.data.loading.splits import split_fold
from trainables.fitting.evaluation import BatchPredictor, DomainScore, Predictor, of_images, score_domains
from trainables.fitting.inputs import StageInputs, StillHeld, nothing_held
from trainables.fitting.speed import check_compiler
from trainables.fitting.workers import Workers
from trainables.jobs import NOTE, FoldJob
from trainables.methods.recipes import Method, Stage, method_recipe
from trainables.student.model import Student, build_student
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.names import requests_at_once
from trainables.teacher.protocol import prompts, zero_shot_logits
from trainables.teacher.stored.store import EmbeddingStore
from trainables.teacher.stored.stored_embeddings import StoredFeatures, StoredTeacher

Report = Callable[[dict[str, Any]], None]
Scores = dict[str, DomainScore]
Gather = Callable[[], None]
"""Brings the ledgers of workers together that share no disk."""


def nothing_to_gather() -> None:
    """All workers write into one folder."""


class FoldSetup:
    """Built once per fold; knows nothing of the order in which stages run."""

    def __init__(
        self,
        job: FoldJob,
        source: ImageSource,
        teacher: MeteredTeacher | None,
        report: Report,
        workers: Workers,
        gather: Gather = nothing_to_gather,
        still_held: StillHeld = nothing_held,
    ) -> None:
        self.still_held = still_held
        self.job, self.teacher, self.report, self.workers, self.gather = job, teacher, report, workers, gather
        self.source = cached(source, job.resources.decode_cache_mb)
        self.method: Method = method_recipe(job.spec.method)
        if self.method.stages and self.hyperparameters.speed.compile:
            check_compiler(workers.device)
        self.stored = self._stored_teacher()
        self.splits = split_fold(source, job.benchmark, job.spec.fold)
        self.texts = self._text_embeddings()

    @property
    def hyperparameters(self) -> Hyperparameters:
        return self.job.spec.hyperparameters

    @property
    def image_size(self) -> int:
        return self.hyperparameters.image_size or self.job.benchmark.image_size

    @property
    def swad_device(self) -> torch.device:
        """Where the averages lie."""
        return torch.device("cpu") if self.job.resources.swad_device == "cpu" else self.workers.device

    @property
    def logit_scale(self) -> float:
        return self.teacher.logit_scale if self.teacher is not None else 1.0

    def steps(self, stage: Stage) -> tuple[int, int]:
        """Number of steps and evaluation interval of a stage."""
        return stage_schedule(self.job.benchmark, self.hyperparameters, stage.name)

    def student(self) -> Student:
        """The student before its first step."""
        return build_student(
            self.hyperparameters,
            self.method.head,
            embedding_dim=self.texts.shape[1],
            num_classes=len(self.source.class_names),
            image_size=self.image_size,
            teacher=self.teacher,
            seed=self.job.spec.fold.seed,
        ).to(self.workers.device)

    def predictor(self, student: Student) -> Predictor:
        """Images [N, 3, S, S] -> class logits [N, C]: the classifier's own, or against the text embeddings."""
        if self.method.head == "classifier":
            return student
        return lambda images: zero_shot_logits(student(images), self.texts, self.logit_scale)

    def score(self, predict: BatchPredictor, part: Mapping[str, Indices]) -> Scores:
        """Score every domain of one part of the splits."""
        batches = evaluation_batches(
            self.source,
            part,
            image_size=self.image_size,
            batch_size=self.hyperparameters.eval_batch_size or self.job.benchmark.eval_batch_size,
            rank=self.workers.rank,
            world_size=self.workers.size,
            loader_processes=self.job.resources.loader_processes,
        )
        return self._scores(predict, batches, part)

    def _scores(
        self, predict: BatchPredictor, batches: Iterable[EvaluationBatch], part: Mapping[str, Indices]
    ) -> Scores:
        names = sorted(part, key=str.encode)
        return score_domains(predict, batches, names, num_classes=len(self.source.class_names), workers=self.workers)

    def inputs(self, stage: Stage, student: Student) -> StageInputs:
        """What the training loop needs for one stage on pixels."""
        predict = of_images(self.predictor(student))

        def validate() -> Scores:
            student.eval()
            return self.score(predict, self.splits.source_validation)

        return self._inputs(stage, student, lambda first_step: self._stream(stage, first_step), validate)

    def align_inputs(self, stage: Stage, student: Student) -> StageInputs:
        """What Align needs: on pixels, or in `views:K` on the frozen backbone's stored features."""
        if not self.hyperparameters.teacher_mode.startswith("views:"):
            return self.inputs(stage, student)
        assert self.stored is not None
        features = StoredFeatures(
            self.job.spec,
            root=self.job.embeddings_folder,
            source=self.source,
            backbone=student.eval().backbone,
            image_size=self.image_size,
            num_views=self.stored.num_views,
        )
        features.fill(sorted(self.splits.source_train))
        self._tell_of_damage(features.views, features.clean)
        head = Student(backbone=nn.Identity(), head=student.head, head_name=student.head_name)
        predict = of_images(self.predictor(head))

        def validate() -> Scores:
            head.eval()
            batches = features.evaluation_batches(self.splits.source_validation, self.workers)
            return self._scores(predict, batches, self.splits.source_validation)

        return self._inputs(stage, head, lambda first_step: features.batches(self._stream(stage, first_step)), validate)

    def _stream(self, stage: Stage, first_step: int) -> BatchStream:
        return BatchStream(
            self.source,
            self.job.benchmark,
            self.splits.source_train,
            batch_size_per_domain=self.hyperparameters.batch_size_per_domain,
            image_size=self.image_size,
            seed=self.job.spec.fold.seed,
            stage=stage.name,
            teacher_mode=self.hyperparameters.teacher_mode,
            first_step=first_step,
            num_steps=self.steps(stage)[0],
            rank=self.workers.rank,
            world_size=self.workers.size,
            loader_processes=self.job.resources.loader_processes,
            decode_cache_mb=0,
            device=self.workers.device,
        )

    def _inputs(
        self,
        stage: Stage,
        student: Student,
        batches: Callable[[int], Iterable[Batch]],
        validate: Callable[[], Scores],
    ) -> StageInputs:
        num_steps, evaluate_every = self.steps(stage)
        return StageInputs(
            student=student,
            ask=self._ask if self.teacher is not None else None,
            logit_scale=self.logit_scale,
            texts=self.texts,
            hyperparameters=self.hyperparameters,
            batches=batches,
            validate=validate,
            report=self.report,
            still_held=self.still_held,
            workers=self.workers,
            seed=self.job.spec.fold.seed,
            num_steps=num_steps,
            evaluate_every=evaluate_every,
            batch_pieces=self.job.resources.batch_pieces,
        )

    def prepare(self) -> None:
        """Ask for the stored views that are missing, before the first step."""
        if self.stored is not None:
            self.stored.fill(sorted(self.splits.source_train))
            self._tell_of_damage(self.stored.store)

    def _tell_of_damage(self, *stores: EmbeddingStore) -> None:
        """Report the answers that were damaged and asked again; of several workers each finds others, and none tells.

        Ray waits for a report of every worker.
        """
        for line in (line for store in stores for line in store.discarded):
            if self.workers.size == 1:
                self.report({NOTE: line})

    def _ask(self, batch: Batch) -> Tensor:
        if self.stored is not None:
            return self.stored.embed(batch).to(self.workers.device)
        assert self.teacher is not None
        ids = batch.image_ids.tolist()
        return self.teacher.embed_images(batch.images, image_ids=ids)

    def _stored_teacher(self) -> StoredTeacher | None:
        if self.teacher is None or not self.method.stages or self.hyperparameters.teacher_mode == "live":
            return None
        return StoredTeacher(
            self.job.spec,
            root=self.job.embeddings_folder,
            source=self.source,
            teacher=self.teacher,
            image_size=self.image_size,
            at_once=requests_at_once(self.teacher.name, self.job.resources.teacher_requests),
        )

    def _text_embeddings(self) -> Tensor:
        if self.teacher is None:
            return torch.empty(len(self.source.class_names), 0, device=self.workers.device)
        # One worker asks for all.
        texts = self._ask_texts() if self.workers.is_first else None
        return self.workers.agree(texts).to(self.workers.device)  # type: ignore[no-any-return]

    def _ask_texts(self) -> Tensor:
        assert self.teacher is not None
        wanted = prompts(self.source.class_names)
        if self.stored is None:
            return self.teacher.embed_texts(wanted).cpu()
        return self.stored.store.texts(self.teacher, wanted)
