"""How many folds fit on one GPU, from what the sweep's own finished folds held of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

GIB = 2**30
CONTEXT_BYTES = GIB
"""What a process holds of a GPU beside torch's memory: CUDA's context and libraries, rounded up."""
USED_SHARE = 0.9
"""Of a GPU's memory; the rest is for what differs between folds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuShare:
    """What one fold takes of a GPU."""

    peak_bytes: int
    """Most that torch held in any fold."""
    total_bytes: int
    """Memory of the smallest GPU."""

    @property
    def folds(self) -> int:
        """Folds that fit on one GPU at a time; at least the one that ran."""
        return max(1, int(USED_SHARE * self.total_bytes // (self.peak_bytes + CONTEXT_BYTES)))

    @property
    def line(self) -> str:
        """`a fold held up to 11.2 of 139.8 GiB of its GPU: 10 fit on one (--gpus-per-worker 0.1)`."""
        held = f"a fold held up to {self.peak_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB of its GPU"
        if self.folds == 1:
            return f"{held}: a second one does not fit"
        # Rounded down: as many folds as fit may then really run.
        return f"{held}: {self.folds} fit on one (--gpus-per-worker {math.floor(1000 / self.folds) / 1000:g})"


def gpu_share(memories: Iterable[Mapping[str, int] | None]) -> GpuShare | None:
    """From what finished folds held of their GPUs; None where none of them had one."""
    measured = [memory for memory in memories if memory]
    if not measured:
        return None
    return GpuShare(
        peak_bytes=max(memory["peak_bytes"] for memory in measured),
        total_bytes=min(memory["total_bytes"] for memory in measured),
    )


class ShareTeller:
    """Says how many folds fit on a GPU once it was measured, and again only where a later fold shows that fewer do."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._measured: list[Mapping[str, int]] = []
        self._told: int | None = None

    def look(self, memory: Mapping[str, int] | None) -> None:
        """Look at what a finished fold held of its GPU; None without one."""
        if memory:
            self._measured.append(memory)
        share = gpu_share(self._measured)
        if share is not None and (self._told is None or share.folds < self._told):
            self._told = share.folds
            self._say(share.line)
