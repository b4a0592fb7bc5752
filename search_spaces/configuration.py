"""Frozen dataclasses from plain mappings, with errors that name the key; dotted overrides (`align.lr=1e-4`).

An unquoted value of a configuration file or an override is text until here, where its field says its type.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union

from search_spaces.errors import UserError, echoed, shortened, unknown_name
from search_spaces.yaml_text import PlainText, parse_value, read_integer, read_number, read_truth, resolved

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], *, where: str = "") -> T:
    """Build a (nested) frozen dataclass; unknown, missing and ill-typed keys raise `UserError`."""
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where or cls.__name__} wants a mapping, got {type(mapping).__name__}")
    hints = field_types(cls)  # type: ignore[arg-type]
    values = {}
    for key, value in mapping.items():
        dotted = f"{where}.{key}" if where else str(key)
        if key not in hints:
            raise unknown_name("key", dotted, [f"{where}.{name}" if where else name for name in hints])
        values[key] = _convert(hints[key], value, dotted)
    lacking = [name for name in _required(cls) if name not in values]  # type: ignore[arg-type]
    if lacking:
        raise UserError(f"{where or cls.__name__} lacks {', '.join(lacking)}")
    return cls(**values)


@cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name; remembered, because they are compiled from text at every question."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


@cache
def _required(cls: type) -> tuple[str, ...]:
    """Fields of a dataclass that have no default."""
    return tuple(
        field.name for field in fields(cls) if field.init and field.default is MISSING is field.default_factory
    )


def apply_overrides(mapping: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set dotted keys (`align.lr=1e-4`) in a nested mapping; a value is plain text, or YAML. Returns a new mapping."""
    result = _copied(mapping)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted:
            raise UserError(
                f"an override is KEY=VALUE with a dotted key, such as align.lr=1e-4; got {echoed(override)}"
            )
        value = parse_value(text, f"the value of override {echoed(override)}")
        *parents, last = dotted.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"override {echoed(override)} reaches into {parent!r}, which is a plain value")
        place[last] = value
    return result


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain values as one level of dotted names.

    >>> flat({"align": {"lr": 0.1}, "student": "small"})
    {'align.lr': 0.1, 'student': 'small'}
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def _copied(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in mapping.items()}


def _convert(hint: Any, value: Any, dotted: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        arms = typing.get_args(hint)
        if value is None and type(None) in arms:
            return None
        return _convert(next(arm for arm in arms if arm is not type(None)), value, dotted)
    if origin is Literal:
        allowed = typing.get_args(hint)
        texts = {str(one): one for one in allowed}
        if isinstance(value, PlainText) and value in texts:
            return texts[value]
        if not isinstance(value, str | int | float) or value not in allowed:
            raise unknown_name(f"value for {dotted}", str(value), texts)
        return str(value) if isinstance(value, str) else value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise UserError(f"{shortened(dotted)} wants a list, got {echoed(value)}")
        return tuple(_convert(typing.get_args(hint)[0], item, dotted) for item in value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{shortened(dotted)} wants a mapping, got {echoed(value)}")
        of = typing.get_args(hint)[1]
        if not is_dataclass(of):
            return dict(value)
        return {key: _convert(of, item, f"{dotted}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return from_mapping(hint, value, where=dotted)  # type: ignore[arg-type]
    return _convert_scalar(hint, value, dotted)


def _convert_scalar(hint: Any, value: Any, dotted: str) -> Any:
    if hint is Any:
        return resolved(value)
    found = _read(hint, value) if isinstance(value, PlainText) else value
    if hint is float and isinstance(found, str):
        found = read_number(found)
    if hint is float and isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    if hint in (int, bool) and type(found) is hint:
        return found
    if hint is str and isinstance(found, str | int | float) and not isinstance(found, bool):
        return str(found)
    raise UserError(f"{shortened(dotted)} wants {getattr(hint, '__name__', hint)}, got {echoed(value)}")


def _read(hint: Any, text: PlainText) -> Any:
    """Plain text by the type of its field; None where it is no such value."""
    readers = {int: read_integer, bool: read_truth, float: read_number}
    return readers[hint](text) if hint in readers else text
