"""Random damage to packs, with sizes and checksums that fit again: one line, or images that can all be asked for."""

from __future__ import annotations

import json
import random
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from search_spaces.errors import UserError
from tests.fuzz.tally import Tally, main, tally
from tests.support.folders import tiny_benchmark, write_tiny
from tests.support.malformed_packs import (
    as_batch,
    description_of,
    index_of,
    vouch,
    with_column,
    write_index,
)
from trainables.data.formats.folder import FolderSource
from trainables.data.formats.open import open_benchmark, resolve_benchmark
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.formats.pack_files import DESCRIPTION, INDEX, index_schema
from trainables.data.formats.verify import verify_opened

TINY = tiny_benchmark()
SHARDS = ("shard-00000.arrow", "shard-00001.arrow")
NUMBERS = (-(2**63), -(2**31), -1, 0, 1, 2, 7, 255, 10**9, 2**31, 2**40, 2**62, 2**63 - 1)
JUNK: tuple[Any, ...] = (
    *(None, True, "", "x" * 5000, "../..", [], {}, [[]], {"": {}}, 1.5, 1e308, -1, 0, 3, 10**9, 10**30, 10**4000),
    *(float("nan"), float("inf"), [None], {"art": 10**9}, ["cat"], {"size": -1, "sha256": "0" * 64}),
)
MOST_MB = 300
"""Memory that one malformed pack may take beside what was taken before."""


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many packs."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = FolderSource(write_tiny(root, images_per_class=2), TINY)
        wholes = []
        for encoding in ("stored", "pixels"):
            settings = PackSettings(encoding=encoding)  # type: ignore[arg-type]
            # The smaller shard makes two of them.
            wholes.append(write_pack(folder, root / encoding / "tiny.pack", settings=settings, shard_mb=0))
        return tally(lambda chance: _case(chance, chance.choice(wholes), root / "case"), inputs, seed=seed)


def _case(chance: random.Random, whole: Path, root: Path) -> str:
    shutil.rmtree(root, ignore_errors=True)
    place = Path(shutil.copytree(whole, root / "tiny.pack"))
    for _ in range(chance.choice([1, 1, 1, 2])):
        damage = chance.choice(_DAMAGES)
        damage(chance, place)
    before = _memory_mb()
    lines = [_tried_out(lambda: _asked_for_everything(root)), _tried_out(lambda: verify_opened(TINY, root))]
    lines.append(_tried_out(lambda: resolve_benchmark("tiny", root)))
    taken = _memory_mb() - before
    wrong = [line for line in lines if "\n" in line or len(line) > 2000]
    return f"{wrong[0]!r}" if wrong else f"{taken:.0f} MB taken" if taken > MOST_MB else ""


def _tried_out(call: Callable[[], object]) -> str:
    """The line of a refusal; empty where there was none."""
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


def _asked_for_everything(root: Path) -> None:
    """All that a fold asks a pack for; a value that cannot be is an error here."""
    source = open_benchmark(TINY, root)
    assert source.manifest
    list(source.manifest_rows)  # type: ignore[attr-defined]
    for domain in source.domain_names:
        labels, paths = source.labels(domain), list(source.paths(domain))
        assert len(labels) == len(paths) == 4
        assert all(0 <= label < len(TINY.class_names) for label in labels)
        assert all(path.startswith(f"{domain}/") for path in paths)
        for role in ("source", "test"):
            assert set(source.pool(domain, role)) <= set(range(len(labels)))  # type: ignore[arg-type]
        for index in range(len(labels)):
            _tried_out(lambda domain=domain, index=index: source.read(domain, index))  # type: ignore[misc]


def _memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _wrong_number(chance: random.Random, place: Path) -> None:
    table = _index(place)
    if table is None:
        return
    name = chance.choice(["label", "size", "width", "height", "shard", "offset", "length", "pool"])
    values = table[name].to_pylist()
    for _ in range(chance.choice([1, 1, 5])):
        number = chance.choice([*NUMBERS, chance.randrange(-(2**63), 2**63)])
        values[chance.randrange(len(values))] = number if name != "pool" else (number + 128) % 256 - 128
    write_index(place, with_column(table, name, values))


