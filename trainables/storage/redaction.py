"""What no message, log or record may repeat: credentials in addresses, in `name=value` texts, in the environment.

Where a secret ends is often a guess. The longest reading counts: a text may lose a harmless word, never hide half a
password.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

SECRET_NAMES = re.compile(
    r"""^(?!(?:OLD)?PWD$)                                # the working directory
    (?!.*(?:ASKPASS|BYPASS|COMPASS)$)                    # programs and switches
    (?!.*(?:MAX|MIN|NUM)(?:_\w*)?_TOKENS?$)(?!.*TOKENIZ) # counts and switches of language models
    .*(?:
        TOKEN | SECRET | PASSWORD | PASSWD | PASSPHRASE | PASSCODE | CREDENTIAL | SIGNATURE | AUTHORIZATION | BEARER
        | (?:API|ACCESS|PRIVATE|ACCOUNT|SHARED|SIGNING|ENCRYPTION)[_.-]?KEY | CONN(?:ECTION)?[_.-]?STR(?:ING)?
        | (?:PASS | AUTH | PWD | (?:^|[_.-])(?:KEYS? | SIG | SAS | JWT | DSN | PIN | PW | CREDS?))(?:[_.-]?\d+)?$
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""Names of environment variables, of options of an address and of `name=value` texts, whose values are secrets."""

_QUERY_NAMES = re.compile(r"key|code|otp", re.IGNORECASE)
"""Further names that are secrets behind the `?`, `&` or `#` of an address, and are words like others elsewhere."""

_ADDRESS = re.compile(r"://(?!/)")
_NO_PORT = re.compile(r"[^/?#@]*:(?!\d*(?:[/?#,;:)'\"]|$))")
"""An authority with a colon and no port behind it: a password, whose end is further on."""
_NAME = re.compile(r"(?<![\w.-])(?P<name>[\w-][\w.-]*)(?:=|%3D|['\"]\s*:\s*(?=['\"]))", re.IGNORECASE)
"""`name=`, and the `"name": ` of JSON and Python in front of a quoted text."""
_VALUE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s&#]*""")
_AUTHORIZATION = re.compile(
    r"Authorization['\"]?\s*[:=]\s*['\"]?((?:(?:Bearer|Basic|Digest|Token)\s+)?\S+)", re.IGNORECASE
)
_HARMLESS_VALUES = frozenset(
    {"", "0", "1", "true", "false", "yes", "no", "on", "off", "none", "null", "anonymous", "***"}
)
"""Switches, whatever their variable is called."""
_WHOLE_WORDS_BELOW = 6
"""A shorter secret is looked for as a word of its own: inside of others it would be found by chance."""
_LEAST_USER = 12
"""A user without a password is a token where it is as long as one; `git` and `anonymous` are words."""
_LEAST_LINE, _LEAST_PIECE = 8, 2
"""Letters of a line of a longer secret, and of a piece of a password, that count as secrets of their own."""
_REDACTED = "***"
Span = tuple[int, int]


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace credentials inside addresses and `name=value` texts, and the environment's secrets, by `***`.

    The environment's secrets are values of variables that are named like one, and passwords of addresses in any
    variable; they are found as they are, percent-encoded, and escaped as in JSON and Python.
    """
    environment = os.environ if environment is None else environment
    secrets = _secrets(tuple(sorted(environment.items())))
    known = (match.span(1) for pattern in secrets for match in pattern.finditer(text))
    return _without(text, [*_written_out(text), *known])


def redacted(value: Any) -> Any:
    """Redact every text inside nested plain values."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


def _written_out(text: str) -> Iterator[Span]:
    """Where the text itself says that something is a credential."""
    for line in re.finditer(r"[^\n]+", text):
        for word in re.finditer(r"\S+", line[0]):
            if (begin := _ADDRESS.search(word[0])) is None:
                continue
            # Up to the last @: a password may hold @, / and ?, and a space where nothing else explains its colon.
            if (at := word[0].rfind("@")) < 0 and _NO_PORT.match(word[0], begin.end()):
                at = line[0].rfind("@") - word.start()
            start = line.start() + word.start()
            yield start + begin.end(), start + at
    yield from (match.span(1) for match in _AUTHORIZATION.finditer(text))
    yield from _assigned(text)


