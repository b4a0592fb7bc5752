"""Align once for all folds that agree on it: the projection lies in a folder of its own, named by Align's key."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from search_spaces.errors import first_line
from trainables.fitting.inputs import StillHeld, nothing_held
from trainables.fitting.stage import StageFit, StageOutcome, load_weights
from trainables.fitting.workers import Workers
from trainables.fold_setup import FoldSetup, Report
from trainables.jobs import NOTE
from trainables.methods.recipes import Stage
from trainables.storage.atomic_files import remove_path
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import DamagedFileError, write_atomically, write_json
from trainables.storage.leases import Lease, this_process
from trainables.student.model import Student

SHA256 = "student_sha256"
"""Entry of an Align stage's result: of the file of its weights."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How a stage of this fold came about."""

    name: str
    outcome: StageOutcome
    reused: bool
    """Whether another fold had already done it."""


def align(setup: FoldSetup, stage: Stage, student: Student) -> StageRecord:
    """Fit the projection, or take the one that an equal Align stage left; the student then holds it.

    The authors choose the last of equally good evaluations here (their saved file is rewritten at ties).
    """
    shared = FoldFolder(setup.job.align_folder)
    with only_one_at_a_time(shared.path, setup.workers) as lease:
        done, note = setup.workers.agree(_found(shared) if setup.workers.is_first else None)
        if note:
            setup.report({NOTE: note})
        if done is None:
            if setup.workers.is_first:
                shared.remove_half_files()
            inputs = setup.align_inputs(stage, student)
            inputs = replace(inputs, report=while_held(lease, inputs.report), still_held=still_held(lease))
            fit = StageFit(stage, inputs, folder=shared, averager=None, later_ties=True)
            outcome = fit.run()
            if setup.workers.is_first:
                still_held(lease)(0.0)
                _write(shared, outcome)
        else:
            outcome = done
            # Of a process that was killed between the two.
            shared.checkpoint.unlink(missing_ok=True)
    load_weights(student, outcome.weights)
    if setup.workers.is_first:
        FoldFolder(setup.job.folder).append_journal(list(shared.read_journal()))
    return StageRecord(stage.name, outcome, reused=done is not None)


def _write(shared: FoldFolder, outcome: StageOutcome) -> None:
    weights = save({name: weight.cpu() for name, weight in outcome.weights.items()})
    write_atomically(shared.student, weights)
    content = {field.name: getattr(outcome, field.name) for field in fields(outcome) if field.name != "weights"}
    write_json(shared.result, content | {SHA256: sha256(weights).hexdigest()})
    shared.checkpoint.unlink(missing_ok=True)


def _found(shared: FoldFolder) -> tuple[StageOutcome | None, str]:
    """What an equal stage left, and one line about what was damaged: then it is fitted again, with equal numbers."""
    try:
        content = shared.read_result()
        if content is None:
            return None, ""
        return _outcome(content, shared.student.read_bytes()), ""
    except (DamagedFileError, OSError, ValueError, TypeError, SafetensorError) as error:
        why = "its weights are missing" if isinstance(error, FileNotFoundError) else first_line(error)
    for path in (shared.result, shared.student, shared.journal, shared.checkpoint):
        remove_path(path)
    return None, f"the Align stage in {shared.path} is damaged ({why}); it runs again"


def _outcome(content: Mapping[str, Any], weights: bytes) -> StageOutcome:
    """Raises `ValueError` and the like where the two are not what was written together."""
    entries = dict(content)
    stated = entries.pop(SHA256, "")
    # Before that entry, nothing was stated.
    if stated and sha256(weights).hexdigest() != stated:
        raise ValueError("its weights have another SHA-256 than its result states")
    if not isinstance(entries.get("chosen"), dict) or not isinstance(entries.get("last_step"), int):
        raise ValueError("its result lacks entries")
    return StageOutcome(weights=load(weights), **entries)


@contextmanager
def only_one_at_a_time(folder: Path, workers: Workers) -> Iterator[Lease | None]:
    """Processes that want the same folder take turns, on one machine and between those that share a file system.

    Yields the lease, to the first worker of a group. The last guard only: who hands folds out
    (`orchestrator.store.leases`) does not let anybody wait here for long.
    """
    if not workers.is_first:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # Some shared file systems have no `flock`: there the lease alone decides.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        lease = Lease(FoldFolder(folder).worker, this_process())
        lease.take_when_free()
        try:
            yield lease
        finally:
            lease.release()


def still_held(lease: Lease | None) -> StillHeld:
    """Raises `LeaseLostError` where the lease is no longer this process's, or that was seen so many seconds ago."""
    return nothing_held if lease is None else lambda every_s: lease.check(every_s=every_s)


def while_held(lease: Lease | None, report: Report) -> Report:
    """A report that raises `LeaseLostError` once somebody else has the folder: a journal has one writer at a time."""

    def reported(metrics: dict[str, Any]) -> None:
        if lease is not None:
            lease.check()
        report(metrics)

    return reported
