"""What a layer of the language model does between its products: in torch's operators, or in fewer passes over memory.

On a GPU these operators read and write what is not contiguous at a fraction of the memory's speed, and the same numbers
several times. `TritonKernels` does each step in one pass, and rounds where torch rounds.

Shapes: B rows, T new tokens, P tokens read before, H heads of queries, G of keys and values, D features of a head, N
features of the feed-forward part.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Final, TypeAlias

import torch
from torch.nn import functional

from artimuse_actor.engine.rotary import cosines_sines, frequencies, rotate
from artimuse_actor.errors import one_line

_WIDE: Final = 5000  # columns, more than a kernel takes at once
_AGREEMENT: Final = 0.05  # of values with a deviation of 1, in half precision
_said: set[str] = set()
_log = logging.getLogger(__name__)


class PlainKernels:
    """Torch's operators: any device, and differentiable."""

    @staticmethod
    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """silu(gate) · up: (…, N) of (…, N) each, whose memory may be used for it."""
        return functional.silu(gate, inplace=True).mul_(up)

    @staticmethod
    def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """(B, T, H·D) heads, turned to the positions of (T, D) cosines and signed sines: (B, H, T, D)."""
        return rotate(_heads(heads, cos.shape[-1]), cos, sin)

    @classmethod
    def appended(
        cls,
        before: tuple[torch.Tensor, torch.Tensor] | None,
        keys: torch.Tensor,
        values: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys, turned, and values behind those read before.

        Args:
            before: (B or 1, G, P, D) each, if any.
            keys: (B, T, G·D).
            values: (B, T, G·D).
            cos: (T, D).
            sin: (T, D), signed.

        Returns:
            (B, G, P + T, D) each.
        """
        keys, values = cls.rotated(keys, cos, sin), _heads(values, cos.shape[-1])  # (B, G, T, D) each
        if before is None:
            return keys, values
        old_keys, old_values = (part.expand(len(keys), -1, -1, -1) for part in before)  # (B, G, P, D)
        return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)


Kernels: TypeAlias = type[PlainKernels]


class TritonKernels(PlainKernels):
    """One kernel each: CUDA and ROCm, where Triton and a C compiler are, and no gradient is asked for."""

    @staticmethod
    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """See `PlainKernels.gated`."""
        from artimuse_actor.engine.triton_kernels import gate_rows, launch

        columns = gate.shape[-1]
        out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
        rows, block = out.numel() // columns, 4096
        grid = rows, -(-columns // block)
        launch(gate_rows, grid, out, gate, up, gate.stride(-2), up.stride(-2), columns, BLOCK=block)
        return out

    @staticmethod
    def rotated(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """See `PlainKernels.rotated`."""
        from artimuse_actor.engine.triton_kernels import launch, padded, rotate_heads

        batch, tokens, features = heads.shape
        dim = cos.shape[-1]
        count = features // dim
        out = heads.new_empty(batch, tokens, count, dim)
        total, block = batch * tokens * count, 32
        grid, sizes = (-(-total // block),), {"HEADS": count, "HALF": dim // 2, "PADDED": padded(dim // 2)}
        launch(rotate_heads, grid, out, heads, cos, sin, total, tokens, heads.stride(1), BLOCK=block, **sizes)
        return out.transpose(1, 2)

    @classmethod
    def appended(
        cls,
        before: tuple[torch.Tensor, torch.Tensor] | None,
        keys: torch.Tensor,
        values: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PlainKernels.appended`."""
        if before is None:
            return super().appended(before, keys, values, cos, sin)
        from artimuse_actor.engine.triton_kernels import append, launch, padded

        batch, tokens, features = keys.shape
        dim, past = cos.shape[-1], before[0].shape[2]
        old_keys, old_values = (part.expand(batch, -1, -1, -1) for part in before)  # (B, G, P, D)
        shape = (batch, past + tokens, features // dim, dim)
        all_keys, all_values = keys.new_empty(shape), keys.new_empty(shape)
        total, block = all_keys.numel() // dim, 32
        launch(
            append,
            (-(-total // block),),
            all_keys,
            all_values,
            old_keys,
            old_values,
            keys,
            values,
            cos,
            sin,
            total,
            past,
            tokens,
            *old_keys.stride()[:3],
            *old_values.stride()[:3],
            keys.stride(1),
            values.stride(1),
            HEADS=features // dim,
            HALF=dim // 2,
            PADDED=padded(dim // 2),
            BLOCK=block,
            num_warps=8,
        )
        return all_keys.transpose(1, 2), all_values.transpose(1, 2)


def choose_kernels(device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int) -> Kernels:
    """`TritonKernels` where they run and agree with `PlainKernels`, which run anywhere.

    Args:
        device: where the network is.
        dtype: its precision.
        heads: H.
        kv_heads: G.
        head_dim: D.
    """
    if device.type != "cuda" or not has_triton():
        return PlainKernels
    try:
        with torch.inference_mode():
            off = largest_difference(device, dtype, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    except Exception as error:  # no Triton, no C compiler, a card it knows nothing of: torch's own operators work
        warn_once(
            device,
            f"Triton's kernels cannot be used on {device}, so answers take longer: {one_line(str(error))}. Triton "
            "needs a C compiler, Python's headers, and a folder that it can write: ~/.triton, or TRITON_CACHE_DIR.",
        )
        return PlainKernels
    if not off <= _AGREEMENT:  # NaN is not
        warn_once(device, f"Triton's kernels are not used on {device}: their numbers are {off:.2g} off.")
        return PlainKernels
    return TritonKernels


def warn_once(device: torch.device, message: str) -> None:
    """Log a warning that each model of a process would repeat; of messages with the same beginning only the first."""
    begin = f"{device} {message.split(':')[0]}"
    if begin not in _said:
        _said.add(begin)
        _log.warning("%s", message)


def has_triton() -> bool:
    """Whether the package is there, which torch's builds for CUDA and ROCm bring along; not whether it works."""
    return find_spec("triton") is not None


def largest_difference(device: torch.device, dtype: torch.dtype, *, heads: int, kv_heads: int, head_dim: int) -> float:
    """The largest difference between what the two give for random numbers with a deviation of 1, above 1 relative."""
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(dtype)

    rows, tokens, past = 2, 5, 3
    positions = torch.arange(past, past + tokens, device=device)  # (T,)
    cos, sin = cosines_sines(frequencies(head_dim, 1e4, device), positions, dtype)  # (T, D) each
    one = random(1, kv_heads, past, head_dim), random(1, past, kv_heads, head_dim).transpose(1, 2)  # (1, G, P, D)
    each = random(rows, kv_heads, past, head_dim), random(rows, past, kv_heads, head_dim).transpose(1, 2)
    sizes = [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim]
    queries, keys, values = random(rows, tokens, sum(sizes)).split(sizes, dim=-1)
    wide = random(rows, tokens, 2 * _WIDE)
    found = []
    for kernels in (PlainKernels, TritonKernels):
        gate, up = wide.clone().chunk(2, dim=-1)  # (B, T, N) each
        parts = [kernels.gated(gate, up), kernels.rotated(queries, cos, sin)]
        for before in (one, each):
            parts += kernels.appended(before, keys, values, cos, sin)  # (B, G, P + T, D) each
        found.append(torch.cat([part.flatten() for part in parts]))
    plain, fused = found
    return float(((fused - plain).abs() / plain.abs().clamp(min=1)).max())


def _heads(projected: torch.Tensor, head_dim: int) -> torch.Tensor:
    heads: torch.Tensor = projected.unflatten(2, (-1, head_dim))  # (B, T, heads, D)
    return heads.transpose(1, 2)
