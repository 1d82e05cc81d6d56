"""Signs of a run while it runs: events, what it waits for, and the numbers for Prometheus."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.golden import golden_checkpoint, golden_images
from support.loopback_server import LoopbackServer
from support.score_job import run_artimuse, run_command, run_job

from artimuse_actor.errors import UsageError
from jobs.score import ray_session

pytestmark = pytest.mark.timeout(200)

CHECKPOINT = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse")

SLOW_UNIT, SLOW_S = 3, 0.4


def score_with_events(source: Path, out: Path, *options: str | Path) -> list[dict[str, Any]]:
    """The events of a run: every line of its standard error."""
    done = run_job("score", source, "--out", out, *CHECKPOINT, "--log-format", "json", *options)
    return [json.loads(line) for line in done.stderr.splitlines()]


def of_kind(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == kind]


def run_record(out: Path) -> dict[str, Any]:
    (path,) = (out / "_runs").glob("*/run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def make_folder(folder: Path) -> int:
    """Pictures, and two files that are none; returns the bytes of all."""
    folder.mkdir()
    files = {path.name: path.read_bytes() for path in golden_images()}
    files |= {"cut.jpg": golden_images()[0].read_bytes()[:5000], "text.jpg": b"Dear diary,\n"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return sum(map(len, files.values()))


def test_a_run_that_stops_says_so_as_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(golden_images()[0].read_bytes())
    options = (*CHECKPOINT, "--log-format", "json")
    monkeypatch.setenv("ARTIMUSE_METRICS_PORT", "99999")
    done = run_artimuse("score", tmp_path / "photos", "--out", tmp_path / "out", *options, code=2)
    *lines, last = done.stderr.splitlines()
    stopped = json.loads(lines[-1])
    assert (stopped["event"], stopped["state"], stopped["error_type"]) == ("run_stopped", "stopped", "UsageError")
    assert last == f"UsageError: {stopped['error_message']}"
    assert "ARTIMUSE_METRICS_PORT takes a port" in last
    done = run_artimuse("score", "x", "--out", "y", "--log-format", "xml", code=2)
    assert "--log-format takes text or json, not 'xml'." in done.stderr


class SlowServer(BaseHTTPRequestHandler):
    """Serves one picture under every name; a unit's when the one before is staged, and has waited as long again.

    So the model is idle for half of its time at least, however slow the machine is at this moment.
    """

    protocol_version = "HTTP/1.1"
    out: Path
    served: defaultdict[int, float]

    def do_GET(self) -> None:
        unit = int(re.sub(r"\D", "", self.path)) // SLOW_UNIT
        if unit > 0:
            patience = time.monotonic() + 30
            while len(list((self.out / "_runs").glob("*/staging/*/*.parquet"))) < unit and time.monotonic() < patience:
                time.sleep(0.02)
            # Not after the first unit, which waits for the model to be loaded.
            time.sleep(max(SLOW_S, time.monotonic() - self.served[unit - 1] if unit > 1 else 0))
        self.served[unit] = time.monotonic()
        data = golden_images()[0].read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def slow_server(out: Path) -> Iterator[str]:
    SlowServer.out, SlowServer.served = out, defaultdict(time.monotonic)
    server = LoopbackServer(("127.0.0.1", 0), SlowServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.server
@pytest.mark.ray
def test_a_run_with_slow_fetches_is_starved_for_network(tmp_path: Path) -> None:
    with slow_server(tmp_path / "out") as url:
        uris = [f"{url}/{number}.jpg" for number in range(5 * SLOW_UNIT)]
        pq.write_table(pa.table({"uri": uris}), tmp_path / "manifest.parquet")
        options = ("--unit-size", str(SLOW_UNIT), "--allow-private-hosts")
        events = score_with_events(tmp_path / "manifest.parquet", tmp_path / "out", *options)
    units = of_kind(events, "unit_staged")
    assert all(event["failed"] == {} for event in units)
    assert all(event["seconds"]["fetch"] >= SLOW_S for event in units if event["unit"] > 0)
    record = run_record(tmp_path / "out")
    assert (record["bound"], record["scored_rows"]) == ("network", 5 * SLOW_UNIT)
    assert record["busy_share"] < 0.9


@pytest.mark.ray
def test_a_run_of_large_pictures_waits_for_decoding_or_says_that_the_model_is_busy(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((4000, 3000))
    for number in range(12):
        picture.save(tmp_path / "photos" / f"{number}.jpg", quality=90, comment=str(number))
    events = score_with_events(tmp_path / "photos", tmp_path / "out", "--unit-size", "2")
    seconds = [event["seconds"] for event in of_kind(events, "unit_staged")]
    assert sum(spent["decode"] for spent in seconds) > sum(spent["fetch"] for spent in seconds)
    record = run_record(tmp_path / "out")
    assert record["bound"] == ("gpu" if record["busy_share"] >= 0.9 else "cpu")
    shares = [(spent["wait"], spent["model"]) for spent in seconds if spent["wait"] is not None]
    busy = sum(model for _, model in shares) / sum(wait + model for wait, model in shares)
    assert record["busy_share"] == pytest.approx(busy, abs=0.01)


CLUSTER = """
import sys
import ray

context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
(node,) = ray.nodes()
print(context.address_info["gcs_address"], node["MetricsExportPort"], flush=True)
sys.stdin.read()
"""


# `make install` puts there what Ray's exporter needs.
EXPORTER = Path(sys.prefix, "exporter")


def test_a_port_that_nobody_would_listen_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIMUSE_METRICS_PORT", "9090")
    monkeypatch.setattr(ray_session, "_EXPORTER_NEEDS", ("prometheus_client_that_is_nowhere",))
    with pytest.raises(UsageError, match="Install the extra `metrics`, or unset it"), ray_session.running_ray(None, 1):
        pass


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.skipif(not EXPORTER.is_dir(), reason="Ray exports nothing without the packages of the extra `metrics`")
def test_rays_exporter_serves_counters_that_add_up_to_the_rows(tmp_path: Path) -> None:
    size_bytes = make_folder(tmp_path / "photos")
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_metrics_report_interval_ms": "1000"}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(EXPORTER), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env={**os.environ, **settings},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        address, port = process.stdout.readline().split()
        options = ("--unit-size", "4", "--address", address)
        arguments = (tmp_path / "photos", "--out", tmp_path / "out", *CHECKPOINT, *options)
        run_command("score", *arguments, environment={"RAY_AUTH_MODE": "disabled"})
        wanted = {
            ("images", "load"): 15, ("images", "score"): 13, ("images", "stage"): 15,
            ("failed_images", "truncated"): 1, ("failed_images", "not_an_image"): 1,
            ("fetched_bytes", "load"): size_bytes,
        }  # fmt: skip
        until = time.monotonic() + 40
        while not wanted.items() <= (found := scrape(int(port))).items():
            assert time.monotonic() < until, found
            time.sleep(0.5)


def scrape(port: int) -> dict[tuple[str, str], float]:
    """(meter, error type or step) → value, of our counters on a node's metrics port."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        page = response.read().decode()
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for name, labels, value in re.findall(r"^ray_artimuse_(\w+)_total\{(.*)\} (\S+)$", page, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name, tags.get("error_type") or tags["step"]] += float(value)
    return dict(found)
