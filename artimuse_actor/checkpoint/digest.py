"""SHA-256 of files, remembered for large ones: hashing the 16 GB of a checkpoint takes many seconds.

When several processes need the same digest at once, one computes it and the others wait: a node may start
eight models at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from artimuse_actor.checkpoint.file_lock import file_lock
from artimuse_actor.whole_file import whole_file

# Smaller files are cheaper to hash than to remember.
_REMEMBER_FROM_BYTES: Final = 64 * 1024 * 1024


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits; a large file's is cached until its size or time changes."""
    if path.stat().st_size < _REMEMBER_FROM_BYTES:
        return _hash_file(path)
    return remembered_digest(_key(path), partial(_hash_file, path))


def remembered_digest(key: str, make: Callable[[], str]) -> str:
    """The digest stored under this key, computed only if no process of this user has done so before."""
    if digest := _remembered_digests().get(key):
        return digest
    with _one_at_a_time(hashlib.sha256(key.encode()).hexdigest()[:32]):
        if digest := _remembered_digests().get(key):
            return digest
        digest = make()
        remember_digests({key: digest})
        return digest


def remember_file_digest(path: Path, digest: str) -> None:
    """Store the digest of a large file that was hashed while it was written."""
    if path.stat().st_size >= _REMEMBER_FROM_BYTES:
        remember_digests({_key(path): digest})


def cache_folder() -> Path:
    """The cache folder: everything in it can be recreated."""
    root = os.environ.get("ARTIMUSE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "artimuse")
    return Path(root).expanduser()


def remember_digests(digests: dict[str, str]) -> None:
    """Store digests under their names."""
    memory = _digest_memory()
    with suppress(OSError), _one_at_a_time("digests"), whole_file(memory) as growing:
        Path(growing).write_text(json.dumps(_remembered_digests() | digests))


def _key(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_memory() -> Path:
    return cache_folder() / "digests.json"


def _remembered_digests() -> dict[str, str]:
    try:
        remembered = json.loads(_digest_memory().read_text())
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


@contextmanager
def _one_at_a_time(name: str) -> Iterator[None]:
    with ExitStack() as held:
        # A home that cannot be written costs time at the next start, nothing else.
        with suppress(OSError):
            held.enter_context(file_lock(cache_folder() / "locks" / name))
        yield
