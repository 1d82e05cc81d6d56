"""One run of a folder of photos and odd files, as a user starts it, on Ray: its rows, its record, events and meters."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest
from support.golden import golden_answers
from support.photo_library import make_photo_library
from support.score_job import golden_options, run_artimuse, run_command, table_rows

pytestmark = [pytest.mark.process, pytest.mark.ray, pytest.mark.timeout(240)]

UNIT = 4

# What Ray's exporter would be given, whether its packages are there or not.
RECORDER = """
import importlib.util, json, os, sys

HERE = os.path.dirname(os.path.abspath(__file__))


def note(name, value, tags):
    with open(os.path.join(HERE, f"records-{os.getpid()}"), "a") as file:
        file.write(json.dumps([name, value, tags]) + "\\n")


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "ray.util.metrics":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            record = module.Metric._record

            def recording(self, value, tags=None):
                if self._name.startswith("artimuse"):
                    note(self._name, value, tags)
                record(self, value, tags)

            module.Metric._record = recording

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
"""


@dataclass(frozen=True)
class WholeRun:
    """What a run was given, and what it said.

    Attributes:
        photos: the folder that it scored.
        expected: image_id → `ok` or the type of its error.
        out: its store.
        screen: its standard output.
        events: every line of its standard error.
        meters: (meter, type of error or step) → value, as Ray's exporter would be given them.
    """

    photos: Path
    expected: dict[str, str]
    out: Path
    screen: str
    events: list[dict[str, Any]]
    meters: Counter[tuple[str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    folder = tmp_path_factory.mktemp("whole_run")
    expected = make_photo_library(folder / "photos")
    recorder = folder / "recorder"
    recorder.mkdir()
    (recorder / "sitecustomize.py").write_text(RECORDER)
    path = os.pathsep.join(filter(None, [str(recorder), os.environ.get("PYTHONPATH")]))
    options = ("--unit-size", str(UNIT), "--texts", "--max-new-tokens", "4", "--attributes", "overall_gestalt")
    arguments = (folder / "photos", "--out", folder / "out", *golden_options(), *options, "--log-format", "json")
    done = run_command("score", *arguments, "--ray", environment={"PYTHONPATH": path})
    meters: Counter[tuple[str, str]] = Counter()
    for file in recorder.glob("records-*"):
        for name, value, tags in map(json.loads, file.read_text().splitlines()):
            assert tags["node"]
            meters[name, tags.get("error_type", tags["step"])] += value
    events = [json.loads(line) for line in done.stderr.splitlines()]
    return WholeRun(folder / "photos", expected, folder / "out", done.stdout, events, meters)


def test_every_file_of_a_real_folder_gets_one_row_of_the_right_type(run: WholeRun) -> None:
    rows = table_rows(run.out)
    assert {name: row["error_type"] or row["status"] for name, row in rows.items()} == run.expected
    failed = sum(kind != "ok" for kind in run.expected.values())
    assert f"{len(rows)} rows = {len(rows) - failed} ok + {failed} failed." in run.screen
    for row in rows.values():
        assert (row["score"] is None) == (row["status"] == "error")
        assert (row["error_message"] is None) == (row["status"] == "ok")
        assert (row["width"] is None) == (row["status"] == "error")
    golden = {answer["image"]: answer["scores"]["score"]["score"] for answer in golden_answers("artimuse")}
    for name in ("06_palette.png", "07_rgba.png", "08_cmyk.jpg", "10_exif6.jpg", "12_gray16.png"):
        assert rows[name]["score"] == pytest.approx(golden[name], abs=1e-3)

    status = json.loads(run_artimuse("status", run.out, "--json").stdout)
    assert status["reconciled"] is True
    assert status["rows"] == {
        "planned": len(rows), "ok": len(rows) - failed, "failed": failed, "remaining": 0, "staged": 0
    }  # fmt: skip
    assert polars.scan_parquet(run.out / "scores").collect().height == len(rows)
    counted = duckdb.connect().execute(f"select count(*) from '{run.out}/scores/*.parquet'").fetchall()
    assert counted == [(len(rows),)]
    record = json.loads(next((run.out / "_runs").glob("*/run.json")).read_text())
    assert record["state"] == "finished"
    assert record["arguments"]["source"] == str(run.photos)
    assert [load["fetch_s"] + load["load_s"] < record["seconds"]["score"] for load in record["loads"]] == [True]
    assert 0 < record["load_share"] < 1
    assert "model loaded in" in run_artimuse("status", run.out).stdout
    assert not list((run.out / "_runs").glob("*/loads/*"))


def test_events_and_meters_add_up_to_the_rows(run: WholeRun) -> None:
    events = [event for event in run.events if event["event"] != "heartbeat"]  # a clock sends these, between any two
    rows = table_rows(run.out)
    size_bytes = sum(path.stat().st_size for name in rows if (path := run.photos / name).is_file())
    failed = Counter(kind for kind in run.expected.values() if kind != "ok")
    tokens = sum(row["overall_gestalt_tokens"] or 0 for row in table_rows(run.out, "texts").values())
    assert [event["event"] for event in events[:1] + events[-2:]] == ["run_started", "shard_committed", "run_finished"]
    assert len({event["run_id"] for event in events}) == 1
    units = [event for event in events if event["event"] == "unit_staged"]
    assert (events[0]["rows"], events[0]["units"], events[-2]["rows"]) == (len(rows), len(units), len(rows))
    assert sorted(event["unit"] for event in units) == list(range(-(-len(rows) // UNIT)))
    assert sum(event["rows"] for event in units) == sum(event["scored"] for event in units) == len(rows)
    assert sum((Counter(event["failed"]) for event in units), Counter()) == failed
    assert sum(event["fetched_bytes"] for event in units) == size_bytes
    assert sum(event["text_tokens"] for event in units) == tokens > 0
    assert [event["done"] for event in units][-1] == units[0]["total"] == len(rows)
    assert [event["seconds"]["wait"] is None for event in units].count(True) == 1
    assert all(event["seconds"][step] > 0 for event in units for step in ("decode", "write"))
    assert sum(event["seconds"]["model"] for event in units) > 0  # texts of two units are generated together
    end = events[-1]
    assert (end["state"], end["scored_rows"], end["failed_rows"]) == ("finished", len(rows), failed.total())
    record = json.loads(next((run.out / "_runs").glob("*/run.json")).read_text())
    assert (record["busy_share"], record["bound"]) == (end["busy_share"], end["bound"])
    assert 0 < record["busy_share"] <= 1

    meters = run.meters
    assert meters["artimuse_images", "load"] == meters["artimuse_images", "stage"] == len(rows)
    assert meters["artimuse_images", "score"] == len(rows) - failed.total()
    assert {kind: meters["artimuse_failed_images", kind] for kind in failed} == failed
    assert meters["artimuse_fetched_bytes", "load"] == size_bytes
    assert meters["artimuse_text_tokens", "score"] == tokens
    for step in ("fetch", "decode", "model", "write"):
        seconds = sum(event["seconds"][step] for event in units)
        assert meters["artimuse_seconds", step] == pytest.approx(seconds, abs=1e-3)
