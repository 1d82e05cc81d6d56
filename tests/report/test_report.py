"""Stores of all kinds as one HTML file: complete, small, and inert whatever is in them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from support.golden import golden_images
from support.paths import REPO
from support.report_stores import TITLES, write_large_store, write_run, write_store
from support.score_job import run_artimuse

from artimuse_actor.errors import GroundTruthError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.protocol.protocols import UNIPERCEPT
from jobs.__main__ import app
from jobs.curate.equal_hashes import hash_codes, largest_groups, leaders
from jobs.evaluate.options import EvaluateOptions
from jobs.evaluate.truth_columns import TruthColumns
from jobs.report.galleries import Doubles, doubles_hall, ranked_halls
from jobs.report.report import LIMIT_BYTES, ReportSettings, write_report
from jobs.report.retry_command import retry_command, score_options
from jobs.report.safe_text import cut, fair_limit, script_json, shell_word, size_bytes, visible
from jobs.report.scored_rows import scan_rows
from jobs.store.store import Store

COMMANDS: Any = typer.main.get_command(app)
OPTIONS = score_options(COMMANDS.commands["score"])
HOSTILE = (
    "<script>document.title='taken'</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "</script><script>document.title='taken'</script>",
    "<!-- <script> {{ 7 * 7 }} {% raw %} &lt;b&gt; ]]>",
    "invoice\u202egpj.exe",
    "line\u2028end\u2029\x00\x1b[31mred\x07\ufeff",
    "' onmouseover='alert(1)",
)
KNOWN = set(
    re.findall(
        r"\w+",
        "html head body meta title link style script noscript a header nav main section footer button span small abbr "
        "h1 h2 h3 h4 p dl div dt dd figure figcaption svg desc line rect circle path text table thead tbody tr th td "
        "ul li strong details summary bdi code dialog",
    )
)
VOID = ("meta", "link", "br", "img")


class Page(HTMLParser):
    """The content of a page: its elements, its words, and the data of its pictures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.raw:
            self.raw[self._open[-1]].append(data)
        else:
            self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).split())

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw["script"][0]) if len(self.raw["script"]) == 2 else {"pictures": []}
        return found

    @property
    def pictures(self) -> dict[str, dict[str, Any]]:
        return {picture["id"]: picture for picture in self.data["pictures"]}

    def ids_of(self, gallery: int) -> list[str]:
        names: list[str] = [self.data["pictures"][place]["id"] for place, _ in self.data["galleries"][gallery]]
        return names


def _report(store: Store, **settings: Any) -> Page:
    out = Path(store.place.root).parent / "report.html"
    done = write_report(ReportSettings([store.place.root], str(out), score_options=OPTIONS, **settings))
    html = out.read_bytes()
    assert done.size_bytes == len(html) <= LIMIT_BYTES
    return Page(html.decode())


def _scored(scores: Mapping[str, float], **columns: Any) -> list[dict[str, Any]]:
    return [{"image_id": name, "score": points, **columns} for name, points in scores.items()]


def _texts(rows: Sequence[Mapping[str, Any]], text: str = "Calm and clear.") -> dict[str, list[str]]:
    return {row["image_id"]: [f"{title}: {text}" for title in TITLES] for row in rows}


