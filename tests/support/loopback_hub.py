"""A Hugging Face hub on loopback: as much of its HTTP interface as a download asks for, and connections that break.

with LoopbackHub() as hub:
    hub.add("someone/model", {"config.json": b"{}"})
    hub.url                             # for HF_ENDPOINT
    hub.break_connections("config.json", after_bytes=1, times=1)
    hub.latency_s = 0.5                 # before each file
    hub.requests                        # what was asked, in order
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from support.loopback_server import LoopbackServer

Access = Literal["open", "gated", "down"]


@dataclass(frozen=True)
class Request:
    """One request as the hub received it."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Repository:
    """One repository: its commits with their files, and the names that lead to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    access: Access = "open"
    token: str = "hf_letmein"

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        return revision if revision in self.commits else self.references.get(revision)


@dataclass
class _Break:
    after_bytes: int
    times: int
    reset: bool


class LoopbackHub:
    """The hub, serving while its `with` block runs."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.breaks: dict[str, _Break] = {}
        self.latency_s = 0.0
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, name: str, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Publish files as the newest commit of a branch; its 40 hexadecimal digits are returned."""
        repository = self.repositories.setdefault(name, Repository())
        commit = hashlib.sha1(repr((name, revision, sorted(files.items()))).encode()).hexdigest()
        repository.commits[commit] = dict(files)
        repository.references[revision] = commit
        return commit

    def break_connections(self, file: str, *, after_bytes: int, times: int = 1, reset: bool = False) -> None:
        """Cut the next downloads of a file short, each after so many bytes: closed, or reset as by a firewall."""
        self.breaks[file] = _Break(after_bytes, times, reset)

    def downloads(self, file: str) -> list[Request]:
        """The requests for a file's content."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith("/" + file)]

    def stop(self) -> None:
        """Take the hub off the network; its address stays taken by nobody."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._server = None

    def __enter__(self) -> LoopbackHub:
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(LoopbackServer):
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._connections: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._connections.append(connection)
        return connection, address

    def hang_up(self) -> None:
        """Close what clients keep open: they would be served for as long as they ask."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    served: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Kept in `LoopbackHub.requests` instead."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        path = re.sub("^/(?:(api)/)?datasets/", lambda match: "/api/models/" if match[1] else "/", path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._answer_model(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            self._answer_tree(match[1], match[2])
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._answer_file(match[1], match[2], match[3])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "", "Sorry, we can't find the page you are looking for.")

    def _commit(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.served.repositories.get(name)
        if repository is None:
            # The real hub does not tell strangers what is private and what does not exist.
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Invalid username or password.")
            return None
        if repository.access == "down":
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "", "Internal Error")
            return None
        commit = repository.commit(revision)
        if commit is None:
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _answer_model(self, name: str, revision: str) -> None:
        if found := self._commit(name, revision):
            repository, commit = found
            siblings = [{"rfilename": file} for file in repository.commits[commit]]
            self._send_json({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings})

    def _answer_tree(self, name: str, revision: str) -> None:
        if found := self._commit(name, revision):
            repository, commit = found
            self._send_json(
                [
                    {"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
                    for file, data in repository.commits[commit].items()
                ]
            )

    def _answer_file(self, name: str, revision: str, file: str) -> None:
        if not (found := self._commit(name, revision)):
            return
        repository, commit = found
        if repository.access == "gated" and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._refuse(HTTPStatus.UNAUTHORIZED, "GatedRepo", f"Access to model {name} is restricted.")
        elif file not in repository.commits[commit]:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        else:
            self._send_file(file, repository.commits[commit][file], commit)

    def _send_file(self, file: str, data: bytes, commit: str) -> None:
        start, size = 0, len(data)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match:
            start = int(match[1])
            data = data[: int(match[2]) + 1] if match[2] else data
        self.send_response(HTTPStatus.PARTIAL_CONTENT if match else HTTPStatus.OK)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{_etag(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        time.sleep(self.served.latency_s)
        planned = self.served.breaks.get(file)
        if planned and planned.times:
            planned.times -= 1
            self._break_off(data[start : start + planned.after_bytes], reset=planned.reset)
        else:
            self.wfile.write(data[start:])

    def _break_off(self, data: bytes, *, reset: bool) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.close_connection = True
        if reset:
            # A linger time of zero makes close() send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # at once: the handler's streams would put off a mere close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send_json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: HTTPStatus, code: str, message: str) -> None:
        data = json.dumps({"error": message}).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
