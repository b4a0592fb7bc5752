"""The files of a pack, wherever they lie: on local disk memory-mapped, elsewhere through pyarrow's file systems."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from trainables.data.formats.pack_files import DESCRIPTION, INDEX, PACK_FORMAT, cut, description_problem, index_problem

CHUNK_BYTES = 2**22


class PackFiles:
    """A pack's files at a local path or URI, or at a path of a file system."""

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
        """What the pack says of itself, of whatever format; raises `UserError` where it is no JSON object."""
        try:
            with self._input(DESCRIPTION) as file:
                description: dict[str, Any] = json.loads(file.read())
                if not isinstance(description, dict):
                    raise ValueError(f"{DESCRIPTION} holds no description")
                return description
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            raise UserError(f"{self.location} is not a pack: {reason}") from None

    def checked_description(self) -> dict[str, Any]:
        """The description of a pack that this program reads; raises `UserError` for another format or wrong values."""
        description = self.description()
        if description.get("format") != PACK_FORMAT:
            raise UserError(
                f"{self.location} is a pack of format {cut(description.get('format'))}, this program reads "
                f"{PACK_FORMAT}; pack the benchmark again, with --overwrite"
            )
        if problem := description_problem(description):
            raise self.damaged(problem)
        return description

    def problem(self) -> str:
        """What is wrong with description and index, or which files are not there in full; no image is read."""
        description = self.description()
        if problem := description_problem(description) or "; ".join(self.lacking(description)):
            return problem
        return index_problem(self.record_batch(INDEX), description)

    def damaged(self, problem: str) -> UserError:
        """What is said of a pack that is not as it was written."""
        return UserError(f"the pack {self.location} is damaged: {problem}")

    def lacking(self, description: dict[str, Any]) -> list[str]:
        """Files of the description that are not there in full, in words."""
        wanted = {name: facts["size"] for name, facts in description["files"].items()}
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
            raise self.damaged(" ".join(str(error).split())) from None
        return digest.hexdigest()

    def record_batch(self, name: str) -> Any:
        import pyarrow as pa

        try:
            opened = pa.ipc.open_file(self._input(name))
            if opened.num_record_batches != 1:
                raise self.damaged(f"{name} has {opened.num_record_batches:,} parts instead of one")
            return opened.get_batch(0)
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(f"{name}: {' '.join(str(error).split())}") from None

    def open(self, name: str) -> Callable[[int, int], Any]:
        """A function from (offset, length) to bytes of the file: views of the mapped file, or ranged reads."""
        import pyarrow as pa

        try:
            file = self._input(name)
            whole = file.read_buffer() if self.filesystem is None else None
            size = file.size()
        except (OSError, pa.ArrowException) as error:
            raise self.damaged(f"{name}: {' '.join(str(error).split())}") from None

        def read(offset: int, length: int) -> Any:
            if offset < 0 or length < 0 or offset + length > size:
                raise self.damaged(f"{name} is cut short")
            return file.read_at(length, offset) if whole is None else whole.slice(offset, length)

        return read

    def _input(self, name: str) -> Any:
        if self.filesystem is not None:
            return self.filesystem.open_input_file(f"{self.path.rstrip('/')}/{name}")
        import pyarrow as pa

        if name == DESCRIPTION:
            return io.BytesIO((Path(self.path) / name).read_bytes())
        return pa.memory_map(str(Path(self.path) / name))
