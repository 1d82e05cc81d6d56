"""The rows of stores for other tools: each row of the scores tables, in order, with its texts in the same row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from artimuse_actor.errors import ArtiMuseError, StoreError, message_of
from jobs.store.database import ROW, Database, identifier, open_database
from jobs.store.stores import Stores, StoresTables
from schemas.texts import text_fields

STORE = pa.field("store", pa.string(), metadata={"doc": "the --out of the run"})


class StoresRows:
    """The rows of stores as the view `rows` of a database; use `open_rows`.

    Attributes:
        schema: the columns: those of the scores tables; of several stores `store`; those of the texts.
        count: number of rows.
        database: has the views `scores` and `texts` too, each with a column `ROW`.
        tables: the files of the views.
        notes: sentences about rows that were passed over.
    """

    def __init__(self, stores: Stores, database: Database, on_duplicate: str) -> None:
        self.database = database
        self._failure: ArtiMuseError | None = None
        self.tables = StoresTables(stores, database)
        self.notes = self.tables.pass_over_doubles(on_duplicate)
        self._label = [STORE] if len(stores.stores) > 1 else []
        fields = {field.name: field for store in stores.stores for field in text_fields(store.texts)}
        texts = [fields[field.name] for field in stores.text_schema if field.name in fields]
        self.schema = pa.schema([*stores.schema, *self._label, *texts])
        columns = [*(f"scores.{identifier(name)}" for name in stores.schema.names), *self.label]
        columns += [f"texts.{identifier(field.name)}" for field in texts]
        row = identifier(ROW)
        joined = " LEFT JOIN texts USING (image_id)" if texts else ""
        ((self.count,),) = database.rows("SELECT count(*) FROM scores")
        database.run(f"CREATE VIEW rows AS SELECT {', '.join(columns)}, scores.{row} FROM scores{joined}")

    @property
    def label(self) -> list[str]:
        """The column `store` of `scores`, as SQL, if there are several."""
        return [f"{self.tables.store_of(f'scores.{identifier(ROW)}')} AS store"] if self._label else []

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in the order of the stores, a batch at a time, with the schema's own types."""
        names = ", ".join(map(identifier, self.schema.names))
        for batch in self.database.batches(f"SELECT {names} FROM rows ORDER BY {identifier(ROW)}"):
            yield batch.cast(self.schema)

    def reader(self, metadata: dict[str, str] | None = None) -> pa.RecordBatchReader:
        """The same as a stream, for a library that reads it within `explained`; it fails if the stores change."""
        return pa.RecordBatchReader.from_batches(self.schema.with_metadata(metadata), self._stream())

    def _stream(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.batches()
            self.check_unchanged()
        except ArtiMuseError as error:
            self._failure = error
            raise

    @contextmanager
    def explained(self, out: str) -> Iterator[None]:
        """Raise what made a library fail that writes to `out`: an error of the stream, or StoreError."""
        try:
            yield
        except Exception as error:  # libraries have errors of their own, without a common base
            raise self._failure or StoreError(f"{out}: cannot be written: {message_of(error)}.") from error

    def check_unchanged(self) -> None:
        """Raise StoreError if a file of the stores is another than at the beginning."""
        self.tables.check_unchanged()


@contextmanager
def open_rows(stores: Stores, on_duplicate: str) -> Iterator[StoresRows]:
    """The rows of stores, while the block lasts.

    Raises:
        StoreError: an id is in two stores, and `on_duplicate` is `error`.
    """
    with open_database() as database:
        yield StoresRows(stores, database, on_duplicate)


def description(field: pa.Field) -> str:
    """A column in words, as the schemas have it; empty if its name says it all."""
    about = field.metadata or {}
    return "; ".join(about[key].decode() for key in (b"doc", b"unit") if key in about)
