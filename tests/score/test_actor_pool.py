from __future__ import annotations

import pytest

from artimuse_actor.errors import UsageError
from jobs.score.actor_pool import ActorPool
from jobs.score.ray_session import Cluster


@pytest.mark.parametrize(("text", "fewest", "most"), [("1", 1, 1), ("8", 8, 8), ("1:8", 1, 8), (" 2:2 ", 2, 2)])
def test_a_pool_is_a_number_or_two(text: str, fewest: int, most: int) -> None:
    pool = ActorPool.parse(text)
    assert (pool.fewest, pool.most) == (fewest, most)
    assert ActorPool.parse(str(pool)) == pool


@pytest.mark.parametrize("text", ["", "0", "0:3", "3:2", "-1", "1:", ":2", "1:2:3", "many", "1000000", "1.5"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"--actors takes a whole number from 1 to 100,000, or two as in 1:8, not"):
        ActorPool.parse(text)


def test_gpus_that_may_still_come_are_waited_for_only_if_somebody_says_how_many() -> None:
    nobody = Cluster(gpus=0, cpus=2)
    with pytest.raises(UsageError, match="Ray sees no GPU"):
        nobody.device("cuda")
    assert nobody.device("cuda", may_grow=True) == "cuda"
    assert nobody.device("auto", may_grow=True) == "cpu"
    assert Cluster(gpus=4, cpus=2).default_pool("cuda", 2) == ActorPool(8, 8)
    assert Cluster(gpus=4, cpus=2).default_pool("cpu", 2) == ActorPool(1, 1)
