"""Servers that do not answer, among others that do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from threading import Thread
from typing import Any

import pytest
from support.loopback_server import LoopbackServer

from artimuse_actor.errors import ImageError, RunError
from artimuse_actor.fetch import retry
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from jobs.score.breaker import MOST_IN_A_ROW, Breaker

OPTIONS = FetchOptions(allow_private_hosts=True, attempts=3, first_wait_s=0.01)
pytestmark = pytest.mark.server


class _Photos(BaseHTTPRequestHandler):
    """Every name is a picture, but those that are missing; a server that hangs up does so before it answers."""

    server: Any

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.hangs_up:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(404 if "missing" in self.path else 200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"photo")

    def finish(self) -> None:
        if not self.server.hangs_up:
            super().finish()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _serving(port: int = 0, *, hangs_up: bool = False) -> Iterator[Any]:
    with LoopbackServer(("127.0.0.1", port), _Photos) as server:
        server.asked, server.hangs_up = 0, hangs_up  # type: ignore[attr-defined]
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    retry.gate_of.cache_clear()
    yield
    retry.gate_of.cache_clear()


def _closed_port() -> int:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return int(closed.getsockname()[1])


def _outcomes(uris: list[str], ahead: int = 1) -> list[str]:
    """`ok`, or the first words of each error."""
    found = fetch_many(uris, OPTIONS, ahead)
    return [" ".join(str(data).split()[:5]) if isinstance(data, ImageError) else "ok" for data in found]


@pytest.mark.parametrize("ahead", [1, 6])
def test_a_dead_server_costs_a_few_images_their_attempts_and_a_live_one_beside_it_nothing(ahead: int) -> None:
    with _serving() as live, _serving(hangs_up=True) as dead:
        uris = [
            uri
            for number in range(30)
            for uri in (
                f"http://127.0.0.1:{live.server_port}/{number}",
                f"http://127.0.0.1:{dead.server_port}/{number}",
            )
        ]
        found = _outcomes(uris, ahead)
        assert found[::2] == ["ok"] * 30
        silent = [outcome for outcome in found[1::2] if outcome == "The server did not answer"]
        assert "ok" not in found[1::2]
        assert len(silent) >= 27 - ahead
        # aiohttp tries a connection that was hung up on once more.
        assert dead.asked <= (2 + ahead) * OPTIONS.attempts * 2 < 30 * OPTIONS.attempts


def test_a_server_that_answers_that_a_file_is_missing_is_not_silent() -> None:
    with _serving() as live:
        root = f"http://127.0.0.1:{live.server_port}"
        assert "ok" not in _outcomes([f"{root}/missing/{number}" for number in range(10)])
        assert _outcomes([f"{root}/photo"]) == ["ok"]


def test_a_server_that_comes_back_is_found_by_the_next_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    port = _closed_port()
    uri = f"http://127.0.0.1:{port}/photo"
    assert [outcome == "The server did not answer" for outcome in _outcomes([uri] * 5)] == [False] * 3 + [True] * 2
    with _serving(port) as server:
        assert _outcomes([uri]) == ["The server did not answer"]
        monkeypatch.setattr(retry, "_PROBE_EVERY_S", 0.0)
        assert _outcomes([uri] * 3) == ["ok"] * 3
        assert server.asked == 3


def _receipt(unit: int, *errors: str, rows: int = 16) -> dict[str, Any]:
    return {"shard": 0, "unit": unit, "rows": rows, "error_types": list(errors)}


def test_when_no_server_of_several_answers_the_run_stops_and_when_it_is_one_it_goes_on() -> None:
    units = MOST_IN_A_ROW // 16
    for servers in (1, 5):
        dropped: list[list[tuple[int, int]]] = []
        breaker = Breaker(None, dropped.append, lambda unit, servers=servers: {f"https://{unit[1] % servers}"})  # type: ignore[misc]
        assert breaker.admit(_receipt(units)) == [(0, units)]  # images of yet another server
        for unit in range(units - 1):
            assert breaker.admit(_receipt(unit, *["fetch_failed"] * 16)) == []
        if servers == 1:
            assert breaker.admit(_receipt(units, *["fetch_failed"] * 16)) == []
            assert len(breaker.admit(_receipt(units + 1, *["fetch_failed"] * 15))) == units + 1
            continue
        with pytest.raises(RunError, match=r"The network seems to be away: images of 4 servers .* \(64 fetch_failed\)"):
            breaker.admit(_receipt(units - 1, *["fetch_failed"] * 16))
        assert [len(units) for units in dropped] == [units]


def test_when_the_only_server_never_answers_the_run_stops() -> None:
    units = MOST_IN_A_ROW // 16
    breaker = Breaker(None, lambda _: None, lambda _: {"s3://photos"})
    for unit in range(units - 1):
        assert breaker.admit(_receipt(unit, *["fetch_failed"] * 16)) == []
    with pytest.raises(RunError, match=r"s3://photos does not answer: its images cannot be read one after the other"):
        breaker.admit(_receipt(units - 1, *["fetch_failed"] * 16))
