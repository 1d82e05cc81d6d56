"""The main job, as a user starts it: the command, real files, Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.golden import PROTOCOL_NAMES, golden_answers, golden_checkpoint, golden_images
from support.paths import GOLDEN
from support.photo_library import make_photos
from support.score_job import (
    golden_options,
    has_files,
    kill_when,
    run_artimuse,
    run_command,
    run_job,
    run_score,
    table_rows,
)

import jobs.score.pipeline
import jobs.score.settings
from artimuse_actor.protocol.protocols import get_protocol
from jobs.score.settings import ScoreSettings

pytestmark = pytest.mark.timeout(240)


@pytest.mark.process
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_scores_of_the_job_equal_the_published_codes(protocol: str, tmp_path: Path) -> None:
    screen = run_score(GOLDEN / "artimuse" / "images", tmp_path / "out", "--keep-distribution", protocol=protocol)
    assert "13 of 13 images" in screen
    rows = table_rows(tmp_path / "out")
    for answer in golden_answers(protocol):
        row = rows[answer["image"]]
        assert row["status"] == "ok"
        for question in get_protocol(protocol).score_questions:
            assert row[question] == pytest.approx(answer["scores"][question]["score"], abs=1e-3)
            assert row[f"{question}_std"] == pytest.approx(answer["scores"][question]["std"], abs=1e-3)
            assert len(row[f"{question}_distribution"]) == 101
            assert sum(row[f"{question}_distribution"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.ray
def test_batch_size_unit_size_actors_and_ray_do_not_change_a_score(tmp_path: Path) -> None:
    images = GOLDEN / "artimuse" / "images"
    run_score(images, tmp_path / "a", "--batch-size", "1", "--unit-size", "2")
    options = ("--batch-size", "8", "--unit-size", "7", "--actors", "2")
    run_job("score", images, "--out", tmp_path / "b", *golden_options(), *options)
    first, second = table_rows(tmp_path / "a"), table_rows(tmp_path / "b")
    assert first.keys() == second.keys()
    for name, row in first.items():
        assert row["score"] == pytest.approx(second[name]["score"], abs=1e-3)
        assert {key: row[key] for key in ("width", "height", "format", "sha256", "phash")} == {
            key: second[name][key] for key in ("width", "height", "format", "sha256", "phash")
        }


@pytest.mark.ray
def test_units_that_share_a_load_task_stay_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a job of more than a million images: tens of units a task, here all of them.
    monkeypatch.setattr(jobs.score.pipeline, "TASKS", 1)
    monkeypatch.setattr(jobs.score.settings, "ScoreSettings", partial(ScoreSettings, shard_rows=5))
    options = ("--unit-size", "2", "--log-format", "json")
    images = GOLDEN / "artimuse" / "images"
    done = run_job("score", images, "--out", tmp_path / "out", *golden_options(), *options)
    staged = [json.loads(line) for line in done.stderr.splitlines() if '"unit_staged"' in line]
    assert sorted((line["shard"], line["unit"], line["rows"]) for line in staged) == [
        *((shard, unit, rows) for shard in (0, 1) for unit, rows in ((0, 2), (1, 2), (2, 1))), (2, 0, 2), (2, 1, 1)
    ]  # fmt: skip
    rows = table_rows(tmp_path / "out")
    for answer in golden_answers("artimuse"):
        assert rows[answer["image"]]["score"] == pytest.approx(answer["scores"]["score"]["score"], abs=1e-3)


@pytest.mark.process
def test_embedded_images_score_like_files(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [{"bytes": path.read_bytes(), "path": path.name} for path in golden_images()]
    images += [{"bytes": None, "path": None}, {"bytes": b"", "path": None}]
    pq.write_table(pa.table({"image": images}), tmp_path / "train-00000.parquet", row_group_size=4)
    run_score(tmp_path / "train-00000.parquet", tmp_path / "out", "--unit-size", "3")
    rows = table_rows(tmp_path / "out")
    for number, answer in enumerate(golden_answers("artimuse")):
        assert rows[f"train-00000.parquet#{number}"]["score"] == pytest.approx(
            answer["scores"]["score"]["score"], abs=1e-3
        )
    assert [rows[f"train-00000.parquet#{n}"]["error_type"] for n in (13, 14)] == ["missing", "empty"]


@pytest.mark.process
def test_a_finished_job_answers_without_ray_or_torch(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 20)
    run_score(tmp_path / "photos", tmp_path / "out")
    program = (
        "import sys; sys.argv[0] = 'artimuse'\n"
        "from jobs.__main__ import main\n"
        "try: sys.exit(main())\n"
        "finally: print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])\n"
    )
    arguments = ["score", tmp_path / "photos", "--out", tmp_path / "out", "--checkpoint", golden_checkpoint("artimuse")]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Nothing to do: all 20 images are in" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.process
def test_new_and_changed_pictures_are_scored_and_no_others(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 6)
    run_score(tmp_path / "photos", tmp_path / "out")
    before = table_rows(tmp_path / "out")
    (tmp_path / "photos" / "new.png").write_bytes(golden_images()[5].read_bytes())
    (tmp_path / "photos" / names[2]).write_bytes(golden_images()[0].read_bytes())
    assert "2 of 7 images" in run_score(tmp_path / "photos", tmp_path / "out")
    after = table_rows(tmp_path / "out")
    assert after.keys() == {*before, "new.png"}
    assert after[names[2]]["score"] == pytest.approx(
        golden_answers("artimuse")[0]["scores"]["score"]["score"], abs=1e-3
    )
    assert {name for name in before if before[name] != after[name]} == {names[2]}
    assert json.loads(run_artimuse("status", tmp_path / "out", "--json").stdout)["reconciled"] is True


@pytest.mark.process
def test_a_store_takes_no_scores_of_another_checkpoint(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    run_score(tmp_path / "photos", tmp_path / "out")
    other = ("--checkpoint", golden_checkpoint("unipercept"))
    done = run_artimuse("score", tmp_path / "photos", "--out", tmp_path / "out", *other, code=1)
    assert "StoreMismatch" in done.stderr
    assert "Choose another --out" in done.stderr
    rotated = ("--checkpoint", golden_checkpoint("artimuse"), "--exif-rotate")
    assert (
        "exif-rotate" in run_artimuse("score", tmp_path / "photos", "--out", tmp_path / "out", *rotated, code=1).stderr
    )


def test_a_bad_checkpoint_stops_the_run_before_ray_starts(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    done = run_artimuse(
        "score", tmp_path / "photos", "--out", tmp_path / "out", "--checkpoint", tmp_path / "none", code=1
    )
    assert "there is no such folder" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    checkpoint = ("--checkpoint", golden_checkpoint("artimuse"))
    done = run_artimuse(
        "score", tmp_path / "photos", "--out", tmp_path / "out", *checkpoint, "--address", "127.0.0.1:9", code=1
    )
    assert "RunError: Ray at 127.0.0.1:9 cannot be reached" in done.stderr


@pytest.mark.ray
def test_an_error_in_the_actor_is_one_sentence(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file in golden_checkpoint("artimuse").iterdir():
        text = file.read_bytes()
        if file.name == "vocab.json":
            text = text.replace(b'"ey"', b'"eyeyey"')
        (checkpoint / file.name).write_bytes(text)
    command = ("score", tmp_path / "photos", "--out", tmp_path / "out", "--checkpoint", checkpoint)
    for done in (run_job(*command, code=1), run_artimuse(*command, "--local", code=1)):
        assert "CheckpointError" in done.stderr
        assert "`ey`" in done.stderr
        assert len(done.stderr.splitlines()) < 6


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("s3_environment")
def test_manifest_and_output_on_s3(tmp_path: Path) -> None:
    from jobs.storage.s3_place import s3_filesystem

    fs = s3_filesystem()
    fs.mkdir("library")
    uris = []
    for path in golden_images():
        fs.pipe_file(f"library/in/{path.stem} [1]#%20.{path.suffix}", path.read_bytes())
        uris.append(f"s3://library/in/{path.stem} [1]#%20.{path.suffix}")
    fs.pipe_file("library/in/zero.jpg", b"")
    uris += ["s3://library/in/zero.jpg", "s3://library/in/gone.jpg", "s3://elsewhere/gone.jpg"]
    with fs.open("library/manifest/0.parquet", "wb") as file:
        pq.write_table(pa.table({"image_id": list(map(str, range(len(uris)))), "uri": uris}), file)
    texts = ("--texts", "--max-new-tokens", "8", "--attributes", "overall_gestalt")
    for run, source, rows, options in (
        (run_command, "s3://library/manifest", 16, ("--ray",)),
        (run_artimuse, "s3://library/in", 14, texts),
    ):
        out = f"{source}-out"
        run("score", source, "--out", out, *golden_options(), *options)
        assert "Nothing to do" in run_artimuse("score", source, "--out", out, *golden_options()).stdout
        files = fs.find(f"{out}/scores")
        table = pa.concat_tables(pq.read_table(fs.open(file)) for file in files).to_pylist()
        assert len(table) == rows
        scores = {row["uri"]: row["score"] for row in table}
        for uri, answer in zip(uris, golden_answers("artimuse"), strict=False):
            assert scores[uri] == pytest.approx(answer["scores"]["score"]["score"], abs=1e-3)
        errors = {row["uri"]: row["error_type"] for row in table}
        assert errors["s3://library/in/zero.jpg"] == "empty"
        assert errors.get("s3://library/in/gone.jpg", "missing") == "missing"
    described = pq.read_table(fs.open(fs.find("s3://library/in-out/texts")[0])).to_pylist()
    assert len(described) == len(golden_images())
    assert all(row["overall_gestalt_tokens"] <= 8 for row in described)
    status = run_artimuse("status", "s3://library/in-out", "--json").stdout
    assert json.loads(status)["reconciled"] is True
    pq.write_table(pa.table({"uri": [f"s3://nowhere/{n}.jpg" for n in range(3)]}), tmp_path / "lost.parquet")
    for images, store in (
        (tmp_path / "lost.parquet", tmp_path / "out"),
        ("s3://nowhere/in", tmp_path / "out"),
        ("s3://library/in", "s3://nowhere/out"),
    ):
        done = run_artimuse("score", images, "--out", store, *golden_options(), code=1)
        assert "nowhere" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "out" / "scores").exists()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_run_ends_with_every_row_once(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 160)
    # Small shards, so that the kill falls between commits too.
    driver = (
        "import sys; from jobs.score.run import score; from jobs.score.settings import ScoreSettings\n"
        "shape = dict(unit_size=4, shard_rows=24, batch_size=1)\n"
        "score(ScoreSettings(*sys.argv[1:4], local=sys.argv[4] == 'local', **shape))"
    )
    command: list[str | Path] = [
        sys.executable,
        "-c",
        driver,
        tmp_path / "photos",
        golden_checkpoint("artimuse"),
        tmp_path / "out",
    ]
    scores, plan = tmp_path / "out" / "scores", tmp_path / "out" / "_plan.json"
    # Each run is killed later in its life: planned, something staged, one shard committed, four; then none.
    moments: list[tuple[Callable[[], bool], str]] = [
        (plan.exists, "ray"),
        (lambda: any((tmp_path / "out" / "_runs").glob("*/staging/*/*.parquet")), "ray"),
        (partial(has_files, scores, 1), "local"),
        (partial(has_files, scores, 4), "ray"),
        (lambda: False, "local"),
    ]
    for is_time, where in moments:
        checked = partial(_assert_whole_shards_only, scores, names)
        code = kill_when([*command, where], is_time, tmp_path / "log", checked)
    assert code == 0, (tmp_path / "log").read_text()
    _assert_whole_shards_only(scores, names)
    assert sorted(table_rows(tmp_path / "out")) == names
    assert "+ 0 remaining; no id twice" in run_artimuse("status", tmp_path / "out").stdout
    assert not list((tmp_path / "out" / "_runs").glob("*/staging/*/*"))


def _assert_whole_shards_only(scores: Path, names: list[str]) -> None:
    if has_files(scores, 1):
        ids = ds.dataset(scores).to_table(columns=["image_id"])["image_id"].to_pylist()
        assert len(ids) == len(set(ids))
        assert len(ids) % 24 in (0, len(names) % 24)  # the last shard is smaller, and any may be committed first
