"""What went wrong in a sweep's folds and what became of it, for `status` and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.store.failures import FailureHistory, FailureKind
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.folds import Fold

NAMED = 5
"""Failed folds that a table's notes name; the others are counted."""

WORDS: dict[FailureKind, str] = {
    "out_of_memory": "out of memory",
    "lost_node": "lost machine",
    "lost": "worker process that died",
    "crash": "crash",
    "diverged": "diverged",
    "no_metric": "no metric",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureSummary:
    """A fold in which something went wrong."""

    key: str
    group: str
    benchmark: str
    method: str
    fold: Fold
    failed: bool
    """No further attempt is made; else there was one, or will be."""
    kind: FailureKind
    """Of the last attempt."""
    error: str
    """The last attempt's last line; of a diverged loss the step and the last good checkpoint."""
    kinds: dict[FailureKind, int]
    """How often each kind happened."""
    batch_pieces: int
    """Times that its batches were halved because memory ran out, as pieces: 1, 2, 4, ..."""

    @property
    def line(self) -> str:
        """`failed: icons/erm/line icons/line/seed0 (diverged): the loss of stage distill is nan at step 7; ...`."""
        counts = ", ".join(f"{count} x {WORDS.get(kind, kind)}" for kind, count in self.kinds.items())
        pieces = f", in {self.batch_pieces} pieces" if self.batch_pieces > 1 else ""
        if self.failed:
            return f"failed: {self.group} {self.fold} ({counts}{pieces}): {self.error}"
        return f"tried again: {self.group} {self.fold} ({counts}{pieces})"


def failure_summaries(store: SweepFolder) -> tuple[FailureSummary, ...]:
    """Every fold of the sweep that has a failed attempt, once."""
    found: dict[str, FailureSummary] = {}
    for group in store.groups():
        for planned in store.records.planned_folds(group.name):
            tried = store.folds.failures(planned.key)
            if tried.attempts and planned.key not in found:
                last = tried.attempts[-1]
                found[planned.key] = FailureSummary(
                    key=planned.key,
                    group=group.name,
                    benchmark=group.benchmark,
                    method=group.method,
                    fold=planned.fold,
                    failed=tried.failed,
                    kind=last.kind,
                    error=last.error,
                    kinds=_kinds(tried),
                    batch_pieces=2**tried.doublings,
                )
    return tuple(found.values())


def failure_notes(found: Sequence[FailureSummary], benchmark: str) -> Iterator[str]:
    """What a table has to say of its failed folds, and of those that were computed in pieces."""
    own = [failure for failure in found if failure.benchmark == benchmark]
    failed = [failure for failure in own if failure.failed]
    yield from (failure.line for failure in failed[:NAMED])
    if len(failed) > NAMED:
        yield f"failed: {len(failed) - NAMED} folds more (`status` names them)"
    split = [failure for failure in own if failure.batch_pieces > 1 and not failure.failed]
    if split:
        names = ", ".join(f"{failure.method} {failure.fold}" for failure in split[:NAMED])
        more = f" and {len(split) - NAMED} more" if len(split) > NAMED else ""
        yield f"computed with smaller pieces of the same batches after memory ran out, equal to rounding: {names}{more}"


def _kinds(tried: FailureHistory) -> dict[FailureKind, int]:
    return dict(Counter(failure.kind for failure in tried.attempts))
