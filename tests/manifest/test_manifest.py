from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.photo_library import make_photo_library
from support.tars import write_tar

from artimuse_actor.errors import ManifestError, StoreError, UsageError
from jobs.manifest.id_index import IdIndex
from jobs.manifest.manifest import Manifest, ManifestOptions
from jobs.manifest.source import open_manifest, write_manifest
from jobs.plan.planner import make_plan
from jobs.plan.stored_rows import StoredRows
from jobs.storage.s3_place import s3_filesystem

_NO_HASHES = np.empty((0, 2), dtype=np.uint64)
NOTHING_STORED = StoredRows(
    (), IdIndex(_NO_HASHES), _NO_HASHES, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8)
)


def _rows(manifest: Manifest) -> list[dict[str, Any]]:
    return [row for batch in manifest.batches() for row in batch.rows.to_pylist()]


def _write(path: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_a_folder_names_each_picture_by_its_relative_path(tmp_path: Path) -> None:
    expected = make_photo_library(tmp_path / "photos")
    manifest = open_manifest(str(tmp_path / "photos"))
    rows = _rows(manifest)
    assert sorted(row["image_id"] for row in rows) == sorted(expected)
    assert all(row["uri"] == str(tmp_path / "photos" / row["image_id"]) for row in rows)
    assert manifest.notes == ["Left out, not being called like images: 1 .txt."]


def test_names_that_are_not_utf8_are_percent_encoded_and_hidden_files_left_out(tmp_path: Path) -> None:
    photo = golden_images()[0].read_bytes()
    with open(bytes(tmp_path) + b"/caf\xe9 1.jpg", "wb") as file:
        file.write(photo)
    (tmp_path / ".trash.jpg").write_bytes(photo)
    (row,) = _rows(open_manifest(str(tmp_path)))
    assert row["image_id"] == "caf%E9%201.jpg"
    assert row["uri"] == f"file://{tmp_path}/caf%E9%201.jpg"


def test_folders_of_thumbnails_are_left_out_and_counted_and_so_are_sidecars(tmp_path: Path) -> None:
    for name in (
        *("a/1.heic", "a/1.mov", "a/1.aae", "a/1.xmp", "b/2.NEF", "b/3.jxl", "b/Thumbs.db"),
        *("a/@eaDir/1.heic/SYNOPHOTO_THUMB_XL.jpg", "b/@eaDir/2.NEF/SYNOPHOTO_THUMB_XL.jpg"),
        *(".thumbnails/1.jpg", "a/.@__thumb/1.jpg", ".hidden/4.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    manifest = open_manifest(str(tmp_path))
    assert [row["image_id"] for row in _rows(manifest)] == ["a/1.heic", "b/2.NEF", "b/3.jxl"]
    thumbnails, others = manifest.notes
    assert thumbnails == "Left out, folders of thumbnails: 2 @eaDir, 1 .@__thumb, 1 .thumbnails."
    assert all(kind in others for kind in ("1 .mov", "1 .aae", "1 .xmp", "1 .db"))
    with pytest.raises(ManifestError, match="no file matches"):
        open_manifest(f"{tmp_path}/**/*.jpg")
    assert len(_rows(open_manifest(f"{tmp_path}/a/@eaDir/*/*.jpg"))) == 1  # named as it is


@pytest.mark.server
def test_folders_of_thumbnails_and_other_stores_in_a_bucket_are_left_out_too(s3_environment: dict[str, str]) -> None:
    fs = s3_filesystem()
    fs.mkdir("thumbnails")
    for name in ("a/1.jpg", "a/@eaDir/1.jpg/small.jpg", "a/@eaDir/1.jpg/large.jpg", "b/.thumbnails/2.jpg", "b/2.jpg"):
        fs.pipe_file(f"thumbnails/{name}", b"x")
    for name in ("_store.json", "scores/0.parquet", "out/_store.json", "out/3.jpg"):  # its own, and another one
        fs.pipe_file(f"thumbnails/{name}", b"x")
    manifest = open_manifest("s3://thumbnails")
    assert [row["image_id"] for row in _rows(manifest)] == ["a/1.jpg", "b/2.jpg"]
    assert manifest.notes[0] == "Left out, folders of thumbnails: 1 .thumbnails, 1 @eaDir."
    assert len(_rows(open_manifest("s3://thumbnails/a/@eaDir/1.jpg/*.jpg"))) == 2


def test_a_glob_takes_what_it_matches_whatever_it_is_called(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.dat", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [row["image_id"] for row in _rows(open_manifest(f"{tmp_path}/a/*"))] == ["1.jpg", "2.dat"]
    assert [row["image_id"] for row in _rows(open_manifest(f"{tmp_path}/**/*.jpg"))] == ["a/1.jpg", "b/3.jpg"]


def test_the_version_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    before = open_manifest(str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"three")
    after = open_manifest(str(tmp_path))
    assert _rows(before)[0]["version"] != _rows(after)[0]["version"]
    assert before.identity() != after.identity()
    assert after.identity() == open_manifest(str(tmp_path)).identity()


def test_test_json_names_images_below_a_folder_and_keeps_the_ground_truth(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a b.jpg").write_bytes(b"x")
    entries = [{"image": "a b.jpg", "gt_score": 3.5}, {"image": "lost.jpg", "gt_score": 4}, {"image": "a b.jpg"}]
    (tmp_path / "test.json").write_text(json.dumps(entries))
    manifest = open_manifest(str(tmp_path / "test.json"))
    rows = _rows(manifest)
    assert [(row["image_id"], row["gt_score"]) for row in rows] == [("a b.jpg", 3.5), ("lost.jpg", 4.0)]
    assert rows[0]["uri"] == f"{tmp_path}/images/a b.jpg"
    assert rows[1]["version"] is None
    assert manifest.notes == ["1 of 3 entries name an image again; each image is scored once."]
    elsewhere = open_manifest(str(tmp_path / "test.json"), ManifestOptions(images="s3://bucket/ava"))
    assert _rows(elsewhere)[0]["uri"] == "s3://bucket/ava/a b.jpg"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ('{"a.jpg": 3}', "is not a list"),
        ('[{"image": "a.jpg"}, {"gt_score": 3}]', "entry 1: has no `image`"),
        ('[{"image": "\\ud800.jpg"}]', "entry 0: has no `image`"),
        ('[{"image": "a.jpg", "gt_score": "high"}]', "entry 0: `gt_score` is 'high'"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_malformed_test_json_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ManifestError, match=sentence):
        open_manifest(str(tmp_path / "test.json"))


def test_a_parquet_manifest_gives_ids_uris_and_versions(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "m.parquet", image_id=["1", "2"], uri=["/a.jpg", "b/c.jpg"], version=["x", None], age=[1, 2]
    )
    rows = _rows(open_manifest(path, ManifestOptions(images="/photos/")))
    assert [(row["image_id"], row["uri"], row["version"]) for row in rows] == [
        ("1", "/a.jpg", "x"),
        ("2", "/photos/b/c.jpg", None),
    ]
    assert _rows(open_manifest(path, ManifestOptions(images="s3://b/p")))[1]["uri"] == "s3://b/p/b/c.jpg"
    assert _rows(open_manifest(path))[1]["uri"] == f"{tmp_path}/b/c.jpg"


def test_without_ids_the_uri_is_the_id_and_columns_can_be_chosen(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.parquet", href=["https://h/a.jpg"], key=["k"])
    assert _rows(open_manifest(path, ManifestOptions(uri_column="href")))[0]["image_id"] == "https://h/a.jpg"
    chosen = open_manifest(path, ManifestOptions(uri_column="href", id_column="key"))
    assert _rows(chosen)[0]["image_id"] == "k"
    with pytest.raises(ManifestError, match="has neither a column `uri`"):
        _rows(open_manifest(path))
    with pytest.raises(ManifestError, match="has no column 'link'"):
        _rows(open_manifest(path, ManifestOptions(uri_column="link")))


def test_a_manifest_read_in_another_way_is_another_manifest(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.parquet", uri=["a"], url=["b"], key=["k"])
    ways = [
        ManifestOptions(),
        ManifestOptions(uri_column="url"),
        ManifestOptions(id_column="key"),
        ManifestOptions("/x"),
    ]
    assert len({open_manifest(path, way).identity() for way in ways}) == len(ways)


@pytest.mark.parametrize("option", ["id_column", "id_columns", "uri_column", "image_column"])
@pytest.mark.parametrize("source", ["photos", "tars"])
def test_columns_of_what_has_none_are_refused(tmp_path: Path, source: str, option: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    write_tar(tmp_path / "tars" / "a.tar", {"a.jpg": b"x"})
    asked: dict[str, Any] = {option: "key"}
    options = ManifestOptions(**asked)
    with pytest.raises(UsageError, match=rf"^--{option.replace('_', '-')} goes with a table; .*/{source} is none\."):
        open_manifest(str(tmp_path / source), options)


def test_embedded_images_are_named_by_file_and_row_and_are_not_read(tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "x.jpg"}, {"bytes": b"2", "path": "x.jpg"}, {"bytes": b"3", "path": None}]
    pq.write_table(pa.table({"image": images, "label": [1, 2, 3]}), tmp_path / "train.parquet", row_group_size=2)
    rows = _rows(open_manifest(str(tmp_path)))
    assert [row["image_id"] for row in rows] == ["train.parquet#0", "train.parquet#1", "train.parquet#2"]
    assert [(row["source_row_group"], row["source_row"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    assert all(row["uri"] is None for row in rows)


def test_a_folder_of_parquet_files_is_one_manifest(tmp_path: Path) -> None:
    _write(tmp_path / "0.parquet", uri=["a", "b"])
    _write(tmp_path / "1.parquet", uri=["c"])
    assert len(_rows(open_manifest(str(tmp_path)))) == 3
    assert len(_rows(open_manifest(f"{tmp_path}/*.parquet", ManifestOptions(limit=2)))) == 2


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image_id": ["1", None], "uri": ["a", "b"]}, "m.parquet, row 1: `image_id` is null"),
        ({"image_id": ["1", "2"], "uri": ["", "b"]}, "m.parquet, row 0: `uri` is null"),
        ({"uri": ["a", "b", None]}, "m.parquet, row 2: `uri` is null"),
        ({"image_id": [1.5, 2], "uri": ["a", "b"]}, "`image_id` is of type double"),
        ({"uri": [1.5]}, "`uri` is of type double"),
        ({"uri": ["a"], "version": [[3]]}, "`version` is of type list"),
        ({"uri": ["a"], "gt_score": ["good"]}, "`gt_score` is of type string"),
    ],
)
def test_wrong_columns_are_named_with_file_and_row(tmp_path: Path, columns: Any, sentence: str) -> None:
    path = _write(tmp_path / "m.parquet", **columns)
    with pytest.raises(ManifestError, match=sentence):
        _rows(open_manifest(path))


def test_sources_that_are_not_there_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 but not really PAR1")
    for source, sentence in (
        (f"{tmp_path}/nowhere", "no such file or folder"),
        (f"{tmp_path}/*.jpg", "no file matches"),
        (f"{tmp_path}/none.json", "no such file"),
    ):
        with pytest.raises(ManifestError, match=sentence):
            open_manifest(source)
    with pytest.raises(ManifestError, match="cannot be read as Parquet"):
        _rows(open_manifest(f"{tmp_path}/no.parquet"))
    (tmp_path / "no.parquet").unlink()
    with pytest.raises(ManifestError, match=r"no image and no table in it \(found: 1 .txt\)"):
        open_manifest(str(tmp_path))
    with pytest.raises(UsageError, match="--limit"):
        open_manifest(str(tmp_path), ManifestOptions(limit=0))


def test_a_written_manifest_reads_as_the_source_it_was_made_from(tmp_path: Path) -> None:
    make_photo_library(tmp_path / "photos")
    source = open_manifest(str(tmp_path / "photos"))
    for _ in range(2):  # an earlier one is replaced
        assert write_manifest(source, str(tmp_path / "m.parquet")) == len(_rows(source))
        assert _rows(open_manifest(str(tmp_path / "m.parquet"))) == _rows(source)
    own = _write(tmp_path / "own.parquet", image_id=["a"], uri=["a.jpg"], caption=["mine"])
    with pytest.raises(UsageError, match=r"own.parquet: is there already and is no earlier manifest"):
        write_manifest(open_manifest(own), own)
    assert pq.read_table(own)["caption"].to_pylist() == ["mine"]


def test_a_folder_that_may_not_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.jpg", "secret/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    scandir = os.scandir

    def refusing(path: str) -> Any:  # root may look into everything, and tests may run as root
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert open_manifest(str(tmp_path)).notes == [f"Left out, not looked into: {tmp_path}/secret."]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.jpg", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("a/**/*.jpg", ["2.jpg", "b/3.jpg"]),
        ("**/b/*.jpg", ["a/b/3.jpg"]),
        ("**/**/*.jpg", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("*/**", ["a/2.jpg", "a/b/3.jpg", "linked/2.jpg", "linked/b/3.jpg"]),
        ("**", ["1.jpg", "a/2.jpg", "a/b/3.jpg"]),
        ("linked/*.jpg", ["2.jpg"]),  # named, so it is followed
        ("*/*.jpg", ["a/2.jpg", "linked/2.jpg"]),
        ("linked/**/3.jpg", ["b/3.jpg"]),
        ("../photos/a/*.jpg", ["2.jpg"]),
    ],
)
def test_a_pattern_does_not_follow_links_in_circles(tmp_path: Path, pattern: str, names: list[str]) -> None:
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", ".hidden/4.jpg", "a/.5.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "photos" / "a" / "b" / "circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "linked").symlink_to("a")
    manifest = open_manifest(f"{tmp_path}/photos/{pattern}")
    (batch,) = manifest.batches()
    assert batch.rows["image_id"].to_pylist() == names
    skipped = [note for note in manifest.notes if note.endswith("circle (a link).")]
    assert bool(skipped) == ("**" in pattern)
    assert len(skipped) == len(set(skipped))


def test_embedded_images_are_as_old_as_their_file_and_keep_their_folders_apart(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        pq.write_table(pa.table({"image": [part.encode()]}), tmp_path / part / "train.parquet")
    (tmp_path / "_runs").mkdir()
    (tmp_path / "_runs" / "rows.parquet").write_bytes(b"of a store, and no part of the manifest")
    before = _rows(open_manifest(str(tmp_path)))
    assert [row["image_id"] for row in before] == ["a/train.parquet#0", "b/train.parquet#0"]
    pq.write_table(pa.table({"image": [b"another"]}), tmp_path / "a" / "train.parquet")
    after = _rows(open_manifest(str(tmp_path)))
    assert [old["version"] != new["version"] for old, new in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [('[{"image": "a.jpg", "gt_score": 1%s}]' % ("0" * 400), "beyond any scale"), ("[]", "has no rows")],
)
def test_odd_entries_of_a_test_json_are_sentences(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ManifestError, match=sentence):
        make_plan(open_manifest(str(tmp_path / "test.json")), NOTHING_STORED, "p", write_rows=lambda *_: None)


def test_a_name_with_a_nul_is_a_row_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps([{"image": "a\u0000b.jpg"}]))
    assert _rows(open_manifest(str(tmp_path / "test.json")))[0]["version"] is None


def test_images_of_a_test_json_are_absolute_wherever_they_are_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.json").write_text('[{"image": "a.jpg"}]')
    monkeypatch.chdir(tmp_path)
    options = ManifestOptions(images="images")
    assert _rows(open_manifest("test.json", options))[0]["uri"] == f"{tmp_path}/images/a.jpg"


def test_two_columns_of_one_name_and_mixed_rows(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["uri", "uri"])
    pq.write_table(twice, tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="two columns of the name 'uri'"):
        _rows(open_manifest(str(tmp_path / "m.parquet")))
    _write(tmp_path / "m.parquet", uri=["a.jpg", None], image=[None, b"x"])
    assert [row["image_id"] for row in _rows(open_manifest(str(tmp_path / "m.parquet")))] == ["a.jpg", "m.parquet#1"]


def test_manifests_are_written_under_a_name_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "folder.parquet").mkdir()
    source = open_manifest(str(tmp_path / "a.jpg"))
    with pytest.raises(UsageError, match=r"is called something.parquet"):
        write_manifest(source, str(tmp_path / "manifest"))
    with pytest.raises(UsageError, match="is there already and is no earlier manifest"):
        write_manifest(source, str(tmp_path / "folder.parquet"))
    with pytest.raises(StoreError, match="cannot be written"):
        write_manifest(source, str(tmp_path / "a.jpg" / "m.parquet"))
    assert write_manifest(source, str(tmp_path / "m.pq")) == len(_rows(open_manifest(str(tmp_path / "m.pq")))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "folder.parquet", "m.pq"]


def test_a_name_that_is_not_utf8_and_one_that_spells_its_escape_are_two_images(tmp_path: Path) -> None:
    for name in (b"caf\xe9.jpg", b"caf%E9.jpg", b"other.jpg"):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    ids = [name for batch in open_manifest(str(tmp_path)).batches() for name in batch.rows["image_id"].to_pylist()]
    assert sorted(ids) == ["caf%E9.jpg", "caf%E9.jpg (not UTF-8)", "other.jpg"]


def test_the_parts_of_a_source_are_the_source_and_an_image_stays_in_its_part(tmp_path: Path) -> None:
    def parts(ids: list[str]) -> list[list[str]]:
        pq.write_table(pa.table({"image_id": ids, "uri": ids}), tmp_path / "m.parquet")
        opened = (open_manifest(str(tmp_path / "m.parquet"), ManifestOptions(shard=f"{n}/4")) for n in (1, 2, 3, 4))
        return [[one for batch in part.batches() for one in batch.rows["image_id"].to_pylist()] for part in opened]

    before = parts([f"{number:03}.jpg" for number in range(200)])
    after = parts([f"{number:03}.jpg" for number in range(399, -1, -1)])
    assert sorted(name for part in after for name in part) == [f"{number:03}.jpg" for number in range(400)]
    assert all(set(old) <= set(new) and len(new) > 70 for old, new in zip(before, after, strict=True))
    # Written down: another pandas must not move images between parts.
    assert before[0][:4] == ["001.jpg", "003.jpg", "015.jpg", "016.jpg"]
    part = open_manifest(str(tmp_path / "m.parquet"), ManifestOptions(shard="2/4"))
    assert part.identity() != open_manifest(str(tmp_path / "m.parquet"), ManifestOptions(shard="3/4")).identity()
    (batch,) = part.batches(["uri"], keys=False)
    assert batch.own is not None
    assert batch.own["uri"].to_pylist() == after[1]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_a_part_that_is_none_gets_a_sentence(tmp_path: Path, shard: str) -> None:
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="--shard takes one part of so many, from 1/100 to 100/100"):
        open_manifest(str(tmp_path / "m.parquet"), ManifestOptions(shard=shard))
