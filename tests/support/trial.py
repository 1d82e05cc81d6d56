"""A library of pictures and its store, for trials of what may be lost: whole runs in this process, without Ray.

`score` itself runs, with its planning, loading, staging, committing, pruning and counting. Three things are replaced:
files of pictures are in a dictionary, decoding and the model are functions of the bytes, and nothing starts Ray. To
save time, pixels are few, and tables are Parquet files without compression, of which the same bytes are parsed once.
"""

from __future__ import annotations

import hashlib
import os
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.faulty_places import BUCKETS, Faults, open_faulty_place
from support.stores import FINGERPRINT

from artimuse_actor.checkpoint.checkpoint import CheckpointIdentity
from artimuse_actor.errors import ImageError
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.manifest.listed import ListedManifest, listed_rows
from jobs.manifest.manifest import Coverage
from jobs.plan.stored_rows import RetryErrors
from jobs.score.commit import ShardCommitter
from jobs.score.load import UnitLoader
from jobs.score.run import Asked, score
from jobs.score.settings import ScoreResult, ScoreSettings
from jobs.score.stage import UnitStager
from jobs.storage.place import Place
from jobs.store import known_images
from jobs.store.maintenance import compact
from jobs.store.run_record import RunRecord
from jobs.store.text_request import WantedTexts
from schemas.units import UNIT, scored_unit, staged_unit

TEXTS = WantedTexts(["overall_gestalt"], max_new_tokens=20)
COLUMN = "overall_gestalt"
_WITH_THREADS = (
    *("score.commit", "store.plan_progress", "store.store", "store.counts", "store.known_images", "store.maintenance"),
    *("store.pruning", "store.doubles", "plan.stored_rows"),
)
_SIDE = 4
_PIXELS = pa.field("pixels", pa.binary(_SIDE * _SIDE * 3))
ROOT = "/photos"
CORRUPT = b"corrupt"
AWAY = b"away"


@dataclass(frozen=True)
class Photo:
    """A file.

    Attributes:
        data: its bytes; `CORRUPT` at their beginning cannot be decoded, and `AWAY` cannot be read just now.
        version: size and mtime, as far as a plan cares.
    """

    data: bytes
    version: str

    @property
    def outcome(self) -> str:
        """The digest of the bytes, or the type of the error."""
        if self.data.startswith(AWAY):
            return "fetch_failed"
        return "corrupt" if self.data.startswith(CORRUPT) else hashlib.sha256(self.data).hexdigest()


def is_below(name: str, folders: Iterable[str]) -> bool:
    """Whether a picture lies in one of these folders."""
    return any(f"{ROOT}/{name}".startswith(f"{folder}/") for folder in folders)


def score_of(sha256: str) -> float:
    """The model: digest → points."""
    return int(sha256[:4], 16) % 1000 / 10


def text_of(sha256: str) -> str:
    """The model: digest → text."""
    return f"about {sha256[:16]}"


@dataclass
class Library:
    """Pictures by name, and what was ever loaded.

    Attributes:
        photos: name → file.
        loaded: (name, planned version, outcome) of every picture that a run has read.
        swapped: (name, version) of files whose bytes have changed, and their version has not.
        root: the folder that they are in.
    """

    photos: dict[str, Photo] = field(default_factory=dict)
    loaded: set[tuple[str, str, str]] = field(default_factory=set)
    swapped: set[tuple[str, str]] = field(default_factory=set)
    edits: int = 0
    root: str = ROOT

    def put(self, name: str, data: bytes) -> None:
        """Add or change a file."""
        self.edits += 1
        self.photos[name] = Photo(data, f"{len(data)}-{self.edits}")

    def manifest(self, names: Iterable[str] | None = None, unseen: tuple[str, ...] = ()) -> ListedManifest:
        """The library as it is listed now, all in one order; `unseen` folders cannot be looked into."""
        chosen = sorted(self.photos) if names is None else list(names)
        chosen = [name for name in chosen if not is_below(name, unseen)]
        uris, versions = [f"{self.root}/{name}" for name in chosen], [self.photos[name].version for name in chosen]
        rows = listed_rows(list(chosen), list(uris), list(versions), [None] * len(chosen))
        return ListedManifest(self.root, rows, [], Coverage(self.root, unseen))


