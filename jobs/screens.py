"""What the commands print, and what `--json` prints instead."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.progress import format_seconds

if TYPE_CHECKING:
    from jobs.image import FileResult
    from jobs.score import ScoreResult, ScoreSettings
    from jobs.status import StoreStatus


def score_json(result: ScoreResult) -> dict[str, Any]:
    """The final screen of `score`, for scripts."""
    record = result.record
    return {
        "run_id": record.run_id,
        "rows": {"manifest": record.manifest_rows, "held": record.held_rows, "scored": record.scored_rows},
        "store": {"rows": result.counts.rows, "ok": result.counts.ok, "failed": result.counts.failed},
        "errors": dict(result.counts.errors),
        "new_errors": dict(result.new_errors),
        "notes": result.notes,
        "images_per_s": record.images_per_s,
        "seconds": record.seconds,
    }


def show_score(result: ScoreResult, settings: ScoreSettings) -> None:
    """What was written, what failed by type, and the next command."""
    record, counts = result.record, result.counts
    for note in result.notes:
        print(note)
    if result.was_finished:
        print(f"Nothing to do: all {record.manifest_rows:,} images are in {settings.out} already.")
    else:
        speed = f" ({record.images_per_s:,.1f} images/s)" if record.images_per_s else ""
        held = f"; {record.held_rows:,} were there before" if record.held_rows else ""
        seconds = format_seconds(sum(record.seconds.values()))
        print(f"{record.scored_rows:,} of {record.manifest_rows:,} images in {seconds}{speed}{held}.")
    print(f"{settings.out}/scores: {counts.rows:,} rows = {counts.ok:,} ok + {counts.failed:,} failed.")
    if counts.failed:
        print(f"  failed: {_by_type(counts.errors)}; see the columns error_type and error_message.")
    print(f"Next: artimuse status {shlex.quote(settings.out)}")


def show_status(status: StoreStatus) -> None:
    """A store on one screen."""
    print(f"{status.out}: {status.fingerprint}")
    print(status.verdict + ".")
    if status.counts.failed:
        print(f"  failed: {_by_type(status.counts.errors)}")
    if status.staged_rows:
        print(f"  {status.staged_rows:,} of the remaining are scored and wait for their shard to be complete.")
    if status.remaining > 0:
        print("  Run the same command again to go on.")
    for run in status.runs:
        speed = f", {run['images_per_s']:,.1f} images/s" if run.get("images_per_s") else ""
        seconds = format_seconds(sum(run["seconds"].values()))
        state = run["state"] if run["state"] != "running" else "running, or died"
        print(f"  {run['run_id']}  {state}: {run['scored_rows']:,} rows in {seconds}{speed}")


def show_images(results: Sequence[FileResult]) -> None:
    """One line an image: scores with their spread, or the error."""
    for result in results:
        if result.score is None:
            assert result.error is not None
            print(f"{result.file}: {result.error.error_type}: {result.error.message}")
            continue
        stds = result.score.stds
        points = ", ".join(f"{name} {value:.2f} ± {stds[name]:.2f}" for name, value in result.score.scores.items())
        print(f"{result.file}: {points}")


def _by_type(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in Counter(errors).most_common())
