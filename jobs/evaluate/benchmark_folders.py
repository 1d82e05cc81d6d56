"""The folders of published data sets, in the layouts of both published repositories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import GroundTruthError
from artimuse_actor.uris import in_bucket
from jobs.evaluate.benchmarks import Benchmark
from jobs.evaluate.ground_truth import read_ground_truth
from jobs.evaluate.truth_columns import TruthColumns
from jobs.manifest.listing import list_files
from jobs.storage.user_files import is_there

_LOOKED_FOR: Final = 20


@dataclass(frozen=True)
class BenchmarkFolder:
    """A benchmark as it lies on a disk or in a bucket.

    Attributes:
        benchmark: which one.
        truth: its JSON file of images and ground truth.
        images: the folder that its images' names start from.
    """

    benchmark: Benchmark
    truth: str
    images: str

    @property
    def name(self) -> str:
        """The name of the benchmark."""
        return self.benchmark.name


def find_folder(root: str, benchmark: Benchmark) -> BenchmarkFolder | str:
    """Look for a data set in the layouts of both published repositories.

    ArtiMuse: `test_datasets/NAME/images` and `test.json`; UniPercept: `benchmark/VR/DOMAIN/NAME/image` and
    `NAME.json`. The root may be any folder of these paths.

    Returns:
        The data set, or a sentence with the paths that were looked for.
    """
    root = whole_root(root)
    name, domain = benchmark.name, benchmark.domain
    folders = [
        f"{root}/{part}{name}"
        for part in ("", "test_datasets/", f"benchmark/VR/{domain}/", f"VR/{domain}/", f"{domain}/")
    ]
    tried = [f"{folder}/{file}" for folder in folders for file in ("test.json", f"{name}.json")]
    for truth in tried:
        if is_there(truth):
            folder = truth.rpartition("/")[0]
            beside = (f"{folder}/images", f"{folder}/image")
            return BenchmarkFolder(benchmark, truth, next(filter(is_there, beside), folder))
    return (
        f"{name} is not below {root}: there is no {' nor '.join(tried[:2])}, nor are they in the published layouts' "
        f"folders (test_datasets/{name}, benchmark/VR/{domain}/{name}). Name the folder above with --root."
    )


def check_folder(folder: BenchmarkFolder, columns: TruthColumns) -> None:
    """Check that ground truth can be read, and that some of the first images that it names are there.

    Raises:
        GroundTruthError: otherwise.
    """
    names: list[str] = []
    for batch in read_ground_truth(folder.truth, columns):
        names += batch["key"].slice(0, _LOOKED_FOR - len(names)).to_pylist()
    if not names:
        raise GroundTruthError(f"{folder.truth}: has no rows.")
    if not any(is_there(f"{folder.images}/{name}") for name in names):
        raise GroundTruthError(
            f"{folder.truth}: none of its first {len(names)} images is below {folder.images}, such as {names[0]}. Put "
            "the images there."
        )


def unnamed_images(folder: BenchmarkFolder, columns: TruthColumns) -> int:
    """Image files of a data set that its ground truth does not name."""
    named: set[str] = set()
    for batch in read_ground_truth(folder.truth, columns):
        named.update(map(os.path.normpath, batch["key"].to_pylist()))
    return sum(file.image_id not in named for file in list_files(folder.images).pictures)


def whole_root(root: str) -> str:
    """A folder as an absolute path, or a prefix of a bucket, without a slash at its end."""
    return root.rstrip("/") if in_bucket(root) else os.path.abspath(os.path.expanduser(root))
