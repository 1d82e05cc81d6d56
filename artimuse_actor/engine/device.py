"""The device and precision a model runs with, and the batch that fits into the device's memory."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import AUTO_DTYPES, NetworkConfig
from artimuse_actor.errors import RunError, UsageError

CPU_BATCH_SIZE: Final = 2  # one image's 470 tokens fill a CPU's matrix products; larger activations leave its caches
MAX_AUTO_BATCH_SIZE: Final = 64  # 30,000 tokens in a pass; larger matrices are no faster
_MEMORY_SHARE: Final = 0.8
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The torch device that `--device` names.

    Raises:
        UsageError: it is unknown, or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}.") from None
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs here. Try --device cpu.")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that `--dtype` names: bfloat16 on CUDA and float32 elsewhere if it is `auto`.

    Raises:
        UsageError: it is unknown.
    """
    if dtype == "auto":
        dtype = AUTO_DTYPES[device.type]
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype takes auto, {', '.join(_DTYPES)}, not {dtype!r}.")
    return _DTYPES[dtype]


def resolve_attention(device: torch.device, dtype: torch.dtype) -> str:
    """`flash_attention_2` if its package is installed and usable (CUDA, half precision), else `sdpa`."""
    usable = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and find_spec("flash_attn")
    return "flash_attention_2" if usable else "sdpa"


def probe_batch_size(config: NetworkConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Images of one pass that should fit into the device's free memory.

    Args:
        config: the network's sizes.
        tokens: tokens of one image's prefill.
        device: where the weights already are.
        dtype: of the activations.
    """
    if device.type != "cuda":
        return CPU_BATCH_SIZE
    language, vision = config.language, config.vision
    kv_features = 2 * language.num_layers * language.num_kv_heads * language.head_dim
    per_token = 8 * language.hidden_size + 3 * language.intermediate_size + 2 * kv_features
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size
    bytes_per_image = dtype.itemsize * (tokens * per_token + (vision.num_patches + 1) * per_patch)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(MAX_AUTO_BATCH_SIZE, _MEMORY_SHARE * free_bytes // bytes_per_image)))


def check_memory(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a network larger than a CPU's free memory: the kernel would kill the process without a message."""
    needed_bytes = dtype.itemsize * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    available_bytes = _available_memory_bytes()
    if device.type == "cpu" and available_bytes is not None and needed_bytes > available_bytes:
        raise RunError(
            f"{checkpoint.name} takes {needed_bytes / 1e9:.0f} GB of memory as {str(dtype).removeprefix('torch.')}, "
            f"and {available_bytes / 1e9:.0f} GB are free. Use a GPU, or --dtype bfloat16: half of what float32 takes."
        )


def _available_memory_bytes() -> int | None:
    """Memory that Linux can allocate without swapping; None on other systems."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes else None
