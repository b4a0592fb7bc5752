"""The embedding store: the teacher's answers on disk, each (image, view) asked once and shared by all who need it.

    ROOT/KEY/store.json                what the key stands for
    ROOT/KEY/d0-v000-b00000.arrow      rows of one domain, view and block of images: Arrow IPC, memory-mapped
    ROOT/KEY/*.rows.part               what was answered of a shard that is not whole yet
    ROOT/KEY/texts-SHA256.arrow        the text embeddings of one list of prompts
    ROOT/KEY/.leases/                  `flock`ed while somebody fills a shard; the lock dies with its holder

KEY is the SHA-256 of the data manifest, the teacher's fingerprint, the view's definition and its seed. A file appears
whole or not at all. The number of views is not in the key: `views:8` adds to what `views:1` asked. Only images that
may serve as source are asked about. ROOT may be an address that pyarrow reads (s3://...); filling needs a local or
shared disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from search_spaces.errors import first_line
from search_spaces.hyperparameters import check_teacher_mode, content_key
from trainables.data.formats.images import ImageSource
from trainables.data.loading.batches import image_id_offsets
from trainables.storage.atomic_files import remove_path
from trainables.storage.json_files import write_json
from trainables.teacher.names import SHARD_ROWS
from trainables.teacher.protocol import Teacher
from trainables.teacher.stored.shards import DamagedShardError, read_shard, write_shard
from trainables.teacher.stored.spool import remove_half_written

VIEW_DEFINITION = 1
"""Raised whenever `trainables.data.loading.views` or the seeds of stored views make other pixels."""

Rows = npt.NDArray[np.float32]


class MissingEmbeddingsError(LookupError):
    """A row that nobody has asked the teacher for yet, or that the store never holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreKey:
    """What makes two stores the same."""

    manifest: str
    """SHA-256 of the benchmark's manifest."""
    teacher_fingerprint: str
    view: Literal["views", "clean"]
    """The train view drawn with the image's own seeds, or the evaluation view (a single one)."""
    image_size: int
    seed: int = 0
    """Of the stored views; `trainables.data.loading.view_seeds.stored_view_seed` knows one family so far, 0."""
    definition: int = VIEW_DEFINITION

    @property
    def key(self) -> str:
        """SHA-256 of all fields."""
        return content_key(asdict(self))


def store_key(mode: str, *, manifest: str, teacher_fingerprint: str, image_size: int) -> tuple[StoreKey, int]:
    """Key and number of views for a teacher mode that stores: `clean` or `views:K`."""
    num_views = check_teacher_mode(mode)
    if num_views == 0:
        raise ValueError(f"teacher mode {mode} stores nothing")
    view: Literal["views", "clean"] = "clean" if mode == "clean" else "views"
    key = StoreKey(manifest=manifest, teacher_fingerprint=teacher_fingerprint, view=view, image_size=image_size)
    return key, num_views


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """The rows of one file: images `SHARD_ROWS * block` and on of a domain's source pool, all in one view."""

    domain: int
    view: int
    block: int

    @property
    def filename(self) -> str:
        return f"d{self.domain}-v{self.view:03}-b{self.block:05}.arrow"


