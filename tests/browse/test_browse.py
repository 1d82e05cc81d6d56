"""A store in the browser: what is found, in which order, what is told of it, and what becomes of marks."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.browse_client import Client, browsing
from support.report_stores import TITLES, write_store

from artimuse_actor.errors import UsageError
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.browse.marks import Marks
from jobs.browse.texts import StoreTexts
from jobs.manifest.source import open_manifest
from jobs.store.database import Database
from jobs.store.store import Store

pytestmark = pytest.mark.server

HOSTILE = "<b onclick=alert(1)>\u202egpj.exe"
ROWS: list[dict[str, Any]] = [
    {
        "image_id": f"2026/{n:02}.jpg",
        "uri": f"/photos/2026/{n:02}.jpg",
        "score": float(5 * n % 47),
        "score_std": float(n % 7),
        "format": ("JPEG", "PNG")[n % 2],
        "width": 100 * (n % 5 + 1),
        "height": 300,
        "taken_at": datetime(2026, 1, 1 + n) if n % 3 else None,
        "scored_at": datetime(2026, 3, 1 + n),
    }
    for n in range(20)
] + [
    {"image_id": HOSTILE, "uri": "/photos/100%_sure.jpg", "score": 50.0, "scored_at": datetime(2026, 4, 1)},
    {"image_id": "cut.jpg", "error_type": "truncated", "error_message": "It ends too EARLY.", "uri": "/photos/cut.jpg"},
    {"image_id": "gone.jpg", "error_type": "missing", "uri": "s3://bucket/gone.jpg"},
    {"image_id": "within a table", "uri": None, "score": 60.0},
]
TEXTS = {row["image_id"]: [f"About {row['image_id']}: {title}." for title in TITLES] for row in ROWS[:21]}
TEXTS["2026/07.jpg"] = ["A harbour at DAWN, 100% calm.", *TEXTS["2026/07.jpg"][1:]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of scores, each with texts."""
    folder = tmp_path_factory.mktemp("browse") / "scored"
    write_store(folder, ROWS, texts=TEXTS, shard_rows=9)
    return folder


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[Client]:
    with browsing(store) as found:
        yield found


def test_words_are_found_in_ids_paths_and_errors_in_any_case(client: Client) -> None:
    assert client.ids(words="/07.JPG") == ["2026/07.jpg"]
    assert client.ids(words="photos/cut") == ["cut.jpg"]
    assert client.ids(words="too early") == ["cut.jpg"]
    assert client.ids(words="TRUNCATED") == ["cut.jpg"]
    assert client.ids(words="bucket") == ["gone.jpg"]
    assert client.ids(words="harbour") == []


@pytest.mark.parametrize("words", ["100%_s", "%_SURE", "'", '"', "\\", "' OR 1=1 --", "{}", "?", "$1"])
def test_words_are_taken_to_the_letter(client: Client, words: str) -> None:
    found = client.ids(words=words)
    assert found == ([f"{HOSTILE[:-8]}⟨U+202E⟩gpj.exe"] if "%_" in words else [])


def test_words_are_found_in_texts(client: Client) -> None:
    assert client.ids(words="harbour at dawn", scope="texts") == ["2026/07.jpg"]
    assert client.ids(words="100%", scope="texts") == ["2026/07.jpg"]
    assert len(client.ids(words="100%", scope="all")) == 2
    assert len(client.ids(words="about 2026", scope="texts", format="PNG")) == 10
    assert client.ids(words="truncated", scope="texts") == []


