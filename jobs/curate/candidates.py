"""The rows a curation chooses from: those of a store, or those of a manifest with the store's columns.

Conditions, ranks and joins are SQL, see `jobs.store.database`. The table `chosen` there has the rows that are still
chosen: `row`, their place in the store or the manifest; `held`, their `ROW` in the view `scores`; `points`, and `grp`,
the value of --per. The rows that are left at the end are read from their files again, in order, for the columns that
are written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.errors import ArtiMuseError, ManifestError
from jobs.curate.filters import TEXT_MATCHES
from jobs.curate.where import columns_sql
from jobs.manifest.manifest import Manifest
from jobs.storage.parquet import read_parquet
from jobs.storage.place import Place
from jobs.storage.read_ahead import read_ahead
from jobs.store.database import FILE_ROWS, ROW, Database, changed_meanwhile, identifier, quoted
from jobs.store.layout import texts_path
from jobs.store.stores import Stores, StoresTables

OWN: Final = "own:"
"""Before the name of a manifest's column that the store has too."""

PLACE: Final = identifier("place of the row")
HELD: Final = identifier("row of the store")
"""Columns of `Candidates.sql`, called as no column of a user is: place in the store or the manifest, and `ROW`."""

CHOSEN_SCORES: Final = f"chosen JOIN scores ON chosen.held = scores.{identifier(ROW)}"
"""The chosen rows with their scores, as SQL; a question may be called like a column of `chosen`."""

_OWN_PLACE: Final = "place in the manifest"
_OWN_ID: Final = "id in the manifest"
_AHEAD: Final = 3  # files that are read while one is used

Rows = NDArray[np.int64]


