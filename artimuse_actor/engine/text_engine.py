"""Expert texts: the answers to several questions about each of many images, decoded together.

One encoding and one prefill of an image serve all its questions, the score questions included: their prompts are cut
where their token ids differ. Each question then continues from there as a sequence of its own. A fixed number of
sequences, of any images, is in flight at a time; when one ends, the next takes its place at once (continuous batching),
so that no image waits for the longest text of another. The few tokens of a question's own are read by the same decode
steps that generate: they cost as much there as in a separate pass, and a preempted sequence is simply read again.

Not known here: where pixels come from, and what tokens mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from artimuse_actor.engine.admission import admit
from artimuse_actor.engine.decode_steps import DecodeSteps
from artimuse_actor.engine.device_memory import memory_errors, release_memory
from artimuse_actor.engine.kv_cache import OutOfPagesError
from artimuse_actor.engine.model import NO_TOKEN, VisionLanguageModel
from artimuse_actor.engine.read_prompts import PrefixReader
from artimuse_actor.engine.schedule import (
    AnsweredImage,
    FinishReason,
    LaunchedStep,
    QueuedImage,
    Schedule,
    TextSequence,
)
from artimuse_actor.engine.text_budget import TextBudget
from artimuse_actor.errors import RunError
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import SplitPrompts
from artimuse_actor.protocol.protocols import Rounding


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
        watched_ids: Sequence[int] = (),
        rounding: Rounding = "none",
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
            watched_ids: tokens whose probabilities as the first one of each text are wanted.
            rounding: of the scores.

        Raises:
            torch.OutOfMemoryError: the device has no room for the cache.
        """
        self._model, self._stop_id, self._max_new_tokens = model, stop_id, max_new_tokens
        self._reader = PrefixReader(model, prompts, score_questions, level_ids, rounding)
        self._prefix, self._text_tails = self._reader.tokens, self._reader.text_tails
        self.sequences = self._places = budget.sequences
        # Few images at a time: admitted images take memory until their turn comes.
        self.max_admission = min(budget.max_admission, max(1, budget.sequences // (2 * len(self._text_tails))))
        self._schedule = Schedule(model.new_cache(budget.pages), self._prefix)
        self._watched_ids = tuple(watched_ids)
        self._steps = self._new_steps()
        # On CUDA the results of a step are read when the next one runs, so that the device does not wait for the host.
        self._reads_late = model.device.type == "cuda"
        self._launched: LaunchedStep | None = None
        self._answered: list[AnsweredImage] = []
        self._one_at_a_time = False  # an image is read only when no other is in the cache

    @property
    def busy(self) -> bool:
        """True while an image is not answered yet."""
        return self._schedule.is_busy

    @property
    def wants_images(self) -> bool:
        """True while fewer images are queued than the next prefill can take."""
        return len(self._schedule.images) < self.max_admission

    def add(
        self, key: Any, pixels: Pixels, *, scored: bool = True, tails: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Queue an image.

        Args:
            key: returned with the answers.
            pixels: (448, 448, 3) uint8, RGB; may be a view, since it is read later, at its prefill.
            scored: also ask the score questions.
            tails: of questions about this image alone, at least one, each not empty: the tokens after the prefix that
                all have in common; the engine's own text questions if not given.
        """
        image = QueuedImage(key, pixels, scored and self._reader.scores)
        for question, tail in enumerate(self._text_tails if tails is None else tails):
            image.sequences.append(TextSequence(image, question, len(tail), list(tail)))
        self._schedule.images.append(image)

    @torch.inference_mode()
    def step(self) -> list[AnsweredImage]:
        """Read or generate one token of every sequence in flight, prefilling images while places are free.

        When the device's memory runs out, fewer sequences are kept in flight from then on; the others wait, and no
        text is lost.

        Returns:
            The images whose last text is known to have ended.

        Raises:
            RunError: not even one sequence fits into the device's memory.
        """
        is_filled = False
        try:
            with memory_errors():
                self._fill()
                is_filled = True
                self._decode()
                return self._take_answered()
        except (torch.OutOfMemoryError, OutOfPagesError) as error:
            way_out = self._way_out(is_filled, halving=isinstance(error, torch.OutOfMemoryError))
            if way_out is None:
                raise RunError(
                    f"One text does not fit into the free memory of {self._model.device}. "
                    "Stop what else runs there, or choose another --device."
                ) from error
        # Outside the handler: the exception's frames hold the tensors that filled the memory.
        self._read_results()
        way_out()
        release_memory(self._model.device)
        return self._take_answered()

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
        """Prefill the next images; False if there is none, or no room before others have ended."""
        schedule = self._schedule
        count = min(self.max_admission, len(schedule.images))
        if count == 0 or (self._one_at_a_time and schedule.holds_pages):
            return False
        if self._one_at_a_time and schedule.cache.pages > 1:
            self._restart()
        return admit(schedule, self._reader, count)

    def _decode(self) -> None:
        """Launch a step, and read the results of the last one, or of this one."""
        launched = self._launch()
        self._read_results()
        self._launched = launched
        if not self._reads_late:
            self._read_results()

    def _launch(self) -> LaunchedStep | None:
        """A step of the sequences that go on; None if there are none."""
        rows = self._rows()
        if not rows:
            return None
        indices = [sequence.read - self._prefix for sequence in rows]
        next_ids = self._steps.launch(
            [
                sequence.tokens[index] if index < len(sequence.tokens) else -1 - sequence.row
                for sequence, index in zip(rows, indices, strict=True)
            ],
            [sequence.read for sequence in rows],
            [sequence.pages for sequence in rows],
        )
        for row, sequence in enumerate(rows):
            sequence.row, sequence.read = row, sequence.read + 1
        reads = [(sequence, index + 1) for sequence, index in zip(rows, indices, strict=True)]
        return LaunchedStep(reads, next_ids, self._steps.watched(len(rows)))

    def _rows(self) -> list[TextSequence]:
        """Live sequences that go on, each with a page for its next token.

        Raises:
            OutOfPagesError: the oldest does not fit into the cache alone.
        """
        schedule = self._schedule
        while True:
            rows = schedule.going_on(self._max_new_tokens)
            try:
                schedule.take_pages(rows)
                return rows
            except OutOfPagesError:
                if self._launched:  # texts that have ended give theirs back, and what goes back must be known
                    self._read_results()
                elif schedule.go_back():
                    self._places = max(1, len(schedule.live))
                else:
                    raise

    def _read_results(self) -> None:
        """Take the tokens of the last step; texts that end with them give back their places and pages."""
        launched, self._launched = self._launched, None
        if launched is None:
            return
        watched = launched.watched.read().tolist() if launched.watched else [()] * len(launched.rows)
        next_ids = launched.next_ids.read().tolist()
        for (sequence, index), next_id, probabilities in zip(launched.rows, next_ids, watched, strict=True):
            if index < len(sequence.tokens) or sequence.has_ended:  # still reading its question, or it ended a step ago
                continue
            if index == sequence.prompt_tokens:
                sequence.watched = tuple(probabilities)
            reason: FinishReason = "stop"
            if next_id != self._stop_id:
                sequence.tokens.append(next_id)
                is_going_on = next_id != NO_TOKEN  # which ends this text, and spoils no other
                if is_going_on and len(sequence.tokens) - sequence.prompt_tokens < self._max_new_tokens:
                    continue
                reason = "length"
            if self._schedule.end(sequence, reason):
                image = sequence.image
                texts = tuple(image.texts[question] for question in range(len(image.texts)))
                self._answered.append(AnsweredImage(image.key, image.probabilities, texts))
                self._places += 1  # what made sequences wait for pages passes

    def _take_answered(self) -> list[AnsweredImage]:
        answered, self._answered = self._answered, []
        return answered

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
        self._read_results()
        schedule = self._schedule
        schedule.queue_all()
        del schedule.cache, self._steps  # before another is allocated
        release_memory(self._model.device)
        schedule.cache = self._model.new_cache(pages, frugal=True)
        self._steps = self._new_steps()

    def _new_steps(self) -> DecodeSteps:
        return DecodeSteps(self._model, self._schedule.cache, self.sequences, self._watched_ids)
