from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.score_job import run_artimuse
from support.scored_stores import unipercept_store, write_store

from artimuse_actor.errors import CurationError, ManifestError, StoreError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import FORMATS
from artimuse_actor.images.raw_kind import RAW_KINDS
from jobs.curate.candidates import StoreRows
from jobs.curate.curate import CurateSettings, Curation, _apply, curate
from jobs.curate.equal_hashes import hash_words
from jobs.curate.filters import FilterOptions, read_filters, scored_rows
from jobs.curate.funnel import Funnel
from jobs.manifest.manifest import ManifestOptions
from jobs.manifest.source import open_manifest
from jobs.storage.local_place import LocalPlace
from jobs.store.database import open_database
from jobs.store.store import Store
from jobs.store.stores import Stores

Row = dict[str, Any]


def _sha256(number: int) -> str:
    return f"{number:032x}" * 2


def _choose(store: Path, out: Path, **options: Any) -> Curation:
    """Curate with these settings, of which some are filters."""
    names = set(FilterOptions.__dataclass_fields__)
    filters = FilterOptions(**{name: value for name, value in options.items() if name in names})
    others = {name: value for name, value in options.items() if name not in names}
    return curate(CurateSettings(store=str(store), out=str(out), filters=filters, **others))


def _ids(path: Path) -> list[str]:
    ids: list[str] = pq.read_table(path)["image_id"].to_pylist()
    return ids


def _steps(done: Curation) -> list[tuple[str, int]]:
    return [(step.name, step.removed) for step in done.funnel.steps]


@pytest.fixture
def rows() -> list[Row]:
    """Two hundred rows, every tenth an error, with ties, copies and three categories by number."""
    generator = np.random.default_rng(0)
    return [
        {"image_id": f"{number:03}.jpg", "status": "error"}
        if number % 10 == 9
        else {
            "image_id": f"{number:03}.jpg",
            "score": float(generator.integers(40, 160) / 2),
            "score_std": float(generator.integers(2, 20)),
            "width": int(generator.integers(500, 3000)),
            "height": int(generator.integers(500, 3000)),
            "format": ["JPEG", "PNG", "MPO", "WEBP"][number % 4],
            "sha256": _sha256(number // 2),
            "phash": f"{int(generator.integers(0, 2**63)) * 2:016x}",
        }
        for number in range(200)
    ]


@pytest.fixture
def store(tmp_path: Path, rows: list[Row]) -> Path:
    texts = {row["image_id"]: f"A {'blurred' if row['image_id'][2] in '36' else 'sharp'} photo." for row in rows[:150]}
    write_store(tmp_path / "store", rows, texts=texts)
    return tmp_path / "store"


def _scored(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.get("status") != "error"]


# Filters.


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        ({"min_score": 60.0}, lambda row: row["score"] >= 60),
        ({"max_score": 60.0}, lambda row: row["score"] <= 60),
        ({"max_std": 7.0}, lambda row: row["score_std"] <= 7),
        ({"min_side": 1024}, lambda row: min(row["width"], row["height"]) >= 1024),
        ({"aspect": "3:4..4:3"}, lambda row: 0.75 <= row["width"] / row["height"] <= 4 / 3),
        ({"aspect": "1:1.."}, lambda row: row["width"] >= row["height"]),
        ({"aspect": "..0.5"}, lambda row: row["width"] <= row["height"] / 2),
        ({"format": "jpg, png"}, lambda row: row["format"] in ("JPEG", "MPO", "PNG")),
        (
            {"where": "width > 2 * height and score > 30"},
            lambda row: row["width"] > 2 * row["height"] and row["score"] > 30,
        ),
        ({"text_matches": "^A sh[a-z]+ "}, lambda row: row["image_id"] < "150" and row["image_id"][2] not in "36"),
        (
            {"where": "contains(overall_gestalt, 'blurred')"},
            lambda row: row["image_id"] < "150" and row["image_id"][2] in "36",
        ),
    ],
    ids=lambda value: "kept" if callable(value) else str(value),
)
def test_a_filter_keeps_what_meets_its_condition(
    store: Path, rows: list[Row], tmp_path: Path, options: dict[str, Any], keeps: Callable[[Row], bool]
) -> None:
    done = _choose(store, tmp_path / "best.parquet", **options)
    kept = [row["image_id"] for row in _scored(rows) if keeps(row)]
    assert 0 < len(kept) < 180
    assert _ids(tmp_path / "best.parquet") == kept
    (name, value), *_ = options.items()
    assert _steps(done) == [
        ("error rows", 20),
        (
            f"--{name.replace('_', '-')} {value:g}"
            if isinstance(value, float)
            else f"--{name.replace('_', '-')} {value}",
            180 - len(kept),
        ),
    ]


def test_scores_are_compared_as_they_are_and_not_as_they_are_rounded(tmp_path: Path) -> None:
    scores = [69.99999, 70.0, 70.00001]
    write_store(tmp_path / "store", [{"image_id": str(number), "score": score} for number, score in enumerate(scores)])
    _choose(tmp_path / "store", tmp_path / "best.parquet", min_score=70.0)
    assert _ids(tmp_path / "best.parquet") == ["1", "2"]
    _choose(tmp_path / "store", tmp_path / "best.parquet", where="score <= 70")
    assert _ids(tmp_path / "best.parquet") == ["0", "1"]


