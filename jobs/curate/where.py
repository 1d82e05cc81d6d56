"""`--where EXPR`: a condition on the columns of a table, in a small part of Python's own grammar.

    score > 60 and width >= 2 * height
    category in ('cat', 'dog') and not startswith(uri, 's3://private/')
    gt_score is not None and abs(score - 10 * gt_score) < 15

Python parses the text, and each node of the tree is looked up in a list of what is allowed; nothing is ever evaluated
as Python. What remains is computed by pyarrow, a column at a time. A comparison with a null is neither true nor false,
as in SQL, and a row is taken only if the condition is true. Numbers are float64 where they are calculated with.
"""

from __future__ import annotations

import ast
import difflib
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import UsageError, one_line
from jobs.storage.user_files import is_unicode

MAX_CHARACTERS: Final = 10_000
MAX_NODES: Final = 2_000
MAX_DEPTH: Final = 50

_Value = Callable[[pa.Table], Any]

_COMPARISONS: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_ARITHMETIC: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_TEXT_FUNCTIONS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "startswith": lambda text, what: pc.starts_with(text, what),
    "endswith": lambda text, what: pc.ends_with(text, what),
    "contains": lambda text, what: pc.match_substring(text, what),
    "matches": lambda text, what: pc.match_substring_regex(text, what),  # RE2: linear in the text, whatever the pattern
}
_FUNCTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "lower": pc.utf8_lower,
    "upper": pc.utf8_upper,
    "length": pc.utf8_length,
    "abs": pc.abs,
}
_HELP: Final = (
    "Columns, numbers and 'strings' go with == != < <= > >=, in (…), is None, and, or, not, + - * /, and "
    f"{', '.join([*_TEXT_FUNCTIONS, *_FUNCTIONS, 'column'])}(…)."
)


@dataclass(frozen=True)
class Condition:
    """A parsed condition.

    Attributes:
        text: as the user gave it.
        columns: what it reads.
        value: the condition on each row of a table that has these columns: boolean, or null.
    """

    text: str
    columns: tuple[str, ...]
    value: _Value

    def holds(self, table: pa.Table) -> pa.ChunkedArray:
        """True for each row of a table that meets it: boolean, without nulls."""
        value = self.value(table)
        if isinstance(value, pa.Scalar):  # it names no column
            value = pa.chunked_array([pa.repeat(value, len(table))])
        return pc.fill_null(value, False)


def parse_condition(text: str, schema: pa.Schema, option: str = "--where") -> Condition:
    """Parse a condition on a table of this schema.

    Raises:
        UsageError: it is too long or not a condition, a column is unknown, or types do not match.
    """
    reader = _Reader(text, schema, option)
    tree = reader.parse()
    value = reader.condition(tree)
    condition = Condition(text, tuple(dict.fromkeys(reader.columns)), value)
    try:
        # A row of nulls has all the types, so what does not go together is found before any file is read.
        condition.holds(pa.table([pa.nulls(1, field.type) for field in schema], schema.names))
    except (pa.ArrowException, TypeError) as error:
        raise UsageError(
            f"{option} {_short(text)}: does not fit the types of its columns ({reader.types()}): "
            f"{one_line(str(error))}. Nothing was written."
        ) from error
    return condition


def unknown_column(option: str, name: str, columns: list[str]) -> UsageError:
    """The error of a column that is not there, with the nearest name that is."""
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"{option}: there is no column {name!r}.{meant} There are {one_line(', '.join(columns))}.")