class Candidates(Protocol):
    """Rows to choose from."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of all columns."""

    @property
    def own_image(self) -> str | None:
        """The column of the manifest that holds the images themselves, or None."""

    @property
    def own(self) -> pa.Schema | None:
        """Schema of the manifest they come from, or None."""

    @property
    def beside(self) -> Sequence[str]:
        """Columns with scores of other stores, which are written too."""

    def sql(self, names: frozenset[str]) -> str:
        """A query of all rows: `PLACE`, `HELD`, and the columns of these names, in lower case; to be executed once."""

    def explained(self) -> AbstractContextManager[None]:
        """A block that executes `sql`, and raises what made it fail."""

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of the chosen rows, in order, in batches that are not empty."""


class StoreRows:
    """The rows of the scores tables, with those of the texts tables beside them."""

    def __init__(self, stores: Stores, database: Database, text_pattern: str | None = None) -> None:
        """Note which files there are.

        Args:
            stores: the stores with the rows.
            database: gets the view `scores`, and `texts` if there are texts.
            text_pattern: regular expression of the column `TEXT_MATCHES`.
        """
        self.own: pa.Schema | None = None
        self.beside: Sequence[str] = ()
        self.own_image: str | None = None
        self._database = database
        self.tables = StoresTables(stores, database)
        self._scores = stores.schema
        columns = {f"{name}{more}" for name in stores.text_columns for more in ("", "_tokens", "_finish_reason")}
        self._texts = pa.schema([field for field in stores.text_schema if field.name in columns])
        pattern = quoted(text_pattern or "")
        self._matches = " OR ".join(f"regexp_matches({identifier(name)}, {pattern})" for name in stores.text_columns)
        self.schema = pa.schema([*self._scores, *self._texts])

    def sql(self, names: frozenset[str]) -> str:
        """See `Candidates`."""
        return f"SELECT *, {PLACE} AS {HELD} FROM ({self.view(names)})"

    def view(self, names: frozenset[str]) -> str:
        """A query of `PLACE`, `image_id` and the columns of these names."""
        columns = f"{columns_sql(self._scores, names | {'image_id'})}{identifier(ROW)} AS {PLACE}"
        texts = [field for field in self._texts if field.name.lower() in names]
        if not texts and TEXT_MATCHES not in names:
            return f"SELECT {columns} FROM scores"
        matches = f"{self._matches} AS {identifier(TEXT_MATCHES)}, " if TEXT_MATCHES in names else ""
        # The pattern is matched before the join, so that a truth value is joined and no text.
        return (
            f"SELECT {columns}, about.* EXCLUDE (described) FROM scores LEFT JOIN "
            f"(SELECT {columns_sql(pa.schema(texts))}{matches}image_id AS described FROM texts) AS about "
            "ON described = image_id"
        )

    def qualified(self, column: str) -> str:
        """A column as SQL, with its table."""
        return f"{'texts' if column in self._texts.names else 'scores'}.{identifier(column)}"

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Candidates`."""
        yield from read_ahead(lambda rows: self._read(rows, list(columns)), self._rows_by_file(), _AHEAD, _AHEAD)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """See `Candidates`."""
        yield

    def _rows_by_file(self) -> Iterator[Rows]:
        """The chosen rows, those of one file at a time."""
        waiting: list[Rows] = []
        for batch in self._database.batches("SELECT row FROM chosen ORDER BY row"):
            rows = np.asarray(batch["row"])
            for part in np.split(rows, np.flatnonzero(np.diff(rows >> FILE_ROWS)) + 1):
                if waiting and waiting[0][0] >> FILE_ROWS != part[0] >> FILE_ROWS:
                    yield np.concatenate(waiting)
                    waiting = []
                waiting.append(part)
        if waiting:
            yield np.concatenate(waiting)

    def _read(self, rows: Rows, columns: list[str]) -> pa.Table:
        place, file = self.tables.files[int(rows[0] >> FILE_ROWS)]
        texts = [name for name in columns if name in self._texts.names]
        asked = [name for name in columns if name not in texts] + (["image_id"] if texts else [])
        try:
            table = read_parquet(place, file.path, list(dict.fromkeys(asked)))
        except FileNotFoundError:
            raise changed_meanwhile(place, file.path) from None
        here = rows & ((1 << FILE_ROWS) - 1)
        if here[-1] >= len(table):
            raise changed_meanwhile(place, file.path)
        table = table if len(here) == len(table) else table.take(pa.array(here))
        return self._with_texts(place, file.path, table, texts).select(columns) if texts else table

    def _with_texts(self, place: Place, scores_path: str, rows: pa.Table, columns: list[str]) -> pa.Table:
        """Rows of a scores file with texts from the file beside it; null where there is none."""
        try:
            texts = read_parquet(place, texts_path(scores_path), ["image_id", *columns])
        except FileNotFoundError:
            texts = pa.schema(
                [rows.schema.field("image_id"), *(self._texts.field(name) for name in columns)]
            ).empty_table()
        found = texts.take(pc.index_in(rows["image_id"], texts["image_id"].combine_chunks()))
        for name in columns:
            rows = rows.append_column(self._texts.field(name), found[name])
        return rows


