"""Pictures read again and made small, so that all of them fit into a byte budget.

They come the way of the job: fetched and decoded within its limits, in child processes, and squeezed to a square as the
model sees them; here they are stretched to the shape of the file.
"""

from __future__ import annotations

import base64
import io
import queue
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from PIL import Image

from artimuse_actor.errors import ImageError, RunError
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.node import usable_cores

# Longest side in pixels, and quality.
SIZES: Final = (
    (448, 80),
    (384, 78),
    (320, 76),
    (256, 74),
    (208, 72),
    (160, 68),
    (128, 64),
    (96, 58),
    (72, 50),
    (48, 40),
)

_SLIMMEST: Final = 8  # a strip of one pixel by ten thousand is shown as one of one by eight
_LEAST_BYTES_A_PIXEL: Final = 0.04  # of all but the plainest pictures
_PREFIX: Final = "data:image/webp;base64,"
_MOST_DECODERS: Final = 8


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        uri: a data: uri.
        width: in pixels.
        height: likewise.
    """

    uri: str
    width: int
    height: int


def make_thumbnails(
    uris: Sequence[str], budget_bytes: int, fetching: FetchOptions, decoding: DecodeOptions
) -> Iterator[Thumbnail | ImageError]:
    """For each uri its picture, or why there is none, in order.

    Args:
        uris: of images.
        budget_bytes: of all data: uris together; each picture has an equal share.
        fetching: how images are fetched.
        decoding: how they are decoded.
    """
    if not uris:
        return
    share = budget_bytes // len(uris)
    decoders = min(_MOST_DECODERS, usable_cores(), len(uris))
    with ExitStack() as stack:
        idle: queue.SimpleQueue[ChildDecoder] = queue.SimpleQueue()
        for _ in range(decoders):
            idle.put(stack.enter_context(ChildDecoder(decoding)))
        pool = stack.enter_context(ThreadPoolExecutor(decoders))

        def small(data: bytes) -> Thumbnail | ImageError:
            decoder = idle.get()
            try:
                return _thumbnail(decoder.decode(data), share)
            except ImageError as error:
                return error
            finally:
                idle.put(decoder)

        waiting: deque[Future[Thumbnail | ImageError]] = deque()
        for data in _fetched(uris, fetching):
            waiting.append(pool.submit(small, data) if isinstance(data, bytes) else _known(data))
            if len(waiting) >= 2 * decoders:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _fetched(uris: Sequence[str], fetching: FetchOptions) -> Iterator[bytes | ImageError]:
    """As `fetch_many`, but an error that would stop a run becomes the error of every image not read yet."""
    done = 0
    try:
        for data in fetch_many(uris, fetching):
            done += 1
            yield data
    except RunError as error:
        for _ in uris[done:]:
            yield ImageError("fetch_failed", str(error), retryable=True)


def _known(error: ImageError) -> Future[Thumbnail | ImageError]:
    future: Future[Thumbnail | ImageError] = Future()
    future.set_result(error)
    return future


def _thumbnail(image: DecodedImage, share_bytes: int) -> Thumbnail:
    """The largest that keeps to the share.

    Raises:
        ImageError: not even the smallest does.
    """
    square = Image.fromarray(image.pixels)
    most = (share_bytes - len(_PREFIX)) * 3 // 4
    # Skip sizes that cannot fit.
    sizes = [size for size in SIZES[:-1] if size[0] ** 2 * _LEAST_BYTES_A_PIXEL <= most] + [SIZES[-1]]
    while sizes:
        side, quality = sizes.pop(0)
        width, height = _shape(image.width, image.height, side)
        file = io.BytesIO()
        square.resize((width, height), Image.Resampling.LANCZOS).save(file, "WEBP", quality=quality, method=2)
        if file.tell() <= most:
            return Thumbnail(_PREFIX + base64.b64encode(file.getvalue()).decode(), width, height)
        # Bytes go about with the area, so those that will be far too large again need not be tried.
        while len(sizes) > 1 and file.tell() * (sizes[0][0] / side) ** 2 > 1.5 * most:
            del sizes[0]
    raise ImageError("too_large", "There is no room for it on this page.")


def _shape(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side has so many pixels, or fewer if it is smaller."""
    scale = min(1.0, side / max(width, height))
    least = max(1, round(max(width, height) * scale / _SLIMMEST))
    return max(least, round(width * scale)), max(least, round(height * scale))
