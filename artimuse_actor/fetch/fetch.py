"""Uri → bytes, many at once.

A uri is a local path, `file://`, `s3://`, `gs://`, `az://`, `http://`, `https://` or `hf://datasets/`, or a range of a
tar file at one of these, and nothing else: a manifest is data from elsewhere, and fsspec knows protocols that open
archives, caches and other people's code. Object names are taken to the letter; fsspec's `cat` would expand `[1]`, `*`
and `?` in them, so objects are read one by one.

All fetches of a process run on fsspec's event loop, in a thread of its own, and local files in threads beside it. A
file is read by `local`, `s3`, `cloud` or `web` (also those of the hub, which `hub_files` finds), each one attempt at a
time; `retry` tries again, `byte_budget` bounds the memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import fsspec.asyn

from artimuse_actor.errors import ImageError, RunError, reason_of
from artimuse_actor.fetch.byte_budget import ByteBudget, NoRoom, Reserve
from artimuse_actor.fetch.confinement import check_uri_inside
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.local import read_local
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.retry import gate_of, retrying
from artimuse_actor.uris import CLOUDS, canonical_uri, lacks_secrets, origin_of, uri_scheme

if TYPE_CHECKING:
    from artimuse_actor.fetch.remote_file import RemoteFile

FETCH_AHEAD: Final = 32


def fetch(uri: str | FileRange, options: FetchOptions) -> bytes:
    """Read one image file.

    Args:
        uri: a local path, or a file://, s3://, gs://, az://, http(s):// or hf:// uri; or some bytes of such a file.
        options: see `FetchOptions`.

    Raises:
        ImageError: `missing`, `forbidden`, `not_a_file`, `too_large`, `unsupported_uri`, `outside_root`,
            `forbidden_host`, `changed` or `fetch_failed`; of these only the last two are worth another run.
        RunError: a cloud does not accept the credentials, so no object can be read.
    """
    (data,) = fetch_many([uri], options, ahead=1)
    if isinstance(data, ImageError):
        raise data
    return data


def fetch_many(
    uris: Iterable[str | FileRange | bytes | ImageError], options: FetchOptions, ahead: int = FETCH_AHEAD
) -> Iterator[bytes | ImageError]:
    """Read many image files, in order, some of them before they are asked for.

    Args:
        uris: uris, ranges, or what is known already: bytes, or an error. The next one is asked for only when there is
            room.
        options: see `FetchOptions`; `held_bytes` bounds what is fetched, or given as bytes, and not yet used.
        ahead: how many are fetched at the same time, at most.

    Yields:
        For each uri its bytes, or the error that kept them away.

    Raises:
        RunError: a cloud does not accept the credentials, so no object can be read.
    """
    loop = fsspec.asyn.get_loop()
    budget = ByteBudget(options.held_bytes)
    waiting: deque[Future[bytes | ImageError | RunError]] = deque()
    given_bytes: deque[int] = deque()  # of each that waits, 0 for a uri

    def next_one() -> bytes | ImageError:
        loop.call_soon_threadsafe(budget.advance)
        result = waiting[0].result()
        waiting.popleft()
        given_bytes.popleft()
        if isinstance(result, RunError):
            raise result
        return result

    threads = ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="fetch")
    fetcher = _Fetcher(options, budget, threads)
    try:
        for place, uri in enumerate(uris):
            waiting.append(asyncio.run_coroutine_threadsafe(fetcher.fetch(place, uri), loop))
            given_bytes.append(len(uri) if isinstance(uri, bytes) else 0)
            del uri
            while waiting and (len(waiting) >= ahead or sum(given_bytes) > options.held_bytes):
                yield next_one()
        while waiting:
            yield next_one()
    finally:
        for future in waiting:
            future.cancel()
        threads.shutdown(cancel_futures=True)


def look_at(uri: str, options: FetchOptions) -> RemoteFile:
    """Size and version of a file of a web server, of the hub or of Google or Azure.

    Raises:
        ImageError: as of `fetch`.
    """
    from artimuse_actor.fetch.hub_files import hub_url
    from artimuse_actor.fetch.web import look_at_web

    headers: dict[str, str] = {}
    if uri_scheme(uri) == "hf":
        (uri, headers), options = hub_url(uri), replace(options, allow_private_hosts=True)
    if uri_scheme(uri) in CLOUDS:
        from artimuse_actor.fetch.cloud import look_at_cloud

        look = partial(look_at_cloud, uri, options)
    else:
        look = partial(look_at_web, uri, options, headers)
    attempt = retrying(look, gate_of(origin_of(uri)), options)
    return asyncio.run_coroutine_threadsafe(attempt, fsspec.asyn.get_loop()).result()


@dataclass(frozen=True)
class _Fetcher:
    """The fetches of one `fetch_many`, on the event loop; `threads` read local files."""

    options: FetchOptions
    budget: ByteBudget
    threads: Executor

    async def fetch(self, place: int, uri: str | FileRange | bytes | ImageError) -> bytes | ImageError | RunError:
        """The bytes of a uri, or its error; returned and not raised, since nobody may be there to catch it."""
        if isinstance(uri, bytes | ImageError):
            return uri
        part = uri if isinstance(uri, FileRange) else FileRange.parse(uri)
        if part and not part.size_bytes:  # no server has a range of no bytes
            return b""
        try:
            server, attempt = self._reader(part or str(uri), partial(self.budget.reserve, place))
            while True:
                try:
                    return await retrying(attempt, gate_of(server), self.options)
                except NoRoom as full:
                    await self.budget.wait(place, full.size_bytes)
        except (ImageError, RunError) as error:
            return error
        except Exception as error:
            return ImageError("fetch_failed", f"{reason_of(error)}.", retryable=True)

    def _reader(self, asked: str | FileRange, reserve: Reserve) -> tuple[str, Callable[[], Awaitable[bytes]]]:
        """The server that a uri names, and a function that makes one attempt to read it."""
        part = asked if isinstance(asked, FileRange) else None
        uri = canonical_uri(part.uri if part else str(asked))
        if self.options.root is not None:
            check_uri_inside(uri, self.options.root)
        scheme = uri_scheme(uri)
        server = origin_of(uri)
        # Imported here: aiohttp and botocore take a third of a second, and local files do without.
        if scheme == "s3":
            from artimuse_actor.fetch.s3 import asked_of_s3, read_s3

            return server, partial(read_s3, uri, self.options, reserve, asked_of_s3(part) if part else None)
        if scheme in CLOUDS:
            from artimuse_actor.fetch.cloud import read_cloud

            return server, partial(read_cloud, uri, self.options, reserve, part)
        if scheme in ("http", "https"):
            if lacks_secrets(uri):
                raise ImageError(
                    "unsupported_uri",
                    "Secrets were left out of this url, as in a table of scores, so it cannot be read.",
                )
            from artimuse_actor.fetch.web import read_web

            return server, partial(read_web, uri, self.options, reserve, part)
        if scheme == "hf":
            from artimuse_actor.fetch.hub_files import hub_url
            from artimuse_actor.fetch.web import read_web

            url, headers = hub_url(uri)
            # The hub is named by the environment, not by a manifest. A commit has no versions.
            trusted = replace(self.options, allow_private_hosts=True)
            pinned = replace(part, version=None) if part else None
            return origin_of(url), partial(read_web, url, trusted, reserve, pinned, headers)
        if scheme == "file":
            in_thread = asyncio.get_running_loop().run_in_executor
            return "file:", partial(in_thread, self.threads, read_local, uri, self.options, reserve, part)
        raise ImageError(
            "unsupported_uri",
            f"{scheme}:// is not read. Use a path, file://, s3://, gs://, az://, https:// or hf://datasets/.",
        )
