"""Changes that cannot change what the code does, each with its reason; they are never drawn.

`line` and `becomes` are a line of the source and the same line with the change, without indentation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equivalent:
    """One change that no test could notice."""

    area: str
    operator: str
    line: str
    becomes: str
    reason: str


EQUIVALENT: tuple[Equivalent, ...] = ()
