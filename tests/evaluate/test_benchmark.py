"""Published benchmarks from images to the matrix, in both published layouts."""

from __future__ import annotations

import io
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from scipy import stats
from support.score_job import run_artimuse

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import UsageError
from jobs.demo.pictures import make_picture
from jobs.demo.run import CHECKPOINT
from jobs.evaluate.benchmark_folders import BenchmarkFolder, find_folder
from jobs.evaluate.benchmarks import ARTIMUSE_PAPER, BENCHMARKS, DOMAIN_MEANS, PUBLISHED_MEANS, get_benchmark
from jobs.storage.places import open_place
from jobs.store.layout import STORE_FILE
from jobs.store.run_record import read_runs

PICTURES = 12


@cache
def _drawn(seed: int) -> tuple[bytes, float]:
    """A PNG file, and its ground truth in points."""
    picture, file = make_picture(seed), io.BytesIO()
    picture.image.save(file, "PNG", compress_level=1)
    return file.getvalue(), picture.gt_score


def _make_data_set(folder: Path, images: str, truth: str, first_seed: int) -> dict[str, float]:
    """Pictures with a broken one, a file too many, a missing one and one named twice; returns the ground truth."""
    (folder / images).mkdir(parents=True)
    truths = {}
    for number in range(PICTURES):
        file, points = _drawn(first_seed + number)
        (folder / images / f"{number}.png").write_bytes(file)
        truths[f"{number}.png"] = 1 + points / 25
    (folder / images / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    shutil.copy(folder / images / "0.png", folder / images / "unnamed.png")
    rows = [*truths.items(), ("broken.jpg", 3.0), ("missing.jpg", 3.0), ("1.png", truths["1.png"])]
    (folder / truth).write_text(json.dumps([{"image": name, "gt_score": points} for name, points in rows]))
    return truths


@pytest.mark.process
@pytest.mark.timeout(240)
def test_two_layouts_run_from_images_to_a_matrix(tmp_path: Path) -> None:
    ava = _make_data_set(tmp_path / "test_datasets" / "AVA", "images", "test.json", 800_000)
    _make_data_set(tmp_path / "benchmark" / "VR" / "IAA" / "PARA", "image", "PARA.json", 810_000)
    out = tmp_path / "out"
    command = ("benchmark", "ava", "PARA", "--root", tmp_path, "--checkpoint", CHECKPOINT, "--out", out)
    options = ("--protocol", "artimuse", "--device", "cpu")
    screen = run_artimuse(*command, *options).stdout
    counted = (
        "N = 13 of 15; 1 failed (1 truncated); 1 missing; 1 row of ground truth names an image again; "
        "1 image without ground truth; joined by id"
    )
    assert screen.count(counted) == 2, screen
    assert "without a score: broken.jpg, missing.jpg" in screen
    scores = {row["image_id"]: row["score"] for row in pq.read_table(out / "checkpoint" / "AVA" / "scores").to_pylist()}
    names = [*ava, "1.png"]
    srcc = stats.spearmanr([scores[name] for name in names], [ava[name] for name in names]).statistic
    assert srcc > 0.8
    rows = [line for line in screen.splitlines() if line.startswith(("AVA  ", "PARA  "))]
    assert rows[0].split()[1] == f"{srcc:.3f}"
    assert all("N = 13 of 15" in row for row in rows)

    again = run_artimuse(*command, *options, "--markdown", "--gate", "srcc>=0.5")
    assert again.stderr.count("Nothing to do: all 14 images are in") == 2
    assert f"| AVA | checkpoint@bebec3 | 13 of 15 | {srcc:.4f} (" in again.stdout
    shown = json.loads(run_artimuse(*command, *options, "--json").stdout)
    assert [evaluation["data_set"] for evaluation in shown] == ["AVA", "PARA"]
    assert shown[0]["counts"]["extra"] == shown[0]["counts"]["missing"] == shown[0]["counts"]["doubled"] == 1
    assert pq.read_table(out / "checkpoint" / "AVA" / "metrics")["extra"].to_pylist() == [1]
    refused = run_artimuse(*command, *options, "--quantize", "int8", code=1).stderr
    assert "holds rows in float32; this run would add rows in float32/int8" in refused
    assert "--require-complete is missed" in run_artimuse(*command, *options, "--require-complete", code=1).stderr


@pytest.mark.process
@pytest.mark.timeout(240)
def test_checkpoints_of_one_name_run_side_by_side_and_a_cell_that_fails_leaves_the_others(tmp_path: Path) -> None:
    _make_data_set(tmp_path / "AVA", "images", "test.json", 800_000)
    _make_data_set(tmp_path / "PARA", "images", "test.json", 810_000)
    other = _other_weights(tmp_path / "other" / "checkpoint")
    first, second = (f"checkpoint-{identify_checkpoint(str(path)).digest[:6]}" for path in (CHECKPOINT, other))
    out = tmp_path / "out"
    (out / second / "PARA").mkdir(parents=True)
    (out / second / "PARA" / STORE_FILE).write_text("{")
    command = ("benchmark", "all", "--root", tmp_path, "--out", out, "--protocol", "artimuse", "--device", "cpu")
    checkpoints = ("--checkpoint", CHECKPOINT, "--checkpoint", other)
    options = ("--limit", "8", "--against", CHECKPOINT, "--results", tmp_path / "results", "--require-complete")
    done = run_artimuse(*command, *checkpoints, *options, code=1)
    assert f"PARA with {second} failed: " in done.stdout
    assert f"PARA with {second}: " in done.stderr
    assert "TAD66K is absent: TAD66K is not below" in done.stderr
    assert done.stdout.count("N = 8; joined by id") == 3
    shown = json.loads(run_artimuse(*command, *checkpoints, *options[:4], "--json", code=1).stdout)
    cells = [cell for cell in shown if "counts" in cell]
    assert [(cell["data_set"], cell["counts"]["scored"]) for cell in cells] == [("AVA", 8), ("AVA", 8), ("PARA", 8)]
    assert {cell["counts"]["extra"] for cell in cells} == {0}
    compared = shown[1]["differences"]
    assert [(one["to_number"], one["n"]) for one in compared] == [(0, 8)]
    assert shown[1]["against"]["difference"]["srcc"]["first"] == shown[1]["metrics"]["srcc"]["value"]
    assert {cell["cell"] for cell in shown if "error" in cell} >= {f"PARA with {second}", "TAD66K", "ISTA-10K"}
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        f"AVA_{first}.json", f"AVA_{second}.json", f"PARA_{first}.json"
    }  # fmt: skip
    assert len(json.loads((tmp_path / "results" / f"AVA_{second}.json").read_text())) == 8
    loads = [
        [load["load_s"] for run in read_runs(open_place(f"{out}/{label}/{name}")) for load in run["loads"]]
        for label, name in ((first, "AVA"), (first, "PARA"), (second, "AVA"))
    ]
    assert [[seconds > 0 for seconds in of_cell] for of_cell in loads] == [[True], [False], [True]]


