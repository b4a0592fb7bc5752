"""How one fold is made: align, distill, predict. Start reading here.

No Ray in this file: `run_fold` is a function of its inputs that fills one folder, and `report` is any callable.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainables.align import StageRecord, align, only_one_at_a_time, still_held, while_held
from trainables.data.formats.images import ImageSource
from trainables.fitting.evaluation import BatchPredictor, mean_accuracy, mean_cross_entropy, of_images
from trainables.fitting.gpu_memory import begin_measuring, gpu_memory
from trainables.fitting.inputs import StillHeld
from trainables.fitting.stage import StageFit, load_weights
from trainables.fitting.swad import DenseAverager
from trainables.fitting.workers import Workers
from trainables.fold_setup import FoldSetup, Gather, Report, Scores, nothing_to_gather
from trainables.jobs import NOTE, FoldJob
from trainables.methods.recipes import Stage
from trainables.storage.finished_folds import sealed, settled_result
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import write_json
from trainables.storage.leases import write_first
from trainables.student.model import Student
from trainables.student.storage import save_student
from trainables.teacher.ledger import QueryLedger, query_counts
from trainables.teacher.meter import MeteredTeacher
from trainables.teacher.protocol import Teacher
from trainables.zero_shot import zero_shot_on_batches


def run_fold(
    job: FoldJob,
    *,
    source: ImageSource,
    teacher: Teacher | None,
    report: Report,
    workers: Workers | None = None,
    gather: Gather = nothing_to_gather,
) -> dict[str, Any]:
    """Align, distill, predict; leave the fold's folder finished and return the content of its `result.json`.

    Run again after an interruption it continues at its last checkpoint; run again after the end it only reads. Where
    another process makes the same fold (sweeps that share a store), this one waits for it. `gather` is called by every
    worker before the queries are counted, so that the first one sees the ledgers of all.

    Raises:
        UserError: the job asks for what does not exist or does not fit.
        BudgetReached: the teacher may not be asked any more.
        TrainingDivergedError: a loss is not finite.
    """
    workers = workers or Workers()
    with only_one_at_a_time(Path(job.folder), workers) as lease:
        report = while_held(lease, report)
        done, note = workers.agree(_done(job) if workers.is_first else None)
        if note:
            report({NOTE: note})
        if done is not None:
            return done  # type: ignore[no-any-return]
        started = time.time()
        setup = _begin(job, source, teacher, report, workers, gather, still_held(lease))
        return _make_fold(setup, started)


def _done(job: FoldJob) -> tuple[dict[str, Any] | None, str]:
    return settled_result(FoldFolder(job.folder), job.spec, weights_elsewhere=bool(job.mirrors))


def _begin(
    job: FoldJob,
    source: ImageSource,
    teacher: Teacher | None,
    report: Report,
    workers: Workers,
    gather: Gather,
    held: StillHeld,
) -> FoldSetup:
    begin_measuring(workers.device)
    setup = FoldSetup(job, source, metered(job, teacher, scope=job.spec.key), report, workers, gather, held)
    if workers.is_first:
        held(0.0)
        FoldFolder(job.folder).remove_half_files()
        write_json(FoldFolder(job.folder).spec, job.spec.to_mapping())
    return setup


def _make_fold(setup: FoldSetup, started: float) -> dict[str, Any]:
    if not setup.method.stages:
        return zero_shot(setup, started)
    setup.prepare()
    student = setup.student()
    records = [_run_stage(setup, stage, student) for stage in setup.method.stages]
    return predict(setup, student, records, started)


def metered(job: FoldJob, teacher: Teacher | None, *, scope: str) -> MeteredTeacher | None:
    """The teacher behind its meter: no call of a fold goes past it."""
    if teacher is None:
        return None
    return MeteredTeacher(teacher, QueryLedger(Path(job.queries_folder), scope, budget=job.query_budget))


def _run_stage(setup: FoldSetup, stage: Stage, student: Student) -> StageRecord:
    return align(setup, stage, student) if stage.name == "align" else distill(setup, stage, student)


def distill(setup: FoldSetup, stage: Stage, student: Student) -> StageRecord:
    """Fit the last stage, averaging the weights as it goes. The student holds the last step's weights."""
    swad = setup.hyperparameters.swad
    averager = DenseAverager(swad, device=setup.swad_device) if swad.segments != "off" else None
    folder = FoldFolder(setup.job.folder)
    fit = StageFit(stage, setup.inputs(stage, student), folder=folder, averager=averager, later_ties=False)
    return StageRecord(stage.name, fit.run(), reused=False)


