"""The members of tar files: where each begins and how long it is, read from the headers alone.

Python's tarfile reads the headers; it skips from one to the next. Only plain files count: links, devices, folders and
sparse files have no bytes of their own in one piece. Names are names and never paths, whatever they say.

An index is kept as a Parquet file beside the plans of a store, under a name made of the tar's own and its version, so
that a tar is gone through once for as long as it stays as it is.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import quote_from_bytes

import pyarrow as pa

from artimuse_actor.errors import BrokenFile, ManifestError, UsageError, one_line
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.uris import local_path, shown_uri
from jobs.manifest.listing import ListedFile
from jobs.storage.local_place import LocalPlace
from jobs.storage.parquet import parquet_bytes, read_parquet
from jobs.storage.place import Place
from jobs.storage.ranged_file import RangedFile

INDEX_FOLDER: Final = "_tars"
MEMBERS: Final = pa.schema([("name", pa.string()), ("first", pa.int64()), ("size", pa.int64())])
"""Plain files of a tar, in its order: the place of the first byte, and the number of bytes."""

_VERSION: Final = "1"  # of the index; another one is not read
_BATCH: Final = 4096
_MANY: Final = 64
_MAX_HEADER_BYTES: Final = 1 << 20  # of a long name or of pax records, which are read whole
_HEADERS: Final = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".lz4")
TAR: Final = ".tar"
PACKED_TARS: Final = (".tgz", ".tbz2", ".txz", ".tzst", *(f"{TAR}{suffix}" for suffix in _PACKED))


@dataclass(frozen=True)
class TarIndex:
    """What a tar file has.

    Attributes:
        members: of schema `MEMBERS`.
        cut: a sentence about the rest, if it cannot be read to its end.
    """

    members: pa.Table
    cut: str | None = None


class TarIndexes:
    """Indexes of tar files, kept in a place.

    Attributes:
        made: how many were made, and not found.
    """

    def __init__(self, place: Place | None, fetching: FetchOptions, tars: int = 1) -> None:
        """Keep them in this place, such as a store; without one, until this object is gone.

        Args:
            place: see above.
            fetching: how tars of web servers are read.
            tars: how many there are, about; many are gone through by several processes.
        """
        if place is None:
            folder = tempfile.mkdtemp(prefix="artimuse-tars-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._place: Place = LocalPlace(folder) if place is None else place
        self._fetching, self._tars = fetching, tars
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self.made = 0

    def index(self, file: ListedFile) -> TarIndex:
        """The index of a tar, found or made.

        Raises:
            ManifestError: it cannot be read.
            UsageError: it is compressed.
        """
        path = _index_path(file)
        try:
            found = read_parquet(self._place, path)
            return TarIndex(
                found.select(MEMBERS.names), (found.schema.metadata or {}).get(b"cut", b"").decode() or None
            )
        except (FileNotFoundError, BrokenFile):
            pass
        index = self._make(file)
        with self._lock:
            self.made += 1
        if file.version is not None:
            noted = index.members.replace_schema_metadata({"cut": index.cut or ""})
            self._place.write_private(path, parquet_bytes(noted))
        return index

    def _make(self, file: ListedFile) -> TarIndex:
        # 25,000 headers take a second of one core: those of 10^4 tars with 10^4 samples of three files, three hours.
        if self._tars < _MANY:
            return make_index(file, self._fetching)
        with self._lock:
            if self._pool is None:
                # Started anew: a fork would have the locks of our threads.
                self._pool = ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))
                weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        return self._pool.submit(make_index, file, self._fetching).result()


def _index_path(file: ListedFile) -> str:
    digest = hashlib.sha256(f"{_VERSION}\0{file.path}\0{file.version}\0{file.size_bytes}".encode(errors="replace"))
    return f"{INDEX_FOLDER}/{digest.hexdigest()[:40]}.parquet"


def make_index(file: ListedFile, fetching: FetchOptions) -> TarIndex:
    """Go through the headers of a tar. Raises as `TarIndexes.index`."""
    shown = shown_uri(file.path)
    try:
        with closing(_opened(file, fetching)) as opened:
            _refuse_compressed(opened, shown)
            size = opened.seek(0, os.SEEK_END)
            opened.seek(0)
            reader = _Headers(opened, size)
            members = pa.concat_tables([MEMBERS.empty_table(), *reader.batches()])
    except OSError as error:
        raise ManifestError(f"{shown}: cannot be read as a tar file: {one_line(str(error))}.") from error
    cut = reader.cut and f"{shown}: {reader.cut}; its {members.num_rows:,} files before that are taken."
    return TarIndex(members, cut)


def _opened(file: ListedFile, fetching: FetchOptions) -> Any:
    if "://" in file.path and not file.path.startswith("file://"):
        return RangedFile(file.path, file.size_bytes or 0, file.version, fetching)
    return open(local_path(file.path), "rb")


def _refuse_compressed(file: IO[bytes], shown: str) -> None:
    head = file.read(6)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise packed_tar(shown, f"compressed with {name}")


def packed_tar(source: str, how: str = "compressed") -> UsageError:
    """The error of a tar whose members cannot be read one by one."""
    return UsageError(
        f"{source}: is {how}, so no image in it can be read without all before it. Unpack it to a .tar: images are "
        "compressed already."
    )


class _Header(tarfile.TarInfo):
    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.type in _HEADERS and self.size > _MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a header has {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


class _Headers:
    """The headers of an open tar.

    Attributes:
        cut: why they end too early; None if they do not.
    """

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file, self._size_bytes = file, size_bytes
        self.cut: str | None = None

    def batches(self) -> Iterator[pa.Table]:
        """Tables of schema `MEMBERS`."""
        rows: list[tuple[str, int, int]] = []
        try:
            with tarfile.open(fileobj=self._file, mode="r:", tarinfo=_Header) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                    if member.size < 0:  # of a pax header: it would lead back
                        self.cut = f"has a damaged header of {one_line(member.name)!r}"
                        break
                    if not member.isreg() or member.issparse():
                        continue
                    if member.offset_data + member.size > self._size_bytes:
                        self.cut = f"ends within {one_line(member.name)!r}"
                        break
                    rows.append((_text(member.name), member.offset_data, member.size))
                    if len(rows) >= _BATCH:
                        yield _table(rows)
                        rows = []
                if self.cut is None and not self._ends_at(tar.offset):
                    self.cut = f"is cut short or damaged at byte {tar.offset:,}"
        except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
            self.cut = f"is cut short or damaged ({one_line(str(error))})"
        yield _table(rows)

    def _ends_at(self, offset: int) -> bool:
        """Whether the block of zeros is there that ends a tar."""
        self._file.seek(offset)
        return self._file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:  # not UTF-8: percent-encoded, as names of local files are
        return quote_from_bytes(os.fsencode(name))
    return name


def _table(rows: list[tuple[str, int, int]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, MEMBERS.types, strict=True)], schema=MEMBERS
    )
