"""The folder or prefix of a bucket that all images must lie in, for manifests that others have written.

The file that is finally read counts, not the spelling of its name: a local file is judged by its real path,
all links followed, and again by the file that was opened. An object has no links, so there the name decides.
"""

from __future__ import annotations

import os

from artimuse_actor.errors import ImageError, UsageError
from artimuse_actor.uris import canonical_uri, in_bucket, local_path, uri_scheme


def normal_root(root: str) -> str:
    """A root as it is compared with: an absolute path, or `scheme://bucket[/prefix]` without a slash at its end.

    Raises:
        UsageError: it is neither a local folder nor a prefix of a bucket.
    """
    scheme = uri_scheme(root)
    if scheme == "file":
        return os.path.abspath(os.path.expanduser(local_path(root)))
    normal = _plain(root).rstrip("/")
    if not in_bucket(normal):
        raise UsageError(f"--root takes a local folder or s3://bucket/prefix (gs://, az://), not {root!r}.")
    return normal


def check_uri_inside(uri: str, root: str) -> None:
    """Refuse a uri whose scheme, bucket or prefix is not the root's; local paths are for `check_path_inside`.

    Raises:
        ImageError: `outside_root`.
    """
    scheme = uri_scheme(uri)
    if scheme != uri_scheme(root):
        raise _outside(root)
    if in_bucket(uri):
        name = _plain(uri)
        # To a bucket `..` is a name like any other, but a gateway in front of a disk may think otherwise.
        if not name.startswith(f"{root}/") or ".." in name.split("/"):
            raise _outside(root)


def _plain(uri: str) -> str:
    """A uri in its canonical form, with its scheme in lower case."""
    scheme, colon, rest = canonical_uri(uri).partition(":")
    return scheme.lower() + colon + rest


def check_path_inside(path: str, root: str) -> None:
    """Refuse a path that leads out of a local root once all links are followed.

    Raises:
        ImageError: `outside_root`.
    """
    _check_real_path(os.path.realpath(path), root)


def check_open_file_inside(descriptor: int, root: str) -> None:
    """Check an open file the same way: a link may have been put into its path after the first check.

    Raises:
        ImageError: `outside_root`.
    """
    try:
        real = os.readlink(f"/proc/self/fd/{descriptor}")  # the kernel's answer, which no link can change
    except FileNotFoundError:  # no /proc, as on macOS: the first look has to do
        return
    _check_real_path(real, root)


def _check_real_path(real: str, root: str) -> None:
    if not real.startswith(os.path.join(os.path.realpath(root), "")):
        raise _outside(root)


def _outside(root: str) -> ImageError:
    return ImageError(
        "outside_root",
        f"It does not lie in {root}, and --root allows nothing else. Leave that out, or name a folder above both.",
        by_settings=True,
    )
