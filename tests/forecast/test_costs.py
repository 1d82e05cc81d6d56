"""The cost of the whole, against examples worked out by hand: those of docs/scale.md among them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.paths import REPO
from support.stores import complete, open_store, plan_for, write_manifest

from bench.job.scale_tables import tables
from jobs.forecast.costs import COSTS, ImageCost, Limit, Machines, Measured, Whole, Work, mean, share, whole
from jobs.forecast.sample import count_rows_to_do
from jobs.forecast.text import bottleneck, significant
from jobs.manifest.source import open_manifest
from jobs.plan.plan import SHARD_ROWS
from jobs.store.layout import plan_folder

BILLIONS = 5_000_000_000


def _whole(rows: int, machines: Machines, images_per_s: float | None = 70.0, **image: float) -> Whole:
    """Costs of images that can all be read, have 1.5 MB each and take a core 0.198 s, Ray's 2 ms not counted."""
    cost = ImageCost(
        readable=Measured(image.get("readable", 1.0)),
        read_bytes=Measured(image.get("read_bytes", 1.5e6)),
        load_cpu_s=Measured(image.get("load_cpu_s", 0.198)),
        model_s=None if images_per_s is None else Measured(1 / images_per_s),
        s3_share=1.0,
    )
    return whole(Work(rows, rows), cost, machines)


def test_a_mean_has_the_margin_of_students_t() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.margin == pytest.approx(3.182 * math.sqrt(5 / 3) / 2, rel=1e-3)
    assert mean([1.0, 2.0, 3.0, 4.0], population=4).margin == 0
    assert mean([1.0, 2.0, 3.0, 4.0], population=5).margin == pytest.approx(found.margin / 2)
    assert mean([3.0]).margin == math.inf
    assert mean([3.0], population=1) == Measured(3.0)


def test_none_in_a_sample_is_not_none_at_all() -> None:
    none, some, all_ = share(0, 64), share(3, 64), share(64, 64)
    assert [none.value, none.low, none.high] == pytest.approx([0.0, 0.0, 0.0566], abs=1e-4)
    assert [some.low, some.high] == pytest.approx([0.0161, 0.1290], abs=1e-4)
    assert [all_.low, all_.high] == pytest.approx([1 - none.high, 1.0])
    assert share(3, 64, population=64).low == share(3, 64, population=64).high == 3 / 64
    assert none.high / 2 < share(0, 64, population=128).high < none.high
    assert none.measured == Measured(0.0, none.high)


def test_relative_errors_add_up_like_squares() -> None:
    product = Measured(10.0, 3.0).times(Measured(100.0, 40.0))
    assert product == Measured(1000.0, 500.0)
    assert Measured(4.0, 0.4).inverse() == Measured(0.25, 0.025)
    assert Measured(4.0, math.inf).times(0.0) == Measured(0.0, 0.0)


def test_five_billion_images_on_a_thousand_gpus() -> None:
    found = _whole(BILLIONS, Machines(gpus=1000, price=2.0))
    assert found.gpu_hours is not None
    assert found.wall_s is not None
    assert found.cost is not None
    assert found.gpu_hours.value == pytest.approx(BILLIONS / 70 / 3600) == pytest.approx(19_841, abs=1)
    assert found.wall_s.value == pytest.approx(71_429, abs=1)
    assert found.cost.value == pytest.approx(2 * 19_841.27, rel=1e-6)
    assert found.images_per_s == pytest.approx(70_000)
    assert found.cores_to_feed == pytest.approx(14_000)
    assert found.gbit_per_s_to_feed == pytest.approx(840)
    assert found.read_bytes.value == pytest.approx(7.5e15)
    # 76,293 full shards of 328 units each, and 61,952 rows in 310 units.
    assert (found.shards, found.units) == (76_294, 76_293 * 328 + 310)
    assert found.planner_bytes == pytest.approx(320.26e9)
    assert found.plan_s == 12_500
    assert found.requests.images == BILLIONS
    assert found.requests.written == 2 * found.units + 2 * found.shards


def test_a_gpu_at_its_limit_takes_twenty_four_cores() -> None:
    found = _whole(10**6, Machines(gpus=1), images_per_s=118)
    assert found.cores_to_feed == pytest.approx(118 * 0.2)
    assert found.slowest == "gpu"
    assert "24 cores would do for them" in bottleneck(found)


@pytest.mark.parametrize(
    ("machines", "slowest", "sentence"),
    [
        (Machines(10), "gpu", "the GPUs; 140 cores would do for them, 8.40 Gbit/s would do for them."),
        (
            Machines(10, cores=280, gbit_per_s=10),
            "gpu",
            "the GPUs; 280 cores would do for up to 20.0 GPUs, 10.0 Gbit/s would do for up to 11.9 GPUs.",
        ),
        (
            Machines(10, cores=70, gbit_per_s=10),
            "cpu",
            "decoding on the CPU; 70 cores can feed 5.00 of 10 GPUs, and from 140 cores on it would be the GPUs.",
        ),
        (
            Machines(10, cores=35, gbit_per_s=4.2),
            "cpu",
            "decoding on the CPU; 35 cores can feed 2.50 of 10 GPUs, and from 70 cores on it would be the network.",
        ),
        (
            Machines(10, gbit_per_s=2.1),
            "network",
            "the network; 2.10 Gbit/s can feed 2.50 of 10 GPUs, and from 8.40 Gbit/s on it would be the GPUs.",
        ),
    ],
)
def test_the_slowest_is_the_bottleneck(machines: Machines, slowest: Limit, sentence: str) -> None:
    found = _whole(10**6, machines)
    assert found.slowest == slowest
    assert bottleneck(found) == sentence


