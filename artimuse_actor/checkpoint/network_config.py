"""A published `config.json` → the network's sizes, and the tensors a network of these sizes must have.

A field that would make it another network than ArtiMuse's is an error that names the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from artimuse_actor.errors import CheckpointError, UsageError

_MAX_JSON_BYTES: Final = 100_000_000
_MAX_LAYERS: Final = 1_000
_MAX_DIMENSION: Final = 10_000_000

Shape = tuple[int, ...]

DTYPE_NAMES: Final = ("float32", "bfloat16", "float16")
QUANTIZATIONS: Final = ("int8", "fp8", "fp8-products", "nf4")
AUTO_DTYPES: Final[Mapping[str, str]] = {"cuda": "bfloat16", "mps": "float32", "cpu": "float32"}
"""The dtype that `--dtype auto` selects on each kind of device."""


def precision_name(dtype: str, quantize: str | None) -> str:
    """A precision as fingerprints have it: `bfloat16`, or `bfloat16/nf4` with weights of fewer bits.

    Raises:
        UsageError: one of them is unknown.
    """
    if dtype not in DTYPE_NAMES:
        raise UsageError(f"--dtype takes auto, {', '.join(DTYPE_NAMES)}, not {dtype!r}.")
    if quantize is None:
        return dtype
    if quantize not in QUANTIZATIONS:
        raise UsageError(f"--quantize takes {', '.join(QUANTIZATIONS)}, not {quantize!r}.")
    return f"{dtype}/{quantize}"


def known_precision(dtype: str, device: str, quantize: str | None) -> str | None:
    """The precision that `--dtype`, `--device` and `--quantize` name, if it is known without looking at a GPU."""
    if dtype == "auto":
        return precision_name(AUTO_DTYPES[device], quantize) if device in ("cpu", "mps") else None
    return precision_name(dtype, quantize)


@dataclass(frozen=True)
class VisionConfig:
    """InternViT: pre-norm LayerNorm, layer scale, CLS token, learned positions."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float
    qkv_bias: bool

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the CLS token."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True)
class LanguageConfig:
    """Qwen2: RMSNorm, rotary positions, grouped-query attention with biased q, k, v."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class NetworkConfig:
    """The fields of a `config.json` that the network depends on."""

    vision: VisionConfig
    language: LanguageConfig

    @classmethod
    def from_file(cls, path: Path) -> NetworkConfig:
        """Read a published `config.json`.

        Raises:
            CheckpointError: it is missing, not JSON, or describes another network; the message names the field.
        """
        return _ConfigReader(path).network()


def expected_shapes(config: NetworkConfig) -> dict[str, Shape]:
    """Published tensor name → shape, for a network of these sizes."""
    return (
        dict(_vision_shapes(config.vision)) | dict(_projector_shapes(config)) | dict(_language_shapes(config.language))
    )


def _vision_shapes(vision: VisionConfig) -> Iterator[tuple[str, Shape]]:
    hidden, wide = vision.hidden_size, vision.intermediate_size
    yield "vision_model.embeddings.class_embedding", (1, 1, hidden)
    yield "vision_model.embeddings.patch_embedding.weight", (hidden, 3, vision.patch_size, vision.patch_size)
    yield "vision_model.embeddings.patch_embedding.bias", (hidden,)
    yield "vision_model.embeddings.position_embedding", (1, vision.num_patches + 1, hidden)
    for n in range(vision.num_layers):
        layer = f"vision_model.encoder.layers.{n}"
        yield f"{layer}.attn.qkv.weight", (3 * hidden, hidden)
        if vision.qkv_bias:
            yield f"{layer}.attn.qkv.bias", (3 * hidden,)
        yield f"{layer}.attn.proj.weight", (hidden, hidden)
        yield f"{layer}.attn.proj.bias", (hidden,)
        yield f"{layer}.mlp.fc1.weight", (wide, hidden)
        yield f"{layer}.mlp.fc1.bias", (wide,)
        yield f"{layer}.mlp.fc2.weight", (hidden, wide)
        yield f"{layer}.mlp.fc2.bias", (hidden,)
        for vector in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1", "ls2"):
            yield f"{layer}.{vector}", (hidden,)


def _projector_shapes(config: NetworkConfig) -> Iterator[tuple[str, Shape]]:
    shuffled, hidden = 4 * config.vision.hidden_size, config.language.hidden_size
    yield "mlp1.0.weight", (shuffled,)
    yield "mlp1.0.bias", (shuffled,)
    yield "mlp1.1.weight", (hidden, shuffled)
    yield "mlp1.1.bias", (hidden,)
    yield "mlp1.3.weight", (hidden, hidden)
    yield "mlp1.3.bias", (hidden,)


def _language_shapes(language: LanguageConfig) -> Iterator[tuple[str, Shape]]:
    hidden, wide = language.hidden_size, language.intermediate_size
    keys = language.num_kv_heads * language.head_dim
    yield "language_model.model.embed_tokens.weight", (language.vocab_size, hidden)
    for n in range(language.num_layers):
        layer = f"language_model.model.layers.{n}"
        yield f"{layer}.input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{name}_proj.weight", (rows, hidden)
            yield f"{layer}.self_attn.{name}_proj.bias", (rows,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        yield f"{layer}.mlp.gate_proj.weight", (wide, hidden)
        yield f"{layer}.mlp.up_proj.weight", (wide, hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, wide)
    yield "language_model.model.norm.weight", (hidden,)
    if not language.tie_word_embeddings:
        yield "language_model.lm_head.weight", (language.vocab_size, hidden)


def read_json(path: Path) -> Any:
    """A JSON file of a checkpoint. Raises CheckpointError."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: is larger than {_MAX_JSON_BYTES:,} bytes; that is no config.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing.") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON: {error}.") from error


