"""Several stores as one: those that names and patterns stand for, and their tables together."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from artimuse_actor.errors import StoreError, StoreMismatch
from artimuse_actor.uris import canonical_uri, in_bucket, uri_scheme
from jobs.manifest.manifest import FIRST
from jobs.storage.buckets import find_objects
from jobs.storage.place import Place, StoredFile
from jobs.store.database import FILE_ROWS, ROW, Database, changed_meanwhile, identifier, open_database, quoted
from jobs.store.layout import METRICS, STORE_FILE
from jobs.store.store import Store
from schemas.metrics import METRICS as METRICS_SCHEMA
from schemas.texts import texts_schema


@dataclass(frozen=True)
class DoubledBetween:
    """Ids that several stores have.

    Attributes:
        count: how many.
        image_id: one of them.
        first: the first store that has it.
        last: the last one.
    """

    count: int
    image_id: str
    first: str
    last: str

    def __str__(self) -> str:
        ids = "1 id is" if self.count == 1 else f"{self.count:,} ids are"
        return f"{ids} in more than one store, such as {self.image_id!r} in {self.first} and in {self.last}"


@dataclass(frozen=True)
class Stores:
    """Stores whose tables are read as one.

    Attributes:
        names: as the user gave them, patterns resolved.
        stores: in the same order.
    """

    names: tuple[str, ...]
    stores: tuple[Store, ...]

    @classmethod
    def open(cls, named: Sequence[str], *, allow_mixed: bool = False) -> Stores:
        """Open the stores that names and patterns stand for; those of a pattern are sorted.

        Raises:
            StoreError: one is no store, a pattern matches none, or one is named twice.
            StoreMismatch: their scores are of different questions, or, without `allow_mixed`, fingerprints.
        """
        names = matching_stores(named)
        stores = [Store.open(name) for name in names]
        roots = [store.place.root for store in stores]
        if twice := next((root for root in roots if roots.count(root) > 1), None):
            raise StoreError(f"{twice}: is named twice. Name each store once.")
        for name, store in zip(names[1:], stores[1:], strict=True):
            if store.questions != stores[0].questions or not (
                allow_mixed or store.fingerprint.same_scores(stores[0].fingerprint)
            ):
                raise StoreMismatch(
                    f"{names[0]} holds scores of {stores[0].fingerprint}, {name} of {store.fingerprint}. Nothing was "
                    "written. Read them apart"
                    + (", or together with --allow-mixed." if store.questions == stores[0].questions else ".")
                )
        return cls(tuple(names), tuple(stores))

    @property
    def first(self) -> Store:
        """The first one, whose questions all have."""
        return self.stores[0]

    @property
    def schema(self) -> pa.Schema:
        """The columns of the scores tables that all have."""
        return _shared([store.schema for store in self.stores])

    @property
    def text_schema(self) -> pa.Schema:
        """The columns of the texts tables that all stores with texts have; empty if none has."""
        return _shared([texts_schema(store.texts) for store in self.stores if store.texts])

    @property
    def text_columns(self) -> list[str]:
        """The columns of the texts themselves that all stores with texts have."""
        columns = {column for store in self.stores if store.texts for column in store.texts.columns}
        return [name for name in self.text_schema.names if name in columns]

    def __str__(self) -> str:
        return ", ".join(self.names)


class StoresTables:
    """The tables of stores as views `scores` and `texts` of a database.

    Attributes:
        files: the scores files, in order: the number of a file is that of `ROW`.
        names: for each of them the name of its store.
    """

    def __init__(self, stores: Stores, database: Database, *, rows: bool = True) -> None:
        """Add the views; with `rows` each row's `ROW`, and without the name of its `store` if there are several."""
        self._stores = stores
        self._database = database
        tables = [store.table_files() for store in stores.stores]
        both = list(zip(stores.names, stores.stores, tables, strict=True))
        self.files: list[tuple[Place, StoredFile]] = []
        for store, found in zip(stores.stores, tables, strict=True):
            self.files += [(store.place, file) for file in found.scores]
        self.names = [name for name, _, found in both for _ in found.scores]
        labels = None if rows or len(stores.names) == 1 else self.names
        database.add_files("scores", self.files, stores.schema, rows=rows, stores=labels)
        self._text_names: list[str] = []
        if stores.text_schema.names:
            texts = [
                (name, store.place, file) for name, store, found in both if store.texts for file in found.described
            ]
            self._text_names = [name for name, _, _ in texts]
            database.add_files("texts", [(place, file) for _, place, file in texts], stores.text_schema, rows=rows)

    def pass_over_doubles(self, on_duplicate: str) -> list[str]:
        """Make sure that no id is in two of several stores; returns a sentence if rows are passed over.

        Args:
            on_duplicate: `error`, or `first`: the row of the first store that has the id counts.

        Raises:
            StoreError: ids are doubled, and that is an error; two stores with one of them are named.
        """
        if len(self._stores.names) == 1 or (found := self.doubled()) is None:
            return []
        if on_duplicate != FIRST:
            raise StoreError(
                f"{found}. Nothing was written. --on-duplicate first takes the rows of the store that is named first."
            )
        row = identifier(ROW)
        self._database.run(
            f"CREATE TABLE later AS SELECT {row} AS later FROM scores JOIN doubled USING (image_id) "
            f"WHERE {row} <> first"
        )
        self._database.run("ALTER VIEW scores RENAME TO all_scores")
        self._database.run(f"CREATE VIEW scores AS FROM all_scores ANTI JOIN later ON {row} = later")
        if self._text_names:
            same_store = f"{_case_of(row, self._text_names)} = {self.store_of('first')}"
            self._database.run("ALTER VIEW texts RENAME TO all_texts")
            self._database.run(
                "CREATE VIEW texts AS SELECT all_texts.* FROM all_texts LEFT JOIN doubled USING (image_id) "
                f"WHERE first IS NULL OR {same_store}"
            )
        ((rows,),) = self._database.rows("SELECT count(*) FROM later")
        if rows == 1:
            return ["1 row of a later store has the id of an earlier one, and was passed over."]
        return [f"{rows:,} rows of later stores have ids of earlier ones, and were passed over."]

    def doubled(self) -> DoubledBetween | None:
        """Ids that several stores have; makes the table `doubled` of them."""
        column = identifier(ROW)
        self._database.run(
            f"CREATE TABLE doubled AS SELECT image_id, min({column}) AS first, max({column}) AS last FROM scores "
            "GROUP BY image_id HAVING count(*) > 1"
        )
        for count, image_id, first, last in self._database.rows(
            "SELECT count(*) OVER (), * FROM doubled ORDER BY first LIMIT 1"
        ):
            return DoubledBetween(count, image_id, *(self.names[row >> FILE_ROWS] for row in (first, last)))
        return None

    def store_of(self, row: str) -> str:
        """The name of the store of a row of `scores`, as SQL, from an expression of its `ROW`."""
        return _case_of(row, self.names)

    def add_metrics(self) -> None:
        """Add the view `metrics`."""
        files = [(store.place, file) for store in self._stores.stores for file in store.place.files(METRICS)]
        self._database.add_files("metrics", files, METRICS_SCHEMA, rows=False)

    def check_unchanged(self) -> None:
        """Raise StoreError if a scores file is another than at the beginning."""
        now = {(store.place, file) for store in self._stores.stores for file in store.table_files().scores}
        for place, file in self.files:
            if (place, file) not in now:
                raise changed_meanwhile(place, file.path)