def _assigned(text: str) -> Iterator[Span]:
    """The values of every `name=value` whose name is a secret's."""
    place = 0
    while (match := _NAME.search(text, place)) is not None:
        place = match.end()
        name, before = match["name"], text[max(0, match.start() - 1) : match.start()]
        # A bare `key=` is a word of ours; with anything before it (`account_key=`) it is not.
        is_secret = name.lower() != "key" and SECRET_NAMES.search(name)
        if is_secret or (before in ("?", "&", ";", "#") and _QUERY_NAMES.fullmatch(name)):
            value = _VALUE.match(text, place)
            assert value is not None, "it may be empty"
            place = value.end()
            if value[0].lower() not in _HARMLESS_VALUES:
                yield value.span()


@lru_cache(maxsize=4)
def _secrets(environment: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], ...]:
    """A pattern for every secret of an environment, in every spelling."""
    found: set[str] = set()
    for name, value in environment:
        if SECRET_NAMES.search(name):
            found |= {value, *(line for line in value.splitlines() if len(line.strip()) >= _LEAST_LINE)}
        for start, stop in _assigned(value):
            # In a connection string a value ends at the semicolon.
            found |= {value[start:stop], re.split("[;,]", value[start:stop])[0]}
        for part in {value, *re.split(r"[\s,;]+", value)}:
            found |= set(_passwords(part))
    spellings = {spelling.strip() for secret in found for spelling in _spellings(secret.strip())}
    return tuple(_pattern(spelling) for spelling in spellings if spelling.lower() not in _HARMLESS_VALUES)


def _passwords(address: str) -> Iterator[str]:
    """The credentials of an address: the password, or a token in place of a user."""
    _, separator, rest = address.partition("://")
    info, at, _ = rest.rpartition("@")
    if not separator or not at or info.startswith("/"):
        return
    user, colon, password = info.partition(":")
    if not colon and len(user) >= _LEAST_USER:
        yield user
    # `mlflow:mlflow@host` keeps no secret, and hides the word in every message.
    if password and password != user:
        yield password
        yield info
        # Whoever reads an address from its first @ or / on takes the rest of the password for a host or a path.
        yield from (piece for piece in re.split("[@/?#:]", password) if len(piece) >= _LEAST_PIECE)


def _spellings(secret: str) -> set[str]:
    """How a text may show a secret: as it is, on one line, unquoted, encoded for an address, escaped."""
    bare = secret[1:-1] if len(secret) > 2 and secret[0] == secret[-1] and secret[0] in "'\"" else secret
    plain = {secret, bare, " ".join(secret.split()), unquote(secret), unquote_plus(secret)}
    shown = set(plain)
    for one in plain:
        # A byte of the environment that is not UTF-8 is a lone surrogate.
        shown |= {quote(one, safe=safe, errors="surrogateescape") for safe in ("/", "", "!'()*~")}
        shown |= {quote_plus(one, errors="surrogateescape"), _encoded(one)}
        shown |= {json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1], repr(one)[1:-1]}
    return shown


def _encoded(text: str) -> str:
    """Percent-encoded but for letters and digits."""
    data = text.encode(errors="surrogateescape")
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}" for byte in data)


def _pattern(secret: str) -> re.Pattern[str]:
    escaped = re.escape(secret)
    if len(secret) < _WHOLE_WORDS_BELOW:
        before = r"(?<![^\W_])" if secret[0].isalnum() else ""
        after = r"(?![^\W_])" if secret[-1].isalnum() else ""
        escaped = f"{before}{escaped}{after}"
    # Percent-encodings are the same in both cases.
    return re.compile(f"(?=({re.sub(r'%([0-9A-F]{2})', lambda code: f'(?i:{code[0]})', escaped)}))")


def _without(text: str, spans: Iterable[Span]) -> str:
    """The text with its spans replaced; those that overlap or touch are one."""
    parts: list[str] = []
    place = -1
    for start, stop in sorted(span for span in spans if span[0] < span[1]):
        if start > place:
            parts += [text[max(0, place) : start], _REDACTED]
        place = max(place, stop)
    return "".join([*parts, text[max(0, place) :]])
