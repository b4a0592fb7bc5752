"""Filling and counting an embedding store. Any number of processes may fill one store at once."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.data.formats.images import ImageSource
from trainables.data.loading.colour_jitter import Pixels
from trainables.data.loading.view_seeds import stored_view_seed
from trainables.data.loading.views import EvalView, TrainView, normalise
from trainables.storage.background_threads import in_thread
from trainables.teacher.names import batch_multiple
from trainables.teacher.protocol import prompts
from trainables.teacher.stored.spool import ImageIds, Spool, remove_half_written, remove_left_over_spools
from trainables.teacher.stored.store import EmbeddingStore, FillLease, Rows, Shard, store_key

BATCH_SIZE = 64
WAIT_S = 0.2
LAST_ANSWERS_S = 5.0
"""Ctrl-C waits so long for answers that are on their way."""


class ImageTeacher(Protocol):
    """The part of a metered teacher that filling uses."""

    @property
    def name(self) -> str:
        """What was opened."""

    def embed_images(self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()) -> Tensor:
        """L2-normalised embeddings [N, D]."""

    def image_query(
        self, images_N3HW: Tensor, *, image_ids: Sequence[int] = (), views: Sequence[int] = ()
    ) -> Callable[[], Tensor]:
        """Reserve N queries now; what is returned asks them, from any thread.

        Raises:
            BudgetReached: N more would cross the budget.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStatus:
    """How far a store is filled."""

    rows: int
    """Rows that are answered: of the shards that are there, and of those that somebody began."""
    rows_wanted: int
    shards: int
    shards_wanted: int
    bytes: int
    """On disk, of the wanted shards."""

    @property
    def is_complete(self) -> bool:
        return self.shards == self.shards_wanted


@dataclass(slots=True)
class _Open:
    """A shard that this process fills: its lease, and what was answered so far."""

    lease: FillLease
    spool: Spool
    answered: dict[int, Rows]
    """Embeddings [D] by image id."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that a teacher is being asked for."""

    chosen: Sequence[tuple[Shard, int]]
    answer: Future[Tensor]


