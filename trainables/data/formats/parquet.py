"""A benchmark in one Parquet file: columns path, image (encoded bytes), domain, class and, if any, split_half.

A row with `split_half` "train" serves source domains only, one with "test" serves the test domain only; without the
column every image serves both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.acquire.archives import Budget
from trainables.data.formats.images import Indices, Role, decode
from trainables.data.formats.manifest import ManifestRow, manifest_hash

_HALF_OF_ROLE: dict[Role, str] = {"source": "train", "test": "test"}


def bounded_batches(file: Any, name: str, *, max_bytes: int) -> Iterator[Any]:
    """Record batches of an opened Parquet file that nobody vouches for.

    Raises `ArchiveError` when more than `max_bytes` are in it: declared, or come out (a repeated value takes next to
    nothing in the file).
    """
    budget = Budget(name, max_bytes)
    for number in range(file.metadata.num_row_groups):
        budget.declare(file.metadata.row_group(number).total_byte_size)
    # Few rows at a time: their images are in memory before they are counted.
    for batch in file.iter_batches(batch_size=8):
        budget.use(batch.nbytes)
        yield batch


class ParquetSource:
    """The images of a Parquet file, held in memory (see `ImageSource`); for benchmarks of some megabytes."""

    def __init__(self, file: Path, benchmark: Benchmark) -> None:
        import pyarrow.parquet as parquet

        self.file = file
        self._benchmark = benchmark
        columns = ["path", "image", "domain", "class"]
        schema = parquet.read_schema(file)
        absent = [name for name in columns if name not in schema.names]
        if absent:
            raise UserError(f"{file.name} lacks the column {', '.join(absent)}; it has {', '.join(schema.names)}")
        self.has_halves = "split_half" in schema.names
        table = parquet.read_table(file, columns=columns + ["split_half"] * self.has_halves).to_pydict()
        self._check(set(table["domain"]), set(table["class"]))
        self._rows: dict[str, list[int]] = {name: [] for name in benchmark.domain_names}
        order = sorted(range(len(table["path"])), key=lambda row: os.fsencode(table["path"][row]))
        for row in order:
            self._rows[table["domain"][row]].append(row)
        self._table = table

    def _check(self, domains: set[str], classes: set[str]) -> None:
        wanted = (("domains", self._benchmark.domain_names, domains), ("classes", self._benchmark.class_names, classes))
        for kind, expected, found in wanted:
            if set(expected) != found:
                raise UserError(
                    f"{self.file.name} has the {kind} {sorted(found)}; {self._benchmark.name} has {sorted(expected)}"
                )

    @property
    def benchmark(self) -> str:
        return self._benchmark.name

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self._benchmark.domain_names

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._benchmark.class_names

    @cached_property
    def manifest(self) -> str:
        return manifest_hash(self.manifest_rows)

    @property
    def manifest_rows(self) -> list[ManifestRow]:
        """One row for each image, domain after domain."""
        return [self._manifest_row(row) for name in self.domain_names for row in self._rows[name]]

    def labels(self, domain: str) -> Indices:
        label_of = {name: label for label, name in enumerate(self.class_names)}
        return np.array([label_of[self._table["class"][row]] for row in self._rows[domain]], dtype=np.int64)

    def paths(self, domain: str) -> Sequence[str]:
        return [self._table["path"][row] for row in self._rows[domain]]

    def encoded(self, domain: str, index: int) -> bytes:
        """The image as stored."""
        data: bytes = self._table["image"][self._rows[domain][index]]
        return data

    def read(self, domain: str, index: int) -> Image.Image:
        row = self._rows[domain][index]
        return decode(self._table["image"][row], f"{self.benchmark}/{self._table['path'][row]}")

    def pool(self, domain: str, role: Role) -> Indices:
        rows = self._rows[domain]
        if not self.has_halves:
            return np.arange(len(rows), dtype=np.int64)
        half = _HALF_OF_ROLE[role]
        return np.array([i for i, row in enumerate(rows) if self._table["split_half"][row] == half], dtype=np.int64)

    def _manifest_row(self, row: int) -> ManifestRow:
        image = self._table["image"][row]
        half = self._table["split_half"][row] if self.has_halves else ""
        sha256 = hashlib.sha256(image).hexdigest()
        table = self._table
        return ManifestRow(table["path"][row], len(image), sha256, table["class"][row], table["domain"][row], half)

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the file itself.
        return {"file": self.file, "benchmark": self._benchmark}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ParquetSource.__init__(self, state["file"], state["benchmark"])
