"""A checkpoint on a device, with its questions: preprocessed pixels → scores and texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, Literal, Self, TypeAlias

import torch
from tokenizers import Tokenizer

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.names import open_checkpoint
from artimuse_actor.checkpoint.network_config import precision_name
from artimuse_actor.checkpoint.network_memory import expanded_bytes
from artimuse_actor.engine.answer import Answerer
from artimuse_actor.engine.describe import Describer
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
from artimuse_actor.engine.device_memory import limit_memory, memory_errors
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.quantised import kind_of, refuse_quantisation
from artimuse_actor.engine.score_engine import ScoreEngine
from artimuse_actor.engine.scoring import Scores
from artimuse_actor.engine.sized_text_engine import sized_text_engine
from artimuse_actor.engine.weights import load_network
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.multiple_choice import MAX_REPLY_TOKENS, MULTIPLE_CHOICE, MultipleChoice
from artimuse_actor.protocol.prompts import (
    check_vocabulary,
    image_token_id,
    letter_ids,
    level_ids,
    split_prompts,
    turn_end_id,
)
from artimuse_actor.protocol.protocol_file import choose_protocol
from artimuse_actor.protocol.protocols import (
    DEFAULT_MAX_NEW_TOKENS,
    IMAGE_TOKENS,
    AsPublished,
    Protocol,
    Rounding,
    check_max_new_tokens,
)
from artimuse_actor.protocol.tokenizer import load_tokenizer

BatchSize: TypeAlias = int | Literal["auto"]
"""Images of a pass, or sequences in flight; `auto` derives it from the device's free memory."""

_A_QUESTION: Final = (
    "Which of these describes the arrangement of the main subject and of the space around it best?\n"
    "A. The subject stands in the centre, and nothing leads the eye to it.\n"
    "B. Leading lines and the empty space on its left give the subject weight.\n"
    "C. Several subjects compete, so that the picture has no centre.\n"
    "D. The subject is cut off at the edge, without any purpose that one could see."
)


