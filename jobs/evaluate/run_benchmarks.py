"""`artimuse benchmark`: published data sets, from images to metrics, for several checkpoints in one call."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from artimuse_actor.errors import GroundTruthError, UsageError
from artimuse_actor.images.options import DecodeOptions
from jobs.evaluate.benchmarks import BENCHMARKS, Benchmark, get_benchmark
from jobs.evaluate.evaluate import EvaluateOptions, evaluate_store, write_metrics
from jobs.evaluate.evaluation import Evaluation
from jobs.evaluate.ground_truth import TruthColumns, read_ground_truth
from jobs.manifest.listing import list_local, list_s3
from jobs.manifest.manifest import ManifestOptions
from jobs.score.actor_pool import ActorPool
from jobs.storage.s3_place import s3_filesystem
from jobs.store.store import Store
from jobs.words import show

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize


@dataclass(frozen=True)
class BenchmarkSettings:
    """Arguments of the `benchmark` command.

    Attributes:
        names: of benchmarks, or `all` that are there.
        root: where the data sets lie.
        out: where the stores go: one for each checkpoint and data set.
        checkpoints: folders or names.
        protocol: of all of them, or None to guess it from each one's name.
        device: as of `score`.
        dtype: as of `score`.
        quantize: as of `score`.
        actors: as of `score`.
        actors_per_gpu: as of `score`.
        batch_size: as of `score`.
        allow_truncated: score truncated files, as the published evaluation of data sets does.
        address: of a Ray cluster, or None to work on this machine alone.
        evaluate: how scores are compared with ground truth.
    """

    names: tuple[str, ...]
    root: str
    out: str
    checkpoints: tuple[str, ...]
    protocol: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    actors: ActorPool | None = None
    actors_per_gpu: int = 1
    batch_size: BatchSize = "auto"
    allow_truncated: bool = False
    address: str | None = None
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)


@dataclass(frozen=True)
class DataSet:
    """A benchmark as it lies on a disk or on S3.

    Attributes:
        benchmark: which one.
        truth: its JSON file of images and ground truth.
        images: the folder that its images' names start from.
    """

    benchmark: Benchmark
    truth: str
    images: str


def run_benchmarks(settings: BenchmarkSettings) -> list[Evaluation]:
    """Score and evaluate each data set with each checkpoint, in the order given.

    Raises:
        UsageError: there is no such benchmark.
        GroundTruthError: a data set is missing; the message names the places searched.
        ArtiMuseError: as `score`.
    """
    from jobs.score.run import score
    from jobs.score.settings import ScoreSettings
    from jobs.score.text import show_score

    data_sets = list(_data_sets(settings))
    evaluations = []
    for data_set in data_sets:
        for checkpoint in settings.checkpoints:
            name = data_set.benchmark.name
            scoring = ScoreSettings(
                source=data_set.truth,
                checkpoint=checkpoint,
                out=f"{settings.out.rstrip('/')}/{_folder_name(checkpoint)}/{name}",
                manifest=ManifestOptions(images=data_set.images),
                decode=DecodeOptions(allow_truncated=settings.allow_truncated),
                protocol=settings.protocol,
                device=settings.device,
                dtype=settings.dtype,
                quantize=settings.quantize,
                batch_size=settings.batch_size,
                actors=settings.actors,
                actors_per_gpu=settings.actors_per_gpu,
                address=settings.address,
            )
            show(f"{name} with {checkpoint}", file=sys.stderr)
            arguments = {
                "command": "benchmark",
                "source": data_set.truth,
                "images": data_set.images,
                "out": scoring.out,
                "checkpoint": checkpoint,
                "protocol": settings.protocol,
                "device": settings.device,
                "dtype": settings.dtype,
                "quantize": settings.quantize,
                "allow_truncated": settings.allow_truncated,
            }
            result = score(scoring, arguments)
            with contextlib.redirect_stdout(sys.stderr):
                show_score(result, scoring)
            options = replace(settings.evaluate, benchmark=name, match="id")
            evaluation = evaluate_store(scoring.out, data_set.truth, options, keep=False)
            evaluation.counts.extra += _unnamed_images(data_set, options.columns)
            write_metrics(Store.open(scoring.out), evaluation)
            evaluations.append(evaluation)
    return evaluations


def find_data_set(root: str, benchmark: Benchmark) -> DataSet:
    """Look for a data set in the layouts of both published repositories.

    ArtiMuse: `test_datasets/NAME/images` and `test.json`; UniPercept: `benchmark/VR/DOMAIN/NAME/image` and
    `NAME.json`. The root may be any folder of these paths.

    Raises:
        GroundTruthError: it is not there.
    """
    root = root.rstrip("/") if root.startswith("s3://") else os.path.abspath(os.path.expanduser(root))
    name, domain = benchmark.name, benchmark.domain
    folders = [
        f"{root}/{part}{name}"
        for part in ("", "test_datasets/", f"benchmark/VR/{domain}/", f"VR/{domain}/", f"{domain}/")
    ]
    tried = [f"{folder}/{file}" for folder in folders for file in ("test.json", f"{name}.json")]
    for truth in tried:
        if _exists(truth):
            folder = truth.rpartition("/")[0]
            beside = (f"{folder}/images", f"{folder}/image")
            return DataSet(benchmark, truth, next(filter(_exists, beside), folder))
    raise GroundTruthError(
        f"{name} is not below {root}: there is no {' nor '.join(tried[:2])}, nor are they in the published layouts' "
        f"folders (test_datasets/{name}, benchmark/VR/{domain}/{name}). Name the folder above with --root."
    )


def _data_sets(settings: BenchmarkSettings) -> Iterator[DataSet]:
    if settings.names != ("all",):
        for name in settings.names:
            yield find_data_set(settings.root, get_benchmark(name))
        return
    found = False
    for benchmark in BENCHMARKS.values():
        try:
            yield find_data_set(settings.root, benchmark)
            found = True
        except GroundTruthError:
            continue
    if not found:
        raise UsageError(f"There is no benchmark below {settings.root}. Name the folder above them with --root.")


def _unnamed_images(data_set: DataSet, columns: TruthColumns) -> int:
    """Image files of a data set that its ground truth does not name."""
    named: set[str] = set()
    for batch in read_ground_truth(data_set.truth, columns):
        named.update(map(os.path.normpath, batch["key"].to_pylist()))
    files = list_s3(data_set.images) if data_set.images.startswith("s3://") else list_local(data_set.images)
    return sum(file.image_id not in named for file in files.pictures)


def _exists(path: str) -> bool:
    return bool(s3_filesystem().exists(path)) if path.startswith("s3://") else os.path.exists(path)


def _folder_name(checkpoint: str) -> str:
    """Folder name of a checkpoint's stores: its own name, or that of its folder."""
    name = (
        os.path.basename(os.path.abspath(checkpoint))
        if os.path.isdir(checkpoint)
        else checkpoint.rstrip("/").rpartition("/")[2]
    )
    return re.sub(r"[^\w.@-]+", "-", name)
