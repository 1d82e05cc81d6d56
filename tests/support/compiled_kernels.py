"""Triton's kernels, compiled for a card that need not be here; prints the bytes of shared memory that each takes.

python -m support.compiled_kernels cuda 90
python -m support.compiled_kernels hip gfx942
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from artimuse_actor.engine import triton_kernels

CARDS: Final = (
    GPUTarget("cuda", 80, 32),
    GPUTarget("cuda", 90, 32),
    GPUTarget("cuda", 120, 32),
    GPUTarget("hip", "gfx942", 64),
)
INTEGERS: Final = {"table": "*i64", "positions": "*i64", "scale": "fp32", "scales": "*fp32"}
ROWS: Final = {"INVERSE": 1 / 448, "TINY": torch.finfo(torch.float32).tiny}
LAYER: Final = {
    8: {"HEADS": 28, "HALF": 64, "PADDED": 64, "KV_HEADS": 4, "SHARED": 7, "DIM": 128, "DIM_PADDED": 128},
    1: {"HEADS": 4, "HALF": 12, "PADDED": 16, "KV_HEADS": 2, "SHARED": 2, "DIM": 24, "DIM_PADDED": 32},
}
"""Sizes of the 8B checkpoints, and of the golden ones."""

POINTERS: Final = {
    "gate_rows": ("out", "gate", "up"),
    "round_rows": ("values", "hidden"),
    "rotate_heads": ("out", "heads", "cos", "sin"),
    "append": ("all_keys", "all_values", "old_keys", "old_values", "new_keys", "new_values", "cos", "sin"),
    "attend_pages": ("out", "queries", "keys", "values"),
}
BLOCKS: Final = {"gate_rows": 4096, "round_rows": 4096, "rotate_heads": 32, "append": 32}


def compiled(kernel: Any, name: str, kind: str, sizes: dict[str, int], target: GPUTarget) -> Any:
    block = BLOCKS.get(name, 64 if kind == "bf16" else 32)
    constants = {"SHARED_PADDED": 16, "PAGE": 32, "BLOCK": block, **ROWS, **sizes}
    types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(POINTERS[name], f"*{kind}") | INTEGERS
    if name == "round_rows":
        types["values"] = "*fp8e4nv"
    known = {(place,): constants[part] for place, part in enumerate(kernel.arg_names) if part in constants}
    types |= {part: "constexpr" for part in kernel.arg_names if part in constants}
    signature = {part: types[part] for part in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=known)
    return triton.compile(source, target=target, options=triton_kernels.OPTIONS)


def main() -> None:
    for target in CARDS:
        for name in POINTERS:
            if name == "round_rows" and (target.backend == "hip" or target.arch < 89):
                continue  # nothing is rounded there: the card multiplies no 8-bit floats
            for kind, sizes in (("bf16", LAYER[8]), ("fp32", LAYER[1])):
                found = compiled(getattr(triton_kernels, name), name, kind, sizes, target)
                print(target.arch, name, found.metadata.shared)


if __name__ == "__main__":
    main()
