"""One file of the embedding store: embeddings, image ids and view in Arrow IPC, with a checksum, written whole."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.errors import UserError

Rows = npt.NDArray[np.float32]


ASKED_AGAIN = "remove the file: `teacher embed`, or the next fold, asks for it again"
"""What to do about a file that holds the wrong thing."""


class DamagedShardError(UserError):
    """A file that is not what its checksum says; the one line names it and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardContent:
    """What a file holds."""

    embeddings: Rows
    """float32 [rows, D]; memory-mapped and read-only."""
    image_ids: npt.NDArray[np.int64]
    view: int
    key: str
    checksum: str


def write_shard(path: str, *, embeddings: Rows, image_ids: npt.NDArray[np.int64], view: int, key: str) -> None:
    """Write aside, flush to disk, rename: the file appears whole or not at all."""
    import pyarrow as pa

    embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    assert embeddings.shape[0] == len(image_ids)
    width = embeddings.shape[1]
    schema = pa.schema(
        [("image_id", pa.int64()), ("view", pa.int32()), ("embedding", pa.list_(pa.float32(), width))],
        metadata={"key": key, "view": str(view), "sha256": checksum(embeddings, image_ids)},
    )
    columns = [
        pa.array(image_ids, pa.int64()),
        pa.array(np.full(len(image_ids), view, dtype=np.int32)),
        pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), width),
    ]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    aside = f"{path}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"
    try:
        with open(aside, "wb") as file:
            with pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(pa.record_batch(columns, schema=schema))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        if os.path.exists(aside):
            os.unlink(aside)


def read_shard(path: str, *, verify: bool = False) -> ShardContent:
    """Read a file, memory-mapped where it is local; `verify` recomputes its checksum.

    Raises:
        FileNotFoundError: there is none.
        DamagedShardError: it is torn, or its checksum does not agree.
    """
    import pyarrow as pa

    try:
        with _opened(path) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        metadata = {name.decode(): value.decode() for name, value in batch.schema.metadata.items()}
        column = batch.column("embedding")
        flat: Rows = column.flatten().to_numpy(zero_copy_only=True)
        content = ShardContent(
            embeddings=flat.reshape(len(column), column.type.list_size),
            image_ids=batch.column("image_id").to_numpy(),
            view=int(metadata["view"]),
            key=metadata["key"],
            checksum=metadata["sha256"],
        )
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise DamagedShardError(f"{path} is damaged ({type(error).__name__}); {ASKED_AGAIN}") from None
    if verify and checksum(content.embeddings, content.image_ids) != content.checksum:
        raise DamagedShardError(f"{path} is damaged (its checksum does not agree); {ASKED_AGAIN}")
    return content


def checksum(embeddings: Rows, image_ids: npt.NDArray[np.int64]) -> str:
    """SHA-256 over the rows and their ids."""
    digest = hashlib.sha256(np.ascontiguousarray(image_ids, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(embeddings, dtype="<f4").tobytes())
    return digest.hexdigest()


def _opened(path: str) -> Any:
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in path:
        return pa.memory_map(path)
    filesystem, inside = fs.FileSystem.from_uri(path)
    return filesystem.open_input_file(inside)
