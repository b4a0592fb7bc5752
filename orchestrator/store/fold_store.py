"""STORE: folds, Align stages, teacher answers and the ledger, which any number of sweeps may share.

    STORE/folds/KEY/         a fold's files (`trainables.storage.fold_folder`), error.json when it went wrong,
                             pruned.json when a sweep gave it up
    STORE/aligns/KEY/        an Align stage that folds share
    STORE/embeddings/KEY/    the teacher's answers (`trainables.teacher.stored.store`)
    STORE/queries/           what the teacher was asked (`trainables.teacher.ledger`)

Everything here is named by content. Nothing here reads test-domain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from orchestrator.store.failures import FailureHistory, read_failures
from orchestrator.store.remote.mirrors import StoreMirrors
from orchestrator.store.results import FoldResult, whole_result
from search_spaces.hyperparameters import FoldSpec
from trainables.storage.finished_folds import OtherFoldError
from trainables.storage.fold_folder import FoldFolder
from trainables.storage.json_files import readable_json, write_json
from trainables.storage.leases import clear_dead, living_owner_of

FoldState = Literal["done", "running", "failed", "pruned", "waiting"]


class FoldStore:
    """A store of folds, as one sweep sees it; its methods read and write, and decide nothing."""

    def __init__(self, path: Path, *, mirrors: StoreMirrors, sweep_key: Callable[[], str]) -> None:
        """Name the folder's files; nothing is read.

        Args:
            path: STORE.
            mirrors: told of every file that is written.
            sweep_key: key of the sweep whose view this is; what it gave up counts as pruned.
        """
        self.path, self._mirrors, self._sweep_key = path, mirrors, sweep_key
        self.embeddings_folder = path / "embeddings"
        self.queries_folder = path / "queries"

    def fold(self, key: str) -> FoldFolder:
        return FoldFolder(self.path / "folds" / key)

    def align(self, key: str) -> FoldFolder:
        return FoldFolder(self.path / "aligns" / key)

    def spec(self, key: str) -> FoldSpec | None:
        """What a fold was asked to compute; None before it first started.

        Raises:
            OtherFoldError: it asks for another fold than the folder's name says.
        """
        folder = self.fold(key)
        spec = folder.read_spec()
        if spec is not None and spec.key != key:
            other = self.fold(spec.key).path
            raise OtherFoldError(
                f"{folder.spec} asks for another fold than its folder is named for, that of {other}: put each folder "
                f"back in its place, or remove {folder.path} and run the sweep again"
            )
        return spec

    def result(self, key: str, *, by_content: bool = False) -> FoldResult | None:
        """Source-side numbers of a fold that is done; None for any other, and where one of its files is damaged.

        Args:
            by_content: compare the small files' contents too, not their sizes alone.

        Raises:
            OtherFoldError: it is another fold's result, or an accuracy is no fraction.
        """
        elsewhere = bool(self._mirrors)
        return whole_result(self.fold(key), key, by_content=by_content, weights_elsewhere=elsewhere)

    def failures(self, key: str) -> FailureHistory:
        """The fold's failed attempts."""
        return read_failures(self.fold(key))

    def mark_pruned(self, key: str, decision: Mapping[str, Any], sweep_key: str) -> None:
        """Note in a fold's folder that a sweep gave it up, and why; other sweeps on the store may go on with it."""
        path = self._pruned_file(key)
        before = pruning_sweeps(readable_json(path))
        if sweep_key not in before:
            self._write(path, {**decision, "sweeps": [*before, sweep_key]})

    def pruned(self, key: str) -> dict[str, Any] | None:
        """Why a fold was pruned, and by which sweeps; None where it was not."""
        return readable_json(self._pruned_file(key)) or None

    def mark_running(self, key: str, owner: str) -> None:
        """Note which owner of the sweep's lease runs a fold."""
        self._write(self._running_file(key), {"owner": owner})

    def unmark_running(self, key: str) -> None:
        self._running_file(key).unlink(missing_ok=True)
        self._mirrors.note(self._running_file(key))

    def tidy_done(self, key: str) -> None:
        """Remove what a process that was killed between a fold's result and its own tidying left beside it."""
        folder = self.fold(key)
        self.unmark_running(key)
        if folder.checkpoint.exists():
            folder.checkpoint.unlink(missing_ok=True)
            self._mirrors.note(folder.checkpoint)
        clear_dead(folder.lease)
        clear_dead(folder.worker)

    def running_since(self, key: str) -> float | None:
        """When a fold that runs was started, in Unix seconds; None where it does not run."""
        try:
            return self._running_file(key).stat().st_mtime
        except FileNotFoundError:
            return None

    def fold_state(self, key: str, living_owner: str | None) -> FoldState:
        """A fold's state; it runs while the one who started it lives, in this sweep or in another on the store."""
        return self.standing(key, living_owner)[0]

    def standing(self, key: str, living_owner: str | None) -> tuple[FoldState, FoldResult | None]:
        """A fold's state, and the result of one that is done."""
        if self.failures(key).failed:
            return "failed", None
        result = self.result(key)
        return ("done", result) if result is not None else (self._unfinished_state(key, living_owner), None)

    def _unfinished_state(self, key: str, living_owner: str | None) -> FoldState:
        if self._sweep_key() in pruning_sweeps(self.pruned(key) or {}):
            return "pruned"
        mark = readable_json(self._running_file(key)) if living_owner else {}
        if living_owner and mark.get("owner") == living_owner:
            return "running"
        # Another sweep on the store may run it.
        return "running" if living_owner_of(self.fold(key).lease) is not None else "waiting"

    def _pruned_file(self, key: str) -> Path:
        return self.fold(key).path / "pruned.json"

    def _running_file(self, key: str) -> Path:
        return self.fold(key).path / "running.json"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        write_json(path, content)
        self._mirrors.note(path)


def pruning_sweeps(content: Mapping[str, Any]) -> list[str]:
    """Keys of the sweeps that gave a fold up, by its `pruned.json`."""
    sweeps = content.get("sweeps")
    return [str(key) for key in sweeps] if isinstance(sweeps, list) else []
