"""The model as a Python object: load a checkpoint, score and describe pictures.

    model = ArtiMuse.load("ArtiMuse")
    model.score("photo.jpg").score          # 63.1
    model.score(["a.jpg", "b.jpg"])         # a list, in the same order
    model.describe("photo.jpg").texts       # {"Composition & Design": "The composition…", …}

Works without Ray, on a bare machine with torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.names import open_checkpoint
from artimuse_actor.checkpoint.network_config import precision_name
from artimuse_actor.engine.describe import Describer, ImageDescription
from artimuse_actor.engine.device import (
    check_memory,
    device_name,
    driver_version,
    dtype_name,
    probe_batch_size,
    resolve_device,
    resolve_dtype,
    set_arithmetic,
)
from artimuse_actor.engine.device_memory import memory_errors, release_memory
from artimuse_actor.engine.late_read import LateRead
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.read_prompts import read_answers, read_prompts
from artimuse_actor.engine.scoring import (
    LEVEL_COUNT,
    ImageScore,
    Scores,
    image_scores,
    level_probabilities,
    scores_of,
)
from artimuse_actor.engine.text_budget import TextPrompts, text_budget
from artimuse_actor.engine.text_engine import TextEngine
from artimuse_actor.engine.weights import load_network
from artimuse_actor.errors import ImageError, RunError, UsageError
from artimuse_actor.fetch.fetch import fetch
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.decode import decode_image, opened_to_pixels
from artimuse_actor.images.options import IMAGE_SIZE, DecodeOptions, Pixels
from artimuse_actor.images.preprocess import to_pixels
from artimuse_actor.protocol.prompts import check_vocabulary, level_ids, split_prompts, split_tails, turn_end_id
from artimuse_actor.protocol.protocol_file import open_protocol
from artimuse_actor.protocol.protocols import (
    DEFAULT_MAX_NEW_TOKENS,
    IMAGE_TOKENS,
    Protocol,
    check_max_new_tokens,
    guess_protocol,
)
from artimuse_actor.protocol.tokenizer import load_tokenizer

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
"""A path or uri, the bytes of a file, an opened picture, or a (height, width[, 3 or 4]) uint8 array."""

BatchSize: TypeAlias = int | Literal["auto"]
"""Images of a pass, or sequences in flight; `auto` derives it from the device's free memory."""


