"""A proxy in front of a real server on loopback that does, on request, what networks and busy servers do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from support.loopback_server import LoopbackServer


class ProxyHandler(BaseHTTPRequestHandler):
    """One connection; every answer is the upstream server's, unless a fault comes first."""

    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_GET(self) -> None:
        name = unquote(self.path)
        proxy = self.server
        with proxy.lock:
            proxy.requests.append(name)
            active = proxy.active  # after a reset, a request that is still served is of the past
            active.add(self)
            crowded = len(active) > proxy.limit
            faults = proxy.faults[name] or proxy.faults["*"]
            fault = faults.popleft() if faults else None
        try:
            if crowded:
                proxy.throttled += 1
                refuse(503, "SlowDown")(self)
            elif fault is not None:
                fault(self)
            else:
                time.sleep(proxy.latency_s)
                self.forward()
        finally:
            with proxy.lock:
                active.discard(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def forward(self, body_share: float = 1.0) -> None:
        """Pass the request on and the answer back, or only the first part of its body."""
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with closing(http.client.HTTPConnection(self.server.upstream, timeout=20)) as upstream:
            upstream.request(self.command, self.path, body=sent, headers=dict(self.headers))
            answer = upstream.getresponse()
            body = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: int(len(body) * body_share)])
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


Fault = Callable[[ProxyHandler], None]


class FaultProxy(LoopbackServer):
    """The proxy itself.

    Attributes:
        upstream: host:port of the server behind it.
        faults: path → what happens to the next requests for it; `*` stands for any other path.
        limit: how many requests are served at a time; those above are told to slow down.
        latency_s: how long each request takes that is served.
        requests: the paths that were asked for, in order.
        throttled: how many were told to slow down.
    """

    request_queue_size = 128

    def __init__(self, upstream: str, host: str, handler: type[ProxyHandler]) -> None:
        super().__init__((host, 0), handler)
        self.upstream = urlsplit(upstream).netloc
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.reset()

    def reset(self) -> None:
        """No faults, and nothing was ever asked."""
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.limit = 1_000_000
        self.latency_s = 0.0
        self.active: set[ProxyHandler] = set()
        self.throttled = 0
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next requests for a path end in these faults, one after the other."""
        self.faults[path].extend(faults)


@contextmanager
def running_proxy(
    upstream: str, host: str = "127.0.0.1", handler: type[ProxyHandler] = ProxyHandler
) -> Iterator[FaultProxy]:
    """Start a proxy in front of a server, given by its url."""
    with FaultProxy(upstream, host, handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield proxy
        proxy.stopped.set()
        proxy.shutdown()


def as_it_is(handler: ProxyHandler) -> None:
    """No fault: the ones after it are for later requests."""
    handler.forward()


def refuse(status: int, code: str = "", **headers: str) -> Fault:
    """An error answer as S3 writes it; underscores in the names of headers stand for hyphens."""

    def fault(handler: ProxyHandler) -> None:
        body = f"<Error><Code>{code}</Code><Message>As the test wants it.</Message></Error>".encode()
        handler.send_response_only(HTTPStatus(status))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Type", "application/xml")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return fault


def corrupt(handler: ProxyHandler) -> None:
    """A body that is not what its checksum says."""
    handler.send_response_only(200)
    handler.send_header("x-amz-checksum-crc32", "AAAAAA==")
    handler.send_header("Content-Length", "7")
    handler.end_headers()
    handler.wfile.write(b"damaged")


def redirect(location: str) -> Fault:
    """The file is elsewhere."""
    return refuse(302, Location=location)


def garble(handler: ProxyHandler) -> None:
    """An error page of something in between, which is no XML."""
    handler.send_response_only(503)
    handler.send_header("Content-Length", "8")
    handler.end_headers()
    handler.wfile.write(b"<html>No")


def curse(handler: ProxyHandler) -> None:
    """A refusal in words that are no text."""
    handler.wfile.write(b"HTTP/1.1 403 \xff\x1b[31m\xed\xa0\x80 no\r\nContent-Length: 0\r\n\r\n")


def drop(handler: ProxyHandler) -> None:
    """The connection ends before any answer."""
    handler.close_connection = True


def cut(handler: ProxyHandler) -> None:
    """Half of the body, then the end of the connection."""
    handler.forward(body_share=0.5)
    handler.close_connection = True


def reset(handler: ProxyHandler) -> None:
    """Half of the body, then a reset."""
    handler.forward(body_share=0.5)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def stall(handler: ProxyHandler) -> None:
    """Half of the body, then silence."""
    handler.forward(body_share=0.5)
    handler.server.stopped.wait(10)
    handler.close_connection = True


def chunked(handler: ProxyHandler) -> None:
    """Four megabytes whose length is not said beforehand."""
    handler.send_response_only(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(64):
        handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")


def silence(handler: ProxyHandler) -> None:
    """No answer at all."""
    handler.server.stopped.wait(10)
    handler.close_connection = True


def trickle(handler: ProxyHandler) -> None:
    """A byte now and then: never silent, never done."""
    handler.send_response_only(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    while not handler.server.stopped.wait(0.05):
        handler.wfile.write(b"x")
