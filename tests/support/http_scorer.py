"""A server of scores on loopback, in a thread of the test's process, and a client of it."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from artimuse_actor import ArtiMuse
from jobs.score.single_images import ImageSettings
from jobs.serve.app import Service
from jobs.serve.scorer import Scorer
from jobs.serve.server import listening
from jobs.serve.settings import Limits, ServeSettings

TOKEN: Final = "a token of tests, as long".replace(" ", "-")
LONG_S: Final = 90.0
"""Longer than any wait of a test should take."""


@dataclass(frozen=True)
class Answer:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def results(self) -> list[dict[str, Any]]:
        assert self.status == 200, self.body
        results: list[dict[str, Any]] = self.json["results"]
        return results

    @property
    def error(self) -> tuple[int, str]:
        """Status and type."""
        return self.status, self.json["error"]["type"]


@dataclass(frozen=True)
class Client:
    """Sends requests to a server, with its token."""

    url: str
    token: str | None = TOKEN

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        assert parts.hostname
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=LONG_S)

    def send(
        self, path: str, body: Any = None, kind: str | None = "image/jpeg", method: str = "POST", **headers: str
    ) -> Answer:
        """One request on a connection of its own."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if kind and body is not None:
            sent["Content-Type"] = kind
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def meters(self) -> dict[str, float]:
        """Name and labels of each sample of `/metrics` → value, such as `images_total ok`."""
        answer = self.send("/metrics", method="GET")
        assert answer.status == 200
        return {
            " ".join((sample.name.removeprefix("artimuse_serve_"), *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }

    def wait_until(self, is_so: Callable[[dict[str, float]], bool]) -> None:
        """Wait until the meters are so."""
        ends_s = time.monotonic() + LONG_S
        while not is_so(self.meters()):
            assert time.monotonic() < ends_s, self.meters()
            time.sleep(0.05)

    def wait_until_queued(self, count: int) -> None:
        """Wait until so many pictures are accepted and not answered."""
        self.wait_until(lambda meters: meters["queued_images"] == count)


@contextmanager
def serving(
    model: ArtiMuse | None, settings: ImageSettings | None = None, limits: Limits | None = None
) -> Iterator[tuple[Client, Service]]:
    """A server of this model; of one that is still being loaded, if it is None."""
    settings = settings or ImageSettings("")
    limits = limits or Limits()
    started: Future[tuple[str, Service, Callable[[], object]]] = Future()

    async def serve() -> None:
        service = Service(TOKEN, limits)
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with listening(service, ServeSettings(settings, port=0, limits=limits)) as url:
            if model is not None:
                service.scorer = Scorer(model, settings, limits.wait_s, service.meters)
            started.set_result((url, service, lambda: loop.call_soon_threadsafe(stop.set)))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    url, service, stop = started.result(LONG_S)
    try:
        yield Client(url), service
    finally:
        stop()
        thread.join(LONG_S)
        assert not thread.is_alive()
