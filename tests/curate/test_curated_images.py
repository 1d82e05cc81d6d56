"""Curations that hold the images: copies in a folder, WebDataset tar files, embedded images; and curations on S3."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.paths import GOLDEN
from support.scored_stores import write_store
from support.tars import write_tar

from artimuse_actor.errors import CurationError, UsageError
from jobs.curate.curate import CurateSettings, Curation, curate
from jobs.curate.filters import FilterOptions
from jobs.curate.output_images import _json
from jobs.curate.row_writers import json_rows, open_row_file
from jobs.manifest.source import open_manifest
from jobs.storage.places import open_place
from jobs.storage.s3_place import s3_filesystem

PICTURES = ("01_rgb_640x480.jpg", "06_palette.png", "07_rgba.png")


def _choose(store: str | Path, out: str | Path, **options: Any) -> Curation:
    return curate(CurateSettings(store=str(store), out=str(out), **options))


@pytest.fixture
def photos(tmp_path: Path) -> list[dict[str, Any]]:
    """Scored rows of real files with odd names."""
    rows = []
    for number, picture in enumerate(PICTURES):
        data = (GOLDEN / "artimuse" / "images" / picture).read_bytes()
        path = tmp_path / "photos" / f"{number} ..\n{picture}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        about = {"format": "PNG" if picture.endswith("png") else "JPEG", "sha256": hashlib.sha256(data).hexdigest()}
        rows.append({"image_id": f"../../{number}/\n.jpg", "uri": str(path), "score": 50.0 + number, **about})
    return rows


@pytest.fixture
def store(tmp_path: Path, photos: list[dict[str, Any]]) -> Path:
    write_store(tmp_path / "store", photos, shard_rows=2)
    return tmp_path / "store"


def test_copied_images_lie_beside_a_manifest_that_names_them(store: Path, tmp_path: Path, photos: Any) -> None:
    _choose(store, tmp_path / "best", copy=True)
    rows = pq.read_table(tmp_path / "best" / "manifest.parquet").to_pylist()
    names = ["images/00000/00000000.jpg", "images/00000/00000001.png", "images/00000/00000002.png"]
    assert [row["uri"] for row in rows] == [str(tmp_path / "best" / name) for name in names]
    assert [row["source_uri"] for row in rows] == [photo["uri"] for photo in photos]
    assert [row["image_id"] for row in rows] == [photo["image_id"] for photo in photos]
    for row in rows:
        assert Path(row["uri"]).read_bytes() == Path(row["source_uri"]).read_bytes()
    assert sum(len(batch.rows) for batch in open_manifest(str(tmp_path / "best" / "manifest.parquet")).batches()) == 3
    _choose(store, tmp_path / "best", copy=True, top="1")
    assert [path.name for path in (tmp_path / "best" / "images").rglob("*.*")] == ["00000000.png"]


def _members(*tars: Path) -> dict[str, bytes]:
    members = {}
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                members[member.name] = file.read()
    return members


def test_a_webdataset_pairs_images_with_their_rows(store: Path, tmp_path: Path, photos: Any) -> None:
    _choose(store, tmp_path / "best", kind="webdataset", tar_size="2")
    members = _members(tmp_path / "best" / "00000.tar", tmp_path / "best" / "00001.tar")
    assert list(members) == [
        *("000000000.jpg", "000000000.json", "000000001.png", "000000001.json", "000010000.png", "000010000.json"),
    ]
    for key, photo in zip(("000000000", "000000001", "000010000"), photos, strict=True):
        row = json.loads(members[f"{key}.json"])
        assert (row["image_id"], row["score"], row["uri"]) == (photo["image_id"], photo["score"], photo["uri"])
        (image,) = [data for name, data in members.items() if name.startswith(key) and not name.endswith("json")]
        Image.open(io.BytesIO(image)).verify()
    first = (tmp_path / "best" / "00000.tar").read_bytes()
    _choose(store, tmp_path / "best", kind="webdataset", tar_size="2")
    assert (tmp_path / "best" / "00000.tar").read_bytes() == first
    _choose(store, tmp_path / "best", kind="webdataset", tar_size="1KB")  # less than a picture has
    assert [len(_members(path)) for path in sorted((tmp_path / "best").glob("*.tar"))] == [2, 2, 2]
    _choose(store, tmp_path / "best", kind="webdataset", tar_size="1GB")
    assert [path.name for path in (tmp_path / "best").glob("*.tar")] == ["00000.tar"]


def _tars_and_store(tmp_path: Path) -> list[dict[str, Any]]:
    """Two tars as WebDataset has them, and a store with texts of their images."""
    pictures = [(GOLDEN / "artimuse" / "images" / picture).read_bytes() for picture in PICTURES]
    ends = ("jpg", "png", "png")
    long = "a-very-long-folder/" * 8
    for number, key in enumerate(("dir/b", "a", f"{long}c")):
        about = {"caption": f"No. {number}", "score": "the source's", "nested": [1, None]}
        others = {
            f"{key}.txt": f"Caption {number}".encode(),
            f"{key}.json": json.dumps(about).encode(),
            f"{key}.cls": b"7",
        }
        write_tar(tmp_path / "tars" / f"{number}.tar", {f"{key}.{ends[number]}": pictures[number]} | others)
    rows: list[dict[str, Any]] = [
        row for batch in open_manifest(str(tmp_path / "tars")).batches() for row in batch.rows.to_pylist()
    ]
    named = ("image_id", "uri", "version")
    rows = [{name: row[name] for name in named} | {"score": 50.0 + number} for number, row in enumerate(rows)]
    for row, picture, end in zip(rows, pictures, ends, strict=True):
        row |= {"sha256": hashlib.sha256(picture).hexdigest(), "format": "PNG" if end == "png" else "JPEG"}
    write_store(tmp_path / "scored", rows, texts={row["image_id"]: f"Text of {row['image_id']}" for row in rows[:2]})
    return rows


@pytest.mark.slow
def test_written_tars_have_the_keys_captions_and_json_of_the_source(tmp_path: Path) -> None:
    rows = _tars_and_store(tmp_path)
    source, out = str(tmp_path / "tars"), tmp_path / "best"
    _choose(tmp_path / "scored", out, manifest=source, kind="webdataset", keys="source")
    members = _members(out / "00000.tar")
    long = "a-very-long-folder/" * 8
    keys = ["dir/b", "a", f"{long}c"]
    ends = ("jpg", "png", "png")
    assert list(members) == [
        f"{key}.{one}" for key, end in zip(keys, ends, strict=True) for one in (end, "json", "txt", "cls")
    ]
    assert members["a.txt"] == b"Caption 1"
    assert members["a.cls"] == b"7"
    about = json.loads(members["dir/b.json"])
    assert (about["caption"], about["nested"], about["score"]) == ("No. 0", [1, None], 50.0)  # the score is ours
    again = open_manifest(str(out))
    assert [row["image_id"] for batch in again.batches() for row in batch.rows.to_pylist()] == [
        f"00000.tar/{key}.{end}" for key, end in zip(keys, ends, strict=True)
    ]
    _choose(tmp_path / "scored", out, kind="webdataset", keys="source", caption="overall_gestalt")
    members = _members(out / "00000.tar")
    assert members["a.txt"].decode() == f"Text of {rows[1]['image_id']}"
    assert f"{long}c.txt" not in members  # has no text
    table = {"image_id": [row["image_id"] for row in rows], "uri": [row["uri"] for row in rows], "cls": [1, None, 3]}
    pq.write_table(pa.table(table | {"txt": [["a list"]] * 3}), tmp_path / "table.parquet")
    _choose(tmp_path / "scored", out, manifest=str(tmp_path / "table.parquet"), kind="webdataset")
    members = _members(out / "00000.tar")
    assert (members["000000000.cls"], json.loads(members["000000000.json"])["txt"]) == (b"1", ["a list"])
    assert not any(name in members for name in ("000000001.cls", "000000000.txt"))
    with pytest.raises(UsageError, match="--caption txt: is no column of texts"):
        _choose(tmp_path / "scored", out, manifest=str(tmp_path / "table.parquet"), kind="webdataset", caption="txt")
    _choose(tmp_path / "scored", out, manifest=source, kind="webdataset", caption="overall_gestalt", top="1")
    assert list(_members(out / "00000.tar")) == ["000000000.png", "000000000.json", "000000000.cls"]


def test_two_samples_of_one_key_are_named_before_an_image_is_fetched(tmp_path: Path, photos: Any) -> None:
    picture = (GOLDEN / "artimuse" / "images" / PICTURES[0]).read_bytes()
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / "tars" / name, {"0.jpg": picture, "../up.jpg": picture})
    about = ("image_id", "uri", "version")
    batches = [batch.rows for batch in open_manifest(str(tmp_path / "tars")).batches()]
    rows = [{name: row[name] for name in about} for batch in batches for row in batch.to_pylist()]
    write_store(tmp_path / "scored", [rows[0], rows[2]])
    options = {"kind": "webdataset", "keys": "source"}
    with pytest.raises(CurationError, match=r"'a.tar/0.jpg' and 'b.tar/0.jpg' have the same key. Use --keys number"):
        _choose(tmp_path / "scored", tmp_path / "best", **options)
    write_store(tmp_path / "outside", [rows[1]])
    with pytest.raises(CurationError, match=r"the key of 'a.tar/../up.jpg' is no path within a folder"):
        _choose(tmp_path / "outside", tmp_path / "best", **options)
    write_store(tmp_path / "loose", [photos[0]])
    with pytest.raises(CurationError, match="is no member of a tar file"):
        _choose(tmp_path / "loose", tmp_path / "best", **options)
    for wrong, sentence in (
        ({"keys": "mine"}, "--keys takes number or source"),
        ({"tar_size": "0"}, "--tar-size takes a number of images"),
        ({"tar_size": "5", "kind": "jsonl"}, "--tar-size is about tar files"),
        ({"caption": "uri", "kind": None, "keys": "number"}, "--caption is about tar files"),
        ({"caption": "ur", "keys": "number"}, "'ur'"),
    ):
        with pytest.raises(UsageError, match=sentence):
            _choose(tmp_path / "scored", tmp_path / "best", **options | wrong)
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_copies_are_called_as_their_ids_and_imagefolder_reads_them(tmp_path: Path) -> None:
    import datasets

    picture = (GOLDEN / "artimuse" / "images" / PICTURES[0]).read_bytes()
    named = {
        "2024/a.JPG": "2024/a.JPG",
        "2024/b": "2024/b.jpg",  # a name says what the file is
        "2024/b.jpg": "00000/00000002.jpg",  # which was taken
        "2024/a.JPG/c.png": "00000/00000003.jpg",  # a file is no folder
        "https://example.com/d.jpg": "00000/00000004.jpg",
        "c/../d.jpg": "00000/00000005.jpg",
        "00000/00000002.jpg": "00000/00000006.jpg",
        "ü .jpg": "ü .jpg",
    }
    rows = []
    for number, name in enumerate(named):
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
        row = {"image_id": name, "uri": str(path), "score": 50.0 + number}
        rows.append(row | {"sha256": hashlib.sha256(picture).hexdigest()})
    write_store(tmp_path / "scored", rows)
    best = tmp_path / "best"
    _choose(tmp_path / "scored", best, copy=True)
    table = pq.read_table(best / "manifest.parquet")
    assert table["uri"].to_pylist() == [f"{best}/images/{name}" for name in named.values()]
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(best), split="train", cache_dir=cache)
    assert sorted(loaded["image_id"]) == sorted(named)
    assert (loaded[0]["image"].size, loaded.features["score"]) == ((640, 480), datasets.Value("float64"))
    _choose(tmp_path / "scored", best, copy=True, top="1")
    assert [path.name for path in (best / "images").rglob("*.*")] == ["ü .jpg"]
    (best / "images" / "mine.jpg").write_bytes(picture)
    with pytest.raises(CurationError, match=r"holds what no curation wrote, such as images/mine.jpg"):
        _choose(tmp_path / "scored", best, copy=True)


@pytest.mark.parametrize("options", [{"copy": True}, {"kind": "webdataset"}], ids=str)
def test_an_image_that_is_gone_or_changed_is_left_out_and_counted(
    store: Path, tmp_path: Path, photos: Any, options: dict[str, Any]
) -> None:
    Path(photos[0]["uri"]).unlink()
    Path(photos[1]["uri"]).write_bytes(b"another picture")
    done = _choose(store, tmp_path / "best", **options)
    assert done.funnel.steps[-1].name == "images gone or changed since"
    assert (done.funnel.steps[-1].removed, done.funnel.left) == (2, 1)
    assert done.record["funnel"] == done.funnel.to_json()
    Path(photos[2]["uri"]).unlink()
    with pytest.raises(CurationError, match="images gone or changed since removed the last 3 of 3"):
        _choose(store, tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("options", [{"copy": True}, {"kind": "webdataset"}], ids=str)
@pytest.mark.parametrize("format_", ["../../../../outside", "/outside", "jpg/../x", "json", "", None, "JPEG\n"])
def test_a_store_from_elsewhere_names_no_files(
    tmp_path: Path, photos: Any, format_: str | None, options: dict[str, Any]
) -> None:
    write_store(tmp_path / "strange", [{**photos[0], "format": format_}])
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    _choose(tmp_path / "strange", tmp_path / "best", **options)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.parts[len(tmp_path.parts)] for path in new} == {"best", "strange"}  # the store's own note of it
    if "copy" in options:
        assert [path.name for path in (tmp_path / "best" / "images").rglob("*.*")] == ["00000000.bin"]
    else:
        with tarfile.open(tmp_path / "best" / "00000.tar") as tar:
            assert tar.getnames() == ["000000000.bin", "000000000.json"]


@pytest.mark.parametrize("options", [{"copy": True}, {"kind": "webdataset"}], ids=str)
def test_an_image_without_a_digest_may_be_any_and_is_left_out(
    tmp_path: Path, photos: Any, options: dict[str, Any]
) -> None:
    write_store(tmp_path / "strange", [photos[0], {**photos[1], "sha256": None}])
    done = _choose(tmp_path / "strange", tmp_path / "best", **options)
    assert (done.funnel.steps[-1].removed, done.funnel.left) == (1, 1)


def _embedded(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """A data set as `datasets` writes it, with its notes, and the rows of a store of it."""
    data = [(GOLDEN / "artimuse" / "images" / picture).read_bytes() for picture in PICTURES]
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pa.table(
        {"image": [{"bytes": one, "path": "x"} for one in data], "label": pa.array([0, 1, 1])},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(table, path, row_group_size=2)
    rows = [
        {"image_id": f"{path.name}#{number}", "uri": None, "sha256": hashlib.sha256(one).hexdigest()}
        for number, one in enumerate(data)
    ]
    return str(path), rows


def test_embedded_images_are_carried_through_as_hugging_face_has_them(tmp_path: Path) -> None:
    source, rows = _embedded(tmp_path / "train.parquet")
    write_store(tmp_path / "store", rows)
    _choose(tmp_path / "store", tmp_path / "best.parquet", manifest=source, filters=FilterOptions(where="label == 1"))
    found = pq.read_table(tmp_path / "best.parquet")
    assert found["label"].to_pylist() == [1, 1]
    assert found["image"].to_pylist() == pq.read_table(source)["image"].to_pylist()[1:]
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["score"] == {"dtype": "float32", "_type": "Value"}
    assert list(features) == found.column_names
    batches = list(open_manifest(str(tmp_path / "best.parquet")).batches())
    assert [row["image_id"] for batch in batches for row in batch.rows.to_pylist()] == [
        "train.parquet#1",
        "train.parquet#2",
    ]
    for kind in ("csv", "jsonl"):
        with pytest.raises(UsageError, match="cannot hold the column 'image"):
            _choose(tmp_path / "store", tmp_path / f"best.{kind}", manifest=source)


@pytest.mark.parametrize("options", [{"copy": True}, {"kind": "webdataset"}], ids=str)
def test_embedded_images_become_files(tmp_path: Path, options: dict[str, Any]) -> None:
    source, rows = _embedded(tmp_path / "train.parquet")
    write_store(tmp_path / "store", rows)
    _choose(tmp_path / "store", tmp_path / "best", manifest=source, **options)
    if "copy" in options:
        table = pq.read_table(tmp_path / "best" / "manifest.parquet")
        assert table.column_names == ["image_id", "label", "score", "score_std", "uri", "source_uri"]
        assert [Path(uri).read_bytes() for uri in table["uri"].to_pylist()] == [
            image["bytes"] for image in pq.read_table(source)["image"].to_pylist()
        ]
    else:
        with tarfile.open(tmp_path / "best" / "00000.tar") as tar:
            assert len(tar.getnames()) == 6
    with pytest.raises(CurationError, match="images gone or changed since"):
        _choose(tmp_path / "store", tmp_path / "without", **options)


def test_json_has_short_numbers_and_no_nan() -> None:
    table = pa.table(
        {
            "score": pa.array([70.1, float("nan"), None], pa.float32()),
            "list": [[1.0, float("inf")], None, []],
            "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
            "at": pa.array([0, None, 0], pa.timestamp("s", "UTC")),
            "days": pa.array([[0], None, []], pa.list_(pa.date32())),
            "sum": pa.array([Decimal(7200), None, Decimal("0.5")], pa.decimal128(38, 1)),
        }
    )
    assert json.loads(json.dumps(json_rows(table))) == [
        {
            "score": 70.1,
            "list": [1.0, None],
            "kind": "a",
            "at": "1970-01-01 00:00:00Z",
            "days": ["1970-01-01"],
            "sum": 7200,
        },
        {"score": None, "list": None, "kind": "b", "at": None, "days": None, "sum": None},
        {"score": None, "list": [], "kind": "a", "at": "1970-01-01 00:00:00Z", "days": [], "sum": 0.5},
    ]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.binary(16), pa.list_(pa.binary()), pa.struct({"bytes": pa.binary()})], ids=str
)
def test_bytes_are_no_json(tmp_path: Path, kind: pa.DataType) -> None:
    with pytest.raises(UsageError, match="A jsonl file cannot hold the column 'md5'"):
        open_row_file("jsonl", str(tmp_path / "a.jsonl"), pa.schema([("md5", kind)]))


@pytest.mark.parametrize(("cell", "expected"), [("[" * 200_000, "[" * 200_000), ('{"similarity": NaN}', None)])
def test_any_json_of_the_source_gives_json(cell: str, expected: str | None) -> None:
    fields = json.loads(_json(cell, {"score": 1.0}), parse_constant=pytest.fail)
    assert fields == ({"json": expected, "score": 1.0} if expected else {"similarity": None, "score": 1.0})


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_no_cell_of_a_csv_starts_a_formula(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "a=1", "a\n=1", None]
    column = pa.array(texts, kind)
    table = pa.table({"=1+1": column, "score": pa.array([-1.5] * len(texts), pa.float32())})
    file = open_row_file("csv", str(tmp_path / "a.csv"), table.schema)
    file.write(table)
    file.close({})
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as lines:
        head, *rows = csv.reader(lines)
    assert head == ["'=1+1", "score"]
    assert [row[0] for row in rows] == [f"'{text}" for text in texts[:8] if text] + ["a=1", "a\n=1", ""]
    assert {row[1] for row in rows} == {"-1.5"}


# On S3.


@pytest.fixture
def bucket(s3_environment: dict[str, str], tmp_path: Path) -> str:
    s3_filesystem().mkdir("curated")
    return f"s3://curated/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}"


def test_a_store_on_s3_is_curated_to_s3(bucket: str, store: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file():
            open_place(f"{bucket}/store").write(str(path.relative_to(store)), path.read_bytes())
    place = open_place(bucket)
    _choose(f"{bucket}/store", f"{bucket}/best.parquet", dedupe="exact")
    assert pq.read_table(io.BytesIO(place.read("best.parquet"))).num_rows == 3
    _choose(f"{bucket}/store", f"{bucket}/best.parquet", top="2")
    assert pq.read_table(io.BytesIO(place.read("best.parquet"))).num_rows == 2
    assert len(place.files("store/_curations")) == 2
    _choose(f"{bucket}/store", f"{bucket}/best", copy=True)
    _choose(f"{bucket}/store", f"{bucket}/best", copy=True, top="1")
    names = [file.path for file in place.files("best")]
    assert names == [
        *("best/__curation/funnel.json", "best/images/00000/00000000.png", "best/manifest.parquet"),
        "best/metadata.jsonl",
    ]
    (row,) = pq.read_table(io.BytesIO(place.read("best/manifest.parquet"))).to_pylist()
    assert row["uri"] == f"{bucket}/best/images/00000/00000000.png"
    assert place.read("best/images/00000/00000000.png")[:4] == b"\x89PNG"
    place.write("mine.parquet", b"precious")
    with pytest.raises(CurationError, match="no curation wrote it"):
        _choose(f"{bucket}/store", f"{bucket}/mine.parquet")
    with pytest.raises(CurationError, match="holds what no curation wrote"):
        _choose(f"{bucket}/store", f"{bucket}/store")


def test_a_curation_on_s3_asks_for_footers_and_for_the_columns_of_its_conditions(
    s3_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_filesystem().makedirs("ranges", exist_ok=True)
    write_store(tmp_path / "store", [{"image_id": f"{number:04}"} for number in range(4000)], shard_rows=1000)
    s3_filesystem().put(str(tmp_path / "store"), "s3://ranges/store", recursive=True)
    asked: list[tuple[str, int, int]] = []
    whole = s3_filesystem().cat_file

    def counted(path: str, start: int, end: int) -> bytes:
        asked.append((path, start, end))
        data: bytes = whole(path, start=start, end=end)
        return data

    monkeypatch.setattr("jobs.storage.buckets.s3_filesystem", lambda: SimpleNamespace(cat_file=counted))
    _choose("s3://ranges/store", tmp_path / "best.parquet", top="1", filters=FilterOptions(min_score=10.0))
    assert len({path for path, _, _ in asked}) == 4
    # Three footers (to know the columns, for the conditions, for the tie), the scores with the status, and the ids.
    assert len(asked) <= 4 * 5
