"""The network: InternViT, the projector and Qwen2, whose parameters have their published names.

The vision tower and the projector run as they stand here. The modules of the language model only hold its weights:
`model.py` has the passes over them, since a score needs far less than a general forward computes.

Shapes: B images, N patches and the CLS token, H heads, D features of a head, V features of a patch, C of a token.

Source: InternVL, modeling_intern_vit.py and modeling_internvl_chat.py as published with ArtiMuse at 750d980.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from artimuse_actor.checkpoint.network_config import LanguageConfig, NetworkConfig, VisionConfig


class Network(nn.Module):
    """InternVL.

    Attributes:
        config: the sizes.
        vision_model: pixels → patches.
        mlp1: the projector, from four patches that were put together to one image token.
        language_model: weights of Qwen2 and of its head.
    """

    def __init__(self, config: NetworkConfig) -> None:
        """Make modules of these sizes; use `build_network` instead."""
        super().__init__()
        self.config = config
        shuffled, hidden = 4 * config.vision.hidden_size, config.language.hidden_size
        self.vision_model = VisionModel(config.vision)
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(shuffled), nn.Linear(shuffled, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.language_model = LanguageModel(config.language)


class VisionModel(nn.Module):
    """InternViT."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, 448, 448) normalised pixels → (B, N, V) patches, without the CLS token."""
        encoded: torch.Tensor = self.encoder(self.embeddings(pixels))  # (B, 1 + N, V)
        return encoded[:, 1:]


class VisionEmbeddings(nn.Module):
    """Patches, the CLS token before them, and their positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(1, 1, hidden))
        self.patch_embedding = nn.Conv2d(3, hidden, kernel_size=patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + config.num_patches, hidden))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, 448, 448) → (B, 1 + N, V), the patches in row order."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (B, N, V)
        first = self.class_embedding.expand(len(patches), -1, -1)  # (B, 1, V)
        return torch.cat([first, patches], dim=1) + self.position_embedding


class VisionEncoder(nn.Module):
    """InternViT's layers; no norm comes after the last."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_layers))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, 1 + N, V) → the same shape."""
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class VisionLayer(nn.Module):
    """Attention and a feed-forward part, each after a norm, scaled, and added to what it was given."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.norm1 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.attn = VisionAttention(config)
        self.ls1 = nn.Parameter(torch.empty(hidden))
        self.norm2 = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.mlp = VisionFeedForward(config)
        self.ls2 = nn.Parameter(torch.empty(hidden))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, 1 + N, V) → the same shape."""
        hidden = hidden + self.attn(self.norm1(hidden)) * self.ls1
        hidden = hidden + self.mlp(self.norm2(hidden)) * self.ls2
        return hidden


class VisionAttention(nn.Module):
    """Attention of every patch to all patches and the CLS token."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, 1 + N, V) → the same shape."""
        parts = self.qkv(hidden).unflatten(2, (3, self.num_heads, -1))  # (B, 1 + N, 3, H, D)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (B, H, 1 + N, D) each
        attended = functional.scaled_dot_product_attention(queries, keys, values)  # (B, H, 1 + N, D)
        projected: torch.Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class VisionFeedForward(nn.Module):
    """The feed-forward part of a layer."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, 1 + N, V) → the same shape."""
        projected: torch.Tensor = self.fc2(functional.gelu(self.fc1(hidden)))
        return projected


class LanguageModel(nn.Module):
    """Weights of Qwen2 and of its head over the vocabulary."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class Decoder(nn.Module):
    """Weights of Qwen2 without its head."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        # Given a weight, it draws none: normal_ on the meta device imports torch's compiler, which takes two seconds.
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(config.vocab_size, config.hidden_size))
        layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.layers: Sequence[DecoderLayer] = layers  # type: ignore[assignment] # its stub knows no kind of module
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class DecoderLayer(nn.Module):
    """Weights of one layer: attention and a feed-forward part, each after a norm, and added to what it was given."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = DecoderAttention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = DecoderFeedForward(config)


class DecoderAttention(nn.Module):
    """Weights of grouped-query attention: the heads of keys and values are fewer."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        hidden, keys = config.hidden_size, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, keys)
        self.v_proj = nn.Linear(hidden, keys)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)


class DecoderFeedForward(nn.Module):
    """Weights of the feed-forward part: silu(gate) · up, then down."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, wide, bias=False)
        self.up_proj = nn.Linear(hidden, wide, bias=False)
        self.down_proj = nn.Linear(wide, hidden, bias=False)
