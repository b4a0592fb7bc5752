"""Names in a pack, for who writes one (`pack.py`) and who reads it (`packed.py`)."""

from __future__ import annotations

PACK_FORMAT = 2
DESCRIPTION, INDEX = "pack.json", "index.arrow"
POOLS = ("", "train", "test")
"""A row's pool by its number in the index: serves every role, source domains only, the test domain only."""


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.arrow"
