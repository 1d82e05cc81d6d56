"""What the commands print, and what `--json` prints instead."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.store.text import _by_type, _texts_line
from jobs.words import format_seconds, printable

if TYPE_CHECKING:
    from jobs.image import FileResult
    from jobs.score import ScoreResult, ScoreSettings


def score_json(result: ScoreResult) -> dict[str, Any]:
    """The final screen of `score`, for scripts."""
    record = result.record
    return {
        "run_id": record.run_id,
        "rows": {
            "manifest": record.manifest_rows,
            "held": record.held_rows,
            "scored": record.scored_rows,
            "described": record.described_rows,
            "copied": record.copied_rows,
            "pruned": record.pruned_rows,
        },
        "store": {
            "rows": result.counts.rows,
            "ok": result.counts.ok,
            "failed": result.counts.failed,
            "described": result.counts.described,
        },
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
        described = f", {record.described_rows:,} described" if result.texts else ""
        print(f"{record.scored_rows:,} of {record.manifest_rows:,} images{described} in {seconds}{speed}{held}.")
    if record.copied_rows:
        print(f"  {record.copied_rows:,} of them have the same bytes as others and took their scores, see copied_from.")
    if record.pruned_rows:
        print(f"  {record.pruned_rows:,} rows were dropped, since {settings.source} no longer has them.")
    print(f"{settings.out}/scores: {counts.rows:,} rows = {counts.ok:,} ok + {counts.failed:,} failed.")
    if counts.failed:
        print(f"  failed: {_by_type(counts.errors)}; see the columns error_type and error_message.")
    if result.texts:
        print(f"{settings.out}/texts: {_texts_line(counts)}.")
    print(f"Next: artimuse status {shlex.quote(settings.out)}")


def show_image(result: FileResult) -> None:
    """One line for an image: scores with their spread, or the error; then its texts."""
    if result.score is None:
        assert result.error is not None
        print(f"{result.file}: {result.error.error_type}: {result.error.message}")
        return
    stds = result.score.stds
    points = ", ".join(f"{name} {value:.2f} ± {stds[name]:.2f}" for name, value in result.score.scores.items())
    print(f"{result.file}: {points}")
    for title, text in result.texts.items():
        print(f"  {title}: {printable(text)}", flush=True)


def images_json(results: Sequence[FileResult]) -> Any:
    """The same, for scripts: a list under the names of the tables; texts of ArtiMuse as the published code has them.

    One image with texts is no list, since the published code prints one at a time.
    """
    if len(results) == 1 and results[0].texts:
        published = _image_json(results[0])
        return {name: value for name, value in published.items() if name != "image"}
    return [_image_json(result) for result in results]


def _image_json(result: FileResult) -> dict[str, Any]:
    if result.score is None:
        assert result.error is not None
        about = {"error_type": result.error.error_type, "error_message": result.error.message}
        return {"image": result.file, "status": "error", **about}
    scores = result.score.scores
    if result.texts and list(scores) == ["score"]:
        return {"image": result.file, "Aesthetic Score": scores["score"], "Aesthetic Attributes": result.texts}
    row: dict[str, Any] = {"image": result.file, "status": "ok"}
    for question, points in scores.items():
        row |= {question: points, f"{question}_std": result.score.stds[question]}
    return row | ({"texts": result.texts} if result.texts else {})


def show_questions() -> None:
    """What each protocol asks: columns, and titles of the texts."""
    from artimuse_actor.protocol.protocols import PROTOCOLS
    from schemas.text_settings import text_column

    for protocol in PROTOCOLS.values():
        print(f"{protocol.name}: scores {', '.join(protocol.score_questions)}; texts:")
        for title, question in protocol.text_questions.items():
            print(f"  {title}  ({text_column(title)})\n    {question.strip()}")