def _other_weights(folder: Path) -> Path:
    """The checkpoint of the demo with one weight doubled."""
    shutil.copytree(CHECKPOINT, folder)
    weights = load_file(folder / "model.safetensors")
    weights["language_model.lm_head.weight"][-1] *= 2
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_everything_is_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "AVA").mkdir()
    (tmp_path / "AVA" / "test.json").write_text("[")
    (tmp_path / "PARA").mkdir()
    (tmp_path / "PARA" / "test.json").write_text('[{"image": "a.png", "gt_score": 1}]')
    command = ("benchmark", "AVA", "PARA", "SPAQ", "KADIT", "--root", tmp_path, "--out", tmp_path / "out")
    said = run_artimuse(*command, "--checkpoint", tmp_path / "none", "--against", "ArtiMuse", code=2).stderr
    for sentence in (
        "AVA/test.json: is not valid JSON",
        "PARA/test.json: none of its first 1 images is below",
        "SPAQ is not below",
        "Did you mean KADID?",
        "none: there is no such folder",
        "--against takes one of the checkpoints",
    ):
        assert sentence in said
    assert not (tmp_path / "out").exists()
    (tmp_path / "PARA" / "a.png").write_bytes(b"")
    twice = ("--checkpoint", CHECKPOINT, "--checkpoint", f"{CHECKPOINT}/")
    said = run_artimuse("benchmark", "PARA", "--root", tmp_path, "--out", tmp_path / "out", *twice, code=2).stderr
    assert "are the same checkpoint. Name it once." in said


