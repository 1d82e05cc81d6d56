"""Objects of Google Cloud Storage and Azure, from emulators: read by range and version, retried, refused by type."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.cloud_servers import CloudBucket
from support.fault_proxy import cut, drop, refuse, reset, stall
from support.score_job import run_artimuse

from artimuse_actor.errors import ImageError, RunError
from artimuse_actor.fetch.cloud import bucket_client
from artimuse_actor.fetch.fetch import fetch, fetch_many, look_at
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.uris import canonical_uri, shown_uri

pytestmark = pytest.mark.timeout(60)

OPTIONS = FetchOptions(max_bytes=2_000_000, first_wait_s=0.01, longest_wait_s=0.05, read_timeout_s=5.0)
SECRET = "AZURE_STORAGE_CONNECTION_STRING"


def test_objects_are_read_whole_and_in_parts_of_one_version(cloud: CloudBucket) -> None:
    names = ["a.jpg", "b c+%[1]#?.jpg", "deep/größe.jpg", "0.tar"]
    for name in names:
        cloud.put(name, name.encode() * 1000)
    assert list(fetch_many(map(cloud.uri, names), OPTIONS)) == [name.encode() * 1000 for name in names]
    seen = look_at(cloud.uri("0.tar"), OPTIONS)
    assert seen.size_bytes == 5000
    assert fetch(FileRange(cloud.uri("0.tar"), 1, 6, seen.version), OPTIONS) == b".tar0."
    assert fetch(f"{cloud.uri('0.tar')}#bytes=5-9", OPTIONS) == b"0.tar"
    cloud.put("0.tar", b"another" * 1000)
    assert _error(FileRange(cloud.uri("0.tar"), 1, 6, seen.version)).error_type == "changed"
    assert _error(FileRange(cloud.uri("0.tar"), 9000, 6)).error_type == "changed"
    assert _error(FileRange(cloud.uri("0.tar"), 6998, 6)).error_type == "changed"


def test_what_is_wrong_with_an_object_is_an_error_of_its_own_type(cloud: CloudBucket) -> None:
    for name in ("there.jpg", "mine.jpg", "large.jpg"):
        cloud.put(name, bytes(3_000_000 if name == "large.jpg" else 10))
    forbidden = "AuthorizationPermissionMismatch" if cloud.scheme == "az" else "AccessDenied"
    cloud.server.fail(cloud.path("mine.jpg"), refuse(403, forbidden))
    for uri, error_type in (
        (cloud.uri("gone.jpg"), "missing"),
        (cloud.uri("mine.jpg"), "forbidden"),
        (cloud.uri("large.jpg"), "too_large"),
        (cloud.uri("a//b.jpg"), "unsupported_uri"),
        (cloud.uri("a/../there.jpg"), "unsupported_uri"),
        (f"{cloud.scheme}://nobucket{cloud.name}/a.jpg", "missing"),
    ):
        error = _error(uri)
        assert (uri, error.error_type, error.retryable) == (uri, error_type, False)
        assert "\n" not in error.message
        assert "Debug" not in error.message
    assert fetch(cloud.uri("there.jpg"), OPTIONS) == bytes(10)
    assert _error(cloud.uri("there.jpg"), replace(OPTIONS, root=cloud.uri("in"))).error_type == "outside_root"
    cloud.put("in/there.jpg", b"in")
    assert fetch(cloud.uri("in/there.jpg"), replace(OPTIONS, root=cloud.uri("in"))) == b"in"


def test_throttled_cut_and_broken_answers_are_asked_for_again(cloud: CloudBucket) -> None:
    cloud.put("a.jpg", bytes(100_000))
    throttled = refuse(503, "ServerBusy" if cloud.scheme == "az" else "SlowDown")
    cloud.server.fail(cloud.path("a.jpg"), throttled, refuse(429, "TooManyRequests"), refuse(500), cut, reset)
    assert fetch(cloud.uri("a.jpg"), OPTIONS) == bytes(100_000)
    assert cloud.server.requests.count(cloud.path("a.jpg")) == 7  # with that of `put`
    cloud.server.fail(cloud.path("a.jpg"), *[drop] * 3)
    error = _error(cloud.uri("a.jpg"), replace(OPTIONS, attempts=3))
    assert (error.error_type, error.retryable) == ("fetch_failed", True)
    assert "tried 3 times" in error.message
    cloud.server.fail(cloud.path("a.jpg"), stall)
    assert fetch(cloud.uri("a.jpg"), replace(OPTIONS, read_timeout_s=0.5)) == bytes(100_000)


def test_credentials_that_are_not_accepted_stop_the_run(cloud: CloudBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.put("a.jpg", b"a")
    cloud.server.fail(cloud.path("a.jpg"), refuse(403 if cloud.scheme == "az" else 401, "AuthenticationFailed"))
    with pytest.raises(RunError, match=r"does not accept the credentials: 40[13] AuthenticationFailed"):
        fetch(cloud.uri("a.jpg"), OPTIONS)
    if cloud.scheme == "az":
        monkeypatch.setenv(SECRET, os.environ[SECRET].replace("AccountKey=Eby8", "AccountKey=AAAA"))
        bucket_client.cache_clear()
        with pytest.raises(RunError, match="does not accept the credentials: 403 Auth"):
            fetch(cloud.uri("a.jpg"), OPTIONS)
    monkeypatch.delenv(SECRET, raising=False)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '{"type": "no account"}')
    bucket_client.cache_clear()
    with pytest.raises(RunError, match=r"cannot be used: .*GOOGLE_APPLICATION_CREDENTIALS|AZURE_STORAGE_ACCOUNT_NAME"):
        fetch(cloud.uri("a.jpg"), OPTIONS)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    bucket_client.cache_clear()
    for uri in ("gs://bucket/a.jpg", "az://container/a.jpg"):
        with pytest.raises(RunError, match=r"the package `obstore`, which is not installed.*artimuse-batch\[clouds\]"):
            fetch(uri, OPTIONS)
        from_there: list[str | Path] = ["manifest", uri, "--out", tmp_path / "m.parquet"]
        for command in (from_there, ["status", uri]):
            failed = run_artimuse(*command, code=1)
            assert "RunError" in failed.stderr
            assert "artimuse-batch[clouds]" in " ".join(failed.stderr.split())


def test_other_spellings_name_the_same_bucket() -> None:
    assert canonical_uri("gcs://bucket/a.jpg") == "gs://bucket/a.jpg"
    for scheme in ("abfs", "abfss", "azure", "WASBS"):
        assert canonical_uri(f"{scheme}://photos@account.dfs.core.windows.net/a") == (
            "az://photos@account.dfs.core.windows.net/a"
        )
    assert shown_uri("az://photos@account.dfs.core.windows.net/a?b") == "az://photos@account.dfs.core.windows.net/a?b"
    assert shown_uri("az://user:password@host/a") == "az://…@host/a"


def test_an_account_that_a_uri_names_is_asked(azure: CloudBucket) -> None:
    azure.put("a.jpg", b"a")
    assert fetch(f"abfss://{azure.name}@devstoreaccount1.dfs.core.windows.net/a.jpg", OPTIONS) == b"a"
    other = bucket_client("az://photos@other.dfs.core.windows.net", None).config
    assert other == {"account_name": "other", "container_name": "photos", "skip_signature": True} | other
    assert "endpoint" not in other


def _error(uri: str | FileRange, options: FetchOptions = OPTIONS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        fetch(uri, options)
    return caught.value
