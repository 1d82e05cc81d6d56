"""The server of a store: who is answered, and what cannot be asked."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browse_client import Client, browsing
from support.report_stores import write_store

from artimuse_actor.errors import UsageError
from jobs.browse.server import MAX_BODY_BYTES, MAX_CONNECTIONS, TOKEN_HEADER, Server

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("server") / "secret-name"
    write_store(folder, [{"image_id": f"{n}.jpg", "score": float(n)} for n in range(5)])
    with browsing(folder) as found:
        yield found


def _post(client: Client, headers: dict[str, str], body: bytes = b"{}") -> int:
    return client.send("POST", f"/{client.token}/mark", headers, body)[0]


def test_the_page_is_answered_with_the_token(client: Client) -> None:
    status, headers, body = client.send("GET", f"/{client.token}/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"secret-name" in body


@pytest.mark.parametrize(
    "path", ["/", "/{token}", "/x/", "/{token}x/", "//", "/x/rows?from=0&count=5", "*", "{token}/"]
)
def test_without_the_token_there_is_nothing(client: Client, path: str) -> None:
    status, headers, body = client.send("GET", path.replace("{token}", client.token))
    assert status in (400, 404)
    assert b"secret-name" not in body
    assert "artimuse browse" in json.loads(body)["error"] or status == 400
    assert "Set-Cookie" not in headers


def test_tokens_are_long_and_differ() -> None:
    tokens = set()
    for _ in range(3):
        with Server(0, {}) as server:
            tokens.add(server.token)
            assert server.server_address[0] == "127.0.0.1"
    assert len(tokens) == 3
    assert all(len(token) >= 32 for token in tokens)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost@evil", ""]
)
def test_a_name_that_was_pointed_at_loopback_is_refused(client: Client, host: str) -> None:
    status, _, body = client.send("GET", f"/{client.token}/", {"Host": host.replace("{port}", str(client.port))})
    assert status == 403
    assert b"secret-name" not in body


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST", "127.0.0.1:9999"])
def test_loopback_may_be_called_by_its_names_and_through_tunnels(client: Client, host: str) -> None:
    status, _, _ = client.send("GET", f"/{client.token}/", {"Host": host.replace("{port}", str(client.port))})
    assert status == 200


def _raw(client: Client, request: bytes) -> bytes:
    """The answer to bytes, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /%s/ HTTP/1.1\r\n\r\n",
        b"GET /%s/ HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET /%s/\r\n\r\n",
        b"GET http://evil/%s/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n",
        b"GET /%s/" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /%s/ HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
def test_odd_requests_get_no_page_and_the_server_goes_on(client: Client, request_: bytes) -> None:
    assert b"secret-name" not in _raw(client, request_.replace(b"%s", client.token.encode()))
    assert client.get("about")["rows"] == 5


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "HEAD", "CONNECT", "X"])
def test_there_are_no_other_methods(client: Client, method: str) -> None:
    assert client.send(method, f"/{client.token}/rows")[0] == 405


def test_reading_and_changing_have_a_method_each(client: Client) -> None:
    assert client.fetch("mark", number=0)[0] == 405
    client.post("rows", code=405)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "%2e%2e/etc/passwd", "/etc/passwd", "page.css", "page.html", "rows/", "..", "\\..\\x"]
)
def test_paths_lead_nowhere(client: Client, name: str) -> None:
    status, _, body = client.send("GET", f"/{client.token}/{name}")
    assert status == 404
    assert b"root:" not in body


def test_only_the_page_may_change_something(client: Client) -> None:
    number = client.number("1.jpg")
    body = json.dumps({"edition": client.edition, "number": number, "marked": True}).encode()
    right = {"Content-Type": "application/json", TOKEN_HEADER: client.token}
    for wrong in (
        {**right, TOKEN_HEADER: "x"},
        {"Content-Type": "application/json"},
        {**right, "Content-Type": "text/plain"},
        {**right, "Content-Type": "application/x-www-form-urlencoded"},
        {**right, "Origin": "http://evil.example"},
        {**right, "Origin": "null"},
    ):
        assert _post(client, wrong, body) == 400
    assert client.get("about")["marked"] == 0
    assert _post(client, {**right, "Origin": f"http://127.0.0.1:{client.port}"}, body) == 200
    assert client.get("about")["marked"] == 1
    client.mark("1.jpg", marked=False)


