"""The events of a run, one JSON object a line on standard error, for log collectors."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from artimuse_actor.errors import UsageError
from artimuse_actor.uris import without_secrets
from jobs.plan.plan import ShardPlan
from jobs.store.run_record import RunRecord
from jobs.words import show

LOG_FORMATS: Final = ("text", "json")


def check_log_format(log_format: str) -> None:
    """Refuse an unknown format.

    Raises:
        UsageError: it is neither `text` nor `json`.
    """
    if log_format not in LOG_FORMATS:
        raise UsageError(f"--log-format takes text or json, not {log_format!r}.")


class Events:
    """The events of one run; with the format `text`, only notes are printed.

    Attributes:
        run_id: id of the run, in every line.
        is_json: whether events are written, as JSON.
        is_quiet: whether nothing is printed that is no news.
    """

    def __init__(self, run_id: str, log_format: str, *, quiet: bool = False) -> None:
        """Write to the present standard error: Ray's start mutes file descriptor 2, but not these lines."""
        self.run_id = run_id
        self.is_json = log_format == "json"
        self.is_quiet = quiet and not self.is_json
        self._lock = threading.Lock()  # shards are committed in threads
        self._file = os.fdopen(os.dup(sys.stderr.fileno()), "w") if self.is_json else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock, contextlib.suppress(OSError):
            if self._file:
                self._file.close()
            self._file = None

    def write(self, event: str, **fields: Any) -> None:
        """Write one line, unbuffered."""
        if not self.is_json:
            return
        head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, "run_id": self.run_id}
        line = json.dumps(head | fields)
        with self._lock, contextlib.suppress(OSError):  # a closed log must not stop the run
            if self._file:
                print(line, file=self._file, flush=True)

    def note(self, message: str, *, is_news: bool = False) -> None:
        """Write a sentence for people: an event `note`, or with the format `text` the sentence alone."""
        if self.is_json:
            self.write("note", message=without_secrets(message))
        elif is_news or not self.is_quiet:
            show(message, file=sys.stderr)

    def run_started(self, record: RunRecord, fields: Mapping[str, Any]) -> None:
        """Write that the plan is made and scoring begins."""
        checkpoint = record.fingerprint.checkpoint
        rows = {"manifest_rows": record.manifest_rows, "held_rows": record.held_rows, "staged_rows": record.staged_rows}
        self.write("run_started", checkpoint=checkpoint, **fields, **rows)

    def unit_staged(self, receipt: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Write a unit's receipt and the run's progress."""
        if not self.is_json:
            return
        counts = ("shard", "unit", "rows", "scored", "copied", "described", "text_tokens")
        spent = receipt["spent"]
        self.write(
            "unit_staged",
            **{name: receipt[name] for name in counts},
            failed=dict(Counter(receipt["error_types"])),
            fetched_bytes=spent["fetched_bytes"],
            seconds={step: _rounded(spent[f"{step}_s"]) for step in ("fetch", "decode", "wait", "model", "write")},
            nodes={"load": spent["loader"], "score": (spent["actor"] or "").rpartition(":")[0]},
            **progress,
        )

    def shard_committed(self, shard: ShardPlan) -> None:
        """Write that a shard's rows are in the tables."""
        self.write("shard_committed", shard=shard.index, rows=shard.rows)

    def run_ended(self, record: RunRecord, error: BaseException | None) -> None:
        """Write the result of the run, and the error that stopped it, if any."""
        rows = ("scored_rows", "described_rows", "copied_rows", "failed_rows", "pruned_rows", "text_tokens")
        names = ("state", *rows, "images_per_s", "busy_share", "bound", "seconds")
        fields = {name: getattr(record, name) for name in names}
        if error is None:
            self.write("run_finished", **fields)
        else:
            reason = without_secrets(str(error))
            self.write("run_stopped", **fields, error_type=type(error).__name__, error_message=reason)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
