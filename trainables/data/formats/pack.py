"""A pack: a benchmark in a few Arrow files, memory-mapped, decoded lazily, in ImageFolder's order.

    FOLDER.pack/pack.json           what it is, and size and SHA-256 of the other files; written last
    FOLDER.pack/index.arrow         a row for each image: path, label, pool, size, sha256, width, height, shard, offset
    FOLDER.pack/shard-00000.arrow   one column `image` of bytes: the file as stored, or raw RGB rows

A pack of files as stored (`encoding="stored"`) or of raw pixels (`"pixels"`) gives the batches of the folder, bit for
bit, and has its manifest. One whose images were re-encoded to a maximum side is other data, and has a manifest of its
own. Packs appear whole or not at all (`pack_place.py`). Reading is in `packed.py`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from search_spaces.errors import UserError
from trainables.data.formats.folder import FolderSource
from trainables.data.formats.images import ImageSource, decode
from trainables.data.formats.manifest import ManifestRow, is_utf8, manifest_hash, shown
from trainables.data.formats.pack_files import DESCRIPTION, INDEX, PACK_FORMAT, POOLS, index_schema, shard_name
from trainables.data.formats.pack_place import alone_at, move_into_place, recover
from trainables.data.formats.pack_reading import PackFiles
from trainables.data.formats.parquet import ParquetSource
from trainables.storage.json_files import write_json

PACK_SUFFIX = ".pack"

Encoding = Literal["stored", "pixels"]
Progress = Callable[[int, int], None]
"""Called with images done and images in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackSettings:
    """How a pack is written."""

    encoding: Encoding = "stored"
    """`stored`: the files' own bytes. `pixels`: decoded RGB, larger, for reading without decoding."""
    max_side: int | None = None
    """Images with a longer side are scaled down to it (Lanczos) and, when `stored`, saved again as JPEG."""
    jpeg_quality: int = 95
    """Quality of images that were scaled down."""

    def __post_init__(self) -> None:
        if self.encoding not in ("stored", "pixels"):
            raise UserError(f"a pack's encoding is stored or pixels, got {self.encoding!r}")
        if self.max_side is not None and self.max_side < 8:
            raise UserError(f"max_side is 8 pixels or more, got {self.max_side}")


@dataclass(frozen=True, slots=True)
class _PackedImage:
    row: ManifestRow
    label: int
    data: bytes
    width: int
    height: int
    is_changed: bool


