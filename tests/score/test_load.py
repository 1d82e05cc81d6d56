from __future__ import annotations

import hashlib
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.decoder_faults import faulty, make_fault_folder
from support.golden import golden_images
from support.stores import open_store, plan_for, stage_with, write_manifest

from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images import child_decoder
from artimuse_actor.images.decode import DecodedImage, decode_image
from artimuse_actor.images.decoder_limits import decode_within_limits
from artimuse_actor.images.options import DecodeOptions
from jobs.score.attempts import Attempt
from jobs.score.load import UnitLoader
from jobs.store.layout import attempt_path
from jobs.store.plan_progress import PlanProgress
from jobs.store.text_request import WantedTexts
from schemas.units import SPENT, UNIT, loaded_unit

# In threads, since the time limits of tests would take the alarm, and the loader would not decode in this process.
pytestmark = pytest.mark.timeout(100, method="thread")

FIRST_UNIT = pa.Table.from_pylist([{"shard": 0, "unit": 0}], schema=UNIT)


def loader_of(folder: Path, pictures: dict[str, bytes], **options: Any) -> UnitLoader:
    """A loader of a plan whose one unit is these pictures."""
    (folder / "photos").mkdir()
    for name, data in pictures.items():
        (folder / "photos" / name).write_bytes(data)
    store = open_store(folder / "out")
    plan = plan_for(store, str(folder / "photos"), "p", unit_rows=len(pictures))
    decode = DecodeOptions(**options)
    fetching = FetchOptions(max_bytes=decode.max_bytes)
    return UnitLoader(store.place, plan, decode, store.answers, store.known_rows(plan), fetching)


def attempts(folder: Path) -> list[Path]:
    return [path for path in (folder / "out").rglob("attempts/*/*") if path.is_file()]


def load_elsewhere(loader: UnitLoader, folder: Path, **environment: str) -> tuple[int, pa.Table | None]:
    """Load the first unit in a process of its own; returns its exit code, and the block if there is one."""
    program = (
        "import pickle, sys\n"
        "loader, unit = pickle.load(open(sys.argv[1], 'rb'))\n"
        "pickle.dump(next(loader(unit)), open(sys.argv[2], 'wb'))\n"
    )
    (folder / "loader").write_bytes(pickle.dumps((loader, FIRST_UNIT)))
    command = [sys.executable, "-c", program, folder / "loader", folder / "block"]
    done = subprocess.run(list(map(str, command)), env={**os.environ, **environment}, timeout=60, check=False)
    return done.returncode, pickle.loads((folder / "block").read_bytes()) if done.returncode == 0 else None


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(child: child_decoder.ChildDecoder) -> Any:
        raise AssertionError("a child was started")

    monkeypatch.setattr(child_decoder.ChildDecoder, "_start", start)


PICTURES = {path.name: path.read_bytes() for path in golden_images()} | {
    "cut.jpg": golden_images()[0].read_bytes()[:5000],
    "empty.jpg": b"",
    "text.jpg": b"Dear diary,\n",
}