def _case_of(row: str, names: Sequence[str]) -> str:
    """The name that belongs to a `ROW`, as SQL, from the names of the files."""
    ends = {name: number for number, name in enumerate(names, start=1)}
    cases = " ".join(f"WHEN {row} < {end << FILE_ROWS} THEN {quoted(name)}" for name, end in ends.items())
    return f"CASE {cases} END" if ends else "NULL"


def doubled_between(names: Sequence[str]) -> DoubledBetween | None:
    """Ids that several stores have, whatever their fingerprints."""
    with open_database() as database:
        return StoresTables(Stores(tuple(names), tuple(map(Store.open, names))), database).doubled()


def matching_stores(named: Sequence[str]) -> list[str]:
    """The stores that names and patterns stand for; those of a pattern are sorted. Raises StoreError."""
    return [name for one in named for name in _matching(one)]


def _matching(name: str) -> list[str]:
    """The stores that a name stands for: itself, or those that match it as a pattern."""
    if not glob.has_magic(name):
        return [name]
    uri = canonical_uri(name)
    if in_bucket(uri):
        files = find_objects(f"{uri.rstrip('/')}/{STORE_FILE}", is_pattern=True)
        found = [f"{uri_scheme(uri)}://{path.removesuffix(f'/{STORE_FILE}')}" for path in files]
    else:
        if glob.glob(f"{glob.escape(name)}/{STORE_FILE}"):
            return [name]  # a folder may be called like a pattern
        found = [path.removesuffix(f"/{STORE_FILE}") for path in glob.glob(f"{name.rstrip('/')}/{STORE_FILE}")]
    if not found:
        raise StoreError(f"{name}: matches no store of scores. Name the --out of runs.")
    return sorted(found)


def _shared(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The fields of the first schema that all have."""
    return pa.schema([field for field in schemas[0] if all(field in other for other in schemas)] if schemas else [])
