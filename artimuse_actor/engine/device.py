"""The device and precision a model runs with, its memory, and the batch that fits there.

`cuda` is torch's name for GPUs of NVIDIA and, in a torch built for ROCm, of AMD; `mps` is the GPU of an Apple machine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import torch

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import AUTO_DTYPES, DTYPE_NAMES, NetworkConfig, precision_name
from artimuse_actor.checkpoint.network_memory import prefill_bytes, weight_bytes
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.node import available_bytes

DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in DTYPE_NAMES}
CPU_BATCH_SIZE: Final = 2  # one image's 470 tokens fill a CPU's matrix products; larger activations leave its caches
MAX_AUTO_BATCH_SIZE: Final = 64  # 30,000 tokens in a pass; larger matrices are no faster
_MEMORY_SHARE: Final = 0.8
_AMPERE: Final = (8, 0)


def resolve_device(device: str) -> torch.device:
    """The torch device that `--device` names; for `auto` the first GPU, or the CPU if there is none.

    Raises:
        UsageError: it is unknown, or this machine has none.
    """
    if device == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(gpu)
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in AUTO_DTYPES:
        raise UsageError(f"--device takes auto, cpu, cuda, cuda:N or mps, not {device!r}.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs here. Try --device cpu.")
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"--device {device}: torch sees no GPU of Apple here. Try --device cpu.")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that `--dtype` names; `auto` is bfloat16 on GPUs that compute in it, and float32 elsewhere.

    NVIDIA's cards before Ampere only emulate bfloat16. There `auto` is float32, which is always right, and not float16:
    activations of this language model exceed 65,504, the largest float16 (QwenLM/Qwen3 #761 and #868, on a V100).

    Raises:
        UsageError: it is unknown.
    """
    if dtype == "auto":
        is_old = device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability(device) < _AMPERE
        dtype = "float32" if is_old else AUTO_DTYPES[device.type]
    return DTYPES[precision_name(dtype, None)]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a precision, as `--dtype` takes it."""
    return str(dtype).removeprefix("torch.")


def set_arithmetic(device: torch.device) -> None:
    """Set this process's switches of torch, so that float32 is float32, and SDPA plans nothing for new shapes.

    TF32, ten bits of mantissa, is the default of cuDNN's convolutions, and so of the patch embedding. On sm_90 SDPA
    prefers cuDNN's attention, which takes up to half a second for each shape that it has not met.
    """
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    # The older switches too: read after only the newer one was set, they raise an error.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def device_name(device: torch.device) -> str:
    """The name of the processor, such as `NVIDIA H200`, `AMD Instinct MI300X (ROCm 7.0)`, `Apple M2 Max` or `CPU`."""
    if device.type == "cuda":
        rocm = f" (ROCm {torch.version.hip})" if torch.version.hip else ""
        return f"{torch.cuda.get_device_name(device)}{rocm}"
    return torch.backends.mps.get_name() if device.type == "mps" else "CPU"


def driver_version() -> str | None:
    """The version of the GPU's kernel driver; None if Linux has none."""
    for path in ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        found = re.search(r"\d+(\.\d+)+", text)
        return found[0] if found else None
    return None


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None if the system does not tell.

    On an Apple machine the GPU shares the memory of the CPU; Metal says how much of it a process should take at most.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_bytes()


def probe_batch_size(
    config: NetworkConfig, tokens: int, device: torch.device, dtype: torch.dtype, *, reserved: int = 0
) -> int:
    """Images of one pass that should fit into the device's free memory.

    Args:
        config: the network's sizes.
        tokens: tokens of one image's prefill.
        device: where the weights already are.
        dtype: of the activations.
        reserved: bytes that a pass takes whatever the batch.
    """
    free = None if device.type == "cpu" else free_bytes(device)
    if free is None:
        return CPU_BATCH_SIZE
    fit = _MEMORY_SHARE * (free - reserved) // prefill_bytes(config, tokens, dtype.itemsize)
    return int(max(1, min(MAX_AUTO_BATCH_SIZE, fit)))


def check_memory(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, quantize: str | None = None) -> None:
    """Refuse a network larger than the device's free memory before it is loaded.

    On a CPU the kernel would kill the process without a message.

    Raises:
        RunError: it does not fit.
    """
    precision = precision_name(dtype_name(dtype), quantize)
    needed, free = weight_bytes(checkpoint.shapes, precision), free_bytes(device)
    if free is not None and needed > free:
        advice = "Use a GPU" if device.type == "cpu" else "Stop what else runs there, choose another --device"
        half = ", or --dtype bfloat16: half of what float32 takes" if dtype == torch.float32 else ""
        if dtype != torch.float32 and device.type != "cpu" and quantize is None:
            half = ", or --quantize int8, half of it, or nf4, a third"
        raise RunError(
            f"{checkpoint.name} takes {needed / 1e9:.0f} GB of memory as {precision}, and {free / 1e9:.0f} GB are "
            f"free. {advice}{half}."
        )
