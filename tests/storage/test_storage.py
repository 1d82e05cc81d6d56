from __future__ import annotations

import io
import json
import os
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest

from artimuse_actor.errors import StoreError, StoreLocked, UsageError
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.truth_columns import TruthColumns
from jobs.storage.bucket_place import BucketPlace
from jobs.storage.local_place import LocalPlace
from jobs.storage.parquet import parquet_bytes, parquet_file
from jobs.storage.place import Place, clock_s
from jobs.storage.places import open_place
from jobs.storage.s3_place import s3_filesystem
from jobs.store.lock import STALE_AFTER_S, WRITE_AT_MOST_S, RunLock, run_lock


@pytest.fixture(params=["s3", "gs", "az"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A prefix of a bucket of a real S3 server, or of an emulator of another cloud."""
    return _place(request, tmp_path)


@pytest.fixture(params=["disk", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return open_place(str(tmp_path / "out")) if request.param == "disk" else _place(request, tmp_path)


def _place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        request.getfixturevalue("s3_environment")
        bucket = tmp_path.name.replace("_", "-").lower()[:40].strip("-")
        s3_filesystem().mkdir(bucket)
        root = f"s3://{bucket}/out"
    else:
        root = request.getfixturevalue({"gs": "google", "az": "azure"}[request.param]).uri("out")
    return open_place(root)


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
    ranges = [place.read_range("scores/a b#1.parquet", start, 2) for start in (0, 1, 3)]
    assert ranges == [b"tw", b"wo", b"!"]
    assert place.files("scores")[0].version != before[0].version
    everything = [file.path for file in place.files("") if not file.path.startswith("_")]
    assert everything == ["scores/a b#1.parquet", "scores/deep/c.parquet", "scores2/d"]
    place.delete("scores/deep/c.parquet")
    place.delete("scores/deep/c.parquet")
    assert [file.path for file in place.files("scores")] == ["scores/a b#1.parquet"]
    place.delete_tree("scores")
    place.delete_tree("scores")
    assert place.files("scores") == []


def test_signs_of_patterns_in_a_name_are_nothing_special(place: Place) -> None:
    odd = open_place(f"{place.root}/run [1]*?")
    place.write("run 1ab/scores/a", b"of another store")
    odd.write("scores/a", b"one")
    odd.write("scores/[b]*", b"two")
    assert [(file.path, odd.read(file.path)) for file in odd.files("scores")] == [
        ("scores/[b]*", b"two"),
        ("scores/a", b"one"),
    ]
    odd.delete("scores/[b]*")
    odd.delete_tree("scores")
    assert odd.files("scores") == []
    assert len(place.files("run 1ab")) == 1


def test_only_the_first_creates_a_file(place: Place) -> None:
    assert place.create("_lock", b"first")
    assert not place.create("_lock", b"second")
    assert place.read("_lock") == b"first"


def test_a_missing_file_is_not_found(place: Place) -> None:
    with pytest.raises(FileNotFoundError):
        place.read("nowhere")
    with pytest.raises(FileNotFoundError):
        place.read_range("nowhere", 0, 2)


def test_a_second_run_is_refused_and_names_the_first(place: Place) -> None:
    second = run_lock(place, "run-2")
    with run_lock(place, "run-1"), pytest.raises(StoreLocked, match=rf"run run-1 \(process {os.getpid()} on"):
        second.__enter__()
    with run_lock(place, "run-3"):
        pass


def test_a_lock_whose_owner_died_is_taken_over(place: Place) -> None:
    if isinstance(place, LocalPlace):  # the kernel lets go of it: only the note of a dead owner stays
        os.makedirs(place.root)
    dead = os.posix_spawn(sys.executable, [sys.executable, "-Sc", ""], os.environ)
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


def test_a_file_is_swapped_only_if_it_is_still_the_one_that_was_read(bucket: Place) -> None:
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


def test_of_many_runs_that_find_a_stale_lock_one_gets_it(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write("_lock", b"{}")
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


def test_a_run_that_lost_its_lock_commits_nothing_more(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
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


def _elsewhere(run_id: str) -> bytes:
    """The lock of a run on another machine."""
    return json.dumps(json.loads(RunLock("", run_id).owner()) | {"processes": "elsewhere"}).encode()


def test_a_clock_that_is_minutes_ahead_takes_over_no_live_lock(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write("_lock", _elsewhere("run-1"))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 301)
    with pytest.raises(StoreLocked, match="run run-1 "), run_lock(bucket, "run-2"):
        pass


def test_a_lock_that_was_not_renewed_for_long_by_the_clock_of_the_server_is_taken_over(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("_lock", _elsewhere("run-1"))
    time.sleep(2)  # a server's times are in whole seconds
    monkeypatch.setattr("jobs.store.lock.STALE_AFTER_S", 0.5)
    with run_lock(bucket, "run-2"):
        assert b"run-2" in bucket.read("_lock")


def test_a_run_whose_renewals_fail_stops_writing_before_another_takes_over(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert WRITE_AT_MOST_S < STALE_AFTER_S
    with run_lock(bucket, "run-1") as lock:
        fenced = bucket.fenced(lock.check)
        assert fenced.swap("scores/a", b"1", None)
        later = clock_s() + WRITE_AT_MOST_S + 1
        monkeypatch.setattr("jobs.store.lock.clock_s", lambda: later)
        for change in (
            lambda: fenced.write("scores/b", b""),
            lambda: fenced.create("scores/b", b""),
            lambda: fenced.swap("scores/b", b"", None),
            lambda: fenced.delete("scores/a"),
            lambda: fenced.delete_tree("scores"),
        ):
            with pytest.raises(StoreLocked, match="the lock was not renewed for 240 s"):
                change()
        assert [file.path for file in bucket.files("scores")] == ["scores/a"]
        assert pickle.loads(pickle.dumps(fenced)).fence is None


def test_a_lock_that_another_run_has_taken_over_is_not_released(bucket: Place) -> None:
    with run_lock(bucket, "run-1"):
        bucket.write("_lock", _elsewhere("run-2"))
    assert b"run-2" in bucket.read("_lock")
    with pytest.raises(StoreLocked, match="run run-2 "), run_lock(bucket, "run-3"):
        pass


def test_a_server_that_ignores_conditions_is_refused(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(bucket)
    monkeypatch.setattr(kind, "put_if", lambda place, path, data, _: place.write(path, data) is None)
    with pytest.raises(StoreError, match="ignores the conditions of PUTs"), run_lock(bucket, "run-1"):
        pass


@pytest.mark.slow
def test_a_file_is_created_or_replaced_only_as_it_was_read(place: Place) -> None:
    assert place.read_version("scores/a") is None
    assert place.swap("scores/a", b"one", None)
    assert place.swap("scores/a", b"one", None) == isinstance(place, BucketPlace)  # the answer to the first may be lost
    assert not place.swap("scores/a", b"two", None)
    found = place.read_version("scores/a")
    assert found is not None
    assert place.swap("scores/a", b"three", found[1])
    assert not place.swap("scores/a", b"four", found[1])
    assert place.read("scores/a") == b"three"
    large = bytes(120_000_000)  # s3fs would send it in parts
    assert place.swap("scores/large", large, None)
    assert not place.swap("scores/large", large[1:], None)


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


def test_ground_truth_in_csv_is_read_from_a_bucket(bucket: Place) -> None:
    bucket.write("truth.csv", b"image_id,gt_score\n007,5.5\nb,\n")
    (table,) = read_ground_truth(bucket.uri("truth.csv"), TruthColumns())
    assert table.to_pydict() == {"key": ["007", "b"], "truth": [5.5, None]}


def test_planned_rows_are_for_the_user_alone(tmp_path: Path) -> None:
    place = LocalPlace(str(tmp_path))
    for path in ("_runs/p/rows/00000.parquet", "scores/a"):
        place.write(path, b"")
    place.write_private("_runs/p/rows/00000.parquet", b"https://user:password@host/a.jpg")
    assert (tmp_path / "_runs/p/rows/00000.parquet").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "scores/a").stat().st_mode & 0o777 != 0o600


def test_a_folder_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_lock").mkdir()  # as root, a test can write to a read-only folder
    with (
        pytest.raises(StoreError, match=r"out/_lock: .*Check the path, the permissions"),
        run_lock(LocalPlace(str(tmp_path / "out")), "run-1"),
    ):
        pass
