"""Arguments of an actor, and the parts of a run that it reports to; what those do is the run's matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from artimuse_actor.errors import ArtiMuseError
from artimuse_actor.protocol import protocols
from schemas.text_settings import TextSettings

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize  # imports torch


class Starts(Protocol):
    """Counter of actor starts; `begin` raises RunError after too many."""

    def begin(self) -> None:
        """Loading begins."""

    def end(self, fetch_s: float, load_s: float, about: Mapping[str, Any]) -> None:
        """The model is loaded: seconds of fetching and checking its files, of loading it, and what it runs on."""

    def fail(self, error: ArtiMuseError) -> None:
        """The constructor ends with this error."""


class Meters(Protocol):
    """Counters of the actors' work."""

    def scored(self, images: int, passes: int, text_tokens: int, spent: Mapping[str, Any]) -> None:
        """A unit has scores, or texts."""


class Code(Protocol):
    """The code and packages a run was started with."""

    def check_scoring(self) -> None:
        """Raise RunError if this process has other code or packages."""


@dataclass(frozen=True)
class ActorConfig:
    """Arguments of an actor.

    Attributes:
        checkpoint: folder or name.
        checkpoint_digest: expected digest of its files.
        protocol: the questions asked.
        device: `cpu`, `cuda` or `mps`.
        dtype: as `--dtype`.
        quantize: as `--quantize`.
        batch_size: as `--batch-size`.
        keep_distribution: whether the probabilities are kept.
        texts: which texts are made, if any.
        sequences: as `--sequences`.
        actors_per_node: actors that share a node's CPU cores; None to keep torch's own number of threads.
        starts: notified when loading begins and ends.
        meters: notified of every unit.
        code: the code this process must run.
    """

    checkpoint: str
    checkpoint_digest: str
    protocol: protocols.Protocol
    device: str
    dtype: str
    batch_size: BatchSize
    keep_distribution: bool
    texts: TextSettings | None = None
    sequences: BatchSize = "auto"
    quantize: str | None = None
    actors_per_node: int | None = 1
    starts: Starts | None = None
    meters: Meters | None = None
    code: Code | None = None
