"""Seeds from parts, pinned: other numbers are another trainer version."""

from __future__ import annotations

import hashlib

from trainables.seeds import derived_seed


def test_a_seed_is_the_first_63_bits_of_the_parts_digest() -> None:
    expected = int(hashlib.sha256(b"step\x1f3\x1fdistill").hexdigest()[:16], 16) // 2
    assert derived_seed("step", 3, "distill") == expected == 5066185414100387356
    assert derived_seed("step", 33, "distill") != derived_seed("step3", 3, "distill")
    assert all(0 <= derived_seed(number) < 2**63 for number in range(100))
    assert max(derived_seed(number) for number in range(100)) > 2**62
