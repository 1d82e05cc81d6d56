"""The columns of ground truth and their roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from artimuse_actor.errors import GroundTruthError, one_line

KEY_COLUMNS: Final = ("image_id", "image", "uri", "file_name", "filename", "name", "path")
TRUTH_COLUMN: Final = "gt_score"
COLUMN_TYPES: Final = {"key": pa.string(), "truth": pa.float64(), "group": pa.string(), "cluster": pa.string()}
NO_CLUSTERS: Final = "none"
NO_TRUTHS: Final = pa.table({"key": pa.array([], pa.string()), "truth": pa.array([], pa.float64())})


@dataclass(frozen=True)
class TruthColumns:
    """Roles of the columns in a table of ground truth.

    Attributes:
        key: names the image; None for the first of `KEY_COLUMNS` that is there.
        truth: the points.
        group: by which the evaluation is split, or None.
        cluster: tells rows that share their content: a column, or else a regular expression that finds their common
            part in the name of the image; `NO_CLUSTERS` for independent rows; None for the benchmark's way.
    """

    key: str | None = None
    truth: str = TRUTH_COLUMN
    group: str | None = None
    cluster: str | None = None

    def chosen(self, names: Sequence[str], where: str) -> dict[str, str]:
        """Role → column to read: key, truth and, where there are such columns, group and cluster.

        Raises:
            GroundTruthError: a column is not there; the message has the nearest name.
        """
        wanted = {
            "key": key_column(self.key, names, where, "--on"),
            "truth": known_column(self.truth, names, where, "--truth-column"),
        }
        if self.group:
            wanted["group"] = known_column(self.group, names, where, "--by")
        return wanted | ({"cluster": self.cluster} if self.cluster and self.cluster in names else {})


def key_column(asked: str | None, names: Sequence[str], where: str, option: str) -> str:
    """The column that names the image: the one asked for, else the first of `KEY_COLUMNS`.

    Raises:
        GroundTruthError: there is none.
    """
    if asked is not None:
        return known_column(asked, names, where, option)
    found = next((name for name in KEY_COLUMNS if name in names), None)
    if found is None:
        raise GroundTruthError(
            f"{where}: has no column that names the image ({', '.join(KEY_COLUMNS)}; it has "
            f"{', '.join(names[:20]) or 'none'}). Name it with {option}."
        )
    return found


def known_column(name: str, names: Sequence[str], where: str, option: str) -> str:
    """This column, if it is there. Raises GroundTruthError: it is not; the message has the nearest name."""
    if name in names:
        return name
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20]) or 'none'}."
    raise GroundTruthError(f"{where}: has no column {name!r}; {hint} Name another one with {option}.")


def truth_table(table: pa.Table, columns: TruthColumns, where: str, first_row: int = 0) -> pa.Table:
    """The columns `key`, `truth` (float64), and as chosen `group` and `cluster` (strings) of any table, checked.

    Raises:
        GroundTruthError: a column is missing or of another type, or a key is null.
    """
    names = columns.chosen(table.column_names, where)
    key, truth = (table[names[role]] for role in ("key", "truth"))
    if not (pa.types.is_integer(truth.type) or pa.types.is_floating(truth.type) or pa.types.is_null(truth.type)):
        raise GroundTruthError(f"{where}: `{names['truth']}` is of type {truth.type}; it must be a number.")
    try:
        keys = key.cast(pa.string())
    except pa.ArrowInvalid as error:
        raise GroundTruthError(f"{where}: `{names['key']}` cannot be read as text: {one_line(str(error))}.") from error
    except pa.ArrowNotImplementedError:
        raise GroundTruthError(f"{where}: `{names['key']}` is of type {key.type}; it must name the image.") from None
    if keys.null_count:
        row = first_row + pc.index(pc.is_null(keys), True).as_py()
        raise GroundTruthError(f"{where}, row {row}: `{names['key']}` is null. Fix or drop the row.")
    made = {"key": keys, "truth": truth.cast(pa.float64())}
    for role in ("group", "cluster"):
        if role in names:
            made[role] = pc.fill_null(table[names[role]].cast(pa.string()), "")
    return pa.table(made)
