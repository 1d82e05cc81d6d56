"""Parts of a uri: its scheme, an object's bucket, a file's local path; and its form for display."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote_to_bytes

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
# Signature parameters of S3, Google, Azure, CloudFront and OSS, and common names of secrets.
_SIGNATURE = re.compile(
    r"(?i)([?&](?:x-(?:amz|goog|oss)-[\w-]+|(?:aws|oss)?access_?key_?id|googleaccessid|key-pair-id|policy|expires|"
    r"(?:security-?|access_?|auth_?)?token|sign(?:ature)?|sig|api_?key|auth|secret|password|passwd)=)[^&\s#'\"]+"
)


def uri_scheme(uri: str) -> str:
    """The scheme of a uri in lower case, `file` for a local path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def s3_bucket(uri: str) -> str | None:
    """The bucket of an s3:// uri; None for any other."""
    return uri.split("/", 3)[2] if uri_scheme(uri) == "s3" else None


def without_secrets(text: str) -> str:
    """A uri, or a text with uris, without passwords and signatures; the rest of a query stays: it names the file."""
    if "://" not in text:
        return text
    return _SIGNATURE.sub(r"\1…", _PASSWORD.sub("…@", text))


def local_path(uri: str) -> str:
    """The path that a local path or a `file://` uri (percent-encoded, as `Path.as_uri` writes it) names."""
    if not _SCHEME.match(uri):
        return uri
    encoded = re.sub(r"^file://(localhost(?=/))?", "", uri, flags=re.IGNORECASE)
    decoded = os.fsdecode(unquote_to_bytes(os.fsencode(encoded)))
    # Many people write "file://" + path without encoding anything.
    return encoded if not _exists(decoded) and _exists(encoded) else decoded


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False
