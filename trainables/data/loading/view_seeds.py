"""Which images a step shows and how: pure functions of (seed, stage, domain, step, position), without torch."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def step_choices(
    seed: int, stage: str, domain_index: int, step: int, pool_size: int, batch_size: int
) -> npt.NDArray[np.int64]:
    """Positions in a domain's pool that a step shows, int64 [batch_size], with replacement.

    Philox numbers keyed by the arguments' SHA-256: numpy keeps a bit generator's numbers the same between versions,
    which it does not promise for `Generator.integers`. Modulo a pool of millions the bias is below 1e-12.
    """
    key = int.from_bytes(_digest("choices", seed, stage, domain_index, step)[:16], "little")
    return (np.random.Philox(key=key).random_raw(batch_size) % np.uint64(pool_size)).astype(np.int64)


def live_view_seed(seed: int, stage: str, step: int, domain_index: int, position: int) -> int:
    """Seed of the train view at a position of a step, in [0, 2**31)."""
    return int.from_bytes(_digest("view", seed, stage, step, domain_index, position)[:4], "little") >> 1


def stored_view(seed: int, stage: str, step: int, domain_index: int, position: int, num_views: int) -> int:
    """Which of the K stored views a position of a step shows (`views:K`)."""
    return live_view_seed(seed, stage, step, domain_index, position) % num_views


def stored_view_seed(path: str, view: int) -> int:
    """Seed of an image's k-th stored view, in [0, 2**31): the same for every fold, seed, stage and trial."""
    return int.from_bytes(_digest("stored view", path, view)[:4], "little") >> 1


def _digest(*arguments: int | str) -> bytes:
    return hashlib.sha256(repr(arguments).encode()).digest()
