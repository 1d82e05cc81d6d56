"""The published benchmarks: their images, sizes, and the results that papers report for each checkpoint.

A number without its checkpoint means nothing here: the same network reaches an SRCC of .827 on AVA after fine-tuning on
AVA, and of .397 after fine-tuning on ArtiMuse-10K.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from artimuse_actor.errors import UsageError

ARTIMUSE_PAPER: Final = "ArtiMuse, arXiv 2507.14533"
UNIPERCEPT_PAPER: Final = "UniPercept, arXiv 2512.21675"


@dataclass(frozen=True)
class PublishedValue:
    """Correlations that a paper reports.

    Attributes:
        srcc: Spearman's rank correlation of scores and ground truth.
        plcc: Pearson's correlation of them.
        source: the paper.
    """

    srcc: float
    plcc: float
    source: str


@dataclass(frozen=True)
class Benchmark:
    """One data set of the papers.

    Attributes:
        name: as in the papers and in the names of folders.
        domain: what is rated: `IAA` (aesthetics), `IQA` (quality) or `ISTA` (structure and texture).
        rows: of the published test split; images may be named more than once.
        truth_range: of its ground truth, lowest and highest, in its own points.
        truth_sha256: content hash of the published ground truth, see `TruthDigest`.
        threshold: above it is good on its own scale, for binary accuracy; None if the benchmark has none.
        score_threshold: the same on the scale of the models' scores, 0 to 100.
        cluster: pattern in its images' names whose group is the original that a picture was made from; None if all
            pictures are of their own.
        published: checkpoint → what is published for it.
    """

    name: str
    domain: str
    rows: int
    truth_range: tuple[float, float]
    truth_sha256: str
    threshold: float | None = None
    score_threshold: float | None = None
    cluster: str | None = None
    published: Mapping[str, PublishedValue] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The score of UniPercept that is about its domain."""
        return self.domain.lower()


def _values(artimuse: Mapping[str, tuple[float, float]], unipercept: tuple[float, float] | None = None) -> (
    dict[str, PublishedValue]
):  # fmt: skip
    published = {checkpoint: PublishedValue(*value, ARTIMUSE_PAPER) for checkpoint, value in artimuse.items()}
    if unipercept:
        published["UniPercept"] = PublishedValue(*unipercept, UNIPERCEPT_PAPER)
    return published


