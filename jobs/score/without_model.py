"""Units whose images need no model: those of a night on which pictures were only moved, doubled or damaged.

Such a night starts neither Ray nor a model. The first picture that needs one ends this, and so does the time after
which a cluster would have been quicker; then the run goes on as ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from artimuse_actor.images.child_decoder import ChildDecoder
from jobs.score.load import UnitLoader
from jobs.score.stage import UnitStager
from schemas.units import PIXELS

AT_MOST_S: Final = 60.0


def receipts(units: Iterable[tuple[int, int]], loader: UnitLoader, stager: UnitStager) -> Iterator[dict[str, Any]]:
    """Receipts, as rows of schema `RECEIPT`, of the first units, as (shard, unit), up to one that needs a model."""
    end_s = time.monotonic() + AT_MOST_S
    with ChildDecoder(loader.options) as child:
        for shard, unit in units:
            if time.monotonic() > end_s:
                return
            block = loader.load_without_model(shard, unit, child)
            if block is None:
                return
            yield from stager(block.drop_columns([PIXELS.name])).to_pylist()
