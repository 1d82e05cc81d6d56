"""A folder in the published format → a checked description of the network in it.

The format is the original `internvl_chat` one: `config.json` with a `vision_config` and an `llm_config`, one or many
safetensors files, and Qwen2 tokenizer files. Everything is checked here against the file headers alone, without torch
and in milliseconds, so a run with a bad checkpoint stops before it starts anything. Nothing in a checkpoint is ever
executed: no remote code, no pickle.

Not known here: where a checkpoint comes from (`names.py`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from artimuse_actor.checkpoint.digest import file_digest
from artimuse_actor.checkpoint.network_config import NetworkConfig, Shape, expected_shapes, read_json
from artimuse_actor.checkpoint.system_message import system_message_of
from artimuse_actor.errors import CheckpointError
from artimuse_actor.node import usable_cores

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
DATA_FILES: Final = (CONFIG_FILE, INDEX_FILE, "*.safetensors", "generation_config.json", *TOKENIZER_FILES)
"""Patterns of the files fetched of a checkpoint; all others, such as code and pickle, are never fetched."""

_DTYPE_BYTES: Final[Mapping[str, int]] = {"F32": 4, "F16": 2, "BF16": 2}
MAX_HEADER_BYTES: Final = 100_000_000  # the safetensors format's own limit


@dataclass(frozen=True)
class CheckpointIdentity:
    """A checkpoint's identity, known before it is loaded; its files may be elsewhere.

    Attributes:
        name: as of `Checkpoint`.
        source: as of `Checkpoint`.
        digest: as of `Checkpoint`.
        system_message: as of `Checkpoint`.
    """

    name: str
    source: str
    digest: str
    system_message: str | None = None


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a safetensors header describes it."""

    file: Path
    dtype: str
    shape: Shape


class Checkpoint:
    """A complete and well-formed checkpoint in a local folder.

    Attributes:
        folder: where it lies.
        name: its name for users; shown in reports and in the fingerprint.
        source: its origin: the folder, or the uri that the folder is a copy of.
        config: the network's sizes.
        system_message: what its prompts begin with; None for the template's own.
        tensors: published name → where it is; exactly those the network needs.
    """

    def __init__(
        self,
        folder: Path,
        name: str | None = None,
        source: str | None = None,
        digest_of: Callable[[Path], str] = file_digest,
    ) -> None:
        """Check the folder's config and file headers, strictly.

        Args:
            folder: where it lies.
            name: if it is not the folder's.
            source: if it is not the folder.
            digest_of: gives SHA-256 of one of its files.

        Raises:
            CheckpointError: a file is missing or cut short, the architecture is another, or a tensor is missing,
                too many, misshapen or of an unknown type. The message names the file and the tensor.
        """
        self.folder = folder
        self.name = name or folder.resolve().name
        self.source = source or str(folder.resolve())
        self._digest_of = digest_of
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: there is no such folder. Name a folder that holds {CONFIG_FILE}.")
        self.config = NetworkConfig.from_file(folder / CONFIG_FILE)
        self.system_message = system_message_of(folder / CONFIG_FILE)
        self._weight_files, self.tensors = _read_tensor_entries(folder)
        _compare_tensors(expected_shapes(self.config), self.tensors, folder)
        self._check_tokenizer_files()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of all files the scores depend on, as 64 hexadecimal digits."""
        files = [self.folder / CONFIG_FILE, *self._weight_files]
        files += [path for name in TOKENIZER_FILES if (path := self.folder / name).is_file()]
        files.sort(key=lambda path: path.name)
        with ThreadPoolExecutor(max_workers=min(8, usable_cores())) as pool:
            digests = list(pool.map(self._digest_of, files))
        listing = json.dumps([[path.name, digest] for path, digest in zip(files, digests, strict=True)])
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def identity(self) -> CheckpointIdentity:
        """Its identity; all its files are read for the digest."""
        return CheckpointIdentity(self.name, self.source, self.digest, self.system_message)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Published tensor name → shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

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
                raise CheckpointError(f"{path}: tensor {name} is also in {tensors[name].file.name}. Download it again.")
            tensors[name] = entry
    return files, tensors


def _weight_files(folder: Path) -> list[Path]:
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        index = read_json(folder / INDEX_FILE)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(
                f"{folder / INDEX_FILE}: has no `weight_map` of tensor names to file names. Download it again."
            )
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
    raise CheckpointError(
        f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}. Name another folder, or download it again."
    )


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, without reading their data.

    Raises:
        CheckpointError: the file is not safetensors, is cut short, or contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
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
