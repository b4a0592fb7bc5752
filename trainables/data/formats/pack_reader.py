"""Read a pack (see `pack.py`): from local disk memory-mapped, from object storage through pyarrow's file systems.

Opening takes the same time whatever the number of images: it looks at the size of each file, and reads only what the
pack says of itself. Processes of one node share the pages of a local pack; of a remote one, each image is one ranged
read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from search_spaces.benchmarks import Benchmark
from search_spaces.errors import UserError
from trainables.data.formats.images import Indices, Role, decode
from trainables.data.formats.manifest import ManifestRow
from trainables.data.formats.pack_files import DESCRIPTION, INDEX, PACK_FORMAT, POOLS, shard_name

CHUNK_BYTES = 2**22
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
        self._files = _PackFiles(self.location, filesystem)
        self.description = self._files.description()
        self._check()
        if is_new:
            self._check_files()
        self._starts: dict[str, tuple[int, int]] = {}
        start = 0
        for name, count in self.description["domains"].items():
            self._starts[name] = (start, start + count)
            start += count
        self._shards: dict[int, Any] = {}
        self._index = self._files.record_batch(INDEX)
        self._shard, self._offset, self._length, self._width, self._height = (
            _numbers(self._index, name) for name in ("shard", "offset", "length", "width", "height")
        )
        self._is_pixels = self.description["encoding"] == "pixels"

    def _check(self) -> None:
        found, wanted = self.description, self._benchmark
        if found.get("format") != PACK_FORMAT:
            raise UserError(
                f"{self.location} is a pack of format {found.get('format')}, this program reads {PACK_FORMAT}; "
                "pack the benchmark again, with --overwrite"
            )
        if tuple(found["domains"]) != wanted.domain_names:
            raise UserError(f"{self.location} has the domains {list(found['domains'])}, {wanted.name} has others")
        if wanted.class_names and tuple(found["class_names"]) != wanted.class_names:
            raise UserError(f"the classes of {self.location} are not those of {wanted.name}")

    def _check_files(self) -> None:
        lacking = self._files.lacking(self.description)
        if lacking:
            raise UserError(f"the pack {self.location} is damaged: {'; '.join(lacking[:LISTED])}")

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
        labels: Indices = _numbers(self._index, "label")[start:stop]
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
            size = (int(self._width[row]), int(self._height[row]))
            return Image.frombytes("RGB", size, data)
        return decode(data, f"{self.benchmark}/{self._index.column('path')[row].as_py()}")

    def pool(self, domain: str, role: Role) -> Indices:
        start, stop = self._starts[domain]
        if not self.description["has_pools"]:
            return np.arange(stop - start, dtype=np.int64)
        pools = _numbers(self._index, "pool", np.int8)[start:stop]
        return np.flatnonzero((pools == 0) | (pools == _POOL_OF_ROLE[role])).astype(np.int64)

    def _row(self, domain: str, index: int) -> int:
        start, stop = self._starts[domain]
        if not 0 <= index < stop - start:
            raise IndexError(f"{domain} has {stop - start} images, asked for {index}")
        return start + index

    def _bytes(self, row: int) -> memoryview:
        number, offset, length = int(self._shard[row]), int(self._offset[row]), int(self._length[row])
        if number not in self._shards:
            self._shards[number] = self._files.open(shard_name(number))
        return memoryview(self._shards[number](offset, length))

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "benchmark": self._benchmark, "filesystem": self.filesystem}

    def __setstate__(self, state: dict[str, Any]) -> None:
        PackSource.__init__(self, state["location"], state["benchmark"], filesystem=state["filesystem"], is_new=False)


def _numbers(batch: Any, name: str, kind: type[np.generic] = np.int64) -> npt.NDArray[Any]:
    """A column without nulls as an array on the same memory (pyarrow's own `to_numpy` imports pandas first)."""
    column = batch.column(name)
    return np.frombuffer(column.buffers()[1], kind, len(column), column.offset * np.dtype(kind).itemsize)


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
    """What a pack says of itself; raises `UserError` when it is no pack."""
    return _PackFiles(str(location), filesystem).description()


def damaged_files(location: str | Path, *, by_content: bool = False) -> list[str]:
    """Files of a pack that are missing or have another size than was packed, in words.

    With `by_content` every file is read, and compared by its SHA-256 too.
    """
    files = _PackFiles(str(location), None)
    description = files.description()
    return files.lacking(description) or (files.changed(description) if by_content else [])


def is_pack(location: str | Path) -> bool:
    """Whether a pack lies at a local path or URI."""
    try:
        read_description(location)
    except UserError:
        return False
    return True


class _PackFiles:
    """The files of a pack, wherever they lie."""

    def __init__(self, location: str, filesystem: Any) -> None:
        self.location = location
        self.path = location
        self.filesystem = filesystem
        if filesystem is None and "://" in location:
            import pyarrow as pa
            from pyarrow import fs

            try:
                self.filesystem, self.path = fs.FileSystem.from_uri(location)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(f"cannot read {location}: {' '.join(str(error).split())}") from None

    def description(self) -> dict[str, Any]:
        try:
            with self._input(DESCRIPTION) as file:
                description: dict[str, Any] = json.loads(file.read())
                if not isinstance(description, dict):
                    raise ValueError(f"{DESCRIPTION} holds no description")
                return description
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            raise UserError(f"{self.location} is not a pack: {reason}") from None

    def lacking(self, description: dict[str, Any]) -> list[str]:
        """Files of the description that are not there in full, in words."""
        wanted = {name: int(facts["size"]) for name, facts in description.get("files", {}).items()}
        sizes = dict(zip(wanted, self._sizes(list(wanted)), strict=True))
        return [
            f"{name} is missing" if (have := sizes[name]) is None else f"{name} has {have:,} bytes instead of {size:,}"
            for name, size in wanted.items()
            if sizes[name] != size
        ]

    def _sizes(self, names: list[str]) -> list[int | None]:
        if self.filesystem is None:
            files = [Path(self.path) / name for name in names]
            return [file.stat().st_size if file.is_file() else None for file in files]
        try:
            found = self.filesystem.get_file_info([f"{self.path.rstrip('/')}/{name}" for name in names])
        except OSError as error:
            raise UserError(f"cannot read {self.location}: {' '.join(str(error).split())}") from None
        return [info.size if info.is_file else None for info in found]

    def changed(self, description: dict[str, Any]) -> list[str]:
        """Names of the files whose content is not what was packed."""
        files: dict[str, dict[str, Any]] = description["files"]
        return [name for name, facts in files.items() if self._sha256(name) != facts["sha256"]]

    def _sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        try:
            with self._input(name) as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise UserError(f"the pack {self.location} is damaged: {' '.join(str(error).split())}") from None
        return digest.hexdigest()

    def record_batch(self, name: str) -> Any:
        import pyarrow as pa

        try:
            return pa.ipc.open_file(self._input(name)).get_batch(0)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"the pack {self.location} is damaged: {' '.join(str(error).split())}") from None

    def open(self, name: str) -> Any:
        """A function from (offset, length) to bytes of the file: views of the mapped file, or ranged reads."""
        try:
            file = self._input(name)
        except OSError as error:
            raise UserError(f"the pack {self.location} is damaged: {' '.join(str(error).split())}") from None
        if self.filesystem is not None:
            return lambda offset, length: file.read_at(length, offset)
        whole = file.read_buffer()

        def view(offset: int, length: int) -> Any:
            if offset + length > whole.size:
                raise UserError(f"the pack {self.location} is damaged: {name} is cut short")
            return whole.slice(offset, length)

        return view

    def _input(self, name: str) -> Any:
        if self.filesystem is not None:
            return self.filesystem.open_input_file(f"{self.path.rstrip('/')}/{name}")
        import pyarrow as pa

        if name == DESCRIPTION:
            return io.BytesIO((Path(self.path) / name).read_bytes())
        return pa.memory_map(str(Path(self.path) / name))
