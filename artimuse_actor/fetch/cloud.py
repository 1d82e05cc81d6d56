"""A gs:// or az:// uri → bytes, by obstore (the extra `clouds`).

As on S3, endpoint and credentials come from the environment: what is wrong with them is an error of the run, and what
is wrong with one object is an error of its row. The client says most of what a server answered in the text of its
errors alone, so that is where status and code are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any, Final

from artimuse_actor.errors import ArtiMuseError, ImageError, RunError, one_line
from artimuse_actor.fetch.byte_budget import CHUNK_BYTES, Reserve, read_body
from artimuse_actor.fetch.file_range import FileRange, changed_meanwhile
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.remote_file import RemoteFile, RemoteObject, storage_error
from artimuse_actor.fetch.retry import TryAgain, try_again_later
from artimuse_actor.uris import canonical_uri, origin_of, uri_scheme, without_secrets

CLOUD_NAMES: Final = {"gs": "Google Cloud Storage", "az": "Azure"}
_ADVICE: Final = {
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for public buckets",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_STORAGE_CONNECTION_STRING, or AZURE_SKIP_SIGNATURE=true for public containers",
}
_WHOLE_PUT_S: Final = 3600  # for a request of a store, which may have gigabytes
_CREDENTIAL_CODES: Final = frozenset(
    {
        *("AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "InvalidToken"),
        *("ExpiredToken", "InvalidSecurity", "SignatureDoesNotMatch", "AccountIsDisabled"),
    }
)
_NO_CREDENTIALS: Final = re.compile(
    r"169\.254\.169\.254|metadata\.google|must be specified|credential|OAuth|login\.microsoft|private.?key|base64",
    re.IGNORECASE,
)
_WRONG_KEY: Final = "failed to authenticate the request"
_ANONYMOUS: Final = re.compile("Anonymous caller|PublicAccessNotPermitted")


def obstore_for(uri: str) -> Any:
    """The package that reads gs:// and az://. Raises RunError: it is not installed."""
    try:
        import obstore
    except ImportError as error:
        scheme = uri_scheme(uri)
        raise RunError(
            f"{scheme}:// is read by the package `obstore`, which is not installed. Install artimuse-batch[clouds], or "
            "obstore, and run again."
        ) from error
    return obstore


def open_bucket(uri: str, options: FetchOptions | None = None) -> tuple[Any, str]:
    """A client of the bucket that a uri names, and the key in it.

    Args:
        uri: `gs://bucket/key`, `az://container/key` or `az://container@account.host/key`.
        options: timeouts, for who tries again by itself; without them the client does, as a store's place wants it.

    Raises:
        RunError: obstore is not installed, or cannot be configured from the environment.
    """
    uri = canonical_uri(uri)
    times = options and (options.connect_timeout_s, options.read_timeout_s, options.total_timeout_s)
    key = "/".join(uri.split("/", 3)[3:])
    return bucket_client(origin_of(uri), times), key


@lru_cache(maxsize=256)
def bucket_client(origin: str, times: tuple[float, float, float] | None) -> Any:
    """A client of a bucket; one for the whole process, as the environment is when it is first asked for."""
    obstore_for(origin)
    from obstore.store import AzureStore, GCSStore

    scheme, _, bucket = origin.partition("://")
    config = _google() if scheme == "gs" else _azure(bucket)
    endpoint = str(config.get("base_url") or config.get("endpoint") or "")
    client: dict[str, Any] = {"allow_http": endpoint.startswith("http://"), "timeout": f"{_WHOLE_PUT_S}s"}
    retries: dict[str, Any] = {}
    if times is not None:
        connect_s, read_s, total_s = (f"{round(1000 * seconds)}ms" for seconds in times)
        client |= {"connect_timeout": connect_s, "read_timeout": read_s, "timeout": total_s}
        retries = {"retry_config": {"max_retries": 0}}
    kind: Any = GCSStore if scheme == "gs" else AzureStore
    try:
        return kind(bucket.partition("@")[0], config=config, client_options=client, **retries)
    except Exception as error:  # of a wrong key, the client has several kinds
        raise RunError(
            f"{CLOUD_NAMES[scheme]} cannot be used: {said(error)}. {_ADVICE[scheme]}, then run again; what is "
            "committed stays."
        ) from error


def _google() -> dict[str, Any]:
    """What Google's own tools take from the environment, and the client does not: the name of an emulator."""
    if not (host := os.environ.get("STORAGE_EMULATOR_HOST")):
        return {"base_url": base} if (base := os.environ.get("GOOGLE_BASE_URL")) else {}
    url = host if "://" in host else f"http://{host}"
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return {"base_url": url, "service_account_key": json.dumps(account)}


def _azure(bucket: str) -> dict[str, Any]:
    """What Azure's own tools take from the environment, and the client does not; the account, if a uri names it."""
    config: dict[str, Any] = {}
    string = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = dict(part.split("=", 1) for part in string.split(";") if "=" in part)
    for name, option in (
        ("AccountName", "account_name"),
        ("AccountKey", "account_key"),
        ("BlobEndpoint", "endpoint"),
        ("SharedAccessSignature", "sas_key"),
    ):
        if name in parts:
            config[option] = parts[name]
    if endpoint := os.environ.get("AZURE_STORAGE_ENDPOINT"):
        config["endpoint"] = endpoint
    account = bucket.partition("@")[2].partition(".")[0]
    own = config.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if account and own and account != own:  # a manifest of others sends our key, or our SAS token, to no other account
        return {"account_name": account, "skip_signature": True}
    return config | ({"account_name": account} if account else {})