def test_an_aspect_ratio_alone_means_about_that(tmp_path: Path) -> None:
    sizes = [(1920, 1080), (1920, 1088), (1080, 1920), (1600, 1200)]
    rows = [{"image_id": str(number), "width": w, "height": h} for number, (w, h) in enumerate(sizes)]
    write_store(tmp_path / "store", rows)
    _choose(tmp_path / "store", tmp_path / "best.parquet", aspect="16:9")
    assert _ids(tmp_path / "best.parquet") == ["0", "1"]


Kept = Callable[[Sequence[int]], list[list[str]]]


@pytest.fixture(scope="module")
def kept_by(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """What six filters keep of a store of three hundred rows, in an order of theirs."""
    folder, generator = tmp_path_factory.mktemp("commute"), np.random.default_rng(3)
    columns = ("score", "width", "score_std")
    values = [map(float, numbers) for numbers in generator.integers(1, 2000, (300, 3))]
    write_store(folder, [{"image_id": str(n), **dict(zip(columns, row, strict=True))} for n, row in enumerate(values)])
    stores = Stores.open([str(folder)])
    options = FilterOptions(100.0, 1900.0, 1800.0, 100, "1:8..2:1", where="score > 2 * score_std or width > 300")
    with open_database() as database:
        filters = read_filters(options, "score", StoreRows(stores, database).schema)
    assert len(filters) == 6

    def kept(order: Sequence[int]) -> list[list[str]]:
        with open_database() as database:
            rows = StoreRows(stores, database)
            ordered = [scored_rows("score"), *(filters[n] for n in order)]
            _apply(database, rows, ordered, funnel := Funnel("s"), "score", None, 60.0)
            assert funnel.rows == 300 == sum(step.removed for step in funnel.steps) + funnel.left
            assert 0 < funnel.left < 300
            return [table["image_id"].to_pylist() for table in rows.scan(["image_id"])]

    return kept


@pytest.fixture(scope="module")
def kept_in_order(kept_by: Kept) -> list[list[str]]:
    return kept_by(range(6))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)))
def test_filters_commute(order: list[int], kept_by: Kept, kept_in_order: list[list[str]]) -> None:
    assert kept_by(order) == kept_in_order


# All together, against the obvious way.


def _brute_force(rows: list[Row], chosen: dict[str, Any]) -> set[str]:
    left = [row for row in rows if row.get("status") != "error" and row["score"] >= chosen["min_score"]]
    left = [row for row in left if row["score_std"] <= chosen["max_std"]]
    best_first = sorted(left, key=lambda row: (-row["score"], row["image_id"].encode()))
    if chosen["dedupe"]:
        seen: set[str] = set()
        best_first = [row for row in best_first if not (row["sha256"] in seen or seen.add(row["sha256"]))]  # type: ignore[func-returns-value]
    top: list[Row] = []
    for name in {row["format"] for row in best_first}:
        mine = [row for row in best_first if row["format"] == name]
        top += mine[: math.ceil(len(mine) * chosen["percent"] / 100)]
    return {row["image_id"] for row in top}