def _wrong_column(chance: random.Random, place: Path) -> None:
    table = _index(place)
    if table is None:
        return
    name = chance.choice(table.column_names)
    old = table[name].to_pylist()
    kinds: list[Callable[[], pa.Array]] = [
        lambda: pa.array([str(value) for value in old]),
        lambda: pa.array([None] * len(old), table.schema.field(name).type),
        lambda: pa.array([[value] for value in old]),
        lambda: pa.array([str(value) for value in old]).dictionary_encode(),
        lambda: pa.array([chance.random() for _ in old]),
        lambda: pa.array(chance.sample(old, len(old)), table.schema.field(name).type),
        lambda: pa.nulls(len(old)),
        lambda: pa.array([b"\xff\x00" for _ in old]),
    ]
    write_index(place, with_column(table, name, chance.choice(kinds)()))


def _wrong_shape(chance: random.Random, place: Path) -> None:
    table = _index(place)
    if table is None:
        return
    batch, cut = as_batch(table), chance.randrange(table.num_rows)
    name = chance.choice(table.column_names)
    shapes: list[Callable[[], list[pa.RecordBatch]]] = [
        lambda: [batch.slice(0, cut)],
        lambda: [batch.slice(0, cut), batch.slice(cut)],
        lambda: [as_batch(table.drop_columns(name))],
        lambda: [as_batch(table.append_column(name, table[name]))],
        lambda: [as_batch(table.select(chance.sample(table.column_names, len(table.column_names))))],
        lambda: [as_batch(pa.concat_tables([table, table]))],
        lambda: [as_batch(table.rename_columns([f"{other}x" for other in table.column_names]))],
    ]
    compressed = pa.ipc.IpcWriteOptions(compression="zstd") if chance.random() < 0.3 else None
    write_index(place, *chance.choice(shapes)(), options=compressed)


def _wrong_bytes(chance: random.Random, place: Path) -> None:
    """Flipped, cut, lengthened or emptied; the description may vouch for it."""
    names = sorted(file.name for file in place.iterdir())
    name = chance.choice([INDEX, INDEX, DESCRIPTION, *names])
    if not (place / name).is_file() or not (data := bytearray((place / name).read_bytes())):
        # An earlier damage has left nothing of it.
        return
    kind = chance.choice(["flip", "flip", "cut", "more", "empty"])
    if kind == "flip":
        for _ in range(chance.choice([1, 3, 30])):
            data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
    data = {"flip": data, "cut": data[: chance.randrange(len(data))], "more": data + b"x" * 99, "empty": b""}[kind]
    # Not in its place: the index of the case before may still be mapped.
    (place / name).unlink()
    (place / name).write_bytes(data)
    if name != DESCRIPTION and chance.random() < 0.7 and _is_described(place):
        vouch(place, name)


def _wrong_description(chance: random.Random, place: Path) -> None:
    if not _is_described(place):
        return
    content: Any = description_of(place)
    where, name = content, chance.choice(sorted(content))
    while isinstance(where[name], dict) and where[name] and chance.random() < 0.6:
        where, name = where[name], chance.choice(sorted(where[name]))
    if chance.random() < 0.2:
        del where[name]
    elif chance.random() < 0.1:
        where[name + "x"] = where.pop(name)
    else:
        where[name] = chance.choice(JUNK)
    (place / DESCRIPTION).write_text(json.dumps(content))


def _lost_file(chance: random.Random, place: Path) -> None:
    files = sorted(file for file in place.iterdir() if file.is_file())
    if not files:
        return
    file = chance.choice(files)
    file.unlink()
    if chance.random() < 0.3:
        file.mkdir()


def _is_described(place: Path) -> bool:
    """Whether an earlier damage has left the description readable."""
    try:
        return isinstance(description_of(place).get("files"), dict)
    except (ValueError, OSError, AttributeError, RecursionError):
        return False


def _index(place: Path) -> pa.Table | None:
    """The index, where an earlier damage has left one and its description."""
    try:
        table = index_of(place)
    except (pa.ArrowException, OSError):
        return None
    # In whatever order; `set` because a column may stand twice.
    is_usual = table.num_rows > 0 and {(field.name, field.type) for field in table.schema} == {
        (field.name, field.type) for field in index_schema()
    }
    is_usual = is_usual and len(table.column_names) == len(index_schema())
    return table if is_usual and _is_described(place) else None


_DAMAGES = (
    *(_wrong_number, _wrong_number, _wrong_number, _wrong_column, _wrong_shape, _wrong_bytes, _wrong_bytes),
    *(_wrong_description, _wrong_description, _lost_file),
)


if __name__ == "__main__":
    main(tried, "packs")
