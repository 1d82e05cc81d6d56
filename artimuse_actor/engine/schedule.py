"""Images and sequences in their order, and the pages they have.

    queued images → prefill → waiting sequences → live sequences → answered images

An image holds the whole pages of its prefix, and a *stem*, the page with the rest of it; a sequence copies the stem
when it becomes live. So what waits takes little, and when pages run out the youngest go back one stage: a live sequence
waits, an image is queued for another prefill. Both keep what was generated, and read it again when their turn comes.
The oldest sequence can get every page there is, so that each text ends that fits into the cache at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch

from artimuse_actor.engine.kv_cache import KVCache, PagedKVCache
from artimuse_actor.engine.late_read import LateRead, to_device
from artimuse_actor.images.options import Pixels

FinishReason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class GeneratedText:
    """One answer.

    Attributes:
        token_ids: without the stop token; the last is `NO_TOKEN` if the network gave no number for it.
        finish_reason: `stop` if it ended by itself, `length` if it was cut at the limit.
        watched: probability of each of the engine's watched tokens as the first one; empty if it watches none.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    watched: tuple[float, ...] = ()


@dataclass(frozen=True)
class AnsweredImage:
    """All answers about one image.

    Attributes:
        key: as passed to `TextEngine.add`.
        probabilities: (Q, 101) float32 on the CPU, of the levels for each score question; None if none was asked.
        texts: one for each text question, in order.
    """

    key: Any
    probabilities: torch.Tensor | None
    texts: tuple[GeneratedText, ...]


@dataclass(eq=False)
class QueuedImage:
    """An image with unanswered questions.

    Attributes:
        key: of the caller.
        pixels: (448, 448, 3) uint8.
        scored: whether the score questions are still to ask.
        sequences: one for each text question that has no answer yet.
        probabilities: (Q, 101) float32 on the CPU, once it was scored.
        pages: with the prefix, in order, the stem last; empty while it is queued.
        texts: answers by question.
    """

    key: Any
    pixels: Pixels
    scored: bool
    sequences: list[TextSequence] = field(default_factory=list)
    probabilities: torch.Tensor | None = None
    pages: list[int] = field(default_factory=list)
    texts: dict[int, GeneratedText] = field(default_factory=dict)


@dataclass(eq=False)
class TextSequence:
    """A question about an image, being answered.

    Attributes:
        image: the image it is about.
        question: index of the question.
        prompt_tokens: number of `tokens` that belong to the question.
        tokens: those after the common prefix: the question's own, then the text so far.
        pages: of the cache, in order, the whole pages of the image first; empty while it is not live.
        read: number of tokens in the cache, the common prefix included.
        row: of the last step that it was in.
        watched: as of `GeneratedText`, once the first token of the text is known.
    """

    image: QueuedImage
    question: int
    prompt_tokens: int
    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    read: int = 0
    row: int = 0
    watched: tuple[float, ...] = ()

    @property
    def has_ended(self) -> bool:
        """True once its image has its text."""
        return self.question in self.image.texts


@dataclass(frozen=True)
class LaunchedStep:
    """A decode step whose results were not read yet.

    Attributes:
        rows: each sequence, and the index of its next token among its tokens.
        next_ids: (B,) int64 on its way to the CPU.
        watched: (B, K) float32, probabilities of the watched tokens on their way to the CPU; None if none is watched.
    """

    rows: list[tuple[TextSequence, int]]
    next_ids: LateRead
    watched: LateRead | None = None


