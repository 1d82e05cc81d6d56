"""The cheap part of `artimuse verify`, at the start of each actor on a GPU: a second or two on the golden checkpoint.

A kernel that is wrong for one card or one build gives plausible scores, and no error. So a device answers golden
pictures before any other: scores of three, and texts of one if texts are made, with the kernels that will be used.
Three, since the bounds are for a median: in bfloat16 rounding took one picture to 0.19, the median of three to 0.09.
"""

from __future__ import annotations

import socket

import torch

from artimuse_actor.engine.device import device_name, dtype_name
from artimuse_actor.engine.device_memory import release_memory
from artimuse_actor.errors import RunError
from artimuse_actor.verify.golden_checks import golden_scores, golden_texts


def refuse_wrong_device(device: torch.device, dtype: torch.dtype, *, texts: bool) -> None:
    """Check golden pictures on a device.

    Args:
        device: where the model will be.
        dtype: its precision.
        texts: whether the model will generate texts.

    Raises:
        RunError: an answer is wrong; the message names the node, the device and what differs.
    """
    findings = [golden_scores("artimuse", device, dtype, images=3)]
    if texts:
        findings.append(golden_texts(device, dtype, images=1))
    release_memory(device)  # for the model, whose size is compared with what is free
    for finding in findings:
        if finding.is_wrong:
            off = f"{finding.points:.2f} points off" if finding.points is not None else "other texts"
            raise RunError(
                f"Node {socket.gethostname()}: {device_name(device)} ({device}) answers wrong in {dtype_name(dtype)} "
                f"with {finding.attention}: {finding.check}, {off} beside the published code's. No row was scored "
                f"there. `artimuse verify --device {device.type}` there shows what is right; leave the machine out, or "
                "choose another --dtype or --device."
            )
