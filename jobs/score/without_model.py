"""Units whose images need no model: those of a night on which pictures were only moved, doubled or damaged.

Such a night starts neither Ray nor a model. The first picture that needs one ends this; then the run goes on as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from artimuse_actor.images.child_decoder import ChildDecoder
from jobs.score.load import UnitLoader
from jobs.score.stage import UnitStager
from schemas.units import PIXELS


def receipts(units: Iterable[tuple[int, int]], loader: UnitLoader, stager: UnitStager) -> Iterator[dict[str, Any]]:
    """Receipts, as rows of schema `RECEIPT`, of the first units, as (shard, unit), up to one that needs a model."""
    with ChildDecoder(loader.options) as child:
        for shard, unit in units:
            block = loader.load_without_model(shard, unit, child)
            if block is None:
                return
            yield from stager(block.drop_columns([PIXELS.name])).to_pylist()
