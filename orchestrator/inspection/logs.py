"""What a fold left behind while it ran: its journal, its failed attempts, and where its files lie.

Source-domain numbers only; `test.json` is not among the files that are opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.inspection.fold_names import KnownFold
from orchestrator.store.failures import Failure
from orchestrator.store.fold_store import FoldState
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.methods import method_facts
from trainables.storage.fold_folder import FoldFolder

LAST_LOSSES = 5
"""Losses shown of each stage."""
FOLLOW_S = 0.5

OVER = ("done", "failed", "pruned")

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldLog:
    """A fold's log at one moment."""

    key: str
    name: str
    state: FoldState
    evaluations: tuple[Entry, ...]
    """`stage`, `step`, `accuracy`, `cross_entropy` of every evaluation, in order."""
    last_losses: tuple[Entry, ...]
    """`stage`, `step`, `loss` of the last steps of each stage."""
    attempts: tuple[Failure, ...]
    """Attempts that went wrong, with their tracebacks."""
    files: tuple[str, ...]
    """The fold's files that are there, and its Align stage's."""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def fold_log(store: SweepFolder, known: KnownFold) -> FoldLog:
    """Read a fold's log; an unstarted fold's is empty."""
    entries = list(journal(store, known.key))
    return FoldLog(
        key=known.key,
        name=known.name,
        state=store.folds.fold_state(known.key, store.living_owner()),
        evaluations=tuple(entry for entry in entries if entry.get("kind") == "evaluation"),
        last_losses=tuple(_last_losses(entries)),
        attempts=store.folds.failures(known.key).attempts,
        files=tuple(_files(store, known.key)),
    )


def journal(store: SweepFolder, key: str) -> Iterator[Entry]:
    """Every line of a fold once, in order; those of a shared Align stage are in its own folder while it runs."""
    seen: set[tuple[Any, Any, Any]] = set()
    align = _align_folder(store, key)
    for folder in (align, store.folds.fold(key)) if align is not None else (store.folds.fold(key),):
        for entry in folder.read_journal():
            identity = (entry.get("kind"), entry.get("stage"), entry.get("step"))
            if identity not in seen:
                seen.add(identity)
                yield entry


def follow(store: SweepFolder, known: KnownFold, tell: Callable[[str], object]) -> FoldState:
    """Tell every new evaluation and failure, and now and then the latest loss, until the fold is over.

    Returns its state at the end, which is `waiting` where no command runs it any more.
    """
    told, failures, losses = 0, 0, 0
    while True:
        state = store.folds.fold_state(known.key, store.living_owner())
        entries = list(journal(store, known.key))
        steps = [entry for entry in entries if entry.get("kind") == "step"]
        if len(steps) > losses and state == "running":
            tell(entry_line(steps[-1]))
        losses = len(steps)
        evaluations = [entry for entry in entries if entry.get("kind") == "evaluation"]
        for entry in evaluations[told:]:
            tell(entry_line(entry))
        told = len(evaluations)
        attempts = store.folds.failures(known.key).attempts
        for failure in attempts[failures:]:
            tell(f"attempt failed ({failure.kind}): {failure.error}")
        failures = len(attempts)
        if state in OVER or (state != "running" and store.living_owner() is None):
            return state
        time.sleep(FOLLOW_S)


def entry_line(entry: Entry) -> str:
    """One line of a journal in words."""
    where = f"{entry.get('stage')} step {entry.get('step')}"
    if entry.get("kind") == "evaluation":
        return f"{where}: source validation {_percent(entry.get('accuracy'))}"
    return f"{where}: loss {entry.get('loss'):.5g}" if isinstance(entry.get("loss"), float) else where


def _last_losses(entries: list[Entry]) -> Iterator[Entry]:
    by_stage: dict[Any, list[Entry]] = {}
    for entry in entries:
        if entry.get("kind") == "step":
            by_stage.setdefault(entry.get("stage"), []).append(entry)
    for steps in by_stage.values():
        yield from ({name: step.get(name) for name in ("stage", "step", "loss")} for step in steps[-LAST_LOSSES:])


def _align_folder(store: SweepFolder, key: str) -> FoldFolder | None:
    spec = store.folds.spec(key)
    return store.folds.align(spec.align_key) if spec and method_facts(spec.method).aligns else None


def _files(store: SweepFolder, key: str) -> Iterator[str]:
    align = _align_folder(store, key)
    for folder in (store.folds.fold(key), align):
        if folder is not None and folder.path.is_dir():
            yield from (str(path) for path in sorted(folder.path.iterdir()) if not path.name.startswith("."))


def _percent(value: Any) -> str:
    return f"{value:.2%}" if isinstance(value, float) else "nothing"
