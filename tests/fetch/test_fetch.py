from __future__ import annotations

import errno
import os
import socket
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pytest
from support.loopback_server import LoopbackServer

from artimuse_actor.errors import ImageError, ImageErrorType
from artimuse_actor.fetch import local as local_files
from artimuse_actor.fetch.fetch import fetch, fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.uris import local_path, uri_scheme

# The servers here are on loopback; waits are short.
OPTIONS = FetchOptions(max_bytes=1_000_000, allow_private_hosts=True, attempts=3, first_wait_s=0.01)

ODD_NAMES = [
    "a photo with blanks.jpg",
    " leading and trailing blanks ",
    'it\'s "quoted".jpg',
    "100%25.jpg",
    "a%20b.jpg",
    "holiday #1.jpg",
    "what?.jpg",
    "what?a=b&c=d#e.jpg",
    "photo[1].jpg",
    "*.jpg",
    "{a,b}.jpg",
    "a:b.jpg",
    "a+b;c=d@e,f.jpg",
    "back\\slash.jpg",
    "-rf",
    "~",
    "$HOME.jpg",
    "line\nbreak.jpg",
    "tab\there\r.jpg",
    "🌇 sunset 日落.jpg",
    unicodedata.normalize("NFC", "é.jpg"),
    unicodedata.normalize("NFD", "é.jpg"),
    os.fsdecode(b"latin-1-\xe9.jpg"),
    "x" * 251 + ".jpg",
    "é" * 127,
    "/".join(["deep folder"] * 40) + "/photo.jpg",
]


def error_type_of(uri: str, options: FetchOptions = OPTIONS) -> ImageErrorType:
    with pytest.raises(ImageError) as caught:
        fetch(uri, options)
    assert "\n" not in caught.value.message
    assert caught.value.retryable == (caught.value.error_type == "fetch_failed")
    return caught.value.error_type


