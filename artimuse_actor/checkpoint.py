"""A folder in the published format → a checked description of the network in it.

The format is the original `internvl_chat` one: `config.json` with a `vision_config` and an `llm_config`, one or many
safetensors files, and Qwen2 tokenizer files. Everything is checked here against the file headers alone, without torch
and in milliseconds, so a run with a bad checkpoint stops before it starts anything. Nothing in a checkpoint is ever
executed: no remote code, no pickle.

Not known here: where a checkpoint comes from (`hub.py`) and what transformers calls its tensors (`weights.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from artimuse_actor.errors import CheckpointError

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)

_DTYPE_BYTES: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
_MAX_JSON_BYTES = 100_000_000
_MAX_LAYERS = 1_000
_MAX_DIMENSION = 10_000_000
# Hashing 16 GB takes many seconds; smaller files are cheaper to hash than to remember.
_REMEMBER_DIGEST_FROM_BYTES = 64 * 1024 * 1024

Shape = tuple[int, ...]


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
    hidden_act: str

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
    hidden_act: str
    max_position_embeddings: int
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        """Features of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True)
class NetworkConfig:
    """What of a `config.json` the network depends on."""

    vision: VisionConfig
    language: LanguageConfig

    @classmethod
    def from_file(cls, path: Path) -> NetworkConfig:
        """Read a published `config.json`.

        Raises:
            CheckpointError: it is missing, not JSON, or describes another network; the message names the field.
        """
        return _ConfigReader(path).network()


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a safetensors header describes it."""

    file: Path
    dtype: str
    shape: Shape


class Checkpoint:
    """A whole and well-formed checkpoint in a local folder.

    Attributes:
        folder: where it lies.
        name: what users call it; shown in reports and in the fingerprint.
        config: the network's sizes.
        tensors: published name → where it is; exactly those the network needs.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        """Check the folder's config and file headers, strictly.

        Raises:
            CheckpointError: a file is missing or cut short, the architecture is another, or a tensor is missing,
                too many, misshapen or of an unknown type. The message names the file and the tensor.
        """
        self.folder = folder
        self.name = name or folder.resolve().name
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such folder. Name a folder that holds {CONFIG_FILE}.")
        self.config = NetworkConfig.from_file(folder / CONFIG_FILE)
        self._weight_files, self.tensors = _read_tensor_entries(folder)
        _compare_tensors(expected_shapes(self.config), self.tensors, folder)
        self._check_tokenizer_files()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of all files the scores depend on, as 64 hexadecimal digits."""
        files = [self.folder / CONFIG_FILE, *self._weight_files]
        files += [path for name in TOKENIZER_FILES if (path := self.folder / name).is_file()]
        files.sort(key=lambda path: path.name)
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(_file_digest, files))
        listing = json.dumps([[path.name, digest] for path, digest in zip(files, digests, strict=True)])
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all weight files."""
        return sum(path.stat().st_size for path in self._weight_files)

    def _check_tokenizer_files(self) -> None:
        has = {name for name in TOKENIZER_FILES if (self.folder / name).is_file()}
        if "tokenizer.json" not in has and not {"vocab.json", "merges.txt"} <= has:
            raise CheckpointError(
                f"{self.folder}: no tokenizer: vocab.json and merges.txt (or tokenizer.json) are not all there. "
                "Copy them from the published checkpoint."
            )


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


def _compare_tensors(expected: Mapping[str, Shape], found: Mapping[str, TensorEntry], folder: Path) -> None:
    for name, shape in expected.items():
        entry = found.get(name)
        if entry is None:
            files = ", ".join(sorted({tensor.file.name for tensor in found.values()})) or "no file"
            raise CheckpointError(
                f"{folder}: tensor {name} {list(shape)} is missing (looked in {files}). "
                "The checkpoint is incomplete or its config.json belongs to another one; download it again."
            )
        if entry.shape != shape:
            raise CheckpointError(
                f"{entry.file}: tensor {name} has shape {list(entry.shape)}, but {CONFIG_FILE} asks for {list(shape)}. "
                "The weights and the config belong to different networks."
            )
        if entry.dtype not in _DTYPE_BYTES:
            raise CheckpointError(
                f"{entry.file}: tensor {name} is of type {entry.dtype}; only {', '.join(_DTYPE_BYTES)} are supported. "
                "Quantised checkpoints give other scores than the published ones."
            )
    for name, entry in found.items():
        if name not in expected:
            raise CheckpointError(
                f"{entry.file}: tensor {name} {list(entry.shape)} has no place in the network of {CONFIG_FILE}. "
                "Ignoring it would change the scores silently."
            )


