"""Stores and tables against ground truth: every row counted, whatever names it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from support.golden import golden_images
from support.score_job import run_artimuse
from support.stores import FINGERPRINT, complete, open_store, plan_for, stage_with, write_manifest

from artimuse_actor.errors import GroundTruthError, UsageError
from artimuse_actor.uris import uri_as_id
from jobs.evaluate.evaluate import evaluate, evaluate_store
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.join import JoinCounts
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.published_results import write_results
from jobs.evaluate.truth_columns import TruthColumns
from jobs.manifest.columns import as_ids
from jobs.store.plan_progress import PlanProgress
from schemas.metrics import METRICS


def _store(folder: Path, scores: dict[str, float | str], checkpoint: str = "ArtiMuse") -> str:
    """A store of these rows, as (name, score or error type); its images lie in /photos."""
    store = open_store(folder, fingerprint=replace(FINGERPRINT, checkpoint=checkpoint))
    table = pa.table({"image_id": list(scores), "uri": [f"/photos/{name}" for name in scores]})
    pq.write_table(table, folder.parent / f"{folder.name}.parquet")
    plan = plan_for(store, str(folder.parent / f"{folder.name}.parquet"), "p1", unit_rows=1000)
    found = list(scores.values())
    stage_with(
        store,
        plan,
        score=[None if isinstance(value, str) else value for value in found],
        status=["error" if isinstance(value, str) else "ok" for value in found],
        error_type=[value if isinstance(value, str) else None for value in found],
    )
    PlanProgress(store, plan).commit(plan.shards[0])
    return str(folder)


def _truth(path: Path, rows: list[tuple[Any, ...]], *names: str) -> str:
    columns = ("image", "gt_score", *names)
    path.write_text(json.dumps([dict(zip(columns, row, strict=True)) for row in rows]))
    return str(path)


def _counts(evaluation: Evaluation) -> dict[str, Any]:
    counts = evaluation.counts
    names = ("expected", "scored", "failed", "missing", "ambiguous", "without_truth", "doubled", "extra")
    found = {name: getattr(counts, name) for name in names}
    assert counts.expected == counts.scored + counts.failed + counts.missing + counts.ambiguous
    return {name: number for name, number in found.items() if number}


def test_every_row_of_both_sides_is_accounted_for(tmp_path: Path) -> None:
    scores: dict[str, float | str] = {
        "a": 1.0,
        "b": 2.0,
        "c": 5.0,
        "d": 4.0,
        "e": "truncated",
        "f": "missing",
        "g": 9.0,
    }
    truths = [("a", 1), ("b", 3), ("c", 2), ("d", 9), ("e", 5), ("f", 5), ("h", 5), ("a", 1), ("b", None)]
    evaluation = evaluate_store(_store(tmp_path / "out", scores), _truth(tmp_path / "t.json", truths))
    assert _counts(evaluation) == {
        "expected": 8, "scored": 5, "failed": 1, "missing": 2, "without_truth": 1, "doubled": 1, "extra": 1
    }  # fmt: skip
    assert evaluation.counts.errors == {"truncated": 1}
    assert evaluation.counts.examples == ["e", "f", "h"]
    assert evaluation.agreement.n == 5
    assert evaluation.agreement.srcc.value == pytest.approx(stats.spearmanr([1, 2, 5, 4, 1], [1, 3, 2, 9, 1]).statistic)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["x/a.jpg", "x/b.jpg", "y/a.jpg"], "id"),
        (["/photos/x/a.jpg", "/photos/x/b.jpg", "/photos/y/a.jpg"], "uri"),
        (["photos/x/a.jpg", "photos/x/b.jpg", "photos/y/a.jpg"], "path"),
        (["./photos/x/a.jpg", "./photos/x/b.jpg", "./photos/y/a.jpg"], "path"),
        (["/elsewhere/b.jpg", "/elsewhere/b.jpg"], "name"),
    ],
)
def test_images_are_found_however_ground_truth_names_them(tmp_path: Path, names: list[str], match: str) -> None:
    out = _store(tmp_path / "out", {"x/a.jpg": 1.0, "x/b.jpg": 2.0, "y/a.jpg": 3.0, "z": 4.0})
    truths = [(name, number) for number, name in enumerate(names)]
    evaluation = evaluate_store(out, _truth(tmp_path / "t.json", truths))
    assert evaluation.counts.matched_by == match
    assert evaluation.counts.scored == len(names)
    expected = {"id": [1, 2, 3], "uri": [1, 2, 3], "path": [1, 2, 3], "name": [2, 2]}[match]
    assert evaluation.pairs.scores[0].tolist() == expected


def test_urls_of_ground_truth_find_the_ids_that_are_made_of_them(tmp_path: Path) -> None:
    urls = [f"https://h/show?number={number}&sig=s" for number in range(3)]
    out = _store(tmp_path / "out", {uri_as_id(url): float(number) for number, url in enumerate(urls)})
    signed_again = [url.replace("sig=s", "sig=t") for url in urls]
    evaluation = evaluate_store(out, _truth(tmp_path / "t.json", [(url, 1) for url in signed_again]))
    assert evaluation.pairs.scores[0].tolist() == [0, 1, 2]
    raw = pa.table({"image_id": pa.array(urls, pa.large_string()), "score": pa.array([1, 2, 3], pa.float32())})
    evaluation = evaluate(raw, pa.table({"image_id": urls, "gt_score": [1, 2, 3]}))
    assert _counts(evaluation) == {"expected": 3, "scored": 3}


def test_ground_truth_may_spell_the_scheme_of_a_bucket_otherwise(tmp_path: Path) -> None:
    spelled = ["s3a://b/x/1.jpg", "gcs://b/y/1.jpg", "abfss://train@account.dfs.core.windows.net/1.jpg"]
    ids = ["s3://b/x/1.jpg", "gs://b/y/1.jpg", "az://train@account.dfs.core.windows.net/1.jpg"]
    assert as_ids(pa.array(spelled)).to_pylist() == ids
    out = _store(tmp_path / "out", {name: float(number) for number, name in enumerate(ids)})
    evaluation = evaluate_store(out, _truth(tmp_path / "t.json", [(uri, 1) for uri in spelled]))
    assert evaluation.pairs.scores[0].tolist() == [0, 1, 2]


def test_a_name_that_several_images_share_is_ambiguous_and_said(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"x/a.jpg": 1.0, "y/a.jpg": 3.0, "y/b.jpg": 2.0})
    truth = _truth(tmp_path / "t.json", [("a.jpg", 5), ("b.jpg", 6)])
    evaluation = evaluate_store(out, truth)
    assert _counts(evaluation) == {"expected": 2, "scored": 1, "ambiguous": 1}
    screen = run_artimuse("evaluate", out, "--ground-truth", truth).stdout
    assert "N = 1 of 2; 1 ambiguous (several images have this name); joined by path" in screen
    assert "There is only one pair." in screen


def test_names_of_different_depth_are_found_by_their_ends(tmp_path: Path) -> None:
    deep = "/".join("d" * 1100)
    out = _store(tmp_path / "out", {"1": 1.0, "x/2": 2.0, "x/y/3": 3.0, deep: 4.0})
    truths = [("photos/1", 1), ("photos/x/2", 2), ("y/3", 3), ("o/x/y/3", 4), (deep, 5), (f"o/{deep}", 6)]
    evaluation = evaluate_store(out, _truth(tmp_path / "t.json", truths), EvaluateOptions(match="path"))
    assert _counts(evaluation) == {"expected": 6, "scored": 4, "missing": 2}


def test_groups_are_measured_one_by_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    scores = {f"{number}": float(value) for number, value in enumerate(generator.normal(50, 10, 60))}
    truths = [(name, value + generator.normal(), "odd" if int(name) % 2 else "even") for name, value in scores.items()]
    options = EvaluateOptions(TruthColumns(group="kind"), resamples=50)
    out = _store(tmp_path / "out", {**scores, "0": "corrupt"})
    evaluation = evaluate_store(out, _truth(tmp_path / "t.json", truths, "kind"), options)
    even, odd = evaluation.groups
    assert (even.name, even.expected, even.agreement.n) == ("even", 30, 29)
    assert (odd.name, odd.expected, odd.agreement.n) == ("odd", 30, 30)
    pairs = np.array([[scores[name], truth] for name, truth, kind in truths if kind == "odd"])
    expected = stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic
    assert odd.agreement.srcc.value == pytest.approx(expected, abs=1e-6)
    rows = pq.read_table(f"{out}/metrics").to_pylist()
    assert [(row["group_by"], row["group"], row["n"]) for row in rows] == [
        (None, None, 59), ("kind", "even", 29), ("kind", "odd", 30)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "words", "revision"),
    [
        ("ArtiMuse", "name only, since", None),
        ("ArtiMuse@4f1c09", "name only (here at revision 4f1c09), since", "4f1c09"),
    ],
)
def test_what_is_published_is_said_to_be_found_by_name_in_every_format(
    checkpoint: str, words: str, revision: str | None, tmp_path: Path
) -> None:
    (tmp_path / "AVA").mkdir()
    out = _store(tmp_path / "out", {str(number): float(number) for number in range(10)}, checkpoint)
    truth = _truth(tmp_path / "AVA" / "test.json", [(str(number), 2.5 + 0.5 * number) for number in range(10)])
    command = ("evaluate", out, "--ground-truth", truth, "--resamples", "20")
    for form in ((), ("--markdown",), ("--latex",)):
        shown = run_artimuse(*command, *form).stdout.replace("\n", " ")
        assert f"Published: ArtiMuse, arXiv 2507.14533; by the checkpoint's {words} no paper says" in shown
    (found,) = json.loads(run_artimuse(*command, "--json").stdout)
    assert found["published"]["srcc"] == 0.397
    assert (found["published"]["matched_by"], found["published"]["revision"]) == ("name", revision)


def test_the_metrics_table_has_the_checkpoint_and_what_is_published_for_it(tmp_path: Path) -> None:
    (tmp_path / "AVA").mkdir()
    out = _store(tmp_path / "out", {str(number): float(number) for number in range(10)})
    truth = _truth(tmp_path / "AVA" / "test.json", [(str(number), 2.5 + 0.5 * number) for number in range(10)])
    evaluation = evaluate_store(out, truth, EvaluateOptions(resamples=20))
    (row,) = pq.read_table(f"{out}/metrics/AVA-score.parquet").to_pylist()
    assert pq.read_schema(f"{out}/metrics/AVA-score.parquet").equals(METRICS)
    assert (row["data_set"], row["checkpoint"], row["checkpoint_digest"]) == ("AVA", "ArtiMuse", "c" * 64)
    assert (row["published_srcc"], row["published_plcc"]) == (0.397, 0.385)
    assert row["srcc_difference"] == pytest.approx(1 - 0.397)
    assert row["threshold"] == 5.0
    assert (row["accuracy"], row["score_threshold"], row["accuracy_direct"], row["base_rate"]) == (1.0, 50.0, 0.6, 0.6)
    assert evaluation.notes == [
        "AVA's published split has 19,930 rows; this ground truth has 10.",
        "PLCC after a logistic mapping flatters: 10 pairs are few for its four or five parameters.",
    ]
    screen = run_artimuse("evaluate", out, "--ground-truth", truth).stdout
    assert "0.397" in screen
    assert "+0.6030" in screen
    shown = run_artimuse("evaluate", out, "--ground-truth", truth, "--markdown").stdout
    assert "| AVA | ArtiMuse@cccccc | 10 | 1.0000 (-0.5655 to 1.0000) |" in shown  # ten pairs in order are no proof
    assert "Published: ArtiMuse, arXiv 2507.14533; by the checkpoint's name only" in shown
    assert row["ground_truth_sha256"] in shown
    assert row["ground_truth_sha256"] in screen


def test_a_revision_of_a_checkpoint_is_held_against_what_is_published_for_it(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.0, "b": 2.0}, checkpoint="ArtiMuse@1a2b3c")
    truth = _truth(tmp_path / "truth.json", [("a", 1), ("b", 2)])
    published = evaluate_store(out, truth, EvaluateOptions(benchmark="AVA", resamples=20)).published
    assert published is not None
    assert (published.srcc, published.plcc) == (0.397, 0.385)


@pytest.mark.slow
def test_another_store_is_compared_on_the_rows_that_both_have(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    truths = generator.normal(size=80)
    good = {str(number): 50 + 10 * truth + generator.normal() for number, truth in enumerate(truths)}
    poor = {str(number): 50 + 10 * truth + generator.normal(0, 20) for number, truth in enumerate(truths)}
    out, other = _store(tmp_path / "good", {**good, "0": "corrupt"}), _store(tmp_path / "poor", {**poor, "1": "empty"})
    truth = _truth(tmp_path / "t.json", list(zip(good, truths.tolist(), strict=True)))
    against = evaluate_store(out, truth, EvaluateOptions(resamples=200), against=other).against
    assert against is not None
    assert against.difference.n == 78
    assert against.difference.srcc.value is not None
    assert against.difference.srcc.value > 0.1
    assert against.difference.srcc.p_value is not None
    assert against.difference.srcc.p_value < 0.05
    apart = [abs(row.score - row.other) for row in against.disagreements]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] == pytest.approx(max(abs(good[name] - poor[name]) for name in good if name not in "01"), abs=1e-4)
    screen = run_artimuse("evaluate", out, "--ground-truth", truth, "--against", other).stdout
    assert "On the 78 rows that all have scored" in screen
    assert f"{against.disagreements[0].key}: {against.disagreements[0].score:.2f} and" in screen


def test_without_ground_truth_the_manifest_of_the_last_run_is_taken(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.0, "b": 2.0, "c": 3.0})
    with pytest.raises(GroundTruthError, match="does not say what was scored"):
        evaluate_store(out, None)
    manifest = tmp_path / "m.parquet"
    (tmp_path / "out" / "_runs" / "r1").mkdir(parents=True)
    record = {"run_id": "r1", "arguments": {"source": str(manifest), "uri_column": "url"}}
    (tmp_path / "out" / "_runs" / "r1" / "run.json").write_text(json.dumps(record))
    pq.write_table(pa.table({"url": ["a", "b", "c"], "kind": ["x", "y", "y"]}), manifest)
    with pytest.raises(GroundTruthError, match="has no `gt_score`"):
        evaluate_store(out, None)
    pq.write_table(pa.table({"url": ["a", "b", "c"], "kind": ["x", "y", "y"], "gt_score": [3, 2, 1]}), manifest)
    assert evaluate_store(out, None).agreement.srcc.value == pytest.approx(-1)
    assert [group.name for group in evaluate_store(out, None, EvaluateOptions(TruthColumns(group="kind"))).groups] == [
        "x",
        "y",
    ]
    manifest.unlink()
    with pytest.raises(GroundTruthError, match="Name the ground truth with --ground-truth"):
        evaluate_store(out, None)


def test_two_arrow_tables_are_compared() -> None:
    scores = pa.table({"image_id": ["a", "b", "c", "d"], "score": pa.array([1, 2, None, 4], pa.float32())})
    truths = pa.table({"image_id": ["d", "c", "b", "a", "e"], "mos": [1, 2, 3, 4, 5], "kind": ["x"] * 5})
    evaluation = evaluate(scores, truths, EvaluateOptions(TruthColumns(truth="mos", group="kind")))
    assert _counts(evaluation) == {"expected": 5, "scored": 3, "failed": 1, "missing": 1}
    assert evaluation.agreement.srcc.value == pytest.approx(-1)
    assert evaluation.to_table().schema.equals(METRICS)
    with pytest.raises(GroundTruthError, match="The scores have no column 'iaa'"):
        evaluate(scores, truths, question="iaa")
    with pytest.raises(GroundTruthError, match="The ground truth: has no column 'gt_score'"):
        evaluate(scores, truths)


def test_nothing_to_compare_gives_nulls_and_reasons(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.0, "b": 1.0, "c": "empty"})
    for rows in ([], [("x", 1), ("y", 2)], [("a", 1), ("b", 2)], [("a", None)]):
        evaluation = evaluate_store(out, _truth(tmp_path / "t.json", rows))
        for name in ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc"):
            estimate = getattr(evaluation.agreement, name)
            assert estimate.value is None
            assert estimate.reason
    empty = open_store(tmp_path / "empty")
    complete(empty, plan_for(empty, write_manifest(tmp_path / "m.parquet", ["a"]), "p"))
    (tmp_path / "empty" / "scores" / "p-00000.parquet").unlink()
    truth = _truth(tmp_path / "t.json", [("a", 1)])
    assert _counts(evaluate_store(str(tmp_path / "empty"), truth)) == {"expected": 1, "missing": 1}


@pytest.mark.slow
def test_gates_and_completeness_decide_the_exit_code(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {str(number): float(number) for number in range(20)})
    truth = _truth(tmp_path / "t.json", [(str(number), number % 7) for number in range(21)])
    command = ("evaluate", out, "--ground-truth", truth, "--resamples", "20")
    run_artimuse(*command, "--gate", "srcc>=.1", "--gate", "n >= 20", "--gate", "completeness>9e-1")
    run_artimuse(*command, "--against", out, "--gate", "srcc_against<=0", "--gate", "srcc_against_p > .9")
    missed = run_artimuse(*command, "--gate", "srcc_low>=.99", "--gate", "mae<0", "--require-complete", code=1).stderr
    assert all(word in missed for word in ("srcc_low>=0.99 is missed", "mae<0 is missed", "--require-complete is"))
    for gate, sentence in (
        ("srcc>=0.80", "GateFailed: t, ArtiMuse@cccccc: srcc>=0.8 is missed: it is "),
        ("completeness>=1", "completeness>=1 is missed: it is 0.952381."),
        ("accuracy>0", "accuracy>0 cannot be checked: No threshold was given; add --threshold."),
        ("accuracy_direct>0", "accuracy_direct>0 cannot be checked: No threshold was given; add --score-threshold."),
        ("srcc_difference>0", "Nothing is published for this checkpoint on this data set."),
        ("srcc_against_low>0", "Nothing is compared with; add --against."),
    ):
        done = run_artimuse(*command, "--gate", gate, code=1)
        assert sentence in done.stderr
        assert "N = 20 of 21; 1 missing" in done.stdout
    assert "N = 20 of 21" in run_artimuse(*command, "--require-complete", code=1).stderr
    for gate, sentence in (("srcc", "takes a metric, a comparison"), ("src>=1", "Did you mean srcc?")):
        assert sentence in run_artimuse(*command, "--gate", gate, code=2).stderr
    (json_shown,) = json.loads(run_artimuse(*command, "--json", "--by", "image").stdout)
    assert json_shown["counts"]["missing"] == 1
    assert json_shown["metrics"]["srcc"]["low"] < json_shown["metrics"]["srcc"]["value"]
    assert len(json_shown["groups"]) == 21


def test_the_results_file_is_that_of_the_published_scripts(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.5, "b": "corrupt", "é|<": 2.5})
    truth = _truth(tmp_path / "t.json", [("é|<", 1), ("b", 1), ("a", 2), ("a", 2)])
    run_artimuse("evaluate", out, "--ground-truth", truth, "--results", tmp_path / "r.json")
    written = (tmp_path / "r.json").read_text()
    a: dict[str, Any]
    e: dict[str, Any]
    a, e = {"image": "a", "score": 1.5}, {"image": "é|<", "score": 2.5}
    assert written == json.dumps([e, a, a], indent=2)
    table = tmp_path / "results.csv"
    table.write_text('image,score\na,1.5\n"é|<",2.5\n')
    for_unipercept = evaluate_store(str(table), truth)
    protocol = replace(FINGERPRINT, protocol="unipercept")
    assert write_results(replace(for_unipercept, fingerprint=protocol), str(tmp_path / "u.json")) == 4
    rows = [e | {"gt_score": 1}, {"image": "b", "gt_score": 1, "score": None}, *[a | {"gt_score": 2}] * 2]
    ordered = [{name: row[name] for name in ("image", "gt_score", "score")} for row in rows]
    assert (tmp_path / "u.json").read_text() == json.dumps(ordered, indent=2, ensure_ascii=False)


def test_ground_truth_of_the_same_name_elsewhere_is_another_data_set(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.5, "b": 2.5, "c": 0.5})
    for folder, points in (("one", (1, 2, 3)), ("two", (3, 2, 1)), ("one", (1, 3, 2))):  # the last has changed
        (tmp_path / folder).mkdir(exist_ok=True)
        _truth(tmp_path / folder / "val.json", list(zip("abc", points, strict=True)))
        run_artimuse("evaluate", out, "--ground-truth", tmp_path / folder / "val.json")
    found = {row["ground_truth"]: row["n"] for row in pq.read_table(tmp_path / "out" / "metrics").to_pylist()}
    assert found == {f"{tmp_path}/one/val.json": 3, f"{tmp_path}/two/val.json": 3}
    assert len(list((tmp_path / "out" / "metrics").iterdir())) == 2


@pytest.mark.parametrize(("option", "name"), [("--results", "t.json"), ("--plots", "holiday.png")])
def test_only_a_file_that_an_evaluation_wrote_is_replaced(tmp_path: Path, option: str, name: str) -> None:
    out = _store(tmp_path / "out", {"a": 1.5, "b": 2.5})
    _truth(tmp_path / "t.json", [("a", 1), ("b", 2)])
    shutil.copy(golden_images()[0], tmp_path / "holiday.png")
    before = (tmp_path / name).read_bytes()
    command = ("evaluate", out, "--ground-truth", tmp_path / "t.json", option)
    done = run_artimuse(*command, tmp_path / name, code=2)
    assert f"{option} {tmp_path / name}: is there already and is no earlier" in done.stderr
    assert (tmp_path / name).read_bytes() == before
    folder = tmp_path / f"folder{Path(name).suffix}"
    folder.mkdir()
    assert f"{option} {folder}: is a folder. Name a file." in run_artimuse(*command, folder, code=2).stderr
    again = tmp_path / f"again{Path(name).suffix}"
    again.touch()
    for _ in range(2):
        run_artimuse(*command, again)
    assert again.stat().st_size > 10


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_plots_are_drawn_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    generator = np.random.default_rng(3)
    truths = generator.normal(size=3000)
    scores = pa.table({"image_id": list(map(str, range(3000))), "score": truths + generator.normal(size=3000)})
    truth = pa.table({"image_id": list(map(str, range(3000))), "gt_score": truths})
    from jobs.evaluate.plots import write_plots

    for name in ("a", "b"):
        write_plots(evaluate(scores, truth, EvaluateOptions(resamples=2)), str(tmp_path / f"{name}.{suffix}"))
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    nothing = evaluate(scores.slice(0, 0), truth.slice(0, 0))
    write_plots(nothing, str(tmp_path / f"b.{suffix}"))  # in the place of an earlier one


def test_of_a_store_that_can_only_be_read_gates_are_checked_all_the_same(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {str(number): float(number) for number in range(20)})
    truth = _truth(tmp_path / "t.json", [(str(number), number) for number in range(20)])
    (tmp_path / "out" / "metrics").write_text("a file in the place of the folder")
    command = ("evaluate", out, "--ground-truth", truth, "--gate")
    done = run_artimuse(*command, "srcc>=0.5")
    assert "The store has no note of these metrics. " in done.stderr
    assert "srcc>=0.99 is missed" not in done.stderr
    assert "srcc>=2 is missed" in run_artimuse(*command, "srcc>=2", code=1).stderr


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    out = _store(tmp_path / "out", {"a": 1.0})
    truth = _truth(tmp_path / "t.json", [("a", 1)])
    for options, sentence in (
        ({"match": "guess"}, "--match takes id, uri, path, name"),
        ({"resamples": 0}, "--resamples takes a whole number"),
        ({"seed": -1}, "--seed takes a whole number"),
        ({"threshold": float("nan")}, "--threshold takes a number, not nan"),
        ({"score_threshold": float("inf")}, "--score-threshold takes a number, not inf"),
    ):
        with pytest.raises(UsageError, match=sentence):
            EvaluateOptions(**options)
    with pytest.raises(UsageError, match="has no score 'iaa'; it has score"):
        evaluate_store(out, truth, EvaluateOptions(question="iaa"))
    with pytest.raises(UsageError, match=r"Did you mean TAD66K\?"):
        evaluate_store(out, truth, EvaluateOptions(benchmark="TAD-66K"))
    done = run_artimuse("evaluate", out, "--ground-truth", truth, "--plots", "x.gif", code=2)
    assert "takes a file called" in done.stderr


def test_join_counts_say_when_they_are_complete() -> None:
    assert JoinCounts(expected=2, scored=2).is_complete
    assert not JoinCounts(expected=2, scored=1, missing=1).is_complete
