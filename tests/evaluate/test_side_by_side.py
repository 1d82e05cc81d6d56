"""Scores of any model, one or several, beside the same ground truth; clusters told by column or name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from support.score_job import run_artimuse

from artimuse_actor.errors import GroundTruthError, UsageError
from jobs.evaluate.evaluate import evaluate, evaluate_all, evaluate_store
from jobs.evaluate.metrics.holm import holm
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.truth_columns import TruthColumns

ORIGINALS, VERSIONS = 16, 8


def _kadid(folder: Path) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    """Ground truth of pictures that are named as KADID's, and two sets of scores, the second of them worse."""
    generator = np.random.default_rng(5)
    names = [f"I{original:02d}_{version:02d}_01.png" for original in range(ORIGINALS) for version in range(VERSIONS)]
    truths = np.round(generator.normal(3, 0.7, len(names)), 2)
    bias = np.repeat(generator.normal(0, 4, ORIGINALS), VERSIONS)
    scores = {
        "good": 60 + 10 * truths + bias + generator.normal(0, 2, len(names)),
        "poor": 60 + 10 * truths + generator.normal(0, 9, len(names)),
    }
    path = folder / "KADID.json"
    rows = [{"image": name, "gt_score": truth, "ref": name[:3]} for name, truth in zip(names, truths, strict=True)]
    path.write_text(json.dumps(rows))
    return path, scores | {"names": np.array(names)}


def _predictions(path: Path, names: list[str], scores: list[float | None], column: str = "prediction") -> str:
    table = pa.table({"filename": names, column: pa.array(scores, pa.float64())})
    match path.suffix:
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".parquet":
            pq.write_table(table, path)
        case ".json":
            path.write_text(json.dumps(table.to_pylist()))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_table_of_any_model_is_evaluated(tmp_path: Path, suffix: str) -> None:
    truth, made = _kadid(tmp_path)
    scores: list[float | None] = [None, *made["good"].tolist()[1:]]
    path = _predictions(
        tmp_path / f"nima.{suffix}", [f"/elsewhere/{name}" for name in made["names"]], scores, "mos_of_nima"
    )
    evaluation = evaluate_store(path, str(truth))
    counts = evaluation.counts
    assert (counts.expected, counts.scored, counts.failed, counts.matched_by) == (128, 127, 1, "path")
    assert (evaluation.question, evaluation.label, evaluation.published) == ("mos_of_nima", f"nima.{suffix}", None)
    assert evaluation.agreement.clusters == ORIGINALS


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_table_is_named_by_its_uri_too(tmp_path: Path, suffix: str) -> None:
    truth, made = _kadid(tmp_path)
    path = _predictions(tmp_path / f"a model.{suffix}", made["names"].tolist(), made["good"].tolist())
    assert evaluate_store(Path(path).as_uri(), truth.as_uri()).counts.scored == 128


def test_a_nan_is_no_score(tmp_path: Path) -> None:
    truth, made = _kadid(tmp_path)
    scores: list[float | None] = [float("nan"), None, *made["good"].tolist()[2:]]
    path = _predictions(tmp_path / "numpy.parquet", made["names"].tolist(), scores)
    counts = evaluate_store(path, str(truth)).counts
    assert (counts.scored, counts.failed) == (126, 2)
    done = run_artimuse("evaluate", path, "--ground-truth", truth, "--require-complete", code=1)
    assert "N = 126" in done.stdout


