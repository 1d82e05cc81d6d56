"""The cores and the memory of a container, as version 2 and version 1 of control groups tell them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from artimuse_actor import node
from artimuse_actor.node import available_bytes, node_bytes, usable_cores

MIB = 1024**2


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "memory").mkdir()
    (tmp_path / "cpu").mkdir()
    monkeypatch.setattr(node, "_CGROUP", tmp_path)
    return tmp_path


def test_a_machine_without_limits_has_all_it_has(cgroup: Path) -> None:
    machine, free = node_bytes(), available_bytes()
    assert machine == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert usable_cores() == len(os.sched_getaffinity(0))
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("9000\n")
    (cgroup / "cpu.max").write_text("max 100000\n")
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert node_bytes() == machine
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert free is None or free > 100 * MIB


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_the_memory_of_its_limit_less_what_it_uses_and_cannot_give_back(
    cgroup: Path, version: int
) -> None:
    folder = cgroup / "memory" if version == 1 else cgroup
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    (folder / limit).write_text(f"{64 * MIB}\n")
    (folder / used).write_text(f"{50 * MIB}\n")
    assert node_bytes() == 64 * MIB
    assert available_bytes() == 14 * MIB
    prefix = "total_" if version == 1 else ""
    (folder / "memory.stat").write_text(f"anon 1\n{prefix}inactive_file {30 * MIB}\n{prefix}active_file 5\n")
    assert available_bytes() == 44 * MIB


@pytest.mark.parametrize(("quota", "cores"), [(50_000, 1), (150_000, 2), (6_400_000, 4)])
def test_a_container_has_the_cores_of_its_quota_and_a_process_those_that_it_may_run_on(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch, quota: int, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 7})
    assert usable_cores() == 4
    (cgroup / "cpu.max").write_text(f"{quota} 100000\n")
    assert usable_cores() == cores
    (cgroup / "cpu.max").unlink()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == cores
