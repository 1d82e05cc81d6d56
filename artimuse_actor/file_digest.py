"""SHA-256 of files, remembered for large ones: hashing the 16 GB of a checkpoint takes many seconds."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Final

# Smaller files are cheaper to hash than to remember.
_REMEMBER_FROM_BYTES: Final = 64 * 1024 * 1024


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits; of a large one as long as its size and time stay."""
    stat = path.stat()
    if stat.st_size < _REMEMBER_FROM_BYTES:
        return _hash_file(path)
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    remembered = _remembered_digests()
    if key not in remembered:
        digest = _hash_file(path)
        _remember_digest(key, digest)
        return digest
    return remembered[key]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_memory() -> Path:
    return cache_folder() / "digests.json"


def cache_folder() -> Path:
    """Where this project keeps what it can always make again."""
    root = os.environ.get("ARTIMUSE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "artimuse")
    return Path(root).expanduser()


def _remembered_digests() -> dict[str, str]:
    try:
        remembered = json.loads(_digest_memory().read_text())
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _remember_digest(key: str, digest: str) -> None:
    memory = _digest_memory()
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
            json.dump(_remembered_digests() | {key: digest}, file)
        os.replace(file.name, memory)
    except OSError:
        # A home that cannot be written costs time at the next start, nothing else.
        return
