"""Sequences in flight and pages of the KV cache that fit into a device's free memory.

On CUDA the cache is one allocation, and what else a run needs is set aside first: the activations of a prefill and of
a decode step, counted from the network's shapes, and stated reserves for what no count knows, which is the driver's
share of captured graphs and the workspaces of libraries. On other devices the cache grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.checkpoint.network_memory import prefill_bytes
from artimuse_actor.engine.attention import Pages
from artimuse_actor.engine.device_memory import release_memory
from artimuse_actor.engine.graphs import MAX_GRAPHS

CPU_SEQUENCES: Final = 16
MAX_AUTO_SEQUENCES: Final = 512  # from about 200 rows a step is compute-bound
EXPECTED_TEXT_TOKENS: Final = 128  # published answers average 94 words
GRAPH_BYTES: Final = 32 * 2**20  # of the driver, for each graph
WORKSPACE_BYTES: Final = 512 * 2**20  # of cuBLAS, cuDNN and kernels loaded later
_SHARE: Final = 0.95  # of free memory; the rest is lost between blocks


@dataclass(frozen=True)
class TextPrompts:
    """Lengths of text prompts, in tokens.

    Attributes:
        prefix: what all of one image have in common, the image included.
        longest: the longest one's own.
        count: questions about an image.
        max_new_tokens: limit of a text.
        watched: whether probabilities of tokens are noted, see `watched_tokens`.
    """

    prefix: int
    longest: int
    count: int
    max_new_tokens: int
    watched: bool = False


@dataclass(frozen=True)
class TextBudget:
    """Limits of a text engine.

    Attributes:
        sequences: in flight.
        max_admission: images of one prefill.
        pages: of the KV cache, the scratch page included; None if it grows.
    """

    sequences: int
    max_admission: int
    pages: int | None


def text_budget(
    config: NetworkConfig,
    prompts: TextPrompts,
    *,
    device: torch.device,
    dtype: torch.dtype,
    kind: Pages,
    batch_size: int,
    sequences: int | None = None,
    reserved: int = 0,
) -> TextBudget:
    """The largest budget that should fit.

    Args:
        config: the network's sizes.
        prompts: of the engine.
        device: where the weights already are.
        dtype: of weights, keys and values.
        kind: the attention of decode steps.
        batch_size: most images of one prefill.
        sequences: most in flight, if the user says so.
        reserved: bytes that a pass takes whatever the rows.
    """
    if device.type != "cuda":
        return TextBudget(sequences or CPU_SEQUENCES, batch_size, None)
    release_memory(device)
    free_bytes = (
        int(_SHARE * torch.cuda.mem_get_info(device)[0]) - WORKSPACE_BYTES - MAX_GRAPHS * GRAPH_BYTES - reserved
    )
    size, wanted = kind.page_tokens, sequences or MAX_AUTO_SEQUENCES
    language = config.language
    bytes_per_page = size * 2 * language.num_layers * language.num_kv_heads * language.head_dim * dtype.itemsize
    whole = prompts.prefix // size
    expected, most = (
        -(-(prompts.prefix + prompts.longest + tokens) // size) - whole
        for tokens in (min(EXPECTED_TEXT_TOKENS, prompts.max_new_tokens), prompts.max_new_tokens)
    )  # own pages of a sequence
    admission = max(1, min(batch_size, wanted // (2 * prompts.count)))
    while True:
        left = free_bytes - admission * prefill_bytes(config, prompts.prefix, dtype.itemsize)
        pages = (left - wanted * step_bytes(config, prompts, dtype, kind)) // bytes_per_page - 1
        waiting = admission * (whole + 1)
        fit = (pages - waiting) * prompts.count // (prompts.count * expected + whole + 1)
        if admission == 1 or fit >= min(wanted, 2 * prompts.count * admission):
            break
        admission //= 2  # a large prefill is worth less than sequences in flight
    in_flight = sequences or max(1, min(wanted, fit))
    images = -(-in_flight // prompts.count) + admission
    enough = in_flight * most + images * (whole + 1)  # for texts that all reach the limit
    return TextBudget(in_flight, admission, 1 + max(whole + 1 + 1, min(pages, enough)))


def step_bytes(config: NetworkConfig, prompts: TextPrompts, dtype: torch.dtype, kind: Pages) -> int:
    """Activations of one row of a decode step.

    Where pages are gathered, copies of its keys and values too; where tokens are watched, its logits twice in float32,
    since torch converts bfloat16 before a softmax.
    """
    language = config.language
    features = language.vocab_size + 8 * language.hidden_size + 3 * language.intermediate_size
    if not kind.mixes_lengths:
        tokens = prompts.prefix + prompts.longest + EXPECTED_TEXT_TOKENS
        features += 3 * tokens * language.num_kv_heads * language.head_dim
    probabilities = 2 * torch.float32.itemsize * language.vocab_size if prompts.watched else 0
    return dtype.itemsize * features + probabilities
