"""All checks of a device in turn: golden pictures in every precision and attention, then a user's own checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from artimuse_actor.checkpoint.names import open_checkpoint
from artimuse_actor.checkpoint.network_config import precision_name
from artimuse_actor.engine.attention import GatheredPages, Pages
from artimuse_actor.engine.choose_pages import candidate_pages
from artimuse_actor.engine.device import DTYPES, dtype_name, resolve_device, resolve_dtype
from artimuse_actor.errors import RunError, one_line
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.protocol_file import choose_protocol, open_protocol
from artimuse_actor.verify.finding import Finding
from artimuse_actor.verify.golden import golden_pixels
from artimuse_actor.verify.golden_checks import golden_findings, pixel_finding
from artimuse_actor.verify.own_checks import own_findings
from artimuse_actor.verify.quantised_checks import quantised_finding
from artimuse_actor.verify.speed import Speed


def verify(
    *,
    device: str = "auto",
    dtype: str | None = None,
    checkpoint: str | None = None,
    protocol: str | None = None,
    quantize: str | None = None,
    pictures: Pixels | None = None,
) -> Iterator[Finding | Speed]:
    """Check a device, and a checkpoint on it if one is named; each finding comes as soon as it is made.

    Args:
        device: as `--device`.
        dtype: the one precision to check; None for all.
        checkpoint: name or folder.
        protocol: of the checkpoint; None to guess it from its name.
        quantize: also check the device with weights of fewer bits, and what they do to the checkpoint's scores.
        pictures: (N, 448, 448, 3) uint8, scored for that beside the golden ones.

    Raises:
        CheckpointError: the checkpoint cannot be fetched or read.
        RunError: the device cannot compute in the precision that it would be used with.
        UsageError: an argument is not valid here.
    """
    place = resolve_device(device)
    chosen = resolve_dtype(dtype or "auto", place)
    dtypes = (chosen,) if dtype else (chosen, *(other for other in DTYPES.values() if other != chosen))
    precision_name(dtype_name(chosen), quantize)  # refuses another word
    opened = open_checkpoint(checkpoint) if checkpoint else None
    asked = choose_protocol(protocol, opened) if opened else open_protocol(protocol) if protocol else None
    yield pixel_finding()
    for precision in dtypes:
        for pages in candidate_pages(place, precision):
            yield from _golden(place, precision, pages, is_needed=precision == chosen and pages is GatheredPages)
    if quantize:
        yield from golden_findings(place, chosen, quantize=quantize)
    if opened and asked:
        pair = (chosen, torch.bfloat16 if chosen == torch.float32 else torch.float32)
        yield from own_findings(opened, asked, place, dtypes if dtype else pair)
        if quantize:
            shown = golden_pixels() if pictures is None else np.concatenate([golden_pixels(), pictures])
            yield quantised_finding(opened, asked, place, chosen, quantize, shown)


def _golden(device: torch.device, dtype: torch.dtype, pages: Pages, *, is_needed: bool) -> Iterator[Finding]:
    try:
        yield from golden_findings(device, dtype, pages)
    except Exception as error:
        # That a device lacks a precision or an operator torch says in these two ways; a kernel may say it in any.
        if pages is GatheredPages and not isinstance(error, (RuntimeError, TypeError)):
            raise
        if is_needed:
            raise RunError(f"{device} cannot compute in {dtype}: {one_line(str(error))}.") from error
        name = str(dtype).removeprefix("torch.")
        yield Finding("golden pictures, all checks", name, pages.__name__, skipped=one_line(str(error)))
