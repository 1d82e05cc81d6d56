"""A web server on loopback that sends files of a folder, and parts of them, and counts what it sends.

with RangeServer(folder) as server:
    server.url
    server.requests, server.sent_bytes
    server.forget()                     # counts from 0
"""

from __future__ import annotations

import re
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from support.loopback_server import LoopbackServer


class RangeServer:
    """The server, answering while its `with` block runs."""

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        self.folder, self.ranges = folder, ranges
        self.requests = self.sent_bytes = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forget(self) -> None:
        """Count from 0."""
        self.requests = self.sent_bytes = 0

    def count(self, sent_bytes: int) -> None:
        """Note an answer."""
        with self._lock:
            self.requests += 1
            self.sent_bytes += sent_bytes

    def __enter__(self) -> RangeServer:
        self._server = LoopbackServer(("127.0.0.1", 0), partial(_Handler, self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, served: RangeServer, *arguments: Any) -> None:
        self._served = served
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        """Counted in `RangeServer` instead."""

    def do_GET(self) -> None:
        path = self._served.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if not path.is_file():
            self._answer(HTTPStatus.NOT_FOUND, b"")
            return
        size = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if match is None or not self._served.ranges:
            self._answer(HTTPStatus.OK, path.read_bytes(), path)
            return
        first, last = int(match[1]), min(int(match[2]), size - 1)
        if first >= size:
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"")
            return
        with path.open("rb") as file:
            file.seek(first)
            part = file.read(last + 1 - first)
        self._answer(HTTPStatus.PARTIAL_CONTENT, part, path, f"bytes {first}-{last}/{size}")

    def _answer(self, status: HTTPStatus, data: bytes, path: Path | None = None, content_range: str = "") -> None:
        self._served.count(len(data))
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if path is not None:
            self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(data)
