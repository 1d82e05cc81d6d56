"""Tables of stores in DuckDB, for conditions and queries that people write: nothing else is read, nothing written.

    with open_database() as database:
        database.add_files("scores", [(store.place, file) for file in store.table_files().scores], store.schema)
        database.lock()
        database.rows("SELECT count(*) FROM scores")

From `lock` on no other file, setting, extension or address can be reached. Memory has two limits: DuckDB's own, beyond
which it writes to a temporary folder, and, around text from outside, one of the process, since DuckDB does not count
the values that an expression makes.
"""

from __future__ import annotations

import glob
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import duckdb
import pyarrow as pa
from duckdb.func import ARROW

from artimuse_actor.errors import StoreError, UsageError, one_line
from artimuse_actor.images.memory_limit import memory_limit
from artimuse_actor.node import usable_cores
from jobs.storage.listed_files import ListedFiles
from jobs.storage.parquet import read_footer
from jobs.storage.place import READ_THREADS, Place, StoredFile

MEMORY_BYTES: Final = 1 << 30
"""DuckDB's own limit where a command has no option for it."""

MAX_TIMEOUT_S: Final = 1e7

ROW: Final = "row of the table"
"""Column of a view of files: the number of the row's file times 2^32, and its number within it."""

_KIND: Final = re.compile(r"^(\w+ )+Error: ")
_ADVICE: Final = re.compile(r"\n+(?:LINE \d|\s*Candidate|Possible solutions)|You might need to add")
"""Where DuckDB goes on about its own text of the statement, of which people wrote only a part, and its settings."""

FILE_ROWS: Final = 32
"""Bits of a `ROW` below the number of its file."""

_VALUES_BYTES: Final = 2 << 30
_MAX_THREADS: Final = 8
_BATCH_ROWS: Final = 65_536