def write_pack(
    source: ImageSource,
    destination: Path,
    *,
    settings: PackSettings | None = None,
    shard_mb: int = 256,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write a folder or Parquet source as the pack `destination` (its name ends in `.pack`).

    A pack of the same data and settings is left as it is, unless a file of it is missing or cut short; with `overwrite`
    every byte of it is compared first. Raises `UserError` for unreadable images, names that are not UTF-8, an existing
    other pack (unless `overwrite`), another process that writes there, a full disk and a place that cannot be written.
    """
    settings = settings or PackSettings()
    if not isinstance(source, FolderSource | ParquetSource):
        raise UserError(f"only a folder or a Parquet file can be packed, not a {type(source).__name__}")
    _check_place(destination, settings)
    rows = source.manifest_rows
    _check_names(source.benchmark, rows)
    wanted = {**asdict(settings), "packed_from": manifest_hash(rows), "format": PACK_FORMAT}
    recover(destination)
    if _is_there(destination, wanted, overwrite):
        return destination
    try:
        with alone_at(destination) as aside:
            # Another process may have written it meanwhile.
            if not _is_there(destination, wanted, overwrite):
                aside.mkdir()
                _write(source, rows, aside, settings, shard_mb * 2**20, wanted, progress)
                move_into_place(aside, destination)
    except OSError as error:
        raise UserError(f"cannot write the pack {destination}: {error.strerror or error}") from None
    return destination


def _check_place(destination: Path, settings: PackSettings) -> None:
    if destination.suffix != PACK_SUFFIX:
        raise UserError(f"a pack's name ends in {PACK_SUFFIX}, got {destination.name}")
    if settings.max_side is not None and destination.with_suffix("").exists():
        raise UserError(
            f"a pack of re-encoded images does not go beside {destination.with_suffix('')}, for which it would be "
            "taken; write it below another data root"
        )


def _check_names(benchmark: str, rows: list[ManifestRow]) -> None:
    wrong = [row.path for row in rows if not is_utf8(row.path)]
    if wrong:
        raise UserError(f"{benchmark} has {len(wrong)} names that are not UTF-8, as {shown(wrong[0])}; rename them")


def _is_there(destination: Path, wanted: dict[str, Any], overwrite: bool) -> bool:
    """Whether the wanted pack is there with all its files (with `overwrite`: as they were written).

    Raises `UserError` for another pack that is not to be replaced.
    """
    if not destination.exists():
        return False
    files = PackFiles(str(destination), None)
    present = files.description()
    if all(present.get(name) == value for name, value in wanted.items()):
        return not (_is_malformed(files) or (overwrite and files.changed(present)))
    if not overwrite:
        raise UserError(
            f"{destination} is a pack of other data or settings, or of another format; overwrite it or name another "
            "place"
        )
    return False


def _is_malformed(files: PackFiles) -> bool:
    """Whether a pack cannot be opened."""
    try:
        return bool(files.problem())
    except UserError:
        return True


def _write(
    source: FolderSource | ParquetSource,
    rows: list[ManifestRow],
    folder: Path,
    settings: PackSettings,
    shard_bytes: int,
    wanted: dict[str, Any],
    progress: Progress | None,
) -> None:
    writer = _ShardWriter(folder, shard_bytes)
    written: list[ManifestRow] = []
    is_changed = False
    for image in _images(source, rows, settings):
        writer.add(image)
        written.append(image.row)
        is_changed |= image.is_changed
        if progress is not None:
            progress(len(written), len(rows))
    writer.finish()
    description = {
        "benchmark": source.benchmark,
        "domains": {name: len(source.labels(name)) for name in source.domain_names},
        "class_names": list(source.class_names),
        "manifest": manifest_hash(written) if is_changed else wanted["packed_from"],
        "is_reencoded": is_changed,
        "num_shards": writer.num_shards,
        "has_pools": any(row.pool for row in rows),
        "files": {file.name: _facts_of(file) for file in sorted(folder.iterdir())},
        **wanted,
    }
    write_json(folder / DESCRIPTION, description)


class _ShardWriter:
    """Writes images into shards of a bounded size, and the index of where they are."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.num_shards = 0
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._images: list[_PackedImage] = []
        self._size = 0
        self._columns: dict[str, list[Any]] = {name: [] for name in index_schema().names}

    def add(self, image: _PackedImage) -> None:
        if self._images and self._size + len(image.data) > self._shard_bytes:
            self._flush()
        self._images.append(image)
        self._size += len(image.data)

    def finish(self) -> None:
        self._flush()
        _write_index(self._folder / INDEX, self._columns)

    def _flush(self) -> None:
        offsets = _write_shard(self._folder / shard_name(self.num_shards), [image.data for image in self._images])
        for image, offset in zip(self._images, offsets, strict=True):
            _append(self._columns, image, self.num_shards, offset)
        self.num_shards += 1
        self._images, self._size = [], 0


def _images(
    source: FolderSource | ParquetSource, rows: list[ManifestRow], settings: PackSettings
) -> Iterator[_PackedImage]:
    places = ((domain, index) for domain in source.domain_names for index in range(len(source.labels(domain))))
    labels = {name: source.labels(name).tolist() for name in source.domain_names}
    for (domain, index), row in zip(places, rows, strict=True):
        data = source.encoded(domain, index)
        if hashlib.sha256(data).hexdigest() != row.sha256:
            raise UserError(f"{source.benchmark}/{row.path} changed while it was packed; pack again")
        image = decode(data, f"{source.benchmark}/{row.path}")
        is_changed = settings.max_side is not None and max(image.size) > settings.max_side
        if is_changed:
            image.thumbnail((settings.max_side, settings.max_side), Image.Resampling.LANCZOS)  # type: ignore[arg-type]
        if settings.encoding == "pixels":
            data = image.tobytes()
        elif is_changed:
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=settings.jpeg_quality, subsampling=0)
            data = stream.getvalue()
        if is_changed:
            digest = hashlib.sha256(data).hexdigest()
            row = ManifestRow(row.path, len(data), digest, row.class_name, row.domain, row.pool)
        yield _PackedImage(row, labels[domain][index], data, image.width, image.height, is_changed)


def _facts_of(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as it is read back."""
    with file.open("rb") as stream:
        return {"size": os.fstat(stream.fileno()).st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _write_shard(file: Path, images: list[bytes]) -> list[int]:
    """Write one shard; returns where in the file each image's bytes start."""
    import pyarrow as pa

    column = pa.array(images, pa.large_binary())
    batch = pa.record_batch([column], names=["image"])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    _flush_to_disk(file)
    with pa.memory_map(str(file)) as mapped:
        whole = mapped.read_buffer()
        stored = pa.ipc.open_file(mapped).get_batch(0).column(0)
        offsets = np.frombuffer(stored.buffers()[1], np.int64, len(images) + 1)
        start = (stored.buffers()[2].address - whole.address) if stored.buffers()[2] is not None else 0
        return [int(start + offset) for offset in offsets[:-1]]


def _append(columns: dict[str, list[Any]], image: _PackedImage, shard: int, offset: int) -> None:
    values = {
        "path": image.row.path,
        "label": image.label,
        "size": image.row.size,
        "width": image.width,
        "height": image.height,
        "shard": shard,
        "offset": offset,
        "length": len(image.data),
        "pool": POOLS.index(image.row.pool),
        "sha256": image.row.sha256,
    }
    for name, value in values.items():
        columns[name].append(value)


def _write_index(file: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa

    table = pa.table(columns, schema=index_schema())
    batch = table.combine_chunks().to_batches()[0]
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    _flush_to_disk(file)


def _flush_to_disk(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
