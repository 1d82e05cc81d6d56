"""`--where`: a condition on a row, in SQL.

    score > 60 AND width >= 2 * height
    category IN ('cat', 'dog') AND NOT starts_with(uri, 's3://private/')
    gt_score IS NOT NULL AND abs(score - 10 * gt_score) < 15

DuckDB parses the text, and its tree must be one expression of columns, constants, operators and functions of these:
no other table, no aggregate, nothing that gives another answer the next time. Whole numbers of a table are BIGINT here,
and others DOUBLE.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from artimuse_actor.errors import UsageError, one_line
from jobs.storage.user_files import is_unicode
from jobs.store.database import Database, identifier, open_database, quoted

MAX_CHARACTERS: Final = 10_000
_MAX_NODES: Final = 50_000
_TRY_S: Final = 10.0
_ALLOWED: Final = {
    *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "OPERATOR", "FUNCTION", "CAST", "CASE", "BETWEEN"),
    *("COLLATE", "LAMBDA", "TYPE"),
}
"""Classes of nodes in DuckDB's tree of an expression."""

MACROS: Final = (
    "CREATE MACRO startswith(text, beginning) AS starts_with(text, beginning)",
    "CREATE MACRO endswith(text, ending) AS ends_with(text, ending)",
    "CREATE MACRO matches(text, pattern) AS regexp_matches(text, pattern)",
)
"""Functions under the names that Python has for them."""

_HINTS: Final = (
    (r"\bNone\b", "None is NULL: uri IS NULL, uri IS NOT NULL."),
    (r"\bcolumn\s*\(", 'An odd name of a column stands in double quotes: "odd name" > 5.'),
    (r"\bin\s*\{", "Several values stand in round brackets: width IN (800, 1200)."),
    (r"\\'", "A quote within a string is doubled: 'it''s'."),
    (r'[=(,<>]\s*"', "Strings stand in single quotes, names of columns in double ones."),
)
"""What looks like Python, and what SQL has instead."""


@dataclass(frozen=True)
class Condition:
    """A condition on a row.

    Attributes:
        sql: an expression that is true, false or null.
        names: of columns it may read, in lower case; some may be names of other things.
    """

    sql: str
    names: frozenset[str]


def parse_condition(text: str, schema: pa.Schema) -> Condition:
    """Read a condition on rows of this schema.

    Raises:
        UsageError: it is too long or not a condition, a column is unknown, or types do not match.
    """
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"--where takes at most {MAX_CHARACTERS:,} characters, not {len(text):,}.")
    try:
        with open_database() as database:
            nodes = list(_nodes(database, text))
            _check_answers(database, nodes)
            _check_types(database, text, schema)
    except UsageError as error:
        if unknown := re.search(r'Referenced column "(.*?)" (was )?not found', error.message):
            message = unknown_column("--where", unknown[1], schema.names).message
        else:
            message = f"--where {_short(text)}: {error.message.removesuffix('.')}."
        hint = next((f" {said}" for looks, said in _HINTS if re.search(looks, text)), "")
        raise UsageError(f"{message}{hint} Nothing was written.") from error
    names = (str(part).lower() for node in nodes for part in node.get("column_names", ()))
    return Condition(f"({text}\n)", frozenset(names))  # the line ends a comment


def unknown_column(option: str, name: str, columns: list[str]) -> UsageError:
    """The error of a column that is not there, with the nearest name that is."""
    near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"{option}: there is no column {name!r}.{meant} There are {one_line(', '.join(columns))}.")


def columns_sql(schema: pa.Schema, names: frozenset[str] | None = None) -> str:
    """The columns of a table as conditions see them, with a comma behind each; of `names`, in lower case, if given."""
    chosen = [field for field in schema if names is None or field.name.lower() in names]
    return "".join(f"{_wide(field)} AS {identifier(field.name)}, " for field in chosen)


def _wide(field: pa.Field) -> str:
    """A column as the widest number: 70.1 is no FLOAT, and the product of two INTEGERs may be none."""
    if pa.types.is_signed_integer(field.type) or pa.types.is_floating(field.type):
        return f"{identifier(field.name)}::{'DOUBLE' if pa.types.is_floating(field.type) else 'BIGINT'}"
    return identifier(field.name)


def _nodes(database: Database, text: str) -> Iterator[dict[str, Any]]:
    """All nodes of the expression. Raises UsageError."""
    tree, empty = (_tree(database, f"SELECT {part}") for part in (text, "1"))
    expressions = tree.pop("select_list", [])
    del empty["select_list"]
    if tree != empty or len(expressions) != 1 or expressions[0]["alias"]:
        raise UsageError("is not one condition")
    waiting: list[Any] = expressions
    for _ in range(_MAX_NODES):  # not by recursion, which hostile text would exhaust
        if not waiting:
            return
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("class", "COLUMN_REF") not in _ALLOWED:
                raise UsageError(f"{node['class'].lower().replace('_', ' ')} is not allowed in a condition on a row")
            yield node
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    raise UsageError("has too many parts")


def _tree(database: Database, sql: str) -> Any:
    if "\0" in sql or not is_unicode(sql):
        raise UsageError("has a character that no text has")
    ((raw,),) = database.rows(f"SELECT json_serialize_sql({quoted(sql)})")
    try:
        found = json.loads(raw)
    except RecursionError:
        raise UsageError("has too many parts inside each other") from None
    if found["error"]:
        raise UsageError(f"is no condition ({one_line(found['error_message'])})")
    if len(found["statements"]) != 1:
        raise UsageError("is not one condition")
    return found["statements"][0]["node"]


def _check_answers(database: Database, nodes: list[dict[str, Any]]) -> None:
    """Refuse functions such as random and now: the same store and condition give the same rows."""
    called = ", ".join(quoted(str(node["function_name"]).lower()) for node in nodes if node.get("function_name"))
    if called and (
        found := database.rows(
            "SELECT function_name FROM duckdb_functions() "
            f"WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') AND function_name IN ({called})"
        )
    ):
        raise UsageError(f"{found[0][0]} does not give the same answer every time")


def _check_types(database: Database, text: str, schema: pa.Schema) -> None:
    """Try the condition on a row of nulls, which have all the types, before any file is read."""
    nulls = pa.table([pa.nulls(1, field.type) for field in schema], [field.name for field in schema])
    database.add_rows("nulls", nulls)
    for macro in MACROS:
        database.run(macro)
    database.lock()
    tried = f"SELECT ({text}\n) AS holds FROM (SELECT {columns_sql(schema)}NULL FROM nulls)"
    with database.limited(_TRY_S):
        ((_, kind, *_),) = database.rows(f"DESCRIBE {tried}")
        if kind != "BOOLEAN":
            raise UsageError(f"is not true or false, but {kind}")
        database.rows(f"{tried} WHERE holds")


def _short(text: str) -> str:
    shown = one_line(text)
    return repr(shown if len(shown) <= 80 else f"{shown[:80]}…")
