"""The cost of scoring a whole collection, extrapolated from a few of its images: only arithmetic.

Nothing is measured or read here. `COSTS` has the measured costs of the job itself, from the scripts that
`docs/scale.md` names; the cost of one image comes from `jobs.forecast.sample`, or from the user.

Three things can be the bottleneck: the models, the CPU cores that load images for them, and the network through which
these are read. They work at the same time, so the wall time is that of the slowest. It does not include planning,
which comes before and is given separately, nor the start of Ray and of the models, seconds to minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import scipy

from jobs.plan.plan import SHARD_ROWS, default_unit_rows

CONFIDENCE: Final = 0.95
_NORMAL: Final = 1.959964
_BITS: Final = 8
_HOUR_S: Final = 3600.0

Limit = Literal["gpu", "cpu", "network"]


@dataclass(frozen=True)
class Measured:
    """A number with its margin of error.

    Attributes:
        value: the number.
        margin: half the width of its 95% interval; 0 if it was given or counted, infinite if it was measured only once.
    """

    value: float
    margin: float = 0.0

    def times(self, factor: Measured | float) -> Measured:
        """The product of two independent numbers: squares of relative errors add up."""
        other = factor if isinstance(factor, Measured) else Measured(factor)
        margin = math.hypot(_times(self.margin, other.value), _times(other.margin, self.value))
        return Measured(self.value * other.value, margin)

    def inverse(self) -> Measured:
        """The reciprocal."""
        return Measured(1 / self.value, self.margin / self.value**2)


def mean(values: Sequence[float], population: int | None = None) -> Measured:
    """The mean of a random sample, by Student's t.

    Args:
        values: values of the sample.
        population: size of the whole; a sample of all has no error. None if it is not known, or has no limit.
    """
    count = len(values)
    average = sum(values) / count
    if population is not None and count >= population:
        return Measured(average)
    if count == 1:
        return Measured(average, math.inf)
    deviation = math.sqrt(sum((value - average) ** 2 for value in values) / (count - 1))
    quantile = float(scipy.special.stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Measured(average, quantile * deviation / math.sqrt(count) * _unseen(count, population))


@dataclass(frozen=True)
class Share:
    """The share of a kind in a population, estimated from a sample.

    Attributes:
        value: from 0 to 1.
        low: lower end of its 95% interval, by Wilson's formula, whose interval is wide even if the sample has none.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def measured(self) -> Measured:
        """The share, with the larger half of its interval as margin."""
        return Measured(self.value, max(self.high - self.value, self.value - self.low))


