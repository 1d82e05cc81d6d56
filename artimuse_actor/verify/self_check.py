"""The cheap part of `artimuse verify`, at the start of each actor on a GPU: a second or two on the golden checkpoint.

A kernel that is wrong for one card or one build gives plausible scores, and no error. So a device answers golden
pictures before any other: scores of three, and texts of one if texts are made, with the kernels that will be used.
Three, since the bounds are for a median: in bfloat16 rounding took one picture to 0.19, the median of three to 0.09.
With weights of fewer bits the CPU answers first, 0.4 s of one core on the golden checkpoint.
"""

from __future__ import annotations

import socket

import torch

from artimuse_actor.engine.device import device_name
from artimuse_actor.engine.device_memory import release_memory
from artimuse_actor.errors import RunError
from artimuse_actor.verify.golden_checks import golden_scores, golden_texts


def refuse_wrong_device(device: torch.device, dtype: torch.dtype, *, texts: bool, quantize: str | None = None) -> None:
    """Check golden pictures on a device.

    Args:
        device: where the model will be.
        dtype: its precision.
        quantize: the kind of its weights, if they have fewer bits.
        texts: whether the model will generate texts.

    Raises:
        RunError: an answer is wrong; the message names the node, the device and what differs.
        UsageError: the device cannot work with weights of this kind.
    """
    findings = [golden_scores("artimuse", device, dtype, images=3, quantize=quantize)]
    if texts:
        findings.append(golden_texts(device, dtype, images=1, quantize=quantize))
    release_memory(device)  # for the model, whose size is compared with what is free
    for finding in findings:
        if finding.is_wrong:
            off = f"{finding.points:.2f} points off" if finding.points is not None else "other texts"
            others, option = ("the CPU's", f" --quantize {quantize}") if quantize else ("the published code's", "")
            raise RunError(
                f"Node {socket.gethostname()}: {device_name(device)} ({device}) answers wrong in {finding.precision} "
                f"with {finding.attention}: {finding.check}, {off} beside {others}. No row was scored there. "
                f"`artimuse verify --device {device.type}{option}` there shows what is right; leave the machine out, "
                "or choose another --dtype or --device."
            )