class Trial:
    """Runs against one store."""

    def __init__(self, root: str) -> None:
        self.library = Library()
        self.root, self.texts, self.parts, self.moved = root, False, False, False
        self.reads = self._runs = 0
        self._files: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self._looked: tuple[object, dict[str, dict[str, Any]]] | None = None

    @property
    def place(self) -> Place:
        return open_faulty_place(self.root)

    @property
    def faults(self) -> Faults:
        return BUCKETS[self.root].faults

    def run(
        self,
        manifest: ListedManifest | None = None,
        *,
        prune: bool = False,
        retry: RetryErrors = RetryErrors(),
    ) -> ScoreResult:
        """One `artimuse score`."""
        self.faults.look = self.look
        settings = ScoreSettings(
            self.library.root,
            "ArtiMuse",
            self.root,
            unit_size=2,
            shard_rows=4,
            texts=TEXTS if self.texts else None,
            retry=retry,
            prune=prune,
            prune_max=1.0,
            moved=self.moved,
        )
        with self._without_ray(manifest or self.library.manifest()):
            return score(settings)

    def compact(self, new: str, shard_rows: int = 4) -> None:
        """`artimuse compact`; later runs are of the new store."""
        if new.startswith("/"):
            Path(new).mkdir(exist_ok=True)
        with self._without_ray(self.library.manifest()):
            compact([self.root], new, shard_rows=shard_rows)
        self.root = new

    def look(self) -> dict[str, dict[str, Any]]:
        """Read the tables as at this moment, and check each row; returns the rows of the scores table by id."""
        self.reads += 1
        listed = [(file.path, file.version) for table in ("scores", "texts") for file in self.place.files(table)]
        if self._looked and self._looked[0] == (self.root, listed):
            return self._looked[1]
        scores, texts = self.rows("scores"), self.rows("texts")
        for table in (scores, texts):
            counted = Counter(row["image_id"] for row in table)
            assert not [name for name, count in counted.items() if count > 1], f"doubled: {counted}"
        for row in scores:
            outcome = row["error_type"] or row["sha256"]
            assert (row["image_id"], row["version"], outcome) in self.library.loaded, f"never loaded: {row}"
            assert (row["status"] == "ok") == (row["score"] is not None)
            if row["status"] == "ok":
                assert abs(row["score"] - score_of(row["sha256"])) < 1e-3, f"another picture's score: {row}"
        for row in texts:
            if row["status"] == "ok":
                assert row[COLUMN] == text_of(row["sha256"]), f"another picture's text: {row}"
        rows = {row["image_id"]: row for row in scores}
        self._looked = (self.root, listed), rows
        return rows

    def check_finished(
        self,
        manifest: ListedManifest,
        before: dict[str, dict[str, Any]],
        *,
        prune: bool,
        strict: bool,
        retry: RetryErrors = RetryErrors(),
    ) -> None:
        """After a run that says it is finished, the tables hold what the manifest asks for.

        Args:
            manifest: what was scored.
            before: the rows before the run.
            prune: whether other rows are gone, but for those in folders that could not be looked into.
            strict: whether the run before it ended, so that this one committed no rows of that.
            retry: which failed rows were retried.
        """
        after = self.look()
        listed = dict(zip(manifest.rows["image_id"].to_pylist(), manifest.rows["version"].to_pylist(), strict=True))
        if retry.alone:  # nothing but rows that had failed
            failed = {name for name, row in before.items() if strict and row["error_type"] in (retry.types or ())}
            listed = {name: version for name, version in listed.items() if name in failed}
        others = set(before) - set(listed)
        if not strict:  # what the run before it has staged is committed, whatever the manifest is now
            others |= set(after)
        if prune and manifest.coverage:
            others = {name for name in others if is_below(name, manifest.coverage.unseen)}
        assert set(after) == set(listed) | others, f"lost or left: {set(after) ^ (set(listed) | others)}"
        for name in others if strict else ():
            is_told = (name, before[name]["version"]) not in self.library.swapped
            assert after[name] == before[name] or not is_told, f"{name} has changed"
        for name, version in listed.items():
            row, old = after[name], before.get(name)
            assert row["version"] == version
            assert row["uri"] == f"{self.library.root}/{name}" or not self.moved
            is_retried = old and (old["retryable"] or old["error_type"] in (retry.types or ()))
            photo = self.library.photos.get(name)
            is_told = (name, version) not in self.library.swapped
            # A former manifest may name a version whose bytes are gone: who asks for texts gets those of others, and a
            # score of these.
            is_former = self.texts and photo and photo.version != version
            if strict and old and old["version"] == version and not is_retried:
                assert row == old or not is_told or is_former, f"{name} was scored again"
            if photo and photo.version == version and is_told and photo.outcome != "fetch_failed":
                # An error that the run before it has staged is retried by the next.
                assert (row["error_type"] or row["sha256"]) == photo.outcome or (row["retryable"] and not strict)
        if self.texts:
            described = {row["image_id"]: row for row in self.rows("texts")}
            for name in listed:
                photo, row, texts = self.library.photos.get(name), after[name], described.get(name)
                if row["status"] == "ok" and photo and photo.outcome == row["sha256"]:
                    assert texts, f"{name} has no texts"
                    # An error that the run before it has staged is retried by the next.
                    assert texts["sha256"] == row["sha256"] or (texts["retryable"] and not strict)
                if texts and texts["status"] == "ok":
                    assert texts["sha256"] == row["sha256"], f"{name} has the texts of other bytes"

    def rows(self, table: str) -> list[dict[str, Any]]:
        """The rows of a table, of files that a reader sees; each version of a file is parsed once."""
        rows = []
        for file in self.place.files(table):
            key = self.root, file.path, file.version
            if key not in self._files:
                self._files[key] = self._parsed(file.path)
            rows += self._files[key]
        return rows

    def _parsed(self, path: str) -> list[dict[str, Any]]:
        try:
            return list(_parsed_once(self.place.read(path)).read().to_pylist())
        except pa.ArrowInvalid:  # a reader cannot read it either, until it is mended
            return []

    def _new_run_id(self) -> str:
        """Ids that are the same each time, so that a history can be played again, and in no order, like two clocks."""
        self._runs += 1
        return f"{hashlib.sha256(str(self._runs).encode()).hexdigest()[:6]}-{self._runs}-{os.getpid()}"

    @contextmanager
    def _without_ray(self, manifest: ListedManifest) -> Iterator[None]:
        library = self.library

        def identify(settings: ScoreSettings, run: Any) -> Asked:
            checkpoint = CheckpointIdentity("ArtiMuse", FINGERPRINT.checkpoint_digest, "ArtiMuse")
            return Asked(settings, checkpoint, ARTIMUSE, FINGERPRINT)

        replaced: dict[str, Any] = {
            "jobs.score.run._identify": identify,
            "jobs.score.run.open_manifest": lambda *_: manifest,
            "jobs.score.run._score_units": partial(_score_units, library),
            "jobs.score.run.open_place": open_faulty_place,
            "jobs.store.store.open_place": open_faulty_place,
            "jobs.store.maintenance.open_place": open_faulty_place,
            **{f"jobs.{module}.ThreadPoolExecutor": _AtOnce for module in _WITH_THREADS},
            **{f"jobs.{module}.new_run_id": self._new_run_id for module in ("score.run_context", "store.maintenance")},
            "jobs.store.run_record._versions": dict,
            "jobs.store.run_record.this_commit": lambda: None,
            "jobs.score.commit.PART_EVERY_S": 0.0 if self.parts else 1e9,
            "jobs.score.load.fetch_many": lambda sources, *_: (library_bytes(library, source) for source in sources),
            "jobs.score.load.decode_within_limits": lambda data, *_: decode(data),
            "jobs.score.load.ChildDecoder": _Child,
            "artimuse_actor.whole_file.sync": lambda _: None,
            "jobs.storage.local_place.sync": lambda _: None,
            "jobs.storage.parquet.parquet_file": _parquet_file,
            "jobs.storage.parquet.COMPRESSION": "none",
            "jobs.score.load.IMAGE_SIZE": _SIDE,
            "jobs.score.load.PIXELS": _PIXELS,
        }
        for cached in (known_images._blocks, known_images._block, known_images._rows, known_images._digests):
            cached.cache_clear()  # a run is a process of its own
        before = [(*_owner(name), value) for name, value in replaced.items()]
        originals = [getattr(module, name) for module, name, _ in before]
        try:
            for module, name, value in before:
                setattr(module, name, value)
            yield
        finally:
            for (module, name, _), original in zip(before, originals, strict=True):
                setattr(module, name, original)


