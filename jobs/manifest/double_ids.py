"""Ids that a manifest has twice: a store has one row for each, so such a manifest is refused."""

from __future__ import annotations

import numpy as np

from artimuse_actor.errors import ManifestError
from jobs.manifest.id_index import Hashes, IdIndex
from jobs.manifest.manifest import Manifest, ManifestBatch


class DoubleIds:
    """Looks for ids that are there twice while the batches of a manifest go by."""

    def __init__(self, manifest: Manifest) -> None:
        """Begin with no batch."""
        self._manifest = manifest
        self._hashes: list[Hashes] = []
        self._starts: list[tuple[str, int]] = []

    def add(self, batch: ManifestBatch, hashes: Hashes) -> None:
        """Note the hashes of the ids of the next batch, (M, 2).

        Raises:
            ManifestError: an id is twice in the batch; that is said at once, and not after a billion rows.
        """
        self._hashes.append(hashes)
        self._starts.append((batch.file, batch.first_row))
        if len(np.unique(hashes[:, 0])) < len(hashes):
            self.refuse()

    def refuse(self) -> None:
        """Raise ManifestError if an id was there twice; it names the id and both rows."""
        double = IdIndex(np.concatenate(self._hashes)).first_double() if self._hashes else None
        if double is None:
            return
        ends = np.cumsum([len(hashes) for hashes in self._hashes])
        places = []
        for position in double:
            number = int(np.searchsorted(ends, position, side="right"))
            places.append((number, position - int(ends[number]) + len(self._hashes[number])))
        first, second = (f"{self._starts[number][0]}, row {self._starts[number][1] + row}" for number, row in places)
        image_id = self._id_at(*places[1])
        raise ManifestError(
            f"{second}: has the same `image_id` as {first}: {image_id!r}. No image was read. Drop one of them, take "
            "only the first with --on-duplicate first, or, of a table, choose another id with --id-column."
        )

    def _id_at(self, number: int, row: int) -> str:
        for index, batch in enumerate(self._manifest.batches()):
            if index == number:
                return str(batch.rows["image_id"][row].as_py())
        return ""  # it has changed meanwhile