class Schedule:
    """The stages, and a cache.

    Attributes:
        images: queued, the oldest first.
        waiting: sequences of images whose prefix is in the cache, the oldest first.
        live: sequences that each decode step reads one token of, the oldest first.
    """

    def __init__(self, cache: PagedKVCache, prefix_tokens: int) -> None:
        """Start empty.

        Args:
            cache: of which nothing is in use.
            prefix_tokens: P, the tokens that all sequences about an image have in common.
        """
        self.images: deque[QueuedImage] = deque()
        self.waiting: deque[TextSequence] = deque()
        self.live: list[TextSequence] = []
        self._prefix = prefix_tokens
        self.cache = cache

    @property
    def is_busy(self) -> bool:
        """True while an image is not answered yet."""
        return bool(self.images or self.waiting or self.live)

    @property
    def holds_pages(self) -> bool:
        """True while a prefix or a text is in the cache."""
        return bool(self.waiting or self.live)

    @property
    def least_pages(self) -> int:
        """Pages of the smallest cache that a text can begin in: the scratch page, its image's and its own."""
        return self._whole + 3

    @property
    def _whole(self) -> int:
        """Pages that a prefix fills."""
        return self._prefix // self.cache.page_tokens

    def allocate_prefixes(self, most: int) -> list[list[int]]:
        """Pages for the prefixes of the next images, of at most so many and as many as there are pages for."""
        return self.cache.allocate_most(min(most, len(self.images)), self._whole + 1)

    def store_prefixes(self, prefix: KVCache, pages: Sequence[list[int]]) -> None:
        """Write the prefixes of the oldest images into pages, and let their sequences wait."""
        table = to_device(torch.tensor(pages), prefix.layers[0][0].device)  # (B, W)
        self.cache.write_prefix(prefix, table[:, :-1], table[:, -1])
        for held in pages:
            image = self.images.popleft()
            image.pages = held
            self.waiting += image.sequences

    def start(self, most: int) -> int:
        """Make the oldest waiting sequences live, at most so many and as many as there are pages for: that number."""
        pages = self.cache.allocate_most(min(most, len(self.waiting)))
        started = [self.waiting.popleft() for _ in pages]
        for sequence, page in zip(started, pages, strict=True):
            sequence.pages, sequence.read = [*sequence.image.pages[:-1], *page], self._prefix
        if self._prefix % self.cache.page_tokens and started:
            self.cache.copy([sequence.image.pages[-1] for sequence in started], [page for (page,) in pages])
        self.live += started
        return len(started)

    def going_on(self, max_new_tokens: int) -> list[TextSequence]:
        """Live sequences whose last token is not yet on its way."""
        return [
            sequence
            for sequence in self.live
            if sequence.read - self._prefix < len(sequence.tokens)
            or len(sequence.tokens) + 1 - sequence.prompt_tokens < max_new_tokens
        ]

    def take_pages(self, rows: Sequence[TextSequence]) -> None:
        """Give a page to each of some live sequences that needs one for its next token.

        Raises:
            OutOfPagesError: there are too few; none was given.
        """
        full = [row for row in rows if row.read == len(row.pages) * self.cache.page_tokens]
        for sequence, page in zip(full, self.cache.allocate(len(full)), strict=True):
            sequence.pages.append(page)

    def go_back(self) -> bool:
        """Put the youngest sequence or image back a stage, and release its pages; False if only the oldest is left."""
        if len(self.live) > 1:
            self.preempt(1)
            return True
        oldest = self.live[0].image if self.live else self.waiting[0].image if self.waiting else None
        youngest = self.waiting[-1].image if self.waiting else oldest
        if youngest is oldest:
            return False
        assert youngest is not None
        self._queue_again([youngest])
        return True

    def preempt(self, count: int) -> None:
        """Let the youngest live sequences wait."""
        for _ in range(count):
            sequence = self.live.pop()
            self._release(sequence)
            self.waiting.appendleft(sequence)

    def queue_all(self) -> None:
        """Put all images back to the first stage; they release all pages."""
        self.preempt(len(self.live))
        self._queue_again(dict.fromkeys(sequence.image for sequence in self.waiting))

    def end(self, sequence: TextSequence, reason: FinishReason) -> bool:
        """Take a live sequence out, with its text and its pages; True if it was its image's last."""
        image = sequence.image
        self.live.remove(sequence)
        self._release(sequence)
        image.sequences.remove(sequence)
        own = tuple(sequence.tokens[sequence.prompt_tokens :])
        image.texts[sequence.question] = GeneratedText(own, reason, sequence.watched)
        if image.sequences:
            return False
        self.cache.release(image.pages)
        return True

    def _release(self, sequence: TextSequence) -> None:
        self.cache.release(sequence.pages[self._whole :])
        sequence.pages = []

    def _queue_again(self, images: Iterable[QueuedImage]) -> None:
        """Images without a live sequence, the oldest first: they release their pages."""
        gone = list(images)
        for image in gone:
            self.cache.release(image.pages)
            image.pages = []
        self.waiting = deque(sequence for sequence in self.waiting if sequence.image.pages)
        self.images.extendleft(reversed(gone))