def test_averages_by_domain_are_those_of_the_paper() -> None:
    for domain, members in DOMAIN_MEANS.items():
        values = [BENCHMARKS[name].published["UniPercept"] for name in members]
        mean = PUBLISHED_MEANS["UniPercept"][domain]
        assert sum(value.srcc for value in values) / 4 == pytest.approx(mean.srcc, abs=6e-4)
        assert sum(value.plcc for value in values) / 4 == pytest.approx(mean.plcc, abs=6e-4)


def test_two_formats_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    command = ("benchmark", "AVA", "--root", tmp_path, "--checkpoint", CHECKPOINT, "--out", tmp_path / "out")
    assert "choose one" in run_artimuse(*command, "--markdown", "--json", code=2).stderr


def test_a_data_set_is_found_from_any_folder_above_it(tmp_path: Path) -> None:
    artimuse = tmp_path / "a" / "test_datasets" / "AVA"
    unipercept = tmp_path / "b" / "benchmark" / "VR" / "IQA" / "SPAQ"
    for folder, images, truth in ((artimuse, "images", "test.json"), (unipercept, "image", "SPAQ.json")):
        (folder / images).mkdir(parents=True)
        (folder / truth).write_text("[]")
        name = folder.name
        for above in folder.parents:
            if above in (tmp_path / "b" / "benchmark" / "VR" / "IQA", tmp_path / "b" / "benchmark", tmp_path):
                continue
            if tmp_path not in above.parents:
                break
            found = find_folder(str(above), BENCHMARKS[name])
            assert isinstance(found, BenchmarkFolder)
            assert (found.truth, found.images) == (str(folder / truth), str(folder / images))
    sentence = find_folder(str(tmp_path), BENCHMARKS["PARA"])
    assert isinstance(sentence, str)
    assert re.search(r"PARA is not below .*test_datasets/PARA", sentence)


def test_presets_have_the_sizes_and_values_of_the_papers() -> None:
    sizes = {name: benchmark.rows for name, benchmark in BENCHMARKS.items()}
    assert sizes == {
        "AVA": 19_930, "TAD66K": 14_079, "FLICKR-AES": 4_737, "PARA": 3_000, "ArtiMuse-10K": 1_002,
        "KonIQ-10K": 2_015, "SPAQ": 2_224, "KADID": 2_000, "PIPAL": 4_640, "ISTA-10K": 970,
    }  # fmt: skip
    for benchmark in BENCHMARKS.values():
        for value in benchmark.published.values():
            assert 0 < value.srcc < 1
            assert 0 < value.plcc < 1
            assert "arXiv" in value.source
        assert benchmark.truth_range[0] < benchmark.truth_range[1]
    assert get_benchmark("flickr-aes").published["ArtiMuse_FLICKR-AES"].plcc == 0.837
    assert get_benchmark("AVA").published["ArtiMuse"].source == ARTIMUSE_PAPER
    with pytest.raises(UsageError, match=r"Did you mean KonIQ-10K\?"):
        get_benchmark("koniq")
