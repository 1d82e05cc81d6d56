"""`artimuse plan`: a source counted, a sample measured, the rest worked out, and nothing written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.golden import golden_checkpoint
from support.paths import REPO
from support.photo_library import make_photo_library, make_photos
from support.score_job import run_artimuse
from support.stores import complete, open_store, plan_for, write_manifest

from artimuse_actor.checkpoint.network_config import QUANTIZATIONS
from artimuse_actor.errors import ManifestError, RunError, StoreMismatch, UsageError
from jobs.forecast.forecast import SCORES, TEXTS, look_ahead
from jobs.forecast.precision import COUNTED_TIMES, CountedTimes
from jobs.forecast.sample import count_rows_to_do
from jobs.forecast.settings import OutlookSettings
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.store.precision import admit_precision
from jobs.store.text_request import WantedTexts


def _json(*arguments: str | Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(run_artimuse("plan", *arguments, "--json").stdout)
    return shown


@pytest.mark.process
def test_a_folder_of_photos_and_odd_files_is_measured_with_a_model(tmp_path: Path) -> None:
    expected = make_photo_library(tmp_path / "photos")
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse", "--texts")
    shown = _json(tmp_path / "photos", *options, "--max-new-tokens", "4", "--gpus", "2", "--price", "3")
    errors = {kind: found["images"] for kind, found in shown["sample"]["errors"].items()}
    assert errors == Counter(outcome for outcome in expected.values() if outcome != "ok")
    assert shown["sample"]["images"] == shown["rows"]["manifest"] == len(expected)
    scores, texts = shown["estimates"]["scores_only"], shown["estimates"]["with_texts"]
    for found in (scores, texts):
        assert found["speed"]["origin"] == "measured"
        assert found["speed"]["on_cpu"]
        hours = found["readable_images"]["value"] * found["speed"]["image_s"]["value"] / 3600
        assert found["gpu_hours"]["value"] == pytest.approx(hours)
        assert found["cost"]["value"] == pytest.approx(2 * 3 * found["wall_s"]["value"] / 3600)
    assert texts["speed"]["image_s"]["value"] > scores["speed"]["image_s"]["value"]
    # All were drawn, so what is counted of them is not an estimate.
    sizes = [path.stat().st_size for path in (tmp_path / "photos").rglob("*") if path.is_file() and path.suffix]
    assert scores["read_bytes"]["margin"] == 0
    assert 0 < scores["read_bytes"]["value"] <= sum(sizes)
    assert scores["readable_images"] == {"value": Counter(expected.values())["ok"], "margin": 0}


@pytest.mark.process
def test_the_screen_says_what_was_measured_and_what_was_given(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 30)
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    given = ("--images-per-s", "70", "--gpus", "100", "--price", "2", "--gbit-per-s", "0.001")
    screen = run_artimuse("plan", tmp_path / "photos", *given, "--sample", "31").stdout
    assert "31 images." in screen
    assert "1 not_an_image: all rows were drawn" in screen
    assert "ms of one CPU core an image, measured here" in screen
    assert "70.0 images/s of one device, given" in screen
    assert "wall time with 100 GPUs" in screen
    assert "Bottleneck: the network; 0.001 Gbit/s can feed" in screen
    assert not list(tmp_path.glob("*/_*"))


@pytest.mark.process
def test_with_given_speeds_no_model_is_loaded(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    code = f"""
import sys
from jobs.forecast.forecast import look_ahead
from jobs.forecast.settings import OutlookSettings
from jobs.store.text_request import WantedTexts
outlook = look_ahead(OutlookSettings(
    {str(tmp_path / "photos")!r}, texts=WantedTexts(), images_per_s=70, texts_images_per_s=12, gpus=8))
