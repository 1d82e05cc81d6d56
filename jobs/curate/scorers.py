"""Scores of other stores beside the candidates, by the ids of their images: `--where "score > 60 AND b_iqa > 50"`.

A store named `b=OUT` gives the columns `b_iqa`, `b_iqa_std` and so on, null where it has no such image.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from artimuse_actor.errors import StoreError, UsageError
from jobs.curate.candidates import CHOSEN_SCORES, Candidates
from jobs.store.database import Database, identifier
from jobs.store.store import Store
from jobs.store.stores import matching_stores

_PREFIX: Final = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Scorer:
    """A store whose scores are beside those that are chosen from.

    Attributes:
        prefix: of its columns.
        name: of the store, as the user gave it.
        store: itself; None for the one that is chosen from.
    """

    prefix: str
    name: str
    store: Store | None = None

    @property
    def view(self) -> str:
        """The name of its table in the database."""
        return f"scores of {self.prefix}"


def read_scorers(named: Sequence[str]) -> tuple[list[str], list[Scorer]]:
    """The stores to choose from, and those named `prefix=OUT` beside them; if all are, the first is chosen from.

    Raises:
        UsageError: two have one prefix, or one stands for several stores.
        StoreError: one is no store.
    """
    matches = [(name, None if os.path.exists(name) else _PREFIX.fullmatch(name)) for name in named]
    plain = [name for name, match in matches if match is None]
    prefixed = [(match[1], match[2]) for _, match in matches if match is not None]
    scorers = []
    if prefixed and not plain:
        plain = [prefixed[0][1]]
        scorers = [Scorer(*prefixed.pop(0))]
    for prefix, name in prefixed:
        if len(found := matching_stores([name])) > 1:
            raise UsageError(f"{prefix}={name}: matches {len(found)} stores. Make them one first, by artimuse merge.")
        scorers.append(Scorer(prefix, name, Store.open(found[0])))
    prefixes = [scorer.prefix.lower() for scorer in scorers]
    if twice := next((prefix for prefix in prefixes if prefixes.count(prefix) > 1), None):
        raise UsageError(f"Two stores are named {twice}=. Give each a name of its own.")
    return plain, scorers


class WithScorers:
    """Candidates with the scores of other stores."""

    def __init__(
        self, candidates: Candidates, scorers: Sequence[Scorer], questions: Sequence[str], database: Database
    ) -> None:
        """Add a view for each of the other stores.

        Args:
            candidates: the rows to choose from.
            scorers: what is beside them.
            questions: scores of the store that is chosen from.
            database: gets the views.

        Raises:
            UsageError: a column of such a name is there already.
        """
        self._candidates, self._scorers, self._database = candidates, scorers, database
        self.own, self.own_image = candidates.own, candidates.own_image
        self.beside: list[str] = []
        self._columns: dict[str, dict[str, str]] = {}
        self._files = {}
        fields = list(candidates.schema)
        for scorer in scorers:
            names = [
                f"{question}{more}"
                for question in (scorer.store.questions if scorer.store else questions)
                for more in ("", "_std")
            ]
            columns = self._columns[scorer.prefix] = {f"{scorer.prefix}_{name}": name for name in names}
            taken = {field.name.lower() for field in fields}
            if again := next((name for name in columns if name.lower() in taken), None):
                raise UsageError(f"{scorer.prefix}={scorer.name}: there is a column {again!r} already. Choose another.")
            fields += [pa.field(name, pa.float32()) for name in columns]
            if scorer.store is not None:
                self.beside += columns
                files = self._files[scorer.prefix] = scorer.store.table_files().scores
                schema = pa.schema([scorer.store.schema.field(name) for name in ("image_id", *names)])
                database.add_files(scorer.view, [(scorer.store.place, file) for file in files], schema, rows=False)
        self.schema = pa.schema(fields)

    def sql(self, names: frozenset[str]) -> str:
        """See `Candidates`."""
        used = {
            scorer: {name: column for name, column in self._columns[scorer.prefix].items() if name.lower() in names}
            for scorer in self._scorers
        }
        own = {column for scorer, columns in used.items() if scorer.store is None for column in columns.values()}
        joins, asked = f"({self._candidates.sql(names | own)}) AS base", ["base.*"]
        for scorer, columns in used.items():
            view = identifier(scorer.view)
            of = "base" if scorer.store is None else view
            asked += [f"{of}.{identifier(column)}::DOUBLE AS {identifier(name)}" for name, column in columns.items()]
            if scorer.store is not None and columns:
                joins += f" LEFT JOIN {view} ON base.image_id = {view}.image_id"
        return f"SELECT {', '.join(asked)} FROM {joins}"

    def explained(self) -> AbstractContextManager[None]:
        """See `Candidates`."""
        return self._candidates.explained()

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Candidates`."""
        beside = [name for name in columns if name in self.beside]
        waiting = self._rows_beside(beside) if beside else iter(())
        left = pa.table({})
        for rows in self._candidates.scan([name for name in columns if name not in beside]):
            while beside and len(left) < len(rows):
                left = pa.concat_tables([left, pa.table(next(waiting))]) if len(left) else pa.table(next(waiting))
            for name in beside:
                rows = rows.append_column(self.schema.field(name), left[name].slice(0, len(rows)))
            left = left.slice(len(rows))
            yield rows.select(list(columns))

    def notes(self) -> list[str]:
        """Sentences about rows that another store lacks."""
        notes = []
        for scorer in self._scorers:
            if scorer.store is not None:
                ((lacking, rows),) = self._database.rows(
                    "SELECT count(*) FILTER (WHERE o.image_id IS NULL), count(*) FROM scores AS s "
                    f"LEFT JOIN {identifier(scorer.view)} AS o ON s.image_id = o.image_id"
                )
                if lacking:
                    notes.append(f"{lacking:,} of {rows:,} rows are not in {scorer.prefix}={scorer.name}.")
        return notes

    def check_unchanged(self) -> None:
        """Raise StoreError if a scores file of another store is another than at the beginning."""
        for scorer in self._scorers:
            if scorer.store is not None and scorer.store.table_files().scores != self._files[scorer.prefix]:
                raise StoreError(f"{scorer.name}: was written meanwhile. Nothing was written here. Curate again.")

    def _rows_beside(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of the chosen rows, in order."""
        joins = asked = ""
        for scorer in self._scorers:
            view = identifier(scorer.view)
            columns = {name: column for name, column in self._columns[scorer.prefix].items() if name in names}
            if columns:
                joins += f" LEFT JOIN {view} ON scores.image_id = {view}.image_id"
                asked += "".join(f"{view}.{identifier(column)} AS {identifier(n)}, " for n, column in columns.items())
        return self._database.batches(f"SELECT {asked}chosen.row FROM {CHOSEN_SCORES}{joins} ORDER BY chosen.row")
