"""What was answered of a shard that is not whole yet, beside it on disk, so that nobody pays for it again.

    SHARD.rows.part    one record per answered batch, appended under the shard's lease; removed once the shard is there

    record: SHA-256 of what follows [32 bytes] | N, D (uint32) | N image ids (int64) | N * D numbers (float32)

All little-endian. A record that a crash tore ends what is read. Nothing is flushed to disk: a spool outlives its
process, and of a machine that crashes what its disk kept.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainables.teacher.stored.shards import Rows

SUFFIX = ".rows.part"
_DIGEST_BYTES = 32
_SIZES = struct.Struct("<II")

ImageIds = npt.NDArray[np.int64]


class Spool:
    """The answered rows of the shard at a path. Who appends holds the shard's lease; anybody may read."""

    def __init__(self, shard_path: str) -> None:
        self.path = Path(f"{shard_path}{SUFFIX}")

    def rows(self) -> dict[int, Rows]:
        """Every whole record's rows [D] by image id; none where there is no spool."""
        found: dict[int, Rows] = {}
        for _, ids, rows in self._records():
            found.update(zip(ids.tolist(), rows, strict=True))
        return found

    def resume(self) -> dict[int, Rows]:
        """The rows so far; a torn end is cut off, so that more can be appended."""
        found = self.rows()
        end = max((end for end, *_ in self._records()), default=0)
        with suppress(FileNotFoundError):
            os.truncate(self.path, end)
        return found

    def append(self, image_ids: ImageIds, embeddings: Rows) -> None:
        """Add the answers [N, D] of N images."""
        content = _SIZES.pack(*embeddings.shape)
        content += np.ascontiguousarray(image_ids, dtype="<i8").tobytes()
        content += np.ascontiguousarray(embeddings, dtype="<f4").tobytes()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(hashlib.sha256(content).digest() + content)

    def remove(self) -> None:
        """Nobody needs it any more."""
        self.path.unlink(missing_ok=True)

    def _records(self) -> Iterator[tuple[int, ImageIds, Rows]]:
        """Where each whole record ends, its image ids and its rows; all are as wide as the first."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return
        begin, first_width = 0, None
        while begin + _DIGEST_BYTES + _SIZES.size <= len(data):
            sizes = begin + _DIGEST_BYTES
            count, width = _SIZES.unpack_from(data, sizes)
            ids = sizes + _SIZES.size
            rows = ids + 8 * count
            end = rows + 4 * count * width
            whole = end <= len(data) and hashlib.sha256(data[sizes:end]).digest() == data[begin:sizes]
            if not whole or first_width not in (None, width):
                return
            numbers = np.frombuffer(data, dtype="<f4", count=count * width, offset=rows)
            yield end, np.frombuffer(data, dtype="<i8", count=count, offset=ids), numbers.reshape(count, width)
            begin, first_width = end, width


def remove_left_over_spools(folder: str) -> None:
    """Remove the spools of shards that are there: who wrote them was killed before it could."""
    for path in Path(folder).glob(f"*{SUFFIX}"):
        if os.path.exists(str(path).removesuffix(SUFFIX)):
            path.unlink(missing_ok=True)


def remove_half_written(shard_path: str) -> None:
    """Remove what killed writers of a shard left beside it; who calls holds its lease."""
    place = Path(shard_path)
    for path in place.parent.glob(f"{place.name}.*.part"):
        if not path.name.endswith(SUFFIX):
            path.unlink(missing_ok=True)
