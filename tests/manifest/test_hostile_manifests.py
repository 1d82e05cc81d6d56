"""Manifests from elsewhere that ask for much, or that carry secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.golden import golden_images
from support.score_job import run_artimuse, run_score

from artimuse_actor.errors import ImageError, ManifestError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.node import node_bytes
from artimuse_actor.uris import lacks_secrets, shown_uri, uri_as_id, without_secrets
from jobs.manifest.source import open_manifest
from jobs.manifest.table_rows import MAX_TEXT_BYTES


def _one_long_word_many_times(path: Path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), pa.array(["a" * 10_000_000]))
    pq.write_table(pa.table({"uri": words}), path, compression="zstd")  # 1 kB for 600 GB


def _one_row_many_times(path: Path) -> None:
    schema = pa.schema([("uri", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        writer.write_table(pa.table({"uri": ["x.jpg"] * 2_000_000}, schema=schema), row_group_size=2**31)


def _a_long_uri(path: Path) -> None:
    pq.write_table(pa.table({"uri": ["short.jpg"] * 3 + ["x" * (MAX_TEXT_BYTES + 1)]}), path)


@pytest.mark.process
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_one_long_word_many_times, "takes more than 2,147,483,648 bytes of memory"),
        (_one_row_many_times, "row 1: has the same `image_id` as"),
        (_a_long_uri, "row 3: `uri` is longer than 32,768 bytes"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_a_small_file_that_stands_for_much_is_a_sentence_in_bounded_memory(
    tmp_path: Path, make: Callable[[Path], None], sentence: str
) -> None:
    make(tmp_path / "m.parquet")
    program = (
        "import atexit, sys; import numpy as np\n"
        "from pathlib import Path\n"
        "from jobs.plan.stored_rows import StoredRows\n"
        "from jobs.manifest.id_index import IdIndex\n"
        "from jobs.manifest.source import open_manifest\n"
        "from jobs.plan.planner import make_plan\n"
        "atexit.register(lambda: print(Path('/proc/self/status').read_text()))\n"
        "none = np.empty((0, 2), dtype=np.uint64)\n"
        "stored = StoredRows((), IdIndex(none), none, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8))\n"
        "make_plan(open_manifest(sys.argv[1]), stored, 'p', lambda shard, rows: None)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "m.parquet"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("artimuse_actor.errors.ManifestError: ")
    assert sentence in last
    peak_kib = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)  # of this process alone, whatever others took
    assert peak_kib
    assert int(peak_kib[1]) < 3 * 1024**2


def test_more_rows_than_memory_are_refused_by_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        pq.write_table(pa.table({"uri": [f"{name}{number}" for number in range(600)]}), tmp_path / f"{name}.parquet")
    monkeypatch.setattr("jobs.manifest.tables._BYTES_A_ROW", node_bytes() // 1000)
    with pytest.raises(ManifestError, match=r"b\.parquet: makes 1,200 rows; to plan them takes"):
        list(open_manifest(str(tmp_path)).batches())


@pytest.mark.parametrize("codec", ["latin-1", "utf-16"])
def test_uris_of_another_encoding_are_a_sentence(tmp_path: Path, codec: str) -> None:
    raw = pa.array([b"a.jpg", "café.jpg".encode(codec)], pa.binary())
    uris = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    pq.write_table(pa.table({"uri": uris}), tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match=r"m\.parquet, row 1: `uri` cannot be read as text: .*as UTF-8"):
        list(open_manifest(str(tmp_path / "m.parquet")).batches())


SECRET = "hunter2"
SPELLINGS = [
    *(f"https://h/a.jpg?{name}={SECRET}" for name in (
        "token", "access_token", "access-token", "jwt", "sig", "%73ig", "signature", "X-Amz-Signature", "Policy",
        "X-Goog-Credential", "Expires", "hdnts", "hdnea", "hmac", "key", "api_key", "client_secret", "password", "pw",
        "code", "s", "session", "Authorization", "md5", "user", "nobody-knows",
    )),
    f"https://ann:{SECRET}@h/a.jpg",
    f"https://ann:p@{SECRET}@h/a.jpg",
    f"https://{SECRET}@h/a.jpg",
    f"https://ann:p/{SECRET}@h/a.jpg",
    f"https://ann:p?{SECRET}#x@h/a.jpg",
    f"https://ann:p\t{SECRET}@h/a.jpg",
    f"https://ann:p {SECRET}@h/a.jpg",
    f"https://ann\\:{SECRET}@h/a.jpg",
    f"https://h:{SECRET}/a.jpg",
    f" https://ann:{SECRET}@h/a.jpg",
    f"HTTPS://ann:{SECRET}@[::1]:80/a.jpg",
    f"s3://KEY:{SECRET}@bucket/a.jpg",
    f"ftp://ann:{SECRET}@h/a.jpg",
    f"https://archive/2020/https://ann:{SECRET}@h/a.jpg?token={SECRET}",
    "https://" * 9 + f"ann:{SECRET}@h/a.jpg",
    f"https://h/a.jpg?token='{SECRET}",
    f"https://h/a.jpg?token=1'{SECRET}&x=\"{SECRET}",
    f"https://h/a.jpg?size=1'{SECRET}",
    f"https://h/a.jpg?size=1;token={SECRET}",
    f"https://h/a.jpg?size=1?token={SECRET}",
    f"https://h/a.jpg?to%6Ben%3D{SECRET}",
    f"https://h/a.jpg?{SECRET}",
    f"https://h/a.jpg;jsessionid={SECRET}",
    f"https://h/hdnts=exp=1~hmac={SECRET}/a.jpg",
    f"https://h/a.jpg#access_token={SECRET}",
    f"s3://bucket/a.jpg?X-Amz-Signature={SECRET}",
]  # fmt: skip


@pytest.mark.parametrize("uri", SPELLINGS)
def test_no_spelling_of_a_secret_is_in_a_uri_an_id_or_a_message(uri: str) -> None:
    for text in (shown_uri(uri), uri_as_id(uri), without_secrets(f"'{uri}' (host h) is refused", uri)):
        assert SECRET not in text
    told = without_secrets(" ".join(f"GET {uri}: refused".split()), uri)  # as messages of libraries are, in one line
    assert SECRET not in told


_URLS = st.lists(
    st.sampled_from(
        ["https://", "s3://", "file://", "h", ":", "8", "@", "/", "?", "&", ";", "=", "#", "[", "]", "\\", " "]
    )
    | st.sampled_from(["id=7", "key=", "sig=", "token=5", "…", "x", "http://h/"]),
    max_size=14,
).map("".join)


@given(_URLS)
def test_what_is_shown_stays_as_it_is_when_it_is_shown_again(uri: str) -> None:
    assert shown_uri(shown_uri(uri)) == shown_uri(uri)
    if " " not in uri and uri.count("://") <= 4:  # of more within each other, the last ones are left out
        assert without_secrets(shown_uri(uri)) == shown_uri(uri)
        assert without_secrets(uri_as_id(uri)) == uri_as_id(uri_as_id(uri)) == uri_as_id(uri)


def test_a_url_that_lost_its_secrets_is_not_asked_for() -> None:
    for uri in SPELLINGS:
        if uri.lower().startswith("http"):
            assert lacks_secrets(shown_uri(uri))
            assert not lacks_secrets(uri)
            with pytest.raises(ImageError, match="Secrets were left out of this url"):
                fetch(shown_uri(uri), FetchOptions())


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://ann:hunter2@host/a.jpg", "https://…@host/a.jpg"),
        (
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=A&X-Amz-Credential=C%2Fs3&X-Amz-Signature=5ec4e7&size=3",
            "https://b.s3.amazonaws.com/a.jpg?X-Amz-Algorithm=…&X-Amz-Credential=…&X-Amz-Signature=…&size=3",
        ),
        ("https://acc.blob.core/a.jpg?sv=2024&se=9&sig=5%3D", "https://acc.blob.core/a.jpg?sv=2024&se=…&sig=…"),
        ("https://h/show?key=photos/a.jpg&id=7", "https://h/show?key=…&id=7"),
        *(
            (uri, uri)
            for uri in (
                "https://h:8080/@ann/year=2024/a@2x.jpg?w=500&format=webp&download",
                "https://archive/2020/http://h/a.jpg?id=7",
                "s3://bucket/what?a=b&c=d#e@f.jpg",
                "s3://arn:aws:s3:us-west-2:1:accesspoint/x/a.jpg",
                "file:///photos/a@b?token=c.jpg",
                "/photos/a@b?token=no uri.jpg",
            )
        ),
    ],
)
def test_what_names_a_picture_is_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
    assert without_secrets(f"reading {uri} failed") == f"reading {shown} failed"


def test_a_picture_whose_url_is_signed_anew_keeps_its_id(tmp_path: Path) -> None:
    ids = []
    for night in ("1", "2"):
        uris = [f"https://h/{name}.jpg?Expires={night}&Signature=s{night}" for name in "ab"]
        uris += [f"https://h/show?key={name}&sig=s{night}&se={night}" for name in "ab"]
        pq.write_table(pa.table({"uri": uris}), tmp_path / "m.parquet")
        (batch,) = open_manifest(str(tmp_path / "m.parquet")).batches()
        assert batch.rows["uri"].to_pylist() == uris
        ids.append(batch.rows["image_id"].to_pylist())
    assert ids[0] == ids[1]
    assert ids[0][:2] == ["https://h/a.jpg?Expires=…&Signature=…", "https://h/b.jpg?Expires=…&Signature=…"]
    assert [name.partition("#")[0] for name in ids[0][2:]] == ["https://h/show?key=…&sig=…&se=…"] * 2
    assert len(set(ids[0])) == 4


@pytest.mark.process
@pytest.mark.timeout(120)
def test_no_secret_is_left_in_a_store_or_on_the_screen(tmp_path: Path) -> None:
    secret = SECRET
    uris = [
        golden_images()[4].as_uri(),
        f"http://ann:{secret}@127.0.0.1:9/gone.jpg",
        f"http://127.0.0.1:9/gone.jpg?X-Amz-Signature={secret}",
        f"https://{secret}.invalid:99999/?token={secret}",
        f"ftp://ann:{secret}@host/a.jpg",
        f"https://ann:{secret}#x@host/a.jpg",
        f"s3://KEY:{secret}@bucket/a.jpg",
    ]
    pq.write_table(pa.table({"image_id": list("abcdefg"), "uri": uris}), tmp_path / "m.parquet")
    screen = run_score(tmp_path / "m.parquet", tmp_path / "out")
    rows = ds.dataset(tmp_path / "out" / "scores").to_table().to_pylist()
    assert [row["error_type"] for row in sorted(rows, key=lambda row: row["image_id"])] == [
        None, "forbidden_host", "forbidden_host", "unsupported_uri", "unsupported_uri",
        "unsupported_uri", "unsupported_uri",
    ]  # fmt: skip
    assert "http://127.0.0.1:9/gone.jpg?X-Amz-Signature=…" in {row["uri"] for row in rows}
    written = [json.dumps(rows, default=str), screen, run_artimuse("status", tmp_path / "out", "--json").stdout]
    for folder, _, names in os.walk(tmp_path / "out"):
        written += [Path(folder, name).read_bytes().decode("latin-1") for name in names]
    written = [text.replace(f"{secret}.invalid", "") for text in written]  # a host is no secret
    assert not [text for text in written if secret in text]
