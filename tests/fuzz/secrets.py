"""Random secrets in addresses, queries and variables: no three letters of one are shown, and nothing else is lost."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

from tests.fuzz.tally import Tally, main, tally
from trainables.storage.redaction import redact

LETTERS = string.ascii_letters + string.digits
MARKS = "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"\\éß√"
VARIABLES = ("{}_KEY", "{}_CONNECTION_STRING", "{}PASS", "{}_AUTH", "{}PWD", "{}_TOKEN", "{}_PASSWORD", "my_{}_secret")
OPTIONS = ("token", "sig", "X-Amz-Signature", "access_token", "api_key", "password", "client_secret", "key", "auth")
Place = tuple[str, str, str, str, dict[str, str]]
"""What stands before the secret, the secret, how it is spelt, what stands behind it, and the environment."""
PART = 3
"""So many letters of a secret in a row are a part of it."""


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many texts."""
    return tally(_case, inputs, seed=seed)


def _case(chance: random.Random) -> str:
    place = chance.choice([_in_address, _in_query, _in_variable, _in_address_of_a_variable])
    before, secret, shown, after, environment = place(chance)
    text = f"BEFORE {before}{shown}{after} AFTER"
    found = redact(text, environment)
    if not (found.startswith("BEFORE ") and found.endswith(" AFTER")):
        return f"{text!r} lost its harmless words: {found!r}"
    # What the text holds beside the secret is no part of it; nor is one letter or two.
    harmless = f"BEFORE {before} {after} AFTER ***"
    parts = {secret[start : start + PART] for start in range(max(1, len(secret) - PART + 1))}
    left = [part for part in parts if part in found and part not in harmless]
    return f"{text!r} is shown as {found!r}" if left else ""


def _secret(chance: random.Random, letters: str) -> str:
    # One letter may stand anywhere, and a digit is a switch.
    return "".join(chance.choice(letters) for _ in range(chance.randint(2, 24)))


def _in_address(chance: random.Random) -> Place:
    secret = _secret(chance, LETTERS + MARKS)
    scheme = chance.choice(["http", "https", "postgresql", "mysql+pymysql", "s3"])
    end = chance.choice(["", ":8080", "/db", ":1/path?x=1", ": refused"])
    return f"{scheme}://{chance.choice(['me', 'a.b', ''])}:", secret, secret, f"@HOST{end}", {}


def _in_query(chance: random.Random) -> Place:
    secret = _secret(chance, LETTERS) + chance.choice(["", "%2F", "%3D%3D", "-_", "=="])
    before, after = chance.choice(["", "x=1&"]), chance.choice(["", "&y=2", "#end"])
    return f"https://HOST/path?{before}{chance.choice(OPTIONS)}=", secret, secret, after, {}


def _in_variable(chance: random.Random) -> Place:
    secret = _secret(chance, LETTERS + MARKS + " ").strip() or "s3"
    name = chance.choice(VARIABLES).format(chance.choice(["DB", "VENDOR", "X"]))
    spelt: Callable[[str], str] = chance.choice([str, quote, quote_plus, _in_full, json.dumps, repr, _in_small_letters])
    environment = {name: secret, "HOME": "/root", "OTHER_TOKEN": secret[: len(secret) // 2]}
    return "(", secret, spelt(secret), ")", environment


def _in_address_of_a_variable(chance: random.Random) -> Place:
    secret = _secret(chance, LETTERS + MARKS)
    spelt: Callable[[str], str] = chance.choice([str, quote, quote_plus, _in_full, json.dumps, repr])
    before, shown, after = chance.choice(
        [("(", spelt(secret), ")"), ("me:", secret, "@HOST"), ("host='", secret, "@HOST'")]
    )
    return before, secret, shown, after, {"MLFLOW_TRACKING_URI": f"http://me:{secret}@HOST:1"}


def _in_full(secret: str) -> str:
    return quote(secret, safe="")


def _in_small_letters(secret: str) -> str:
    """Percent-encoded with small letters, as some servers do."""
    return "".join(f"%{byte:02x}" if chr(byte) not in LETTERS else chr(byte) for byte in secret.encode())


if __name__ == "__main__":
    main(tried, "secrets")
