"""Fields of our dataclasses as a reader of help and manuals sees them: what each means, and which are options.

The string below a field says what it means. A field that the command line takes as an option says so in its metadata:

    trials: int = field(default=1, metadata=option("Search"))
    'Configurations tried in each fold group.'
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin

from search_spaces.configuration import field_types

Panel = Literal["What is run", "Search", "Where", "Resources of a fold", "How folds run", "Budgets and prices"]
"""Headings in `--help`, in their order."""

OPTION = "option"
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
