"""One precision a store: what a run of another one is told, and what is said where somebody wanted several."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.golden import golden_checkpoint
from support.score_job import run_artimuse
from support.stores import FINGERPRINT, complete, open_store, plan_for, stage, write_manifest

from artimuse_actor.checkpoint.names import identify_checkpoint
from artimuse_actor.errors import StoreMismatch, UsageError
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import ARTIMUSE
from jobs.score.run import score
from jobs.score.settings import ScoreSettings
from jobs.store.fingerprints import fingerprint_of
from jobs.store.maintenance import compact
from jobs.store.precision import admit_precision, refuse_other_precision, stored_precisions
from jobs.store.run_record import RunRecord
from jobs.store.store import Store

BOTH = r"holds rows in float32; this run would add rows in bfloat16, .* Use --dtype float32 to .* --allow-mixed"


def _scored_store(folder: Path, precision: str | None = "float32") -> Store:
    """A store of two rows in `folder/out`."""
    store = open_store(folder / "out")
    if precision:
        admit_precision(store, precision)
    complete(store, plan_for(store, write_manifest(folder / "m.parquet", ["a", "b"]), "p"))
    return store


def _make_old(store: Store, *dtypes: str | None) -> None:
    """Make the description one of an older version, with runs of these precisions."""
    place = store.place
    raw = json.loads(place.read("_store.json"))
    for name in ("precision", "scoring"):
        raw["fingerprint"].pop(name)
    place.write("_store.json", json.dumps(raw).encode())
    for number, dtype in enumerate(dtypes):
        RunRecord(f"run{number}", {}, store.fingerprint, dtype=dtype, scored_rows=2 if dtype else 0).write(place)


def test_the_first_run_names_the_precision_and_another_is_refused(tmp_path: Path) -> None:
    _scored_store(tmp_path)
    store = Store.open(str(tmp_path / "out"))
    assert store.fingerprint.precision == "float32"
    assert str(store.fingerprint) == "ArtiMuse@cccccc (artimuse@pppppp, rgb-bicubic-448/1, scoring/1, float32)"
    before = (tmp_path / "out" / "_store.json").read_bytes()
    admit_precision(store, "float32")
    with pytest.raises(StoreMismatch, match=BOTH):
        admit_precision(store, "bfloat16")
    assert (tmp_path / "out" / "_store.json").read_bytes() == before


def test_a_precision_without_rows_binds_nobody(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    admit_precision(store, "float16")  # and its first pass ended in NaN
    admit_precision(store, "bfloat16")
    assert Store.open(str(tmp_path / "out")).fingerprint.precision == "bfloat16"


@pytest.mark.parametrize(
    ("stored", "asked", "options"),
    [
        ("bfloat16", "bfloat16/nf4", "Use --dtype bfloat16 without --quantize to"),
        ("bfloat16/nf4", "bfloat16", "Use --dtype bfloat16 --quantize nf4 to"),
        ("bfloat16/int8", "bfloat16/nf4", "Use --dtype bfloat16 --quantize int8 to"),
    ],
)
def test_weights_of_fewer_bits_are_another_precision(tmp_path: Path, stored: str, asked: str, options: str) -> None:
    store = _scored_store(tmp_path, stored)
    with pytest.raises(StoreMismatch, match=f"rows in {stored}; this run would add rows in {asked}, .* {options}"):
        admit_precision(store, asked)


def test_rows_that_wait_for_their_commit_have_a_precision(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    admit_precision(store, "float32")
    plan = plan_for(store, write_manifest(tmp_path / "m.parquet", ["a", "b"]), "p", unit_rows=1)
    stage(store, plan, plan.shards[0], [0])
    with pytest.raises(StoreMismatch, match=BOTH):
        refuse_other_precision(store, "bfloat16")


def test_who_wants_several_gets_them_and_every_headline_says_so(tmp_path: Path) -> None:
    store = _scored_store(tmp_path)
    admit_precision(store, "bfloat16", allow_mixed=True)
    store = Store.open(str(tmp_path / "out"))
    assert store.fingerprint.precisions == ("bfloat16", "float32")
    for precision in store.fingerprint.precisions:
        admit_precision(store, precision)
    with pytest.raises(StoreMismatch, match="rows in bfloat16 and float32; this run would add rows in float16"):
        admit_precision(store, "float16")
    mixed = "bfloat16 and float32 mixed"
    assert mixed in run_artimuse("status", tmp_path / "out").stdout
    run_artimuse("report", tmp_path / "out", "--out", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text().count(mixed) == 2  # in the opening, and among the facts at the end
    assert mixed in run_artimuse("curate", tmp_path / "out", "--out", tmp_path / "best.csv").stdout
    truth = tmp_path / "truth.csv"
    truth.write_text("image_id,gt_score\na,1\nb,2\n")
    assert mixed in run_artimuse("evaluate", tmp_path / "out", "--ground-truth", truth).stdout


@pytest.mark.parametrize(
    ("dtypes", "found"),
    [
        ([], ()),
        ([None], ()),
        (["float32", None, "float32"], ("float32",)),
        (["float32", "bfloat16"], ("bfloat16", "float32")),
    ],
)
def test_an_old_store_has_the_precision_of_its_runs(
    tmp_path: Path, dtypes: list[str | None], found: tuple[str, ...]
) -> None:
    _make_old(_scored_store(tmp_path), *dtypes)
    store = Store.open(str(tmp_path / "out"))
    assert (store.fingerprint.precision, store.fingerprint.scoring) == (None, 1)
    assert store.fingerprint.same_scores(FINGERPRINT)
    assert stored_precisions(store) == found
    if "float32" in found and "bfloat16" not in found:
        with pytest.raises(StoreMismatch, match=BOTH):
            admit_precision(store, "bfloat16")
    else:  # nobody knows, or it was mixed before this was refused
        admit_precision(store, "bfloat16")
    compact([str(tmp_path / "out")], str(tmp_path / "new"))
    assert stored_precisions(Store.open(str(tmp_path / "new"))) == (found or ("bfloat16",))


def test_another_scoring_version_is_refused_by_name(tmp_path: Path) -> None:
    _scored_store(tmp_path)
    with pytest.raises(StoreMismatch, match=r"scoring/1, float32\); this run is .*scoring/2\)"):
        open_store(tmp_path / "out", fingerprint=replace(FINGERPRINT, scoring=2))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"dtype": "bfloat16"}, True),
        ({"dtype": "bfloat16", "allow_mixed": True}, False),
        ({"dtype": "float32"}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_a_run_is_refused_before_anything_starts(tmp_path: Path, options: dict[str, Any], refused: bool) -> None:
    checkpoint = str(golden_checkpoint("artimuse"))
    fingerprint = fingerprint_of(identify_checkpoint(checkpoint), ARTIMUSE, DecodeOptions())
    store = open_store(tmp_path / "out", fingerprint=replace(fingerprint, precision="float32"))
    source = write_manifest(tmp_path / "m.parquet", ["a", "b"])
    complete(store, plan_for(store, source, "p"))
    settings = ScoreSettings(source, checkpoint, str(tmp_path / "out"), protocol="artimuse", **options)
    if refused:
        with pytest.raises(StoreMismatch, match=BOTH):
            score(settings)
    else:
        assert score(settings).was_finished
    assert Store.open(str(tmp_path / "out")).fingerprint == replace(fingerprint, precision="float32")


def test_a_precision_that_is_none_is_refused_before_the_store_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dtype takes auto, float32, bfloat16, float16, not 'int9'"):
        ScoreSettings("photos", "ArtiMuse", str(tmp_path / "out"), dtype="int9")
    with pytest.raises(UsageError, match="--quantize takes int8, fp8, fp8-products, nf4, not 'int9'"):
        ScoreSettings("photos", "ArtiMuse", str(tmp_path / "out"), quantize="int9")


def test_the_description_of_a_store_has_the_whole_fingerprint(tmp_path: Path) -> None:
    store = _scored_store(tmp_path)
    raw = json.loads((tmp_path / "out" / "_store.json").read_text())
    assert raw["fingerprint"] == asdict(store.fingerprint)
    assert (raw["fingerprint"]["precision"], raw["fingerprint"]["scoring"]) == ("float32", 1)
