"""The one error a user can cause, and how it names what would have been right.

UserError            wrong input; the command line prints its one line and ends with exit code 2
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """The user's mistake: one line that says what is wrong, what is allowed and where to look."""


LONGEST = 100
"""Characters of a user's own text that a message repeats."""


def shortened(text: str, most: int = LONGEST) -> str:
    """A text, or its beginning where it is long.

    >>> shortened("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def echoed(value: object) -> str:
    """A value as an error repeats it: its `repr`, cut."""
    return shortened(repr(value))


def unknown_name(kind: str, name: str, allowed: Iterable[str], *, hint: str = "") -> UserError:
    """Describe a name that is not among the allowed ones, nearest names first.

    >>> str(unknown_name("domain", "scetch", ["sketch", "photo"]))
    "unknown domain 'scetch'; nearest: sketch; allowed: photo, sketch"
    """
    names, kind, name = sorted(allowed), shortened(kind), shortened(name)
    by_lower_case = {candidate.lower(): candidate for candidate in names}
    nearest = [by_lower_case[match] for match in get_close_matches(name.lower(), by_lower_case, n=3, cutoff=0.5)]
    parts = [f"unknown {kind} {name!r}"]
    if nearest:
        parts.append(f"nearest: {', '.join(nearest)}")
    parts.append(f"allowed: {', '.join(names) if names else 'none'}")
    if hint:
        parts.append(hint)
    return UserError("; ".join(parts))


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
