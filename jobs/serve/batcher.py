"""The thread that has the model: pictures of all requests wait for it together, and become batches.

Scores come first: texts are generated a decode step at a time, and between two steps the pictures that wait for a score
are scored. A picture whose request was given up is dropped while it waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from artimuse_actor.engine.describe import Describer
from artimuse_actor.engine.scoring import ImageScore, image_scores
from artimuse_actor.errors import NoNumber, RequestRefused, reason_of
from artimuse_actor.images.options import Pixels
from artimuse_actor.loaded_model import LoadedModel
from jobs.serve.meters import Meters


@dataclass(eq=False)
class Picture:
    """A picture that waits for its answer.

    Attributes:
        pixels: (448, 448, 3) uint8.
        answer: an `ImageDescription` if texts were asked for.
    """

    pixels: Pixels
    answer: Future[ImageScore] = field(default_factory=Future)


class Batcher:
    """Scores and describes pictures that any thread submits.

    Attributes:
        ended: done when the thread has ended, with the exception that no request could have caused.
    """

    def __init__(
        self, model: LoadedModel, new_describer: Callable[[], Describer] | None, wait_s: float, meters: Meters
    ) -> None:
        """Start the thread.

        Args:
            model: used by the thread alone from now on.
            new_describer: makes what describes pictures; None if no texts can be asked for.
            wait_s: how long an idle model waits for more pictures to fill its batch.
            meters: count the batches.
        """
        self._model, self._new_describer, self._wait_s, self._meters = model, new_describer, wait_s, meters
        self._describer = new_describer() if new_describer else None
        self._to_score: deque[Picture] = deque()
        self._to_describe: deque[Picture] = deque()
        self._at_work: set[Picture] = set()
        self._changed = threading.Condition()
        self._closing = False
        self.ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="model")
        self._thread.start()

    def submit(self, pixels: Pixels, *, texts: bool) -> Future[ImageScore]:
        """The scores of a picture, to come; with `texts` an `ImageDescription`.

        Raises:
            RequestRefused: the model has failed.
        """
        picture = Picture(pixels)
        with self._changed:
            if self._closing:
                raise _ended()
            (self._to_describe if texts else self._to_score).append(picture)
            self._changed.notify()
        return picture.answer

    def hurry(self) -> None:
        """Wait for no more pictures of a batch from now on."""
        with self._changed:
            self._wait_s = 0.0
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its batch; pictures that wait get an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            while work := self._next():
                to_score, to_describe = work
                if to_score:
                    self._score(to_score)
                if self._describer is not None:
                    self._describe(to_describe)
        except BaseException as error:  # a device that is broken or in use raises any type
            failure = error
        with self._changed:
            self._closing = True
            left = [*self._at_work, *self._to_score, *self._to_describe]
        for picture in left:
            if picture.answer.running() or picture.answer.set_running_or_notify_cancel():
                picture.answer.set_exception(_ended(failure))
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)

    def _next(self) -> tuple[list[Picture], list[Picture]] | None:
        """The pictures to score and to describe now, when there is something to do; None at the end."""
        engine = self._describer.engine if self._describer else None
        with self._changed:
            if engine is None or not engine.busy:
                self._changed.wait_for(lambda: self._to_score or self._to_describe or self._closing)
                if not self._to_describe:
                    self._changed.wait_for(self._is_full, self._wait_s)
            if self._closing:
                return None
            to_describe = self._start(self._to_describe, engine.max_admission if engine and engine.wants_images else 0)
            return self._start(self._to_score, self._model.batch_size), to_describe

    def _is_full(self) -> bool:
        return len(self._to_score) >= self._model.batch_size or self._wait_s == 0 or self._closing

    def _start(self, waiting: deque[Picture], most: int) -> list[Picture]:
        """The first so many pictures that are still wanted."""
        started: list[Picture] = []
        while waiting and len(started) < most:
            picture = waiting.popleft()
            if picture.answer.set_running_or_notify_cancel():
                started.append(picture)
        self._at_work.update(started)
        return started

    def _score(self, batch: Sequence[Picture]) -> None:
        answers: Sequence[ImageScore | NoNumber]
        try:
            with self._meters.step("model"):
                scores = self._model.score_pixels(np.stack([picture.pixels for picture in batch]))
        except NoNumber as error:
            if len(batch) > 1:  # the other pictures have nothing to do with it
                for picture in batch:
                    self._score([picture])
                return
            answers = [error]
        else:
            answers = image_scores(tuple(self._model.protocol.score_questions), scores)
        self._meters.batch_images.observe(len(batch))  # before the answers, so that whoever has one finds it counted
        for picture, answer in zip(batch, answers, strict=True):
            self._finish(picture, answer)

    def _describe(self, pictures: Sequence[Picture]) -> None:
        """Add pictures, and generate one token of every text."""
        assert self._describer is not None
        assert self._new_describer is not None
        for picture in pictures:
            self._describer.add(picture, picture.pixels)
        if not self._describer.engine.busy:
            return
        try:
            with self._meters.step("model"):
                described = self._describer.step()
        except NoNumber as error:  # of one picture, but the step is lost
            failure = error.with_traceback(None)  # its frames hold the engine and its cache
        else:
            for picture, description in described:
                self._finish(picture, description)
            return
        for picture in list(self._at_work):
            self._finish(picture, failure)
        self._describer = None  # its memory is needed for the next one
        self._describer = self._new_describer()

    def _finish(self, picture: Picture, answer: ImageScore | NoNumber) -> None:
        self._at_work.discard(picture)
        if isinstance(answer, NoNumber):
            picture.answer.set_exception(answer)
        else:
            picture.answer.set_result(answer)


def _ended(failure: BaseException | None = None) -> RequestRefused:
    why = f"The model failed: {reason_of(failure)}." if failure else "The server ends."
    return RequestRefused(503, "ending", f"{why} Send it to another one, or when it is back.")
