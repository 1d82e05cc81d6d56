"""The command `artimuse benchmark`."""

from __future__ import annotations

from typing import Annotated

import typer

from artimuse_actor.errors import UsageError
from jobs.commands.evaluation_options import (
    AsCsv,
    AsLatex,
    AsMarkdown,
    By,
    Cluster,
    Gates,
    RequireComplete,
    Resamples,
    ScoreThreshold,
    Seed,
    Threshold,
)
from jobs.commands.options import (
    Actors,
    ActorsPerGpu,
    AllowTruncated,
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Hub,
    Limit,
    PublishedArithmetic,
    Quantize,
    count_or_auto,
)


def benchmark(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME…",
            help="AVA, TAD66K, FLICKR-AES, PARA, ArtiMuse-10K, KonIQ-10K, SPAQ, KADID, PIPAL, ISTA-10K; or all. "
            "Or vqa, multiple choice: vqa-iaa, vqa-iqa, vqa-ista.",
            show_default=False,
        ),
    ],
    root: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder or prefix of test_datasets/NAME/images and test.json, or of "
            "benchmark/VR/DOMAIN/NAME/image and NAME.json. Of vqa: of benchmark/VQA/DOMAIN, or a list of questions.",
            show_default=False,
        ),
    ],
    out: Annotated[
        str,
        typer.Option(metavar="OUT", help="Folder or prefix; gets OUT/CHECKPOINT/NAME.", show_default=False),
    ],
    checkpoint: Annotated[
        list[str], typer.Option(metavar="CKPT", help="As for score; may be given again.", show_default=False)
    ],
    hub: Hub = "huggingface",
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="As for score. [default: guessed from the name]", show_default=False),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    actors: Actors = None,
    actors_per_gpu: ActorsPerGpu = 1,
    batch_size: BatchSize = "auto",
    published_arithmetic: PublishedArithmetic = False,
    allow_truncated: AllowTruncated = False,
    limit: Limit = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Compare the others with this one of the checkpoints.", show_default=False),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Of vqa: where the names of images start. [default: the current folder, --root or the list's]",
            show_default=False,
        ),
    ] = None,
    by: By = None,
    cluster: Cluster = None,
    threshold: Threshold = None,
    score_threshold: ScoreThreshold = None,
    results: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also write DIR/NAME_CKPT.json as the published scripts do.", show_default=False
        ),
    ] = None,
    require_complete: RequireComplete = False,
    gate: Gates = None,
    seed: Seed = 0,
    resamples: Resamples = 1000,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Join this Ray cluster, such as auto. [default: this machine alone]"),
    ] = None,
    markdown: AsMarkdown = False,
    latex: AsLatex = False,
    csv: AsCsv = False,
    as_json: AsJson = False,
) -> None:
    """Run published benchmarks from images to the table of the paper: score, evaluate, compare.

    Several data sets and checkpoints give one matrix, with averages by domain. All arguments are checked first; a cell
    that fails leaves the others, and the exit code says so. Run it again to go on.

    vqa asks multiple-choice questions with the published prompt, and counts what is right.
    """
    from artimuse_actor.checkpoint.names import named_on
    from jobs.evaluate.benchmark_settings import BenchmarkSettings
    from jobs.evaluate.gate import Checkable, CheckedScores, Gate, check_gates
    from jobs.evaluate.options import EvaluateOptions
    from jobs.evaluate.output import choose_format, show_benchmarks
    from jobs.evaluate.run_benchmarks import run_benchmarks
    from jobs.evaluate.truth_columns import TruthColumns
    from jobs.evaluate.vqa.folders import names_questions
    from jobs.evaluate.vqa.run import run_vqa
    from jobs.evaluate.vqa.text import show_vqa
    from jobs.score.actor_pool import ActorPool

    asks_questions = any(map(names_questions, names))
    if asks_questions and not all(map(names_questions, names)):
        raise UsageError("vqa is no benchmark of scores: give its lists in a command of their own.")
    of_scores = {
        "--protocol": protocol,
        "--cluster": cluster,
        "--threshold": threshold,
        "--score-threshold": score_threshold,
        "--published-arithmetic": published_arithmetic or None,
    }
    if asks_questions and (option := next((name for name, given in of_scores.items() if given is not None), None)):
        raise UsageError(f"{option} is about scores; vqa asks for letters, with a prompt of its own.")
    if images and not asks_questions:
        raise UsageError("--images goes with vqa; the images of other benchmarks are beside their ground truth.")
    form = choose_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    gates = [Gate.parse(text) for text in gate or ()]
    settings = BenchmarkSettings(
        names=tuple(names),
        root=root,
        out=out,
        checkpoints=tuple(named_on(hub, name) for name in checkpoint),
        protocol=protocol,
        device=device,
        dtype=dtype,
        quantize=quantize,
        actors=ActorPool.parse(actors) if actors else None,
        actors_per_gpu=actors_per_gpu,
        batch_size=count_or_auto("--batch-size", batch_size),
        published_arithmetic=published_arithmetic,
        allow_truncated=allow_truncated or published_arithmetic,
        address=address,
        limit=limit,
        images=images,
        against=against and named_on(hub, against),
        results=results,
        evaluate=EvaluateOptions(
            columns=TruthColumns(group=by, cluster=cluster),
            threshold=threshold,
            score_threshold=score_threshold,
            seed=seed,
            resamples=resamples,
        ),
    )
    checked: list[Checkable]
    if asks_questions:
        answered = run_vqa(settings)
        show_vqa(answered, form)
        absent, failed, checked = answered.absent, answered.failed, list(answered.evaluations)
    else:
        found = run_benchmarks(settings)
        show_benchmarks(found, form)
        absent, failed, checked = found.absent, found.failed, [CheckedScores(one) for one in found.evaluations]
    misses = [f"{cell}: {why}" for cell, why in failed.items()]
    misses += [f"{name} is absent: {where}" for name, where in absent.items()] if require_complete else []
    check_gates(checked, gates, require_complete, misses)