async def read_cloud(uri: str, options: FetchOptions, reserve: Reserve, part: FileRange | None = None) -> bytes:
    """One attempt to read an object, or a part of it.

    Raises:
        ImageError: `missing`, `forbidden`, `too_large`, `unsupported_uri`, `changed` or `fetch_failed`.
        RunError: no object can be read with these credentials.
        TryAgain: the failure may be transient.
    """
    asked: dict[str, Any] = {}
    if part is not None:
        asked = {"range": (part.first, part.first + part.size_bytes)}
        if part.version:
            asked["if_match"] = f'"{part.version}"'
    store, key = open_bucket(uri, options)
    with _translated(uri):
        answer = await obstore_for(uri).get_async(store, key, options=asked)
        if part is not None and part.version not in (None, version_of(answer.meta)):
            raise changed_meanwhile()
        chunks = aiter(answer.stream(min_chunk_size=CHUNK_BYTES))
        start, end = answer.range
        data = await read_body(partial(_next_of, chunks), end - start, options, reserve)
    if part is not None and len(data) != part.size_bytes:
        raise changed_meanwhile()
    return data


async def _next_of(chunks: Any, _: int) -> bytes:
    return bytes(await anext(chunks, b""))


async def look_at_cloud(uri: str, options: FetchOptions) -> RemoteFile:
    """Size and version of an object. Raises as `read_cloud`."""
    store, key = open_bucket(uri, options)
    with _translated(uri):
        found = await obstore_for(uri).head_async(store, key)
    return RemoteFile(found["size"], version_of(found))


async def list_cloud(uri: str, options: FetchOptions) -> list[RemoteObject]:
    """One attempt to list the objects right in a folder, by name. Raises as `read_cloud`."""
    store, key = open_bucket(uri, options)
    with _translated(uri):
        found = (await obstore_for(uri).list_with_delimiter_async(store, key))["objects"]
    objects = (RemoteObject(meta["path"].rpartition("/")[2], meta["size"], version_of(meta) or "") for meta in found)
    return sorted(objects, key=lambda object: object.name)


def version_of(meta: Any) -> str | None:
    """The etag of an object, as listings and heads have it alike."""
    return str(meta["e_tag"]).strip('"') if meta["e_tag"] else None


def said(error: BaseException) -> str:
    """The server's answer, such as `404 ContainerNotFound`, else the client's message in one line, without secrets."""
    text = _text(error)
    return f"{_status(text)} {_code(text)}".strip() if _status(text) else _line(text)


@contextmanager
def plain_errors() -> Iterator[None]:
    """The client's errors as an OSError in one line; conditions of writes that are not met stay as they are.

    Raises:
        FileNotFoundError: there is no such object, or no such bucket.
    """
    try:
        yield
    except ArtiMuseError:  # such as that the package is not installed
        raise
    except Exception as error:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        if not isinstance(error, BaseError) or isinstance(error, AlreadyExistsError | PreconditionError):
            raise
        if _status(_text(error)) == HTTPStatus.NOT_FOUND:  # of a listing it is none of the client's own kinds
            raise FileNotFoundError(said(error)) from error
        raise storage_error(said(error)) from error


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, RunError, TryAgain):
        raise
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError | FileNotFoundError | ValueError | OSError):
            raise
        raise _error(error, uri) from error


def _error(error: Exception, uri: str) -> ImageError | RunError | TryAgain:
    text, short = _text(error), said(error)
    status, code = _status(text), _code(text)
    lacks_credentials = "Error performing token request" in text or (status == 0 and _NO_CREDENTIALS.search(text))
    scheme, bucket = uri_scheme(uri), origin_of(uri).rpartition("/")[2]
    if isinstance(error, ValueError) and "parse path" in text:
        return ImageError(
            "unsupported_uri", f"Of {scheme}://, names with nothing, `.` or `..` between two slashes are not read."
        )
    if lacks_credentials:
        return RunError(
            f"There are no credentials for {CLOUD_NAMES[scheme]}: {_line(text)}. {_ADVICE[scheme]}, then run again; "
            "what is committed stays."
        )
    if status and (again := try_again_later(status, short, None)):
        return again
    if isinstance(error, FileNotFoundError) or status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        is_bucket = code in ("NoSuchBucket", "ContainerNotFound")
        return ImageError("missing", f"There is no bucket {bucket}." if is_bucket else "There is no such object.")
    if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return ImageError("changed", "The object has changed meanwhile.", retryable=True)
    is_anonymous = bool(_ANONYMOUS.search(text))
    if (status == HTTPStatus.UNAUTHORIZED and not is_anonymous) or code in _CREDENTIAL_CODES or _WRONG_KEY in text:
        return RunError(
            f"{CLOUD_NAMES[scheme]} does not accept the credentials: {short}. Renew or correct them (a SAS token and a "
            "clock may have expired), then run again; what is committed stays."
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) or is_anonymous:
        return ImageError("forbidden", f"Reading the object is not permitted: {short}.")
    if status == 0:
        is_slow = "timed out" in str(error) or "Timeout" in str(error)
        return TryAgain(short, is_slow=is_slow, no_answer="error sending request" in text)
    return ImageError("fetch_failed", f"The server answers {short}.", retryable=True)


def _text(error: BaseException) -> str:
    """The client's message, without what it adds for those who debug it."""
    return str(error).partition("\n\nDebug source:")[0]


def _line(text: str) -> str:
    return one_line(without_secrets(text))


def _code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found[1] if found else ""


def _status(text: str) -> int:
    found = re.search(r"status code: (\d{3})", text)
    return int(found[1]) if found else 0