class ArtiMuse:
    """A loaded checkpoint with the questions of its protocol."""

    def __init__(
        self,
        model: VisionLanguageModel,
        checkpoint: Checkpoint,
        protocol: Protocol,
        batch_size: BatchSize = "auto",
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Prepare the questions; `ArtiMuse.load` is the usual way in. The tokenizer is the checkpoint's."""
        self.model = model
        self.checkpoint = checkpoint
        self.protocol = protocol
        self._tokenizer = tokenizer = tokenizer or load_tokenizer(checkpoint.folder)
        vocab_size = checkpoint.config.language.vocab_size
        prompts = split_prompts(tokenizer, protocol, protocol.score_questions.values())
        check_vocabulary(prompts, checkpoint.folder, vocab_size)
        ids = level_ids(tokenizer, protocol, checkpoint.folder, vocab_size)
        with torch.inference_mode():
            self._level_ids = torch.tensor(ids, device=model.device)
            self._prompts = read_prompts(model, prompts)
        if batch_size == "auto":
            tokens = IMAGE_TOKENS + len(prompts.shared) + max(map(len, prompts.tails))
            batch_size = probe_batch_size(checkpoint.config, tokens, model.device, model.dtype)
        elif batch_size < 1:
            raise UsageError(f"--batch-size takes a whole number from 1 or `auto`, not {batch_size}.")
        self.batch_size = batch_size

    @property
    def hardware(self) -> dict[str, str | int | None]:
        """Processor, GPU driver, precision, attention and batch size, for records."""
        model = self.model
        return {
            "processor": device_name(model.device),
            "driver": None if model.device.type == "cpu" else driver_version(),
            "dtype": dtype_name(model.dtype),
            "attention": model.pages.__name__,
            "batch_size": self.batch_size,
        }

    @classmethod
    def load(
        cls,
        checkpoint: str | os.PathLike[str] | Checkpoint = "ArtiMuse",
        *,
        protocol: str | Protocol | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: BatchSize = "auto",
    ) -> ArtiMuse:
        """Load a checkpoint.

        Args:
            checkpoint: a local folder, an s3:// folder, a published name such as `ArtiMuse_AVA`, or
                `owner/name[@revision]` on the hub; or one that is opened already.
            protocol: `artimuse`, `unipercept` or a TOML file, see `artimuse_actor.protocol.protocol_file`; guessed from
                the checkpoint's name if not given.
            device: `auto` (the first GPU if there is one), `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto` (see `resolve_dtype`), `float32`, `bfloat16` or `float16`.
            quantize: `int8`, `fp8` or `nf4`: store the weights of the language model in 8 or 4 bits; None for all bits.
            batch_size: images of one forward pass; `auto` derives it from the device's free memory.

        Raises:
            CheckpointError: the checkpoint cannot be fetched, read or verified.
            UsageError: an argument is not valid here.
        """
        found = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(os.fspath(checkpoint))
        if protocol is None:
            protocol = guess_protocol(found.source)
        asked = open_protocol(protocol) if isinstance(protocol, str) else protocol
        place = resolve_device(device)
        precision = resolve_dtype(dtype, place)
        precision_name(dtype_name(precision), quantize)  # refuses another word
        tokenizer = load_tokenizer(found.folder)  # one that is damaged is refused before gigabytes are read
        check_memory(found, place, precision, quantize)
        set_arithmetic(place)
        try:
            with memory_errors():
                network = load_network(found, device=place, dtype=precision, quantize=quantize)
                return cls(VisionLanguageModel(network), found, asked, batch_size, tokenizer)
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
        options: DecodeOptions = DecodeOptions(),
    ) -> ImageScore | list[ImageScore]:
        """Score one picture, or many.

        Args:
            images: one picture or an iterable of pictures, see `ImageInput`; memory is used for one batch at a time.
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

        A batch is read when the next is on its way to the device. When the device's memory runs out, the batch is
        halved permanently, and scoring continues.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB.

        Raises:
            RunError: not even one image fits into the device's memory.
        """
        parts: list[torch.Tensor] = []
        last: LateRead | None = None
        done = 0
        while done < len(pixels):
            batch = torch.from_numpy(np.array(pixels[done : done + self.batch_size]))
            try:
                with memory_errors():
                    found = LateRead(self._probabilities(batch))
                    if last:
                        parts.append(last.read())
                last = found
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
            release_memory(self.model.device)
        if last:
            parts.append(last.read())
        questions = len(self.protocol.score_questions)
        probabilities = torch.cat(parts) if parts else torch.empty(0, questions, LEVEL_COUNT)  # (N, Q, 101)
        return scores_of(probabilities)

    @overload
    def describe(  # type: ignore[overload-overlap]
        self,
        images: ImageInput,
        *,
        attributes: Sequence[str] | None = ...,
        max_new_tokens: int = ...,
        sequences: BatchSize = ...,
        options: DecodeOptions = ...,
    ) -> ImageDescription: ...
    @overload
    def describe(
        self,
        images: Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = ...,
        max_new_tokens: int = ...,
        sequences: BatchSize = ...,
        options: DecodeOptions = ...,
    ) -> list[ImageDescription]: ...
    def describe(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
        options: DecodeOptions = DecodeOptions(),
    ) -> ImageDescription | list[ImageDescription]:
        """Score one picture, or many, and answer the text questions about each.

        Args:
            images: one picture or an iterable of pictures, see `ImageInput`.
            attributes: titles of some text questions, or their columns; all of them if not given.
            max_new_tokens: where a text is cut; the published code's limit is 8192.
            sequences: texts that are generated at the same time.
            options: how files are decoded; the default is the published preprocessing.

        Returns:
            One `ImageDescription` for one picture, a list in the same order for many.

        Raises:
            ImageError: a picture cannot be read; the message names it.
            UsageError: an attribute is unknown, or a number out of range.
        """
        alone = isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray)
        given: Iterable[ImageInput] = [images] if alone else images  # type: ignore[assignment, list-item]
        found = dict(
            self.describe_each(
                given, attributes=attributes, max_new_tokens=max_new_tokens, sequences=sequences, options=options
            )
        )
        return found[0] if alone else [found[index] for index in range(len(found))]

    def describe_each(
        self,
        images: Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
        options: DecodeOptions = DecodeOptions(),
    ) -> Iterator[tuple[int, ImageDescription]]:
        """Yield each picture of `describe` as soon as it is finished, with its index among the images.

        Pictures are read as they are needed, so an endless iterable is fine.
        """
        describer = self.describer(attributes=attributes, max_new_tokens=max_new_tokens, sequences=sequences)
        for index, image in enumerate(images):
            describer.add(index, _read(image, options))
            while not describer.engine.wants_images:
                yield from describer.step()
        while describer.engine.busy:
            yield from describer.step()

    def describer(
        self,
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
    ) -> Describer:
        """The `Describer` behind `describe`, for pictures that are preprocessed already; arguments as there.

        Raises:
            UsageError: an attribute is unknown, or a number out of range.
        """
        questions = self.protocol.choose_texts(attributes)
        scores = self.protocol.score_questions
        language = self.checkpoint.config.language
        prompts = split_prompts(self._tokenizer, self.protocol, [*scores.values(), *questions.values()])
        check_vocabulary(prompts, self.checkpoint.folder, language.vocab_size)
        if sequences != "auto" and sequences < 1:
            raise UsageError(f"--sequences takes a whole number from 1 or `auto`, not {sequences}.")
        shared, tails = split_tails(prompts.tails[len(scores) :])
        lengths = TextPrompts(
            prefix=len(prompts.head) + IMAGE_TOKENS + len(prompts.shared) + len(shared),
            longest=max(map(len, tails)),
            count=len(tails),
            max_new_tokens=check_max_new_tokens(max_new_tokens),
        )
        budget = text_budget(
            self.checkpoint.config,
            lengths,
            device=self.model.device,
            dtype=self.model.dtype,
            kind=self.model.pages,
            batch_size=self.batch_size,
            sequences=None if sequences == "auto" else sequences,
        )
        try:
            with memory_errors():
                engine = TextEngine(
                    self.model,
                    prompts,
                    level_ids=self._level_ids,
                    score_questions=len(scores),
                    stop_id=turn_end_id(self._tokenizer),
                    max_new_tokens=max_new_tokens,
                    budget=budget,
                )
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"Texts do not fit into the free memory of {self.model.device}. "
                "Stop what else runs there, or choose another --device."
            ) from error
        return Describer(engine, self._tokenizer, tuple(scores), tuple(questions))

    @torch.inference_mode()
    def _probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 448, 448, 3) uint8 → (B, Q, 101) float32 on the device."""
        image = self.model.encode_images(pixels)
        hidden = read_answers(self.model, self._prompts, image)  # (B, Q, C)
        return level_probabilities(self.model.head_logits(hidden, self._level_ids))

    def _score_batch(self, batch: Sequence[Pixels]) -> list[ImageScore]:
        return image_scores(tuple(self.protocol.score_questions), self.score_pixels(np.stack(batch)))


def _read(image: ImageInput, options: DecodeOptions) -> Pixels:
    try:
        if isinstance(image, Image.Image):
            return opened_to_pixels(image, options)
        if isinstance(image, np.ndarray):
            return _array_to_pixels(image, options)
        allowed = FetchOptions(max_bytes=options.max_bytes)
        data = image if isinstance(image, bytes) else fetch(os.fspath(image), allowed)
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
