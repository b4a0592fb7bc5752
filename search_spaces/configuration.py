"""Frozen dataclasses from plain mappings, with errors that name the key; dotted overrides (`align.lr=1e-4`)."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union

import yaml

from search_spaces.errors import UserError, unknown_name

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
    """Set dotted keys (`align.lr=1e-4`) in a nested mapping; values are YAML scalars. Returns a new mapping."""
    result = _copied(mapping)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted:
            raise UserError(f"an override is KEY=VALUE with a dotted key, such as align.lr=1e-4; got {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"the value of override {override!r} is not a YAML value") from None
        *parents, last = dotted.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"override {override!r} reaches into {parent!r}, which is a plain value")
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
        if value not in typing.get_args(hint):
            raise unknown_name(f"value for {dotted}", str(value), map(str, typing.get_args(hint)))
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise UserError(f"{dotted} wants a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, dotted) for item in value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{dotted} wants a mapping, got {value!r}")
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
        return value
    if hint is float and not isinstance(value, bool):
        # YAML reads 1e-4 (no dot) as text.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif hint in (int, bool) and type(value) is hint:
        return value
    elif hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{dotted} wants {getattr(hint, '__name__', hint)}, got {value!r}")
