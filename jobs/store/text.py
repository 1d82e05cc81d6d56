"""The screen of `artimuse status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.words import by_count, format_seconds, show

if TYPE_CHECKING:
    from jobs.store.counts import Counts
    from jobs.store.status import StoreStatus
    from jobs.store.stores import DoubledBetween


def show_status(status: StoreStatus) -> None:
    """Print a store's status on one screen."""
    show(f"{status.out}: {status.fingerprint}")
    show(status.verdict + ".")
    if status.counts.failed:
        show(f"  failed: {by_count(status.counts.errors)}")
    if status.counts.warnings:
        show(f"  {warnings_line(status.counts)}")
    if status.texts:
        show(f"texts ({status.texts}): {texts_line(status.counts)}.")
    if status.staged_rows:
        show(f"  {status.staged_rows:,} of the remaining are scored and wait for their shard to be complete.")
    if status.remaining > 0:
        show("  Run the same command again to go on.")
    for run in status.runs:
        speed = f", {run['images_per_s']:,.1f} images/s" if run.get("images_per_s") else ""
        seconds = format_seconds(sum(run["seconds"].values()))
        state = run["state"] if run["state"] != "running" else "running, or died"
        pruned = f", {run['pruned_rows']:,} dropped" if run.get("pruned_rows") else ""
        show(f"  {run['run_id']}  {state}: {run['scored_rows']:,} rows in {seconds}{speed}{_loaded(run)}{pruned}")


def show_sum(found: Sequence[StoreStatus], doubled: DoubledBetween | None) -> None:
    """Print what several stores hold together, and an id that is in several of them."""
    planned, ok = sum(one.planned for one in found), sum(one.counts.ok for one in found)
    failed = sum(one.counts.failed for one in found)
    remaining = planned - ok - failed
    line = f"{planned:,} rows planned = {ok:,} ok + {failed:,} failed + {remaining:,} remaining"
    show(f"{len(found)} stores: {line}; {doubled or 'no id is in two of them'}.")


def _loaded(run: Mapping[str, Any]) -> str:
    """The longest loading time of a run's models, for the end of its line."""
    if not (loads := run.get("loads")):
        return ""
    longest_s = max(load["fetch_s"] + load["load_s"] for load in loads)
    return f", model loaded in {format_seconds(longest_s)} ({run['load_share']:.0%} of it)"


def texts_line(counts: Counts) -> str:
    """Numbers of images with a score that have texts, or have none and why."""
    line = f"{counts.described:,} of {counts.ok:,} images with a score are described"
    if counts.text_errors:
        line += f", of others the image is gone since ({by_count(counts.text_errors)})"
    if counts.without_texts:
        line += f", {counts.without_texts:,} not, since they are in no manifest of a run with texts"
    return line


def warnings_line(counts: Counts) -> str:
    """Numbers of pictures that the model saw otherwise than a person would, by warning."""
    return f"warnings: {by_count(counts.warnings)}; see the column warning."
