"""A folder of a checkpoint in a bucket → a complete local copy or none; or only its digest, with nothing stored.

A copy lies in the cache, in a folder named after the uri and the etags of its files: when one of these changes,
that is another copy. All processes of a node, and all nodes that share a cache, wait for the one that fetches. Nothing
here deletes a copy; each has its own folder, and a deleted one is fetched again.

Before the gigabytes are fetched, the folder is checked by its small files and the headers of its weights.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

import fsspec.asyn

from artimuse_actor.checkpoint.checkpoint import (
    CONFIG_FILE,
    DATA_FILES,
    MAX_HEADER_BYTES,
    Checkpoint,
    CheckpointIdentity,
)
from artimuse_actor.checkpoint.digest import cache_folder, remember_digests, remember_file_digest, remembered_digest
from artimuse_actor.checkpoint.file_lock import file_lock
from artimuse_actor.errors import CheckpointError, ImageError, RunError, one_line
from artimuse_actor.fetch.cloud import list_cloud, read_cloud
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.remote_file import RemoteObject
from artimuse_actor.fetch.retry import gate_of, retrying
from artimuse_actor.fetch.s3 import list_s3, read_s3
from artimuse_actor.uris import CLOUDS, canonical_uri, origin_of, uri_scheme

_T = TypeVar("_T")
_PART_BYTES: Final = 8 * 1024 * 1024
# One connection gives less than 100 MB/s. In memory: 4 files × 4 parts × 8 MiB, twice when they arrive.
_PARTS_AHEAD: Final = 4
_FILES_AT_ONCE: Final = 4
_MAX_SMALL_BYTES: Final = 100_000_000
_OPTIONS: Final = FetchOptions(max_bytes=MAX_HEADER_BYTES + 8)


@dataclass(frozen=True)
class BucketCheckpoint:
    """The data files of a checkpoint in a bucket, as they were when they were listed.

    Attributes:
        uri: of the folder.
        files: those that make up a checkpoint.
    """

    uri: str
    files: tuple[RemoteObject, ...]

    @classmethod
    def find(cls, uri: str) -> BucketCheckpoint:
        """List a folder.

        Raises:
            CheckpointError: it is not there, or cannot be listed.
        """
        scheme = uri_scheme(canonical_uri(uri))
        uri = f"{scheme}://{uri.partition('://')[2].rstrip('/')}"
        if not re.match(r"\w+://[^/]", uri):
            raise CheckpointError(f"{uri}: names no bucket. Write {scheme}://bucket/folder.")
        listed = _run(uri, partial(list_cloud if scheme in CLOUDS else list_s3, uri, _OPTIONS))
        files = tuple(file for file in listed if any(fnmatchcase(file.name, pattern) for pattern in DATA_FILES))
        if not files:
            raise CheckpointError(
                f"{uri}: holds no checkpoint. Name the folder that holds {CONFIG_FILE} and the weights, without what "
                "is in it."
            )
        return cls(uri, files)

    @property
    def name(self) -> str:
        """Its name for users: the last part of its uri."""
        return self.uri.rpartition("/")[2]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def copy(self) -> Path:
        """The path of its local copy, which may not exist."""
        listing = json.dumps([self.uri, *([file.name, file.size_bytes, file.etag] for file in self.files)])
        readable = re.sub(r"[^\w.-]+", "--", self.uri.partition("://")[2])[-150:]
        return cache_folder() / "checkpoints" / f"{readable}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}"

    def open(self) -> Checkpoint:
        """The checkpoint, copied to this node if it is not there yet.

        Raises:
            CheckpointError: it cannot be fetched or stored, or is not what it should be.
        """
        if not self.copy.is_dir():
            with self._outline() as outline:
                self._checked(outline)
            self._fetch()
        return Checkpoint(self.copy, self.name, source=self.uri)

    def identity(self) -> CheckpointIdentity:
        """`Checkpoint.identity` of its files, which are read for it once and not stored.

        Raises:
            CheckpointError: it cannot be read, or is not what it should be.
        """
        if self.copy.is_dir():
            return self.open().identity
        with self._outline() as outline:
            return self._checked(outline).identity

    def _checked(self, outline: Path) -> Checkpoint:
        try:
            return Checkpoint(outline, self.name, source=self.uri, digest_of=self._digest_of)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(str(outline), self.uri)) from error

    @contextmanager
    def _outline(self) -> Iterator[Path]:
        """A folder with the whole checkpoint except tensor data, which is left as holes in sparse files."""
        with tempfile.TemporaryDirectory(prefix="artimuse-") as name:
            folder = Path(name)
            try:
                for file in self.files:
                    self._outline_file(file, folder / file.name)
            except OSError as error:
                raise CheckpointError(
                    f"{self.uri}: its small files cannot be written to {folder}: {error.strerror or error}. Set TMPDIR "
                    "to a folder with room."
                ) from error
            yield folder

    def _outline_file(self, file: RemoteObject, path: Path) -> None:
        if file.name.endswith(".safetensors"):
            path.write_bytes(self._header(file))
            os.truncate(path, file.size_bytes)
        elif file.size_bytes > _MAX_SMALL_BYTES:
            raise CheckpointError(f"{self.uri}/{file.name}: is larger than {_MAX_SMALL_BYTES:,} bytes, and no weights.")
        else:
            path.write_bytes(b"".join(self._parts(file)))

    def _header(self, file: RemoteObject) -> bytes:
        """The beginning of a safetensors file, with its header if it has one."""
        length = self._part(file, 0, min(8, file.size_bytes))
        header_bytes = int.from_bytes(length, "little")
        if len(length) < 8 or header_bytes > min(MAX_HEADER_BYTES, file.size_bytes - 8):
            return length
        return length + self._part(file, 8, 8 + header_bytes)

    def _digest_of(self, path: Path) -> str:
        """SHA-256 of the file of this name."""
        file = next(file for file in self.files if file.name == path.name)
        if not file.name.endswith(".safetensors"):
            return hashlib.sha256(path.read_bytes()).hexdigest()

        def read() -> str:
            name = one_line(file.name)
            print(f"Reading {self.uri}/{name} ({file.size_bytes / 1e9:.1f} GB) for its digest.", file=sys.stderr)
            sha256 = hashlib.sha256()
            for data in self._parts(file):
                sha256.update(data)
            return sha256.hexdigest()

        return remembered_digest(self._key(file), read)

    def _key(self, file: RemoteObject) -> str:
        return f"{self.uri}/{file.name}|{file.size_bytes}|{file.etag}"

    def _fetch(self) -> None:
        copy = self.copy
        growing = copy.with_name(f"{copy.name}.partial")
        try:
            with file_lock(copy.with_name(f"{copy.name}.lock")):
                if copy.is_dir():
                    return
                growing.mkdir(exist_ok=True)
                wanted = [file for file in self.files if not _is_whole(growing / file.name, file)]
                self._refuse_small_disk(growing, sum(file.size_bytes for file in wanted))
                digests = self._fetch_files(wanted, growing)
                for path in growing.glob("*.part"):  # of a node that died
                    path.unlink()
                growing.rename(copy)
                for file, digest in digests.items():
                    remember_file_digest(copy / file.name, digest)
                remember_digests({self._key(file): digest for file, digest in digests.items()})
        except OSError as error:
            if copy.is_dir():  # another node was quicker, on a shared file system whose locks reach no further than one
                return
            raise CheckpointError(
                f"{self.uri}: cannot be copied to {growing}: {error.strerror or error}. The copy takes "
                f"{self.size_bytes / 1e9:.1f} GB; set ARTIMUSE_CACHE to a folder with room for it, then run again."
            ) from error

    def _refuse_small_disk(self, folder: Path, wanted_bytes: int) -> None:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < wanted_bytes:
            raise CheckpointError(
                f"{self.uri}: {wanted_bytes / 1e9:.1f} GB are to be copied to {folder}, where {free_bytes / 1e9:.1f} "
                "GB are free. Delete old copies beside it, or set ARTIMUSE_CACHE to a folder with room."
            )

    def _fetch_files(self, files: list[RemoteObject], folder: Path) -> dict[RemoteObject, str]:
        """Copy files into a folder; returns their digests."""
        gigabytes = sum(file.size_bytes for file in files) / 1e9
        print(f"Fetching {self.uri} ({gigabytes:.1f} GB) into {folder.parent}.", file=sys.stderr)
        stop = Event()
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            try:
                return dict(zip(files, pool.map(partial(self._fetch_file, folder, stop), files), strict=True))
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _fetch_file(self, folder: Path, stop: Event, file: RemoteObject) -> str:
        sha256 = hashlib.sha256()
        # The node is in the name, since locks of some shared file systems reach no further than one.
        part = folder / f"{file.name}.{socket.gethostname()}.part"
        with part.open("wb") as out:
            for data in self._parts(file):
                if stop.is_set():
                    raise CheckpointError(f"{self.uri}: was not fetched to its end. Run again.")
                out.write(data)
                sha256.update(data)
            out.flush()
            os.fsync(out.fileno())
        part.rename(folder / file.name)
        return sha256.hexdigest()

    def _parts(self, file: RemoteObject) -> Iterator[bytes]:
        """A file from its beginning to its end, some parts fetched ahead."""
        loop = fsspec.asyn.get_loop()
        waiting: deque[Future[bytes]] = deque()
        try:
            for start in range(0, file.size_bytes, _PART_BYTES):
                attempt = self._attempt(file, start, min(start + _PART_BYTES, file.size_bytes))
                waiting.append(asyncio.run_coroutine_threadsafe(_retried(self.uri, attempt), loop))
                if len(waiting) == _PARTS_AHEAD:
                    yield _result(f"{self.uri}/{file.name}", waiting.popleft())
            while waiting:
                yield _result(f"{self.uri}/{file.name}", waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    def _part(self, file: RemoteObject, start: int, end: int) -> bytes:
        return _run(f"{self.uri}/{file.name}", self._attempt(file, start, end)) if end > start else b""

    def _attempt(self, file: RemoteObject, start: int, end: int) -> Callable[[], Coroutine[Any, Any, bytes]]:
        """Makes one attempt to read a part of a file, if it is still the one that was listed."""
        uri = f"{self.uri}/{file.name}"
        if uri_scheme(uri) in CLOUDS:
            part = FileRange(uri, start, end - start, file.etag)
            return partial(read_cloud, uri, _OPTIONS, lambda _: None, part)
        asked = {"Range": f"bytes={start}-{end - 1}", "IfMatch": file.etag}
        return partial(read_s3, uri, _OPTIONS, lambda _: None, asked)


def _is_whole(path: Path, file: RemoteObject) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes


async def _retried(uri: str, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return await retrying(attempt, gate_of(origin_of(uri)), _OPTIONS)


def _run(uri: str, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return _result(uri, asyncio.run_coroutine_threadsafe(_retried(uri, attempt), fsspec.asyn.get_loop()))


def _result(uri: str, future: Future[_T]) -> _T:
    try:
        return future.result()
    except ImageError as error:
        raise CheckpointError(
            f"{uri}: {error.message} Check the name, AWS_ENDPOINT_URL and the permissions, then run again; files that "
            "are whole are kept."
        ) from error
    except RunError as error:
        raise CheckpointError(f"{uri}: {error}") from error
