"""Whole jobs on Google Cloud Storage and Azure, by emulators: photos, manifest, checkpoint and store are there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.cloud_servers import CloudBucket
from support.fault_proxy import refuse
from support.golden import golden_answers, golden_checkpoint, golden_images
from support.paths import GOLDEN
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from support.tars import write_tar

from jobs.storage.places import open_place
from jobs.store.lock import run_lock

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

SCORES = {answer["image"]: answer["scores"]["score"]["score"] for answer in golden_answers("artimuse")}


def test_a_prefix_is_scored_into_a_folder_and_into_the_same_bucket(cloud: CloudBucket, tmp_path: Path) -> None:
    cloud.put_files(golden_images(), "in/2024 [1]")
    cloud.put("in/notes.txt", b"left out")
    for out in (str(tmp_path / "out"), cloud.uri("out")):
        assert f"{len(SCORES)} of {len(SCORES)} images" in run_score(cloud.uri("in"), out)
        assert "Nothing to do" in run_score(cloud.uri("in"), out)
    rows = table_rows(tmp_path / "out")
    assert {row["status"] for row in rows.values()} == {"ok"}
    for name, score in SCORES.items():
        assert rows[f"2024 [1]/{name}"]["score"] == pytest.approx(score, abs=1e-3)
        assert rows[f"2024 [1]/{name}"]["uri"] == cloud.uri(f"in/2024 [1]/{name}")
    assert f"finished: {len(SCORES)} rows" in run_artimuse("status", cloud.uri("out")).stdout
    assert run_artimuse("status", cloud.uri("o*")).stdout == run_artimuse("status", cloud.uri("out")).stdout
    asked = run_artimuse("query", cloud.uri("out"), "SELECT count(*) AS n FROM scores", "--json").stdout
    assert json.loads(asked) == [{"n": len(SCORES)}]
    best = cloud.uri("best.jsonl")
    run_artimuse("curate", cloud.uri("out"), "--top", "3", "--out", best)
    assert open_place(cloud.uri()).read("best.jsonl").count(b"\n") == 3
    run_artimuse("report", cloud.uri("out"), "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size > 10_000
    cloud.put("in/new.jpg", golden_images()[0].read_bytes())
    assert f"1 of {len(SCORES) + 1} images" in run_score(cloud.uri("in"), cloud.uri("out"))


def test_manifest_checkpoint_and_tars_are_read_from_there(cloud: CloudBucket, tmp_path: Path) -> None:
    images = golden_images()[:4]
    cloud.put_files(images, "photos")
    cloud.put_files(golden_checkpoint("artimuse").iterdir(), "models/ArtiMuse")
    cloud.put("photos/mine.jpg", images[0].read_bytes())
    uris = [cloud.uri(f"photos/{path.name}") for path in images]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": [*uris, cloud.uri("photos/gone.jpg"), cloud.uri("photos/mine.jpg")]}), sink)
    cloud.put("lists/one.parquet", sink.getvalue().to_pybytes())
    cloud.server.fail(cloud.path("photos/mine.jpg"), refuse(403, "AccessDenied"))
    options = ("--checkpoint", cloud.uri("models/ArtiMuse"), "--local")
    run_artimuse("score", cloud.uri("lists"), "--out", tmp_path / "out", *options)
    rows = table_rows(tmp_path / "out")
    assert [rows[uri]["status"] for uri in uris] == ["ok"] * 4
    assert rows[cloud.uri("photos/gone.jpg")]["error_type"] == "missing"
    assert rows[cloud.uri("photos/mine.jpg")]["error_type"] == "forbidden"
    write_tar(tmp_path / "0.tar", {path.name: path.read_bytes() for path in images})
    cloud.put("tars/0.tar", (tmp_path / "0.tar").read_bytes())
    for pattern, out in (("tars", "of-folder"), ("ta*s/?.tar", "of-pattern"), ("tars/{0..0}.tar", "of-braces")):
        run_artimuse("score", cloud.uri(pattern), "--out", tmp_path / out, *options)
        assert [row["status"] for row in table_rows(tmp_path / out).values()] == ["ok"] * 4


def test_a_second_run_is_refused_while_the_first_has_the_lock(cloud: CloudBucket) -> None:
    cloud.put_files(golden_images()[:2], "in")
    with run_lock(open_place(cloud.uri("out")), "first"):
        refused = run_artimuse(
            "score", cloud.uri("in"), "--out", cloud.uri("out"), "--checkpoint", golden_checkpoint("artimuse"),
            "--protocol", "artimuse", "--local", code=1,
        )  # fmt: skip
    assert "run first " in refused.stderr + refused.stdout
    assert "2 of 2 images" in run_score(cloud.uri("in"), cloud.uri("out"))


def test_what_is_not_there_is_a_sentence(cloud: CloudBucket, tmp_path: Path) -> None:
    # Of a bucket that is not there, Google's emulator says that it has an internal error.
    for source in (cloud.uri("nothing"), *(["az://nowhere/in"] if cloud.scheme == "az" else [])):
        failed = run_artimuse("manifest", source, "--out", tmp_path / "m.parquet", code=1)
        assert "there is no such object or prefix, or nothing in it" in failed.stderr + failed.stdout
    if cloud.scheme == "az":
        options = ("--out", "az://nowhere/out", *golden_options(), "--local")
        failed = run_artimuse("score", GOLDEN / "artimuse" / "images", *options, code=1)
        assert "az://nowhere/out" in failed.stderr
        assert "ContainerNotFound" in failed.stderr
    failed = run_artimuse("image", "x.jpg", "--checkpoint", cloud.uri("nothing"), code=1)
    assert "holds no checkpoint" in failed.stderr + failed.stdout
