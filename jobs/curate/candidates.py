"""The rows a curation chooses from: those of a store, or those of a manifest with the store's columns.

They are read again and again, a file or a batch at a time and only the columns that are asked for, always in the same
order. What is remembered in between is one bit for each row; with a manifest also where in the store each of its rows
stands (8 bytes), and meanwhile the columns of the store that are asked for, of the rows that are in question still.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from artimuse_actor.errors import ManifestError, StoreError
from jobs.curate.filters import TEXT_MATCHES
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.manifest.manifest import Manifest
from jobs.storage.parquet import read_footer, read_parquet
from jobs.store.store import Store
from schemas.texts import texts_schema

_AHEAD: Final = 3  # files that are read while one is used
_T = TypeVar("_T")

Mask = NDArray[np.bool_]


class Chosen:
    """The rows that are still chosen: one bit each."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """All rows of batches of these sizes."""
        self.sizes = list(sizes)
        self.counts = list(sizes)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)]).astype(np.int64)
        self._bits = [np.packbits(np.ones(size, dtype=bool)) for size in self.sizes]

    def mask(self, batch: int) -> Mask:
        """True for each chosen row of a batch."""
        return np.unpackbits(self._bits[batch], count=self.sizes[batch]).astype(bool)

    def narrow(self, batch: int, kept: Mask) -> None:
        """Keep only these of a batch's chosen rows."""
        mask = self.mask(batch)
        mask[mask] = kept
        self._put(batch, mask)

    def keep(self, places: NDArray[np.int64]) -> None:
        """Keep only the chosen rows at these places, ascending, counted through all batches."""
        edges = np.searchsorted(places, self.starts)
        for batch in range(len(self.sizes)):
            mask = np.zeros(self.sizes[batch], dtype=bool)
            mask[places[edges[batch] : edges[batch + 1]] - self.starts[batch]] = True
            self._put(batch, mask)

    def places(self, batch: int) -> NDArray[np.int64]:
        """Places of a batch's chosen rows, counted through all batches."""
        places: NDArray[np.int64] = np.flatnonzero(self.mask(batch)) + self.starts[batch]
        return places

    def __len__(self) -> int:
        return sum(self.counts)

    def _put(self, batch: int, mask: Mask) -> None:
        self._bits[batch] = np.packbits(mask)
        self.counts[batch] = int(mask.sum())


class Candidates(Protocol):
    """Rows in batches."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of all columns."""

    @property
    def chosen(self) -> Chosen:
        """The rows that are still chosen."""

    @property
    def own(self) -> pa.Schema | None:
        """Schema of the manifest they come from, or None."""

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """For each batch with chosen rows, its number and these columns of those rows."""