@lru_cache
def _owner(name: str) -> tuple[ModuleType, str]:
    """The module of a dotted name, and the name in it."""
    module, _, attribute = name.rpartition(".")
    found: ModuleType = pkgutil.resolve_name(module)
    return found, attribute


class _Parsed:
    """A Parquet file that is parsed once, however often it is read."""

    def __init__(self, data: bytes) -> None:
        self._file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        self.metadata, self.schema_arrow = self._file.metadata, self._file.schema_arrow

    @cached_property
    def _table(self) -> pa.Table:
        return self._file.read(use_threads=False)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        return self._table if columns is None else self._table.select(columns)

    def iter_batches(self, rows: int, columns: list[str]) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = self._table.select(columns).to_batches(rows)
        return batches

    def read_row_group(self, number: int) -> pa.Table:
        return self._file.read_row_group(number, use_threads=False)


_parsed_once = lru_cache(maxsize=256)(_Parsed)


def _parquet_file(file: IO[bytes]) -> _Parsed:
    """`jobs.storage.parquet.parquet_file`."""
    return _parsed_once(file.read())


def library_bytes(library: Library, uri: str | bytes | ImageError) -> bytes | ImageError:
    """The bytes of a picture as they are now."""
    assert isinstance(uri, str)
    photo = library.photos.get(uri.removeprefix(f"{library.root}/"))
    if photo is None:
        return ImageError("missing", "It is not there.")
    if photo.data.startswith(AWAY):
        return ImageError("fetch_failed", "It cannot be read just now.", retryable=True)
    return photo.data