def predict(setup: FoldSetup, student: Student, records: list[StageRecord], started: float) -> dict[str, Any]:
    """Evaluate the last step for the oracle, then the chosen weights; save the very weights that were evaluated."""
    student.eval()
    predictor = of_images(setup.predictor(student))
    last_step = _score_test(setup, predictor)
    load_weights(student, records[-1].outcome.weights)
    validation = setup.score(predictor, setup.splits.source_validation)
    test = _score_test(setup, predictor)
    folder = FoldFolder(setup.job.folder)
    if setup.workers.is_first:
        setup.still_held(0.0)
        save_student(student, folder.student)
        _write_test(setup, test | {"last_step": last_step})
    return _finish(setup, validation, records[-1].outcome.chosen, records, started)


def zero_shot(setup: FoldSetup, started: float) -> dict[str, Any]:
    """The teacher itself, its text embeddings as classifier, on the student's splits and evaluation view."""
    predictor = zero_shot_on_batches(setup)
    validation = setup.score(predictor, setup.splits.source_validation)
    test = _score_test(setup, predictor)
    if setup.workers.is_first:
        setup.still_held(0.0)
        _write_test(setup, test | {"last_step": test})
    return _finish(setup, validation, {"rule": "zero_shot", "step": -1}, [], started)


def _score_test(setup: FoldSetup, predictor: BatchPredictor) -> dict[str, Any]:
    """Test-domain numbers, for `_write_test` alone."""
    inner = setup.score(predictor, setup.splits.test_in)
    outer = setup.score(predictor, setup.splits.test_out)
    return {
        "accuracy": {name: score.accuracy for name, score in inner.items()},
        "balanced_accuracy": {name: score.balanced_accuracy for name, score in inner.items()},
        "num_images": {name: score.num_images for name, score in inner.items()},
        "out_accuracy": {name: score.accuracy for name, score in outer.items()},
    }


def _write_test(setup: FoldSetup, test: dict[str, Any]) -> None:
    """Write `test.json`; a pair fold writes a file per test domain, so that none tells of both."""
    folder, domains = FoldFolder(setup.job.folder), setup.job.spec.fold.test_domains
    if len(domains) == 1:
        write_json(folder.test, test)
        return
    for domain in domains:
        numbers = {name: values[domain] for name, values in test.items() if name != "last_step"}
        write_json(folder.held_out(domain), {"domain": domain, **numbers})


def _finish(
    setup: FoldSetup, validation: Scores, chosen: dict[str, Any], records: list[StageRecord], started: float
) -> dict[str, Any]:
    """Write `result.json`, which makes the fold done, and report for the last time."""
    accuracy, cross_entropy = mean_accuracy(validation), mean_cross_entropy(validation)
    folder = FoldFolder(setup.job.folder)
    finished = time.time()
    result = {
        "key": setup.job.spec.key,
        "status": "done",
        "method": setup.job.spec.method,
        "fold": asdict(setup.job.spec.fold) | {"test_domains": list(setup.job.spec.fold.test_domains)},
        "source_validation": {
            "accuracy": accuracy,
            "cross_entropy": cross_entropy,
            "domains": {name: score.accuracy for name, score in validation.items()},
        },
        "chosen": chosen,
        "stages": [_describe(record) for record in records],
        "teacher_queries": _queries(setup),
        "batch_pieces": setup.job.resources.batch_pieces,
        "gpu_memory": gpu_memory(setup.workers.device),
        "seconds": finished - started,
        "started": started,
        "finished": finished,
    }
    if setup.workers.is_first:
        result = sealed(result, folder, setup.job.spec)
        setup.still_held(0.0)
        write_first(folder.result, result)
        folder.checkpoint.unlink(missing_ok=True)
    last_step = records[-1].outcome.last_step if records else 0
    setup.report(
        {
            "stage": "predict", "step": last_step + 1, "final": True,
            "source_validation_accuracy": accuracy, "source_validation_cross_entropy": cross_entropy,
        }
    )  # fmt: skip
    return setup.workers.agree(result)  # type: ignore[no-any-return]


def _queries(setup: FoldSetup) -> dict[str, int]:
    """What this fold asked the teacher, by all workers and over all interruptions.

    `unconfirmed` are queries of killed processes whose answers nobody saw; the teacher may have been asked them.
    """
    if setup.teacher is None:
        return {"images": 0, "texts": 0, "unique_images": 0, "bytes": 0, "unconfirmed": 0}
    setup.teacher.ledger.close()
    setup.gather()
    counts = query_counts(Path(setup.job.queries_folder), [setup.job.spec.key])
    return {
        "images": counts.images,
        "texts": counts.texts,
        "unique_images": counts.unique_images,
        "bytes": counts.bytes_sent,
        "unconfirmed": counts.unconfirmed,
    }


def _describe(record: StageRecord) -> dict[str, Any]:
    outcome = record.outcome
    return {
        "name": record.name,
        "steps": outcome.last_step + 1,
        "seconds": outcome.seconds,
        "teacher_embeddings": outcome.teacher_embeddings,
        "reused": record.reused,
    }
