"""The cores and the memory of this machine, or less if this process, or its container, may have less."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/sys/fs/cgroup")
_MEMORY_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")  # of version 2, and of version 1
_MEMORY_USED: Final = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def usable_cores() -> int:
    """The cores that this process may compute on at the same time; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for limit in (_read("cpu.max"), f"{_read('cpu/cpu.cfs_quota_us')} {_read('cpu/cpu.cfs_period_us')}"):
        if re.fullmatch(r"\d+ \d+", limit):  # a quota and its period; no quota is "max", or "-1"
            quota, period = map(int, limit.split())
            cores = min(cores, -(-quota // period))
    return max(1, cores)


def node_bytes() -> int:
    """All memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(int(limit) for path in _MEMORY_LIMITS if (limit := _read(path)).isdecimal())])


def available_bytes() -> int | None:
    """Memory that can be allocated without swapping; None if the system does not tell.

    What the page cache of a container has and nobody uses is given back when memory is short.
    """
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:")]
    for names in _MEMORY_USED:
        limit, used = (_read(name) for name in names[:2])
        if limit.isdecimal() and used.isdecimal():
            cached = [line.split()[1] for line in _lines(_CGROUP / names[2]) if line.startswith(f"{names[3]} ")]
            found.append(max(0, int(limit) - int(used) + int(cached[0] if cached else 0)))
    return min(found, default=None)


def _read(name: str) -> str:
    return "".join(_lines(_CGROUP / name)).strip()


def _lines(path: Path | str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
