"""The fingerprint of scores, from checkpoint, protocol and decoding."""

from __future__ import annotations

from artimuse_actor.checkpoint.checkpoint import CheckpointIdentity
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import Protocol
from artimuse_actor.scoring_version import SCORING_VERSION
from schemas.fingerprint import Fingerprint


def fingerprint_of(checkpoint: CheckpointIdentity, protocol: Protocol, decode: DecodeOptions) -> Fingerprint:
    """The fingerprint of scores made by this code with this checkpoint, protocol and decoding, in any precision."""
    return Fingerprint(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol.name,
        protocol_digest=protocol.digest,
        preprocessing=decode.version,
        scoring=SCORING_VERSION,
    )
