"""The command `artimuse report`."""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any

import typer

from artimuse_actor.uris import in_bucket
from jobs.commands.evaluation_options import (
    GroundTruth,
    Match,
    On,
    Question,
    TruthColumn,
)
from jobs.commands.options import (
    MAX_BYTES,
    AllowPrivateHosts,
    AsJson,
    MaxBytes,
    ReadMixed,
    Root,
    StoresNamed,
)
from jobs.words import show


def report(
    context: typer.Context,
    stores: StoresNamed,
    out: Annotated[str, typer.Option(metavar="FILE", help="The HTML file to write.")] = "report.html",
    thumbnails: Annotated[
        int, typer.Option(metavar="N", help="Pictures to show at most, up to 5,000; 0 for none.")
    ] = 200,
    ground_truth: GroundTruth = None,
    on: On = None,
    truth_column: TruthColumn = "gt_score",
    match: Match = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Also show the scores by folder (the first of the image_id), format or run_id, or by a column of the "
            "ground truth.",
            show_default=False,
        ),
    ] = None,
    question: Question = None,
    max_bytes: MaxBytes = MAX_BYTES,
    root: Root = None,
    allow_private_hosts: AllowPrivateHosts = False,
    allow_mixed: ReadMixed = False,
    as_json: AsJson = False,
) -> None:
    """Write what stores hold as one HTML file that opens anywhere and fetches nothing.

    What was scored and when, the distribution, pictures by score with their texts, agreement with ground truth,
    failures and the commands that retry them. Pictures are read again from where they were; it has 5 MB at most.
    """
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.evaluate.options import EvaluateOptions
    from jobs.evaluate.truth_columns import TruthColumns
    from jobs.report.report import ReportSettings, write_report
    from jobs.report.retry_command import score_options

    done = write_report(
        ReportSettings(
            named=stores,
            out=out,
            thumbnails=thumbnails,
            ground_truth=ground_truth,
            evaluate=EvaluateOptions(columns=TruthColumns(on, truth_column, by), match=match, question=question),
            fetch=FetchOptions(max_bytes, root, allow_private_hosts),
            score_options=score_options(_score_command(context)),
            allow_mixed=allow_mixed,
        )
    )
    if as_json:
        print(json.dumps(vars(done)))
        return
    shown = f"{done.pictures:,} of them shown" if done.pictures else "none of them shown"
    show(f"{out}: {done.size_bytes / 1e6:.1f} MB; {done.rows:,} images, {shown}.")
    if done.gone:
        show(f"  {done.gone:,} could not be read again; the page says why.")
    if done.doubled:
        show(f"  {done.doubled}: each of these rows counts.")
    if not in_bucket(out):
        show(f"Open it in a browser: {shlex.quote(out)}")


def _score_command(context: typer.Context) -> Any:
    """The command `artimuse score`, whose options the page repeats."""
    assert context.parent is not None
    program: Any = context.parent.command
    return program.commands["score"]
