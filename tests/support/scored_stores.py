"""Stores with any rows a test wants, written as the store writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from support.stores import open_store

from artimuse_actor.protocol.protocols import UNIPERCEPT, Protocol
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from schemas.texts import texts_schema

GESTALT = WantedTexts(["overall_gestalt"])
"""Texts with one column: `overall_gestalt`."""


def write_store(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    shard_rows: int = 100,
    texts: Mapping[str, str] | None = None,
    protocol: Protocol | None = None,
) -> Store:
    """A store of these rows; what a row leaves out is as of a JPEG of 1200×800 pixels with 50 points.

    Args:
        folder: where it goes.
        rows: columns of the scores table.
        shard_rows: rows of a file.
        texts: image_id → its text, if there are any.
        protocol: whose scores; ArtiMuse's by default.
    """
    store = open_store(folder, GESTALT if texts is not None else None)
    if protocol is not None:
        store.questions = tuple(protocol.score_questions)
        (folder / "_store.json").unlink()
        store.declare()
    for shard, start in enumerate(range(0, len(rows), shard_rows)):
        some = [_row(store, row) for row in rows[start : start + shard_rows]]
        told = None
        if texts is not None and store.texts:
            known = [row["image_id"] for row in some if row["image_id"] in texts]
            made = [
                {"image_id": name, "status": "ok", "overall_gestalt": texts[name], "run_id": "r", "described_at": 0}
                for name in known
            ]
            told = pa.Table.from_pylist(made, schema=texts_schema(store.texts))
        store.write_tables(f"scores/t-{shard:05}.parquet", pa.Table.from_pylist(some, schema=store.schema), told, "t")
    return store


def unipercept_store(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Store:
    """A store with `iaa`, `iqa` and `ista`."""
    return write_store(folder, rows, protocol=UNIPERCEPT)


def _row(store: Store, row: Mapping[str, Any]) -> dict[str, Any]:
    name = row["image_id"]
    made: dict[str, Any] = {"uri": f"/photos/{name}", "version": "1", "status": "ok", "run_id": "r", "scored_at": 0}
    if row.get("status") == "error":
        return made | {"error_type": "truncated", "error_message": "It is.", "retryable": False} | dict(row)
    for question in store.questions:
        made |= {question: 50.0, f"{question}_std": 10.0}
    return made | {"width": 1200, "height": 800, "format": "JPEG"} | dict(row)
