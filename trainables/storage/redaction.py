"""What no message, log or record may repeat: credentials in addresses, and in the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""Names of environment variables, and of options of an address, whose values are secrets."""

_USER_INFO = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST_SECRET = 6
_REDACTED = "***"


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace credentials inside addresses, and values of environment variables that are named like a secret."""
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        if SECRET_NAMES.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, _REDACTED)
    return _USER_INFO.sub(_REDACTED, text)


def redacted(value: Any) -> Any:
    """Redact every text inside nested plain values."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value
