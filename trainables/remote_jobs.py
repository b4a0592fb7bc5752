"""A job on a node that shares no disk with the others: in its own mirror, with what it made sent before it is over.

Before the work, the fold and the Align stage that it may share are made here what they are in the storage, and the
teacher's answers and the ledger are fetched. During the work, what has changed is sent every few seconds, so that
another node can go on from the last checkpoint. A result is sent last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from search_spaces.methods import method_facts
from trainables.align import only_one_at_a_time
from trainables.fitting.workers import Workers
from trainables.fold_setup import Gather, nothing_to_gather
from trainables.jobs import FoldJob
from trainables.storage.background_threads import beside
from trainables.storage.json_files import read_json
from trainables.storage.mirror import JOURNAL, Mirror, mirror_folder, open_mirror
from trainables.teacher.ledger import SEPARATOR

Report = Callable[[dict[str, Any]], None]

SEND_S = 3.0
"""Between two looks for what has changed; longer where sending itself takes longer."""


@contextmanager
def on_this_node(
    job: FoldJob, report: Report, *, is_first: bool = True, together: Callable[[], object] = lambda: None
) -> Iterator[tuple[FoldJob, Report, Gather]]:
    """The job, its report and what gathers its ledgers as this node has them; no change for a job without an address.

    Args:
        is_first: of the workers that share the fold, the one that writes: it alone sends the fold.
        together: returns once every one of them has called it.

    Raises:
        OSError: the storage does not answer, or does not take the result.
    """
    if not job.mirrors:
        yield job, report, nothing_to_gather
        return
    here = _rerooted(job)
    folders = [here.folder]
    if method_facts(job.spec.method).aligns:
        folders.append(here.align_folder)
    # A fold that is run again may have been given a folder of its own, which no mirror holds.
    places = [place for folder in folders if (place := _place(here, folder)) is not None]
    for mirror, name in places:
        # A process of this machine that was forgotten by its sweep may still run here.
        with only_one_at_a_time(mirror.folder / name, Workers(rank=0 if is_first else 1)):
            mirror.resume(name)
    # No worker reads what another one still makes equal to the storage.
    together()
    answers = _Answers(here, scope=job.spec.key)
    answers.fetch()

    def send() -> None:
        answers.send()
        if is_first:
            # The Align stage first: the fold's journal is made of it.
            for mirror, name in reversed(places):
                mirror.push(name)

    def tell(metrics: dict[str, Any]) -> None:
        if is_first and metrics.get("final"):
            send()
        elif is_first:
            # Who decides by what is reported looks into the journal; the sending in the background comes too late.
            with suppress(OSError):
                for mirror, name in places:
                    mirror.push_files([f"{name}/{JOURNAL}"])
        report(metrics)

    def gather() -> None:
        answers.send()
        together()
        if is_first:
            answers.fetch_ledger()

    with _sent_meanwhile(send):
        yield here, tell, gather


@contextmanager
def answers_on_this_node(job: FoldJob, *, scope: str) -> Iterator[FoldJob]:
    """The job as this node has it, for who only asks the teacher; what was answered is sent.

    Args:
        scope: what the ledger files the queries under.
    """
    if not job.mirrors:
        yield job
        return
    here = _rerooted(job)
    answers = _Answers(here, scope=scope)
    answers.fetch()
    with _sent_meanwhile(answers.send):
        yield here


class _Answers:
    """The teacher's stored answers that a job may need, and the ledger of what it asks."""

    def __init__(self, job: FoldJob, *, scope: str) -> None:
        """Look at what the job needs.

        Args:
            job: as this node has it.
            scope: whose queries are filed here.
        """
        self._job, self._scope = job, scope
        facts = method_facts(job.spec.method)
        self._asks = facts.asks
        self._stores = self._asks and job.spec.hyperparameters.teacher_mode != "live"
        place = _place(job, job.queries_folder)
        assert place is not None, "a job with an address has its store there"
        self._mirror, self._queries = place
        self._embeddings = self._mirror.name_of(Path(job.embeddings_folder))
        self._there: set[str] = set()

    def fetch(self) -> None:
        """Fetch what others were answered, and the ledger."""
        self.fetch_ledger()
        if self._stores:
            self._mirror.pull(self._embeddings, wanted=lambda name: name.endswith("/store.json"))
            for name in self._wanted():
                self._mirror.pull(name)
            self._there = set(self._shards())

    def fetch_ledger(self) -> None:
        """Fetch what this job has asked so far, on whatever node; everything where a budget is kept."""
        if self._asks:
            begin = f"{self._queries}/" if self._job.query_budget is not None else self._own
            self._mirror.pull(self._queries, wanted=lambda name: name.startswith(begin))

    def send(self) -> None:
        """Send what was answered and asked here."""
        if self._stores:
            new = [name for name in self._shards() if name not in self._there]
            self._mirror.push_files(new)
            self._there.update(new)
        if self._asks:
            folder = self._mirror.folder / self._queries
            files = folder.glob(f"{self._own.rpartition('/')[2]}*.jsonl")
            self._mirror.push_files(self._mirror.name_of(file) for file in files)

    @property
    def _own(self) -> str:
        return f"{self._queries}/{self._scope}{SEPARATOR}"

    def _wanted(self) -> Iterator[str]:
        """Stores of the job's images: the teacher's answers, and the features of its student."""
        spec = self._job.spec
        for file in sorted((self._mirror.folder / self._embeddings).glob("*/store.json")):
            key = read_json(file) or {}
            of = str(key.get("teacher_fingerprint", ""))
            ours = of == spec.teacher_fingerprint or (spec.student_fingerprint and spec.student_fingerprint in of)
            if key.get("manifest") == spec.data_manifest and ours:
                yield self._mirror.name_of(file.parent)

    def _shards(self) -> list[str]:
        files = (self._mirror.folder / self._embeddings).glob("*/[!.]*")
        return [self._mirror.name_of(file) for file in files if not file.name.endswith(".part")]