def share(found: int, count: int, population: int | None = None) -> Share:
    """The share of a kind, if `found` of `count` randomly drawn items are of it."""
    value = found / count
    unseen = _unseen(count, population)
    if not unseen:
        return Share(value, value, value)
    size = count / unseen**2  # a sample of nearly the whole is as good as a much larger sample of a large whole
    spread = _NORMAL**2 / size
    middle = (value + spread / 2) / (1 + spread)
    half = _NORMAL / (1 + spread) * math.sqrt(value * (1 - value) / size + spread / (4 * size))
    return Share(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


@dataclass(frozen=True)
class Costs:
    """Costs of the job itself, without model and decoder. `docs/scale.md` has the source of each number.

    Attributes:
        ray_cpu_s: CPU seconds an image of Ray's other processes.
        planned_rows_per_s: rows of a manifest that are planned per second.
        planner_bytes: memory of a process that plans only a few rows.
        planner_row_bytes: memory for each row of the manifest, while it is planned.
        held_row_bytes: memory for each row that the store has already, during planning.
        plan_row_bytes: bytes of a planned row on disk.
        staged_row_bytes: bytes of a scored row, until its shard is committed.
        shards_per_gpu: shards of which a device has rows in flight; two more may be waiting for their last units.
        scores_row_bytes: bytes of a row of the scores table.
        texts_row_bytes: bytes of a row of the texts table: eight texts of 94 words of six bytes, uncompressed. Not
            measured.
    """

    ray_cpu_s: float = 0.002
    planned_rows_per_s: float = 400_000.0
    planner_bytes: float = 260e6
    planner_row_bytes: float = 64.0
    held_row_bytes: float = 157.0
    plan_row_bytes: float = 20.0
    staged_row_bytes: float = 113.0
    shards_per_gpu: float = 0.01
    scores_row_bytes: float = 72.0
    texts_row_bytes: float = 8 * 94 * 6.0


COSTS: Final = Costs()


@dataclass(frozen=True)
class Work:
    """The work of a plan.

    Attributes:
        manifest_rows: rows of the source.
        held_rows: rows that the store has, whether or not they are in the source.
        new_rows: rows whose ids are not in the store.
        replaced: for each scores file of the store with rows that are scored again, the number of these.
        texts: whether texts are generated too.
    """

    manifest_rows: int
    new_rows: int
    held_rows: int = 0
    replaced: tuple[int, ...] = ()
    texts: bool = False

    @property
    def rows(self) -> int:
        """Images to load."""
        return self.new_rows + sum(self.replaced)

    @property
    def shard_rows(self) -> tuple[tuple[int, int], ...]:
        """The shards of the plan, as (rows of a shard, number of such shards)."""
        full, rest = divmod(self.new_rows, SHARD_ROWS)
        return tuple((rows, count) for rows, count in ((SHARD_ROWS, full), (rest, 1)) if rows and count) + tuple(
            (rows, 1) for rows in self.replaced
        )

    @property
    def unit_rows(self) -> int:
        """Rows of a unit."""
        return default_unit_rows(None if self.new_rows >= SHARD_ROWS else self.rows, texts=self.texts)


@dataclass(frozen=True)
class ImageCost:
    """The cost of one image, on average over all rows of the source, including unreadable ones.

    Attributes:
        readable: share of the rows that are images.
        read_bytes: bytes read for it.
        load_cpu_s: CPU seconds to decode, resize and digest it.
        model_s: seconds of one device for a readable image; None if not known.
        s3_share: share of the rows that are objects on S3, each of which takes a request.
    """

    readable: Measured
    read_bytes: Measured
    load_cpu_s: Measured
    model_s: Measured | None = None
    s3_share: float = 0.0


@dataclass(frozen=True)
class Machines:
    """The machines of a run.

    Attributes:
        gpus: devices with a model each.
        cores: CPU cores in all; None for no limit.
        gbit_per_s: network in all; None for no limit.
        price: price of one device for one hour, in any currency; None to compute no cost.
    """

    gpus: int = 1
    cores: float | None = None
    gbit_per_s: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Requests:
    """Numbers of requests to S3, if images and store are there; S3 has a price for each kind.

    Attributes:
        images: GET, one for each image.
        read: GET and HEAD of planned rows and staged units.
        written: PUT of plan, marks, staged units and tables.
        deleted: DELETE of marks. Deletions of many objects at once and listings, one for a thousand, are left out.
    """

    images: int
    read: int
    written: int
    deleted: int


@dataclass(frozen=True)
class Whole:
    """The cost of a whole run.

    Attributes:
        work: the work of the plan.
        image: the cost of one image.
        machines: the machines of the run.
        readable_rows: images that get a score.
        read_bytes: bytes of all images.
        core_hours: CPU hours to load all images, Ray's share included.
        gpu_hours: hours of one device; None if its speed is not known.
        seconds: for each limit that is known, the wall time if it were the only limit.
        units: units of the plan.
        shards: shards of the plan.
        files: files of the tables that are written, at most: a shard that adds texts only writes one file, not two.
        plan_s: seconds of planning, before anything else.
        planner_bytes: memory of the driver while it plans.
        plan_bytes: bytes of the plan on disk, until the run ends.
        staged_bytes: bytes of staged units on disk at a time: those of the shards that are being scored.
        table_bytes: growth of the tables; changed rows replace others.
        requests: requests to S3.
    """

    work: Work
    image: ImageCost
    machines: Machines
    readable_rows: Measured
    read_bytes: Measured
    core_hours: Measured
    gpu_hours: Measured | None
    seconds: dict[Limit, Measured]
    units: int
    shards: int
    files: int
    plan_s: float
    planner_bytes: float
    plan_bytes: float
    staged_bytes: float
    table_bytes: float
    requests: Requests

    @property
    def slowest(self) -> Limit | None:
        """The bottleneck; None if the models' speed is not known."""
        if "gpu" not in self.seconds:
            return None
        slowest, _ = max(self.seconds.items(), key=lambda limit: limit[1].value)
        return slowest

    @property
    def wall_s(self) -> Measured | None:
        """Seconds from the first image to the last; None if the models' speed is not known."""
        slowest = self.slowest
        return None if slowest is None else self.seconds[slowest]

    @property
    def cost(self) -> Measured | None:
        """The price of all devices for the whole time, since devices that wait are paid for too."""
        if self.wall_s is None or self.machines.price is None:
            return None
        return self.wall_s.times(self.machines.gpus * self.machines.price / _HOUR_S)

    @property
    def images_per_s(self) -> float | None:
        """Rows per second of all models together when they never wait."""
        return self.work.rows / self.seconds["gpu"].value if self.work.rows and "gpu" in self.seconds else None

    @property
    def cores_to_feed(self) -> float | None:
        """CPU cores that load images as fast as the models score them."""
        return self._to_feed(self.core_hours.value * _HOUR_S)

    @property
    def gbit_per_s_to_feed(self) -> float | None:
        """Gbit/s that are read while the models work at full speed."""
        return self._to_feed(self.read_bytes.value * _BITS / 1e9)

    def _to_feed(self, amount: float) -> float | None:
        scoring = self.seconds.get("gpu")
        return None if scoring is None or not scoring.value else amount / scoring.value

    def gpus_at(self, limit: Limit) -> float | None:
        """The number of devices from which on this limit is the bottleneck; None if not known."""
        scoring, other = self.seconds.get("gpu"), self.seconds.get(limit)
        if scoring is None or other is None or not other.value:
            return None
        return scoring.value * self.machines.gpus / other.value


def whole(work: Work, image: ImageCost, machines: Machines) -> Whole:
    """The cost of a whole run, from its work, the cost of one image and the machines."""
    readable = image.readable.times(work.rows)
    read_bytes = image.read_bytes.times(work.rows)
    load_s = Measured(image.load_cpu_s.value + COSTS.ray_cpu_s, image.load_cpu_s.margin).times(work.rows)
    seconds: dict[Limit, Measured] = {}
    model_s = None
    if image.model_s is not None:
        model_s = readable.times(image.model_s)
        seconds["gpu"] = model_s.times(1 / machines.gpus)
    if machines.cores is not None:
        seconds["cpu"] = load_s.times(1 / machines.cores)
    if machines.gbit_per_s is not None:
        seconds["network"] = read_bytes.times(_BITS / (machines.gbit_per_s * 1e9))
    units = sum(-(-rows // work.unit_rows) * count for rows, count in work.shard_rows)
    shards = sum(count for _, count in work.shard_rows)
    tables = 2 if work.texts else 1
    texts_bytes = COSTS.texts_row_bytes if work.texts else 0.0
    staged_rows = min(work.rows, SHARD_ROWS * (2 + math.ceil(COSTS.shards_per_gpu * machines.gpus)))
    return Whole(
        work=work,
        image=image,
        machines=machines,
        readable_rows=readable,
        read_bytes=read_bytes,
        core_hours=load_s.times(1 / _HOUR_S),
        gpu_hours=None if model_s is None else model_s.times(1 / _HOUR_S),
        seconds=seconds,
        units=units,
        shards=shards,
        files=shards * tables,
        plan_s=work.manifest_rows / COSTS.planned_rows_per_s,
        planner_bytes=COSTS.planner_bytes
        + COSTS.planner_row_bytes * work.manifest_rows
        + COSTS.held_row_bytes * work.held_rows,
        plan_bytes=COSTS.plan_row_bytes * work.rows,
        staged_bytes=(COSTS.staged_row_bytes + texts_bytes) * staged_rows,
        table_bytes=COSTS.scores_row_bytes * work.new_rows + texts_bytes * work.rows,
        requests=Requests(
            images=round(image.s3_share * work.rows),
            # Per unit: its planned rows when it is loaded, its staged file when its shard is committed. Per shard: the
            # ids it was planned with. Each is a HEAD and a GET.
            read=4 * units + 2 * shards,
            # Per unit: the mark that it is begun, and its staged file. Per shard: its plan, and its file in each table.
            written=2 * units + (1 + tables) * shards,
            deleted=units,
        ),
    )


def _times(margin: float, factor: float) -> float:
    return margin * abs(factor) if factor else 0.0  # ∞ × 0 is NaN: an infinite margin times 0 must be 0


def _unseen(count: int, population: int | None) -> float:
    """Finite population correction: the factor by which the interval shrinks; 1 without a known population."""
    if population is None or population <= 1:
        return 0.0 if population is not None else 1.0
    return math.sqrt(max(0, population - count) / (population - 1))
