from __future__ import annotations

import pytest

from artimuse_actor.errors import UsageError
from jobs.score.actor_pool import ActorPool
from jobs.score.cluster import Cluster


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


@pytest.mark.parametrize(
    ("accelerators", "device", "dtype"),
    [
        (["H200"], "cuda", "bfloat16"),
        (["A10G", "L4"], "cuda", "bfloat16"),
        (["GeForce-RTX-5090"], "cuda", "bfloat16"),
        (["AMD-Instinct-MI300X-OAM"], "cuda", "bfloat16"),
        (["T4"], "cuda", "float32"),
        (["H100", "V100"], "cuda", "float32"),
        (["GeForce-RTX-2080-Ti"], "cuda", "float32"),
        (["GTX-1080"], "cuda", "float32"),
        (["M2-Max"], "mps", "float32"),
        (["Apple-Silicon"], "mps", "float32"),
    ],
)
def test_auto_follows_the_gpus_that_ray_names(accelerators: list[str], device: str, dtype: str) -> None:
    resources = {"CPU": 8.0, "GPU": 2.0, **{f"accelerator_type:{name}": 1.0 for name in accelerators}}
    cluster = Cluster.of(resources)
    assert (cluster.gpus, cluster.cpus) == (2, 8)
    assert (cluster.device("auto"), cluster.auto_dtype(device)) == (device, dtype)
    assert cluster.device(device) == device
    assert (cluster.device("cpu"), cluster.auto_dtype("cpu")) == ("cpu", "float32")
    assert cluster.default_pool(device, 2) == ActorPool(4, 4)


@pytest.mark.parametrize(("accelerator", "device"), [("M2-Max", "cuda"), ("H200", "mps"), ("H200", "cuda:1")])
def test_a_gpu_that_the_cluster_does_not_have_is_refused(accelerator: str, device: str) -> None:
    with pytest.raises(UsageError, match=f"--device {device}: Ray sees no GPU|not 'cuda:1'; Ray hands the GPUs out"):
        Cluster.of({"GPU": 1, "CPU": 2, f"accelerator_type:{accelerator}": 1}).device(device)
