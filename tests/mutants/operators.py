"""Every small error that can be made in a source: which piece changes, into what, and by which operator.

Left out are places where a change is no error of arithmetic or can change nothing: docstrings, messages, raised errors,
assertions, annotations, decorators, aliases of types, and keywords that only check or speed up.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin", "mean": "sum", "sum": "mean",
    "any": "all", "all": "any", "ceil": "floor", "floor": "ceil",
}  # fmt: skip
NO_EFFECT = ("strict", "non_blocking", "usedforsecurity")
"""Keywords whose change cannot change a number."""
SYMMETRIC = ("min", "max", "cosine_similarity", "minimum", "maximum")
"""Calls whose arguments may stand in any order."""
SILENT = ("logging", "warnings", "print", "TypeVar", "unknown_name", "get_close_matches", "cast")
"""Calls that are messages or types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One error in one source."""

    operator: str
    line: int
    original: str
    """The first line that changes, without its indentation."""
    becomes: str
    """The same line with the error; the end of a longer statement stands on it too."""
    start: int
    """First byte of the piece that changes."""
    end: int
    text: str
    """What stands there instead."""

    def applied(self, source: str) -> str:
        """The whole source with the error."""
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.end :]).decode()


def changes(source: str) -> list[Change]:
    """Every change of a source, in the order of its lines; all differ."""
    lines = source.encode().splitlines(keepends=True)
    starts = list(accumulate(map(len, lines), initial=0))
    found: dict[tuple[int, int, str], Change] = {}
    for operator, node, text in _sites(ast.parse(source)):
        first, last = lines[node.lineno - 1], lines[node.end_lineno - 1]
        becomes = first[: node.col_offset] + text.encode() + last[node.end_col_offset :]
        change = Change(
            operator=operator,
            line=node.lineno,
            original=first.decode().strip(),
            becomes=becomes.decode().splitlines()[0].strip(),
            start=starts[node.lineno - 1] + node.col_offset,
            end=starts[node.end_lineno - 1] + node.end_col_offset,
            text=text,
        )
        found.setdefault((change.start, change.end, text), change)
    return sorted(found.values(), key=lambda change: (change.line, change.operator, change.becomes, change.start))


Site = tuple[str, Any, str]
"""The operator, the node whose text is replaced, and by what."""


def _sites(node: ast.AST) -> Iterator[Site]:
    if isinstance(node, ast.stmt):
        yield from _statement(node)
    elif isinstance(node, ast.expr):
        yield from ((operator, node, _text(changed)) for operator, changed in _expression(node))
    for child in _children(node):
        yield from _sites(child)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The children in which an error is an error of arithmetic."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.Expr(value=ast.Constant()):
            return
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Call(func=function) if _root(function) in SILENT or _root(function).endswith("Error"):
            return
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name == "__all__" or _is_alias(name, value):
            return
        case ast.AnnAssign(value=value):
            yield from [] if value is None else [value]
        case ast.arguments(defaults=defaults, kw_defaults=keywords):
            yield from (default for default in (*defaults, *keywords) if default is not None)
        case ast.FunctionDef(args=arguments, body=body):
            yield from (arguments, *body)
        case ast.ClassDef(body=body):
            yield from body
        case ast.keyword() if _has_no_effect(node):
            return
        case _:
            yield from ast.iter_child_nodes(node)


def _has_no_effect(keyword: ast.keyword) -> bool:
    """Beside `NO_EFFECT`: the last dimension of a matrix is 1 too, and UTF-8 sorts as Python's text does."""
    same = (("dim", "-1"), ("key", "str.encode"))
    return keyword.arg in NO_EFFECT or (keyword.arg, ast.unparse(keyword.value)) in same


def _is_alias(name: str, value: ast.expr) -> bool:
    """`Loss = Callable[...]`, `Dimension = Choice | Range`: a name of a type."""
    is_type = isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name | ast.Attribute)
    is_union = isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr)
    return name[:1].isupper() and not name.isupper() and (is_type or is_union)


def _root(function: ast.expr) -> str:
    while isinstance(function, ast.Attribute):
        function = function.value
    return function.id if isinstance(function, ast.Name) else ""


