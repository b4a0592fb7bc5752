"""Seeds that follow from what they are for, so that nothing depends on what ran before."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: str | int) -> int:
    """A seed in [0, 2**63) that is a pure function of its parts."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