class _Reader:
    """Parser of one text into a function of a table."""

    def __init__(self, text: str, schema: pa.Schema, option: str) -> None:
        self.text = text
        self.schema = schema
        self.option = option
        self.columns: list[str] = []

    def parse(self) -> ast.expr:
        if len(self.text) > MAX_CHARACTERS:
            raise UsageError(f"{self.option} takes at most {MAX_CHARACTERS:,} characters, not {len(self.text):,}.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python's, such as about the escapes of a regular expression
                tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._wrong(
                f"is no condition ({one_line(getattr(error, 'msg', '') or type(error).__name__)})"
            ) from None
        waiting, nodes, depth = [tree], 0, 0
        while waiting:  # level by level, not by recursion, which hostile text would exhaust
            nodes, depth = nodes + len(waiting), depth + 1
            if nodes > MAX_NODES or depth > MAX_DEPTH:
                raise self._wrong(f"has more than {MAX_NODES:,} parts, or {MAX_DEPTH} inside each other")
            self._check_constants(waiting)
            waiting = [child for node in waiting for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return tree

    def _check_constants(self, nodes: list[ast.expr]) -> None:
        """Refuse constants that Arrow does not hold, and whose digits Python would not even print."""
        for value in (node.value for node in nodes if isinstance(node, ast.Constant)):
            if isinstance(value, int) and value.bit_length() > 64:
                raise self._wrong("has a number of more than 64 bits")
            if isinstance(value, str) and not is_unicode(value):
                raise self._wrong("has a lone surrogate, which no text holds")

    def types(self) -> str:
        return ", ".join(f"{name}: {self.schema.field(name).type}" for name in dict.fromkeys(self.columns))

    def condition(self, node: ast.expr) -> _Value:
        """A node that is true or false."""
        match node:
            case ast.BoolOp(op=op, values=values):
                join = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
                parts = [self.condition(value) for value in values]
                return lambda table: _reduced(join, [part(table) for part in parts])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.condition(operand)
                return lambda table: pc.invert(inner(table))
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = [self._comparison(*part) for part in zip(sides, ops, comparators, strict=False)]
                return lambda table: _reduced(pc.and_kleene, [pair(table) for pair in pairs])
            case ast.Call(func=ast.Name(id=name)) if name in _TEXT_FUNCTIONS:
                return self._text_function(name, node)
            case ast.Name() | ast.Call(func=ast.Name(id="column")):
                column = self.value(node)
                return lambda table: pc.and_(column(table), True)  # refuses what is not boolean
            case ast.Constant(value=bool(constant)):
                return lambda table: pa.chunked_array([pa.repeat(constant, len(table))], pa.bool_())
        raise self._wrong(f"is not true or false at {_short(ast.unparse(node))}")

    def value(self, node: ast.expr) -> _Value:
        """A node that is a number or a string."""
        match node:
            case ast.Name(id=name):
                return self._column(name)
            case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))], keywords=[]):
                return self._column(name)
            case ast.Constant():
                constant = pa.scalar(self._constant(node))
                return lambda _: constant
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.value(operand)
                return lambda table: pc.negate(_number(inner(table)))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                first, second, compute = self.value(left), self.value(right), _ARITHMETIC[type(op)]
                return lambda table: compute(_number(first(table)), _number(second(table)))
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
                inner, function = self.value(argument), _FUNCTIONS[name]
                return lambda table: function(inner(table))
        raise self._wrong(f"{_short(ast.unparse(node))} is not allowed")

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> _Value:
        match op, right:
            case ((ast.Is() | ast.IsNot()), (ast.Constant(value=None) | ast.Name(id="null" | "NULL" | "Null"))):
                value, test = self.value(left), pc.is_null if isinstance(op, ast.Is) else pc.is_valid
                return lambda table: test(value(table))
            case ((ast.In() | ast.NotIn()), (ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items))):
                value, among = self.value(left), self._constants(items)
                found = _is_in(value, among)
                return found if isinstance(op, ast.In) else lambda table: pc.invert(found(table))
        if type(op) not in _COMPARISONS:
            raise self._wrong("`in` goes with a list in brackets, `is` with None")
        first, second, compare = self.value(left), self.value(right), _COMPARISONS[type(op)]
        return lambda table: compare(first(table), second(table))

    def _text_function(self, name: str, node: ast.Call) -> _Value:
        match node:
            case ast.Call(args=[text, ast.Constant(value=str(what))], keywords=[]):
                value, function = self.value(text), _TEXT_FUNCTIONS[name]
                return lambda table: function(value(table), what)
        raise self._wrong(f"{name} goes with a column and a string, such as {name}(uri, 's3://')")

    def _column(self, name: str) -> _Value:
        if name not in self.schema.names:
            raise unknown_column(self.option, name, self.schema.names)
        self.columns.append(name)
        return lambda table: table[name]

    def _constants(self, items: list[ast.expr]) -> pa.Array:
        values = [self._constant(item) for item in items]
        try:
            return pa.array(values)
        except (pa.ArrowException, TypeError):
            raise self._wrong("the values behind `in` are of different types") from None

    def _constant(self, node: ast.expr) -> Any:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            sign, node = -1, node.operand
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            value = node.value if isinstance(node.value, bool | str) else operator.mul(sign, node.value)
            if not isinstance(value, int) or -(2**63) <= value < 2**63:
                return value
        raise self._wrong(f"{_short(ast.unparse(node))} is no number or string")

    def _wrong(self, what: str) -> UsageError:
        return UsageError(f"{self.option} {_short(self.text)}: {what}. {_HELP} Nothing was written.")


def _is_in(value: _Value, among: pa.Array) -> _Value:
    """True where a value is one of these; null where it is null."""

    def found(table: pa.Table) -> Any:
        values = value(table)
        # Cast to the column's type, since is_in does not compare 1 with 1.0.
        return pc.if_else(pc.is_valid(values), pc.is_in(values, among.cast(values.type)), pa.scalar(None, pa.bool_()))

    return found


def _reduced(join: Callable[[Any, Any], Any], parts: list[Any]) -> Any:
    result = parts[0]
    for part in parts[1:]:
        result = join(result, part)
    return result


def _number(value: Any) -> Any:
    return value.cast(pa.float64()) if not pa.types.is_string(value.type) else pc.abs(value)  # which no string has


def _short(text: str) -> str:
    shown = one_line(text)
    return repr(shown if len(shown) <= 80 else f"{shown[:80]}…")