def test_a_unit_is_loaded_in_its_own_process_and_leaves_no_mark(tmp_path: Path, no_child: None) -> None:
    loader = loader_of(tmp_path, PICTURES)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    block = next(loader(FIRST_UNIT))
    assert block.schema == loaded_unit(loader.answers)
    for row in block.to_pylist():
        if row["status"] == "ok":
            pixels = np.frombuffer(row["pixels"], np.uint8).reshape(448, 448, 3)
            np.testing.assert_array_equal(pixels, decode_image(PICTURES[row["image_id"]]).pixels)
    errors = {row["image_id"]: row["error_type"] for row in block.to_pylist() if row["status"] == "error"}
    assert errors == {"cut.jpg": "truncated", "empty.jpg": "empty", "text.jpg": "not_an_image"}
    spent = block["spent"].to_pylist()
    assert spent[0]["fetched_bytes"] == sum(map(len, PICTURES.values()))
    assert spent[0]["decode_s"] > 0
    assert spent[1:] == [None] * (len(PICTURES) - 1)
    assert not attempts(tmp_path)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_a_file_that_comes_several_times_in_a_row_is_decoded_once(
    tmp_path: Path, no_child: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other, cut = golden_images()[4].read_bytes(), golden_images()[5].read_bytes(), PICTURES["cut.jpg"]
    files = [first, first, other, first, cut, cut]
    loader = loader_of(tmp_path, {f"{number}.jpg": data for number, data in enumerate(files)})
    decoded: list[bytes] = []

    def counted(data: bytes, *arguments: Any) -> DecodedImage:
        decoded.append(data)
        return decode_within_limits(data, *arguments)

    monkeypatch.setattr("jobs.score.load.decode_within_limits", counted)
    rows = next(loader(FIRST_UNIT)).to_pylist()
    assert decoded == [first, other, first, cut]
    assert [row["error_type"] for row in rows] == [None] * 4 + ["truncated"] * 2
    assert rows[4]["error_message"] == rows[5]["error_message"]
    for row, data in zip(rows[:4], files, strict=False):
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(448, 448, 3)
        np.testing.assert_array_equal(pixels, decode_image(data).pixels)


@pytest.mark.process
def test_a_unit_that_was_begun_before_is_loaded_in_a_child_to_the_same_block(tmp_path: Path) -> None:
    loader = loader_of(tmp_path, PICTURES)
    first = next(loader(FIRST_UNIT))
    loader.place.write(attempt_path(loader.plan.plan_id, 0, 0), b"begun")
    started = []

    class Watched(child_decoder.ChildDecoder):
        def _start(self) -> subprocess.Popen[bytes]:
            started.append(1)
            return super()._start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.score.load.ChildDecoder", Watched)
        second = next(loader(FIRST_UNIT))
    assert second.drop_columns(SPENT.name).equals(first.drop_columns(SPENT.name))
    assert started == [1]
    assert not attempts(tmp_path)


@pytest.mark.process
def test_an_image_during_which_a_third_attempt_was_killed_is_an_error_row_of_the_fourth(tmp_path: Path) -> None:
    loader = loader_of(tmp_path, PICTURES)
    first = next(loader(FIRST_UNIT)).drop_columns(SPENT.name).to_pylist()
    path = attempt_path(loader.plan.plan_id, 0, 0)
    for number in (1, 2, 3):  # nobody ends them
        attempt = Attempt.begin(loader.place, path)
        assert (attempt.number, attempt.fatal) == (number, ())
        for row in range(5):
            attempt.reach(row)
    for fatal in ((4,), (4, 6)):  # killed again two images later
        attempt = Attempt.begin(loader.place, path)
        assert attempt.fatal == fatal
        attempt.reach(6)
    block = next(loader(FIRST_UNIT)).drop_columns(SPENT.name).to_pylist()
    for number, (row, expected) in enumerate(zip(block, first, strict=True)):
        if number in (4, 6):
            assert (row["error_type"], row["retryable"], row["pixels"]) == ("decoder_memory", True, None)
            assert "The process that loaded it was killed" in row["error_message"]
        else:
            assert row == expected
    assert not attempts(tmp_path)


@pytest.mark.process
@pytest.mark.parametrize(
    ("fault", "number", "error_type"),
    [
        ("SEGFAULT", signal.SIGSEGV, "decoder_crashed"),
        ("HOLD", signal.SIGALRM, "decoder_timeout"),
        ("SLEEP", signal.SIGALRM, "decoder_timeout"),
        ("KILLED", signal.SIGKILL, "decoder_memory"),
    ],
)
def test_a_picture_that_kills_the_loader_is_an_error_row_the_next_time(
    fault: str, number: int, error_type: str, tmp_path: Path
) -> None:
    loader = loader_of(tmp_path, {**PICTURES, "fault.jpg": faulty(fault)}, decoder_timeout_s=1.5)
    plain = next(loader(FIRST_UNIT)).drop_columns(SPENT.name).to_pylist()
    environment = make_fault_folder(tmp_path / "faults")
    code, _ = load_elsewhere(loader, tmp_path, **environment)
    assert code == -number
    assert len(attempts(tmp_path)) == 1
    code, block = load_elsewhere(loader, tmp_path, **environment)
    assert code == 0
    assert not attempts(tmp_path)
    assert block is not None
    for row, expected in zip(block.drop_columns(SPENT.name).to_pylist(), plain, strict=True):
        if row["image_id"] == "fault.jpg":
            assert (row["status"], row["error_type"], row["pixels"]) == ("error", error_type, None)
            assert row["sha256"] == expected["sha256"]
        else:
            assert row == expected


@pytest.mark.process
def test_a_picture_that_wants_too_much_memory_is_an_error_row_at_once(tmp_path: Path) -> None:
    pictures = {**PICTURES, "fault.jpg": faulty("HOARD")}
    loader = loader_of(tmp_path, pictures, decoder_memory_bytes=2**28, max_bytes=2**26)
    plain = next(loader(FIRST_UNIT)).drop_columns(SPENT.name).to_pylist()
    code, block = load_elsewhere(loader, tmp_path, **make_fault_folder(tmp_path / "faults"))
    assert code == 0
    assert block is not None
    rows = block.drop_columns(SPENT.name).to_pylist()
    assert [row for row in rows if row["image_id"] != "fault.jpg"] == [
        row for row in plain if row["image_id"] != "fault.jpg"
    ]
    (row,) = (row for row in rows if row["image_id"] == "fault.jpg")
    assert (row["error_type"], row["retryable"]) == ("decoder_memory", False)
    assert "Raise it with --decoder-memory" in row["error_message"]


@pytest.mark.process
def test_a_loader_that_does_not_have_the_alarm_decodes_in_a_child(tmp_path: Path) -> None:
    loader = loader_of(tmp_path, {**PICTURES, "fault.jpg": faulty("SEGFAULT")})
    environment = make_fault_folder(tmp_path / "faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])  # of its children alone
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        try:
            block = next(loader(FIRST_UNIT))
        finally:
            signal.signal(signal.SIGALRM, before)
    errors = {row["image_id"]: row["error_type"] for row in block.to_pylist()}
    assert errors["fault.jpg"] == "decoder_crashed"


def _embedded(path: Path, pictures: list[bytes]) -> None:
    ids = [f"p{number}" for number in range(len(pictures))]
    table = pa.table({"image_id": ids, "image": pictures, "version": ["1"] * len(ids)})
    pq.write_table(table, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_embedded_images_whose_file_was_rewritten_get_no_score_of_another_row(
    tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, first = tmp_path / "m.parquet", list(PICTURES.values())[:4]
    _embedded(path, first)
    store = open_store(tmp_path / "out")
    plan = plan_for(store, str(path), "p", unit_rows=4)
    loader = UnitLoader(store.place, plan, DecodeOptions(), store.answers, store.known_rows(plan))
    assert [row["status"] for row in next(loader(FIRST_UNIT)).to_pylist()] == ["ok"] * 4
    if moment == "before":
        _embedded(path, first[::-1])
    else:

        def decode_meanwhile(data: bytes, *_: Any) -> DecodedImage:
            _embedded(path, first[::-1])
            return decode_image(data)

        monkeypatch.setattr("jobs.score.load.decode_within_limits", decode_meanwhile)
    for row in next(loader(FIRST_UNIT)).to_pylist():
        assert (row["status"], row["error_type"], row["retryable"]) == ("error", "changed", True)
        assert (row["sha256"], row["pixels"], row["copied_from"]) == (None, None, None)
    monkeypatch.undo()
    again = plan_for(store, str(path), "q", unit_rows=4)
    loader = UnitLoader(store.place, again, DecodeOptions(), store.answers, store.known_rows(again))
    digests = [row["sha256"] for row in next(loader(FIRST_UNIT)).to_pylist()]
    assert digests == [hashlib.sha256(data).hexdigest() for data in first[::-1]]


def test_a_picture_that_changed_before_it_gets_its_texts_gets_a_score_too(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("same.jpg", "other.jpg"):
        (tmp_path / "photos" / name).write_bytes(golden_images()[0].read_bytes() + name.encode())
    ids = [str(tmp_path / "photos" / name) for name in ("same.jpg", "other.jpg")]
    source = write_manifest(tmp_path / "m.parquet", ids)  # whose versions say nothing of the files
    scored = open_store(tmp_path / "out")
    plan = plan_for(scored, source, "p")
    stage_with(scored, plan, sha256=[hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in ids])
    PlanProgress(scored, plan).commit(plan.shards[0])
    (tmp_path / "photos" / "other.jpg").write_bytes(golden_images()[1].read_bytes())

    store = open_store(tmp_path / "out", WantedTexts(["overall_gestalt"]))
    plan = plan_for(store, source, "q")
    assert [shard.texts_only for shard in plan.shards] == [True]
    loader = UnitLoader(store.place, plan, DecodeOptions(), store.answers, store.known_rows(plan))
    rows = next(loader(FIRST_UNIT)).to_pylist()
    assert [row["texts_only"] for row in rows] == [True, False]
    stage_with(store, plan, texts_only=[True, False], sha256=[row["sha256"] for row in rows], score=7.0)
    PlanProgress(store, plan).commit(plan.shards[0])
    scores = {row["image_id"]: row for row in pq.read_table(tmp_path / "out" / "scores").to_pylist()}
    assert [scores[name]["score"] for name in ids] == [50.0, 7.0]
    for row in pq.read_table(tmp_path / "out" / "texts").to_pylist():
        assert row["sha256"] == scores[row["image_id"]]["sha256"]
