"""What weights of fewer bits do to scores: the same checkpoint and pictures with all bits and with fewer."""

from __future__ import annotations

import numpy as np
import torch

from artimuse_actor.artimuse import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import precision_name
from artimuse_actor.engine.device import dtype_name
from artimuse_actor.engine.device_memory import release_memory
from artimuse_actor.errors import RunError, one_line
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.protocols import Protocol
from artimuse_actor.verify.finding import Finding, logits_of, relative_error


def quantised_finding(
    checkpoint: Checkpoint,
    protocol: Protocol,
    device: torch.device,
    dtype: torch.dtype,
    quantize: str,
    pixels: Pixels,
) -> Finding:
    """Score (N, 448, 448, 3) pictures with all bits, then with fewer; skipped if all bits do not fit."""
    from scipy.stats import spearmanr  # here, since a bare machine may check a device without scipy

    precision = precision_name(dtype_name(dtype), quantize)
    check = f"{quantize} beside all bits, {len(pixels)} pictures"
    found = []
    for kind in (None, quantize):
        try:
            model = ArtiMuse.load(
                checkpoint, protocol=protocol, device=str(device), dtype=dtype_name(dtype), quantize=kind
            )
        except RunError as error:
            if kind:
                raise
            return Finding(check, precision, skipped=one_line(str(error)))
        found.append(model.score_pixels(pixels))
        del model
        release_memory(device)
    whole, fewer = found
    return Finding(
        check,
        precision,
        points=float(np.abs(whole.score - fewer.score).mean()),
        error=relative_error(logits_of(fewer.distribution), logits_of(whole.distribution)),
        srcc=float(spearmanr(whole.score[:, 0], fewer.score[:, 0]).statistic),
    )
