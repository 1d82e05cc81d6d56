from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tars import write_tar

from artimuse_actor.errors import GroundTruthError
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.truth_columns import TruthColumns
from jobs.evaluate.truth_digest import TruthDigest
from jobs.storage.s3_place import s3_filesystem

ROWS = [("a.jpg", 1.5, "cats"), ("b/c.png", 7.0, "dogs"), ("007", None, "cats")]


def _read(path: Path, columns: TruthColumns = TruthColumns()) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for batch in read_ground_truth(str(path), columns) for row in batch.to_pylist()]


def _write(path: Path) -> Path:
    names = ("file_name", "gt_score", "kind")
    if path.suffix == ".gz":
        with gzip.open(path, "wb") as file:
            file.write(_write(path.with_suffix("")).read_bytes())
        return path
    match path.suffix:
        case ".jsonl":
            path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in ROWS) + "\n\n")
        case ".json":
            path.write_text(json.dumps([dict(zip(names, row, strict=True)) for row in ROWS]))
        case ".csv":
            lines = [",".join("" if value is None else str(value) for value in row) for row in (names, *ROWS)]
            path.write_text("\n".join(lines) + "\n")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in ROWS]), path)
    return path


@pytest.mark.parametrize("name", ["truth.json", "truth.csv", "truth.parquet", "truth.jsonl", "t.csv.gz", "t.jsonl.gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name)
    assert _read(path) == [row[:2] for row in ROWS]
    assert _read(path, TruthColumns(group="kind")) == ROWS
    assert _read(path, TruthColumns(key="kind", group="kind"))[0] == ("cats", 1.5, "cats")


@pytest.mark.parametrize("name", ["truth.json", "truth.csv", "truth.parquet"])
@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (TruthColumns(truth="gt_scor"), "no column 'gt_scor'; did you mean 'gt_score'? Name another one with --truth"),
        (TruthColumns(key="flie_name"), "no column 'flie_name'; did you mean 'file_name'? Name another one with --on"),
        (TruthColumns(group="sort"), "no column 'sort'; it has file_name, gt_score, kind. Name another one with --by"),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_named_with_the_nearest(
    tmp_path: Path, name: str, columns: TruthColumns, sentence: str
) -> None:
    with pytest.raises(GroundTruthError) as caught:
        _read(_write(tmp_path / name), columns)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (TruthColumns(key="file"), "0.tar/b.jpg: has no `file` that names an image"),
        (TruthColumns(group="kind"), "0.tar/b.jpg: `kind` is no text"),
    ],
)
def test_an_image_of_a_tar_without_a_usable_field_is_named(
    tmp_path: Path, columns: TruthColumns, sentence: str
) -> None:
    fields = {"a": {"file": "a", "kind": "sky"}, "b": {"kind": "\ud800"}}
    members = {f"{name}.jpg": b"x" for name in fields}
    members |= {f"{name}.json": json.dumps({"gt_score": 1, **found}).encode() for name, found in fields.items()}
    write_tar(tmp_path / "0.tar", members)
    with pytest.raises(GroundTruthError) as caught:
        _read(tmp_path / "0.tar", columns)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.json", "{", "is not valid JSON"),
        ("t.json", "{}", "is not a list of objects"),
        ("t.json", "[5]", "has no column that names the image"),
        ("t.json", '[{"image": "a", "gt_score": 1}, 5]', "entry 1: is no object"),
        ("t.json", '[{"image": "a", "gt_score": "good"}]', "entry 0: `gt_score` is 'good', not a number"),
        ("t.json", '[{"image": "a", "gt_score": true}]', "entry 0: `gt_score` is True, not a number"),
        ("t.json", '[{"image": "a", "gt_score": 1}, {"gt_score": 1}]', "entry 1: has no `image` that names an image"),
        ("t.json", '[{"image": "\\ud800", "gt_score": 1}]', "entry 0: has no `image` that names an image"),
        ("t.json", f'[{{"image": "a", "gt_score": {"9" * 400}}}]', "entry 0: `gt_score` is beyond any scale"),
        ("t.json", "[" * 100_000, "is not valid JSON"),
        ("t.jsonl", '{"image": "a", "gt_score": 1}\n{', "cannot be read as JSON lines: JSON parse error"),
        ("t.jsonl", '{"image": "a", "gt_score": 1}\n{"image": "a", "gt_score": "x"}', "from number to string in row 1"),
        ("t.csv.gz", "image,gt_score", "cannot be read"),
        ("t.json.gz", "[]", "cannot be read"),
        ("t.csv", "image,gt_score\na,1\nb,good\n", "Row #3: CSV conversion error to double: invalid value 'good'"),
        ("t.csv", "image,gt_score\na,1,2\n", "Expected 2 columns, got 3"),
        ("t.csv", "", "cannot be read as CSV: Empty CSV file"),
        ("t.parquet", "PAR1", "cannot be read as Parquet"),
        ("t.txt", "", "is neither JSON nor a table (.parquet, .parq, .pq, .arrow"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_sentence_that_names_the_row(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(GroundTruthError) as caught:
        _read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": ["a", None], "gt_score": [1.0, 2.0]}, "row 1: `image` is null"),
        ({"image": ["a"], "gt_score": ["good"]}, "`gt_score` is of type string; it must be a number"),
        ({"image": [{"bytes": b"x"}], "gt_score": [1.0]}, "must name the image"),
    ],
)
def test_wrong_types_and_nulls_in_parquet_are_sentences(
    tmp_path: Path, columns: dict[str, list[Any]], sentence: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(GroundTruthError, match=sentence):
        _read(tmp_path / "t.parquet")


def test_a_source_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    for name in ("t.json", "t.csv", "t.parquet"):
        with pytest.raises(GroundTruthError, match=r"there is no such file|No such file"):
            _read(tmp_path / name)


@pytest.mark.server
def test_a_compressed_csv_file_on_s3_is_decompressed(tmp_path: Path, s3_environment: object) -> None:
    uri = f"s3://ground-truths/{uuid4().hex}/t.csv.gz"
    s3_filesystem().makedirs("ground-truths", exist_ok=True)
    s3_filesystem().put_file(str(_write(tmp_path / "t.csv.gz")), uri)
    assert [tuple(row.values()) for batch in read_ground_truth(uri, TruthColumns()) for row in batch.to_pylist()] == [
        row[:2] for row in ROWS
    ]


def test_the_content_hash_is_that_of_the_rows_whatever_the_format(tmp_path: Path) -> None:
    expected = hashlib.sha256(
        "".join(f"{name}\t{'' if points is None else f'{points:g}'}\n" for name, points, _ in ROWS).encode()
    )
    for name in ("t.json", "t.csv", "t.parquet", "t.jsonl"):
        digest = TruthDigest()
        for batch in read_ground_truth(str(_write(tmp_path / name)), TruthColumns()):
            digest.update(batch)
        assert digest.hexdigest() == expected.hexdigest()
