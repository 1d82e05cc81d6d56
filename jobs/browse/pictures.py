"""Pictures for a page: read again from where they were, decoded in child processes, made small, and kept for a while.

They are as a person sees them: upright, in sRGB, over white. The limits are those of the job; what cannot be read is an
error with a sentence.
"""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.node import usable_cores

CACHE_BYTES: Final = 128 * 1024 * 1024
_LOOK_EVERY_S: Final = 1.0


@dataclass(frozen=True)
class Size:
    """One size in which pictures are shown.

    Attributes:
        longest_side: in pixels.
        quality: of the JPEG.
        decoders: how many are made at the same time, at most.
    """

    longest_side: int
    quality: int
    decoders: int


SIZES: Final = {
    "small": Size(384, 80, min(8, max(2, usable_cores()))),
    "large": Size(1920, 88, 2),
}


class Pictures:
    """Pictures by uri; as a context manager it ends its decoders."""

    def __init__(self, fetching: FetchOptions, cache_bytes: int = CACHE_BYTES) -> None:
        """Start nothing yet."""
        self._fetching = fetching
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[tuple[str, str | None, str], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._idle: dict[str, queue.SimpleQueue[ChildDecoder]] = {}
        for name, size in SIZES.items():
            options = DecodeOptions(
                "fast", True, max_bytes=fetching.max_bytes, preprocess="photo", longest_side=size.longest_side
            )
            idle = self._idle[name] = queue.SimpleQueue()
            for _ in range(size.decoders):
                idle.put(ChildDecoder(options))

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
        for idle in self._idle.values():
            with contextlib.suppress(queue.Empty):
                while True:
                    idle.get_nowait().close()  # those at work are closed when they are done

    @contextmanager
    def _decoder(self, size: str) -> Iterator[ChildDecoder]:
        """A decoder that nobody else uses meanwhile."""
        while True:
            try:
                decoder = self._idle[size].get(timeout=_LOOK_EVERY_S)
                break
            except queue.Empty:
                if self._is_closed:
                    raise ImageError("fetch_failed", "The server has ended.", retryable=True) from None
        try:
            yield decoder
        finally:
            with self._lock:
                if not self._is_closed:
                    self._idle[size].put(decoder)
            if self._is_closed:
                decoder.close()

    def jpeg(self, uri: str | None, version: str | None, size: str) -> bytes:
        """A picture as JPEG.

        Args:
            uri: where it is; None if it was embedded in a table.
            version: of the row; another one is another picture.
            size: of `SIZES`.

        Raises:
            ImageError: it cannot be read.
            RunError: no decoder can be started, or S3 refuses the credentials.
        """
        if uri is None:
            raise ImageError("missing", "The image was embedded in a table, and is not read again from there.")
        key = uri, version, size
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        with self._decoder(size) as decoder:  # before it is fetched: no more files are in memory than decoders
            image = decoder.decode(fetch(uri, self._fetching))
        file = io.BytesIO()
        Image.fromarray(image.pixels).save(file, "JPEG", quality=SIZES[size].quality)
        made = file.getvalue()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._kept_bytes += len(made)
            while self._kept_bytes > self._cache_bytes:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return made
