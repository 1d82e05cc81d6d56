"""Delta tables: what their log names now, and nothing that was removed."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.golden import golden_images
from support.score_job import run_score, table_rows

from artimuse_actor.errors import ManifestError, UsageError
from jobs.manifest.source import open_manifest

deltalake = pytest.importorskip("deltalake")


def write_table(source: str, **options: Any) -> None:
    """Three pictures on two days, of which one is deleted again, and a fourth after that."""
    names = [str(golden_images()[number]) for number in (4, 5, 9)]
    days = ["2026-01-01", "2026-01-02 a", "2026-01-02 a"]
    rows = pa.table({"uri": [*names[:2], "removed.jpg"], "day": days})
    deltalake.write_deltalake(source, rows, partition_by=["day"], **options)
    deltalake.DeltaTable(source, **options).delete("uri = 'removed.jpg'")
    more = pa.table({"uri": [names[2]], "day": ["2026-01-01"]})
    deltalake.write_deltalake(source, more, mode="append", **options)


def uris_of(source: str) -> list[str]:
    return [uri for batch in open_manifest(source).batches() for uri in batch.rows["uri"].to_pylist()]


@pytest.mark.process
def test_rows_that_were_removed_are_not_scored(tmp_path: Path) -> None:
    write_table(str(tmp_path / "table"))
    assert len(list((tmp_path / "table").rglob("*.parquet"))) > 3
    run_score(tmp_path / "table", tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert sorted(rows) == sorted(str(golden_images()[number]) for number in (4, 5, 9))
    assert {row["status"] for row in rows.values()} == {"ok"}
    manifest = open_manifest(str(tmp_path / "table"))
    own = [day for batch in manifest.batches(["day"]) if batch.own for day in batch.own["day"].to_pylist()]
    assert sorted(own) == ["2026-01-01", "2026-01-01", "2026-01-02 a"]


@pytest.mark.server
def test_a_delta_table_on_s3_is_read(s3_environment: Any) -> None:
    from jobs.storage.s3_place import s3_filesystem

    s3_filesystem().makedirs("delta-on-s3", exist_ok=True)
    source = "s3://delta-on-s3/table"
    write_table(source, storage_options={"AWS_ALLOW_HTTP": "true", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"})
    assert sorted(uris_of(source)) == sorted(str(golden_images()[number]) for number in (4, 5, 9))


def test_what_is_more_than_files_or_not_whole_is_refused(tmp_path: Path) -> None:
    write_table(str(tmp_path / "table"))
    for source in (tmp_path, f"{tmp_path}/table/day=*/*.parquet"):
        with pytest.raises(UsageError, match=r"is a part of a Delta table.* Name the table itself"):
            open_manifest(str(source))
    named = Path(deltalake.DeltaTable(tmp_path / "table").file_uris()[0])
    named.rename(named.with_suffix(".gone"))
    with pytest.raises(ManifestError, match="1 files of its Delta log are not there"):
        open_manifest(str(tmp_path / "table"))
    mapped = tmp_path / "mapped"
    deltalake.write_deltalake(mapped, pa.table({"uri": ["a.jpg"]}))
    log = mapped / "_delta_log" / "00000000000000000000.json"
    text = log.read_text()
    log.write_text(text.replace('"configuration":{}', '"configuration":{"delta.columnMapping.mode":"name"}'))
    assert log.read_text() != text
    with pytest.raises(UsageError, match="has columnMapping"):
        open_manifest(str(mapped))
    log.write_text("no log")
    with pytest.raises(ManifestError, match="its Delta log cannot be read"):
        open_manifest(str(mapped))


def test_without_the_package_a_delta_table_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(str(tmp_path / "table"))
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "deltalake":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"is a Delta table, .* Install the package `deltalake`"):
        open_manifest(str(tmp_path / "table"))