def test_the_bottleneck_moves_where_the_sentence_says() -> None:
    assert _whole(10**6, Machines(10, cores=139)).slowest == "cpu"
    assert _whole(10**6, Machines(10, cores=141)).slowest == "gpu"
    assert _whole(10**6, Machines(11, gbit_per_s=10)).slowest == "gpu"
    assert _whole(10**6, Machines(12, gbit_per_s=10)).slowest == "network"


def test_gpus_that_wait_are_paid_for() -> None:
    busy, waiting = (_whole(10**6, Machines(10, cores=cores, price=3.0)) for cores in (None, 70))
    assert busy.cost is not None
    assert waiting.cost is not None
    assert busy.gpu_hours == waiting.gpu_hours
    assert waiting.cost.value == pytest.approx(2 * busy.cost.value)


def test_without_a_speed_there_is_no_time_and_no_bottleneck() -> None:
    found = _whole(10**6, Machines(10, cores=70, price=3.0), images_per_s=None)
    assert (found.gpu_hours, found.wall_s, found.cost, found.slowest, found.cores_to_feed) == (None,) * 5
    assert found.core_hours.value == pytest.approx(10**6 * 0.2 / 3600)
    assert "not known" in bottleneck(found)


def test_unreadable_images_cost_loading_and_no_model() -> None:
    found = _whole(10**6, Machines(1), readable=0.5)
    assert found.gpu_hours is not None
    assert found.gpu_hours.value == pytest.approx(5e5 / 70 / 3600)
    assert found.images_per_s == pytest.approx(140)
    assert found.core_hours.value == pytest.approx(10**6 * 0.2 / 3600)


def test_nothing_to_do_takes_nothing() -> None:
    found = _whole(0, Machines(1, cores=1, gbit_per_s=1, price=1))
    assert (found.units, found.shards, found.table_bytes, found.images_per_s) == (0, 0, 0, None)
    assert found.cost == Measured(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 100, 5000, SHARD_ROWS, SHARD_ROWS + 1])
def test_units_and_shards_are_those_of_the_planner(rows: int, tmp_path: Path) -> None:
    store, source = open_store(tmp_path / "out"), write_manifest(tmp_path / "m.parquet", list(map(str, range(rows))))
    plan = plan_for(store, source, "p1")
    found = whole(count_rows_to_do(open_manifest(source), None, 8, 0).work(texts=False), _image(), Machines())
    assert found.work.unit_rows == plan.unit_rows
    assert (found.shards, found.units) == (len(plan.shards), sum(shard.units for shard in plan.shards))
    plan_bytes = sum(file.size_bytes for file in store.place.files(plan_folder(plan.plan_id)))
    assert rows < SHARD_ROWS or plan_bytes / rows < 2 * COSTS.plan_row_bytes


def test_changed_rows_are_shards_of_their_own_as_in_a_plan(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    ids = list(map(str, range(30)))
    for number in range(3):
        part = write_manifest(tmp_path / f"{number}.parquet", ids[10 * number : 10 * number + 10])
        complete(store, plan_for(store, part, f"p{number}"))
    # Of three files, one with two changed rows, one with none, one with three; and four new rows.
    versions = ["2" if name in {"0", "3", "20", "21", "29"} else "1" for name in ids]
    source = write_manifest(tmp_path / "m.parquet", [*ids, *"abcd"], [*versions, *"1111"])
    counted = count_rows_to_do(open_manifest(source), store.stored_rows(), 64, 0)
    plan = plan_for(store, source, "again")
    work = counted.work(texts=False)
    assert (work.new_rows, work.replaced, work.rows) == (4, (2, 3), plan.rows)
    assert sorted(counted.sample["image_id"].to_pylist()) == sorted(["0", "3", "20", "21", "29", *"abcd"])
    found = whole(work, _image(), Machines())
    assert (found.shards, found.units) == (len(plan.shards), sum(shard.units for shard in plan.shards))


def test_the_tables_of_the_scale_page_are_what_the_arithmetic_gives() -> None:
    page = (REPO / "docs" / "scale.md").read_text()
    for table in tables():
        assert table in page, "run `python bench/job/scale_tables.py`"


def test_numbers_have_as_many_digits_as_mean_something() -> None:
    shown = [significant(value) for value in (0, 0.00012, 0.0499, 4.567, 45.67, 456.7, 45_678)]
    assert shown == ["0", "0.0001", "0.05", "4.57", "45.7", "457", "45,678"]


def _image() -> ImageCost:
    return ImageCost(Measured(1.0), Measured(1e6), Measured(0.1))
