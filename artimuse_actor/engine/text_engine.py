"""Expert texts: the answers to several questions about each of many images, decoded together.

One encoding and one prefill of an image serve all its questions, the score questions included: their prompts are cut
where their token ids differ. Each question then continues from there as a sequence of its own. A fixed number of
sequences, of any images, is in flight at a time; when one ends, the next takes its place at once (continuous batching),
so that no image waits for the longest text of another. The few tokens of a question's own are read by the same decode
steps that generate: they cost as much there as in a separate pass, and a preempted sequence is simply read again.

Not known here: where pixels come from, and what tokens mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from artimuse_actor.engine.decode_steps import DecodeSteps
from artimuse_actor.engine.device_memory import memory_errors, release_memory
from artimuse_actor.engine.kv_cache import KVCache, OutOfPagesError
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.read_prompts import after_image, read_prompts
from artimuse_actor.engine.schedule import FinishReason, GeneratedText, QueuedImage, Schedule, TextSequence
from artimuse_actor.engine.scoring import level_probabilities
from artimuse_actor.engine.text_budget import TextBudget
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import SplitPrompts, split_tails
from artimuse_actor.protocol.protocols import IMAGE_TOKENS


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
        budget: TextBudget,
    ) -> None:
        """Prefill the head of the prompts.

        Args:
            model: the network.
            prompts: of all questions: first those answered by a score, then at least one answered by a text.
            level_ids: (101,) int64 on the device, ids of the score tokens.
            score_questions: number of prompts that are score questions.
            stop_id: the token that ends a text.
            max_new_tokens: limit of a text; at least 1.
            budget: its limits; each is at least 1.

        Raises:
            torch.OutOfMemoryError: the device has no room for the cache.
        """
        self._model = model
        self._level_ids, self._stop_id, self._max_new_tokens = level_ids, stop_id, max_new_tokens
        text_shared, self._text_tails = split_tails(prompts.tails[score_questions:])
        self.sequences = self._places = budget.sequences
        # Few images at a time: admitted images take memory until their turn comes.
        self.max_admission = min(budget.max_admission, max(1, budget.sequences // (2 * len(self._text_tails))))
        with torch.inference_mode():
            scores = SplitPrompts(prompts.head, prompts.shared, prompts.tails[:score_questions])
            self._prompts = read_prompts(model, scores)
            self._text_shared = model.embed(text_shared)  # (1, T, C)
        self._prefix = len(prompts.head) + IMAGE_TOKENS + len(prompts.shared) + len(text_shared)
        self._schedule = Schedule(model.new_cache(budget.pages), self._prefix)
        self._steps = DecodeSteps(model, self._schedule.cache)
        self._one_at_a_time = False  # an image is read only when no other is in the cache

    @property
    def busy(self) -> bool:
        """True while an image is not answered yet."""
        return self._schedule.is_busy

    @property
    def wants_images(self) -> bool:
        """True while fewer images are queued than the next prefill can take."""
        return len(self._schedule.images) < self.max_admission

    def add(self, key: Any, pixels: Pixels, *, scored: bool = True) -> None:
        """Queue an image.

        Args:
            key: returned with the answers.
            pixels: (448, 448, 3) uint8, RGB; may be a view, since it is read later, at its prefill.
            scored: also ask the score questions.
        """
        image = QueuedImage(key, pixels, scored and bool(self._prompts.tails))
        for question, tail in enumerate(self._text_tails):
            image.sequences.append(TextSequence(image, question, len(tail), list(tail)))
        self._schedule.images.append(image)

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
            with memory_errors():
                self._fill()
                is_filled = True
                return self._decode()
        except (torch.OutOfMemoryError, OutOfPagesError) as error:
            way_out = self._way_out(is_filled, halving=isinstance(error, torch.OutOfMemoryError))
            if way_out is None:
                raise RunError(
                    f"One text does not fit into the free memory of {self._model.device}. "
                    "Stop what else runs there, or choose another --device."
                ) from error
        # Outside the handler: the exception's frames hold the tensors that filled the memory.
        way_out()
        release_memory(self._model.device)
        return []

    def _fill(self) -> None:
        """Give free places to waiting sequences, in the order of the images."""
        schedule = self._schedule
        while (free := min(self.sequences, self._places) - len(schedule.live)) > 0:
            if not schedule.waiting and not self._admit():
                return
            if not schedule.start(free):
                if schedule.live:
                    return  # until one of them ends
                if not schedule.go_back():
                    raise OutOfPagesError("a text cannot begin")

    def _admit(self) -> bool:
        """Prefill the next images and score them; False if there is none, or no room before others have ended."""
        schedule, model = self._schedule, self._model
        count = min(self.max_admission, len(schedule.images))
        if count == 0 or (self._one_at_a_time and schedule.holds_pages):
            return False
        if self._one_at_a_time and schedule.cache.pages > 1:
            self._restart()
        pages = schedule.allocate_prefixes(count)
        if not pages:
            if schedule.holds_pages:
                return False
            raise OutOfPagesError("the prompts about an image take more pages than there are")
        try:
            batch = [schedule.images[index] for index in range(len(pages))]
            image = model.encode_images(torch.stack([torch.tensor(entry.pixels) for entry in batch]))  # (B, 256, C)
            prefix = model.extend(after_image(image, self._prompts.shared), self._prompts.head)
            probabilities = self._score(prefix, len(batch)) if any(entry.scored for entry in batch) else None
            if self._text_shared.shape[1]:
                prefix = model.extend(self._text_shared.expand(len(batch), -1, -1), prefix)
            schedule.store_prefixes(prefix, pages)
        except BaseException:
            for held in pages:
                schedule.cache.release(held)
            raise
        for row, entry in enumerate(batch):
            if probabilities is not None and entry.scored:
                entry.probabilities = probabilities[row]
            entry.scored = False  # not again, should it be prefilled again
        return True

    def _score(self, prefix: KVCache, count: int) -> torch.Tensor:
        """(B, Q, 101) float32 on the CPU, the probabilities of the levels."""
        tails = (tail.expand(count, -1, -1) for tail in self._prompts.tails)
        hidden = torch.stack([self._model.last_hidden(tail, prefix) for tail in tails], dim=1)  # (B, Q, C)
        return level_probabilities(self._model.head_logits(hidden, self._level_ids)).cpu()

    def _decode(self) -> list[AnsweredImage]:
        schedule = self._schedule
        if not schedule.live:
            return []
        if schedule.take_pages():
            self._places = len(schedule.live)
        live = schedule.live
        next_ids = self._steps(
            [sequence.tokens[sequence.read - self._prefix] for sequence in live],
            [sequence.read for sequence in live],
            [sequence.pages for sequence in live],
        )
        schedule.live, answered = [], []
        for sequence, next_id in zip(live, next_ids, strict=True):
            sequence.read += 1
            reason = self._take(sequence, next_id)
            if reason is None:
                schedule.live.append(sequence)
                continue
            text = GeneratedText(tuple(sequence.tokens[sequence.prompt_tokens :]), reason)
            if schedule.end(sequence, text):
                answered.append(self._answered(sequence.image))
        # What made sequences wait for pages passes: one more place for each image that needs none any more.
        self._places += len(answered)
        return answered

    def _take(self, sequence: TextSequence, next_id: int) -> FinishReason | None:
        """Append the next token, if it is one of the text; whether and how the text ends with it."""
        if sequence.read - self._prefix < len(sequence.tokens):  # still reading the question, or a text again
            return None
        if next_id == self._stop_id:
            return "stop"
        sequence.tokens.append(next_id)
        return "length" if len(sequence.tokens) - sequence.prompt_tokens == self._max_new_tokens else None

    def _answered(self, image: QueuedImage) -> AnsweredImage:
        texts = tuple(image.texts[question] for question in range(len(self._text_tails)))
        return AnsweredImage(image.key, image.probabilities, texts)

    def _way_out(self, is_filled: bool, *, halving: bool = True) -> Callable[[], None] | None:
        """How to go on with less memory, after a decode step or a prefill ran out of it; None if that is not possible.

        A cache that grows may have taken what is missing. A fixed one leaves room, by `text_budget`; if that was too
        little, it gives up a quarter. When it was pages that ran out (not `halving`), the youngest have given theirs.
        """
        cache = self._schedule.cache
        if halving and not is_filled and self.max_admission > 1:
            return self._halve_admission
        if halving and is_filled and self.sequences > 1:
            return self._halve_sequences
        if not cache.grows:
            smaller = cache.pages * 3 // 4
            return partial(self._restart, smaller) if halving and smaller >= self._schedule.least_pages else None
        if not self._one_at_a_time or (is_filled and cache.free_pages):
            return partial(self._go_one_by_one, at_once=is_filled)
        return None

    def _halve_admission(self) -> None:
        self.max_admission //= 2

    def _halve_sequences(self) -> None:
        self.sequences = self._places = max(1, min(self.sequences, len(self._schedule.live)) // 2)
        self.max_admission = max(1, self.max_admission // 2)
        self._schedule.preempt(len(self._schedule.live) - self.sequences)

    def _go_one_by_one(self, *, at_once: bool) -> None:
        """From now on, read an image only when no other is in the cache, which begins anew for each."""
        self._one_at_a_time = True
        if at_once:
            self._restart()

    def _restart(self, pages: int | None = None) -> None:
        """Queue all images again, and go on with another cache: of so many pages, or one that grows."""
        schedule = self._schedule
        schedule.queue_all()
        del schedule.cache, self._steps  # before another is allocated
        release_memory(self._model.device)
        schedule.cache = self._model.new_cache(pages, frugal=True)
        self._steps = DecodeSteps(self._model, schedule.cache)
