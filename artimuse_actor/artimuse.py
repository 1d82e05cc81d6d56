"""The model as a Python object: load a checkpoint, score pictures.

    model = ArtiMuse.load("ArtiMuse")
    model.score("photo.jpg").score          # 63.1
    model.score(["a.jpg", "b.jpg"])         # a list, in the same order

Works without Ray, on a bare machine with torch and transformers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from artimuse_actor.checkpoint import Checkpoint
from artimuse_actor.errors import ImageError, RunError, UsageError
from artimuse_actor.fetch import fetch
from artimuse_actor.hub import open_checkpoint
from artimuse_actor.images import IMAGE_SIZE, DecodeOptions, Pixels, decode_image, opened_to_pixels, to_pixels
from artimuse_actor.model import VisionLanguageModel, read_answers
from artimuse_actor.network_config import AUTO_DTYPES, NetworkConfig
from artimuse_actor.prompts import check_vocabulary, image_token_id, level_ids, load_tokenizer, split_prompts
from artimuse_actor.protocols import IMAGE_TOKENS, Protocol, get_protocol, guess_protocol
from artimuse_actor.scoring import LEVEL_COUNT, expected_level, level_probabilities, level_spread
from artimuse_actor.weights import load_network

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path or uri, the bytes of a file, an opened picture, or a (height, width[, 3 or 4]) uint8 array."""

BatchSize: TypeAlias = int | Literal["auto"]

CPU_BATCH_SIZE: Final = 2  # one image's 470 tokens fill a CPU's matrix products; larger activations leave its caches
MAX_AUTO_BATCH_SIZE: Final = 64  # 30,000 tokens in a pass; larger matrices are no faster
_MEMORY_SHARE: Final = 0.8
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Scores:
    """Scores of N images for Q questions.

    Attributes:
        score: (N, Q) float32, points from 0 to 100.
        std: (N, Q) float32, points: the spread of the levels' probabilities.
        distribution: (N, Q, 101) float32, the probabilities themselves.
    """

    score: NDArray[np.float32]
    std: NDArray[np.float32]
    distribution: NDArray[np.float32]


@dataclass(frozen=True)
class ImageScore:
    """What the model says of one picture, by question: `score` for ArtiMuse; `iaa`, `iqa`, `ista` for UniPercept.

    Attributes:
        scores: points from 0 to 100.
        stds: how unsure the model is, in points.
        distributions: the 101 probabilities.
    """

    scores: Mapping[str, float]
    stds: Mapping[str, float]
    distributions: Mapping[str, NDArray[np.float32]]

    @property
    def score(self) -> float:
        """The score of the protocol's first question, which is about aesthetics in every protocol."""
        return next(iter(self.scores.values()))

    @property
    def score_std(self) -> float:
        """The spread of the first question's score."""
        return next(iter(self.stds.values()))


