"""Random archives, Parquet files, annotations and lists: what is wrong with one is its mirror's fault, in one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import shutil
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from tests.fuzz.tally import Tally, main, tally
from tests.support.bad_archives import member
from tests.support.folders import encoded, tiny_benchmark
from trainables.data.acquire.archives import ArchiveError, unpack_archive
from trainables.data.acquire.assemble import Assembly, StepError, run_step
from trainables.data.acquire.sources import Step

TINY = tiny_benchmark()
MAX_BYTES = 200_000
LONGEST_S = 20.0
"""For one input, on a busy machine."""
NAMES = (
    *("a", "a/b.jpg", "a/b/c.png", "x/é.jpg", "n" * 255, "n" * 256, "n" * 300, "a/" * 40 + "z", "a/" * 3000 + "z"),
    *(
        "é" * 200,
        ".",
        "..",
        "../x",
        "/etc/x",
        "a/../../x",
        "C:/x",
        "a\\b",
        "",
        " ",
        "a//b",
        "./a",
        "a/",
        "a/./b",
        "-rf",
    ),
    *("a\x01\x1b[31mb", "a\nb", "__MACOSX/a", "con", "*?", "a/" + "é" * 130, "\u202egpj", "a" * 100 + "/" + "b" * 150),
)
HEADERS = (
    *("path", "size", "linkpath", "mtime", "uid", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major"),
    *("GNU.sparse.minor", "GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.numblocks", "hdrcharset", "comment"),
)
VALUES = ("", "1", "0", "5", "-1", "five", "0,5", "0,five", "9" * 30, "1e5", "n" * 300, "../../x", "BINARY", "inf", "é")
JUNK: tuple[Any, ...] = (None, True, -1, 0, 1, 10**9, 1.5, "", "cat", "x" * 300, "a/b", "..", [], {}, [[]], {"a": 1})


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many files."""
    with tempfile.TemporaryDirectory() as scratch:
        return tally(lambda chance: _case(chance, Path(scratch) / "case"), inputs, seed=seed)


def _case(chance: random.Random, root: Path) -> str:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    started = time.monotonic()
    kind = chance.choice([_archive, _archive, _archive, _parquet, _annotations, _list])
    problem = kind(chance, root)
    took = time.monotonic() - started
    return problem or (f"{kind.__name__} took {took:.0f} s" if took > LONGEST_S else "")


def _archive(chance: random.Random, root: Path) -> str:
    name, data = chance.choice([_zip, _tar])(chance)
    (root / name).write_bytes(_with_wrong_bytes(chance, data))
    try:
        unpack_archive(root / name, root / "out", max_bytes=MAX_BYTES)
    except ArchiveError as error:
        left = sorted(path.name for path in root.iterdir())
        return _line(str(error)) or ("" if left == [name] else f"left {left} after {error}")
    found = list((root / "out").rglob("*"))
    if any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in found):
        return f"unpacked what is no file: {found}"
    size = sum(path.stat().st_size for path in found if path.is_file())
    return f"unpacked {size} bytes" if size > MAX_BYTES else ""


