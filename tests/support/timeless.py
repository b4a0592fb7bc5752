"""JSON of a fold without what no two runs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIMES = frozenset({"time", "seconds", "started", "finished"})
STATED = frozenset({"files", "sha256"})
"""What a result states of its files, the journal's times among them, and of itself."""


def timeless(content: Any) -> Any:
    """The same without times, and without what a result states of its files' bytes."""
    if isinstance(content, Mapping):
        return {name: timeless(value) for name, value in content.items() if name not in TIMES | STATED}
    return [timeless(item) for item in content] if isinstance(content, list) else content
