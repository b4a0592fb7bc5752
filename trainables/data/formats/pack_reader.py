"""Read a pack (see `pack.py`): from local disk memory-mapped, from object storage through pyarrow's file systems.

Opening looks at the size of each file, and checks every value of the description and of the index (about a quarter of
a second for half a million images). Processes of one node share the pages of a local pack; of a remote one, each image
is one ranged read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.formats.images import Indices, Role, decode
from trainables.data.formats.manifest import ManifestRow
from trainables.data.formats.pack_files import INDEX, POOLS, index_problem, numbers, shard_name
from trainables.data.formats.pack_reading import PackFiles

LISTED = 10
"""Files that an error names."""
_POOL_OF_ROLE: dict[Role, int] = {"source": POOLS.index("train"), "test": POOLS.index("test")}


class PackSource:
    """The images of a pack (see `ImageSource`).

    `location` is a local folder or a URI that pyarrow's file systems read (`s3://`, `gs://`, `file://`); with
    `filesystem` it is a path in that file system. Unless `is_new` is false (another process has looked already), every
    file has to be there in full. Raises `UserError` when it is no whole pack or not of that benchmark.
    """

    def __init__(
        self, location: str | Path, benchmark: Benchmark, *, filesystem: Any = None, is_new: bool = True
    ) -> None:
        self.location = str(location)
        self.filesystem = filesystem
        self._benchmark = benchmark
        self._files = PackFiles(self.location, filesystem)
        self.description = self._files.checked_description()
        _check_benchmark(self.location, self.description, benchmark)
        self._starts: dict[str, tuple[int, int]] = {}
        start = 0
        for name, count in self.description["domains"].items():
            self._starts[name] = (start, start + count)
            start += count
        self._shards: dict[int, Any] = {}
        self._is_pixels = self.description["encoding"] == "pixels"
        if is_new:
            self.check_files()
            if problem := self.wrong_index():
                raise self._files.damaged(problem)

    def check_files(self) -> None:
        """Raise `UserError` where a file is not there in full; none is read."""
        lacking = self._files.lacking(self.description)
        if lacking:
            raise self._files.damaged("; ".join(lacking[:LISTED]))

    def wrong_index(self) -> str:
        """What is wrong with the values of the index, in words; empty where nothing is."""
        return index_problem(self._index, self.description)

    @cached_property
    def _index(self) -> Any:
        return self._files.record_batch(INDEX)

    @cached_property
    def _places(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Shard, offset, length, width and height of every image."""
        return tuple(numbers(self._index, name) for name in ("shard", "offset", "length", "width", "height"))

    def changed_files(self) -> list[str]:
        """Names of the files whose content is not what was packed; reads all of them."""
        return self._files.changed(self.description)

    @property
    def benchmark(self) -> str:
        return self._benchmark.name

    @property
    def domain_names(self) -> tuple[str, ...]:
        return self._benchmark.domain_names

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.description["class_names"])

    @property
    def manifest(self) -> str:
        manifest: str = self.description["manifest"]
        return manifest

    @property
    def manifest_rows(self) -> list[ManifestRow]:
        """One row for each image, domain after domain."""
        columns = {name: self._index.column(name).to_pylist() for name in ("path", "size", "sha256", "label", "pool")}
        return [
            ManifestRow(path, size, sha256, self.class_names[label], path.partition("/")[0], POOLS[pool])
            for path, size, sha256, label, pool in zip(*columns.values(), strict=True)
        ]

    def labels(self, domain: str) -> Indices:
        start, stop = self._starts[domain]
        labels: Indices = numbers(self._index, "label")[start:stop]
        return labels

    def paths(self, domain: str) -> Sequence[str]:
        start, stop = self._starts[domain]
        return ArrowStrings(self._index.column("path").slice(start, stop - start))

    def encoded(self, domain: str, index: int) -> bytes:
        """The image as the pack stores it."""
        return bytes(self._bytes(self._row(domain, index)))

    def read(self, domain: str, index: int) -> Image.Image:
        row = self._row(domain, index)
        data = self._bytes(row)
        if self._is_pixels:
            *_, width, height = self._places
            return Image.frombytes("RGB", (int(width[row]), int(height[row])), data)
        return decode(data, f"{self.benchmark}/{self._index.column('path')[row].as_py()}")

    def pool(self, domain: str, role: Role) -> Indices:
        start, stop = self._starts[domain]
        if not self.description["has_pools"]:
            return np.arange(stop - start, dtype=np.int64)
        pools = numbers(self._index, "pool", np.int8)[start:stop]
        return np.flatnonzero((pools == 0) | (pools == _POOL_OF_ROLE[role])).astype(np.int64)

    def _row(self, domain: str, index: int) -> int:
        start, stop = self._starts[domain]
        if not 0 <= index < stop - start:
            raise IndexError(f"{domain} has {stop - start} images, asked for {index}")
        return start + index

    def _bytes(self, row: int) -> memoryview:
        number, offset, length = (int(values[row]) for values in self._places[:3])
        if number not in self._shards:
            self._shards[number] = self._files.open(shard_name(number))
        return memoryview(self._shards[number](offset, length))

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "benchmark": self._benchmark, "filesystem": self.filesystem}

    def __setstate__(self, state: dict[str, Any]) -> None:
        PackSource.__init__(self, state["location"], state["benchmark"], filesystem=state["filesystem"], is_new=False)


class ArrowStrings(Sequence[str]):
    """A sequence of strings that stay in an Arrow array until they are asked for."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._array[place].as_py() for place in range(len(self))[index]]
        text: str = self._array[range(len(self))[int(index)]].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._array.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __hash__(self) -> int:
        raise TypeError("unhashable type: 'ArrowStrings'")


def read_description(location: str | Path, *, filesystem: Any = None) -> dict[str, Any]:
    """What a pack says of itself; raises `UserError` when it is none that this program reads."""
    return PackFiles(str(location), filesystem).checked_description()


def is_pack(location: str | Path) -> bool:
    """Whether a pack, of whatever format, lies at a local path or URI."""
    try:
        PackFiles(str(location), None).description()
    except UserError:
        return False
    return True


def _check_benchmark(location: str, found: Mapping[str, Any], wanted: Benchmark) -> None:
    """Raises `UserError` where a pack's description is that of another benchmark."""
    if tuple(found["domains"]) != wanted.domain_names:
        some = repr(list(found["domains"]))[:200]
        raise UserError(f"{location} has the domains {some}, {wanted.name} has others")
    if wanted.class_names and tuple(found["class_names"]) != wanted.class_names:
        raise UserError(f"the classes of {location} are not those of {wanted.name}")
