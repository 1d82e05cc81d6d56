"""An http(s) uri → bytes."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import fsspec

from artimuse_actor.errors import ImageError, one_line, reason_of
from artimuse_actor.fetch.byte_budget import Reserve, read_body
from artimuse_actor.fetch.file_range import FileRange, changed_meanwhile
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.public_hosts import NotPublic, public_socket
from artimuse_actor.fetch.remote_file import RemoteFile
from artimuse_actor.fetch.retry import TryAgain, try_again_later
from artimuse_actor.uris import shown_uri

MAX_REDIRECTS: Final = 10
_NO_HEADERS: Final[Mapping[str, str]] = {}

_MISSING: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_FORBIDDEN: Final = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
)


async def look_at_web(uri: str, options: FetchOptions, headers: Mapping[str, str] = _NO_HEADERS) -> RemoteFile:
    """Ask for the first byte of a file, since what is signed for GET answers nothing else. Raises as `read_web`."""
    found: list[RemoteFile] = []

    async def note(answer: aiohttp.ClientResponse) -> bytes:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if not size.isdecimal():
            raise ImageError("fetch_failed", "The server does not say how large the file is.", retryable=True)
        found.append(RemoteFile(int(size), _version_of(answer)))
        return b""

    await _asked(uri, options, FileRange(uri, 0, 1), note, headers)
    return found[0]


async def read_web(
    uri: str,
    options: FetchOptions,
    reserve: Reserve,
    part: FileRange | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> bytes:
    """One attempt to read a file from the web, or a part of it.

    Args:
        uri: its address.
        options: see `FetchOptions`.
        reserve: see `Reserve`.
        part: which bytes of it, and of which version.
        headers: sent too, but to no other server that this one sends on to.

    Raises:
        ImageError: `missing`, `forbidden`, `too_large`, `forbidden_host`, `unsupported_uri`, `changed` or
            `fetch_failed`.
        TryAgain: the failure may be transient.
    """

    async def body(answer: aiohttp.ClientResponse) -> bytes:
        length = None if "Content-Encoding" in answer.headers else answer.content_length
        data = await read_body(answer.content.read, length, options, reserve)
        if part is not None and len(data) != part.size_bytes:
            raise changed_meanwhile()
        return data

    return await _asked(uri, options, part, body, headers)


async def _asked(
    uri: str,
    options: FetchOptions,
    part: FileRange | None,
    use: Callable[[aiohttp.ClientResponse], Awaitable[bytes]],
    headers: Mapping[str, str],
) -> bytes:
    """Ask for a file, or a part of it, and use the answer."""
    # fsspec keeps the session for the whole process. Its own `open` is not used: of every failure, a server's bad
    # minute included, it says that there is no such file.
    web = fsspec.filesystem("https", get_client=_any_host if options.allow_private_hosts else _public_hosts)
    try:
        url = web.encode_url(uri)
    except ValueError as error:
        raise _no_address() from error
    try:
        session = await web.set_session()
        async with session.get(
            url,
            # Pictures are compressed already, and so the length is the size.
            headers={"Accept-Encoding": "identity", **({"Range": part.header} if part else {}), **headers},
            max_redirects=MAX_REDIRECTS,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=options.connect_timeout_s, sock_read=options.read_timeout_s
            ),
        ) as answer:
            if part is not None and answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise changed_meanwhile()
            answer.raise_for_status()
            if part is not None:
                _check_part(answer, part)
            return await use(answer)
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        raise _translated(error) from error


def _check_part(answer: aiohttp.ClientResponse, part: FileRange) -> None:
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        raise ImageError("fetch_failed", "The server sends whole files only, and not parts of them.", retryable=True)
    if part.version not in (None, _version_of(answer)):
        raise changed_meanwhile()


def _version_of(answer: aiohttp.ClientResponse) -> str | None:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified")


async def _public_hosts(**settings: Any) -> aiohttp.ClientSession:
    return _session(settings, connector=aiohttp.TCPConnector(socket_factory=public_socket), trust_env=False)


async def _any_host(**settings: Any) -> aiohttp.ClientSession:
    return _session(settings, trust_env=True)


def _session(settings: dict[str, Any], **ours: Any) -> aiohttp.ClientSession:
    # No fetch leaves a cookie for another, so their order does not matter.
    return aiohttp.ClientSession(**(settings | ours), cookie_jar=aiohttp.DummyCookieJar())


def _no_address() -> ImageError:
    # Without what the library says: that quotes parts of a wrong address, such as a password that it takes for a port.
    return ImageError("unsupported_uri", "This is no address on the web.")


def _translated(error: aiohttp.ClientError | OSError) -> ImageError | TryAgain:
    detail = one_line(str(error))
    match error:
        case aiohttp.NonHttpUrlRedirectClientError():
            return ImageError(
                "unsupported_uri", f"The server sends on to {shown_uri(detail)}, and only http and https are followed."
            )
        case aiohttp.TooManyRedirects():
            return ImageError("fetch_failed", f"The server sent on more than {MAX_REDIRECTS} times.", retryable=True)
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return _no_address()
        case aiohttp.ClientResponseError(status=status, message=message, headers=headers):
            return _refused(status, one_line(f"{status} {message}"), headers.get("Retry-After") if headers else None)
        case aiohttp.ClientConnectorCertificateError():
            return ImageError("fetch_failed", f"The server's certificate is not valid: {detail}.", retryable=True)
        case aiohttp.ClientConnectorDNSError(os_error=socket.gaierror(errno=number)) if number != socket.EAI_AGAIN:
            return ImageError("fetch_failed", f"There is no host {error.host}: {detail}.", retryable=True)
        case aiohttp.ClientConnectorError(os_error=NotPublic()):
            return ImageError(
                "forbidden_host",
                f"{error.host} is not on the public internet. --allow-private-hosts lets images be fetched from there.",
            )
    no_answer = isinstance(error, aiohttp.ClientConnectionError)
    return TryAgain(reason_of(error), is_slow=isinstance(error, TimeoutError), no_answer=no_answer)


def _refused(status: int, said: str, retry_after: str | None) -> ImageError | TryAgain:
    if status in _MISSING:
        return ImageError("missing", "There is no such file.")
    if status in _FORBIDDEN:
        return ImageError("forbidden", f"Reading the file is not permitted: {said}.")
    return try_again_later(status, said, retry_after) or ImageError(
        "fetch_failed", f"The server answers {said}.", retryable=True
    )