def fill(
    store: EmbeddingStore,
    teacher: ImageTeacher,
    *,
    num_views: int,
    domains: Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    at_once: int = 1,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Ask the teacher for every row that is missing, sharing the work with whoever else fills; returns rows asked here.

    Returns once all wanted shards are there, whoever filled them.

    Args:
        at_once: batches that are asked at the same time, of the same rows whatever it is; 1 asks in this thread.
        progress: told of rows as they are answered.

    Raises:
        BudgetReached: the meter's budget ends; every answer stays.
    """
    remove_left_over_spools(store.folder)
    store.discard_damaged(num_views, domains)
    filler = _Filler(store, teacher, batch_size, at_once, progress)
    try:
        while missing := store.missing(num_views, domains):
            # Fillers that start together start at different places.
            start = os.getpid() % len(missing)
            claimed = [filler.claim(shard) for shard in missing[start:] + missing[:start]]
            filler.flush()
            if not any(claimed):
                time.sleep(WAIT_S)
    except BaseException as error:
        # What is being asked is paid; but Ctrl-C does not wait for a server that does not answer.
        filler.keep_last_answers(timeout_s=None if isinstance(error, Exception) else LAST_ANSWERS_S)
        raise
    finally:
        filler.abandon()
    return filler.asked


class _Filler:
    """Rows waiting to be asked, across shards, so that only the last batch is a short one."""

    def __init__(
        self,
        store: EmbeddingStore,
        teacher: ImageTeacher,
        batch_size: int,
        at_once: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.store, self.teacher, self.at_once, self.progress = store, teacher, at_once, progress
        self.multiple = batch_multiple(teacher.name)
        self.batch_size = max(self.multiple, batch_size // self.multiple * self.multiple)
        self.asked = 0
        self._waiting: deque[tuple[Shard, int]] = deque()
        self._in_flight: list[_Batch] = []
        self._open: dict[Shard, _Open] = {}

    def claim(self, shard: Shard) -> bool:
        """Take a missing shard's lease and ask for the rows that nobody was answered, save what makes no whole batch
        yet."""
        lease = self.store.try_lease(shard.filename)
        if lease is None:
            return False
        if os.path.exists(self.store.path(shard)):
            lease.release()
            return True
        remove_half_written(self.store.path(shard))
        spool = Spool(self.store.path(shard))
        opened = self._open[shard] = _Open(lease, spool, spool.resume())
        ids = self.store.image_ids(shard).tolist()
        self._waiting.extend((shard, row) for row, image_id in enumerate(ids) if image_id not in opened.answered)
        self._write_if_whole(shard)
        while len(self._waiting) >= self.batch_size:
            self._ask(self.batch_size)
        return True

    def flush(self) -> None:
        """Ask for all that waits: nobody shall wait for a shard that we hold and do not finish."""
        while self._waiting:
            whole = len(self._waiting) // self.multiple * self.multiple
            self._ask(min(self.batch_size, whole or len(self._waiting)))
        while self._in_flight:
            self._keep_answers()

    def keep_last_answers(self, *, timeout_s: float | None) -> None:
        """After an error: keep what is still answered within a time."""
        wait([batch.answer for batch in self._in_flight], timeout=timeout_s)
        while any(batch.answer.done() for batch in self._in_flight):
            with suppress(Exception):
                self._keep_answers()

    def abandon(self) -> None:
        """Give back what is not finished (after an error); its answers stay in spools."""
        for opened in self._open.values():
            opened.lease.release()
        self._open.clear()

    def _ask(self, count: int) -> None:
        chosen = [self._waiting.popleft() for _ in range(count)]
        padded = chosen + chosen[-1:] * (-count % self.multiple)
        images_N3HW = normalise(
            torch.from_numpy(np.stack([stored_pixels(self.store, shard, row) for shard, row in padded]))
        )
        while len(self._in_flight) >= self.at_once:
            self._keep_answers()
        query = self.teacher.image_query(
            images_N3HW,
            image_ids=[int(self.store.image_ids(shard)[row]) for shard, row in padded],
            views=[shard.view for shard, _ in padded],
        )
        if self.at_once == 1:
            self._keep_batch(chosen, query())
        else:
            self._in_flight.append(_Batch(chosen, in_thread("asking the teacher", query)))

    def _keep_answers(self) -> None:
        """Wait for an answer and keep all that are there; raises the error of a batch that failed."""
        wait([batch.answer for batch in self._in_flight], return_when=FIRST_COMPLETED)
        for batch in [batch for batch in self._in_flight if batch.answer.done()]:
            self._in_flight.remove(batch)
            self._keep_batch(batch.chosen, batch.answer.result())

    def _keep_batch(self, chosen: Sequence[tuple[Shard, int]], answers: Tensor) -> None:
        embeddings: Rows = answers.cpu().numpy()
        self.asked += len(chosen)
        for shard in dict.fromkeys(shard for shard, _ in chosen):
            places = [place for place, (other, _) in enumerate(chosen) if other == shard]
            ids = self.store.image_ids(shard)[[chosen[place][1] for place in places]]
            self._keep(shard, ids, embeddings[places])
        if self.progress is not None:
            self.progress(len(chosen))

    def _keep(self, shard: Shard, image_ids: ImageIds, embeddings: Rows) -> None:
        opened = self._open[shard]
        opened.spool.append(image_ids, embeddings)
        opened.answered.update(zip(image_ids.tolist(), embeddings, strict=True))
        self._write_if_whole(shard)

    def _write_if_whole(self, shard: Shard) -> None:
        opened, ids = self._open[shard], self.store.image_ids(shard).tolist()
        if all(image_id in opened.answered for image_id in ids):
            self.store.write(shard, np.stack([opened.answered[image_id] for image_id in ids]))
            opened.spool.remove()
            self._open.pop(shard).lease.release()


def stored_pixels(store: EmbeddingStore, shard: Shard, row: int) -> Pixels:
    """What the teacher sees of a row, uint8 [S, S, 3]: the very pixels that the student trains on in `views:K`."""
    domain = store.source.domain_names[shard.domain]
    index = int(store.image_indices(shard)[row])
    image = store.source.read(domain, index)
    if store.key.view == "clean":
        return EvalView(store.key.image_size).pixels(image)
    seed = stored_view_seed(store.source.paths(domain)[index], shard.view)
    return TrainView(store.key.image_size).pixels(image, seed)


def status(store: EmbeddingStore, *, num_views: int, domains: Sequence[str] | None = None) -> StoreStatus:
    """How far the first `num_views` views of some domains (all by default) are filled."""
    wanted, missing = store.shards(num_views, domains), store.missing(num_views, domains)
    absent = set(missing)
    present = [shard for shard in wanted if shard not in absent]
    return StoreStatus(
        rows=sum(len(store.image_indices(shard)) for shard in present) + sum(_begun(store, shard) for shard in missing),
        rows_wanted=sum(len(store.image_indices(shard)) for shard in wanted),
        shards=len(present),
        shards_wanted=len(wanted),
        bytes=sum(Path(store.path(shard)).stat().st_size for shard in present),
    )


def _begun(store: EmbeddingStore, shard: Shard) -> int:
    """Rows of a missing shard that were answered."""
    return len(Spool(store.path(shard)).rows())


def missing_queries(
    root: str,
    source: ImageSource,
    *,
    mode: str,
    teacher: str,
    teacher_fingerprint: str,
    image_size: int,
    domains: Sequence[str],
) -> dict[str, tuple[int, int]]:
    """Image and text queries that filling a store still asks at most, by file; the texts are those of the classes."""
    key, num_views = store_key(
        mode, manifest=source.manifest, teacher_fingerprint=teacher_fingerprint, image_size=image_size
    )
    store = EmbeddingStore(root, key, source)
    padding = batch_multiple(teacher) - 1
    wanted = {
        store.path(shard): (len(store.image_indices(shard)) - _begun(store, shard) + padding, 0)
        for shard in store.missing(num_views, domains)
    }
    texts = store.texts_path(prompts(source.class_names))
    return wanted if os.path.exists(texts) else wanted | {texts: (0, len(source.class_names))}
