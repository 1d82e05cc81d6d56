"""Admission of queued images: one prefill for several, which scores them and leaves their prefixes in the cache."""

from __future__ import annotations

import torch

from artimuse_actor.engine.kv_cache import OutOfPagesError
from artimuse_actor.engine.read_prompts import PrefixReader
from artimuse_actor.engine.schedule import Schedule


def admit(schedule: Schedule, reader: PrefixReader, most: int) -> bool:
    """Read the oldest queued images, at most so many and as many as there are pages for; their sequences wait then.

    Returns:
        False if there is no page for them before others have ended.

    Raises:
        OutOfPagesError: nothing else is in the cache, and still there are too few pages.
        torch.OutOfMemoryError: the device has no room for the prefill; nothing has changed.
    """
    pages = schedule.allocate_prefixes(most)
    if not pages:
        if schedule.holds_pages:
            return False
        raise OutOfPagesError("the prompts about an image take more pages than there are")
    try:
        batch = [schedule.images[index] for index in range(len(pages))]
        pixels = torch.stack([torch.tensor(entry.pixels) for entry in batch])  # (B, 448, 448, 3)
        prefix, probabilities = reader.read(pixels, scored=any(entry.scored for entry in batch))
        schedule.store_prefixes(prefix, pages)
    except BaseException:
        for held in pages:
            schedule.cache.release(held)
        raise
    for row, entry in enumerate(batch):
        if probabilities is not None and entry.scored:
            entry.probabilities = probabilities[row]
        entry.scored = False  # not again, should it be prefilled again
    return True
