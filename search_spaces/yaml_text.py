"""YAML as people write it: an unquoted value stays text until the type of its field is known.

YAML 1.1, which PyYAML reads, makes False of `off`, 202401 of `2024_01`, 750 of `12:30` and 8 of `010`. Here nothing but
null is recognised by its looks: `search_spaces.configuration` converts the text by the declared type of its field. A
key that stands twice, a value that contains itself and aliases that unfold without end are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from search_spaces.errors import UserError, shortened

MOST_BYTES = 1024 * 1024
"""Size of a file from which on it is no configuration."""
MOST_VALUES = 100_000
"""Values that a file may unfold into."""
NULL = ("", "~", "null", "Null", "NULL")
MERGE = "<<"
"""The key whose mapping fills in what is missing in the mapping around it."""

INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.?inf|\.?nan", re.IGNORECASE)
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class PlainText(str):
    """An unquoted value as it was written."""

    __slots__ = ()


def parse_yaml(content: bytes | str, what: str) -> Any:
    """Read YAML into mappings with text keys, lists, None, `PlainText`, and `str` for what was quoted.

    Args:
        content: the file's bytes, or text.
        what: how an error names it.

    Raises:
        UserError: one line: no UTF-8 text, no YAML, a key that stands twice, or aliases without end.
    """
    if len(content) > MOST_BYTES:
        raise UserError(f"{what} is not YAML: it has {len(content):,} bytes, and {MOST_BYTES:,} are allowed")
    text = content if isinstance(content, str) else _decoded(content, what)
    try:
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return None if node is None else _Values(what).value(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f" in line {mark.line + 1}"
        problem = shortened(" ".join(part for part in (error.context, error.problem) if part))
        raise UserError(f"{what} is not YAML: {problem}{place}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{what} is not YAML: {shortened(' '.join(str(error).split()))}") from None
    except RecursionError:
        raise UserError(f"{what} is not YAML: its brackets are nested too deeply") from None


def parse_value(text: str, what: str) -> Any:
    """Read the value of `KEY=VALUE`: YAML where it begins with a bracket or a quote, else the text as it stands."""
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return parse_yaml(text, what)
    return None if text in NULL else PlainText(text)


def resolved(value: Any) -> Any:
    """The same with plain text read by its looks, as in YAML 1.2, for a reader that declares no types."""
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item) for item in value]
    if not isinstance(value, PlainText):
        return value
    if value.lower() in ("true", "false"):
        return TRUTH[value.lower()]
    if INTEGER.fullmatch(value):
        return read_integer(value)
    is_number = NUMBER.fullmatch(value) and value[-1:].isdigit() and not value.lstrip("+-").isdigit()
    return float(value) if is_number else str(value)


def read_integer(text: str) -> int | None:
    """A whole number in decimal digits; None for anything else, a leading zero too, and for thousands of digits."""
    try:
        return int(text) if INTEGER.fullmatch(text) else None
    except ValueError:
        return None


def read_number(text: str) -> float | None:
    """A number; None for anything else."""
    return float(text.replace(".inf", "inf").replace(".nan", "nan")) if NUMBER.fullmatch(text) else None


def read_truth(text: str) -> bool | None:
    """True of true, yes and on, False of false, no and off; None for anything else."""
    return TRUTH.get(text.lower())


class _Values:
    """Unfolds YAML's nodes, and counts what they come to."""

    def __init__(self, what: str) -> None:
        self._what, self._left = what, MOST_VALUES
        self._around: set[int] = set()

    def value(self, node: yaml.Node) -> Any:
        self._left -= 1
        if self._left < 0:
            raise UserError(f"{self._what} unfolds into more than {MOST_VALUES:,} values")
        if node.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            raise UserError(f"{self._what} has the tag {shortened(node.tag)}{_line(node)}; tags are not read")
        if isinstance(node, yaml.ScalarNode):
            return str(node.value) if node.style else None if node.value in NULL else PlainText(node.value)
        if id(node) in self._around:
            raise UserError(f"{self._what} has a value that contains itself{_line(node)}")
        self._around.add(id(node))
        unfolded = self._mapping(node) if isinstance(node, yaml.MappingNode) else [*map(self.value, node.value)]
        self._around.remove(id(node))
        return unfolded

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, str] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in lines:
                raise UserError(f"{self._what} has the key {shortened(key)!r} twice{lines[key]} and{_line(key_node)}")
            lines[key] = _line(key_node)
            if key == MERGE and not key_node.style:
                for item in self._merged(value_node):
                    merged = {**item, **merged}
            else:
                own[key] = self.value(value_node)
        return {**merged, **own}

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise UserError(f"{self._what} has a key that is no text{_line(node)}")
        return str(node.value)

    def _merged(self, node: yaml.Node) -> Iterator[dict[str, Any]]:
        value = self.value(node)
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, dict):
                raise UserError(f"{self._what} merges what is no mapping{_line(node)}")
            yield item


def _line(node: yaml.Node) -> str:
    return f" in line {node.start_mark.line + 1}"


def _decoded(content: bytes, what: str) -> str:
    """UTF-8 text, with or without a byte order mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{what} is not YAML: it is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{what} is not YAML: byte {content[error.start]:#04x} in line {line} is not UTF-8") from None
