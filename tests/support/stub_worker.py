"""Stands in for `trainables.worker` where a test is about the sweep: a fold whose accuracy is a formula.

It keeps the contract of `result.json` and of the fold's folder, logs every start to STARTS beside the folds, and does
what the file BEHAVIOUR asks of folds whose name contains a text: `crash`, `crash once`, `die`, `memory`, `nan`,
`overtaken once`, `diverged`, `budget`, `nothing` (leaves no result, as on another machine's disk), `user`, `preflight`;
`pause` is the time in seconds between two evaluations of every fold, `gpu_memory` what every fold says that it held of
a GPU.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from search_spaces.methods import method_facts
from trainables.jobs import NOTE, FoldJob, job_from_mapping
from trainables.storage.finished_folds import sealed, settled_result
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import read_json, write_atomically, write_json
from trainables.storage.leases import LeaseLostError
from trainables.teacher.ledger import BudgetReached

TEST_NUMBERS = ("accuracy", "balanced_accuracy", "out_accuracy")


def run_job(job: Mapping[str, Any], report: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    fold_job = job_from_mapping(job)
    folder = FoldFolder(fold_job.folder)
    done, note = settled_result(folder, fold_job.spec)
    if note and report is not None:
        report({NOTE: note})
    if done is not None:
        return done
    _log(fold_job)
    write_json(folder.spec, fold_job.spec.to_mapping())
    started, accuracy = time.time(), surface(fold_job)
    _behave(fold_job)
    if _behaviour(fold_job, "nothing"):
        return {}
    if _behaviour(fold_job, "nan"):
        accuracy = float("nan")
    _align(fold_job)
    for step in range(3):
        time.sleep(_pause(fold_job))
        folder.append_journal([{"kind": "evaluation", "stage": "distill", "step": step, "accuracy": accuracy,
                                "cross_entropy": 1.0, "domains": {}, "time": time.time()}])  # fmt: skip
        if report is not None:
            report(_evaluation(step, accuracy))
    _write_test(fold_job, folder, accuracy)
    result = {
        "key": fold_job.spec.key,
        "status": "done",
        "method": fold_job.spec.method,
        "fold": job["spec"]["fold"],
        "source_validation": {"accuracy": accuracy, "cross_entropy": 1.0, "domains": {}},
        "chosen": {"rule": "swad", "step": 2},
        "stages": [],
        "teacher_queries": {"images": 30, "texts": 2},
        "seconds": time.time() - started,
        "started": started,
        "finished": time.time(),
        "batch_pieces": fold_job.resources.batch_pieces,
        "gpu_memory": (read_json(_out(fold_job) / "BEHAVIOUR") or {}).get("gpu_memory"),
    }
    if method_facts(fold_job.spec.method).stages:
        write_atomically(folder.student, f"student of {fold_job.spec.key}".encode())
    result = sealed(result, folder, fold_job.spec)
    write_json(folder.result, result)
    if report is not None:
        report({**_evaluation(3, accuracy), "final": True})
    return result


def train_loop(job: dict[str, Any]) -> None:
    import ray.train

    if ray.train.get_context().get_world_rank() == 0:
        run_job(job, lambda metrics: ray.train.report(metrics))
        return
    for _ in range(4):
        ray.train.report({})


def torch_trainer(
    job: Mapping[str, Any],
    *,
    name: str,
    storage_path: str,
    callbacks: Sequence[Any] = (),
    trainer: Any = None,
) -> Any:
    import ray.train
    import ray.train.torch

    return (trainer or ray.train.torch.TorchTrainer)(
        train_loop,
        train_loop_config=dict(job),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job_from_mapping(job).resources.workers, resources_per_worker={"CPU": 1}
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage_path,
            callbacks=list(callbacks),
            logging_config=ray.train.LoggingConfig("WARNING"),
        ),
    )


class HastyTrainer:
    """A nested trainer that is over in the moment of its last report, as a real one is on a busy machine."""

    def __init__(self, job: Mapping[str, Any], *, callbacks: Sequence[Any], **_: Any) -> None:
        self.callback = callbacks[0]

    def fit(self) -> None:
        for step in range(3):
            self.callback.after_report(None, [_evaluation(step, 0.5)], None)


def preflight(job: Mapping[str, Any]) -> dict[str, Any]:
    fold_job = job_from_mapping(job)
    if _behaviour(fold_job, "preflight"):
        raise UserError("the teacher embeds into 5 dimensions, the student into 7")
    return {"embedding_dim": 5}


def surface(job: FoldJob) -> float:
    """A smooth accuracy with one peak in the learning rate and the image weight, moved a little by fold and method."""
    point, fold = job.spec.hyperparameters, job.spec.fold
    shift = (len(fold.test_domain) + 3 * fold.seed + len(job.spec.method)) % 7 / 100
    return round(0.9 - 0.1 * abs(math.log10(point.distill.lr) + 3.0) - 0.2 * abs(point.image_weight - 0.6) + shift, 6)


def held_out(job: FoldJob, domain: str) -> float:
    """Accuracy of a pair fold on one of its two domains: what is best on the source domains is worst there."""
    return round(1.0 - surface(job) + len(domain) / 100, 6)


def starts(out: Path, name: str = "STARTS") -> list[dict[str, Any]]:
    """Every start of a fold (or, from `ALIGNS`, of an Align stage) that was logged, in order."""
    path = out / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _write_test(job: FoldJob, folder: FoldFolder, accuracy: float) -> None:
    domains = job.spec.fold.test_domains
    if len(domains) == 1:
        test = {name: {domains[0]: accuracy - 0.1} for name in TEST_NUMBERS}
        write_json(folder.test, test | {"last_step": test})
        return
    for domain in domains:
        write_json(folder.held_out(domain), {"domain": domain, "accuracy": held_out(job, domain)})


def _out(job: FoldJob) -> Path:
    return Path(job.folder).parent.parent


def _log(job: FoldJob, *, name: str = "STARTS", key: str = "") -> None:
    with (_out(job) / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        about = {"fold": str(job.spec.fold), "method": job.spec.method, "process": os.getpid()}
        file.write(json.dumps({"key": key or job.spec.key, **about}) + "\n")


def _behave(job: FoldJob) -> None:
    if _behaviour(job, "user"):
        raise UserError("this fold asks for what there is not")
    is_first = sum(start["key"] == job.spec.key for start in starts(_out(job))) == 1
    if _behaviour(job, "crash once") and is_first:
        raise RuntimeError("first line\nthe machine is on fire")
    if _behaviour(job, "overtaken once") and is_first:
        raise LeaseLostError("another process has taken over this fold")
    if _behaviour(job, "crash"):
        raise RuntimeError("first line\nthe machine is on fire")
    if _behaviour(job, "diverged"):
        from trainables.fitting.stage import TrainingDivergedError

        raise TrainingDivergedError("the loss is nan at step 7")
    if _behaviour(job, "budget"):
        raise BudgetReached(budget=100, asked=90, wanted=20)
    if _behaviour(job, "memory") and job.resources.batch_pieces < 2:
        raise MemoryError("no room for the whole batch")
    if _behaviour(job, "die"):
        print("what the worker said last", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _behaviour(job: FoldJob, name: str) -> str:
    """The words after a behaviour's name, if it is asked for in this fold."""
    content = read_json(_out(job) / "BEHAVIOUR") or {}
    wanted = content.get(name)
    return str(wanted) if wanted is not None and wanted in f"{job.spec.method}/{job.spec.fold}" else ""


def _pause(job: FoldJob) -> float:
    return float((read_json(_out(job) / "BEHAVIOUR") or {}).get("pause", 0.0))


def _align(job: FoldJob) -> None:
    if "align" in method_facts(job.spec.method).stages and not FoldFolder(job.align_folder).is_done:
        _log(job, name="ALIGNS", key=job.spec.align_key)
        time.sleep(_pause(job))
        write_json(FoldFolder(job.align_folder).result, {})


def _evaluation(step: int, accuracy: float) -> dict[str, Any]:
    return {
        "stage": "distill",
        "step": step,
        "source_validation_accuracy": accuracy,
        "source_validation_cross_entropy": 1.0,
        "final": False,
    }
