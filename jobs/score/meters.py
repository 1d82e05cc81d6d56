"""Metrics of loaders, actors and stagers, for Prometheus, through Ray's own exporter.

Each process counts its own work; Ray collects the counts on every node and serves them on the node's metrics port
(`ray.nodes()` names it), with the prefix `ray_`, and counters with the suffix `_total`. This needs the packages of the
extra `metrics`; without them, and in a process without Ray, nothing is collected and nothing fails. Counters count
work: a unit that is done twice, since its process died, counts twice. For numbers of rows, read the tables.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

METERS: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "artimuse_images": ("counter", "Images that a step has done, errors included.", ("step",)),
    "artimuse_failed_images": ("counter", "Images that became error rows.", ("step", "error_type")),
    "artimuse_fetched_bytes": ("counter", "Bytes of image files.", ("step",)),
    "artimuse_text_tokens": ("counter", "Tokens that were generated.", ("step",)),
    "artimuse_seconds": ("counter", "Where time went: fetch, decode, wait, model or write.", ("step",)),
    "artimuse_batch_seconds": ("histogram", "A forward pass or decode step, the mean of a unit.", ("step",)),
    "artimuse_busy_ratio": ("gauge", "Share of its time that an actor worked, of the last unit.", ("step", "pid")),
}
"""Name → kind, description and tags; each also has the tag `node`."""

_BATCH_BOUNDS_S: Final = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


@dataclass(frozen=True)
class Meters:
    """Counts each unit, called by the step that has done it. Has no state, so that it can be pickled."""

    def loaded(self, images: int, failed: Mapping[str, int], spent: Mapping[str, Any]) -> None:
        """Count a unit whose images are decoded, or failed."""
        record("artimuse_images", images, step="load")
        for error_type, count in failed.items():
            record("artimuse_failed_images", count, step="load", error_type=error_type)
        record("artimuse_fetched_bytes", spent["fetched_bytes"], step="load")
        record("artimuse_seconds", spent["fetch_s"], step="fetch")
        record("artimuse_seconds", spent["decode_s"], step="decode")

    def scored(self, images: int, passes: int, text_tokens: int, spent: Mapping[str, Any]) -> None:
        """Count a unit that has its scores, or texts."""
        wait_s, model_s = spent["wait_s"], spent["model_s"]
        record("artimuse_images", images, step="score")
        record("artimuse_text_tokens", text_tokens, step="score")
        record("artimuse_seconds", model_s, step="model")
        record("artimuse_batch_seconds", model_s / passes if passes else 0, step="model")
        if wait_s is not None and wait_s + model_s > 0:
            record("artimuse_seconds", wait_s, step="wait")
            record("artimuse_busy_ratio", model_s / (wait_s + model_s), step="model", pid=str(os.getpid()))

    def staged(self, images: int, spent: Mapping[str, Any]) -> None:
        """Count a unit that is staged."""
        record("artimuse_images", images, step="stage")
        record("artimuse_seconds", spent["write_s"], step="write")


def record(name: str, value: float, **tags: str) -> None:
    """Add to a counter or histogram, or set a gauge; does nothing outside Ray."""
    ray = sys.modules.get("ray")
    if ray is None or value < 0 or (value == 0 and METERS[name][0] != "gauge"):
        return
    with contextlib.suppress(Exception):  # an error in counting must not fail the unit
        if ray.is_initialized():
            _recorder(name)(value, {"node": node_name(), **tags})


def node_name() -> str:
    """Host name of this machine."""
    return socket.gethostname()


@cache
def _recorder(name: str) -> Any:
    """The function that takes the values of a meter in this process."""
    from ray.util import metrics

    kind, description, tags = METERS[name]
    keys = ("node", *tags)
    if kind == "counter":
        return metrics.Counter(name, description, keys).inc
    if kind == "gauge":
        return metrics.Gauge(name, description, keys).set
    return metrics.Histogram(name, description, boundaries=_BATCH_BOUNDS_S, tag_keys=keys).observe
