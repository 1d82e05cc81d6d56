"""Kernels in Triton, each of which does in one pass over memory what takes torch's operators several.

They round where those round, so that both give the same numbers. What each is for, its callers say: `layer_kernels.py`,
`attention.py` and `fp8_products.py`. Sizes and strides are in elements.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton
import triton.language as tl

OPTIONS: Final = {"enable_fp_fusion": True}
"""Of all kernels. Products and sums in one operation: as they were measured, and Triton means to change its default."""


def padded(size: int) -> int:
    """The power of two from a size on: Triton's blocks have no other sizes."""
    return 1 << (size - 1).bit_length()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **sizes: Any) -> None:
    """Start a kernel on the device of its first argument, which need not be the current one."""
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **sizes, **OPTIONS)


@triton.jit
def gate_rows(out, gate, up, gate_stride, up_stride, columns, BLOCK: tl.constexpr):
    """silu(gate) · up of one row and BLOCK columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    kind = out.dtype.element_ty
    g = tl.load(gate + row * gate_stride + column, mask=inside).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside).to(tl.float32)
    opened = (g / (1 + tl.exp(-g))).to(kind).to(tl.float32)
    tl.store(out + row * columns + column, (opened * u).to(kind), mask=inside)


@triton.jit
def round_rows(values, scales, hidden, stride, columns, INVERSE: tl.constexpr, TINY: tl.constexpr, BLOCK: tl.constexpr):
    """One row, scaled so that its largest feature is the largest 8-bit float, and rounded to one."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < columns
    features = tl.load(hidden + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(features), 0) * INVERSE, TINY)
    tl.store(scales + row, scale)
    scaled = features * tl.div_rn(1.0, scale)
    tl.store(values + row * columns + column, scaled.to(values.dtype.element_ty), mask=inside)


@triton.jit
def turn(left, right, c, s, kind: tl.constexpr):
    """Both halves of heads, turned by their cosines and sines."""
    left, right, c, s = left.to(tl.float32), right.to(tl.float32), c.to(tl.float32), s.to(tl.float32)
    turned_left = (left * c).to(kind).to(tl.float32) - right * s
    turned_right = (right * c).to(kind).to(tl.float32) + left * s
    return turned_left.to(kind), turned_right.to(kind)