def at_most(max_bytes: int) -> FetchOptions:
    return replace(OPTIONS, max_bytes=max_bytes)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each odd name; each file holds its own name."""
    folder = tmp_path_factory.mktemp("library")
    for name in ODD_NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return folder


# Local files


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name)[:40])
def test_a_local_file_of_any_name_is_read(library: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = library / name
    assert fetch(str(path), OPTIONS) == os.fsencode(name)
    assert fetch(path.as_uri(), OPTIONS) == os.fsencode(name)
    monkeypatch.chdir(library)
    assert fetch(name, OPTIONS) == os.fsencode(name)


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if "%" not in name], ids=lambda name: ascii(name)[:40])
def test_a_file_uri_that_nobody_encoded_is_read_too(library: Path, name: str) -> None:
    assert fetch(f"file://{library / name}", OPTIONS) == os.fsencode(name)


def test_of_two_readings_of_a_file_uri_the_encoded_one_is_preferred(tmp_path: Path) -> None:
    (tmp_path / "a%20b").write_bytes(b"to the letter")
    assert fetch(f"file://{tmp_path}/a%20b", OPTIONS) == b"to the letter"
    (tmp_path / "a b").write_bytes(b"decoded")
    assert fetch(f"file://{tmp_path}/a%20b", OPTIONS) == b"decoded"
    assert fetch(f"{tmp_path}/a%20b", OPTIONS) == b"to the letter"


def test_twins_in_two_unicode_forms_are_two_files(library: Path) -> None:
    contents = {fetch(str(library / unicodedata.normalize(form, "é.jpg")), OPTIONS) for form in ("NFC", "NFD")}
    assert len(contents) == 2


@pytest.mark.parametrize("prefix", ["file://", "FILE://", "file://localhost", "File://localhost"])
def test_a_file_uri_may_name_this_host(library: Path, prefix: str) -> None:
    assert fetch(prefix + str(library / "-rf"), OPTIONS) == b"-rf"


@pytest.mark.parametrize(
    "name", ["nowhere.jpg", "nowhere/nothing.jpg", "-rf/nothing.jpg", "y" * 300, "nul\0.jpg", "file:///nul%00.jpg", ""]
)
def test_a_file_that_is_not_there_is_missing(library: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(library)
    assert error_type_of(name) == "missing"


def test_a_dangling_link_and_a_link_to_itself_are_missing(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert error_type_of(str(tmp_path / "dangling.jpg")) == "missing"
    assert error_type_of(str(tmp_path / "loop.jpg")) == "missing"


def test_a_link_to_a_picture_is_the_picture(library: Path, tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(library / "-rf")
    assert fetch(str(tmp_path / "link.jpg"), OPTIONS) == b"-rf"


def test_a_folder_with_the_name_of_a_picture_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").mkdir()
    assert error_type_of(str(tmp_path / "x.jpg")) == "not_a_file"


@pytest.mark.timeout(10)
def test_a_pipe_a_socket_or_a_device_is_not_a_file_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jpg"))
        for name in (str(tmp_path / "pipe.jpg"), str(tmp_path / "s.jpg"), "/dev/zero"):
            assert error_type_of(name) == "not_a_file"


def test_an_unreadable_file_is_forbidden(tmp_path: Path) -> None:
    path = tmp_path / "private.jpg"
    path.write_bytes(b"secret")
    path.chmod(0)
    with _without_the_rights_of_root():
        assert error_type_of(str(path)) == "forbidden"


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (OSError(errno.EACCES, "Permission denied"), "forbidden"),
        (OSError(errno.EPERM, "Operation not permitted"), "forbidden"),
        (OSError(errno.ENOENT, "No such file"), "missing"),
        (OSError(errno.ENOTDIR, "Not a directory"), "missing"),
        (OSError(errno.EIO, "Input/output error"), "fetch_failed"),
        (OSError(errno.ESTALE, "Stale file handle"), "fetch_failed"),
        (OSError(errno.EMFILE, "Too many open files"), "fetch_failed"),
        (TimeoutError("timed out"), "fetch_failed"),
        (OSError("two\nlines"), "fetch_failed"),
    ],
    ids=str,
)
def test_errors_of_the_file_system_have_a_type_and_only_a_failing_disk_is_tried_again(
    error: OSError, error_type: str, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def failing(path: str, *_: object, **__: object) -> None:
        opened.append(path)
        raise error

    monkeypatch.setattr(local_files, "open", failing, raising=False)
    assert error_type_of(str(library / "-rf")) == error_type
    assert len(opened) == (OPTIONS.attempts if error_type == "fetch_failed" else 1)


def test_a_disk_that_fails_once_gives_the_file_all_the_same(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.ESTALE, "Stale file handle")]

    def failing_once(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return open(*args, **kwargs)

    monkeypatch.setattr(local_files, "open", failing_once, raising=False)
    assert fetch(str(library / "-rf"), OPTIONS) == b"-rf"


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(b"x" * 100)
    assert fetch(str(path), at_most(100)) == b"x" * 100
    assert error_type_of(str(path), at_most(99)) == "too_large"
    with path.open("r+b") as file:
        file.truncate(10**12)  # a terabyte of nothing
    assert error_type_of(str(path)) == "too_large"


@pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="Linux has it")
@pytest.mark.parametrize("path", ["/proc/self/pagemap", "/proc/self/environ", "/proc/kmsg"])
def test_files_whose_size_nobody_knows_are_not_read(path: str) -> None:
    assert fetch(path, OPTIONS) == b""


def test_a_file_that_grows_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"half")
    fstat = os.fstat

    def and_grow(descriptor: int) -> os.stat_result:
        monkeypatch.setattr(os, "fstat", fstat)
        status = fstat(descriptor)
        path.write_bytes(b"half and half")
        return status

    monkeypatch.setattr(os, "fstat", and_grow)
    assert fetch(str(path), OPTIONS) == b"half and half"


def test_a_file_without_bytes_is_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert fetch(str(tmp_path / "empty.jpg"), OPTIONS) == b""


# Schemes


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://host/a.jpg",
        "hdfs://host/a.jpg",
        "memory://a.jpg",
        "zip://a.jpg::file:///etc/a.zip",
        "simplecache::s3://bucket/a.jpg",
        "github://owner:repo@/a.jpg",
        "data://image/png;base64,AAAA",
        "reference://a",
        "local:///etc/passwd",
    ],
)
def test_schemes_that_are_not_on_the_list_are_never_opened(uri: str) -> None:
    assert error_type_of(uri) in ("unsupported_uri", "missing")
    if not uri.startswith("simplecache::"):  # to the letter a relative path, as it has no scheme
        assert error_type_of(uri) == "unsupported_uri"


def test_schemes_are_recognised_in_any_case_and_a_colon_alone_is_none() -> None:
    assert [uri_scheme(uri) for uri in ("S3://b/k", "HTTPS://h/p", "/a:b", "C:/a", "a b://c", "")] == [
        "s3",
        "https",
        "file",
        "file",
        "file",
        "file",
    ]
    assert local_path("photos/a%20b.jpg") == "photos/a%20b.jpg"


# Web


class _PhotoServer(LoopbackServer):
    seen: list[str]


class _PhotoHandler(BaseHTTPRequestHandler):
    server: _PhotoServer

    def do_GET(self) -> None:
        name = unquote(self.path)[1:]
        self.server.seen.append(name)
        if name.isdigit():
            self.send_error(HTTPStatus(int(name)))
        elif name == "dropped":
            self._head(1000)
            self.wfile.write(b"x" * 10)
            self.connection.shutdown(socket.SHUT_RDWR)
        elif name == "moved":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", "/photo.jpg")
            self.end_headers()
        elif name == "moved to a file":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif name == "endless":
            self._head(None)
            while self.command == "GET":
                self.wfile.write(b"x" * 65536)
        else:
            data = b"" if name == "empty" else name.encode()
            self._head(len(data))
            if self.command == "GET":
                self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _head(self, length: int | None) -> None:
        self.send_response(HTTPStatus.OK)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def photo_server() -> Iterator[_PhotoServer]:
    server = _PhotoServer(("127.0.0.1", 0), _PhotoHandler)
    server.seen = []
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def web(photo_server: _PhotoServer) -> str:
    return f"http://127.0.0.1:{photo_server.server_address[1]}"


@pytest.mark.server
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photo.jpg", "photo.jpg"),
        ("a%20b%23c.jpg", "a b#c.jpg"),
        ("a photo [1].jpg", "a photo [1].jpg"),
        ("*.jpg", "*.jpg"),
        ("%E6%97%A5%E8%90%BD.jpg", "日落.jpg"),
        ("日落.jpg", "日落.jpg"),
        ("photo.jpg?size=large&x=1", "photo.jpg?size=large&x=1"),
        ("photo.jpg#fragment", "photo.jpg"),
    ],
)
def test_a_picture_on_the_web_is_read(web: str, path: str, name: str) -> None:
    assert fetch(f"{web}/{path}", OPTIONS) == name.encode()


@pytest.mark.server
@pytest.mark.timeout(30)
def test_a_moved_picture_is_followed_but_never_to_a_file(web: str) -> None:
    assert fetch(f"{web}/moved", OPTIONS) == b"photo.jpg"
    assert error_type_of(f"{web}/moved to a file") == "unsupported_uri"
    assert fetch(f"{web}/empty", OPTIONS) == b""


@pytest.mark.server
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (404, "missing"),
        (410, "missing"),
        (401, "forbidden"),
        (403, "forbidden"),
        (429, "fetch_failed"),
        (500, "fetch_failed"),
        (503, "fetch_failed"),
    ],
)
def test_refusals_of_a_web_server_have_a_type(web: str, status: int, error_type: str) -> None:
    assert error_type_of(f"{web}/{status}") == error_type


@pytest.mark.server
@pytest.mark.timeout(30)
def test_a_dropped_connection_or_a_server_that_is_not_there_is_worth_a_retry(web: str) -> None:
    assert error_type_of(f"{web}/dropped") == "fetch_failed"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert error_type_of(f"http://127.0.0.1:{unused.getsockname()[1]}/photo.jpg") == "fetch_failed"


@pytest.mark.server
@pytest.mark.timeout(30)
def test_an_endless_answer_is_cut_at_the_limit(web: str) -> None:
    assert error_type_of(f"{web}/endless", at_most(200_000)) == "too_large"


# Object store


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> Iterator[str]:
    """An empty bucket of a real server, which the environment alone names."""
    s3 = fsspec.filesystem("s3")
    s3.mkdir("fetched")
    yield "fetched"
    s3.rm("fetched", recursive=True)


@pytest.mark.timeout(60)
def test_objects_of_any_name_are_read_to_the_letter(bucket: str) -> None:
    s3 = fsspec.filesystem("s3")
    names = ["a b.jpg", "a%20b.jpg", "holiday #1.jpg", "photo[1].jpg", "photo1.jpg", "*.jpg", "日落/é.jpg"]
    for name in names:
        s3.pipe_file(f"{bucket}/{name}", name.encode())
    assert [fetch(f"s3://{bucket}/{name}", OPTIONS) for name in names] == [name.encode() for name in names]
    assert list(fetch_many([f"S3://{bucket}/{name}" for name in names], OPTIONS)) == [name.encode() for name in names]


@pytest.mark.timeout(60)
def test_objects_that_are_empty_missing_or_too_large(bucket: str) -> None:
    s3 = fsspec.filesystem("s3")
    s3.touch(f"{bucket}/empty.jpg")
    s3.pipe_file(f"{bucket}/large.jpg", b"x" * 100)
    assert fetch(f"s3://{bucket}/empty.jpg", OPTIONS) == b""
    assert fetch(f"s3://{bucket}/large.jpg", at_most(100)) == b"x" * 100
    assert error_type_of(f"s3://{bucket}/large.jpg", at_most(99)) == "too_large"
    assert error_type_of(f"s3://{bucket}/nothing.jpg") == "missing"
    assert error_type_of("s3://no-such-bucket/nothing.jpg") == "missing"


# Many at once


def test_many_come_in_order_with_bytes_and_errors_passed_through(library: Path) -> None:
    known = ImageError("empty", "The row has no bytes.")
    wanted = [str(library / name) for name in ODD_NAMES]
    results = list(fetch_many([*wanted, b"embedded", str(library / "nowhere"), known, *wanted], OPTIONS))
    contents = [os.fsencode(name) for name in ODD_NAMES]
    assert results[: len(contents)] == contents
    assert results[len(contents)] == b"embedded"
    missing = results[len(contents) + 1]
    assert isinstance(missing, ImageError)
    assert missing.error_type == "missing"
    assert results[len(contents) + 2] is known
    assert results[len(contents) + 3 :] == contents


def test_nothing_to_fetch_is_nothing() -> None:
    assert list(fetch_many([], OPTIONS)) == []


@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_no_more_than_asked_are_fetched_ahead(library: Path, ahead: int) -> None:
    taken = Counter[str]()

    def uris() -> Iterator[str]:
        for name in ODD_NAMES:
            taken["uris"] += 1
            yield str(library / name)

    for n, result in enumerate(fetch_many(uris(), OPTIONS, ahead)):
        assert result == os.fsencode(ODD_NAMES[n])
        assert taken["uris"] - n <= ahead


@pytest.mark.server
@pytest.mark.timeout(30)
def test_many_are_fetched_at_the_same_time_and_one_slow_server_keeps_the_order(web: str, library: Path) -> None:
    uris = [f"{web}/photo{n}.jpg" if n % 2 else str(library / "-rf") for n in range(20)]
    expected = [f"photo{n}.jpg".encode() if n % 2 else b"-rf" for n in range(20)]
    assert list(fetch_many(uris, OPTIONS, ahead=8)) == expected


@pytest.mark.timeout(30)
def test_a_reader_that_stops_early_leaves_no_thread_behind(library: Path) -> None:
    before = _fetching_threads()
    reader = fetch_many([str(library / "-rf")] * 50, OPTIONS, ahead=4)
    assert next(reader) == b"-rf"
    assert isinstance(reader, Iterator)
    close: Callable[[], None] = reader.close  # type: ignore[attr-defined]
    close()
    assert _fetching_threads() == before


def _fetching_threads() -> int:
    return sum(thread.name.startswith("fetch") for thread in threading.enumerate())


@contextmanager
def _without_the_rights_of_root() -> Iterator[None]:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
