"""JSON files that appear whole or not at all, and what is said of one that is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError, first_line
from trainables.storage.atomic_files import written_whole

T = TypeVar("T")


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, flush to disk, then rename."""
    with written_whole(path) as file:
        file.write(data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as indented JSON, atomically."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


class FileContent(dict[str, Any]):
    """The object in a JSON file; asked for a key that it lacks, it says which file that is."""

    def __init__(self, path: Path, content: Mapping[str, Any], advice: str) -> None:
        super().__init__(content)
        self.path, self.advice = path, advice

    def __missing__(self, key: str) -> Any:
        raise damaged(self.path, f"it has no {key!r}", self.advice)


PUT_BACK = "put a whole copy of it in its place"


def read_json(path: Path, *, advice: str = PUT_BACK, sha256: str = "") -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file.

    Args:
        path: the file; what is written appears whole or not at all, so a damaged one lost its bytes later.
        advice: what is to be done about a damaged one.
        sha256: of its bytes, where that is known.

    Raises:
        DamagedFileError: the file holds no JSON object, or has another SHA-256.
    """
    try:
        text = path.read_bytes()
        if sha256 and hashlib.sha256(text).hexdigest() != sha256:
            raise damaged(path, "its SHA-256 is not the stated one", advice)
        content = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise damaged(path, "it is a folder", advice) from None
    except DamagedFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise damaged(path, first_line(error), advice) from None
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__}", advice)
    return FileContent(path, content, advice)


class DamagedFileError(UserError):
    """A file lost its bytes, or holds something else than it should."""


def damaged(path: Path, why: str, advice: str = PUT_BACK) -> DamagedFileError:
    """What is said of such a file."""
    return DamagedFileError(
        f"{path} is damaged ({why}): {advice}; what is done is kept; then run the same command to resume"
    )


def readable_json(path: Path) -> dict[str, Any]:
    """A JSON object that can be done without; empty where there is none, or the file is damaged."""
    try:
        return read_json(path) or {}
    except DamagedFileError:
        return {}


def readable_record(cls: type[T], path: Path) -> T | None:
    """A dataclass from a JSON file that can be done without; None where there is none, or the file is damaged."""
    try:
        return read_record(cls, path)
    except DamagedFileError:
        return None


def read_record(cls: type[T], path: Path, *, advice: str = PUT_BACK) -> T | None:
    """Read a dataclass from a JSON file, or None where there is no such file.

    Raises:
        DamagedFileError: the file holds none.
    """
    content = read_json(path, advice=advice)
    try:
        return None if content is None else from_mapping(cls, content)
    except UserError as error:
        raise damaged(path, str(error), advice) from None
