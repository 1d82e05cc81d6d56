"""Expert texts: the answers to several questions about each of many images, decoded together.

One encoding and one prefill of an image serve all its questions, the score questions included: their prompts are cut
where their token ids differ. Each question then continues from there as a sequence of its own. A fixed number of
sequences, of any images, is in flight at a time; when one ends, the next takes its place at once (continuous batching),
so that no image waits for the longest text of another. The few tokens of a question's own are read by the same decode
steps that generate: they cost as much there as in a separate pass, and a preempted sequence is simply read again.

Not known here: where pixels come from, and what tokens mean.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import torch

from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine.decode_steps import DecodeSteps
from artimuse_actor.engine.kv_cache import KVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.scoring import level_probabilities
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails

FinishReason: TypeAlias = Literal["stop", "length"]

CPU_SEQUENCES: Final = 16
MAX_AUTO_SEQUENCES: Final = 512  # from about 200 rows a step is compute-bound
EXPECTED_TEXT_TOKENS: Final = 128  # published answers average 94 words
_MEMORY_SHARE: Final = 0.6  # of free memory; the rest is for prefill


@dataclass(frozen=True)
class GeneratedText:
    """One answer.

    Attributes:
        token_ids: without the stop token.
        finish_reason: `stop` if it ended by itself, `length` if it was cut at the limit.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True)
class AnsweredImage:
    """All answers about one image.

    Attributes:
        key: as passed to `add`.
        probabilities: (Q, 101) float32 on the CPU, of the levels for each score question; None if none was asked.
        texts: one for each text question, in order.
    """

    key: Any
    probabilities: torch.Tensor | None
    texts: tuple[GeneratedText, ...]


@dataclass
class _Image:
    key: Any
    pixels: Pixels
    scored: bool
    probabilities: torch.Tensor | None = None
    shared_pages: list[int] = field(default_factory=list)
    texts: dict[int, GeneratedText] = field(default_factory=dict)


@dataclass
class _Sequence:
    """A question about an image, being answered.

    Attributes:
        image: the image it is about.
        question: index of the question.
        prompt_tokens: number of `tokens` that belong to the question.
        tokens: those after the common prefix: the question's own, then the text so far.
        pages: of the cache, in order; the image's shared pages first.
        read: number of tokens in the cache, the common prefix included.
    """

    image: _Image
    question: int
    prompt_tokens: int
    tokens: list[int]
    pages: list[int]
    read: int


