"""Decoders of a server: child processes, each with a thread that feeds it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Final

from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.node import usable_cores
from jobs.serve.meters import Meters

_MOST: Final = 16
"""16 cores decode 80 photos of 12 megapixels a second; memory is shared by as many decoders as there are cores."""


class Decoders:
    """Decodes pictures in child processes, so that a picture that kills its decoder kills nothing else."""

    def __init__(self, options: DecodeOptions, meters: Meters) -> None:
        """Start the threads; each starts its child with its first picture."""
        self._meters = meters
        self._waiting: SimpleQueue[tuple[bytes, Future[DecodedImage]] | None] = SimpleQueue()
        self._count = min(_MOST, usable_cores())
        for number in range(self._count):
            # Daemons: a server that ends does not wait for a picture whose client has left.
            threading.Thread(target=self._work, args=(options,), name=f"decoder {number}", daemon=True).start()

    def submit(self, data: bytes) -> Future[DecodedImage]:
        """The picture of a file, to come; fails as `ChildDecoder.decode` does."""
        future: Future[DecodedImage] = Future()
        self._waiting.put((data, future))
        return future

    def close(self) -> None:
        """End the threads and their children, each after the picture that it decodes."""
        for _ in range(self._count):
            self._waiting.put(None)

    def _work(self, options: DecodeOptions) -> None:
        with ChildDecoder(options) as child:
            while job := self._waiting.get():
                data, future = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    with self._meters.step("decode"):
                        decoded = child.decode(data)
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(decoded)
