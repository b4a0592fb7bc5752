"""Packs whose parts are changed after they were written, with sizes and checksums that fit again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainables.data.formats.pack_files import DESCRIPTION, INDEX


def index_of(place: Path) -> pa.Table:
    """The index of a pack, in memory."""
    with pa.OSFile(str(place / INDEX)) as file:
        return pa.ipc.open_file(file).read_all()


def write_index(place: Path, *batches: pa.RecordBatch, options: pa.ipc.IpcWriteOptions | None = None) -> None:
    """Put another index in a pack's, and let the description name its size and SHA-256."""
    (place / INDEX).unlink()
    with pa.OSFile(str(place / INDEX), "wb") as sink, pa.ipc.new_file(sink, batches[0].schema, options=options) as to:
        for batch in batches:
            to.write_batch(batch)
    vouch(place, INDEX)


def vouch(place: Path, name: str) -> None:
    """Let the description name a file's size and SHA-256 as they are."""
    data = (place / name).read_bytes()
    facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    description = description_of(place)
    describe(place, files={**description["files"], name: facts})


def with_column(table: pa.Table, name: str, values: Any) -> pa.RecordBatch:
    """The index with other values (or of another type) in one column."""
    if not isinstance(values, pa.Array):
        values = pa.array(values, table.schema.field(name).type)
    return as_batch(table.set_column(table.schema.get_field_index(name), name, values))


def as_batch(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch."""
    return table.combine_chunks().to_batches()[0]


def description_of(place: Path) -> dict[str, Any]:
    """What a pack says of itself."""
    content: dict[str, Any] = json.loads((place / DESCRIPTION).read_text())
    return content


def describe(place: Path, **changes: Any) -> None:
    """Change values of the description; None takes one out."""
    content = {name: value for name, value in (description_of(place) | changes).items() if value is not None}
    (place / DESCRIPTION).write_text(json.dumps(content))