class ArtiMuse:
    """A loaded checkpoint with the questions of its protocol."""

    def __init__(
        self, model: VisionLanguageModel, checkpoint: Checkpoint, protocol: Protocol, batch_size: BatchSize = "auto"
    ) -> None:
        """Prepare the questions; `ArtiMuse.load` is the usual way in."""
        self.model = model
        self.checkpoint = checkpoint
        self.protocol = protocol
        tokenizer = load_tokenizer(checkpoint.folder)
        vocab_size = checkpoint.config.language.vocab_size
        self._prompts = split_prompts(tokenizer, protocol, protocol.score_questions)
        check_vocabulary(self._prompts, checkpoint.folder, vocab_size)
        ids = level_ids(tokenizer, protocol, checkpoint.folder, vocab_size)
        with torch.inference_mode():
            self._level_ids = torch.tensor(ids, device=model.device)
            self._head_cache = model.extend(model.embed(self._prompts.head))
        if batch_size == "auto":
            tokens = IMAGE_TOKENS + len(self._prompts.shared) + max(map(len, self._prompts.tails))
            batch_size = probe_batch_size(checkpoint.config, tokens, model.device, model.dtype)
        elif batch_size < 1:
            raise UsageError(f"--batch-size takes a whole number from 1 or `auto`, not {batch_size}.")
        self.batch_size = batch_size

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str] | Checkpoint = "ArtiMuse",
        *,
        protocol: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: BatchSize = "auto",
    ) -> ArtiMuse:
        """Load a checkpoint.

        Args:
            checkpoint: a local folder, a published name such as `ArtiMuse_AVA`, or `owner/name[@revision]` on the hub;
                or one that is opened already.
            protocol: `artimuse` or `unipercept`; guessed from the checkpoint's name if not given.
            device: `auto` (the first GPU if there is one), `cpu`, `cuda` or `cuda:1`.
            dtype: `auto` (bfloat16 on CUDA, float32 elsewhere), `float32`, `bfloat16` or `float16`.
            batch_size: images of one forward pass; `auto` asks the device's free memory.

        Raises:
            CheckpointError: the checkpoint cannot be had or is not what it should be.
            UsageError: an argument has no meaning here.
        """
        found = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(os.fspath(checkpoint))
        asked = get_protocol(protocol) if protocol else guess_protocol(str(found.folder.resolve()))
        place = resolve_device(device)
        precision = resolve_dtype(dtype, place)
        tokenizer = load_tokenizer(found.folder)
        _check_memory(found, place, precision)
        try:
            network = load_network(
                found,
                image_token_id=image_token_id(tokenizer),
                device=place,
                dtype=precision,
                attention=resolve_attention(place, precision),
            )
            return cls(VisionLanguageModel(network), found, asked, batch_size)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{found.name} ({found.size_bytes / 1e9:.1f} GB) does not fit into the free memory of {place}. "
                "Stop what else runs there, or choose another --device."
            ) from error

    @overload
    def score(self, images: ImageInput, *, options: DecodeOptions = ...) -> ImageScore: ...  # type: ignore[overload-overlap]
    @overload
    def score(self, images: Iterable[ImageInput], *, options: DecodeOptions = ...) -> list[ImageScore]: ...
    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        options: DecodeOptions = DecodeOptions(),  # noqa: B008
    ) -> ImageScore | list[ImageScore]:
        """Score one picture, or many.

        Args:
            images: one picture or an iterable of pictures, see `ImageInput`. Of many, one batch at a time is held.
            options: how files are decoded; the default is the published preprocessing.

        Returns:
            One `ImageScore` for one picture, a list in the same order for many.

        Raises:
            ImageError: a picture cannot be read; the message names it. To go on without it, use the job.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray):
            return self._score_batch([_read(images, options)])[0]
        results: list[ImageScore] = []
        batch: list[Pixels] = []
        for image in images:
            batch.append(_read(image, options))
            if len(batch) == self.batch_size:
                results += self._score_batch(batch)
                batch = []
        return results + (self._score_batch(batch) if batch else [])

    def score_pixels(self, pixels: Pixels) -> Scores:
        """Score pictures that are preprocessed already.

        When the device's memory runs out, the batch is halved, for good, and the work goes on.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB.

        Raises:
            RunError: not even one image fits into the device's memory.
        """
        parts: list[torch.Tensor] = []
        done = 0
        while done < len(pixels):
            batch = torch.from_numpy(np.array(pixels[done : done + self.batch_size]))
            try:
                parts.append(self._probabilities(batch))
                done += len(batch)
                continue
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise RunError(
                        f"One image does not fit into the free memory of {self.model.device}. "
                        "Stop what else runs there, or choose another --device."
                    ) from error
            # Outside the handler: the exception's frames hold the tensors that filled the memory.
            self.batch_size = max(1, min(self.batch_size, len(batch)) // 2)
            torch.cuda.empty_cache()
        questions = len(self.protocol.score_questions)
        probabilities = torch.cat(parts) if parts else torch.empty(0, questions, LEVEL_COUNT)  # (N, Q, 101)
        return Scores(
            score=expected_level(probabilities).numpy(),
            std=level_spread(probabilities).numpy(),
            distribution=probabilities.numpy(),
        )

    @torch.inference_mode()
    def _probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 448, 448, 3) uint8 → (B, Q, 101) float32 on the CPU."""
        image = self.model.encode_images(pixels)
        hidden = read_answers(self.model, self._head_cache, self._prompts, image)  # (B, Q, C)
        return level_probabilities(self.model.head_logits(hidden, self._level_ids)).cpu()

    def _score_batch(self, batch: Sequence[Pixels]) -> list[ImageScore]:
        scores = self.score_pixels(np.stack(batch))
        names = tuple(self.protocol.score_questions)
        return [
            ImageScore(
                scores=dict(zip(names, map(float, score), strict=True)),
                stds=dict(zip(names, map(float, std), strict=True)),
                distributions=dict(zip(names, distribution, strict=True)),
            )
            for score, std, distribution in zip(scores.score, scores.std, scores.distribution, strict=True)
        ]