class _ConfigReader:
    """Reads a published config field by field, so that an error can name the field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self._object(read_json(path), "the file")

    def network(self) -> NetworkConfig:
        architectures = self.config.get("architectures")
        if self.config.get("model_type") != "internvl_chat" and architectures != ["InternVLChatModel"]:
            raise CheckpointError(
                f"{self.path}: unknown architecture {architectures} (model_type {self.config.get('model_type')!r}). "
                "ArtiMuse checkpoints are of the published `internvl_chat` format (InternVLChatModel)."
            )
        vision = self._object(self.config.get("vision_config"), "vision_config")
        language = self._object(self.config.get("llm_config"), "llm_config")
        self._only(self.config, "", "template", "internvl2_5", "internvl2_5")
        self._only(self.config, "", "downsample_ratio", 0.5, 0.5)
        self._only(self.config, "", "ps_version", "v2", "v1")
        self._only(self.config, "", "select_layer", -1, -1)
        self._only(self.config, "", "force_image_size", 448, 448)
        self._only(vision, "vision_config.", "norm_type", "layer_norm", "rms_norm")
        self._only(vision, "vision_config.", "qk_normalization", False, True)
        self._only(vision, "vision_config.", "image_size", 448, 224)
        self._only(vision, "vision_config.", "patch_size", 14, 14)
        self._only(vision, "vision_config.", "num_channels", 3, 3)
        self._only(vision, "vision_config.", "hidden_act", "gelu", "gelu")
        self._only(language, "llm_config.", "hidden_act", "silu", "silu")
        if language.get("architectures") != ["Qwen2ForCausalLM"]:
            raise CheckpointError(
                f"{self.path}: `llm_config.architectures` is {language.get('architectures')}; "
                "only Qwen2ForCausalLM, the language model of ArtiMuse and UniPercept, is supported."
            )
        return NetworkConfig(self._vision(vision), self._language(language))

    def _vision(self, raw: dict[str, Any]) -> VisionConfig:
        where = "vision_config."
        hidden_size = self._size(raw, where, "hidden_size")
        return VisionConfig(
            hidden_size=hidden_size,
            intermediate_size=self._size(raw, where, "intermediate_size"),
            num_layers=self._size(raw, where, "num_hidden_layers", _MAX_LAYERS),
            num_heads=self._divisor(raw, where, "num_attention_heads", hidden_size),
            image_size=448,
            patch_size=14,
            layer_norm_eps=self._number(raw, where, "layer_norm_eps", 1e-6),
            qkv_bias=bool(raw.get("qkv_bias", False)),
        )

    def _language(self, raw: dict[str, Any]) -> LanguageConfig:
        where = "llm_config."
        hidden_size = self._size(raw, where, "hidden_size")
        heads = self._divisor(raw, where, "num_attention_heads", hidden_size)
        if hidden_size // heads % 2:  # rotary positions turn features in pairs
            raise CheckpointError(
                f"{self.path}: `{where}num_attention_heads` is {heads}, which makes heads of odd size."
            )
        return LanguageConfig(
            hidden_size=hidden_size,
            intermediate_size=self._size(raw, where, "intermediate_size"),
            num_layers=self._size(raw, where, "num_hidden_layers", _MAX_LAYERS),
            num_heads=heads,
            num_kv_heads=self._divisor(raw, where, "num_key_value_heads", heads),
            vocab_size=self._size(raw, where, "vocab_size"),
            # A `rope_scaling` is ignored, as it was by the version of transformers that made the published numbers.
            rope_theta=self._number(raw, where, "rope_theta", 10000.0),
            rms_norm_eps=self._number(raw, where, "rms_norm_eps", 1e-6),
            max_position_embeddings=self._size(
                {"max_position_embeddings": 32768, **raw}, where, "max_position_embeddings"
            ),
            tie_word_embeddings=raw.get("tie_word_embeddings") is True,
        )

    def _object(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path}: {what} is not an object; this is no `internvl_chat` config.")
        return value

    def _only(self, raw: dict[str, Any], where: str, key: str, wanted: object, default: object) -> None:
        value = raw.get(key, default)
        if value != wanted:
            raise CheckpointError(
                f"{self.path}: `{where}{key}` is {value!r}; ArtiMuse's network has {wanted!r}, no other is supported."
            )

    def _size(self, raw: dict[str, Any], where: str, key: str, maximum: int = _MAX_DIMENSION) -> int:
        value = raw.get(key)
        if type(value) is not int or not 1 <= value <= maximum:
            raise CheckpointError(
                f"{self.path}: `{where}{key}` is {value!r}; expected a whole number from 1 to {maximum}."
            )
        return value

    def _divisor(self, raw: dict[str, Any], where: str, key: str, of: int) -> int:
        value = self._size(raw, where, key)
        if of % value:
            raise CheckpointError(f"{self.path}: `{where}{key}` is {value}, which does not divide {of}.")
        return value

    def _number(self, raw: dict[str, Any], where: str, key: str, default: float) -> float:
        value = raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise CheckpointError(f"{self.path}: `{where}{key}` is {value!r}; expected a positive number.")
        return float(value)
