"""Texts through the commands, as a user asks for them: real files, Ray, and a kill."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars
import pyarrow.dataset as ds
import pytest
from support.golden import golden_answers, golden_checkpoint, golden_images
from support.paths import GOLDEN
from support.photo_library import make_photos
from support.score_job import has_files, kill_when, run_artimuse, run_score, table_rows

from artimuse_actor.protocol.protocols import ARTIMUSE
from schemas.text_settings import text_column

pytestmark = pytest.mark.timeout(240)

IMAGES = GOLDEN / "artimuse" / "images"
GOLDEN_LIMIT = 48
COLUMNS = {text_column(title): title for title in ARTIMUSE.text_questions}
GOLDEN_TEXTS: dict[str, dict[str, str]] = {answer["image"]: answer["texts"] for answer in golden_answers("artimuse")}


def _assert_golden(row: dict[str, Any], image: str) -> None:
    assert {title: row[column] for column, title in COLUMNS.items()} == GOLDEN_TEXTS[image]
    for column in COLUMNS:
        tokens, reason = row[f"{column}_tokens"], row[f"{column}_finish_reason"]
        assert (tokens == GOLDEN_LIMIT) if reason == "length" else (reason == "stop" and 0 <= tokens < GOLDEN_LIMIT)


@pytest.mark.process
@pytest.mark.parametrize("sequences", ["5", "32"])
def test_texts_of_the_job_equal_the_published_codes(tmp_path: Path, sequences: str) -> None:
    options = ("--texts", "--max-new-tokens", str(GOLDEN_LIMIT), "--sequences", sequences, "--unit-size", "3")
    screen = run_score(IMAGES, tmp_path / "out", *options)
    assert "13 of 13 images, 13 described" in screen
    scores, texts = table_rows(tmp_path / "out"), table_rows(tmp_path / "out", "texts")
    assert scores.keys() == texts.keys() == GOLDEN_TEXTS.keys()
    for answer in golden_answers("artimuse"):
        row = texts[answer["image"]]
        _assert_golden(row, answer["image"])
        assert row["sha256"] == scores[answer["image"]]["sha256"]
        assert scores[answer["image"]]["score"] == pytest.approx(answer["scores"]["score"]["score"], abs=1e-3)
    assert polars.scan_parquet(tmp_path / "out" / "texts").collect().height == 13


@pytest.mark.process
def test_texts_asked_for_later_are_added_and_nothing_is_scored_again(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(IMAGES, photos)
    (photos / "broken.jpg").write_bytes(b"no picture")
    run_score(photos, out)
    scores = table_rows(out)
    (photos / "00_rgb_448x448.jpg").unlink()  # left the folder: its score stays, and nobody can describe it
    shutil.copy(IMAGES / "02_rgb_300x900.jpg", photos / "01_rgb_640x480.jpg")  # changed
    shutil.copy(IMAGES / "05_gray.png", photos / "new.png")
    screen = run_score(photos, out, "--texts", "--max-new-tokens", str(GOLDEN_LIMIT))
    assert "2 of 14 images, 13 described" in screen
    assert "13 of 14 images with a score are described, 1 not" in screen
    texts = table_rows(out, "texts")
    shown = {name: name for name in GOLDEN_TEXTS if name != "00_rgb_448x448.jpg"}
    shown |= {"01_rgb_640x480.jpg": "02_rgb_300x900.jpg", "new.png": "05_gray.png"}
    assert texts.keys() == shown.keys()
    for name, image in shown.items():
        _assert_golden(texts[name], image)
    after = table_rows(out)
    assert {name for name in after if after[name] != scores.get(name)} == {"01_rgb_640x480.jpg", "new.png"}

    # From now on the store has texts, also when they are not asked for.
    shutil.copy(IMAGES / "06_palette.png", photos / "newer.png")
    run_score(photos, out)
    _assert_golden(table_rows(out, "texts")["newer.png"], "06_palette.png")
    assert "Nothing to do" in run_score(photos, out, "--texts")
    status = json.loads(run_artimuse("status", out, "--json").stdout)
    assert status["texts"]["described"] == 14
    assert status["texts"]["waiting"] == 1
    assert status["reconciled"] is True


@pytest.mark.process
def test_some_attributes_only_and_questions_of_ones_own(tmp_path: Path) -> None:
    protocol = tmp_path / "mine.toml"
    own = "Please evaluate the aesthetic quality of this image from the aspect of Overall Gestalt."
    protocol.write_text(f'name = "mine"\n[texts]\n"Das Ganze" = "{own}"\n"Flaws" = "Which flaws has it?"\n')
    checkpoint = ("--checkpoint", golden_checkpoint("artimuse"))
    limit = ("--max-new-tokens", str(GOLDEN_LIMIT))
    options = (*checkpoint, "--protocol", protocol, "--texts", *limit)
    run_artimuse("score", IMAGES, "--out", tmp_path / "mine", "--attributes", "das_ganze", *options, "--local")
    rows = table_rows(tmp_path / "mine", "texts")
    assert {name: row["das_ganze"] for name, row in rows.items()} == {
        name: texts["Overall Gestalt"] for name, texts in GOLDEN_TEXTS.items()
    }
    assert not any("flaws" in column for row in rows.values() for column in row)
    shown = run_artimuse("image", IMAGES / "05_gray.png", *options, "--json").stdout
    assert json.loads(shown)["Aesthetic Attributes"]["Das Ganze"] == GOLDEN_TEXTS["05_gray.png"]["Overall Gestalt"]
    done = run_artimuse("score", IMAGES, "--out", tmp_path / "mine", *checkpoint, "--protocol", "artimuse", code=1)
    assert "StoreMismatch" in done.stderr


@pytest.mark.slow
def test_one_image_prints_as_the_published_code_has_it() -> None:
    answer = next(answer for answer in golden_answers("artimuse") if answer["image"] == "08_cmyk.jpg")
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--texts", "--max-new-tokens", str(GOLDEN_LIMIT))
    for sequences in ("1", "32"):
        printed = run_artimuse("image", IMAGES / "08_cmyk.jpg", *options, "--sequences", sequences, "--json").stdout
        shown = json.loads(printed)
        assert list(shown) == ["Aesthetic Score", "Aesthetic Attributes"]
        assert list(shown["Aesthetic Attributes"].items()) == list(GOLDEN_TEXTS["08_cmyk.jpg"].items())
        assert shown["Aesthetic Score"] == pytest.approx(answer["scores"]["score"]["score"], abs=1e-3)


@pytest.mark.slow
def test_several_images_print_as_a_list_in_order_with_their_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    files = [*golden_images()[:3], tmp_path / "bad.jpg", golden_images()[3]]
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--texts", "--max-new-tokens", str(GOLDEN_LIMIT))
    shown = json.loads(run_artimuse("image", *files, *options, "--json", code=1).stdout)
    assert [row["image"] for row in shown] == list(map(str, files))
    assert shown[3]["error_type"] == "not_an_image"
    for row, file in zip(shown, files, strict=True):
        assert row.get("Aesthetic Attributes") == GOLDEN_TEXTS.get(file.name)
    screen = run_artimuse("image", *files, *options, code=1).stdout
    assert f"{tmp_path}/bad.jpg: not_an_image: " in screen


def test_an_answer_with_several_scores_keeps_the_names_of_its_columns() -> None:
    options = ("--checkpoint", golden_checkpoint("unipercept"), "--protocol", "unipercept")
    texts = ("--texts", "--attributes", "iqa_distortion_type", "--max-new-tokens", "5", "--json")
    shown = json.loads(run_artimuse("image", golden_images()[0], *options, *texts).stdout)
    assert {"status", "iaa", "iaa_std", "iqa", "ista", "texts"} < shown.keys()
    assert list(shown["texts"]) == ["IQA-Distortion Type"]


def test_every_question_is_listed() -> None:
    for command in ("score", "image"):
        shown = run_artimuse(command, "--questions").stdout
        for title, question in ARTIMUSE.text_questions.items():
            assert f"{title}  ({text_column(title)})\n    {question.strip()}\n" in shown
        assert "iqa_distortion_severity" in shown


def test_options_of_texts_without_texts_are_refused(tmp_path: Path) -> None:
    for option in ("--attributes=x", "--max-new-tokens=3"):
        done = run_artimuse("score", tmp_path, "--out", tmp_path / "out", option, code=2)
        assert "Add --texts." in done.stderr


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.ray
def test_a_run_killed_during_texts_ends_with_every_text_once(tmp_path: Path) -> None:
    names, out = make_photos(tmp_path / "photos", 48), tmp_path / "out"
    driver = (
        "import sys; from jobs.score.run import score; from jobs.score.settings import *\n"
        "score(ScoreSettings(sys.argv[1], sys.argv[2], sys.argv[3], unit_size=3, shard_rows=12, batch_size=1,"
        " texts=WantedTexts(max_new_tokens=8), sequences=8, local=sys.argv[4] == 'local'))"
    )
    command: list[str | Path] = [
        sys.executable, "-c", driver, tmp_path / "photos", golden_checkpoint("artimuse"), out
    ]  # fmt: skip
    moments: list[tuple[Callable[[], bool], str]] = [
        (lambda: any((out / "_runs").glob("*/staging/*/*.parquet")), "ray"),
        (partial(has_files, out / "texts", 1), "local"),
        (partial(has_files, out / "texts", 3), "ray"),
        (lambda: False, "local"),
    ]
    for is_time, where in moments:
        code = kill_when([*command, where], is_time, tmp_path / "log", lambda: _assert_scores_have_texts(out))
    assert code == 0, (tmp_path / "log").read_text()
    scores, texts = table_rows(out), table_rows(out, "texts")
    assert sorted(scores) == names
    assert texts.keys() == {name for name, row in scores.items() if row["status"] == "ok"}
    assert sorted(path.name for path in (out / "texts").iterdir()) == sorted(
        path.name for path in (out / "scores").iterdir()
    )
    # All photos are the same picture: whatever the kills did to the batches, its texts are the same.
    assert len({tuple(row[column] for column in COLUMNS) for row in texts.values()}) == 1


def _assert_scores_have_texts(out: Path) -> None:
    """At every moment: no score is committed without its texts."""
    if has_files(out / "scores", 1):
        scored = ds.dataset(out / "scores").to_table(columns=["image_id", "status"]).to_pylist()
        described = ds.dataset(out / "texts").to_table(columns=["image_id"])["image_id"].to_pylist() if scored else []
        assert len(set(described)) == len(described)
        assert {row["image_id"] for row in scored if row["status"] == "ok"} <= set(described)