def _last(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else _root(function)


def _statement(node: ast.stmt) -> Iterator[Site]:
    match node:
        case ast.Expr(value=ast.Call(func=function)) if _root(function) not in SILENT:
            yield "statement dropped", node, "pass"
        case ast.Raise() | ast.Delete() | ast.Continue() | ast.Break() | ast.AugAssign():
            yield "statement dropped", node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement dropped", node, "pass"
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in _names(value):
            yield "statement dropped", node, "pass"
        case ast.If(test=test) | ast.While(test=test) if not isinstance(test, ast.UnaryOp | ast.Compare):
            yield "not", test, f"not ({ast.unparse(test)})"
        case ast.Return(value=ast.Tuple(elts=[first, second]) as pair) if ast.dump(first) != ast.dump(second):
            yield "order swapped", pair, f"({ast.unparse(second)}, {ast.unparse(first)})"
        case ast.Assign(value=ast.Tuple(elts=[first, second]) as pair) if ast.dump(first) != ast.dump(second):
            yield "order swapped", pair, f"({ast.unparse(second)}, {ast.unparse(first)})"
        case _:
            return


def _names(value: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}


def _text(node: ast.expr) -> str:
    """The source of a node; in brackets, wherever what stands around it could bind more closely."""
    text = ast.unparse(node)
    return text if isinstance(node, ast.Call | ast.Constant | ast.Name | ast.Attribute | ast.Subscript) else f"({text})"


def _expression(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Compare(ops=operators):
            for place, operator in enumerate(operators):
                if type(operator) in COMPARISONS:
                    yield "comparison", _with(node, lambda new, at=place: _swap_comparison(new, at))
        case ast.BinOp(op=operator) if type(operator) in ARITHMETIC:
            yield "arithmetic", _with(node, lambda new: setattr(new, "op", ARITHMETIC[type(new.op)]()))
        case ast.BoolOp():
            yield "and / or", _with(node, _swap_boolean)
        case ast.Constant(value=bool(value)):
            yield "True / False", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant + 1", ast.Constant(value + 1)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", operand
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "sign", operand
        case ast.IfExp(test=test) if not isinstance(test, ast.Compare | ast.UnaryOp):
            yield "not", _with(node, lambda new: setattr(new, "test", ast.UnaryOp(ast.Not(), new.test)))
        case ast.Subscript(slice=ast.Slice() as bounds):
            yield from _slices(node, bounds)
        case ast.ListComp() | ast.DictComp() | ast.SetComp() | ast.GeneratorExp():
            yield from _filters(node)
        case ast.Call():
            yield from _calls(node)
        case _:
            return


def _with(node: Any, change: Callable[[Any], object]) -> Any:
    new = copy.deepcopy(node)
    change(new)
    return new


def _swap_comparison(node: ast.Compare, place: int) -> None:
    node.ops[place] = COMPARISONS[type(node.ops[place])]()


def _swap_boolean(node: ast.BoolOp) -> None:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _slices(node: ast.Subscript, bounds: ast.Slice) -> Iterator[tuple[str, ast.expr]]:
    for name in ("lower", "upper"):
        bound = getattr(bounds, name)
        if bound is not None and not isinstance(bound, ast.Constant):
            later = ast.BinOp(bound, ast.Add(), ast.Constant(1))
            yield "index off by one", _with(node, lambda new, at=name, to=later: setattr(new.slice, at, to))


def _filters(node: Any) -> Iterator[tuple[str, ast.expr]]:
    for loop, generator in enumerate(node.generators):
        for place, test in enumerate(generator.ifs):
            if not isinstance(test, ast.Compare):
                yield "not", _with(node, lambda new, at=loop, to=place: _negate(new.generators[at].ifs, to))


def _negate(tests: list[ast.expr], place: int) -> None:
    tests[place] = ast.UnaryOp(ast.Not(), tests[place])


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    if _root(node.func) in SILENT or _root(node.func).endswith("Error"):
        return
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES and not (
            name in ("sum", "mean") and isinstance(node.func, ast.Name)
        ):
            field = "id" if isinstance(node.func, ast.Name) else "attr"
            yield f"{name} / {NAMES[name]}", _with(node, lambda new: setattr(new.func, field, NAMES[name]))
        case ast.Name(id="sorted"):
            yield "sorted / list", ast.Call(ast.Name("list"), node.args[:1], [])
        case _:
            pass
    for place in range(0 if _last(node.func) in SYMMETRIC else len(node.args) - 1):
        first, second = node.args[place : place + 2]
        if _could_be_swapped(first, second):
            yield "order swapped", _with(node, lambda new, at=place: _swap_arguments(new.args, at))
    for place, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _has_no_effect(keyword):
            yield "keyword dropped", _with(node, lambda new, at=place: new.keywords.pop(at))


def _could_be_swapped(first: ast.expr, second: ast.expr) -> bool:
    """Whether somebody could mistake one for the other."""
    odd = (ast.Starred, ast.Lambda, ast.ListComp, ast.GeneratorExp, ast.JoinedStr)
    texts = [isinstance(node, ast.Constant) and isinstance(node.value, str) for node in (first, second)]
    equal = ast.dump(first) == ast.dump(second)
    return not equal and not isinstance(first, odd) and not isinstance(second, odd) and texts[0] == texts[1]


def _swap_arguments(arguments: list[ast.expr], place: int) -> None:
    arguments[place], arguments[place + 1] = arguments[place + 1], arguments[place]
