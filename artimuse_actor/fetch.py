"""Uri → bytes, many at once.

A uri is a local path, `file://`, `s3://`, `http://` or `https://`, and nothing else: a manifest is data from
elsewhere, and fsspec knows protocols that open archives, caches and other people's code. Object names are taken to the
letter; fsspec's `cat` would expand `[1]`, `*` and `?` in them, so objects are read one by one, in threads.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import fsspec
import fsspec.asyn

from artimuse_actor.errors import ImageError
from artimuse_actor.images import file_too_large

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_MISSING: Final = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
_FORBIDDEN: Final = {errno.EACCES, errno.EPERM}

FETCH_THREADS: Final = 32


def uri_scheme(uri: str) -> str:
    """The scheme of a uri in lower case, `file` for a local path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def local_path(uri: str) -> str:
    """The path that a local path or a `file://` uri (percent-encoded, as `Path.as_uri` writes it) names."""
    if not _SCHEME.match(uri):
        return uri
    encoded = re.sub(r"^file://(localhost(?=/))?", "", uri, flags=re.IGNORECASE)
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(encoded)))
    # Many people write "file://" + path without encoding anything.
    return encoded if not os.path.lexists(decoded) and os.path.lexists(encoded) else decoded


def fetch(uri: str, max_bytes: int) -> bytes:
    """Read one image file.

    Args:
        uri: a local path, or a file://, s3://, http:// or https:// uri.
        max_bytes: files above this size are not read.

    Raises:
        ImageError: `missing`, `forbidden`, `not_a_file`, `too_large`, `unsupported_uri` or `fetch_failed`; of these
            only the last is worth a retry.
    """
    scheme = uri_scheme(uri)
    try:
        if scheme == "file":
            data = _read_local(local_path(uri), max_bytes)
        elif scheme == "s3":
            data = _read_s3(uri, max_bytes)
        elif scheme in ("http", "https"):
            data = _read_http(uri, max_bytes)
        else:
            raise ImageError("unsupported_uri", f"{scheme}:// is not read. Use a path, file://, s3:// or https://.")
    except ImageError:
        raise
    except Exception as error:
        raise _fetch_failed(error) from error
    if len(data) > max_bytes:
        raise file_too_large(len(data), max_bytes)
    return data


def fetch_many(
    uris: Iterable[str | bytes | ImageError], max_bytes: int, ahead: int = FETCH_THREADS
) -> Iterator[bytes | ImageError]:
    """Read many image files, in order, at most `ahead` of them before they are asked for.

    Args:
        uris: uris, or what is known already: bytes, or an error.
        max_bytes: files above this size are not read.
        ahead: how many are fetched at the same time, which also bounds the memory taken.

    Yields:
        For each uri its bytes, or the error that kept them away.
    """
    with ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="fetch") as pool:
        waiting: deque[Future[bytes | ImageError]] = deque()
        for uri in uris:
            waiting.append(pool.submit(_fetch_or_error, uri, max_bytes))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _fetch_or_error(uri: str | bytes | ImageError, max_bytes: int) -> bytes | ImageError:
    if not isinstance(uri, str):
        return uri
    try:
        return fetch(uri, max_bytes)
    except ImageError as error:
        return error


def _read_local(path: str, max_bytes: int) -> bytes:
    try:
        status = os.stat(path)
    except ValueError as error:  # a NUL in the name
        raise ImageError("missing", f"No file can have this name: {error}.") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ImageError("not_a_file", f"The path names {kind}, not an image file.")
    if status.st_size > max_bytes:
        raise file_too_large(status.st_size, max_bytes)
    with open(path, "rb") as file:
        return file.read(max_bytes + 1)


def _read_s3(uri: str, max_bytes: int) -> bytes:
    try:
        data: bytes = _filesystem("s3").cat_file("s3" + uri[2:], start=0, end=max_bytes + 1)
    except OSError as error:
        if s3_error_code(error) in ("InvalidRange", "416"):  # no byte can be asked for of an object that has none
            return b""
        raise
    return data


def _read_http(uri: str, max_bytes: int) -> bytes:
    web = _filesystem("https")
    data: bytes = fsspec.asyn.sync(web.loop, _get, web, uri, max_bytes)
    return data


async def _get(web: Any, uri: str, max_bytes: int) -> bytes:
    # fsspec's own `open` says of every failure, a server's bad minute included, that there is no such file.
    session = await web.set_session()
    data = bytearray()
    async with session.get(web.encode_url(uri)) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_chunked(1 << 20):
            data += chunk
            if len(data) > max_bytes:
                break
    return bytes(data)


def _filesystem(protocol: str) -> Any:
    return fsspec.filesystem(protocol)


def s3_error_code(error: BaseException | None) -> str | None:
    """The server's own name of an S3 error that s3fs turned into another exception, such as `InvalidRange`."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return str(response["Error"].get("Code"))
        error = error.__cause__
    return None


def _fetch_failed(error: Exception) -> ImageError:
    code = getattr(error, "errno", None)
    status = getattr(error, "status", None)  # of an HTTP answer
    if isinstance(error, FileNotFoundError) or code in _MISSING or status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return ImageError("missing", "There is no such file.")
    if (
        isinstance(error, PermissionError)
        or code in _FORBIDDEN
        or status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    ):
        return ImageError("forbidden", "Reading the file is not permitted.")
    detail = " ".join(str(error).split())[:300]
    return ImageError("fetch_failed", f"{type(error).__name__}: {detail}", retryable=True)