def _read_tensor_entries(folder: Path) -> tuple[list[Path], dict[str, TensorEntry]]:
    files = _weight_files(folder)
    tensors: dict[str, TensorEntry] = {}
    for path in files:
        for name, entry in read_safetensors_header(path).items():
            if name in tensors:
                raise CheckpointError(f"{path}: tensor {name} is also in {tensors[name].file.name}. Which is right?")
            tensors[name] = entry
    return files, tensors


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        index = _read_json(folder / INDEX_FILE)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{folder / INDEX_FILE}: has no `weight_map` of tensor names to file names.")
        names = sorted(set(weight_map.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise CheckpointError(
                    f"{folder / INDEX_FILE}: {name!r} is not the name of a safetensors file beside it."
                )
            if not os.path.isfile(folder / name):  # unlike `Path.exists`, it answers for names that are too long
                raise CheckpointError(
                    f"{folder / name}: the file is missing, one of {len(names)} that {INDEX_FILE} names. "
                    "Download it again."
                )
        return [folder / name for name in names]
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt*")):
        raise CheckpointError(
            f"{folder}: holds pickled weights only, which can run code when opened and are refused. "
            "Convert them to safetensors first."
        )
    raise CheckpointError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}.")


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, without reading their data.

    Raises:
        CheckpointError: the file is not safetensors, is cut short, or contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path}: is not a safetensors file, or cut short within its header.")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its safetensors header is not valid JSON.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: its safetensors header is not an object.")
    data_bytes = size - 8 - header_bytes
    entries: dict[str, TensorEntry] = {}
    needed_bytes = 0
    for name, value in header.items():
        if name == "__metadata__":
            continue
        entry, end = _header_entry(path, name, value)
        needed_bytes = max(needed_bytes, end)
        entries[name] = entry
    if needed_bytes != data_bytes:
        what = "is cut short" if needed_bytes > data_bytes else "has bytes that belong to no tensor"
        raise CheckpointError(
            f"{path}: {what}: its header describes {needed_bytes:,} bytes of tensors, there are {data_bytes:,}. "
            "Download it again."
        )
    return entries


def _header_entry(path: Path, name: str, value: Any) -> tuple[TensorEntry, int]:
    try:
        dtype, shape, (begin, end) = str(value["dtype"]), tuple(value["shape"]), value["data_offsets"]
        sound = (
            all(type(n) is int and 0 <= n <= 2**62 for n in (*shape, begin, end)) and len(shape) <= 8 and begin <= end
        )
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: the header entry of tensor {name[:200]} is malformed.")
    itemsize = _DTYPE_BYTES.get(dtype)
    if itemsize is not None and math.prod(shape) * itemsize != end - begin:
        raise CheckpointError(
            f"{path}: the header gives tensor {name[:200]} {end - begin} bytes for {dtype} {list(shape)}."
        )
    return TensorEntry(path, dtype, shape), end


def _read_json(path: Path) -> Any:
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
        self.config = self._object(_read_json(path), "the file")

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
            hidden_act=self._activation(raw, where, "gelu"),
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
            hidden_act=self._activation(raw, where, "silu"),
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

    def _activation(self, raw: dict[str, Any], where: str, default: str) -> str:
        value = raw.get("hidden_act", default)
        if value != default:
            raise CheckpointError(f"{self.path}: `{where}hidden_act` is {value!r}; only {default!r} is supported.")
        return default


def _file_digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size < _REMEMBER_DIGEST_FROM_BYTES:
        return _hash_file(path)
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"
    remembered = _remembered_digests()
    if key not in remembered:
        digest = _hash_file(path)
        _remember_digest(key, digest)
        return digest
    return remembered[key]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_memory() -> Path:
    return cache_folder() / "digests.json"


def cache_folder() -> Path:
    """Where this project keeps what it can always make again."""
    root = os.environ.get("ARTIMUSE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "artimuse")
    return Path(root).expanduser()


def _remembered_digests() -> dict[str, str]:
    try:
        remembered = json.loads(_digest_memory().read_text())
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _remember_digest(key: str, digest: str) -> None:
    memory = _digest_memory()
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False) as file:
            json.dump(_remembered_digests() | {key: digest}, file)
        os.replace(file.name, memory)
    except OSError:
        # A home that cannot be written costs time at the next start, nothing else.
        return
