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
        truth_range: of its ground truth, lowest and highest, in its own points; None where no source states it.
        truth_source: the source of that range.
        threshold: threshold of its binary accuracy; None if the benchmark has none.
        published: checkpoint → what is published for it.
    """

    name: str
    domain: str
    rows: int
    truth_range: tuple[float, float] | None = None
    truth_source: str | None = None
    threshold: float | None = None
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
            truth_range=(2.07, 8.30),
            truth_source="the published test.json",
            threshold=5.0,  # good above 5 of 10: the binary task of the data set's authors
            published=_values({"ArtiMuse_AVA": (0.827, 0.826), "ArtiMuse": (0.397, 0.385)}, (0.589, 0.577)),
        ),
        Benchmark(
            name="TAD66K",
            domain="IAA",
            rows=14_079,
            published=_values({"ArtiMuse_TAD66K": (0.510, 0.543), "ArtiMuse": (0.230, 0.232)}, (0.336, 0.346)),
        ),
        Benchmark(
            name="FLICKR-AES",
            domain="IAA",
            rows=4_737,
            published=_values({"ArtiMuse_FLICKR-AES": (0.814, 0.837), "ArtiMuse": (0.349, 0.334)}, (0.688, 0.681)),
        ),
        Benchmark(
            name="PARA",
            domain="IAA",
            rows=3_000,
            truth_range=(1.0, 5.0),
            truth_source="Yang et al., PARA, CVPR 2022",
            published=_values({"ArtiMuse_PARA": (0.936, 0.958)}),
        ),
        Benchmark(
            name="ArtiMuse-10K",
            domain="IAA",
            rows=1_002,
            truth_range=(0.0, 10.0),
            truth_source="the published ArtiMuse-10K.json",
            published=_values({"ArtiMuse": (0.614, 0.627)}, (0.746, 0.738)),
        ),
        Benchmark(name="KonIQ-10K", domain="IQA", rows=2_015, published=_values({}, (0.940, 0.949))),
        Benchmark(
            name="SPAQ",
            domain="IQA",
            rows=2_224,
            truth_range=(0.0, 100.0),
            truth_source="Fang et al., SPAQ, CVPR 2020",
            published=_values({}, (0.904, 0.895)),
        ),
        Benchmark(
            name="KADID",
            domain="IQA",
            rows=2_000,
            truth_range=(1.0, 5.0),
            truth_source="Lin et al., KADID-10k, QoMEX 2019",
            published=_values({}, (0.872, 0.870)),
        ),
        Benchmark(name="PIPAL", domain="IQA", rows=4_640, published=_values({}, (0.581, 0.594))),
        Benchmark(
            name="ISTA-10K",
            domain="ISTA",
            rows=970,  # for 957 images
            truth_range=(0.0, 100.0),
            truth_source="the published ISTA-10K.json",
        ),
    )
}
"""Sizes as in the published test splits."""


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