def _pictures(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows whose images are there."""
    images = golden_images()
    return [
        {"image_id": f"{n}.jpg", "uri": str(images[n % len(images)]), "score": 10.0 + 80 * n / count}
        for n in range(count)
    ]


@pytest.mark.process
def test_a_page_has_all_there_is_to_say(tmp_path: Path) -> None:
    rows = _pictures(tmp_path, 12)
    failed = [{"image_id": f"bad{n}", "error_type": kind} for n, kind in enumerate(["truncated", "missing", "missing"])]
    store = write_store(tmp_path / "out", [*rows, *failed], texts=_texts(rows))
    write_run(store, "photos", checkpoint="ArtiMuse", texts=True)
    page = _report(store)
    for words in (
        "15 images, scored with ArtiMuse ",
        "scored 12 80 %",
        "failed 3 2 types",
        "described 12 8 texts each",
    ):
        assert words in page.text, words
    assert "2 images" in page.text
    assert "It is no good." in page.text
    assert len(page.pictures) == 12
    assert all(picture["image"].startswith("data:image/webp;base64,") for picture in page.pictures.values())
    assert [title for title, _ in page.pictures["3.jpg"]["texts"]] == list(TITLES)
    assert "There is no ground truth here." in page.text
    assert not list(tmp_path.glob(".*"))


def test_hostile_text_is_inert_wherever_it_stands(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"image_id": f"{n}{text}", "uri": f"/nowhere/{text}", "score": 50.0 + n, "format": text}
        for n, text in enumerate(HOSTILE)
    ]
    failed = [{"image_id": f"f{text}", "error_type": text, "error_message": text, "uri": text} for text in HOSTILE]
    texts = {row["image_id"]: [HOSTILE[n]] * 8 for n, row in enumerate(rows)}
    store = write_store(tmp_path / "out", [*rows, *failed], texts=texts)
    write_run(store, HOSTILE[0], images=HOSTILE[1], checkpoint=HOSTILE[4])
    curation = {"funnel": {"source": HOSTILE[0], "rows": 3, "steps": [{"name": HOSTILE[1], "removed": 1, "left": 2}]}}
    store.place.write("_curations/a.json", json.dumps(curation).encode())
    page = _report(store, evaluate=EvaluateOptions(columns=TruthColumns(group="format")))
    assert {tag for tag, _ in page.elements} <= KNOWN
    assert [attributes.get("type") for tag, attributes in page.elements if tag == "script"] == [
        "application/json",
        None,
    ]
    assert not [
        name for _, attributes in page.elements for name in attributes if name.startswith("on") or name == "style"
    ]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00-\x08\x0b-\x1f\x7f\ufeff]", page.html)
    for n, text in enumerate(HOSTILE):
        picture = page.pictures[visible(f"{n}{text}")]
        assert picture["texts"] == [[title, visible(text)] for title in TITLES]
        assert f"f{' '.join(visible(text).split())}" in page.text
    assert "invoice⟨U+202E⟩gpj.exe" in page.text


def test_the_policy_allows_our_own_script_and_style_and_nothing_else(tmp_path: Path) -> None:
    page = _report(write_store(tmp_path / "out", _scored({"a": 1.0})))
    (policy,) = [about["content"] for _, about in page.elements if about.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": digest(page.raw["style"][0]),
        "script-src": digest(page.raw["script"][1]),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for _, about in page.elements:
        assert not str(about.get("href") or "").startswith(("http", "//", "file"))
        assert "src" not in about


@pytest.mark.process
def test_long_texts_and_thousands_of_pictures_keep_to_the_limit(tmp_path: Path) -> None:
    rows = _pictures(tmp_path, 300)
    rows[0] |= {"image_id": "long-" + "x<" * 50_000, "uri": "y" * 100_000}
    texts = _texts(rows, "A longer text about this picture, & what it says. " * 20)
    texts[rows[1]["image_id"]] = ["\u202e<b>" * 25_000] * 8
    store = write_store(tmp_path / "out", rows, texts=texts)
    page = _report(store, thumbnails=5000)
    assert len(page.pictures) == 300
    assert sum("image" in picture for picture in page.pictures.values()) >= 290
    assert "more characters are left out here" in page.html
    told = page.pictures["2.jpg"]["texts"][0][1]
    assert len(told) > 400  # the many are not cut to nothing for the sake of one


@pytest.mark.process
def test_pictures_of_a_store_that_turned_them_are_shown_turned(tmp_path: Path) -> None:
    rows = [{"image_id": path.name, "uri": str(path), "score": 1.0} for path in golden_images() if "exif" in path.name]
    sizes = []
    for preprocessing in ("rgb-bicubic-448/1", "rgb-bicubic-448/1+exif-rotate"):
        store = write_store(tmp_path / preprocessing, rows)
        (Path(store.place.root) / "_store.json").unlink()
        store.fingerprint = replace(store.fingerprint, preprocessing=preprocessing)
        store.declare()
        (picture,) = _report(store).pictures.values()
        with Image.open(io.BytesIO(base64.b64decode(picture["image"].partition(",")[2]))) as image:
            sizes.append(image.size)
    assert sizes == [(448, 299), (299, 448)]


def test_a_hundred_kilobytes_are_shown_whole_where_there_is_room(tmp_path: Path) -> None:
    rows = _scored({"a": 1.0, "b": 2.0})
    texts = _texts(rows)
    texts["a"] = ["word " * 20_000] * 8
    page = _report(write_store(tmp_path / "out", rows, texts=texts))
    assert page.pictures["a"]["texts"][7][1] == "word " * 20_000


@pytest.mark.process
@pytest.mark.timeout(240)
def test_a_million_rows_make_a_small_page(tmp_path: Path) -> None:
    rows = 15_625
    store = write_large_store(tmp_path / "out", rows, golden_images())
    for table in ("scores", "texts"):
        for copy in range(1, 64):
            os.link(tmp_path / "out" / table / "t-00000.parquet", tmp_path / "out" / table / f"t-{copy:05}.parquet")
    page = _report(store, thumbnails=40)
    assert "1,000,000 images" in page.text
    assert 30 <= len(page.data["pictures"]) <= 40
    assert page.html.index("</svg>") < 60_000  # the first screen comes before the data


def test_texts_are_found_in_whatever_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.store._TEXT_GROUP_ROWS", 3)
    monkeypatch.setattr("jobs.report.pictures._TEXT_BATCH_ROWS", 2)
    rows = _scored({f"{n}.jpg": 1.0 * n for n in range(20)})
    texts = {name: [f"{name}: {text}" for text in told] for name, told in _texts(rows[::2]).items()}
    page = _report(write_store(tmp_path / "out", rows, texts=texts, shard_rows=11))
    for row in rows:
        told = texts.get(row["image_id"], [])
        assert [text for _, text in page.pictures[row["image_id"]]["texts"]] == told


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    page = _report(write_store(tmp_path / "out", []))
    assert "Nothing has been scored yet." in page.text
    assert "Nothing was tried yet." in page.text
    assert page.data == {"pictures": []}
    assert "svg" not in dict(page.elements)


def test_a_store_of_nothing_but_failures_says_why(tmp_path: Path) -> None:
    failed = [{"image_id": f"{n}.jpg", "error_type": "forbidden", "retryable": True} for n in range(9)]
    page = _report(write_store(tmp_path / "out", failed))
    assert "forbidden 9 images, may succeed now" in page.text
    assert page.text.count("It is no good.") == 5
    assert "There are no scores." in page.text
    assert not page.pictures


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    store = write_store(tmp_path / "out", _scored({"a": 1.0}))
    (tmp_path / "index.html").write_text("<!doctype html><title>My garden</title>")
    (tmp_path / "report.html").touch()
    settings = ReportSettings((store.place.root,), str(tmp_path / "report.html"))
    sizes = [write_report(settings).size_bytes for _ in range(2)]
    assert sizes[0] == sizes[1] > 1000
    with pytest.raises(UsageError, match=r"--out .*index\.html: is there already and is no earlier report\."):
        write_report(replace(settings, out=str(tmp_path / "index.html")))
    assert "My garden" in (tmp_path / "index.html").read_text()


def test_no_pictures_are_read_if_none_are_wanted(tmp_path: Path) -> None:
    page = _report(write_store(tmp_path / "out", _pictures(tmp_path, 5)), thumbnails=0)
    assert not page.pictures
    assert "5 images" in page.text
    with pytest.raises(UsageError, match="--thumbnails takes a whole number from 0 to 5,000, not 5001"):
        ReportSettings(["out"], "report.html", thumbnails=5001)


@pytest.mark.parametrize("thumbnails", [1, 5, 17])
def test_no_more_pictures_are_shown_than_asked_for(tmp_path: Path, thumbnails: int) -> None:
    rows = [{"image_id": str(n), "score": 1.0 * n, "sha256": f"{n // 2:064x}"[::-1]} for n in range(60)]
    page = _report(write_store(tmp_path / "out", rows), thumbnails=thumbnails)
    assert 1 <= len(page.pictures) <= thumbnails
    assert all(gallery for gallery in page.data["galleries"])


@pytest.mark.process
def test_images_that_are_gone_or_out_of_bounds_leave_a_sentence(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(golden_images()[0], root / "inside.jpg")
    (root / "broken.jpg").write_bytes(golden_images()[0].read_bytes()[:200])
    uris = {
        "inside": f"{root}/inside.jpg",
        "outside": str(golden_images()[0]),
        "gone": f"{root}/gone.jpg",
        "broken": f"{root}/broken.jpg",
        "private": "http://127.0.0.1:9/a.jpg",
        "embedded": None,
    }
    store = write_store(tmp_path / "out", [{"image_id": name, "uri": uri} for name, uri in uris.items()])
    page = _report(store, fetch=FetchOptions(root=str(root)))
    gone = {name: picture.get("gone", "").split(":")[0] for name, picture in page.pictures.items()}
    assert gone == {
        "inside": "",
        "outside": "outside_root",
        "gone": "missing",
        "broken": "truncated",
        "private": "outside_root",
        "embedded": "missing",
    }
    assert _report(store).pictures["private"]["gone"].startswith("forbidden_host")


def test_a_store_without_texts_has_pictures_without(tmp_path: Path) -> None:
    page = _report(write_store(tmp_path / "out", _scored({"a": 1.0})))
    assert page.pictures["a"]["texts"] == []
    assert "described" not in page.text


def test_galleries_hold_what_sorting_by_hand_gives(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    rows: list[dict[str, Any]] = [
        {"image_id": str(n), "score": float(points), "score_std": float(spread)}
        for n, (points, spread) in enumerate(random.uniform(0, 100, (500, 2)))
    ]
    rows[7]["score"] = rows[8]["score"] = 100.0
    rows.insert(250, {"image_id": "error", "error_type": "missing"})
    store = write_store(tmp_path / "out", rows)
    scored = scan_rows([store], "score")
    tenths, best, worst, unsure = ranked_halls(scored, "score", 200)
    numbers = {row["image_id"]: number for number, row in enumerate(rows)}
    good = [row for row in rows if "score" in row]
    ascending = [numbers[row["image_id"]] for row in sorted(good, key=lambda row: row["score"])]
    assert best.galleries[0].rows[2:] == ascending[::-1][2:20]
    assert set(best.galleries[0].rows[:2]) == {7, 8}
    assert worst.galleries[0].rows == ascending[:20]
    by_spread = sorted(good, key=lambda row: -row["score_std"])
    assert unsure.galleries[0].rows == [numbers[row["image_id"]] for row in by_spread[:20]]
    assert [gallery.images for gallery in tenths.galleries] == [50] * 10
    for number, gallery in enumerate(tenths.galleries):
        part = ascending[::-1][50 * number : 50 * (number + 1)]
        assert gallery.rows[0] in part[:2]
        assert set(gallery.rows) <= set(part) | {7, 8}
    assert scored.failures["missing"].examples == (250,)


def test_doubles_and_look_alikes_are_grouped(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *({"image_id": f"same{n}", "sha256": "a" * 64, "phash": "b" * 16} for n in range(3)),
        {"image_id": "like0", "sha256": f"{1:064x}"[::-1], "phash": "c" * 16, "score": 60.0},
        {"image_id": "like1", "sha256": f"{2:064x}"[::-1], "phash": "c" * 14 + "f0", "score": 50.0},
        {"image_id": "apart", "sha256": f"{3:064x}"[::-1], "phash": "3" * 16},
        {"image_id": "alone", "sha256": "d" * 64, "phash": "d" * 16},
        {"image_id": "unhashed"},
        {"image_id": "unhashed too"},
    ]
    page = _report(write_store(tmp_path / "out", rows, shard_rows=2))
    assert "2 images have the bytes of another one; 1 image has other bytes and a perceptual hash" in page.text
    assert "2 images with nearly the same look" in page.text
    assert "3 images with the same bytes" in page.text
    assert page.ids_of(-2) == ["same0", "same1", "same2"]
    assert page.ids_of(-1) == ["like0", "like1"]


def test_leaders_are_those_of_a_dictionary() -> None:
    import pyarrow as pa

    words = [None, "00ff" * 4, "ff" * 8, "00ff" * 4, "short", "ff" * 8, "no hexadecimal 0"]
    codes = hash_codes(pa.chunked_array([words[:3], words[3:]], pa.string()), 16)
    assert codes.tolist() == [0, 0x00FF00FF00FF00FF, 2**64 - 1, 0x00FF00FF00FF00FF, 0, 2**64 - 1, 0]
    assert leaders(codes).tolist() == [0, 1, 2, 1, 4, 2, 6]
    assert [group.tolist() for group in largest_groups(leaders(codes), 5)] == [[1, 3], [2, 5]]
    assert hash_codes(pa.chunked_array([["ff" * 8 + "00" * 24, "ff" * 8]]), 64).tolist() == [2**64 - 1, 0]
    assert len(leaders(codes[:0])) == 0
    assert largest_groups(leaders(codes[:0]), 5) == []


def test_scores_are_shown_by_a_column_of_the_table(tmp_path: Path) -> None:
    rows = [*_scored({"a": 10.0, "b": 20.0}, format="PNG"), *_scored({"c": 90.0}, format="WEBP")]
    page = _report(write_store(tmp_path / "out", rows), evaluate=EvaluateOptions(columns=TruthColumns(group="format")))
    assert "By format" in page.text
    assert "PNG 2 15.0 12.5 – 17.5 WEBP 1 90.0" in page.text


def test_scores_are_shown_by_folder(tmp_path: Path) -> None:
    rows = _scored({"2025/a/1.jpg": 10.0, "2025/2.jpg": 20.0, "2026/3.jpg": 30.0, "4.jpg": 40.0})
    page = _report(write_store(tmp_path / "out", rows), evaluate=EvaluateOptions(columns=TruthColumns(group="folder")))
    assert "2025 2 15.0" in page.text
    assert "2026 1 30.0" in page.text
    assert "(none) 1 40.0" in page.text


def test_many_groups_end_in_one_of_all_others(tmp_path: Path) -> None:
    rows = [{"image_id": str(n), "format": f"kind {n % 40:02}"} for n in range(100)]
    page = _report(write_store(tmp_path / "out", rows), evaluate=EvaluateOptions(columns=TruthColumns(group="format")))
    assert "16 other groups" in page.text


def _truth(path: Path, rows: Sequence[tuple[str, float, str]]) -> str:
    path.write_text(json.dumps([{"image": name, "gt_score": points, "kind": kind} for name, points, kind in rows]))
    return str(path)


@pytest.mark.slow
def test_ground_truth_brings_metrics_charts_groups_and_disagreements(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(10, 90, 200).tolist()
    rows: list[dict[str, Any]] = [{"image_id": f"{n:03}.jpg", "score": score} for n, score in enumerate(points)]
    rows.insert(0, {"image_id": "bad.jpg", "error_type": "empty"})
    truths = [(row["image_id"], row.get("score", 5.0) / 10 + 1, "ab"[n % 2]) for n, row in enumerate(rows)]
    truths[40] = (truths[40][0], 30.0, "a")
    truths[41] = (truths[41][0], -20.0, "b")
    store = write_store(tmp_path / "out", rows)
    before = sorted(path for path in (tmp_path / "out").rglob("*"))
    options = EvaluateOptions(columns=TruthColumns(group="kind"))
    page = _report(store, ground_truth=_truth(tmp_path / "t.json", truths[::-1]), evaluate=options)
    assert (
        "N = 200 of 201; failed (1 empty)" in page.text.replace("1 failed", "failed") or "N = 200 of 201" in page.text
    )
    for words in ("Scores and ground truth", "Calibration", "What the line leaves", "SRCC", "KRCC (tau-b)", "By kind"):
        assert words in page.text
    galleries = [page.ids_of(n) for n in range(len(page.data["galleries"]))]
    assert galleries[-2][0] == truths[41][0]  # scored too high
    assert galleries[-1][0] == truths[40][0]
    assert sorted(path for path in (tmp_path / "out").rglob("*")) == before  # a report only reads
    with pytest.raises(UsageError, match="--by takes folder, format, run_id or a column of the ground truth"):
        _report(store, evaluate=options)
    with pytest.raises(GroundTruthError, match="no such file"):
        _report(store, ground_truth=str(tmp_path / "none.json"))


def test_the_ground_truth_of_what_was_scored_is_found_by_itself(tmp_path: Path) -> None:
    rows = _scored({f"{n}.jpg": 10.0 + n * n for n in range(9)})
    store = write_store(tmp_path / "out", rows)
    lines = [f"{row['image_id']},{row['image_id']},{row['score'] / 10}" for row in rows]
    (tmp_path / "photos.csv").write_text("\n".join(["image_id,uri,gt_score", *lines]))
    write_run(store, str(tmp_path / "photos.csv"))
    assert "Scores and ground truth" in _report(store).text


@pytest.mark.slow
def test_very_many_pairs_become_a_density(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image_id": str(n), "score": float(n % 100)} for n in range(3000)]
    truths = [(row["image_id"], row["score"] + n % 7, "") for n, row in enumerate(rows)]
    store = write_store(tmp_path / "out", rows, shard_rows=1000)
    page = _report(store, ground_truth=_truth(tmp_path / "t.json", truths), thumbnails=0)
    assert "3,000 pairs of score and ground truth" in page.text
    assert page.html.count("opacity=") > 50


def test_three_scores_have_three_histograms(tmp_path: Path) -> None:
    rows = [{"image_id": str(n), "iaa": 1.0 * n, "iqa": 50.0, "ista": 70.0, "iqa_std": 3.0} for n in range(10)]
    rows = [{name: value for name, value in row.items() if name != "score"} for row in rows]
    store = write_store(tmp_path / "out", rows, protocol=UNIPERCEPT)
    page = _report(store, evaluate=EvaluateOptions(question="iqa"))
    for words in ("Aesthetics", "Quality", "Structure and texture", "median score 50.0"):
        assert words in page.text
    with pytest.raises(UsageError, match="--question"):
        _report(store, evaluate=EvaluateOptions(question="beauty"))


def test_funnels_of_curations_are_drawn_and_others_passed_over(tmp_path: Path) -> None:
    store = write_store(tmp_path / "out", _scored({"a": 1.0}))
    steps = [{"name": "--min-score 60", "removed": 700, "left": 300}, {"name": "--top 10%", "removed": 270, "left": 30}]
    funnel = {"source": "scored", "rows": 1000, "steps": steps, "left": 30, "notes": ["5 rows have no phash."]}
    output = {"place": "/data", "kind": "parquet", "files": {"rows": "best.parquet", "groups": None}}
    record = {"created": "2026-11-23T12:00:00+00:00", "funnel": funnel, "output": output, "arguments": {}, "store": {}}
    for name, raw in (("a", record), ("b", {"funnel": None}), ("c", [1]), ("d", {"funnel": {"steps": 3}})):
        store.place.write(f"_curations/{name}.json", json.dumps(raw).encode())
    store.place.write("_curations/e.json", b"{")
    page = _report(store)
    for words in ("/data/best.parquet", "1,000 rows from scored", "--min-score 60 700 300", "--top 10% 270 30"):
        assert words in page.text, words
    assert "5 rows have no phash." in page.text
    assert page.text.count("all rows") == 1


def test_the_command_that_retries_is_the_last_one_with_its_arguments() -> None:
    arguments = {
        "source": "s3://key:secret@photos/my raw",
        "out": "elsewhere",
        "checkpoint": "ArtiMuse_AVA",
        "batch_size": "auto",
        "limit": 10,
        "texts": True,
        "prune": True,
        "as_json": True,
        "retry_errors": "missing",
        "max_bytes": 512 * 1024 * 1024,
        "root": "s3://photos",
    }
    line = retry_command(arguments, OPTIONS, "out dir", "x", "fetch_failed")
    assert line == (
        "artimuse score 's3://…@photos/my raw' --out 'out dir' --checkpoint ArtiMuse_AVA --limit 10 --texts "
        "--root s3://photos --retry-errors fetch_failed"
    )
    assert (
        retry_command({"source": "p"}, OPTIONS, "o", "ArtiMuse", None) == "artimuse score p --out o --retry-errors all"
    )
    assert str(retry_command({"source": "p"}, OPTIONS, "o", "x", "bad_row")).endswith("--retry-errors bad_row")
    assert retry_command({}, OPTIONS, "o", "x", "missing") is None
    assert retry_command({"source": "p"}, OPTIONS, "o", "x", "corrupt") is None  # unless the file changes
    assert retry_command({"source": "p"}, OPTIONS, "o", "x", "--prune; rm -rf /") is None


@pytest.mark.process
@pytest.mark.parametrize(
    "text",
    ["plain", "two words", "it's", "a\u202eb", "caf\udce9 'x'\n", "\x1b]0;\x07\\", "$(touch x)`y`", "日本\u200b"],
)
def test_a_word_for_the_shell_is_what_it_was_and_hides_nothing(text: str) -> None:
    import subprocess

    word = shell_word(text)
    assert word.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout == os.fsencode(text)


def test_long_texts_are_cut_where_it_is_fair() -> None:
    assert fair_limit([10, 20, 1000], 1030) == 1000
    assert fair_limit([10, 20, 1000, 1000], 530) == 250
    assert fair_limit([], 10) == 0
    assert cut("short", 100) == "short"
    long = "é<" * 1000
    shown = cut(long, 500)
    assert shown.startswith("é<é<")
    assert size_bytes(shown.split(" … ")[0]) <= 500
    assert script_json(["</script>\u2028", "\udc80"]) == '["\\u003c/script\\u003e\\u2028","\\udc80"]'
    assert visible("a\u0301" + "\u0301" * 50) == "a" + "\u0301" * 4
    assert visible("می\u200cخواهم 👩\u200d🚀\n") == "می\u200cخواهم 👩\u200d🚀\n"


@pytest.mark.process
def test_headings_names_and_drawings_are_there_for_those_who_do_not_see(tmp_path: Path) -> None:
    rows = _pictures(tmp_path, 30)
    store = write_store(tmp_path / "out", [*rows, {"image_id": "x", "error_type": "empty"}])
    write_run(store, "photos")
    truths = [(row["image_id"], row["score"], "") for row in rows]
    page = _report(store, ground_truth=_truth(tmp_path / "t.json", truths))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = [about["id"] for _, about in page.elements if "id" in about]
    assert len(set(names)) == len(names)
    referred = [name for _, about in page.elements for name in (about.get("aria-labelledby") or "").split()]
    assert set(referred) <= set(names)
    links = [about["href"] for tag, about in page.elements if tag == "a"]
    assert {str(link)[1:] for link in links} <= set(names)
    for tag, about in page.elements:
        if tag == "svg":
            assert about.get("aria-label") or about.get("aria-labelledby")
        if tag == "th":
            assert about.get("scope")
    assert ("html", {"lang": "en"}) in page.elements


def test_colours_stand_out_from_their_ground(tmp_path: Path) -> None:
    style = _report(write_store(tmp_path / "out", [])).raw["style"][0]

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
        for block in re.findall(r"\{([^{}]*--paper:[^{}]*)\}", style)
    ]
    assert len(themes) == 3
    assert themes[1] == themes[2]  # as the system says, and as somebody chose
    for theme in themes:
        for ink in ("ink", "soft", "blue", "orange"):
            for ground in ("paper", "card", "rest"):
                one, other = sorted((light(theme[ink]), light(theme[ground])))
                assert (other + 0.05) / (one + 0.05) >= 4.5, (ink, ground)


@pytest.mark.process
def test_the_command_writes_a_page_and_says_what_next(tmp_path: Path) -> None:
    rows = _pictures(tmp_path, 3)
    write_store(tmp_path / "out", [*rows, {"image_id": "gone", "uri": "/nowhere"}])
    out = tmp_path / "my report.html"
    screen = run_artimuse("report", tmp_path / "out", "--out", out).stdout
    assert "MB; 4 images, 4 of them shown." in screen
    assert "1 could not be read again" in screen
    assert f"Open it in a browser: '{out}'" in screen
    assert Page(out.read_text()).pictures.keys() == {"0.jpg", "1.jpg", "2.jpg", "gone"}
    told = json.loads(run_artimuse("report", tmp_path / "out", "--out", out, "--thumbnails", "0", "--json").stdout)
    assert told["rows"] == 4
    assert told["size_bytes"] == out.stat().st_size
    assert "cannot be written" in run_artimuse("report", tmp_path / "out", "--out", out / "x", code=1).stderr


def test_pairs_take_the_room_of_two_pictures() -> None:
    pairs = [np.array([at, at + 1]) for at in range(0, 8, 2)]
    hall = doubles_hall(Doubles(0, 4, 10, pairs, 0), room=6)
    assert hall is not None
    assert [gallery.rows for gallery in hall.galleries] == [[0, 1], [2, 3], [4, 5]]
    assert "4 images have other bytes" in hall.note


def test_several_stores_are_one_report_with_a_line_for_each(tmp_path: Path) -> None:
    first = write_store(tmp_path / "a" / "out", _scored({"x": 10.0, "both": 20.0}), texts={"x": ["first"] * 8})
    write_store(
        tmp_path / "b" / "out", [*_scored({"y": 80.0, "both": 90.0}), {"image_id": "z", "error_type": "missing"}]
    )
    write_store(tmp_path / "c" / "out", [])
    write_run(first, "photos")
    page = tmp_path / "report.html"
    done = run_artimuse("report", tmp_path / "a/out", tmp_path / "b/out", tmp_path / "c/out", "--out", page)
    sentence = f"1 id is in more than one store, such as 'both' in {tmp_path}/a/out and in {tmp_path}/b/out"
    assert sentence in " ".join(done.stdout.split())
    shown = Page(page.read_text())
    assert "5 images, scored with" in shown.text
    assert f"{tmp_path}/a/out ArtiMuse 2 2 0 15.0" in shown.text
    assert f"{tmp_path}/b/out ArtiMuse 3 2 1 85.0" in shown.text
    assert f"{tmp_path}/c/out ArtiMuse 0 0 0 –" in shown.text
    assert sentence in shown.text
    assert set(shown.pictures) == {"x", "y", "both"}
    assert dict(shown.pictures["x"]["texts"])[TITLES[0]] == "first"
    assert "artimuse score" not in shown.text
    assert json.loads(run_artimuse("report", f"{tmp_path}/*/out", "--out", page, "--json").stdout)["rows"] == 5
    alone = Page((run_artimuse("report", tmp_path / "a/out", "--out", page), page.read_text())[1])
    assert "more than one store" not in alone.text
    truth = tmp_path / "truth.csv"
    truth.write_text("image_id,gt_score\nx,1\ny,9\nboth,5\nz,4\n")
    refused = run_artimuse(
        "report", tmp_path / "a/out", tmp_path / "b/out", "--ground-truth", truth, "--out", page, code=2
    )
    assert "one pattern of stores" in refused.stderr


@pytest.mark.process
def test_pages_without_ground_truth_are_made_without_statistics() -> None:
    script = "import sys, jobs.report.report, jobs.browse.browse; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
