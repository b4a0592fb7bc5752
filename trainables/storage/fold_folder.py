"""What a fold leaves on disk: one class spells every filename; a file appears whole or not at all.

    FOLDER/spec.json            what was asked for
    FOLDER/journal.jsonl        one line per step and per evaluation, in order, append-only
    FOLDER/checkpoint.pt        to go on in mid-stage; gone once the fold is done
    FOLDER/student.safetensors  the evaluated weights
    FOLDER/test.json            test-domain numbers: only the report opens it
    FOLDER/held_out/DOMAIN.json a pair fold's numbers on one of its two test domains, which it has instead of test.json
    FOLDER/result.json          written last: the fold is done once it is there, and the files that it states are whole
                                (`storage.finished_folds`)
    FOLDER/lease.json           the sweep (or command) that handed the fold out, while it is at it (`storage.leases`)
    FOLDER/worker.json          the process that computes in here, while it does

Leakage: `read_result` and `read_journal` hold source-domain numbers only. The two test domains of a pair fold have a
file each: who selects for one opens the file about the other, which is a source domain there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError
from search_spaces.hyperparameters import FoldSpec, fold_spec_from_mapping
from trainables.storage.json_files import damaged, read_json
from trainables.storage.json_lines import append_lines, read_lines

RUN_AGAIN = "run the sweep again, which makes what is damaged again"


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
        """Whether there is a result; whether a fold's other files are whole is `storage.finished_folds`' to say."""
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
    def advice(self) -> str:
        """What to do about a damaged file of it."""
        return f"remove the folder {self.path}, and it is computed again"

    def read_spec(self) -> FoldSpec | None:
        """What was asked for; None before the fold first started."""
        content = read_json(self.spec, advice=self.advice)
        try:
            return None if content is None else fold_spec_from_mapping(content)
        except UserError as error:
            raise damaged(self.spec, str(error), self.advice) from None

    def read_result(self) -> dict[str, Any] | None:
        """Source-side numbers of a finished fold; None while it is not finished."""
        return read_json(self.result, advice=self.advice)

    def read_test(self, *, sha256: str = "") -> dict[str, Any] | None:
        """Test-domain numbers. Only the report (and oracle selection, when asked for) calls this.

        Raises:
            DamagedFileError: the file is damaged, or its SHA-256 is not the one that is stated.
        """
        return read_json(self.test, advice=RUN_AGAIN, sha256=sha256)

    def read_held_out(self, domain: str, *, sha256: str = "") -> dict[str, Any] | None:
        """A pair fold's numbers on one of its two test domains. Only
        `orchestrator.search.leave_one_domain_out` calls this.
        """
        return read_json(self.held_out(domain), advice=RUN_AGAIN, sha256=sha256)
