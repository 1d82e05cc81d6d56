"""Options that lift an error: the advice works as it is printed."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_images
from support.loopback_server import LoopbackServer
from support.score_job import golden_options, run_artimuse, run_score, table_rows

from artimuse_actor.errors import ImageError


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def pictures_url() -> Iterator[str]:
    handler = partial(_Quiet, directory=str(golden_images()[0].parent))
    with LoopbackServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.server
@pytest.mark.process
def test_rows_of_private_hosts_are_scored_once_these_are_allowed(tmp_path: Path, pictures_url: str) -> None:
    name = golden_images()[4].name
    pq.write_table(pa.table({"uri": [f"{pictures_url}/{name}", f"{pictures_url}/gone.jpg"]}), tmp_path / "m.parquet")
    run_score(tmp_path / "m.parquet", tmp_path / "out")
    rows = table_rows(tmp_path / "out").values()
    assert {row["error_type"] for row in rows} == {"forbidden_host"}
    assert all("--allow-private-hosts" in row["error_message"] for row in rows)
    assert "Nothing to do" in run_score(tmp_path / "m.parquet", tmp_path / "out")
    run_score(tmp_path / "m.parquet", tmp_path / "out", "--allow-private-hosts")
    assert [row["error_type"] for row in table_rows(tmp_path / "out").values()] == [None, "missing"]
    assert "Nothing to do" in run_score(tmp_path / "m.parquet", tmp_path / "out", "--allow-private-hosts")


@pytest.mark.process
def test_rows_outside_a_root_are_scored_once_there_is_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [str(golden_images()[4])]}), tmp_path / "m.parquet")
    for options, error_type, screen in (
        (["--root", tmp_path], "outside_root", ""),
        (["--root", tmp_path], "outside_root", "Nothing to do"),
        (["--root", tmp_path.parent], "outside_root", "Nothing to do"),
        ([], None, ""),
        ([], None, "Nothing to do"),
    ):
        assert screen in run_score(tmp_path / "m.parquet", tmp_path / "out", *map(str, options))
        assert [row["error_type"] for row in table_rows(tmp_path / "out").values()] == [error_type]


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "error_type", "advice"),
    [
        (["--max-pixels", "1000"], "too_large", "Raise it with --max-pixels"),
        (["--max-bytes", "1000"], "too_large", "Raise it with --max-bytes"),
        (["--root", "/nowhere"], "outside_root", "Leave that out, or name a folder above both"),
    ],
)
def test_only_a_run_is_told_how_a_run_retries_it(
    tmp_path: Path, options: list[str], error_type: str, advice: str
) -> None:
    photo = golden_images()[3]
    (row,) = json.loads(run_artimuse("image", photo, *golden_options(), *options, "--json", code=1).stdout)
    assert row["error_type"] == error_type
    assert row["error_message"].endswith(f"{advice}.")
    pq.write_table(pa.table({"uri": [str(photo)]}), tmp_path / "m.parquet")
    run_score(tmp_path / "m.parquet", tmp_path / "out", *options)
    (row,) = table_rows(tmp_path / "out").values()
    assert row["error_type"] == error_type
    assert row["error_message"].endswith(f"{advice} and run again with --retry-errors {error_type}.")


def test_an_error_that_options_lift_is_still_one_after_a_journey() -> None:
    error = ImageError("too_large", "Raise it with --max-pixels.", by_settings=True)
    assert pickle.loads(pickle.dumps(error)).by_settings
