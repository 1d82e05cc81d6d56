"""One or several stores → one HTML file.

    scan all rows → choose pictures → read their rows and texts → fit thumbnails into what is left → write the page

The first step reads every row, as numbers; all others are about the few hundred pictures that are shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Final

import numpy as np

from artimuse_actor.errors import ImageError, UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import DecodeOptions
from jobs.evaluate.options import EvaluateOptions
from jobs.report import page
from jobs.report.agreement import Truth, kept_metrics, read_truth
from jobs.report.charts import summarise
from jobs.report.funnels import MOST_CURATIONS, read_curations
from jobs.report.galleries import (
    Hall,
    at_most,
    disagreement_hall,
    doubles_hall,
    find_doubles,
    ranked_halls,
    room_for,
    rows_of,
)
from jobs.report.pictures import Picture, read_pictures, shorten
from jobs.report.retry_command import ScoreOption, retry_command
from jobs.report.safe_text import visible
from jobs.report.scored_rows import OWN_GROUPS, ScoredRows, scan_rows
from jobs.report.thumbnails import Thumbnail, make_thumbnails
from jobs.storage.user_files import refuse_other_file, write_user_file
from jobs.store.counts import Counts, count_texts
from jobs.store.plan_file import current_plan
from jobs.store.run_record import read_runs
from jobs.store.store import Store, keep_out_of_stores
from jobs.store.stores import Stores, doubled_between
from schemas.warnings import WARNINGS

LIMIT_BYTES: Final = 5_000_000
"""Size limit of the whole file."""

MOST_THUMBNAILS: Final = 5_000
_NAMES_BYTES: Final = 400_000
_TEXTS_BYTES: Final = 1_200_000
_SPARE_BYTES: Final = 20_000


@dataclass(frozen=True)
class ReportSettings:
    """Arguments of a report.

    Attributes:
        named: stores, and patterns of them.
        out: the file to write.
        thumbnails: how many pictures are shown at most; 0 for none.
        ground_truth: a file; None for what was scored last.
        evaluate: how scores are compared with it; its group may also be one of `OWN_GROUPS`.
        fetch: how images are fetched.
        score_options: of `artimuse score`, for the commands that retry.
        allow_mixed: whether stores may have several fingerprints.
    """

    named: Sequence[str]
    out: str
    thumbnails: int = 200
    ground_truth: str | None = None
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    score_options: tuple[ScoreOption, ...] = ()
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.thumbnails <= MOST_THUMBNAILS:
            raise UsageError(f"--thumbnails takes a whole number from 0 to {MOST_THUMBNAILS:,}, not {self.thumbnails}.")


@dataclass(frozen=True)
class Report:
    """The report that was written.

    Attributes:
        out: the file.
        size_bytes: of it.
        rows: of the scores table.
        pictures: how many are shown.
        gone: of these, how many could not be read again.
        doubled: a sentence about ids that several stores have; None if there are none.
    """

    out: str
    size_bytes: int
    rows: int
    pictures: int
    gone: int
    doubled: str | None = None


def write_report(settings: ReportSettings) -> Report:
    """Read stores and write their report as one HTML page.

    Raises:
        StoreError: there is no store, one is not whole, or the file cannot be written.
        UsageError: an option is not valid here, or the file is there already and is no report.
        GroundTruthError: the ground truth cannot be read.
    """
    keep_out_of_stores(settings.out)
    refuse_other_file("--out", settings.out, "report", b'<meta name="generator" content="artimuse ')
    named = Stores.open(settings.named, allow_mixed=settings.allow_mixed)
    store, stores = named.first, named.stores
    question = store.question("--question", settings.evaluate.question)
    truth = _truth(stores, settings)
    group_by = settings.evaluate.columns.group
    scored = scan_rows(stores, question, group_by if group_by in OWN_GROUPS else None)
    halls = _halls(scored, question, settings.thumbnails, truth)
    shown = rows_of(halls)
    warned = dict(sorted(scored.warnings.items(), key=lambda entry: -entry[1].rows)[: len(WARNINGS)])
    examples = [row for failures in scored.failures.values() for row in failures.examples]
    examples += [row for found in warned.values() for row in found.examples]
    read = read_pictures(stores, scored, shown + examples, texts=True)
    shorten(list(read.values()), _NAMES_BYTES, _TEXTS_BYTES)
    doubled = doubled_between(named.names) if len(stores) > 1 else None
    parts = _parts(named, settings, scored, question, truth) | {
        "doubled": doubled,
        "halls": halls,
        "failures": _failures(scored, read, settings, stores),
        "warnings": [
            {
                "name": visible(name),
                "meaning": WARNINGS.get(name, "of another version"),
                "rows": found.rows,
                "examples": [read[row].columns["image_id"] for row in found.examples],
            }
            for name, found in warned.items()
        ],
        "text_counts": _text_counts(stores),
    }
    pictures = [read[row] for row in shown]
    size = len(page.render(parts, page.picture_data(pictures, halls, {}, store)).encode())
    budget = LIMIT_BYTES - _SPARE_BYTES - size
    found = dict(zip(shown, _thumbnails(store, settings, pictures, budget), strict=True))
    html = page.render(parts, page.picture_data(pictures, halls, found, store)).encode()
    with write_user_file(settings.out) as growing, open(growing, "wb") as file:
        file.write(html)
    gone = sum(isinstance(thumbnail, ImageError) for thumbnail in found.values())
    return Report(settings.out, len(html), len(scored), len(pictures), gone, str(doubled) if doubled else None)


def _truth(stores: Sequence[Store], settings: ReportSettings) -> Truth | None:
    """Ground truth, split by the group if that is a column of it and not of the store."""
    group = settings.evaluate.columns.group
    if group in OWN_GROUPS:
        options = replace(settings.evaluate, columns=replace(settings.evaluate.columns, group=None))
        return read_truth(stores, settings.named, settings.ground_truth, options)
    truth = read_truth(stores, settings.named, settings.ground_truth, settings.evaluate)
    if group and truth is None:
        raise UsageError(
            f"--by takes {', '.join(OWN_GROUPS)} or a column of the ground truth, and there is no ground truth with "
            f"{group!r}. Name a file with --ground-truth."
        )
    return truth


def _halls(scored: ScoredRows, question: str, pictures: int, truth: Truth | None) -> list[Hall]:
    halls = ranked_halls(scored, question, pictures)
    room = room_for(pictures, int(np.isfinite(scored.scores[question]).sum()))
    if truth and pictures:
        pairs = truth.evaluation.pairs
        found = pairs.places[0] >= 0
        disagreements = disagreement_hall(pairs.places[0][found], pairs.truths[found], truth.residuals[found], room)
        halls += [disagreements] if disagreements else []
    doubles = doubles_hall(find_doubles(scored), room)
    return at_most([*halls, doubles] if doubles else halls, pictures)


def _parts(
    named: Stores, settings: ReportSettings, scored: ScoredRows, question: str, truth: Truth | None
) -> dict[str, Any]:
    places = [store.place for store in named.stores]
    plans = [current_plan(place) for place in places]
    curations, counts = zip(*map(read_curations, places), strict=True)
    newest = sorted(chain(*curations), key=lambda record: record.created, reverse=True)
    name = os.path.basename(places[0].root.rstrip("/")) or places[0].root
    return {
        "store": named.first,
        "stores": [] if len(places) == 1 else _each_store(named, scored, question),
        "name": name if len(places) == 1 else f"{len(places):,} stores",
        "question": question,
        "scored": scored,
        "planned": sum(
            plan.store_rows + plan.new_rows if plan else scored.count_of(number) for number, plan in enumerate(plans)
        ),
        "runs": _runs(named.stores),
        "truth": truth,
        "group_by": settings.evaluate.columns.group,
        "kept_metrics": [metrics for place in places for metrics in kept_metrics(place)],
        "curations": newest[:MOST_CURATIONS],
        "curation_count": sum(counts),
    }


def _runs(stores: Sequence[Store]) -> list[dict[str, Any]]:
    runs = [run for store in stores for run in read_runs(store.place)]
    return sorted(runs, key=lambda run: str(run["run_id"])) if len(stores) > 1 else runs


def _each_store(named: Stores, scored: ScoredRows, question: str) -> list[dict[str, Any]]:
    """Of each store its rows, and the distribution of its scores."""
    each = []
    for number, (name, store) in enumerate(zip(named.names, named.stores, strict=True)):
        points = scored.scores[question][scored.rows_of(number)]
        summary = summarise(points[np.isfinite(points)])
        each.append({"name": name, "rows": len(points), "summary": summary, "print": store.fingerprint})
    return each


def _failures(
    scored: ScoredRows, read: Mapping[int, Picture], settings: ReportSettings, stores: Sequence[Store]
) -> list[dict[str, Any]]:
    """Each type with its examples and, of one store, the command that retries it, the most frequent first."""
    runs = read_runs(stores[0].place)
    arguments = runs[-1]["arguments"] if runs else {}
    checkpoint = stores[0].fingerprint.checkpoint

    def command(kind: str | None) -> str | None:
        if len(stores) > 1:  # each was scored by a command of its own
            return None
        return retry_command(arguments, settings.score_options, settings.named[0], checkpoint, kind)

    return [
        {
            "kind": visible(kind),
            "rows": failures.rows,
            "retryable": failures.retryable,
            "examples": [read[row].columns for row in failures.examples],
            "command": command(kind),
        }
        for kind, failures in sorted(scored.failures.items(), key=lambda entry: -entry[1].rows)
    ]


def _text_counts(stores: Sequence[Store]) -> Counts | None:
    files = [(store, store.table_files().described) for store in stores if store.texts]
    described = [count_texts(store.place, [file.path for file in found]) for store, found in files]
    return sum(described, Counts()) if described else None


def _thumbnails(
    store: Store, settings: ReportSettings, pictures: Sequence[Picture], budget: int
) -> Iterator[Thumbnail | ImageError]:
    """For each picture a small one, or why there is none."""
    # Twice as fast, and the difference is not visible in a thumbnail.
    decoding = replace(DecodeOptions.of_version(store.fingerprint.preprocessing), decode="fast")
    # The rows as they stand in the table: what is shown of them may be cut.
    uris = [picture.uri for picture in pictures]
    made = make_thumbnails([uri for uri in uris if uri], budget, settings.fetch.for_people(), decoding)
    for uri in uris:
        if uri is None:
            yield ImageError("missing", "The image was embedded in a table, and is not read again from there.")
        else:
            yield next(made)
