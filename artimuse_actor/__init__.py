"""ArtiMuse on one machine: protocols, checkpoints, images, the network's passes, scores and texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artimuse_actor.artimuse import ArtiMuse
    from artimuse_actor.engine.describe import ImageDescription
    from artimuse_actor.engine.scoring import ImageScore
    from artimuse_actor.errors import ArtiMuseError, ImageError
    from artimuse_actor.images.options import DecodeOptions
    from artimuse_actor.unipercept_reward import UniPerceptReward

__all__ = [
    "ArtiMuse",
    "ArtiMuseError",
    "DecodeOptions",
    "ImageDescription",
    "ImageError",
    "ImageScore",
    "UniPerceptReward",
]

_MODULES = {
    "ArtiMuse": "artimuse",
    "ImageDescription": "engine.describe",
    "ImageScore": "engine.scoring",
    "ArtiMuseError": "errors",
    "ImageError": "errors",
    "DecodeOptions": "images.options",
    "UniPerceptReward": "unipercept_reward",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: torch takes seconds, and the planner, `--help` and a finished job never need it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
