"""Fields of our dataclasses as a reader of help and manuals sees them: what each means, and which are options.

The string below a field says what it means. A field that the command line takes as an option says so in its metadata:

    trials: int = field(default=1, metadata=option("Search") | within(1))
    'Configurations tried in each fold group.'

What a number may be is metadata too, so that the check, the manual and the schema of a configuration cannot differ.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from math import inf
from typing import Any, Literal, Union, get_args, get_origin

from search_spaces.configuration import field_types
from search_spaces.errors import UserError

Panel = Literal["What is run", "Search", "Where", "Resources of a fold", "How folds run", "Budgets and prices"]
"""Headings in `--help`, in their order."""

OPTION = "option"
BOUNDS = "bounds"
METAVARS: Mapping[Any, str] = {int: "N", float: "X", str: "NAME", bool: ""}


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """How a field is given on a command line."""

    panel: Panel
    flag: str = ""
    """Its spelling, where it is not the field's name."""
    metavar: str = ""
    """What stands for the value in help, where it does not follow from the field's type."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Which numbers a field may be; infinity and what is no number are never among them."""

    low: float
    high: float = inf
    holds_low: bool = True
    """Whether the lower end is allowed itself."""
    holds_high: bool = True
    """Whether the upper end is allowed itself."""

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.holds_low else value > self.low
        below = value <= self.high if self.holds_high else value < self.high
        return above and below and value < inf

    def words(self, kind: Any) -> str:
        """How an error and a manual say it: `is 1 or more`, `lies in [0, 1)`."""
        if self.high < inf:
            return (
                f"lies in {'[' if self.holds_low else '('}{self.low:g}, {self.high:g}{']' if self.holds_high else ')'}"
            )
        if not self.holds_low:
            return f"is a number above {self.low:g}"
        return f"is {self.low:g} or more" if kind is int else f"is a number, {self.low:g} or more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field, of a dataclass or of one that is nested in it."""

    place: str
    """Dotted name: `hyperparameters.teacher`."""
    meaning: str
    """The string below the field, on one line."""
    kind: Any
    """The type of a value; of a field that may be None, the other one."""
    default: Any
    """None where there is none, too."""
    can_be_none: bool
    bounds: Bounds | None
    """Which numbers are allowed; None where any are."""
    option: Option | None
    flag: str
    """`--teacher`."""

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values, where they can be listed."""
        return tuple(map(str, get_args(self.kind))) if get_origin(self.kind) is Literal else ()

    @property
    def metavar(self) -> str:
        """What stands for a value: `N`, `domain|benchmark`, `DIR`."""
        own = self.option.metavar if self.option is not None else ""
        if own or self.choices:
            return own or "|".join(self.choices)
        return f"{METAVARS[str]}[,{METAVARS[str]}...]" if get_origin(self.kind) is tuple else METAVARS[self.kind]


def option(panel: Panel, *, flag: str = "", metavar: str = "") -> dict[str, Option]:
    """Metadata of a field that is an option."""
    return {OPTION: Option(panel=panel, flag=flag, metavar=metavar)}


def within(low: float, high: float = inf, *, holds_low: bool = True, holds_high: bool = True) -> dict[str, Bounds]:
    """Metadata of a field that `check_bounds` checks."""
    return {BOUNDS: Bounds(low=low, high=high, holds_low=holds_low, holds_high=holds_high)}


def check_bounds(holder: Any, named: Callable[[Field[Any]], str] | None = None) -> None:
    """Check the numbers of a dataclass against the bounds of their fields; None is always allowed.

    Args:
        holder: an instance of a dataclass.
        named: how an error calls a field, where not by its name.

    Raises:
        UserError: a number that is not allowed.
    """
    cls: type = type(holder)
    for field in _bounded(cls):
        value, bounds = getattr(holder, field.name), field.metadata[BOUNDS]
        if value is not None and value not in bounds:
            name = field.name if named is None else named(field)
            raise UserError(f"{name} {bounds.words(type(value))}, got {value}")


@cache
def _bounded(cls: type) -> tuple[Field[Any], ...]:
    return tuple(field for field in fields(cls) if BOUNDS in field.metadata)


def flag_of(field: Field[Any]) -> str:
    """How a field is spelt on a command line."""
    own = field.metadata[OPTION].flag if OPTION in field.metadata else ""
    return own or f"--{field.name.replace('_', '-')}"


@cache
def settings(cls: type) -> tuple[Setting, ...]:
    """Every field of a dataclass in order; in place of one that is a dataclass itself, the fields of that one."""
    return tuple(_settings(cls, ""))


def _settings(cls: type, prefix: str) -> Iterator[Setting]:
    kinds, meanings = field_types(cls), _meanings(cls)
    for field in fields(cls):
        kind = _without_none(kinds[field.name])
        if is_dataclass(kind):
            yield from _settings(kind, f"{prefix}{field.name}.")  # type: ignore[arg-type]
            continue
        yield Setting(
            place=f"{prefix}{field.name}",
            meaning=meanings.get(field.name, ""),
            kind=kind,
            default=None if field.default is MISSING else field.default,
            can_be_none=kind is not kinds[field.name],
            bounds=field.metadata.get(BOUNDS),
            option=field.metadata.get(OPTION),
            flag=flag_of(field),
        )


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    (own,) = (arm for arm in get_args(kind) if arm is not type(None))
    return own


def _meanings(cls: type) -> dict[str, str]:
    """The strings that stand below the fields of a class."""
    (body,) = (
        node.body
        for node in _module(cls.__module__).body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    return {
        above.target.id: " ".join(below.value.value.split())
        for above, below in pairwise(body)
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }


@cache
def _module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))