def resolve_device(device: str) -> torch.device:
    """The torch device that `--device` names.

    Raises:
        UsageError: it is unknown, or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}.") from None
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"--device takes auto, cpu, cuda or cuda:N, not {device!r}.")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {device}: torch sees {torch.cuda.device_count()} GPUs here. Try --device cpu.")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision that `--dtype` names: bfloat16 on CUDA and float32 elsewhere if it is `auto`.

    Raises:
        UsageError: it is unknown.
    """
    if dtype == "auto":
        dtype = AUTO_DTYPES[device.type]
    if dtype not in _DTYPES:
        raise UsageError(f"--dtype takes auto, {', '.join(_DTYPES)}, not {dtype!r}.")
    return _DTYPES[dtype]


def resolve_attention(device: torch.device, dtype: torch.dtype) -> str:
    """`flash_attention_2` where its package is there and can work (CUDA, half precision), else `sdpa`."""
    usable = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and find_spec("flash_attn")
    return "flash_attention_2" if usable else "sdpa"


def probe_batch_size(config: NetworkConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Images of one pass that should fit into the device's free memory.

    Args:
        config: the network's sizes.
        tokens: tokens of one image's prefill.
        device: where the weights already are.
        dtype: of the activations.
    """
    if device.type != "cuda":
        return CPU_BATCH_SIZE
    language, vision = config.language, config.vision
    kv_features = 2 * language.num_layers * language.num_kv_heads * language.head_dim
    per_token = 8 * language.hidden_size + 3 * language.intermediate_size + 2 * kv_features
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size
    bytes_per_image = dtype.itemsize * (tokens * per_token + (vision.num_patches + 1) * per_patch)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return int(max(1, min(MAX_AUTO_BATCH_SIZE, _MEMORY_SHARE * free_bytes // bytes_per_image)))


def _check_memory(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
    """On a CPU, a network that is too large would end with the process being killed, without a word."""
    needed_bytes = dtype.itemsize * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    available_bytes = _available_memory_bytes()
    if device.type == "cpu" and available_bytes is not None and needed_bytes > available_bytes:
        raise RunError(
            f"{checkpoint.name} takes {needed_bytes / 1e9:.0f} GB of memory as {str(dtype).removeprefix('torch.')}, "
            f"and {available_bytes / 1e9:.0f} GB are free. Use a GPU, or --dtype bfloat16: half of what float32 takes."
        )


def _available_memory_bytes() -> int | None:
    """What Linux says could be allocated without swapping; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return int(kilobytes) * 1024 if kilobytes else None


def _read(image: ImageInput, options: DecodeOptions) -> Pixels:
    try:
        if isinstance(image, Image.Image):
            return opened_to_pixels(image, options)
        if isinstance(image, np.ndarray):
            return _array_to_pixels(image, options)
        data = image if isinstance(image, bytes) else fetch(os.fspath(image), options.max_bytes)
        return decode_image(data, options).pixels
    except ImageError as error:
        name = f"{len(image)} bytes" if isinstance(image, bytes) else str(getattr(image, "filename", "") or image)
        raise ImageError(error.error_type, f"{name}: {error.message}", retryable=error.retryable) from error


def _array_to_pixels(array: NDArray[np.uint8], options: DecodeOptions) -> Pixels:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)) or not array.size:
        raise UsageError(
            "An array of one picture is (height, width), (height, width, 3) or (height, width, 4) uint8, "
            f"not {array.shape} {array.dtype}."
        )
    return array if array.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) else to_pixels(Image.fromarray(array), options)
