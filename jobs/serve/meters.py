"""The meters of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_IMAGES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meters:
    """Counts the work of one server.

    Attributes:
        requests: by route and status; 499 for those whose client left.
        request_s: seconds of a request, by route.
        images: pictures that were answered, by `ok` and `error`.
        failed: pictures that were answered by an error, by its type.
        batch_images: pictures of a forward pass.
    """

    def __init__(self, queued: Callable[[], int], is_ready: Callable[[], bool]) -> None:
        """Measure how many pictures are queued, and whether the model is loaded, by these functions."""
        self._registry = CollectorRegistry()
        self.requests = Counter("artimuse_serve_requests", "Requests.", ("route", "status"), registry=self._registry)
        self.request_s = Histogram(
            "artimuse_serve_request_seconds",
            "A request, from its headers to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.images = Counter("artimuse_serve_images", "Pictures answered.", ("status",), registry=self._registry)
        self.failed = Counter(
            "artimuse_serve_failed_images", "Pictures without scores.", ("error_type",), registry=self._registry
        )
        self.batch_images = Histogram(
            "artimuse_serve_batch_images", "Pictures of a forward pass.", buckets=_IMAGES, registry=self._registry
        )
        self._step_s = Counter(
            "artimuse_serve_seconds", "Where time went: decode or model.", ("step",), registry=self._registry
        )
        queue = Gauge("artimuse_serve_queued_images", "Pictures accepted and not answered.", registry=self._registry)
        queue.set_function(queued)
        ready = Gauge("artimuse_serve_ready", "1 if the model is loaded.", registry=self._registry)
        ready.set_function(is_ready)

    @contextmanager
    def step(self, name: Literal["decode", "model"]) -> Iterator[None]:
        """Count the seconds of a step, also when it fails."""
        began_s = perf_counter()
        try:
            yield
        finally:
            self._step_s.labels(name).inc(perf_counter() - began_s)

    def text(self) -> bytes:
        """All of them as Prometheus reads them."""
        return generate_latest(self._registry)