class Database:
    """A DuckDB connection; use `open_database`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
        self._connection = connection
        self._memory_bytes = memory_bytes
        self._files: list[tuple[Place, StoredFile]] = []
        self._names: list[str] = []

    def add_files(
        self,
        view: str,
        files: Sequence[tuple[Place, StoredFile]],
        schema: pa.Schema,
        *,
        rows: bool = True,
        stores: Sequence[str] | None = None,
    ) -> None:
        """Make a view of Parquet files with the columns of a schema.

        What a file of an earlier version lacks is null, as in `jobs.storage.parquet`.

        Args:
            view: its name.
            files: the files, and their places.
            schema: the columns; others of the files are left out.
            rows: whether it has the column `ROW` too.
            stores: for each file the value of a column `store`.
        """
        fields = [field.remove_metadata().with_nullable(True) for field in schema]
        fields += [pa.field(ROW, pa.int64())] if rows else []
        fields += [pa.field("store", pa.string())] if stores else []
        self.add_rows(f"no {view}", pa.schema(fields).empty_table())
        if not files:
            self.run(f'CREATE VIEW {identifier(view)} AS FROM "no {view}"')
            return
        names = [place.local_path(file.path) or ListedFiles.name_of(place.uri(file.path)) for place, file in files]
        self._files += files
        self._names += names
        if any(place.local_path("") is None for place, _ in files):
            sizes = zip(self._names, (file.size_bytes for _, file in self._files), strict=True)
            if self._connection.filesystem_is_registered(ListedFiles.protocol):
                self._connection.unregister_filesystem(ListedFiles.protocol)
            self._connection.register_filesystem(ListedFiles(dict(sizes)))
            # Requests wait for the network, not for a processor.
            self._connection.execute(f"SET threads = {READ_THREADS}")
        columns = ", ".join(identifier(field.name) for field in fields)
        row = f", (file_index::BIGINT << {FILE_ROWS}) | file_row_number AS {identifier(ROW)}" if rows else ""
        if stores:
            last = {name: number for number, name in enumerate(stores)}
            cases = " ".join(f"WHEN file_index <= {number} THEN {quoted(name)}" for name, number in last.items())
            row += f", CASE {cases} END AS store"
        listed = ", ".join(quoted(glob.escape(name)) for name in names)  # a folder may be called like a pattern
        self.run(
            f'CREATE VIEW {identifier(view)} AS SELECT {columns} FROM (FROM "no {view}" UNION ALL BY NAME '
            f"SELECT *{row} FROM read_parquet([{listed}], union_by_name = true))"
        )

    def add_rows(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        """Make a table of Arrow's, or a stream that can be read once, known by a name."""
        self._connection.register(name, rows)

    def add_function(self, name: str, function: Callable[..., Any], takes: str, gives: str) -> None:
        """Make a function of ours, from an array to one of the same length, known by a name."""
        self._connection.create_function(name, function, [takes], gives, type=ARROW)

    def lock(self) -> None:
        """Shut out all that was not added."""
        allowed = {*self._names, *map(glob.escape, self._names)}  # DuckDB asks for both
        self._connection.execute(f"SET allowed_paths = [{', '.join(map(quoted, sorted(allowed)))}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def run(self, sql: str) -> None:
        """Execute a statement. Raises as `rows`."""
        with self._explained():
            self._connection.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query.

        Raises:
            StoreError: a file is not there any more, or not whole.
            UsageError: anything else that DuckDB refuses; the message is its own.
        """
        with self._explained():
            return self._connection.execute(sql).fetchall()

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query, a batch at a time; no other statement may be executed meanwhile. Raises as `rows`."""
        yield from self.reader(sql)[1]

    def reader(self, sql: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The schema of a query's rows, and these as `batches` gives them. Raises as `rows`."""
        with self._explained():
            reader = self._connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
        return reader.schema, self._read(reader)

    def _read(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        while True:
            with self._explained():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
                except (pa.ArrowException, OSError) as error:  # Arrow's stream hands on the words alone
                    failed = duckdb.InterruptException if "Interrupted!" in str(error) else duckdb.Error
                    raise failed(str(error)) from error
            yield batch

    def table(self, sql: str) -> pa.Table:
        """The rows of a query as one table. Raises as `rows`."""
        with self._explained():
            return self._connection.sql(sql).to_arrow_table()

    def is_query(self, sql: str) -> bool:
        """Whether a text is one statement that gives rows and changes nothing. Raises UsageError if it is no SQL."""
        with self._explained():
            return [one.type for one in self._connection.extract_statements(sql)] == [duckdb.StatementType.SELECT]

    @contextmanager
    def limited(self, timeout_s: float | None = None) -> Iterator[None]:
        """Bound the memory of the process, and the time, while statements with text from outside are executed."""
        timer = threading.Timer(timeout_s, self._connection.interrupt) if timeout_s else None
        try:
            if timer:
                timer.start()
            with memory_limit(self._memory_bytes + _VALUES_BYTES):
                yield
        finally:
            if timer:
                timer.cancel()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except duckdb.InterruptException as error:
            raise UsageError("it takes longer than it may") from error
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            raise UsageError("it takes more memory than it may") from error
        except duckdb.IOException as error:  # such as a full disk
            self._check_files()
            raise StoreError(f"{_said(error)}. Look at the disk, and run again.") from error
        except (duckdb.Error, RuntimeError) as error:  # the latter of its C++ library
            self._check_files()
            raise UsageError(_said(error)) from error

    def _check_files(self) -> None:
        for place, file in self._files:
            try:
                read_footer(place, file.path)
            except FileNotFoundError:
                raise changed_meanwhile(place, file.path) from None


@contextmanager
def open_database(memory_bytes: int = MEMORY_BYTES) -> Iterator[Database]:
    """A database in memory; beyond its limit it uses a temporary folder that is deleted."""
    with tempfile.TemporaryDirectory(prefix="artimuse-", ignore_cleanup_errors=True) as folder:
        connection = duckdb.connect(
            config={
                "memory_limit": f"{memory_bytes // 1024}KiB",
                "threads": min(usable_cores(), _MAX_THREADS),
                "temp_directory": folder,
                "preserve_insertion_order": False,
                "validate_external_file_cache": "NO_VALIDATION",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            }
        )
        try:
            connection.execute("SET TimeZone = 'UTC'")  # a condition means the same rows on every machine
            yield Database(connection, memory_bytes)
        finally:
            connection.close()


def changed_meanwhile(place: Place, path: str) -> StoreError:
    """The error of a file that is not as it was."""
    return StoreError(
        f"{place.uri(path)}: was changed by a run while it was read. Nothing was written. Run the command again."
    )


def identifier(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: str) -> str:
    """A string as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _said(error: Exception) -> str:
    """An error of DuckDB in one line, without its kind and its advice."""
    return one_line(_ADVICE.split(_KIND.sub("", str(error)))[0])
