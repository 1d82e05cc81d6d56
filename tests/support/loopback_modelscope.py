"""ModelScope on loopback: as much of its HTTP interface as a download asks for.

with LoopbackModelScope() as hub:
    hub.add("someone/model", {"config.json": b"{}"})
    hub.url                             # for MODELSCOPE_ENDPOINT
    hub.requests                        # what was asked, in order
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from support.loopback_server import LoopbackServer


class LoopbackModelScope:
    """The hub, serving while its `with` block runs."""

    def __init__(self) -> None:
        self.branches: dict[tuple[str, str], dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, name: str, files: Mapping[str, bytes], revision: str = "master") -> None:
        """Publish files as the newest commit of a branch."""
        self.branches[name, revision] = dict(files)

    def downloads(self) -> list[str]:
        """The requests for files' contents."""
        return [request for request in self.requests if "FilePath=" in request and request.startswith("GET")]

    def stop(self) -> None:
        """Take the hub off the network."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> LoopbackModelScope:
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = LoopbackServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    served: LoopbackModelScope

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Kept in `LoopbackModelScope.requests` instead."""

    def _answer(self) -> None:
        self.served.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        match = re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo(/files)?", url.path)
        files = self.served.branches.get((match[1], asked.get("Revision", "master"))) if match else None
        if self.served.token and self.headers.get("Authorization") != f"Bearer {self.served.token}":
            self._send(HTTPStatus.FORBIDDEN, _json({"Code": 10010205001, "Message": "no access"}))
        elif match is None or files is None:
            self._send(HTTPStatus.NOT_FOUND, _json({"Code": 10010205001, "Message": "record not found"}))
        elif match[2]:
            listed = [
                {"Path": name, "Type": "blob", "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            ]
            self._send(HTTPStatus.OK, _json({"Code": 200, "Data": {"Files": listed}}))
        else:
            self._send(HTTPStatus.OK, files[asked["FilePath"]])

    def _send(self, status: HTTPStatus, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
