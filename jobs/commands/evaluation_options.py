"""Options of comparisons with ground truth, which `evaluate`, `benchmark` and `report` share."""

from __future__ import annotations

from typing import Annotated

import typer

GroundTruth = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A benchmark's test.json, a table (CSV, JSON lines, Parquet, Arrow), or tars with JSON beside the images. "
        "[default: gt_score of what was scored last]",
        show_default=False,
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Its column that names the image. [default: image_id, image, uri, file_name, …]",
        show_default=False,
    ),
]
TruthColumn = Annotated[str, typer.Option(metavar="COLUMN", help="Its column of points.")]
Match = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="How it names images: id, uri, path (the end of the uri) or name (of the file). [default: what fits]",
        show_default=False,
    ),
]
Question = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Which score. [default: the benchmark's, or the first]", show_default=False),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Above it is good on the scale of the ground truth, for the accuracy. [default: the benchmark's]",
        show_default=False,
    ),
]
ScoreThreshold = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Above it is good on the scores' own scale. [default: the benchmark's, for scores from 0 to 100]",
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Also split the result by this column of it.", show_default=False),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN|REGEX",
        help="Rows that share their content: a column of the ground truth, or what is found in the images' names; or "
        "none. [default: the originals of KADID and PIPAL, else none]",
        show_default=False,
    ),
]
Results = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Also write the scores as the published scripts do, in JSON.", show_default=False
    ),
]
RequireComplete = Annotated[
    bool, typer.Option("--require-complete", help="Fail unless every row of the ground truth has a score.")
]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="EXPR",
        help='Fail unless this holds, such as "srcc>=0.80", "plcc_low>.7" or "srcc_against>0"; may be given again.',
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")]
Resamples = Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print everything as Markdown.")]
AsLatex = Annotated[bool, typer.Option("--latex", help="Print a table for a paper, as LaTeX with booktabs.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print a row for each result and group, as CSV.")]