@triton.jit
def rotate_heads(
    out,
    heads,
    cos,
    sin,
    count,
    tokens,
    stride,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK of `count` heads; those of a token are `stride` behind those of the token before."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of a head among all
    column = tl.arange(0, PADDED)[None, :]
    inside = (number < count)[:, None]
    if PADDED != HALF:
        inside = inside & (column < HALF)
    row = number // HEADS
    source = heads + (row.to(tl.int64) * stride + number % HEADS * (2 * HALF))[:, None] + column
    left, right = tl.load(source, mask=inside), tl.load(source + HALF, mask=inside)
    angle = (row % tokens * (2 * HALF) + HALF)[:, None] + column  # the sine of the second half has no minus
    c, s = tl.load(cos + angle, mask=inside), tl.load(sin + angle, mask=inside)
    turned_left, turned_right = turn(left, right, c, s, out.dtype.element_ty)
    target = out + (number.to(tl.int64) * (2 * HALF))[:, None] + column
    tl.store(target, turned_left, mask=inside)
    tl.store(target + HALF, turned_right, mask=inside)


@triton.jit
def append(
    all_keys,
    all_values,
    old_keys,
    old_values,
    new_keys,
    new_values,
    cos,
    sin,
    count,
    past,
    tokens,
    old_keys_batch,
    old_keys_head,
    old_keys_token,
    old_values_batch,
    old_values_head,
    old_values_token,
    new_keys_token,
    new_values_token,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK of `count` heads of old and new tokens: copies the old ones, and turns the new keys.

    The last eight numbers before the sizes are strides, of the batch, of heads and of tokens.
    """
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, PADDED)[None, :]
    head, place = number % HEADS, number // HEADS
    token, batch = place % (past + tokens), (place // (past + tokens)).to(tl.int64)
    inside = number < count
    is_old, is_new = (inside & (token < past))[:, None], (inside & (token >= past))[:, None]
    if PADDED != HALF:
        is_old, is_new = is_old & (column < HALF), is_new & (column < HALF)
    old_key = old_keys + (batch * old_keys_batch + head * old_keys_head + token * old_keys_token)[:, None] + column
    old_value = batch * old_values_batch + head * old_values_head + token * old_values_token
    old_value = old_values + old_value[:, None] + column
    row, offset = batch * tokens + token - past, head * (2 * HALF)
    new_key = new_keys + (row * new_keys_token + offset)[:, None] + column
    new_value = new_values + (row * new_values_token + offset)[:, None] + column
    angle = ((token - past) * (2 * HALF) + HALF)[:, None] + column
    c, s = tl.load(cos + angle, mask=is_new), tl.load(sin + angle, mask=is_new)
    left, right = tl.load(new_key, mask=is_new), tl.load(new_key + HALF, mask=is_new)
    left, right = turn(left, right, c, s, all_keys.dtype.element_ty)
    target = (number.to(tl.int64) * (2 * HALF))[:, None] + column
    tl.store(all_keys + target, left, mask=is_new)
    tl.store(all_keys + target + HALF, right, mask=is_new)
    tl.store(all_keys + target, tl.load(old_key, mask=is_old), mask=is_old)
    tl.store(all_keys + target + HALF, tl.load(old_key + HALF, mask=is_old), mask=is_old)
    tl.store(all_values + target, tl.load(new_value, mask=is_new), mask=is_new)
    tl.store(all_values + target + HALF, tl.load(new_value + HALF, mask=is_new), mask=is_new)
    tl.store(all_values + target, tl.load(old_value, mask=is_old), mask=is_old)
    tl.store(all_values + target + HALF, tl.load(old_value + HALF, mask=is_old), mask=is_old)


@triton.jit
def attend_pages(
    out,
    queries,
    keys,
    values,
    table,
    positions,
    scale,
    queries_stride,
    table_stride,
    positions_stride,
    KV_HEADS: tl.constexpr,
    SHARED: tl.constexpr,
    SHARED_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The SHARED query heads of one row that read the same keys, over the row's pages."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, column = tl.arange(0, SHARED_PADDED)[:, None], tl.arange(0, DIM_PADDED)
    mine = (group * SHARED + head) * DIM + column[None, :]  # of the row
    is_mine = head < SHARED
    if DIM_PADDED != DIM:
        is_mine = is_mine & (column < DIM)[None, :]
    asked = tl.load(queries + row * queries_stride + mine, mask=is_mine, other=0.0)
    length = tl.load(positions + row * positions_stride) + 1
    largest = tl.full([SHARED_PADDED], -float("inf"), tl.float32)
    total = tl.zeros([SHARED_PADDED], tl.float32)
    summed = tl.zeros([SHARED_PADDED, DIM_PADDED], tl.float32)
    for start in range(0, length, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < length
        page = tl.load(table + row * table_stride + token // PAGE, mask=inside, other=0)
        place = ((page * PAGE + token % PAGE) * KV_HEADS + group) * DIM
        is_key, is_value = inside[None, :], inside[:, None]
        if DIM_PADDED != DIM:
            is_key, is_value = is_key & (column < DIM)[:, None], is_value & (column < DIM)[None, :]
        key = tl.load(keys + place[None, :] + column[:, None], mask=is_key, other=0.0)  # (D, BLOCK)
        value = tl.load(values + place[:, None] + column[None, :], mask=is_value, other=0.0)  # (BLOCK, D)
        weight = tl.dot(asked, key, input_precision="ieee") * (scale * 1.4426950408889634)  # log2(e)
        weight = tl.where(inside[None, :], weight, -float("inf"))
        larger = tl.maximum(largest, tl.max(weight, 1))
        faded = tl.exp2(largest - larger)
        weight = tl.exp2(weight - larger[:, None])
        total = total * faded + tl.sum(weight, 1)
        summed = summed * faded[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        largest = larger
    tl.store(
        out + row * (KV_HEADS * SHARED * DIM) + mine, (summed / total[:, None]).to(out.dtype.element_ty), mask=is_mine
    )
