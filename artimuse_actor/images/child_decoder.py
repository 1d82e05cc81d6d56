"""Decoding in a child process, where a picture that kills its decoder kills nothing else.

The child decodes one picture after the other, each within the limits of `decoder_limits`. When it dies, a new one tries
the same picture again, since a busy machine can be to blame; the second death is the picture's error.

    parent → child   options as JSON in its arguments; then for each picture its memory limit and its length, 8 bytes
                     each, and the file
    child → parent   for each picture 4 bytes of length, JSON as in `_answer` with `cpu_s`, and the pixels if any
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np

from artimuse_actor.errors import ImageError, RunError
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.decoder_limits import decode_within_limits
from artimuse_actor.images.node_memory import one_large_decode, share_bytes
from artimuse_actor.images.options import DecodeOptions

TRIES: Final = 2

_READY: Final = b"ready"
# The child's own alarm comes first; this is for one that was stopped, or waits for memory that was swapped out.
_GRACE_S: Final = 30.0


class ChildDecoder:
    """`decode_image` in a child process, which is started when it is first needed and replaced when it dies.

    Attributes:
        cpu_s: CPU seconds that decoding has taken so far, without pictures that killed their decoder.
    """

    def __init__(self, options: DecodeOptions) -> None:
        """Start nothing yet; as a context manager it ends the child."""
        self.options = options
        self.cpu_s = 0.0
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ChildDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child, if there is one, whatever it is doing."""
        if self._child is not None:
            self._child.kill()
            self._buried(self._child)

    def decode(self, data: bytes) -> DecodedImage:
        """Decode the first frame of an image file.

        Raises:
            ImageError: as `decode_image`; or `decoder_crashed`, `decoder_memory` or `decoder_timeout`.
            RunError: no child can be started here.
        """
        whole = self.options.decoder_memory_bytes
        if (share := share_bytes()) < whole:
            try:
                return self._decode(data, share)
            except ImageError as error:
                if error.error_type != "decoder_memory" or error.retryable:  # retryable: the machine had no more
                    raise
            with one_large_decode():
                return self._decode(data, whole)
        return self._decode(data, whole)

    def _decode(self, data: bytes, memory_bytes: int) -> DecodedImage:
        for _ in range(TRIES):
            child = self._child or self._start()
            longest_s = self.options.decoder_timeout_s + _GRACE_S
            overtime = threading.Timer(longest_s, child.kill)
            began = time.monotonic()
            overtime.start()
            try:
                answer, cpu_s = _ask(child, data, memory_bytes)
            except (EOFError, BrokenPipeError):
                cause = -self._buried(child)
            else:
                self.cpu_s += cpu_s
                if isinstance(answer, ImageError):
                    raise answer
                return answer
            finally:
                overtime.cancel()
            if time.monotonic() - began > longest_s:
                cause = signal.SIGALRM
        raise _death(cause, self.options)

    def _start(self) -> subprocess.Popen[bytes]:
        """A child that waits for its first picture.

        Raises:
            RunError: it ended before.
        """
        # Found where this process found it, and never in the folder that it happens to work in (-P).
        folders = [os.environ.get("PYTHONPATH"), str(Path(__file__).parents[2])]
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, json.dumps(asdict(self.options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))},
        )
        self._child = child
        assert child.stdout is not None
        if child.stdout.read(len(_READY)) != _READY:
            code = self._buried(child)
            raise RunError(f"The process that decodes images ended when it was started, with code {code}. Run again.")
        return child

    def _buried(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for a dead child and return its `Popen.returncode`."""
        self._child = None
        with contextlib.suppress(BrokenPipeError), child:  # closes the pipes and waits
            pass
        return child.wait()


def _ask(child: subprocess.Popen[bytes], data: bytes, memory_bytes: int) -> tuple[DecodedImage | ImageError, float]:
    """Send a picture and wait for the answer and the CPU seconds it took.

    Raises BrokenPipeError or EOFError if the child dies meanwhile.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(memory_bytes.to_bytes(8, "little") + len(data).to_bytes(8, "little"))
    child.stdin.write(data)
    child.stdin.flush()
    length = int.from_bytes(_read(child.stdout, 4), "little")
    about = json.loads(_read(child.stdout, length))
    cpu_s = about.pop("cpu_s")
    if "error_type" in about:
        return ImageError(**about), cpu_s
    height, width = about.pop("shape")
    pixels = np.frombuffer(_read(child.stdout, height * width * 3), dtype=np.uint8)
    return DecodedImage(pixels=pixels.reshape(height, width, 3), **about), cpu_s


def _read(file: IO[bytes], size_bytes: int) -> bytes:
    data = file.read(size_bytes)
    if len(data) < size_bytes:
        raise EOFError
    return data


def _death(number: int, options: DecodeOptions) -> ImageError:
    """The error of a picture whose decoder died twice, the second time by this signal; negative for an exit code."""
    if number == signal.SIGALRM:
        return ImageError(
            "decoder_timeout",
            f"Decoding it takes longer than the limit of {options.decoder_timeout_s:g} seconds. "
            "Raise it with --decoder-timeout.",
            by_settings=True,
        )
    if number == signal.SIGKILL:  # the kernel's way, and nobody else's, as long as nobody types it
        return ImageError(
            "decoder_memory",
            "Its decoder was killed, as it happens when the machine has no memory left. "
            "Run again when it has more, or lower --max-pixels.",
            retryable=True,
        )
    how = f"signal {signal.Signals(number).name}" if number > 0 else f"exit code {-number}"
    return ImageError(
        "decoder_crashed",
        f"Its decoder crashed with {how}. The file is damaged or malicious; save it again or drop it.",
    )


def main() -> None:
    """The child: answer until there are no more pictures."""
    options = DecodeOptions(**json.loads(sys.argv[1]))
    pictures, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not talk into the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to this process too; the parent ends it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parent that ignores it would leave that to its children
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # gigabytes on the disk for each crash otherwise
    answers.write(_READY)
    answers.flush()
    while head := pictures.read(8):
        limited = replace(options, decoder_memory_bytes=int.from_bytes(head, "little"))
        data = pictures.read(int.from_bytes(pictures.read(8), "little"))
        began_s = time.process_time()
        about, pixels = _answer(data, limited)
        text = json.dumps({**about, "cpu_s": time.process_time() - began_s}).encode()
        answers.write(len(text).to_bytes(4, "little") + text + pixels)
        answers.flush()


def _answer(data: bytes, options: DecodeOptions) -> tuple[dict[str, Any], bytes]:
    """The columns of `DecodedImage`, with the `shape` of its pixels, and these; or the columns of `ImageError`."""
    try:
        image = decode_within_limits(data, options)
    except ImageError as error:
        return {name: getattr(error, name) for name in ("error_type", "message", "retryable", "by_settings")}, b""
    about = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "pixels"}
    about["shape"] = image.pixels.shape[:2]
    return about, image.pixels.tobytes()


if __name__ == "__main__":
    main()
