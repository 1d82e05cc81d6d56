"""Tables as people have them: formats, types of ids, names of columns, partitions, lists, bad and doubled rows."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.score_job import ARTIMUSE, golden_options, run_artimuse, run_score, table_rows

from artimuse_actor.errors import ManifestError, UsageError
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.score.image_source import image_source, rewritten_files

Rows = list[dict[str, Any]]


def rows_of(source: str | Path, **options: Any) -> Rows:
    batches = open_manifest(str(source), ManifestOptions(**options)).batches()
    return [row for batch in batches for row in batch.rows.to_pylist()]


def ids_of(source: str | Path, **options: Any) -> list[str]:
    return [row["image_id"] for row in rows_of(source, **options)]


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def _arrow_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def _json_lines(table: pa.Table, path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _csv(table: pa.Table, path: Path) -> None:
    options = pyarrow.csv.WriteOptions(delimiter="\t" if ".tsv" in path.name else ",")
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        pyarrow.csv.write_csv(table, file, options)


FORMATS: dict[str, Callable[[pa.Table, Path], Any]] = {
    **dict.fromkeys(("m.parquet", "m.pq", "M.PARQ"), pq.write_table),
    "m.feather": lambda table, path: pyarrow.feather.write_feather(table, str(path)),
    "m.ipc": lambda table, path: pyarrow.feather.write_feather(table, str(path), compression="uncompressed"),
    "data-00000-of-00001.arrow": _arrow_stream,
    **dict.fromkeys(("m.csv", "m.tsv", "m.csv.gz", "m.tsv.gz"), _csv),
    **dict.fromkeys(("m.jsonl", "m.ndjson", "m.jsonl.gz"), _json_lines),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_kind_of_table_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    table = pa.table(
        {
            "image_id": ["007", "8", "null", "NA", "e, f"],
            "caption": ["a\nb", 'say "c"', "", "d", "e"],
            "uri": ["s3://b/a.jpg", "b.jpg", "https://h/c.jpg", "/d.jpg", "e f.jpg"],
            "gt_score": [3.0, 4, 5, 6.5, None],
            "version": ["1", None, "3", "04", "x"],
        }
    )
    FORMATS[name](table, tmp_path / name)
    expected = [
        ("007", "s3://b/a.jpg", "1", 3.0),
        ("8", f"{tmp_path}/b.jpg", None, 4.0),
        ("null", "https://h/c.jpg", "3", 5.0),
        ("NA", "/d.jpg", "04", 6.5),
        ("e, f", f"{tmp_path}/e f.jpg", "x", None),
    ]
    for source in (tmp_path / name, tmp_path):
        found = [tuple(row[key] for key in ("image_id", "uri", "version", "gt_score")) for row in rows_of(source)]
        assert found == expected
    captions = next(batch.own for batch in open_manifest(str(tmp_path / name)).batches(["caption"]))
    assert captions is not None
    assert captions["caption"].to_pylist()[:2] == ["a\nb", 'say "c"']


def test_a_text_that_looks_like_a_time_stays_a_text_in_json_lines(tmp_path: Path) -> None:
    row = {"image_id": "2020-01-01", "uri": "a.jpg", "version": "2024-05-01T10:00:00"}
    own = {"caption": "2020-01-01", "at": "2020-01-01T10:00:00+02:00", "deep": {"list": ["2020-01-01T00:00:00Z"]}}
    (tmp_path / "m.jsonl").write_text(json.dumps(row | own) + "\n")
    (batch,) = open_manifest(str(tmp_path / "m.jsonl")).batches(list(own))
    assert batch.rows.select(["image_id", "version"]).to_pylist() == [
        {name: row[name] for name in ("image_id", "version")}
    ]
    assert batch.own is not None
    assert batch.own.to_pylist() == [own]


@pytest.mark.parametrize("name", ["m.pq", "m.feather", "m.csv.gz", "m.jsonl"])
def test_tables_are_named_by_uris_and_need_no_utf8(tmp_path: Path, name: str) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 1"))
    odd.mkdir()
    FORMATS[name](pa.table({"uri": ["a.jpg"]}), tmp_path / name)
    shutil.move(tmp_path / name, odd / name)
    expected = [f"file://{tmp_path}/caf%E9%201/a.jpg"]
    for source in (str(odd), (odd / name).as_uri(), f"{odd.as_uri()}/*{odd.joinpath(name).suffix}"):
        assert [row["uri"] for row in rows_of(source)] == expected


def test_images_in_a_table_whose_name_is_not_utf8_are_read(tmp_path: Path) -> None:
    image = golden_images()[0].read_bytes()
    write(tmp_path / "m.parquet", {"image": [image]})
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.parquet")
    shutil.move(tmp_path / "m.parquet", odd)
    (row,) = rows_of(odd)
    assert image_source(row, rewritten_files([row])) == image
    assert not rewritten_files([row])


@pytest.mark.server
@pytest.mark.parametrize("name", ["m.pq", "m.feather", "m.csv.gz", "m.jsonl"])
def test_tables_on_s3_are_read_too(tmp_path: Path, s3_environment: Any, name: str) -> None:
    from jobs.storage.s3_place import s3_filesystem

    table = pa.table({"image_id": ["a", "b"], "uri": ["s3a://x/a.jpg", "below/b.jpg"]})
    FORMATS[name](table, tmp_path / name)
    fs = s3_filesystem()
    fs.makedirs("tables-on-s3", exist_ok=True)
    fs.put_file(str(tmp_path / name), f"tables-on-s3/in/{name}")
    for scheme in ("s3", "s3a", "s3n"):
        rows = rows_of(f"{scheme}://tables-on-s3/in/{name}")
        assert [row["uri"] for row in rows] == ["s3://x/a.jpg", "s3://tables-on-s3/in/below/b.jpg"]


@pytest.mark.server
@pytest.mark.parametrize("name", ["m.parquet", "m.feather", "data-00000-of-00001.arrow"])
def test_images_in_tables_on_s3_are_read_from_there(tmp_path: Path, s3_environment: Any, name: str) -> None:
    from jobs.score.image_source import image_source
    from jobs.storage.s3_place import s3_filesystem

    FORMATS[name](pa.table({"image": [b"one", None, b"two"]}), tmp_path / name)
    fs = s3_filesystem()
    fs.makedirs("images-on-s3", exist_ok=True)
    fs.put_file(str(tmp_path / name), f"images-on-s3/in/{name}")
    if name.startswith("data"):  # a stream has no index
        with pytest.raises(ManifestError, match="it is read from a disk only; copy it there"):
            rows_of(f"s3://images-on-s3/in/{name}")
        return
    found = [image_source(row) for row in rows_of(f"s3://images-on-s3/in/{name}")]
    assert (found[0], found[2]) == (b"one", b"two")


@pytest.mark.slow
def test_a_later_value_that_does_not_fit_is_a_sentence(tmp_path: Path) -> None:
    lines = ["uri,n", *(f"{number}.jpg,{number}" for number in range(400_000)), "last.jpg,none"]
    (tmp_path / "m.csv").write_text("\n".join(lines))
    manifest = open_manifest(str(tmp_path / "m.csv"))
    assert sum(len(batch.rows) for batch in manifest.batches()) == 400_001  # other columns are not looked at
    with pytest.raises(ManifestError, match=r"m\.csv: cannot be read as CSV: .*'none'"):
        list(manifest.batches(["n"]))


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("m.csv", b"uri,n\na.jpg,1\nb.jpg\n", r"m\.csv: cannot be read as CSV: .*Row #3"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"a.jpg\n" * 9, mtime=0)[:-9], r"cannot be read as CSV"),
        ("m.csv.gz", b"uri\na.jpg\n", r"cannot be read as CSV"),
        ("m.csv", b"uri,\xe9\na.jpg,1\n", r"m\.csv: has a header that is not UTF-8. Save it as CSV UTF-8"),
        ("m.csv", "uri,n\na.jpg,1\n".encode("utf-16"), r"cannot be read as CSV: it is in UTF-16; save it as UTF-8"),
        ("m.csv", b"uri\ncaf\xe9.jpg\n", r"cannot be read as CSV: .*UTF"),
        ("m.csv", b"", r"cannot be read as CSV: .*[Ee]mpty"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": ', r"cannot be read as JSON lines"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": 3}', r"cannot be read as JSON lines"),
        ("m.arrow", b"FEA1....", r"cannot be read as an Arrow file: it is of the first version of Feather"),
        ("m.arrow", b"nothing of the kind", r"cannot be read as an Arrow file"),
        ("m.pq", b"PAR1", r"cannot be read as Parquet"),
    ],
)
def test_a_broken_table_is_a_sentence(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ManifestError, match=sentence):
        rows_of(tmp_path / name)


@pytest.mark.process
def test_what_is_no_source_is_a_sentence_also_for_a_command_that_decodes_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("no picture")
    command = [*ARTIMUSE, "manifest", str(tmp_path / "notes"), "--out", str(tmp_path / "m.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "called like no image and no table" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["urls.txt", "notes", "archive.zip", "a.xlsx"])
def test_a_file_that_is_neither_picture_nor_table_is_wrong_usage(tmp_path: Path, name: str) -> None:
    for content in (b"https://h/a.jpg\n" * 9, b"x", b""):
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, tmp_path / f"{name[:3]}*"):
            with pytest.raises(UsageError, match=r"called like no image and no table.*\.parquet.*\.csv"):
                open_manifest(str(source))


def test_a_picture_without_a_suffix_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    for number, image in enumerate(golden_images()[:10]):
        (tmp_path / f"{number}").write_bytes(image.read_bytes())
        assert ids_of(tmp_path / f"{number}") == [f"{number}"]
    assert len(ids_of(tmp_path / "*")) == 10


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, -2], pa.int64()), ["1", "-2"]),
        (pa.array([2**64 - 1, 0], pa.uint64()), ["18446744073709551615", "0"]),
        (pa.array([uuid.UUID(int=i).bytes for i in (1, 2)], pa.uuid()), [str(uuid.UUID(int=i)) for i in (1, 2)]),
        (pa.array([b"\x00" * 16, b"\xff" * 16], pa.binary(16)), ["00" * 16, "ff" * 16]),
        (pa.array([b"\x01", b""]), ["01", ""]),
        (pa.array([b"\x01", b"\x02"], pa.binary_view()), ["01", "02"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([7, 8], pa.int32()).dictionary_encode(), ["7", "8"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_ids_of_every_type_have_a_text_form(tmp_path: Path, values: pa.Array, texts: list[str]) -> None:
    assert ids_of(write(tmp_path / "m.parquet", {"image_id": values, "uri": ["x", "y"]})) == texts
    pyarrow.feather.write_feather(pa.table({"key": values, "uri": ["x", "y"]}), str(tmp_path / "m.arrow"))
    assert ids_of(tmp_path / "m.arrow", id_column="key") == texts


def test_ids_of_several_columns_never_meet(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.parquet",
        {"set": ["a", "a/b", "a%2Fb", "a"], "n": [1, 2, 2, 11], "uri": list("wxyz")},
    )
    assert ids_of(path, id_columns="set,n") == ["a/1", "a%2Fb/2", "a%252Fb/2", "a/11"]
    for options, sentence in (
        ({"id_columns": "set,"}, "--id-columns takes names"),
        ({"id_columns": "set", "id_column": "n"}, "give one of them"),
        ({"on_bad_row": "skip"}, "--on-bad-row takes error or row"),
        ({"on_duplicate": "last"}, "--on-duplicate takes error or first"),
    ):
        with pytest.raises(UsageError, match=sentence):
            ids_of(path, **options)


@pytest.mark.parametrize("name", ["uri", "url", "URL", "path", "image_path", "file_name", "filepath", "image"])
def test_common_names_of_the_column_of_paths_are_known(tmp_path: Path, name: str) -> None:
    (row,) = rows_of(write(tmp_path / "m.parquet", {"caption": ["c"], name: ["train/a.jpg"]}))
    assert (row["image_id"], row["uri"]) == ("train/a.jpg", f"{tmp_path}/train/a.jpg")


def test_two_columns_that_may_name_the_images_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"url": ["https://h/a.jpg"], "file_name": ["a.jpg"]})
    with pytest.raises(ManifestError, match=r"'url' and 'file_name' may both .* --uri-column"):
        rows_of(path)
    assert ids_of(path, uri_column="file_name") == ["a.jpg"]
    both = write(tmp_path / "n.parquet", {"url": ["https://h/a.jpg"], "image": [b"x"], "uri": ["b.jpg"]})
    assert ids_of(both) == ["b.jpg"]  # `uri` and `image` are the names in the documentation


_BYTES = [b"one", b"two"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(_BYTES, pa.binary()),
        pa.array(_BYTES, pa.large_binary()),
        pa.array(_BYTES, pa.binary_view()),
        pa.array(_BYTES).dictionary_encode(),
        pa.array([{"bytes": b, "path": "x.jpg"} for b in _BYTES]),
        pa.array(
            [{"path": "x.jpg", "bytes": b} for b in _BYTES],
            pa.struct({"path": pa.string_view(), "bytes": pa.large_binary()}),
        ),
    ],
    ids=lambda column: str(column.type)[:20],
)  # fmt: skip
@pytest.mark.parametrize("name", ["m.parquet", "m.arrow", "stream.arrow"])
def test_images_in_a_column_of_any_name_and_type(tmp_path: Path, column: pa.Array, name: str) -> None:
    from jobs.score.image_source import image_source

    table = pa.table({"jpg": column, "image_id": ["a", "b"]})
    writers: dict[str, Any] = {
        "m.arrow": FORMATS["m.feather"],
        "stream.arrow": _arrow_stream,
        "m.parquet": pq.write_table,
    }
    writers[name](table, tmp_path / name)
    rows = rows_of(tmp_path / name, image_column="jpg")
    assert [image_source(row) for row in rows] == _BYTES
    with pytest.raises(ManifestError, match=r"--image-column"):
        rows_of(tmp_path / name)


@pytest.mark.parametrize("writer", ["m.parquet", "m.arrow"])
def test_a_list_of_images_is_a_row_for_each(tmp_path: Path, writer: str) -> None:
    from jobs.score.image_source import image_source

    lists = [[{"bytes": b"0", "path": None}, {"bytes": b"1", "path": None}], [], None, [{"bytes": b"2", "path": None}]]
    table = pa.table({"images": lists, "label": [1, 2, 3, 4], "key": ["a", "b", "c", "d"]})
    (FORMATS["m.feather"] if writer == "m.arrow" else pq.write_table)(table, tmp_path / writer)
    rows = rows_of(tmp_path / writer, image_column="images")
    assert [row["image_id"] for row in rows] == [f"{writer}#0#0", f"{writer}#0#1", f"{writer}#3#0"]
    assert [image_source(row) for row in rows] == [b"0", b"1", b"2"]
    manifest = open_manifest(str(tmp_path / writer), ManifestOptions(image_column="images", id_column="key"))
    (batch,) = manifest.batches(["label"])
    assert batch.rows["image_id"].to_pylist() == ["a#0", "a#1", "d#0"]
    assert batch.own is not None
    assert batch.own["label"].to_pylist() == [1, 1, 4]
    assert manifest.columns().field("images").type == pa.struct([("bytes", pa.binary()), ("path", pa.null())])
    items = [batch.own["images"].to_pylist() for batch in manifest.batches(["images"]) if batch.own is not None]
    assert [item["bytes"] for batch in items for item in batch] == [b"0", b"1", b"2"]
    (only,) = manifest.batches(["label"], keys=False)
    assert only.own is not None
    assert only.own["label"].to_pylist() == [1, 1, 4]
    texts = write(tmp_path / "texts.parquet", {"urls": [["a.jpg", "b.jpg"], ["c.jpg"]]})
    assert [row["uri"] for row in rows_of(texts, image_column="urls")] == [f"{tmp_path}/{n}.jpg" for n in "abc"]


@pytest.mark.parametrize("writer", ["m.parquet", "m.arrow"])
@pytest.mark.parametrize("has_bytes", [[True, True], [False, False], [True, False, True]])
def test_a_hugging_face_image_without_bytes_is_read_from_its_path(
    tmp_path: Path, writer: str, has_bytes: list[bool]
) -> None:
    images = [{"bytes": b"x" if here else None, "path": f"{n}.jpg"} for n, here in enumerate(has_bytes)]
    table = pa.table({"image": images})
    (FORMATS["m.feather"] if writer == "m.arrow" else pq.write_table)(table, tmp_path / writer)
    found = [row["uri"] for row in rows_of(tmp_path / writer)]
    assert found == [None if here else f"{tmp_path}/{n}.jpg" for n, here in enumerate(has_bytes)]


def test_the_bytes_of_images_are_not_read_while_planning(tmp_path: Path) -> None:
    images = [{"bytes": bytes([n]) * 1_000_000, "path": f"{n}.jpg"} for n in range(40)]
    write(tmp_path / "m.parquet", {"image": images}, row_group_size=8, compression="none")
    before = pa.total_allocated_bytes()
    assert len(rows_of(tmp_path / "m.parquet")) == 40
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_columns_in_the_names_of_folders_are_columns(tmp_path: Path) -> None:
    parts = ("01", "de", "a"), ("02", "f%20r", "b"), ("02", "__HIVE_DEFAULT_PARTITION__", "c")
    for day, country, name in parts:
        write(tmp_path / f"t/dt=2026-01-{day}/hour=7/country={country}/part-0.parquet", {"uri": [f"{name}.jpg"]})
    manifest = open_manifest(str(tmp_path / "t"))
    assert manifest.columns().names == ["uri", "dt", "hour", "country"]
    own = pa.concat_tables([b.own for b in manifest.batches(["country", "dt", "hour"]) if b.own is not None])
    assert own.to_pylist() == [
        {"country": "de", "dt": "2026-01-01", "hour": 7},
        {"country": None, "dt": "2026-01-02", "hour": 7},
        {"country": "f r", "dt": "2026-01-02", "hour": 7},
    ]
    assert [row["uri"] for row in rows_of(tmp_path / "t")] == [f"{tmp_path}/t/{n}.jpg" for n in "acb"]
    assert ids_of(f"{tmp_path}/t/dt=*/**/*.parquet", id_columns="dt,hour,uri")[0] == "2026-01-01/7/a.jpg"
    expected = ds.dataset(tmp_path / "t", partitioning="hive").to_table()
    assert expected["hour"].to_pylist() == [7, 7, 7]


def test_what_spark_leaves_beside_its_parts_is_passed_by(tmp_path: Path) -> None:
    table = tmp_path / "table"
    write(table / "part-00000.snappy.parquet", {"uri": ["a.jpg"]})
    write(table / "part-00001.parquet", {"uri": pa.array([], pa.null())})
    pq.write_table(pa.table({}), table / "part-00002.parquet")
    write(table / "_temporary/0/part-00003.parquet", {"uri": ["never.jpg"]})
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-00000.snappy.parquet.crc", "_committed_123", "_started_123"):
        (table / name).write_bytes(b"crc")
    for source in (table, f"{table}/*", f"{table}/*.parquet"):
        assert ids_of(source) == ["a.jpg"]


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (".hoodie/hoodie.properties", "a Hudi table"),
        ("metadata/00000-7f.metadata.json", "an Iceberg table"),
        ("_versions/1.manifest", "a part of a Lance data set, or not called .lance"),
    ],
)
def test_formats_whose_files_are_not_all_there_is_to_them_are_refused_by_name(
    tmp_path: Path, mark: str, name: str
) -> None:
    write(tmp_path / "t/part-0.parquet", {"uri": ["removed.jpg"]})
    (tmp_path / "t" / mark).parent.mkdir()
    (tmp_path / "t" / mark).write_text("{}")
    for source in (tmp_path / "t", f"{tmp_path}/t/*.parquet"):
        with pytest.raises(UsageError, match=f"is {name}.*as Parquet"):
            open_manifest(str(source))
    (tmp_path / "t/part-0.parquet").rename(tmp_path / "t/part-0.lance")
    with pytest.raises(UsageError, match=f"is {name}.*as Parquet"):
        open_manifest(str(tmp_path / "t"))


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("adl://store/photos", "az://container/path"),
        ("hdfs://name/x.parquet", "Copy it"),
        ("nonsense://x", "Taken are folders"),
    ],
)
def test_schemes_that_are_not_read_are_named(source: str, advice: str) -> None:
    with pytest.raises(UsageError, match=f"{source.split(':')[0]}:// is no place .*{advice}"):
        open_manifest(source)


@pytest.mark.process
def test_bad_rows_become_error_rows_if_that_is_asked_for(tmp_path: Path) -> None:
    good = str(golden_images()[4])
    raw = pa.array([good.encode(), None, b"caf\xe9.jpg", b"x" * 40_000, good.encode()], pa.binary())
    uris = pa.StringArray.from_buffers(5, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    source = write(tmp_path / "m.parquet", {"image_id": ["a", "b", "c", "d", None], "uri": uris})
    done = run_artimuse("score", source, "--out", tmp_path / "out", *golden_options(), code=1)
    assert "row 2: `uri` cannot be read as text" in done.stderr
    assert "--on-bad-row row" in done.stderr
    screen = run_score(source, tmp_path / "out", "--on-bad-row", "row")
    rows = table_rows(tmp_path / "out")
    assert {name: row["error_type"] for name, row in rows.items()} == {
        "a": None, "b": "bad_row", "c": "bad_row", "d": "bad_row", "m.parquet#4": "bad_row",
    }  # fmt: skip
    assert "4 bad_row" in screen
    assert f"4 rows name no image (the first is row 1 of {source})" in screen
    write(tmp_path / "m.parquet", {"image_id": ["a", "b", "c", "d", "e"], "uri": [good] * 5})
    run_score(source, tmp_path / "out", "--retry-errors", "bad_row")
    assert [row["status"] for name, row in table_rows(tmp_path / "out").items() if name in "abcd"] == ["ok"] * 4


@pytest.mark.process
def test_of_doubled_ids_the_first_is_taken_if_that_is_asked_for(tmp_path: Path) -> None:
    good = [str(golden_images()[number]) for number in (4, 5, 9)]
    source = write(tmp_path / "a/0.parquet", {"image_id": ["x", "y"], "uri": good[:2], "n": [0, 1]})
    write(tmp_path / "a/1.parquet", {"image_id": ["z", "x"], "uri": [good[2], "never.jpg"], "n": [2, 3]})
    done = run_artimuse("score", source.parent, "--out", tmp_path / "out", *golden_options(), code=1)
    assert "row 1: has the same `image_id` as" in done.stderr
    assert "--on-duplicate first" in done.stderr
    failed = run_artimuse("manifest", source.parent, "--out", tmp_path / "m.parquet", code=1).stderr
    assert f"{tmp_path}/a/1.parquet, row 1: has the same `image_id` as {tmp_path}/a/0.parquet, row 0: 'x'." in failed
    assert not (tmp_path / "m.parquet").exists()
    screen = run_score(source.parent, tmp_path / "out", "--on-duplicate", "first")
    rows = table_rows(tmp_path / "out")
    assert {name: row["uri"] for name, row in rows.items()} == dict(zip("xyz", good, strict=True))
    assert "1 rows have the id of an earlier row" in screen
    manifest = open_manifest(str(source.parent), ManifestOptions(on_duplicate="first"))
    own = [value for batch in manifest.batches(["n"], keys=False) if batch.own for value in batch.own["n"].to_pylist()]
    assert own == [0, 1, 2]


@pytest.mark.process
def test_a_partitioned_table_of_odd_ids_is_scored_and_curated(tmp_path: Path) -> None:
    images = [str(path) for path in golden_images()[:6]]
    for day in (1, 2):
        names = images[:3] if day == 1 else images[3:]
        keys = pa.array([day * 2**40 + n for n in range(3)], pa.uint64())
        write(tmp_path / f"t/day={day}/p.parquet", {"key": keys, "url": names, "caption": ["c"] * 3})
    run_score(tmp_path / "t", tmp_path / "out", "--id-column", "key")
    assert {row["status"] for row in table_rows(tmp_path / "out").values()} == {"ok"}
    run_artimuse(
        "curate", tmp_path / "out", "--manifest", tmp_path / "t", "--id-column", "key", "--top", "1", "--per", "day",
        "--out", tmp_path / "best.parquet",
    )  # fmt: skip
    best = pq.read_table(tmp_path / "best.parquet")
    assert sorted(best["day"].to_pylist()) == [1, 2]
    assert {"key", "url", "caption", "day", "score"} <= set(best.column_names)
