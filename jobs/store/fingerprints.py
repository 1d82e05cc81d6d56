"""The fingerprint of the scores that a checkpoint and a protocol give."""

from __future__ import annotations

from artimuse_actor.checkpoint.names import CheckpointIdentity
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.protocols import Protocol
from schemas.fingerprint import Fingerprint


def fingerprint_of(checkpoint: CheckpointIdentity, protocol: Protocol, decode: DecodeOptions) -> Fingerprint:
    """The fingerprint of a run that scores with these."""
    return Fingerprint(
        checkpoint=checkpoint.name,
        checkpoint_digest=checkpoint.digest,
        protocol=protocol.name,
        protocol_digest=protocol.digest,
        preprocessing=decode.version,
    )
