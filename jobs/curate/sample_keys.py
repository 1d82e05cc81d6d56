"""The names of samples in the tar files that a curation writes: numbers, or those of the source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

import numpy as np
import pyarrow as pa

from artimuse_actor.errors import CurationError, UsageError
from jobs.manifest.id_index import IdIndex, hash_strings
from jobs.manifest.tar_samples import TarSample

NUMBER: Final = "number"
SOURCE: Final = "source"


def read_keys(text: str) -> str:
    """The value of `--keys`. Raises UsageError."""
    if text not in (NUMBER, SOURCE):
        raise UsageError(f"--keys takes {NUMBER} or {SOURCE}, not {text!r}.")
    return text


def source_key(image_id: str, uri: str | None) -> str:
    """The key of an image in the tar that it is a member of.

    Raises:
        CurationError: it is no member of a tar, or its key is no path within a folder.
    """
    sample = TarSample.of(image_id, uri)
    if sample is None:
        raise CurationError(f"--keys source: {image_id!r} is no member of a tar file. Use --keys number.")
    parts = sample.key.split("/")
    if not all(parts) or {".", ".."}.intersection(parts) or not sample.key.isprintable():
        raise CurationError(f"--keys source: the key of {image_id!r} is no path within a folder. Use --keys number.")
    return sample.key


def check_keys(batches: Callable[[], Iterable[pa.RecordBatch]]) -> None:
    """Make sure that each row has a key in its source, and none that of another.

    Args:
        batches: gives all rows, each time it is called, with `image_id` and `uri`.

    Raises:
        CurationError: as `source_key`, or two have the same; both are named.
    """
    hashes = []
    for batch in batches():
        keys = map(source_key, batch["image_id"].to_pylist(), batch["uri"].to_pylist())
        hashes.append(hash_strings(pa.array(keys, pa.string())))
    double = IdIndex(np.concatenate(hashes)).first_double() if hashes else None
    if double is not None:
        ids = list(chain.from_iterable(batch["image_id"].to_pylist() for batch in batches()))
        one, other = (ids[place] for place in double)
        raise CurationError(f"--keys source: {one!r} and {other!r} have the same key. Use --keys number.")
