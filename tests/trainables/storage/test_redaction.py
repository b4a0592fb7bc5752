"""No secret is repeated, whatever it is nested in."""

from __future__ import annotations

import time

import pytest

from tests.fuzz import secrets
from trainables.storage.redaction import SECRET_NAMES, redact, redacted

ENVIRONMENT = {
    "VENDOR_API_KEY": "hush-hush",
    "SHORT_TOKEN": "abc",
    "EDITOR": "harmless",
    "DB_PASS": "p4",
    "TOKENIZERS_PARALLELISM": "false",
    "USE_AUTH": "1",
    "PWD": "/home/me",
    "LONGER_TOKEN": "hush-hush-and-more",
    "STORE": "AccountName=me;AccountKey=a/b+c==;EndpointSuffix=core",
    "MLFLOW_TRACKING_URI": "http://user:p@ssw0rd@127.0.0.1:1",
    "REPOSITORY": "ssh://git@host/x",
    "SAME": "postgresql://mlflow:mlflow@host/mlflow",
    "LS_COLORS": "di=01;34:*.key=00;31:*.sig=00",
    "PEM_KEY": "-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----",
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("https://token@host/x and s3://bucket/y", "https://***@host/x and s3://bucket/y"),
        ("it said: hush-hush!", "it said: ***!"),
        ("short: abc, not abcd", "short: ***, not abcd"),
        ("harmless value", "harmless value"),
        # A password with the letters that end one.
        ("http://user:p@ssw0rd@127.0.0.1:1", "http://***@127.0.0.1:1"),
        ("http://me:a/b@host:80/x", "http://***@host:80/x"),
        ("http://me:a?b#c@host", "http://***@host"),
        ("http://me:a b@host is away", "http://***@host is away"),
        ("http://host:80/x: tell me@example.org", "http://host:80/x: tell me@example.org"),
        ("file:///home/a@b", "file:///home/a@b"),
        # Of a known address whatever a careless reader makes of it.
        ("no host 'ssw0rd@127.0.0.1'", "no host '***@127.0.0.1'"),
        ("the password p%40ssw0rd", "the password ***"),
        # Options of an address, and assignments.
        ("https://host/x?token=t1&n=2", "https://host/x?token=***&n=2"),
        ("https://host/x?n=2&sig=a%2Fb#part", "https://host/x?n=2&sig=***#part"),
        ("s3 said X-Amz-Signature=0af1 and X-Amz-Date=2024", "s3 said X-Amz-Signature=*** and X-Amz-Date=2024"),
        ("https://host/?key=k1&key_id=2", "https://host/?key=***&key_id=2"),
        ("a fold's key=k1", "a fold's key=k1"),
        ("host=db password='a b' user=me", "host=db password=*** user=me"),
        ("HF_TOKEN=x1 make", "HF_TOKEN=*** make"),
        ('{"password": "x1", "n": "2"}', '{"password": ***, "n": "2"}'),
        ("Authorization: Bearer x1, more", "Authorization: *** more"),
        # Of the environment.
        ("p4 of p44 in /home/me", "*** of p44 in /home/me"),
        ("at 00:31", "at 00:31"),
        ("false 1 anonymous git mlflow", "false 1 anonymous git mlflow"),
        ("hush-hush-and-more", "***"),
        ("key a/b+c== and a%2Fb%2Bc%3D%3D and a%2fb%2bc%3d%3d", "key *** and *** and ***"),
        ("-----BEGIN----- MIIEvQIBADANBg -----END-----", "***"),
        ("the line MIIEvQIBADANBg", "the line ***"),
    ],
)
def test_a_text_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert redact(text, ENVIRONMENT) == shown
    assert redact(shown, ENVIRONMENT) == shown, "nothing more the second time"


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "some_apikey", "WANDB_KEY", "DB_KEY_2"),
        *("AZURE_STORAGE_CONNECTION_STRING", "SSHPASS", "DB_PASS", "REDISCLI_AUTH", "MYSQL_PWD", "VENDOR_SAS"),
    ],
)
def test_names_that_are_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush-hush")
    nested = {"hush-hush": ["hush-hush", ("x hush-hush", 3, None)]}
    assert redacted(nested) == {"***": ["***", ["x ***", 3, None]]}


@pytest.mark.parametrize(
    "name",
    [
        *("PWD", "OLDPWD", "SSH_ASKPASS", "PROXY_BYPASS", "TOKENIZERS_PARALLELISM", "MAX_NEW_TOKENS", "MONKEY"),
        *("PATH", "SSH_AUTH_SOCK", "endpoint_override", "region", "scheme"),
    ],
)
def test_names_that_are_none(name: str) -> None:
    assert not SECRET_NAMES.search(name)


def test_secrets_that_overlap_are_both_gone() -> None:
    assert redact("x abcdefghi y", {"A_TOKEN": "abcdefg", "B_TOKEN": "defghi"}) == "x *** y"


@pytest.mark.parametrize("text", ["a" * 200_000, "token=" * 30_000, "://" * 60_000, "://u:p" * 30_000, "'=" * 90_000])
def test_a_long_text_takes_no_time(text: str) -> None:
    started = time.monotonic()
    redact(text, ENVIRONMENT)
    assert time.monotonic() - started < 5


def test_random_secrets_are_shown_in_no_spelling() -> None:
    assert secrets.tried(150, seed=0).problems == []