def test_a_results_file_may_name_an_image_twice_with_one_score_only(tmp_path: Path) -> None:
    truth = tmp_path / "t.json"
    truth.write_text(json.dumps([{"image": name, "gt_score": number} for number, name in enumerate("aabcc")]))
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{"image": name, "score": ord(name)} for name in "aabc"] + [{"image": "c", "score": 1}]))
    counts = evaluate_store(str(path), str(truth)).counts
    assert (counts.scored, counts.ambiguous, counts.doubled) == (3, 2, 2)


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("image,a,b\nx,1,2\n", {}, "which column is the score? It has a, b. Name it with --question"),
        ("a,b\nx,1\n", {}, "has no column that names the image"),
        ("image,mos\nx,1\n", {"question": "moss"}, "did you mean 'mos'? Name another one with --question"),
        ("image,mos\nx,1\n", {"id_column": "imag"}, "did you mean 'image'? Name another one with --id-column"),
        ("image,mos\nx,good\n", {}, "invalid value 'good'"),
    ],
)
def test_columns_that_cannot_be_guessed_are_asked_for(
    tmp_path: Path, text: str, options: dict[str, str], sentence: str
) -> None:
    (tmp_path / "p.csv").write_text(text)
    (tmp_path / "t.csv").write_text("image,gt_score\nx,1\n")
    with pytest.raises(GroundTruthError) as caught:
        evaluate_store(str(tmp_path / "p.csv"), str(tmp_path / "t.csv"), EvaluateOptions(**options))  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_scores_of_a_table_need_ground_truth_by_name(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,score\nx,1\n")
    with pytest.raises(GroundTruthError, match="Name the ground truth"):
        evaluate_store(str(tmp_path / "p.csv"), None)


@pytest.mark.slow
def test_three_sets_of_scores_are_compared_on_the_rows_that_all_have(tmp_path: Path) -> None:
    truth, made = _kadid(tmp_path)
    names = made["names"].tolist()
    paths = [
        _predictions(tmp_path / "good.csv", names, made["good"].tolist()),
        _predictions(tmp_path / "poor.parquet", names[:-4], made["poor"].tolist()[:-4]),
        _predictions(tmp_path / "negative.jsonl", names, (-made["good"]).tolist()),
    ]
    found = evaluate_all(paths, str(truth))
    assert [one.agreement.n for one in found.evaluations] == [128, 124, 128]
    assert {difference.n for difference in found.differences.values()} == {124}
    alone = evaluate_store(paths[0], str(truth), against=paths[1])
    assert alone.against is not None
    one, pair = found.differences[0, 1].srcc, alone.against.difference.srcc
    assert (one.value, one.first, one.p_value) == pytest.approx((pair.value, pair.first, pair.p_value))
    rows = list(range(124))
    common = evaluate(
        pa.table({"image_id": names[:124], "score": made["good"][:124]}),
        pa.table({"image": names[:124], "gt_score": [json.loads(truth.read_text())[row]["gt_score"] for row in rows]}),
    )
    assert pair.first == common.agreement.srcc.value  # on the rows that both have, not on all 128
    assert one.p_corrected is not None
    assert one.p_value is not None
    assert one.p_corrected >= one.p_value
    assert any("negative" in note for note in found.evaluations[2].notes)

    screen = run_artimuse("evaluate", *paths, "--ground-truth", truth).stdout
    assert "On the 124 rows in 16 clusters that all have scored" in screen
    assert "Holm's correction is for the 3 comparisons of one metric." in screen
    markdown = run_artimuse("evaluate", *paths, "--ground-truth", truth, "--markdown").stdout
    numbers = {word.strip("()") for word in screen.split() if word.strip("()+-").replace(".", "").isdigit()}
    assert all(number in markdown for number in numbers)
    latex = run_artimuse("evaluate", *paths, "--ground-truth", truth, "--latex").stdout
    assert latex.count(r" \\") == 4
    assert f"{found.evaluations[0].pairs.truth_sha256} (KADID is not as published)" in latex
    assert r"128 in 16 clusters" in latex
    csv = run_artimuse("evaluate", *paths, "--ground-truth", truth, "--csv").stdout
    assert csv.splitlines()[0].startswith('"data_set","ground_truth"')
    assert [Path(path).name in line for path, line in zip(paths, csv.splitlines()[1:], strict=True)] == [True] * 3
    shown = json.loads(run_artimuse("evaluate", *paths, "--ground-truth", truth, "--json").stdout)
    assert [len(one["differences"]) for one in shown] == [2, 1, 0]
    assert "for one OUT" in run_artimuse("evaluate", *paths, "--against", paths[0], code=2).stderr


def test_clusters_are_told_by_column_or_name_and_widen_the_intervals(tmp_path: Path) -> None:
    truth, made = _kadid(tmp_path)
    path = _predictions(tmp_path / "good.csv", made["names"].tolist(), made["good"].tolist())

    def of(cluster: str | None) -> tuple[int | None, float]:
        found = evaluate_store(path, str(truth), EvaluateOptions(TruthColumns(cluster=cluster))).agreement
        assert found.srcc.high is not None
        assert found.srcc.low is not None
        return found.clusters, found.srcc.high - found.srcc.low

    (preset, width), (_, narrow) = of(None), of("none")
    assert preset == ORIGINALS
    assert narrow < 0.8 * width
    assert of("ref") == of(r"^I\d+") == of(r"^(I\d+)_\d+") == (ORIGINALS, width)
    assert of(r"_(\d+)_")[0] == VERSIONS
    for cluster, sentence in (
        ("reff", "no such column, and as a pattern 128 of 128 names do not match, such as 'I00_00_01.png'"),
        ("I0(", "no such column, and it is no regular expression"),
    ):
        with pytest.raises(GroundTruthError) as caught:
            of(cluster)
        assert sentence in str(caught.value)
    screen = run_artimuse("evaluate", path, "--ground-truth", truth, "--cluster", "ref").stdout
    assert "N = 128 in 16 clusters; joined by id" in screen
    assert "Clusters are told by ref" in screen


def test_renamed_images_of_a_benchmark_count_as_independent_and_that_is_said(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(20)]
    truth = pa.table({"image": names, "gt_score": np.arange(20.0)})
    scores = pa.table({"image_id": names, "score": np.arange(20.0) % 7})
    evaluation = evaluate(scores, truth, EvaluateOptions(benchmark="PIPAL"))
    assert evaluation.agreement.clusters is None
    assert any("count as independent, since the names are not the benchmark's" in note for note in evaluation.notes)


def test_a_benchmark_is_chosen_in_python_too() -> None:
    names = [f"A0001_{number:02d}_00.bmp" for number in range(30)]
    truth = pa.table({"image": names, "gt_score": np.linspace(1, 9, 30)})
    scores = pa.table({"image_id": names, "iaa": np.linspace(20, 90, 30) % 61, "iqa": np.linspace(1, 9, 30) % 4})
    ava = evaluate(scores, truth, EvaluateOptions(benchmark="AVA"))
    assert (ava.data_set, ava.question, ava.threshold) == ("AVA", "iaa", 5.0)
    assert any("published split has 19,930 rows" in note for note in ava.notes)
    with pytest.raises(GroundTruthError, match="the ground truth has no such column"):
        evaluate(scores, truth, EvaluateOptions(TruthColumns(cluster="B")), question="iqa")
    with pytest.raises(UsageError, match="Did you mean PIPAL"):
        evaluate(scores, truth, EvaluateOptions(benchmark="pipel"))


def test_holm_corrects_the_smallest_most() -> None:
    # R 4.3, p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []
