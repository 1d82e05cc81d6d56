"""Fetching from servers that fail, throttle, stall or lie, and from manifests that should not be trusted."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.fault_proxy import (
    Fault,
    FaultProxy,
    chunked,
    corrupt,
    curse,
    cut,
    drop,
    garble,
    redirect,
    refuse,
    reset,
    running_proxy,
    silence,
    stall,
    trickle,
)
from support.loopback_server import LoopbackServer

from artimuse_actor.errors import ImageError, ImageErrorType, RunError, UsageError
from artimuse_actor.fetch import fetch as fetch_module
from artimuse_actor.fetch import local as local_files
from artimuse_actor.fetch import public_hosts, retry
from artimuse_actor.fetch import s3 as s3_objects
from artimuse_actor.fetch.byte_budget import ByteBudget
from artimuse_actor.fetch.confinement import check_path_inside
from artimuse_actor.fetch.fetch import fetch, fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.public_hosts import is_public
from artimuse_actor.fetch.retry import Gate, TryAgain, retrying

pytestmark = pytest.mark.timeout(60)

OPTIONS = FetchOptions(
    max_bytes=2_000_000,
    allow_private_hosts=True,
    attempts=4,
    first_wait_s=0.02,
    longest_wait_s=0.3,
    connect_timeout_s=1,
    read_timeout_s=0.3,
    total_timeout_s=20,
)
GUARDED = replace(OPTIONS, allow_private_hosts=False)
PHOTO_BYTES = 100_000
NAMES = [f"photo{number:03}.jpg" for number in range(200)]


def photo(name: str) -> bytes:
    return random.Random(name).randbytes(PHOTO_BYTES)


def error_of(uri: str, options: FetchOptions = OPTIONS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(uri, options)
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith(".")
    return caught.value


def error_type_of(uri: str, options: FetchOptions = OPTIONS) -> ImageErrorType:
    error = error_of(uri, options)
    assert error.retryable == (error.error_type == "fetch_failed")
    return error.error_type


# Servers


class _QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    folder = tmp_path_factory.mktemp("web")
    for name in NAMES:
        (folder / name).write_bytes(photo(name))
    with LoopbackServer(("127.0.0.1", 0), partial(_QuietFiles, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with running_proxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            yield proxy
        server.shutdown()


@contextmanager
def credentials(endpoint: str, key: str = "key", secret: str = "secret") -> Iterator[None]:
    """Nothing but these credentials, and no client left over from others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        if key:
            patch.setenv("AWS_ACCESS_KEY_ID", key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def s3_proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    """In front of a real S3 server that checks signatures."""
    with credentials(s3_endpoint):
        s3 = fsspec.filesystem("s3")
        s3.mkdir("photos")
        s3.pipe({f"photos/{name}": photo(name) for name in NAMES})
    with running_proxy(s3_endpoint) as proxy:
        yield proxy


@dataclass
class Origin:
    """One of the two servers: where its photos are, for us and for itself."""

    proxy: FaultProxy
    uris: str
    paths: str

    def uri(self, name: str = NAMES[0]) -> str:
        return self.uris + name

    def fail(self, *faults: Fault, name: str = NAMES[0]) -> None:
        self.proxy.fail(self.paths + name, *faults)


@pytest.fixture
def web(web_proxy: FaultProxy) -> Origin:
    web_proxy.reset()
    return Origin(web_proxy, f"{web_proxy.url}/", "/")


@pytest.fixture
def s3(s3_proxy: FaultProxy) -> Iterator[Origin]:
    s3_proxy.reset()
    with credentials(s3_proxy.url):
        yield Origin(s3_proxy, "s3://photos/", "/photos/")


@pytest.fixture(params=["web", "s3"])
def origin(request: pytest.FixtureRequest) -> Origin:
    found: Origin = request.getfixturevalue(request.param)
    return found


# What passes is tried again


@pytest.mark.parametrize(
    "fault",
    [
        refuse(503, "SlowDown"),
        refuse(429, "TooManyRequests"),
        refuse(500, "InternalError"),
        refuse(502),
        refuse(504),
        refuse(408),
        garble,
        drop,
        cut,
        reset,
        stall,
        silence,
    ],
    ids=["503", "429", "500", "502", "504", "408", "garbled", "dropped", "cut", "reset", "stalled", "silent"],
)
def test_a_fault_that_passes_costs_nothing_but_time(origin: Origin, fault: Fault) -> None:
    origin.fail(fault, fault)
    assert fetch(origin.uri(), OPTIONS) == photo(NAMES[0])
    assert len(origin.proxy.requests) >= 3


@pytest.mark.parametrize("fault", [refuse(400, "RequestTimeout"), corrupt], ids=["request timeout", "checksum"])
def test_so_does_one_that_only_s3_knows_of(s3: Origin, fault: Fault) -> None:
    s3.fail(fault)
    assert fetch(s3.uri(), OPTIONS) == photo(NAMES[0])


@pytest.mark.parametrize(
    "fault", [refuse(500, "InternalError"), refuse(503, "SlowDown"), cut, stall], ids=["500", "503", "cut", "stalled"]
)
def test_what_stays_broken_is_tried_as_often_as_said_and_no_layer_below_tries_more(
    origin: Origin, fault: Fault
) -> None:
    origin.fail(*[fault] * 20)
    started = time.monotonic()
    error = error_of(origin.uri())
    assert time.monotonic() - started < 10
    assert (error.error_type, error.retryable) == ("fetch_failed", True)
    assert "tried 4 times" in error.message
    assert len(origin.proxy.requests) == 4


def test_a_server_that_is_gone_is_worth_another_run(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", nobody)
        error = error_of(origin.uri().replace(origin.proxy.url, nobody))
    assert (error.error_type, error.retryable) == ("fetch_failed", True)
    assert "tried 4 times" in error.message
    assert not origin.proxy.requests


def test_a_server_that_never_ends_is_given_up_in_time(origin: Origin) -> None:
    origin.fail(trickle)
    started = time.monotonic()
    assert (
        "0.7 s were not enough"
        in error_of(origin.uri(), replace(OPTIONS, total_timeout_s=0.7, min_bytes_per_s=0)).message
    )
    assert time.monotonic() - started < 5


def test_a_server_that_drips_is_given_up_long_before(origin: Origin) -> None:
    origin.fail(*[trickle] * 2)
    error = error_of(origin.uri(), replace(OPTIONS, attempts=2, min_bytes_per_s=1000))
    assert re.fullmatch(r"The server sends \d+ bytes/s; tried 2 times in \d s\.", error.message)
    assert (error.error_type, error.retryable) == ("fetch_failed", True)


def test_a_server_that_is_slow_for_many_files_gets_one_attempt_at_each_further_one_and_then_none_until_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate, tried = Gate(), 0

    async def slow() -> bytes:
        nonlocal tried
        tried += 1
        raise TryAgain("It drips", is_slow=True)

    async def refused() -> bytes:
        nonlocal tried
        tried += 1
        raise TryAgain("500")

    async def served() -> bytes:
        return b"at last"

    def attempts_at(attempt: Callable[[], Awaitable[bytes]]) -> int:
        nonlocal tried
        tried = 0
        with pytest.raises(ImageError, match=r"tried|was too slow for 24 files in a row, so it was not asked"):
            asyncio.run(retrying(attempt, gate, replace(OPTIONS, longest_wait_s=0.001)))
        return tried

    assert [attempts_at(refused) for _ in range(10)] == [4] * 10  # it costs no time
    assert [attempts_at(slow) for _ in range(10)] == [4] * 8 + [1] * 2
    assert attempts_at(refused) == 1
    assert [attempts_at(slow) for _ in range(20)] == [1] * 14 + [0] * 6
    monkeypatch.setattr(retry, "_PROBE_EVERY_S", 0.0)  # half a minute later
    assert attempts_at(slow) == 1
    assert asyncio.run(retrying(served, gate, OPTIONS)) == b"at last"
    assert attempts_at(slow) == 4


@pytest.mark.parametrize(("status", "error_type"), [(404, "missing"), (403, "forbidden"), (400, "fetch_failed")])
def test_a_refusal_is_not_argued_with(origin: Origin, status: int, error_type: str) -> None:
    origin.fail(refuse(status, "NoSuchKey" if status == 404 else "AccessDenied"))
    assert error_type_of(origin.uri()) == error_type
    assert len(origin.proxy.requests) == 1


def test_what_a_server_says_is_text_when_it_reaches_a_table(origin: Origin) -> None:
    origin.fail(curse)
    error = error_of(origin.uri())
    assert error.error_type == "forbidden"
    assert error.message.isprintable()
    assert error.message.encode()


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_server_is_left_alone_for_as_long_as_it_asks(origin: Origin, as_date: bool) -> None:
    until = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    origin.fail(refuse(503, "SlowDown", Retry_After=format_datetime(until, usegmt=True) if as_date else "1"))
    started = time.monotonic()
    assert fetch(origin.uri(), replace(OPTIONS, longest_wait_s=5)) == photo(NAMES[0])
    assert datetime.now(UTC) >= until if as_date else time.monotonic() - started > 0.9


@pytest.mark.parametrize("after", ["86400", "-5", "soon", "Fri, 31 Dec 2400 23:59:59 GMT", "Fri, 31 Dec 2400"])
def test_but_not_for_a_day(web: Origin, after: str) -> None:
    web.fail(refuse(503, Retry_After=after))
    started = time.monotonic()
    assert fetch(web.uri(), OPTIONS) == photo(NAMES[0])
    assert time.monotonic() - started < 10


# Throttling


def test_a_server_that_throttles_above_four_requests_still_gives_every_file(origin: Origin) -> None:
    origin.proxy.limit, origin.proxy.latency_s = 4, 0.01
    assert list(fetch_many(map(origin.uri, NAMES), OPTIONS)) == list(map(photo, NAMES))
    assert 0 < origin.proxy.throttled < len(NAMES)


def test_one_throttled_burst_halves_the_gate_once_and_it_grows_back_by_one_a_round() -> None:
    async def scenario() -> None:
        gate = Gate()
        for _ in range(16):
            await gate.__aenter__()
        gate.narrow(started_s=1.0, now_s=2.0)
        gate.narrow(started_s=1.5, now_s=2.1)  # of the same burst
        assert gate.width == 8
        gate.narrow(started_s=2.2, now_s=2.3)
        assert gate.width == 4
        for _ in range(4):
            gate.widen()
        assert gate.width == pytest.approx(5, abs=0.1)
        for _ in range(10):
            gate.narrow(started_s=9.0, now_s=9.0)
        assert gate.width == 1

    asyncio.run(scenario())


def test_to_be_throttled_while_others_get_through_never_counts_as_a_failure() -> None:
    gate, tried = Gate(), 0

    async def attempt() -> bytes:
        nonlocal tried
        tried += 1
        gate.widen()  # somebody else got through
        if tried <= 3 * OPTIONS.attempts:
            raise TryAgain("503 SlowDown", throttled=True)
        return b"at last"

    assert asyncio.run(retrying(attempt, gate, replace(OPTIONS, longest_wait_s=0.01))) == b"at last"


def test_a_server_that_serves_nobody_is_given_up_although_it_says_slow_down(origin: Origin) -> None:
    origin.proxy.limit = 0
    results = list(fetch_many([origin.uri(name) for name in NAMES[:8]], OPTIONS))
    assert all(isinstance(result, ImageError) and result.error_type == "fetch_failed" for result in results)
    assert len(origin.proxy.requests) == 8 * OPTIONS.attempts


# Credentials


@pytest.mark.parametrize(("key", "secret"), [("other", "secret"), ("key", "wrong"), ("", "")])
def test_credentials_that_open_nothing_stop_the_run(s3: Origin, key: str, secret: str) -> None:
    with credentials(s3.proxy.url, key, secret), pytest.raises(RunError, match="run again") as caught:
        list(fetch_many([s3.uri(name) for name in NAMES], OPTIONS))
    assert "\n" not in str(caught.value)
    assert len(s3.proxy.requests) <= 2 * fetch_module.FETCH_AHEAD  # each file once, and once a plain name


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"])
def test_credentials_that_expire_on_the_way_stop_the_run(s3: Origin, code: str) -> None:
    reader = fetch_many(map(s3.uri, NAMES), OPTIONS, ahead=1)
    assert next(reader) == photo(NAMES[0])
    s3.proxy.fail("*", *[refuse(400, code)] * 50)
    with pytest.raises(RunError, match=code):
        next(reader)
    assert len(s3.proxy.requests) == 2


@pytest.mark.parametrize(("name", "value"), [("AWS_PROFILE", "nobody"), ("AWS_ENDPOINT_URL", "no url")])
def test_s3_that_is_not_configured_stops_the_run(
    s3: Origin, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=f"{value}.*{name}"):
        fetch(s3.uri(), OPTIONS)


@pytest.mark.parametrize("code", ["AccessDenied", "SignatureDoesNotMatch"])
def test_one_object_that_is_not_permitted_stops_nothing(s3: Origin, code: str) -> None:
    s3.fail(refuse(403, code), name=NAMES[1])
    first, second, third = fetch_many(map(s3.uri, NAMES[:3]), OPTIONS)
    assert (first, third) == (photo(NAMES[0]), photo(NAMES[2]))
    assert isinstance(second, ImageError)
    assert (second.error_type, second.retryable) == ("forbidden", False)


def test_a_listing_names_no_file_outside_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server:
        split_path = staticmethod(lambda path: ("bucket", path.removeprefix("s3://bucket/"), None))

        async def set_session(self) -> None:
            pass

        async def _call_s3(self, *_: object, **__: object) -> dict[str, Any]:
            keys = ("m/", "m/config.json", "m/../../evil.json", "/etc/evil.json", "m//evil.json")
            return {"Contents": [{"Key": key, "Size": 1, "ETag": "1"} for key in keys]}

    monkeypatch.setattr(s3_objects, "_filesystem", lambda _: Server())
    assert [found.name for found in asyncio.run(s3_objects.list_s3("s3://bucket/m", OPTIONS))] == ["config.json"]


def test_a_bucket_that_is_not_there_is_named(s3: Origin) -> None:
    error = error_of("s3://no-such-bucket/photo.jpg")
    assert (error.error_type, error.retryable) == ("missing", False)
    assert "no-such-bucket" in error.message
    assert error_type_of("s3://photos") == "missing"
    assert error_type_of("s3://bad bucket!/photo.jpg") == "missing"


# Roots


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A root with a file in it, and beside it what must not be read."""
    (tmp_path / "root" / "deep").mkdir(parents=True)
    (tmp_path / "root" / "in.jpg").write_bytes(b"inside")
    (tmp_path / "root" / "a%2Fb.jpg").write_bytes(b"inside")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "out.jpg").write_bytes(b"outside")
    (tmp_path / "out.jpg").write_bytes(b"outside")
    (tmp_path / "root" / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "rooted")
    (tmp_path / "root" / "deep" / "chain.jpg").symlink_to("../link.jpg")
    (tmp_path / "root" / "deep" / "home.jpg").symlink_to("../in.jpg")
    (tmp_path / "root" / "dangling.jpg").symlink_to("../nowhere.jpg")
    (tmp_path / "root" / "fd.jpg").symlink_to("/proc/self/root/etc/passwd")
    return tmp_path / "root"


@pytest.mark.parametrize(
    "name",
    [
        "{root}/in.jpg",
        "file://{root}/in.jpg",
        "{root}/deep/../in.jpg",
        "{root}/deep/home.jpg",
        "{root}/a%2Fb.jpg",
        "{root}/../root/in.jpg",
        "in.jpg",
    ],
)
def test_a_file_inside_the_root_is_read(shelf: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    for root in (str(shelf), f"{shelf}/", shelf.as_uri(), "."):
        assert fetch(name.format(root=shelf), replace(OPTIONS, root=root)) == b"inside"


@pytest.mark.parametrize(
    "name",
    [
        "{root}/../out.jpg",
        "../out.jpg",
        "{root}ed/out.jpg",
        "/etc/passwd",
        "/etc/no such file",
        "{root}",
        "{root}/link.jpg",
        "{root}/folder/out.jpg",
        "{root}/deep/chain.jpg",
        "{root}/dangling.jpg",
        "{root}/fd.jpg",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/../out.jpg",
        "file://{root}/../out.jpg",
        "file://{root}/%2e%2e/out.jpg",
        "file://{root}%2F..%2Fout.jpg",
        "file://{root}/%252e%252e/out.jpg",
        "FILE://localhost{root}/..%2fout.jpg",
        "file:///etc/passwd",
        "s3://bucket{root}/in.jpg",
        "https://host{root}/in.jpg",
        "ftp://host{root}/in.jpg",
    ],
)
def test_a_file_outside_the_root_is_not_read(shelf: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf)
    error = error_of(name.format(root=shelf), replace(OPTIONS, root=str(shelf)))
    # Encoded twice it names a file that is called `%2e%2e`, to be looked for inside.
    assert error.error_type == ("missing" if "%252e" in name else "outside_root")
    assert error.retryable is False


def test_a_link_that_is_put_in_place_after_the_first_look_leads_nowhere(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced_after_the_look(path: str, root: str) -> None:
        check_path_inside(path, root)
        (shelf / "in.jpg").unlink()
        (shelf / "in.jpg").symlink_to("../out.jpg")

    monkeypatch.setattr(local_files, "check_path_inside", replaced_after_the_look)
    assert error_type_of(str(shelf / "in.jpg"), replace(OPTIONS, root=str(shelf))) == "outside_root"


def test_a_root_that_is_itself_reached_by_a_link_holds_the_same_files(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(shelf)
    options = replace(OPTIONS, root=str(tmp_path / "alias"))
    assert fetch(str(shelf / "in.jpg"), options) == b"inside"
    assert fetch(str(tmp_path / "alias" / "in.jpg"), options) == b"inside"
    assert error_type_of(str(tmp_path / "alias" / "link.jpg"), options) == "outside_root"


@pytest.mark.parametrize("root", ["s3://photos", "s3://photos/", "S3://photos"])
def test_objects_inside_the_root_are_read(s3: Origin, root: str) -> None:
    assert fetch(s3.uri(), replace(OPTIONS, root=root)) == photo(NAMES[0])
    assert fetch(s3.uri().replace("s3:", "S3:"), replace(OPTIONS, root=root)) == photo(NAMES[0])


@pytest.mark.parametrize(
    "uri",
    [
        "s3://photos/photo000.jpg",
        "s3://photos/rawer/a.jpg",
        "s3://photos/raw",
        "s3://photos/raw/../photo000.jpg",
        "s3://photos/raw/..",
        "s3://other/raw/a.jpg",
        "s3:///photos/raw/a.jpg",
        "S3://PHOTOS/raw/a.jpg",
        "/photos/raw/a.jpg",
        "https://photos/raw/a.jpg",
    ],
)
def test_objects_outside_the_root_are_not_read(s3: Origin, uri: str) -> None:
    assert error_type_of(uri, replace(OPTIONS, root="s3://photos/raw/")) == "outside_root"
    assert not s3.proxy.requests


@pytest.mark.parametrize("root", ["https://host/folder", "s3://", "s3:///", "gs://", "hdfs://bucket"])
def test_a_root_is_a_folder_or_a_prefix(root: str) -> None:
    with pytest.raises(UsageError, match="--root"):
        FetchOptions(root=root)


def test_options_travel_to_tasks_with_the_root_they_were_made_with(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        options = FetchOptions(root="photos")
    assert pickle.loads(pickle.dumps(options)) == options
    assert options.root == str(tmp_path / "photos")


# Hosts


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8")),
        *((address, True) for address in ("64:ff9b::808:808", "2002:808:808::1")),
        *((address, False) for address in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1")),
        *((address, False) for address in ("192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1")),
        *((address, False) for address in ("168.63.129.16", "192.0.0.192", "::ffff:168.63.129.16", "100.100.100.200")),
        *((address, False) for address in ("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255")),
        *((address, False) for address in ("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254")),
        *((address, False) for address in ("fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "2001::1", "5f00::1")),
        *((address, False) for address in ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1")),
        *((address, False) for address in ("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::")),
    ],
)
def test_an_address_is_public_or_not(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1"),
        *("017700000001", "0", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]"),
        *("[64:ff9b::7f00:1]", "user:word@127.0.0.1", "127。0。0。1", "①②⑦.0.0.1"),
    ],
)
def test_private_hosts_are_refused_however_they_are_written(web: Origin, host: str) -> None:
    port = web.proxy.server_address[1]
    error = error_of(f"http://{host}:{port}/{NAMES[0]}", GUARDED)
    # Some spellings are no address to aiohttp, which is as well.
    assert error.error_type in ("forbidden_host", "unsupported_uri")
    assert error.retryable is False
    assert not web.proxy.requests


@contextmanager
def _only_public(address: str) -> Iterator[None]:
    """One address of loopback plays the public internet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public_hosts, "is_public", lambda asked: asked == address)
        yield


@pytest.fixture
def public(web: Origin) -> Iterator[Origin]:
    """A server at 127.0.0.2, which alone is public; the one at 127.0.0.1 is not."""
    with _only_public("127.0.0.2"), running_proxy(f"http://{web.proxy.upstream}", host="127.0.0.2") as proxy:
        yield Origin(proxy, f"{proxy.url}/", "/")


def test_a_redirect_is_followed_to_public_hosts_only(web: Origin, public: Origin) -> None:
    public.fail(redirect(public.uri(NAMES[1])))
    assert fetch(public.uri(), GUARDED) == photo(NAMES[1])
    public.fail(redirect(public.uri(NAMES[1])))
    public.fail(redirect(web.uri()), name=NAMES[1])
    assert error_type_of(public.uri(), GUARDED) == "forbidden_host"
    assert not web.proxy.requests
    assert fetch(web.uri(), OPTIONS) == photo(NAMES[0])


def test_redirects_end_after_ten(public: Origin) -> None:
    public.fail(*[redirect(public.uri())] * 30)
    error = error_of(public.uri(), GUARDED)
    assert (error.error_type, error.retryable) == ("fetch_failed", True)
    assert "more than 10 times" in error.message
    assert len(public.proxy.requests) <= 11


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """Name → its addresses at the first lookup, the second, …; the last ones stay."""
    known: dict[str, list[list[str]]] = {}
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        answers = known.get(host, [[host]])
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for address in addresses for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return known


def test_a_name_that_is_public_at_first_and_private_later_does_not_get_through(
    web: Origin, public: Origin, lookups: dict[str, list[list[str]]]
) -> None:
    lookups["rebind.test"] = [["127.0.0.2"], ["127.0.0.1"]]
    there, here = (f"http://rebind.test:{place.proxy.server_address[1]}/{NAMES[0]}" for place in (public, web))
    assert fetch(there, GUARDED) == photo(NAMES[0])  # who asks twice, to check and to connect, is at 127.0.0.1 by now
    assert error_type_of(here, GUARDED) == "forbidden_host"
    assert not web.proxy.requests
    assert fetch(here, OPTIONS) == photo(NAMES[0])


def test_a_name_with_a_public_and_a_private_address_leads_to_the_public_one(
    public: Origin, lookups: dict[str, list[list[str]]]
) -> None:
    lookups["both.test"] = [["127.0.0.1", "127.0.0.2"]]
    assert fetch(f"http://both.test:{public.proxy.server_address[1]}/{NAMES[0]}", GUARDED) == photo(NAMES[0])


@pytest.mark.parametrize("addresses", [["::1", "127.0.0.1"], ["127.0.0.3", "::1", "127.0.0.1"]], ids=len)
def test_a_name_with_private_addresses_only_leads_nowhere(
    web: Origin, lookups: dict[str, list[list[str]]], addresses: list[str]
) -> None:
    lookups["many.test"] = [addresses]
    uri = f"http://many.test:{web.proxy.server_address[1]}/{NAMES[0]}"
    assert error_type_of(uri, GUARDED) == "forbidden_host"
    assert not web.proxy.requests
    assert fetch(uri, OPTIONS) == photo(NAMES[0])


def test_a_proxy_of_the_environment_is_used_only_where_any_host_is_allowed(
    web: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", web.proxy.url)
    uri = "http://nobody.invalid/photo.jpg"
    assert error_type_of(uri, replace(GUARDED, attempts=1)) == "fetch_failed"
    assert not web.proxy.requests
    assert error_type_of(uri) == "missing"
    assert web.proxy.requests == [uri]


# Memory


@contextmanager
def _peak_of_memory() -> Iterator[Callable[[], int]]:
    """Yields what says, afterwards, how many bytes Python held at most meanwhile."""
    peaks: list[int] = []
    tracemalloc.start()
    try:
        yield lambda: peaks[0]
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[ByteBudget]:
    """The budgets that fetches were made with; each has the `peak` of what it held."""
    made: list[ByteBudget] = []

    class Recorded(ByteBudget):
        def __init__(self, limit_bytes: int) -> None:
            super().__init__(limit_bytes)
            self.peak = 0
            made.append(self)

        def reserve(self, place: int, size_bytes: int) -> None:
            super().reserve(place, size_bytes)
            self.peak = max(self.peak, sum(self._held.values()))

    monkeypatch.setattr(fetch_module, "ByteBudget", Recorded)
    return made


@pytest.mark.parametrize("limit", [1, 1000], ids=["one request at a time", "any number"])
def test_no_more_is_held_than_allowed_and_every_file_comes(
    origin: Origin, budgets: list[ByteBudget], limit: int
) -> None:
    origin.proxy.limit = limit
    options = replace(OPTIONS, held_bytes=5 * PHOTO_BYTES // 2)
    for name, data in zip(NAMES[:40], fetch_many(map(origin.uri, NAMES[:40]), options), strict=True):
        assert data == photo(name)
    (budget,) = budgets
    assert 2 * PHOTO_BYTES <= vars(budget)["peak"] <= options.held_bytes + PHOTO_BYTES


def test_bodies_of_unknown_length_are_held_within_the_limit_too(web: Origin) -> None:
    web.proxy.fail("*", *[chunked] * 1000)
    size = 4 << 20
    options = replace(OPTIONS, held_bytes=2 * size, max_bytes=2 * size)
    with _peak_of_memory() as peak_bytes:
        for data in fetch_many(map(web.uri, NAMES[:20]), options):
            assert data == b"x" * size
    assert peak_bytes() < 10 * size  # the two, the next, copies while they grow, and what is on its way for twenty


@pytest.mark.slow
def test_files_that_are_larger_than_all_that_may_be_held_come_one_by_one(tmp_path: Path) -> None:
    size = 8 << 20
    for number in range(24):
        (tmp_path / str(number)).write_bytes(bytes([number]) * size)
    options = FetchOptions(held_bytes=size // 2)
    with _peak_of_memory() as peak_bytes:
        for number, data in enumerate(fetch_many([str(tmp_path / str(number)) for number in range(24)], options)):
            assert isinstance(data, bytes)
            assert data[:1] == bytes([number])
            time.sleep(0.005)
    assert peak_bytes() < 4 * size  # the one in use, the next, and the buffer it is read into


# Stopping


def test_a_reader_that_stops_ends_what_is_under_way_and_does_not_wait_for_it(origin: Origin) -> None:
    for name in NAMES[1:20]:
        origin.fail(*[silence] * 20, name=name)
    reader = fetch_many(map(origin.uri, NAMES), replace(OPTIONS, attempts=20), ahead=8)
    assert next(reader) == photo(NAMES[0])
    started = time.monotonic()
    close: Callable[[], None] = reader.close  # type: ignore[attr-defined]
    close()
    assert time.monotonic() - started < 5  # twenty attempts would take longer
    time.sleep(0.1)
    asked = len(origin.proxy.requests)
    time.sleep(1)  # three times as long as silence is borne
    assert len(origin.proxy.requests) == asked
