"""What it takes to score a whole collection, given what a few of its images took: arithmetic, and nothing else.

Nothing is measured here and nothing is read. `COSTS` holds what was measured of the job itself, once, by the scripts
that `docs/scale.md` names; what one image takes comes from `jobs.forecast.sample`, or from whoever knows.

Three things can be the slowest: the models, the CPU cores that load images for them, and the network that they are
read through. They work at the same time, so the slowest one's time is the time of all. Not in it: planning, which comes
before and has a time of its own, and the start of Ray and of the models, seconds to minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scipy.special import stdtrit

from jobs.plan.plan import SHARD_ROWS, default_unit_rows

CONFIDENCE: Final = 0.95
_NORMAL: Final = 1.959964
_BITS: Final = 8
_HOUR_S: Final = 3600.0

Limit = Literal["gpu", "cpu", "network"]


@dataclass(frozen=True)
class Measured:
    """A number, and how far it may be off.

    Attributes:
        value: the number.
        margin: half of its 95% interval; 0 if it was given or counted, infinite if it was measured only once.
    """

    value: float
    margin: float = 0.0

    def times(self, factor: Measured | float) -> Measured:
        """The product of two that know nothing of each other: their relative errors add up like squares."""
        other = factor if isinstance(factor, Measured) else Measured(factor)
        margin = math.hypot(_times(self.margin, other.value), _times(other.margin, self.value))
        return Measured(self.value * other.value, margin)

    def inverse(self) -> Measured:
        """One over it."""
        return Measured(1 / self.value, self.margin / self.value**2)


def mean(values: Sequence[float], population: int | None = None) -> Measured:
    """The mean of a random sample, by Student's t.

    Args:
        values: of the sample.
        population: how many there are in all; a sample of all of them has no error. None: any number.
    """
    count = len(values)
    average = sum(values) / count
    if population is not None and count >= population:
        return Measured(average)
    if count == 1:
        return Measured(average, math.inf)
    deviation = math.sqrt(sum((value - average) ** 2 for value in values) / (count - 1))
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Measured(average, quantile * deviation / math.sqrt(count) * _unseen(count, population))


@dataclass(frozen=True)
class Share:
    """How many of all are of some kind, by how many of a sample are.

    Attributes:
        value: from 0 to 1.
        low: lower end of its 95% interval, by Wilson's formula, which knows that none in a sample is not none at all.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def measured(self) -> Measured:
        """With the larger half of its interval as margin."""
        return Measured(self.value, max(self.high - self.value, self.value - self.low))


