"""Stores with any rows that a report may meet, written as the store writes them, and very large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.stores import FINGERPRINT

from artimuse_actor.protocol.protocols import ARTIMUSE, Protocol
from jobs.store.run_record import RunRecord
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from schemas.scores import CAPTURE
from schemas.texts import texts_schema

TITLES = tuple(ARTIMUSE.text_questions)
_SCORED = {"status": "ok", "score_std": 9.0, "width": 1200, "height": 800, "format": "JPEG"}


def write_store(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    texts: Mapping[str, Sequence[str]] | None = None,
    protocol: Protocol = ARTIMUSE,
    shard_rows: int = 100,
) -> Store:
    """A store of these rows.

    Args:
        folder: where it goes.
        rows: columns of the scores table; those of a row with an `error_type` are an error's.
        texts: image_id → its eight texts.
        protocol: whose scores.
        shard_rows: rows of a file.
    """
    wanted = WantedTexts(None, None) if texts is not None else None
    store = Store.for_run(str(folder), FINGERPRINT, protocol, keep_distribution=False, wanted_texts=wanted)
    store.declare()
    for shard, start in enumerate(range(0, len(rows), shard_rows)):
        some = [_row(row) for row in rows[start : start + shard_rows]]
        told = None
        if texts is not None and store.texts:
            described = [row["image_id"] for row in some if row["image_id"] in texts]
            about = {"status": "ok", "run_id": "r", "described_at": 0}
            made = [
                {"image_id": name, **about, **dict(zip(store.texts.columns, texts[name], strict=True))}
                for name in described
            ]
            told = pa.Table.from_pylist(made, schema=texts_schema(store.texts))
        store.write_tables(f"scores/t-{shard:05}.parquet", pa.Table.from_pylist(some, schema=store.schema), told, "t")
    return store


def write_run(store: Store, source: str, **arguments: Any) -> None:
    """Note a run that scored a source."""
    given = {"source": source, "out": store.place.root, **arguments}
    record = RunRecord("20261123-120000-abcd", given, store.fingerprint, device="cpu", dtype="float32")
    record.end("finished")
    record.write(store.place)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    made = {"uri": row["image_id"], "run_id": "r", "scored_at": 0}
    if "error_type" in row:
        return {**made, "status": "error", "retryable": False, "error_message": "It is no good.", **row}
    return {**made, **_SCORED, "score": 50.0, **row}


def write_large_store(
    folder: Path, rows: int, pictures: Sequence[Path], shard_rows: int = 65_536, different_texts: int = 500
) -> Store:
    """A store of very many rows with eight texts each, all about a few pictures.

    One row in a hundred is an error, and one in fifty has the bytes of another one.
    """
    store = Store.for_run(
        str(folder), FINGERPRINT, ARTIMUSE, keep_distribution=False, wanted_texts=WantedTexts(None, None)
    )
    store.declare()
    assert store.texts is not None
    random = np.random.default_rng(0)
    words = np.array(
        ["composition", "light", "subject", "balance", "line", "texture", "mood", "depth", "focus", "calm"]
    )
    sentences = [" ".join(random.choice(words, 94)) for _ in range(different_texts)]
    uris = np.array([str(path) for path in pictures])
    for shard, start in enumerate(range(0, rows, shard_rows)):
        count = min(shard_rows, rows - start)
        failed = random.random(count) < 0.01
        hashes = random.integers(0, 2**63, (count, 4), dtype=np.uint64)
        copied = random.random(count) < 0.02
        hashes[copied] = hashes[0]
        digits = [bytes(row).hex() for row in hashes]
        points = np.clip(55 + 14 * random.standard_normal(count), 0, 100).astype(np.float32)
        columns: dict[str, Any] = {
            "image_id": [f"2026/{start + n:08}.jpg" for n in range(count)],
            "uri": uris[random.integers(0, len(uris), count)],
            "status": np.where(failed, "error", "ok"),
            "error_type": pa.array(random.choice(["missing", "truncated", "fetch_failed"], count), mask=~failed),
            "error_message": pa.array(["The file is not what it was."] * count, mask=~failed),
            "retryable": pa.array(random.random(count) < 0.3, mask=~failed),
            "score": pa.array(points, mask=failed),
            "score_std": pa.array(random.gamma(20, 0.5, count).astype(np.float32), mask=failed),
            "width": pa.array([6000] * count, pa.int32(), mask=failed),
            "height": pa.array([4000] * count, pa.int32(), mask=failed),
            "format": pa.array(["JPEG"] * count, mask=failed),
            "sha256": pa.array(digits, mask=failed),
            "phash": pa.array([text[:16] for text in digits], mask=failed),
            "warning": pa.array(["exif_rotated+colour_profile"] * count, mask=failed | (random.random(count) < 0.7)),
            **{field.name: pa.nulls(count, field.type) for field in CAPTURE},
            "run_id": ["r"] * count,
            "scored_at": pa.array(np.arange(start, start + count) * 1000, pa.timestamp("us", tz="UTC")),
            "copied_from": pa.nulls(count, pa.string()),
            "version": pa.nulls(count, pa.string()),
        }
        scores = pa.table([pa.array(columns[field.name], field.type) for field in store.schema], schema=store.schema)
        ok = scores.filter(pa.array(~failed))
        texts = {name: pa.array(random.choice(sentences, len(ok))) for name in store.texts.columns}
        schema = texts_schema(store.texts)
        made = {"image_id": ok["image_id"], "status": ok["status"], "run_id": ok["run_id"], **texts}
        told = pa.table(
            [
                made[field.name].cast(field.type)
                if field.name in made
                else ok["scored_at"].cast(field.type)
                if field.name == "described_at"
                else pa.nulls(len(ok), field.type)
                for field in schema
            ],
            schema=schema,
        )
        store.write_tables(f"scores/t-{shard:05}.parquet", scores, told, "t")
    return store
