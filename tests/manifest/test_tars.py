"""Tar files of images: indexes of the headers, rows, and what is read of them."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.range_server import RangeServer
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from support.tars import write_tar

from artimuse_actor.errors import ImageError, ManifestError, UsageError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from jobs.manifest.braces import expand_braces
from jobs.manifest.listing import local_file
from jobs.manifest.manifest import Manifest, ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.manifest.tar_index import make_index
from jobs.storage.file_parts import read_parts
from jobs.storage.local_place import LocalPlace

LOCAL = FetchOptions(allow_private_hosts=True, attempts=1)


def photo_tar(path: Path, count: int = 4, **others: bytes) -> Path:
    members: dict[str, bytes] = {}
    for number, image in enumerate(golden_images()[:count]):
        members[f"{number:04}{image.suffix}"] = image.read_bytes()
        members[f"{number:04}.json"] = json.dumps({"gt_score": number, "caption": f"picture {number}"}).encode()
        members[f"{number:04}.txt"] = f"caption {number}".encode()
    return write_tar(path, members | others)


def rows_of(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for batch in manifest.batches() for row in batch.rows.to_pylist()]


def bytes_of(manifest: Manifest) -> list[bytes]:
    return [fetch(row["uri"], LOCAL) for row in rows_of(manifest)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_where_tarfile_says(tmp_path: Path, form: int) -> None:
    generator = random.Random(form)
    long = "/".join(["long"] * 20 + ["a" * 90 + ".jpg"])
    names = ["a.jpg", "b/c.PNG", "d.seg.webp", "e.json", *(["ü.jpg", long] if form != tarfile.USTAR_FORMAT else [])]
    members = {name: generator.randbytes(generator.choice([0, 1, 511, 512, 513, 3000])) for name in names}
    path = write_tar(tmp_path / "a.tar", members, format=form)
    index = make_index(local_file(str(path), str(tmp_path)), LOCAL)
    assert index.cut is None
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar.getmembers()]
    assert [tuple(row.values()) for row in index.members.to_pylist()] == expected
    manifest = open_manifest(str(path))
    assert [row["image_id"] for row in rows_of(manifest)] == [f"a.tar/{n}" for n in names if not n.endswith("json")]
    assert bytes_of(manifest) == [data for name, data in members.items() if not name.endswith("json")]


def test_what_is_no_plain_file_or_no_image_is_no_row(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (
            ("folder.jpg", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE),
            ("device.jpg", tarfile.CHRTYPE), ("pipe.jpg", tarfile.FIFOTYPE),
        ):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        for name in ("../../up.jpg", "/absolute.jpg", "._mac.jpg", "notes.md", "a\nb.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 3
            tar.addfile(member, io.BytesIO(b"xyz"))
    manifest = open_manifest(str(tmp_path / "a.tar"))
    assert [row["image_id"] for row in rows_of(manifest)] == [
        "a.tar/../../up.jpg", "a.tar//absolute.jpg", "a.tar/a\nb.jpg",
    ]  # fmt: skip
    assert bytes_of(manifest) == [b"xyz"] * 3


def test_a_sparse_file_is_no_row(tmp_path: Path) -> None:
    header = tarfile.TarInfo("sparse.jpg")
    header.size, header.type = 512, tarfile.GNUTYPE_SPARSE
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000001000\0"  # one piece, at 0, of 512 bytes
    block[483:495] = b"00000002000\0"  # its real size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + b"x" * 512 + bytes(1024))
    assert rows_of(open_manifest(str(tmp_path / "a.tar"))) == []


@pytest.mark.parametrize("keep", ["header", "body", "last body", "no end", "middle of a header"])
def test_a_tar_cut_short_gives_what_is_before_the_cut_and_one_sentence(tmp_path: Path, keep: str) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{n}.jpg": bytes([n]) * 3000 for n in range(5)})
    header = 512 + 3072
    size, rows = {
        "header": (3 * header, 3), "body": (3 * header + 600, 3), "last body": (4 * header + 3000, 4),
        "no end": (5 * header, 5), "middle of a header": (2 * header + 100, 2),
    }[keep]  # fmt: skip
    os.truncate(path, size)
    manifest = open_manifest(str(path))
    assert len(rows_of(manifest)) == rows
    (note,) = manifest.notes
    assert note.startswith(f"{path}: ")
    assert f"its {rows} files before that are taken" in note


@pytest.mark.parametrize("data", [b"", b"<html>no tar</html>" * 100, b"\0" * 100, random.Random(1).randbytes(3000)])
def test_a_file_that_is_no_tar_gives_no_rows_and_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    photo_tar(tmp_path / "b.tar")
    manifest = open_manifest(f"{tmp_path}/*.tar")
    assert {row["image_id"].partition("/")[0] for row in rows_of(manifest)} == {"b.tar"}
    assert [note for note in manifest.notes if "its 0 files before that" in note]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / f"a.tar.{kind}", f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(golden_images()[0], "a.jpg")
    with pytest.raises(UsageError, match="is compressed, so no image in it can be read without all before it"):
        open_manifest(str(tmp_path / f"a.tar.{kind}"))
    (tmp_path / f"a.tar.{kind}").rename(tmp_path / "a.tar")
    with pytest.raises(UsageError, match="is compressed with"):
        rows_of(open_manifest(str(tmp_path / "a.tar")))


def test_headers_that_ask_for_much_are_a_sentence(tmp_path: Path) -> None:
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    photo_tar(tmp_path / "a.tar", 1)
    whole = (tmp_path / "a.tar").read_bytes().rstrip(b"\0")
    padded = whole + bytes(-len(whole) % 512)
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(padded + long.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 34)
    manifest = open_manifest(str(tmp_path / "a.tar"))
    assert len(rows_of(manifest)) == 1
    assert "a header has 8,589,934,592 bytes" in manifest.notes[0]


def _damaged(generator: random.Random) -> bytes:
    """A small tar with some bytes changed, most often with the checksums that make tarfile believe them."""
    written = io.BytesIO()
    form = generator.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    with tarfile.open(fileobj=written, mode="w", format=form) as tar:
        for number in range(5):
            long = "d" * generator.choice([1, 120]) + "/" if form != tarfile.USTAR_FORMAT else ""
            member = tarfile.TarInfo(f"{long}{number}.jpg")
            member.size = generator.choice([0, 10, 600])
            member.pax_headers = {"size": str(member.size), "mtime": "1.5"}
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    data = bytearray(written.getvalue())
    for _ in range(generator.choice([1, 3, 30])):
        data[generator.randrange(len(data) - tarfile.RECORDSIZE // 2)] = generator.choice([0, 45, 57, 128, 255])
    if generator.random() < 0.8:
        for start in range(0, len(data) - 511, 512):
            header = data[start : start + 512]
            if header[257:262] == b"ustar":
                header[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


@pytest.mark.slow
def test_damaged_headers_end_a_tar_and_nothing_else(tmp_path: Path) -> None:
    generator = random.Random(7)
    cuts = 0
    for _ in range(400):
        (tmp_path / "a.tar").write_bytes(_damaged(generator))
        index = make_index(local_file(str(tmp_path / "a.tar"), str(tmp_path)), LOCAL)
        cuts += index.cut is not None
        size = (tmp_path / "a.tar").stat().st_size
        for member in index.members.to_pylist():
            assert 0 <= member["first"] <= member["first"] + member["size"] <= size
    assert 50 < cuts < 400


@pytest.mark.parametrize("size", [b"\xff" * 12, b"\xff" * 10 + b"\xf0\0", b"\x80" + b"\x7f" * 11])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_impossible_sizes_end_a_tar(tmp_path: Path, size: bytes, kind: bytes) -> None:
    member = tarfile.TarInfo("a.jpg")
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136], block[148:156] = size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    photo_tar(tmp_path / "a.tar", 1)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(block) + data)
    index = make_index(local_file(str(tmp_path / "a.tar"), str(tmp_path)), LOCAL)
    assert index.members.num_rows == 0
    assert index.cut is not None


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("{008..011}.tar", ["008.tar", "009.tar", "010.tar", "011.tar"]),
        ("{3..1}.tar", ["3.tar", "2.tar", "1.tar"]),
        ("{train,val}-{0..1}.tar", ["train-0.tar", "train-1.tar", "val-0.tar", "val-1.tar"]),
        ("a.tar", ["a.tar"]),
        ("odd{name}{1..2}.tar", ["odd{name}1.tar", "odd{name}2.tar"]),
        ("{a..b}.tar", ["{a..b}.tar"]),
    ],
)
def test_names_with_braces_stand_for_many(name: str, names: list[str]) -> None:
    assert expand_braces(name) == names


@pytest.mark.slow
def test_more_names_than_a_million_are_refused() -> None:
    with pytest.raises(UsageError, match="stands for more than 1,000,000 names"):
        expand_braces("{0..99999}-{0..99}.tar")


@contextmanager
def _served(kind: str, folder: Path, s3_environment: Any) -> Iterator[str]:
    """Where the files of a folder are found: on the disk, on S3 or on a web server."""
    if kind == "local":
        yield str(folder)
    elif kind == "s3":
        from jobs.storage.s3_place import s3_filesystem

        fs, bucket = s3_filesystem(), f"tars-{folder.parent.name.replace('_', '-')[-40:]}".strip("-").lower()
        fs.makedirs(bucket, exist_ok=True)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                fs.put_file(str(path), f"{bucket}/in/{path.relative_to(folder)}")
        yield f"s3://{bucket}/in"
    else:
        with RangeServer(folder) as server:
            yield server.url


@pytest.mark.server
@pytest.mark.process
@pytest.mark.parametrize("kind", ["local", "s3", "web"])
def test_tars_are_scored_from_end_to_end_with_a_broken_member(tmp_path: Path, s3_environment: Any, kind: str) -> None:
    photo_tar(tmp_path / "in/00000.tar", 6, **{"broken.jpg": golden_images()[0].read_bytes()[:700], "empty.png": b""})
    photo_tar(tmp_path / "in/00001.tar", 3)
    with _served(kind, tmp_path / "in", s3_environment) as place:
        options = ["--allow-private-hosts"] if kind == "web" else []
        run_score(f"{place}/{{00000..00001}}.tar", tmp_path / "out", *options)
        rows = table_rows(tmp_path / "out")
        assert len(rows) == 11
        assert {name: row["error_type"] for name, row in rows.items() if row["status"] != "ok"} == {
            "00000.tar/broken.jpg": "truncated",
            "00000.tar/empty.png": "empty",
        }
        one = rows["00001.tar/0000.jpg"]
        assert fetch(one["uri"], LOCAL) == golden_images()[0].read_bytes()
        assert "Nothing to do" in run_score(f"{place}/{{00000..00001}}.tar", tmp_path / "out", *options)


@pytest.mark.process
def test_scores_of_tars_equal_those_of_loose_files(tmp_path: Path) -> None:
    (tmp_path / "loose").mkdir()
    for number, image in enumerate(golden_images()[:4]):
        (tmp_path / "loose" / f"{number:04}{image.suffix}").write_bytes(image.read_bytes())
    photo_tar(tmp_path / "a.tar", 4)
    run_score(tmp_path / "a.tar", tmp_path / "of-tar")
    run_score(tmp_path / "loose", tmp_path / "of-files")
    files, members = table_rows(tmp_path / "of-files"), table_rows(tmp_path / "of-tar")
    assert sorted(members) == [f"a.tar/{name}" for name in sorted(files)]
    assert {row["status"] for row in members.values()} == {"ok"}
    for name, row in members.items():
        loose = files[name.removeprefix("a.tar/")]
        assert row["sha256"] == loose["sha256"]
        assert row["score"] == pytest.approx(loose["score"], abs=1e-3)


@pytest.mark.process
def test_columns_and_ground_truth_come_from_the_files_beside_an_image(tmp_path: Path) -> None:
    photo_tar(tmp_path / "a.tar", 6)
    run_score(tmp_path / "a.tar", tmp_path / "out")
    assert open_manifest(str(tmp_path / "a.tar")).columns().names[-2:] == ["json", "txt"]
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", tmp_path / "a.tar", "--top", "3", "--out", tmp_path / "best.parquet"
    )
    best = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert len(best) == 3
    for row in best:
        number = int(row["image_id"][6:10])
        assert row["txt"] == f"caption {number}"
        assert json.loads(row["json"])["caption"] == f"picture {number}"
    run_artimuse("curate", tmp_path / "out", "--as", "webdataset", "--out", tmp_path / "best")
    with tarfile.open(tmp_path / "best" / "00000.tar") as tar:
        assert sum(name.endswith(".json") for name in tar.getnames()) == 6
    for command in (["--ground-truth", tmp_path / "a.tar"], ["--truth-column", "gt_score"], []):
        (found,) = json.loads(run_artimuse("evaluate", tmp_path / "out", *command, "--json").stdout)
        assert found["counts"]["scored"] == 6, command
    missing = run_artimuse("evaluate", tmp_path / "out", "--truth-column", "mos", code=1)
    assert "no image has a number 'mos' beside it (its JSON has gt_score, caption)" in missing.stderr


def test_an_index_is_made_once_for_as_long_as_a_tar_is_the_same(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path / "store"))
    photo_tar(tmp_path / "a.tar")
    for expected in (1, 0):
        manifest: Any = open_manifest(str(tmp_path / "a.tar"), keep=place)
        assert len(rows_of(manifest)) == 4
        assert manifest.indexes.made == expected
        assert len(rows_of(manifest)) == 4
    (index,) = (tmp_path / "store").rglob("*.parquet")
    index.write_bytes(index.read_bytes()[:50])  # cut short: made again
    again: Any = open_manifest(str(tmp_path / "a.tar"), keep=place)
    assert len(rows_of(again)) == 4
    assert again.indexes.made == 1
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    changed: Any = open_manifest(str(tmp_path / "a.tar"), keep=place)
    assert changed.identity() != again.identity()
    assert rows_of(changed)[0]["version"] != rows_of(again)[0]["version"]


@pytest.mark.server
@pytest.mark.parametrize("kind", ["local", "s3", "web"])
def test_a_tar_rewritten_after_it_was_listed_gives_no_other_images(
    tmp_path: Path, s3_environment: Any, kind: str
) -> None:
    path = photo_tar(tmp_path / "in/a.tar")
    with _served(kind, tmp_path / "in", s3_environment) as place:
        manifest: Any = open_manifest(f"{place}/a.tar", fetching=LOCAL)
        rows = rows_of(manifest)
        parts = [FileRange.parse(row["uri"], row["source_version"]) for row in rows]
        assert all(isinstance(data, bytes) for data in read_parts([p for p in parts if p], LOCAL))
        time.sleep(1.1 if kind == "web" else 0)  # Last-Modified has seconds
        write_tar(path, {f"{n}.jpg": b"another" * 20_000 for n in range(4)})
        if kind == "s3":
            from jobs.storage.s3_place import s3_filesystem

            s3_filesystem().put_file(str(path), f"{place}/a.tar")
        for data in read_parts([p for p in parts if p], LOCAL):
            assert isinstance(data, ImageError)
            assert (data.error_type, data.retryable) == ("changed", True)


@pytest.mark.server
@pytest.mark.parametrize(("body_bytes", "most_requests"), [(20_000, 30), (3_000_000, 60)])
def test_bodies_are_gone_past_where_they_are_large(tmp_path: Path, body_bytes: int, most_requests: int) -> None:
    write_tar(tmp_path / "in/a.tar", {f"{n}.jpg": bytes(body_bytes) for n in range(30)})
    with RangeServer(tmp_path / "in") as server:
        assert len(rows_of(open_manifest(f"{server.url}/a.tar", fetching=LOCAL))) == 30
        asked = server.requests - 1  # the look at its size
        assert asked <= most_requests
        if body_bytes > 1_000_000:
            assert server.sent_bytes < 30 * body_bytes / 10
        else:
            assert asked < 10


@pytest.mark.server
def test_neighbours_are_read_together_and_nothing_else(tmp_path: Path) -> None:
    write_tar(tmp_path / "in/a.tar", {f"{n:03}.jpg": bytes([n]) * 50_000 for n in range(100)})
    with RangeServer(tmp_path / "in") as server:
        rows = rows_of(open_manifest(f"{server.url}/a.tar", fetching=LOCAL))
        server.forget()
        parts = [FileRange.parse(row["uri"], row["source_version"]) for row in rows[10:60]]
        found = list(read_parts([p for p in parts if p], LOCAL))
        assert found == [bytes([n]) * 50_000 for n in range(10, 60)]
        assert server.requests == 1
        assert server.sent_bytes < 50 * 51_000
        small = list(read_parts([p for p in parts if p], FetchOptions(max_bytes=49_999, allow_private_hosts=True)))
        assert {data.error_type for data in small if isinstance(data, ImageError)} == {"too_large"}


@pytest.mark.server
def test_a_web_server_without_ranges_is_a_sentence(tmp_path: Path) -> None:
    photo_tar(tmp_path / "in/a.tar")
    with RangeServer(tmp_path / "in", ranges=False) as server, pytest.raises(ManifestError, match="whole files only"):
        open_manifest(f"{server.url}/a.tar", fetching=LOCAL)
    with RangeServer(tmp_path / "in") as server:
        with pytest.raises(ManifestError, match="There is no such file"):
            open_manifest(f"{server.url}/b.tar", fetching=LOCAL)
        with pytest.raises(ManifestError, match="--allow-private-hosts"):
            open_manifest(f"{server.url}/a.tar")
        with pytest.raises(UsageError, match="on the web only tar files are sources"):
            open_manifest(f"{server.url}/a.jpg", fetching=LOCAL)


def test_a_folder_of_tars_is_a_source_and_doubled_members_are_doubled_ids(tmp_path: Path) -> None:
    photo_tar(tmp_path / "in/train/0.tar", 2)
    photo_tar(tmp_path / "in/val/0.tar", 1)
    ids = [row["image_id"] for row in rows_of(open_manifest(str(tmp_path / "in")))]
    assert ids == ["train/0.tar/0000.jpg", "train/0.tar/0001.jpg", "val/0.tar/0000.jpg"]
    assert [row["image_id"] for row in rows_of(open_manifest(f"{tmp_path}/in/{{train,val}}/0.tar"))] == ids
    with pytest.raises(ManifestError, match=r"test/0\.tar: there is no such file"):
        open_manifest(f"{tmp_path}/in/{{train,test}}/0.tar")
    with tarfile.open(tmp_path / "in/val/0.tar", "a") as tar:
        tar.add(golden_images()[1], "0000.jpg")
    found = rows_of(open_manifest(str(tmp_path / "in"), ManifestOptions(on_duplicate="first")))
    assert [row["image_id"] for row in found] == ids


@pytest.mark.process
def test_many_tars_are_gone_through_by_several_processes(tmp_path: Path) -> None:
    for number in range(64):
        write_tar(tmp_path / f"in/{number:02}.tar", {"a.jpg": b"x", "b.jpg": bytes([number])})
    (tmp_path / "in/07.tar").write_bytes(b"no tar")
    manifest: Any = open_manifest(f"{tmp_path}/in/{{00..63}}.tar")
    rows = rows_of(manifest)
    assert [row["image_id"] for row in rows[:3]] == ["00.tar/a.jpg", "00.tar/b.jpg", "01.tar/a.jpg"]
    assert len(rows) == 63 * 2
    assert manifest.indexes.made == 64
    assert len(manifest.notes) == 1
    assert [fetch(row["uri"], LOCAL) for row in rows[1::2]] == [bytes([n]) for n in range(64) if n != 7]


@pytest.mark.process
def test_two_libraries_of_tars_of_the_same_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    photo_tar(tmp_path / "one/00000.tar", 3)
    write_tar(tmp_path / "two/00000.tar", {f"{n:04}.jpg": golden_images()[n + 3].read_bytes() for n in range(3)})
    run_score(tmp_path / "one", tmp_path / "out")
    done = run_artimuse("score", tmp_path / "two", "--out", tmp_path / "out", *golden_options(), "--local", code=1)
    assert f"has images of {tmp_path}/one, and 3 other images of {tmp_path}/two have the same ids" in done.stderr
    run_score(tmp_path / "two", tmp_path / "out", "--id-prefix", "two/")
    assert len(table_rows(tmp_path / "out")) == 6
    (tmp_path / "one").rename(tmp_path / "moved")
    assert "Nothing to do" in run_score(tmp_path / "moved", tmp_path / "out", "--moved")


def test_a_tar_without_a_row_says_why(tmp_path: Path) -> None:
    (tmp_path / "junk.tar").write_bytes(b"x" * 5000)
    whole = write_tar(tmp_path / "cut.tar", {"a.jpg": bytes(20_000)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:15_000])
    for name, reason in (("junk.tar", "is cut short or damaged"), ("cut.tar", "ends within 'a.jpg'")):
        done = run_artimuse("score", tmp_path / name, "--out", tmp_path / "out", *golden_options(), "--local", code=1)
        assert f"{name}: has no rows. " in done.stderr
        assert reason in done.stderr


def test_an_empty_member_is_read_as_such_from_anywhere(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.jpg": b""})
    (row,) = rows_of(open_manifest(str(tmp_path / "a.tar")))
    assert fetch(row["uri"], LOCAL) == fetch("s3://nowhere/a.tar#bytes=512-511", LOCAL) == b""


def test_a_plan_names_its_members_by_place(tmp_path: Path) -> None:
    photo_tar(tmp_path / "a.tar", 2)
    run_artimuse("manifest", tmp_path / "a.tar", "--out", tmp_path / "m.parquet")
    table = pq.read_table(tmp_path / "m.parquet")
    assert table["image_id"].to_pylist() == ["a.tar/0000.jpg", "a.tar/0001.jpg"]
    assert [fetch(uri, LOCAL) for uri in table["uri"].to_pylist()] == [p.read_bytes() for p in golden_images()[:2]]
    outside = FetchOptions(root=str(tmp_path / "elsewhere"))
    with pytest.raises(ImageError, match="--root"):
        fetch(table["uri"][0].as_py(), outside)