@contextmanager
def _sent_meanwhile(send: Callable[[], None]) -> Iterator[None]:
    """Send every few seconds and at the end; only after an error a storage that does not answer is passed over."""

    def follow(ended: threading.Event) -> None:
        pause = SEND_S
        while not ended.wait(pause):
            began = time.monotonic()
            # The end sends all that is left, and says what is wrong.
            with suppress(OSError):
                send()
            pause = max(SEND_S, time.monotonic() - began)

    try:
        with beside("sending", follow):
            yield
    except BaseException:
        with suppress(OSError):
            send()
        raise
    send()


def _rerooted(job: FoldJob) -> FoldJob:
    """The job with this node's folders; what is mirrored nowhere lies in the store's mirror."""
    here = {root: str(_mirror(address, str(mirror_folder(address))).folder) for root, address in job.mirrors.items()}

    def moved(path: str | None) -> str | None:
        for root, folder in here.items():
            if path is not None and Path(path).is_relative_to(root):
                return str(Path(folder) / Path(path).relative_to(root))
        return path

    folder, store = moved(job.folder), moved(job.store_folder)
    align_folder, cache = moved(job.align_folder), moved(job.cache_folder)
    assert folder is not None
    assert align_folder is not None
    return replace(job, folder=folder, align_folder=align_folder, store_folder=store, cache_folder=cache)


def _place(job: FoldJob, path: str) -> tuple[Mirror, str] | None:
    """The mirror that a folder of a job lies in, and its name there; None where no mirror holds it."""
    for address in job.mirrors.values():
        folder = mirror_folder(address)
        if Path(path).is_relative_to(folder):
            mirror = _mirror(address, str(folder))
            return mirror, mirror.name_of(Path(path))
    return None


@lru_cache(maxsize=4)
def _mirror(address: str, folder: str) -> Mirror:
    """Kept between the folds of a reused actor."""
    return open_mirror(address)
