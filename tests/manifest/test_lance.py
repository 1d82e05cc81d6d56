"""Lance data sets: the rows of their newest version, and nothing that was deleted."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from support.golden import golden_images
from support.score_job import run_artimuse, run_score, table_rows

from artimuse_actor.errors import ManifestError, UsageError
from jobs.manifest.source import open_manifest
from jobs.storage.s3_place import s3_filesystem


def write_table(source: str, **options: Any) -> list[str]:
    """A picture, one that is deleted again, and a third after that; returns the two that are left."""
    names = [str(golden_images()[number]) for number in (4, 5)]
    rows = pa.table({"uri": [names[0], "removed.jpg"], "kind": pa.array(["a", "b"]).dictionary_encode()})
    lance.write_dataset(rows, source, **options)
    lance.dataset(source, **options).delete("uri = 'removed.jpg'")
    more = pa.table({"uri": [names[1]], "kind": pa.array(["c"]).dictionary_encode()})
    lance.write_dataset(more, source, mode="append", **options)
    return names


def uris_of(source: str) -> list[str]:
    return [uri for batch in open_manifest(source).batches() for uri in batch.rows["uri"].to_pylist()]


@pytest.mark.process
def test_rows_that_were_deleted_are_not_scored_and_columns_are_carried_through(tmp_path: Path) -> None:
    source = tmp_path / "table.lance"
    names = write_table(str(source))
    run_score(source, tmp_path / "out")
    rows = table_rows(tmp_path / "out")
    assert sorted(rows) == sorted(names)
    assert {row["status"] for row in rows.values()} == {"ok"}
    run_artimuse("curate", tmp_path / "out", "--manifest", source, "--where", "kind = 'c'", "--out", tmp_path / "b.csv")
    assert names[1] in (tmp_path / "b.csv").read_text()
    before = open_manifest(str(source)).identity()
    lance.dataset(str(source)).delete("kind = 'c'")
    assert open_manifest(str(source)).identity() != before
    assert uris_of(str(source)) == names[:1]


def test_a_lance_data_set_on_s3_is_read(s3_environment: Any) -> None:
    s3_filesystem().makedirs("lance-on-s3", exist_ok=True)
    names = write_table("s3://lance-on-s3/table.lance", storage_options={"AWS_ALLOW_HTTP": "true"})
    assert uris_of("s3://lance-on-s3/table.lance/") == names


def test_what_is_no_lance_data_set_or_has_the_images_in_it_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.lance").mkdir()
    with pytest.raises(ManifestError, match=r"empty.lance: cannot be read as a Lance data set: .*not found"):
        open_manifest(str(tmp_path / "empty.lance"))
    lance.write_dataset(pa.table({"image_id": ["a"], "image": [b"jpeg"]}), str(tmp_path / "images.lance"))
    with pytest.raises(ManifestError, match="the images themselves, which are not read from Lance"):
        uris_of(str(tmp_path / "images.lance"))
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "lance":
            raise ImportError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match=r"is a Lance data set\. Install the package `pylance`"):
        open_manifest(str(tmp_path / "images.lance"))
