"""The last screen of `artimuse score`, and its `--json`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from jobs.store.text import texts_line, warnings_line
from jobs.words import by_count, format_seconds, show

if TYPE_CHECKING:
    from jobs.score.settings import ScoreResult, ScoreSettings


def score_json(result: ScoreResult) -> dict[str, Any]:
    """The final screen of `score`, for scripts."""
    record = result.record
    return {
        "run_id": record.run_id,
        "state": record.state,
        "rows": {
            "manifest": record.manifest_rows,
            "held": record.held_rows,
            "staged": record.staged_rows,
            "scored": record.scored_rows,
            "described": record.described_rows,
            "copied": record.copied_rows,
            "pruned": record.pruned_rows,
            "unpruned": record.unpruned_rows,
            "left": record.left_rows,
            **({"prunable": result.prunable.gone} if result.prunable else {}),
        },
        "store": {
            "rows": result.counts.rows,
            "ok": result.counts.ok,
            "failed": result.counts.failed,
            "described": result.counts.described,
            "precisions": result.fingerprint.precisions,
        },
        "errors": dict(result.counts.errors),
        "warnings": dict(result.counts.warnings),
        "new_errors": dict(result.new_errors),
        "notes": result.notes,
        "images_per_s": record.images_per_s,
        "seconds": record.seconds,
    }


def show_score(result: ScoreResult, settings: ScoreSettings) -> None:
    """Print the rows written, the failures by type, and the next command."""
    record, counts = result.record, result.counts
    for note in result.notes:
        show(note)
    if found := result.prunable:
        why = f", since {settings.source} no longer has their images" if found.gone else ""
        show(f"--prune would drop {found.gone:,} of {found.rows:,} rows{why}.")
        if found.unknown:
            show(_unpruned(found.unknown))
        return
    if result.was_finished:
        done = f"all {record.manifest_rows:,} images are in {settings.out} already"
        if settings.retry.alone:
            done = f"no failed row of {settings.out} that {settings.source} names is to be tried again"
        show(f"Nothing to do: {done}.")
    else:
        speed = f" ({record.images_per_s:,.1f} images/s)" if record.images_per_s else ""
        held = f"; {record.held_rows:,} were there before" if record.held_rows else ""
        held += f"; {record.staged_rows:,} an earlier run had scored" if record.staged_rows else ""
        seconds = format_seconds(sum(record.seconds.values()))
        described = f", {record.described_rows:,} described" if result.texts else ""
        show(f"{record.scored_rows:,} of {record.manifest_rows:,} images{described} in {seconds}{speed}{held}.")
    if record.copied_rows:
        show(f"  {record.copied_rows:,} of them have the same bytes as others and took their scores, see copied_from.")
    if record.left_rows:
        show(f"  Time is up: {record.left_rows:,} images are left. Run the same command again to go on.")
    if record.pruned_rows:
        rows = "1 row was" if record.pruned_rows == 1 else f"{record.pruned_rows:,} rows were"
        show(f"  {rows} dropped, since {settings.source} no longer has the images.")
    if record.unpruned_rows:
        show(_unpruned(record.unpruned_rows))
    mixed = f" ({result.fingerprint.mixture})" if result.fingerprint.mixture else ""
    show(f"{settings.out}/scores: {counts.rows:,} rows = {counts.ok:,} ok + {counts.failed:,} failed{mixed}.")
    if counts.failed:
        show(f"  failed: {by_count(counts.errors)}; see the columns error_type and error_message.")
    if counts.warnings:
        show(f"  {warnings_line(counts)}")
    if result.texts:
        show(f"{settings.out}/texts: {texts_line(counts)}.")
    show(f"Next: artimuse status {shlex.quote(settings.out)}")


def show_line(result: ScoreResult, settings: ScoreSettings, *, only_news: bool) -> None:
    """Print one line for --quiet; if only news is wanted, nothing where no row is new, dropped, failed or left."""
    record, counts = result.record, result.counts
    if found := result.prunable:
        show(f"{settings.out}: --prune would drop {found.gone:,} of {found.rows:,} rows.")
        return
    numbers = {
        "new": record.scored_rows,
        "described": record.described_rows,
        f"failed ({by_count(result.new_errors)})": result.new_errors.total(),
        "dropped": record.pruned_rows,
        "left": record.left_rows,
    }
    news = [f"{number:,} {name}" for name, number in numbers.items() if number]
    if news or not only_news:
        held = f"{counts.rows:,} rows = {counts.ok:,} ok + {counts.failed:,} failed"
        show(f"{settings.out}: {', '.join(news) or 'nothing new'}; {held}.")


def _unpruned(rows: int) -> str:
    return f"  {rows:,} other rows that it does not name stay: they are of another source, or where it could not look."
