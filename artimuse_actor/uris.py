"""Parts of a uri: its scheme, an object's bucket, a file's local path; and its form without secrets, to be shown."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus, unquote_to_bytes

CLOUDS: Final = ("gs", "az")
BUCKETS: Final = ("s3", *CLOUDS)
"""Schemes of objects in buckets; those of `CLOUDS` are read by the extra `clouds`."""

ALIASES: Final = {"(?i:s3[an])": "s3", "(?i:gcs)": "gs", "(?i:azure|abfss?|wasbs?)": "az"}
"""Other spellings of `BUCKETS`, as Hadoop and fsspec have them: regular expressions of Python and RE2."""

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_REMOTE = re.compile(r"(?<![A-Za-z0-9+.-])(?!file:)([A-Za-z][A-Za-z0-9+.-]*)://", re.IGNORECASE)
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_HOST_AND_PORT = re.compile(r"[^:]*(:\d*)?|\[.*\](:\d*)?", re.DOTALL)
_QUERY_PART = re.compile(r"([?&;])([^&;=]*)(=?)([^&;]*)", re.DOTALL)
_PATH_PART = re.compile(r"([;/])([^;/=]*)(=)([^;/]*)", re.DOTALL)

# Names are compared in lower case and without `-` and `_`.
_HARMLESS_NAME = re.compile(
    r"auto|crop|dpr|ext|file(name)?|fit|fmt?|format|h|height|(image|photo)?(id)?|img|index|lang|name|page|q|quality|rect|"
    r"size|sv|type|v|ver|version(id)?|w|width"
)
_HARMLESS_VALUE = re.compile(r"[\w.,:/+-]{0,40}")
_HARMLESS_WORD = re.compile(r"[A-Za-z._-]{0,16}")
# Signatures of S3, Google, Azure, CloudFront, Akamai and OSS, and common names of secrets.
_SIGNATURE = re.compile(
    r"x(amz|goog|oss)\w*|(aws|oss)?accesskey(id)?|googleaccessid|keypairid|policy|expires|exp|hdn(ts|ea|tl)|hmac|jwt|"
    r"(security|access|auth|id|refresh|session)?token|sign(ature)?|sig|(api|app|client)(key|secret)|secret|"
    r"auth(orization)?|pass(word|wd)?|pwd|credentials?|j?session(id)?"
)
_AZURE: Final = frozenset(["se", "st", "sp", "sr", "spr", "ske", "skt", "sks", "skv", "skoid", "sktid"])  # beside `sig`
_MASK: Final = "…"
_CONTAINERS: Final = ("az", "abfs", "abfss", "wasb", "wasbs")  # container@account, where others have user@host
_CONTAINER = re.compile("[a-z0-9$-]+@[a-z0-9.-]+$")
_HARMLESS_FRAGMENT = re.compile(f"#({_MASK}[0-9a-f]{{16}}|bytes=[0-9]+-[0-9]+)")  # of an id, or of a part of a tar
_DEPTH: Final = 4  # of uris within paths of others, as archives have them

_Hides = Callable[[str, str], bool]
"""Whether the value of a name, as it is compared, is left out."""


def canonical_uri(uri: str) -> str:
    """A uri in the one form that all readers take: `s3a://` is `s3://`, `gcs://` is `gs://`, `abfss://` is `az://`."""
    for alias, scheme in ALIASES.items():
        uri = re.sub(f"^{alias}://", f"{scheme}://", uri)
    return uri


def uri_scheme(uri: str) -> str:
    """The scheme of a uri in lower case, `file` for a local path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def in_bucket(uri: str) -> bool:
    """Whether a uri names an object, or a prefix of objects, in a bucket."""
    return uri_scheme(uri) in BUCKETS


def origin_of(uri: str) -> str:
    """The server that a uri names: `scheme://bucket` or `scheme://host:port`; the same text for every local path."""
    return "file:" if uri_scheme(uri) == "file" else "/".join(uri.split("/", 3)[:3])


def shown_uri(uri: str) -> str:
    """A uri for tables and people: without user and password, and without values of its query that may be secret.

    In a bucket a `?` belongs to the name, so only values that are called like a signature are left out. A local path
    stays as it is.
    """
    return _without(uri, _may_be_secret)