class TextEngine:
    """Greedy decoding with a fixed budget of sequences in flight.

    Images are added to a queue, and `step` works through it: call it while `busy`. One thread at a time may step;
    others may add images meanwhile.

    Attributes:
        sequences: the budget; reduced when the device's memory runs out.
        max_admission: images of one prefill; reduced when the device's memory runs out.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        prompts: SplitPrompts,
        *,
        level_ids: torch.Tensor,
        score_questions: int,
        stop_id: int,
        max_new_tokens: int,
        sequences: int,
        max_admission: int,
    ) -> None:
        """Prefill the head of the prompts.

        Args:
            model: the network.
            prompts: of all questions: first those answered by a score, then at least one answered by a text.
            level_ids: (101,) int64 on the device, ids of the score tokens.
            score_questions: number of prompts that are score questions.
            stop_id: the token that ends a text.
            max_new_tokens: limit of a text; at least 1.
            sequences: most in flight at a time; at least 1.
            max_admission: images of one prefill; at least 1.
        """
        self._model = model
        self._level_ids, self._stop_id, self._max_new_tokens = level_ids, stop_id, max_new_tokens
        self._shared = prompts.shared
        self._score_tails = prompts.tails[:score_questions]
        self._text_shared, self._text_tails = split_tails(prompts.tails[score_questions:])
        self.sequences = sequences
        # Few images at a time: admitted images take memory until their turn comes.
        self.max_admission = min(max_admission, max(1, sequences // (2 * len(self._text_tails))))
        with torch.inference_mode():
            self._head = model.extend(model.embed(prompts.head))
        self._cache = model.new_pages()
        self._steps = DecodeSteps(model, self._cache)
        self._images: deque[_Image] = deque()
        self._waiting: deque[_Sequence] = deque()
        self._live: list[_Sequence] = []
        self._prefix = 0

    @property
    def busy(self) -> bool:
        """True while an image is not answered yet."""
        return bool(self._images or self._waiting or self._live)

    @property
    def wants_images(self) -> bool:
        """True while fewer images are queued than the next prefill can take."""
        return len(self._images) < self.max_admission

    def add(self, key: Any, pixels: Pixels, *, scored: bool = True) -> None:
        """Queue an image.

        Args:
            key: returned with the answers.
            pixels: (448, 448, 3) uint8, RGB; may be a view, since it is read later, at its prefill.
            scored: also ask the score questions.
        """
        self._images.append(_Image(key, pixels, scored and bool(self._score_tails)))

    @torch.inference_mode()
    def step(self) -> list[AnsweredImage]:
        """Read or generate one token of every sequence in flight, prefilling images while places are free.

        When the device's memory runs out, fewer sequences are kept in flight from then on; the others wait, and no
        text is lost.

        Returns:
            The images whose last text has ended.

        Raises:
            RunError: not even one sequence fits into the device's memory.
        """
        is_filled = False
        try:
            self._fill()
            is_filled = True
            return self._decode()
        except torch.OutOfMemoryError as error:
            if self.sequences == self.max_admission == 1:
                raise RunError(
                    f"One text does not fit into the free memory of {self._model.device}. "
                    "Stop what else runs there, or choose another --device."
                ) from error
        # Outside the handler: the exception's frames hold the tensors that filled the memory.
        self._shrink(after_prefill=not is_filled)
        return []

    def _fill(self) -> None:
        """Give free places to waiting sequences, in the order of the images."""
        while len(self._live) < self.sequences:
            if not self._waiting:
                if not self._images:
                    return
                self._admit()
            self._live.append(self._waiting.popleft())

    def _admit(self) -> None:
        """Prefill the next images, score them, and queue their sequences."""
        model = self._model
        batch = [self._images[index] for index in range(min(self.max_admission, len(self._images)))]
        image = model.encode_images(torch.stack([torch.tensor(entry.pixels) for entry in batch]))
        shared = model.embed(self._shared).expand(len(batch), -1, -1)
        prefix = model.extend(torch.cat([image, shared], dim=1), self._head)
        probabilities = None
        if any(entry.scored for entry in batch):
            tails = (model.embed(tail).expand(len(batch), -1, -1) for tail in self._score_tails)
            hidden = torch.stack([model.last_hidden(tail, prefix) for tail in tails], dim=1)  # (B, Q, C)
            probabilities = level_probabilities(model.head_logits(hidden, self._level_ids)).cpu()
        if self._text_shared:
            prefix = model.extend(model.embed(self._text_shared).expand(len(batch), -1, -1), prefix)
        self._prefix = prefix.length
        shared_pages, own_pages = self._store(prefix)
        for row, entry in enumerate(batch):
            self._images.popleft()
            if probabilities is not None and entry.scored:
                entry.probabilities = probabilities[row]
            entry.shared_pages = shared_pages[row]
            for question, tail in enumerate(self._text_tails):
                held = [*entry.shared_pages, own_pages[row][question]]
                self._waiting.append(_Sequence(entry, question, len(tail), list(tail), held, prefix.length))

    def _store(self, prefix: KVCache) -> tuple[list[list[int]], list[list[int]]]:
        """Write the prefix of B images into pages: shared ones for each image, and one for each of its sequences."""
        cache, images, questions = self._cache, prefix.layers[0][0].shape[0], len(self._text_tails)
        if cache.pages == 1 and self._model.device.type == "cuda":
            # All at once, since graphs are captured again whenever the cache grows.
            each = (prefix.length + EXPECTED_TEXT_TOKENS) // cache.page_tokens
            cache.grow(self.sequences * each)
        whole = prefix.length // cache.page_tokens
        taken = cache.allocate(images * (whole + questions))
        try:
            pages = torch.tensor(taken).view(images, whole + questions)
            cache.write_prefix(prefix, *pages.to(self._model.device).split([whole, questions], dim=1))
        except torch.OutOfMemoryError:
            cache.release(taken)
            raise
        return pages[:, :whole].tolist(), pages[:, whole:].tolist()

    def _decode(self) -> list[AnsweredImage]:
        live, cache, prefix = self._live, self._cache, self._prefix
        if not live:
            return []
        full = [sequence for sequence in live if sequence.read == len(sequence.pages) * cache.page_tokens]
        for sequence, page in zip(full, cache.allocate(len(full)), strict=True):
            sequence.pages.append(page)
        next_ids = self._steps(
            [sequence.tokens[sequence.read - prefix] for sequence in live],
            [sequence.read for sequence in live],
            [sequence.pages for sequence in live],
        )
        self._live, answered = [], []
        for sequence, next_id in zip(live, next_ids, strict=True):
            sequence.read += 1
            if sequence.read - prefix < len(sequence.tokens):  # still reading the question, or a preempted text again
                self._live.append(sequence)
                continue
            if next_id != self._stop_id:
                sequence.tokens.append(next_id)
            if next_id == self._stop_id or len(sequence.tokens) - sequence.prompt_tokens == self._max_new_tokens:
                answered += self._end(sequence, "stop" if next_id == self._stop_id else "length")
            else:
                self._live.append(sequence)
        return answered

    def _end(self, sequence: _Sequence, reason: FinishReason) -> list[AnsweredImage]:
        """Release its pages; returns its image if this was the image's last text."""
        image, cache = sequence.image, self._cache
        cache.release(sequence.pages[len(image.shared_pages) :])
        image.texts[sequence.question] = GeneratedText(tuple(sequence.tokens[sequence.prompt_tokens :]), reason)
        if len(image.texts) < len(self._text_tails):
            return []
        cache.release(image.shared_pages)
        texts = tuple(image.texts[question] for question in range(len(self._text_tails)))
        return [AnsweredImage(image.key, image.probabilities, texts)]

    def _shrink(self, *, after_prefill: bool) -> None:
        """Halve the limit that ran out of memory, and requeue sequences beyond the budget, the youngest first."""
        if after_prefill and self.max_admission > 1:
            self.max_admission //= 2
        else:
            self.sequences = max(1, min(self.sequences, len(self._live) or self.sequences) // 2)
            self.max_admission = max(1, self.max_admission // 2)
        while len(self._live) > self.sequences:
            sequence = self._live.pop()
            kept = len(sequence.image.shared_pages) + 1  # its first own page holds the end of the prefix
            self._cache.release(sequence.pages[kept:])
            del sequence.pages[kept:]
            sequence.read = self._prefix
            self._waiting.appendleft(sequence)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


def probe_sequences(config: NetworkConfig, prompt_tokens: int, device: torch.device, dtype: torch.dtype) -> int:
    """Sequences in flight that should fit into the device's free memory.

    Args:
        config: the network's sizes.
        prompt_tokens: of the longest text prompt, its image included.
        device: where the weights already are.
        dtype: of keys and values.
    """
    if device.type != "cuda":
        return CPU_SEQUENCES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    language = config.language
    bytes_per_token = 2 * language.num_layers * language.num_kv_heads * language.head_dim * dtype.itemsize
    # Rounded up as if no prefix were shared, which leaves room for waiting images.
    bytes_per_sequence = bytes_per_token * (prompt_tokens + EXPECTED_TEXT_TOKENS)
    return int(max(1, min(MAX_AUTO_SEQUENCES, _MEMORY_SHARE * free_bytes // bytes_per_sequence)))
