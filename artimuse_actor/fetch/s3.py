"""An s3:// uri → bytes.

Endpoint and credentials come from the environment, for all images of a run alike: what is wrong with them is an error
of the run, which can be continued when they are right. What is wrong with one object is an error of its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import fsspec
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from artimuse_actor.errors import ImageError, RunError, one_line, reason_of
from artimuse_actor.fetch.byte_budget import Reserve, read_body
from artimuse_actor.fetch.file_range import FileRange
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.fetch.remote_file import RemoteObject
from artimuse_actor.fetch.retry import TryAgain, try_again_later
from artimuse_actor.fetch.s3_errors import s3_answer, s3_error_code

_MAX_CONNECTIONS: Final = 64  # botocore's default of 10 is less than what is fetched at the same time

# With these errors no object can be read.
_CREDENTIAL_CODES: Final = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException", "RequestExpired"),
        *("InvalidSecurity", "NotSignedUp", "RequestTimeTooSkewed"),
    }
)
_NO_CREDENTIALS: Final = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)
_BROKEN_CONNECTIONS: Final = (
    HTTPClientError,
    ConnectionError,  # botocore's, not the built-in one
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
)
_NO_ANSWER: Final = (HTTPClientError, ConnectionError, aiohttp.ClientConnectionError)
_TIMEOUTS: Final = (TimeoutError, ReadTimeoutError, ConnectTimeoutError)


async def read_s3(uri: str, options: FetchOptions, reserve: Reserve, asked: Mapping[str, str] | None = None) -> bytes:
    """One attempt to read an object, or the part of it that is `asked` for by `Range` and `IfMatch`.

    Raises:
        ImageError: `missing`, `forbidden`, `too_large`, `unsupported_uri`, `changed` or `fetch_failed`.
        RunError: no object can be read with these credentials.
        TryAgain: the failure may be transient.
    """
    s3 = _filesystem(options)
    bucket, key, _ = s3.split_path("s3" + uri[2:])
    if "@" in bucket:
        raise ImageError("unsupported_uri", "An s3:// uri has no user and password: the environment says who reads it.")
    await _connect(s3)
    try:
        answer = await s3._call_s3("get_object", Bucket=bucket, Key=key, **(asked or {}))
        async with answer["Body"] as body:
            return await read_body(body.read, answer.get("ContentLength"), options, reserve)
    except (BotoCoreError, ResponseParserError, ClientError, aiohttp.ClientError, OSError) as error:
        if s3_error_code(error) == "SignatureDoesNotMatch" and await _signs_plain_keys(s3, bucket):
            raise ImageError(
                "forbidden", "The server does not accept the signature of this name, but does of others."
            ) from error
        raise _translated(error, bucket) from error


def asked_of_s3(part: FileRange) -> dict[str, str]:
    """What asks for a range of an object, in the version that it must have."""
    return {"Range": part.header} | ({"IfMatch": f'"{part.version}"'} if part.version else {})


async def list_s3(uri: str, options: FetchOptions) -> list[RemoteObject]:
    """One attempt to list the objects right in a folder, by name. Raises as `read_s3`."""
    s3 = _filesystem(options)
    bucket, key, _ = s3.split_path("s3" + uri[2:])
    prefix = f"{key}/" if key else ""
    found: list[RemoteObject] = []
    page: dict[str, str] = {}
    await _connect(s3)
    while True:
        try:
            answer = await s3._call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **page)
        except (BotoCoreError, ResponseParserError, ClientError, aiohttp.ClientError, OSError) as error:
            raise _translated(error, bucket) from error
        found += [
            RemoteObject(name, int(entry["Size"]), str(entry["ETag"]))
            for entry in answer.get("Contents", ())
            # Without a name it stands for the folder itself; with a slash, no honest server lists it.
            if (name := entry["Key"].removeprefix(prefix)) and "/" not in name
        ]
        if not answer.get("IsTruncated"):
            return sorted(found, key=lambda object: object.name)
        page = {"ContinuationToken": answer["NextContinuationToken"]}


def _filesystem(options: FetchOptions) -> Any:
    """s3fs as the environment configures it, with our timeouts and only our retries; cached by fsspec."""
    ours = {
        "connect_timeout": options.connect_timeout_s,
        "read_timeout": options.read_timeout_s,
        "max_pool_connections": _MAX_CONNECTIONS,
        "retries": {"total_max_attempts": 1},
    }
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    s3 = fsspec.filesystem("s3", config_kwargs={**configured, **ours})
    s3.retries = 1
    return s3


async def _connect(s3: Any) -> None:
    try:
        await s3.set_session()
    except (BotoCoreError, ValueError) as error:  # an unknown profile, an endpoint that is no url
        raise RunError(
            f"S3 cannot be used: {reason_of(error)}. Correct AWS_ENDPOINT_URL, AWS_PROFILE or the configuration file, "
            "then run again; what is committed stays."
        ) from error


async def _signs_plain_keys(s3: Any, bucket: str) -> bool:
    """True if the server accepts a signature for a name without special characters.

    Gateways that rewrite a path (`//`, `..`, `+`) break its signature. One such name must not stop a run.
    """
    try:
        await s3._call_s3("get_object", Bucket=bucket, Key="artimuse", Range="bytes=0-0")
    except (BotoCoreError, ResponseParserError, ClientError, OSError) as error:
        return s3_error_code(error) not in _CREDENTIAL_CODES
    return True


def _translated(error: Exception, bucket: str) -> ImageError | RunError | TryAgain:
    if isinstance(error, _NO_CREDENTIALS):
        return RunError(
            f"There are no credentials for S3: {reason_of(error)}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or FSSPEC_S3_ANON=true for public buckets, then run again; what is committed stays."
        )
    answer = s3_answer(error)
    if answer is not None:
        return _refused(answer, error, bucket)
    if isinstance(error, ParamValidationError):
        return ImageError("missing", f"No object can have this name: {reason_of(error)}.")
    if isinstance(error, _BROKEN_CONNECTIONS) and not isinstance(error, SSLError):
        return TryAgain(reason_of(error), is_slow=isinstance(error, _TIMEOUTS), no_answer=isinstance(error, _NO_ANSWER))
    return ImageError("fetch_failed", f"{reason_of(error)}.", retryable=True)


def _refused(answer: dict[str, Any], error: Exception, bucket: str) -> ImageError | RunError | TryAgain:
    """The error that a server's refusal stands for; `answer` as `s3_answer` returns it."""
    code = str(answer["Error"].get("Code"))
    said = one_line(f"{code}: {answer['Error'].get('Message', '')}")
    about = answer.get("ResponseMetadata", {})
    status = int(about.get("HTTPStatusCode", 0))
    if code == "RequestTimeout":  # comes with status 400
        status = HTTPStatus.REQUEST_TIMEOUT
    elif code in ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"):
        status = HTTPStatus.TOO_MANY_REQUESTS
    again = try_again_later(status, f"{status} {said}", about.get("HTTPHeaders", {}).get("retry-after"))
    if again is not None:
        return again
    operation = getattr(error, "operation_name", None) or getattr(error.__cause__, "operation_name", "GetObject")
    if code in _CREDENTIAL_CODES or operation not in (
        "GetObject",
        "ListObjectsV2",
    ):  # such as AssumeRole, on the way to credentials
        return RunError(
            f"S3 does not accept the credentials: {said}. Renew or correct them (for RequestTimeTooSkewed: the clock), "
            "then run again; what is committed stays."
        )
    if code == "NoSuchBucket":
        return ImageError("missing", f"There is no bucket {bucket}.")
    if status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return ImageError("changed", "The object has changed meanwhile.", retryable=True)
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return ImageError("missing", "There is no such object.")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ImageError("forbidden", f"Reading the object is not permitted: {said}.")
    return ImageError("fetch_failed", f"The server answers {status} {said}.", retryable=True)
