from __future__ import annotations

import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import cast

import pyarrow as pa
import pytest

from artimuse_actor.errors import StoreError, StoreLocked, UsageError
from jobs.evaluate.ground_truth import TruthColumns, read_ground_truth
from jobs.storage.parquet import parquet_bytes, parquet_file
from jobs.storage.place import LocalPlace, Place, S3Place, open_place, s3_filesystem
from jobs.store.lock import RunLock, run_lock


@pytest.fixture
def bucket(s3_environment: dict[str, str], tmp_path: Path) -> S3Place:
    """A prefix of a bucket of a real S3 server."""
    bucket = tmp_path.name.replace("_", "-").lower()[:40].strip("-")
    s3_filesystem().mkdir(bucket)
    return S3Place(f"s3://{bucket}/out")


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        return open_place(str(tmp_path / "out"))
    return cast(Place, request.getfixturevalue("bucket"))


def test_a_written_file_is_read_listed_replaced_and_deleted(place: Place) -> None:
    place.write("scores/a b#1.parquet", b"one")
    place.write("scores/deep/c.parquet", b"three")
    place.write("scores2/d", b"not below scores")
    before = place.files("scores")
    assert [(file.path, file.size_bytes) for file in before] == [
        ("scores/a b#1.parquet", 3),
        ("scores/deep/c.parquet", 5),
    ]
    place.write("scores/a b#1.parquet", b"two!")
    assert place.read("scores/a b#1.parquet") == b"two!"
    assert place.files("scores")[0].version != before[0].version
    everything = [file.path for file in place.files("") if not file.path.startswith("_")]
    assert everything == ["scores/a b#1.parquet", "scores/deep/c.parquet", "scores2/d"]
    place.delete("scores/deep/c.parquet")
    place.delete("scores/deep/c.parquet")
    assert [file.path for file in place.files("scores")] == ["scores/a b#1.parquet"]
    place.delete_tree("scores")
    place.delete_tree("scores")
    assert place.files("scores") == []


def test_only_the_first_creates_a_file(place: Place) -> None:
    assert place.create("_lock", b"first")
    assert not place.create("_lock", b"second")
    assert place.read("_lock") == b"first"


def test_a_missing_file_is_not_found(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("nowhere")


def test_a_second_run_is_refused_and_names_the_first(place: Place) -> None:
    second = run_lock(place, "run-2")
    with run_lock(place, "run-1"), pytest.raises(StoreLocked, match=rf"run run-1 \(process {os.getpid()} on"):
        second.__enter__()
    with run_lock(place, "run-3"):
        pass


def test_a_lock_whose_owner_died_is_taken_over(place: Place) -> None:
    if isinstance(place, LocalPlace):  # the kernel lets go of it: only the note of a dead owner stays
        os.makedirs(place.root)
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    place.write("_lock", json.dumps(json.loads(RunLock("", "dead").owner()) | {"pid": dead}).encode())
    with run_lock(place, "run-2"):
        assert b"run-2" in place.read("_lock")


def test_nothing_half_written_is_ever_at_the_target(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path))
    (tmp_path / "scores").mkdir()
    os.chmod(tmp_path, 0o755)
    place.write("scores/a", b"x" * 1_000_000)
    assert os.listdir(tmp_path / "scores") == ["a"]
    assert os.listdir(tmp_path / "_runs" / "tmp") == []


def test_places_that_cannot_be_written_to_are_sentences(tmp_path: Path) -> None:
    for root, sentence in (("https://host/out", "only local folders and s3://"), ("s3://", "names no bucket")):
        with pytest.raises(UsageError, match=sentence):
            open_place(root)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/out/_store.json: .*Check the path"):
        open_place(str(tmp_path / "file" / "out")).write("_store.json", b"")


def test_a_file_is_swapped_only_if_it_is_still_the_one_that_was_read(bucket: S3Place) -> None:
    assert bucket.read_version("_lock") is None
    bucket.write("_lock", b"one")
    found = bucket.read_version("_lock")
    assert found is not None
    assert found[0] == b"one"
    assert bucket.swap("_lock", b"two", found[1])
    assert not bucket.swap("_lock", b"three", found[1])
    assert bucket.read("_lock") == b"two"
    bucket.delete("_lock")
    assert not bucket.swap("_lock", b"four", found[1])


def test_of_many_runs_that_find_a_stale_lock_one_gets_it(bucket: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write(
        "_lock",
        json.dumps(json.loads(RunLock("", "dead").owner()) | {"processes": "elsewhere", "renewed_at": 0.0}).encode(),
    )
    everybody = Barrier(8)

    def take(run_id: str) -> bool:
        everybody.wait()
        try:
            with run_lock(bucket, run_id):
                everybody_has_tried.wait()
                return True
        except StoreLocked:
            everybody_has_tried.wait()
            return False

    everybody_has_tried = Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, (f"run-{number}" for number in range(8)))) == 1


def test_a_run_that_lost_its_lock_commits_nothing_more(bucket: S3Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.lock.RENEW_EVERY_S", 0.05)
    with run_lock(bucket, "run-1") as lock:
        time.sleep(0.3)
        lock.check()
        bucket.write("_lock", RunLock("", "run-2").owner())  # as after a suspension of minutes
        deadline = time.monotonic() + 10
        while not lock.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(StoreLocked, match="another run has taken the lock over"):
            lock.check()
    assert b"run-2" in bucket.read("_lock")


def test_only_the_calling_thread_reads_a_parquet_file_from_a_file_of_pythons(tmp_path: Path) -> None:
    table = pa.table({f"c{number}": range(5000) for number in range(20)})
    (tmp_path / "t.parquet").write_bytes(parquet_bytes(table, row_group_rows=500))
    readers = set()

    class Noting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.add(threading.get_ident())
            return super().read(-1 if size is None else size)

    with Noting(tmp_path / "t.parquet") as file:
        parquet = parquet_file(file, pre_buffer=True)
        assert parquet.read() == table
        assert parquet.read_row_group(3) == table[1500:2000]
        assert pa.Table.from_batches(parquet.iter_batches(700)) == table
    assert readers == {threading.get_ident()}


def test_ground_truth_in_csv_is_read_from_a_bucket(bucket: S3Place) -> None:
    bucket.write("truth.csv", b"image_id,gt_score\n007,5.5\nb,\n")
    (table,) = read_ground_truth(bucket.uri("truth.csv"), TruthColumns())
    assert table.to_pydict() == {"key": ["007", "b"], "truth": [5.5, None]}