@pytest.mark.parametrize("body", [b"", b"[]", b"[" * 100_000, b"{", b"\xff", b"null"])
def test_a_body_must_be_an_object(client: Client, body: bytes) -> None:
    assert _post(client, {"Content-Type": "application/json", TOKEN_HEADER: client.token}, body) == 400


def test_bodies_have_a_length_within_bounds(client: Client) -> None:
    head = f"POST /{client.token}/mark HTTP/1.1\r\nHost: localhost\r\n".encode()
    for length in (b"Content-Length: %d" % (MAX_BODY_BYTES + 1), b"Content-Length: -1", b"Transfer-Encoding: chunked"):
        assert b" 400 " in _raw(client, head + length + b"\r\n\r\n").splitlines()[0]


@pytest.mark.parametrize(
    "asked",
    [
        {"from": "x"},
        {"from": "-1"},
        {"from": "9" * 30},
        {"count": "1e3"},
        {"score_from": "nan"},
        {"score_to": "1; DROP TABLE pictures"},
        {"day_from": "yesterday"},
        {"sort": "score; SELECT 1"},
        {"order": "sideways"},
        {"question": 'score" OR "1'},
        {"words": "x" * 201},
        {"words": "a\0b"},
        {f"p{n}": n for n in range(50)},
    ],
)
def test_wrong_parameters_are_refused_with_a_sentence(client: Client, asked: dict[str, str]) -> None:
    status, body = client.fetch("rows", **{"from": 0, "count": 5, **asked})
    assert status == 400
    assert json.loads(body)["error"]


def test_no_answer_has_more_rows_than_a_page(client: Client) -> None:
    assert len(client.get("rows", **{"from": 0, "count": 10**9})["rows"]) == 5
    assert client.get("rows", **{"from": 10**12, "count": 5})["rows"] == []


def test_nothing_runs_in_the_page_without_the_nonce_of_its_answer(client: Client) -> None:
    nonces = set()
    for _ in range(2):
        _, headers, body = client.send("GET", f"/{client.token}/")
        policy, html = headers["Content-Security-Policy"], body.decode()
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
        assert re.findall(r"<(script|style)([^>]*)>", html) == [
            (tag, f' nonce="{nonce}"') for tag in ("style", "script")
        ]
        assert not re.search(
            r"\son\w+=|\sstyle=|javascript:|https?://", re.sub(r"(?s)<(script|style).*?</\1>", "", html)
        )
        assert "unsafe" not in policy
        assert policy.startswith("default-src 'none'")
        nonces.add(nonce)
    assert len(nonces) == 2


def test_every_answer_says_that_others_may_not_use_it(client: Client) -> None:
    for path in (f"/{client.token}/", f"/{client.token}/about", "/", f"/{client.token}/none"):
        headers = client.send("GET", path)[1]
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Python" not in headers["Server"]


def test_too_many_connections_are_closed_and_the_others_are_answered(tmp_path: Path) -> None:
    write_store(tmp_path, [{"image_id": "a.jpg"}])
    with browsing(tmp_path) as client:
        _fill(client)


def _fill(client: Client) -> None:
    held = [socket.create_connection(("127.0.0.1", client.port), timeout=60) for _ in range(MAX_CONNECTIONS)]
    try:
        with socket.create_connection(("127.0.0.1", client.port), timeout=60) as one_more:
            assert one_more.recv(1) == b""
        held[0].sendall(f"GET /{client.token}/about HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert held[0].recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in held:
            connection.close()


def test_a_port_that_is_taken_is_an_error_of_the_user(client: Client) -> None:
    with pytest.raises(UsageError, match=f"--port {client.port}: cannot be used"):
        Server(client.port, {})
