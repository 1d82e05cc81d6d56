"""The network's passes: image encoding, prefill with a KV cache, and the decode step.

transformers' InternVL modules hold the weights; the passes over them are our own, because a score needs far less than
a general forward computes: keys and values of the prefix that all images share are computed once, the last layer runs
only at the position that is read, and only the logits of the 101 levels are computed. transformers' own forward is the
slow, obvious path that tests compare with.

Shapes: B images or prompts, T new tokens, P tokens already in the cache, H query heads, G key-value heads, D features
of a head, C features of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import InternVLForConditionalGeneration

from artimuse_actor.engine.kv_cache import EMPTY_CACHE, KVCache, PagedKVCache, PageGroup, StepRows
from artimuse_actor.protocol.prompts import SplitPrompts

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
PAGE_TOKENS: Final = 32
FLASH_PAGE_TOKENS: Final = 256  # flash-attn's kernel takes multiples of it


class VisionLanguageModel:
    """InternVL's passes over loaded weights."""

    def __init__(self, network: InternVLForConditionalGeneration) -> None:
        """Wrap a network that is already on its device, in its dtype, in eval mode."""
        self.network = network
        self._vision = network.model.vision_tower
        self._projector = network.model.multi_modal_projector
        self._language = network.model.language_model
        config = network.config.text_config
        self._num_heads: int = config.num_attention_heads
        self._num_kv_heads: int = config.num_key_value_heads
        self._head_dim: int = config.hidden_size // config.num_attention_heads
        self.flash = network.config._attn_implementation == "flash_attention_2"
        embedding = self._language.embed_tokens.weight
        self.device: torch.device = embedding.device
        self.dtype: torch.dtype = embedding.dtype
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(IMAGENET_MEAN, device=self.device).reshape(shape)
        self._std = torch.tensor(IMAGENET_STD, device=self.device).reshape(shape)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scale and normalise pixels as the network expects them.

        Args:
            pixels: (B, 448, 448, 3) uint8, RGB, on any device.

        Returns:
            (B, 3, 448, 448) in the network's dtype: scaled to 0…1 and normalised with ImageNet's mean and deviation,
            in float32 up to the last cast.
        """
        values = pixels.to(self.device).permute(0, 3, 1, 2).float() / 255
        return ((values - self._mean) / self._std).to(self.dtype)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images into image tokens.

        Args:
            pixels: (B, 448, 448, 3) uint8, RGB.

        Returns:
            (B, 256, C).

        Source: ArtiMuse, `InternVLChatModel.extract_feature` at 750d980.
        """
        patches = self._vision(self.normalise(pixels)).last_hidden_state[:, 1:]  # (B, 1024, V), without the CLS token
        tokens: torch.Tensor = self._projector(pixel_shuffle(patches))
        return tokens

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(1, T, C) embeddings of text tokens."""
        ids = torch.tensor([list(token_ids)], dtype=torch.long, device=self.device)
        embedded: torch.Tensor = self._language.embed_tokens(ids)
        return embedded

    def extend(self, hidden: torch.Tensor, past: KVCache = EMPTY_CACHE) -> KVCache:
        """Read tokens into a cache that other prompts continue from; no output is computed.

        Args:
            hidden: (B, T, C) embeddings.
            past: what was read before, for all B or, with a batch of 1, the same for each.

        Returns:
            The cache of P + T tokens.
        """
        cache, _ = self._prefill(hidden, past, read_last=False)
        return cache

    def last_hidden(self, hidden: torch.Tensor, past: KVCache = EMPTY_CACHE) -> torch.Tensor:
        """The final hidden state at the last token, after the final norm.

        Args:
            hidden: (B, T, C) embeddings, all of the same length: nothing is padded.
            past: what was read before, for all B or, with a batch of 1, the same for each.

        Returns:
            (B, C).
        """
        _, last = self._prefill(hidden, past, read_last=True)
        return self._norm(last, self._language.norm).squeeze(1)

    def head_logits(self, last_hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits of a few tokens only, in float32 whatever the network's dtype.

        Args:
            last_hidden: (B, C).
            token_ids: (K,) int64.

        Returns:
            (B, K) float32.
        """
        rows: torch.Tensor = self.network.lm_head.weight[token_ids].float()  # (K, C)
        return last_hidden.float() @ rows.T

    def new_pages(self) -> PagedKVCache:
        """An empty cache for `decode_step`."""
        return PagedKVCache(
            layers=len(self._language.layers),
            kv_heads=self._num_kv_heads,
            head_dim=self._head_dim,
            page_tokens=FLASH_PAGE_TOKENS if self.flash else PAGE_TOKENS,
            device=self.device,
            dtype=self.dtype,
        )

    def decode_step(self, token_ids: torch.Tensor, cache: PagedKVCache, rows: StepRows) -> torch.Tensor:
        """Read one more token of each row.

        Repeating a step changes nothing: it writes the same keys and values to the same slots.

        Args:
            token_ids: (B,) int64.
            cache: keys and values of the tokens read before; those of the new tokens are added.
            rows: the position and pages of each row.

        Returns:
            (B, C), the final hidden state, after the final norm.
        """
        hidden: torch.Tensor = self._language.embed_tokens(token_ids)  # (B, C)
        cos, sin = (part.unsqueeze(1) for part in self._rotary(rows.positions))  # (B, 1, D)
        for index, layer in enumerate(self._language.layers):
            attention = layer.self_attn
            normed = self._norm(hidden, layer.input_layernorm)
            queries = _rotate(attention.q_proj(normed).unflatten(1, (self._num_heads, -1)), cos, sin)  # (B, H, D)
            keys = _rotate(attention.k_proj(normed).unflatten(1, (self._num_kv_heads, -1)), cos, sin)  # (B, G, D)
            values = attention.v_proj(normed).unflatten(1, (self._num_kv_heads, -1))
            hidden = attention.o_proj(self._attend_pages(queries, keys, values, cache, index, rows)).add_(hidden)
            hidden = self._feed_forward(hidden, layer)
        return self._norm(hidden, self._language.norm)

    def next_tokens(self, last_hidden: torch.Tensor) -> torch.Tensor:
        """The likeliest next token after each of (B, C) hidden states: (B,) int64; of equal logits the lowest id.

        In half precision the logits are rounded before they are compared, as in the published code.
        """
        tokens: torch.Tensor = self.network.lm_head(last_hidden).argmax(dim=-1)
        return tokens

    def _prefill(self, hidden: torch.Tensor, past: KVCache, *, read_last: bool) -> tuple[KVCache, torch.Tensor]:
        tokens = hidden.shape[1]
        cos, sin = self._rotary(torch.arange(past.length, past.length + tokens, device=self.device))
        mask = self._causal_mask(past.length, tokens)
        layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        final = len(self._language.layers) - 1
        for index, layer in enumerate(self._language.layers):
            normed = self._norm(hidden, layer.input_layernorm)
            keys = _rotate(self._heads(layer.self_attn.k_proj(normed), self._num_kv_heads), cos, sin)
            values = self._heads(layer.self_attn.v_proj(normed), self._num_kv_heads)
            if past.layers:
                keys, values = _append(past.layers[index], keys, values)
            if not read_last:
                layers.append((keys, values))
            if index == final:
                if not read_last:
                    break
                # Only the last position of the last layer is read.
                hidden, normed, cos, sin = hidden[:, -1:], normed[:, -1:], cos[-1:], sin[-1:]
                mask = None
            queries = _rotate(self._heads(layer.self_attn.q_proj(normed), self._num_heads), cos, sin)
            # In place: a new tensor of this size costs page faults on a CPU and memory on a GPU.
            hidden = layer.self_attn.o_proj(self._attend(queries, keys, values, mask)).add_(hidden)
            hidden = self._feed_forward(hidden, layer)
        return KVCache(tuple(layers)), hidden

    def _feed_forward(self, hidden: torch.Tensor, layer: Any) -> torch.Tensor:
        normed = self._norm(hidden, layer.post_attention_layernorm)
        gated = functional.silu(layer.mlp.gate_proj(normed), inplace=True).mul_(layer.mlp.up_proj(normed))
        fed: torch.Tensor = layer.mlp.down_proj(gated).add_(hidden)
        return fed

    def _attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Causal attention of the last T of P + T positions: (B, H, T, D) over (B, G, P + T, D) → (B, T, H·D)."""
        attended: torch.Tensor
        if self.flash:
            from flash_attn import flash_attn_func  # the `gpu` extra; its causal mask is aligned to the lower right

            attended = flash_attn_func(*(part.transpose(1, 2) for part in (queries, keys, values)), causal=True)
        else:
            square = 1 < queries.shape[2] == keys.shape[2]
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=square, enable_gqa=True
            ).transpose(1, 2)
        return attended.flatten(2)

    def _attend_pages(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        cache: PagedKVCache,
        layer: int,
        rows: StepRows,
    ) -> torch.Tensor:
        """Store the new (B, G, D) keys and values, then attend to all tokens of each row: (B, H, D) → (B, H·D)."""
        if self.flash:
            from flash_attn import flash_attn_with_kvcache

            attended = flash_attn_with_kvcache(
                queries.unsqueeze(1),
                cache.keys[layer],
                cache.values[layer],
                keys.unsqueeze(1),
                values.unsqueeze(1),
                cache_seqlens=rows.positions.int(),
                block_table=rows.table.int(),
                causal=True,
            )
            return attended.flatten(1)  # type: ignore[no-any-return]
        cache.write(layer, rows.pages, rows.offsets, keys, values)
        # The H / G heads that share keys become the queries of one attention, so no key is repeated in memory.
        grouped = queries.unflatten(1, (self._num_kv_heads, -1))  # (B, G, H/G, D)
        if len(rows.groups) == 1:
            return self._attend_group(grouped, cache, layer, rows.groups[0]).flatten(1)
        attended = torch.empty_like(grouped)
        for group in rows.groups:
            attended[group.rows] = self._attend_group(grouped[group.rows], cache, layer, group)
        return attended.flatten(1)

    def _attend_group(self, queries: torch.Tensor, cache: PagedKVCache, layer: int, group: PageGroup) -> torch.Tensor:
        """(M, G, H/G, D) over the pages of M rows → the same shape."""
        rows, tokens = len(queries), group.mask.shape[-1]
        keys, values = (
            pool.index_select(0, group.table.flatten()).view(rows, tokens, *pool.shape[2:]).transpose(1, 2)
            for pool in (cache.keys[layer], cache.values[layer])
        )  # (M, G, W·S, D)
        return functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=group.mask.expand(-1, -1, queries.shape[2], -1)
        )

    def _causal_mask(self, past: int, new: int) -> torch.Tensor | None:
        """Attention mask for SDPA; None where its own `is_causal` says the same."""
        if self.flash or past == 0 or new == 1:
            return None
        if self.device.type == "cuda" and self.dtype != torch.float32:
            # A marker object, not a tensor: with it SDPA takes the flash kernel, grouped heads included.
            return causal_lower_right(new, past + new)
        mask = torch.full((new, past + new), -torch.inf, dtype=self.dtype, device=self.device)
        return mask.triu(past + 1)

    def _heads(self, projected: torch.Tensor, heads: int) -> torch.Tensor:
        batch, tokens, _ = projected.shape
        return projected.view(batch, tokens, heads, self._head_dim).transpose(1, 2)  # (B, heads, T, D)

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, D) cosines and signed sines, see `_rotate`, of (T,) positions, computed in float32."""
        probe = torch.empty(0, dtype=self.dtype, device=self.device)
        cos, sin = self._language.rotary_emb(probe, positions.unsqueeze(0))
        lower, upper = sin[0].chunk(2, dim=-1)
        return cos[0], torch.cat([-lower, upper], dim=-1)

    def _norm(self, hidden: torch.Tensor, norm: Any) -> torch.Tensor:
        return functional.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def read_answers(model: VisionLanguageModel, head: KVCache, prompts: SplitPrompts, image: torch.Tensor) -> torch.Tensor:
    """The final hidden state at the end of each prompt; the image and the shared tokens are read once.

    Args:
        model: the network.
        head: the cache of `prompts.head`.
        prompts: questions about each image.
        image: (B, 256, C) image tokens.

    Returns:
        (B, Q, C), one for each of the Q tails.
    """
    batch = image.shape[0]
    if len(prompts.tails) == 1:
        rest = model.embed(prompts.shared + prompts.tails[0]).expand(batch, -1, -1)
        return model.last_hidden(torch.cat([image, rest], dim=1), head).unsqueeze(1)
    shared = model.embed(prompts.shared).expand(batch, -1, -1)
    cache = model.extend(torch.cat([image, shared], dim=1), head)
    tails = (model.embed(tail).expand(batch, -1, -1) for tail in prompts.tails)
    return torch.stack([model.last_hidden(tail, cache) for tail in tails], dim=1)


def pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    """Merge each 2×2 block of patches into one token of four times the features.

    Args:
        patches: (B, S², V) in row order.

    Returns:
        (B, (S/2)², 4V); the features of a block come in the order upper left, upper right, lower left, lower right.

    Source: InternVL, `pixel_shuffle` with ps_version "v2" and scale 0.5.
    """
    batch, count, features = patches.shape
    side = round(count**0.5)
    blocks = patches.reshape(batch, side // 2, 2, side // 2, 2, features)
    return blocks.transpose(2, 3).reshape(batch, count // 4, 4 * features)


def _append(
    past: tuple[torch.Tensor, torch.Tensor], keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    old_keys, old_values = (part.expand(keys.shape[0], -1, -1, -1) for part in past)
    return torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    # The minus of (-right, left) is in the sine, which saves one pass over the heads.
    left, right = heads.chunk(2, dim=-1)
    return torch.addcmul(heads * cos, torch.cat([right, left], dim=-1), sin)