_row = st.fixed_dictionaries(
    {
        "score": st.sampled_from([10.0, 50.0, 50.5, 64.0, 90.0]),
        "score_std": st.sampled_from([1.0, 5.0, 9.0]),
        "format": st.sampled_from(["JPEG", "PNG"]),
        "sha256": st.integers(0, 8).map(_sha256),
        "status": st.sampled_from(["ok", "ok", "ok", "error"]),
    }
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    made=st.dictionaries(st.text(min_size=1, max_size=3), _row, min_size=1, max_size=25),
    chosen=st.fixed_dictionaries(
        {
            "min_score": st.sampled_from([0.0, 50.0, 60.0]),
            "max_std": st.sampled_from([1.0, 5.0, 100.0]),
            "dedupe": st.booleans(),
            "percent": st.sampled_from([1, 30, 50, 100]),
        }
    ),
)
def test_a_curation_is_what_sorting_and_counting_by_hand_gives(
    made: dict[str, Row], chosen: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("brute")
    empty = {"score": None, "score_std": None, "format": None, "sha256": None}
    rows = [{**row, "image_id": name} | (empty if row["status"] == "error" else {}) for name, row in made.items()]
    write_store(folder / "store", rows, shard_rows=7)
    expected = _brute_force(rows, chosen)
    options: dict[str, Any] = {"min_score": chosen["min_score"], "max_std": chosen["max_std"], "per": "format"}
    options |= {"top": f"{chosen['percent']}%", "dedupe": "exact" if chosen["dedupe"] else None}
    if not expected:
        with pytest.raises(CurationError, match="removed the last"):
            _choose(folder / "store", folder / "best.parquet", **options)
        assert not (folder / "best.parquet").exists()
        return
    done = _choose(folder / "store", folder / "best.parquet", **options)
    ids = _ids(folder / "best.parquet")
    assert set(ids) == expected
    assert ids == [row["image_id"] for row in rows if row["image_id"] in expected]  # in the order of the store
    assert done.funnel.rows == len(rows) == sum(step.removed for step in done.funnel.steps) + len(ids)
    lefts = [done.funnel.rows, *(step.left for step in done.funnel.steps)]
    assert all(
        before - step.removed == after for before, after, step in zip(lefts, lefts[1:], done.funnel.steps, strict=False)
    )


def test_a_sample_is_spread_over_the_scores_and_the_seed_says_which(
    store: Path, tmp_path: Path, rows: list[Row]
) -> None:
    drawn = {}
    for seed in (0, 1):
        _choose(store, tmp_path / f"{seed}.parquet", sample=60, seed=seed)
        table = pq.read_table(tmp_path / f"{seed}.parquet")
        drawn[seed] = set(table["image_id"].to_pylist())
        bins = np.bincount(np.asarray(table["score"]).astype(int) // 5, minlength=20)
        whole = np.bincount([int(row["score"]) // 5 for row in _scored(rows)], minlength=20)
        assert (np.abs(bins - whole / 3) < 1).all()
    assert len(drawn[0]) == len(drawn[1]) == 60
    assert drawn[0] != drawn[1]
    done = _choose(store, tmp_path / "all.parquet", sample=1000)
    assert len(_ids(tmp_path / "all.parquet")) == 180
    assert any("only 180 rows left" in note for note in done.funnel.notes)


# Duplicates.


def test_of_duplicates_the_best_scored_stays_and_the_groups_are_written(tmp_path: Path) -> None:
    near = {"phash": "f" * 16}
    rows = [
        {"image_id": "worse", "score": 40.0, "sha256": _sha256(1), **near},
        {"image_id": "b tie", "score": 60.0, "sha256": _sha256(1), **near},
        {"image_id": "a tie", "score": 60.0, "sha256": _sha256(2), "phash": "f" * 15 + "e"},
        {"image_id": "other", "score": 10.0, "sha256": _sha256(3), "phash": "0" * 16},
        {"image_id": "no hash", "score": 99.0, "sha256": None, "phash": None},
        {"image_id": "no hash either", "score": 99.0, "sha256": None, "phash": "not a hash at al"},
    ]
    write_store(tmp_path / "store", rows, shard_rows=2)
    done = _choose(tmp_path / "store", tmp_path / "exact.parquet", dedupe="exact")
    assert set(_ids(tmp_path / "exact.parquet")) == {"b tie", "a tie", "other", "no hash", "no hash either"}
    assert any("2 rows have no sha256" in note for note in done.funnel.notes)
    done = _choose(tmp_path / "store", tmp_path / "near.parquet", dedupe="near")
    assert set(_ids(tmp_path / "near.parquet")) == {"a tie", "other", "no hash", "no hash either"}
    assert pq.read_table(tmp_path / "near.parquet.groups.parquet").to_pylist() == [
        {"kept_image_id": "a tie", "image_id": "b tie", "distance": 1, "kept_score": 60.0, "score": 60.0},
        {"kept_image_id": "a tie", "image_id": "worse", "distance": 1, "kept_score": 60.0, "score": 40.0},
    ]
    assert _steps(done)[-1] == ("--dedupe near --distance 10", 2)
    assert done.record["output"]["duplicates"] == 2
    _choose(tmp_path / "store", tmp_path / "near.parquet", dedupe="near", distance=0)
    assert set(_ids(tmp_path / "near.parquet")) == {"b tie", "a tie", "other", "no hash", "no hash either"}
    _choose(tmp_path / "store", tmp_path / "near.parquet")
    assert not (tmp_path / "near.parquet.groups.parquet").exists()  # of the curation before


def test_a_duplicate_of_what_a_filter_dropped_stays(tmp_path: Path) -> None:
    rows = [
        {"image_id": "large", "score": 40.0, "sha256": _sha256(1), "width": 4000},
        {"image_id": "best but odd", "score": 60.0, "sha256": _sha256(1), "score_std": 30.0},
    ]
    write_store(tmp_path / "store", rows)
    _choose(tmp_path / "store", tmp_path / "best.parquet", dedupe="exact", max_std=20.0)
    assert _ids(tmp_path / "best.parquet") == ["large"]


def test_hexadecimal_strings_are_read_as_numbers() -> None:
    strings = pa.chunked_array([["00000000000000ff", None, "zz" * 8, "12"], ["ffffffffffffffff"]]).slice(0, 5)
    words, known = hash_words(strings, 16)
    assert words[known].tolist() == [[255], [2**64 - 1]]
    assert known.tolist() == [True, False, False, False, True]
    words, known = hash_words(pa.chunked_array([["0" * 15 + "1" + "0" * 15 + "2" + "f" * 32]]), 64)
    assert words.tolist() == [[1, 2]]
    assert hash_words(pa.chunked_array([], pa.string()), 16)[0].shape == (0, 1)


# Conditions.


def test_a_condition_may_be_about_scores_texts_and_manifest_at_once(store: Path, tmp_path: Path) -> None:
    ids = ["003.jpg", "001.jpg", "002.jpg", "150.jpg"]
    source = _manifest(tmp_path / "m.parquet", ids, **{"odd name": [1, 2, 3, 4], "SCORE": ["a", "b", "c", "d"]})
    where = "\"odd name\" < 4 AND score > 0 AND contains(overall_gestalt, 'sharp') AND overall_gestalt_tokens IS NULL"
    _choose(store, tmp_path / "best.parquet", manifest=str(source), where=where)
    assert _ids(tmp_path / "best.parquet") == ["001.jpg", "002.jpg"]
    # SQL makes no difference between SCORE and score: it is the store's.
    _choose(store, tmp_path / "best.parquet", manifest=str(source), where="SCORE > 0")
    assert pq.read_table(tmp_path / "best.parquet")["SCORE"].to_pylist() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["row", "held", "points", "grp", "failed", "first", "tar", "rank", "described"])
def test_columns_of_people_may_be_called_as_they_like(store: Path, tmp_path: Path, name: str) -> None:
    source = _manifest(tmp_path / "m.parquet", ["003.jpg", "001.jpg", "002.jpg"], **{name: [0, 0, 1]})
    _choose(store, tmp_path / "best.parquet", manifest=str(source), where=f"{name} = 0", top="2", per=name)
    assert _ids(tmp_path / "best.parquet") == ["003.jpg", "001.jpg"]


@pytest.mark.parametrize("question", ["points", "held", "grp", "row"])
def test_a_question_may_be_called_as_it_likes(tmp_path: Path, question: str) -> None:
    rows: list[Row] = [{"image_id": name, "score": score, "phash": "0f" * 8} for name, score in (("a", 1), ("b", 2))]
    write_store(tmp_path / "out", rows)
    for path in [tmp_path / "out" / "_store.json", *(tmp_path / "out" / "scores").glob("*")]:
        if path.suffix == ".json":
            path.write_text(path.read_text().replace('"score"', f'"{question}"'))
        else:
            table = pq.read_table(path)
            names = [
                name.replace("score", question) if name in ("score", "score_std") else name
                for name in table.column_names
            ]
            pq.write_table(table.rename_columns(names), path)
    _choose(tmp_path / "out", tmp_path / "best.parquet", dedupe="near", order="score", top="1", sample=1)
    assert _ids(tmp_path / "best.parquet") == ["b"]


def test_a_condition_that_fails_on_a_row_gets_a_sentence(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Could not convert string '\d+\.jpg' to INT32"):
        _choose(store, tmp_path / "best.parquet", where="image_id::INTEGER > 5")
    assert not (tmp_path / "best.parquet").exists()


@pytest.mark.slow
def test_a_condition_that_takes_hours_is_stopped(store: Path, tmp_path: Path) -> None:
    endless = "list_sum(list_transform(range(length(image_id) * 100000), lambda x: x % 7)) > 5"
    with pytest.raises(UsageError, match=r"take longer than 0\.2 s. Nothing was written. Allow more with --timeout"):
        _choose(store, tmp_path / "best.parquet", where=endless, timeout_s=0.2)
    assert not (tmp_path / "best.parquet").exists()


def test_a_folder_may_be_called_like_a_pattern(tmp_path: Path, rows: list[Row]) -> None:
    for name in ("photos [1]* 'x'", "photos 1 'x'"):
        write_store(tmp_path / name, rows if "[" in name else rows[:3], shard_rows=50)
    _choose(tmp_path / "photos [1]* 'x'", tmp_path / "best.parquet", where="true")
    assert len(_ids(tmp_path / "best.parquet")) == 180


def test_a_file_that_is_cut_short_is_named(store: Path, tmp_path: Path) -> None:
    path = sorted((store / "scores").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"t-00001\.parquet: is not a whole file of ours"):
        _choose(store, tmp_path / "best.parquet", min_score=1.0)


# Manifests.


def _manifest(path: Path, ids: Sequence[str], **columns: Any) -> Path:
    uris = [f"/photos/{name}" for name in ids]
    pq.write_table(
        pa.table({"image_id": pa.array(ids, pa.string()), "uri": pa.array(uris, pa.string()), **columns}), path
    )
    return path


def test_a_manifest_keeps_its_own_columns_and_order_and_gets_the_scores(
    tmp_path: Path, store: Path, rows: list[Row]
) -> None:
    ids = [f"{number:03}.jpg" for number in range(199, -1, -1)] + ["new.jpg", "000.jpg"]
    category = [["cat", "dog", None][int(name[:3]) % 3] if name != "new.jpg" else "cat" for name in ids]
    numbers = pa.array(range(len(ids)), pa.int16())
    source = _manifest(
        tmp_path / "m.parquet",
        ids,
        category=pa.array(category).dictionary_encode(),
        tags=[[name, "x"] for name in ids],
        number=numbers,
        score=[1.0] * len(ids),
        width=["theirs"] * len(ids),
    )
    done = _choose(
        store,
        tmp_path / "best.parquet",
        manifest=str(source),
        top="5",
        per="category",
        where="category != 'dog' and width > 600",
    )
    table = pq.read_table(tmp_path / "best.parquet")
    assert table.column_names == ["image_id", "uri", "category", "tags", "number", "width", "score", "score_std"]
    assert [str(table.schema.field(name).type) for name in ("number", "score")] == ["int16", "float"]
    by_id = {row["image_id"]: row for row in rows}
    cats = [name for name in dict.fromkeys(ids) if name in by_id and int(name[:3]) % 3 == 0]
    cats = [name for name in cats if by_id[name].get("width", 0) > 600]
    best = set(sorted(cats, key=lambda name: (-by_id[name]["score"], name))[:5])
    assert table["image_id"].to_pylist() == [name for name in ids[:200] if name in best]
    for row in table.to_pylist():
        assert row["score"] == by_id[row["image_id"]]["score"]
        assert row["tags"] == [row["image_id"], "x"]
        assert (row["category"], row["width"]) == ("cat", "theirs")
    assert _steps(done)[:3] == [("not in the store", 1), ("doubled image_id", 1), ("error rows", 20)]
    assert any("own score gave way" in note for note in done.funnel.notes)


def test_the_best_come_first_if_that_is_asked_for(tmp_path: Path, store: Path, rows: list[Row]) -> None:
    best = [row["image_id"] for row in sorted(_scored(rows), key=lambda row: (-row["score"], row["image_id"]))]
    _choose(store, tmp_path / "best.parquet", order="score", max_score=70.0)
    below = [row["image_id"] for row in _scored(rows) if row["score"] > 70]
    assert _ids(tmp_path / "best.parquet") == [name for name in best if name not in below]
    group = pq.ParquetFile(tmp_path / "best.parquet").metadata.row_group(0)
    (score,) = (group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == "score")
    assert score.has_column_index
    assert score.has_offset_index
    assert score.statistics.max <= 70
    ids = [row["image_id"] for row in rows]
    (tmp_path / "source").mkdir()
    for part in range(4):  # with categories of its own in each file
        some = ids[part::4]
        kinds = pa.array([f"{part}-{name}" for name in some]).dictionary_encode()
        images = [{"bytes": name.encode(), "path": None} for name in some]
        _manifest(tmp_path / "source" / f"{part}.parquet", some, kind=kinds, image=images)
    _choose(store, tmp_path / "best.parquet", order="score", manifest=str(tmp_path / "source"))
    found = pq.read_table(tmp_path / "best.parquet")
    assert found["image_id"].to_pylist() == best
    assert [kind.partition("-")[2] for kind in found["kind"].to_pylist()] == best
    assert [image["bytes"].decode() for image in found["image"].to_pylist()] == best
    with pytest.raises(UsageError, match="--order takes store or score"):
        _choose(store, tmp_path / "best.parquet", order="size")


def test_rows_of_the_store_that_the_manifest_lacks_are_said(tmp_path: Path, store: Path) -> None:
    source = _manifest(tmp_path / "m.parquet", ["001.jpg", "002.jpg"])
    done = _choose(store, tmp_path / "best.parquet", manifest=str(source))
    assert done.funnel.rows == 2
    assert any("198 of 200 rows" in note for note in done.funnel.notes)
    with pytest.raises(CurationError, match=r"not in the store removed the last 1 of 1 rows"):
        _choose(store, tmp_path / "none.parquet", manifest=str(_manifest(tmp_path / "other.parquet", ["x"])))


def test_a_manifest_that_changes_meanwhile_is_noticed(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _manifest(tmp_path / "m.parquet", ["001.jpg", "002.jpg"])
    for ids in (["001.jpg"], [f"{number:03}.jpg" for number in range(70_000)], []):

        def apply_and_change(*arguments: Any, now: Sequence[str] = ids) -> None:
            _apply(*arguments)
            _manifest(source, now)

        monkeypatch.setattr("jobs.curate.curate._apply", apply_and_change)
        with pytest.raises(ManifestError, match=r"m\.parquet: was changed while it was read"):
            _choose(store, tmp_path / "best.parquet", manifest=str(source))
        _manifest(source, ["001.jpg", "002.jpg"])


def test_a_manifest_in_several_files_lacks_a_column_in_some(tmp_path: Path, store: Path) -> None:
    (tmp_path / "m").mkdir()
    _manifest(tmp_path / "m" / "a.parquet", ["001.jpg"], category=["cat"])
    _manifest(tmp_path / "m" / "b.parquet", ["002.jpg"])
    _choose(store, tmp_path / "best.parquet", manifest=str(tmp_path / "m"))
    assert pq.read_table(tmp_path / "best.parquet")["category"].to_pylist() == ["cat", None]
    _manifest(tmp_path / "m" / "c.parquet", ["003.jpg"], category=[[1]])
    with pytest.raises(ManifestError, match=r"c\.parquet: its columns are of other types"):
        _choose(store, tmp_path / "best.parquet", manifest=str(tmp_path / "m"))


def test_the_id_is_the_column_that_was_joined_on(tmp_path: Path, store: Path) -> None:
    pq.write_table(pa.table({"name": ["001.jpg"], "image_id": ["theirs"], "url": ["/a"]}), tmp_path / "m.parquet")
    options = ManifestOptions(id_column="name", uri_column="url")
    _choose(store, tmp_path / "best.parquet", manifest=str(tmp_path / "m.parquet"), manifest_options=options)
    (row,) = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert (row["image_id"], row["name"], row["url"]) == ("001.jpg", "001.jpg", "/a")


def test_a_folder_and_a_test_json_are_manifests_too(tmp_path: Path) -> None:
    entries = [{"image": "a.jpg", "gt_score": 7.5}, {"image": "b.jpg", "gt_score": 2}]
    (tmp_path / "test.json").write_text(json.dumps(entries))
    write_store(tmp_path / "store", [{"image_id": "a.jpg"}, {"image_id": "b.jpg"}])
    _choose(tmp_path / "store", tmp_path / "best.parquet", manifest=str(tmp_path / "test.json"), where="gt_score > 5")
    (row,) = pq.read_table(tmp_path / "best.parquet").to_pylist()
    assert (row["image_id"], row["gt_score"], row["score"]) == ("a.jpg", 7.5, 50.0)


# Protocols.


def test_a_unipercept_store_is_chosen_from_by_any_of_its_scores(tmp_path: Path) -> None:
    rows = [{"image_id": str(number), "iaa": float(number), "iqa": float(9 - number)} for number in range(10)]
    unipercept_store(tmp_path / "store", rows)
    _choose(tmp_path / "store", tmp_path / "iaa.parquet", top="2")
    assert _ids(tmp_path / "iaa.parquet") == ["8", "9"]
    _choose(tmp_path / "store", tmp_path / "iqa.parquet", top="2", score_column="iqa")
    assert _ids(tmp_path / "iqa.parquet") == ["0", "1"]
    assert {"iaa", "iaa_std", "iqa", "ista"} <= set(pq.read_schema(tmp_path / "iqa.parquet").names)
    with pytest.raises(UsageError, match=r"has no score 'iqq'; it has iaa, iqa, ista\. Did you mean iqa"):
        _choose(tmp_path / "store", tmp_path / "x.parquet", score_column="iqq")


# What is written.


def test_everybody_opens_the_output_as_it_is(store: Path, tmp_path: Path) -> None:
    done = _choose(store, tmp_path / "best.parquet", top="7")
    ids = _ids(tmp_path / "best.parquet")
    assert len(ids) == 7
    again = [row for batch in open_manifest(str(tmp_path / "best.parquet")).batches() for row in batch.rows.to_pylist()]
    assert [(row["image_id"], row["uri"], row["version"]) for row in again] == [
        (name, f"/photos/{name}", "1") for name in ids
    ]
    assert polars.read_parquet(tmp_path / "best.parquet")["image_id"].to_list() == ids
    assert ds.dataset(tmp_path / "best.parquet").count_rows() == 7
    assert duckdb.execute(f"select count(score) from '{tmp_path}/best.parquet'").fetchall() == [(7,)]
    funnel = json.loads(pq.read_metadata(tmp_path / "best.parquet").metadata[b"artimuse.curation"])
    beside = json.loads((tmp_path / "best.parquet.funnel.json").read_text())
    assert funnel == beside["funnel"] == done.funnel.to_json()
    for name in ("best.jsonl", "best.csv"):
        _choose(store, tmp_path / name, top="7")
    lines = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == ids
    assert {"score", "width", "phash"} <= set(lines[0])
    assert polars.read_csv(tmp_path / "best.csv")["image_id"].to_list() == ids
    assert duckdb.execute(f"select image_id from '{tmp_path}/best.jsonl'").fetchall() == [(name,) for name in ids]


def test_a_folder_holds_a_manifest_and_nothing_else_that_readers_see(store: Path, tmp_path: Path) -> None:
    _choose(store, tmp_path / "best", top="7", dedupe="exact")
    files = sorted(
        str(path.relative_to(tmp_path / "best")) for path in (tmp_path / "best").rglob("*") if path.is_file()
    )
    assert files == ["__curation/funnel.json", "__curation/groups.parquet", "manifest.parquet"]
    assert ds.dataset(tmp_path / "best").count_rows() == 7
    assert sum(len(batch.rows) for batch in open_manifest(str(tmp_path / "best")).batches()) == 7
    _choose(store, tmp_path / "best", top="3", kind="csv")
    assert sorted(path.name for path in (tmp_path / "best").rglob("*") if path.is_file()) == [
        "funnel.json",
        "manifest.csv",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "store"]  # nothing is left aside


@pytest.mark.slow
@pytest.mark.parametrize("out", ["best.parquet", "best.jsonl", "best.csv", "best"])
def test_the_same_arguments_and_store_give_the_same_bytes(store: Path, tmp_path: Path, out: str) -> None:
    def files() -> dict[str, bytes]:
        found = [path for path in tmp_path.rglob("best*") if path.is_file()] + list((tmp_path / "best").rglob("*.*"))
        return {str(path): path.read_bytes() for path in found}

    for _ in range(2):
        _choose(store, tmp_path / out, dedupe="exact", top="50%", sample=40, where="score > 20")
        first, again = files(), files()
    _choose(store, tmp_path / out, dedupe="exact", top="50%", sample=40, where="score > 20")
    assert files() == first == again
    assert len(first) == 3


def test_the_store_remembers_its_curations(store: Path, tmp_path: Path) -> None:
    done = _choose(store, tmp_path / "best.parquet", min_score=50.0)
    _choose(store, tmp_path / "best.parquet", min_score=50.0)
    _choose(store, tmp_path / "best.parquet", min_score=60.0)
    records = [json.loads(path.read_text()) for path in (store / "_curations").iterdir()]
    assert len(records) == 2
    (mine,) = [record for record in records if record["artimuse_curation"] == done.record["artimuse_curation"]]
    assert mine["funnel"] == done.funnel.to_json()
    assert mine["arguments"]["filters"]["min_score"] == 50.0
    assert {"created", "code_version"} <= set(mine)
    assert Store.open(str(store)).counts().rows == 200  # and is as it was


def test_a_link_to_a_folder_is_filled_and_stays(store: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "best").symlink_to(tmp_path / "disk")
    for top in ("5", "7"):
        _choose(store, tmp_path / "best", top=top)
        assert (tmp_path / "best").is_symlink()
        assert len(_ids(tmp_path / "disk" / "manifest.parquet")) == int(top)


def test_what_is_kept_of_a_curation_has_no_secrets(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_manifest(str(_manifest(tmp_path / "m.parquet", ["001.jpg", "002.jpg"])))
    monkeypatch.setattr("jobs.curate.curate.open_manifest", lambda *_: source)
    _choose(store, tmp_path / "best.parquet", manifest="https://u:pw@host/m.parquet?X-Amz-Signature=SECRET")
    kept = [*(store / "_curations").iterdir(), tmp_path / "best.parquet", tmp_path / "best.parquet.funnel.json"]
    assert len(kept) == 3
    assert not [path.name for path in kept if b"SECRET" in path.read_bytes() or b"pw@" in path.read_bytes()]


def test_a_store_that_cannot_be_written_to_is_curated_all_the_same(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("read-only")

    monkeypatch.setattr(LocalPlace, "write", refuse)
    done = _choose(store, tmp_path / "best.parquet")
    assert any("has no note of this curation: read-only" in note for note in done.funnel.notes)
    assert len(_ids(tmp_path / "best.parquet")) == 180


def test_what_is_no_curation_is_never_replaced(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").write_text("precious")
    with pytest.raises(CurationError, match=r"mine\.parquet: is there already and no curation wrote it"):
        _choose(store, tmp_path / "mine.parquet")
    for beside in ("groups.parquet", "funnel.json"):
        (tmp_path / f"other.parquet.{beside}").write_text("precious")
        with pytest.raises(CurationError, match=rf"other\.parquet\.{beside}: is there already"):
            _choose(store, tmp_path / "other.parquet")
        (tmp_path / f"other.parquet.{beside}").unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(CurationError, match=r"such as notes\.txt"):
        _choose(store, tmp_path / "mine")
    with pytest.raises(CurationError, match="holds what no curation wrote"):
        _choose(store, store)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CurationError, match="is a file"):
        _choose(store, tmp_path / "file")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(CurationError, match="is a folder"):
        _choose(store, tmp_path / "folder.parquet")
    _choose(store, tmp_path / "ours")
    (tmp_path / "ours" / "notes.txt").write_text("precious")
    with pytest.raises(CurationError, match=r"such as notes\.txt"):
        _choose(store, tmp_path / "ours")
    for name in ("mine.parquet", "mine/notes.txt", "file", "ours/notes.txt"):
        assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("out", ["best.parquet", "best"])
def test_a_curation_that_is_killed_leaves_the_one_before(
    store: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    manifest = tmp_path / out / "manifest.parquet" if out == "best" else tmp_path / out
    for before in (None, "5"):
        if before:
            _choose(store, tmp_path / out, top=before)
        with monkeypatch.context() as patch:
            patch.setattr("jobs.store.stores.StoresTables.check_unchanged", die)
            with pytest.raises(KeyboardInterrupt):
                _choose(store, tmp_path / out, top="9")
        assert manifest.exists() == bool(before)
        if before:
            assert len(_ids(manifest)) == 5
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_run_that_changes_the_store_meanwhile_is_noticed(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply_and_change(*arguments: Any) -> None:
        _apply(*arguments)
        path = sorted((store / "scores").iterdir())[0]
        path.write_bytes(path.read_bytes())

    monkeypatch.setattr("jobs.curate.curate._apply", apply_and_change)
    with pytest.raises(StoreError, match=r"was changed by a run while it was read\. Nothing was written"):
        _choose(store, tmp_path / "best.parquet")
    assert not (tmp_path / "best.parquet").exists()

    def delete(*_: Any) -> None:
        for path in (store / "scores").iterdir():
            path.unlink()

    monkeypatch.setattr("jobs.curate.curate._apply", delete)
    with pytest.raises(StoreError, match="was changed by a run"):
        _choose(store, tmp_path / "best.parquet")


@pytest.mark.parametrize("name", [*FORMATS, *sorted(RAW_KINDS), "MPO", "JPG", "HEIC"])
def test_images_of_every_format_that_is_read_can_be_chosen(name: str) -> None:
    (chosen,) = read_filters(FilterOptions(format=name.lower()), "score", pa.schema([]))
    assert f"'{ {'JPG': 'JPEG', 'HEIC': 'HEIF'}.get(name, name) }'" in chosen.sql


# Mistakes.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"where": "catgory == 'x'"}, "no column 'catgory'"),
        ({"top": "5", "per": "formt"}, "no column 'formt'. Did you mean format"),
        ({"per": "format"}, "Add --top"),
        ({"top": "110%"}, "at most 100%"),
        ({"sample": 0}, "--sample takes a whole number from 1"),
        ({"sample": 5, "seed": -1}, "--seed takes"),
        ({"min_score": 60.0, "max_score": 50.0}, "is above --max-score"),
        ({"min_score": math.nan}, "takes a number of points"),
        ({"min_side": 0}, "whole number of pixels"),
        ({"aspect": "wide"}, "takes width:height"),
        ({"aspect": "16:0"}, "takes width:height"),
        ({"aspect": ".."}, "from the narrower to the wider"),
        ({"aspect": "2:1..1:1"}, "from the narrower to the wider"),
        ({"format": "jepg"}, "Did you mean JPEG"),
        ({"format": "webdataset"}, "use --as webdataset"),
        ({"text_matches": "("}, "no regular expression"),
        ({"text_matches": "a\udcff"}, "no regular expression"),
        ({"text_matches": "(((a{1000}){1000}){1000})"}, "no regular expression"),
        ({"text_matches": "a" * 10_001}, "takes at most 10,000 characters"),
        ({"dedupe": "similar"}, "exact or near"),
        ({"distance": 4}, "Add --dedupe near"),
        ({"dedupe": "exact", "distance": 4}, "Add --dedupe near"),
        ({"dedupe": "near", "distance": 30}, "0 to 12"),
        ({"fetch": FetchOptions(root="/photos")}, "--root is about images that are read. Add --copy"),
        ({"kind": "zip"}, "--as takes parquet, jsonl, csv or webdataset"),
        ({"kind": "csv"}, "is called like parquet, and --as says csv"),
        ({"copy": True}, "is a file. Name a folder"),
    ],
    ids=str,
)
def test_a_mistake_gets_a_sentence_and_nothing_is_written(
    store: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        _choose(store, tmp_path / "best.parquet", **options)
    assert not (store / "_curations").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_filter_that_leaves_nothing_is_named(store: Path, tmp_path: Path) -> None:
    with pytest.raises(CurationError) as error:
        _choose(store, tmp_path / "best.parquet", min_score=50.0, max_std=1.0, top="10%")
    assert "--max-std 1 removed the last" in str(error.value)
    assert "error rows removed 20; --min-score 50 removed" in str(error.value)
    assert "Nothing was written" in str(error.value)


def test_texts_are_asked_of_a_store_that_has_them(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [{"image_id": "a"}])
    with pytest.raises(UsageError, match=r"has no texts\. Score with --texts first"):
        _choose(tmp_path / "store", tmp_path / "best.parquet", text_matches="sharp")


def test_an_empty_store_has_nothing_to_choose_from(tmp_path: Path) -> None:
    write_store(tmp_path / "store", [])
    with pytest.raises(CurationError, match="there are no rows to choose from"):
        _choose(tmp_path / "store", tmp_path / "best.parquet", top="5")
    source = _manifest(tmp_path / "m.parquet", ["a"])
    with pytest.raises(CurationError, match="not in the store removed the last 1"):
        _choose(tmp_path / "store", tmp_path / "best.parquet", manifest=str(source))


@pytest.mark.parametrize("out", ["scores/best.parquet", "scores/best", "texts/a.csv", "scores"])
def test_the_tables_of_the_store_are_no_place_for_an_output(store: Path, out: str) -> None:
    with pytest.raises(UsageError, match="lies among the files of the store"):
        _choose(store, store / out)


# The command.


@pytest.mark.slow
def test_the_command_shows_the_funnel_and_prints_it_as_json(store: Path, tmp_path: Path) -> None:
    words = ("curate", store, "--min-score", "50", "--top", "10%", "--out", tmp_path / "best.parquet")
    screen = run_artimuse(*words).stdout
    assert "--min-score 50" in screen
    assert f"Next: artimuse score {tmp_path}/best.parquet" in screen
    record = json.loads(run_artimuse(*words, "--json").stdout)
    assert (
        record["funnel"]["rows"]
        == 200
        == record["funnel"]["left"] + sum(s["removed"] for s in record["funnel"]["steps"])
    )
    failed = run_artimuse("curate", store, "--min-score", "101", "--out", tmp_path / "x.parquet", code=1)
    assert failed.stderr.startswith("CurationError: ")