def share(found: int, count: int, population: int | None = None) -> Share:
    """The share of a kind that `found` of `count` randomly chosen ones are of."""
    value = found / count
    unseen = _unseen(count, population)
    if not unseen:
        return Share(value, value, value)
    size = count / unseen**2  # a sample of nearly all says as much as a much larger one of many
    spread = _NORMAL**2 / size
    middle = (value + spread / 2) / (1 + spread)
    half = _NORMAL / (1 + spread) * math.sqrt(value * (1 - value) / size + spread / (4 * size))
    return Share(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


@dataclass(frozen=True)
class Costs:
    """What the job itself costs beside model and decoder. `docs/scale.md` says where each number comes from.

    Attributes:
        ray_cpu_s: CPU seconds an image of Ray's other processes.
        planned_rows_per_s: rows of a manifest.
        planner_bytes: memory of a process that plans hardly anything.
        planner_row_bytes: memory for each row of the manifest, while it is planned.
        held_row_bytes: memory for each row that the store holds already, while it is planned.
        plan_row_bytes: of a planned row on disk.
        staged_row_bytes: of a scored row, from staging to the end of the run.
        scores_row_bytes: of the scores table.
        texts_row_bytes: of the texts table: eight texts of 94 words of six bytes, uncompressed. Not measured.
    """

    ray_cpu_s: float = 0.002
    planned_rows_per_s: float = 400_000.0
    planner_bytes: float = 260e6
    planner_row_bytes: float = 64.0
    held_row_bytes: float = 157.0
    plan_row_bytes: float = 20.0
    staged_row_bytes: float = 113.0
    scores_row_bytes: float = 72.0
    texts_row_bytes: float = 8 * 94 * 6.0


COSTS: Final = Costs()


@dataclass(frozen=True)
class Work:
    """What a plan would hold.

    Attributes:
        manifest_rows: rows of the source.
        held_rows: rows that the store holds, whether or not the source has them.
        new_rows: rows whose ids the store does not know.
        replaced: for each scores file of the store with rows that are made anew, how many these are.
        texts: whether texts are made, too.
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
        """The shards it is cut into, as (rows of a shard, how many of these)."""
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
    """What one image takes, on average over all rows of the source, unreadable ones included.

    Attributes:
        readable: share of the rows that are images.
        read_bytes: that are read of it.
        load_cpu_s: CPU seconds to decode, resize and digest it.
        model_s: seconds of one device for a readable one; None if nobody knows.
        s3_share: share of the rows that are objects on S3, of which each is a request.
    """

    readable: Measured
    read_bytes: Measured
    load_cpu_s: Measured
    model_s: Measured | None = None
    s3_share: float = 0.0


@dataclass(frozen=True)
class Machines:
    """What there is to do it with.

    Attributes:
        gpus: devices with a model each.
        cores: CPU cores for all of them; None for as many as it takes.
        gbit_per_s: through which all of them read; None for as much as it takes.
        price: of one device for one hour, in any currency; None if nobody asks.
    """

    gpus: int = 1
    cores: float | None = None
    gbit_per_s: float | None = None
    price: float | None = None


@dataclass(frozen=True)
class Requests:
    """How often S3 is asked for something, if images and store lie there; each kind is one of S3's prices.

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
    """What the whole takes.

    Attributes:
        work: what is to be done.
        image: what one image takes.
        machines: what there is to do it with.
        readable_rows: images that get a score.
        read_bytes: of all images.
        core_hours: CPU hours to load all images, Ray's share included.
        gpu_hours: hours of one device; None if its speed is not known.
        seconds: for each limit that is known, how long it would take if the others were none.
        units: units of the plan.
        shards: shards of the plan.
        files: files that the tables get, or that are replaced: at most, since those that want texts only replace one.
        plan_s: seconds of planning, before anything else.
        planner_bytes: memory of the driver while it plans.
        plan_bytes: on disk, while the run lasts.
        staged_bytes: likewise.
        table_bytes: that the tables grow by; changed rows replace others.
        requests: to S3.
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
        """What the rest waits for; None if the models' speed is not known."""
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
        """The price of all devices for all of the time, since those that wait are paid for, too."""
        if self.wall_s is None or self.machines.price is None:
            return None
        return self.wall_s.times(self.machines.gpus * self.machines.price / _HOUR_S)

    @property
    def images_per_s(self) -> float | None:
        """Rows that all models together get through when nothing keeps them waiting."""
        return self.work.rows / self.seconds["gpu"].value if self.work.rows and "gpu" in self.seconds else None

    @property
    def cores_to_feed(self) -> float | None:
        """CPU cores that load images as fast as the models score them."""
        return self._to_feed(self.core_hours.value * _HOUR_S)

    @property
    def gbit_per_s_to_feed(self) -> float | None:
        """What is read while the models work at full speed, in Gbit/s."""
        return self._to_feed(self.read_bytes.value * _BITS / 1e9)

    def _to_feed(self, amount: float) -> float | None:
        scoring = self.seconds.get("gpu")
        return None if scoring is None or not scoring.value else amount / scoring.value

    def gpus_at(self, limit: Limit) -> float | None:
        """The number of devices from which on they would wait for this; None if that is not known."""
        scoring, other = self.seconds.get("gpu"), self.seconds.get(limit)
        if scoring is None or other is None or not other.value:
            return None
        return scoring.value * self.machines.gpus / other.value


def whole(work: Work, image: ImageCost, machines: Machines, costs: Costs = COSTS) -> Whole:
    """What some work takes, given what one image takes and what there is to do it with."""
    readable = image.readable.times(work.rows)
    read_bytes = image.read_bytes.times(work.rows)
    load_s = Measured(image.load_cpu_s.value + costs.ray_cpu_s, image.load_cpu_s.margin).times(work.rows)
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
    texts_bytes = costs.texts_row_bytes if work.texts else 0.0
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
        plan_s=work.manifest_rows / costs.planned_rows_per_s,
        planner_bytes=costs.planner_bytes
        + costs.planner_row_bytes * work.manifest_rows
        + costs.held_row_bytes * work.held_rows,
        plan_bytes=costs.plan_row_bytes * work.rows,
        staged_bytes=(costs.staged_row_bytes + texts_bytes) * work.rows,
        table_bytes=costs.scores_row_bytes * work.new_rows + texts_bytes * work.rows,
        requests=Requests(
            images=round(image.s3_share * work.rows),
            # A unit: its planned rows when it is loaded, its staged file when its shard is committed. A shard: the ids
            # it was planned with. HEAD and GET each.
            read=4 * units + 2 * shards,
            # A unit: the mark that it is begun, and its staged file. A shard: its plan, and its file in each table.
            written=2 * units + (1 + tables) * shards,
            deleted=units,
        ),
    )


def _times(margin: float, factor: float) -> float:
    return margin * abs(factor) if factor else 0.0  # infinitely unsure of something that does not count


def _unseen(count: int, population: int | None) -> float:
    """By how much an interval shrinks if the sample is a part of a finite population that matters."""
    if population is None or population <= 1:
        return 0.0 if population is not None else 1.0
    return math.sqrt(max(0, population - count) / (population - 1))
