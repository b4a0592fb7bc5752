"""What a fold leaves on disk: one class spells every filename; a file appears whole or not at all.

    FOLDER/spec.json            what was asked for
    FOLDER/journal.jsonl        one line per step and per evaluation, in order, append-only
    FOLDER/checkpoint.pt        to go on in mid-stage; gone once the fold is done
    FOLDER/student.safetensors  the evaluated weights
    FOLDER/test.json            test-domain numbers: only the report opens it
    FOLDER/held_out/DOMAIN.json a pair fold's numbers on one of its two test domains, which it has instead of test.json
    FOLDER/result.json          written last: the fold is done once it is there
    FOLDER/lease.json           the sweep (or command) that handed the fold out, while it is at it (`trainables.leases`)
    FOLDER/worker.json          the process that computes in here, while it does

Leakage: `read_result` and `read_journal` hold source-domain numbers only. The two test domains of a pair fold have a
file each: who selects for one opens the file about the other, which is a source domain there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError, first_line
from search_spaces.hyperparameters import FoldSpec, fold_spec_from_mapping
from trainables.half_files import aside_of
from trainables.json_lines import append_lines, read_lines

T = TypeVar("T")


def write_atomically(path: Path, data: bytes) -> None:
    """Write aside, flush to disk, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


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


def read_json(path: Path, *, advice: str = PUT_BACK) -> dict[str, Any] | None:
    """Read a JSON object, or None where there is no such file.

    Args:
        path: the file; what is written appears whole or not at all, so a damaged one lost its bytes later.
        advice: what is to be done about a damaged one.

    Raises:
        DamagedFileError: the file holds no JSON object.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise damaged(path, first_line(error), advice) from None
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__}", advice)
    return FileContent(path, content, advice)


class DamagedFileError(UserError):
    """A file lost its bytes, or holds something else than it should."""


def damaged(path: Path, why: str, advice: str = PUT_BACK) -> DamagedFileError:
    """What is said of such a file."""
    return DamagedFileError(
        f"{path} is damaged ({why}): {advice}; what is done is kept, and the same command then goes on"
    )


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


class FoldFolder:
    """The files of one fold (or of one shared Align stage, which has no `test.json`)."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder)

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def student(self) -> Path:
        return self.path / "student.safetensors"

    @property
    def test(self) -> Path:
        return self.path / "test.json"

    def held_out(self, domain: str) -> Path:
        """A pair fold's numbers on one of its two test domains."""
        return self.path / "held_out" / f"{domain}.json"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def lease(self) -> Path:
        return self.path / "lease.json"

    @property
    def worker(self) -> Path:
        return self.path / "worker.json"

    @property
    def is_done(self) -> bool:
        return self.result.exists()

    def remove_half_files(self) -> None:
        """Take away what a process that was killed in the middle of a write left; for whoever holds the folder."""
        for path in self.path.glob(".*.part"):
            path.unlink(missing_ok=True)

    def append_journal(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append lines in one write, flushed to disk.

        A machine that goes down hard then has every line up to the checkpoint that is written next.
        """
        append_lines(self.journal, lines)

    def read_journal(self) -> Iterator[dict[str, Any]]:
        """Yield every (kind, stage, step) once, in order of writing.

        A resumed fold repeats the steps since its last checkpoint with equal numbers: the first line counts. A torn
        line is skipped.
        """
        seen: set[tuple[Any, Any, Any]] = set()
        for entry in read_lines(self.journal):
            identity = (entry.get("kind"), entry.get("stage"), entry.get("step"))
            if identity not in seen:
                seen.add(identity)
                yield entry

    @property
    def _advice(self) -> str:
        return f"remove the folder {self.path}, and it is computed again"

    def read_spec(self) -> FoldSpec | None:
        """What was asked for; None before the fold first started."""
        content = read_json(self.spec, advice=self._advice)
        try:
            return None if content is None else fold_spec_from_mapping(content)
        except UserError as error:
            raise damaged(self.spec, str(error), self._advice) from None

    def read_result(self) -> dict[str, Any] | None:
        """Source-side numbers of a finished fold; None while it is not finished."""
        return read_json(self.result, advice=self._advice)

    def read_test(self) -> dict[str, Any] | None:
        """Test-domain numbers. Only the report (and oracle selection, when asked for) calls this."""
        return read_json(self.test, advice=self._advice)

    def read_held_out(self, domain: str) -> dict[str, Any] | None:
        """A pair fold's numbers on one of its two test domains. Only `orchestrator.search.pair_folds` calls this."""
        return read_json(self.held_out(domain), advice=self._advice)