def test_a_later_search_of_texts_ends_an_earlier_one(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Store.open(str(store))
    texts = StoreTexts(opened, opened.table_files())
    batches = Database.batches
    later: list[pa.Table | None] = []

    def interrupted(database: Database, sql: str) -> Iterator[pa.RecordBatch]:
        monkeypatch.setattr(Database, "batches", batches)
        for batch in batches(database, sql):
            later.append(texts.containing("harbour"))
            yield batch

    monkeypatch.setattr(Database, "batches", interrupted)
    assert texts.containing("about") is None
    assert [rows["image_id"].to_pylist() for rows in later if rows] == [["2026/07.jpg"]]
    assert texts.containing("harbour") is later[0]


def test_filters_have_inclusive_bounds_and_go_together(client: Client) -> None:
    def expected(**bounds: Any) -> set[str]:
        found = [row for row in ROWS if "error_type" not in row]
        for name, (least, largest) in bounds.items():
            found = [row for row in found if least <= row.get(name, {"score_std": 9.0}.get(name, 0)) <= largest]
        return {row["image_id"] for row in found if row["image_id"] != HOSTILE}

    shown = [name for name in client.ids(score_from="10", score_to="30") if "U+" not in name]
    assert set(shown) == expected(score=(10, 30))
    assert set(client.ids(score_from="10", score_to="40", spread_to="3")) == expected(score=(10, 40), score_std=(0, 3))
    assert client.ids(score_from="46.5", score_to="46.9") == []
    assert set(client.ids(format="PNG")) == {f"2026/{n:02}.jpg" for n in range(1, 20, 2)}
    assert client.ids(outcome="error", sort="name", order="up") == ["cut.jpg", "gone.jpg"]
    assert client.ids(outcome="missing") == ["gone.jpg"]
    assert len(client.ids(outcome="ok")) == len(ROWS) - 2


def test_a_day_is_that_of_the_exposure_or_else_that_of_the_score(client: Client) -> None:
    assert client.ids(day_from="2026-01-05", day_to="2026-01-06", sort="date", order="up") == [
        "2026/04.jpg",
        "2026/05.jpg",
    ]
    assert client.ids(day_from="2026-03-04", day_to="2026-03-04") == ["2026/03.jpg"]
    assert len(client.ids(day_from="2026-04-01")) == 1


@pytest.mark.parametrize("sort", ["score", "spread", "date", "name", "pixels"])
@pytest.mark.parametrize("order", ["up", "down"])
def test_pages_have_every_row_once_in_one_order(client: Client, sort: str, order: str) -> None:
    pages = [client.get("rows", **{"from": n, "count": 5, "sort": sort, "order": order}) for n in range(0, 30, 5)]
    rows = [row for page in pages for row in page["rows"]]
    assert {page["total"] for page in pages} == {len(ROWS)}
    assert len({row["number"] for row in rows}) == len(rows) == len(ROWS)
    column = {"score": "score", "spread": "spread", "date": "day", "name": "id"}.get(sort)
    values = (
        [row[column] for row in rows]
        if column
        else [(w or 0) * (h or 0) or None for w, h in (row["size"] for row in rows)]
    )
    there = [value for value in values if value is not None]
    assert values[len(there) :] == [None] * (len(values) - len(there))
    if sort != "name":
        assert there == sorted(there, reverse=order == "down")


def test_a_row_is_told_with_its_texts(client: Client) -> None:
    one = client.get("one", number=client.number("2026/07.jpg"))
    assert one["scores"] == [["Score", 35.0, 0.0]]
    assert dict(one["facts"])["Taken"] == "2026-01-08 00:00:00"
    assert dict(one["facts"])["Size"] == "300 × 300 pixels PNG"
    assert [title for title, _ in one["texts"]] == list(TITLES)
    assert one["texts"][0][1] == "A harbour at DAWN, 100% calm."
    failed = client.get("one", number=client.number("cut.jpg"))
    assert (failed["error"], failed["scores"], failed["texts"]) == ("truncated: It ends too EARLY.", [], [])
    assert client.fetch("one", number=2**60)[0] == 400


def test_the_summary_counts_what_can_be_chosen(client: Client) -> None:
    about = client.get("about")
    assert (about["rows"], about["failed"], about["taken"], about["has_texts"]) == (24, 2, 13, True)
    assert about["formats"] == [["JPEG", "JPEG", 12], ["PNG", "PNG", 10]]
    assert [name for name, _, _ in about["errors"]] == ["missing", "truncated"]


def test_marks_are_counted_shown_and_taken_away(store: Path) -> None:
    with browsing(store) as client:
        client.mark("2026/07.jpg", "2026/09.jpg")
        assert client.get("about")["marked"] == 2
        assert set(client.ids(marked="1")) == {"2026/07.jpg", "2026/09.jpg"}
        client.mark("2026/07.jpg", marked=False)
        assert client.ids(marked="1") == ["2026/09.jpg"]
        assert client.post("mark", search={"format": "PNG"}, marked=True) == {"marked": 10}
        assert client.post("mark", search={"marked": "1", "score_from": "20"}, marked=False)["marked"] < 10
        assert client.post("mark", search={"marked": "1"}, marked=False) == {"marked": 0}


def test_marked_pictures_become_a_manifest(store: Path, tmp_path: Path) -> None:
    with browsing(store) as client:
        client.mark("2026/09.jpg", "2026/07.jpg")
        status, data = client.fetch("marks.parquet")
    assert status == 200
    (tmp_path / "marks.parquet").write_bytes(data)
    (batch,) = open_manifest(str(tmp_path / "marks.parquet")).batches(["score"])
    assert batch.rows["image_id"].to_pylist() == ["2026/07.jpg", "2026/09.jpg"]
    assert batch.rows["uri"].to_pylist() == ["/photos/2026/07.jpg", "/photos/2026/09.jpg"]
    assert batch.own is not None
    assert batch.own["score"].to_pylist() == [35.0, 45.0]


def test_a_file_of_marks_follows_every_change_and_is_read_again(store: Path, tmp_path: Path) -> None:
    marks = tmp_path / "best.parquet"

    def saved() -> list[str]:
        ids: list[str] = pq.read_table(marks)["image_id"].to_pylist()
        return ids

    with browsing(store, marks=marks) as client:
        assert not marks.exists()
        client.mark("2026/07.jpg")
        assert saved() == ["2026/07.jpg"]
        client.mark("2026/01.jpg")
    with browsing(store, marks=marks) as client:
        assert client.get("about")["marked"] == 2
        client.mark("2026/07.jpg", marked=False)
        assert saved() == ["2026/01.jpg"]
        client.mark("2026/01.jpg", marked=False)
        assert saved() == []


def test_marks_of_another_store_are_refused_and_left_alone(store: Path, tmp_path: Path) -> None:
    marks = tmp_path / "best.parquet"
    with browsing(store, marks=marks) as client:
        client.mark("2026/07.jpg")
    saved = pq.read_table(marks)
    others = saved.set_column(0, saved.schema.field(0), pa.array(["elsewhere.jpg"]))
    pq.write_table(others.replace_schema_metadata({"artimuse.marks": "1"}), marks)
    before = marks.read_bytes()
    with pytest.raises(UsageError, match=r"such as 'elsewhere\.jpg'"), browsing(store, marks=marks):
        pass
    assert marks.read_bytes() == before
    marks.write_text("no table")
    with pytest.raises(UsageError, match="is no manifest"):
        Marks(str(marks))


def test_a_manifest_of_ones_own_is_no_file_of_marks(store: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"image_id": ["2026/07.jpg"], "caption": ["A sea."]}), mine)
    with pytest.raises(UsageError, match=r"mine\.parquet: is there already and is no earlier file of marks"):
        Marks(str(mine))


