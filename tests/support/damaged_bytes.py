"""Damage to the bytes of a file, drawn from a seed."""

from __future__ import annotations

import random


def damaged_bytes(whole: bytes, chance: random.Random) -> bytes:
    """The bytes cut short, with one bit flipped, or with up to 199 of them replaced by zeros or noise."""
    content = bytearray(whole)
    kind, place = chance.choice(["cut", "flip", "flip", "zeros", "noise"]), chance.randrange(len(content))
    if kind == "cut":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << chance.randrange(8)
    else:
        length = min(chance.randrange(1, 200), len(content) - place)
        content[place : place + length] = bytes(length) if kind == "zeros" else chance.randbytes(length)
    return bytes(content)