def _zip(chance: random.Random) -> tuple[str, bytes]:
    stream = io.BytesIO()
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings(action="ignore"):
        for _ in range(chance.randint(0, 5)):
            info = zipfile.ZipInfo(chance.choice(NAMES), (2020, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.compress_type = chance.choice(kinds)
            info.external_attr = chance.choice([0, 0, 0o100644, 0o120777, 0o40755, 0o10644, 0o20600]) << 16
            if chance.random() < 0.2:
                info.extra = chance.randbytes(chance.randint(0, 30))
            archive.writestr(info, _content(chance))
    return "x.zip", stream.getvalue()


def _tar(chance: random.Random) -> tuple[str, bytes]:
    stream = io.BytesIO()
    for _ in range(chance.randint(0, 5)):
        content = _content(chance)
        made = member(chance.choice(NAMES), len(content))
        if chance.random() < 0.4:
            made.pax_headers = {chance.choice(HEADERS): chance.choice(VALUES) for _ in range(chance.randint(1, 4))}
        if chance.random() < 0.2:
            made.type = chance.choice([b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"Z"])
        if chance.random() < 0.2:
            made.size = chance.choice([0, 1, 511, 513, 10**6, 10**12, 8**11])
        kind = chance.choice([tarfile.PAX_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
        stream.write(made.tobuf(kind, "utf-8", "surrogateescape"))
        stream.write(content + bytes(-len(content) % 512))
    stream.write(bytes(chance.choice([1024, 1024, 512, 0])))
    packed: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
        ("x.tar", bytes),
        ("x.tar.gz", gzip.compress),
        ("x.tar.bz2", bz2.compress),
        ("x.tar.xz", lzma.compress),
    )
    name, compress = chance.choice(packed)
    plain = stream.getvalue()
    # Damage below the compression reaches the reader of tar.
    return name, compress(_with_wrong_bytes(chance, plain) if chance.random() < 0.4 else plain)


def _content(chance: random.Random) -> bytes:
    return chance.choice([b"", b"1", chance.randbytes(700), bytes(5000), bytes(MAX_BYTES // 2), bytes(MAX_BYTES + 1)])


def _with_wrong_bytes(chance: random.Random, data: bytes) -> bytes:
    """Mostly as it is; else flipped, cut, or something else behind it."""
    wrong = bytearray(data)
    kind = chance.choice(["", "", "flip", "flip", "cut", "more", "text"])
    if kind == "flip" and wrong:
        for _ in range(chance.choice([1, 3, 20])):
            wrong[chance.randrange(len(wrong))] ^= chance.randrange(1, 256)
    return {"cut": wrong[: chance.randrange(len(wrong) + 1)], "more": wrong + b"x" * 600, "text": b"<x>" * 300}.get(
        kind, wrong
    )


def _parquet(chance: random.Random, root: Path) -> str:
    rows = [_row(chance, number) for number in range(chance.randint(0, 4))]
    for _ in range(chance.choice([0, 1, 2])):
        name = chance.choice(["image", "image_path", "domain", "label"])
        value = chance.choice(
            [*JUNK, b"", b"x", {"bytes": b"x", "path": "n" * 300}, {"bytes": encoded(1), "path": "a\0b"}]
        )
        rows = [row | {name: value} for row in rows]
    info = {"info": {"features": {"label": {"names": chance.choice([["cat", "dog"], "cd", [1], {}, None])}}}}
    said, dropped, stream = chance.choice([json.dumps(info), "[" * 9999, "{", "7"]), chance.random(), io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows or [{"image": b"", "domain": "art", "label": 0}])
        table = table.replace_schema_metadata({"huggingface": said})
        if dropped < 0.2:
            table = table.drop_columns(chance.choice(table.column_names))
        parquet.write_table(table, stream)
    except (pa.ArrowException, TypeError):
        # No Parquet file can hold that.
        return ""
    (root / "x.parquet").write_bytes(_with_wrong_bytes(chance, stream.getvalue()))
    return _step(Step(step="parquet", source="x.parquet"), root, {"x.parquet": root / "x.parquet"})


def _row(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "image": {"bytes": encoded(number), "path": chance.choice([None, "a.png", "n" * 300 + ".png", "a\0b.png"])},
        "image_path": chance.choice([None, "x/dog/7.png"]),
        "domain": chance.choice(["art", "Photo", "SKETCH"]),
        "label": chance.choice([0, 1]),
    }


def _annotations(chance: random.Random, root: Path) -> str:
    images = [{"id": str(number), "location": "1", "file_name": f"{number}.jpg"} for number in range(3)]
    notes = [{"image_id": str(number), "category_id": number % 2} for number in range(3)]
    content: Any = {
        "images": images,
        "annotations": notes,
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    for _ in range(chance.choice([0, 1, 2, 3])):
        where = chance.choice(
            [content, *(item for values in content.values() if isinstance(values, list) for item in values)]
        )
        if isinstance(where, dict) and where:
            where[chance.choice(sorted(where))] = chance.choice(JUNK)
    text = chance.choice([json.dumps(content)] * 5 + ["[" * 99_999, "[Infinity]", '{"images": [{"id": Infinity}]}'])
    (root / "notes").mkdir()
    (root / "notes" / "a.json").write_bytes(_with_wrong_bytes(chance, text.encode()))
    (root / "pictures").mkdir()
    for number in range(3):
        (root / "pictures" / f"{number}.jpg").write_bytes(encoded(number, "JPEG"))
    step = Step(step="camera_traps", source="pictures", annotations="notes")
    return _step(step, root, {"pictures": root / "pictures", "notes": root / "notes"})


def _list(chance: random.Random, root: Path) -> str:
    lines = [chance.choice([*NAMES, "art/cat/0.jpg", "a\0b", "\udcff", "art"]) for _ in range(chance.randint(0, 4))]
    text = "\n".join(lines).encode(errors="surrogateescape")
    (root / "list.txt").write_bytes(_with_wrong_bytes(chance, text))
    (root / "assembled" / "art" / "cat").mkdir(parents=True)
    (root / "assembled" / "art" / "cat" / "0.jpg").write_bytes(b"1")
    return _step(Step(step="remove_listed", source="list.txt"), root, {"list.txt": root / "list.txt"})


def _step(step: Step, root: Path, files: dict[str, Path]) -> str:
    assembly = Assembly(benchmark=TINY, files=files, target=root / "assembled", max_bytes=10 * MAX_BYTES)
    try:
        run_step(step, 0, assembly)
    except StepError as error:
        return _line(str(error)) or ("" if error.file in ("", *files) else f"blames {error.file!r}")
    found = [path.relative_to(root / "assembled").parts for path in (root / "assembled").rglob("*") if path.is_file()]
    wrong = [parts for parts in found if len(parts) != 3 or parts[0] not in TINY.domain_names]
    return f"wrote {wrong}" if wrong else ""


def _line(said: str) -> str:
    return f"said {said[:300]!r} in {len(said)} letters" if "\n" in said or len(said) > 1000 else ""


if __name__ == "__main__":
    main(tried, "archives")