assert [speed.origin for speed in outlook.speeds.values()] == ["given", "given"]
assert not {{"torch", "transformers", "ray"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=REPO)


@pytest.mark.process
def test_a_model_that_does_not_fit_leaves_the_rest_to_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from artimuse_actor.engine import device

    monkeypatch.setattr(device, "available_bytes", lambda: 0)
    make_photos(tmp_path / "photos", 3)
    checkpoint = str(golden_checkpoint("artimuse"))
    outlook = look_ahead(OutlookSettings(str(tmp_path / "photos"), checkpoint, protocol="artimuse", device="cpu"))
    speed, found = outlook.speeds[SCORES], outlook.wholes[SCORES]
    assert speed.origin == "unknown"
    assert "0 GB are free" in speed.how
    assert found.wall_s is None
    assert found.core_hours.value > 0


@pytest.mark.process
def test_only_what_the_store_does_not_hold_counts(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 40)
    store = open_store(tmp_path / "out")
    half = tmp_path / "half.parquet"
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())[:20]
    stats = [(tmp_path / "photos" / name).stat() for name in names]
    write_manifest(half, names, [f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats])
    complete(store, plan_for(store, str(half), "p1"))
    before = sorted(os.walk(tmp_path / "out"))

    shown = _json(tmp_path / "photos", "--out", tmp_path / "out", "--images-per-s", "10", "--sample", "5")
    assert shown["rows"] == {"manifest": 40, "store": 20, "new": 20, "changed": 0, "texts_only": 0}
    assert shown["estimates"]["scores_only"]["images"] == 20
    assert shown["sample"]["images"] == 5

    with_texts = OutlookSettings(
        str(tmp_path / "photos"),
        out=str(tmp_path / "out"),
        texts=WantedTexts(),
        images_per_s=10,
        texts_images_per_s=1,
        gpus=1,
    )
    outlook = look_ahead(with_texts)
    assert {name: found.work.rows for name, found in outlook.wholes.items()} == {SCORES: 20, TEXTS: 40}
    assert outlook.counted.texts_only.tolist() == [20]
    assert sorted(os.walk(tmp_path / "out")) == before


@pytest.mark.process
def test_a_finished_store_leaves_nothing_to_do(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out", WantedTexts())
    source = write_manifest(tmp_path / "m.parquet", ["a", "b"])
    complete(store, plan_for(store, source, "p1"))
    assert "Nothing to do: all 2 images" in run_artimuse("plan", source, "--out", tmp_path / "out").stdout
    # A store that has texts gets them from every run, so scores alone are no choice.
    more = write_manifest(tmp_path / "more.parquet", [str(tmp_path / "c.jpg"), "a"])
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "photos" / "0000.jpg").rename(tmp_path / "c.jpg")
    outlook = look_ahead(OutlookSettings(more, out=str(tmp_path / "out"), gpus=1))
    assert list(outlook.wholes) == [TEXTS]
    assert outlook.speeds[TEXTS].origin == "unknown"
    assert outlook.wholes[TEXTS].work.rows == 1


def test_a_store_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    open_store(tmp_path / "out")
    checkpoint = str(golden_checkpoint("artimuse"))
    settings = OutlookSettings(
        str(tmp_path / "photos"), checkpoint, str(tmp_path / "out"), protocol="artimuse", images_per_s=1
    )
    with pytest.raises(StoreMismatch, match="holds scores of ArtiMuse@cccccc"):
        look_ahead(settings)