class EmbeddingStore:
    """The rows of one key. Reading needs no lock; `trainables.teacher.stored.filling.fill` writes."""

    def __init__(self, root: str | Path, key: StoreKey, source: ImageSource) -> None:
        if source.manifest != key.manifest:
            raise ValueError("the store's key names other data than the source")
        self.key, self.source = key, source
        self.folder = f"{str(root).rstrip('/')}/{key.key}"
        self.pools = [source.pool(name, "source") for name in source.domain_names]
        offsets = image_id_offsets(source)
        self.offsets = [offsets[name] for name in source.domain_names]
        num_images = sum(len(source.labels(name)) for name in source.domain_names)
        self._domain_of = np.full(num_images, -1, dtype=np.int64)
        self._place_of = np.full(num_images, -1, dtype=np.int64)
        for domain, (offset, pool) in enumerate(zip(self.offsets, self.pools, strict=True)):
            self._domain_of[offset + pool] = domain
            self._place_of[offset + pool] = np.arange(len(pool))
        self._opened: dict[Shard, Rows] = {}
        self.discarded: list[str] = []
        """One line for each damaged file that was removed, to be asked for again."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.folder

    def shards(self, num_views: int, domains: Sequence[str] | None = None) -> list[Shard]:
        """All shards of the first `num_views` views of some domains (all by default)."""
        names = self.source.domain_names
        wanted = range(len(names)) if domains is None else [names.index(name) for name in domains]
        return [
            Shard(domain, view, block)
            for view in range(num_views)
            for domain in wanted
            for block in range(-(-len(self.pools[domain]) // SHARD_ROWS))
        ]

    def image_indices(self, shard: Shard) -> npt.NDArray[np.int64]:
        """Indices into the domain of a shard's images, in row order."""
        return self.pools[shard.domain][shard.block * SHARD_ROWS : (shard.block + 1) * SHARD_ROWS]

    def image_ids(self, shard: Shard) -> npt.NDArray[np.int64]:
        """Image ids of a shard's rows."""
        return self.offsets[shard.domain] + self.image_indices(shard)

    def path(self, shard: Shard) -> str:
        """Where the shard's file is, or will be."""
        return f"{self.folder}/{shard.filename}"

    def missing(self, num_views: int, domains: Sequence[str] | None = None) -> list[Shard]:
        """Shards that are not filled; the store is local."""
        present = set(os.listdir(self.folder)) if os.path.isdir(self.folder) else set()
        return [shard for shard in self.shards(num_views, domains) if shard.filename not in present]

    def discard_damaged(self, num_views: int, domains: Sequence[str] | None = None) -> None:
        """Remove shards that are not what was written there; each version of a file is read once in a process."""
        missing = set(self.missing(num_views, domains))
        for shard in self.shards(num_views, domains):
            flaw = "" if shard in missing else self._flaw(self.path(shard), view=shard.view, ids=self.image_ids(shard))
            if flaw:
                self._discard(self.path(shard), flaw)
                self._opened.pop(shard, None)

    def _flaw(self, path: str, *, view: int, ids: npt.NDArray[np.int64] | None) -> str:
        """What is wrong with a file; empty where it is whole, or gone."""
        try:
            about = _whole_shard(path, *_version(path))
        except FileNotFoundError:
            return ""
        except (DamagedShardError, OSError) as error:
            return first_line(error)
        if about[:2] != (self.key.key, view) or (ids is not None and about[2] != ids.tobytes()):
            return f"{path} belongs to another store or place"
        return ""

    def _discard(self, path: str, flaw: str) -> None:
        with self.lease(os.path.basename(path), wait=True):
            remove_path(Path(path))
        self.discarded.append(f"{flaw.partition(';')[0]}; its rows are asked again")

    def lookup(self, image_ids: Tensor, views: Tensor) -> Tensor:
        """The teacher's embeddings [N, D], float32, of image ids [N] in views [N].

        `clean` has a single view, whatever a batch says of its own.

        Raises:
            MissingEmbeddingsError: a row is not there (yet), or its image may not serve as source.
        """
        ids = image_ids.cpu().numpy()
        view = np.zeros_like(ids) if self.key.view == "clean" else views.cpu().numpy()
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self._domain_of)):
            raise MissingEmbeddingsError(f"there is no image {int(ids.max())}")
        domain, place = self._domain_of[ids], self._place_of[ids]
        if (domain < 0).any():
            raise MissingEmbeddingsError(f"image {int(ids[domain < 0][0])} may not serve as source")
        block, row = np.divmod(place, SHARD_ROWS)
        groups, member = np.unique(np.stack([domain, view, block], axis=1), axis=0, return_inverse=True)
        parts = [self.rows(Shard(*map(int, group))) for group in groups]
        width = parts[0].shape[1] if parts else 0
        found = np.empty((len(ids), width), dtype=np.float32)
        for number, part in enumerate(parts):
            mine = member.reshape(-1) == number
            found[mine] = part[row[mine]]
        return torch.from_numpy(found)

    def rows(self, shard: Shard) -> Rows:
        """A shard's embeddings [rows, D], memory-mapped where the store is local."""
        if shard not in self._opened:
            try:
                content = read_shard(self.path(shard))
            except FileNotFoundError:
                name = self.source.domain_names[shard.domain]
                raise MissingEmbeddingsError(
                    f"view {shard.view} of {name} is not stored yet: {self.path(shard)}"
                ) from None
            self._opened[shard] = content.embeddings
        return self._opened[shard]

    def write(self, shard: Shard, embeddings: Rows) -> None:
        """Write a whole shard."""
        ids = self.image_ids(shard)
        self.describe()
        write_shard(self.path(shard), embeddings=embeddings, image_ids=ids, view=shard.view, key=self.key.key)

    def describe(self) -> None:
        """Write what the key stands for, once."""
        path = Path(self.folder) / "store.json"
        if not path.exists():
            write_json(path, asdict(self.key) | {"key": self.key.key, "shard_rows": SHARD_ROWS})

    def texts_path(self, prompts: Sequence[str]) -> str:
        """Where the embeddings of a list of prompts are, or will be."""
        return (
            f"{self.folder}/texts-{hashlib.sha256(content_key({'prompts': list(prompts)}).encode()).hexdigest()}.arrow"
        )

    def texts_paths(self) -> list[str]:
        """Every file of text embeddings that is there; the store is local."""
        return [str(path) for path in sorted(Path(self.folder).glob("texts-*.arrow"))]

    def texts(self, teacher: Teacher, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [len(prompts), D] of a list of prompts: asked once, by one of all who come at once.

        A file that does not agree with its checksum is removed first, and asked for again.
        """
        path = self.texts_path(prompts)
        name = os.path.basename(path)
        flaw = self._flaw(path, view=0, ids=np.arange(len(prompts), dtype=np.int64))
        if flaw:
            self._discard(path, flaw)
        try:
            return torch.from_numpy(read_shard(path, verify=True).embeddings.copy())
        except FileNotFoundError:
            pass
        with self.lease(name, wait=True):
            if not os.path.exists(path):
                remove_half_written(path)
                self.describe()
                embeddings: Rows = teacher.embed_texts(prompts).cpu().numpy()
                numbers = np.arange(len(prompts), dtype=np.int64)
                write_shard(path, embeddings=embeddings, image_ids=numbers, view=0, key=self.key.key)
        return torch.from_numpy(read_shard(path, verify=True).embeddings.copy())

    @contextmanager
    def lease(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a file's lease; False where somebody living holds it and `wait` is not set."""
        lease = self.try_lease(name, wait=wait)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.release()

    def try_lease(self, name: str, *, wait: bool = False) -> FillLease | None:
        """Take a file's lease, or None where somebody living holds it."""
        return FillLease.take(Path(self.folder) / ".leases" / name, wait=wait)


def _version(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=65536)
def _whole_shard(path: str, size: int, changed: int) -> tuple[str, int, bytes]:
    """Key, view and image ids of a file that agrees with its checksum; else raises `DamagedShardError`."""
    content = read_shard(path, verify=True)
    return content.key, content.view, content.image_ids.astype(np.int64).tobytes()


class FillLease:
    """An `flock` on a file: the kernel gives it back when its holder dies, kill -9 included."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, path: Path, *, wait: bool) -> FillLease | None:
        """Take the lease; None where it is held and `wait` is not set."""
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                # A file that its last holder removed meanwhile protects nothing.
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor)
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                os.close(descriptor)

    def release(self) -> None:
        """Give it back and remove the file."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