class ManifestRows:
    """The rows of a manifest, with the columns of the store.

    Attributes:
        schema: the store's columns, and those of the manifest of other names.
    """

    def __init__(self, store_rows: StoreRows, manifest: Manifest, database: Database) -> None:
        self._store_rows = store_rows
        self._manifest = manifest
        self._database = database
        self.own = manifest.columns()
        self.beside: Sequence[str] = ()
        self.own_image = manifest.image_column()
        own: dict[str, pa.Field] = {}  # by lower case, since SQL makes no difference
        for field in self.own:
            own.setdefault(field.name.lower(), _plain(field))
        for name in store_rows.schema.names:
            own.pop(name.lower(), None)
        self._own = pa.schema(own.values())
        self.schema = pa.schema([*store_rows.schema, *self._own])
        self._rows = 0
        self._failure: ArtiMuseError | None = None

    def sql(self, names: frozenset[str]) -> str:
        """See `Candidates`; `HELD` is null where the store has no such row."""
        own = pa.schema([field for field in self._own if field.name.lower() in names])
        schema = pa.schema([(_OWN_PLACE, pa.int64()), (_OWN_ID, pa.string()), *own])
        schema = pa.schema([field.with_nullable(True).remove_metadata() for field in schema])
        self._database.add_rows("manifest", pa.RecordBatchReader.from_batches(schema, self._stream(schema)))
        return (
            f"SELECT {columns_sql(own)} m.{identifier(_OWN_PLACE)} AS {PLACE}, s.{PLACE} AS {HELD}, "
            f"s.* EXCLUDE ({PLACE}) FROM manifest AS m LEFT JOIN ({self._store_rows.view(names)}) AS s "
            f"ON m.{identifier(_OWN_ID)} = s.image_id"
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        """See `Candidates`: DuckDB hands on only the words of what ended the manifest's stream."""
        try:
            yield
        except ArtiMuseError as error:
            raise self._failure or error from error

    def scan(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `Candidates`. A column that both have is the store's; `own:NAME` is the manifest's in any case."""
        own = [name for name in columns if name.startswith(OWN) or name not in self._store_rows.schema.names]
        held = [name for name in columns if name not in own and name != "image_id"]
        asked = ", ".join(["chosen.row", *map(self._store_rows.qualified, held)])
        texts = " LEFT JOIN texts USING (image_id)" if "texts." in asked else ""
        chosen = _Ordered(self._database.batches(f"SELECT {asked} FROM {CHOSEN_SCORES}{texts} ORDER BY chosen.row"))
        start = 0
        for batch in self._batches([name.removeprefix(OWN) for name in own]):
            here, first = chosen.below(start + len(batch)), start
            start += len(batch)
            if here is None:
                continue
            rows = batch.take(pc.subtract(here["row"], first))
            found = {"image_id": rows["image_id"]}
            for name in own:
                column = rows[f"{OWN}{name.removeprefix(OWN)}"]
                found[name] = column if name.startswith(OWN) else column.cast(self.schema.field(name).type)
            found |= {name: here[name].cast(self.schema.field(name).type) for name in held}
            yield pa.table({name: found[name] for name in columns})
        if start != self._rows:
            raise ManifestError(
                f"{self._manifest.source}: was changed while it was read. Nothing was written. Curate again."
            )

    def _batches(self, own: Sequence[str]) -> Iterator[pa.Table]:
        """The rows with their ids and, as `own:NAME`, these columns."""
        for batch in self._manifest.batches(own):
            columns = {f"{OWN}{name}": batch.own[name] for name in own} if batch.own is not None else {}
            yield pa.table(columns | {"image_id": batch.rows["image_id"]})

    def _stream(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches(schema.names[2:]):
                rows = pa.array(np.arange(self._rows, self._rows + len(batch)))
                columns = [rows, batch["image_id"], *(batch[f"{OWN}{name}"] for name in schema.names[2:])]
                self._rows += len(batch)
                plain = [column.cast(field.type) for column, field in zip(columns, schema, strict=True)]
                yield from pa.table(plain, schema=schema).combine_chunks().to_batches()
        except ArtiMuseError as error:
            self._failure = error
            raise


class _Ordered:
    """Batches of rows ordered by `row`, taken from the front."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest: Any = None

    def below(self, end: int) -> pa.Table | None:
        """The next rows below this one; None if there are none."""
        parts = []
        for batch in chain([self._rest] if self._rest is not None else [], self._batches):
            count = int(np.searchsorted(np.asarray(batch["row"]), end))
            parts.append(batch.slice(0, count))
            self._rest = batch.slice(count) if count < len(batch) else None
            if self._rest is not None:
                break
        return pa.Table.from_batches(parts) if sum(map(len, parts)) else None


def _plain(field: pa.Field) -> pa.Field:
    """A field of categories as one of their values, which conditions are about."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