@pytest.mark.process
def test_weights_of_fewer_bits_are_measured_and_their_memory_is_counted(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", "artimuse", "--device", "cpu")
    whole, fewer = (_json(tmp_path / "photos", *options, *more) for more in ((), ("--quantize", "nf4")))
    memory = fewer["model"]["memory"]
    assert memory["precision"] == "float32/nf4"
    assert "on the CPU (float32/nf4) with" in fewer["estimates"]["scores_only"]["speed"]["how"]
    assert 0 < memory["weight_bytes"] < whole["model"]["memory"]["weight_bytes"]
    assert memory["image_bytes"] == whole["model"]["memory"]["image_bytes"] > 0
    assert (whole["model"]["counted_times"], fewer["model"]["quantize"]) == (None, "nf4")
    assert fewer["model"]["counted_times"] == asdict(COUNTED_TIMES["nf4"])


@pytest.mark.process
def test_what_fewer_bits_cost_is_said_where_the_speed_is_given(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    screen = run_artimuse("plan", tmp_path / "photos", "--images-per-s", "70", "--quantize", "int8").stdout
    assert (
        "--quantize int8: an image takes 1.07 times as long as with all bits, with texts 1.32 times; counted" in screen
    )


def test_the_times_of_fewer_bits_are_those_of_the_page() -> None:
    page = (REPO / "docs" / "gpu.md").read_text()
    rows = re.findall(r"^\| (\S+) +\|.* ([\d.]+) times as long.* ([\d.]+) times as long\) +\|$", page, re.MULTILINE)
    found = {kind: CountedTimes(float(scores), float(texts)) for kind, scores, texts in rows}
    assert found == COUNTED_TIMES
    assert set(COUNTED_TIMES) == set(QUANTIZATIONS)


@pytest.mark.process
def test_a_store_of_another_precision_is_refused_as_by_score(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    store = open_store(tmp_path / "out")
    admit_precision(store, "float32")
    complete(store, plan_for(store, write_manifest(tmp_path / "m.parquet", ["a"]), "p1"))
    settings = OutlookSettings(
        str(tmp_path / "photos"), out=str(tmp_path / "out"), device="cpu", images_per_s=1, gpus=1
    )
    assert look_ahead(settings).counted.held_rows == 1
    other = replace(settings, quantize="int8")
    with pytest.raises(StoreMismatch, match="rows in float32; this run would add rows in float32/int8"):
        look_ahead(other)
    assert look_ahead(replace(other, allow_mixed=True)).counted.new_rows == 1


@pytest.mark.slow
def test_a_sample_depends_on_the_seed_and_not_on_the_batches(tmp_path: Path) -> None:
    source = write_manifest(tmp_path / "m.parquet", [f"{number:03}" for number in range(100)])

    def drawn(seed: int, step: int) -> list[str]:
        class Parts:
            source, notes, coverage, is_listed, id_prefix = "parts", list[str](), None, False, ""

            def columns(self) -> Any:
                return open_manifest(str(tmp_path / "m.parquet")).columns()

            def image_column(self) -> None:
                return None

            def batches(self, own: Any = (), *, keys: bool = True) -> Any:  # noqa: ARG002
                for batch in open_manifest(str(tmp_path / "m.parquet")).batches():
                    for start in range(0, len(batch.rows), step):
                        yield type(batch)(batch.rows.slice(start, step), batch.file, start)

            def identity(self) -> str:
                return ""

        found: list[str] = count_rows_to_do(Parts(), None, 10, seed).sample["image_id"].to_pylist()
        return found

    whole_file = count_rows_to_do(open_manifest(source), None, 10, 7).sample["image_id"].to_pylist()
    assert whole_file == drawn(7, 100) == drawn(7, 9) == drawn(7, 1)
    times = Counter(name for seed in range(300) for name in drawn(seed, 33))
    assert len(times) == 100
    assert max(times.values()) < 60  # of 300 draws, each is meant to come up 30 times


@pytest.mark.process
def test_embedded_images_are_measured_too(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 6)
    images = [path.read_bytes() for path in sorted((tmp_path / "photos").iterdir())]
    rows = pa.table({"image_id": list("abcdef"), "image": images})
    pq.write_table(rows, tmp_path / "m.parquet", row_group_size=2)
    outlook = look_ahead(OutlookSettings(str(tmp_path / "m.parquet"), images_per_s=1, gpus=1))
    assert outlook.loaded is not None
    assert outlook.loaded.embedded_rows == len(outlook.loaded.pixels) == 6
    assert outlook.wholes[SCORES].read_bytes.value == pytest.approx(sum(map(len, images)))


def test_what_cannot_be_planned_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="there is no image"):
        look_ahead(OutlookSettings(str(tmp_path / "empty")))
    no_rows = str(tmp_path / "none.parquet")
    pq.write_table(pa.table({"uri": pa.array([], pa.string())}), no_rows)
    with pytest.raises(ManifestError, match="has no rows"):
        look_ahead(OutlookSettings(no_rows))
    gone = write_manifest(tmp_path / "gone.parquet", ["/nowhere/a.jpg", "/nowhere/b.jpg"])
    with pytest.raises(RunError, match=r"none of the 2 images that were drawn can be read \(2 missing\)"):
        look_ahead(OutlookSettings(gone))
    make_photos(tmp_path / "photos", 2)
    outside = OutlookSettings(str(tmp_path / "photos"), manifest=ManifestOptions(limit=0))
    with pytest.raises(UsageError, match="--limit"):
        look_ahead(outside)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sample": 0}, "--sample takes a whole number from 1 to 1,000, not 0"),
        ({"gpus": 0}, "--gpus takes a whole number from 1"),
        ({"images_per_s": 0.0}, "--images-per-s takes a number above 0"),
        ({"cores": float("inf")}, "--cores takes a number above 0"),
        ({"gbit_per_s": -1.0}, "--gbit-per-s takes a number above 0"),
        ({"price": float("nan")}, "--price takes a number from 0"),
        ({"quantize": "int9"}, "--quantize takes int8, fp8, fp8-products, nf4, not 'int9'"),
        ({"seed": -1}, "--seed takes a whole number from 0"),
        ({"texts_images_per_s": 1.0}, "Add --texts"),
        ({"images_per_s": 1.0, "texts": WantedTexts()}, "Give --texts-images-per-s, too"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        look_ahead(OutlookSettings("photos", **options))
