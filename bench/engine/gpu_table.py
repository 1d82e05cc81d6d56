"""The one table that `bench/engine/gpu.py` prints, and the kernels that take most of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from bench.measure.timing import wait


@dataclass(frozen=True)
class Row:
    """One contestant.

    Attributes:
        name: what was done.
        images_per_s: 0 if it failed, or did not fit into the device's memory.
        tokens_per_s: of texts; 0 if there are none.
        published_per_s: images a second in the published manner; 0 if that was not measured.
        bound_per_s: images a second that the device's matrix peak allows.
        memory: GiB of tensors at most.
    """

    name: str
    images_per_s: float = 0.0
    tokens_per_s: float = 0.0
    published_per_s: float = 0.0
    bound_per_s: float = 0.0
    memory: str = "-"


def print_rows(rows: Sequence[Row]) -> None:
    """Print the table."""
    columns = ("images/s", "tokens/s", "as published", "ratio", "of the bound", "memory, GiB")
    widths = (8, 8, 12, 5, 12, 11)
    print(f"| {'':35} | {' | '.join(f'{name:>{width}}' for name, width in zip(columns, widths, strict=True))} |")
    print(f"| {'-' * 35} | {' | '.join('-' * (width - 1) + ':' for width in widths)} |")
    for row in rows:
        if not row.images_per_s:
            print(f"| {row.name:35} | failed, or does not fit into the device's memory")
            continue
        tokens = f"{row.tokens_per_s:.0f}" if row.tokens_per_s else "-"
        published = f"{row.published_per_s:.3f}" if row.published_per_s else "-"
        ratio = f"{row.images_per_s / row.published_per_s:.3g}" if row.published_per_s else "-"
        print(
            f"| {row.name:35} | {row.images_per_s:8.2f} | {tokens:>8} | {published:>12} | {ratio:>5} "
            f"| {row.images_per_s / row.bound_per_s:12.1%} "
            f"| {row.memory:>11} |"
        )


def busiest(work: Callable[[], object], device: torch.device, count: int = 10) -> list[str]:
    """The kernels, or operators of a CPU, that take most of the time, one line each."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        work()
        wait(device)
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in found.key_averages()
    }
    total = sum(time for time, _ in times.values())
    largest = sorted(times.items(), key=lambda entry: -entry[1][0])[:count]
    return [f"{time / total:5.1%} in {calls:4} calls of {name[:80]}" for name, (time, calls) in largest]