BENCHMARKS: Final[Mapping[str, Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="AVA",
            domain="IAA",
            rows=19_930,
            truth_range=(2.07, 8.3),
            truth_sha256="aae8fc91e65ee5be0378f9cce2ce8a1eeacc81393436bb9d4cef6fca691433bd",
            threshold=5.0,  # good is above 5 of 10: the binary task of the literature
            score_threshold=50.0,
            published=_values({"ArtiMuse_AVA": (0.827, 0.826), "ArtiMuse": (0.397, 0.385)}, (0.589, 0.577)),
        ),
        Benchmark(
            name="TAD66K",
            domain="IAA",
            rows=14_079,
            truth_range=(1.39, 9.28),
            truth_sha256="a3156627db2dfac2fc74da888784ccb36e07a9fe6bbc75d2e205318e9cdbb2f0",
            published=_values({"ArtiMuse_TAD66K": (0.510, 0.543), "ArtiMuse": (0.230, 0.232)}, (0.336, 0.346)),
        ),
        Benchmark(
            name="FLICKR-AES",
            domain="IAA",
            rows=4_737,
            truth_range=(0.2, 1.0),
            truth_sha256="5bed595b12d4d56d84b83e4f0a98827c993280d628d6900dd13d55ea0206bf35",
            published=_values({"ArtiMuse_FLICKR-AES": (0.814, 0.837), "ArtiMuse": (0.349, 0.334)}, (0.688, 0.681)),
        ),
        Benchmark(
            name="PARA",
            domain="IAA",
            rows=3_000,
            truth_range=(1.16, 4.3),
            truth_sha256="3a4a685b8a611cfb1aa207da4ce8b5b3ac52bbbb789ac3306eb0b8bf06193776",
            published=_values({"ArtiMuse_PARA": (0.936, 0.958)}),
        ),
        Benchmark(
            name="ArtiMuse-10K",
            domain="IAA",
            rows=1_002,
            truth_range=(1.0, 9.78),
            truth_sha256="39e9e08edf813947fbb351a09fe3acb3a4a1e2e599ba1f3ebb0a0045ff24b5f5",
            published=_values({"ArtiMuse": (0.614, 0.627)}, (0.746, 0.738)),
        ),
        Benchmark(
            name="KonIQ-10K",
            domain="IQA",
            rows=2_015,
            truth_range=(4.167, 88.244),
            truth_sha256="a2aad4240b558e554f689d580bdd9cbb7d0b0f7221e758d64911d0f33bacce23",
            published=_values({}, (0.940, 0.949)),
        ),
        Benchmark(
            name="SPAQ",
            domain="IQA",
            rows=2_224,
            truth_range=(4.0, 93.67),
            truth_sha256="6adb28413b73a3ad980f7137bee5ef8b3a067005fb697fad34642358e5093e45",
            published=_values({}, (0.904, 0.895)),
        ),
        Benchmark(
            name="KADID",
            domain="IQA",
            rows=2_000,
            truth_range=(1.03, 4.87),
            truth_sha256="56f0007eaa6d36ffb08979861c3c31be77a1b4e4b5d7f91fd28e25593d1189f9",
            cluster=r"(?:^|/)(I\d+)_\d+_\d+\.\w+$",  # 16 originals × 125
            published=_values({}, (0.872, 0.870)),
        ),
        Benchmark(
            name="PIPAL",
            domain="IQA",
            rows=4_640,
            truth_range=(1.0, 4.675),
            truth_sha256="a1112193ab049d79e79250b6e9765bb6dead713af6c49c2d4c1cd8574c3b561e",
            cluster=r"(?:^|/)(A\d+)_\d+_\d+\.\w+$",  # 40 originals × 116
            published=_values({}, (0.581, 0.594)),
        ),
        Benchmark(
            name="ISTA-10K",
            domain="ISTA",
            rows=970,  # for 957 images
            truth_range=(5.0, 100.0),
            truth_sha256="bdf047402c4f6f709670bf39276bd3c58b994915d4f20454ed0989857ee95566",
            published=_values({}, (0.778, 0.767)),
        ),
    )
}
"""Sizes, ranges and content hashes are those of the published files, `test.json` of ArtiMuse and `NAME.json` of
UniPercept; where both have a data set, the files are the same."""

DOMAIN_MEANS: Final[Mapping[str, tuple[str, ...]]] = {
    "IAA": ("ArtiMuse-10K", "AVA", "TAD66K", "FLICKR-AES"),
    "IQA": ("KonIQ-10K", "SPAQ", "KADID", "PIPAL"),
}
"""Domain → the data sets over which UniPercept's paper averages."""

PUBLISHED_MEANS: Final[Mapping[str, Mapping[str, PublishedValue]]] = {
    "UniPercept": {
        "IAA": PublishedValue(0.590, 0.586, UNIPERCEPT_PAPER),
        "IQA": PublishedValue(0.824, 0.827, UNIPERCEPT_PAPER),
    }
}
"""Checkpoint → domain → its published averages."""


def known_by(checkpoint: str, also: str = "") -> str:
    """The words that say how a published value was found for a checkpoint: by no more than its name.

    Args:
        checkpoint: its name, perhaps with the revision of the hub that a run asked for.
        also: another name that it was found by, such as ` and the list's`.
    """
    revision = revision_of(checkpoint)
    here = f" (here at revision {revision})" if revision else ""
    return f"by the checkpoint's name{also} only{here}, since no paper says the revision or digest of its weights"


def revision_of(checkpoint: str) -> str | None:
    """The revision in a checkpoint's name; None if a run asked for none."""
    return checkpoint.partition("@")[2] or None


def get_benchmark(name: str) -> Benchmark:
    """A benchmark by its name, in any case.

    Raises:
        UsageError: there is none of that name; the message has the nearest one.
    """
    names = {known.lower(): known for known in BENCHMARKS}
    if name.lower() in names:
        return BENCHMARKS[names[name.lower()]]
    near = get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {names[near[0]]}?" if near else ""
    raise UsageError(f"There is no benchmark {name!r}.{hint} There are {', '.join(BENCHMARKS)}.")