class StoreRows:
    """The rows of the scores table, with those of the texts table beside them; a batch is a file."""

    def __init__(self, store: Store, text_pattern: str | None = None) -> None:
        """Note which files there are.

        Args:
            store: the store with the rows.
            text_pattern: regular expression of the column `text_matches`.
        """
        self.own: pa.Schema | None = None
        self._store = store
        self._pattern = text_pattern
        self._tables = store.table_files()
        self.files = self._tables.scores
        self._text_columns = list(store.texts.columns) if store.texts else []
        texts = [texts_schema(store.texts).field(name) for name in store.texts.all_columns] if store.texts else []
        matched = [pa.field(TEXT_MATCHES, pa.bool_())] if text_pattern is not None else []
        self.schema = pa.schema([*store.schema, *texts, *matched])
        self.chosen = Chosen(list(_ahead(self._size, self._tables.scores_paths)))

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """See `Candidates`."""
        batches = [batch for batch, count in enumerate(self.chosen.counts) if count]
        tables = _ahead(lambda batch: self._read(batch, list(columns)), batches)
        yield from zip(batches, tables, strict=True)

    def check_unchanged(self) -> None:
        """Raise StoreError if one of the files is another than at the beginning."""
        now = {file.path: file.version for file in self._store.table_files().scores}
        for file in self.files:
            if now.get(file.path) != file.version:
                raise self._changed(file.path)

    def _size(self, path: str) -> int:
        try:
            return int(read_footer(self._store.place, path).num_rows)
        except FileNotFoundError:
            raise self._changed(path) from None

    def _read(self, batch: int, columns: list[str]) -> pa.Table:
        path = self.files[batch].path
        about_texts = [name for name in columns if name not in self._store.schema.names]
        wanted = [name for name in columns if name not in about_texts]
        try:
            table = read_parquet(
                self._store.place, path, list(dict.fromkeys([*wanted, *(["image_id"] if about_texts else [])]))
            )
            if len(table) != self.chosen.sizes[batch]:
                raise self._changed(path)
            if about_texts:
                texts = self._read_texts(path, about_texts)
                rows = pc.index_in(table["image_id"], texts["image_id"].combine_chunks())
                for name in about_texts:
                    table = table.append_column(name, texts[name].take(rows))
        except FileNotFoundError:
            raise self._changed(path) from None
        mask = self.chosen.mask(batch)
        return table.select(columns) if mask.all() else table.select(columns).filter(pa.array(mask))

    def _read_texts(self, path: str, columns: list[str]) -> pa.Table:
        beside = self._tables.texts_beside(path)
        if beside is None:
            fields = [self.schema.field(name) for name in ("image_id", *columns)]
            return pa.schema(fields).empty_table()
        read = list(dict.fromkeys(["image_id", *(name for name in columns if name != TEXT_MATCHES)]))
        matched = TEXT_MATCHES in columns
        texts = read_parquet(self._store.place, beside, list({*read, *(self._text_columns if matched else [])}))
        if matched:
            found = [pc.match_substring_regex(texts[name], self._pattern) for name in self._text_columns]
            any_of = found[0]
            for one in found[1:]:
                any_of = pc.or_kleene(any_of, one)
            texts = texts.append_column(TEXT_MATCHES, any_of)
        return texts

    def _changed(self, path: str) -> StoreError:
        return StoreError(
            f"{self._store.place.uri(path)}: was changed by a run while it was read. Nothing was written. Curate again."
        )


