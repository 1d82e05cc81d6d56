"""Servers whose listings lag behind their files, or come in odd pages."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import IO, Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest
from aiobotocore.response import AioReadTimeoutError  # type: ignore[import-untyped]
from botocore.exceptions import EndpointConnectionError  # type: ignore[import-untyped]
from support.faulty_places import BUCKETS, MemoryPlace
from support.loopback_server import LoopbackServer
from support.trial import Trial

from artimuse_actor.errors import StoreError
from artimuse_actor.fetch.remote_file import storage_error
from jobs.storage.place import StoredFile
from jobs.storage.s3_place import S3Place
from jobs.store.lock import run_lock


@contextmanager
def _without(*, path: str) -> Iterator[None]:
    """Listings lack files of this pattern, although they are there."""
    files = MemoryPlace.files

    def lagging(place: MemoryPlace, folder: str) -> list[StoredFile]:
        return [file for file in files(place, folder) if not re.search(path, file.path)]

    with patch.object(MemoryPlace, "files", lagging):
        yield


def _scored(root: str) -> Trial:
    trial = Trial(root)
    trial.texts = True
    for name in "abcdef":
        trial.library.put(name, name.encode())
    trial.run()
    return trial


def _tables(trial: Trial) -> dict[str, tuple[bytes, int]]:
    files = BUCKETS[trial.root].files
    return {path: file for path, file in files.items() if path.startswith(("scores/", "texts/"))}


@pytest.mark.parametrize("path", [r"scores/.*00000", r"texts/.*00001"])
@pytest.mark.parametrize("before", ["scored", "pruned", "compacted"])
def test_a_file_of_the_tables_that_is_there_and_not_listed_stops_the_run(
    before: str, path: str, tmp_path: Path
) -> None:
    trial = _scored(f"memory://{tmp_path.name}")
    if before == "pruned":
        del trial.library.photos["a"]
        trial.run(prune=True)
    if before == "compacted":
        trial.compact(f"{trial.root}-new")
    files, rows = _tables(trial), trial.look()
    trial.library.put("g", b"g")
    with _without(path=path), pytest.raises(StoreError, match="is there, but the server does not list it"):
        trial.run()
    assert _tables(trial) == files
    trial.run()
    assert trial.look().keys() == rows.keys() | {"g"}
    assert trial.run().was_finished


@pytest.mark.parametrize("folder", ["scores", "texts", "_runs"])
def test_a_folder_of_a_disk_that_is_there_and_cannot_be_listed_stops_the_run(tmp_path: Path, folder: str) -> None:
    trial, scandir = _scored(str(tmp_path / "out")), os.scandir
    rows = trial.look()

    def stale(path: str) -> Any:
        if path == str(tmp_path / "out" / folder):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return scandir(path)

    trial.library.put("g", b"g")
    with patch.object(os, "scandir", stale), pytest.raises(StoreError, match=rf"out/{folder}: .*Stale file handle"):
        trial.run()
    assert trial.look() == rows
    trial.run()
    assert trial.look().keys() == rows.keys() | {"g"}
    assert trial.run().was_finished


class _Unanswered(io.BytesIO):
    """A file of a server that stops answering in the middle of it."""

    def __init__(self, data: bytes, error: Exception) -> None:
        super().__init__(data)
        self.error = error

    def read(self, *_: Any) -> bytes:
        raise self.error


@pytest.mark.parametrize("path", [r"scores/.*00000", r"texts/.*00001"])
@pytest.mark.parametrize(
    "error",
    [
        AioReadTimeoutError(endpoint_url="http://s3"),
        EndpointConnectionError(endpoint_url="http://s3"),
        TimeoutError(),
        storage_error("timed out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    error: Exception, path: str, tmp_path: Path
) -> None:
    trial = _scored(f"memory://{tmp_path.name}")
    files, open_file = _tables(trial), MemoryPlace.open

    def unanswered(place: MemoryPlace, name: str) -> IO[bytes]:
        file = open_file(place, name)
        return _Unanswered(file.read(), error) if re.search(path, name) else file

    trial.library.put("g", b"g")
    with patch.object(MemoryPlace, "open", unanswered), pytest.raises(StoreError, match=rf"{path}.*run again"):
        trial.run()
    assert _tables(trial) == files
    assert not trial.place.files("_broken")
    trial.run()
    assert trial.run().was_finished


def test_a_compaction_leaves_no_file_out_that_is_not_listed(tmp_path: Path) -> None:
    trial = _scored(f"memory://{tmp_path.name}")
    with _without(path="scores/.*00000"), pytest.raises(StoreError, match="does not list it"):
        trial.compact(f"{trial.root}-new")
    assert "_store.json" not in BUCKETS[f"{trial.root}-new"].files


def test_a_file_that_is_listed_and_was_deleted_stops_the_run_with_a_sentence(tmp_path: Path) -> None:
    trial = _scored(f"memory://{tmp_path.name}")
    path = trial.place.files("scores")[0].path
    listed, files = trial.place.files("scores"), MemoryPlace.files
    BUCKETS[trial.root].files.pop(path)

    def lagging(place: MemoryPlace, folder: str) -> list[StoredFile]:
        return listed if folder == "scores" else files(place, folder)

    with patch.object(MemoryPlace, "files", lagging), pytest.raises(StoreError, match="was listed, and is not there"):
        trial.run()
    trial.run()
    assert trial.look().keys() == set("abcdef")


def test_the_record_of_a_run_that_is_listed_and_not_found_stops_a_prune_with_a_sentence(tmp_path: Path) -> None:
    trial = _scored(f"memory://{tmp_path.name}")
    (path,) = [file.path for file in trial.place.files("_runs") if file.path.endswith("run.json")]
    listed, files = trial.place.files("_runs"), MemoryPlace.files
    BUCKETS[trial.root].files.pop(path)

    def lagging(place: MemoryPlace, folder: str) -> list[StoredFile]:
        return listed if folder == "_runs" else files(place, folder)

    with patch.object(MemoryPlace, "files", lagging), pytest.raises(StoreError, match="was listed, and is not there"):
        trial.run(prune=True)


class _OddPages(BaseHTTPRequestHandler):
    """Pages of a listing: an empty one, one file a page, the last file again, and one more."""

    pages = ((), ("a",), ("b", "c"), ("c", "d"), ())

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        number = int(asked.get("continuation-token", ["0"])[0])
        more = number + 1 < len(self.pages)
        files = "".join(
            f"<Contents><Key>out/scores/{name}</Key><Size>1</Size><ETag>&quot;{name}&quot;</ETag></Contents>"
            for name in self.pages[number]
        )
        token = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{files}{token}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.server
def test_pages_of_a_listing_may_be_empty_short_or_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackServer(("127.0.0.1", 0), _OddPages) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "key")
        clients = fsspec.get_filesystem_class("s3")
        clients.clear_instance_cache()
        try:
            listed = S3Place("s3://bucket/out").files("scores")
        finally:
            clients.clear_instance_cache()
            server.shutdown()
    assert [(file.path, file.version) for file in listed] == [(f"scores/{name}", name) for name in "abcd"]


def test_a_lock_that_the_server_does_not_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.storage.bucket_place._PAUSE_S", 0.0)
    monkeypatch.setattr(S3Place, "create", lambda *_: True)
    monkeypatch.setattr(S3Place, "read_age", lambda *_: None)
    with pytest.raises(StoreError, match="does not show this file"), run_lock(S3Place("s3://bucket/out"), "run-1"):
        pass
