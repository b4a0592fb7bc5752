"""Settings of a small real fold, and the environment of commands that run it."""

from __future__ import annotations

import os

FIELDS = {"trials": 1, "seeds": 1, "space": "paper"}
"""Four folds, two at a time."""


def environment() -> dict[str, str]:
    own = {**os.environ, "PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"}
    own.pop("RAY_ADDRESS", None)
    return own