class LoadedModel:
    """A loaded checkpoint with the questions of its protocol.

    Attributes:
        model: the network's passes.
        checkpoint: its files.
        protocol: the questions.
        prompt_tokens: tokens that are read for the scores of one image, the image's included.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        checkpoint: Checkpoint,
        protocol: Protocol,
        batch_size: BatchSize = "auto",
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Prepare the questions; `load` is the usual way in. The tokenizer is the checkpoint's."""
        self.model = model
        self.checkpoint = checkpoint
        self.protocol = protocol
        self._tokenizer = tokenizer = tokenizer or load_tokenizer(checkpoint.folder)
        vocab_size = checkpoint.config.language.vocab_size
        # A protocol without score questions has passes of the same size.
        asked = protocol.score_questions or protocol.text_questions
        prompts = split_prompts(tokenizer, protocol, asked.values())
        check_vocabulary(prompts, checkpoint.folder, vocab_size)
        ids = level_ids(tokenizer, protocol, checkpoint.folder, vocab_size)
        self._level_ids = torch.tensor(ids, device=model.device)
        self.prompt_tokens = IMAGE_TOKENS + len(prompts.shared) + max(map(len, prompts.tails))
        if batch_size == "auto":
            batch_size = probe_batch_size(
                checkpoint.config,
                self.prompt_tokens,
                model.device,
                model.dtype,
                reserved=expanded_bytes(checkpoint.config, self.precision),
            )
        elif batch_size < 1:
            raise UsageError(f"--batch-size takes a whole number from 1 or `auto`, not {batch_size}.")
        self._rounding: Rounding = protocol.rounding if isinstance(protocol, AsPublished) else "none"
        self._score_engine = ScoreEngine(
            model, prompts, level_ids=self._level_ids, batch_size=batch_size, rounding=self._rounding
        )

    @property
    def batch_size(self) -> int:
        """Images of one forward pass; reduced when the device's memory runs out."""
        return self._score_engine.batch_size

    @batch_size.setter
    def batch_size(self, images: int) -> None:
        self._score_engine.batch_size = images

    @property
    def precision(self) -> str:
        """Of the network, as fingerprints have it: `bfloat16`, or `bfloat16/nf4` with weights of fewer bits."""
        return precision_name(dtype_name(self.model.dtype), kind_of(self.model.network))

    @property
    def hardware(self) -> dict[str, str | int | None]:
        """Processor, GPU driver, precision, attention, kernels and batch size, for records."""
        model = self.model
        return {
            "processor": device_name(model.device),
            "driver": None if model.device.type == "cpu" else driver_version(),
            "dtype": dtype_name(model.dtype),
            "attention": model.pages.__name__,
            "kernels": model.kernels.__name__,
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
        published_arithmetic: bool = False,
    ) -> Self:
        """Load a checkpoint.

        Args:
            checkpoint: a local folder, a folder in a bucket, a published name such as `ArtiMuse_AVA`, or
                `owner/name[@revision]` on the hub; or one that is opened already.
            protocol: `artimuse`, `unipercept` or a TOML file, see `artimuse_actor.protocol.protocol_file`; guessed from
                the checkpoint's name if not given.
            device: `auto` (the first GPU if there is one), `cpu`, `cuda`, `cuda:1` or `mps`.
            dtype: `auto` (see `resolve_dtype`), `float32`, `bfloat16` or `float16`.
            quantize: `int8`, `fp8` or `nf4`: store the weights of the language model in 8 or 4 bits; `fp8-products`:
                multiply in 8 bits too; None for all bits.
            batch_size: images of one forward pass; `auto` derives it from the device's free memory.
            published_arithmetic: round on the way to a score as the published code does, see `AsPublished`.

        Raises:
            CheckpointError: the checkpoint cannot be fetched, read or verified.
            UsageError: an argument is not valid here.
        """
        place = resolve_device(device)  # what cannot be is refused before a checkpoint is fetched
        precision = resolve_dtype(dtype, place)
        precision_name(dtype_name(precision), quantize)
        found = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(os.fspath(checkpoint))
        asked = choose_protocol(protocol, found, published_arithmetic=published_arithmetic)
        tokenizer = load_tokenizer(found.folder)  # one that is damaged is refused before gigabytes are read
        check_memory(found, place, precision, quantize)
        refuse_quantisation(quantize, place, precision)
        set_arithmetic(place)
        limit_memory(place)
        try:
            with memory_errors():
                network = load_network(found, device=place, dtype=precision, quantize=quantize)
                return cls(VisionLanguageModel(network), found, asked, batch_size, tokenizer)
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{found.name} ({found.size_bytes / 1e9:.1f} GB) does not fit into the free memory of {place}. "
                "Stop what else runs there, or choose another --device."
            ) from error

    def score_pixels(self, pixels: Pixels) -> Scores:
        """Score pictures that are preprocessed already.

        When the device's memory runs out, the batch is halved permanently, and scoring continues.

        Args:
            pixels: (N, 448, 448, 3) uint8, RGB.

        Raises:
            RunError: not even one image fits into the device's memory.
        """
        return self._score_engine.score(pixels)

    def describer(
        self,
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
    ) -> Describer:
        """The `Describer` of pictures that are preprocessed already; arguments as of `ArtiMuse.describe`.

        Raises:
            UsageError: an attribute is unknown, or a number out of range.
        """
        questions = self.protocol.choose_texts(attributes)
        scores = self.protocol.score_questions
        prompts = split_prompts(self._tokenizer, self.protocol, [*scores.values(), *questions.values()])
        check_vocabulary(prompts, self.checkpoint.folder, self.checkpoint.config.language.vocab_size)
        in_flight = _in_flight(sequences)
        engine = sized_text_engine(
            self.model,
            self.checkpoint.config,
            prompts,
            level_ids=self._level_ids,
            score_questions=len(scores),
            stop_id=turn_end_id(self._tokenizer),
            max_new_tokens=check_max_new_tokens(max_new_tokens),
            batch_size=self.batch_size,
            sequences=in_flight,
            rounding=self._rounding,
        )
        return Describer(engine, self._tokenizer, tuple(scores), tuple(questions))

    def answerer(
        self,
        protocol: MultipleChoice = MULTIPLE_CHOICE,
        *,
        max_new_tokens: int = MAX_REPLY_TOKENS,
        sequences: BatchSize = "auto",
    ) -> Answerer:
        """The `Answerer` of multiple-choice questions about pictures that are preprocessed already.

        Args:
            protocol: the prompt.
            max_new_tokens: where a reply is cut; the default is the published limit.
            sequences: replies that are generated at the same time.

        Raises:
            CheckpointError: the tokenizer does not know a letter.
            UsageError: a number is out of range.
        """
        tokenizer, folder = self._tokenizer, self.checkpoint.folder
        protocol = protocol.of_checkpoint(self.checkpoint.system_message)
        # All prompts share the tokens of the stem, at which these two part; the second is of the usual length.
        texts = (f"{protocol.stem}!", protocol.text_after_image(_A_QUESTION))
        prompts = split_prompts(tokenizer, protocol, texts)
        check_vocabulary(prompts, folder, self.checkpoint.config.language.vocab_size)
        engine = sized_text_engine(
            self.model,
            self.checkpoint.config,
            prompts,
            level_ids=self._level_ids,
            score_questions=0,
            stop_id=turn_end_id(tokenizer),
            max_new_tokens=check_max_new_tokens(max_new_tokens),
            batch_size=self.batch_size,
            sequences=_in_flight(sequences),
            watched_ids=letter_ids(tokenizer, protocol.letters, folder),
        )
        image = [image_token_id(tokenizer)] * IMAGE_TOKENS
        return Answerer(engine, tokenizer, protocol, (*prompts.head, *image, *prompts.shared))


def _in_flight(sequences: BatchSize) -> int | None:
    if sequences != "auto" and sequences < 1:
        raise UsageError(f"--sequences takes a whole number from 1 or `auto`, not {sequences}.")
    return None if sequences == "auto" else sequences
