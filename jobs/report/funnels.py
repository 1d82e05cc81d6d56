"""The funnels of curations, stored in `_curations/` of a store: the rows that each step removed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from jobs.curate.funnel import Step
from jobs.storage.place import Place
from jobs.store.layout import CURATIONS

MOST_CURATIONS: Final = 10
_MOST_STEPS: Final = 40


@dataclass(frozen=True)
class FunnelRecord:
    """One curation.

    Attributes:
        source: where its rows came from.
        output: where they went.
        created: when, as text.
        rows: how many came in.
        steps: what was done to them.
        notes: what was said.
    """

    source: str
    output: str
    created: str
    rows: int
    steps: list[Step]
    notes: list[str]


def read_curations(place: Place) -> tuple[list[FunnelRecord], int]:
    """The newest curations of a store, and the number of all; files of another kind are skipped."""
    records = []
    for file in place.files(CURATIONS):
        if not file.path.endswith(".json"):
            continue
        try:
            records.append(_record(json.loads(place.read(file.path))))
        except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
            continue
    records.sort(key=lambda record: record.created, reverse=True)
    return records[:MOST_CURATIONS], len(records)


def _record(raw: Any) -> FunnelRecord:
    funnel, output = raw["funnel"], raw.get("output") or {}
    files = output.get("files") or {}
    steps = [Step(str(step["name"]), int(step["removed"]), int(step["left"])) for step in funnel["steps"]]
    return FunnelRecord(
        source=str(funnel["source"]),
        output="/".join(str(part) for part in (output.get("place"), files.get("rows")) if part),
        created=str(raw.get("created", "")),
        rows=int(funnel["rows"]),
        steps=steps[:_MOST_STEPS],
        notes=[str(note) for note in funnel.get("notes", [])][:_MOST_STEPS],
    )
