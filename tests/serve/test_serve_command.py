"""`artimuse serve` as a process: its screen, its token, its end, and the examples of its page."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from support.golden import golden_images
from support.http_scorer import LONG_S, TOKEN, Client
from support.paths import REPO
from support.score_job import ARTIMUSE, golden_options, run_artimuse

from artimuse_actor import ArtiMuse
from artimuse_actor.errors import UsageError
from jobs.score.single_images import ImageSettings
from jobs.serve.settings import TOKEN_VARIABLE, Limits, ServeSettings

PAGE = REPO / "docs" / "serve.md"
PICTURE = golden_images()[5].read_bytes()


@contextlib.contextmanager
def started(
    folder: Path, *options: str | Path, environment: Mapping[str, str] = {}
) -> Iterator[tuple[subprocess.Popen[bytes], Path, str]]:
    """A server that is ready, its screen, and its url."""
    screen = folder / "screen"
    command = [*ARTIMUSE, "serve", *golden_options(), "--port", "0", *options]
    with screen.open("wb") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=file, env={**os.environ, **environment})
    try:
        ends_s = time.monotonic() + LONG_S
        while "Ready: " not in screen.read_text():
            assert process.poll() is None, screen.read_text()
            assert time.monotonic() < ends_s, screen.read_text()
            time.sleep(0.1)
        yield process, screen, next(iter(re.findall(r"http://\S+", screen.read_text())))
    finally:
        process.kill()
        process.wait()


@pytest.mark.server
@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_requests_in_flight_are_answered(number: signal.Signals, tmp_path: Path) -> None:
    options = ("--batch-size", "4", "--wait-ms", "1000000")
    with started(tmp_path, *options) as (process, screen, url), ThreadPoolExecutor(1) as pool:
        (token,) = re.findall(r"Token.*: (\S+)$", screen.read_text(), re.MULTILINE)
        client = Client(url, token)
        assert url.startswith("http://127.0.0.1:")
        waiting = pool.submit(client.send, "/score", PICTURE)
        client.wait_until_queued(1)
        process.send_signal(number)
        assert waiting.result().results[0]["status"] == "ok"
        assert process.wait(LONG_S) == 0
        lines = screen.read_text().splitlines()
    assert lines[-1] == "Ended."
    assert "Traceback" not in screen.read_text()


@pytest.mark.server
@pytest.mark.process
def test_a_device_that_breaks_ends_it_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the device is lost")

    screen: SimpleQueue[str] = SimpleQueue()

    def ask() -> tuple[int, str]:
        shown = ""
        while "Ready: " not in shown:
            shown += screen.get(timeout=LONG_S)
        return Client(re.findall(r"http://[\d.:]+", shown)[0]).send("/score", PICTURE).error

    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    monkeypatch.setattr("jobs.serve.server.show", screen.put)
    monkeypatch.setattr(ArtiMuse, "score_pixels", broken)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask)
        done = run_artimuse("serve", *golden_options(), "--port", "0", code=1)
        assert answer.result() == (503, "ending")
    assert "RunError: The model failed: RuntimeError: the device is lost." in done.stderr


@pytest.mark.server
@pytest.mark.process
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^\$ (curl .*)$", text, re.MULTILINE)
    assert len(lines) == 3
    for name in ("photo.jpg", "gone.png"):
        (tmp_path / name).write_bytes(PICTURE if name == "photo.jpg" else b"")
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with started(tmp_path, "--token-file", token) as (_, screen, url):
        assert TOKEN not in screen.read_text()
        python = [ARTIMUSE[0], "-c", example.replace("http://127.0.0.1:8000", url)]
        done = subprocess.run(python, capture_output=True, text=True, timeout=LONG_S, check=True)
        assert re.fullmatch(r"\d+\.\d+\nThe file has no bytes\.\n", done.stdout)
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed here")
        answers = [
            subprocess.run(
                ["sh", "-c", f"{line.replace('http://127.0.0.1:8000', url)} --silent --fail"],
                capture_output=True,
                text=True,
                timeout=LONG_S,
                check=True,
            ).stdout
            for line in lines
        ]
    assert [answer.count('"status": "ok"') for answer in answers[:2]] == [1, 2]
    assert answers[2] == '{"status": "ready"}'


@pytest.mark.server
def test_a_port_that_is_taken_is_said_before_a_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_artimuse("serve", "--checkpoint", "/no/such/folder", "--port", port, code=2)
    assert f"--port {port}: cannot listen there" in done.stderr


@pytest.mark.server
def test_a_checkpoint_that_is_none_ends_it() -> None:
    done = run_artimuse("serve", "--checkpoint", "/no/such/folder", "--port", "0", code=1)
    assert "CheckpointError: /no/such/folder" in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--host", "0.0.0.0"), "other machines can connect"),
        (("--host", "::"), "other machines can connect"),
        (("--host", "example.org"), "other machines can connect"),
        (("--token-file", "/no/such/file"), "--token-file /no/such/file: cannot be read"),
        (("--token-file", "short"), "short: a token has at least 16"),
        (("--token-file", "blank"), "blank: a token has at least 16"),
        (("--token-file", "binary"), "--token-file binary: cannot be read as ASCII"),
        (("--max-body", "0"), "--max-body and --queue take whole numbers from 1"),
        (("--queue", "0"), "--max-body and --queue take whole numbers from 1"),
        (("--timeout", "0"), "--timeout takes a number of seconds above 0"),
        (("--timeout", "inf"), "--timeout takes a number of seconds above 0"),
        (("--wait-ms", "-1"), "--wait-ms takes a number of milliseconds from 0"),
        (("--port", "65536"), "--port takes a whole number from 0 to 65535"),
        (("--attributes", "x"), "Add --texts"),
    ],
)
def test_wrong_usage_says_what_is_right(
    options: tuple[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("fifteen-letters")
    Path("blank").write_text("two words of a token")
    Path("binary").write_bytes(b"\xff" * 32)
    assert sentence in run_artimuse("serve", "--port", "0", *options, code=2).stderr


def test_a_token_is_of_the_file_else_of_the_environment_else_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("token-of-the-file\n")
    named = str(tmp_path / "token")
    monkeypatch.setenv(TOKEN_VARIABLE, "token-of-the-environment")
    model = ImageSettings("")
    assert ServeSettings(model, "0.0.0.0", token_file=named).given_token() == "token-of-the-file"
    assert ServeSettings(model, "0.0.0.0").given_token() == "token-of-the-environment"
    monkeypatch.setenv(TOKEN_VARIABLE, "")
    with pytest.raises(UsageError, match="at least 16"):
        ServeSettings(model).given_token()
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert [ServeSettings(model, host).given_token() for host in ("127.0.0.1", "::1", "localhost")] == [None] * 3


def test_the_limits_in_help_are_those_of_the_server() -> None:
    from jobs.commands.serve import MAX_BODY, QUEUE, TIMEOUT_S, WAIT_MS

    assert Limits() == Limits(MAX_BODY, QUEUE, TIMEOUT_S, WAIT_MS / 1000)