def lacks_secrets(uri: str) -> bool:
    """Whether `shown_uri` left something out of a uri, so that nothing can be read from there."""
    return bool(re.search(f"([=?#:]|//){_MASK}|{_MASK}@", uri))


def uri_as_id(uri: str) -> str:
    """A uri as the id of its image: without secrets, the same however it is signed.

    Where it shows less than what names the image, a digest of that follows.
    """
    shown, named = shown_uri(uri), _without(uri, _is_signature)
    if shown == named:
        return shown
    digest = hashlib.sha256(named.encode(errors="replace")).hexdigest()[:16]
    before, scheme, rest = shown.partition("://")
    return f"{before}{scheme}{rest.partition('#')[0]}#{_MASK}{digest}"


def without_secrets(text: str, uri: str | None = None) -> str:
    """A text in which each uri is as `shown_uri` has it; `uri` is one that it may contain, blanks and all."""
    if uri is not None and (shown := shown_uri(uri)) != uri:
        text = text.replace(uri, shown).replace(" ".join(uri.split()), shown)
    return re.sub(r"\S+", lambda word: shown_uri(word[0]), text) if "://" in text else text


def _without(uri: str, hides: _Hides, depth: int = _DEPTH) -> str:
    found = _REMOTE.search(uri)
    if not found:
        return uri
    scheme, rest = found[1].lower(), uri[found.end() :]
    if not depth:
        return uri[: found.end()] + (_MASK if hides("", rest) else rest)
    match = _PARTS.fullmatch(rest)
    assert match is not None
    host, path, query, fragment = (part or "" for part in match.groups())
    if "@" in host and not (scheme in _CONTAINERS and _CONTAINER.match(host)):
        host = f"{_MASK}@{host.rpartition('@')[2]}"
    elif scheme not in BUCKETS and not _HOST_AND_PORT.fullmatch(host):
        # No port, but a password: it has a slash, or in a text a blank.
        _, at, after = rest.rpartition("@")
        masked = f"{_MASK}@{_without(f'{scheme}://{after}', hides, depth - 1)[len(scheme) + 3 :]}"
        return uri[: found.end()] + (masked if at else f"{host.partition(':')[0]}:{_MASK}")
    hides = _is_signature if scheme in BUCKETS else hides
    path = _PATH_PART.sub(lambda part: _masked(part, _is_signature), path)
    is_azure = bool(re.search("[?&]sig=", query, re.IGNORECASE))
    query = _QUERY_PART.sub(lambda part: _masked(part, hides, is_azure=is_azure), query)
    if len(fragment) > 1 and not _HARMLESS_FRAGMENT.fullmatch(fragment) and hides("", fragment):
        fragment = f"#{_MASK}"
    return uri[: found.end()] + host + _without(path, hides, depth - 1) + query + fragment


def _masked(part: re.Match[str], hides: _Hides, *, is_azure: bool = False) -> str:
    """A part `name=value`, or a word, of a query or a path."""
    before, name, equals, value = part.groups()
    if not equals:
        return before + (_MASK if name and hides("", name) else name)
    plain = _plain(name)
    is_hidden = value and (hides(plain, value) or (is_azure and plain in _AZURE))
    return f"{before}{name}={_MASK if is_hidden else value}"


@lru_cache(maxsize=256)  # the names of a manifest are few
def _plain(name: str) -> str:
    return re.sub("[-_]", "", unquote_plus(name)).lower()


def _may_be_secret(name: str, value: str) -> bool:
    if not name:
        return not _HARMLESS_WORD.fullmatch(value)
    return not _HARMLESS_NAME.fullmatch(name) or not _HARMLESS_VALUE.fullmatch(value)


def _is_signature(name: str, _: str) -> bool:
    return bool(_SIGNATURE.fullmatch(name))


def local_path(uri: str) -> str:
    """The path that a local path or a `file://` uri (percent-encoded, as `Path.as_uri` writes it) names."""
    if not _SCHEME.match(uri):
        return uri
    encoded = re.sub(r"^file://(localhost(?=/))?", "", uri, flags=re.IGNORECASE)
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(encoded)))
    # Many people write "file://" + path without encoding anything.
    return encoded if not _exists(decoded) and _exists(encoded) else decoded


def user_path(name: str) -> str:
    """As `local_path`, with `~` for the home folder, as users write it."""
    return os.path.expanduser(local_path(name))


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False