class ManifestRows:
    """The rows of a manifest that have one in the store; a batch is one of the manifest's.

    Attributes:
        schema: the store's columns, and those of the manifest of other names.
        chosen: rows that are in the store, each id once.
        not_in_store: rows that are not.
        doubled: rows with an id that an earlier row has.
    """

    def __init__(self, store_rows: StoreRows, manifest: Manifest) -> None:
        """Find each row in the store. Raises ManifestError."""
        self._store_rows = store_rows
        self._manifest = manifest
        self.own = manifest.columns()
        own = [_plain(field) for field in self.own if field.name not in store_rows.schema.names]
        self.schema = pa.schema([*store_rows.schema, *own])
        self.not_in_store = self.doubled = 0
        self._store_places = self._find()

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """See `Candidates`. A column that both have is the store's; `own:NAME` is the manifest's in any case."""
        own = [name for name in columns if name.startswith(OWN) or name not in self._store_rows.schema.names]
        held_columns = [name for name in columns if name not in own and name != "image_id"]
        held, rank = self._held(held_columns)
        own_names = [name.removeprefix(OWN) for name in own]
        for number, table in enumerate(self._read(own_names, ids="image_id" in columns)):
            if not self.chosen.counts[number]:
                continue
            mask = self.chosen.mask(number)
            found = {}
            if table is not None:
                rows = table.filter(pa.array(mask))
                for name, plain in zip(own, own_names, strict=True):
                    column = rows[f"{OWN}{plain}"]
                    found[name] = column if name.startswith(OWN) else column.cast(self.schema.field(name).type)
                if "image_id" in columns:
                    found["image_id"] = rows["image_id"]
            if held is not None:
                start = self.chosen.starts[number]
                places = self._store_places[start : start + len(mask)][mask]
                rows = held.take(pa.array(rank[places]))
                found |= {name: rows[name].cast(self.schema.field(name).type) for name in held_columns}
            yield number, pa.table({name: found[name] for name in columns})

    def _read(self, own: list[str], *, ids: bool) -> Iterator[pa.Table | None]:
        """For each batch its `own:NAME` columns and ids, or None if neither is wanted. Raises ManifestError."""
        if not own and not ids:
            yield from [None] * len(self.chosen.sizes)
            return
        sizes = iter(self.chosen.sizes)
        for batch in self._manifest.batches(own, keys=ids or not own):
            columns = {f"{OWN}{name}": batch.own[name] for name in own} if batch.own is not None else {}
            table = pa.table(columns | ({"image_id": batch.rows["image_id"]} if ids else {}))
            if next(sizes, -1) != len(table):
                break
            yield table
        else:
            if next(sizes, None) is None:
                return
        raise ManifestError(
            f"{self._manifest.source}: was changed while it was read. Nothing was written. Curate again."
        )

    def _held(self, columns: list[str]) -> tuple[pa.Table | None, NDArray[np.int32]]:
        """The store's columns of the rows in question, and for each row of the store which of these it is."""
        wanted = np.zeros(int(self._store_rows.chosen.starts[-1]), dtype=bool)
        if not columns:
            return None, np.empty(0, dtype=np.int32)
        for batch in range(len(self.chosen.sizes)):
            wanted[self._store_places[self.chosen.places(batch)]] = True
        rank = np.cumsum(wanted, dtype=np.int32) - np.int32(1)
        self._store_rows.chosen = Chosen(self._store_rows.chosen.sizes)
        self._store_rows.chosen.keep(np.flatnonzero(wanted))
        parts = [_compact(table) for _, table in self._store_rows.scan(columns)]
        if not parts:
            return pa.schema([self.schema.field(name) for name in columns]).empty_table(), rank
        return pa.concat_tables(parts).unify_dictionaries().combine_chunks(), rank

    def _find(self) -> NDArray[np.int64]:
        """For each row of the manifest its place in the store, or -1."""
        hashes = [hash_strings(rows["image_id"]) for _, rows in self._store_rows.scan(["image_id"])]
        ids = IdIndex(np.concatenate([np.empty((0, 2), dtype=np.uint64), *hashes]))
        hashes.clear()
        seen = np.zeros(len(ids) + 1, dtype=bool)  # and one for -1, which an empty store has too
        places = []
        for batch in self._manifest.batches():
            found = ids.find(hash_strings(batch.rows["image_id"]))
            self.not_in_store += int((found < 0).sum())
            doubled = np.ones(len(found), dtype=bool)
            doubled[np.unique(found, return_index=True)[1]] = False
            doubled = (found >= 0) & (doubled | seen[found])
            self.doubled += int(doubled.sum())
            seen[found[found >= 0]] = True
            places.append(np.where(doubled, -1, found))
        self.chosen = Chosen([len(part) for part in places])
        for number, part in enumerate(places):
            self.chosen.narrow(number, part >= 0)
        return np.concatenate([np.empty(0, dtype=np.int64), *places])


OWN: Final = "own:"
"""Before the name of a manifest's column that the store has too."""


def _plain(field: pa.Field) -> pa.Field:
    """A field of categories as one of their values, which conditions are about."""
    return field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field


def _compact(table: pa.Table) -> pa.Table:
    """Dictionary-encode strings with few values, since millions of rows are in memory."""
    for place, name in enumerate(table.column_names):
        if name in ("status", "format"):
            table = table.set_column(place, name, table[name].dictionary_encode())
    return table


def _ahead(work: Callable[..., _T], items: Sequence[object]) -> Iterator[_T]:
    """The results in order, a few of them before they are asked for."""
    waiting: deque[Future[_T]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
