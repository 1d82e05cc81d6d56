"""The memory of a node that its decoders share: a share for each core, and one large picture at a time.

Each loader decodes one picture, and there is a loader for each core. Within half of the node's memory each has an equal
share, which is enough for nearly every photo. A picture that takes more is decoded again with the whole limit of one
decoder (`DecodeOptions.decoder_memory_bytes`), by one process of the node at a time.

Processes in containers with temporary folders of their own do not see each other; each container has its own limit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final

from artimuse_actor.checkpoint.file_lock import file_lock
from artimuse_actor.node import node_bytes, usable_cores

_LEAST_BYTES: Final = 256 * 1024**2


@lru_cache(maxsize=1)
def share_bytes() -> int:
    """The memory that every decoder of this node may take at the same time; at least 256 MiB."""
    return max(_LEAST_BYTES, node_bytes() // 2 // usable_cores())


@contextmanager
def one_large_decode() -> Iterator[None]:
    """Wait until no other process of this user on this node decodes a large picture."""
    with file_lock(Path(tempfile.gettempdir()) / f"artimuse-large-picture-{os.getuid()}"):
        yield
