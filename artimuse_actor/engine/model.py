"""The network's passes: image encoding, prefill with a KV cache, and the decode step.

A score needs far less than a general forward computes: keys and values of the prefix that all images share are computed
once, the last layer runs only at the position that is read, and only the logits of the 101 levels are computed.
transformers' own forward is the slow, obvious path that tests compare with.

Shapes: B images or prompts, T new tokens, P tokens already in the cache, H query heads, G key-value heads, D features
of a head, C features of a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional

from artimuse_actor.engine.attention import DecodePages, Pages, RowGroups, attend, causal_mask
from artimuse_actor.engine.choose_pages import choose_pages
from artimuse_actor.engine.joined_linear import JoinedLinear, padded_rows
from artimuse_actor.engine.kv_cache import EMPTY_CACHE, KVCache, PagedKVCache
from artimuse_actor.engine.layer_kernels import Kernels, choose_kernels
from artimuse_actor.engine.network import DecoderLayer, Network
from artimuse_actor.engine.pixel_shuffle import pixel_shuffle
from artimuse_actor.engine.pixel_values import PixelValues
from artimuse_actor.engine.rotary import cosines_sines, frequencies
from artimuse_actor.engine.watched_tokens import WatchedTokens

NO_TOKEN: Final = -1
"""In place of a next token: the network's answer is no number."""


@dataclass(frozen=True)
class _Layer:
    """A layer of the language model, and its weights as they are multiplied.

    Attributes:
        module: its own weights.
        qkv: queries, keys and values.
        keys_values: of the last layer these alone, where no other position is read.
        gate_up: the two halves of the feed-forward part.
    """

    module: DecoderLayer
    qkv: JoinedLinear
    keys_values: JoinedLinear
    gate_up: JoinedLinear

    @classmethod
    def of(cls, module: DecoderLayer) -> _Layer:
        attention, mlp = module.self_attn, module.mlp
        qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
        return cls(module, JoinedLinear(qkv), JoinedLinear(qkv[1:]), JoinedLinear([mlp.gate_proj, mlp.up_proj]))


