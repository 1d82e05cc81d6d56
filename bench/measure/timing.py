"""Contestants measured in turn, so that a machine that slows down or warms up does so for all; and their memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from time import perf_counter

import torch


def alternate(
    contestants: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; the order is reversed in every second round.

    Args:
        contestants: name → the work to time; call each once beforehand to warm it up.
        rounds: how often each runs.
        device: waited for before a clock is read.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            wait(device)
            start = perf_counter()
            contestants[name]()
            wait(device)
            seconds[name].append(perf_counter() - start)
    return seconds


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(work: Callable[[], object], device: torch.device) -> str:
    """GiB of tensors on the device at most while this ran once, weights included; torch keeps no count of a CPU's."""
    if device.type != "cuda":
        work()
        return "-"
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait(device)
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}"


def release(device: torch.device) -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
