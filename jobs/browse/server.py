"""A small HTTP server on loopback, for one person: it knows no files, only the requests of its page.

The path of every request begins with a random token, so that no other page and no other user of the machine can ask
anything; it is in no cookie, which a browser would send to all ports of loopback. The name of the host must be that of
loopback, so that no name of a stranger's can be pointed at it (DNS rebinding). What changes something is a POST of
JSON with the token in a header too, which no form of another page can send.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl

from artimuse_actor.errors import ArtiMuseError, ImageError, UsageError
from jobs.code_identity import CODE_VERSION

LOOPBACK: Final = "127.0.0.1"
MAX_CONNECTIONS: Final = 64
MAX_BODY_BYTES: Final = 1024 * 1024
TOKEN_HEADER: Final = "X-Artimuse-Token"
_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost)(:\d{1,5})?", re.ASCII)  # through a tunnel with another port
_MAX_PARAMETERS: Final = 40
_IDLE_S: Final = 60.0
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class Answer:
    """An answer to a request.

    Attributes:
        body: its bytes.
        kind: their type.
        status: the number that HTTP has for it.
        headers: more than `_HEADERS`, or others.
    """

    body: bytes
    kind: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Any, status: int = 200) -> Answer:
        """JSON."""
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return cls(text.encode("utf-8", errors="backslashreplace"), status=status)

    @classmethod
    def error(cls, status: int, message: str) -> Answer:
        """A sentence for people."""
        return cls.of({"error": message}, status)


Asked = Mapping[str, Any]
"""The parameters of a GET, or the object in the body of a POST."""

Page = Callable[[Asked], Answer]


class Server(ThreadingHTTPServer):
    """The server; `serve_forever` answers until another thread calls `shutdown`, or an exception ends it.

    Attributes:
        token: the random part of the url.
    """

    daemon_threads = True

    def __init__(self, port: int, pages: Mapping[tuple[str, str], Page]) -> None:
        """Listen.

        Args:
            port: on which; 0 for any that is free.
            pages: method and name → what answers; the name stands behind the token in the url.

        Raises:
            UsageError: the port is taken, or may not be used.
        """
        self.token = secrets.token_urlsafe(24)
        self.pages = pages
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--port {port}: cannot be used: {error}. Name another, or leave it out.") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}/"

    def server_bind(self) -> None:
        """Bind, without a search for the name of this machine, which may take long without a network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless there are too many already."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A browser that has gone away is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = f"artimuse/{CODE_VERSION}"
    sys_version = ""
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._send(self._answer("GET"))

    def do_POST(self) -> None:
        self._send(self._answer("POST"))

    def log_message(self, format: str, *args: Any) -> None:
        """A terminal is no log, and the urls have the token."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what is no request, or has a method that there is not."""
        self.close_connection = True
        self._send(Answer.error(405 if code == 501 else code, message or explain or "This is no request."))

    def _answer(self, method: str) -> Answer:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0].lower()):
            self.close_connection = True
            return Answer.error(403, "This server is asked as 127.0.0.1 or localhost only.")
        path, _, query = self.path.partition("?")
        parts = path.split("/", 2)
        if len(parts) < 3 or not secrets.compare_digest(parts[1].encode(), self.server.token.encode()):
            self.close_connection = True
            return Answer.error(404, "There is nothing here. Open the whole address that `artimuse browse` printed.")
        name = parts[2]
        page = self.server.pages.get((method, name))
        if page is None:
            self.close_connection = True
            has_other_method = any(known == name for _, known in self.server.pages)
            return Answer.error(405 if has_other_method else 404, "There is no such page.")
        try:
            return page(self._posted(hosts[0]) if method == "POST" else _parameters(query))
        except ImageError as error:
            return Answer.error(404, f"{error.error_type}: {error.message}")
        except UsageError as error:
            return Answer.error(400, str(error))
        except ArtiMuseError as error:
            return Answer.error(500, str(error))
        except Exception as error:  # one request must not end the server, and its page says what happened
            return Answer.error(500, f"{type(error).__name__}: {error}. This was not foreseen.")

    def _posted(self, host: str) -> Asked:
        """The object in the body. Raises UsageError."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not length.isascii() or not length.isdecimal():
            self.close_connection = True
            raise UsageError("A body has a length.")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise UsageError(f"A body has at most {MAX_BODY_BYTES:,} bytes.")
        data = self.rfile.read(int(length))
        sent = self.headers.get(TOKEN_HEADER, "").encode()
        origin = self.headers.get("Origin", f"http://{host}")
        is_json = self.headers.get_content_type() == "application/json"
        if not is_json or origin != f"http://{host}" or not secrets.compare_digest(sent, self.server.token.encode()):
            raise UsageError("Only the page of this server may change something.")
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UsageError("The body is no object of JSON.")
        return found

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**_HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)


def _parameters(query: str) -> dict[str, str]:
    """The parameters of a query. Raises UsageError."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS))
    except ValueError as error:
        raise UsageError("There are too many parameters.") from error