class VisionLanguageModel:
    """InternVL's passes over loaded weights.

    Attributes:
        network: the weights.
        pages: the attention of decode steps.
        kernels: what a layer does between its products.
        frequencies: (D/2,) float32, of the rotary positions.
        device, dtype: of all weights.
    """

    def __init__(self, network: Network, pages: Pages | None = None, kernels: Kernels | None = None) -> None:
        """Wrap a network that is already on its device, in its dtype, in eval mode.

        Args:
            network: as `build_network` makes it.
            pages: the attention of decode steps; the fastest that works on the device if not given.
            kernels: of a layer; the fastest that work on the device if not given.
        """
        self.network = network
        self._decoder = network.language_model.model
        self._lm_head = network.language_model.lm_head.weight  # (V, C)
        self._padded_head = padded_rows(self._lm_head)  # the same, and some rows of zeros
        config = network.config.language
        self._num_heads, self._num_kv_heads, self._head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self._layers = [_Layer.of(layer) for layer in self._decoder.layers]
        self.device, self.dtype = self._lm_head.device, self._lm_head.dtype
        self.frequencies = frequencies(self._head_dim, config.rope_theta, self.device)
        sizes = {"heads": self._num_heads, "kv_heads": self._num_kv_heads, "head_dim": self._head_dim}
        self.pages = pages or choose_pages(self.device, self.dtype, **sizes)
        self.kernels = kernels or choose_kernels(self.device, self.dtype, **sizes)
        self._pixel_values = PixelValues(self.device, self.dtype)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 448, 448, 3) uint8 → (B, 3, 448, 448) in the network's dtype, see `PixelValues.of`."""
        return self._pixel_values.of(pixels)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images into image tokens.

        Args:
            pixels: (B, 448, 448, 3) uint8, RGB.

        Returns:
            (B, 256, C).

        Source: ArtiMuse, `InternVLChatModel.extract_feature` at 750d980.
        """
        patches = self.network.vision_model(self.normalise(pixels))  # (B, 1024, V)
        tokens: torch.Tensor = self.network.mlp1(pixel_shuffle(patches))
        return tokens

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(1, T, C) embeddings of text tokens."""
        ids = torch.tensor([list(token_ids)], dtype=torch.long, device=self.device)  # (1, T)
        embedded: torch.Tensor = self._decoder.embed_tokens(ids)
        return embedded

    def extend(self, hidden: torch.Tensor, past: KVCache = EMPTY_CACHE) -> KVCache:
        """Read tokens into a cache that other prompts continue from; no output is computed.

        Args:
            hidden: (B, T, C) embeddings.
            past: what was read before, for all B or, with a batch of 1, the same for each.

        Returns:
            The cache of P + T tokens.
        """
        mask, cos, sin = self._causal(past.length, hidden.shape[1])
        cached: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer, before in self._with_past(past):
            normed = layer.module.input_layernorm(hidden)  # (B, T, C)
            if len(cached) == len(self._layers) - 1:  # of the last layer nothing else is read
                keys, values = layer.keys_values(normed)  # (B, T, G·D) each
                cached.append(self.kernels.appended(before, keys, values, cos, sin))
                break
            queries, keys, values = layer.qkv(normed)
            cached.append(self.kernels.appended(before, keys, values, cos, sin))
            queries = self.kernels.rotated(queries, cos, sin)  # (B, H, T, D)
            hidden = self._after_attention(layer, hidden, attend(queries, *cached[-1], mask))
        return KVCache(tuple(cached))

    def last_hidden(self, hidden: torch.Tensor, past: KVCache = EMPTY_CACHE) -> torch.Tensor:
        """The final hidden state at the last token, after the final norm.

        Args:
            hidden: (B, T, C) embeddings, all of the same length: nothing is padded.
            past: what was read before, for all B or, with a batch of 1, the same for each.

        Returns:
            (B, C).
        """
        mask, cos, sin = self._causal(past.length, hidden.shape[1])
        for layer, before in self._with_past(past):
            normed = layer.module.input_layernorm(hidden)  # (B, T, C)
            if layer is self._layers[-1]:  # only its last position is read
                keys, values = layer.keys_values(normed)
                keys, values = self.kernels.appended(before, keys, values, cos, sin)
                queries = layer.module.self_attn.q_proj(normed[:, -1:])  # (B, 1, H·D)
                hidden, cos, sin, mask = hidden[:, -1:], cos[-1:], sin[-1:], None
            else:
                queries, keys, values = layer.qkv(normed)  # (B, T, H·D), (B, T, G·D) twice
                keys, values = self.kernels.appended(before, keys, values, cos, sin)
            queries = self.kernels.rotated(queries, cos, sin)  # (B, H, T, D)
            hidden = self._after_attention(layer, hidden, attend(queries, keys, values, mask))
        last: torch.Tensor = self._decoder.norm(hidden).squeeze(1)
        return last

    def head_logits(self, last_hidden: torch.Tensor, token_ids: torch.Tensor, *, rounded: bool = False) -> torch.Tensor:
        """Logits of a few tokens only, in float32 whatever the network's dtype, unless `rounded`.

        Args:
            last_hidden: (B, C).
            token_ids: (K,) int64.
            rounded: in the network's dtype, as its own head computes them.

        Returns:
            (B, K) float32, or of the network's dtype.
        """
        rows = self._lm_head[token_ids]  # (K, C)
        return last_hidden @ rows.T if rounded else last_hidden.float() @ rows.float().T

    def new_cache(self, pages: int | None = None, *, frugal: bool = False) -> PagedKVCache:
        """A cache for `decode_step`: of so many pages, the scratch page included, or one that grows.

        Raises:
            torch.OutOfMemoryError: the device has no room for it.
        """
        return PagedKVCache(
            layers=len(self._layers),
            kv_heads=self._num_kv_heads,
            head_dim=self._head_dim,
            page_tokens=self.pages.page_tokens,
            device=self.device,
            dtype=self.dtype,
            pages=pages,
            frugal=frugal,
        )

    def read_step(
        self,
        packed: torch.Tensor,
        cache: PagedKVCache,
        groups: RowGroups = (),
        last_ids: torch.Tensor | None = None,
        watched: WatchedTokens | None = None,
    ) -> torch.Tensor:
        """Read one more token of each row, and choose the next.

        Args:
            packed: (B, 2 + W) int64, the token, position and pages of each row.
            cache: keys and values of the tokens read before; those of the new tokens are added.
            groups: see `DecodePages`.
            last_ids: (R,) int64, R at least B: what the step before chose. A token of -1 - r stands for that of its row
                r; the new ones are written there.
            watched: gets the probabilities of its tokens as the next one.

        Returns:
            (B,) int64, the likeliest next token of each, or `NO_TOKEN`.
        """
        token_ids = packed[:, 0]  # (B,)
        if last_ids is not None:
            token_ids = torch.where(token_ids < 0, last_ids[(-1 - token_ids).clamp(min=0)], token_ids)
        step = self.pages(cache, packed[:, 1], packed[:, 2:], groups)
        next_ids = self.next_tokens(self.decode_step(token_ids, step), watched)
        if last_ids is not None:
            last_ids[: len(packed)] = next_ids.clamp(min=0)
        return next_ids

    def decode_step(self, token_ids: torch.Tensor, step: DecodePages) -> torch.Tensor:
        """Read one more token of each row.

        Repeating a step changes nothing: it writes the same keys and values to the same slots.

        Args:
            token_ids: (B,) int64.
            step: the position and pages of each row.

        Returns:
            (B, C), the final hidden state, after the final norm.
        """
        hidden: torch.Tensor = self._decoder.embed_tokens(token_ids)  # (B, C)
        cos, sin = self._rotary(step.positions)  # (B, D) each
        turning = (self._num_heads + self._num_kv_heads) * self._head_dim
        for index, layer in enumerate(self._layers):
            product = layer.qkv.whole(layer.module.input_layernorm(hidden))  # (B, (H + 2G)·D)
            # Queries and keys together, half the kernels; rows are what tokens are in a prefill.
            turned = self.kernels.rotated(product[None, :, :turning], cos, sin)[0].transpose(0, 1)  # (B, H + G, D)
            queries, keys = turned.split([self._num_heads, self._num_kv_heads], dim=1)
            values = product[:, turning:].unflatten(1, (self._num_kv_heads, -1))  # (B, G, D)
            hidden = self._after_attention(layer, hidden, step.attend(index, queries, keys, values))
        last: torch.Tensor = self._decoder.norm(hidden)
        return last

    def next_tokens(self, last_hidden: torch.Tensor, watched: WatchedTokens | None = None) -> torch.Tensor:
        """The likeliest next token after each of (B, C) hidden states: (B,) int64; of equal logits the lowest id.

        It is `NO_TOKEN` where its logit is NaN or infinite, which would otherwise be stored as a text. In half
        precision the logits are rounded before they are compared, as in the published code. Watched tokens get their
        probabilities from the same logits.
        """
        logits = functional.linear(last_hidden, self._padded_head)[:, : len(self._lm_head)]  # (B, V)
        if watched is not None:
            watched.note(logits)
        next_ids = logits.argmax(dim=-1)  # a NaN, if there is one
        return next_ids.where(logits.gather(-1, next_ids[:, None])[:, 0].isfinite(), NO_TOKEN)

    def _with_past(self, past: KVCache) -> Iterator[tuple[_Layer, tuple[torch.Tensor, torch.Tensor] | None]]:
        """Each layer with the keys and values that it read before."""
        return zip(self._layers, past.layers or (None,) * len(self._layers), strict=True)

    def _causal(self, past: int, new: int) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """The mask of a prefill, and its (T, D) cosines and sines."""
        cos, sin = self._rotary(torch.arange(past, past + new, device=self.device))  # (T, D) each
        return causal_mask(past, new, self.device, self.dtype), cos, sin

    def _after_attention(self, layer: _Layer, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The rest of a layer: (…, C) of what it was given and (…, H·D) of its attention → (…, C)."""
        # In place: a new tensor of this size costs page faults on a CPU and memory on a GPU.
        hidden = layer.module.self_attn.o_proj(attended).add_(hidden)  # (…, C)
        gate, up = layer.gate_up(layer.module.post_attention_layernorm(hidden))
        added: torch.Tensor = layer.module.mlp.down_proj(self.kernels.gated(gate, up)).add_(hidden)
        return added

    def _rotary(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cosines_sines(self.frequencies, positions, self.dtype)