def decode(data: bytes) -> DecodedImage:
    """Pixels that begin with the digest of the bytes."""
    if data.startswith(CORRUPT):
        raise ImageError("corrupt", "It cannot be decoded.")
    pixels = np.zeros((_SIDE, _SIDE, 3), dtype=np.uint8)
    pixels.reshape(-1)[:32] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return DecodedImage(pixels, 640, 480, "JPEG", "0" * 16, "exif_rotated" if pixels[0, 0, 0] % 2 else None)


def answer(block: pa.Table, answers: pa.Schema) -> pa.Table:
    """The model: a loaded unit → a scored one."""
    rows = block.drop_columns(["pixels"]).to_pylist()
    for row, pixels in zip(rows, block["pixels"], strict=True):
        if pixels.is_valid:
            sha256 = pixels.as_buffer()[:32].to_pybytes().hex()
            row["score"] = score_of(sha256)
            if COLUMN in answers.names:
                row |= {COLUMN: text_of(sha256), f"{COLUMN}_tokens": 3, f"{COLUMN}_finish_reason": "stop"}
    return pa.Table.from_pylist(rows, schema=scored_unit(answers))


def _score_units(
    library: Library,
    asked: Asked,
    manifest: ListedManifest,
    committer: ShardCommitter,
    record: RunRecord,
    run: Any,
    *_: object,
) -> Counter[str]:
    """`jobs.score.run._score_units`, with the steps one after the other in this process."""
    store, plan, errors = committer.store, committer.plan, Counter[str]()
    loader = UnitLoader(store.place, plan, DecodeOptions(), store.answers, store.known_rows(plan))
    stager = UnitStager(store.place, plan, staged_unit(store.schema, store.texts), store.texts, run.id)
    with committer:
        for shard, unit in committer.units:
            (block,) = loader(pa.Table.from_pylist([{"shard": shard, "unit": unit}], schema=UNIT))
            about = block.select(["image_id", "version", "error_type", "sha256"]).to_pylist()
            library.loaded.update(
                (row["image_id"], row["version"], row["error_type"] or row["sha256"]) for row in about
            )
            (receipt,) = stager(answer(block, store.answers)).to_pylist()
            errors.update(receipt["error_types"])
            record.add(receipt)
            committer.unit_staged(shard, unit)
    return errors


class _Child:
    """A decoder that needs no process."""

    decode = staticmethod(decode)

    def __init__(self, _: DecodeOptions) -> None:
        pass

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _AtOnce:
    """An executor that does what it is given before it returns, so that the order of changes is always the same."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> _AtOnce:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass
