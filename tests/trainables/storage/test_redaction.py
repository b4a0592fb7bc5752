"""No secret is repeated, whatever it is nested in."""

from __future__ import annotations

import pytest

from trainables.storage.redaction import redact, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:pw@host/db", "postgresql://***@host/db"),
        ("https://token@host/x and s3://bucket/y", "https://***@host/x and s3://bucket/y"),
        ("it said: hush-hush!", "it said: ***!"),
        ("short: abc", "short: abc"),
        ("harmless value", "harmless value"),
    ],
)
def test_a_text_is_shown_without_its_secrets(text: str, shown: str) -> None:
    environment = {"VENDOR_API_KEY": "hush-hush", "SHORT_TOKEN": "abc", "EDITOR": "harmless"}
    assert redact(text, environment) == shown


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "some_apikey"])
def test_names_that_are_secrets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hush-hush")
    nested = {"hush-hush": ["hush-hush", ("x hush-hush", 3, None)]}
    assert redacted(nested) == {"***": ["***", ["x ***", 3, None]]}
