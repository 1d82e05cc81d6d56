"""What the kernels for paged attention refuse, so that a call can be checked where they cannot run.

Transcribed from their documentation and messages: `varlen_attn` of torch 2.13 over flash-attn 2 (`mha_varlen_fwd`), and
`flash_attn_with_kvcache` of flash-attn 2.8; for decode steps, in which each row has one new token.
"""

from __future__ import annotations

import torch


def check_pages(cache: torch.Tensor, table: torch.Tensor, rows: int, *others: torch.Tensor) -> None:
    """The checks of flash-attn 2 on pages, a table of them, and (rows,) or (rows + 1,) int32 tensors."""
    assert cache.dim() == 4, "pages are (pages, S, G, D)"
    assert cache.shape[1] % 256 == 0, "Paged KV cache block size must be divisible by 256"
    assert cache.shape[3] % 8 == 0, "head_size must be a multiple of 8"
    assert table.dtype == torch.int32, "block_table must have dtype torch.int32"
    assert table.shape[0] == rows, "block_table has a row for each sequence"
    assert table.stride(-1) == 1, "block_table must have contiguous last dimension"
    for tensor in others:
        assert tensor.dtype == torch.int32, "lengths and offsets must have dtype int32"
        assert tensor.is_contiguous(), "lengths and offsets must be contiguous"
    assert len({tensor.device for tensor in (cache, table, *others)}) == 1, "tensors are on different devices"


def check_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor | None,
    max_q: int,
    max_k: int,
    *,
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
    num_splits: int | None,
) -> None:
    """What `varlen_attn` and `mha_varlen_fwd` of torch 2.13 check, for decode steps over pages."""
    assert cu_seq_k is not None, "cumulative_sequence_length_q and …_k must be both set or both not set"
    rows = len(cu_seq_q) - 1
    assert query.dim() == 3, "queries are (T, H, D)"
    assert query.shape[0] == rows, "a decode step has one query for each row"
    assert query.stride(-1) == 1, "Input tensor must have contiguous last dimension"
    assert query.dtype == key.dtype == value.dtype, "query and key must have the same dtype"
    assert query.device == key.device, "tensors are on different devices"
    assert key.shape == value.shape, "keys and values differ in shape"
    assert query.shape[1] == key.shape[2] or (enable_gqa and query.shape[1] % key.shape[2] == 0), "heads do not fit"
    check_pages(key, block_table, rows, cu_seq_q, cu_seq_k, seqused_k)
    assert len(cu_seq_k) == rows + 1, "cu_seqlens_k must have shape (batch_size + 1)"
    assert len(seqused_k) == rows, "seqused_k must have shape (batch_size)"
    assert max_q == 1, "a decode step has one query for each row"
    assert max_k == block_table.shape[1] * key.shape[1], "max_k does not fit the table"
    assert num_splits == 1, "split keys are wrong with pages"


def check_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor,
    causal: bool,
    num_splits: int,
) -> None:
    """What `flash_attn_with_kvcache` checks."""
    assert q.dim() == 4, "queries are (B, 1, H, D)"
    assert q.shape[1] == k.shape[1] == 1, "a decode step has one token for each row"
    assert causal, "the new token sees those before it"
    assert num_splits == 1, "a row would depend on the others"
    assert q.dtype == k.dtype == v.dtype == k_cache.dtype == v_cache.dtype, "query and key must have the same dtype"
    assert q.device == k.device == k_cache.device, "tensors are on different devices"
    assert k.shape == v.shape, "keys and values differ in shape"
    assert k.shape[2:] == k_cache.shape[2:], "new keys do not fit the pages"
    assert q.shape[2] % k.shape[2] == 0, "heads do not fit"
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1, "Input tensor must have contiguous last dimension"
    check_pages(k_cache, block_table, len(q), cache_seqlens)
    assert len(cache_seqlens) == len(q), "cache_seqlens must have shape (batch_size)"