def test_marks_of_a_version_that_left_no_mark_of_its_own_are_read(store: Path, tmp_path: Path) -> None:
    marks = tmp_path / "best.parquet"
    with browsing(store, marks=marks) as client:
        client.mark("2026/07.jpg")
    pq.write_table(pq.read_table(marks), tmp_path / "before.parquet")
    assert Marks(str(tmp_path / "before.parquet")).ids == ["2026/07.jpg"]


def test_an_image_within_a_table_cannot_be_marked(store: Path) -> None:
    with browsing(store) as client:
        answer = client.post("mark", number=client.number("within a table"), marked=True, code=400)
        assert "artimuse curate --manifest" in answer["error"]
        assert client.post("mark", search={}, marked=True) == {"marked": len(ROWS) - 1}


def test_a_store_in_a_bucket_is_browsed_too(store: Path, s3_environment: dict[str, str]) -> None:
    files = fsspec.filesystem("s3")
    files.mkdir("browse")
    files.put(f"{store}/", "s3://browse/scored/", recursive=True)
    with browsing("s3://browse/scored") as client:
        assert client.ids(words="harbour", scope="texts") == ["2026/07.jpg"]
        assert client.get("one", number=client.number("2026/07.jpg"))["texts"][0][1] == "A harbour at DAWN, 100% calm."
        assert client.send("GET", f"/{client.token}/")[0] == 200
        assert client.get("about")["edition"] == client.edition


def test_a_store_without_scores_is_shown_by_name(tmp_path: Path) -> None:
    protocol = replace(ARTIMUSE, score_questions={})
    write_store(tmp_path, [{"image_id": name, "error_type": "missing"} for name in ("b", "a")], protocol=protocol)
    with browsing(tmp_path) as client:
        assert client.get("about")["questions"] == []
        for sort in ("score", "spread", "date", "pixels"):
            assert client.ids(sort=sort) == ["b", "a"]
        assert client.ids(sort="name", order="up", score_from="1") == ["a", "b"]
        assert client.get("one", number=client.number("a"))["scores"] == []
        client.mark("a")
        assert client.fetch("marks.parquet")[0] == 200


def test_a_store_that_has_grown_is_read_when_the_page_is_loaded(tmp_path: Path) -> None:
    store = write_store(tmp_path, ROWS[:5])
    with browsing(tmp_path) as client:
        first = pq.read_table(io.BytesIO(store.place.read("scores/t-00000.parquet")), schema=store.schema)
        more = first.set_column(0, store.schema.field(0), pa.array([f"new{n}" for n in range(5)], pa.string()))
        store.write_tables("scores/a-00000.parquet", more, None, "a")
        assert client.get("about")["rows"] == 5
        client.send("GET", f"/{client.token}/")
        status, body = client.fetch("rows", **{"from": 0, "count": 5})
        assert (status, json.loads(body)["error"]) == (400, "The store has changed. Load this page again.")
        client.edition = client.get("about")["edition"]
        assert client.get("rows", **{"from": 0, "count": 5})["total"] == 10
